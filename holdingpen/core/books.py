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
from holdingpen.core.leases import (
    ENDED,
    LIVE,
    PROMISED,
    WAITING,
    Connection,
    Lease,
    Why,
    needs_of,
)
from holdingpen.core.line import Line
from holdingpen.core.resources import MACHINE_UNITS, SETTLE_LIMIT_S, Ledger
from holdingpen.errors import BrokenInvariant

#: How many ended leases are kept for `holdingpenctl why`.
ENDED_MAX: Final = 256


class Books:
    """Who holds what, who waits for what, and what is held back."""

    def __init__(self) -> None:
        #: Resource to ledger; `machine` is always there.
        self.resources = {MACHINE: Ledger(MACHINE, MACHINE_UNITS)}
        #: Waiting, promised and live leases by id.
        self.leases: dict[int, Lease] = {}
        #: Those of them that are promised or live, in the order of their start.
        self.held: dict[int, Lease] = {}
        #: The last ENDED_MAX that ended, oldest first.
        self.ended: OrderedDict[int, Lease] = OrderedDict()
        #: Connections that asked for something.
        self.connections: dict[int, Connection] = {}
        self.line = Line(lambda name: self.resources[name].room)
        #: Ids up to these were given out (model.md 14).
        self.last_lease = 0
        self.last_conn = 0
        #: Why nothing new starts; None: it does.
        self.drain: str | None = None
        self.boot_id = ""
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
                self.resources[what.resource].drawn += what.amount
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
        ledger = self.resources.get(what.resource)
        if ledger is None:
            ledger = self.resources[what.resource] = Ledger(what.resource, 0)
        match what:
            case fact.ResourceSet():
                ledger.configured = what.capacity
                ledger.hold = what.hold
                ledger.unit = what.unit
                ledger.measured = what.measured
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
        timed = what.ask.length_s is not None
        self.line.add(lease.id, what.ask.priority, lease.needs, timed)

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
        ledger = self.resources[what.resource]
        coming = self.coming.get(what.lease)
        if coming is not None and not what.part:
            ledger.drawn -= coming.pop(what.resource, 0)
            if not coming:
                del self.coming[what.lease]
        settled = min(what.amount, ledger.settling)
        ledger.settling -= settled
        ledger.foreign -= min(what.amount - settled, ledger.foreign)
        ledger.held += what.amount
        self.line.settle(what.resource)

    def _apply_shrunk(self, what: fact.Shrunk) -> None:
        lease = self.leases.get(what.lease)
        if lease is None or lease.state != LIVE:
            raise BrokenInvariant(f"lease {what.lease} shrank, but is not held")
        # The dicts may be the ask's own, or a message's.
        lease.amounts, lease.needs = dict(lease.amounts), dict(lease.needs)
        lease.drawn = dict(lease.drawn)
        lease.shrunk_by = (what.conn, what.number)
        for name, amount in what.amounts.items():
            lease.amounts[name] -= amount
            lease.needs[name] -= amount
            ledger = self.resources[name]
            ledger.leased -= amount
            undrawn = what.undrawn.get(name, 0)
            if undrawn:
                lease.drawn[name] -= undrawn
                ledger.drawn -= undrawn
            if ledger.measured:
                ledger.settling += amount
                ledger.settle_by_s = what.at.boot_s + SETTLE_LIMIT_S
            if name in self.line.lanes:
                self.line.settle(name)

    def _enter(self, number: int, ask: Ask, at: Moment, state: str) -> Lease:
        """A request appears in the books."""
        if number <= self.last_lease:
            raise BrokenInvariant(f"lease {number} after {self.last_lease}")
        self.last_lease = number
        lease = Lease(number, ask, needs_of(ask), state, at, amounts=ask.amounts)
        self.leases[number] = lease
        conn = self.connections.get(ask.conn)
        if conn is None:
            conn = self.connections[ask.conn] = Connection()
            if ask.conn > self.last_conn:
                self.last_conn = ask.conn
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
        for name, need in lease.needs.items():
            ledger = self.resources[name]
            ledger.leased += need
            if drawn and name in drawn:
                ledger.held -= drawn[name]
                ledger.drawn += drawn[name]
        if ask is None:
            self._leave_line(lease)
        elif self.line.lanes:
            for name in lease.needs:
                self.line.settle(name)
        self.users[lease.ask.who.uid][0] += 1
        return lease

    def _leave_line(self, lease: Lease) -> None:
        self.line.remove(lease.id)
        self.users[lease.ask.who.uid][1] -= 1
        if lease.ask.wait_s is not None:
            wait_s = lease.ask.wait_s or SETTLE_LIMIT_S
            self.patience.remove((lease.asked.boot_s + wait_s, lease.id))

    def _apply_ended(self, what: fact.Ended) -> None:
        lease = self.leases.pop(what.lease, None)
        if lease is None:
            raise BrokenInvariant(f"lease {what.lease} ended, but there is none")
        if lease.state == WAITING:
            self._leave_line(lease)
        else:
            self._unbook(lease, what.at)
        ask = lease.ask
        held, waiting = self.users[ask.who.uid]
        if not held and not waiting:
            del self.users[ask.who.uid]
        conn = self.connections[ask.conn]
        conn.leases.pop(ask.number, None)
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
        lanes = self.line.lanes
        for name, need in lease.needs.items():
            ledger = self.resources[name]
            ledger.leased -= need
            if lease.drawn and name in lease.drawn:
                if name in lease.how:
                    coming = self.coming.setdefault(lease.id, {})
                    coming[name] = lease.drawn[name]
                else:
                    ledger.drawn -= lease.drawn[name]
            if ledger.measured:
                ledger.settling += need
                ledger.settle_by_s = at.boot_s + SETTLE_LIMIT_S
            if name in lanes:
                self.line.settle(name)
