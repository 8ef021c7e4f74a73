"""Orders: what the administrators and the configuration say about the machine."""

from __future__ import annotations

from holdingpen.amounts import AMOUNT_MAX
from holdingpen.core import admission
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core import facts as fact
from holdingpen.core.desk import Desk
from holdingpen.core.ending import Ending
from holdingpen.core.facts import MACHINE, Moment, Who
from holdingpen.core.leases import Why
from holdingpen.core.resources import Ledger
from holdingpen.core.rights import is_operator


class Orders:
    """Judges orders over the books."""

    def __init__(self, desk: Desk, ending: Ending) -> None:
        self._desk = desk
        self._ending = ending

    def capacity_asked(self, event: ev.CapacityAsked) -> None:
        """Set a capacity, or take that back."""
        desk = self._desk
        resources = desk.books.resources
        problem = self._forbidden(event.who, event.groups, "set a capacity")
        ledger = resources.get(event.resource)
        if problem is None and (ledger is None or event.resource == MACHINE):
            known = ", ".join(sorted(set(resources) - {MACHINE}))
            problem = (
                "unknown-resource",
                (
                    f"there is no resource {event.resource!r} to set; "
                    f"there are: {known}."
                ),
            )
        if problem is None and not 0 <= (event.capacity or 0) <= AMOUNT_MAX:
            problem = "bad-amount", f"a capacity of {event.capacity} makes no sense."
        if problem is not None:
            desk.refuse(event.conn, event.number, problem)
            return
        uid = event.who.uid
        desk.record(fact.CapacitySet(event.resource, event.capacity, uid))
        desk.effects.append(do.TellDone(event.conn, event.number))
        self._refuse_misfits(event.at)

    def drain_asked(self, event: ev.DrainAsked) -> None:
        """Start nothing new, or do again."""
        problem = self._forbidden(event.who, event.groups, "drain the pen")
        if problem is not None:
            self._desk.refuse(event.conn, event.number, problem)
            return
        self._desk.record(fact.DrainSet(event.reason, event.who.uid))
        self._desk.effects.append(do.TellDone(event.conn, event.number))

    def seat_asked(self, event: ev.SeatAsked) -> None:
        """Somebody sits at the machine, or does no more."""
        problem = self._forbidden(event.who, event.groups, "say who sits here")
        if problem is not None:
            self._desk.refuse(event.conn, event.number, problem)
            return
        if event.on != (event.uid in self._desk.books.seated):
            self._desk.record(fact.Seated(event.uid, event.on, event.who.uid))
        self._desk.effects.append(do.TellDone(event.conn, event.number))

    def _forbidden(
        self, who: Who, groups: frozenset[int], what: str
    ) -> tuple[str, str] | None:
        if is_operator(who, self._desk.rules, groups):
            return None
        return "not-permitted", (
            f"only the administrators may {what}; you are user {who.uid}."
        )

    def configured(self, event: ev.Configured) -> None:
        """The configuration was read."""
        desk = self._desk
        books = desk.books
        named = {resource.name for resource in event.resources}
        for ledger in list(books.resources.values()):
            if ledger.name != MACHINE and ledger.name not in named:
                self._remove(ledger)
        for new in event.resources:
            hold = new.hold // new.unit * new.unit
            what = fact.ResourceSet(
                new.name, new.capacity, hold, new.unit, new.measured
            )
            if what != self._resource_set(new.name):
                desk.record(what)
            if new.measured:
                self._ending.measure(new.name, event.at)
            else:
                self._measure_no_more(books.resources[new.name])
        ageing_s = desk.rules.ageing_s or 0.0
        if ageing_s != books.ageing_s:
            desk.record(fact.AgeingSet(ageing_s))
        self._refuse_misfits(event.at)

    def _refuse_misfits(self, at: Moment) -> None:
        """A capacity was lowered: who can never start must not stand in the way."""
        books = self._desk.books
        for number in list(books.line.waiters):
            lease = books.leases[number]
            problem = admission.misfit(lease.ask, books)
            if problem is None:
                continue
            if lease.starts_wall_s is None:
                self._ending.end(at, lease, Why.MISFIT)
                self._desk.refuse(lease.ask.conn, lease.ask.number, problem)
                continue
            # its request was answered when it was booked
            self._ending.end_and_tell(at, lease, Why.MISFIT)
            note = f"reservation {number} was about to begin and is over: {problem[1]}"
            self._desk.effects.append(do.Note(note))

    def _remove(self, ledger: Ledger) -> None:
        """A resource is configured no longer: lend nothing more of it."""
        gone = fact.ResourceSet(ledger.name, 0)
        if gone != self._resource_set(ledger.name):
            self._desk.record(gone)
        if ledger.override is not None:
            self._desk.record(fact.CapacitySet(ledger.name, None, 0))
        self._measure_no_more(ledger)

    def _measure_no_more(self, ledger: Ledger) -> None:
        self._desk.measuring.never(ledger.name)
        for one in self._desk.books.ledgers.values():
            if one.resource == ledger.name and (one.settling or one.foreign):
                # No measurement will ever say that it is free.
                self._desk.record(fact.Seen(one.name, 0, 0))

    def _resource_set(self, name: str) -> fact.ResourceSet | None:
        ledger = self._desk.books.resources.get(name)
        if ledger is None:
            return None
        return fact.ResourceSet(
            name, ledger.configured, ledger.hold, ledger.unit, ledger.measured
        )
