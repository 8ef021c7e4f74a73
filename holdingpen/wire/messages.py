"""The protocol: every message between a client and the daemon.  This is its document.

Transport: a unix stream socket.  Each message is one frame (framing.py): a 4-byte
big-endian length and that many bytes of msgpack, a map whose key `t` says which
message it is.  The client speaks first, with `Hello`; the daemon answers `Welcome`.
The client need not wait for it: `Hello` and `Acquire` may go out in one write.

    C: Hello(version=1, name="gatekeeper")      D: Welcome(version=1, daemon="0.1.0")
    C: Acquire(id=1, amounts={"ram": 2**33})    D: Waiting(id=1, lease=17, place=2, ...)
                                                D: Granted(id=1, lease=17, ...)
    C: Release(id=2, lease=17)                  D: Released(id=2, lease=17)

**The open connection is the lease.**  When the last copy of its descriptor is
closed, whatever was granted or waited for on it is given back, at once.  A
connection may carry several leases; each may be released early.

What is held back for a lease is handed over as its `wishes` say, and Granted tells how
sure that is.  With `descriptor` the held pages themselves come as open files:

    C: Acquire(id=1, amounts={"ram": 2**30}, wishes={"ram": "descriptor"})
    C: Fetch(id=2, lease=17, resource="ram")    D: Fetched(id=2, ...) and 16 files

**A reservation is a lease without a connection**: it ends at a date, by Release, or
when an operator says so.  Its owner's requests draw on it by themselves.

    C: Reserve(id=1, amounts={"ram": 2**33}, length_s=7200)
                                                D: Reserved(id=1, leases=[17], ...)
    C: Acquire(id=2, amounts={"ram": 2**32}, inside=17)
                                                D: Granted(id=2, lease=18, ...)

Ids.  A client numbers its requests 1, 2, 3, ... on each connection.  A request
sent again with the same id (after a pause the client took for a loss) is answered
with its present state and never carried out twice.

Ends.  After `Failed` with no id the daemon closes the connection: the protocol was
broken, and the message says how.  `Refused` is an ordinary no.  A daemon that was
restarted under systemd goes on with the connections of the last one; a client sees a
pause, and may hear Welcome, or the answer to a request, a second time.

Growing.  A new field goes last and has a default; a field never changes its type or
meaning; a new message gets a new tag.  Unknown fields are ignored.  Anything else
needs a new `VERSION`; a daemon names the versions it speaks when it refuses one.

One file of golden bytes for each message is kept in tests/golden/.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from msgspec import Struct

#: The version of the protocol spoken here.
VERSION = 1

#: Longest `label`, `reason`, `name` in characters, and longest `command`.
TEXT_MAX = 256
COMMAND_MAX = 4096
#: Most resources in one request.
AMOUNTS_MAX = 64
#: Most times in one Reserve: a year of working days.
STARTS_MAX = 500
#: Most files in one answer: SCM_RIGHTS takes 253.
FILES_MAX = 250

#: How what is held back may be handed over.
#:   as-is       the daemon chooses, and leaves the client where it is
#:   program     the client becomes the program that is to have it, and may be moved
#:               into a control group for that
#:   steps       it stays held until HandOver frees it bit by bit
#:   descriptor  it stays held until Fetch brings it, as open files
WISHES = ("as-is", "program", "steps", "descriptor")


class Message(
    Struct, frozen=True, gc=False, tag_field="t", omit_defaults=True, kw_only=False
):
    """What all messages have in common: a map with its tag under `t`."""


# What a client says.


class Hello(Message, frozen=True, gc=False, tag="hello"):
    """First of all: the protocol version, and the client's name for the log."""

    version: int
    name: str = ""


class Acquire(Message, frozen=True, gc=False, tag="acquire"):
    """Ask for a lease.  Answers: Granted, Waiting (then Granted), or Refused.

    No `amounts`: the share the administrator configured.  `machine: 1` asks for
    the whole machine.
    """

    id: int
    #: Resource to bytes or units, each > 0.
    amounts: dict[str, int] = {}
    priority: int = 0
    #: Expected length in seconds.
    length_s: float | None = None
    #: Longest stay in the line in seconds; None: for ever; 0: not at all.
    wait_s: float | None = None
    reclaimable: bool = False
    label: str = ""
    reason: str = ""
    command: str = ""
    #: Resource to how it is to be handed over, one of WISHES; unnamed: `as-is`.
    wishes: dict[str, str] = {}
    #: The reservation to draw on; 0: one of the user's own where it fits, else none;
    #: -1: none.
    inside: int = 0


class Reserve(Message, frozen=True, gc=False, tag="reserve"):
    """Ask for a reservation.  Answers: Reserved, Waiting (then Reserved), or Refused.

    Without `starts` it begins as soon as it can, and until then it is a place in the
    line, which ends with the connection.  With `starts` there is one reservation for
    each; all are made or none, at once.
    """

    id: int
    #: Resource to bytes or units, each > 0; `machine: 1` is the whole machine.
    amounts: dict[str, int]
    #: How long each is, in seconds.
    length_s: float
    #: When each begins, seconds since 1970, at most STARTS_MAX.
    starts: list[float] = []
    priority: int = 0
    #: As in Acquire.
    wait_s: float | None = None
    label: str = ""
    reason: str = ""
    #: For this user; operators only.  None: for oneself.
    uid: int | None = None
    #: Members of this group may draw on it, too.
    gid: int | None = None


class Extend(Message, frozen=True, gc=False, tag="extend"):
    """Have a reservation end later.  Answer: Extended or Refused."""

    id: int
    lease: int
    #: By so many seconds, > 0.
    by_s: float


class Release(Message, frozen=True, gc=False, tag="release"):
    """Give a lease or a place in the line back.  Answer: Released or Refused.

    Somebody else's may be ended so by its owner or by root.
    """

    id: int
    lease: int


class Shrink(Message, frozen=True, gc=False, tag="shrink"):
    """Give a part of a lease back.  Answer: Shrunk or Refused.

    For its own connection and its owner.  What is left of each resource must be
    more than 0: Release gives all back.
    """

    id: int
    lease: int
    #: Resource to bytes or units to give back, each > 0.
    amounts: dict[str, int]


class Fetch(Message, frozen=True, gc=False, tag="fetch"):
    """Ask for what a lease holds, as open files.  Answer: Fetched or Refused.

    For a live lease of this connection whose wish for the resource was `descriptor`.
    Asked again, the answer is the same files.
    """

    id: int
    lease: int
    resource: str
    #: The first file wanted, when they came in several answers.
    first: int = 0


class HandOver(Message, frozen=True, gc=False, tag="hand-over"):
    """Have a part freed, to be occupied at once.  Answer: Done or Refused.

    For a live lease of this connection whose wish for the resource was `steps`.  What
    is not kept any more is not freed, and that is no error.
    """

    id: int
    lease: int
    resource: str
    #: Bytes, > 0.
    amount: int


class GetStatus(Message, frozen=True, gc=False, tag="status"):
    """Ask how things stand.  Answer: Status.

    Leases come in pages, by id; ask again with `after` until `more` is false.
    """

    id: int
    after: int = 0


class GetStory(Message, frozen=True, gc=False, tag="why"):
    """Ask for the story of one lease.  Answer: Story or Refused."""

    id: int
    lease: int


class SetCapacity(Message, frozen=True, gc=False, tag="set"):
    """Set a capacity; None: as configured.  Operators only.  Done or Refused."""

    id: int
    resource: str
    capacity: int | None = None


class Seat(Message, frozen=True, gc=False, tag="seat"):
    """Say that a user sits at the machine (`on`) or does no more.  Done or Refused.

    Operators only.  Who sits there may ask without any rule, and goes first.
    """

    id: int
    uid: int
    on: bool


class GetReport(Message, frozen=True, gc=False, tag="report"):
    """Ask what was used since `since`, seconds since 1970.  Answer: Report."""

    id: int
    since: float


class Drain(Message, frozen=True, gc=False, tag="drain"):
    """Start nothing new (`on`), or do again.  Operators only.  Done or Refused."""

    id: int
    on: bool
    reason: str = ""


class Watch(Message, frozen=True, gc=False, tag="watch"):
    """Ask to be told what happens from now on: Done, then Happened for each fact."""

    id: int


# What the daemon says.


class Welcome(Message, frozen=True, gc=False, tag="welcome"):
    """Answer to Hello."""

    version: int
    #: The version of the daemon's program.
    daemon: str


class Granted(Message, frozen=True, gc=False, tag="granted"):
    """The lease is yours."""

    id: int
    lease: int
    amounts: dict[str, int]
    #: How sure it is to get what was held back: exact, bounded, best-effort; none
    #: when nothing that can be held back was asked for.
    handover: str = "none"
    #: When bounded: bytes that others may take at most.
    bound: int = 0
    #: One sentence on why it is not exact; empty when it is.
    why: str = ""
    #: Disk to the directory it may write in.
    places: dict[str, str] = {}


class Waiting(Message, frozen=True, gc=False, tag="waiting"):
    """You stand in the line; told again when that changes, at most once a second."""

    id: int
    lease: int
    #: 1 is first.
    place: int
    #: One sentence for people.
    reason: str
    #: The first few leases whose end would help.
    waits_for: list[int] = []
    #: Seconds since 1970; None: unknown.
    expected: float | None = None


class Refused(Message, frozen=True, gc=False, tag="refused"):
    """No.  `code` is stable (errors.Refusal); `message` is for people."""

    id: int
    code: str
    message: str
    #: Seconds since 1970 when it would fit between what is reserved; None: unknown.
    free_at: float | None = None


class Reserved(Message, frozen=True, gc=False, tag="reserved"):
    """It is yours, and is on the disk.  One lease for each time that was asked for."""

    id: int
    leases: list[int]
    amounts: dict[str, int]
    #: Seconds since 1970: the begin and the end of the first.
    starts: float
    expires: float


class Extended(Message, frozen=True, gc=False, tag="extended"):
    """Answer to Extend: the new end, seconds since 1970."""

    id: int
    lease: int
    expires: float


class Released(Message, frozen=True, gc=False, tag="released"):
    """Answer to Release."""

    id: int
    lease: int


class Shrunk(Message, frozen=True, gc=False, tag="shrunk"):
    """Answer to Shrink.  Id 0: said to the holder when somebody else shrank it."""

    id: int
    lease: int
    #: What is left: resource to bytes or units.
    amounts: dict[str, int]


class Fetched(Message, frozen=True, gc=False, tag="fetched"):
    """Answer to Fetch: the files themselves come with the first byte of its frame.

    They are passed by SCM_RIGHTS (unix(7)), as many as there are `sizes`.
    """

    id: int
    lease: int
    resource: str
    #: Bytes of each file that are the client's, in order.
    sizes: list[int]
    #: exact, or best-effort when a part had to be found only now.
    handover: str = "exact"
    #: Whether there are more: ask with `first` = `first` + len(sizes).
    more: bool = False


class Reclaim(Message, frozen=True, gc=False, tag="reclaim"):
    """Somebody needs what this lease holds, which said that it may be asked back.

    Not `on`: the request is withdrawn, keep it.  There is no answer but to give it
    back, all (Release, or the end of the connection) or in part (Shrink).
    """

    lease: int
    on: bool


class Ended(Message, frozen=True, gc=False, tag="ended"):
    """A lease of this connection was ended by somebody else."""

    lease: int
    why: str


class Done(Message, frozen=True, gc=False, tag="done"):
    """An order was carried out and will survive what it must survive."""

    id: int


class Failed(Message, frozen=True, gc=False, tag="failed"):
    """You broke the protocol.  Without `id` the connection is closed after this."""

    code: str
    message: str
    id: int | None = None


class Books(Struct, frozen=True, gc=False, omit_defaults=False):
    """One resource's ledger (model.md): bytes or units."""

    capacity: int
    free: int
    held: int
    leased: int
    settling: int
    foreign: int
    #: Ballast wanted in all.
    hold: int = 0


class LeaseInfo(Struct, frozen=True, gc=False, omit_defaults=True):
    """One lease or place in the line, as status shows it."""

    id: int
    #: waiting, promised, live, ended.
    state: str
    uid: int
    pid: int
    amounts: dict[str, int]
    #: Seconds since 1970: asked; granted (0: not yet); ended (0: not yet).
    asked: float
    granted: float = 0.0
    ended: float = 0.0
    priority: int = 0
    #: Seconds since 1970 when it ends as far as is known.
    expires: float | None = None
    #: The command line as the client gave it: shown, never believed.
    command: str = ""
    label: str = ""
    reason: str = ""
    reclaimable: bool = False
    #: As in Granted.
    handover: str = "none"
    #: Ballast drawn, in bytes.
    drawn: dict[str, int] = {}
    #: Bytes its processes used when last measured.
    used: dict[str, int] = {}
    #: In the line: 1 is first; 0: not in it.
    place: int = 0
    #: The first few leases whose end would help; once granted: would have helped.
    waits_for: list[int] = []
    expected: float | None = None
    #: In the line: one sentence for people on what it waits for.
    waits_why: str = ""
    why_ended: str = ""
    ended_by: int | None = None
    #: As in Granted.
    bound: int = 0
    handover_why: str = ""
    places: dict[str, str] = {}
    #: Resource to bytes that are still kept for it.
    kept: dict[str, int] = {}
    #: Resource to bytes that were freed for it and that others took.
    stolen: dict[str, int] = {}
    #: connection or reservation.
    kind: str = "connection"
    #: A reservation's begin, seconds since 1970; it may lie ahead.
    starts: float | None = None
    #: The reservation it draws on; 0: none.
    inside: int = 0
    #: The group that may draw on it, too.
    gid: int | None = None
    #: The operator who made it for its user.
    made_by: int | None = None
    #: Reservations that were made together have the id of their first.
    series: int = 0
    #: Since when it is asked back, seconds since 1970 (0: it is not), for whom, and
    #: whether it had time enough to answer.
    asked_back: float = 0.0
    asked_back_for: int = 0
    unyielding: bool = False
    #: A reservation on which nothing has drawn since, seconds since 1970; 0: used,
    #: or not so for long.
    idle_since: float = 0.0
    #: Resource to bytes that others took and that were given once more.
    made_good: dict[str, int] = {}


class Usage(Struct, frozen=True, gc=False):
    """What one user, or everybody, had in the time of a report."""

    #: None: everybody.
    uid: int | None
    #: Resource to byte-seconds or unit-seconds.
    used: dict[str, float] = {}
    #: Resource to the part of what all used, 0 to 1.
    share: dict[str, float] = {}
    leases: int = 0
    reservations: int = 0
    #: Requests that left the line without a lease.
    left: int = 0
    #: Seconds in the line: of all that were granted, on average, and the longest.
    waited_mean_s: float = 0.0
    waited_max_s: float = 0.0
    #: Requests that got what they asked for.
    granted: int = 0


class Report(Message, frozen=True, tag="usage"):
    """Answer to GetReport: most used first."""

    id: int
    #: Seconds since 1970.
    since: float
    until: float
    users: list[Usage]
    all: Usage


class ForeignUser(Struct, frozen=True, gc=False):
    """A process outside all leases that uses much of a resource."""

    resource: str
    pid: int
    uid: int
    command: str
    amount: int


class Status(Message, frozen=True, tag="state"):
    """Answer to GetStatus: a page of leases, ordered by id; books on every page."""

    id: int
    #: The daemon's version, start (seconds since 1970), its socket's path.
    daemon: str
    since: float
    socket: str
    now: float
    resources: dict[str, Books]
    leases: list[LeaseInfo] = []
    #: Leases in the line, in all.
    line: int = 0
    more: bool = False
    #: None: not draining.
    drain: str | None = None
    foreign: list[ForeignUser] = []
    #: What an administrator should know: "the journal has no room: ...".
    troubles: list[str] = []
    #: Users who sit at the machine.
    seated: list[int] = []


class Story(Message, frozen=True, tag="story"):
    """Answer to GetStory."""

    id: int
    lease: LeaseInfo


class Happened(Message, frozen=True, tag="happened"):
    """One fact, for watchers."""

    #: Seconds since 1970.
    at: float
    #: joined, promised, granted, shrunk, ended, taken, shed, set, drained, seen,
    #: booked, due, reserved, extended, askedback, withdrawn, seated.
    what: str
    #: Resource, amounts and such, by name.
    facts: dict[str, object] = {}
    lease: int | None = None


Request: TypeAlias = (
    Hello
    | Acquire
    | Reserve
    | Extend
    | Release
    | Shrink
    | Fetch
    | HandOver
    | GetStatus
    | GetStory
    | GetReport
    | SetCapacity
    | Seat
    | Drain
    | Watch
)
#: Requests that change nothing, and of which nothing is lost with their connection:
#: who was not answered asks again.
READING: Final = frozenset({Hello, GetStatus, GetStory, GetReport, Watch})
Reply: TypeAlias = (
    Welcome
    | Granted
    | Waiting
    | Refused
    | Reserved
    | Extended
    | Released
    | Shrunk
    | Fetched
    | Reclaim
    | Ended
    | Done
    | Failed
    | Status
    | Story
    | Report
    | Happened
)
