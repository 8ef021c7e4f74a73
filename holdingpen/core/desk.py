"""The desk: what those who judge share: the books, the rules, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable

from holdingpen.core import effects as do
from holdingpen.core.books import Books
from holdingpen.core.calendar import planner
from holdingpen.core.facts import Fact, Moment
from holdingpen.core.leases import Lease
from holdingpen.core.measuring import Measuring
from holdingpen.core.rights import Rules
from holdingpen.core.standings import Soonest
from holdingpen.core.telling import Teller


class Desk:
    """One event's facts and effects, over the books."""

    def __init__(
        self, books: Books, rules: Rules, name_of: Callable[[int], str]
    ) -> None:
        self.books = books
        #: What people call a user.
        self.name_of = name_of
        #: What the administrator decided; replaced on reload.
        self.rules = rules
        #: The cadence: no state.
        self.measuring = Measuring()
        self.teller = Teller(books, name_of, self.plan)
        #: What came of the event so far; the facts are applied already.
        self.facts: list[Fact] = []
        self.effects: list[do.Effect] = []
        #: What ended since somebody took these.
        self.ended: list[Lease] = []

    def plan(self, at: Moment) -> Soonest | None:
        """What knows when one that waits may start beside what is reserved."""
        return planner(self.books, at, self.rules)

    def record(self, what: Fact) -> None:
        """Have something become true."""
        self.books.apply(what)
        self.facts.append(what)

    def refuse(
        self,
        conn: int,
        number: int,
        problem: tuple[str, str],
        free_wall_s: float | None = None,
    ) -> None:
        """Say no: a code and a message."""
        self.effects.append(do.TellRefused(conn, number, *problem, free_wall_s))


def no_such_lease(lease: int) -> tuple[str, str]:
    """What to say of a lease that is not there."""
    return "no-such-lease", (
        f"there is no lease {lease} now. `holdingpenctl list` shows those there are."
    )
