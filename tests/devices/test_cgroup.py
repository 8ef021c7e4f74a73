from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from holdingpen.devices.cgroup import (
    Kept,
    cpu_quota,
    find_groups,
    kept_or_none,
    memory_groups,
    number_after,
    some_avg10,
)

if TYPE_CHECKING:
    from .conftest import FakeMachine

MIB = 2**20
GIB = 2**30

V1 = "36 24 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V1_CPU = "37 24 0:31 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "38 24 0:32 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = "39 24 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
PROC = "22 1 0:21 / /proc rw,relatime - proc proc rw\n"
V1_NONE = "9223372036854771712\n"


def paths(machine: FakeMachine, controller: str = "memory") -> list[str]:
    found = find_groups(controller, machine.proc, machine.cgroup)
    return [str(path.relative_to(machine.cgroup)) for path in found.paths]


def test_v2_gives_every_ancestor_innermost_first(machine: FakeMachine) -> None:
    machine.groups("0::/system.slice/holdingpen.service\n", PROC + V2)
    assert paths(machine) == ["system.slice/holdingpen.service", "system.slice", "."]


def test_v1_is_found_by_its_controller(machine: FakeMachine) -> None:
    machine.groups("9:cpu,cpuacct:/c\n4:memory:/a/b\n0::/u\n", V1_CPU + V1 + HYBRID)
    assert paths(machine) == ["memory/a/b", "memory/a", "memory"]
    assert paths(machine, "cpu") == ["cpu/c", "cpu"]
    assert find_groups("memory", machine.proc, machine.cgroup).version == 1


def test_a_controller_that_is_not_in_v1_is_in_v2(machine: FakeMachine) -> None:
    machine.groups("4:cpu:/a\n0::/u\n", V1_CPU + HYBRID)
    assert paths(machine) == ["unified/u", "unified"]
    assert find_groups("memory", machine.proc, machine.cgroup).version == 2


def test_in_a_cgroup_namespace_the_mount_point_is_the_group(
    machine: FakeMachine,
) -> None:
    machine.groups("0::/\n", V2)
    assert paths(machine) == ["."]


def test_a_container_without_a_cgroup_namespace_sees_its_group_mounted(
    machine: FakeMachine,
) -> None:
    """Docker on v1: the path is the host's, and so is the root of the mount."""
    mount = V1.replace(" / /sys", " /docker/abc /sys")
    machine.groups("4:memory:/docker/abc\n", mount)
    assert paths(machine) == ["memory"]
    machine.groups("4:memory:/docker/abc/inner\n", mount)
    assert paths(machine) == ["memory/inner", "memory"]


@pytest.mark.parametrize("own", ["/../other", "/docker/abcdef"])
def test_of_a_group_outside_the_mount_only_the_mount_is_known(
    machine: FakeMachine, own: str
) -> None:
    root = "/" if ".." in own else "/docker/abc"
    machine.groups(f"4:memory:{own}\n", V1.replace(" / /sys", f" {root} /sys"))
    assert paths(machine) == ["memory"]


def test_a_colon_and_a_space_in_names_are_read(machine: FakeMachine) -> None:
    machine.groups(
        "0::/a:b c\n", V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/x\\040y")
    )
    assert paths(machine) == ["x y/a:b c", "x y"]


def test_a_hierarchy_mounted_elsewhere_is_looked_for_there(
    machine: FakeMachine,
) -> None:
    machine.groups("0::/a\n", V2.replace("/sys/fs/cgroup", "/cg"))
    found = find_groups("memory", machine.proc, machine.cgroup)
    assert found.paths == [Path("/cg/a"), Path("/cg")]


@pytest.mark.parametrize(("own", "mounts"), [("", ""), ("0::/a\n", PROC), ("", V2)])
def test_without_groups_or_their_mount_there_are_none(
    machine: FakeMachine, own: str, mounts: str
) -> None:
    machine.groups(own, mounts)
    assert paths(machine) == []


def test_a_proc_without_these_files_has_no_groups(machine: FakeMachine) -> None:
    assert paths(machine) == []
    assert cpu_quota(machine.proc, machine.cgroup) == float("inf")


def v2(machine: FakeMachine, limit: str, high: str = "max", usage: int = 0) -> None:
    machine.groups("0::/a\n", V2)
    machine.group(
        "a",
        memory_max=f"{limit}\n",
        memory_high=f"{high}\n",
        memory_current=f"{usage}\n",
        memory_stat=f"anon 5\nfile 9\nshmem 2\ninactive_file {100 * MIB}\n",
    )


@pytest.mark.parametrize(
    ("limit", "high", "expected"),
    [
        ("max", "max", None),
        (str(GIB), "max", GIB),
        ("max", str(GIB), GIB),
        (str(2 * GIB), str(GIB), GIB),
        ("0", "max", 0),
    ],
)
def test_the_limit_of_v2_is_the_lower_of_its_two(
    machine: FakeMachine, limit: str, high: str, expected: int | None
) -> None:
    v2(machine, limit, high)
    [group] = memory_groups(machine.proc, machine.cgroup)
    assert group.limit() == expected


def test_the_room_of_v2_counts_inactive_file_cache_as_free(
    machine: FakeMachine,
) -> None:
    v2(machine, str(GIB), usage=600 * MIB)
    [group] = memory_groups(machine.proc, machine.cgroup)
    assert group.room() == GIB - 500 * MIB


def test_the_room_of_v1_counts_its_whole_subtree(machine: FakeMachine) -> None:
    machine.groups("4:memory:/\n", V1)
    machine.group(
        "memory",
        memory_limit_in_bytes=f"{GIB}\n",
        memory_usage_in_bytes=f"{600 * MIB}\n",
        memory_stat=f"inactive_file 1\ntotal_inactive_file {100 * MIB}\n",
    )
    [group] = memory_groups(machine.proc, machine.cgroup)
    assert (group.limit(), group.room()) == (GIB, GIB - 500 * MIB)


def test_no_limit_of_v1_is_a_huge_number(machine: FakeMachine) -> None:
    machine.groups("4:memory:/\n", V1)
    machine.group(
        "memory",
        memory_limit_in_bytes=V1_NONE,
        memory_usage_in_bytes="5\n",
        memory_stat="total_inactive_file 0\n",
    )
    [group] = memory_groups(machine.proc, machine.cgroup)
    assert (group.limit(), group.room(), group.pressure()) == (None, None, None)


def test_there_is_never_less_than_no_room(machine: FakeMachine) -> None:
    """A limit may be lowered below what is used."""
    v2(machine, str(GIB), usage=3 * GIB)
    [group] = memory_groups(machine.proc, machine.cgroup)
    assert group.room() == 0


def test_cache_makes_no_more_room_than_is_used(machine: FakeMachine) -> None:
    """The two files are read one after the other."""
    v2(machine, str(GIB), usage=MIB)
    [group] = memory_groups(machine.proc, machine.cgroup)
    assert group.room() == GIB


def test_groups_without_the_memory_controller_are_left_out(
    machine: FakeMachine,
) -> None:
    v2(machine, str(GIB))
    machine.groups("0::/a/b\n", V2)
    (machine.cgroup / "a/b").mkdir()
    assert len(memory_groups(machine.proc, machine.cgroup)) == 1


def test_a_limited_group_has_its_own_pressure(
    machine: FakeMachine, pressure_text: Callable[..., str]
) -> None:
    v2(machine, str(GIB))
    assert memory_groups(machine.proc, machine.cgroup)[0].pressure() == 0.0
    machine.group("a", memory_pressure=pressure_text(12.5))
    assert memory_groups(machine.proc, machine.cgroup)[0].pressure() == 12.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000\n", float("inf")), ("150000 100000\n", 1.5), ("50000 100000\n", 0.5)],
)
def test_the_quota_of_v2(machine: FakeMachine, text: str, expected: float) -> None:
    machine.groups("0::/a\n", V2)
    machine.group("a", cpu_max=text)
    assert cpu_quota(machine.proc, machine.cgroup) == expected


def test_the_lowest_quota_of_v1_counts(machine: FakeMachine) -> None:
    machine.groups("9:cpu,cpuacct:/a/b\n", V1_CPU)
    machine.group("cpu/a/b", cpu_cfs_quota_us="400000\n", cpu_cfs_period_us="100000\n")
    machine.group("cpu/a", cpu_cfs_quota_us="150000\n", cpu_cfs_period_us="50000\n")
    machine.group("cpu", cpu_cfs_quota_us="-1\n", cpu_cfs_period_us="100000\n")
    assert cpu_quota(machine.proc, machine.cgroup) == 3.0


def test_a_kept_file_is_read_afresh(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    kept = Kept(path)
    path.write_text("22")
    assert (kept.read(), kept.read()) == (b"22", b"22")


def test_a_kept_file_is_closed_when_it_is_forgotten(tmp_path: Path) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    (tmp_path / "file").touch()
    Kept(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        Kept(tmp_path / "none")
    assert kept_or_none(tmp_path / "none") is None
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_where_pressure_is_not_counted_it_is_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With psi=0 the file is there, and reading it fails."""
    (tmp_path / "memory").touch()
    kept = Kept(tmp_path / "memory")
    assert (some_avg10(None), some_avg10(kept)) == (0.0, 0.0)

    def not_counted(*args: object) -> bytes:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "pread", not_counted)
    assert some_avg10(kept) == 0.0


def test_a_number_is_read_after_its_key() -> None:
    assert number_after(b"\nb ", b"a 1\nb  23 kB\nc 4") == 23
    with pytest.raises(ValueError, match="not found"):
        number_after(b"d", b"a 1\n")


@pytest.mark.real
@pytest.mark.root
def test_a_real_limit_is_seen() -> None:
    memory = Path("/sys/fs/cgroup/memory")
    if os.geteuid() != 0 or not os.access(memory / "cgroup.procs", os.W_OK):
        pytest.skip("needs root and a v1 memory hierarchy to make a group in")
    outer = memory / f"hp-test-cgroup-{os.getpid()}"
    inner = outer / "inner"
    program = (
        f"open('{inner}/cgroup.procs', 'w').write('0')\n"
        "from holdingpen.devices.host import Host\n"
        "host = Host()\n"
        "block = bytearray(64 << 20)\n"
        "print(host.ram_total(), host.ram_available())\n"
    )
    outer.mkdir()
    try:
        inner.mkdir()
        (outer / "memory.limit_in_bytes").write_text(str(256 * MIB))
        command = [sys.executable, "-c", program]
        above = Path(__file__).parents[2]
        said = subprocess.check_output(command, cwd=above, text=True, timeout=30)
    finally:
        if inner.exists():
            inner.rmdir()
        outer.rmdir()
    total, available = map(int, said.split())
    assert total == 256 * MIB
    assert 128 * MIB < available <= 192 * MIB
