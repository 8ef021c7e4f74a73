"""Hands: for each resource, how its ballast is taken, handed over and taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from holdingpen.ballast import BallastLike, Piece
from holdingpen.core import effects as do
from holdingpen.core.handover import Choice
from holdingpen.core.leases import Lease
from holdingpen.daemon.settings import Settings


class Ready(NamedTuple):
    """What a lease gets."""

    #: The directory it may write in; empty: none.
    place: str = ""
    #: The method it is after all, because the one asked for failed, and why.
    how: str = ""
    why: str = ""


class Adopted(NamedTuple):
    """What a hand has of a former daemon's."""

    #: Bytes of ballast that are held, of those that the books know.
    held: int
    #: Leases that go on and still have what was kept for them.
    kept: frozenset[int]
    #: Leases that are long over and of which somebody still uses something.
    in_use: frozenset[int] = frozenset()


class Hand(Protocol):
    """What the performer asks of a hand.  Called in the hand's own thread."""

    @property
    def ballast(self) -> BallastLike:
        """What is held back."""

    #: Called with what broke a thread of this hand.
    broken: Callable[[Exception], None]
    #: Whether what leases use is seen by the eye; else `used` says it.
    wants_eye: bool

    #: Ballast comes and goes in multiples of this many bytes.
    unit: int

    def adopt(
        self, booked: int, leases: Mapping[int, Lease], over: frozenset[int]
    ) -> Adopted | None:
        """Go on with what a former daemon held; called once, before anything else.

        Args:
            booked: bytes that it had booked as held; what is there beyond is freed.
            leases: those that go on.
            over: those that do not, and that `take_back` will be called for.

        Returns:
            What is there of it; None: it took all of it along.

        Raises:
            HoldingPenError: when it cannot be looked at.
        """

    def total(self) -> int:
        """Bytes there are in all, lent or not."""

    def wishes(self, settings: Settings) -> dict[str, Choice]:
        """How each wish of a client is met here.

        Raises:
            BadSettings: when the administrator demands what cannot be had.
        """

    def configure(self, settings: Settings) -> None:
        """Obey a configuration that was read again."""

    def troubles(self, settings: Settings) -> list[str]:
        """What an administrator should know."""

    def may_take(self, step_bytes: int) -> bool:
        """Whether the machine bears that so much more becomes ballast."""

    def available(self) -> int:
        """Bytes a program could get now without pushing others."""

    def used(self) -> dict[int, int]:
        """Lease to bytes in use, beside what is kept for it."""

    @property
    def kept(self) -> dict[int, int]:
        """Lease to bytes occupied for it and not used by it."""

    def prepare(self, what: do.Prepare) -> Ready:
        """Make ready what a lease is to get.

        Raises:
            HoldingPenError: when it cannot be; nothing is changed then.
        """

    def take_back(self, lease: int, amount: int | None) -> int | None:
        """Make ballast of what is kept for `lease`, or of `amount` of it.

        Returns:
            Bytes; None: it is in use, ask again.
        """

    def lend(self, lease: int, amount: int, uid: int) -> list[Piece]:
        """Pass what is kept as files to a client of user `uid`.

        Raises:
            HoldingPenError: when that cannot be.
        """

    @property
    def stolen(self) -> Mapping[int, int]:
        """Lease to bytes that were freed for it and that others took."""

    @property
    def made_good(self) -> Mapping[int, int]:
        """Lease to bytes of those that it was given once more."""

    @property
    def notes(self) -> list[str]:
        """What the administrator should read in the log, once `adopt` was called."""

    def close(self) -> None:
        """Give everything back, unless another daemon is to go on with it."""


def unheard(why: Exception) -> None:
    """What a hand does with what breaks its threads until somebody listens."""
    raise why
