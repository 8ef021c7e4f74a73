"""The teller: says to those who wait how they stand, as often as is good for all.

Once a second, when something moved, the first of the line hear how they stand now,
and in turn some of the others: so the work for each second is bounded, whatever the
length of the line.  Who stands as he was told before is not told again.

This is no state: replay does not find it again, and nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import Final

from holdingpen.core.books import Books
from holdingpen.core.effects import TellWaiting
from holdingpen.core.facts import Moment
from holdingpen.core.standings import (
    LATE_S,
    TELL_FIRST,
    Soonest,
    Standing,
    standings,
)

#: Tell at most this often: the first of the line, and so many others.
TELL_EVERY_S: Final = 1.0
TELL_OTHERS: Final = 300
#: In a line no longer than this a newcomer is told at once when it will be.
FORECAST_AT_ONCE: Final = 16


class Teller:
    """Remembers who was told what."""

    def __init__(
        self,
        books: Books,
        name_of: Callable[[int], str],
        plan: Callable[[Moment], Soonest | None],
    ) -> None:
        """Make a teller.

        Args:
            books: the books.
            name_of: what people call a user.
            plan: gives what knows of reservations ahead.
        """
        self._plan = plan
        self._books = books
        self._name_of = name_of
        #: boot_s when all are to be told; infinity: nothing moved.
        self.due_s = inf
        #: boot_s when the first time that somebody was told is over.
        self._over_s = inf
        #: boot_s when all were told last.
        self._told_s = -inf
        #: Lease to place, reason and expected second, as it was told.
        self._told: dict[int, tuple[int, str, int]] = {}
        #: From which place on the others are told next.
        self._next = TELL_FIRST

    @property
    def next_s(self) -> float:
        """boot_s when somebody is to be told something; infinity: nobody is."""
        if not self._books.line.waiters:
            return self.due_s
        return min(self.due_s, self._over_s)

    def something_moved(self, at: Moment) -> None:
        """Tell those who wait, soon."""
        if self.due_s == inf:
            self.due_s = max(at.boot_s, self._told_s + TELL_EVERY_S)

    def forget(self, lease: int) -> None:
        """What this lease was told does not count any more."""
        self._told.pop(lease, None)

    def tell(self, lease: int, at: Moment) -> Iterator[TellWaiting]:
        """What to say to one who waits; nothing if he knows."""
        # A forecast costs a walk of the line; in a long one it comes a second later.
        short = len(self._books.line) <= FORECAST_AT_ONCE
        return self._news(self._standings(at, [lease], short), at)

    def tell_all(self, at: Moment) -> Iterator[TellWaiting]:
        """What to say to the first of the line, and to some of the others."""
        line = self._books.line
        if self._next >= len(line):
            self._next = TELL_FIRST
        leases = [*line.first(TELL_FIRST), *line.first(TELL_OTHERS, self._next)]
        self._next += TELL_OTHERS
        deeper = len(line) > TELL_FIRST
        self.due_s = at.boot_s + TELL_EVERY_S if deeper else inf
        self._over_s = inf
        self._told_s = at.boot_s
        return self._news(self._standings(at, leases, True), at)

    def _standings(
        self, at: Moment, leases: list[int], forecast: bool
    ) -> dict[int, Standing]:
        soonest = self._plan(at) if forecast else None
        return standings(self._books, at, leases, self._name_of, forecast, soonest)

    def _news(self, how: dict[int, Standing], at: Moment) -> Iterator[TellWaiting]:
        for lease, standing in how.items():
            expected = standing.expected_wall_s
            told = (standing.place, standing.reason, int(expected or 0))
            if expected is not None:
                # what he is told now is worth nothing when that is over
                over_s = max(at.boot_of(expected), at.boot_s) + 2 * LATE_S
                self._over_s = min(self._over_s, over_s)
            if self._told.get(lease) == told:
                continue
            self._told[lease] = told
            waits = self._books.leases[lease]
            if waits.starts_wall_s is not None:
                # who booked a date was told then
                continue
            ask = waits.ask
            yield TellWaiting(
                ask.conn,
                ask.number,
                lease,
                standing.place,
                standing.reason,
                standing.waits_for,
                expected,
            )
