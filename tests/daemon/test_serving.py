"""The whole daemon on a make-believe machine: leases, ballast, journal, orders."""

from __future__ import annotations

import os

import pytest
import trio

from holdingpen.daemon.listener import peer
from holdingpen.wire import messages as wire

MIB = 2**20
GIB = 2**30


def held(pen) -> int:
    """Ballast in the books, when none is on its way; else -1."""
    ledger = pen.books.resources["ram"]
    return -1 if ledger.taking else ledger.held


@pytest.fixture
async def holding(start):
    """A pen that holds 1 GiB of ballast."""
    pen = await start(ram_hold=GIB)
    await pen.until(lambda: held(pen) == GIB)
    return pen


# Leases.


async def test_who_asks_gets(start):
    pen = await start()
    client = await pen.client()
    granted = wire.Granted(
        1, 1, {"ram": GIB}, "best-effort", 0, "nothing was held back"
    )
    assert granted == await client.acquire(ram=GIB)


async def test_who_asks_for_nothing_in_particular_gets_the_share(start):
    pen = await start(ram_share=3 * GIB)
    client = await pen.client()
    assert (await client.acquire()).amounts == {"ram": 3 * GIB}


async def test_a_closed_connection_serves_the_next_in_the_line(start):
    pen = await start()
    first, second = await pen.client(), await pen.client()
    await first.acquire(cpu=8)
    waiting = await second.acquire(cpu=8)
    assert waiting.waits_for == [1]
    await first.close()
    assert wire.Granted(1, 2, {"cpu": 8}) == await second.next()


async def test_what_can_never_fit_is_refused_with_the_numbers(start):
    pen = await start()
    client = await pen.client()
    refused = await client.acquire(ram=17 * GIB)
    assert refused.code == "never-fits"
    assert "17.0 GiB" in refused.message
    assert "16.0 GiB" in refused.message


async def test_who_will_not_wait_is_told_not_now(start):
    pen = await start()
    client = await pen.client()
    await client.acquire(cpu=8)
    refused = await client.ask(wire.Acquire, amounts={"cpu": 1}, wait_s=0.0)
    assert refused.code == "not-now"


async def test_who_waited_long_enough_is_told_not_now(start, clock):
    pen = await start()
    client = await pen.client()
    await client.acquire(cpu=8)
    number = await client.send(wire.Acquire, amounts={"cpu": 1}, wait_s=30.0)
    assert isinstance(await client.answer(number), wire.Waiting)
    clock.jump(29.0)
    await trio.testing.wait_all_tasks_blocked()
    assert len(pen.books.leases) == 2
    clock.jump(1.1)
    reply = await client.answer(number)
    while isinstance(reply, wire.Waiting):
        reply = await client.answer(number)
    assert reply.code == "not-now"
    assert list(pen.books.leases) == [1]


# Whose.


async def test_a_stranger_may_not_end_anothers_lease(start, anybody):
    pen = await start()
    anybody["uid"] = 1000
    ada = await pen.client()
    await ada.acquire(cpu=1)
    anybody["uid"] = 1001
    bob = await pen.client()
    refused = await bob.ask(wire.Release, lease=1)
    assert refused.code == "not-permitted"
    assert list(pen.books.leases) == [1]


@pytest.mark.parametrize("uid", [1000, 0])
async def test_the_owner_and_root_may_end_it_from_elsewhere(start, anybody, uid):
    pen = await start()
    anybody["uid"] = 1000
    ada = await pen.client()
    await ada.acquire(cpu=1)
    anybody["uid"] = uid
    other = await pen.client()
    assert wire.Released(1, 1) == await other.ask(wire.Release, lease=1)
    assert wire.Ended(1, "ordered") == await ada.next()
    assert uid == pen.books.ended[1].by_uid


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (wire.SetCapacity, {"resource": "cpu", "capacity": 1}),
        (wire.Drain, {"on": True}),
        (wire.Drain, {"on": False}),
    ],
)
async def test_a_stranger_may_not_order_about_the_machine(start, anybody, kind, fields):
    pen = await start()
    anybody["uid"] = 12345
    stranger = await pen.client()
    refused = await stranger.ask(kind, **fields)
    assert refused.code == "not-permitted"
    assert (pen.books.resources["cpu"].capacity, pen.books.drain) == (8, None)


async def test_who_somebody_is_says_the_kernel(start, monkeypatch):
    monkeypatch.setattr("holdingpen.daemon.connections.peer", peer)
    pen = await start()
    client = await pen.client()
    await client.acquire(cpu=1)
    who = pen.books.leases[1].ask.who
    assert (os.geteuid(), os.getpid()) == (who.uid, who.pid)


async def test_leases_of_one_user_are_limited(start, anybody):
    pen = await start(leases_per_user_max=2)
    anybody["uid"] = 1000
    ada = await pen.client()
    await ada.acquire(cpu=1)
    await ada.acquire(cpu=1)
    assert (await ada.acquire(cpu=1)).code == "limit"
    anybody["uid"] = 1001
    bob = await pen.client()
    assert isinstance(await bob.acquire(cpu=1), wire.Granted)


# Ballast.


async def test_ballast_is_really_held_and_taken_in_steps(start, host, clock):
    host.pressure_percent = 5.0
    pen = await start(host, ram_hold=GIB)
    await pen.until(lambda: held(pen) == 0)
    steps = []
    pen.daemon.keeper._watch = lambda facts: steps.append(pen.ballast.held)
    host.pressure_percent = 0.0
    clock.jump(2.1)
    await pen.until(lambda: held(pen) == GIB)
    assert pen.ballast.held == host.ballast == GIB
    assert len(steps) >= GIB // (64 * MIB)


async def test_ballast_is_given_to_the_system_before_granted_is_said(holding):
    """What the client may find free must be free when it hears of it."""
    pen, order = holding, []
    send, drop = pen.daemon.connections.send, pen.ballast.drop

    def told(conn, message):
        if isinstance(message, wire.Granted):
            order.append(("granted", pen.host.ram_available()))
        send(conn, message)

    def dropped(amount):
        drop(amount)
        order.append(("dropped", pen.host.ram_available()))

    pen.daemon.connections.send, pen.ballast.drop = told, dropped
    client = await pen.client()
    await client.acquire(ram=512 * MIB)
    there = 64 * GIB - 512 * MIB
    assert [("dropped", there), ("granted", there)] == order


async def test_it_is_recorded_before_ballast_is_dropped(holding):
    pen, seen = holding, []
    drop = pen.ballast.drop

    def dropped(amount):
        # promised and written, not yet live
        seen.append((pen.books.leases[1].state, written(pen) >= ends))
        drop(amount)

    def written(pen) -> int:
        return pen.daemon._journal.size

    ends = written(pen) + 1
    pen.ballast.drop = dropped
    client = await pen.client()
    await client.acquire(ram=512 * MIB)
    assert seen == [("promised", True)]


async def test_ballast_is_taken_back_when_the_lease_has_ended(holding):
    pen = holding
    client = await pen.client()
    await client.acquire(ram=512 * MIB)
    pen.host.run(4242, 512 * MIB)
    assert pen.ballast.held == 512 * MIB
    pen.host.end(4242)
    await client.close()
    await pen.until(lambda: held(pen) == GIB)
    assert pen.ballast.held == GIB


async def test_what_is_not_back_yet_settles_and_is_not_taken(holding, clock):
    pen = holding
    pen.host.total = 16 * GIB
    client = await pen.client()
    await client.acquire(ram=GIB)
    pen.host.run(4242, GIB)
    await client.close()
    ram = pen.books.resources["ram"]
    await pen.until(lambda: not pen.books.leases and ram.held + ram.taking > 0)
    assert ram.settling == GIB
    pen.host.end(4242)
    clock.jump(0.3)
    await pen.until(lambda: ram.settling == 0)
    await pen.until(lambda: held(pen) == GIB)


async def test_what_does_not_come_back_is_foreign_after_the_limit(start, clock):
    pen = await start()
    pen.host.total = 16 * GIB
    client = await pen.client()
    await client.acquire(ram=GIB)
    pen.host.run(4242, GIB)
    await client.close()
    ram = pen.books.resources["ram"]
    await pen.until(lambda: ram.settling == GIB)
    clock.jump(10.1)
    await pen.until(lambda: ram.foreign == GIB)
    assert ram.settling == 0


@pytest.mark.parametrize("scarce", ["pressure", "memory"])
async def test_ballast_is_not_taken_when_the_machine_says_no(start, host, scarce):
    if scarce == "pressure":
        host.pressure_percent = 5.0
    else:
        host.elsewhere = 63 * GIB
    pen = await start(host, ram_hold=GIB, ram_keep=GIB)
    await pen.until(lambda: held(pen) == 0)
    assert pen.ballast.held == 0


async def test_a_take_that_was_refused_is_tried_again(start, host, clock):
    host.pressure_percent = 5.0
    pen = await start(host, ram_hold=GIB)
    await pen.until(lambda: held(pen) == 0)
    host.pressure_percent = 0.0
    clock.jump(2.1)
    await pen.until(lambda: held(pen) == GIB)


async def test_a_take_that_was_refused_leaves_the_daemon_at_rest(start, host, clock):
    """All is leased when it would be tried again: then there is nothing to try."""
    host.pressure_percent = 5.0
    pen = await start(host, ram_hold=GIB)
    await pen.until(lambda: held(pen) == 0)
    client = await pen.client()
    await client.acquire(ram=16 * GIB)
    turns, turn = [], pen.daemon.keeper.turn
    pen.daemon.keeper.turn = lambda: (turns.append(0), turn())
    clock.jump(2.1)
    for _ in range(100):
        await trio.lowlevel.checkpoint()
    assert len(turns) < 10


async def test_a_machine_with_less_than_it_should_hold_says_so_in_no_hurry(start, host):
    host.total = 512 * MIB
    pen = await start(host, ram_hold=GIB)
    client = await pen.client()
    assert 0 <= (await client.books("ram")).held <= 512 * MIB


@pytest.mark.parametrize("job", ["drop", "uses"])
async def test_a_thread_that_breaks_ends_the_daemon_with_its_error(
    holding, job, clock, monkeypatch
):
    def broken(*_):
        raise MemoryError("the hand is broken")

    broken_part = holding.ballast if job == "drop" else holding.host
    monkeypatch.setattr(broken_part, job, broken)
    client = await holding.client()
    await client.send(wire.Acquire, amounts={"ram": GIB})
    clock.jump(3.0)
    await holding.over.wait()
    monkeypatch.undo()
    await holding.stop(MemoryError)


# Status.


@pytest.mark.slow
async def test_1200_leases_are_shown_in_pages(start):
    pen = await start()
    # who reads no answers is not heard for ever
    clients = [await pen.client() for _ in range(4)]
    for number in range(1200):
        await clients[number % 4].send(wire.Acquire, amounts={"ram": 1})
    await pen.until(lambda: len(pen.books.leases) == 1200)
    reader = await pen.client()
    ids, more = [], True
    while more:
        page = await reader.ask(wire.GetStatus, after=ids[-1] if ids else 0)
        ids += [lease.id for lease in page.leases]
        more = page.more
    assert list(range(1, 1201)) == ids


async def test_the_story_of_a_lease_from_the_line_to_its_end(start):
    pen = await start()
    client, other = await pen.client(), await pen.client()
    await client.acquire(cpu=8)
    await other.acquire(cpu=8)

    async def state(lease: int) -> str:
        story = await client.ask(wire.GetStory, lease=lease)
        return story.lease.state if isinstance(story, wire.Story) else story.code

    assert [await state(n) for n in (1, 2, 3)] == ["live", "waiting", "no-such-lease"]
    await client.ask(wire.Release, lease=1)
    assert [await state(n) for n in (1, 2)] == ["ended", "live"]


async def test_trouble_with_the_ballast_is_told_to_whoever_wants_ballast(start):
    without, with_ = await start(), await start(name="t", state="u", ram_hold=GIB)
    status = await (await without.client()).ask(wire.GetStatus)
    assert status.troubles == []
    status = await (await with_.client()).ask(wire.GetStatus)
    assert status.troubles == ["The machine is a make-believe one."]


async def test_who_uses_memory_outside_all_leases_is_named(start, host):
    host.run(77, 3 * GIB, uid=1001, comm="hog")
    pen = await start(host)
    client = await pen.client()
    await pen.until(lambda: pen.daemon._performer.foreign)
    status = await client.ask(wire.GetStatus)
    assert [wire.ForeignUser("ram", 77, 1001, "hog", 3 * GIB)] == status.foreign
