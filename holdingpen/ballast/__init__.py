"""Ballast: memory and disk space really occupied, to be handed to whoever leases it.

The hands of this floor are plain blocking code, called from the daemon's worker
threads.  They know amounts and leases' numbers, and nothing of who waits for what.

    ram.py        memory as the pages of files that may be lent whole
                  pool.py, pieces.py, files.py, hugefile.py, pages.py are its parts;
                  shelf.py is where they outlive this process
    reserve.py    slightly more of it than is promised, in no books
    samegroup.py  memory that reaches a program inside one control group
                  leasegroup.py is one group; lazyholder.py the helper in it, a program
    disk.py       blocks of a disk, as a file, a file system, or a directory
                  blocks.py, grounds.py, trees.py, scratch.py, heirs.py are its parts
    mounting.py   who mounts: this process, or mounter.py, a program
    lent.py       whether anybody still uses a file, for memory and disk

`holdingpen.devices.scripted` has a make-believe ballast that passes the same tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Piece(NamedTuple):
    """A part of a ballast that is lent as an open file."""

    #: To be passed on and then closed by whoever asked for it.
    fd: int
    #: Bytes of it that are lent, from its beginning.
    size: int


class BallastLike(Protocol):
    """What the daemon asks of a ballast.  All amounts are bytes.

    It has one purse for nobody in particular, `held`, and one for each lease that
    something is kept for:

        take  -> held -> drop             the machine's, or ours
                 held -> keep -> kept     set apart for a lease, still occupied
                         kept -> give     freed for its program to occupy
                         kept -> lend     passed to it, and occupied all the time
                         kept -> back -> held
    """

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
        """Bytes occupied at this moment and kept for no lease."""

    @property
    def kept(self) -> dict[int, int]:
        """Lease to bytes occupied for it at this moment, lent ones too."""

    def take(self, amount: int, may: Callable[[int], bool]) -> int:
        """Occupy up to `amount` more bytes; return how many it became.

        `may` is asked before each step, with the step's bytes, and ends the taking
        by its first no.  So does the system, by having no more.
        """

    def drop(self, amount: int) -> int:
        """Give back at least `amount` bytes of `held`, or all; return how many."""

    def keep(self, lease: int, amount: int) -> int:
        """Set at least `amount` bytes of `held` apart, or all; return how many."""

    def give(self, lease: int, amount: int) -> int:
        """Free at least `amount` bytes kept for `lease`, or all; return how many.

        Nothing that is lent is freed.
        """

    @property
    def swapped(self) -> int:
        """Bytes of `held` and `kept` that are swapped out, and so hold nothing."""

    def lend(
        self, lease: int, amount: int, may: Callable[[int], bool], user: int = 0
    ) -> list[Piece]:
        """Pass what is kept for `lease`, and what is lacking to `amount`, as files.

        What is lacking is taken as `take` does.  Asked again, it gives the same
        pieces, as new descriptors.  Files that another `user` (a uid) had are
        exchanged for new ones first.

        Raises:
            Refusal: `not-now`, when `may` or the system said no: nothing is lent.
        """

    def back(self, lease: int, amount: int | None = None) -> int | None:
        """What is kept for `lease`, or `amount` of it, is `held` again.

        What was lent is wiped first, so that nobody sees what was in it.

        Returns:
            Bytes that are held again; None: somebody still uses what was lent, and
            nothing has changed: ask again later.
        """

    def close(self) -> None:
        """Give everything back for good.  Closing twice is allowed."""


def may_give(released: int, peak_use: int, step: int) -> int:
    """Bytes that may be freed now, so that `released - peak_use <= step` still holds.

    Args:
        released: bytes freed for the lease until now.
        peak_use: the most its processes, or its directory, used at one time, in bytes.
        step: bytes that may lie freed and untouched.
    """
    return max(0, peak_use + step - released)
