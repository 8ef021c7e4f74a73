"""A lease for plain blocking programs, with threads or without."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable
from math import ceil, inf
from typing import TYPE_CHECKING, TypeVar

from holdingpen.client.dialogue import OVER
from holdingpen.client.finding import dial
from holdingpen.client.held import Held, Thing
from holdingpen.client.pieces import Pieces
from holdingpen.client.terms import Amount, Terms, read_amounts
from holdingpen.errors import HoldingPenError, Unavailable

if TYPE_CHECKING:
    from types import TracebackType

    from holdingpen.client.file import LeaseFile
    from holdingpen.client.memory import LeaseMemory

_Found = TypeVar("_Found")

#: Longest single wait in seconds: what poll(2) takes as milliseconds in an int.
_POLL_MAX_S = 2**31 // 1000 - 1


class Lease(Held):
    """A lease this program holds; leaving its `with` block gives it back.

        >>> import holdingpen
        >>> with holdingpen.lease(ram="8G", reclaimable=True) as lease:
        ...     lease.amounts
        ...     lease.shrink(ram="2G")
        ...     lease.amounts
        {'ram': 8589934592}
        {'ram': 6442450944}
        >>> lease.ended
        'released'

    Threads may share it.  So do children made by `fork`: the lease lasts until all
    copies of its descriptor are closed, or one of them calls `release`.  A child may
    call `release`, `close` and `fileno` only; leaving the `with` block in a child
    closes its copy.
    """

    def __init__(self, terms: Terms) -> None:
        """Prepare to ask; programs call `holdingpen.lease` instead."""
        super().__init__(terms)
        #: Guards the dialogue; notified when something was heard.
        self._changed = threading.Condition()
        #: The thread that waits for bytes, with the lock open; None: nobody.
        self._reader: int | None = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._put_down()
        finally:
            if self._forked:
                self.close()
            elif kind is None:
                self.release()
            else:
                # Who is interrupted does not want to wait for a daemon.
                self._leave()

    def acquire(self) -> None:
        """Ask for it and wait until it is granted; `holdingpen.lease` calls this.

        However it is left but by a grant, the connection is closed then.
        """
        try:
            self._ask()
            self.granted = time.time()
        except BaseException:
            self._leave()
            raise

    def _ask(self) -> None:
        while True:
            try:
                self._sock, place = dial(self._terms.socket)
                self._say(self._dialogue.opening(place, time.monotonic()))
                self._until(self._answered, inf)
                return
            except Unavailable:
                if not self._anew():
                    raise

    def release(self) -> None:
        """Give it back, and wait until the daemon has said so.

        It is over then for all who share it.  A second call does nothing; neither
        does one after the daemon is gone.  In a child made by `fork` it does not wait.
        """
        if self._forked:
            self._leave()
            return
        try:
            with self._changed:
                number, request = self._dialogue.release(time.monotonic())
                self._say(request)
            with contextlib.suppress(HoldingPenError):
                self._until(lambda: self._is_released(number), inf)
        finally:
            self.close()

    def shrink(self, **amounts: Amount) -> None:
        """Give a part back and keep the rest.

        `lease.shrink(ram="2G")` gives 2 GiB back.

        Args:
            amounts: resource to what is given back: bytes or units, or words for
                them.  Free the memory first: the daemon measures it.

        Raises:
            Refusal: `bad-amount`, when it holds no more than that; `ended`.
            Unavailable: when the daemon is gone or does not answer.
            LocalMistake: in a child made by `fork`, or for what is no amount.
        """
        self._must_be_ours("shrink()")
        less = read_amounts(amounts)
        with self._changed:
            number, request = self._dialogue.shrink(less, time.monotonic())
            self._say(request)
        self._until(lambda: self._dialogue.answer(number), inf)

    def memory(self) -> LeaseMemory:
        """The memory that was held back for it: the very pages, as one buffer.

            >>> import holdingpen
            >>> with holdingpen.lease(ram="1G", memory=True) as lease:
            ...     numbers = lease.memory().asarray("f8", shape=(1000, 1000))
            ...     numbers[0, 0] = 1.5
            ...     del numbers

        It has exactly the leased bytes.  Called again it is the same object, until
        that is closed.  Leaving the block closes it; see `LeaseMemory` for what
        happens while arrays of it exist.  After `release` it can still be read until
        it is closed, but counts as foreign use after 10 s.

        Raises:
            LocalMistake: when the lease was not asked for with `memory=True`; in a
                child made by `fork`, which has what its parent fetched before.
            Refusal: `not-now`, when a part that was not held cannot be found; `ended`.
            Unavailable: when the daemon is gone or does not answer, or the system
                lets this program open or map no more.
        """
        from holdingpen.client.memory import LeaseMemory

        memory = self._get(LeaseMemory, self._wished("memory()", "ram", "memory"))
        memory.populate()
        return memory

    def file(self) -> LeaseFile:
        """The disk that was held back for it: an open file that has its blocks.

            >>> import holdingpen
            >>> with holdingpen.lease(disk="50G", file=True) as lease:
            ...     lease.file().write(b"hello")
            5

        Called again it is the same object, until that is closed.  Leaving the block
        closes it.

        Raises:
            LocalMistake: when the lease was not asked for with `file=True`; in a child
                made by `fork`, which has what its parent fetched before.
            Refusal: `not-now`, when a part that was not held cannot be found; `ended`.
            Unavailable: when the daemon is gone or does not answer.
        """
        from holdingpen.client.file import LeaseFile

        return self._get(LeaseFile, self._wished("file()", "disk", "file"))

    def _get(self, kind: type[Thing], name: str) -> Thing:
        known = self._still_open(name, kind)
        if known is not None:
            return known
        with Pieces.awaited() as pieces:
            while pieces.more:
                self._fetch(name, pieces)
            with self._changed:
                return self._opened(name, kind, pieces)

    def _fetch(self, name: str, pieces: Pieces) -> None:
        with self._changed:
            first, now_s = len(pieces.fds), time.monotonic()
            number, request = self._dialogue.fetch(name, first, now_s)
            self._say(request)
        try:
            pieces.add(self._until(lambda: self._dialogue.answer(number), inf))
        finally:
            self._dialogue.forget(number)

    def wait_reclaim(self, timeout: float | None = None) -> bool:
        """Wait until somebody needs it back; only if it is `reclaimable`.

        Args:
            timeout: longest wait in seconds; None: for ever.

        Returns:
            True when it is asked back, or is over (see `ended`); False when the time
            is.

        Raises:
            LocalMistake: in a child made by `fork`.
        """
        self._look("wait_reclaim()")
        limit_s = inf if timeout is None else timeout
        return bool(self._until(self._is_asked_back, limit_s))

    def _look(self, what: str) -> None:
        self._must_be_ours(what)
        with self._changed:
            if self._reader is None and self._dialogue.state != OVER and self._hear():
                self._changed.notify_all()

    def _until(self, found: Callable[[], _Found], limit_s: float) -> _Found | None:
        """Wait until `found` gives something; None: `limit_s` is over.

        One thread waits for bytes; what it hears may be for another, so the others
        wait for it.
        """
        me = threading.get_ident()
        end_s = time.monotonic() + limit_s
        while True:
            with self._changed:
                now_s = time.monotonic()
                self._say(self._dialogue.overdue(now_s))
                result = found()
                if result is not None or now_s >= end_s:
                    return result
                rest_s = min(end_s, self._dialogue.due_s) - now_s
                rest_s = min(max(0.0, rest_s), _POLL_MAX_S)
                # It is me after a KeyboardInterrupt just below.
                if self._reader not in (None, me):
                    self._changed.wait(rest_s)
                    continue
                self._reader = me
            try:
                self._poll(rest_s)
            finally:
                with self._changed:
                    self._hear()
                    self._reader = None
                    self._changed.notify_all()

    def _poll(self, longest_s: float) -> None:
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        poll.poll(ceil(longest_s * 1000))
