"""One lease's conversation without the wire: bytes in, what became of the lease out.

All drivers share it: the blocking one, trio's and asyncio's.  A driver sends what the
methods here return, hands what comes to `receive` (b"" at the end), and comes back at
`due_s` for what `overdue` wants sent again.  Time is that of any clock that only goes
on.  Files that come with the bytes are only passed on or dropped here: they close
themselves.

    state      meaning                                left by
    asking     the request is out                     Waiting, Granted, Refused
    waiting    it stands in the line                  Granted, Refused, Ended
    live       the lease is ours                      Released, Ended
    over       `ended` says how                       nothing

Every state but `over` also ends with the connection.  A request without an answer is
sent again with its own number, which the protocol makes harmless; see RESEND_S.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from math import inf
from typing import Final, NamedTuple, Protocol, TypeAlias, assert_never

from msgspec import Struct

from holdingpen.errors import HoldingPenError, Refusal, RemoteMistake, Unavailable
from holdingpen.wire import messages as wire
from holdingpen.wire.session import ClientSession, encode

ASKING: Final = "asking"
WAITING: Final = "waiting"
LIVE: Final = "live"
OVER: Final = "over"

#: How long an answer may take, in seconds, before the request is sent again: longer
#: than a restart of the daemon, which takes 65 to 250 ms under systemd and 0.8 s more
#: for a journal of a million records.
RESEND_S: Final = 6.0
#: How often a request is sent before the daemon is called stuck: after 30 s.
SENDS_MAX: Final = 5

#: The word for a lease that ended because the daemon or the connection did.
HUNG_UP: Final = "hung-up"
#: The word for one whose connection was closed on this side.
CLOSED: Final = "closed"
#: Why leases end, for people.
_ENDS: Final = {
    "ordered": "its owner or an administrator ended it",
    "released": "it was given back",
    CLOSED: "its connection was closed here",
}


class Files(Protocol):
    """The files of one message, closed when nobody keeps this any more."""

    fds: list[int]


class Brought(NamedTuple):
    """The answer to Fetch, and the files that came with it."""

    message: wire.Fetched
    files: Files


#: What comes of a request.
Answer: TypeAlias = wire.Reply | Brought


class _Request(Struct):
    """A request whose answer has not come."""

    frame: bytes
    #: When it is sent again; infinity: it was answered with Waiting.
    due_s: float
    sends_left: int


class Dialogue:
    """One connection that carries one lease."""

    def __init__(self, ask: wire.Acquire, name: str) -> None:
        """Prepare to ask for `ask`, under `name` in the daemon's log."""
        self._ask = ask
        self._name = name
        self._session = ClientSession()
        #: Where the daemon listens, for messages.
        self._place = ""
        #: Requests by number, until they are answered or given up.
        self._open: dict[int, _Request] = {}
        #: What came of requests, until somebody fetches it with `answer`.
        self._answers: dict[int, Answer | HoldingPenError] = {}
        #: Files whose message is not complete yet, oldest first.
        self._files: deque[Files] = deque()
        #: The number of the last request.
        self._last_id = ask.id
        #: asking, waiting, live or over.
        self.state: str = ASKING
        #: The lease's number; 0: not known yet.
        self.lease = 0
        #: Resource to bytes or units that are ours.
        self.amounts: dict[str, int] = {}
        #: How sure what was held back is, at most how many bytes may be lost of it,
        #: and why it is not exact.
        self.handover = "none"
        self.bound = 0
        self.handover_why = ""
        #: Disk to the directory it may write in.
        self.places: dict[str, str] = {}
        #: Whether somebody needs it, and it is reclaimable.
        self.asked_back = False
        #: Why it is over, as a stable word; None: it is not.
        self.ended: str | None = None
        #: News from the line that nobody was told yet, oldest first.
        self.news: list[wire.Waiting] = []

    # What we say.

    def opening(self, place: str, now_s: float) -> bytes:
        """Hello and the request for the lease, to the daemon at `place`."""
        self._place = place
        return self._session.hello(self._name) + self._request(self._ask, now_s)

    def shrink(self, amounts: Mapping[str, int], now_s: float) -> tuple[int, bytes]:
        """Give a part back; the number for `answer`, and the bytes to send."""
        self._last_id += 1
        message = wire.Shrink(self._last_id, self.lease, dict(amounts))
        return self._last_id, self._request(message, now_s)

    def fetch(self, resource: str, first: int, now_s: float) -> tuple[int, bytes]:
        """Ask for what is held of `resource`, from its `first` file; as `shrink`."""
        self._last_id += 1
        message = wire.Fetch(self._last_id, self.lease, resource, first)
        return self._last_id, self._request(message, now_s)

    def release(self, now_s: float) -> tuple[int, bytes]:
        """Give all back, and the lease will be `over`; as `shrink`."""
        self._last_id += 1
        message = wire.Release(self._last_id, self.lease)
        return self._last_id, self._request(message, now_s)

    def _request(self, message: wire.Request, now_s: float) -> bytes:
        frame = encode(message)
        if self.state == OVER:
            self._answers[self._last_id] = self._no_more()
            return b""
        self._open[self._last_id] = _Request(frame, now_s + RESEND_S, SENDS_MAX - 1)
        return frame

    @property
    def due_s(self) -> float:
        """When `overdue` has something to say; infinity: it will not."""
        return min((request.due_s for request in self._open.values()), default=inf)

    def overdue(self, now_s: float) -> bytes:
        """Give what is to be sent again now; maybe nothing.

        A request that was sent SENDS_MAX times without an answer is given up: its
        `answer` raises Unavailable.
        """
        again = b""
        for number, request in list(self._open.items()):
            if request.due_s > now_s:
                continue
            if request.sends_left:
                again += request.frame
                request.due_s = now_s + RESEND_S
                request.sends_left -= 1
            else:
                self._settle(number, self._silent())
        return again

    # What we hear.

    def receive(self, data: bytes, files: Files | None = None) -> None:
        """Take bytes from the daemon; b"": it closed its end.  Raises nothing.

        Args:
            data: what one read brought.
            files: what came with it; they belong to a message that begins in `data`.
                There may be fewer than were sent, but not None then.
        """
        if files is not None:
            self._files.append(files)
        try:
            if data:
                for reply in self._session.receive(data):
                    self._heard(reply)
                return
            self._session.end()
        except RemoteMistake as mistake:
            self._end(HUNG_UP, mistake)
        else:
            self.lost("")

    def lost(self, how: str) -> None:
        """The connection is broken; `how` is what the system says of it."""
        self._end(
            HUNG_UP,
            Unavailable(
                f"the daemon at {self._place} hung up{f' ({how})' if how else ''}; "
                f"{self._it} is over. 'systemctl status holdingpen' says why."
            ),
        )

    @property
    def unheard(self) -> bool:
        """Whether the daemon hung up before it had a word about the lease."""
        return self.ended == HUNG_UP and not self.lease

    def closed(self) -> None:
        """The connection was closed on this side."""
        self._end(CLOSED, self._no_more(CLOSED))

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self._open.pop(number, None)
        self._answers.pop(number, None)

    def answer(self, number: int) -> Answer | None:
        """What came of a request; once.  None: nothing yet.

        Raises:
            Refusal: the daemon said no.
            RemoteMistake: one end broke the protocol.
            Unavailable: the daemon hung up, or did not answer.
        """
        found = self._answers.pop(number, None)
        if isinstance(found, HoldingPenError):
            raise found
        return found

    def _heard(self, reply: wire.Reply) -> None:
        # Answers to what we did not ask are for a copy of the connection in another
        # process, or late ones to what was asked twice.
        match reply:
            case wire.Waiting():
                self._heard_waiting(reply)
            case wire.Granted():
                self._heard_granted(reply)
            case wire.Refused():
                no = Refusal(reply.message, reply.code)
                if reply.id == self._ask.id and self.state in (ASKING, WAITING):
                    self._end("refused", no)
                self._settle(reply.id, no)
            case wire.Failed():
                mistake = RemoteMistake(reply.message, reply.code)
                self._settle(reply.id or 0, mistake)
            case wire.Shrunk():
                self.amounts = reply.amounts
                self._settle(reply.id, reply)
            case wire.Fetched():
                self._heard_fetched(reply)
            case wire.Reclaim():
                self.asked_back = reply.on
            case wire.Released():
                self._end("released", self._no_more("released"))
            case wire.Ended():
                self._end(reply.why, self._no_more(reply.why))
            case wire.Welcome() | wire.Done() | wire.Status() | wire.Story():
                pass
            case wire.Reserved() | wire.Extended() | wire.Report() | wire.Happened():
                pass
            case _:
                assert_never(reply)

    def _heard_waiting(self, reply: wire.Waiting) -> None:
        if self.state not in (ASKING, WAITING):
            return
        self.state = WAITING
        self.lease = reply.lease
        self.news.append(reply)
        # the rest comes by itself
        self._open[self._ask.id].due_s = inf

    def _heard_granted(self, reply: wire.Granted) -> None:
        if self.state not in (ASKING, WAITING):
            return
        self.state = LIVE
        self.lease = reply.lease
        self.amounts = reply.amounts
        self.handover = reply.handover
        self.bound = reply.bound
        self.handover_why = reply.why
        self.places = reply.places
        self._settle(self._ask.id, reply)

    def _heard_fetched(self, reply: wire.Fetched) -> None:
        # Files come before or with the end of their message, and in its order.  Those
        # of an answer that nobody waits for are dropped here.
        if not reply.sizes:
            return self._settle(reply.id, reply)
        files = self._files.popleft() if self._files else None
        came = 0 if files is None else len(files.fds)
        if files is None or came != len(reply.sizes):
            lost = Unavailable(
                f"{came} of the {len(reply.sizes)} files of {self._it} arrived. Has "
                "this program reached its limit of open files? 'ulimit -n' shows and "
                "raises it."
            )
            return self._settle(reply.id, lost)
        return self._settle(reply.id, Brought(reply, files))

    def _settle(self, number: int, what: Answer | HoldingPenError) -> None:
        if self._open.pop(number, None) is not None:
            self._answers[number] = what

    def _end(self, why: str, error: HoldingPenError) -> None:
        if self.state == OVER:
            return
        self.state = OVER
        self.ended = why
        # nobody has use for what was held for it
        self._files.clear()
        for number, found in self._answers.items():
            if isinstance(found, Brought):
                self._answers[number] = error
        for number in list(self._open):
            self._settle(number, error)

    @property
    def _it(self) -> str:
        return f"lease {self.lease}" if self.lease else "the request for a lease"

    def _no_more(self, why: str | None = None) -> Refusal:
        word = why or self.ended or HUNG_UP
        how = _ENDS.get(word, word)
        return Refusal(f"{self._it} is over: {how}. Ask for a new one.", "ended")

    def _silent(self) -> Unavailable:
        return Unavailable(
            f"the daemon at {self._place} has not answered {SENDS_MAX} times in "
            f"{SENDS_MAX * RESEND_S:g} s. 'systemctl status holdingpen' says whether "
            "it is stuck."
        )
