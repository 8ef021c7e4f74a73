"""RAM held back as the pages of a file that only this process has.

The ballast is a file of shared memory, held by its descriptor and never mapped:
posix_fallocate(3) at its end occupies more, ftruncate(2) gives the tail back.  Never
mapped, because

* pages of an unmapped file are in nobody's resident set, so the OOM killer sees
  nothing in this process worth killing (measured: with 500 MiB held so, the program
  that wanted too much was killed and the holder was not);
* nobody waits for the lock of an address space while it grows (measured: populating
  3 GiB of anonymous memory in one call stops every other thread's mmap(2) for 0.9 s);
* a descriptor can be passed to a client.

What the pages are decides how fast they are given back:

    kind         4 GiB taken   4 GiB dropped   never swapped out
    huge tmpfs        7 ms          9 ms       as root, Linux 6.4 and later
    memfd           950 ms        510 ms       no

(AMD EPYC of 2024, 2 virtual CPUs, Linux 6.18.)  A huge page is not zeroed until
somebody maps it, which nobody does.

**Dropping never allocates.**  It is one subtraction and one ftruncate(2), which
frees whole pages and needs no memory of its own in the kernel; the file is not
looked at, no message is made, nothing is logged.  It works in a memory cgroup that
is full to the last page.  Both calls let go of the GIL.

**Taking can kill.**  When the memory cgroup of this process is at its limit,
posix_fallocate does not fail: the kernel reclaims and, finding nothing, calls the
cgroup's OOM killer.  When the machine is short, it reclaims from everybody.  What
prevents both is the guard `may`, asked before each step of `STEP` bytes.  It must
leave at least that much room.

`noswap` false means that pressure can push the ballast into swap, where it holds
nothing.  The remedy is outside: `MemorySwapMax=0` for the service.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from holdingpen.ballast import hugefile
from holdingpen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

#: Ballast comes and goes in multiples of this many bytes: one huge page of x86-64
#: and of arm64 with pages of 4 KiB.
UNIT = 2 * 1024 * 1024

#: Bytes occupied between two looks at the guard.  0.02 ms of huge pages, 4 ms of
#: small ones.
STEP = 16 * 1024 * 1024

HUGE = "huge tmpfs"
MEMFD = "memfd"

# What the system says when there is no more: of memory, of commit limit
# (vm.overcommit_memory=2), of RLIMIT_FSIZE.
_NO_MORE = (errno.ENOMEM, errno.ENOSPC, errno.EFBIG)

# Linux 6.3: where vm.memfd_noexec=2, a memfd that could be executed is refused.
_MFD_NOEXEC_SEAL = 8


class RamBallast:
    """RAM occupied by the pages of one file.  Made by `open_ram_ballast`.

    `take` and `drop` may run in two threads at once: a drop waits for one step of
    the taking at most, not for its end.
    """

    def __init__(self, fd: int, kind: str, why: str, *, noswap: bool) -> None:
        """Own `fd`, an empty file of shared memory of which nobody else knows."""
        #: "huge tmpfs" or "memfd".
        self.kind = kind
        #: One sentence on why it is no better kind; empty for the best.
        self.why = why
        #: Whether the kernel has promised never to swap it out.
        self.noswap = noswap
        #: -1 when closed.
        self._fd = fd
        #: Length of the file in bytes, a multiple of UNIT; guarded by `_lock`.
        self._size = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes occupied at this moment, as the kernel counts them (1 us).

        What was swapped out counts too: see `noswap`.
        """
        return os.fstat(self._fd).st_blocks * 512 if self._fd >= 0 else 0

    def take(self, amount: int, may: Callable[[int], bool]) -> int:
        """Occupy up to `amount` more bytes, step by step.

        Args:
            amount: bytes, rounded down to a multiple of `UNIT`.
            may: asked before each step with the step's bytes, at most `STEP`; its
                first no ends the taking.  It may be slow and may raise.

        Returns:
            Bytes taken, a multiple of `UNIT`: less than asked when `may` said no or
            when the system has no more.

        Raises:
            OSError: for anything else than want of memory; steps before it stand.
        """
        taken = 0
        while (step := min(STEP, (amount - taken) // UNIT * UNIT)) > 0 and may(step):
            if not self._grow(step):
                break
            taken += step
        return taken

    def _grow(self, step: int) -> bool:
        with self._lock:
            try:
                os.posix_fallocate(self._fd, self._size, step)
            except OSError as error:
                # the kernel has undone the step: fallocate is all or nothing here
                if error.errno in _NO_MORE:
                    return False
                raise
            self._size += step
        return True

    def drop(self, amount: int) -> int:
        """Give back at least `amount` bytes, or all there is.  Never allocates.

        Args:
            amount: bytes, rounded up to a multiple of `UNIT`.

        Returns:
            Bytes given back.  They are free when this returns, though MemAvailable
            may not yet show all of them: see `Host.ram_available`.
        """
        with self._lock:
            given = min(-(-amount // UNIT) * UNIT, self._size)
            if given <= 0:
                return 0
            os.ftruncate(self._fd, self._size - given)
            self._size -= given
        return given

    def close(self) -> None:
        """Give everything back for good.  Closing twice is allowed."""
        with self._lock:
            fd, self._fd, self._size = self._fd, -1, 0
        if fd >= 0:
            os.close(fd)


def open_ram_ballast() -> RamBallast:
    """Open an empty ballast of the best kind this machine and user have.

    Safe in a process with threads.  At worst it takes `hugefile.HELPER_TIMEOUT_S`;
    it leaves no child behind.

    Raises:
        Unavailable: when not even a memfd can be had.
    """
    try:
        fd, noswap = hugefile.open_huge_file()
    except OSError as error:
        return _open_memfd(f"No huge pages: {error.strerror}.")
    try:
        if _gives_huge_pages(fd):
            return RamBallast(fd, HUGE, "", noswap=noswap)
    except OSError:
        pass
    os.close(fd)
    return _open_memfd(
        "The kernel gives a tmpfs mounted huge=always no huge pages: see "
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled (deny?)."
    )


def _gives_huge_pages(fd: int) -> bool:
    # mount options say what was asked for; only a page table says what was given
    os.posix_fallocate(fd, 0, UNIT)
    try:
        with mmap.mmap(fd, UNIT) as page:
            page[0] = 0
            return _mapped_huge_bytes(os.fstat(fd)) >= UNIT
    finally:
        os.ftruncate(fd, 0)


def _mapped_huge_bytes(file: os.stat_result) -> int:
    """Bytes of `file` mapped here as huge pages: proc_pid_smaps(5)."""
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
    sought, here = [device, str(file.st_ino)], False
    for line in Path("/proc/self/smaps").read_text(errors="replace").splitlines():
        words = line.split()
        if "-" in words[0]:
            here = words[3:5] == sought
        elif here and words[0] == "ShmemPmdMapped:":
            return int(words[1]) * 1024
    return 0


def _open_memfd(why: str) -> RamBallast:
    for flags in (os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL, os.MFD_CLOEXEC):
        try:
            fd = os.memfd_create("holdingpen", flags)
        except OSError as error:
            refusal = error
        else:
            return RamBallast(fd, MEMFD, why, noswap=False)
    raise Unavailable(
        f"cannot hold RAM back: memfd_create: {refusal.strerror}. {why} "
        "Set [ram] hold = 0 to run without ballast."
    )
