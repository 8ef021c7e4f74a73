"""Leases that ended reach the history, whatever is wrong with it meanwhile."""

from pathlib import Path

import pytest
import trio

from holdingpen.core.facts import Ask, Moment, Who
from holdingpen.core.leases import ENDED, Given, Lease
from holdingpen.core.rights import Rules
from holdingpen.daemon import archive as module
from holdingpen.daemon.archive import Archive, record
from holdingpen.journal.history import History
from holdingpen.wire import messages as wire

HOUR = 3600.0


def moment(seconds):
    return Moment(seconds, 1_000_000.0 + seconds)


def ended(number, uid=1000, begin=0.0, end=HOUR, **ask):
    asked = Ask(1, number, Who(uid, uid, 1), {"ram": 8}, **ask)
    lease = Lease(number, asked, {"ram": 8, "machine": 1}, ENDED, moment(begin))
    lease.granted, lease.ended, lease.why = moment(begin), moment(end), "gone"
    lease.amounts = dict(asked.amounts)
    return lease


class Asker:
    """Somebody who gets answers."""

    def __init__(self):
        self.heard: list[tuple[int, wire.Reply]] = []
        self.came = trio.Event()

    def reply(self, conn, message):
        self.heard.append((conn, message))
        self.came.set()

    async def next(self):
        while not self.heard:
            self.came = trio.Event()
            await self.came.wait()
        return self.heard.pop(0)[1]


@pytest.fixture
def asker():
    return Asker()


@pytest.fixture
def open_archive(tmp_path, asker):
    opened = []

    def make(directory: Path = tmp_path):
        opened.append(Archive(directory, asker.reply, lambda: moment(2 * HOUR)))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


async def until(true):
    for _ in range(100_000):
        if true():
            return
        await trio.sleep(0.001)
    raise AssertionError("it never came to that")


async def test_what_ended_is_written_and_found(open_archive, asker, nursery):
    archive = open_archive()
    nursery.start_soon(archive.work)
    archive.add([record(ended(7), Rules())])
    unknown = wire.Refused(3, "no-such-lease", "no.")
    assert archive.story(9, wire.GetStory(3, 7), unknown) is None
    story = await asker.next()
    assert isinstance(story, wire.Story)
    assert (story.lease.id, story.lease.why_ended) == (7, "gone")
    assert archive.story(9, wire.GetStory(3, 8), unknown) is None
    assert await asker.next() == unknown


async def test_it_is_there_after_a_crash(
    open_archive, tmp_path, nursery, autojump_clock
):
    archive = open_archive()
    nursery.start_soon(archive.work)
    archive.add([record(ended(7), Rules())])
    await until(lambda: not archive._unwritten)
    archive.close()
    history = History.open(tmp_path)
    assert history.find(7) is not None
    history.close()


async def test_a_report_counts_what_goes_on_too(open_archive, asker, nursery):
    archive = open_archive()
    nursery.start_soon(archive.work)
    archive.add([record(ended(7), Rules())])
    going = ended(8, uid=1001)
    going.ended = None
    live = [record(going, Rules(), moment(2 * HOUR))]
    request = wire.GetReport(4, 1_000_000.0)
    assert archive.report(9, request, live, moment(2 * HOUR).wall_s) is None
    told = await asker.next()
    assert isinstance(told, wire.Report)
    used = {user.uid: user.used for user in told.users}
    assert used == {1000: {"ram": 8 * HOUR}, 1001: {"ram": 16 * HOUR}}


async def test_what_was_given_back_is_not_charged(open_archive, asker, nursery):
    archive = open_archive()
    nursery.start_soon(archive.work)
    lease = ended(7)
    lease.given = [Given(moment(HOUR / 2), {"ram": 4})]
    archive.add([record(lease, Rules())])
    archive.report(9, wire.GetReport(4, 1_000_000.0), [], moment(2 * HOUR).wall_s)
    told = await asker.next()
    assert told.all.used == {"ram": 6 * HOUR}


async def test_a_reservation_that_outlived_a_boot_is_counted_by_dates():
    lease = ended(7, lasts_s=HOUR, length_s=HOUR)
    lease.granted, lease.ended = Moment(90_000.0, 500.0), Moment(3.0, 700.0)
    found = record(lease, Rules())
    assert (found.kind, found.held_s) == ("reservation", 200.0)


async def test_while_it_cannot_be_written_it_is_kept(
    open_archive, tmp_path, nursery, autojump_clock
):
    # a directory that is not there stands for a disk that fails
    archive = open_archive(tmp_path / "later")
    assert archive.trouble is not None
    assert archive.notes == [archive.trouble]
    nursery.start_soon(archive.work)
    archive.add([record(ended(7), Rules())])
    await trio.sleep(2 * module.TRY_AGAIN_S)
    assert archive.trouble is not None
    (tmp_path / "later").mkdir()
    await trio.sleep(2 * module.TRY_AGAIN_S)
    await until(lambda: archive.trouble is None)
    assert not archive._unwritten


async def test_what_cannot_be_written_is_not_hurried(
    tmp_path, asker, nursery, mock_clock
):
    tries = 0

    def clock():
        # it is read once before each try
        nonlocal tries
        tries += 1
        return moment(2 * HOUR)

    archive = Archive(tmp_path / "later", asker.reply, clock)
    archive.add([record(ended(n), Rules()) for n in range(1, module.HURRY + 1)])
    nursery.start_soon(archive.work)
    unknown = wire.Refused(3, "no-such-lease", "no.")
    for expected in (1, 2):
        for _ in range(4):
            # between two answers there is time for a try
            archive.story(9, wire.GetStory(3, 7), unknown)
            await asker.next()
        assert tries == expected
        mock_clock.jump(module.TRY_AGAIN_S)


async def test_what_is_too_old_is_forgotten(
    open_archive, tmp_path, nursery, autojump_clock
):
    archive = open_archive()
    archive.keep_s = HOUR / 2
    nursery.start_soon(archive.work)
    archive.add([record(ended(7), Rules()), record(ended(8, end=1.9 * HOUR), Rules())])
    await until(lambda: not archive._unwritten)
    archive.close()
    history = History.open(tmp_path)
    assert [history.find(7), history.find(8) is None] == [None, False]
    history.close()


async def test_too_many_questions_are_refused(open_archive):
    archive = open_archive()
    unknown = wire.Refused(3, "no-such-lease", "no.")
    for _ in range(module.QUESTIONS_MAX):
        assert archive.story(9, wire.GetStory(3, 7), unknown) is None
    refused = archive.story(9, wire.GetStory(3, 7), unknown)
    assert refused is not None
    assert refused.code == "limit"
