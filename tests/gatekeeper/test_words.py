"""What is said to people."""

from __future__ import annotations

import pytest

from gatekeeper.words import clean, date, moment, say, why_ended
from holdingpen.core.leases import Why

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
        (0, "Thu 15:00"),
        (0.9, "Thu 15:00"),
        (1, "Thu 15:01"),
        (_MINUTE_S, "Thu 15:01"),
        (3.75 * _DAY_S, "Mon 09:00"),
        (6 * _DAY_S - 1, "Wed 15:00"),
        (6 * _DAY_S, "Wed 2026-12-02 15:00"),
        (40 * _DAY_S, "Tue 2027-01-05 15:00"),
        # in summer
        (200 * _DAY_S, "Mon 2027-06-14 16:00"),
    ],
)
def test_a_time_to_come_is_a_day_of_the_week_or_a_date(
    berlin, monkeypatch, ahead_s, expected
):
    monkeypatch.setattr("time.time", lambda: THURSDAY_S)
    assert expected == moment(THURSDAY_S + ahead_s)


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
