"""Who is told his place, and how often."""

from itertools import chain

import pytest

from holdingpen.core import effects as do
from holdingpen.core import telling
from holdingpen.core.telling import FORECAST_AT_ONCE


@pytest.fixture
def full(pen):
    """All is leased for 100 s."""
    pen.holder = pen.ask(ram=10, length=100)
    return pen


def places(effects):
    return [(x.lease, x.place) for x in effects if isinstance(x, do.TellWaiting)]


def test_in_a_short_line_a_waiter_is_told_at_once_when_he_will_start(full):
    full.ask(ram=5)
    (told,) = full.said(do.TellWaiting)
    assert (told.place, told.expected_wall_s) == (1, full.at.wall_s + 100)


def test_in_a_long_line_a_waiter_is_told_his_place_first_and_the_time_soon_after(full):
    for _ in range(FORECAST_AT_ONCE):
        full.ask(ram=10, length=10)
    full.sleep(5)
    last = full.ask(ram=5)
    (first,) = full.said(do.TellWaiting)
    assert (first.place, first.expected_wall_s) == (17, None)
    (then,) = full.said(do.TellWaiting, full.sleep(1))
    assert (then.lease, then.expected_wall_s) == (last.lease, 1200 + 16 * 10)


def test_a_waiter_is_told_when_his_place_changes(full):
    one, two = full.ask(ram=10), full.ask(ram=10)
    full.sleep(5)
    full.gone(one)
    assert places(full.sleep(1)) == [(two.lease, 1)]


def test_nobody_is_told_what_he_knows(full):
    full.ask(ram=10)
    full.sleep(5)
    full.has("licence", 3)
    full.gone(full.ask(licence=1))
    assert full.sleep(5) == []


def test_a_waiter_is_told_that_one_ahead_started(full):
    """He started not because one ended just now, but because it was measured."""
    full.has("ram", 1000, measured=True)
    big = full.ask(ram=900)
    one, two = full.ask(ram=500), full.ask(ram=800)
    full.sleep(5)
    full.gone(big)
    full.sleep(5)
    full.measured()
    assert full.state(one) == "live"
    assert places(full.sleep(2)) == [(two.lease, 1)]


def test_waiters_are_told_at_most_once_a_second(full):
    """Ten leases end in each of ten seconds; the last in line hears of each second."""
    full.has("licence", 200)
    last = full.ask(ram=1)
    ahead = [full.ask(ram=1, priority=1) for _ in range(100)]
    full.sleep(5)
    told = []
    for one in ahead:
        told += full.gone(one)
        told += full.sleep(0.1)
    mine = [place for lease, place in places(told) if lease == last.lease]
    assert 9 <= len(mine) <= 11
    assert mine == sorted(mine, reverse=True)


def test_of_a_long_line_the_first_are_told_and_some_of_the_others_in_turn(
    full, monkeypatch
):
    monkeypatch.setattr(telling, "TELL_FIRST", 4)
    monkeypatch.setattr(telling, "TELL_OTHERS", 3)
    line = [full.ask(ram=1) for _ in range(13)]
    full.sleep(9)
    full.gone(line.pop(0))
    rounds = [[lease for lease, _ in places(full.sleep(1))] for _ in range(4)]
    assert sorted(chain(*rounds)) == [one.lease for one in line]
    assert max(len(told) for told in rounds) <= 7


def test_a_long_line_is_looked_through_again_and_again(full, monkeypatch):
    """The turn comes round: who stands deep hears of it once in so many seconds."""
    monkeypatch.setattr(telling, "TELL_FIRST", 4)
    monkeypatch.setattr(telling, "TELL_OTHERS", 3)
    line = [full.ask(ram=1) for _ in range(13)]
    last = line[-1].lease
    full.sleep(9.5)
    for _ in range(4):
        full.gone(line.pop(0))
        told = [place for lease, place in places(full.sleep(4)) if lease == last]
        assert told == [len(line)]


def test_an_empty_line_wakes_nobody(full):
    one = full.ask(ram=1)
    full.gone(one)
    full.sleep(5)
    assert full.pen.wake_at_s == float("inf")
