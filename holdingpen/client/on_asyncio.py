"""asyncio's part of an asynchronous lease."""

from __future__ import annotations

import asyncio
import socket
from math import inf


class OnAsyncio:
    """`awaited.Loop` for a program that runs asyncio."""

    def __init__(self) -> None:
        """Belong to the running loop.

        Raises:
            RuntimeError: when none runs.
        """
        self._loop = asyncio.get_running_loop()
        self._paused: set[asyncio.Future[None]] = set()
        #: What the one who waits for bytes waits for.
        self._ready: asyncio.Future[None] | None = None

    def now_s(self) -> float:
        """The loop's clock, in seconds."""
        return self._loop.time()

    async def checkpoint(self) -> None:
        """Let others run, and a cancellation strike."""
        await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        """Wait some seconds."""
        await asyncio.sleep(seconds)

    async def readable(self, sock: socket.socket, longest_s: float) -> None:
        """Wait until there is something to read, or it is closed, or so long."""
        descriptor = sock.fileno()
        if descriptor == -1:
            return
        self._ready = ready = self._loop.create_future()
        self._loop.add_reader(descriptor, _come, ready)
        try:
            await _first(ready, longest_s)
        finally:
            # After `closing` the number may be another's.
            if self._ready is ready:
                self._ready = None
                self._loop.remove_reader(descriptor)

    async def pause(self, longest_s: float) -> None:
        """Wait until `wake`, or so long; infinity: for ever."""
        woken = self._loop.create_future()
        self._paused.add(woken)
        try:
            await _first(woken, longest_s)
        finally:
            self._paused.discard(woken)

    def wake(self) -> None:
        """End all pauses."""
        for woken in self._paused:
            _come(woken)

    def closing(self, sock: socket.socket) -> None:
        """End the wait for `sock`, if there is one: it is about to be closed."""
        if self._ready is not None:
            self._loop.remove_reader(sock.fileno())
            _come(self._ready)
            self._ready = None


def _come(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _first(future: asyncio.Future[None], longest_s: float) -> None:
    await asyncio.wait([future], timeout=None if longest_s == inf else longest_s)
