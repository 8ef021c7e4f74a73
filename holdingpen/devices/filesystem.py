"""The file system of one directory: what it has, what is used, what it promises.

What it is, is read from the mount that an open directory lies on: /proc/self/fdinfo
names it (`mnt_id`) and /proc/self/mountinfo describes it.  Device numbers would not
do: each btrfs subvolume has one of its own that no mount shows.

**Whose bytes.**  ext4 keeps a part (5 % by default) for root.  It can never be lent
to anybody else, so here it is neither there nor available.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from holdingpen.errors import Unavailable

#: Where fallocate(2) sets blocks apart that nobody else can have.
RESERVES: Final = frozenset({"ext4", "xfs", "tmpfs"})

_COPIES = "it writes elsewhere than it preallocated (copy on write)"
#: Why it is no reservation elsewhere.
_WHY_NOT: Final = {
    "btrfs": _COPIES,
    "bcachefs": _COPIES,
    "zfs": _COPIES + "; there `zfs set refreservation` is one",
    "overlay": "what lies below it decides; name a directory of the file system itself",
    "nfs": "the server decides",
    "nfs4": "the server decides",
    "cifs": "the server decides",
    "ext3": "it cannot preallocate",
    "ext2": "it cannot preallocate",
}

#: Directories below one another that `used` goes into: each costs a descriptor while
#: it is there.  What lies deeper does not count.
DEPTH_MAX: Final = 100

#: st_blocks counts in these, whatever the file system's own: inode(7).
_BLOCK = 512


class FileSystem:
    """The file system that a directory lies on."""

    def __init__(
        self, path: Path, mounts: Path = Path("/proc/self/mountinfo"), kind: str = ""
    ) -> None:
        """Look at the file system of `path`.

        Args:
            path: an existing directory.
            mounts: proc_pid_mountinfo(5).
            kind: what it is, when that is known.

        Raises:
            Unavailable: when `path` is no directory that can be opened.
        """
        self.path = path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Unavailable(
                f"cannot lend disk space in {path}: {error.strerror}. Make the "
                "directory, or name another by path in its [disk] table."
            ) from None
        try:
            #: "ext4", "xfs", "fuse.sshfs", ...; "unknown" when no mount says it.
            self.kind = kind or _kind(fd, mounts)
        finally:
            os.close(fd)

    @property
    def why(self) -> str:
        """Why preallocation is no reservation here, a sentence; empty: it is one."""
        if self.kind in RESERVES:
            return ""
        kind, _, driver = self.kind.partition(".")
        because = _WHY_NOT.get(kind, "it is not known to keep what it preallocated")
        if kind == "fuse" or driver:
            because = "a program decides"
        return f"On {self.kind} preallocation is no reservation: {because}."

    def available(self) -> int:
        """Bytes that others than root may still write."""
        now = os.statvfs(self.path)
        return now.f_bavail * now.f_frsize

    def total(self) -> int:
        """Bytes that others than root may have in all, used ones included.

        Root's part counts as far as root has not used it yet.
        """
        now = os.statvfs(self.path)
        return (now.f_blocks - (now.f_bfree - now.f_bavail)) * now.f_frsize

    def used(self, directory: Path) -> int:
        """As `used`, of a directory on this file system."""
        return used(directory)


def _kind(fd: int, mounts: Path) -> str:
    info = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
    mount = info[info.index("mnt_id:") + 1]
    for line in mounts.read_text(errors="replace").splitlines():
        # 36 35 98:0 /root /mount rw,noatime shared:1 - ext3 /dev/root rw
        left, _, right = line.partition(" - ")
        if left.split(" ", 1)[0] == mount and right:
            return right.split(" ", 1)[0]
    return "unknown"


def used(directory: Path) -> int:
    """Bytes that a tree of files occupies at this moment.

    A file with several names counts once; nothing is followed, neither links nor
    into other file systems; what vanishes meanwhile does not count.  It takes 2 us
    for each file.

    Args:
        directory: the root of the tree, which counts too; one that is not there has
            nothing.
    """
    try:
        root = _open(directory, None)
    except OSError:
        return 0
    top = os.fstat(root)
    total = top.st_blocks
    #: Files with several names that were seen.
    seen: set[int] = set()
    way = [(root, os.scandir(root))]
    while way:
        fd, entries = way[-1]
        entry = _next(entries)
        if entry is None:
            entries.close()
            os.close(fd)
            way.pop()
            continue
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        is_directory = entry.is_dir(follow_symlinks=False)
        # Of an overlay only directories have the device of the whole.
        if is_directory and found.st_dev != top.st_dev:
            continue
        if found.st_nlink > 1 and not is_directory:
            if found.st_ino in seen:
                continue
            seen.add(found.st_ino)
        total += found.st_blocks
        if is_directory and len(way) < DEPTH_MAX:
            way += _enter(entry.name, fd, top.st_dev)
    return total * _BLOCK


def _open(name: str | Path, parent: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=parent)


def _enter(
    name: str, parent: int, device: int
) -> list[tuple[int, os._ScandirIterator[str]]]:
    """A directory and what is in it; nothing when it became something else."""
    try:
        fd = _open(name, parent)
    except OSError:
        return []
    if os.fstat(fd).st_dev != device:
        os.close(fd)
        return []
    try:
        return [(fd, os.scandir(fd))]
    except OSError:
        os.close(fd)
        return []


def _next(entries: os._ScandirIterator[str]) -> os.DirEntry[str] | None:
    try:
        return next(entries, None)
    except OSError:
        return None
