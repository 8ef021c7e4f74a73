"""Inbox, judge, write down, perform: in this order, nowhere else."""

from __future__ import annotations

from itertools import count

import pytest
import trio

from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import Ask, Ended, Granted, Moment, Who
from holdingpen.core.pen import Pen
from holdingpen.daemon.keeper import TRY_AGAIN_S, Answer, Keeper, Question, now
from holdingpen.errors import Unavailable
from holdingpen.wire import messages as wire

ROOT = Who(0, 0, 1)
_number = count(1)


def at(boot_s: float = 10.0) -> Moment:
    return Moment(boot_s, 1000.0 + boot_s)


def asked(conn: int = 1, boot_s: float = 10.0, cpu: int = 1) -> ev.Asked:
    return ev.Asked(at(boot_s), Ask(conn, next(_number), ROOT, {"cpu": cpu}))


def drain(number: int = 1) -> ev.DrainAsked:
    return ev.DrainAsked(at(), 1, number, ROOT, "maintenance")


class Scene:
    """A keeper, and all that it did, in order."""

    def __init__(self, journal) -> None:
        self.journal = journal
        self.log: list[object] = []
        self.react = lambda outcome: None
        #: What the clock says: when the last event happened.
        self.moment = at()
        self.keeper = Keeper(
            Pen(), journal, self._perform, self._watch, lambda: self.moment
        )
        self.keeper.wake = lambda time_s: None
        self.do(ev.Configured(at(), (ev.Resource("cpu", 8),)))
        self.log.clear()
        journal.batches.clear()
        append = journal.append

        def written(facts):
            append(facts)
            self.log.append("written")

        journal.append = written

    def _perform(self, outcome) -> None:
        self.log.append(outcome)
        self.react(outcome)

    def _watch(self, facts) -> None:
        self.log.append(f"{len(facts)} shown")

    def do(self, *items) -> list[object]:
        for item in items:
            self.moment = getattr(item, "at", self.moment)
            self.keeper.put(item)
        self.keeper.turn()
        log, self.log = self.log, []
        return log


@pytest.fixture
def scene(journal) -> Scene:
    return Scene(journal)


def test_nothing_is_said_before_it_is_written_and_shown_after(scene):
    written, granted, shown = scene.do(asked())
    assert (written, shown) == ("written", "1 shown")
    assert isinstance(granted, do.TellGranted)


def test_what_came_in_together_is_one_record(scene):
    log = scene.do(asked(), asked(), asked())
    assert [one for one in log if one == "written"] == ["written"]
    assert [len(batch) for batch in scene.journal.batches] == [3]


def test_without_facts_nothing_is_written_or_shown(scene):
    log = scene.do(asked(cpu=9))
    assert [do.TellRefused] == [type(one) for one in log]
    assert scene.journal.batches == []


def test_what_comes_in_while_performing_is_done_in_the_same_turn(scene):
    def react(outcome):
        if isinstance(outcome, do.TellGranted):
            scene.keeper.put(ev.Gone(at(), 1))

    scene.react = react
    scene.do(asked())
    facts = [type(batch[0]) for batch in scene.journal.batches]
    assert [Granted, Ended] == facts


def test_a_question_is_answered_from_the_books_at_its_place(scene):
    def leases(pen, moment):
        return wire.Done(len(pen.books.leases))

    log = scene.do(Question(7, leases), asked(), Question(7, leases))
    assert [one.message.id for one in log if isinstance(one, Answer)] == [0, 1]


def test_a_question_alone_writes_nothing(scene):
    scene.do(Question(7, lambda pen, moment: wire.Done(1)))
    assert scene.journal.batches == []


def test_what_cannot_be_written_is_not_said(scene):
    def broken(facts):
        raise Unavailable("the disk failed")

    scene.journal.append = broken
    scene.keeper.put(asked())
    with pytest.raises(Unavailable):
        scene.keeper.turn()
    assert scene.log == []


def test_the_journal_is_told_how_many_leases_it_owes_the_end_of(scene):
    scene.journal.owed.clear()
    scene.do(asked(), asked())
    scene.do(ev.Gone(at(), 1))
    assert scene.journal.owed == [2, 0]


def test_a_long_journal_is_rotated_into_a_snapshot(scene):
    scene.do(asked())
    scene.journal.wants_rotation = True
    scene.do(Question(7, lambda pen, moment: wire.Done(1)))
    (batches,) = scene.journal.rotated
    assert sum(isinstance(x, Granted) for batch in batches for x in batch) == 1
    assert not scene.journal.wants_rotation


def test_the_pen_says_when_it_wants_to_be_woken(scene):
    times = []
    scene.keeper.wake = times.append
    waiter = Ask(2, 1, ROOT, {"cpu": 8}, wait_s=5.0)
    scene.do(asked(1, cpu=8), ev.Asked(at(), waiter))
    assert [scene.keeper.pen.wake_at_s] == times
    assert times[0] <= 15.0


# No room.


@pytest.fixture
def full(scene) -> Scene:
    """One lease is live when the disk fills up."""
    scene.do(asked(1))
    scene.journal.disk_full = True
    scene.journal.try_extend()
    scene.journal.tries = 0
    scene.journal.batches.clear()
    return scene


@pytest.mark.parametrize(
    "new",
    [
        asked(2),
        ev.CapacityAsked(at(), 2, 1, ROOT, "cpu", 4),
        ev.DrainAsked(at(), 2, 1, ROOT, ""),
    ],
)
def test_without_room_what_is_new_is_refused_with_the_reason(full, new):
    (refused,) = full.do(new)
    assert (refused.code, refused.message) == ("cannot-record", "the disk is full")
    assert refused.conn == 2
    assert full.journal.batches == []


def test_without_room_leases_go_on_and_their_ends_are_written(full):
    full.do(asked(2))
    assert list(full.keeper.pen.books.leases) == [1]
    full.do(ev.Gone(at(), 1))
    assert [Ended] == [type(batch[0]) for batch in full.journal.batches]


def test_room_is_looked_for_once_a_second(full):
    for tenth in range(25):
        full.do(asked(2, 10 + tenth / 10))
    assert full.journal.tries == 3
    assert TRY_AGAIN_S == 1.0


def test_a_journal_in_trouble_with_room_left_looks_for_more(full):
    """Else status told of the trouble long after it was mended."""
    full.journal.disk_full = False
    full.journal.reserve_ok = True
    full.do(asked(2))
    assert full.journal.trouble is None


def test_when_there_is_room_again_requests_are_granted_again(full):
    full.do(asked(2, 10.0))
    full.journal.disk_full = False
    assert [do.TellRefused] == [type(one) for one in full.do(asked(2, 10.9))]
    assert do.TellGranted in [type(one) for one in full.do(asked(2, 11.0))]


# On disk.


async def test_an_order_is_done_only_when_it_is_on_the_disk(scene, slowly, nursery):
    done = trio.Event()
    scene.react = lambda outcome: done.set()
    scene.journal.sync, gate = slowly(scene.journal.sync)
    nursery.start_soon(scene.keeper.sync_forever)
    assert scene.do(drain()) == ["written", "1 shown"]
    await trio.testing.wait_all_tasks_blocked()
    assert scene.log == []
    gate.set()
    await done.wait()
    assert [do.TellDone(1, 1)] == scene.log


async def test_what_is_done_goes_out_at_once(scene, nursery):
    """It went out with the next turn, which on a quiet pen is 2 s later."""
    flushed = trio.Event()
    scene.keeper.flush = flushed.set
    nursery.start_soon(scene.keeper.sync_forever)
    scene.do(drain())
    await flushed.wait()
    assert [do.TellDone(1, 1)] == scene.log


async def test_leases_do_not_wait_for_the_disk(scene, slowly, nursery):
    scene.journal.sync, gate = slowly(scene.journal.sync)
    nursery.start_soon(scene.keeper.sync_forever)
    scene.do(drain(), ev.DrainAsked(at(), 1, 2, ROOT, None))
    await trio.testing.wait_all_tasks_blocked()
    assert do.TellGranted in [type(one) for one in scene.do(asked())]
    gate.set()


async def test_orders_that_gather_while_the_disk_works_share_one_sync(
    scene, slowly, nursery
):
    done = trio.Event()
    scene.react = lambda told: done.set() if told == do.TellDone(1, 101) else None
    scene.journal.sync, gate = slowly(scene.journal.sync)
    nursery.start_soon(scene.keeper.sync_forever)
    scene.do(drain(1))
    await trio.testing.wait_all_tasks_blocked()
    scene.do(*map(drain, range(2, 102)))
    gate.set()
    await done.wait()
    assert scene.journal.synced == 2
    assert [do.TellDone(1, n) for n in range(1, 102)] == scene.log


async def test_an_order_that_came_during_a_sync_waits_for_the_next(
    scene, slowly, nursery
):
    """What was appended after fdatasync began may not be on the disk."""
    first = trio.Event()
    scene.react = lambda told: first.set()
    scene.journal.sync, gate = slowly(scene.journal.sync)
    nursery.start_soon(scene.keeper.sync_forever)
    scene.do(drain(1))
    await trio.testing.wait_all_tasks_blocked()
    scene.do(drain(2))
    scene.journal.sync, second_gate = slowly(lambda: None)
    gate.set()
    await first.wait()
    assert [do.TellDone(1, 1)] == scene.log
    second_gate.set()


async def test_a_disk_that_fails_to_sync_ends_the_keeper_and_nothing_is_done(scene):
    def broken() -> None:
        raise Unavailable("fdatasync failed")

    scene.journal.sync = broken
    assert do.TellDone(1, 1) not in scene.do(drain())
    with pytest.raises(Unavailable):
        await scene.keeper.sync_forever()
    assert scene.log == []


def test_now_is_on_both_clocks():
    before, after = now(), now()
    assert before.boot_s <= after.boot_s
    assert before.wall_s > 1.7e9
