"""Processes: which lease each belongs to, and how much RAM it uses.

One pass over /proc/PID/stat gives every process's parent, so every family tree;
only of the few processes that matter is /proc/PID/status read as well: those of
leases, and candidates for the biggest foreign ones.  (10 us for each process and
18 us more for those few; psutil's `children()` makes such a pass for each lease.)

**What counts as used.**  RssAnon, and RssShmem: both are memory no other program
can have.  File pages (RssFile) are cache the kernel can drop and MemAvailable counts
as available.  Processes of one lease that show shared memory mostly share it with
each other, so a lease's shared memory is that of the process that shows the most.
Anonymous pages shared since a fork are counted in each process that still has them,
which errs upward; the exact figure, PSS, takes 1 ms or more for each process.

**Who belongs to a lease.**  The process that holds the connection and all that
descend from it; the nearest ancestor that holds one decides.  A process whose
parent has died belongs to init (double fork) and so to nobody.

Processes end while they are looked at: what cannot be read is not there any more.
"""

from __future__ import annotations

import heapq
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from holdingpen.devices import Foreign, Uses

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# include/linux/sched.h
_PF_KTHREAD = 0x00200000

# Fields 1 to 24 of stat take under 600 bytes.
_STAT_READ = 1024

# status takes under 2 KiB, but has a line of all groups, of which there may be 65536.
_STATUS_READ = 4 * 1024
_STATUS_READ_MAX = 1024 * 1024

_STATUS = re.compile(
    rb"Name:\t(.*)\n(?:.*\n)*?Uid:\t([0-9]+)(?:.*\n)*?"
    rb"RssAnon:\s*([0-9]+) kB\n(?:.*\n)*?RssShmem:\s*([0-9]+) kB\n"
)


class _Scan(NamedTuple):
    #: pid to parent's pid, of all processes but kernel threads.
    parents: dict[int, int]
    #: pid to resident pages of all kinds.
    pages: dict[int, int]


class _Detail(NamedTuple):
    comm: str
    uid: int
    anon: int
    shmem: int


def uses(proc: Path, roots: Mapping[int, int], top: int) -> Uses:
    """Look over all processes once; see `HostLike.uses`.

    Args:
        proc: as mounted at /proc; hidepid there hides what it hides.
        roots: lease to the pid of the process that holds its connection, 0 when
            that is not known.  Of two leases with one pid, the one with the smaller
            id has its processes; the other uses nothing.
        top: how many foreign processes to name.  With 0, and no roots, nothing is
            looked at.
    """
    by_lease = dict.fromkeys(roots, 0)
    if not roots and top <= 0:
        return Uses(by_lease, [])
    scan = _scan(proc)
    owners = _owners(roots, scan.parents)
    shmem: dict[int, int] = {}
    for pid, lease in owners.items():
        detail = _detail(proc, pid) if lease else None
        if detail:
            by_lease[lease] += detail.anon
            shmem[lease] = max(shmem.get(lease, 0), detail.shmem)
    for lease, most in shmem.items():
        by_lease[lease] += most
    outside = (pid for pid in scan.parents if not owners[pid])
    return Uses(by_lease, _biggest(proc, outside, scan.pages, top))


def _scan(proc: Path) -> _Scan:
    scan = _Scan({}, {})
    root = str(proc)
    for name in os.listdir(root):  # noqa: PTH208 (a Path for each is dear)
        if not name.isdecimal():
            continue
        stat = read(f"{root}/{name}/stat", _STAT_READ)
        # comm may hold anything, ") Z 1" too, but nothing after it a parenthesis
        fields = stat[stat.rfind(b")") + 2 :].split(b" ", 22)
        if len(fields) > 21 and not int(fields[6]) & _PF_KTHREAD:
            pid = int(name)
            scan.parents[pid] = int(fields[1])
            scan.pages[pid] = int(fields[21])
    return scan


def read(path: str, size: int) -> bytes:
    """Read up to `size` bytes of a file; nothing of one that is not there any more."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, size)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _owners(roots: Mapping[int, int], parents: Mapping[int, int]) -> dict[int, int]:
    """Each process's lease; 0: none."""
    owners: dict[int, int] = {}
    for lease in sorted(roots, reverse=True):
        if roots[lease] in parents:
            owners[roots[lease]] = lease
    for start in parents:
        way, pid = [], start
        while pid in parents and pid not in owners:
            # known as nobody's at first: pids that were used again while we looked
            # can make a ring
            owners[pid] = 0
            way.append(pid)
            pid = parents[pid]
        owner = owners.get(pid, 0)
        for member in way:
            owners[member] = owner
    return owners


def _detail(proc: Path, pid: int) -> _Detail | None:
    """What /proc/PID/status says; None for one that has ended, or is a zombie."""
    path = f"{proc}/{pid}/status"
    text = read(path, _STATUS_READ)
    if len(text) == _STATUS_READ:
        text = read(path, _STATUS_READ_MAX)
    found = _STATUS.match(text)
    if not found:
        return None
    name, uid, anon, shmem = found.groups()
    comm = name.decode(errors="replace")
    return _Detail(
        "".join(letter if letter.isprintable() else "?" for letter in comm),
        int(uid),
        int(anon) * 1024,
        int(shmem) * 1024,
    )


def _biggest(
    proc: Path, pids: Iterable[int], pages: Mapping[int, int], top: int
) -> list[Foreign]:
    try:
        ours = int(os.readlink(f"{proc}/self"))  # noqa: PTH115
    except OSError:
        ours = os.getpid()
    # ranked by pages of all kinds, of which file pages do not count: look at more
    likely = heapq.nlargest(3 * top + 1, pids, key=pages.__getitem__)
    found = []
    for pid in likely:
        detail = _detail(proc, pid) if pid != ours else None
        if detail:
            amount = detail.anon + detail.shmem
            found.append(Foreign(pid, detail.uid, detail.comm, amount))
    return heapq.nlargest(top, found, key=lambda process: process.ram_bytes)
