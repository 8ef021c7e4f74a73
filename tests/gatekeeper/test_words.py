"""What is said to people."""

from __future__ import annotations

import pytest

from gatekeeper.words import clean, date, moment, say, why_ended
from holdingpen.core.leases import Why
from holdingpen.ctl import dates

from .conftest import THURSDAY_S

_MINUTE_S, _DAY_S = 60, 86400


@pytest.mark.parametrize("letter", ["\x1b", "\n", "\x9b", "\u202e", "\x7f"])
def test_nothing_that_drives_a_terminal_comes_through(letter):
    assert clean(f"a{letter}b") == "a?b"


def test_a_notice_is_one_line_with_our_name(capfd):
    say("evil\nlabel")
    assert capfd.readouterr().err == "gatekeeper: evil?label\n"


@pytest.mark.parametrize(
    ("ahead_s", "expected"),
    [
        (0, "15:00:00"),
        (0.9, "15:00:00"),
        (20, "15:00:20"),
        (10 * _MINUTE_S - 1, "15:09:59"),
        (10 * _MINUTE_S, "15:10"),
        (10 * _MINUTE_S + 0.9, "15:10"),
        (10 * _MINUTE_S + 1, "15:11"),
        (9 * 60 * _MINUTE_S - 61, "23:59"),
        # rounded up it is midnight
        (9 * 60 * _MINUTE_S - 59, "tomorrow 00:00"),
        (0.75 * _DAY_S, "tomorrow 09:00"),
        (1.75 * _DAY_S, "Sat 09:00"),
        (3.75 * _DAY_S, "Mon 09:00"),
        (6 * _DAY_S, "Wed 15:00"),
        (7 * _DAY_S, "Thu 2026-12-03 15:00"),
        (40 * _DAY_S, "Tue 2027-01-05 15:00"),
        # in summer
        (200 * _DAY_S, "Mon 2027-06-14 16:00"),
    ],
)
def test_a_time_to_come_is_said_in_the_fewest_clear_words(
    berlin, monkeypatch, ahead_s, expected
):
    monkeypatch.setattr("time.time", lambda: THURSDAY_S)
    assert expected == moment(THURSDAY_S + ahead_s)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        # 2027-03-28 has 23 hours, 2027-10-31 has 25
        (1806188400.0 + 23 * 3600, "tomorrow 00:00"),
        (1824933600.0 + 24 * 3600, "23:00"),
        (1824933600.0 + 25 * 3600, "tomorrow 00:00"),
    ],
)
def test_a_day_on_which_clocks_change_is_one_day(berlin, monkeypatch, at, expected):
    midnight_s = 1806188400.0 if at < 1.81e9 else 1824933600.0
    monkeypatch.setattr("time.time", lambda: midnight_s)
    assert expected == moment(at)


@pytest.mark.parametrize("ahead_s", [0, 599, 600, 86400, 6 * 86400])
def test_holdingpenctl_says_it_in_the_same_words(berlin, monkeypatch, ahead_s):
    monkeypatch.setattr("time.time", lambda: THURSDAY_S)
    at = THURSDAY_S + ahead_s
    said = dates.format_time(at, THURSDAY_S, dates.MachineZone(), no_sooner=True)
    assert said == moment(at)


@pytest.mark.parametrize("at", [0, 1, 1e10, THURSDAY_S])
def test_a_date_is_one(at):
    assert date(at) == at


@pytest.mark.parametrize("at", [None, "x", -1, 1e11, float("nan"), float("inf"), [1]])
def test_what_can_be_no_date_is_none(at):
    assert date(at) is None


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (Why.ORDERED, "its owner or an operator ordered it"),
        (Why.OUTLIVED, "its reservation is over"),
        (Why.RECLAIMED, "it was asked back and not given back in time"),
        (Why.EXPIRED, "its time was over"),
        (Why.IDLE, "nothing used it"),
        ("of-tomorrow", "of-tomorrow"),
    ],
)
def test_why_a_lease_is_over_is_said_in_words(word, expected):
    assert expected == why_ended(word)
