"""Reserving: leases that need no connection and end at a date.

    booked --Due--> first in the line --Reserved--> live --date, release--> ended

One that begins as soon as it can is asked for as any lease is, waits as any does, and
becomes live by `Reserved`.  One that is booked for a date is planned around
(calendar.py); so many seconds before it begins (`Rules.ready_before_s`) it stands
first in the line and has back what it needs.  If something of it is held back, it is
live as soon as that is there: so its ballast is taken before its date.

Dates are those of the wall clock.  A step of it moves them all, and is noticed by the
next event.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import Final

from holdingpen.core import calendar
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core import facts as fact
from holdingpen.core.admission import misfit
from holdingpen.core.calendar import Fit
from holdingpen.core.desk import Desk, no_such_lease
from holdingpen.core.ending import Ending
from holdingpen.core.facts import Ask, Moment
from holdingpen.core.leases import BOOKED, LIVE, Lease, Why, needs_of
from holdingpen.core.rights import allowance, may_end, not_allowed, too_long
from holdingpen.durations import format_duration

#: How many who are deferred are looked at after each event (0.1 ms each), and how soon
#: after that the next.
RECONSIDERED_MAX: Final = 32
PAUSE_S: Final = 0.01
#: A new forecast that differs by less, in seconds, is not written down.
GRAIN_S: Final = 1.0
#: A step of the wall clock that counts as one, in seconds.
STEP_S: Final = 0.5


class Reserving:
    """Judges reservations over the books."""

    def __init__(self, desk: Desk, ending: Ending) -> None:
        self._desk = desk
        self._ending = ending
        #: Seconds since 1970 less boot_s, as of the last event.
        self._offset_s: float | None = None
        #: The same, as of when all who were deferred were looked at.
        self._planned_s = inf
        #: Those whose time has come and that are more than there is now.
        self._too_big: set[int] = set()
        #: Those who were deferred and are still to be looked at, and when some were.
        self._unlooked: list[int] = []
        self._looked_s = 0.0
        #: Idle reservations of which their owners were told.
        self._told_idle: set[int] = set()

    # The clock.

    def begin(self, at: Moment) -> None:
        """See to what is due, before an event is judged."""
        books = self._desk.books
        offset_s = at.wall_s - at.boot_s
        self._offset_s = offset_s
        if abs(offset_s - self._planned_s) > STEP_S:
            self._planned_s = offset_s
            self.reconsider(at, all_of_them=True)
        if books.expiries[0][0] <= at.wall_s:
            self._expire(at)
        if books.calendar:
            self._bring_forward(at)
        if self._desk.rules.idle_after_s is not None and books.reservations:
            self._see_to_idle(at)

    def _expire(self, at: Moment) -> None:
        expiries = self._desk.books.expiries
        while expiries and expiries[0][0] <= at.wall_s:
            lease = self._desk.books.leases[expiries[0][1]]
            why = Why.EXPIRED if lease.state == LIVE else Why.MISSED
            if why == Why.MISSED:
                note = f"reservation {lease.id} could not begin before its end came."
                self._desk.effects.append(do.Note(note))
            self._ending.end_and_tell(at, lease, why)

    def _bring_forward(self, at: Moment) -> None:
        books = self._desk.books
        soon_s = at.wall_s + self._desk.rules.ready_before_s
        self._too_big.clear()
        for _, number in list(books.calendar.irange(None, (soon_s, inf))):
            lease = books.leases[number]
            if lease.state != BOOKED:
                continue
            if misfit(lease.ask, books) is None:
                self._desk.record(fact.Due(number, at))
                self._hold_until_date(at, lease)
            else:
                # it would only stand in the way; the capacity may come back
                self._too_big.add(number)

    def _hold_until_date(self, at: Moment, lease: Lease) -> None:
        """What holds nothing back need not begin before its date, and does not."""
        assert lease.starts_wall_s is not None
        books = self._desk.books
        until_s = at.boot_of(lease.starts_wall_s)
        if lease.starts_wall_s > at.wall_s and not calendar.gathers(books, lease):
            self._desk.record(fact.Deferred(lease.id, until_s))
        elif books.line.waiters[lease.id].until_s:
            self._desk.record(fact.Deferred(lease.id, 0.0))

    @property
    def wake_at_s(self) -> float:
        """boot_s when something is due; infinity: nothing is."""
        books, rules = self._desk.books, self._desk.rules
        wake_s = books.deferred[0][0] if books.deferred else inf
        if self._unlooked:
            wake_s = min(wake_s, self._looked_s + PAUSE_S)
        if self._offset_s is None:
            return wake_s
        if books.expiries:
            wake_s = min(wake_s, books.expiries[0][0] - self._offset_s)
        if books.calendar:
            for starts_s, number in books.calendar:
                # those that are due already wait in the line
                booked = books.leases[number].state == BOOKED
                if booked and number not in self._too_big:
                    due_s = starts_s - rules.ready_before_s - self._offset_s
                    wake_s = min(wake_s, due_s)
                    break
        if rules.idle_after_s is not None:
            for lease in books.reservations.values():
                if not lease.drawing and lease.id not in self._told_idle:
                    idle_s = self._idle_from_s(lease) + rules.idle_after_s
                    wake_s = min(wake_s, idle_s - self._offset_s)
        return wake_s

    # Idle ones.

    def is_idle(self, lease: Lease, at: Moment) -> bool:
        """Whether nothing has drawn on a live reservation for too long."""
        idle_after_s = self._desk.rules.idle_after_s
        if idle_after_s is None or lease.state != LIVE or lease.drawing:
            return False
        return at.wall_s - self._idle_from_s(lease) >= idle_after_s

    def _idle_from_s(self, lease: Lease) -> float:
        """Seconds since 1970: its begin, or when the last that drew on it ended.

        By the wall clock, because it may have outlived a boot.
        """
        unused_s = lease.unused.wall_s if lease.unused is not None else 0.0
        return max(unused_s, lease.begins_wall_s or 0.0)

    def _see_to_idle(self, at: Moment) -> None:
        desk = self._desk
        reservations = desk.books.reservations
        self._told_idle &= reservations.keys()
        for lease in list(reservations.values()):
            if not self.is_idle(lease, at):
                self._told_idle.discard(lease.id)
            elif desk.rules.idle_ends:
                self._ending.end_and_tell(at, lease, Why.IDLE)
            elif lease.id not in self._told_idle:
                self._told_idle.add(lease.id)
                text = (
                    f"nothing draws on your reservation {lease.id}: if it is not "
                    f"needed, `holdingpenctl release {lease.id}`."
                )
                desk.effects.append(do.TellUser(lease.ask.who.uid, text))

    # Planning around.

    def may_start(self, at: Moment, ask: Ask, needs: dict[str, int]) -> Fit:
        """When a request may start at the soonest, as far as reservations go."""
        desk = self._desk
        if not desk.books.dated:
            return Fit(at.wall_s)
        return calendar.may_start(desk.books, at, ask, needs, desk.rules)

    def holds_off(self, at: Moment, lease: Lease) -> bool:
        """Defer one who waits, if he may not start now; whether that was so."""
        if lease.starts_wall_s is not None or not self._desk.books.calendar:
            return False
        fit = self.may_start(at, lease.ask, lease.needs)
        if fit.start_s <= at.wall_s:
            return False
        self.defer(at, lease.id, fit)
        return True

    def defer(self, at: Moment, lease: int, fit: Fit) -> None:
        """Have one who waits start no sooner than it fits."""
        self._desk.record(fact.Deferred(lease, at.boot_of(fit.start_s)))

    def reconsider(self, at: Moment, all_of_them: bool = False) -> None:
        """Look again at those who were deferred, some at a time.

        Args:
            at: now.
            all_of_them: something ended or was reserved, so each may start sooner, or
                later; else only those whose time has come.
        """
        books = self._desk.books
        if all_of_them:
            self._unlooked = [number for _, number in books.deferred]
        soonest = books.deferred.islice(0, RECONSIDERED_MAX)
        due = [number for time_s, number in soonest if time_s <= at.boot_s]
        some = self._unlooked[:RECONSIDERED_MAX]
        del self._unlooked[:RECONSIDERED_MAX]
        waiters = books.line.waiters
        # meanwhile some have left, or may start
        there = [n for n in dict.fromkeys((*due, *some)) if n in waiters]
        for number in [n for n in there if waiters[n].until_s]:
            self._look_again(at, number, waiters[number].until_s)
        self._looked_s = at.boot_s

    def _look_again(self, at: Moment, number: int, until_s: float) -> None:
        lease = self._desk.books.leases[number]
        if lease.starts_wall_s is not None:
            date_s = at.boot_of(lease.starts_wall_s)
            if date_s <= at.boot_s or abs(date_s - until_s) > GRAIN_S:
                self._hold_until_date(at, lease)
            return
        fit = self.may_start(at, lease.ask, lease.needs)
        if fit.start_s <= at.wall_s:
            self._desk.record(fact.Deferred(number, 0.0))
            return
        moved_s = abs(at.boot_of(fit.start_s) - until_s)
        if moved_s > GRAIN_S or until_s <= at.boot_s:
            self.defer(at, number, fit)

    # Beginning.

    def start(self, at: Moment, number: int, ask: Ask, stood: bool) -> None:
        """A reservation has what it needs."""
        desk = self._desk
        needs = needs_of(ask)
        drawn = {}
        for name, need in needs.items():
            ledger = desk.books.resources[name]
            if ledger.held:
                drawn[name] = min(need // ledger.unit * ledger.unit, ledger.held)
        lease = desk.books.leases.get(number)
        until_s = at.wall_s + (ask.lasts_s or 0.0)
        if lease is not None and lease.until_wall_s is not None:
            until_s = lease.until_wall_s
        written = None if stood else ask
        desk.record(fact.Reserved(number, at, until_s, drawn, written))
        started = desk.books.leases[number]
        if started.starts_wall_s is None:
            # who booked a date was told then
            self.tell(started)

    def tell(self, lease: Lease) -> None:
        """Say that it is reserved, and what was reserved together with it."""
        books = self._desk.books
        self._desk.teller.forget(lease.id)
        numbers = [lease.id]
        if lease.series:
            all_of_them = (*books.leases.values(), *books.ended.values())
            numbers = [x.id for x in all_of_them if x.series == lease.series]
        begins_s, until_s = lease.begins_wall_s, lease.until_wall_s
        assert begins_s is not None
        assert until_s is not None
        self._desk.effects.append(
            do.TellReserved(
                lease.ask.conn,
                lease.ask.number,
                sorted(numbers),
                lease.amounts,
                begins_s,
                until_s,
            )
        )

    # Booking.

    def book(self, event: ev.BookAsked, ask: Ask) -> None:
        """Reserve for dates, all or none; `ask` is complete and may be granted."""
        desk = self._desk
        lasts_s = ask.lasts_s or 0.0
        starts = sorted(event.starts)
        problem = self._odd(event.at, starts, lasts_s)
        if problem is not None:
            desk.refuse(ask.conn, ask.number, problem)
            return
        trial = Lease(0, ask, needs_of(ask), BOOKED, event.at)
        clash = calendar.clash(desk.books, event.at, trial, starts, lasts_s, desk.rules)
        if clash is not None:
            starts_s, fit = clash
            which = ""
            if len(starts) > 1:
                soon = format_duration(max(0.0, starts_s - event.at.wall_s))
                number = starts.index(starts_s) + 1
                which = f"date {number} of {len(starts)}, in {soon}: "
            desk.refuse(ask.conn, ask.number, self._conflict(fit, which), fit.start_s)
            return
        first = desk.books.last_lease + 1
        for number, starts_s in enumerate(starts, first):
            until_s = starts_s + lasts_s
            series = first if len(starts) > 1 else 0
            what = fact.Booked(number, event.at, ask, starts_s, until_s, series)
            desk.record(what)
        self.tell(desk.books.leases[first])

    def _odd(
        self, at: Moment, starts: Sequence[float], lasts_s: float
    ) -> tuple[str, str] | None:
        if starts[0] + lasts_s <= at.wall_s:
            return "bad-request", (
                "a reservation from then on would be over already. Give a later begin."
            )
        if any(second - first < lasts_s for first, second in pairwise(starts)):
            return "bad-request", (
                f"each lasts {format_duration(lasts_s)}, and the next begins before "
                "that is over. "
                "Make them shorter, or farther apart."
            )
        return None

    def _conflict(self, fit: Fit, which: str = "") -> tuple[str, str]:
        books, name_of = self._desk.books, self._desk.name_of
        why = calendar.in_the_way(books, fit.blockers, name_of)
        return "conflict", f"{which}{why}"

    # Changing.

    def extend(self, event: ev.ExtendAsked) -> None:
        """Have a reservation end later."""
        desk = self._desk
        lease = desk.books.leases.get(event.lease)
        if lease is None or lease.until_wall_s is None:
            problem = no_such_lease(event.lease)
            if lease is not None:
                problem = (
                    "bad-request",
                    (
                        f"lease {lease.id} ends with its program, at no date: only a "
                        "reservation that has been granted can be extended."
                    ),
                )
            desk.refuse(event.conn, event.number, problem)
            return
        if not may_end(event.who, lease.ask.who.uid, desk.rules, event.groups):
            message = (
                f"reservation {lease.id} belongs to "
                f"{desk.name_of(lease.ask.who.uid)}; only he and the administrators "
                "may extend it."
            )
            desk.refuse(event.conn, event.number, ("not-permitted", message))
            return
        conn, number = lease.changed_by
        if conn == event.conn and event.number <= number:
            # it is asked again because the answer was lost
            told = do.TellExtended(conn, event.number, lease.id, lease.until_wall_s)
            desk.effects.append(told)
            return
        until_s = lease.until_wall_s + event.by_s
        seated = event.who.uid in desk.books.seated
        allow = allowance(event.who, event.groups, seated, desk.rules)
        if allow is None:
            refused = not_allowed(lease.ask, None, {})
        else:
            assert lease.begins_wall_s is not None
            refused = too_long(until_s - lease.begins_wall_s, allow)
        if refused is None:
            clash = calendar.clash(
                desk.books,
                event.at,
                lease,
                [lease.until_wall_s],
                event.by_s,
                desk.rules,
            )
            refused = None if clash is None else self._conflict(clash[1])
        if refused is not None:
            desk.refuse(event.conn, event.number, refused)
            return
        by = (event.who.uid, event.conn, event.number)
        desk.record(fact.Extended(lease.id, event.at, until_s, *by))
        told = do.TellExtended(event.conn, event.number, lease.id, until_s)
        desk.effects.append(told)
