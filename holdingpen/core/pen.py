"""The pen: judges what happened, and has it booked.

    handle(event) -> (facts, effects)

The order of things is always: book what happened, serve the line, take ballast for
the rest.  The caller writes the facts down and only then performs the effects.

Beside the books the pen keeps its *cadence*: when to measure, whom it told what.
That is no state: replay does not find it again, and nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final, assert_never

from msgspec import structs

from holdingpen.amounts import AMOUNT_MAX, format_amount
from holdingpen.core import admission, decisions, handover
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core import facts as fact
from holdingpen.core.books import Books
from holdingpen.core.facts import MACHINE, Ask, Fact, Moment
from holdingpen.core.handover import EXACT
from holdingpen.core.leases import (
    LIVE,
    PROMISED,
    WAITING,
    Connection,
    Lease,
    Why,
    needs_of,
)
from holdingpen.core.measuring import Measuring
from holdingpen.core.resources import SETTLE_LIMIT_S, Ledger
from holdingpen.core.rights import Rules, is_operator, may_end
from holdingpen.core.standings import holders, known_ends
from holdingpen.core.telling import Teller

#: After the machine refused to give ballast, leave it alone so long.
RETAKE_AFTER_S: Final = 2.0
#: After programs waited for memory, leave it alone so long.
REST_AFTER_PRESSURE_S: Final = 30.0


class Pen:
    """Judges events over the books."""

    def __init__(self, books: Books | None = None, rules: Rules | None = None) -> None:
        #: What the administrator decided; replaced on reload.
        self.rules = rules or Rules()

        self.books = books if books is not None else Books()

        # The cadence: no state.

        self._measuring = Measuring()
        self._teller = Teller(self.books)

        self._facts: list[Fact] = []
        self._effects: list[do.Effect] = []
        #: The ledgers that may have ballast: few, so not all are looked at each time.
        self._ballasted = self._find_ballasted()

    # Judging.

    def handle(self, event: ev.Event) -> tuple[list[Fact], list[do.Effect]]:
        """Judge one event and change the books accordingly.

        Returns:
            The facts, already applied and to be written down before anything
            else, and the effects to be performed after that.
        """
        self._facts, self._effects = [], []
        newcomer = 0
        match event:
            case ev.Asked():
                newcomer = self._asked(event.at, event.ask)
            case ev.Released():
                self._released(event)
            case ev.ShrinkAsked():
                self._shrink_asked(event)
            case ev.Gone():
                self._gone(event)
            case ev.BallastDropped():
                self._ballast_dropped(event)
            case ev.BallastTaken():
                self._ballast_taken(event)
            case ev.BallastBack():
                self._record(
                    fact.Recovered(
                        event.lease, event.resource, event.amount, event.part
                    )
                )
            case ev.FetchAsked():
                self._fetch_asked(event)
            case ev.StepAsked():
                self._step_asked(event)
            case ev.Pressed():
                self._pressed(event)
            case ev.Measured():
                self._measured(event)
            case ev.Ticked():
                self._ticked(event.at)
            case ev.CapacityAsked():
                self._capacity_asked(event)
            case ev.DrainAsked():
                self._drain_asked(event)
            case ev.Configured():
                self._configured(event)
            case ev.Started():
                self._started(event)
            case _:
                assert_never(event)
        at = event.at
        waiters = self.books.line.waiters
        if waiters:
            self._serve(at)
        if newcomer in waiters:
            self._settle_in(newcomer, at)
        for ledger in self._ballasted:
            if ledger.hold or ledger.held:
                self._balance(ledger, at)
        if waiters and self._facts:
            self._teller.something_moved(at)
        return self._facts, self._effects

    def _record(self, what: Fact) -> None:
        self.books.apply(what)
        self._facts.append(what)

    def _asked(self, at: Moment, ask: Ask) -> int:
        """Start it, refuse it, or let it join the line: then its id, else 0."""
        conn = self.books.connections.get(ask.conn)
        if conn is not None and ask.number <= conn.last:
            self._asked_again(at, conn, ask)
            return 0
        books = self.books
        ask = admission.completed(ask, self.rules, books.resources)
        problem = decisions.misfit(ask.amounts, books.resources)
        problem = problem or handover.unfit(ask, self.rules.handover)
        problem = problem or admission.too_many(ask, books.users, self.rules)
        if problem is not None:
            self._refuse(ask.conn, ask.number, problem)
            return 0
        needs = needs_of(ask)
        lease = books.last_lease + 1
        if books.drain is None and books.line.lets_pass(ask.priority, needs):
            self._start(at, lease, ask, needs, stood=False)
            return 0
        if ask.wait_s == 0 and not admission.soon(ask.priority, needs, books):
            self._effects.append(admission.not_now(ask, needs, books))
            return 0
        waits_for = holders(books, admission.lacking(ask.priority, needs, books), {})
        self._record(fact.Joined(lease, at, ask, waits_for))
        return lease

    def _settle_in(self, lease: int, at: Moment) -> None:
        """Somebody new waits: look at what may be back already, and tell him."""
        for name in self.books.line.waiters[lease].needs:
            if self.books.resources[name].settling:
                self._measure(name, at, fresh=False)
        self._effects += self._teller.tell(lease, at)

    def _asked_again(self, at: Moment, conn: Connection, ask: Ask) -> None:
        """A request sent again: answer how it stands, change nothing."""
        lease = self.books.leases.get(conn.leases.get(ask.number, 0))
        if lease is None:
            message = (
                f"request {ask.number} of this connection was answered and is over; "
                "number requests 1, 2, 3, ..."
            )
            self._refuse(ask.conn, ask.number, ("stale-request", message))
        elif lease.state == WAITING:
            self._teller.forget(lease.id)
            self._effects += self._teller.tell(lease.id, at)
        elif lease.state == LIVE:
            self._tell_granted(lease)
        else:
            # That may take its time, and silence would be taken for a loss again.
            why = "what was held back is being made ready"
            self._effects.append(
                do.TellWaiting(ask.conn, ask.number, lease.id, 1, why, [], None)
            )

    def _start(
        self, at: Moment, lease: int, ask: Ask, needs: Mapping[str, int], stood: bool
    ) -> None:
        """Promise or grant, drawing on ballast first (model.md 4)."""
        written = None if stood else ask
        drawn = decisions.draw(needs, self.books.resources)
        how = handover.choose(ask, drawn, self.rules.handover)
        if drawn:
            self._record(fact.Promised(lease, drawn, at, written, how))
            for name, amount in drawn.items():
                self._effects.append(
                    do.Prepare(name, amount, lease, how[name], needs[name], ask.who)
                    if name in how
                    else do.DropBallast(name, amount, lease)
                )
        else:
            self._record(fact.Granted(lease, at, written))
            self._tell_granted(self.books.leases[lease])

    def _released(self, event: ev.Released) -> None:
        lease = self.books.leases.get(event.lease)
        if lease is None:
            past = self.books.ended.get(event.lease)
            if past is not None and past.ask.conn == event.conn:
                done = do.TellReleased(event.conn, event.number, event.lease)
                self._effects.append(done)
                return
            self._refuse(event.conn, event.number, _no_such_lease(event.lease))
            return
        if lease.ask.conn == event.conn:
            self._end(event.at, lease, Why.RELEASED)
        elif may_end(event.who, lease.ask.who.uid, self.rules):
            self._end(event.at, lease, Why.ORDERED, event.who.uid)
            self._effects.append(do.TellEnded(lease.ask.conn, lease.id, Why.ORDERED))
        else:
            message = (
                f"lease {lease.id} belongs to user {lease.ask.who.uid}; only its "
                "owner and the administrators may end it."
            )
            self._refuse(event.conn, event.number, ("not-permitted", message))
            return
        self._effects.append(do.TellReleased(event.conn, event.number, lease.id))

    def _shrink_asked(self, event: ev.ShrinkAsked) -> None:
        lease = self.books.leases.get(event.lease)
        if lease is None:
            self._refuse(event.conn, event.number, _no_such_lease(event.lease))
            return
        amounts = {
            admission.meant(n, lease.amounts): x for n, x in event.amounts.items()
        }
        event = structs.replace(event, amounts=amounts)
        if event.conn != lease.ask.conn and event.who.uid != lease.ask.who.uid:
            message = (
                f"lease {lease.id} belongs to user {lease.ask.who.uid}; only its owner "
                "may give a part of it back."
            )
            self._refuse(event.conn, event.number, ("not-permitted", message))
            return
        if not self._is_repeated(event, lease):
            problem = admission.not_to_shrink(lease, event.amounts)
            if problem is not None:
                self._refuse(event.conn, event.number, problem)
                return
            self._shrink(event, lease)
        told = do.TellShrunk(event.conn, event.number, lease.id, lease.amounts)
        self._effects.append(told)

    def _refuse(self, conn: int, number: int, problem: tuple[str, str]) -> None:
        self._effects.append(do.TellRefused(conn, number, *problem))

    def _is_repeated(self, event: ev.ShrinkAsked, lease: Lease) -> bool:
        conn, number = lease.shrunk_by
        return conn == event.conn and event.number <= number

    def _shrink(self, event: ev.ShrinkAsked, lease: Lease) -> None:
        resources = self.books.resources
        left = {n: x - event.amounts.get(n, 0) for n, x in lease.amounts.items()}
        undrawn = decisions.undraw(lease.drawn, left, resources)
        for name in undrawn.keys() & lease.how.keys():
            self._effects.append(do.TakeBack(name, lease.id, undrawn[name]))
        self._record(
            fact.Shrunk(
                lease.id, event.at, event.conn, event.number, event.amounts, undrawn
            )
        )
        for name in event.amounts:
            self._measure_soon(name, event.at)
        if lease.ask.conn != event.conn:
            told = do.TellShrunk(lease.ask.conn, 0, lease.id, lease.amounts)
            self._effects.append(told)

    def _gone(self, event: ev.Gone) -> None:
        conn = self.books.connections.get(event.conn)
        if conn is None:
            return
        for lease in list(conn.leases.values()):
            self._end(event.at, self.books.leases[lease], Why.GONE)
        if event.conn in self.books.connections:
            self._record(fact.Left(event.conn))

    def _end(
        self, at: Moment, lease: Lease, why: str, by_uid: int | None = None
    ) -> None:
        was = lease.state
        self._record(fact.Ended(lease.id, at, why, by_uid))
        self._teller.forget(lease.id)
        if was == WAITING:
            return
        for name in lease.how:
            self._effects.append(do.TakeBack(name, lease.id))
        for name in lease.needs:
            self._measure_soon(name, at)

    def _measure(self, name: str, at: Moment, fresh: bool = True) -> None:
        self._effects.append(self._measuring.now(name, at.boot_s, fresh))

    def _measure_soon(self, name: str, at: Moment) -> None:
        """Something of it was given back."""
        if self.books.resources[name].measured:
            self._measuring.soon(name, at.boot_s)
            if name in self.books.line.lanes:
                # Mostly it is back before its connection was seen to close.
                self._measure(name, at, fresh=False)

    # Serving.

    def _serve(self, at: Moment) -> None:
        if self._facts:
            # Time alone lets nobody start: who may not pass now may not pass later.
            self._serve_line(at)
        patience = self.books.patience
        while patience and patience[0][0] <= at.boot_s:
            self._end_overdue(at, self.books.leases[patience[0][1]])
            # What was set aside for one may be all that the next one lacked.
            self._serve_line(at)

    def _serve_line(self, at: Moment) -> None:
        if self.books.drain is None:
            self._serve_ready(at)
            if self.rules.backfill and self.books.line.timed:
                self._backfill(at)

    def _serve_ready(self, at: Moment) -> None:
        ready = self.books.line.ready
        while ready:
            lease = self.books.leases[ready[0][1]]
            self._start(at, lease.id, lease.ask, lease.needs, stood=True)

    def _backfill(self, at: Moment) -> None:
        """Let those pass who end before anybody they take from could start."""
        books = self.books
        ends: list[tuple[float, Mapping[str, int]]] | None = None
        for _, number in list(books.line.timed.islice(0, decisions.CANDIDATES_MAX)):
            lease = books.leases[number]
            if any(n > books.resources[name].room for name, n in lease.needs.items()):
                continue
            ends = known_ends(books) if ends is None else ends
            if decisions.may_pass(lease, at.boot_s, books.line, books.resources, ends):
                self._start(at, lease.id, lease.ask, lease.needs, stood=True)
                ends = None

    def _end_overdue(self, at: Moment, lease: Lease) -> None:
        refused = admission.not_now(lease.ask, lease.needs, self.books)
        self._end(at, lease, Why.OVERDUE)
        self._effects.append(refused)

    # Ballast and measuring.

    def _balance(self, ledger: Ledger, at: Moment) -> None:
        amount = decisions.surplus(ledger)
        if amount:
            self._record(fact.Shed(ledger.name, amount))
            self._effects.append(do.DropBallast(ledger.name, amount, 0))
        amount = decisions.retake(ledger, at.boot_s)
        if amount:
            self._record(fact.Taking(ledger.name, amount))
            self._effects.append(do.TakeBallast(ledger.name, amount))

    def _ballast_dropped(self, event: ev.BallastDropped) -> None:
        lease = self.books.leases.get(event.lease)
        if lease is None or event.resource not in lease.dropping:
            return
        if event.problem:
            self._end(event.at, lease, Why.FAILED)
            problem = ("not-now", event.problem)
            self._refuse(lease.ask.conn, lease.ask.number, problem)
            return
        if len(lease.dropping) > 1 or event.place or event.how:
            self._record(
                fact.Dropped(
                    lease.id, event.resource, event.place, event.how, event.why
                )
            )
        if lease.dropping in ([], [event.resource]):
            self._record(fact.Granted(lease.id, event.at))
            self._tell_granted(lease)

    def _fetch_asked(self, event: ev.FetchAsked) -> None:
        lease = self.books.leases.get(event.lease)
        if lease is not None:
            name = admission.meant(event.resource, lease.amounts)
            event = structs.replace(event, resource=name)
        problem = admission.not_to_fetch(lease, event)
        if problem is not None:
            self._refuse(event.conn, event.number, problem)
            return
        assert lease is not None
        amount = lease.amounts[event.resource]
        exact = handover.assurance(lease, self.rules.handover).promise == EXACT
        self._effects.append(
            do.Lend(
                event.conn,
                event.number,
                lease.id,
                event.resource,
                amount,
                lease.ask.who.uid,
                event.first,
                exact,
            )
        )

    def _step_asked(self, event: ev.StepAsked) -> None:
        lease = self.books.leases.get(event.lease)
        problem = admission.not_to_step(lease, event)
        if problem is not None:
            self._refuse(event.conn, event.number, problem)
            return
        conn, number = event.conn, event.number
        what = (event.lease, event.resource, event.amount)
        self._effects.append(do.GiveStep(conn, number, *what))

    def _pressed(self, event: ev.Pressed) -> None:
        """Programs wait for memory: give ballast up, and let the machine rest."""
        if event.resource not in self.rules.yields:
            return
        ledger = self.books.resources[event.resource]
        amount = decisions.yielded(ledger)
        until = event.at.boot_s + REST_AFTER_PRESSURE_S
        # it may be said many times a second
        if until - ledger.not_before_s > 1.0:
            self._record(fact.Taken(ledger.name, 0, 0, until))
        if amount:
            self._record(fact.Shed(ledger.name, amount))
            self._effects.append(do.DropBallast(ledger.name, amount, 0))
            words = f"{format_amount(ledger.name, amount)} {ledger.name}"
            self._effects.append(
                do.Note(
                    f"programs wait for memory: gave {words} of the ballast up, "
                    f"{format_amount(ledger.name, ledger.held)} are left."
                )
            )

    def _ballast_taken(self, event: ev.BallastTaken) -> None:
        short = event.amount < event.asked
        until = event.at.boot_s + RETAKE_AFTER_S if short else 0.0
        self._record(fact.Taken(event.resource, event.asked, event.amount, until))

    def _measured(self, event: ev.Measured) -> None:
        ledger = self.books.resources[event.resource]
        if not ledger.measured:
            return
        found = decisions.seen(ledger, event, self.books.leases)
        if (found.settling, found.foreign) != (ledger.settling, ledger.foreign):
            settled = ledger.settling - found.settling
            lost = min(settled, found.foreign - ledger.foreign)
            if event.fresh and event.at.boot_s >= ledger.settle_by_s and lost > 0:
                self._effects.append(
                    do.Note(
                        f"{format_amount(ledger.name, lost)} "
                        f"{ledger.name} did not come back within "
                        f"{SETTLE_LIMIT_S:.0f} s of their lease's end; "
                        "counted as foreign use."
                    )
                )
            self._record(found)
        self._measuring.done(ledger.name, event.at.boot_s, ledger.settling)

    def _ticked(self, at: Moment) -> None:
        for name in self._measuring.due(at.boot_s):
            self._measure(name, at)
        if at.boot_s >= self._teller.due_s:
            self._effects += self._teller.tell_all(at)

    @property
    def wake_at_s(self) -> float:
        """boot_s when the pen wants a `Ticked`; infinity: never."""
        soonest = min(self._teller.due_s, self._measuring.next_s)
        if self.books.patience:
            soonest = min(soonest, self.books.patience[0][0])
        for ledger in self._ballasted:
            if ledger.not_before_s and decisions.retake(ledger, inf):
                soonest = min(soonest, ledger.not_before_s)
        return soonest

    # Orders.

    def _capacity_asked(self, event: ev.CapacityAsked) -> None:
        problem = self._may_order(event.who, "set a capacity")
        ledger = self.books.resources.get(event.resource)
        if problem is None and (ledger is None or event.resource == MACHINE):
            known = ", ".join(sorted(set(self.books.resources) - {MACHINE}))
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
            self._refuse(event.conn, event.number, problem)
            return
        self._record(fact.CapacitySet(event.resource, event.capacity, event.who.uid))
        self._effects.append(do.TellDone(event.conn, event.number))
        self._refuse_misfits(event.at)

    def _drain_asked(self, event: ev.DrainAsked) -> None:
        problem = self._may_order(event.who, "drain the pen")
        if problem is not None:
            self._refuse(event.conn, event.number, problem)
            return
        self._record(fact.DrainSet(event.reason, event.who.uid))
        self._effects.append(do.TellDone(event.conn, event.number))

    def _may_order(self, who: fact.Who, what: str) -> tuple[str, str] | None:
        if is_operator(who, self.rules):
            return None
        return "not-permitted", (
            f"only the administrators may {what}; you are user {who.uid}."
        )

    def _configured(self, event: ev.Configured) -> None:
        named = {resource.name for resource in event.resources}
        for ledger in list(self.books.resources.values()):
            if ledger.name != MACHINE and ledger.name not in named:
                self._remove(ledger)
        for new in event.resources:
            hold = new.hold // new.unit * new.unit
            what = fact.ResourceSet(
                new.name, new.capacity, hold, new.unit, new.measured
            )
            if what != self._resource_set(new.name):
                self._record(what)
            if new.measured:
                self._measure(new.name, event.at)
            else:
                self._measure_no_more(self.books.resources[new.name])
        self._ballasted = self._find_ballasted()
        self._refuse_misfits(event.at)

    def _find_ballasted(self) -> list[Ledger]:
        ledgers = self.books.resources.values()
        return [x for x in ledgers if x.unit > 1 or x.hold or x.held]

    def _refuse_misfits(self, at: Moment) -> None:
        """A capacity was lowered: who can never start must not stand in the way."""
        for number in list(self.books.line.waiters):
            lease = self.books.leases[number]
            problem = decisions.misfit(lease.ask.amounts, self.books.resources)
            if problem is not None:
                self._end(at, lease, Why.MISFIT)
                self._refuse(lease.ask.conn, lease.ask.number, problem)

    def _remove(self, ledger: Ledger) -> None:
        """A resource is configured no longer: lend nothing more of it."""
        gone = fact.ResourceSet(ledger.name, 0)
        if gone != self._resource_set(ledger.name):
            self._record(gone)
        if ledger.override is not None:
            self._record(fact.CapacitySet(ledger.name, None, 0))
        self._measure_no_more(ledger)

    def _measure_no_more(self, ledger: Ledger) -> None:
        self._measuring.never(ledger.name)
        if ledger.settling or ledger.foreign:
            # No measurement will ever say that it is free.
            self._record(fact.Seen(ledger.name, 0, 0))

    def _resource_set(self, name: str) -> fact.ResourceSet | None:
        ledger = self.books.resources.get(name)
        if ledger is None:
            return None
        return fact.ResourceSet(
            name, ledger.configured, ledger.hold, ledger.unit, ledger.measured
        )

    def _started(self, event: ev.Started) -> None:
        self._record(fact.Opened(event.at, event.boot_id))
        # The last daemon's ballast went with it, and what settled has settled.
        for ledger in self.books.resources.values():
            if ledger.taking or ledger.not_before_s:
                self._record(fact.Taken(ledger.name, ledger.taking, 0))
            if ledger.held:
                self._record(fact.Shed(ledger.name, ledger.held))
            if ledger.settling:
                self._record(fact.Seen(ledger.name, 0, ledger.foreign))
        for lease_id, owed in list(self.books.coming.items()):
            for name in list(owed):
                self._record(fact.Recovered(lease_id, name, 0))
        for lease in list(self.books.leases.values()):
            if lease.ask.conn not in event.conns:
                self._end(event.at, lease, Why.RESTARTED)
            elif lease.state == PROMISED:
                self._record(fact.Granted(lease.id, event.at))
                self._tell_granted(lease)
        for conn in self.books.connections.keys() - event.conns:
            self._record(fact.Left(conn))

    # Telling.

    def _tell_granted(self, lease: Lease) -> None:
        self._teller.forget(lease.id)
        ask = lease.ask
        sure = handover.assurance(lease, self.rules.handover)
        self._effects.append(
            do.TellGranted(
                ask.conn,
                ask.number,
                lease.id,
                lease.amounts,
                sure.promise,
                sure.bound,
                sure.why,
                lease.places,
            )
        )


def _no_such_lease(lease: int) -> tuple[str, str]:
    return "no-such-lease", (
        f"there is no lease {lease} now. `holdingpenctl list` shows those there are."
    )
