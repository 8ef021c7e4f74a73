"""Leases outlive the daemon where somebody keeps their connections."""

import os

import pytest
import trio

from holdingpen.wire import messages as wire
from holdingpen.wire.framing import complete
from holdingpen.wire.session import encode

GIB = 2**30


@pytest.fixture
def store():
    """What systemd has: name to descriptor."""
    kept: dict[str, int] = {}
    yield kept
    for fd in kept.values():
        os.close(fd)


async def next_daemon(start, pen, store, meanwhile=None, **settings):
    """The daemon dies and says nothing to anybody; another one starts."""
    streams, pen._streams = pen._streams, []
    await pen.stop()
    if meanwhile is not None:
        await meanwhile()
    pen = await start(store=store, **settings)
    pen._streams += streams
    return pen


async def test_a_lease_and_a_place_in_the_line_outlive_it(start, store):
    pen = await start(store=store)
    holder, waiter = await pen.client(), await pen.client()
    granted = await holder.ask(wire.Acquire, amounts={"ram": 10 * GIB})
    assert isinstance(granted, wire.Granted)
    waiting = await waiter.ask(wire.Acquire, amounts={"ram": 10 * GIB})
    assert isinstance(waiting, wire.Waiting)
    assert sorted(store) == ["c1", "c2"]
    pen = await next_daemon(start, pen, store)
    assert sorted(pen.books.leases) == [1, 2]
    told = await holder.ask(wire.Release, lease=granted.lease)
    assert isinstance(told, wire.Released)
    told = await waiter.answer(waiting.id)
    while isinstance(told, wire.Waiting):
        told = await waiter.answer(waiting.id)
    assert isinstance(told, wire.Granted)
    assert told.lease == waiting.lease


async def test_who_only_looks_is_not_kept(start, store):
    pen = await start(store=store)
    client = await pen.client()
    await client.ask(wire.GetStatus)
    assert store == {}


async def test_a_request_that_was_read_and_not_answered_is_answered_by_the_next(
    start, store
):
    pen = await start(store=store)
    client = await pen.client()
    await client.ask(wire.Acquire, amounts={"ram": GIB})
    # it dies before anything is written down
    pen.daemon.keeper.turn = lambda: None
    await client.send(wire.Acquire, amounts={"ram": GIB})
    await trio.testing.wait_all_tasks_blocked()
    del pen.daemon.keeper.turn
    pen = await next_daemon(start, pen, store)
    assert isinstance(await client.answer(2), wire.Granted)
    assert len(pen.books.leases) == 2


async def test_a_request_that_was_carried_out_and_not_answered_is_not_done_twice(
    start, store
):
    pen = await start(store=store)
    client = await pen.client()
    await client.ask(wire.Acquire, amounts={"ram": GIB})
    # it dies between the journal and the answer
    pen.daemon.keeper._perform = lambda outcome: None
    pen.daemon.connections._unsynced = lambda: frozenset({1})
    await client.send(wire.Acquire, amounts={"ram": GIB})
    await client.send(wire.Reserve, amounts={"ram": GIB}, length_s=3600.0)
    await trio.testing.wait_all_tasks_blocked()
    pen = await next_daemon(start, pen, store)
    assert isinstance(await client.answer(2), wire.Granted)
    assert isinstance(await client.answer(3), wire.Reserved)
    assert len(pen.books.leases) == 3


async def test_who_goes_while_there_is_no_daemon_is_gone(start, store):
    pen = await start(store=store)
    client = await pen.client()
    await client.ask(wire.Acquire, amounts={"ram": GIB})

    async def leave():
        await client.close()
        # systemd throws out whose other end hung up
        os.close(store.pop("c1"))

    pen = await next_daemon(start, pen, store, leave)
    assert pen.books.leases == {}


async def test_what_was_held_back_for_it_is_best_effort_afterwards(start, store):
    pen = await start(store=store, ram_handover="paced", ram_hold=4 * GIB)
    await pen.until(lambda: pen.books.resources["ram"].held == 4 * GIB)
    client = await pen.client()
    granted = await client.ask(wire.Acquire, amounts={"ram": GIB})
    assert granted.handover == "bounded"
    pen = await next_daemon(start, pen, store, ram_handover="paced", ram_hold=4 * GIB)
    story = await client.ask(wire.GetStory, lease=granted.lease)
    assert story.lease.handover == "best-effort"
    assert "restarted" in story.lease.handover_why


async def test_connections_with_a_disk_are_kept_as_all_others(start, store):
    pen = await start(store=store)
    client = await pen.client()
    await client.ask(wire.Acquire, amounts={"disk": GIB})
    assert list(store) == ["c1"]


async def test_what_systemd_has_no_room_for_is_said(start, store, monkeypatch):
    pen = await start(store=store)
    monkeypatch.setattr(pen.daemon._systemd, "trouble", "there are too many.")
    client = await pen.client()
    status = await client.ask(wire.GetStatus)
    assert "there are too many." in status.troubles


async def test_an_answer_that_waits_for_the_disk_is_given_by_the_next(
    start, store, slowly
):
    pen = await start(store=store)
    client = await pen.client()
    await client.ask(wire.Acquire, amounts={"ram": GIB})
    pen.daemon._journal.sync, gate = slowly(pen.daemon._journal.sync)
    await client.send(wire.Reserve, amounts={"ram": GIB}, length_s=3600.0)
    await pen.until(lambda: len(pen.books.leases) == 2)
    # it says so, and it is still there to be read
    assert pen.daemon.keeper.unsynced() == {1}
    gate.set()
    assert isinstance(await client.answer(2), wire.Reserved)
    await client.ask(wire.GetStatus)
    assert pen.daemon.keeper.unsynced() == frozenset()


@pytest.mark.parametrize(
    ("frames", "cut", "whole"), [(0, 0, 0), (1, 0, 1), (2, 0, 2), (2, 1, 1), (1, 3, 0)]
)
def test_whole_frames_are_counted(frames, cut, whole):
    one = encode(wire.GetStatus(1))
    data = one * frames
    assert complete(data[: len(data) - cut]) == whole * len(one)
