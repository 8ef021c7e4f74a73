from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from holdingpen.devices import processes

if TYPE_CHECKING:
    from .conftest import FakeMachine

MIB = 2**20


def by_lease(machine: FakeMachine, roots: dict[int, int]) -> dict[int, int]:
    return processes.uses(machine.proc, roots, 0).by_lease


def foreign(machine: FakeMachine) -> list[int]:
    return [found.pid for found in processes.uses(machine.proc, {}, 5).foreign]


def test_a_lease_uses_what_its_process_and_descendants_use(
    machine: FakeMachine,
) -> None:
    machine.process(10, anon=8 * MIB)
    machine.process(11, parent=10, anon=4 * MIB)
    machine.process(12, parent=11, anon=2 * MIB)
    machine.process(13, anon=MIB)
    assert by_lease(machine, {1: 10}) == {1: 14 * MIB}


def test_the_nearest_lease_above_has_a_process(machine: FakeMachine) -> None:
    """A gatekeeper within a gatekeeper."""
    machine.process(10, anon=8 * MIB)
    machine.process(11, parent=10, anon=4 * MIB)
    machine.process(12, parent=11, anon=2 * MIB)
    assert by_lease(machine, {1: 10, 2: 11}) == {1: 8 * MIB, 2: 6 * MIB}


def test_of_two_leases_of_one_process_the_smaller_id_has_it(
    machine: FakeMachine,
) -> None:
    machine.process(10, anon=8 * MIB)
    assert by_lease(machine, {7: 10, 3: 10}) == {7: 0, 3: 8 * MIB}


def test_a_lease_whose_process_is_gone_or_unknown_uses_nothing(
    machine: FakeMachine,
) -> None:
    machine.process(10, parent=0, anon=MIB)
    assert by_lease(machine, {1: 99, 2: 0}) == {1: 0, 2: 0}


def test_children_outlive_their_parent_as_nobodys(machine: FakeMachine) -> None:
    machine.process(10, anon=MIB)
    machine.process(11, parent=1, anon=MIB)
    assert by_lease(machine, {1: 10}) == {1: MIB}


def test_shared_memory_of_a_lease_counts_once(machine: FakeMachine) -> None:
    """Four workers map one array."""
    machine.process(10, anon=MIB, shmem=64 * MIB)
    for pid in range(11, 15):
        machine.process(pid, parent=10, anon=MIB, shmem=64 * MIB)
    assert by_lease(machine, {1: 10}) == {1: 69 * MIB}


def test_file_pages_do_not_count(machine: FakeMachine) -> None:
    machine.process(10, anon=MIB, file=512 * MIB)
    assert by_lease(machine, {1: 10}) == {1: MIB}


@pytest.mark.parametrize(
    "comm", ["foo) Z 1", "(", ")", ") R 1 (x", "a b", "a\nRssAnon: 9", "-", "\xff"]
)
def test_a_hostile_name_changes_nothing(machine: FakeMachine, comm: str) -> None:
    machine.process(10, anon=MIB)
    machine.process(11, parent=10, comm=comm, anon=MIB)
    assert by_lease(machine, {1: 10}) == {1: 2 * MIB}


def test_names_are_made_printable(machine: FakeMachine) -> None:
    machine.process(10, comm="\x1b[31mred", anon=MIB)
    machine.process(11, comm="größer", anon=2 * MIB)
    found = processes.uses(machine.proc, {}, 2).foreign
    assert [one.comm for one in found] == ["größer", "?[31mred"]


def test_a_member_of_very_many_groups_is_read_to_the_end(
    machine: FakeMachine,
) -> None:
    machine.process(10, anon=MIB, groups=" ".join(["4294967294"] * 20000))
    assert by_lease(machine, {1: 10}) == {1: MIB}


def test_the_biggest_outside_all_leases_are_named(machine: FakeMachine) -> None:
    machine.process(10, anon=900 * MIB)
    machine.process(11, parent=10, anon=900 * MIB)
    machine.process(20, uid=1001, comm="chrome", anon=300 * MIB, shmem=20 * MIB)
    machine.process(21, anon=100 * MIB, file=900 * MIB)
    machine.process(22, anon=200 * MIB)
    machine.process(23, anon=MIB)
    found = processes.uses(machine.proc, {1: 10}, 3).foreign
    assert [one.pid for one in found] == [20, 22, 21]
    assert found[0] == (20, 1001, "chrome", 320 * MIB)


def test_kernel_threads_and_we_ourselves_are_not_foreign(
    machine: FakeMachine,
) -> None:
    machine.process(2, comm="kthreadd", flags=0x208040)
    assert foreign(machine) == []


def test_processes_that_end_while_looked_at_are_left_out(
    machine: FakeMachine,
) -> None:
    machine.process(10, anon=MIB)
    machine.process(11, parent=10, anon=MIB)
    machine.process(12, parent=10, anon=MIB)
    (machine.proc / "11/status").unlink()
    (machine.proc / "12/stat").unlink()
    (machine.proc / "13").mkdir()
    assert by_lease(machine, {1: 10}) == {1: MIB}


def test_a_zombie_uses_nothing(machine: FakeMachine) -> None:
    machine.process(10)
    status = machine.proc / "10/status"
    status.write_text(status.read_text().replace("Rss", "Gone"))
    assert by_lease(machine, {1: 10}) == {1: 0}


def test_a_ring_of_parents_ends(machine: FakeMachine) -> None:
    """Pids that are used again while we look can show one."""
    machine.process(10, parent=11, anon=MIB)
    machine.process(11, parent=10, anon=MIB)
    machine.process(12, parent=12, anon=MIB)
    assert by_lease(machine, {1: 99}) == {1: 0}
    assert sorted(foreign(machine)) == [10, 11, 12]


def test_with_nothing_asked_nothing_is_looked_at(tmp_path: Path) -> None:
    assert processes.uses(tmp_path / "none", {}, 0) == ({}, [])


@pytest.mark.real
def test_real_children_are_found_whatever_they_call_themselves() -> None:
    child = (
        "import sys\n"
        "open('/proc/self/comm', 'w').write(') Z 1 (\\n x')\n"
        "block = bytearray(32 << 20)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", child],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout
        assert started.stdout.readline() == "ready\n"
        used = processes.uses(Path("/proc"), {1: os.getpid(), 2: started.pid}, 5)
        started.communicate()
    assert 32 * MIB <= used.by_lease[2] < 64 * MIB
    assert used.by_lease[1] > 0
    assert os.getpid() not in [one.pid for one in used.foreign]
