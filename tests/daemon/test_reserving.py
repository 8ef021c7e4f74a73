"""Reservations, whose turn it is, and what is asked back: the daemon as clients see it.

The core's part is told in tests/core; here it goes through protocol, journal, timer,
flag file, history and terminals.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from holdingpen.core.rights import Allow
from holdingpen.daemon import terminals
from holdingpen.wire import messages as wire

GIB = 2**30
ADA, BOB, CAROL = 1000, 1001, 1002
HOUR = 3600.0


@pytest.fixture
def now(start, clock):
    """Seconds since 1970, as the daemon sees it."""
    return lambda: start.__globals__["EPOCH_S"] + clock.current_time()


async def sleep(clock, seconds: float) -> None:
    """Let time pass, and the daemon see to what is due."""
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def told(monkeypatch):
    """What is written on users' terminals: pairs of uid and text."""
    lines = []
    monkeypatch.setattr(terminals, "tell", lambda *line: lines.append(line))
    return lines


async def reserve(client, length_s=60.0, **fields) -> wire.Reply:
    """Ask for a reservation of `fields`' amounts, 4 CPUs if there are none."""
    fields.setdefault("amounts", {"cpu": 4})
    return await client.ask(wire.Reserve, length_s=length_s, **fields)


async def final(client, number: int) -> wire.Reply:
    """What becomes of a request that waits in the line."""
    while isinstance(reply := await client.answer(number), wire.Waiting):
        pass
    return reply


async def final_wait(client, number: int) -> None:
    """Wait until a request stands in the line."""
    assert isinstance(await client.answer(number), wire.Waiting)


async def info(client, lease: int) -> wire.LeaseInfo:
    return (await client.ask(wire.GetStory, lease=lease)).lease


def flag(pen) -> Path:
    return Path(f"{pen.daemon.socket}.reserved")


# A time, without a connection.


async def test_a_reservation_outlives_its_connection_and_ends_at_its_date(
    start, clock, now
):
    pen = await start()
    client = await pen.client()
    made = await reserve(client)
    assert made == wire.Reserved(1, [1], {"cpu": 4}, now(), now() + 60)
    await client.close()
    await sleep(clock, 59.0)
    assert list(pen.books.leases) == [1]
    await sleep(clock, 1.1)
    assert not pen.books.leases
    assert (await info(await pen.client(), 1)).why_ended == "expired"


async def test_a_restart_keeps_it_and_the_time_between_counts(start, clock):
    pen = await start()
    client = await pen.client()
    await reserve(client, length_s=60.0)
    await reserve(client, length_s=600.0)
    await client.acquire()
    await pen.stop()
    await sleep(clock, 100.0)
    again = await start(name="again")
    assert list(again.books.leases) == [2]


@pytest.mark.parametrize(("step_s", "over"), [(50.0, False), (70.0, True)])
async def test_a_step_of_the_wall_clock_moves_its_end(
    start, clock, monkeypatch, step_s, over
):
    """An hour's sleep is no step; this is what NTP does after a bad battery."""
    pen = await start()
    client = await pen.client()
    await reserve(client, length_s=60.0)
    known = start.__globals__
    monkeypatch.setitem(known, "EPOCH_S", known["EPOCH_S"] + step_s)
    await client.ask(wire.GetStatus)
    await sleep(clock, 5.0)
    assert over == (not pen.books.leases)


async def test_who_waits_for_one_leaves_the_line_with_his_connection(start, clock):
    pen = await start()
    client, other = await pen.client(), await pen.client()
    await reserve(client, amounts={"cpu": 8})
    waiting = await reserve(other)
    assert (waiting.place, waiting.waits_for) == (1, [1])
    await other.close()
    await pen.until(lambda: list(pen.books.leases) == [1])
    await sleep(clock, 61.0)
    assert not pen.books.leases


@pytest.mark.parametrize(("wait_s", "after_s"), [(0.0, 0.0), (30.0, 31.0)])
async def test_who_does_not_wait_for_ever_is_told_not_now(
    start, clock, wait_s, after_s
):
    pen = await start()
    client, other = await pen.client(), await pen.client()
    await reserve(client, amounts={"cpu": 8})
    number = await other.send(
        wire.Reserve, amounts={"cpu": 1}, length_s=9.0, wait_s=wait_s
    )
    await trio.testing.wait_all_tasks_blocked()
    await sleep(clock, after_s)
    assert (await final(other, number)).code == "not-now"
    assert list(pen.books.leases) == [1]


async def test_extending_moves_the_end_and_is_not_in_anothers_way(start, clock, now):
    pen = await start()
    client = await pen.client()
    await reserve(client, length_s=60.0, amounts={"cpu": 8})
    end_s = now() + 60
    await reserve(client, starts=[end_s + 1000], amounts={"cpu": 8})
    extended = await client.ask(wire.Extend, lease=1, by_s=400.0)
    assert extended.expires == end_s + 400
    assert (await client.ask(wire.Extend, lease=1, by_s=601.0)).code == "conflict"
    await sleep(clock, 61.0)
    assert 1 in pen.books.leases


async def test_a_stranger_neither_extends_nor_ends_it(start, anybody):
    pen = await start()
    anybody["uid"] = ADA
    await reserve(await pen.client())
    anybody["uid"] = BOB
    bob = await pen.client()
    for kind, fields in [(wire.Extend, {"by_s": 1.0}), (wire.Release, {})]:
        assert (await bob.ask(kind, lease=1, **fields)).code == "not-permitted"
    assert list(pen.books.leases) == [1]


async def test_operators_reserve_for_others_and_nobody_else_does(start, anybody):
    pen = await start()
    anybody["uid"] = BOB
    refused = await reserve(await pen.client(), uid=ADA)
    assert refused.code == "not-permitted"
    anybody["uid"] = 0
    root = await pen.client()
    (lease,) = (await reserve(root, uid=ADA)).leases
    shown = await info(root, lease)
    assert (shown.uid, shown.made_by) == (ADA, 0)
    anybody["uid"] = ADA
    ada = await pen.client()
    await ada.ask(wire.Acquire, amounts={"cpu": 1})
    assert (await info(ada, lease + 1)).inside == lease


# Drawing on it.


async def test_a_users_own_leases_draw_on_it_and_count_once(start):
    pen = await start()
    client = await pen.client()
    await reserve(client, amounts={"cpu": 4})
    granted = await client.acquire(cpu=3)
    assert (await info(client, granted.lease)).inside == 1
    assert (await client.books("cpu")).leased == 4
    # one CPU is left in it, and four outside
    beside = await client.ask(wire.Acquire, amounts={"cpu": 4}, wait_s=0.0)
    assert (await info(client, beside.lease)).inside == 0


@pytest.mark.parametrize(
    ("uid", "answer"), [(BOB, "granted"), (CAROL, "not-permitted")]
)
async def test_members_of_its_group_may_draw_on_it(start, anybody, uid, answer):
    pen = await start()
    anybody["uid"] = ADA
    await reserve(await pen.client(), gid=BOB)
    anybody["uid"] = uid
    other = await pen.client()
    reply = await other.ask(wire.Acquire, amounts={"cpu": 1}, inside=1)
    assert answer == getattr(reply, "code", "granted")


async def test_when_it_is_over_so_is_what_draws_on_it_and_its_holder_is_told(
    start, clock
):
    pen = await start()
    client = await pen.client()
    await reserve(client, length_s=60.0)
    await client.ask(wire.Acquire, amounts={"cpu": 1}, inside=1)
    await sleep(clock, 61.0)
    assert await client.next() == wire.Ended(2, "reservation-over")
    assert not pen.books.leases


# The whole machine.


async def test_the_machine_waits_for_the_others_and_then_keeps_them_out(
    start, anybody, now
):
    pen = await start()
    anybody["uid"] = BOB
    bob, other = await pen.client(), await pen.client()
    await bob.acquire(cpu=1)
    anybody["uid"] = ADA
    ada = await pen.client()
    waiting = await reserve(ada, amounts={"machine": 1}, reason="exam")
    assert "the others" in waiting.reason
    assert not flag(pen).exists()
    await bob.ask(wire.Release, lease=1)
    assert isinstance(await final(ada, waiting.id), wire.Reserved)
    assert flag(pen).read_text().endswith("(exam)\n")
    blocked = await other.acquire(cpu=1)
    assert "exam" in blocked.reason
    assert blocked.expected == now() + 60.0
    await ada.ask(wire.Release, lease=2)
    assert isinstance(await final(other, blocked.id), wire.Granted)
    assert not flag(pen).exists()


async def test_who_has_the_machine_runs_in_it(start, anybody):
    pen = await start()
    anybody["uid"] = ADA
    ada = await pen.client()
    await reserve(ada, amounts={"machine": 1})
    assert isinstance(await ada.acquire(cpu=8), wire.Granted)


async def test_a_restart_raises_the_flag_again(start):
    pen = await start()
    await reserve(await pen.client(), amounts={"machine": 1}, reason="exam")
    await pen.stop()
    again = await start(name="again")
    assert "exam" in flag(again).read_text()


# In advance.


async def test_one_that_is_booked_begins_in_time_and_nobody_needs_to_be_there(
    start, clock, now
):
    pen = await start(ready_before_s=10.0)
    client = await pen.client()
    await reserve(client, starts=[now() + 100], amounts={"cpu": 8})
    await client.close()
    await sleep(clock, 89.0)
    assert pen.books.leases[1].state == "booked"
    await sleep(clock, 2.0)
    # it holds nothing back, so it need not begin before its date
    assert pen.books.leases[1].state == "waiting"
    await sleep(clock, 10.0)
    assert pen.books.leases[1].state == "live"
    await sleep(clock, 60.0)
    assert not pen.books.leases


async def test_what_it_holds_is_ballast_before_it_begins(start, clock, now):
    pen = await start(ready_before_s=10.0, ram_hold=GIB)
    await pen.until(lambda: pen.ballast.held == GIB)
    client = await pen.client()
    await reserve(client, starts=[now() + 100], amounts={"ram": 4 * GIB})
    await sleep(clock, 91.0)
    await pen.until(lambda: pen.ballast.held >= 4 * GIB)
    assert now() + 5 < pen.books.leases[1].starts_wall_s


async def test_dates_are_kept_over_a_restart(start, clock, now):
    pen = await start(ready_before_s=0.0)
    starts = [now() + 100, now() + 200, now() + 300]
    made = await reserve(await pen.client(), starts=starts)
    assert made.leases == [1, 2, 3]
    await pen.stop()
    await sleep(clock, 210.0)
    again = await start(name="again", ready_before_s=0.0)
    assert {x.id: x.state for x in again.books.leases.values()} == {
        2: "live",
        3: "booked",
    }


async def test_a_conflict_is_told_with_the_next_free_time(start, now):
    pen = await start()
    client = await pen.client()
    await reserve(client, starts=[now() + HOUR], length_s=HOUR, amounts={"cpu": 6})
    refused = await reserve(client, starts=[now() + 1.5 * HOUR], length_s=HOUR)
    assert (refused.code, refused.free_at) == ("conflict", now() + 2 * HOUR)
    made = await reserve(client, starts=[refused.free_at], length_s=HOUR)
    assert isinstance(made, wire.Reserved)


async def test_all_of_a_series_or_none(start, now):
    pen = await start()
    client = await pen.client()
    await reserve(client, starts=[now() + 2 * HOUR], amounts={"cpu": 8})
    starts = [now() + HOUR, now() + 2 * HOUR]
    refused = await reserve(client, starts=starts)
    assert refused.code == "conflict"
    assert refused.message.startswith("date 2 of 2, in 2h: reservation 1 (")
    assert list(pen.books.leases) == [1]


@pytest.mark.parametrize(
    ("length_s", "reclaimable", "now_or_not"),
    [(0.5 * HOUR, False, True), (2 * HOUR, False, False), (None, False, False),
     (2 * HOUR, True, True)],
)  # fmt: skip
async def test_leases_are_planned_around_what_is_booked(
    start, now, length_s, reclaimable, now_or_not
):
    pen = await start(assume_s=2 * HOUR)
    client = await pen.client()
    await reserve(client, starts=[now() + HOUR], amounts={"cpu": 6})
    how = {"length_s": length_s, "reclaimable": reclaimable, "wait_s": 0.0}
    reply = await client.ask(wire.Acquire, amounts={"cpu": 4}, inside=-1, **how)
    assert now_or_not == isinstance(reply, wire.Granted)


async def test_who_never_said_an_end_is_asked_back_before_one_begins(start, clock, now):
    pen = await start(ready_before_s=60.0, assume_s=10.0)
    holder, client = await pen.client(), await pen.client()
    await holder.acquire(cpu=8)
    await reserve(client, starts=[now() + 100])
    await sleep(clock, 41.0)
    assert await holder.next() == wire.Reclaim(1, True)
    await holder.close()
    await sleep(clock, 60.0)
    assert pen.books.leases[2].state == "live"


# Asking back.


async def test_what_is_reclaimable_is_asked_back_once_and_shrinking_answers(
    start, clock
):
    pen = await start()
    holder, other = await pen.client(), await pen.client()
    await holder.ask(wire.Acquire, amounts={"cpu": 8}, reclaimable=True)
    same = await other.send(wire.Acquire, amounts={"cpu": 4})
    await final_wait(other, same)
    assert not pen.books.leases[1].asked_back
    high = await other.send(wire.Acquire, amounts={"cpu": 4}, priority=1)
    assert await holder.next() == wire.Reclaim(1, True)
    await holder.ask(wire.Shrink, lease=1, amounts={"cpu": 4})
    assert isinstance(await final(other, high), wire.Granted)
    assert pen.books.leases[1].asked_back is None


async def test_if_the_other_leaves_it_is_withdrawn(start):
    pen = await start()
    holder, other = await pen.client(), await pen.client()
    await holder.ask(wire.Acquire, amounts={"cpu": 8}, reclaimable=True)
    await other.send(wire.Acquire, amounts={"cpu": 4}, priority=1)
    assert (await holder.next()).on
    await other.close()
    assert await holder.next() == wire.Reclaim(1, False)


@pytest.mark.parametrize("ends", [False, True])
async def test_who_does_not_yield_is_shown_and_ended_only_where_that_is_said(
    start, clock, ends
):
    pen = await start(reclaim_grace_s=30.0, reclaim_ends=ends)
    holder, other = await pen.client(), await pen.client()
    await holder.ask(wire.Acquire, amounts={"cpu": 8}, reclaimable=True)
    number = await other.send(wire.Acquire, amounts={"cpu": 4}, priority=1)
    assert (await holder.next()).on
    await sleep(clock, 29.0)
    assert not (await info(holder, 1)).unyielding
    await sleep(clock, 1.1)
    if ends:
        assert await holder.next() == wire.Ended(1, "reclaimed")
        assert isinstance(await final(other, number), wire.Granted)
    else:
        assert (await info(holder, 1)).unyielding


# Whose turn it is.


async def test_waiting_counts_as_priority_where_ageing_is_on(start, clock):
    pen = await start(ageing_s=10.0)
    first, old, young = await pen.client(), await pen.client(), await pen.client()
    await first.acquire(cpu=8)
    waits = await old.send(wire.Acquire, amounts={"cpu": 8})
    await final_wait(old, waits)
    await sleep(clock, 25.0)
    late = await young.send(wire.Acquire, amounts={"cpu": 8}, priority=2)
    await final_wait(young, late)
    await first.close()
    assert isinstance(await final(old, waits), wire.Granted)


async def test_who_sits_there_goes_first_and_asks_back(start, anybody):
    pen = await start()
    root = await pen.client()
    anybody["uid"] = BOB
    holder, waiter = await pen.client(), await pen.client()
    await holder.ask(wire.Acquire, amounts={"cpu": 8}, reclaimable=True, priority=50)
    await waiter.ask(wire.Acquire, amounts={"cpu": 8}, priority=60)
    assert (await holder.next()).on
    await root.ask(wire.Seat, uid=ADA, on=True)
    anybody["uid"] = ADA
    ada = await pen.client()
    assert (await ada.acquire(cpu=8)).place == 1
    await root.ask(wire.Seat, uid=ADA, on=False)
    assert (await (await pen.client()).acquire(cpu=8)).place == 3


# Rights.


@pytest.mark.parametrize(
    ("kind", "fields", "word"),
    [
        (wire.Acquire, {"amounts": {"cpu": 5}}, "max.cpu"),
        (wire.Acquire, {"amounts": {"machine": 1}}, "to yourself"),
        (wire.Acquire, {"amounts": {"cpu": 1}, "length_s": 2 * HOUR}, "time_max"),
        (wire.Acquire, {"amounts": {"cpu": 1}, "priority": 6}, "priority_max"),
        (wire.Reserve, {"amounts": {"cpu": 1}, "length_s": 2 * HOUR}, "time_max"),
    ],
)
async def test_a_refusal_names_the_rule(start, anybody, kind, fields, word):
    rule = Allow(
        "[[allow]] rule 1",
        uids=frozenset({ADA}),
        most={"cpu": 4, "machine": 0},
        time_max_s=HOUR,
        priority_max=5,
    )
    pen = await start(allow=(rule,))
    anybody["uid"] = ADA
    refused = await (await pen.client()).ask(kind, **fields)
    assert refused.code == "not-permitted"
    assert "[[allow]] rule 1" in refused.message
    assert word in refused.message


async def test_extending_does_not_pass_the_longest_time(start, anybody):
    pen = await start(allow=(Allow("rule 1", time_max_s=HOUR),))
    anybody["uid"] = ADA
    ada = await pen.client()
    await reserve(ada, length_s=HOUR - 10)
    assert isinstance(await ada.ask(wire.Extend, lease=1, by_s=10.0), wire.Extended)
    assert (await ada.ask(wire.Extend, lease=1, by_s=1.0)).code == "not-permitted"


# Idle.


@pytest.mark.parametrize("ends", [False, True])
async def test_one_that_nothing_uses_is_shown_as_idle_and_ended_where_that_is_said(
    start, clock, anybody, told, now, ends
):
    pen = await start(idle_after_s=30.0, idle_ends=ends)
    anybody["uid"] = ADA
    ada = await pen.client()
    await reserve(ada, length_s=HOUR)
    await sleep(clock, 20.0)
    await ada.acquire(cpu=1)
    await sleep(clock, 20.0)
    await ada.ask(wire.Release, lease=2)
    unused_s = now()
    await sleep(clock, 29.0)
    assert (await info(ada, 1)).idle_since == 0.0
    await sleep(clock, 1.1)
    shown = await info(ada, 1)
    if ends:
        assert shown.why_ended == "idle"
    else:
        assert shown.idle_since == unused_s
        assert [uid for uid, _ in told] == [ADA]
        assert "release 1" in told[0][1]


# What was used.


async def test_a_report_counts_a_reservation_to_the_second(start, clock, anybody, now):
    pen = await start()
    begin = now() - 1.0
    anybody["uid"] = ADA
    ada = await pen.client()
    await reserve(ada, length_s=100.0, amounts={"cpu": 4})
    await ada.acquire(cpu=2)
    anybody["uid"] = BOB
    bob = await pen.client()
    await bob.acquire(cpu=1)
    await sleep(clock, 101.0)
    report = await ada.ask(wire.GetReport, since=begin)
    used = {one.uid: one.used["cpu"] for one in report.users}
    assert used == {ADA: pytest.approx(400.0, abs=4.1), BOB: pytest.approx(101.0)}


@pytest.mark.slow
async def test_the_end_of_a_forgotten_lease_is_found_after_a_restart(start, clock):
    pen = await start()
    client = await pen.client()
    await reserve(client, length_s=10.0, reason="remember me")
    await sleep(clock, 11.0)
    for _ in range(300):
        granted = await client.acquire(cpu=1)
        await client.ask(wire.Release, lease=granted.lease)
    assert 1 not in pen.books.ended
    await sleep(clock, 60.0)
    await pen.stop()
    again = await start(name="again")
    story = await info(await again.client(), 1)
    assert (story.kind, story.why_ended) == ("reservation", "expired")
    assert story.reason == "remember me"


# Another configuration.


async def test_another_configuration_holds_for_what_is_there_already(
    start, clock, tmp_path, anybody
):
    config = tmp_path / "pen.toml"
    config.write_text('[ram]\ncapacity = "16G"\n')
    pen = await start(config=config)
    anybody["uid"] = ADA
    ada = await pen.client()
    await reserve(ada, length_s=HOUR)
    config.write_text(
        '[ram]\ncapacity = "16G"\n[line]\nidle_after = "10s"\nidle_end = true\n'
    )
    signal.raise_signal(signal.SIGHUP)
    await pen.until(lambda: pen.daemon.keeper.pen.rules.idle_ends)
    await sleep(clock, 11.0)
    assert 1 not in pen.books.leases
