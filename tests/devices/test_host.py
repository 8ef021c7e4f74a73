from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from holdingpen.devices.host import Host

if TYPE_CHECKING:
    from .conftest import FakeMachine

MIB = 2**20
GIB = 2**30
V2 = "38 24 0:32 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def host(machine: FakeMachine) -> Host:
    return Host(machine.proc, machine.cgroup)


def limit(machine: FakeMachine, path: str, max_: int, used: int) -> None:
    machine.group(
        path,
        memory_max=f"{max_}\n",
        memory_high="max\n",
        memory_current=f"{used}\n",
        memory_stat="anon 5\ninactive_file 0\n",
    )


def test_without_limits_the_machine_is_what_there_is(machine: FakeMachine) -> None:
    assert host(machine).ram_total() == 64 * GIB
    assert host(machine).ram_available() == 48 * GIB


def test_each_look_is_a_new_one(machine: FakeMachine) -> None:
    kept = host(machine)
    machine.memory(64 * GIB, 3 * GIB)
    assert kept.ram_available() == 3 * GIB


def test_the_lowest_limit_above_us_counts(machine: FakeMachine) -> None:
    machine.groups("0::/a/b\n", V2)
    limit(machine, "a/b", 32 * GIB, 1 * GIB)
    limit(machine, "a", 16 * GIB, 6 * GIB)
    assert host(machine).ram_total() == 16 * GIB
    assert host(machine).ram_available() == 10 * GIB


def test_a_limit_beyond_the_machine_changes_nothing(machine: FakeMachine) -> None:
    machine.groups("0::/a\n", V2)
    limit(machine, "a", 512 * GIB, 1 * GIB)
    assert host(machine).ram_total() == 64 * GIB
    assert host(machine).ram_available() == 48 * GIB


def test_a_limit_set_later_is_seen(machine: FakeMachine) -> None:
    """`systemctl set-property holdingpen.service MemoryMax=8G`."""
    machine.groups("0::/a\n", V2)
    limit(machine, "a", 512 * GIB, 1 * GIB)
    kept = host(machine)
    (machine.cgroup / "a/memory.max").write_text(f"{8 * GIB}\n")
    assert (kept.ram_total(), kept.ram_available()) == (8 * GIB, 7 * GIB)


def test_a_group_that_was_removed_is_looked_for_anew(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process was moved, and its old group deleted: ENODEV."""
    machine.groups("0::/old\n", V2)
    limit(machine, "old", 16 * GIB, 0)
    limit(machine, "new", 8 * GIB, 0)
    kept = host(machine)
    old = kept._groups[0]._limits[0]._fd
    pread = os.pread

    def gone(fd: int, size: int, offset: int) -> bytes:
        if fd == old:
            raise OSError(errno.ENODEV, "No such device")
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", gone)
    machine.groups("0::/new\n", V2)
    assert kept.ram_total() == 8 * GIB


def test_exact_counts_what_each_cpu_keeps_free_for_itself(
    machine: FakeMachine,
) -> None:
    zone = "  pagesets\n    cpu: 0\n              count:    {}\n        high:     99\n"
    zoneinfo = machine.proc / "zoneinfo"
    zoneinfo.write_text("Node 0, zone  DMA\n" + zone.format(7) + zone.format(1000))
    lists = 1007 * os.sysconf("SC_PAGE_SIZE")
    assert host(machine).ram_available(exact=True) == 48 * GIB + lists
    assert host(machine).ram_available() == 48 * GIB


def test_exact_without_zoneinfo_is_as_good_as_it_gets(machine: FakeMachine) -> None:
    assert host(machine).ram_available(exact=True) == 48 * GIB


def test_pressure_is_the_share_in_which_some_waited(machine: FakeMachine) -> None:
    machine.pressure(some=37.25, full=12.5)
    assert host(machine).pressure() == 37.25


def test_pressure_of_a_limiting_group_counts_if_higher(
    machine: FakeMachine, pressure_text: Callable[..., str]
) -> None:
    machine.pressure(some=1.0)
    machine.groups("0::/a\n", V2)
    limit(machine, "a", 512 * GIB, 1 * GIB)
    machine.group("a", memory_pressure=pressure_text(80.0))
    assert host(machine).pressure() == 80.0
    (machine.cgroup / "a/memory.max").write_text("max\n")
    assert host(machine).pressure() == 1.0


def test_a_kernel_without_pressure_has_none(machine: FakeMachine) -> None:
    assert host(machine).pressure() == 0.0


def test_cpus_are_those_we_may_run_on(machine: FakeMachine) -> None:
    """0-3,8 in the fake machine's status."""
    assert host(machine).cpus() == 5


@pytest.mark.parametrize(
    ("quota", "cpus"), [("250000", 2), ("50000", 1), ("max", 5), ("9900000", 5)]
)
def test_a_quota_of_cpus_is_rounded_down_to_one_at_least(
    machine: FakeMachine, quota: str, cpus: int
) -> None:
    machine.groups("0::/a\n", V2)
    machine.group("a", cpu_max=f"{quota} 100000\n")
    assert host(machine).cpus() == cpus


def test_boot_id_is_the_kernels_word(machine: FakeMachine) -> None:
    assert host(machine).boot_id() == "0f0e-boot"


def test_uses_looks_into_its_own_proc(machine: FakeMachine) -> None:
    machine.process(10, anon=MIB)
    machine.process(11, anon=2 * MIB)
    used = host(machine).uses({1: 10}, top=1)
    assert used.by_lease == {1: MIB}
    assert [one.pid for one in used.foreign] == [11]


def test_a_place_that_is_no_proc_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Host(tmp_path)


def test_it_leaves_no_descriptor_behind(machine: FakeMachine) -> None:
    machine.groups("0::/a\n", V2)
    limit(machine, "a", 8 * GIB, 0)
    before = sorted(Path("/proc/self/fd").iterdir())
    host(machine).ram_available()
    assert sorted(Path("/proc/self/fd").iterdir()) == before
