"""One lease: its states, and how it moves between them.

    state      meaning                              booked in the ledger
    booked     a reservation that begins at a date  nothing (planned around)
    waiting    stands in the line                   nothing (only set aside)
    promised   chosen; ballast is being made ready  leased
    live       the client holds it                  leased
    ended      over; kept for its story             nothing (settling for a while)

    fact, state   (none)     booked     waiting    promised   live
    Booked        booked
    Due                      waiting
    Joined        waiting
    Promised      promised              promised
    Granted       live                  live       live
    Reserved      live                  live
    Shrunk                                                    live
    Extended                 booked                           live
    Ended                    ended      ended      ended      ended

A lease that needs no ballast goes straight to live; one that need not wait was never
waiting: then Promised, Granted or Reserved carries the Ask.  A connection lease ends
with its connection, by release, or by order; a reservation, once booked or live, at
its date, by release, or by order.  There is no other way out and no way back.

A live reservation is a lease of its amounts, and these are an *allotment*: a ledger of
their own for each, `ram@17`, of which leases *inside* the reservation are granted by
the same law as from the machine's.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from msgspec import Struct, field, structs

from holdingpen.core.facts import MACHINE, Ask, Moment
from holdingpen.core.resources import MACHINE_UNITS

BOOKED: Final = "booked"
WAITING: Final = "waiting"
PROMISED: Final = "promised"
LIVE: Final = "live"
ENDED: Final = "ended"


class Why:
    """The stable words for why a lease ended."""

    #: The connection was closed: the program ended.
    GONE: Final = "gone"
    #: Its own connection gave it back.
    RELEASED: Final = "released"
    #: Its owner or an operator ended it from elsewhere.
    ORDERED: Final = "ordered"
    #: It stood in the line longer than it wanted.
    OVERDUE: Final = "wait-over"
    #: A capacity was lowered below what it wanted in the line.
    MISFIT: Final = "never-fits"
    #: The daemon started anew and its connection had not survived.
    RESTARTED: Final = "daemon-restarted"
    #: What it was to get could not be made ready.
    FAILED: Final = "not-ready"
    #: A reservation's date came.
    EXPIRED: Final = "expired"
    #: A reservation could not begin before its date was over.
    MISSED: Final = "never-began"
    #: The reservation it drew on is over.
    OUTLIVED: Final = "reservation-over"
    #: It was asked back, and not given back in time.
    RECLAIMED: Final = "reclaimed"
    #: Nothing drew on the reservation for too long.
    IDLE: Final = "idle"
    #: Who had asked for it at the machine has logged out there.
    LOGGED_OUT: Final = "logged-out"


class Given(Struct, frozen=True, gc=False):
    """A part that was given back while the rest went on."""

    at: Moment
    #: Resource to bytes or units.
    amounts: dict[str, int]


class Lease(Struct, gc=False):
    """One lease or lease-to-be.  Only `Pen.apply` changes it."""

    id: int
    ask: Ask
    #: Resource to units booked: its `amounts` and its part of `machine`.
    needs: dict[str, int]
    state: str
    asked: Moment
    granted: Moment | None = None
    ended: Moment | None = None
    #: Resource to ballast bytes drawn.
    drawn: dict[str, int] = field(default_factory=dict)
    #: Resource to the method by which it is handed over; unnamed: freed.
    how: dict[str, str] = field(default_factory=dict)
    #: Resource to why it is not handed over as well as it might be.
    fallen: dict[str, str] = field(default_factory=dict)
    #: Resource to the directory it may write in.
    places: dict[str, str] = field(default_factory=dict)
    #: Resources that are still being made ready; empty unless promised.
    dropping: list[str] = field(default_factory=list)
    #: The first few leases that held what it lacked when it joined the line.
    waited_for: list[int] = field(default_factory=list)
    #: One of `Why`, once ended.
    why: str = ""
    by_uid: int | None = None
    #: Resource to units held now: the asked amounts, less what was given back.
    amounts: dict[str, int] = field(default_factory=dict)
    #: Connection and number of the last request that gave a part back or extended it.
    changed_by: tuple[int, int] = (0, 0)
    #: The parts given back, oldest first.
    given: list[Given] = field(default_factory=list)
    #: Of a reservation: when it was to begin (None: as soon as it can) and when it
    #: ends, and the first of those it was made with.
    starts_wall_s: float | None = None
    until_wall_s: float | None = None
    series: int = 0
    #: Of a reservation: live leases inside, and since when there are none.
    drawing: int = 0
    unused: Moment | None = None
    #: Since when it is asked back, and for which lease.
    asked_back: Moment | None = None
    needed_by: int = 0

    @property
    def known_end_s(self) -> float | None:
        """boot_s when it will end as far as is known; None: unknown, or a date."""
        if self.granted is None or self.ask.length_s is None or self.reservation:
            return None
        return self.granted.boot_s + self.ask.length_s

    @property
    def reservation(self) -> bool:
        """Whether it needs no connection once it has its place."""
        return self.ask.lasts_s is not None

    @property
    def begins_wall_s(self) -> float | None:
        """Of a reservation, seconds since 1970: its date, or when it became live.

        None: it waits to begin as soon as it can.
        """
        if not self.reservation or self.starts_wall_s is not None:
            return self.starts_wall_s
        return self.granted.wall_s if self.granted is not None else None

    def by_its_date(self, at: Moment) -> Moment:
        """A moment at which it was over, as if somebody had been there at its date."""
        if self.until_wall_s is None or at.wall_s <= self.until_wall_s:
            return at
        return structs.replace(at, wall_s=self.until_wall_s)

    @property
    def stays(self) -> bool:
        """Whether it goes on without its connection: it has its place, or a date."""
        if not self.reservation:
            return False
        return self.state != WAITING or self.starts_wall_s is not None

    def key(self, resource: str) -> str:
        """The ledger from which it has `resource`."""
        inside = self.ask.inside
        key = allotment(resource, inside) if inside else resource
        return key if key in self.needs else resource

    @property
    def exclusive(self) -> bool:
        """Whether it wants the whole machine for itself."""
        return MACHINE in self.ask.amounts


class Connection(Struct, gc=False):
    """What is known of one connection that asked for something."""

    #: The highest request number answered; a lower one is a repetition.
    last: int = 0
    #: Request number to lease, while it waits, is promised or lives.
    leases: dict[int, int] = field(default_factory=dict)


def allotment(resource: str, reservation: int) -> str:
    """The name of the ledger of what a reservation has of `resource`."""
    return f"{resource}@{reservation}"


def needs_of(ask: Ask, ledgers: Container[str] = ()) -> dict[str, int]:
    """What an ask books: its amounts, and one unit of the machine or all of it.

    Inside a reservation it books the allotment, of what there is one among `ledgers`.
    """
    needs = dict(ask.amounts)
    needs[MACHINE] = MACHINE_UNITS if MACHINE in needs else 1
    if not ask.inside:
        return needs
    keys = {name: allotment(name, ask.inside) for name in needs}
    return {
        keys[name] if keys[name] in ledgers else name: need
        for name, need in needs.items()
    }
