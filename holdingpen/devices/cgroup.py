"""Control groups: which ones this process lives in, and what memory they leave it.

Both versions, and the mixture of the two, are found through /proc/self/cgroup (which
group) and /proc/self/mountinfo (where its hierarchy is to be seen, from which group
on): cgroups(7), and Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of the
kernel.  In a container with a cgroup namespace the group is "/", and the mount
point is the container's own group, whose limits it can read.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

#: Where the mount points of mountinfo are looked for; tests have theirs elsewhere.
CGROUP = PurePosixPath("/sys/fs/cgroup")

# The longest file read here, memory.stat, has 4 KiB on Linux 6.18.
_READ_MAX = 32 * 1024

# A limit of v1 that is none: LONG_MAX rounded down to a page.
_NO_LIMIT = 2**62


class Kept:
    """A small file of the kernel, kept open: to read it again costs 1 us, not 7."""

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            OSError: as open(2).
        """
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> bytes:
        """Read it from its beginning.

        Raises:
            OSError: ENODEV when its control group was removed, EOPNOTSUPP when the
                kernel was told not to count.
        """
        return os.pread(self._fd, _READ_MAX, 0)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


def kept_or_none(path: Path) -> Kept | None:
    """Open `path`, or return None where it cannot be opened."""
    try:
        return Kept(path)
    except OSError:
        return None


def number_after(key: bytes, text: bytes) -> int:
    """Read the whole number after `key`, which must be there."""
    start = text.index(key) + len(key)
    return int(text[start : start + 24].split(None, 1)[0])


def some_avg10(file: Kept | None) -> float:
    """Percent of the last 10 s in which some task waited, from a pressure file.

    Returns:
        0.0 without a file, or where the kernel does not count.
    """
    # "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"
    try:
        text = file.read() if file else b""
    except OSError:
        return 0.0
    return float(text[11 : text.index(b" ", 11)]) if text else 0.0


class Groups(NamedTuple):
    """The groups this process is in that can be seen, innermost first."""

    version: int
    paths: list[Path]


def find_groups(controller: str, proc: Path, cgroup: Path) -> Groups:
    """Find this process's groups under `controller` ("memory", "cpu").

    Args:
        controller: its v1 hierarchy is taken where it is in one, else v2.
        proc: as mounted at /proc.
        cgroup: as mounted at /sys/fs/cgroup.

    Returns:
        No paths when there are no control groups, or none to be seen.
    """
    version, own = _own_group(controller, proc)
    mounts = _read(proc / "self/mountinfo")
    for line in mounts.splitlines() if version else ():
        before, _, after = line.partition(" - ")
        root, point = (_unescape(word) for word in before.split(" ")[3:5])
        kind, *_, options = after.split(" ")
        if version == 1 and (kind != "cgroup" or controller not in options.split(",")):
            continue
        if version == 2 and kind != "cgroup2":
            continue
        return Groups(version, _up_to(_place(point, cgroup), _below(root, own)))
    return Groups(version, [])


def _own_group(controller: str, proc: Path) -> tuple[int, str]:
    """Version and path of the group; version 0 where there are none."""
    version, own = 0, "/"
    for line in _read(proc / "self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return 1, path
        if number == "0":
            version, own = 2, path
    return version, own


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return ""


def _unescape(word: str) -> str:
    # proc_pid_mountinfo(5): space, tab, newline and backslash are octal
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), word)


def _place(point: str, cgroup: Path) -> Path:
    inside = PurePosixPath(point).is_relative_to(CGROUP)
    return cgroup / PurePosixPath(point).relative_to(CGROUP) if inside else Path(point)


def _below(root: str, own: str) -> PurePosixPath:
    """The group `own` as seen from a mount of the group `root`."""
    if PurePosixPath(own).is_relative_to(root) and ".." not in own.split("/"):
        return PurePosixPath(own).relative_to(root)
    # outside of what is mounted: all that is known of it is the mount itself
    return PurePosixPath()


def _up_to(top: Path, below: PurePosixPath) -> list[Path]:
    return [top / below, *(top / parent for parent in below.parents)]


class MemoryGroup:
    """One group with a limit to its memory, or without one for now."""

    def __init__(self, version: int, path: Path) -> None:
        """Look at `path`, a group of the memory controller.

        Raises:
            OSError: when it has no limits to read, as the root of v2 has none.
        """
        v1 = version == 1
        names = ["memory.limit_in_bytes"] if v1 else ["memory.max", "memory.high"]
        self._limits = [Kept(path / name) for name in names]
        self._usage = Kept(path / ("memory.usage_in_bytes" if v1 else "memory.current"))
        self._stat = Kept(path / "memory.stat")
        self._cache = b"\ntotal_inactive_file " if v1 else b"\ninactive_file "
        # v1 has none
        self._psi = kept_or_none(path / "memory.pressure")

    def limit(self) -> int | None:
        """Bytes its members may have, or None.

        Of v2's two limits the lower: above memory.high the kernel slows members down
        until they are below it again, which is no place to run programs.
        """
        words = (file.read().strip() for file in self._limits)
        limits = [int(word) for word in words if word != b"max"]
        least = min(limits, default=_NO_LIMIT)
        return least if least < _NO_LIMIT else None

    def room(self) -> int | None:
        """Bytes its members can still get without pushing each other, or None.

        The limit, less what is used, more the file cache on the inactive list, which
        the kernel gives up first.  The active list is somebody's working set: to
        count on it would be to push him (kubelet and docker reckon so too).
        """
        limit = self.limit()
        if limit is None:
            return None
        usage = int(self._usage.read())
        cache = number_after(self._cache, b"\n" + self._stat.read())
        return max(0, limit - usage + min(cache, usage))

    def pressure(self) -> float | None:
        """Percent as of `some_avg10`, or None for a group without a limit."""
        return None if self.limit() is None else some_avg10(self._psi)


def memory_groups(proc: Path, cgroup: Path) -> list[MemoryGroup]:
    """The groups whose limits bind this process, innermost first."""
    version, paths = find_groups("memory", proc, cgroup)
    groups = []
    for path in paths:
        try:
            groups.append(MemoryGroup(version, path))
        except OSError:
            continue
    return groups


def cpu_quota(proc: Path, cgroup: Path) -> float:
    """CPUs that the quotas of this process's groups allow; infinite without one."""
    version, paths = find_groups("cpu", proc, cgroup)
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if version == 1 else ("cpu.max",)
    least = float("inf")
    for path in paths:
        # v1: -1, then the period; v2: "max 100000" or "150000 100000"
        words = " ".join(_read(path / name) for name in names).split()
        if len(words) == 2 and words[0] not in ("max", "-1"):
            least = min(least, int(words[0]) / int(words[1]))
    return least
