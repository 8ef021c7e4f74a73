"""A reserve beside the ballast: slightly more is held than was promised.

Of what is freed for a program others may take a part before it gets there.  The
reserve is what that is made good from.  It is one more purse of the same ballast, under
a number that no lease has, and it is hidden here: neither `held` nor `kept` shows it,
nobody is lent anything of it, and the books, which promise what they know of, do not
know it.

    take  -> held -> ...                  the ballast proper
    top_up       -> reserve -> make_good  freed for a program that others took from
                    reserve -> give_up    the machine's again

**Last taken, first given up.**  It is taken only while the ballast proper is complete,
what leases drew included, and as carefully: `may` is asked before each step.  When
ballast is dropped because programs wait for memory, all of the reserve goes before it.

What went to a lease by `drop` is not known to have been drawn.  So until such a lease
is over and its ballast taken anew, nothing is added to the reserve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdingpen.ballast.ram import UNIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdingpen.ballast import BallastLike, Piece

#: The number of its purse.  The first lease has 1.
_NOBODY: Final = 0

#: Taken at once: no request waits for more.  64 MiB are 16 ms of 4K pages, 0.2 ms of
#: huge ones.
SLICE: Final = 64 * 1024 * 1024


class ReservedBallast:
    """Some ballast, with a reserve.  As safe in several threads as what it is made of.

    `take`, `top_up` and `resize` are for one thread, which is the one that takes.
    """

    def __init__(
        self, ballast: BallastLike, pressed: Callable[[], bool] = lambda: False
    ) -> None:
        """Have `ballast` in hand, and nothing in reserve yet; it is closed with this.

        Args:
            ballast: what is held back; nothing is kept for lease 0.
            pressed: whether ballast that is dropped now is dropped for want of memory.
        """
        self._ballast = ballast
        self._pressed = pressed
        #: Bytes that the ballast proper has when it is complete.
        self._hold = 0
        #: Bytes that the reserve has when it is complete.
        self.wanted = 0
        #: Lease to bytes that were kept for it and are to come back.
        self._drawn: dict[int, int] = {}

    # What it is made of.

    @property
    def kind(self) -> str:
        """As the ballast says."""
        return self._ballast.kind

    @property
    def why(self) -> str:
        """As the ballast says."""
        return self._ballast.why

    @property
    def noswap(self) -> bool:
        """As the ballast says."""
        return self._ballast.noswap

    @property
    def held(self) -> int:
        """As the ballast says: the reserve is not in it."""
        return self._ballast.held

    @property
    def swapped(self) -> int:
        """As the ballast says: the reserve counts, too."""
        return self._ballast.swapped

    @property
    def kept(self) -> dict[int, int]:
        """As the ballast says, without the reserve."""
        kept = self._ballast.kept
        kept.pop(_NOBODY, None)
        return kept

    def take(self, amount: int, may: Callable[[int], bool]) -> int:
        """Occupy up to `amount` more bytes, and the reserve once that is all."""
        taken = self._ballast.take(amount, may)
        self.top_up(may)
        return taken

    def drop(self, amount: int) -> int:
        """Give back `amount` bytes of `held`; under pressure the reserve before that.

        Returns:
            Bytes of `held`: what the books know of.
        """
        if self._pressed():
            self.give_up()
        return self._ballast.drop(amount)

    def keep(self, lease: int, amount: int) -> int:
        """Set `amount` bytes of `held` apart for `lease`."""
        apart = self._ballast.keep(lease, amount)
        self._drawn[lease] = self._drawn.get(lease, 0) + apart
        return apart

    def give(self, lease: int, amount: int) -> int:
        """Free `amount` bytes kept for `lease`."""
        return self._ballast.give(lease, amount)

    def lend(
        self, lease: int, amount: int, may: Callable[[int], bool], user: int = 0
    ) -> list[Piece]:
        """Pass what is kept for `lease`; the reserve is never lent."""
        return self._ballast.lend(lease, amount, may, user)

    def back(self, lease: int, amount: int | None = None) -> int | None:
        """What is kept for `lease` is `held` again."""
        came = self._ballast.back(lease, amount)
        if amount is not None:
            self._drawn[lease] = self._drawn.get(lease, 0) - (came or 0)
        elif came is not None:
            self._drawn.pop(lease, None)
        return came

    def expect(self, lease: int, amount: int) -> None:
        """A former process set `amount` bytes apart for `lease`."""
        self._drawn[lease] = amount

    def close(self) -> None:
        """Give everything back for good, the reserve too."""
        self._ballast.close()

    # The reserve.

    @property
    def reserve(self) -> int:
        """Bytes in reserve at this moment."""
        return self._ballast.kept.get(_NOBODY, 0)

    def resize(self, hold: int, wanted: int) -> None:
        """Have `wanted` bytes in reserve once `hold` bytes of ballast are there.

        What there is beyond that goes with the next `top_up`.
        """
        self._hold, self.wanted = hold, wanted // UNIT * UNIT

    def top_up(self, may: Callable[[int], bool]) -> None:
        """Take a slice of what is lacking, if the ballast proper lacks nothing.

        Args:
            may: as in `take`.
        """
        lacking = self.wanted - self.reserve
        if lacking < 0:
            self._ballast.give(_NOBODY, -lacking)
        elif lacking and self._complete():
            taken = self._ballast.take(min(lacking, SLICE), may)
            kept = self._ballast.keep(_NOBODY, taken)
            # it filled files that clients had made holes in: no file is whole by that
            self._ballast.drop(taken - kept)

    def _complete(self) -> bool:
        drawn = sum(self._drawn.copy().values())
        return self._ballast.held + drawn + UNIT > self._hold

    def make_good(self, amount: int) -> int:
        """Free at least `amount` bytes of it, or all, for a program; return how many.

        As `give` it never allocates.
        """
        return self._ballast.give(_NOBODY, amount)

    def give_up(self) -> None:
        """Free all of it: others need it more."""
        self._ballast.give(_NOBODY, self.reserve)
