"""A lease for asynchronous programs, whichever loop runs them.

The loop's part is small (`Loop`): on_trio.py and on_asyncio.py.  All waiting is for
readiness, never for data, so that a cancellation loses nothing of what was said.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Protocol, TypeVar

from holdingpen.client.dialogue import OVER
from holdingpen.client.finding import dial
from holdingpen.client.held import Held, Thing
from holdingpen.client.pieces import Pieces
from holdingpen.client.terms import Amount, Terms, read_amounts
from holdingpen.errors import HoldingPenError, Unavailable

if TYPE_CHECKING:
    import socket

    from holdingpen.client.file import LeaseFile
    from holdingpen.client.memory import LeaseMemory

_Found = TypeVar("_Found")

#: How soon to knock again at a daemon whose backlog is full.
_KNOCK_AGAIN_S = 0.01


class Loop(Protocol):
    """What a lease needs of the loop; one object for each lease."""

    def now_s(self) -> float:
        """The loop's clock, in seconds."""

    async def checkpoint(self) -> None:
        """Let others run, and a cancellation strike."""

    async def sleep(self, seconds: float) -> None:
        """Wait some seconds."""

    async def readable(self, sock: socket.socket, longest_s: float) -> None:
        """Wait until there is something to read, or it is closed, or so long."""

    async def pause(self, longest_s: float) -> None:
        """Wait until `wake`, or so long; infinity: for ever."""

    def wake(self) -> None:
        """End all pauses."""

    def closing(self, sock: socket.socket) -> None:
        """End the wait for `sock`, if there is one: it is about to be closed."""


class AsyncLease(Held):
    """A lease held by an asynchronous program, under trio or asyncio.

        >>> import holdingpen, trio
        >>> async def main():
        ...     async with holdingpen.lease(ram="8G") as lease:
        ...         print(lease.amounts)
        >>> trio.run(main)
        {'ram': 8589934592}

    Several tasks may share it; other threads may not.  After `fork` it is as with
    `Lease`: a child has `close` and `fileno`.
    """

    def __init__(self, terms: Terms, loop: Loop) -> None:
        """Prepare to ask; programs call `holdingpen.lease` instead."""
        super().__init__(terms)
        self._loop = loop
        #: Whether a task waits for bytes.
        self._reading = False

    async def acquire(self) -> None:
        """Ask for it and wait until it is granted; `holdingpen.lease` calls this.

        However it is left but by a grant, the connection is closed then.
        """
        try:
            await self._loop.checkpoint()
            await self._ask()
            self.granted = time.time()
        except BaseException:
            self._leave()
            raise

    async def _ask(self) -> None:
        while True:
            try:
                await self._dial()
                await self._until(self._answered, inf)
                return
            except Unavailable:
                if not self._anew():
                    raise

    async def _dial(self) -> None:
        while True:
            try:
                self._sock, place = dial(self._terms.socket, wait=False)
            except BlockingIOError:
                await self._loop.sleep(_KNOCK_AGAIN_S)
            else:
                self._say(self._dialogue.opening(place, self._loop.now_s()))
                return

    async def leave(self, *, failed: bool) -> None:
        """Leave its block, by an exception or not; `async with` calls this."""
        try:
            self._put_down()
        finally:
            if self._forked:
                self.close()
            elif failed:
                # Who is cancelled may not wait.
                self._leave()
            else:
                await self.release()

    async def release(self) -> None:
        """Give it back, and wait until the daemon has said so.

        It is over then for all who share it.  A second call does nothing; neither
        does one after the daemon is gone.  A cancellation ends the waiting only: the
        lease is given back all the same.
        """
        if self._forked:
            self._leave()
            return
        try:
            number, request = self._dialogue.release(self._loop.now_s())
            self._say(request)
            await self._loop.checkpoint()
            with contextlib.suppress(HoldingPenError):
                await self._until(lambda: self._is_released(number), inf)
        finally:
            self.close()

    async def shrink(self, **amounts: Amount) -> None:
        """Give a part back and keep the rest: `await lease.shrink(ram="2G")`.

        Args and errors are those of `Lease.shrink`.  Cancelled, it may have been done:
        `amounts` will tell.
        """
        self._must_be_ours("shrink()")
        less = read_amounts(amounts)
        await self._loop.checkpoint()
        number, request = self._dialogue.shrink(less, self._loop.now_s())
        self._say(request)
        await self._until(lambda: self._dialogue.answer(number), inf)

    async def memory(self) -> LeaseMemory:
        """The memory that was held back for it: `await lease.memory()`.

        What it is and raises is as with `Lease.memory`, but for one thing: touching it
        for the first time is left to you, in a thread, because it takes its time:

            await trio.to_thread.run_sync(memory.populate)
        """
        from holdingpen.client.memory import LeaseMemory

        name = self._wished("memory()", "ram", "memory")
        return await self._get(LeaseMemory, name)

    async def file(self) -> LeaseFile:
        """The disk that was held back for it: `await lease.file()`.

        What it is and raises is as with `Lease.file`.
        """
        from holdingpen.client.file import LeaseFile

        return await self._get(LeaseFile, self._wished("file()", "disk", "file"))

    async def _get(self, kind: type[Thing], name: str) -> Thing:
        await self._loop.checkpoint()
        known = self._still_open(name, kind)
        if known is not None:
            return known
        with Pieces.awaited() as pieces:
            while pieces.more:
                await self._fetch(name, pieces)
            return self._opened(name, kind, pieces)

    async def _fetch(self, name: str, pieces: Pieces) -> None:
        first, now_s = len(pieces.fds), self._loop.now_s()
        number, request = self._dialogue.fetch(name, first, now_s)
        self._say(request)
        try:
            pieces.add(await self._until(lambda: self._dialogue.answer(number), inf))
        finally:
            self._dialogue.forget(number)

    async def wait_reclaim(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 (as in Lease)
        """Wait until somebody needs it back; only if it is `reclaimable`.

        Args:
            timeout: longest wait in seconds; None: for ever.

        Returns:
            True when it is asked back, or is over (see `ended`); False when the time
            is.
        """
        self._must_be_ours("wait_reclaim()")
        await self._loop.checkpoint()
        self._look("wait_reclaim()")
        limit_s = inf if timeout is None else timeout
        return bool(await self._until(self._is_asked_back, limit_s))

    def close(self) -> None:
        """Close this process's copy of the descriptor, and say nothing.

        The lease is over unless another process has a copy.
        """
        if self._sock is not None and not self._forked:
            self._loop.closing(self._sock)
        super().close()
        if not self._forked:
            self._loop.wake()

    def _look(self, what: str) -> None:
        self._must_be_ours(what)
        if not self._reading and self._dialogue.state != OVER and self._hear():
            self._loop.wake()

    async def _until(
        self, found: Callable[[], _Found], limit_s: float
    ) -> _Found | None:
        """Wait until `found` gives something; None: `limit_s` is over.

        One task waits for bytes; what it hears may be for another, so the others
        wait for it.
        """
        end_s = self._loop.now_s() + limit_s
        while True:
            now_s = self._loop.now_s()
            self._say(self._dialogue.overdue(now_s))
            result = found()
            if result is not None or now_s >= end_s:
                return result
            rest_s = max(0.0, min(end_s, self._dialogue.due_s) - now_s)
            if self._reading:
                await self._loop.pause(rest_s)
                continue
            assert self._sock is not None
            self._reading = True
            try:
                await self._loop.readable(self._sock, rest_s)
                if self._dialogue.state != OVER:
                    self._hear()
            finally:
                self._reading = False
                self._loop.wake()
