"""The files of the ballast that are not lent: grown and cut at the end of their row.

    whole    occupied from end to end: their bytes can be kept, cut and lent
    holed    came back with holes that a client punched: what is left of them counts,
             but only for nobody in particular, until they are filled or freed

Nothing here knows of leases, and nothing is safe in several threads at once: both are
the matter of `ram.py`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from holdingpen.ballast.pieces import PieceFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdingpen.ballast.files import Files
    from holdingpen.ballast.shelf import Shelf

#: A full file is no smaller than this.
PIECE_MIN = 64 * 1024 * 1024

# What the system says when there is no more: of memory, of commit limit
# (vm.overcommit_memory=2), of RLIMIT_FSIZE, of descriptors.
_NO_MORE = (errno.ENOMEM, errno.ENOSPC, errno.EFBIG, errno.EMFILE, errno.ENFILE)


def piece_size(total_bytes: int) -> int:
    """Bytes of a full file, so that 128 hold `total_bytes`: a power of two."""
    return max(PIECE_MIN, 1 << (-(-total_bytes // 128) - 1).bit_length())


class Pool:
    """A row of files."""

    def __init__(
        self, files: Files, piece_bytes: int, shelf: Shelf | None = None
    ) -> None:
        """Own `files` and have none yet; a full one has `piece_bytes`.

        Args:
            files: where files of shared memory come from.
            piece_bytes: bytes of a full one.
            shelf: where they outlive this process; None: nowhere.
        """
        self.piece_bytes = piece_bytes
        #: Bytes in whole files.
        self.size = 0
        #: Whether nothing can be had from here any more.
        self.closed = False
        self._files = files
        self._shelf = shelf
        #: The last one grows and is cut.
        self._whole: list[PieceFile] = []
        self._holed: list[PieceFile] = []

    def __iter__(self) -> Iterator[PieceFile]:
        """All files, those with holes too."""
        yield from self._whole
        yield from self._holed

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self._whole) + len(self._holed)

    def occupy(self, step: int) -> int | None:
        """Occupy up to `step` bytes more; return how many, None: there is no more.

        Holes come first, and may be fewer than were looked at: even none.
        """
        if self._holed:
            return self._fill(step)
        became = self.grow(self._whole, step)
        self.size += became or 0
        return became

    def grow(self, pieces: list[PieceFile], step: int) -> int | None:
        """Grow the last of `pieces`, or a new one, by up to `step`; as `occupy`."""
        if self.closed:
            return None
        room = pieces[-1].room(self.piece_bytes) if pieces else 0
        try:
            if room:
                pieces[-1].grow(min(step, room))
                return min(step, room)
            piece = PieceFile(self._files.new(), self._shelf)
            try:
                piece.grow(min(step, self.piece_bytes))
            except OSError:
                piece.close()
                raise
        except OSError as error:
            # the kernel has undone the step: fallocate is all or nothing here
            if error.errno in _NO_MORE:
                return None
            raise
        pieces.append(piece)
        return piece.size

    def _fill(self, step: int) -> int | None:
        piece = self._holed[-1]
        before = piece.occupied
        try:
            piece.fill(step)
        except OSError as error:
            if error.errno in _NO_MORE:
                return None
            raise
        became = piece.occupied - before
        if piece.whole:
            self._holed.pop()
            self.put(piece)
        return became

    def cut(self, amount: int) -> None:
        """Free `amount` bytes of whole files.  Never allocates."""
        self.size -= amount
        while amount > 0:
            piece = self._whole[-1]
            step = min(amount, piece.size)
            piece.cut(step)
            if not piece.size:
                self._whole.pop().close()
            amount -= step

    def free_holed(self, amount: int) -> int:
        """Free files with holes until it is `amount` bytes, or all; return how many."""
        freed = 0
        while freed < amount and self._holed:
            piece = self._holed.pop()
            freed += piece.occupied
            piece.close()
        return freed

    def pick(self, amount: int, user: int) -> list[PieceFile]:
        """Take out whole files that `user` may have, `amount` bytes at most.

        The biggest first: so what is left of `amount` is less than any file that
        stays and that he may have.
        """
        picked = []
        for piece in sorted(self._whole, key=lambda piece: piece.size, reverse=True):
            if piece.size <= amount and piece.user in (None, user):
                amount -= piece.size
                self.size -= piece.size
                self._whole.remove(piece)
                picked.append(piece)
        return picked

    def put(self, piece: PieceFile) -> int:
        """Have a file as the last one; return its bytes, 0 when nothing is in it.

        Last, so that what clients had is dropped first.  After `close` it is freed.
        """
        if self.closed:
            self.let_go(piece)
            return 0
        if not piece.size:
            piece.close()
            return 0
        if piece.whole:
            self._whole.append(piece)
            self.size += piece.size
        else:
            self._holed.append(piece)
        return piece.occupied

    def close(self) -> None:
        """Free all, but what is on a shelf.  Closing twice is allowed."""
        self.closed = True
        for piece in self:
            self.let_go(piece)
        self._whole, self._holed, self.size = [], [], 0
        self._files.close()

    def let_go(self, piece: PieceFile) -> None:
        """Close a file for good: free it, or leave it on the shelf."""
        if self._shelf is None:
            piece.close()
        else:
            piece.leave()
