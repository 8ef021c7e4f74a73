"""The desk: what those who judge share: the books, the rules, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable

from holdingpen.core import effects as do
from holdingpen.core.books import Books
from holdingpen.core.facts import Fact
from holdingpen.core.leases import Lease
from holdingpen.core.measuring import Measuring
from holdingpen.core.rights import Rules
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
        self.teller = Teller(books, name_of)
        #: What came of the event so far; the facts are applied already.
        self.facts: list[Fact] = []
        self.effects: list[do.Effect] = []
        #: What ended since somebody took these.
        self.ended: list[Lease] = []

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
