"""What the configuration and the machine become together."""

from __future__ import annotations

import os

import pytest

from holdingpen.ballast.ram import UNIT
from holdingpen.core import events as ev
from holdingpen.core.facts import Moment
from holdingpen.core.handover import METHODS, Choice
from holdingpen.core.rights import Allow, Rules
from holdingpen.daemon.connections import Limits
from holdingpen.daemon.lending import (
    configured,
    keep_bytes,
    limits,
    ram_plan,
    ram_wishes,
    rules,
)
from holdingpen.daemon.settings import Disk, People, Settings
from holdingpen.devices.scripted import ScriptedHost
from holdingpen.errors import BadSettings

GIB = 2**30


def test_by_default_a_sixteenth_of_the_machine_is_kept():
    def keep(total: int) -> int:
        return keep_bytes(Settings(), ScriptedHost(total))

    assert [keep(n * GIB) for n in (1, 8, 16, 64, 512)] == [
        GIB // 2,
        GIB // 2,
        GIB,
        4 * GIB,
        4 * GIB,
    ]
    assert keep_bytes(Settings(ram_keep=7), ScriptedHost()) == 7


def test_by_default_the_machine_is_lent_less_what_is_kept():
    event = configured(Moment(1, 2), Settings(), ScriptedHost(16 * GIB, cpu_count=3))
    assert {x.name: x.capacity for x in event.resources} == {"ram": 15 * GIB, "cpu": 3}


def test_the_configuration_overrides_what_the_machine_has():
    settings = Settings(
        ram_capacity=4 * GIB, ram_hold=5 * GIB, cpu_capacity=2, resources={"licence": 3}
    )
    ram, cpu, licence = configured(Moment(1, 2), settings, ScriptedHost()).resources
    assert (ram.capacity, ram.hold, ram.measured) == (4 * GIB, 4 * GIB, True)
    assert (2, ev.Resource("licence", 3)) == (cpu.capacity, licence)


def test_a_machine_smaller_than_what_is_kept_lends_no_ram():
    host = ScriptedHost(GIB // 4)
    assert configured(Moment(1, 2), Settings(), host).resources[0].capacity == 0


@pytest.mark.parametrize(
    ("settings", "fit", "most"),
    [
        (Settings(), 1000, (1000, 500)),
        (Settings(), 1, (1, 1)),
        (Settings(connections_max=100), 1000, (100, 50)),
        (Settings(connections_max=5000), 1000, (1000, 500)),
        (Settings(connections_per_user_max=900), 1000, (1000, 900)),
    ],
)
def test_connections_are_limited_in_all_and_for_each_user(settings, fit, most):
    assert Limits(*most, 10.0) == limits(settings, fit)


def test_root_and_whoever_runs_it_are_its_operators():
    assert {0, os.geteuid()} == rules(Settings()).operators


def test_the_configured_operators_are_added():
    more = Settings(operators=People(frozenset({4242}), frozenset({50})))
    assert {0, os.geteuid(), 4242} == rules(more).operators
    assert {50} == rules(more).operator_groups


def test_what_is_configured_of_the_line_and_of_rights_reaches_the_core():
    """A key was read, documented, and did nothing."""
    changed = {
        "allow": (Allow("a rule", most={"ram": GIB}),),
        "seat_priority": 7,
        "share": {"ram": 5},
        "leases_per_user_max": 3,
        "waiting_per_user_max": 4,
        "backfill": False,
        "ageing_s": 11.0,
        "reclaim_grace_s": 12.0,
        "reclaim_ends": True,
        "idle_after_s": 13.0,
        "idle_ends": True,
        "assume_s": 14.0,
        "ready_before_s": 15.0,
    }
    same = {name: value for name, value in changed.items() if name != "share"}
    found = rules(Settings(ram_share=5, **same))
    assert changed == {name: getattr(found, name) for name in changed}
    assert not found.seat_ends
    assert rules(Settings(console_after_logout="end")).seat_ends
    others = {"operators", "operator_groups", "handover", "yields", "seat_ends"}
    assert {*changed, *others} == set(Rules.__struct_fields__)


@pytest.mark.parametrize(
    ("handover", "no_group", "as_is", "program"),
    [
        ("auto", "", "paced", "group"),
        ("auto", "no cgroup v2", "paced", "paced"),
        ("exact", "", "group", "group"),
        ("paced", "", "paced", "paced"),
        ("free", "", "free", "free"),
        ("free", "no cgroup v2", "free", "free"),
    ],
)
def test_each_handover_meets_the_wishes_as_well_as_it_can(
    handover, no_group, as_is, program
):
    wishes = ram_wishes(Settings(ram_handover=handover), no_group)
    assert (wishes["as-is"].method, wishes["program"].method) == (as_is, program)
    assert wishes["descriptor"] == Choice("pieces")
    assert wishes["steps"].method == "steps"
    for choice in wishes.values():
        method = METHODS.get(choice.method)
        exact = method is not None and method.promise == "exact"
        assert (choice.why == "") == exact, "whoever gets less is told why"


def test_what_is_demanded_and_cannot_be_had_is_said():
    with pytest.raises(BadSettings, match="cannot be had: no cgroup v2"):
        ram_wishes(Settings(ram_handover="exact"), "no cgroup v2")


def test_who_yields_is_known_to_the_core():
    assert rules(Settings()).yields == frozenset()
    assert rules(Settings(ram_policy="yield")).yields == {"ram"}


def test_a_disk_is_lent_less_what_is_kept_of_it():
    settings = Settings(disks={"a": Disk("/a", 9 * GIB, GIB), "b": Disk("/b")})
    disks = {"a": (8 * GIB, 4096), "b": (GIB, 1)}
    found = configured(Moment(1, 2), settings, ScriptedHost(), disks).resources[2:]
    assert found == (
        ev.Resource("disk.a", 7 * GIB, 7 * GIB, 4096, measured=True),
        ev.Resource("disk.b", GIB, 0, 1, measured=True),
    )


def test_a_pool_of_huge_pages_is_lent():
    host = ScriptedHost()
    host.pool = GIB
    found = configured(Moment(1, 2), Settings(), host).resources
    assert ev.Resource("hugepages", GIB) in found


MIB = 2**20


@pytest.mark.parametrize(
    ("hold", "reserve"),
    [
        (0, 0),
        (6 * MIB, 0),
        (8 * MIB, 2 * MIB),
        # a quarter, four steps, a twentieth, and no more than is of use
        (64 * MIB, 16 * MIB),
        (128 * MIB, 32 * MIB),
        (640 * MIB, 32 * MIB),
        (1000 * MIB, 50 * MIB),
        (1030 * MIB, 50 * MIB),
        (20 * GIB, GIB),
        (40 * GIB, GIB),
    ],
)
def test_slightly_more_is_held_than_is_lent(hold, reserve):
    host = ScriptedHost(64 * GIB)
    assert ram_plan(Settings(ram_hold=hold), host) == (
        60 * GIB - reserve,
        hold,
        reserve,
    )


@pytest.mark.parametrize(
    ("total", "settings", "plan"),
    [
        # freed before the grant, nothing can be made good
        (8192, Settings(ram_hold=GIB, ram_handover="free"), (7680, 1024, 0)),
        # of a machine that is held whole it is taken off
        (8192, Settings(ram_hold=9 * GIB, ram_keep=0), (7784, 7784, 408)),
        # a capacity that was written is lent, and the reserve is beside it
        (8192, Settings(ram_hold=GIB, ram_capacity=4 * GIB), (4096, 1024, 50)),
        # unless there is nothing beside it
        (4096, Settings(ram_hold=GIB, ram_capacity=4 * GIB), (4046, 1024, 50)),
        (256, Settings(ram_hold=GIB), (0, 0, 0)),
    ],
)
def test_the_reserve_is_neither_lent_nor_held(total, settings, plan):
    found = ram_plan(settings, ScriptedHost(total * MIB))
    assert tuple(amount // MIB for amount in found) == plan


def test_the_books_are_told_the_capacity_without_the_reserve():
    settings = Settings(ram_hold=GIB, ram_keep=0)
    ram = configured(Moment(1, 2), settings, ScriptedHost(8 * GIB)).resources[0]
    assert ram == ev.Resource("ram", 8 * GIB - 50 * MIB, GIB, UNIT, measured=True)
