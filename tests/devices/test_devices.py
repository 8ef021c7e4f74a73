"""What every host does: the real machine, and the make-believe one."""

from __future__ import annotations

import os

import pytest

from holdingpen.devices import HostLike
from holdingpen.devices.host import Host
from holdingpen.devices.scripted import ScriptedHost


def scripted() -> ScriptedHost:
    host = ScriptedHost()
    host.run(os.getpid(), ram=2**20, parent=os.getppid())
    host.run(os.getppid(), ram=2**20)
    return host


@pytest.fixture(params=["real", "scripted"])
def host(request: pytest.FixtureRequest) -> HostLike:
    return Host() if request.param == "real" else scripted()


def test_less_is_available_than_there_is(host: HostLike) -> None:
    assert 0 < host.ram_available() < host.ram_total()


def test_exactly_at_least_as_much_is_available(host: HostLike) -> None:
    """Within what others take meanwhile."""
    assert host.ram_available(exact=True) > host.ram_available() - 256 * 2**20


def test_pressure_is_a_percentage(host: HostLike) -> None:
    assert 0.0 <= host.pressure() <= 100.0


def test_there_is_a_cpu(host: HostLike) -> None:
    assert host.cpus() >= 1


def test_the_boot_id_stays(host: HostLike) -> None:
    assert host.boot_id() == host.boot_id() != ""


def test_every_lease_asked_about_is_named(host: HostLike) -> None:
    used = host.uses({1: os.getpid(), 2: 0}).by_lease
    assert used[1] > 0
    assert used[2] == 0


def test_the_nearest_lease_above_has_a_process(host: HostLike) -> None:
    alone = host.uses({2: os.getpid()}).by_lease
    nested = host.uses({1: os.getppid(), 2: os.getpid()}).by_lease
    assert nested[2] == pytest.approx(alone[2], rel=0.1)
    assert nested[1] > 0


def test_of_two_leases_of_one_process_the_smaller_id_has_it(host: HostLike) -> None:
    used = host.uses({9: os.getpid(), 4: os.getpid()}).by_lease
    assert used[4] > 0
    assert used[9] == 0


def test_foreign_is_sorted_and_no_longer_than_asked(host: HostLike) -> None:
    found = host.uses({2: os.getpid()}, top=3).foreign
    assert len(found) <= 3
    assert found == sorted(found, key=lambda one: -one.ram_bytes)
    assert os.getpid() not in [one.pid for one in found]


def test_none_are_named_when_none_are_asked_for(host: HostLike) -> None:
    assert host.uses({}, top=0) == ({}, [])
    assert host.uses({2: os.getpid()}, top=0).foreign == []
