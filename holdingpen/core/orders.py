"""Orders: what the administrators and the configuration say about the machine."""

from __future__ import annotations

from holdingpen.amounts import AMOUNT_MAX
from holdingpen.core import admission
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core import facts as fact
from holdingpen.core.desk import Desk
from holdingpen.core.ending import Ending
from holdingpen.core.facts import LOGIND, MACHINE, Moment, Who
from holdingpen.core.leases import WAITING, Why
from holdingpen.core.resources import Ledger
from holdingpen.core.rights import is_operator


class Orders:
    """Judges orders over the books."""

    def __init__(self, desk: Desk, ending: Ending) -> None:
        self._desk = desk
        self._ending = ending
        #: Who is logged in at the machine, in front or in the background.
        self._logged_in: frozenset[int] = frozenset()

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
        by_uid, seats = event.who.uid, self._desk.books.seats
        if not event.on:
            granted = [x for x in sorted(seats) if x[0] == event.uid and x[1] != LOGIND]
            for uid, until in granted:
                self._desk.record(fact.Seated(uid, False, by_uid, until))
            self._end_logged_out(event.at)
        elif (event.uid, event.session) not in seats:
            seat = fact.Seated(event.uid, True, by_uid, event.session)
            self._desk.record(seat)
        self._desk.effects.append(do.TellDone(event.conn, event.number))

    def seats_seen(self, event: ev.SeatsSeen) -> None:
        """Logins changed, or the daemon started and looked for the first time."""
        seats = self._desk.books.seats
        gone = seats & event.over
        gone |= {x for x in seats if x[1] == LOGIND and x[0] not in event.uids}
        for uid, until in sorted(gone):
            self._desk.record(fact.Seated(uid, False, 0, until))
        for uid in sorted(event.uids):
            if (uid, LOGIND) not in seats:
                self._desk.record(fact.Seated(uid, True, 0, LOGIND))
        self._logged_in = event.logged_in
        self._end_logged_out(event.at)

    def _end_logged_out(self, at: Moment) -> None:
        """End what was asked for at the machine by who has left it.

        Who has only switched to another user is still logged in; reservations are
        meant to be there when nobody is.
        """
        books = self._desk.books
        if not self._desk.rules.seat_ends:
            return
        there = self._logged_in | books.seated
        for lease in list(books.leases.values()):
            ask = lease.ask
            if not ask.seated or lease.reservation or ask.who.uid in there:
                continue
            if lease.state == WAITING:
                self._ending.end(at, lease, Why.LOGGED_OUT)
                message = "you asked at the machine, and have logged out there."
                self._desk.refuse(ask.conn, ask.number, ("not-now", message))
            else:
                self._ending.end_and_tell(at, lease, Why.LOGGED_OUT)

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
