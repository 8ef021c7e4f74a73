"""What the configuration and the machine become together."""

from __future__ import annotations

import os

import pytest

from holdingpen.core import events as ev
from holdingpen.core.facts import Moment
from holdingpen.daemon.connections import Limits
from holdingpen.daemon.lending import configured, keep_bytes, limits, rules
from holdingpen.daemon.settings import Settings
from holdingpen.devices.scripted import ScriptedHost

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
