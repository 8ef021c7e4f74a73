from __future__ import annotations

import pytest

from holdingpen.ballast import ram
from holdingpen.devices import scripted
from holdingpen.devices.scripted import ScriptedBallast, ScriptedHost

MIB = 2**20
GIB = 2**30


def always(step: int) -> bool:
    return True


@pytest.fixture
def host() -> ScriptedHost:
    return ScriptedHost(total=64 * GIB)


def test_its_steps_are_those_of_the_real_ballast() -> None:
    assert (scripted._UNIT, scripted._STEP) == (ram.UNIT, ram.STEP)


def test_ballast_programs_and_the_rest_reduce_what_is_available(
    host: ScriptedHost,
) -> None:
    ScriptedBallast(host).take(8 * GIB, always)
    host.run(10, ram=2 * GIB)
    host.elsewhere = 1 * GIB
    assert host.ram_available() == 53 * GIB
    assert host.ram_total() == 64 * GIB


def test_a_program_that_ends_gives_back_and_its_children_are_orphans(
    host: ScriptedHost,
) -> None:
    host.run(10, ram=2 * GIB)
    host.run(11, ram=1 * GIB, parent=10)
    host.end(10)
    assert host.ram_available() == 63 * GIB
    assert host.uses({1: 10}).by_lease == {1: 0}
    assert [one.pid for one in host.uses({1: 10}).foreign] == [11]


def test_a_program_can_grow(host: ScriptedHost) -> None:
    host.run(10, ram=1 * GIB)
    host.run(10, ram=3 * GIB)
    assert host.ram_available() == 61 * GIB


def test_available_is_never_negative(host: ScriptedHost) -> None:
    host.elsewhere = 65 * GIB
    assert host.ram_available() == 0


def test_all_that_is_said_can_be_set(host: ScriptedHost) -> None:
    host.total, host.cpu_count, host.boot = 8 * GIB, 2, "next"
    host.pressure_percent = 42.0
    assert (host.ram_total(), host.cpus(), host.boot_id()) == (8 * GIB, 2, "next")
    assert host.pressure() == 42.0


def test_taking_ends_where_the_machine_has_no_more(host: ScriptedHost) -> None:
    host.elsewhere = 64 * GIB - 40 * MIB
    ballast = ScriptedBallast(host)
    assert ballast.take(64 * MIB, always) == 32 * MIB
    assert (ballast.held, host.ram_available()) == (32 * MIB, 8 * MIB)


def test_taking_can_be_made_to_fail(host: ScriptedHost) -> None:
    ballast = ScriptedBallast(host)
    ballast.held_max = 16 * MIB
    assert ballast.take(64 * MIB, always) == 16 * MIB


def test_dropping_works_when_nothing_is_available(host: ScriptedHost) -> None:
    ballast = ScriptedBallast(host)
    ballast.take(64 * MIB, always)
    host.elsewhere = 64 * GIB
    assert ballast.drop(64 * MIB) == 64 * MIB
    assert host.ballast == 0


def test_two_ballasts_share_one_machine(host: ScriptedHost) -> None:
    one, other = ScriptedBallast(host), ScriptedBallast(host)
    one.take(GIB, always)
    other.take(GIB, always)
    one.close()
    assert (host.ballast, other.held) == (GIB, GIB)
