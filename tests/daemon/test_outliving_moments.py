"""Leases outlive the daemon, at whatever moment it ends: half-way through anything."""

import os

import pytest
import trio

from holdingpen.core.effects import TellGranted
from holdingpen.core.leases import LIVE
from holdingpen.errors import RemoteMistake
from holdingpen.wire import messages as wire
from holdingpen.wire.session import ClientSession, encode

GIB = 2**30
#: Connections whose words are left in their sockets, as if nothing was on the disk.
EVERYBODY = frozenset(range(100))


@pytest.fixture
def store():
    """What systemd has: name to descriptor."""
    kept: dict[str, int] = {}
    yield kept
    for fd in kept.values():
        os.close(fd)


@pytest.fixture
async def pens(start, store):
    """Start the first daemon; and then each next one, its clients staying."""
    last = []

    async def pens(meanwhile=None):
        streams = []
        if last:
            streams, last[-1]._streams = last[-1]._streams, []
            await last[-1].stop()
        if meanwhile is not None:
            await meanwhile()
        last.append(await start(store=store, resources={"seat": 200}))
        last[-1]._streams += streams
        return last[-1]

    return pens


async def holder(pen):
    """A client with a lease, which is number 1 on its connection."""
    client = await pen.client()
    assert isinstance(await client.acquire(ram=GIB), wire.Granted)
    return client


# What the client was saying.


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 20])
async def test_a_client_half_way_through_a_frame(pens, cut):
    pen = await pens()
    client = await holder(pen)
    frame = encode(wire.Acquire(2, {"ram": GIB}))
    await client.stream.send_all(frame[:cut])
    await trio.testing.wait_all_tasks_blocked()
    pen = await pens()
    await client.stream.send_all(frame[cut:])
    assert isinstance(await client.answer(2), wire.Granted)
    assert len(pen.books.leases) == 2


async def test_a_whole_frame_and_a_half_one(pens):
    pen = await pens()
    client = await holder(pen)
    frame = encode(wire.Acquire(3, {"ram": GIB}))
    await client.stream.send_all(encode(wire.Acquire(2, {"ram": GIB})) + frame[:9])
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(await client.answer(2), wire.Granted)
    await pens()
    await client.stream.send_all(frame[9:])
    assert isinstance(await client.answer(3), wire.Granted)


async def test_a_frame_longer_than_one_read(pens):
    pen = await pens()
    client = await holder(pen)
    long = wire.Acquire(2, {"ram": GIB}, command="\u20ac" * 12_000)
    frame = encode(long)
    assert len(frame) > 32 * 1024
    await client.stream.send_all(frame[:-1])
    await trio.testing.wait_all_tasks_blocked()
    await pens()
    await client.stream.send_all(frame[-1:])
    assert type(await client.answer(2)) in (wire.Granted, wire.Refused)


async def test_hello_and_the_first_request_in_one_write(pens):
    """As gatekeeper says them: both lie in the socket until both are answered."""
    pen = await pens()
    pen.daemon.connections._unsynced = lambda: EVERYBODY
    stream = await pen.connect()
    session = ClientSession()
    await stream.send_all(session.hello("test") + encode(wire.Acquire(1, {"ram": GIB})))
    heard = []
    while not heard:
        heard += session.receive(await stream.receive_some())
    assert isinstance(heard[0], wire.Granted)
    pen = await pens()
    await stream.send_all(encode(wire.GetStory(2, heard[0].lease)))
    while not any(isinstance(x, wire.Story) for x in heard):
        data = await stream.receive_some()
        assert data, "hung up"
        heard += session.receive(data)
    assert len(pen.books.leases) == 1


@pytest.mark.parametrize("what", ["first", "second"])
async def test_a_request_that_was_booked_before_its_connection_was_kept(
    pens, store, what
):
    """It dies between the journal and the store."""
    pen = await pens()
    client = await (holder(pen) if what == "second" else pen.client())
    pen.daemon.keeper._perform = lambda outcome: None
    pen.daemon.connections._unsynced = lambda: EVERYBODY
    number = await client.send(wire.Acquire, amounts={"ram": GIB})
    await trio.testing.wait_all_tasks_blocked()
    pen = await pens()
    assert isinstance(await client.answer(number), wire.Granted)
    assert len(pen.books.leases) == (2 if what == "second" else 1)


async def test_a_reservation_that_was_booked_and_not_answered(pens):
    """Who has no lease sees a pause, too: else he would ask again, and have two."""
    pen = await pens()
    client = await pen.client()
    pen.daemon.keeper._perform = lambda outcome: None
    pen.daemon.connections._unsynced = lambda: EVERYBODY
    number = await client.send(wire.Reserve, amounts={"ram": GIB}, length_s=60.0)
    await trio.testing.wait_all_tasks_blocked()
    pen = await pens()
    assert isinstance(await client.answer(number), wire.Reserved)
    assert len(pen.books.leases) == 1


# What the daemon was saying.


async def test_a_waiter_that_was_granted_and_not_told(pens):
    """It dies between the journal and the answer, which the client does not expect."""
    pen = await pens()
    first = await pen.client()
    granted = await first.acquire(ram=16 * GIB)
    waiter = await pen.client()
    waiting = await waiter.acquire(ram=16 * GIB)
    assert isinstance(waiting, wire.Waiting)
    perform = pen.daemon.keeper._perform
    pen.daemon.keeper._perform = lambda what: (
        None if isinstance(what, TellGranted) else perform(what)
    )
    await first.ask(wire.Release, lease=granted.lease)
    await pen.until(lambda: pen.books.leases[waiting.lease].state == LIVE)
    pen = await pens()
    told = waiting
    with trio.move_on_after(1.0) as late:
        await trio.testing.wait_all_tasks_blocked()
        while isinstance(told, wire.Waiting):
            told = await waiter.answer(waiting.id)
    assert not late.cancelled_caught, "it waits for ever"
    assert told.lease == waiting.lease
    assert isinstance(told, wire.Granted)


async def test_a_client_that_does_not_read(pens, store):
    """Half a reply has no other half afterwards: it hears a clear end."""
    pen = await pens()
    client = await pen.client()
    for _ in range(120):
        await client.ask(wire.Acquire, amounts={"seat": 1}, command="x" * 4000)
    number = await client.send(wire.GetStatus)
    await pen.until(lambda: any(x.out for x in pen.daemon.connections._by_fd.values()))
    await trio.testing.wait_all_tasks_blocked()
    assert store == {}
    await pens()
    with pytest.raises((EOFError, RemoteMistake)):
        await client.answer(number)


async def test_who_reads_after_all_is_kept_again(pens, store):
    pen = await pens()
    client = await pen.client()
    for _ in range(120):
        await client.ask(wire.Acquire, amounts={"seat": 1}, command="x" * 4000)
    number = await client.send(wire.GetStatus)
    await pen.until(lambda: any(x.out for x in pen.daemon.connections._by_fd.values()))
    assert isinstance(await client.answer(number), wire.Status)
    assert list(store) == ["c1"]


# Who goes.


async def test_who_goes_before_the_disk_has_what_it_asked(start, store, slowly):
    """Its words lie in the socket still, and are neither heard nor taken twice."""
    pen = await start(store=store)
    pen.daemon._journal.sync, gate = slowly(pen.daemon._journal.sync)
    client = await holder(pen)
    reserved = []
    seen = pen.daemon.keeper.put
    pen.daemon.connections._put = lambda item: (reserved.append(item), seen(item))
    await client.send(wire.Reserve, amounts={"ram": GIB}, length_s=60.0)
    await client.close()
    await pen.until(lambda: len(pen.books.leases) == 2)
    gate.set()
    await pen.until(lambda: len(pen.books.leases) == 1)
    assert [type(x).__name__ for x in reserved] == ["Asked", "Gone"]
