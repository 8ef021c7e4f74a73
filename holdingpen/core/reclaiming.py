"""Asking back: what is to be given back for the first who cannot start (model.md 11).

Only those are asked who said that they can be, and whose priority is lower than his;
only when the asked ones together suffice; the lowest priority first, then the
youngest; and as few as possible.  A reservation whose time has come was promised
before any of that, so it also asks those back who never said when they would end, or
are over the time they said.

If the one in need starts or leaves, the request is withdrawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from math import inf
from typing import Final

from holdingpen.core import effects as do
from holdingpen.core import facts as fact
from holdingpen.core.desk import Desk
from holdingpen.core.ending import Ending
from holdingpen.core.facts import Moment
from holdingpen.core.leases import LIVE, Lease, Why

#: How far to look for the first who may start but for what he lacks.
FIRST_MAX: Final = 32
#: How many candidates are looked at.
CANDIDATES_MAX: Final = 1024


class Reclaiming:
    """Asks back, withdraws, and ends who does not yield."""

    def __init__(self, desk: Desk, ending: Ending) -> None:
        self._desk = desk
        self._ending = ending

    def serve(self, at: Moment) -> None:
        """Ask and withdraw, after all who could start have started."""
        books = self._desk.books
        for lease in list(books.asked.values()):
            if lease.needed_by not in books.line.waiters:
                self._withdraw(at, lease)
        if books.drain is None and books.line.waiters:
            ahead: dict[str, int] = {}
            for first in self._first():
                self._ask_for(at, first, ahead)
                for key, need in first.needs.items():
                    ahead[key] = ahead.get(key, 0) + need

    def _first(self) -> list[Lease]:
        """The reservations that are due, and the first of the others."""
        books = self._desk.books
        found = []
        for number in books.line.first(FIRST_MAX):
            lease = books.leases[number]
            due = lease.starts_wall_s is not None
            if due or not books.line.waiters[number].until_s:
                found.append(lease)
            if found and not due:
                break
        return found

    def _withdraw(self, at: Moment, lease: Lease) -> None:
        self._desk.record(fact.AskedBack(lease.id, at, 0))
        self._desk.effects.append(do.TellReclaim(lease.ask.conn, lease.id, False))

    def _ask_for(self, at: Moment, first: Lease, ahead: Mapping[str, int]) -> None:
        books = self._desk.books
        due = first.starts_wall_s is not None
        if not books.reclaimable and not due:
            return
        lacking = self._lacking(at, first, ahead)
        if not lacking:
            return
        chosen = []
        left = dict(lacking)
        for lease in self._candidates(at, first, due):
            if left.keys().isdisjoint(lease.needs):
                continue
            chosen.append(lease)
            left = _less(left, lease)
            if not left:
                break
        if left:
            return
        # the last that were added may have made some of the first superfluous
        for lease in list(chosen):
            others = [other for other in chosen if other is not lease]
            if not _less(lacking, *others):
                chosen = others
        for lease in chosen:
            self._desk.record(fact.AskedBack(lease.id, at, first.id))
            told = do.TellReclaim(lease.ask.conn, lease.id, True)
            self._desk.effects.append(told)

    def _lacking(
        self, at: Moment, first: Lease, ahead: Mapping[str, int]
    ) -> dict[str, int]:
        """What is neither there for him, nor on its way, nor asked back already.

        Args:
            at: now.
            first: who lacks it.
            ahead: resource to what those before him need.
        """
        books = self._desk.books
        lacking = {}
        for key, need in first.needs.items():
            ledger = books.ledgers[key]
            lacking[key] = ahead.get(key, 0) + need - ledger.room - ledger.transit
        lacking = {key: n for key, n in lacking.items() if n > 0}
        return _less(lacking, *books.asked.values(), *self._over_in_time(at, first))

    def _over_in_time(self, at: Moment, first: Lease) -> list[Lease]:
        """Who is over by the date of a reservation that is about to begin."""
        books = self._desk.books
        if first.starts_wall_s is None:
            return []
        from_s, until_s = at.boot_s, at.boot_of(first.starts_wall_s)
        ends = books.known_ends.irange((from_s, 0), (until_s, inf))
        over = [books.leases[number] for _, number in islice(ends, CANDIDATES_MAX)]
        dates = books.expiries.irange((at.wall_s, 0), (first.starts_wall_s, inf))
        live = [books.reservations.get(number) for _, number in dates]
        over += [lease for lease in live if lease is not None]
        return [lease for lease in over if not lease.needed_by]

    def _candidates(self, at: Moment, first: Lease, due: bool) -> list[Lease]:
        """Who may be asked back for him, whom first first."""
        books = self._desk.books
        most = inf if due else first.ask.priority
        keys = books.reclaimable.irange(None, (most, -inf, 0), (True, False))
        found = [books.leases[key[2] * -1] for key in islice(keys, CANDIDATES_MAX)]
        if due:
            endless = [
                lease
                for lease in islice(books.held.values(), CANDIDATES_MAX)
                if lease.state == LIVE
                and (lease.known_end_s or 0.0) <= at.boot_s
                and not lease.reservation
                and not lease.ask.reclaimable
                and not lease.needed_by
            ]
            # the youngest first: they could know best that a reservation was near
            found += sorted(endless, key=lambda x: (x.ask.priority, -x.id))
        return found

    # Those who do not yield.

    def unyielding(self, lease: Lease, at: Moment) -> bool:
        """Whether it was asked back and had time enough."""
        asked, grace_s = lease.asked_back, self._desk.rules.reclaim_grace_s
        return asked is not None and at.boot_s >= asked.boot_s + grace_s

    def end_unyielding(self, at: Moment) -> None:
        """End them, where the administrator says so."""
        if not self._desk.rules.reclaim_ends:
            return
        for lease in list(self._desk.books.asked.values()):
            if self.unyielding(lease, at):
                self._ending.end_and_tell(at, lease, Why.RECLAIMED)

    @property
    def wake_at_s(self) -> float:
        """boot_s when somebody has had time enough; infinity: never."""
        rules, asked = self._desk.rules, self._desk.books.asked
        if not asked or not rules.reclaim_ends:
            return inf
        first_s = min(x.asked_back.boot_s for x in asked.values() if x.asked_back)
        return first_s + rules.reclaim_grace_s


def _less(lacking: dict[str, int], *leases: Lease) -> dict[str, int]:
    """What is still lacking when these have given all back."""
    left = dict(lacking)
    for lease in leases:
        for key in left.keys() & lease.needs.keys():
            left[key] -= lease.needs[key]
    return {key: amount for key, amount in left.items() if amount > 0}
