"""An effect goes into a thread; what came of it comes back as an event."""

from __future__ import annotations

import math
import os
import threading
from contextlib import closing

import pytest
import trio

from holdingpen.ballast import Piece
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import Moment, Who
from holdingpen.daemon.performer import LENT_TIMES_MAX, OVERDUE_S, Performer
from holdingpen.daemon.ramhand import PRESSURE_MAX, RamHand
from holdingpen.daemon.settings import Settings
from holdingpen.devices.scripted import ScriptedBallast, ScriptedHost
from holdingpen.errors import Unavailable
from holdingpen.wire import messages as wire

MIB = 2**20
GIB = 2**30
NOW = Moment(7.0, 1007.0)
HAND = "hand of ram"


class Scene:
    """A performer, and the events it reported."""

    def __init__(self) -> None:
        self.host = ScriptedHost(total=4 * GIB)
        self.ballast = ScriptedBallast(self.host)
        self.now = NOW
        self._send, self._receive = trio.open_memory_channel(math.inf)
        self.hand = RamHand(self.ballast, self.host, Settings(ram_keep=GIB))
        self.replies: list[tuple[int, wire.Reply, list[int]]] = []
        self.performer = Performer(
            {"ram": self.hand},
            self.host,
            lambda: self.now,
            self._send.send_nowait,
            self._reply,
        )

    def perform(self, *effects) -> None:
        for effect in effects:
            self.performer.perform(effect)

    def _reply(self, conn, message, files) -> None:
        self.replies.append((conn, message, files))
        self._send.send_nowait(message)

    async def event(self) -> ev.Event:
        return await self._receive.receive()


@pytest.fixture
async def scene():
    with closing(Scene()) as scene:
        yield scene


def _close(scene: Scene) -> None:
    scene.performer.close()
    scene.hand.close()


Scene.close = _close


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
    scene.hand.configure(Settings(ram_keep=4 * GIB))
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


# Hand-over.

WHO = Who(1000, 1000, 10)


def prepare(how: str, amount: int = 32 * MIB) -> do.Prepare:
    return do.Prepare("ram", amount, 5, how, amount, WHO)


async def kept(scene, how: str) -> None:
    """64 MiB are ballast, 32 of them kept for lease 5."""
    scene.host.run(10, ram=MIB)
    scene.perform(do.TakeBallast("ram", 64 * MIB), prepare(how))
    await scene.event()
    assert ev.BallastDropped(NOW, 5, "ram") == await scene.event()


async def test_what_is_kept_is_measured_beside_the_ballast(scene):
    await kept(scene, "steps")
    scene.perform(do.Measure("ram", fresh=False))
    measured = await scene.event()
    assert (measured.ballast, measured.kept) == (32 * MIB, {5: 32 * MIB})


async def test_what_is_paced_is_freed_by_the_first_step_before_the_grant(scene):
    await kept(scene, "paced")
    assert scene.ballast.kept == {5: 24 * MIB}
    assert scene.hand.stolen == {5: 0}


async def test_a_process_that_cannot_be_seen_is_not_paced(scene, monkeypatch):
    def hidden(pid):
        raise Unavailable("cannot see it.")

    monkeypatch.setattr(scene.hand._pacer, "_used", hidden)
    scene.perform(do.TakeBallast("ram", 64 * MIB), prepare("paced"))
    await scene.event()
    assert (await scene.event()).problem == "cannot see it."


async def test_a_step_is_freed_before_it_is_answered(scene):
    await kept(scene, "steps")
    scene.perform(do.GiveStep(3, 2, 5, "ram", 4 * MIB))
    assert wire.Done(2) == await scene.event()
    assert scene.replies == [(3, wire.Done(2), [])]
    assert scene.ballast.kept == {5: 28 * MIB}


async def test_what_is_kept_comes_back(scene):
    await kept(scene, "paced")
    scene.perform(do.TakeBack("ram", 5, 8 * MIB))
    back = ev.BallastBack(NOW, 5, "ram", 8 * MIB, part=True)
    assert back == await scene.event()
    scene.perform(do.TakeBack("ram", 5))
    assert ev.BallastBack(NOW, 5, "ram", 16 * MIB) == await scene.event()
    assert (scene.ballast.kept, scene.hand.stolen) == ({}, {})


async def lent(scene, **fields) -> tuple[wire.Reply, list[int]]:
    effect = {"conn": 3, "number": 2, "lease": 5, "resource": "ram"}
    scene.perform(do.Lend(**effect, amount=32 * MIB, uid=1000, **fields))
    await scene.event()
    _conn, reply, files = scene.replies[-1]
    return reply, files


async def test_what_is_kept_is_passed_as_files(scene):
    await kept(scene, "pieces")
    reply, files = await lent(scene)
    assert wire.Fetched(2, 5, "ram", [32 * MIB], "exact") == reply
    assert os.fstat(files[0]).st_size == 32 * MIB
    assert scene.ballast.kept == {5: 32 * MIB}
    os.close(files[0])


async def test_what_was_not_ballast_before_is_said(scene):
    await kept(scene, "pieces")
    reply, files = await lent(scene, exact=False)
    assert reply.handover == "best-effort"
    os.close(files[0])


async def test_many_files_go_out_in_several_answers(scene, monkeypatch):
    """SCM_RIGHTS takes 253 at once."""
    monkeypatch.setattr(wire, "FILES_MAX", 2)
    sizes = [3, 4, 5]
    opened = []

    def lend(lease, amount, may, user):
        pieces = [Piece(os.memfd_create("x"), size) for size in sizes]
        opened.extend(pieces)
        return pieces

    monkeypatch.setattr(scene.ballast, "lend", lend)
    reply, files = await lent(scene)
    assert (reply.sizes, reply.more, len(files)) == ([3, 4], True, 2)
    more, last = await lent(scene, first=2)
    assert (more.sizes, more.more, len(last)) == ([5], False, 1)
    assert {x.fd for x in opened} >= {*files, *last}
    for fd in (*files, *last):
        os.close(fd)
    for piece in opened:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(piece.fd)


async def test_files_that_cannot_be_had_are_refused(scene):
    scene.host.elsewhere = 3 * GIB
    reply, files = await lent(scene)
    assert (reply.code, files) == ("not-now", [])


async def test_files_are_not_passed_for_ever(scene):
    """Each time costs descriptors, and a client could ask without reading."""
    await kept(scene, "pieces")
    for _ in range(LENT_TIMES_MAX):
        _, files = await lent(scene)
        os.close(files[0])
    reply, files = await lent(scene)
    assert (reply.code, files) == ("limit", [])


async def test_what_is_still_in_use_is_asked_for_until_it_comes(
    scene, nursery, autojump_clock
):
    await kept(scene, "pieces")
    _, files = await lent(scene)
    nursery.start_soon(scene.performer.chase)
    scene.perform(do.TakeBack("ram", 5))
    while not scene.performer._coming:
        await trio.to_thread.run_sync(os.sched_yield)
    assert scene.ballast.kept == {5: 32 * MIB}
    os.close(files[0])
    assert ev.BallastBack(NOW, 5, "ram", 32 * MIB) == await scene.event()
    await trio.sleep(1)
    with pytest.raises(trio.WouldBlock):
        scene._receive.receive_nowait()
    nursery.cancel_scope.cancel()


async def test_what_does_not_come_in_time_is_given_up_once_and_comes_later(
    scene, nursery, autojump_clock
):
    await kept(scene, "pieces")
    _, files = await lent(scene)
    nursery.start_soon(scene.performer.chase)
    scene.perform(do.TakeBack("ram", 5))
    while not scene.performer._coming:
        await trio.to_thread.run_sync(os.sched_yield)
    scene.now = Moment(NOW.boot_s + OVERDUE_S, 0.0)
    assert ev.BallastBack(scene.now, 5, "ram", 0) == await scene.event()
    await trio.sleep(1)
    os.close(files[0])
    assert ev.BallastBack(scene.now, 5, "ram", 32 * MIB) == await scene.event()
    nursery.cancel_scope.cancel()


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
    hand = next(x for x in threading.enumerate() if x.name == HAND and x.is_alive())
    scene.performer.close()
    scene.perform(do.DropBallast("ram", 1, 1))
    await trio.to_thread.run_sync(hand.join)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.WouldBlock):
        scene._receive.receive_nowait()


async def test_close_ends_the_threads(scene):
    mine = [x for x in threading.enumerate() if x.name in (HAND, "eye")][-2:]
    scene.performer.close()
    for thread in mine:
        await trio.to_thread.run_sync(thread.join)


def test_after_trio_ended_a_thread_ends_in_silence():
    gate, threads = threading.Event(), []

    async def main() -> None:
        scene = Scene()
        scene.ballast.drop = lambda amount: gate.wait(10)
        before = [x for x in threading.enumerate() if x.name == HAND]
        threads.append(before[-1])
        scene.perform(do.DropBallast("ram", 1, 1))
        scene.performer.close()

    trio.run(main)
    gate.set()
    threads[0].join(10)
    assert not threads[0].is_alive()


async def test_ballast_that_cannot_be_taken_is_said_and_tried_again(scene, monkeypatch):
    """A disk may fail; nobody's lease ends because of that."""

    def broken(amount, may):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(scene.ballast, "take", broken)
        scene.perform(do.TakeBallast("ram", 64 * MIB))
        assert ev.BallastTaken(NOW, "ram", 64 * MIB, 0) == await scene.event()
    said = "cannot hold ram back: Input/output error."
    assert scene.performer.troubles == {"ram": said}
    scene.perform(do.TakeBallast("ram", 64 * MIB))
    assert (await scene.event()).amount == 64 * MIB
    assert scene.performer.troubles == {}


async def test_swapped_out_ballast_is_said(scene):
    settings = Settings(ram_hold=GIB)
    scene.ballast.swapped = 64 * MIB
    assert len(scene.hand.troubles(settings)) == 1
    scene.perform(do.Measure("ram", fresh=False))
    await scene.event()
    assert "64.0 MiB of the ballast are swapped out" in scene.hand.troubles(settings)[1]


@pytest.mark.parametrize(
    ("effect", "said"),
    [
        (do.TakeBack("disk.gone", 3), "BallastBack"),
        (do.TakeBallast("disk.gone", MIB, "disk.gone"), "BallastTaken"),
        (do.Prepare("disk.gone", MIB, 3, "image", MIB, WHO), "BallastDropped"),
    ],
)
async def test_of_what_no_hand_has_nothing_comes_and_it_is_said(scene, effect, said):
    scene.perform(effect)
    event = await scene.event()
    assert type(event).__name__ == said
    assert event.resource == "disk.gone"
    assert getattr(event, "amount", 0) == 0
    assert bool(getattr(event, "problem", "")) == (said == "BallastDropped")


async def test_what_was_lent_long_ago_is_asked_for_until_it_comes(scene):
    scene.ballast.take(32 * MIB, lambda step: True)
    scene.ballast.keep(7, 32 * MIB)
    scene.performer.expect("ram", 7)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.performer.chase)
        event = await scene.event()
        nursery.cancel_scope.cancel()
    assert (type(event), event.lease, event.amount) == (ev.BallastBack, 7, 32 * MIB)
