"""The directories a disk's ballast lies in: ours alone, locked, and what is in them.

    PATH/.holdingpen/             0700, ours: nobody else gets in
        ballast-N                 held, or kept for a lease that has not got it yet
        file-LEASE, image-LEASE   handed over as an open file, as a file system
        gone-LEASE-...            being removed
    PATH/.holdingpen-leases/      0711, ours
        LEASE/                    0700, the client's
    MOUNTS/LEASE/                 an image, mounted

PATH may be a directory where everybody writes.  So both names must be directories
that belong to us, and everything in them is meant from the open directory on.

A lock keeps a second daemon out: flock(2) of the directory, gone with its holder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from holdingpen.amounts import format_size
from holdingpen.ballast import mounting, scratch, trees
from holdingpen.ballast.blocks import UNIT, BlockFile, Pool, fallocate
from holdingpen.ballast.lent import in_use
from holdingpen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Container

OURS: Final = ".holdingpen"
LEASES: Final = ".holdingpen-leases"

#: Has the blocks that show whether the file system can do what we need.
_PROBE: Final = "probe"


class Left(NamedTuple):
    """What a lease had when a former daemon ended."""

    lease: int
    #: "file", "image" or "directory".
    kind: str
    #: As the client left it; None: a directory.
    file: BlockFile | None


class Grounds:
    """The directories of one disk."""

    def __init__(self, path: Path, mounts: Path) -> None:
        """Take possession of those in `path`; nothing in them is looked at.

        Raises:
            Unavailable: when they are not ours, or another daemon has them.
        """
        #: Where file systems are mounted, for this disk alone.
        self.mounts = mounts
        self.path = path
        #: What was found and cleared: sentences for the log.
        self.notes: list[str] = []
        #: What was found and may go on; nobody has decided yet.
        self.left: deque[Left] = deque()
        #: Open: PATH/.holdingpen, locked.
        self.ours = _open_locked(path / OURS)
        try:
            #: Open: PATH/.holdingpen-leases.
            self.leases = trees.open_own(path / LEASES, 0o711)
        except BaseException:
            os.close(self.ours)
            raise

    def place(self, lease: int) -> Path:
        """The directory that `lease` may have on the disk itself."""
        return self.path / LEASES / str(lease)

    def make(self, lease: int, uid: int, gid: int) -> None:
        """Make that directory, for `uid` alone.

        Raises:
            OSError: when we may not, or have no room; nothing is left then.
        """
        name = str(lease)
        os.mkdir(name, 0o700, dir_fd=self.leases)
        try:
            mounting.give(name, uid, gid, self.leases)
        except OSError:
            os.rmdir(name, dir_fd=self.leases)
            raise

    def remove(self, lease: int | str) -> str:
        """Remove that directory with all that is in it; why not, if not."""
        word = f"gone-{lease}-"
        try:
            return trees.remove_tree(str(lease), self.leases, self.ours, word)
        except OSError as error:
            return f"its directory cannot be removed: {error.strerror}"

    def probe(self, kind: str) -> None:
        """Find out whether the file system can do what is needed.

        Raises:
            Unavailable: when it cannot preallocate, or cannot tell who uses a file.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        what = "make a file"
        try:
            fd = os.open(_PROBE, flags, 0o600, dir_fd=self.ours)
            try:
                what = "tell who uses a file"
                fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
                what = "preallocate"
                fallocate(fd, 0, 0, UNIT)
            finally:
                os.close(fd)
                os.unlink(_PROBE, dir_fd=self.ours)
        except OSError as error:
            # a full disk is no reason to refuse: what is held there may be ours
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return
            raise Unavailable(
                f"cannot hold disk space back in {self.path}: {kind} cannot {what}: "
                f"{error.strerror}. Name a directory on ext4 or xfs."
            ) from None

    def find(self, pool: Pool) -> None:
        """Look at what is there from before.

        Ballast goes into `pool`, and what leases had into `left`.  What belongs to
        nobody is cleared, and `notes` says so.
        """
        for name in _names(self.leases):
            if name.isdecimal():
                self.left.append(Left(int(name), "directory", None))
            else:
                self._clear_directory(name)
        for name in _names(self.ours):
            if name.startswith("gone-"):
                why = trees.remove_moved(self.ours, name)
                self._note(f"{OURS}/{name}", why or "removed")
            else:
                self._find_file(pool, name)

    def _find_file(self, pool: Pool, name: str) -> None:
        kind, _, lease = name.partition("-")
        known = kind == "ballast" or (kind in ("file", "image") and lease.isdecimal())
        file = pool.find(name) if known else None
        if file is None:
            self._note(f"{OURS}/{name}", "not made by this daemon: left alone")
        elif kind == "ballast":
            # what has no blocks is no ballast
            file.shrink(0)
            pool.put(file)
        else:
            self.left.append(Left(int(lease), kind, file))

    def clear(self, left: Left, pool: Pool) -> None:
        """Have back what nobody goes on with: into `pool`, unless it is in use."""
        file = left.file
        if file is None:
            self._clear_directory(str(left.lease))
            return
        for place in scratch.clear(file.fd):
            self._note(str(place), "unmounted")
        name = f"{OURS}/{file.name}"
        if in_use(file.fd):
            pool.remove(file)
            self._note(name, "free when its last user is gone")
        else:
            file.wipe()
            pool.put(file)
            self._note(name, "ballast again")

    def _clear_directory(self, name: str) -> None:
        self._note(f"{LEASES}/{name}", self.remove(name) or "removed")

    def clear_mounts(self, but: Container[Path]) -> None:
        """Remove all places to mount at, `but` those.

        They may be of another path that this disk had: nobody else would find them.
        """
        if not self.mounts.is_dir():
            return
        for place in self.mounts.iterdir():
            if place in but:
                continue
            if place.is_mount():
                self._note(str(place), "unmounted")
            scratch.remove_directory(place)

    def free(self, surplus: int, pool: Pool) -> None:
        """Free `surplus` bytes of the pool, which nobody wants."""
        pool.shrink(surplus)
        self._note("ballast", f"{format_size(surplus)} more than is held: freed")

    def _note(self, what: str, outcome: str) -> None:
        self.notes.append(f"{self.path}: left from before: {what}: {outcome}.")

    def remove_own(self) -> None:
        """Remove the directories themselves, those that are empty."""
        for name in (LEASES, OURS):
            with contextlib.suppress(OSError):
                (self.path / name).rmdir()

    def close(self) -> None:
        """Let go of them, as they are; another may have them now."""
        for one in self.left:
            if one.file is not None:
                os.close(one.file.fd)
        os.close(self.leases)
        os.close(self.ours)


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries)


def _open_locked(path: Path) -> int:
    while True:
        fd = trees.open_own(path, 0o700)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise Unavailable(
                f"cannot hold disk space back in {path}: another daemon does so. "
                "Stop it, or give each a directory of its own."
            ) from None
        # whoever had it until now may have removed it on leaving
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(fd)):
                return fd
        os.close(fd)
