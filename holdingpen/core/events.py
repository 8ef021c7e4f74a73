"""What can happen: the events the shell puts before the core, in the past tense.

Each carries `at`, because the core reads no clock.  What came of an effect is an
event too: `DropBallast` is answered by `BallastDropped`, `Measure` by `Measured`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from msgspec import Struct

from holdingpen.core.facts import Ask, Moment, Who

NO_GROUPS: Final[frozenset[int]] = frozenset()


class Asked(Struct, frozen=True, gc=False):
    """A client asked for a lease, or for a reservation that begins when it can."""

    at: Moment
    ask: Ask
    #: The groups of `ask.who`, as the kernel says.
    groups: frozenset[int] = NO_GROUPS
    #: Who really asked, when that is not `ask.who`.
    by: Who | None = None
    by_groups: frozenset[int] = NO_GROUPS


class BookAsked(Struct, frozen=True, gc=False):
    """A client asked for reservations that begin at dates."""

    at: Moment
    ask: Ask
    #: Seconds since 1970, one for each.
    starts: tuple[float, ...]
    #: As in Asked.
    groups: frozenset[int] = NO_GROUPS
    by: Who | None = None
    by_groups: frozenset[int] = NO_GROUPS


class ExtendAsked(Struct, frozen=True, gc=False):
    """Somebody wants a reservation to end `by_s` seconds later."""

    at: Moment
    conn: int
    number: int
    who: Who
    lease: int
    by_s: float
    groups: frozenset[int] = NO_GROUPS


class SeatAsked(Struct, frozen=True, gc=False):
    """Somebody said that a user sits at the machine, or does no more."""

    at: Moment
    conn: int
    number: int
    who: Who
    uid: int
    on: bool
    groups: frozenset[int] = NO_GROUPS
    #: The login session of `uid` that this was said from; empty: from none.
    session: str = ""


class SeatsSeen(Struct, frozen=True, gc=False):
    """Who sits at the machine, as far as the machine itself knows."""

    at: Moment
    #: Whom logind sees there.
    uids: frozenset[int]
    #: Whom it has logged in there, in front or in the background.
    logged_in: frozenset[int]
    #: Users and login sessions of theirs, known by `Books.seats`, that are over.
    over: frozenset[tuple[int, str]] = frozenset()


class Released(Struct, frozen=True, gc=False):
    """A client gave a lease or a place in the line back, or ordered its end."""

    at: Moment
    conn: int
    number: int
    who: Who
    lease: int
    groups: frozenset[int] = NO_GROUPS


class ShrinkAsked(Struct, frozen=True, gc=False):
    """A client gave a part of a lease back."""

    at: Moment
    conn: int
    number: int
    who: Who
    lease: int
    #: Resource to bytes or units to give back.
    amounts: dict[str, int]


class Gone(Struct, frozen=True, gc=False):
    """A connection is closed.  Exactly one for each connection."""

    at: Moment
    conn: int


class BallastDropped(Struct, frozen=True, gc=False):
    """The ballast drawn by a lease is freed, or made ready to be handed over."""

    at: Moment
    lease: int
    resource: str
    #: The directory the client may write in; empty: none.
    place: str = ""
    #: Why it could not be made ready; empty: it is.
    problem: str = ""
    #: The method it is after all, because the one chosen failed, and why; empty: as
    #: was asked for.
    how: str = ""
    why: str = ""


class BallastBack(Struct, frozen=True, gc=False):
    """Of what was kept for a lease, `amount` is ballast again.

    After the end of a lease there is one within the time memory is given to settle,
    and one more if something comes back later than that.
    """

    at: Moment
    lease: int
    resource: str
    amount: int
    #: Whether the lease goes on, having become smaller.
    part: bool = False


class FetchAsked(Struct, frozen=True, gc=False):
    """A client wants the files in which a resource is kept for its lease."""

    at: Moment
    conn: int
    number: int
    lease: int
    resource: str
    #: The first file wanted.
    first: int = 0


class StepAsked(Struct, frozen=True, gc=False):
    """A client wants a part of what is kept for its lease freed."""

    at: Moment
    conn: int
    number: int
    lease: int
    resource: str
    amount: int


class Pressed(Struct, frozen=True, gc=False):
    """Programs wait for memory, and the machine is near its end."""

    at: Moment
    resource: str


class BallastTaken(Struct, frozen=True, gc=False):
    """`amount` of the `asked` bytes have become ballast; less when guarded."""

    at: Moment
    resource: str
    asked: int
    amount: int
    #: As in TakeBallast.
    ledger: str = ""


class Measured(Struct, frozen=True, gc=False):
    """The machine was measured."""

    at: Moment
    resource: str
    #: Bytes a program could get now without pushing others (MemAvailable), less what
    #: the daemon will still give; it may be below 0.
    available: int
    #: Ballast bytes really occupied at that moment.
    ballast: int
    #: Lease to bytes its processes use; leases not named use nothing.
    used: dict[int, int]
    #: Whether `used` was looked up just now; if not, it says nothing of foreign use.
    fresh: bool = True
    #: Lease to bytes that are occupied for it, beside `ballast`.
    kept: dict[int, int] = {}


class Ticked(Struct, frozen=True, gc=False):
    """Time passed: `Pen.wake_at_s` came, or was near."""

    at: Moment


class CapacityAsked(Struct, frozen=True, gc=False):
    """Somebody said `set`; None: back to the configured capacity."""

    at: Moment
    conn: int
    number: int
    who: Who
    resource: str
    capacity: int | None
    groups: frozenset[int] = NO_GROUPS


class DrainAsked(Struct, frozen=True, gc=False):
    """Somebody said `drain` (a reason, maybe empty) or `undrain` (None)."""

    at: Moment
    conn: int
    number: int
    who: Who
    reason: str | None
    groups: frozenset[int] = NO_GROUPS


class Resource(Struct, frozen=True, gc=False):
    """One resource as the machine and the configuration have it."""

    name: str
    capacity: int
    hold: int = 0
    unit: int = 1
    measured: bool = False


class Configured(Struct, frozen=True):
    """The configuration was read, at start or on reload."""

    at: Moment
    resources: tuple[Resource, ...]


class Started(Struct, frozen=True):
    """The daemon is up; of the journal's connections only `conns` still live."""

    at: Moment
    boot_id: str
    conns: frozenset[int] = frozenset()
    #: Of each resource whose ballast was found again, the bytes that are held.
    held: Mapping[str, int] = {}
    #: And the leases that still have what was kept for them.
    kept: Mapping[str, frozenset[int]] = {}


Event: TypeAlias = (
    Asked
    | BookAsked
    | ExtendAsked
    | SeatAsked
    | SeatsSeen
    | Released
    | ShrinkAsked
    | Gone
    | BallastDropped
    | BallastTaken
    | BallastBack
    | FetchAsked
    | StepAsked
    | Pressed
    | Measured
    | Ticked
    | CapacityAsked
    | DrainAsked
    | Configured
    | Started
)
