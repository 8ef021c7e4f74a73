"""The machine as the kernel shows it: RAM, pressure, CPUs, processes.

Everything is read from /proc and the control groups this process lives in, whose
limits bind what it can lend as the size of the machine does.  A limit on the
daemon's own service is such a limit too: a unit with MemoryMax=10G makes a machine
of 10 GiB.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from holdingpen.devices import processes
from holdingpen.devices.cgroup import (
    Kept,
    MemoryGroup,
    cpu_quota,
    kept_or_none,
    memory_groups,
    number_after,
    some_avg10,
)
from holdingpen.devices.growth import Growth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdingpen.devices import Uses

_T = TypeVar("_T")

_PAGE = os.sysconf("SC_PAGE_SIZE")

# "    cpu: 0\n              count:    17\n": pages, in /proc/zoneinfo
_CPU_LIST = re.compile(rb"\n +count: +([0-9]+)")


class Host:
    """The machine this process runs on.

    Paths are resolved and files opened once; a process that is later moved to another
    control group is found again when its old group is removed.  Methods may be
    called from several threads at once.
    """

    def __init__(
        self, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")
    ) -> None:
        """Look at the machine through `proc` and `cgroup`; tests bring their own.

        Raises:
            OSError: when `proc` is no proc(5).
        """
        self._proc = proc
        self._cgroup = cgroup
        self._meminfo = Kept(proc / "meminfo")
        #: The machine's pressure file; None where the kernel counts none.
        self._psi = kept_or_none(proc / "pressure/memory")
        self._growth = Growth(proc)
        #: Groups that may limit our memory, innermost first.
        self._groups = memory_groups(proc, cgroup)

    def ram_total(self) -> int:
        """Bytes of RAM: MemTotal, or the lowest limit of our control groups."""
        total = number_after(b"MemTotal:", self._meminfo.read()) * 1024
        return min([total, *self._of_groups(MemoryGroup.limit)])

    def ram_available(self, *, exact: bool = False) -> int:
        """Bytes a program could get now without pushing others.

        MemAvailable, which is the kernel's own answer to that question
        (Documentation/filesystems/proc.rst), or less where a control group leaves
        less: see `MemoryGroup.room`.  Takes 10 to 25 us.

        Args:
            exact: count too what lies free in the lists each CPU keeps for itself.
                MemAvailable leaves that out, and it is not little: up to an eighth
                of the memory since Linux 6.7, when the lists learned to grow with
                what is freed (measured: of 512 MiB dropped, 124 MiB were missing).
                It takes 60 us more on two CPUs and grows with them, so it is for
                keeping books; a guard is safer without.
        """
        available = number_after(b"MemAvailable:", self._meminfo.read()) * 1024
        if exact:
            available += self._in_cpu_lists()
        return min([available, *self._of_groups(MemoryGroup.room)])

    def _in_cpu_lists(self) -> int:
        try:
            zones = (self._proc / "zoneinfo").read_bytes()
        except OSError:
            return 0
        return sum(map(int, _CPU_LIST.findall(zones))) * _PAGE

    def huge_page_pool(self) -> int:
        """Bytes in the pool of huge pages of the usual size (hugetlbpage.rst)."""
        text = self._meminfo.read()
        if b"HugePages_Total:" not in text:
            return 0
        count = number_after(b"HugePages_Total:", text)
        return count * number_after(b"Hugepagesize:", text) * 1024

    def use_of(self, pid: int) -> int:
        """Bytes the processes descending from `pid` use now: see growth.py.

        Raises:
            Unavailable: when they cannot be seen.
        """
        return self._growth.of(pid)

    def forget(self, pid: int) -> None:
        """`use_of` is not asked about `pid` any more."""
        self._growth.forget(pid)

    def pressure(self) -> float:
        """Percent of the last 10 s in which at least one task waited for memory.

        `some avg10` of Documentation/accounting/psi.rst, of the machine or of a
        limiting control group, whichever is higher.  `full`, when nobody got on,
        needs no look: it is never more than `some`, which rises first.

        Returns:
            0.0 to 100.0; 0.0 too where the kernel does not count (psi=0).
        """
        of_groups = self._of_groups(MemoryGroup.pressure)
        return max([some_avg10(self._psi), *of_groups])

    def _of_groups(self, question: Callable[[MemoryGroup], _T | None]) -> list[_T]:
        """The answers of all groups that have one."""
        try:
            answers = [question(group) for group in self._groups]
        except OSError:
            self._groups = memory_groups(self._proc, self._cgroup)
            answers = [question(group) for group in self._groups]
        return [answer for answer in answers if answer is not None]

    def cpus(self) -> int:
        """CPUs we may run on, by affinity and by quota, rounded down; 1 or more."""
        status = (self._proc / "self/status").read_text(errors="replace")
        listed = status.partition("\nCpus_allowed_list:")[2].partition("\n")[0]
        allowed = 0
        for span in listed.split(","):
            first, _, last = span.strip().partition("-")
            allowed += int(last or first) - int(first) + 1
        quota = cpu_quota(self._proc, self._cgroup)
        return max(1, int(min(allowed, quota)))

    def boot_id(self) -> str:
        """The kernel's word for this boot: random(4)."""
        return (self._proc / "sys/kernel/random/boot_id").read_text().strip()

    def uses(self, roots: Mapping[int, int], top: int = 5) -> Uses:
        """Who uses the RAM; what is counted, and to whom, is said in processes.py.

        Args:
            roots: lease to the pid of the process that holds its connection.
            top: how many foreign processes to name.  Kernel threads and this process
                are none.  With 0, and no roots, nothing is looked at.
        """
        return processes.uses(self._proc, roots, top)
