"""How those who wait stand: place, reason, whom they wait for, when it will be.

For people: a terminal, a status page, a log.  Nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final, TypeAlias

from msgspec import Struct

from holdingpen.core import decisions
from holdingpen.core.books import Books
from holdingpen.core.facts import MACHINE, Moment
from holdingpen.core.leases import Lease

#: For so many of the line a start is foretold: the cost grows with each.
TELL_FIRST: Final = 200
#: How many leases a waiter is told it waits for.
WAITS_FOR_MAX: Final = 8
#: A lease that is over its known end by more, in seconds, has no known end.
LATE_S: Final = 1.0
#: Among how many holders, the oldest, those are looked for.
HOLDERS_LOOKED_AT: Final = 1000


#: When a lease that would start at a boot_s may, as far as what is reserved goes.
Soonest: TypeAlias = Callable[[Lease, float], float]


class Standing(Struct, frozen=True, gc=False):
    """How one waiter stands, for his terminal and for status."""

    place: int
    reason: str
    waits_for: list[int]
    #: Seconds since 1970; None: unknown.
    expected_wall_s: float | None


def user(uid: int) -> str:
    """What a user is called where nobody knows better."""
    return f"user {uid}"


def standings(
    books: Books,
    at: Moment,
    leases: list[int],
    name_of: Callable[[int], str] = user,
    forecast: bool = True,
    soonest: Soonest | None = None,
) -> dict[int, Standing]:
    """How these waiters stand.  Costs some ms for a few hundred.

    Args:
        books: the books.
        at: now.
        leases: those who wait.
        name_of: what people call a user.
        forecast: whether to foretell their starts, for the first TELL_FIRST of the
            line.
        soonest: knows what is reserved (calendar.planner).
    """
    machine = alone(books, name_of)
    starts = foretold(books, at, soonest) if forecast and leases else {}
    known: dict[str, list[int]] = {}
    standings = {}
    for lease in leases:
        start_s = starts.get(lease)
        standings[lease] = Standing(
            books.line.place(lease),
            decisions.shortage(books.line, lease, books.ledgers, books.drain, machine),
            holders(books, books.line.lacking(lease), known),
            None if start_s is None else at.wall_of(start_s),
        )
    return standings


def alone(books: Books, name_of: Callable[[int], str]) -> str:
    """Who has the whole machine, and why; empty: nobody has."""
    if books.resources[MACHINE].room:
        return ""
    held = books.held.values()
    [ask] = [x.ask for x in held if x.exclusive and not x.ask.inside]
    reason = f" ({ask.reason})" if ask.reason else ""
    return f"{name_of(ask.who.uid)} has the whole machine{reason}"


def foretold(
    books: Books, at: Moment, soonest: Soonest | None = None
) -> dict[int, float]:
    """When those who wait will start, in boot_s, as far as that is known."""
    if books.drain is not None:
        return {}
    first = (books.leases[lease] for lease in books.line.first(TELL_FIRST))
    room = {name: x.room - x.over for name, x in books.ledgers.items()}
    until_s = {number: time_s for time_s, number in books.deferred}
    ends = known_ends(books, at)
    return decisions.expected_starts(first, room, ends, at.boot_s, until_s, soonest)


def holders(
    books: Books, lacking: Iterable[str], known: dict[str, list[int]]
) -> list[int]:
    """The first few leases that hold what is lacking, longest first.

    Args:
        books: the books.
        lacking: names of resources.
        known: what was found before for each name; grows.
    """
    found: dict[int, None] = {}
    for name in lacking:
        if name not in known:
            some = islice(books.held.values(), HOLDERS_LOOKED_AT)
            having = (lease.id for lease in some if name in lease.needs)
            known[name] = list(islice(having, WAITS_FOR_MAX))
        found.update(dict.fromkeys(known[name]))
    return list(found)[:WAITS_FOR_MAX]


def known_ends(books: Books, at: Moment) -> list[tuple[float, Mapping[str, int]]]:
    """boot_s and needs of the leases that have a known end, soonest first."""
    ends = books.known_ends.islice(0, decisions.ENDS_MAX)
    known: list[tuple[float, Mapping[str, int]]]
    # who is over his time may stay for ever
    known = [
        (end_s, books.leases[lease].needs)
        for end_s, lease in ends
        if end_s > at.boot_s - LATE_S
    ]
    if books.reservations:
        for lease in books.reservations.values():
            assert lease.until_wall_s is not None
            known.append((at.boot_of(lease.until_wall_s), lease.needs))
        known.sort(key=lambda end: end[0])
    return known
