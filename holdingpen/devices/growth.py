"""Growth: how much RAM a few process trees use at this moment, asked very often.

`processes.py` looks over the whole machine; this is for whoever must follow a
program while it grows, up to 1000 times a second.  The file /proc/PID/status of each
process is kept open: to read it again costs 4 us with its parsing, and such a
descriptor belongs to the process and not to the number, so a pid that is used again
never counts.  (statm is cheaper by 2 us, but does not tell shared memory from file
cache.)

**What counts** is what counts in `processes.py`: RssAnon of all, and the RssShmem of
the one that shows the most.  There is no baseline: the figure is all the tree uses,
not what it has gained since somebody asked first, because that is what a lease's
`ram` means.  What gatekeeper uses (4 MiB) it gives up when it becomes its program.

**Who counts.**  The process, and what its processes are found to have begun:
/proc/PID/task/TID/children, of every thread, because any thread may fork.  Once
found, a process counts until it ends, even when its parent ends before it.  A
process that is a tree of its own, and so a lease within a lease, counts there alone.

**Forked processes.**  At first a forked process has its parent's pages, which would
count twice, and too much is the dangerous side: ballast would be freed for growth
that is none.  So what it shows when it is found, but no more than its parent shows,
is taken off until it becomes another program.  The price: pages of its parent that
it copies by writing to them are not seen.

**What the kernel rounds.**  The figures may fall short by `short_bytes()`.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdingpen.devices.processes import read
from holdingpen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PAGE = os.sysconf("SC_PAGE_SIZE")

# Looking for new members costs 12 us for each process with one thread.  It is done
# again after so many times what it took, so it takes a tenth of the time at most;
_REST = 9
# and after this long in any case: a program has 50 MiB by then.
_REST_MAX_S = 0.025

#: Members that are followed in one tree, each by one descriptor.  Those beyond do not
#: count until others have ended, which errs on the safe side.
MEMBERS_MAX: Final = 256

# include/linux/sched.h: forked, and has not become another program since
_PF_FORKNOEXEC = 0x40

# status takes under 2 KiB, but has a line of all groups, of which there may be 65536.
_STATUS_READ = 4 * 1024
_STATUS_READ_MAX = 1024 * 1024


def short_bytes(release: str = "", cpus: int = 0) -> int:
    """Bytes by which the figure of one process may fall short of the truth.

    Linux 6.2 to 6.15 leave up to a batch of pages uncounted on each CPU
    (lib/percpu_counter.c): 0.25 MiB on 2 CPUs, but 32 MiB on 64 for a program that
    runs on all of them.  Whoever waits for growth must be content with that much
    less.  Older ones keep 64 pages back for each thread; newer ones count exactly.

    Args:
        release: of the kernel, as uname(2) has it; empty: this one's.
        cpus: how many there are; 0: this machine's.
    """
    words = (release or platform.release()).split(".")
    digits = [word for word in words[:2] if word.isdecimal()]
    known = len(digits) == 2
    if known and not (6, 2) <= (int(digits[0]), int(digits[1])) <= (6, 15):
        return 0
    cpus = cpus or os.cpu_count() or 1
    return max(32, 2 * cpus) * cpus * _PAGE


class _Member:
    """One process that is followed."""

    __slots__ = ("anon", "fd", "forked", "others", "pid", "shmem")

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        #: Its /proc/PID/status.
        self.fd = fd
        #: Bytes at the last look.
        self.anon = 0
        self.shmem = 0
        #: Of `anon`, bytes that it had from its parent: never more than `anon`.
        self.others = 0
        #: Whether it still is the image it was forked from.
        self.forked = False

    def look(self) -> bytes | None:
        """Read how much it uses; None when it has ended and was waited for."""
        try:
            text = os.pread(self.fd, _STATUS_READ, 0)
            if len(text) == _STATUS_READ:
                text = os.pread(self.fd, _STATUS_READ_MAX, 0)
        except OSError:
            return None
        # one that ends has no such lines from the moment its memory is given back
        self.anon = _kib_after(b"\nRssAnon:", text)
        self.shmem = _kib_after(b"\nRssShmem:", text)
        if self.anon < self.others:
            self.others = self.anon
        return text


class _Tree:
    """A process and its descendants."""

    __slots__ = ("members", "scan_at_s")

    def __init__(self, root: _Member | None) -> None:
        #: pid to member; parents before their children.
        self.members: dict[int, _Member] = {root.pid: root} if root else {}
        #: When to look for new members next.
        self.scan_at_s = 0.0


class Growth:
    """Follows process trees, each known by the pid of its first process.

    Methods may be called from several threads at once.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Look through `proc`; `clock` gives seconds from any beginning."""
        self._proc = str(proc)
        self._clock = clock
        #: pid of the first process to its tree, until `forget`; guarded by `_lock`.
        self._trees: dict[int, _Tree] = {}
        self._lock = threading.Lock()

    def of(self, pid: int) -> int:
        """Bytes of RAM the process `pid` and its descendants use now.

        The first call takes up to 0.1 ms and begins to follow them, until `forget`.
        Later ones take 4 us for each process, and 12 us more when new ones are looked
        for.  Once they all have ended it is 0.

        Raises:
            Unavailable: at the first call only, when the process cannot be seen: in
                another pid namespace (its pid is 0 then), or hidden by hidepid.
        """
        with self._lock:
            return self._of(pid)

    def _of(self, pid: int) -> int:
        tree = self._trees.get(pid)
        if tree is None:
            tree = self._trees[pid] = _Tree(self._root(pid))
        now_s = self._clock()
        if now_s >= tree.scan_at_s:
            self._scan(pid, tree)
            done_s = self._clock()
            tree.scan_at_s = done_s + min((done_s - now_s) * _REST, _REST_MAX_S)
        anon, shmem, ended = 0, 0, 0
        for member in tree.members.values():
            if member.look() is None:
                ended = member.pid
                continue
            anon += member.anon - member.others
            if member.shmem > shmem:
                shmem = member.shmem
        if ended:
            self._drop(tree, ended)
        return anon + shmem

    def forget(self, pid: int) -> None:
        """Follow that tree no more.  One that is not followed is no error.

        Without it a tree is followed for good: its files stay open, and of a later
        process with the same pid nothing is seen.
        """
        with self._lock:
            tree = self._trees.pop(pid, None)
        while tree and tree.members:
            os.close(tree.members.popitem()[1].fd)

    def close(self) -> None:
        """Follow nobody any more."""
        for pid in list(self._trees):
            self.forget(pid)

    def _root(self, pid: int) -> _Member | None:
        """The first process of a tree; None when it has ended."""
        what = f"cannot see how much RAM process {pid} uses"
        if pid <= 0:
            raise Unavailable(
                f"{what}: it is in a pid namespace that this one does not include"
            )
        try:
            member = self._open(pid)
        except OSError as error:
            if isinstance(error, FileNotFoundError | ProcessLookupError):
                if not _exists(pid):
                    return None
                why = f"{self._proc}/{pid} is hidden (mounted with hidepid?)"
            else:
                why = f"{self._proc}/{pid}/status: {error.strerror}"
            raise Unavailable(f"{what}: {why}") from None
        return member

    def _open(self, pid: int) -> _Member:
        path = f"{self._proc}/{pid}/status"
        return _Member(pid, os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def _scan(self, root: int, tree: _Tree) -> None:
        """Find who was begun since; see who became another program."""
        for pid in tree.members:
            if pid in self._trees and pid != root:
                self._drop(tree, pid)
                break
        # grows while it is gone through: children's children are found at once
        way = list(tree.members.values())
        for member in way:
            if member.forked and not self._has_parents_image(member.pid):
                member.forked, member.others = False, 0
            for pid in self._children(member.pid):
                if pid in tree.members or pid in self._trees:
                    continue
                if len(tree.members) >= MEMBERS_MAX:
                    return
                child = self._adopt(pid, member)
                if child:
                    tree.members[pid] = child
                    way.append(child)

    def _adopt(self, pid: int, parent: _Member) -> _Member | None:
        """Make a member of a child, if that is what the pid still stands for."""
        try:
            child = self._open(pid)
        except OSError:
            return None
        text = child.look()
        # Either pid may have been used again meanwhile.  While the parent can be read
        # its number is its own, and the child says whose child it is.
        mine = text is not None and _number_after(b"\nPPid:", text) == parent.pid
        if not mine or parent.look() is None:
            os.close(child.fd)
            return None
        child.forked = self._has_parents_image(pid)
        child.others = min(child.anon, parent.anon) if child.forked else 0
        return child

    def _children(self, pid: int) -> Iterator[int]:
        tasks = f"{self._proc}/{pid}/task"
        try:
            tids = os.listdir(tasks)  # noqa: PTH208 (a Path for each is dear)
        except OSError:
            return
        for tid in tids:
            text = read(f"{tasks}/{tid}/children", _STATUS_READ)
            if text:
                yield from map(int, text.split())

    def _has_parents_image(self, pid: int) -> bool:
        # "12 (a) b) S 1 12 12 0 -1 4194368 ...": flags are the 7th after the name
        stat = read(f"{self._proc}/{pid}/stat", _STATUS_READ)
        fields = stat[stat.rfind(b")") + 2 :].split(b" ", 7)
        return len(fields) > 7 and bool(int(fields[6]) & _PF_FORKNOEXEC)

    def _drop(self, tree: _Tree, pid: int) -> None:
        os.close(tree.members.pop(pid).fd)


def _number_after(key: bytes, text: bytes) -> int:
    start = text.find(key)
    if start < 0:
        return 0
    start += len(key)
    return int(text[start : start + 24].split(None, 1)[0])


def _kib_after(key: bytes, text: bytes) -> int:
    return _number_after(key, text) * 1024


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
