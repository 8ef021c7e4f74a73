"""trio's part of an asynchronous lease."""

from __future__ import annotations

import contextlib
import socket
from math import inf

import trio


class OnTrio:
    """`awaited.Loop` for a program that runs trio."""

    def __init__(self) -> None:
        self._paused = trio.lowlevel.ParkingLot()

    def now_s(self) -> float:
        """The clock of this run: a test's may jump."""
        return trio.current_time()

    async def checkpoint(self) -> None:
        """Let others run, and a cancellation strike."""
        await trio.lowlevel.checkpoint()

    async def sleep(self, seconds: float) -> None:
        """Wait some seconds."""
        await trio.sleep(seconds)

    async def readable(self, sock: socket.socket, longest_s: float) -> None:
        """Wait until there is something to read, or it is closed, or so long."""
        with trio.move_on_at(_deadline(longest_s)):
            with contextlib.suppress(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(sock.fileno())

    async def pause(self, longest_s: float) -> None:
        """Wait until `wake`, or so long; infinity: for ever."""
        with trio.move_on_at(_deadline(longest_s)):
            await self._paused.park()

    def wake(self) -> None:
        """End all pauses."""
        self._paused.unpark_all()

    def closing(self, sock: socket.socket) -> None:
        """End the wait for `sock`, if there is one: it is about to be closed."""
        if sock.fileno() != -1:
            trio.lowlevel.notify_closing(sock.fileno())


def _deadline(longest_s: float) -> float:
    return inf if longest_s == inf else trio.current_time() + longest_s
