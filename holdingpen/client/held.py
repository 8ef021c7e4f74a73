"""What a lease is in a program, whichever driver waits for its news.

The driver's socket is never waited on in here: sending and receiving take what goes
at once.  So a cancellation finds either nothing sent or all of it, and what was
received is never lost on its way from the system to the dialogue.
"""

from __future__ import annotations

import contextlib
import os
import socket
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from holdingpen.client.dialogue import OVER, Answer, Dialogue
from holdingpen.client.finding import reason
from holdingpen.client.pieces import FILES_ROOM, Files, Pieces, descriptors
from holdingpen.client.terms import ASK_ID, Terms, wished
from holdingpen.errors import LocalMistake
from holdingpen.wire import messages as wire
from holdingpen.wire.session import encode

if TYPE_CHECKING:
    from holdingpen.client.file import LeaseFile
    from holdingpen.client.memory import LeaseMemory

#: How often another daemon is asked when one ends before it has heard us: each was
#: killed within the millisecond.
ASK_ANEW_MAX = 3

_READ_BYTES = 64 * 1024
_NOW = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
#: Files that come are closed on exec, from the first moment.
_READ = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC

#: What recvmsg(2) brings: bytes, ancillary data, flags, an address.
_News: TypeAlias = tuple[bytes, list[tuple[int, int, bytes]], int, object]
#: What can be fetched.
Thing = TypeVar("Thing", "LeaseMemory", "LeaseFile")


class Held(ABC):
    """A lease this program holds: what does not need waiting.

    It lasts as long as any copy of its descriptor is open: here, in a child made by
    `fork`, or in a program that was given it on purpose.  Without a copy left, however
    that came, the daemon has everything back.
    """

    def __init__(self, terms: Terms) -> None:
        """Prepare to ask; programs call `holdingpen.lease` instead."""
        self._terms = terms
        self._dialogue = Dialogue(terms.ask, "python")
        self._sock: socket.socket | None = None
        #: How often the next daemon is asked when one ended before it had heard us.
        self._anew_left = ASK_ANEW_MAX
        #: What recvmsg(2) brought last, until it is passed on: should Ctrl-C come in
        #: between, then files are in there.
        self._news: _News | None = None
        #: The process that may read replies: a child would read its parent's.
        self._pid = os.getpid()
        #: Seconds since 1970 when it was granted; 0.0: not yet.
        self.granted = 0.0
        #: What was fetched and may still be open, by resource.
        self._fetched: dict[str, LeaseMemory | LeaseFile] = {}

    def __repr__(self) -> str:
        dialogue = self._dialogue
        state = dialogue.ended or dialogue.state
        return f"<{type(self).__name__} {dialogue.lease} {dialogue.amounts} {state}>"

    @property
    def id(self) -> int:
        """The lease's number, as `holdingpenctl status` shows it."""
        return self._dialogue.lease

    @property
    def amounts(self) -> dict[str, int]:
        """What it holds now: resource to bytes or units."""
        return dict(self._dialogue.amounts)

    @property
    def handover(self) -> str:
        """How sure it is to get what was held back for it.

        `exact`: nobody can take any of it in between; `bounded`: at most `bound`
        bytes; `best-effort`: it depends on the neighbours; `none`: it has nothing that
        can be held back.
        """
        return self._dialogue.handover

    @property
    def bound(self) -> int:
        """When `handover` is `bounded`: bytes that others may take at most."""
        return self._dialogue.bound

    @property
    def handover_why(self) -> str:
        """One sentence on why `handover` is not `exact`; empty when it is."""
        return self._dialogue.handover_why

    @property
    def scratch(self) -> Path | None:
        """The directory it may write its disk share in; None: it has none.

        With `file=True` what was held is passed as a file instead: see `file`.
        """
        places = self._dialogue.places
        return Path(next(iter(places.values()))) if places else None

    @property
    def reclaim_requested(self) -> bool:
        """Whether somebody needs what it holds; only if it is `reclaimable`.

        Looks at what has come, and does not wait.  It becomes False again when the
        one in need has left.

        Raises:
            LocalMistake: in a child made by `fork`.
        """
        self._look("reclaim_requested")
        return self._dialogue.asked_back

    @property
    def ended(self) -> str | None:
        """Why it is over; None: it is not.  Looks at what has come, and does not wait.

        `released` (by this program or one that shares it), `closed` (by `close`),
        `ordered` (its owner or an administrator ended it), `hung-up` (the daemon
        ended, or the connection broke).

        Raises:
            LocalMistake: in a child made by `fork`.
        """
        self._look("ended")
        return self._dialogue.ended

    def fileno(self) -> int:
        """The descriptor that is the lease; -1 once it is closed here.

        It is closed on exec.  A program that is given it on purpose holds the lease
        too, until it ends: `subprocess.Popen(words, pass_fds=[lease.fileno()])`.
        """
        return -1 if self._sock is None else self._sock.fileno()

    def close(self) -> None:
        """Close this process's copy of the descriptor, and say nothing.

        The lease is over unless another process has a copy.  This is for a child made
        by `fork` that does not need its parent's lease.
        """
        self._dialogue.closed()
        news, self._news = self._news, None
        if news is not None:
            Files(descriptors(news[1])).close()
        if self._sock is not None:
            self._sock.close()

    # For the drivers.

    def _anew(self) -> bool:
        """Prepare to ask once more, if nobody can have heard the first time."""
        if not self._dialogue.unheard or not self._anew_left:
            return False
        self._anew_left -= 1
        if self._sock is not None:
            self._sock.close()
        self._dialogue = Dialogue(self._terms.ask, "python")
        return True

    @property
    def _forked(self) -> bool:
        return os.getpid() != self._pid

    def _must_be_ours(self, what: str) -> None:
        if self._forked:
            raise LocalMistake(
                f"lease {self.id} belongs to process {self._pid}; {what} is not for "
                f"its child {os.getpid()}, which would read its parent's replies. In "
                "a child use release(), which ends the lease for both, or close(), "
                "which leaves it to the parent; or ask for a lease of its own."
            )

    @abstractmethod
    def _look(self, what: str) -> None:
        """Take in what has come, unless somebody else is about to."""

    def _hear(self) -> bool:
        """Take in what has come; False: nothing has."""
        assert self._sock is not None
        try:
            if self._news is None:
                self._news = self._sock.recvmsg(_READ_BYTES, FILES_ROOM, _READ)
        except BlockingIOError:
            return False
        except OSError as why:
            self._dialogue.lost(reason(why))
        else:
            self._pass_on(*self._news)
        return True

    def _pass_on(
        self,
        data: bytes,
        ancillary: list[tuple[int, int, bytes]],
        flags: int,
        address: object,
    ) -> None:
        files = None
        if ancillary or flags & socket.MSG_CTRUNC:
            files = Files([])
            # one statement, so that Ctrl-C leaves each file with one owner
            files.fds, self._news = descriptors(ancillary), (data, [], 0, address)
        self._news = None
        self._dialogue.receive(data, files)

    def _say(self, data: bytes) -> None:
        if not data or self._sock is None:
            return
        try:
            # A request is under 24 KiB and the kernel takes 208 KiB unread.
            gone = self._sock.send(data, _NOW)
        except BlockingIOError:
            return  # it is sent again when it is overdue
        except OSError as why:
            # what the daemon said before it hung up says more than EPIPE
            while self._dialogue.state != OVER and self._hear():
                pass
            self._dialogue.lost(reason(why))
            return
        if gone < len(data):
            self._dialogue.lost(f"it took {gone} of {len(data)} bytes")

    def _answered(self) -> Answer | None:
        """Pass news from the line on; the grant, once it is there."""
        news = self._dialogue.news
        while news:
            told = news.pop(0)
            if self._terms.on_waiting is not None:
                self._terms.on_waiting(told)
        return self._dialogue.answer(ASK_ID)

    # What is fetched.

    def _wished(self, what: str, kind: str, word: str) -> str:
        """The resource to fetch; `word` is what it is asked for with."""
        self._must_be_ours(what)
        name = wished(self._terms.ask, kind)
        if name is None:
            raise LocalMistake(
                f"lease {self.id} was asked for without {word}=True, so what is held "
                f"for it is freed for the program to occupy in its own ways. Write "
                f"holdingpen.lease(..., {word}=True) to get the very thing by {what}."
            )
        return name

    def _still_open(self, name: str, kind: type[Thing]) -> Thing | None:
        """What was fetched of this resource before, unless it was closed since."""
        found = self._fetched.get(name)
        return found if isinstance(found, kind) and not found.closed else None

    def _opened(self, name: str, kind: type[Thing], pieces: Pieces) -> Thing:
        """Make something of what was fetched, unless another was quicker."""
        quicker = self._still_open(name, kind)
        if quicker is not None:
            return quicker
        new = kind(pieces, self._dialogue.amounts.get(name, 0))
        self._fetched[name] = new
        return new

    def _put_down(self) -> None:
        """Close what was fetched, where nobody uses it."""
        while self._fetched:
            name, thing = self._fetched.popitem()
            try:
                thing.close()
            except BufferError:
                warnings.warn(
                    f"lease {self.id} is over while its {name} is still in use: an "
                    "array or a view of it exists. What it occupies counts as foreign "
                    "use until it is closed.",
                    ResourceWarning,
                    stacklevel=4,
                )

    # What a driver waits for: something, or None for not yet.

    def _is_over(self) -> bool | None:
        return self._dialogue.state == OVER or None

    def _is_asked_back(self) -> bool | None:
        return self._dialogue.asked_back or self._is_over()

    def _is_released(self, number: int) -> bool | None:
        """Whether the release is done with; raises when it will not be answered."""
        return self._is_over() or self._dialogue.answer(number) is not None or None

    def _leave(self) -> None:
        """Give the lease back without waiting for an answer.

        Also for those who share it: closing alone would leave it to them.
        """
        if self._sock is not None and self._dialogue.lease:
            farewell = wire.Release(2**62, self._dialogue.lease)
            with contextlib.suppress(OSError):
                self._sock.send(encode(farewell), _NOW)
        self.close()
