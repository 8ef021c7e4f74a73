"""The laws of the line and the calendar, checked anew at every fact of a pen.

`Watched` is a pen's books that look at each start before it is booked, and judge it by
the law's own words: by walks over everybody, with none of the cuts and short ways by
which `core` decides.  `balance` and `whole` are for after an event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf

from holdingpen.core import checks
from holdingpen.core import facts as fact
from holdingpen.core.books import Books
from holdingpen.core.facts import Ask, Fact, Moment
from holdingpen.core.leases import LIVE, PROMISED, WAITING, Lease, needs_of
from holdingpen.core.rights import Rules
from holdingpen.errors import HoldingPenError

#: Rounding of sums of times, in seconds.
EPSILON_S = 1e-3
#: Facts after which reservations may overlap, and after which all is recounted.
PLANNED = (fact.Booked, fact.Reserved, fact.Extended)
STRUCTURAL = (
    *PLANNED,
    fact.Due,
    fact.AskedBack,
    fact.AgeingSet,
    fact.DrainSet,
    fact.CapacitySet,
    fact.ResourceSet,
    fact.Shrunk,
)


class Unlawful(HoldingPenError):
    """The pen did what the law forbids."""


class Watched(Books):
    """Books that demand the law of each fact before it is applied."""

    def __init__(self, rules: Rules, priority_max: int) -> None:
        super().__init__()
        self.rules = rules
        self.priority_max = priority_max
        #: How somebody started: in order, from what was left (8a), by his end (8b).
        self.ways = {"in order": 0, "left over (8a)": 0, "known end (8b)": 0}
        #: Starts of bookings that were made so late that ageing would forbid it.
        self.overtaken = 0

    def apply(self, what: Fact) -> None:
        """Judge a start, then book it."""
        match what:
            case fact.Promised() | fact.Reserved():
                self._judge(what.lease, what.ask, what.at)
            case fact.Granted():
                lease = self.leases.get(what.lease)
                if lease is None or lease.state != PROMISED:
                    self._judge(what.lease, what.ask, what.at)
            case _:
                pass
        super().apply(what)
        if isinstance(what, PLANNED):
            at = getattr(what, "at", None)
            self._demand_no_overlap(at)

    def _judge(self, number: int, newcomer: Ask | None, at: Moment) -> None:
        if newcomer is None:
            lease = self.leases[number]
            key = self.line.waiters[number].key
            if self.line.waiters[number].until_s:
                raise Unlawful(f"{lease} is deferred, and starts")
        else:
            needs = needs_of(newcomer, self.ledgers)
            lease = Lease(number, newcomer, needs, WAITING, at, amounts={})
            key = (self.rank_of(lease), number)
        if self.drain is not None:
            raise Unlawful(f"{lease} starts while the pen is drained")
        self.ways[self._way(lease, key, at)] += 1
        self._demand_ageing(lease, key)
        self._demand_free_ahead(lease, at)

    # Model.md 8.

    def _way(self, lease: Lease, key: tuple[float, int], at: Moment) -> str:
        room = {name: ledger.room for name, ledger in self.ledgers.items()}
        ahead = [n for rank, n in self.line.order if (rank, n) < key]
        left = dict(room)
        for number in ahead:
            for name, need in self.leases[number].needs.items():
                left[name] -= min(left[name], need)
        if all(need <= left[name] for name, need in lease.needs.items()):
            return "left over (8a)" if ahead else "in order"
        if any(need > room[name] for name, need in lease.needs.items()):
            raise Unlawful(f"{lease} starts, and there is no room for it in {room}")
        for number in self._delayed(lease, ahead, at):
            raise Unlawful(f"{lease} passed {self.leases[number]}, and may delay it")
        return "known end (8b)"

    def _delayed(self, lease: Lease, ahead: list[int], at: Moment) -> Iterator[int]:
        """Those ahead it takes something from, and who might start before it ends."""
        length_s = lease.ask.length_s
        over_s = inf if length_s is None else at.boot_s + length_s
        sure = self._sure_until(over_s, at)
        used = dict.fromkeys(lease.needs, 0)
        for number in ahead:
            needs = self.leases[number].needs
            waits = self.line.waiters[number].until_s >= over_s or any(
                sure.get(name, 0) + need > self.ledgers[name].capacity
                for name, need in needs.items()
            )
            for name in used.keys() & needs.keys():
                used[name] += needs[name]
                short = used[name] + lease.needs[name] > self.ledgers[name].room
                # what was there and set aside before the candidate, not his all alone
                if short and not waits:
                    yield number
            if waits:
                for name, need in needs.items():
                    sure[name] = sure.get(name, 0) + need

    def _sure_until(self, time_s: float, at: Moment) -> dict[str, int]:
        sure: dict[str, int] = {}
        for lease in self.held.values():
            end_s = lease.known_end_s
            if lease.until_wall_s is not None:
                end_s = lease.until_wall_s - at.wall_s + at.boot_s
            if end_s is not None and end_s >= time_s:
                for name, need in lease.needs.items():
                    sure[name] = sure.get(name, 0) + need
        return sure

    def _demand_ageing(self, lease: Lease, key: tuple[float, int]) -> None:
        """Who came more than P times A seconds later never stands before."""
        if not self.ageing_s:
            return
        # with `_way`, which lets nobody behind take anything, that bounds the waiting
        bound_s = self.priority_max * self.ageing_s
        for other_key, waiter in ((x.key, n) for n, x in self.line.waiters.items()):
            other = self.leases[waiter]
            if other.starts_wall_s is not None or waiter == lease.id:
                continue
            if lease.asked.boot_s - other.asked.boot_s > bound_s and key < other_key:
                if lease.starts_wall_s is None and not lease.ask.inside:
                    raise Unlawful(f"{lease} came too late to stand before {other}")
                self.overtaken += 1

    # The calendar.

    def _demand_free_ahead(self, lease: Lease, at: Moment) -> None:
        """Nobody starts who would still hold what a reservation ahead needs."""
        ask = lease.ask
        if ask.reclaimable or ask.inside or lease.starts_wall_s is not None:
            return
        length_s = self.rules.assume_s if ask.length_s is None else ask.length_s
        until_s = at.wall_s + length_s - EPSILON_S
        early_s = self.rules.ready_before_s
        spans = [*self._spans(at, early_s)]
        for begin_s in sorted({span[0] for span in spans}):
            if not at.wall_s <= begin_s < until_s:
                continue
            sums = _sums(x for x in spans if x[0] <= begin_s < x[1])
            for name, need in lease.needs.items():
                capacity = self.resources[name].capacity
                if name in sums and sums[name] + need > capacity:
                    raise Unlawful(f"{lease} starts into what begins at {begin_s}")

    def _demand_no_overlap(self, at: Moment | None) -> None:
        spans = [*self._spans(at, 0.0)]
        for begin_s in {span[0] for span in spans}:
            for name, need in _sums(x for x in spans if x[0] <= begin_s < x[1]).items():
                if need > self.resources[name].configured:
                    raise Unlawful(f"{need} {name} are reserved at {begin_s}")

    def _spans(
        self, at: Moment | None, early_s: float
    ) -> Iterator[tuple[float, float, Mapping[str, int]]]:
        now_s = -inf if at is None else at.wall_s
        for _, number in self.calendar:
            lease = self.leases[number]
            assert lease.starts_wall_s is not None
            assert lease.until_wall_s is not None
            begin_s = max(lease.starts_wall_s - early_s, now_s)
            yield begin_s, lease.until_wall_s, lease.needs
        for lease in self.reservations.values():
            assert lease.until_wall_s is not None
            yield now_s, lease.until_wall_s, lease.needs


def _sums(spans: Iterator[tuple[float, float, Mapping[str, int]]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for _, _, needs in spans:
        for name, need in needs.items():
            sums[name] = sums.get(name, 0) + need
    return sums


def balance(books: Books) -> None:
    """Demand that every ledger balances, and that nobody waits who could start."""
    for ledger in books.ledgers.values():
        least = min(ledger.held, ledger.taking, ledger.leased, ledger.settling)
        total = ledger.held + ledger.taking + ledger.leased + ledger.settling
        total += ledger.foreign + ledger.free
        if min(least, ledger.foreign) < 0 or total != ledger.capacity + ledger.over:
            raise Unlawful(f"out of balance: {ledger}")
    if books.line.ready and books.drain is None:
        raise Unlawful(f"could start, and wait: {list(books.line.ready)}")


def whole(books: Books, facts: list[Fact], count: int, every: int) -> bool:
    """Recount all if something structural happened, or each `every` events."""
    if count % every and not any(isinstance(what, STRUCTURAL) for what in facts):
        return False
    checks.check(books)
    return True


def blockers(books: Books, late: Lease, at: Moment) -> str:
    """Why a reservation has not begun though its date has come."""
    lacking = {
        name: need - books.ledgers[name].room
        for name, need in late.needs.items()
        if need > books.ledgers[name].room
    }
    if not lacking:
        return BEHIND_ANOTHER
    name, short = max(lacking.items(), key=lambda pair: pair[1])
    there = [x for x in books.held.values() if name in x.needs and not x.reservation]
    asked = sum(x.needs[name] for x in there if x.needed_by)
    if asked >= short:
        return "those who were asked have not given back"
    free_to = [x for x in there if not x.needed_by and _may_be_asked(x, at)]
    if asked + sum(x.needs[name] for x in free_to) >= short:
        return NOT_ASKED
    since_s = late.asked.boot_s
    planned = [x for x in there if not _may_be_asked(x, at)]
    planned = [x for x in planned if x.granted and x.granted.boot_s > since_s]
    reserved = sum(x.needs.get(name, 0) for x in books.reservations.values())
    ledger = books.resources[name]
    sums = late.needs[name] + reserved + sum(x.needs[name] for x in planned)
    if sums > ledger.capacity:
        return STARTED_INTO
    if sums + ledger.foreign + ledger.settling > ledger.capacity:
        return "others use what was planned with"
    return "it was held already when that was booked"


BEHIND_ANOTHER = "another that is due stands before it"
NOT_ASKED = "some could give back, and were not asked"
STARTED_INTO = "leases started that hold it longer"
#: Reasons that the pen could have done something about.
NEED_NOT = (BEHIND_ANOTHER, NOT_ASKED, STARTED_INTO)


def _may_be_asked(lease: Lease, at: Moment) -> bool:
    if lease.state != LIVE:
        return False
    return lease.ask.reclaimable or (lease.known_end_s or 0.0) <= at.boot_s
