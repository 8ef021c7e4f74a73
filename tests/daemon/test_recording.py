"""The whole daemon and its journal: a full disk, a broken disk, a new start."""

from __future__ import annotations

import errno
import os

import pytest
import trio

from holdingpen.errors import Unavailable
from holdingpen.wire import messages as wire

GIB = 2**30


def held(pen) -> int:
    """Ballast in the books, when none is on its way; else -1."""
    ledger = pen.books.resources["ram"]
    return -1 if ledger.taking else ledger.held


@pytest.fixture
def disk(monkeypatch):
    """`disk["full"] = True`: nothing more can be allocated."""
    state = {"full": False}
    fallocate = os.posix_fallocate

    def allocate(*args):
        if state["full"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        fallocate(*args)

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    return state


async def test_a_full_disk_refuses_what_is_new_and_harms_no_lease(start, disk, clock):
    pen = await start(leases_per_user_max=10**6)
    holder, asker = await pen.client(), await pen.client()
    await holder.acquire(cpu=1)
    disk["full"] = True
    command = "x" * wire.COMMAND_MAX
    reply = None
    while not isinstance(reply, wire.Refused):
        reply = await asker.ask(wire.Acquire, amounts={"ram": 1}, command=command)
    assert reply.code == "cannot-record"
    assert "No space left on device" in reply.message
    status = await asker.ask(wire.GetStatus)
    assert [reply.message] == status.troubles
    assert (await asker.ask(wire.Drain, on=True)).code == "cannot-record"
    leases = len(pen.books.leases)
    assert wire.Released(2, 1) == await holder.ask(wire.Release, lease=1)
    await asker.close()
    await pen.until(lambda: not pen.books.leases)
    assert leases > 100
    disk["full"] = False
    clock.jump(1.1)
    assert isinstance(await holder.acquire(cpu=1), wire.Granted)
    assert (await holder.ask(wire.GetStatus)).troubles == []


@pytest.mark.parametrize("how", ["a request", "a report"])
async def test_a_disk_that_fails_ends_the_daemon_and_nothing_is_said(
    start, host, monkeypatch, how, clock
):
    host.pressure_percent = 5.0
    pen = await start(host, ram_hold=GIB)
    client = await pen.client()
    await pen.until(lambda: held(pen) == 0)

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("holdingpen.journal.store.os.pwrite", broken)
    if how == "a request":
        await client.send(wire.Acquire, amounts={"cpu": 1})
    else:
        host.pressure_percent = 0.0
        clock.jump(2.1)
    await pen.over.wait()
    monkeypatch.undo()
    await pen.stop(Unavailable)
    assert "Input/output error" in str(pen.failure)
    with pytest.raises((EOFError, trio.BrokenResourceError, trio.ClosedResourceError)):
        await client.next()


async def test_an_order_is_done_only_when_it_is_on_the_disk(start, slowly):
    pen = await start()
    client, other = await pen.client(), await pen.client()
    journal = pen.daemon._journal
    journal.sync, gate = slowly(journal.sync)
    number = await client.send(wire.SetCapacity, resource="cpu", capacity=4)
    await pen.until(lambda: pen.books.resources["cpu"].capacity == 4)
    assert isinstance(await other.acquire(cpu=1), wire.Granted)
    assert journal.synced_to < journal.size
    gate.set()
    assert wire.Done(number) == await client.next()


# A new start.


async def test_a_new_start_ends_the_leases_of_closed_connections(start):
    pen = await start()
    client = await pen.client()
    await client.acquire(cpu=8)
    await client.acquire(cpu=1)
    await pen.stop()
    pen = await start()
    assert pen.books.leases == {}
    assert [x.why for x in pen.books.ended.values()] == ["daemon-restarted"] * 2
    client = await pen.client()
    assert (await client.acquire(cpu=8)).lease == 3
    assert pen.books.leases[3].ask.conn == 2


async def test_orders_survive_a_new_start_and_a_reboot(start, host):
    pen = await start(host)
    client = await pen.client()
    await client.ask(wire.SetCapacity, resource="cpu", capacity=4)
    await client.ask(wire.Drain, on=True, reason="new disks")
    await pen.stop()
    host.boot = "another"
    pen = await start(host)
    client = await pen.client()
    status = await client.ask(wire.GetStatus)
    assert (status.resources["cpu"].capacity, status.drain) == (4, "new disks")
    waiting = await client.acquire(cpu=1)
    assert "new disks" in waiting.reason
    await client.ask(wire.Drain, on=False)
    reply = await client.next()
    while isinstance(reply, wire.Waiting):
        reply = await client.next()
    assert isinstance(reply, wire.Granted)
    assert isinstance(
        await client.ask(wire.SetCapacity, resource="cpu", capacity=None), wire.Done
    )
    assert (await client.books("cpu")).capacity == 8


async def test_after_a_crash_ballast_is_taken_anew(start, host):
    pen = await start(host, ram_hold=GIB)
    await pen.until(lambda: held(pen) == GIB)
    await pen.stop()
    assert host.ballast == 0
    pen = await start(host, ram_hold=GIB)
    await pen.until(lambda: held(pen) == GIB)
    assert host.ballast == GIB


async def test_what_was_cut_off_a_torn_journal_is_said_in_the_log(
    start, tmp_path, capfd
):
    """The administrator hears of it, not only the file beside the journal."""
    pen = await start()
    await pen.stop()
    journal = tmp_path / "state" / "journal"
    whole = journal.read_bytes().rstrip(b"\0")
    journal.write_bytes(whole[:-1])
    await start()
    assert "It was cut there" in capfd.readouterr().err
