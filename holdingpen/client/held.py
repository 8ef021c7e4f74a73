"""What a lease is in a program, whichever driver waits for its news.

The driver's socket is never waited on in here: sending and receiving take what goes
at once.  So a cancellation finds either nothing sent or all of it, and what was
received is never lost on its way from the system to the dialogue.
"""

from __future__ import annotations

import contextlib
import os
import socket
from abc import ABC, abstractmethod

from holdingpen.client.dialogue import OVER, Dialogue
from holdingpen.client.finding import reason
from holdingpen.client.terms import ASK_ID, Terms
from holdingpen.errors import LocalMistake
from holdingpen.wire import messages as wire
from holdingpen.wire.session import encode

_READ_BYTES = 64 * 1024
_NOW = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


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
        #: The process that may read replies: a child would read its parent's.
        self._pid = os.getpid()
        #: Seconds since 1970 when it was granted; 0.0: not yet.
        self.granted = 0.0

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
        """How sure its memory is: `exact`, `bounded`, `best-effort`; `none`: no RAM."""
        return self._dialogue.handover

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
        if self._sock is not None:
            self._sock.close()

    # For the drivers.

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
            data = self._sock.recv(_READ_BYTES, _NOW)
        except BlockingIOError:
            return False
        except OSError as why:
            self._dialogue.lost(reason(why))
        else:
            self._dialogue.receive(data)
        return True

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

    def _answered(self) -> wire.Reply | None:
        """Pass news from the line on; the grant, once it is there."""
        news = self._dialogue.news
        while news:
            told = news.pop(0)
            if self._terms.on_waiting is not None:
                self._terms.on_waiting(told)
        return self._dialogue.answer(ASK_ID)

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
