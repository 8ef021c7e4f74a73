"""Ballast is given up when it is time, and not before."""

from __future__ import annotations

import os
from contextlib import closing

import pytest
import trio

from holdingpen.daemon.yielding import Yielding
from holdingpen.devices.pressure import PressureTrigger

MIB = 2**20


class Machine:
    """What is available, a bell, and how often it was time."""

    def __init__(self, available: int) -> None:
        self.available = available
        self.pressed = 0
        self.trigger = PressureTrigger({}, "nothing to watch")
        self.opened = 0
        self.yielding = Yielding(self.open, lambda: self.available, self.press)

    def open(self) -> PressureTrigger:
        self.opened += 1
        return self.trigger

    def press(self) -> None:
        self.pressed += 1

    def ring(self) -> None:
        os.eventfd_write(self.trigger.fileno(), 1)

    def close(self) -> None:
        self.yielding.close()
        self.trigger.close()


@pytest.fixture
async def machine(nursery):
    with closing(Machine(1000 * MIB)) as machine:
        nursery.start_soon(machine.yielding.watch)
        yield machine
        nursery.cancel_scope.cancel()


async def test_who_defends_is_never_pressed(machine, autojump_clock):
    machine.available = 0
    machine.ring()
    await trio.sleep(10)
    assert machine.pressed == 0
    assert machine.yielding.why == ""
    assert machine.opened == 0, "the kernel is made to look for nothing"


async def test_pressure_while_enough_is_available_is_no_time(machine, autojump_clock):
    machine.yielding.configure(400 * MIB)
    machine.ring()
    await trio.sleep(10)
    assert machine.pressed == 0


async def test_pressure_while_less_is_left_than_to_be_kept_is(machine, autojump_clock):
    machine.yielding.configure(400 * MIB)
    machine.available = 399 * MIB
    await trio.sleep(10)
    assert machine.pressed == 0
    machine.ring()
    await trio.sleep(1.1)
    assert machine.pressed == 1


async def test_without_pressure_the_last_quarter_is_time(machine, autojump_clock):
    machine.yielding.configure(400 * MIB)
    machine.available = 99 * MIB
    await trio.sleep(1.1)
    assert machine.pressed > 0
    machine.available = 101 * MIB
    pressed = machine.pressed
    await trio.sleep(10)
    assert machine.pressed == pressed


async def test_the_less_there_is_the_more_often_it_is_looked_at(
    machine, autojump_clock, monkeypatch
):
    looks = []
    monkeypatch.setattr(
        machine.yielding, "_available", lambda: looks.append(1) or machine.available
    )
    machine.yielding.configure(MIB)
    machine.available = 2**40
    await trio.sleep(10.5)
    calm = len(looks)
    machine.available = 100 * MIB
    await trio.sleep(10.5)
    assert (calm, len(looks) - calm > 200) == (11, True)


async def test_it_can_be_told_to_defend_again(machine, autojump_clock):
    machine.yielding.configure(400 * MIB)
    machine.available = 0
    await trio.sleep(1.1)
    assert machine.yielding.why == "nothing to watch"
    machine.yielding.configure(None)
    await trio.sleep(1.1)
    pressed = machine.pressed
    await trio.sleep(10)
    assert machine.pressed == pressed
