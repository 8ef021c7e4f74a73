"""The pen: judges what happened, and has it booked.

    handle(event) -> (facts, effects)

The order of things is always: book what happened, serve the line, take ballast for
the rest.  The caller writes the facts down and only then performs the effects.

Beside the books the pen keeps its *cadence*: when to measure, whom it told what.
That is no state: replay does not find it again, and nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Final, assert_never

from msgspec import structs

from holdingpen.amounts import format_amount
from holdingpen.core import admission, calendar, decisions, handover
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core import facts as fact
from holdingpen.core.books import Books
from holdingpen.core.desk import Desk, no_such_lease
from holdingpen.core.ending import Ending
from holdingpen.core.facts import Ask, Fact, Moment
from holdingpen.core.handover import EXACT
from holdingpen.core.leases import (
    LIVE,
    WAITING,
    Connection,
    Lease,
    Why,
    allotment,
    needs_of,
)
from holdingpen.core.orders import Orders
from holdingpen.core.reclaiming import Reclaiming
from holdingpen.core.reserving import Reserving
from holdingpen.core.resources import SETTLE_LIMIT_S, Ledger
from holdingpen.core.rights import Rules, allowance, is_operator, may_end, not_allowed
from holdingpen.core.standings import Soonest, alone, holders, known_ends, user
from holdingpen.core.starting import Starting

#: After the machine refused to give ballast, leave it alone so long.
RETAKE_AFTER_S: Final = 2.0
#: After programs waited for memory, leave it alone so long.
REST_AFTER_PRESSURE_S: Final = 30.0

#: What changes for those who were deferred because of what is reserved ahead.
_ROOM: Final = (
    fact.Ended,
    fact.Shrunk,
    fact.CapacitySet,
    fact.ResourceSet,
    fact.Booked,
    fact.Extended,
)


class Pen:
    """Judges events over the books."""

    def __init__(
        self,
        books: Books | None = None,
        rules: Rules | None = None,
        name_of: Callable[[int], str] = user,
    ) -> None:
        """Make a pen.

        Args:
            books: what is so already; None: nothing.
            rules: what the administrator decided.
            name_of: what people call a user, for what they are told.
        """
        self.books = books if books is not None else Books()
        self._desk = Desk(self.books, rules or Rules(), name_of)
        self._record = self._desk.record
        self._refuse = self._desk.refuse
        self._measuring = self._desk.measuring
        self._teller = self._desk.teller
        self._ending = Ending(self._desk)
        self._end = self._ending.end
        self._orders = Orders(self._desk, self._ending)
        self.reserving = Reserving(self._desk, self._ending)
        self.reclaiming = Reclaiming(self._desk, self._ending)
        self._starting = Starting(self._desk, self._ending, self._tell_granted)
        #: Whether who asks now does not want to stand in the line for a moment.
        self._now_or_never = False
        #: The ledgers that may have ballast: few, so not all are looked at each time.
        self._ballasted = self._find_ballasted()
        self._reshaped = self.books.reshaped

    @property
    def rules(self) -> Rules:
        """What the administrator decided; replaced on reload."""
        return self._desk.rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self._desk.rules = rules

    def name_of(self, uid: int) -> str:
        """What people call a user."""
        return self._desk.name_of(uid)

    def plan(self, at: Moment) -> Soonest | None:
        """What knows when one that waits may start beside what is reserved."""
        return self._desk.plan(at)

    def take_ended(self) -> list[Lease]:
        """The leases that ended since this was asked last."""
        ended, self._desk.ended = self._desk.ended, []
        return ended

    @property
    def _effects(self) -> list[do.Effect]:
        return self._desk.effects

    @_effects.setter
    def _effects(self, effects: list[do.Effect]) -> None:
        self._desk.effects = effects

    # Judging.

    def handle(self, event: ev.Event) -> tuple[list[Fact], list[do.Effect]]:
        """Judge one event and change the books accordingly.

        Returns:
            The facts, already applied and to be written down before anything
            else, and the effects to be performed after that.
        """
        desk = self._desk
        facts = desk.facts = []
        desk.effects = []
        at = event.at
        books = self.books
        dated = bool(books.dated)
        if dated:
            self.reserving.begin(at)
        newcomer = 0
        self._now_or_never = False
        match event:
            case ev.Asked():
                newcomer = self._asked(event)
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
            case ev.BookAsked():
                self._book_asked(event)
            case ev.ExtendAsked():
                self.reserving.extend(event)
            case ev.CapacityAsked():
                self._orders.capacity_asked(event)
            case ev.DrainAsked():
                self._orders.drain_asked(event)
            case ev.SeatAsked():
                self._orders.seat_asked(event)
            case ev.SeatsSeen():
                self._orders.seats_seen(event)
            case ev.Configured():
                self._orders.configured(event)
                self._ballasted = self._find_ballasted()
            case ev.Started():
                self._starting.start(event)
            case _:
                assert_never(event)
        if books.dated and not dated:
            # nobody looked at the clocks before the first date was made
            self.reserving.begin(at)
        waiters = books.line.waiters
        if waiters and books.deferred:
            self.reserving.reconsider(at, any(isinstance(x, _ROOM) for x in facts))
        if waiters:
            self._serve(at)
        if newcomer in waiters:
            self._settle_in(newcomer, at)
        if books.asked or waiters:
            self.reclaiming.serve(at)
        if books.reshaped != self._reshaped:
            self._reshaped = books.reshaped
            self._ballasted = self._find_ballasted()
        for ledger in self._ballasted:
            if ledger.hold or ledger.held:
                self._balance(ledger, at)
        if waiters and facts:
            self._teller.something_moved(at)
        return facts, desk.effects

    def _asked(self, event: ev.Asked) -> int:
        """Start it, refuse it, or let it join the line: then its id, else 0."""
        if self._was_answered(event):
            return 0
        at, books = event.at, self.books
        ask = admission.completed(event.ask, event.groups, self.rules, books)
        problem = self._unfit(event, ask)
        if problem is not None:
            self._refuse(ask.conn, ask.number, problem)
            return 0
        needs = needs_of(ask, books.ledgers)
        lease = books.last_lease + 1
        rank = books.rank(ask, at)
        fit = self.reserving.may_start(at, ask, needs) if books.dated else None
        if fit is not None and fit.start_s <= at.wall_s:
            fit = None
        if fit is None and books.drain is None and books.line.lets_pass(rank, needs):
            self._start(at, lease, ask, needs, stood=False)
            return 0
        if ask.wait_s == 0:
            ahead, free_s = "", None
            if fit is not None:
                name_of = self._desk.name_of
                ahead = calendar.in_the_way(books, fit.blockers, name_of)
                free_s = fit.start_s
            # who says how long may pass others, and is looked at once he stands there
            may_pass = self.rules.backfill and ask.length_s is not None
            soon = admission.soon(rank, needs, books)
            if fit is not None or not (may_pass or soon):
                self._effects.append(self._not_now(ask, needs, ahead, free_s))
                return 0
            self._now_or_never = not soon
        waits_for = holders(books, admission.lacking(rank, needs, books), {})
        self._record(fact.Joined(lease, at, ask, waits_for))
        if fit is not None:
            self.reserving.defer(at, lease, fit)
        return lease

    def _unfit(
        self, event: ev.Asked | ev.BookAsked, ask: Ask, more: int = 1
    ) -> tuple[str, str] | None:
        """Why a request can never be granted to this user: a code and a message.

        Args:
            event: what was asked.
            ask: the same, complete.
            more: how many places it asks for.
        """
        books, rules = self.books, self.rules
        who, groups = event.by or ask.who, event.groups
        if event.by is not None and not is_operator(who, rules, event.by_groups):
            return "not-permitted", (
                f"only the administrators may reserve for others; you are user "
                f"{who.uid}."
            )
        problem = admission.misfit(ask, books)
        if problem is None and ask.inside:
            problem = admission.not_inside(ask, groups, books, rules)
        problem = problem or handover.unfit(ask, rules.handover)
        problem = problem or admission.too_many(ask, books.users, rules, more)
        if problem is not None or not rules.allow or event.by is not None:
            return problem
        allow = allowance(who, groups, who.uid in books.seated, rules)
        if ask.inside and allow is None:
            # what is inside a reservation is his already, whatever rules say now
            return None
        judged = structs.replace(ask, amounts={}) if ask.inside else ask
        judged = structs.replace(judged, priority=event.ask.priority)
        held: dict[str, int] = {}
        if allow is not None and allow.most:
            length_s = rules.expected_s(ask)
            now_s = (event.at.wall_s,)
            starts = event.starts if isinstance(event, ev.BookAsked) else now_s
            held = calendar.held_by(who.uid, books, event.at, starts, length_s, rules)
        return not_allowed(judged, allow, held, ask.length_s, ask.lasts_s is not None)

    def _book_asked(self, event: ev.BookAsked) -> None:
        if self._was_answered(event):
            return
        ask = admission.completed(event.ask, event.groups, self.rules, self.books)
        problem = self._unfit(event, ask, len(event.starts))
        if problem is not None:
            self._refuse(ask.conn, ask.number, problem)
        else:
            self.reserving.book(event, ask)

    def _settle_in(self, lease: int, at: Moment) -> None:
        """Somebody new waits: look at what may be back already, and tell him."""
        books = self.books
        if self._now_or_never:
            self._end_overdue(at, books.leases[lease])
            return
        for key in books.line.waiters[lease].needs:
            ledger = books.ledgers[key]
            if ledger.settling:
                self._ending.measure(ledger.resource, at, fresh=False)
        self._effects += self._teller.tell(lease, at)

    def _was_answered(self, event: ev.Asked | ev.BookAsked) -> bool:
        """Whether it was sent again; then it is answered how it stands."""
        conn = self.books.connections.get(event.ask.conn)
        if conn is None or event.ask.number > conn.last:
            return False
        self._answer_again(event.at, conn, event.ask)
        return True

    def _answer_again(self, at: Moment, conn: Connection, ask: Ask) -> None:
        lease = self.books.leases.get(conn.leases.get(ask.number, 0))
        if lease is None:
            message = (
                f"request {ask.number} of this connection was answered and is over; "
                "number requests 1, 2, 3, ..."
            )
            self._refuse(ask.conn, ask.number, ("stale-request", message))
        elif lease.starts_wall_s is not None:
            self.reserving.tell(lease)
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
        if ask.lasts_s is not None:
            self.reserving.start(at, lease, ask, stood)
            return
        written = None if stood else ask
        drawn = decisions.draw(needs, self.books.ledgers)
        how = handover.choose(ask, drawn, self.rules.handover)
        if drawn:
            self._record(fact.Promised(lease, drawn, at, written, how))
            for name, amount in drawn.items():
                self._effects.append(
                    do.Prepare(
                        name, amount, lease, how[name], ask.amounts[name], ask.who
                    )
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
            self._refuse(event.conn, event.number, no_such_lease(event.lease))
            return
        durable = lease.reservation and lease.state != WAITING
        mine = lease.reservation and lease.ask.who.uid == event.who.uid
        if lease.ask.conn == event.conn:
            self._end(event.at, lease, Why.RELEASED)
        elif mine:
            self._ending.end_and_tell(event.at, lease, Why.RELEASED)
        elif may_end(event.who, lease.ask.who.uid, self.rules, event.groups):
            self._ending.end_and_tell(event.at, lease, Why.ORDERED, event.who.uid)
        else:
            message = (
                f"lease {lease.id} belongs to user {lease.ask.who.uid}; only its "
                "owner and the administrators may end it."
            )
            self._refuse(event.conn, event.number, ("not-permitted", message))
            return
        told = do.TellReleased(event.conn, event.number, lease.id, durable)
        self._effects.append(told)

    def _shrink_asked(self, event: ev.ShrinkAsked) -> None:
        lease = self.books.leases.get(event.lease)
        if lease is None:
            self._refuse(event.conn, event.number, no_such_lease(event.lease))
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

    def _is_repeated(self, event: ev.ShrinkAsked, lease: Lease) -> bool:
        conn, number = lease.changed_by
        return conn == event.conn and event.number <= number

    def _shrink(self, event: ev.ShrinkAsked, lease: Lease) -> None:
        left = {n: x - event.amounts.get(n, 0) for n, x in lease.amounts.items()}
        undrawn = decisions.undraw(lease.drawn, left, self.books.resources)
        for name in undrawn.keys() & lease.how.keys():
            self._effects.append(do.TakeBack(name, lease.id, undrawn[name]))
        self._record(
            fact.Shrunk(
                lease.id, event.at, event.conn, event.number, event.amounts, undrawn
            )
        )
        self._ending.measure_soon(map(lease.key, event.amounts), event.at)
        if lease.ask.conn != event.conn:
            told = do.TellShrunk(lease.ask.conn, 0, lease.id, lease.amounts)
            self._effects.append(told)

    def _gone(self, event: ev.Gone) -> None:
        conn = self.books.connections.get(event.conn)
        if conn is None:
            return
        for number in list(conn.leases.values()):
            lease = self.books.leases[number]
            if not lease.stays:
                self._end(event.at, lease, Why.GONE)
        if event.conn in self.books.connections:
            self._record(fact.Left(event.conn))

    # Serving.

    def _serve(self, at: Moment) -> None:
        if self._desk.facts:
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
            if self.reserving.holds_off(at, lease):
                continue
            self._start(at, lease.id, lease.ask, lease.needs, stood=True)

    def _backfill(self, at: Moment) -> None:
        """Let those pass who end before anybody they take from could start."""
        books = self.books
        ends: list[tuple[float, Mapping[str, int]]] | None = None
        for _, number in list(books.line.timed.islice(0, decisions.CANDIDATES_MAX)):
            lease = books.leases[number]
            if any(n > books.ledgers[key].room for key, n in lease.needs.items()):
                continue
            if books.line.waiters[number].until_s or self.reserving.holds_off(
                at, lease
            ):
                continue
            ends = known_ends(books, at) if ends is None else ends
            length_s, now_s = lease.ask.length_s, at.boot_s
            if lease.until_wall_s is not None:
                length_s = lease.until_wall_s - at.wall_s
            line, ledgers = books.line, books.ledgers
            if decisions.may_pass(lease, length_s, now_s, line, ledgers, ends):
                self._start(at, lease.id, lease.ask, lease.needs, stood=True)
                ends = None

    def _not_now(
        self,
        ask: Ask,
        needs: Mapping[str, int],
        ahead: str = "",
        free_wall_s: float | None = None,
    ) -> do.TellRefused:
        books = self.books
        machine = alone(books, self._desk.name_of)
        if machine and free_wall_s is None:
            dates = (x.until_wall_s for x in books.reservations.values() if x.exclusive)
            free_wall_s = next(dates, None)
        return admission.not_now(ask, needs, books, ahead, free_wall_s, machine)

    def _end_overdue(self, at: Moment, lease: Lease) -> None:
        refused = self._not_now(lease.ask, lease.needs)
        self._end(at, lease, Why.OVERDUE)
        self._effects.append(refused)

    # Ballast and measuring.

    def _balance(self, ledger: Ledger, at: Moment) -> None:
        amount = decisions.surplus(ledger)
        if amount:
            self._record(fact.Shed(ledger.name, amount))
            self._effects.append(do.DropBallast(ledger.resource, amount, 0))
        amount = decisions.retake(ledger, at.boot_s)
        if amount:
            self._record(fact.Taking(ledger.name, amount))
            whose = "" if ledger.name in self.books.resources else ledger.name
            take = do.TakeBallast(ledger.resource, amount, whose)
            self._effects.append(take)

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
        for ledger in self.books.ledgers.values():
            if ledger.resource == event.resource:
                self._give_up(ledger, event.at)

    def _give_up(self, ledger: Ledger, at: Moment) -> None:
        amount = decisions.yielded(ledger)
        until = at.boot_s + REST_AFTER_PRESSURE_S
        # it may be said many times a second
        if until - ledger.not_before_s > 1.0:
            self._record(fact.Taken(ledger.name, 0, 0, until))
        if amount:
            self._record(fact.Shed(ledger.name, amount))
            self._effects.append(do.DropBallast(ledger.resource, amount, 0))
            words = f"{format_amount(ledger.resource, amount)} {ledger.name}"
            left = format_amount(ledger.resource, ledger.held)
            note = (
                f"programs wait for memory: gave {words} of the ballast up, {left} are "
                "left."
            )
            self._effects.append(do.Note(note))

    def _ballast_taken(self, event: ev.BallastTaken) -> None:
        short = event.amount < event.asked
        until = event.at.boot_s + RETAKE_AFTER_S if short else 0.0
        # the reservation for which it was taken may be over
        there = event.ledger in self.books.ledgers
        name = event.ledger if there else event.resource
        self._record(fact.Taken(name, event.asked, event.amount, until))

    def _measured(self, event: ev.Measured) -> None:
        ledger = self.books.resources[event.resource]
        if not ledger.measured:
            return
        parts = self._parts(ledger.name)
        for found in decisions.seen(ledger, parts, event, self.books.leases):
            was = self.books.ledgers[found.resource]
            settled = was.settling - found.settling
            lost = min(settled, found.foreign - was.foreign)
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
        settling = ledger.settling + sum(part.settling for part in parts)
        self._measuring.done(ledger.name, event.at.boot_s, settling)

    def _parts(self, resource: str) -> list[Ledger]:
        """What reservations have of a resource."""
        ledgers, held = self.books.ledgers, self.books.reservations
        keys = (allotment(resource, number) for number in held)
        return [ledgers[key] for key in keys if key in ledgers]

    def _ticked(self, at: Moment) -> None:
        for name in self._measuring.due(at.boot_s):
            self._ending.measure(name, at)
        self.reclaiming.end_unyielding(at)
        if at.boot_s >= self._teller.next_s:
            self._effects += self._teller.tell_all(at)

    @property
    def wake_at_s(self) -> float:
        """boot_s when the pen wants a `Ticked`; infinity: never."""
        soonest = min(self._teller.next_s, self._measuring.next_s)
        books = self.books
        waiting = books.line.waiters and books.deferred
        if books.dated or waiting or books.asked:
            soonest = min(soonest, self.reserving.wake_at_s, self.reclaiming.wake_at_s)
        if self.books.patience:
            soonest = min(soonest, self.books.patience[0][0])
        for ledger in self._ballasted:
            if ledger.not_before_s and decisions.retake(ledger, inf):
                soonest = min(soonest, ledger.not_before_s)
        return soonest

    def _find_ballasted(self) -> list[Ledger]:
        ledgers = self.books.ledgers.values()
        return [x for x in ledgers if x.unit > 1 or x.hold or x.held]

    # Telling.

    def _tell_granted(self, lease: Lease) -> None:
        if lease.reservation:
            self.reserving.tell(lease)
            return
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
