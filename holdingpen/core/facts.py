"""What became true: the facts, the only thing the journal keeps.

`Pen.apply(fact)` is the only mutator; live running and replay both go through it.
A fact says what was decided, never why it was right: the judging lies behind it.
Perfect participles, in the order in which a lease meets them.

The journal writes each as a msgpack array, tag first (`array_like`), so a field
may be added only at the end and only with a default, and none may change its type.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

#: The resource of which every lease holds one unit and an exclusive one all.
MACHINE = "machine"
#: Who sits at the machine because logind says so; no session is called that.
LOGIND = "logind"


class Moment(Struct, frozen=True, array_like=True, gc=False):
    """One instant on both clocks (model.md 13)."""

    #: Seconds of CLOCK_BOOTTIME: durations are measured on it, suspend counts.
    boot_s: float
    #: Seconds since 1970, for dates and for people.
    wall_s: float

    def wall_of(self, boot_s: float) -> float:
        """What the wall clock shows at a boot_s, unless somebody steps it."""
        return self.wall_s + boot_s - self.boot_s

    def boot_of(self, wall_s: float) -> float:
        """When that will be, by the clock that measures durations."""
        return self.boot_s + wall_s - self.wall_s


class Who(Struct, frozen=True, array_like=True, gc=False):
    """Who asks, as the kernel says of the connection (SO_PEERCRED)."""

    uid: int
    gid: int
    #: As the daemon's pid namespace sees it; 0 when it cannot.
    pid: int


class Ask(Struct, frozen=True, array_like=True, gc=False):
    """One request for a lease, just as it was made."""

    #: The number of the connection, never reused.
    conn: int
    #: The client's number for this request; grows on each connection.
    number: int
    who: Who
    #: Resource to bytes or units, each > 0; `machine` is there when exclusive.
    amounts: dict[str, int]
    #: Higher goes first.
    priority: int = 0
    #: Expected length in seconds, which lets it pass others; None: unknown.
    length_s: float | None = None
    #: How long it may stand in the line; None: for ever; 0: not at all.
    wait_s: float | None = None
    #: Whether the holder gives it back when asked.
    reclaimable: bool = False
    label: str = ""
    reason: str = ""
    #: The command line as the client gave it: shown, never believed.
    command: str = ""
    #: Resource to how the client wants it handed over: see handover.py.
    wishes: dict[str, str] = {}
    #: The reservation it draws on; 0: none.
    inside: int = 0
    #: Of a reservation: how long it lasts, in seconds; None: it is none.
    lasts_s: float | None = None
    #: Members of this group may draw on the reservation, too.
    gid: int | None = None
    #: The operator who asked in the name of `who`.
    by_uid: int | None = None
    #: Whether he sat at the machine then.
    seated: bool = False


class Opened(Struct, frozen=True, array_like=True, gc=False, tag=1):
    """The daemon started and read the journal this far."""

    at: Moment
    #: /proc/sys/kernel/random/boot_id: tells a restart from a reboot.
    boot_id: str


class Counted(Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Ids up to these are used up (the end of a snapshot)."""

    lease: int
    conn: int


class ResourceSet(Struct, frozen=True, array_like=True, gc=False, tag=3):
    """The machine, or its configuration, has this much of a resource."""

    resource: str
    #: Bytes or units.
    capacity: int
    #: Ballast wanted in all, in bytes; 0: none.
    hold: int = 0
    #: Ballast comes and goes in multiples of this many bytes.
    unit: int = 1
    #: Whether what a lease gives back must be measured free before it is free.
    measured: bool = False


class CapacitySet(Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Somebody said `holdingpenctl set`; None: back to what ResourceSet says."""

    resource: str
    capacity: int | None
    by_uid: int


class DrainSet(Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Nothing new starts (`drain`), or it does again (None: `undrain`)."""

    reason: str | None
    by_uid: int


class Joined(Struct, frozen=True, array_like=True, gc=False, tag=6):
    """A request joined the line as the lease-to-be `lease`."""

    lease: int
    at: Moment
    ask: Ask
    #: The first few leases that held then what it lacked, for its story.
    waits_for: list[int] = []


class Promised(Struct, frozen=True, array_like=True, gc=False, tag=7):
    """A lease has its amounts in the books; ballast is being made ready for it."""

    lease: int
    #: Resource to ballast bytes drawn, multiples of the resource's unit; 0 where
    #: there was none and something must be made ready all the same.
    drawn: dict[str, int]
    #: With `ask` when it never stood in the line.
    at: Moment
    ask: Ask | None = None
    #: Resource to the method by which it is handed over; unnamed: freed.
    how: dict[str, str] = {}


class Granted(Struct, frozen=True, array_like=True, gc=False, tag=8):
    """The client holds it.  With `ask` when it never stood in the line."""

    lease: int
    at: Moment
    ask: Ask | None = None


class Ended(Struct, frozen=True, array_like=True, gc=False, tag=9):
    """A lease, promise or place in the line is over."""

    lease: int
    at: Moment
    #: A stable word: see `leases.Why`.
    why: str
    #: Who ended it, when that was not its owner.
    by_uid: int | None = None


class Left(Struct, frozen=True, array_like=True, gc=False, tag=10):
    """A connection without leases was closed."""

    conn: int


class Taking(Struct, frozen=True, array_like=True, gc=False, tag=11):
    """Free bytes were set apart to become ballast."""

    resource: str
    amount: int


class Taken(Struct, frozen=True, array_like=True, gc=False, tag=12):
    """Of the `asked` bytes set apart, `amount` are ballast now; the rest is free."""

    resource: str
    asked: int
    amount: int
    #: boot_s before which no more is to be tried; 0: at once.
    not_before_s: float = 0.0


class Shed(Struct, frozen=True, array_like=True, gc=False, tag=13):
    """Ballast given up for nobody: `hold` or the capacity was lowered."""

    resource: str
    amount: int


class Seen(Struct, frozen=True, array_like=True, gc=False, tag=14):
    """What a measurement showed: what is still settling, and what is foreign."""

    resource: str
    settling: int
    foreign: int
    #: boot_s after which what still settles is foreign; 0: as it was.
    settle_by_s: float = 0.0


class Dropped(Struct, frozen=True, array_like=True, gc=False, tag=15):
    """Of a promise, one resource is ready; it may wait for another."""

    lease: int
    resource: str
    #: The directory the client may write in; empty: none.
    place: str = ""
    #: The method it is after all, because the one chosen failed, and why; empty: as
    #: was promised.
    how: str = ""
    why: str = ""


class Heard(Struct, frozen=True, array_like=True, gc=False, tag=16):
    """Requests up to `last` of this connection were answered (in a snapshot)."""

    conn: int
    last: int


class Shrunk(Struct, frozen=True, array_like=True, gc=False, tag=17):
    """A part of a live lease was given back."""

    lease: int
    at: Moment
    #: The request that asked for it, by connection and number: a repetition of it
    #: is known by that.
    conn: int
    number: int
    #: Resource to bytes or units given back.
    amounts: dict[str, int]
    #: Resource to ballast bytes that the lease need not hand back any more.
    undrawn: dict[str, int] = {}


class Recovered(Struct, frozen=True, array_like=True, gc=False, tag=18):
    """Of what was kept for a lease, now over or smaller, `amount` is ballast again.

    What it had drawn is owed no more, however much of it came back; unless it is a
    `part` that was given back while the lease lived.
    """

    lease: int
    resource: str
    amount: int
    part: bool = False


class Booked(Struct, frozen=True, array_like=True, gc=False, tag=20):
    """A reservation was made that begins at a date."""

    lease: int
    at: Moment
    ask: Ask
    starts_wall_s: float
    until_wall_s: float
    #: The first of those that were made together; 0: it was made alone.
    series: int


class Due(Struct, frozen=True, array_like=True, gc=False, tag=21):
    """A booked reservation is about to begin: it stands first in the line."""

    lease: int
    at: Moment


class Reserved(Struct, frozen=True, array_like=True, gc=False, tag=22):
    """A reservation holds its amounts, until a date.

    With `ask` when it never stood in the line.
    """

    lease: int
    at: Moment
    until_wall_s: float
    #: Resource to ballast bytes that are its own from now on.
    drawn: dict[str, int]
    ask: Ask | None = None


class Extended(Struct, frozen=True, array_like=True, gc=False, tag=23):
    """A reservation ends at another date."""

    lease: int
    at: Moment
    until_wall_s: float
    by_uid: int
    #: The request that asked for it, as in Shrunk.
    conn: int = 0
    number: int = 0


class Deferred(Struct, frozen=True, array_like=True, gc=False, tag=24):
    """One who waits may not start before `until_s`, because of what is reserved."""

    lease: int
    #: boot_s; 0: he may.
    until_s: float


class AskedBack(Struct, frozen=True, array_like=True, gc=False, tag=25):
    """A lease was asked back for one who waits; 0: that was withdrawn."""

    lease: int
    at: Moment
    needed_by: int


class AgeingSet(Struct, frozen=True, array_like=True, gc=False, tag=26):
    """So many seconds in the line count as one priority; 0: they count nothing."""

    ageing_s: float


class Seated(Struct, frozen=True, array_like=True, gc=False, tag=27):
    """A user sits at the machine, or does no more, for one of several reasons."""

    uid: int
    on: bool
    by_uid: int
    #: With what that ends: `LOGIND`, when logind says so; a login session of his, with
    #: that; empty: an operator's word, or a reboot.
    until: str = ""


class Unused(Struct, frozen=True, array_like=True, gc=False, tag=28):
    """The last that drew on a reservation ended then (in a snapshot)."""

    lease: int
    since: Moment


class Lost(Struct, frozen=True, array_like=True, gc=False, tag=29):
    """What was kept for a lease is kept no more; the lease goes on."""

    lease: int
    resource: str
    why: str


class Owed(Struct, frozen=True, array_like=True, gc=False, tag=19):
    """What a lease that is over drew is still to come back (in a snapshot)."""

    lease: int
    resource: str
    amount: int


Fact: TypeAlias = (
    Opened
    | Counted
    | ResourceSet
    | CapacitySet
    | DrainSet
    | Joined
    | Promised
    | Granted
    | Ended
    | Left
    | Taking
    | Taken
    | Shed
    | Seen
    | Dropped
    | Heard
    | Shrunk
    | Recovered
    | Owed
    | Booked
    | Due
    | Reserved
    | Extended
    | Deferred
    | AskedBack
    | AgeingSet
    | Seated
    | Unused
    | Lost
)
