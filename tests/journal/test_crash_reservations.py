"""A day of reservations, and a crash at any record of it.

Nothing that was promised is lost, and nothing is there twice.
"""

import shutil
from contextlib import closing

import pytest

from holdingpen.core import checks
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import Ask, Moment, Who
from holdingpen.core.leases import BOOKED, LIVE, WAITING
from holdingpen.core.pen import Pen
from holdingpen.core.rights import Rules
from holdingpen.journal.replay import replay, snapshot
from holdingpen.journal.store import Store

RULES = Rules(ready_before_s=10.0, assume_s=100.0, reclaim_grace_s=30.0)
RESOURCES = (ev.Resource("ram", 20, 8, 2, measured=True), ev.Resource("cpu", 4))
#: Seconds since 1970 less boot_s.
WALL = 1_793_000_000.0
OWNER, OTHER = Who(1000, 1000, 1), Who(1001, 1001, 2)


def at(second):
    return Moment(second, second + WALL)


def ask(conn, who, amounts, **more):
    return Ask(conn, 1, who, amounts, **more)


def reserve(conn, amounts, lasts_s):
    return ask(conn, OWNER, amounts, length_s=lasts_s, lasts_s=lasts_s)


def day():
    """What happens, in order; lease ids are in the remarks."""
    return [
        ev.Started(at(1.0), "boot-1"),
        ev.Configured(at(1.0), RESOURCES),
        ev.BallastTaken(at(1.1), "ram", 8, 8),
        # 1: from now on
        ev.Asked(at(2.0), reserve(1, {"ram": 6}, 300.0)),
        # 2 and 3: dates
        ev.BookAsked(at(3.0), reserve(2, {"ram": 12}, 60.0), (WALL + 200, WALL + 400)),
        # 4: inside 1
        ev.Asked(at(4.0), ask(3, OWNER, {"ram": 4})),
        ev.BallastDropped(at(4.1), 4, "ram"),
        # 5: gives back when asked
        ev.Asked(at(5.0), ask(4, OTHER, {"ram": 12}, reclaimable=True)),
        # 6: waits, and asks 5 back
        ev.Asked(at(6.0), ask(5, OTHER, {"ram": 5}, priority=1, length_s=30.0)),
        ev.ExtendAsked(at(7.0), 6, 1, OWNER, 1, 20.0),
        # 7: would still hold when 2 begins
        ev.Asked(at(150.0), ask(7, OTHER, {"ram": 3})),
        ev.Gone(at(151.0), 4),
        ev.Measured(at(151.1), "ram", 20, 0, {}),
        ev.Ticked(at(191.0)),
        ev.Gone(at(192.0), 5),
        ev.Measured(at(192.1), "ram", 20, 0, {}),
        ev.Ticked(at(201.0)),
        ev.Released(at(210.0), 8, 1, OWNER, 3),
        ev.Ticked(at(261.0)),
        ev.Gone(at(262.0), 3),
        ev.Ticked(at(323.0)),
    ]


def promises(events):
    """The facts of each event, and what was told to be reserved after it."""
    pen = Pen(rules=RULES)
    told, steps = {}, []
    for event in events:
        facts, effects = pen.handle(event)
        checks.check(pen.books)
        told = dict(told)
        for effect in effects:
            if isinstance(effect, do.TellReserved):
                told |= dict.fromkeys(effect.leases, effect.until_wall_s)
            elif isinstance(effect, do.TellExtended):
                told[effect.lease] = effect.until_wall_s
        there = pen.books.leases
        told = {
            number: there[number].until_wall_s for number in told if number in there
        }
        steps.append((facts, told))
    return steps


@pytest.fixture(scope="module")
def steps():
    return promises(day())


@pytest.fixture
def written(state_dir, steps):
    """The journal of that day: where each record begins, and where the last ends."""
    ends = []
    with closing(Store.open(state_dir, "boot-1")) as store:
        for facts, _ in steps:
            store.append(facts)
            ends.append(store.size)
    return (state_dir / "journal").read_bytes()[: ends[-1]], ends


def started_with(tmp_path, data):
    """The pen of a daemon that finds this journal, before and after its start."""
    where = tmp_path / "found"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(mode=0o700)
    (where / "journal").write_bytes(data)
    with closing(Store.open(where, "boot-1")) as store:
        books = replay(store.batches())
        before = checks.view(books)
        checks.check(books)
        shorter = replay(snapshot(books))
        assert checks.view(shorter) == before
        pen = Pen(books, RULES)
        return pen, before


def test_the_day_has_all_that_it_is_for(steps):
    kinds = {type(what).__name__ for facts, _ in steps for what in facts}
    assert kinds >= {
        "Reserved", "Booked", "Due", "Extended", "AskedBack", "Deferred", "Promised",
        "Taking", "Ended", "Joined", "Granted",
    }  # fmt: skip
    assert steps[9][1] == {1: WALL + 322.0, 2: WALL + 260.0, 3: WALL + 460.0}
    assert steps[-1][1] == {}


@pytest.mark.usefixtures("quick_disk")
def test_after_a_crash_at_any_record_all_that_was_told_is_there(
    tmp_path, steps, written
):
    data, ends = written
    for end, (_, told), event in zip(ends, steps, day(), strict=True):
        pen, _ = started_with(tmp_path, data[:end])
        check_what_is_there(pen, told, event.at)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_disk")
def test_a_record_torn_anywhere_takes_only_itself(tmp_path, steps, written):
    data, ends = written
    events = [event.at for event in day()]
    cuts = 0
    for place in range(1, len(ends)):
        begin, end = ends[place - 1], ends[place]
        told = steps[place - 1][1]
        for cut in {begin + 1, (begin + end) // 2, end - 1} if end > begin else ():
            pen, before = started_with(tmp_path, data[:cut])
            _, whole = started_with(tmp_path, data[:begin])
            assert before == whole
            check_what_is_there(pen, told, events[place - 1])
            cuts += 1
    assert cuts > 40


def check_what_is_there(pen, told, moment):
    """The daemon starts, and each reservation that was told is there, once."""
    books = pen.books
    states = {number: books.leases[number].state for number in told}
    play(pen, ev.Started(moment, "boot-1"))
    play(pen, ev.Configured(moment, RESOURCES))
    there = {n: x.until_wall_s for n, x in books.leases.items() if x.reservation}
    assert there == told
    assert set(books.leases) == set(told), "a lease without its connection"
    for number in told:
        now = books.leases[number].state
        assert now == states[number] or (states[number], now) in (
            (BOOKED, WAITING),
            (BOOKED, LIVE),
            (WAITING, LIVE),
        )
    assert books.ledgers["ram"].leased == sum(
        lease.needs["ram"] for lease in books.reservations.values()
    )
    # what the programs that are over held has come back
    play(pen, ev.Measured(moment, "ram", 20, 0, {}))
    for second, begun in ((201.0, {1, 2}), (261.0, {1}), (323.0, set()), (401.0, {3})):
        if second > moment.boot_s:
            play(pen, ev.Ticked(at(second)))
            assert set(books.leases) == {n for n in told if told[n] > WALL + second}
            assert set(books.reservations) == begun & books.leases.keys()
    play(pen, ev.Ticked(at(461.0)))
    assert books.leases == {}


def play(pen, event):
    """Handle an event, and take the ballast that is wanted after it."""
    _, effects = pen.handle(event)
    for take in effects:
        if isinstance(take, do.TakeBallast):
            taken = (take.resource, take.amount, take.amount, take.ledger)
            play(pen, ev.BallastTaken(event.at, *taken))
    checks.check(pen.books)
