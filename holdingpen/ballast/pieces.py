"""One file of the ballast: grown, cut, lent, taken back and wiped.

Who else uses it is asked in lent.py.  What the kernel does not count there: pages
that were pinned (io_uring), or moved into a pipe by splice(2), stay with whoever did
it, and what is written into them later is his to see (tried).  Hence `user`: a file
that one user had is never lent to another.

A client may cut its file, and punch holes in it.  A tmpfs file cannot be sealed
against that (it has F_SEAL_SEAL from the start), and a memfd is only sealed against
the cut.  It hurts nobody here, for the daemon never maps a file.  `wipe` finds out what
is left of it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from typing import TYPE_CHECKING

from holdingpen.ballast.lent import open_again

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdingpen.ballast.shelf import Left, Shelf

#: Ballast comes and goes in multiples of this many bytes: one huge page of x86-64
#: and of arm64 with pages of 4 KiB.
UNIT = 2 * 1024 * 1024

# What is written over what a client wrote: never written itself, so it is one page of
# zeros mapped many times.  From 64 KiB to 16 MiB all sizes wipe equally fast.
_ZEROS = memoryview(bytes(1024 * 1024))

_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2
_KEPT_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

_libc = ctypes.CDLL(None, use_errno=True)


class PieceFile:
    """A file of shared memory that is occupied from its beginning to `size`.

    Not safe in several threads at once: the ballast's lock sees to that.
    """

    def __init__(self, fd: int, shelf: Shelf | None = None) -> None:
        """Own `fd`, an empty file, opened by open(2); `shelf`: where it outlives us."""
        #: Bytes that are the ballast's, a multiple of UNIT.
        self.size = 0
        #: Bytes from its beginning that are surely occupied; less than `size` only
        #: in a file that came back with holes.
        self.filled = 0
        #: Whose hands it has been in; None: in nobody's.
        self.user: int | None = None
        #: -1 when closed.
        self.fd = fd
        #: Its number on the shelf; 0: it is on none.
        self.number = 0
        self._shelf = shelf
        # Its length, which cannot change any more; None while it can.
        self._sealed_length: int | None = None

    @classmethod
    def found(cls, left: Left, shelf: Shelf) -> PieceFile:
        """Take up what a former process had, lent or not."""
        piece = cls(left.fd, shelf)
        piece.number, piece.user = left.number, left.label.user
        length = os.fstat(piece.fd).st_size
        piece.size = length // UNIT * UNIT
        if fcntl.fcntl(piece.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            piece._sealed_length = length
        if left.label.lease is not None:
            # its client is at it; what he left of it is seen when it is back
            piece.filled = piece.size
            return piece
        if piece._sealed_length is not None:
            # its tail was cut, which its length does not show; or it has holes, and
            # loses some
            piece.size = min(piece.size, piece.occupied // UNIT * UNIT)
        piece._free_beyond_size()
        piece._see_if_whole()
        return piece

    @property
    def occupied(self) -> int:
        """Bytes occupied at this moment, as the kernel counts them (1 us)."""
        return os.fstat(self.fd).st_blocks * 512

    @property
    def whole(self) -> bool:
        """Whether there are no holes in it."""
        return self.filled == self.size

    def room(self, size_max: int) -> int:
        """Bytes it can grow by, up to `size_max` in all."""
        if self._sealed_length is not None:
            size_max = self._sealed_length
        return max(0, size_max - self.size)

    def grow(self, step: int) -> None:
        """Occupy `step` bytes more, all of them or none.

        Raises:
            OSError: when the system has no more.
        """
        os.posix_fallocate(self.fd, self.size, step)
        self.size += step
        self.filled = self.size
        if self._shelf is not None and not self.number:
            self.number = self._shelf.put(self.fd)

    def fill(self, step: int) -> None:
        """Occupy what is not in the next `step` bytes of a file with holes.

        Raises:
            OSError: when the system has no more.
        """
        step = min(step, self.size - self.filled)
        os.posix_fallocate(self.fd, self.filled, step)
        self.filled += step
        self._see_if_whole()

    def cut(self, step: int) -> None:
        """Free the last `step` bytes.  Never allocates."""
        self.size -= step
        self.filled = min(self.filled, self.size)
        self._free_beyond_size()

    def _free_beyond_size(self) -> None:
        if self._sealed_length is None:
            # even when that is its length: a client can have occupied more beyond
            os.ftruncate(self.fd, self.size)
        elif self.size < self._sealed_length:
            mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
            span = (self.size, self._sealed_length - self.size)
            if _libc.fallocate64(self.fd, mode, *map(ctypes.c_int64, span)):
                number = ctypes.get_errno()
                raise OSError(number, f"punch a hole: {os.strerror(number)}")

    def close(self) -> None:
        """Free all of it."""
        # closing alone would not, while somebody looks at it through /proc
        self.cut(self.size)
        self.leave()
        if self._shelf is not None and self.number:
            self._shelf.remove(self.number)

    def leave(self) -> None:
        """Close it as it is: on the shelf it stays."""
        os.close(self.fd)
        self.fd = -1

    def lend(self) -> int:
        """Seal it where that is possible, and return a new descriptor of it.

        Raises:
            OSError: no more descriptors can be had, or nobody could tell later
                whether it is still in use.
        """
        try:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _KEPT_SEALS)
            self._sealed_length = os.fstat(self.fd).st_size
        except PermissionError:
            pass  # a tmpfs file, or sealed before
        return open_again(self.fd)

    def wipe(self) -> None:
        """Make what was written to it zeros, and see what a client has left of it.

        No page changes hands for that: each stays occupied, and is written over.
        What nobody ever touched is not: the kernel knows it, and it holds nothing.
        8 GiB/s of huge pages, 5 GiB/s of small ones, without the GIL.

        Raises:
            OSError: when it cannot be wiped; then it must be closed.
        """
        length = os.fstat(self.fd).st_size
        self.size = min(self.size, length // UNIT * UNIT)
        self._free_beyond_size()
        for start, end in self._written():
            while start < end:
                start += os.pwrite(self.fd, _ZEROS[: end - start], start)
        self.filled = 0
        self._see_if_whole()

    def _see_if_whole(self) -> None:
        if self.occupied == self.size:
            self.filled = self.size

    def _written(self) -> Iterator[tuple[int, int]]:
        end = 0
        while end < self.size:
            try:
                start = os.lseek(self.fd, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return
            end = os.lseek(self.fd, start, os.SEEK_HOLE)
            yield start, end
