"""The memory of a lease: the pages that were held back for it, as one buffer.

The daemon holds them as several files.  Python's mmap cannot put several files side by
side, so the object maps an empty file of the right length first, and then each piece
over its part of that.  The object stays a `mmap.mmap`, which is what makes it a buffer
that C code knows how to hold on to, on every version of Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import weakref
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import TYPE_CHECKING, Any, NoReturn

from holdingpen.amounts import format_size
from holdingpen.client.finding import reason
from holdingpen.client.pieces import Pieces
from holdingpen.errors import LocalMistake, RemoteMistake, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
#: include/uapi/asm-generic/mman-common.h
_MADV_POPULATE_WRITE = 23
#: Between two looks at whether it was closed: 10 ms.
_POPULATE_BYTES = 64 * 1024 * 1024
_FAILED = ctypes.c_void_p(-1).value
# Of <sys/mman.h>; Python has no names for them.
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MAP_FIXED_NOREPLACE = 0x100000
_MAP_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
_PROT_NONE = 0
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE

#: A huge page of x86-64, and of arm64 with pages of 4 KiB.
_HUGE_BYTES = 2 * 1024 * 1024
#: How often an aligned place is tried for, at 20 us each.
_TRIES = 16


class LeaseMemory(mmap.mmap):
    """The memory that was held back for a lease: `lease.memory()`.

        >>> import holdingpen
        >>> with holdingpen.lease(ram="1G", memory=True) as lease:
        ...     memory = lease.memory()
        ...     memory[:5] = b"hello"
        ...     bytes(memory.buffer[:5]), len(memory), memory.handover
        (b'hello', 1073741824, 'exact')

    These pages are occupied from before the lease was granted until it is over, so
    nobody can take them in between.  It is a buffer as `mmap.mmap` is one, and has
    its methods; `asarray` makes numpy arrays of it.

    What is written is seen by all who share it: children made by `fork`, which have it
    at once, and worker processes of `multiprocessing`, which it may be sent to as an
    argument, or through a queue or a pipe.  Pass the memory and make the array in the
    worker, because an array is copied when it is sent.

        >>> import multiprocessing, operator
        >>> with holdingpen.lease(ram="1G", memory=True) as lease:
        ...     memory = lease.memory()
        ...     words = (memory, 0, 42)
        ...     worker = multiprocessing.Process(target=operator.setitem, args=words)
        ...     worker.start()
        ...     worker.join()
        ...     memory[0]
        42

    Leaving the lease's block closes it, unless an array or a view of it exists: then
    it stays, a ResourceWarning says so, and the daemon waits for its end.  After 10 s
    that counts as foreign use.  So it does when a worker keeps it.
    """

    def __new__(cls, pieces: Pieces, length: int) -> LeaseMemory:
        """Map `length` bytes; programs call `lease.memory()` instead."""
        _check(pieces, length)
        try:
            # a file without a page: it costs nothing, not even where the kernel
            # lets nobody reserve more than there is (vm.overcommit_memory=2)
            with open(os.memfd_create("holdingpen-range"), "r+b", 0) as span:  # noqa: PTH123
                span.truncate(length)
                return cls._aligned(span.fileno(), length)
        except OSError as why:
            raise _unmapped(length, why) from None

    @classmethod
    def _aligned(cls, fd: int, length: int) -> LeaseMemory:
        """Map the file where huge pages can be huge, if that can be had.

        Touching 192 MiB of them there took 3 ms, elsewhere 670.  Python lets the system
        choose the place, which takes the first hole that is large enough: so this
        makes an aligned one, in the first that is larger.  A smaller one before it is
        filled by the first try.
        """
        misses = []
        for _ in range(_TRIES if length >= _HUGE_BYTES else 0):
            with _hole(length) as place:
                found = super().__new__(cls, fd, length)
            if _address(found) == place:
                return found
            misses.append(found)
        return misses[0] if misses else super().__new__(cls, fd, length)

    def __init__(self, pieces: Pieces, length: int) -> None:
        """Put the pieces in; they are ours now, and closed by `close`.

        Raises:
            Unavailable: when the system lets this program map no more.
            RemoteMistake: when the pieces make no memory of that length.
        """
        self._pieces = pieces
        self._address = _address(self)
        at = 0
        for fd, size in zip(pieces.fds, pieces.sizes, strict=True):
            part = min(size, length - at)
            if part:
                place = self._address + at
                if _map(place, part, mmap.MAP_SHARED | _MAP_FIXED, fd) == _FAILED:
                    raise _unmapped(length, _errno())
            at += part

    def populate(self) -> None:
        """Have all of it in this program's page tables, so that touching never waits.

        A blocking lease's `memory()` does it.  The pages are held, but the tables that
        lead to them, 4 KiB for each 2 MiB, are new, and on a machine without a free
        page a program would sleep at its first touch: so it did, behind a thief who
        slept there first.  Each page is zeroed on the way, which the first touch would
        do too: 0.15 s for each GiB of huge pages.  Linux 5.14; before that it does
        nothing.
        """
        at, length = 0, 0 if self.closed else len(self)
        while at < length and not self.closed:
            part = min(_POPULATE_BYTES, length - at)
            if _libc.madvise(self._address + at, part, _MADV_POPULATE_WRITE) < 0:
                return
            at += part

    @property
    def buffer(self) -> memoryview:
        """All of it as a writable view of bytes, in the format `B`.

        While it exists, or anything made of it, `close` raises BufferError.  Hand this
        to libraries that keep no view of a buffer themselves, but only the object they
        were given: `np.ndarray(buffer=...)`, `torch.frombuffer`.
        """
        return memoryview((ctypes.c_ubyte * len(self)).from_buffer(self)).cast("B")

    def asarray(
        self, dtype: npt.DTypeLike = "f8", shape: int | tuple[int, ...] | None = None
    ) -> npt.NDArray[Any]:
        """A numpy array over it, which copies nothing.

            >>> import holdingpen
            >>> with holdingpen.lease(ram="1G", memory=True) as lease:
            ...     numbers = lease.memory().asarray("f4", shape=(1000, 1000))
            ...     numbers[2, 3] = 1.5
            ...     float(numbers.sum())
            ...     del numbers
            1.5

        It must be gone before the memory can be closed.

        Args:
            dtype: what it is an array of.
            shape: its shape, from the beginning of the memory; None: as many as fit,
                in one row.

        Raises:
            LocalMistake: when the memory is too small for it.
            Unavailable: numpy is not installed.
        """
        np = _numpy()
        kind = np.dtype(dtype)
        row: npt.NDArray[Any]
        row = np.frombuffer(self, kind, len(self) // kind.itemsize)
        if shape is None:
            return row
        sides = (shape,) if isinstance(shape, int) else tuple(shape)
        count = math.prod(sides)
        if min(sides, default=0) < 0 or count > len(row):
            raise LocalMistake(
                f"an array of the shape {sides} has {count} items, and this memory has "
                f"room for {len(row)} of {kind.name}. Every side is 0 or more."
            )
        return row[:count].reshape(sides)

    @property
    def fds(self) -> tuple[int, ...]:
        """The open files it is made of, in order; none once it is closed.

        For programs that pass them on themselves.  They may be longer than their part.
        """
        return tuple(self._pieces.fds)

    @property
    def handover(self) -> str:
        """How it came: `exact`, or `best-effort` when a part was found only now."""
        return self._pieces.handover

    def close(self) -> None:
        """Let go of it: the daemon can have it back.  A second time does nothing.

        Raises:
            BufferError: when an array or a view of it still exists; nothing has
                changed then.
        """
        if self.closed:
            return
        length = len(self)
        super().close()
        self._pieces.close()
        self._guard(length)

    def _guard(self, length: int) -> None:
        # Some libraries remember where a buffer is and hold no view of it (see
        # `buffer`).  As long as they hold the object, they shall meet zeros there, not
        # a fault or somebody else's memory.
        flags = _MAP_PRIVATE | _MAP_FIXED_NOREPLACE
        place = _map(self._address, length, flags, -1)
        if place == self._address:
            weakref.finalize(self, _libc.munmap, place, length).atexit = False
        elif place != _FAILED:
            _libc.munmap(place, length)

    def resize(self, newsize: int) -> NoReturn:
        """Not possible: ask for another lease, or give a part back with `shrink`.

        Raises:
            LocalMistake: always.
        """
        raise LocalMistake(
            f"the memory of a lease has {len(self)} bytes and cannot have {newsize}. "
            "Ask for another lease for more."
        )

    def __enter__(self) -> LeaseMemory:
        return self

    def __exit__(self, *why: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<LeaseMemory closed>"
        return f"<LeaseMemory {format_size(len(self))} {self.handover}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise LocalMistake(
            "the memory of a lease cannot be pickled: it is shared, never copied. Send "
            "it to another process through multiprocessing, or save bytes(memory)."
        )


def _check(pieces: Pieces, length: int) -> None:
    """Whether the pieces make so much memory; touching what is not there kills."""
    total = sum(pieces.sizes)
    if not 0 < length <= total:
        raise RemoteMistake(
            f"the daemon passed {total} bytes for a lease of {length}.", "out-of-turn"
        )
    for fd, size in zip(pieces.fds, pieces.sizes, strict=True):
        if size <= 0 or os.fstat(fd).st_size < size:
            raise RemoteMistake(
                f"the daemon passed a file of {os.fstat(fd).st_size} bytes as one of "
                f"{size}.",
                "out-of-turn",
            )
    if any(size % mmap.PAGESIZE for size in pieces.sizes[:-1]):
        raise RemoteMistake(
            f"the daemon passed a piece that is no multiple of {mmap.PAGESIZE} bytes, "
            "and others after it.",
            "out-of-turn",
        )


def _address(memory: mmap.mmap) -> int:
    # A view for a moment only: nothing with a view can be closed.
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


@contextlib.contextmanager
def _hole(length: int) -> Iterator[int]:
    """Make a hole for `length` bytes at a multiple of a huge page; yield its place."""
    length += -length % mmap.PAGESIZE
    around = _map(None, length + _HUGE_BYTES, _MAP_PRIVATE, -1, _PROT_NONE)
    if around is None or around == _FAILED:
        raise _errno()
    place = around + -around % _HUGE_BYTES
    _libc.munmap(place, length)
    try:
        yield place
    finally:
        # what is left of it: munmap takes no part of 0 bytes
        _libc.munmap(around, place - around)
        _libc.munmap(place + length, around + _HUGE_BYTES - place)


def _map(
    place: int | None, length: int, flags: int, fd: int, rights: int = _READ_WRITE
) -> int | None:
    address: int | None = _libc.mmap(place, length, rights, flags, fd, 0)
    return address


def _errno() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _unmapped(length: int, why: OSError) -> Unavailable:
    return Unavailable(
        f"{format_size(length)} of leased memory could not be mapped: {reason(why)}. "
        "'ulimit -a' shows what this program is limited to."
    )


def _numpy() -> Any:
    try:
        import numpy as np
    except ImportError as why:
        raise Unavailable(
            f"asarray() needs numpy, which cannot be imported ({why}). Install it, or "
            "use the buffer as it is.",
        ) from None
    return np


def _sent(
    memory: LeaseMemory,
) -> tuple[Callable[..., LeaseMemory], tuple[object, ...]]:
    """What goes to another process instead of the bytes: the files."""
    if memory.closed:
        raise LocalMistake("this memory of a lease is closed and cannot be sent.")
    pieces = memory._pieces  # noqa: SLF001
    files = [DupFd(fd) for fd in pieces.fds]
    return _arrived, (files, pieces.sizes, pieces.handover, len(memory))


def _arrived(
    files: list[Any], sizes: list[int], handover: str, length: int
) -> LeaseMemory:
    with Pieces([], sizes, handover) as pieces:
        for file in files:
            pieces.fds.append(file.detach())
        return LeaseMemory(pieces, length)


ForkingPickler.register(LeaseMemory, _sent)
