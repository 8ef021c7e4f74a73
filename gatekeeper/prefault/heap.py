"""The heap of glibc's malloc, made to grow, and to keep what it has grown by.

What is asked of malloc later is taken from it, so that no page need be found then:
mapping is forbidden, giving back to the system is off, and all threads share it
(mallopt(3)).  That stays so for as long as the process lives.

Linux and glibc only.  Other C libraries have no mallopt; other mallocs (jemalloc,
tcmalloc by LD_PRELOAD) do not grow by brk(2), and that is noticed.
"""

from __future__ import annotations

import ctypes
import os
from errno import EINVAL

from holdingpen.errors import Unavailable

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8

#: As malloc is by itself (mallopt(3)).
_USUAL = {_M_TRIM_THRESHOLD: 128 * 1024, _M_MMAP_MAX: 65536, _M_ARENA_MAX: 0}
_TOP_PAD_BYTES = 128 * 1024

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")

#: madvise(2), from Linux 5.14; Python does not name it.
MADV_POPULATE_WRITE = 23


class Heap:
    """The heap of this process."""

    def __init__(self) -> None:
        """Set malloc up.

        Raises:
            Unavailable: `no-heap`, when this C library's malloc is not glibc's.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._mallopt = libc.mallopt
        except AttributeError:
            raise _no_heap("this C library is not glibc") from None
        self._malloc = libc.malloc
        self._malloc.argtypes = [ctypes.c_size_t]
        self._malloc.restype = ctypes.c_void_p
        self._free = libc.free
        self._free.argtypes = [ctypes.c_void_p]
        self._free.restype = None
        self._sbrk = libc.sbrk
        self._sbrk.argtypes = [ctypes.c_ssize_t]
        self._sbrk.restype = ctypes.c_void_p
        self._madvise = libc.madvise
        self._madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        #: Bytes by which the heap has been extended, and those of them with pages.
        self._grown = 0
        self._filled = 0
        self._set(_M_TRIM_THRESHOLD, -1)
        self._set(_M_MMAP_MAX, 0)
        self._set(_M_ARENA_MAX, 1)
        self._set(_M_TOP_PAD, 0)

    def close(self) -> None:
        """Let malloc grow as usual when all is used up; undo the rest if all failed."""
        self._set(_M_TOP_PAD, _TOP_PAD_BYTES)
        if not self._filled:
            for what, value in _USUAL.items():
                self._set(what, value)

    def extend(self, size: int) -> tuple[int, int]:
        """Add addresses, without pages, at the heap's end.

        Args:
            size: bytes, a few MiB.

        Returns:
            Where they begin and how many bytes it became: about `size`.

        Raises:
            Unavailable: `no-heap`, when the heap does not grow so.
        """
        before = self._sbrk(0)
        # The free end of the heap is as big as all our growth, so that this does not
        # fit in.  Freed again at once, lest anything comes to lie behind it.
        block = self._malloc(self._grown + size)
        if block is None:
            raise _no_heap(f"malloc gives no {self._grown + size} bytes")
        self._free(block)
        grown = self._sbrk(0) - before
        if not size // 2 <= grown <= 2 * size:
            raise _no_heap(
                f"malloc does not grow step by step: by {grown} bytes, not {size}"
            )
        self._grown += grown
        return before, grown

    def fill(self, start: int, size: int) -> None:
        """Have the pages of these addresses there, without changing what is in them.

        Raises:
            Unavailable: `no-heap`, when the system has no more pages for us.
        """
        aligned = start & -_PAGE_BYTES
        length = size + start - aligned
        if self._madvise(aligned, length, MADV_POPULATE_WRITE) != 0:
            why = ctypes.get_errno()
            if why != EINVAL:
                raise _no_heap(f"the system gives no pages ({os.strerror(why)})")
            # before Linux 5.14; nobody else runs yet who could write in between
            pages = (ctypes.c_ubyte * length).from_address(aligned)
            for at in range(0, length, _PAGE_BYTES):
                pages[at] = pages[at]
        self._filled += size

    def _set(self, what: int, value: int) -> None:
        if self._mallopt(what, value) != 1:
            raise _no_heap(f"mallopt does not take {value} for {what}")


def _no_heap(why: str) -> Unavailable:
    return Unavailable(why, "no-heap")
