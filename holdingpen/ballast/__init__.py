"""Ballast: memory the daemon really occupies, to be dropped for whoever leases it.

The hands of this floor are plain blocking code, called from the daemon's worker
threads.  They know amounts and nothing of leases.  `ram.py` is the real thing;
`holdingpen.devices.scripted` has a make-believe one that passes the same tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class BallastLike(Protocol):
    """What the daemon asks of a ballast.  All amounts are bytes."""

    @property
    def kind(self) -> str:
        """How it is held, in a word or two for status and the log."""

    @property
    def why(self) -> str:
        """One sentence on why no better kind was to be had; empty when none is."""

    @property
    def noswap(self) -> bool:
        """Whether the kernel has promised never to swap it out."""

    @property
    def held(self) -> int:
        """Bytes really occupied at this moment."""

    def take(self, amount: int, may: Callable[[int], bool]) -> int:
        """Occupy up to `amount` more bytes; return how many it became.

        `may` is asked before each step, with the step's bytes, and ends the taking
        by its first no.  So does the system, by having no more.
        """

    def drop(self, amount: int) -> int:
        """Give back at least `amount` bytes, or all there is; return how many."""

    def close(self) -> None:
        """Give everything back for good.  Closing twice is allowed."""
