"""A blocking connection to the daemon: requests, their answers, and what comes unasked.

The open connection is the lease (wire/messages.py): closing it, or leaving its
`with` block, gives back whatever was granted or waited for on it.

    with connect() as conn:
        grant = conn.acquire({"ram": 8 * 2**30}, label="whisper")
        ...

Every reply goes through one list, `_kept`.  A request takes its own answer out of
it and leaves the rest, in order, to `next`, `events` and `watch`.  A connection
belongs to one thread at a time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from holdingpen.client.finding import dial, reason
from holdingpen.errors import HoldingPenError, Refusal, RemoteMistake, Unavailable
from holdingpen.wire import messages as wire
from holdingpen.wire.session import ClientSession, encode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType

#: How long an answer may take, in seconds, before the daemon is called stuck.
#: A restart under systemd delays one by 65 to 250 ms, reading a journal of a
#: million records by 0.8 s; the rest is for a machine that is short of memory.
ANSWER_S = 30.0

#: The code of what is raised when the daemon hangs up.
GONE = "daemon-gone"

_READ_BYTES = 256 * 1024

AnyReply = TypeVar("AnyReply", bound=wire.Message)


def connect(
    path: str | None = None,
    name: str = "python",
    *,
    answer_s: float = ANSWER_S,
) -> Connection:
    """Connect to the daemon and shake hands.

    Args:
        path: the socket; None: look at the places of `places.candidates` in order
            and take the first where somebody listens.
        name: what the daemon's log calls this client.
        answer_s: seconds an answer may take.

    Raises:
        Unavailable: when nobody listens at any of them; the message names each
            with its reason.  Code `not-permitted`: this user may not open the
            socket of one, and the places after it were not tried.
        RemoteMistake: when who listens does not speak this protocol.
    """
    try:
        return Connection(*dial(path), name, answer_s=answer_s)
    except Unavailable as why:
        if why.code != GONE:
            raise
    # it ended before it had heard us; its next one is there
    return Connection(*dial(path), name, answer_s=answer_s)


class Connection:
    """One open connection: numbers the requests and sorts the answers."""

    def __init__(
        self,
        sock: socket.socket,
        path: str,
        name: str,
        *,
        answer_s: float = ANSWER_S,
    ) -> None:
        """Take over a connected socket and shake hands; `connect` is the usual way.

        Raises:
            Unavailable: when the daemon hangs up or stays silent for `answer_s`.
            RemoteMistake: when it does not speak this protocol.
        """
        #: Where the daemon listens.
        self.path = path
        #: The number of the last request; the next one gets one more.
        self._last_id = 0
        #: Seconds an answer may take.
        self.answer_s = answer_s
        self._name = name
        #: Whether a lease or a place in the line may be on it.
        self._asked = False
        self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        self._sock = sock
        self._session = ClientSession()
        #: Replies nobody has asked for yet, oldest first.
        self._kept: list[wire.Reply] = []
        try:
            self._send(self._session.hello(self._name))
            self._welcomed()
        except BaseException:
            sock.close()
            raise

    def _welcomed(self) -> None:
        deadline_s = time.monotonic() + self.answer_s
        while not self._session.daemon:
            if not self._receive(deadline_s):
                raise self._silent()

    @property
    def daemon(self) -> str:
        """The version of the daemon's program."""
        return self._session.daemon

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it: every lease and place in the line on it is given back."""
        self._sock.close()

    def fileno(self) -> int:
        """The descriptor, for select(2) and for passing it on; -1 once closed."""
        return self._sock.fileno()

    # What one may say.

    def next_id(self) -> int:
        """The number for the next request on this connection."""
        self._last_id += 1
        return self._last_id

    def request(self, message: wire.Request) -> wire.Reply:
        """Send a request that is numbered by `next_id` and wait for its answer.

        `Waiting` is not the answer to an `Acquire` but news; it is kept.

        Raises:
            Refusal: when the daemon says no.
            RemoteMistake: when one end broke the protocol.
            Unavailable: when the daemon hangs up, or says nothing for `answer_s`.
        """
        try:
            return self._request(message)
        except Unavailable as why:
            if why.code != GONE or self._asked or type(message) not in wire.READING:
                raise
        # no lease is lost with the connection, and nothing is done twice
        self._sock.close()
        self._begin(dial(self.path)[0])
        return self._request(message)

    def _request(self, message: wire.Request) -> wire.Reply:
        number = getattr(message, "id", 0)
        self._send(encode(message))
        answer = self._take(
            lambda reply: _id(reply) == number and type(reply) is not wire.Waiting,
            self.answer_s,
        )
        if answer is None:
            raise self._silent()
        return _yes(answer)

    def _ask(self, message: wire.Request, kind: type[AnyReply]) -> AnyReply:
        return self._expect(self.request(message), kind)

    def _expect(self, answer: wire.Reply, kind: type[AnyReply]) -> AnyReply:
        if not isinstance(answer, kind):
            self.close()
            raise RemoteMistake(
                f"the daemon answered with {type(answer).__name__} where "
                f"{kind.__name__} was due.",
                "out-of-turn",
            )
        return answer

    def acquire(
        self,
        amounts: Mapping[str, int],
        *,
        priority: int = 0,
        length_s: float | None = None,
        wait_s: float | None = None,
        reclaimable: bool = False,
        label: str = "",
        reason: str = "",
        command: str = "",
        inside: int = 0,
        waiting: Callable[[wire.Waiting], None] | None = None,
    ) -> wire.Granted:
        """Ask for a lease and wait until it is granted.

        Args:
            amounts: resource to bytes or units, each over 0; empty: the share the
                administrator configured.
            priority: higher goes first.
            length_s: expected length in seconds; lets it pass others in the line.
            wait_s: longest stay in the line in seconds; None: for ever; 0: none.
            reclaimable: whether it will be given back when asked for.
            label: a few words for those who look at status.
            reason: why, for the same people.
            command: the command line it is for.
            inside: the reservation to draw on; 0: one of one's own where it fits,
                else none; -1: none.
            waiting: called with each news from the line.  If it raises, the place
                in the line is kept until `release` or `close`.

        Raises:
            Refusal: `never-fits`, `not-now` (`wait_s` is over), `not-permitted`...
            Unavailable: when the daemon hangs up.
        """
        ask = wire.Acquire(
            id=self.next_id(),
            amounts=dict(amounts),
            priority=priority,
            length_s=length_s,
            wait_s=wait_s,
            reclaimable=reclaimable,
            label=label,
            reason=reason,
            command=command,
            inside=inside,
        )
        return self._stand_in_line(ask, wire.Granted, waiting)

    def reserve(
        self,
        amounts: Mapping[str, int],
        length_s: float,
        *,
        starts: Iterable[float] = (),
        priority: int = 0,
        wait_s: float | None = None,
        label: str = "",
        reason: str = "",
        uid: int | None = None,
        gid: int | None = None,
        waiting: Callable[[wire.Waiting], None] | None = None,
    ) -> wire.Reserved:
        """Reserve: what is granted so outlives the connection and ends at a date.

        Args:
            amounts: resource to bytes or units, each over 0; `machine: 1` is the
                whole machine.
            length_s: how long each reservation is, in seconds.
            starts: when each begins, seconds since 1970; all are made or none.
                Empty: one, as soon as it can be; until then it is a place in the
                line, which `close` leaves.
            priority: higher goes first.
            wait_s: longest stay in the line in seconds; None: for ever; 0: none.
            label: a few words for those who look at status.
            reason: why, for the same people.
            uid: for this user, which is for operators; None: for oneself.
            gid: members of this group may draw on it, too.
            waiting: called with each news from the line.

        Raises:
            Refusal: `conflict` (with `free_at` where it is known), `never-fits`,
                `not-now` (`wait_s` is over), `not-permitted`...
            Unavailable: when the daemon hangs up.
        """
        ask = wire.Reserve(
            id=self.next_id(),
            amounts=dict(amounts),
            length_s=length_s,
            starts=list(starts),
            priority=priority,
            wait_s=wait_s,
            label=label,
            reason=reason,
            uid=uid,
            gid=gid,
        )
        return self._stand_in_line(ask, wire.Reserved, waiting)

    def _stand_in_line(
        self,
        ask: wire.Acquire | wire.Reserve,
        kind: type[AnyReply],
        waiting: Callable[[wire.Waiting], None] | None,
    ) -> AnyReply:
        self._asked = True
        self._send(encode(ask))
        while True:
            news = self._take(lambda reply: _id(reply) == ask.id, None)
            if type(news) is not wire.Waiting:
                assert news is not None  # there was no time limit
                return self._expect(_yes(news), kind)
            if waiting is not None:
                waiting(news)

    def extend(self, lease: int, by_s: float) -> wire.Extended:
        """Have a reservation end later.

        Args:
            lease: its id.
            by_s: by so many seconds, over 0.

        Raises:
            Refusal: `conflict` (it would run into what is reserved after it),
                `no-such-lease`, `not-permitted`...
        """
        return self._ask(wire.Extend(self.next_id(), lease, by_s), wire.Extended)

    def release(self, lease: int) -> None:
        """Give a lease or a place in the line back, or end somebody's (root, owner).

        Raises:
            Refusal: `no-such-lease` or `not-permitted`.
        """
        self._ask(wire.Release(self.next_id(), lease), wire.Released)

    def status(self) -> wire.Status:
        """How things stand: all pages as one, the books as on the last page."""
        leases: list[wire.LeaseInfo] = []
        while True:
            after = leases[-1].id if leases else 0
            page = self._ask(wire.GetStatus(self.next_id(), after), wire.Status)
            leases += page.leases
            if not page.more:
                return replace(page, leases=leases)
            if not page.leases or page.leases[-1].id <= after:
                raise RemoteMistake(
                    f"the page of status after lease {after} leads nowhere.",
                    "out-of-turn",
                )

    def story(self, lease: int) -> wire.LeaseInfo:
        """What is known of one lease.

        Raises:
            Refusal: `no-such-lease`, when there never was one or it is forgotten.
        """
        return self._ask(wire.GetStory(self.next_id(), lease), wire.Story).lease

    def set_capacity(self, resource: str, capacity: int | None) -> None:
        """Set what may be lent of `resource`, in bytes or units; None: as configured.

        Raises:
            Refusal: `not-permitted`, `unknown-resource` or `bad-amount`.
        """
        order = wire.SetCapacity(self.next_id(), resource, capacity)
        self._ask(order, wire.Done)

    def drain(self, reason: str = "") -> None:
        """Let nothing new start; what runs goes on.

        Raises:
            Refusal: `not-permitted`.
        """
        self._ask(wire.Drain(self.next_id(), True, reason), wire.Done)

    def undrain(self) -> None:
        """Let leases start again.

        Raises:
            Refusal: `not-permitted`.
        """
        self._ask(wire.Drain(self.next_id(), False), wire.Done)

    def seat(self, uid: int, on: bool) -> None:
        """Say that a user sits at the machine, or (not `on`) does no more.

        Raises:
            Refusal: `not-permitted`.
        """
        self._ask(wire.Seat(self.next_id(), uid, on), wire.Done)

    def report(self, since: float) -> wire.Report:
        """What was used from `since` (seconds since 1970) up to now."""
        return self._ask(wire.GetReport(self.next_id(), since), wire.Report)

    def watch(self) -> Iterator[wire.Happened]:
        """Each fact from now on, as it becomes true; waits for the next one.

        Raises:
            Unavailable: when the daemon ends, which is how it ends.
        """
        self._ask(wire.Watch(self.next_id()), wire.Done)
        while True:
            fact = self._take(lambda reply: type(reply) is wire.Happened, None)
            assert isinstance(fact, wire.Happened)
            yield fact

    # What one may hear.

    def next(self, timeout_s: float | None = None) -> wire.Reply | None:
        """The next reply nobody asked for: Ended, Happened, Waiting, or a late one.

        Args:
            timeout_s: longest wait in seconds; None: for ever; 0: only what came.

        Returns:
            The oldest one, or None when the time is over.

        Raises:
            Unavailable: when the daemon hangs up.
        """
        return self._take(lambda reply: True, timeout_s)

    def events(self) -> Iterator[wire.Reply]:
        """All replies nobody asked for, as they come, until the daemon hangs up."""
        while True:
            reply = self.next()
            assert reply is not None  # there was no time limit
            yield reply

    def _take(
        self, wanted: Callable[[wire.Reply], bool], timeout_s: float | None
    ) -> wire.Reply | None:
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        seen = 0
        while True:
            for place in range(seen, len(self._kept)):
                if wanted(self._kept[place]):
                    return self._kept.pop(place)
            seen = len(self._kept)
            if not self._receive(deadline_s):
                return None

    def _receive(self, deadline_s: float | None) -> bool:
        """Read once and keep what it holds; False when the time is over."""
        try:
            if deadline_s is None:
                self._sock.settimeout(None)
            else:
                # 0 would not wait, but raise another error than a timeout
                self._sock.settimeout(max(1e-6, deadline_s - time.monotonic()))
            data = self._sock.recv(_READ_BYTES)
        except TimeoutError:
            return False
        except OSError as why:
            raise self._hung_up(why) from None
        try:
            if data:
                self._kept += self._session.receive(data)
                return True
            self._session.end()
        except RemoteMistake:
            self.close()
            raise
        raise self._hung_up(None)

    def _send(self, data: bytes) -> None:
        try:
            self._sock.settimeout(self.answer_s)
            self._sock.sendall(data)
        except TimeoutError:
            raise self._silent() from None
        except OSError as why:
            # what the daemon said before it hung up says more than EPIPE
            while self._receive(time.monotonic()):
                pass
            raise self._hung_up(why) from None

    def _hung_up(self, why: OSError | None) -> HoldingPenError:
        how = f" ({reason(why)})" if why else ""
        over = "; every lease of this connection is over" if self._asked else ""
        return Unavailable(
            f"the daemon at {self.path} hung up{how}{over}. "
            "'systemctl status holdingpen' says why.",
            GONE,
        )

    def _silent(self) -> Unavailable:
        return Unavailable(
            f"the daemon at {self.path} has not answered for {self.answer_s:g} s. "
            "'systemctl status holdingpen' says whether it is stuck."
        )


def _id(reply: wire.Reply) -> int | None:
    return getattr(reply, "id", None)


def _yes(answer: wire.Reply) -> wire.Reply:
    if isinstance(answer, wire.Refused):
        refusal = Refusal(answer.message, answer.code)
        refusal.free_at = answer.free_at
        raise refusal
    if isinstance(answer, wire.Failed):
        raise RemoteMistake(answer.message, answer.code)
    return answer
