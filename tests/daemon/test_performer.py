"""An effect goes into a thread; what came of it comes back as an event."""

from __future__ import annotations

import math
import threading
from contextlib import closing

import pytest
import trio

from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import Moment
from holdingpen.daemon.performer import PRESSURE_MAX, Performer
from holdingpen.devices.scripted import ScriptedBallast, ScriptedHost

MIB = 2**20
GIB = 2**30
NOW = Moment(7.0, 1007.0)


class Scene:
    """A performer, and the events it reported."""

    def __init__(self) -> None:
        self.host = ScriptedHost(total=4 * GIB)
        self.ballast = ScriptedBallast(self.host)
        self._send, self._receive = trio.open_memory_channel(math.inf)
        self.performer = Performer(
            self.ballast, self.host, GIB, lambda: NOW, self._send.send_nowait
        )

    def perform(self, *effects) -> None:
        for effect in effects:
            self.performer.perform(effect)

    async def event(self) -> ev.Event:
        return await self._receive.receive()


@pytest.fixture
async def scene():
    with closing(Scene()) as scene:
        yield scene


Scene.close = lambda self: self.performer.close()


async def test_ballast_is_taken_and_how_much_is_reported(scene):
    scene.perform(do.TakeBallast("ram", 64 * MIB))
    assert ev.BallastTaken(NOW, "ram", 64 * MIB, 64 * MIB) == await scene.event()
    assert scene.ballast.held == 64 * MIB


async def test_ballast_is_dropped_before_it_is_reported(scene):
    scene.perform(
        do.TakeBallast("ram", 64 * MIB),
        do.DropBallast("ram", 24 * MIB, 17),
        do.Measure("ram", fresh=False),
    )
    await scene.event()
    assert ev.BallastDropped(NOW, 17, "ram") == await scene.event()
    assert (await scene.event()).ballast == 40 * MIB


async def test_ballast_dropped_for_nobody_is_not_reported(scene):
    scene.perform(
        do.TakeBallast("ram", 64 * MIB),
        do.DropBallast("ram", 64 * MIB, 0),
        do.Measure("ram", fresh=False),
    )
    assert isinstance(await scene.event(), ev.BallastTaken)
    assert ev.Measured(NOW, "ram", 4 * GIB, 0, {}, fresh=False) == await scene.event()


async def test_taking_stops_where_the_machine_keeps_its_share(scene):
    scene.host.elsewhere = 3 * GIB - 32 * MIB
    scene.perform(do.TakeBallast("ram", 64 * MIB))
    assert (await scene.event()).amount == 32 * MIB
    assert scene.host.ram_available() == GIB


async def test_nothing_is_taken_while_somebody_waits_for_memory(scene):
    scene.host.pressure_percent = PRESSURE_MAX
    scene.perform(do.TakeBallast("ram", 64 * MIB))
    assert (await scene.event()).amount == 0


async def test_the_machine_is_asked_before_each_step(scene, monkeypatch):
    asked = []
    monkeypatch.setattr(scene.host, "pressure", lambda: 50.0 * (len(asked) > 1))
    ram_available = scene.host.ram_available
    monkeypatch.setattr(
        scene.host, "ram_available", lambda: asked.append(0) or ram_available()
    )
    scene.perform(do.TakeBallast("ram", 64 * MIB))
    assert (await scene.event()).amount == 16 * MIB
    assert len(asked) == 2


async def test_a_lower_share_for_the_machine_counts_at_once(scene):
    scene.performer.keep_free_bytes = 4 * GIB
    scene.perform(do.TakeBallast("ram", 64 * MIB))
    assert (await scene.event()).amount == 0


async def test_a_fresh_look_says_what_leases_use_and_who_else_does(scene):
    scene.host.run(10, ram=GIB)
    scene.host.run(11, ram=MIB, parent=10)
    scene.host.run(20, ram=2 * MIB, comm="other")
    scene.performer.roots = {5: 10}
    scene.perform(do.Measure("ram"))
    measured = await scene.event()
    assert (measured.used, measured.fresh) == ({5: GIB + MIB}, True)
    assert [user.pid for user in scene.performer.foreign] == [20]
    assert measured.used == scene.performer.used


async def test_a_quick_look_says_what_was_seen_last(scene):
    scene.host.run(10, ram=GIB)
    scene.performer.roots = {5: 10}
    scene.perform(do.Measure("ram"))
    await scene.event()
    scene.host.run(10, ram=2 * GIB)
    scene.perform(do.Measure("ram", fresh=False))
    measured = await scene.event()
    assert (measured.used, measured.fresh) == ({5: GIB}, False)
    assert measured.available == 2 * GIB


async def test_while_one_looks_nobody_starts_a_second_look(scene, monkeypatch):
    gate, looks = threading.Event(), []
    uses = scene.host.uses

    def slow(roots):
        looks.append(roots)
        assert gate.wait(10)
        return uses(roots)

    monkeypatch.setattr(scene.host, "uses", slow)
    scene.perform(*[do.Measure("ram")] * 5)
    gate.set()
    await scene.event()
    scene.perform(do.Measure("ram"))
    await scene.event()
    assert len(looks) == 2


async def test_a_long_look_delays_no_ballast(scene, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(scene.host, "uses", lambda roots: gate.wait(10))
    scene.perform(do.Measure("ram"), do.DropBallast("ram", MIB, 17))
    assert isinstance(await scene.event(), ev.BallastDropped)
    scene.performer.close()
    gate.set()


@pytest.mark.parametrize("effect", [do.DropBallast("ram", 1, 1), do.Measure("ram")])
async def test_what_breaks_in_a_thread_is_raised_to_the_daemon(
    scene, monkeypatch, effect
):
    def broken(*_):
        raise OSError("the hand is broken")

    monkeypatch.setattr(scene.ballast, "drop", broken)
    monkeypatch.setattr(scene.host, "uses", broken)
    scene.perform(effect)
    with pytest.raises(OSError, match="the hand is broken"):
        await scene.performer.watch()


async def test_what_breaks_in_the_reporting_is_raised_to_the_daemon(scene):
    """It is done in trio's own thread, where an exception would end trio."""

    def broken(event):
        raise ValueError("the books do not balance")

    scene.performer._report = broken
    scene.perform(do.DropBallast("ram", 1, 1))
    with pytest.raises(ValueError, match="the books do not balance"):
        await scene.performer.watch()


async def test_after_close_nothing_is_reported(scene):
    """The journal is closed then."""
    hand = next(x for x in threading.enumerate() if x.name == "_hand" and x.is_alive())
    scene.performer.close()
    scene.perform(do.DropBallast("ram", 1, 1))
    await trio.to_thread.run_sync(hand.join)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.WouldBlock):
        scene._receive.receive_nowait()


async def test_close_ends_the_threads(scene):
    mine = [x for x in threading.enumerate() if x.name in ("_hand", "_eye")][-2:]
    scene.performer.close()
    for thread in mine:
        await trio.to_thread.run_sync(thread.join)


def test_after_trio_ended_a_thread_ends_in_silence():
    gate, threads = threading.Event(), []

    async def main() -> None:
        scene = Scene()
        scene.ballast.drop = lambda amount: gate.wait(10)
        before = [x for x in threading.enumerate() if x.name == "_hand"]
        threads.append(before[-1])
        scene.perform(do.DropBallast("ram", 1, 1))
        scene.performer.close()

    trio.run(main)
    gate.set()
    threads[0].join(10)
    assert not threads[0].is_alive()
