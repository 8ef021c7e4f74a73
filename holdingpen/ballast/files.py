"""Where the files of a ballast come from: the best kind this machine and user have.

huge tmpfs   hugefile.py; wanted
memfd        memfd_create(2): small pages, and nothing else that one could miss
"""

from __future__ import annotations

import errno
import os
from typing import Protocol

from holdingpen.ballast import hugefile, mounting, pages
from holdingpen.ballast.lent import open_again
from holdingpen.ballast.pieces import UNIT
from holdingpen.errors import Unavailable

HUGE = "huge tmpfs"
MEMFD = "memfd"

# Linux 6.3: where vm.memfd_noexec=2, a memfd that could be executed is refused.
_MFD_NOEXEC_SEAL = 8


class Files(Protocol):
    """A source of files of shared memory."""

    @property
    def kind(self) -> str:
        """What they are, in a word or two."""

    @property
    def why(self) -> str:
        """One sentence on why they are no better kind; empty for the best."""

    @property
    def noswap(self) -> bool:
        """Whether the kernel has promised never to swap them out."""

    def new(self) -> int:
        """Have a new empty file that open(2) opened, for this user alone.

        Raises:
            OSError: when none can be had.
        """

    def close(self) -> None:
        """Let no more be opened.  What was opened stays.  Doing it twice is allowed."""


class HugeFiles:
    """Files of huge pages, on a tmpfs of our own."""

    kind = HUGE
    why = ""

    def __init__(self, mount: int, *, noswap: bool) -> None:
        """Own what `hugefile.open_mount` returned."""
        self.noswap = noswap
        self._mount = mount

    def new(self) -> int:
        """Have a new empty file."""
        return hugefile.open_file(self._mount)

    def close(self) -> None:
        """Let no more be opened."""
        mount, self._mount = self._mount, -1
        if mount >= 0:
            os.close(mount)


class MemFiles:
    """Files of small pages that can be swapped out."""

    kind = MEMFD
    noswap = False

    def __init__(self, why: str) -> None:
        """Say `why` there is nothing better."""
        self.why = why

    def new(self) -> int:
        """Have a new empty file."""
        made = memfd("holdingpen")
        try:
            # by default anybody may open it, as who was lent it can find it again for
            # ever (tried: O_PATH)
            os.fchmod(made, 0o600)
            # what memfd_create returns is not counted as open
            return open_again(made)
        finally:
            os.close(made)

    def close(self) -> None:
        """Nothing is held open between two files."""


def memfd(name: str) -> int:
    """Make an empty file of shared memory that cannot be executed.

    Raises:
        OSError: when none can be had.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create(name, flags)


def open_files() -> Files:
    """Find the best source there is.

    Safe in a process with threads.  At worst it takes `hugefile.HELPER_TIMEOUT_S`, or
    twice `mounting.ANSWER_S`; it leaves no child behind.

    Raises:
        Unavailable: when not even a memfd can be had.
    """
    try:
        if mounting.socket_path():
            mount, noswap = mounting.mount_huge()
        else:
            mount, noswap = hugefile.open_mount()
    except OSError as error:
        return _mem_files(f"No huge pages: {error.strerror}.")
    files = HugeFiles(mount, noswap=noswap)
    try:
        if _gives_huge_pages(files):
            return files
    except OSError:
        pass
    files.close()
    return _mem_files(
        "The kernel gives a tmpfs mounted huge=always no huge pages: see "
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled (deny?)."
    )


def _gives_huge_pages(files: Files) -> bool:
    # mount options say what was asked for; only a page table says what was given
    fd = files.new()
    try:
        os.posix_fallocate(fd, 0, UNIT)
        return pages.mapped_huge_bytes(fd) >= UNIT
    finally:
        os.close(fd)


def _mem_files(why: str) -> Files:
    files = MemFiles(why)
    try:
        os.close(files.new())
    except OSError as error:
        raise Unavailable(
            f"cannot hold RAM back: memfd_create: {error.strerror}. {why} "
            "Set [ram] hold = 0 to run without ballast."
        ) from error
    return files
