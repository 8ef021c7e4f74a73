"""Verdicts on memory, kernel, clock and limits."""

import pytest

from holdingpen.ctl.checkup.findings import Orders
from holdingpen.ctl.checkup.machine import (
    WRITTEN_S,
    Clock,
    Memory,
    judge_amounts,
    judge_clock,
    judge_exact,
    judge_kernel,
    judge_limits,
    judge_swap,
)
from holdingpen.ctl.checkup.units import Process
from holdingpen.daemon.settings import Settings

GIB = 2**30
ORDERS = Orders()
MEMORY = Memory()
DAEMON = Process(500, 0)


def complaints(found):
    return [f"{one.check} {one.verdict}" for one in found if one.verdict != "ok"]


AMOUNTS = [
    (MEMORY, Settings(ram_hold=8 * GIB), []),
    (MEMORY, Settings(), ["memory.hold hint"]),
    (MEMORY, Settings(ram_hold=60 * GIB), ["memory.room hint"]),
    (MEMORY, Settings(ram_hold=60 * GIB + 1), ["memory.hold wrong"]),
    (MEMORY, Settings(ram_capacity=65 * GIB, ram_hold=GIB), ["memory.hold wrong"]),
    (MEMORY._replace(held_bytes=40 * GIB), Settings(ram_hold=40 * GIB), []),
]


@pytest.mark.parametrize(("memory", "settings", "expected"), AMOUNTS)
def test_the_machine_should_bear_what_is_held_and_kept(memory, settings, expected):
    assert complaints(judge_amounts(memory, settings, ORDERS)) == expected


SWAPPY = MEMORY._replace(swap_bytes=GIB)
OLD = SWAPPY._replace(kernel=(6, 1))
FREE = DAEMON._replace(swap_max="max")
SWAPS = [
    (MEMORY, FREE, []),
    (SWAPPY, None, ["memory.swap hint"]),
    # as root on Linux 6.4 and later ballast is on a tmpfs that never swaps
    (SWAPPY, FREE, []),
    (SWAPPY._replace(huge="deny"), FREE, ["memory.swap wrong"]),
    (SWAPPY, FREE._replace(uid=1000), ["memory.swap wrong"]),
    (OLD, FREE, ["memory.swap wrong"]),
    (OLD, DAEMON, []),
    (OLD._replace(groups_version=1), FREE, ["memory.swap wrong"]),
]


@pytest.mark.parametrize(("memory", "daemon", "expected"), SWAPS)
def test_ballast_should_not_be_swapped_out(memory, daemon, expected):
    assert complaints(judge_swap(memory, daemon, ORDERS)) == expected


def test_without_the_right_groups_only_no_swap_at_all_helps():
    (found,) = judge_swap(OLD._replace(groups_version=1), FREE, ORDERS)
    assert found.mend == "swapoff -a"


LOCKED = DAEMON._replace(may_lock=False, memlock_bytes=8 * 2**20)
EXACT = [
    (MEMORY, Settings(), DAEMON, []),
    (MEMORY._replace(why_not_exact="No."), Settings(), DAEMON, ["exact hint"]),
    (MEMORY._replace(why_not_exact=None), Settings(), DAEMON, ["exact unchecked"]),
    (
        MEMORY._replace(why_not_exact="No."),
        Settings(ram_handover="exact"),
        DAEMON,
        ["exact wrong"],
    ),
    (MEMORY._replace(kernel=(6, 1)), Settings(), DAEMON, ["kernel hint"]),
    (MEMORY._replace(list_fraction=0), Settings(), DAEMON, ["lists hint"]),
    (
        MEMORY._replace(list_fraction=0, kernel=(6, 6)),
        Settings(),
        DAEMON,
        [],
    ),
    (MEMORY._replace(list_fraction=None), Settings(), DAEMON, []),
    (MEMORY, Settings(), LOCKED, ["lock hint"]),
    (MEMORY, Settings(), LOCKED._replace(memlock_bytes=2**64), []),
    (MEMORY, Settings(), None, []),
]


@pytest.mark.parametrize(("memory", "settings", "daemon", "expected"), EXACT)
def test_what_stands_in_the_way_of_exact_hand_over(memory, settings, daemon, expected):
    found = judge_exact(memory, settings, daemon, ORDERS)
    assert complaints(found) == [f"memory.{x}" for x in expected]


def test_a_private_pen_hands_nothing_over_exactly_and_no_boot_changes_that():
    memory = MEMORY._replace(groups_version=1)
    (found,) = judge_exact(memory, Settings(), DAEMON, ORDERS, private=True)
    assert (found.verdict, found.mend) == ("hint", "")


def test_groups_of_version_1_are_changed_at_boot():
    memory = MEMORY._replace(groups_version=1, why_not_exact="No.")
    (found,) = judge_exact(memory, Settings(), DAEMON, ORDERS)
    assert "systemd.unified_cgroup_hierarchy=1" in found.mend


YIELD = Settings(ram_policy="yield")
KERNELS = [
    (MEMORY, Settings(), []),
    (MEMORY._replace(huge="deny"), Settings(), ["huge hint"]),
    (MEMORY._replace(huge=""), Settings(), ["huge hint"]),
    (MEMORY._replace(pressure=False), Settings(), ["pressure hint"]),
    (MEMORY._replace(pressure=False), YIELD, ["pressure wrong"]),
    (MEMORY._replace(overcommit=2), Settings(), []),
    (MEMORY._replace(overcommit=2), Settings(ram_hold=GIB), ["overcommit hint"]),
]


@pytest.mark.parametrize(("memory", "settings", "expected"), KERNELS)
def test_how_the_kernel_should_be(memory, settings, expected):
    found = judge_kernel(memory, settings)
    assert complaints(found) == [f"memory.{x}" for x in expected]


NOW = WRITTEN_S + 1e7
CLOCK = Clock(NOW)
CLOCKS = [
    (CLOCK, []),
    (CLOCK._replace(wall_s=0.0), ["right wrong"]),
    (CLOCK._replace(written_s=NOW + 3600), ["right wrong"]),
    (CLOCK._replace(written_s=NOW + 1), []),
    (CLOCK._replace(synchronised=False), ["right hint"]),
    (CLOCK._replace(synchronised=None), ["right hint"]),
    (CLOCK._replace(stepped_s=-3600.0), ["step hint"]),
    (CLOCK._replace(stepped_s=2.0), []),
    (CLOCK._replace(stepped_s=None), []),
    (CLOCK._replace(zone=""), ["zone hint"]),
    (CLOCK._replace(zone="Mars/Base", zone_known=False), ["zone wrong"]),
]


@pytest.mark.parametrize(("clock", "expected"), CLOCKS)
def test_dates_should_mean_what_people_think(clock, expected):
    assert complaints(judge_clock(clock)) == [f"clock.{x}" for x in expected]


def test_a_step_of_the_clock_is_said_with_its_way_and_length():
    back, forward = (
        judge_clock(CLOCK._replace(stepped_s=x))[1].text for x in (-3600.0, 7200.0)
    )
    assert "was set back by 1h since" in back
    assert "was set forward by 2h since" in forward


LIMITS = [
    (DAEMON, Settings(), 0, []),
    (None, Settings(), 0, []),
    (DAEMON._replace(nofile=None), Settings(), 0, ["descriptors unchecked"]),
    (DAEMON._replace(nofile=575), Settings(), 0, ["descriptors hint"]),
    (DAEMON._replace(nofile=576), Settings(), 0, []),
    (DAEMON, Settings(connections_max=16), 0, ["descriptors hint"]),
    (
        DAEMON._replace(nofile=1024),
        Settings(connections_max=961),
        0,
        ["descriptors wrong"],
    ),
    (DAEMON._replace(nofile=1024), Settings(connections_max=960), 0, []),
    (DAEMON, Settings(connections_max=5000), 4224, ["store hint"]),
    (DAEMON, Settings(connections_max=4224), 4224, []),
    (DAEMON, Settings(), 4224, []),
]


@pytest.mark.parametrize(("daemon", "settings", "store", "expected"), LIMITS)
def test_as_many_clients_should_fit_as_are_meant_to(daemon, settings, store, expected):
    found = judge_limits(daemon, settings, ORDERS, store)
    assert complaints(found) == [f"limits.{x}" for x in expected]
