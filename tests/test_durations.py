"""Durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.durations import (
    DURATION_MAX_S,
    SECONDS,
    format_duration,
    parse_duration,
)
from holdingpen.errors import BadWord


@pytest.mark.parametrize(
    ("word", "seconds"),
    [
        ("45s", 45),
        ("30m", 1800),
        ("1h30m", 5400),
        ("0.5h", 1800),
        (".5h", 1800),
        ("1d", 86400),
        ("3.5d", 302400),
        ("1w", 604800),
        ("1w2d3h4m5s", 604800 + 2 * 86400 + 3 * 3600 + 4 * 60 + 5),
        ("90m", 5400),
        ("1H30M", 5400),
        (" 2s ", 2),
        ("0.001s", 0.001),
        ("0h5m", 300),
        ("36500d", DURATION_MAX_S),
    ],
)
def test_a_duration_is_read(word, seconds):
    assert parse_duration(word) == pytest.approx(seconds)


@pytest.mark.parametrize("word", ["30", "1h30", "0.5", "", "  ", ".", "1h."])
def test_a_number_without_unit_is_refused(word):
    with pytest.raises(BadWord, match=r"lacks a unit: write 45s, 30m, 1h30m"):
        parse_duration(word)


@pytest.mark.parametrize("word", ["1h2h", "30m1h", "1s1s", "1d1w"])
def test_each_unit_comes_once_and_the_largest_first(word):
    with pytest.raises(BadWord, match="write each unit once, largest first"):
        parse_duration(word)


@pytest.mark.parametrize("word", ["0s", "0h0m", "36501d", "9999999w", "9" * 400 + "s"])
def test_a_duration_is_more_than_nothing_and_less_than_a_hundred_years(word):
    with pytest.raises(BadWord, match="must be more than 0 and under 100 years"):
        parse_duration(word)


@pytest.mark.parametrize(
    "word",
    [
        "s", "h1", "1y", "1ms", "1 h", "1h 30m", "-1s", "+1s", "1e3s", "1..5s",
        "1.2.3h", ".s", "nans", "infs", "٣s", "1\u017f", "1,5h", "1h\x00",
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused(word):
    with pytest.raises(BadWord, match=r"is not understood: write 45s"):
        parse_duration(word)


@pytest.mark.parametrize(
    ("seconds", "word"),
    [
        (0, "0s"),
        (0.9, "0s"),
        (45, "45s"),
        (60, "1m"),
        (61, "1m1s"),
        (5400, "1h30m"),
        (5429.9, "1h30m"),
        (3601, "1h"),
        (86400, "1d"),
        (86400 + 3599, "1d"),
        (90000, "1d1h"),
        (302400, "3d12h"),
        (DURATION_MAX_S, "36500d"),
    ],
)
def test_a_duration_is_printed_in_its_two_largest_units(seconds, word):
    assert format_duration(seconds) == word


@given(st.text() | st.from_regex(r"([0-9.]{0,9}[smhdwSM ]){0,4}[0-9]?"))
def test_any_text_is_a_duration_or_a_bad_word(text):
    try:
        assert 0 < parse_duration(text) <= DURATION_MAX_S
    except BadWord:
        return


@given(st.integers(1, DURATION_MAX_S))
def test_what_is_printed_can_be_read_and_is_nearly_the_same(seconds):
    """What is cut off is less than the smaller of the two units printed."""
    word = format_duration(seconds)
    again = parse_duration(word)
    assert again <= seconds
    largest = next(unit for unit in "dhms" if SECONDS[unit] <= seconds)
    finer = {"d": 3600, "h": 60, "m": 1, "s": 1}[largest]
    assert seconds - again < finer
