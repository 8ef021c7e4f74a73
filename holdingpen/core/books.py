"""The books: all state, and the one place where it changes.

`apply(fact)` is the only mutator.  Live running and replay both go through it, so
replay equals live; nothing in it judges, and nothing in it reads a clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, assert_never

from sortedcontainers import SortedList

from holdingpen.core import facts as fact
from holdingpen.core.facts import MACHINE, Ask, Fact, Moment
from holdingpen.core.handover import FREE
from holdingpen.core.leases import (
    BOOKED,
    ENDED,
    LIVE,
    PROMISED,
    WAITING,
    Connection,
    Given,
    Lease,
    Why,
    allotment,
    needs_of,
)
from holdingpen.core.line import FIRST, Line
from holdingpen.core.resources import MACHINE_UNITS, SETTLE_LIMIT_S, Ledger
from holdingpen.errors import BrokenInvariant

#: How many ended leases are kept for `holdingpenctl why`.
ENDED_MAX: Final = 256
#: How many times a lease is remembered to have given something back; more are counted
#: with the last of these.
GIVEN_MAX: Final = 16


class Books:
    """Who holds what, who waits for what, and what is held back."""

    def __init__(self) -> None:
        #: Resource to ledger; `machine` is always there.
        self.resources = {MACHINE: Ledger(MACHINE, MACHINE_UNITS)}
        #: Those, and the allotments of live reservations.
        self.ledgers = dict(self.resources)
        #: How often one of these came or went.
        self.reshaped = 0
        #: Booked, waiting, promised and live leases by id.
        self.leases: dict[int, Lease] = {}
        #: Those of them that are promised or live, in the order of their start.
        self.held: dict[int, Lease] = {}
        #: The last ENDED_MAX that ended, oldest first.
        self.ended: OrderedDict[int, Lease] = OrderedDict()
        #: Connections that asked for something.
        self.connections: dict[int, Connection] = {}
        self.line = Line(lambda name: self.ledgers[name].room)
        #: Seconds in the line that count as one priority; 0: they count nothing.
        self.ageing_s = 0.0
        #: Ids up to these were given out (model.md 14).
        self.last_lease = 0
        self.last_conn = 0
        #: Why nothing new starts; None: it does.
        self.drain: str | None = None
        self.boot_id = ""
        #: Users who sit at the machine: those of `seats`.
        self.seated: set[int] = set()
        #: Each with what it ends with, see `Seated`; a user may have several.
        self.seats: set[tuple[int, str]] = set()
        #: (starts_wall_s, lease): booked reservations, and those that are due.
        self.calendar: SortedList = SortedList()
        #: (until_wall_s, lease): reservations whose end is a date, soonest first.
        self.expiries: SortedList = SortedList()
        #: Those by id, and so whether there are any: asked at each event, and a
        #: SortedList is slow to say how long it is.
        self.dated: dict[int, Lease] = {}
        #: Live reservations by id, in the order of their start.
        self.reservations: dict[int, Lease] = {}
        #: (until_s, lease): those who may not start before.
        self.deferred: SortedList = SortedList()
        #: (priority, -boot_s of the grant, lease): live leases that may be asked back
        #: and are not, whom to ask first first.
        self.reclaimable: SortedList = SortedList()
        #: Leases that are asked back.
        self.asked: dict[int, Lease] = {}
        #: Lease that is over to resource to the ballast it drew, where that was kept
        #: for it and is still to come back; it counts as drawn until then.
        self.coming: dict[int, dict[str, int]] = {}
        #: User to [leases held, places in the line]; no user with neither.
        self.users: dict[int, list[int]] = {}
        #: (boot_s, lease): known ends of live leases, soonest first.
        self.known_ends: SortedList = SortedList()
        #: (boot_s, lease): when waiters have waited long enough, soonest first.
        self.patience: SortedList = SortedList()

    def apply(self, what: Fact) -> None:
        """Make one fact true in the books.

        Raises:
            BrokenInvariant: when it cannot have become true in this state.
        """
        match what:
            case fact.Granted():
                self._apply_granted(what)
            case fact.Ended():
                self._apply_ended(what)
            case fact.Joined():
                self._apply_joined(what)
            case fact.Promised():
                self._apply_promised(what)
            case fact.Dropped():
                self._apply_dropped(what)
            case fact.Shrunk():
                self._apply_shrunk(what)
            case fact.Recovered():
                self._apply_recovered(what)
            case fact.Owed():
                self.coming.setdefault(what.lease, {})[what.resource] = what.amount
                self.ledgers[what.resource].drawn += what.amount
            case fact.Reserved():
                self._apply_reserved(what)
            case fact.Booked():
                self._apply_booked(what)
            case fact.Due():
                self._apply_due(what)
            case fact.Extended():
                lease = self.leases[what.lease]
                self._set_expiry(lease, what.until_wall_s)
                lease.changed_by = (what.conn, what.number)
            case fact.Lost():
                lease = self.leases.get(what.lease) or self.ended[what.lease]
                lease.how = {**lease.how, what.resource: FREE}
                lease.fallen[what.resource] = what.why
            case fact.Deferred():
                self._apply_deferred(what)
            case fact.Unused():
                known = self.leases.get(what.lease) or self.ended[what.lease]
                known.unused = what.since
            case fact.AskedBack():
                self._apply_asked_back(what)
            case fact.AgeingSet():
                self._apply_ageing_set(what)
            case fact.Seated():
                seat = (what.uid, what.until)
                (self.seats.add if what.on else self.seats.discard)(seat)
                self.seated = {uid for uid, _ in self.seats}
            case fact.Heard():
                conn = self.connections.setdefault(what.conn, Connection())
                conn.last = what.last
            case fact.Left():
                self.connections.pop(what.conn, None)
            case fact.Opened():
                self.boot_id = what.boot_id
            case fact.Counted():
                self.last_lease, self.last_conn = what.lease, what.conn
            case fact.DrainSet():
                self.drain = what.reason
            case _:
                self._apply_to_ledger(what)

    def _apply_to_ledger(
        self,
        what: fact.ResourceSet
        | fact.CapacitySet
        | fact.Taking
        | fact.Taken
        | fact.Shed
        | fact.Seen,
    ) -> None:
        ledger = self.ledgers.get(what.resource)
        if ledger is None:
            ledger = self.resources[what.resource] = Ledger(what.resource, 0)
            self.ledgers[what.resource] = ledger
        match what:
            case fact.ResourceSet():
                ledger.configured = what.capacity
                ledger.hold = what.hold
                ledger.unit = what.unit
                ledger.measured = what.measured
                for number in self.reservations:
                    part = self.ledgers.get(allotment(ledger.name, number))
                    if part is not None:
                        part.measured = what.measured
            case fact.CapacitySet():
                ledger.override = what.capacity
            case fact.Taking():
                ledger.taking += what.amount
            case fact.Taken():
                ledger.taking -= what.asked
                ledger.held += what.amount
                ledger.not_before_s = what.not_before_s
            case fact.Shed():
                ledger.held -= what.amount
            case fact.Seen():
                ledger.settling = what.settling
                ledger.foreign = what.foreign
                ledger.settle_by_s = what.settle_by_s or ledger.settle_by_s
            case _:
                assert_never(what)
        self.line.settle(what.resource)

    def _apply_joined(self, what: fact.Joined) -> None:
        lease = self._enter(what.lease, what.ask, what.at, WAITING)
        lease.waited_for = what.waits_for
        self.users[what.ask.who.uid][1] += 1
        if what.ask.wait_s is not None:
            # 0 means: only for what is on its way, which settles or does not
            wait_s = what.ask.wait_s or SETTLE_LIMIT_S
            self.patience.add((what.at.boot_s + wait_s, lease.id))
        self._stand(lease)

    def rank(self, ask: Ask, asked: Moment) -> float:
        """Who has the lower rank stands before the other.

        All age alike, so who stands before whom never changes by it.  Who asks inside
        a reservation of the whole machine stands before all whom that keeps out.
        """
        if ask.inside and self.reservations[ask.inside].exclusive:
            return FIRST
        waited = asked.boot_s / self.ageing_s if self.ageing_s else 0.0
        return waited - ask.priority

    def _stand(self, lease: Lease) -> None:
        """Give it its place in the line."""
        ask = lease.ask
        rank = self.rank_of(lease)
        self.line.add(lease.id, rank, lease.needs, ask.length_s is not None)

    def rank_of(self, lease: Lease) -> float:
        """The rank of one that stands in the line."""
        if lease.starts_wall_s is not None:
            return FIRST + lease.starts_wall_s
        return self.rank(lease.ask, lease.asked)

    def _apply_promised(self, what: fact.Promised) -> None:
        lease = self._book(what.lease, what.ask, what.at, PROMISED, what.drawn)
        lease.drawn, lease.how = what.drawn, what.how
        lease.dropping = list(what.drawn)

    def _apply_granted(self, what: fact.Granted) -> None:
        lease = self.leases.get(what.lease)
        if lease is not None and lease.state == PROMISED:
            lease.state = LIVE
            lease.dropping.clear()
        else:
            lease = self._book(what.lease, what.ask, what.at, LIVE, {})
        lease.granted = what.at
        if lease.ask.length_s is not None:
            self.known_ends.add((what.at.boot_s + lease.ask.length_s, lease.id))
        if lease.ask.reclaimable:
            self.reclaimable.add(_whom_first(lease))

    def _apply_dropped(self, what: fact.Dropped) -> None:
        lease = self.leases.get(what.lease)
        if lease is None or what.resource not in lease.dropping:
            raise BrokenInvariant(
                f"{what.resource} ballast was dropped for lease {what.lease}, "
                "which does not wait for it"
            )
        lease.dropping.remove(what.resource)
        if what.place:
            lease.places[what.resource] = what.place
        if what.how:
            lease.how = {**lease.how, what.resource: what.how}
            lease.fallen[what.resource] = what.why

    def _apply_recovered(self, what: fact.Recovered) -> None:
        key = self._home(what.lease, what.resource)
        ledger = self.ledgers[key]
        coming = self.coming.get(what.lease)
        if coming is not None and not what.part:
            ledger.drawn -= coming.pop(key, 0)
            if not coming:
                del self.coming[what.lease]
        settled = min(what.amount, ledger.settling)
        ledger.settling -= settled
        ledger.foreign -= min(what.amount - settled, ledger.foreign)
        ledger.held += what.amount
        self.line.settle(key)

    def _home(self, number: int, resource: str) -> str:
        """The ledger to which what was kept for a lease comes back."""
        for key in self.coming.get(number, ()):
            if key.partition("@")[0] == resource:
                return key
        lease = self.leases.get(number) or self.ended.get(number)
        key = resource if lease is None else lease.key(resource)
        # the reservation may be over, too
        return key if key in self.ledgers else resource

    def _apply_shrunk(self, what: fact.Shrunk) -> None:
        lease = self.leases.get(what.lease)
        if lease is None or lease.state != LIVE:
            raise BrokenInvariant(f"lease {what.lease} shrank, but is not held")
        # The dicts may be the ask's own, or a message's.
        lease.amounts, lease.needs = dict(lease.amounts), dict(lease.needs)
        lease.drawn = dict(lease.drawn)
        lease.changed_by = (what.conn, what.number)
        amounts = dict(what.amounts)
        at = what.at
        if len(lease.given) == GIVEN_MAX:
            last = lease.given.pop()
            at = last.at
            for name, amount in last.amounts.items():
                amounts[name] = amounts.get(name, 0) + amount
        lease.given.append(Given(at, amounts))
        for name, amount in what.amounts.items():
            key = lease.key(name)
            lease.amounts[name] -= amount
            lease.needs[key] -= amount
            ledger = self.ledgers[key]
            ledger.leased -= amount
            undrawn = what.undrawn.get(name, 0)
            if undrawn:
                lease.drawn[name] -= undrawn
                ledger.drawn -= undrawn
            if ledger.measured:
                ledger.settling += amount
                ledger.settle_by_s = what.at.boot_s + SETTLE_LIMIT_S
            if key in self.line.lanes:
                self.line.settle(key)

    def _apply_booked(self, what: fact.Booked) -> None:
        lease = self._enter(what.lease, what.ask, what.at, BOOKED)
        lease.starts_wall_s, lease.series = what.starts_wall_s, what.series
        self.users[what.ask.who.uid][1] += 1
        if what.series in (0, lease.id):
            # the first of those that were made together stands for all
            self.connections[what.ask.conn].leases[what.ask.number] = lease.id
        self.calendar.add((what.starts_wall_s, lease.id))
        self._set_expiry(lease, what.until_wall_s)

    def _apply_due(self, what: fact.Due) -> None:
        lease = self.leases.get(what.lease)
        if lease is None or lease.state != BOOKED:
            raise BrokenInvariant(f"lease {what.lease} is due, but not booked: {lease}")
        lease.state = WAITING
        self._stand(lease)

    def _set_expiry(self, lease: Lease, until_wall_s: float) -> None:
        if lease.until_wall_s is not None:
            self.expiries.remove((lease.until_wall_s, lease.id))
        lease.until_wall_s = until_wall_s
        self.expiries.add((until_wall_s, lease.id))
        self.dated[lease.id] = lease

    def _apply_reserved(self, what: fact.Reserved) -> None:
        lease = self._book(what.lease, what.ask, what.at, LIVE, what.drawn)
        lease.drawn, lease.granted = what.drawn, what.at
        lease.unused = what.at
        if lease.ask.reclaimable:
            self.reclaimable.add(_whom_first(lease))
        if lease.starts_wall_s is not None:
            self.calendar.remove((lease.starts_wall_s, lease.id))
        self._set_expiry(lease, what.until_wall_s)
        self.reservations[lease.id] = lease
        self.reshaped += 1
        for name, need in {**lease.needs, MACHINE: MACHINE_UNITS}.items():
            whole = self.resources[name]
            key = allotment(name, lease.id)
            ledger = self.ledgers[key] = Ledger(key, need)
            ledger.unit, ledger.measured = whole.unit, whole.measured
            ledger.held = what.drawn.get(name, 0)
            # what can be held back is held back, all of it
            if whole.measured or whole.hold:
                ledger.hold = need // whole.unit * whole.unit

    def _dissolve(self, lease: Lease) -> None:
        """A reservation is over: what it had goes back to where it was from."""
        del self.reservations[lease.id]
        self.reshaped += 1
        for name in lease.needs:
            part = self.ledgers.pop(allotment(name, lease.id))
            if part.leased:
                raise BrokenInvariant(f"reservation {lease.id} is over, and not {part}")
            whole = self.ledgers[name]
            whole.drawn += part.drawn - lease.drawn.get(name, 0)
            whole.held += part.held
            whole.taking += part.taking
            whole.settling += part.settling
            whole.settle_by_s = max(whole.settle_by_s, part.settle_by_s)
            whole.not_before_s = max(whole.not_before_s, part.not_before_s)
            for owed in self.coming.values():
                if part.name in owed:
                    owed[name] = owed.pop(part.name)

    def _apply_deferred(self, what: fact.Deferred) -> None:
        waiter = self.line.waiters.get(what.lease)
        if waiter is None:
            raise BrokenInvariant(f"lease {what.lease} is deferred, but waits not")
        if waiter.until_s:
            self.deferred.remove((waiter.until_s, what.lease))
        self.line.defer(what.lease, what.until_s)
        if what.until_s:
            self.deferred.add((what.until_s, what.lease))

    def _apply_asked_back(self, what: fact.AskedBack) -> None:
        lease = self.leases.get(what.lease)
        if lease is None or lease.state != LIVE:
            raise BrokenInvariant(f"lease {what.lease} is asked back, but not held")
        lease.needed_by = what.needed_by
        if what.needed_by:
            lease.asked_back = what.at
            self.asked[lease.id] = lease
            self.reclaimable.discard(_whom_first(lease))
        else:
            lease.asked_back = None
            del self.asked[lease.id]
            if lease.ask.reclaimable:
                self.reclaimable.add(_whom_first(lease))

    def _apply_ageing_set(self, what: fact.AgeingSet) -> None:
        self.ageing_s = what.ageing_s
        waiters = [self.leases[number] for number in self.line.waiters]
        for lease in waiters:
            until_s = self.line.waiters[lease.id].until_s
            self.line.remove(lease.id)
            self._stand(lease)
            self.line.defer(lease.id, until_s)

    def _enter(self, number: int, ask: Ask, at: Moment, state: str) -> Lease:
        """A request appears in the books."""
        if number <= self.last_lease:
            raise BrokenInvariant(f"lease {number} after {self.last_lease}")
        self.last_lease = number
        needs = needs_of(ask, self.ledgers)
        lease = Lease(number, ask, needs, state, at, amounts=ask.amounts)
        self.leases[number] = lease
        conn = self.connections.get(ask.conn)
        if conn is None:
            conn = self.connections[ask.conn] = Connection()
            if ask.conn > self.last_conn:
                self.last_conn = ask.conn
        if state != BOOKED:
            conn.leases[ask.number] = number
        if ask.number > conn.last:
            conn.last = ask.number
        if ask.who.uid not in self.users:
            self.users[ask.who.uid] = [0, 0]
        return lease

    def _book(
        self,
        number: int,
        ask: Ask | None,
        at: Moment,
        state: str,
        drawn: Mapping[str, int],
    ) -> Lease:
        """A request, from the line or (with `ask`) straight away, becomes a lease."""
        if ask is not None:
            lease = self._enter(number, ask, at, state)
        else:
            waiter = self.leases.get(number)
            if waiter is None or waiter.state != WAITING:
                raise BrokenInvariant(f"lease {number} starts, but waits not: {waiter}")
            lease = waiter
            lease.state = state
        self.held[number] = lease
        for key, need in lease.needs.items():
            ledger = self.ledgers[key]
            ledger.leased += need
            if drawn and (name := ledger.resource) in drawn:
                ledger.held -= drawn[name]
                ledger.drawn += drawn[name]
        if ask is None:
            self._leave_line(lease)
        elif self.line.lanes:
            for name in lease.needs:
                self.line.settle(name)
        self.users[lease.ask.who.uid][0] += 1
        if lease.ask.inside:
            self.reservations[lease.ask.inside].drawing += 1
        return lease

    def _leave_line(self, lease: Lease) -> None:
        until_s = self.line.waiters[lease.id].until_s
        if until_s:
            self.deferred.remove((until_s, lease.id))
        self.line.remove(lease.id)
        self.users[lease.ask.who.uid][1] -= 1
        # who booked a date did not say how long he would stand here
        if lease.ask.wait_s is not None and lease.starts_wall_s is None:
            wait_s = lease.ask.wait_s or SETTLE_LIMIT_S
            self.patience.remove((lease.asked.boot_s + wait_s, lease.id))

    def _apply_ended(self, what: fact.Ended) -> None:
        lease = self.leases.pop(what.lease, None)
        if lease is None:
            raise BrokenInvariant(f"lease {what.lease} ended, but there is none")
        if lease.state == WAITING:
            self._leave_line(lease)
        elif lease.state == BOOKED:
            self.users[lease.ask.who.uid][1] -= 1
        else:
            self._unbook(lease, what.at)
        if lease.until_wall_s is not None:
            self.expiries.remove((lease.until_wall_s, lease.id))
            del self.dated[lease.id]
        if lease.starts_wall_s is not None:
            self.calendar.discard((lease.starts_wall_s, lease.id))
        ask = lease.ask
        held, waiting = self.users[ask.who.uid]
        if not held and not waiting:
            del self.users[ask.who.uid]
        conn = self.connections.get(ask.conn)
        if conn is not None:
            if conn.leases.get(ask.number) == lease.id:
                del conn.leases[ask.number]
            if not conn.leases and what.why in (Why.GONE, Why.RESTARTED):
                del self.connections[ask.conn]
        lease.state = ENDED
        lease.ended, lease.why, lease.by_uid = what.at, what.why, what.by_uid
        lease.dropping.clear()
        self.ended[lease.id] = lease
        if len(self.ended) > ENDED_MAX:
            self.ended.popitem(last=False)

    def _unbook(self, lease: Lease, at: Moment) -> None:
        end_s = lease.known_end_s
        if end_s is not None:
            self.known_ends.remove((end_s, lease.id))
        del self.held[lease.id]
        self.users[lease.ask.who.uid][0] -= 1
        asked = self.asked.pop(lease.id, None)
        if lease.ask.reclaimable and lease.granted is not None and asked is None:
            self.reclaimable.remove(_whom_first(lease))
        if lease.ask.inside:
            reservation = self.reservations[lease.ask.inside]
            reservation.drawing -= 1
            reservation.unused = at
        if lease.reservation:
            self._dissolve(lease)
        lanes = self.line.lanes
        for key, need in lease.needs.items():
            ledger = self.ledgers[key]
            ledger.leased -= need
            if not lease.reservation:
                if lease.drawn and (name := ledger.resource) in lease.drawn:
                    if name in lease.how:
                        coming = self.coming.setdefault(lease.id, {})
                        coming[key] = lease.drawn[name]
                    else:
                        ledger.drawn -= lease.drawn[name]
                if ledger.measured:
                    ledger.settling += need
                    ledger.settle_by_s = at.boot_s + SETTLE_LIMIT_S
            if key in lanes:
                self.line.settle(key)


def _whom_first(lease: Lease) -> tuple[int, float, int]:
    """Who is asked back first: of low priority, and of those the youngest."""
    assert lease.granted is not None
    return lease.ask.priority, -lease.granted.boot_s, -lease.id
