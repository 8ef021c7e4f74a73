"""The calendar: what is reserved for dates, and when something fits between that.

Nobody may start who would still hold, when a reservation begins, what that needs
(model.md 8).  A request that said its length is taken at its word; one that did not is
taken to last `Rules.assume_s`; one that gives back when asked is not looked at, and
those who hold without an end are asked back when the time comes.

All times are seconds since 1970, because a reservation's are dates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

from msgspec import Struct

from holdingpen.core.books import Books
from holdingpen.core.decisions import ENDS_MAX
from holdingpen.core.facts import Ask, Moment
from holdingpen.core.leases import WAITING, Lease
from holdingpen.core.rights import Rules
from holdingpen.core.standings import Soonest, foretold

#: Blockers named in a refusal.
BLOCKERS_MAX = 3


class Span(Struct, frozen=True, gc=False):
    """What is needed from one time to another."""

    start_s: float
    end_s: float
    #: Resource to bytes or units.
    needs: Mapping[str, int]
    #: The reservation; 0: leases, which cannot be the reason why something waits.
    lease: int = 0


class Fit(Struct, frozen=True, gc=False):
    """Where something fits."""

    start_s: float
    #: The first reservations that are in its way before that.
    blockers: list[int] = []


def first_fit(
    needs: Mapping[str, int],
    from_s: float,
    length_s: float,
    spans: Sequence[Span],
    capacity: Mapping[str, int],
) -> Fit:
    """The first time from `from_s` on when `needs` fit for `length_s`.

    Only where a reservation is in the way something does not fit: what leases hold
    without one is the line's business.

    Args:
        needs: resource to bytes or units.
        from_s: when it is wanted.
        length_s: how long, > 0.
        spans: what is needed by others.
        capacity: resource to what there is.
    """
    start_s = from_s
    blockers: list[int] = []
    mine = [span for span in spans if span.end_s > from_s and span.start_s < span.end_s]
    mine = [span for span in mine if not needs.keys().isdisjoint(span.needs)]
    # a capacity may have been lowered: what can never begin is in nobody's way
    mine = [
        span
        for span in mine
        if not span.lease or span.start_s == -inf or _fits(span, capacity)
    ]
    times = {time_s for span in mine for time_s in (span.start_s, span.end_s)}
    steps = sorted(time_s for time_s in times if time_s > from_s)
    begins = sorted(mine, key=lambda span: span.start_s)
    ends = sorted(mine, key=lambda span: span.end_s)
    used = dict.fromkeys(needs, 0)
    reserved = dict.fromkeys(needs, 0)
    began = ended = 0
    now_s = from_s
    later = iter([*steps, inf])
    while now_s < start_s + length_s:
        next_s = next(later)
        while began < len(begins) and begins[began].start_s <= now_s:
            _count(begins[began], used, reserved, 1)
            began += 1
        while ended < len(ends) and ends[ended].end_s <= now_s:
            _count(ends[ended], used, reserved, -1)
            ended += 1
        short = [
            name
            for name, need in needs.items()
            if reserved[name] and used[name] + need > capacity.get(name, 0)
        ]
        if short:
            blockers = blockers or _between(mine, now_s, next_s, short)
            start_s = next_s
        now_s = next_s
    return Fit(start_s, blockers)


def _fits(span: Span, capacity: Mapping[str, int]) -> bool:
    return all(need <= capacity.get(name, 0) for name, need in span.needs.items())


def _count(
    span: Span, used: dict[str, int], reserved: dict[str, int], sign: int
) -> None:
    for name in used:
        amount = sign * span.needs.get(name, 0)
        used[name] += amount
        if span.lease:
            reserved[name] += amount


def _between(
    spans: Iterable[Span], start_s: float, end_s: float, names: list[str]
) -> list[int]:
    found = [
        span.lease
        for span in spans
        if span.lease
        and span.start_s < end_s
        and span.end_s > start_s
        and not span.needs.keys().isdisjoint(names)
    ]
    return found[:BLOCKERS_MAX]


def capacities(books: Books) -> dict[str, int]:
    """Resource to what can be lent of it in all."""
    return {name: ledger.capacity for name, ledger in books.resources.items()}


def gathers(books: Books, lease: Lease) -> bool:
    """Whether a reservation holds something back, and so begins before its date."""
    ledgers = (books.resources[name] for name in lease.needs)
    return any(ledger.measured or ledger.hold for ledger in ledgers)


def reservations(
    books: Books, from_s: float, until_s: float, early_s: float = 0.0, but: int = 0
) -> list[Span]:
    """What is reserved between two times, by others than the reservation `but`.

    Args:
        books: the books.
        from_s: only what ends later.
        until_s: only what begins before.
        early_s: what is still to begin is taken to begin so much sooner, if it has
            something to gather.
        but: a reservation to be left out.
    """
    spans = []
    for _, lease in books.calendar.irange(None, (until_s + early_s, 0)):
        ahead = books.leases[lease]
        starts_s, ends_s = ahead.starts_wall_s, ahead.until_wall_s
        assert starts_s is not None
        assert ends_s is not None
        if ends_s > from_s and lease != but:
            if early_s and gathers(books, ahead):
                starts_s -= early_s
            spans.append(Span(starts_s, ends_s, ahead.needs, lease))
    for held in books.reservations.values():
        assert held.until_wall_s is not None
        if held.until_wall_s > from_s and held.id != but:
            spans.append(Span(-inf, held.until_wall_s, held.needs, held.id))
    return spans


def _leases(books: Books, at: Moment, assume_s: float) -> list[Span]:
    """What connections hold, until the ends that are known or assumed."""
    soon_s = at.wall_s + assume_s
    spans = []
    for end_s, number in books.known_ends.islice(0, ENDS_MAX):
        until_s = at.wall_of(end_s)
        # who is over his time may stay as long as one who gave none
        until_s = until_s if until_s > at.wall_s else soon_s
        spans.append(Span(-inf, until_s, books.leases[number].needs))
    unknown = {name: ledger.leased for name, ledger in books.resources.items()}
    spans_too = [*spans, *(Span(0, 0, x.needs) for x in books.reservations.values())]
    for span in spans_too:
        for name, need in span.needs.items():
            if name in unknown:
                unknown[name] -= need
    spans.append(Span(-inf, soon_s, unknown))
    return spans


def may_start(
    books: Books, at: Moment, ask: Ask, needs: Mapping[str, int], rules: Rules
) -> Fit:
    """When a request may start at the soonest, as far as reservations go.

    Returns:
        `at.wall_s` when nothing is in the way.
    """
    now_s = at.wall_s
    if ask.reclaimable or not books.calendar:
        return Fit(now_s)
    length_s = rules.expected_s(ask)
    if ask.inside:
        # the allotment is there; what else it takes is the machine's
        needs = {key: need for key, need in needs.items() if key in books.resources}
        until_s = books.reservations[ask.inside].until_wall_s
        assert until_s is not None
        length_s = min(length_s, until_s - now_s)
    soonest_s = books.calendar[0][0] - rules.ready_before_s
    if soonest_s >= now_s + length_s:
        return Fit(now_s)
    spans = reservations(books, now_s, inf, rules.ready_before_s)
    spans += _leases(books, at, rules.assume_s)
    there = capacities(books)
    for name in there:
        there[name] -= books.resources[name].foreign
    return first_fit(needs, now_s, length_s, spans, there)


def planner(books: Books, at: Moment, rules: Rules) -> Soonest | None:
    """What tells when one that waits may start, as far as reservations go.

    Returns:
        None: nothing is reserved ahead.
    """
    if not books.dated or not books.calendar:
        return None
    spans = reservations(books, at.wall_s, inf, rules.ready_before_s)
    there = capacities(books)

    def soonest(lease: Lease, start_s: float) -> float:
        if lease.ask.reclaimable or lease.starts_wall_s is not None:
            return start_s
        length_s = rules.expected_s(lease.ask)
        needs = {key: need for key, need in lease.needs.items() if key in there}
        fit = first_fit(needs, at.wall_of(start_s), length_s, spans, there)
        return max(start_s, at.boot_of(fit.start_s))

    return soonest


def held_by(
    uid: int,
    books: Books,
    at: Moment,
    starts: Iterable[float],
    length_s: float,
    rules: Rules,
) -> dict[str, int]:
    """The most of each resource that a user has at one moment of some spans of time.

    He has what he holds, waits for and has booked; what is inside a reservation counts
    once.

    Args:
        uid: the user.
        books: the books.
        at: now.
        starts: the begins of the spans, in seconds since 1970.
        length_s: how long each is.
        rules: how long those are taken to last who did not say.
    """
    if uid not in books.users:
        return {}
    mine = []
    for lease in books.leases.values():
        if lease.ask.who.uid == uid:
            begin_s = lease.starts_wall_s or at.wall_s
            end_s = lease.until_wall_s
            if end_s is None:
                end_s = begin_s + rules.expected_s(lease.ask)
            own = {n: x for n, x in lease.amounts.items() if lease.key(n) == n}
            mine.append(Span(begin_s if begin_s > at.wall_s else -inf, end_s, own))
    most: dict[str, int] = {}
    for start_s in starts:
        there = [
            x for x in mine if x.start_s < start_s + length_s and x.end_s > start_s
        ]
        for moment_s in {start_s, *(x.start_s for x in there if x.start_s > start_s)}:
            held: dict[str, int] = {}
            for span in there:
                if span.start_s <= moment_s < span.end_s:
                    for name, amount in span.needs.items():
                        held[name] = held.get(name, 0) + amount
            for name, amount in held.items():
                most[name] = max(most.get(name, 0), amount)
    return most


def _promised(books: Books, at: Moment, lease: Lease, rules: Rules) -> list[Span]:
    """What a reservation may not take from others who have none.

    From leases that said when they end, and need not give anything back before; and
    from those who wait and stand before it, as far as their times are known.
    """
    ask = lease.ask
    spans = []
    soonest = planner(books, at, rules)
    for number, start_s in foretold(books, at, soonest).items():
        waits = books.leases[number]
        booked = waits.starts_wall_s is not None
        if booked or waits.id == lease.id or waits.ask.priority < ask.priority:
            continue
        begin_s = at.wall_of(start_s)
        length_s = rules.expected_s(waits.ask)
        spans.append(Span(begin_s, begin_s + length_s, waits.needs, number))
    for end_s, number in books.known_ends.islice(0, ENDS_MAX):
        held = books.leases[number]
        until_s = at.wall_of(end_s)
        if until_s > at.wall_s and not held.ask.reclaimable:
            spans.append(Span(-inf, until_s, held.needs, number))
    return spans


def clash(
    books: Books,
    at: Moment,
    lease: Lease,
    starts: Sequence[float],
    lasts_s: float,
    rules: Rules,
) -> tuple[float, Fit] | None:
    """The first of a reservation's dates for which there is no room.

    Args:
        books: the books.
        at: now.
        lease: the reservation itself, which is not in its own way.
        starts: its begins, soonest first.
        lasts_s: how long each is.
        rules: how long those are taken to last who did not say.

    Returns:
        Its begin, who is in its way, and where it would fit; None: there is room for
        all of them.
    """
    needs, there = lease.needs, capacities(books)
    spans = reservations(books, starts[0], inf, but=lease.id)
    spans += _promised(books, at, lease, rules)
    for starts_s in starts:
        until_s = starts_s + lasts_s
        # mostly it fits, and then what is near is all there is to sort
        near = [x for x in spans if x.start_s < until_s and x.end_s > starts_s]
        if first_fit(needs, starts_s, lasts_s, near, there).start_s != starts_s:
            return starts_s, first_fit(needs, starts_s, lasts_s, spans, there)
    return None


def in_the_way(
    books: Books, blockers: Iterable[int], name_of: Callable[[int], str]
) -> str:
    """One sentence for people: who leaves no room.

    Args:
        books: the books.
        blockers: reservations, and leases that said when they end.
        name_of: what people call a user.
    """
    words = []
    for number in blockers:
        lease = books.leases[number]
        ask = lease.ask
        kind = "reservation" if lease.reservation else "lease"
        if lease.state == WAITING and lease.starts_wall_s is None:
            kind = "place in the line"
        reason = f", {ask.reason}" if ask.reason else ""
        words.append(f"{kind} {number} ({name_of(ask.who.uid)}{reason})")
    leave = "leaves" if len(words) == 1 else "leave"
    return f"{' and '.join(words)} {leave} no room for it then."
