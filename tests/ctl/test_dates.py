"""Times and rules as people write them, in zones whose clocks change."""

import os
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.ctl import dates
from holdingpen.daemon import flag
from holdingpen.errors import BadWord
from holdingpen.wire.messages import STARTS_MAX

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
SANTIAGO = ZoneInfo("America/Santiago")
APIA = ZoneInfo("Pacific/Apia")
POSIX = "CET-1CEST,M3.5.0,M10.5.0/3"


def at(words, zone=BERLIN, fold=0):
    """Seconds since 1970 of a date and time, by the standard library's own rules."""
    return datetime.fromisoformat(words).replace(tzinfo=zone, fold=fold).timestamp()


#: A Friday.
NOW = at("2026-11-20 15:00")


@contextmanager
def machine_in(name):
    """The C library in a zone; what `local_zone` makes of it."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield dates.local_zone()
    finally:
        del os.environ["TZ"]
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


@pytest.fixture
def posix_zone():
    with machine_in(POSIX) as zone:
        yield zone


@pytest.mark.parametrize(
    ("words", "means"),
    [
        ("16:00", "2026-11-20 16:00"),
        ("15:00", "2026-11-20 15:00"),
        ("14:59", "2026-11-21 14:59"),
        ("9am", "2026-11-21 09:00"),
        ("9 am", "2026-11-21 09:00"),
        ("9:30pm", "2026-11-20 21:30"),
        ("12am", "2026-11-21 00:00"),
        ("12pm", "2026-11-21 12:00"),
        ("noon", "2026-11-21 12:00"),
        ("midnight", "2026-11-21 00:00"),
        ("16:00:30", "2026-11-20 16:00:30"),
        ("2026-11-23 09:00", "2026-11-23 09:00"),
        ("2026-11-23 9:00", "2026-11-23 09:00"),
        ("2026-11-23 9am", "2026-11-23 09:00"),
        ("2026-11-23T09:00", "2026-11-23 09:00"),
        ("2026-11-23T09:00:30", "2026-11-23 09:00:30"),
        ("2026-11-23T09:00Z", "2026-11-23 10:00"),
        ("2026-11-23T09:00:30+01:00", "2026-11-23 09:00:30"),
        ("2026-11-23 09:00 -0530", "2026-11-23 15:30"),
        ("2026-11-23 09:00 UTC", "2026-11-23 10:00"),
        ("16:00Z", "2026-11-20 17:00"),
        ("2026-11-23", "2026-11-23 00:00"),
        ("2025-01-01 09:00", "2025-01-01 09:00"),
        ("today 16:00", "2026-11-20 16:00"),
        ("today 9:00", "2026-11-20 09:00"),
        ("today", "2026-11-20 00:00"),
        ("tomorrow", "2026-11-21 00:00"),
        ("tomorrow 9:00", "2026-11-21 09:00"),
        ("9:00 tomorrow", "2026-11-21 09:00"),
        ("monday 9:00", "2026-11-23 09:00"),
        ("Mon 9:00", "2026-11-23 09:00"),
        ("thurs 9:00", "2026-11-26 09:00"),
        ("fri 16:00", "2026-11-20 16:00"),
        ("fri 9:00", "2026-11-27 09:00"),
        ("friday", "2026-11-27 00:00"),
        ("+2h", "2026-11-20 17:00"),
        ("in 1h30m", "2026-11-20 16:30"),
        ("now", "2026-11-20 15:00"),
        ("  Tomorrow   9:00 ", "2026-11-21 09:00"),
        ("2028-02-29", "2028-02-29 00:00"),
    ],
)
def test_a_time_is_read(words, means):
    assert dates.parse_time(words, NOW, BERLIN) == at(means)


@pytest.mark.parametrize(
    ("words", "seconds"), [("@1790000000", 1790000000), ("@0.5", 0.5), ("@0", 0)]
)
def test_seconds_since_1970_follow_an_at_sign(words, seconds):
    assert dates.parse_time(words, NOW, BERLIN) == seconds


def test_tomorrow_is_in_the_next_year_on_its_last_day():
    now = at("2026-12-31 23:59")
    assert dates.parse_time("tomorrow", now, BERLIN) == at("2027-01-01 00:00")
    assert dates.parse_time("16:00", now, BERLIN) == at("2027-01-01 16:00")
    assert dates.parse_time("thu 23:00", now, BERLIN) == at("2027-01-07 23:00")


@pytest.mark.parametrize(
    "words",
    [
        "x", "9", "tomorrow 9", "25:00", "9:60", "9:00:60", "0am", "13pm", "2026-02-30",
        "2027-02-29", "2026-13-01", "23.11.2026", "11/23/2026", "26-11-23", "mo 9:00",
        "9:00 10:00", "mon tue", "tomorrow monday 9:00", "2026-11-23T", "9:00 +25:00",
        "2026-11-23-11:23", "9:00 +01:60", "tomorrow utc", "2026-W48-1", "9:00 bst",
        "@", "@x", "@-1", "@1e9", "@999999999999", "1969-12-31", "2200-01-01 09:00",
        "\u0661\u0666:00", "2h", "16:00\x00", "24:00", "noon am", "utc", "t", "16: 00",
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused_with_what_is(words):
    with pytest.raises(BadWord, match=r"Write 9:00 or 9am|: write 16:00, 9am, tom"):
        dates.parse_time(words, NOW, BERLIN)


@pytest.mark.parametrize("words", ["", "  "])
def test_no_time_is_missing(words):
    with pytest.raises(BadWord, match="a time is missing: write 16:00"):
        dates.parse_time(words, NOW, BERLIN)


@pytest.mark.parametrize("words", ["+2", "in 2", "+", "in tomorrow", "+-2h"])
def test_what_is_ahead_is_a_duration(words):
    with pytest.raises(BadWord, match="duration"):
        dates.parse_time(words, NOW, BERLIN)


@pytest.mark.parametrize(
    ("words", "means"),
    [
        ("2026-12-24", "2026-12-24 23:59:59"),
        ("today", "2026-11-20 23:59:59"),
        ("friday", "2026-11-20 23:59:59"),
        ("sat", "2026-11-21 23:59:59"),
        ("2026-12-24 09:00", "2026-12-24 09:00"),
        ("midnight", "2026-11-21 00:00"),
    ],
)
def test_until_a_day_takes_in_that_day(words, means):
    assert dates.parse_until(words, NOW, BERLIN) == at(means)


@pytest.mark.parametrize(
    ("words", "zone", "last", "next_"),
    [
        ("2027-03-28 02:30", BERLIN, "2027-03-28 01:59", "2027-03-28 03:00"),
        ("2027-03-28 02:00", BERLIN, "2027-03-28 01:59", "2027-03-28 03:00"),
        ("2027-03-14 02:30", NEW_YORK, "2027-03-14 01:59", "2027-03-14 03:00"),
        ("2027-10-03 02:15", LORD_HOWE, "2027-10-03 01:59", "2027-10-03 02:30"),
        ("2011-12-30 12:00", APIA, "2011-12-29 23:59", "2011-12-31 00:00"),
    ],
)
def test_a_time_that_clocks_skip_is_refused_with_the_nearest(words, zone, last, next_):
    with pytest.raises(BadWord, match=f"does not exist.*Write {last} or {next_}"):
        dates.parse_time(words, NOW, zone)
    assert dates.parse_time(last, NOW, zone) + 60 == dates.parse_time(next_, NOW, zone)


def test_the_message_of_a_skipped_time_has_the_zone_and_the_change():
    now = at("2027-03-27 22:00")
    with pytest.raises(BadWord) as caught:
        dates.parse_time("2:30", now, BERLIN)
    assert str(caught.value) == (
        "time '2:30' does not exist: clocks in Europe/Berlin go from 2027-03-28 02:00 "
        "straight to 2027-03-28 03:00. Write 2027-03-28 01:59 or 2027-03-28 03:00."
    )


def test_a_day_whose_midnight_is_skipped_begins_at_one():
    """In Chile clocks go from 24:00 to 1:00."""
    assert dates.parse_time("2026-09-06", NOW, SANTIAGO) == at(
        "2026-09-06 01:00", SANTIAGO
    )
    with pytest.raises(BadWord, match="does not exist"):
        dates.parse_time("2026-09-06 0:00", NOW, SANTIAGO)


@pytest.mark.parametrize(
    ("words", "zone"),
    [
        ("2026-10-25 02:30", BERLIN),
        ("2026-11-01 01:30", NEW_YORK),
        ("2027-04-04 01:45", LORD_HOWE),
    ],
)
def test_of_a_time_that_comes_twice_the_first_is_meant(words, zone):
    assert at(words, zone, fold=0) < at(words, zone, fold=1)
    assert dates.parse_time(words, NOW, zone) == at(words, zone, fold=0)


def test_hours_ahead_pass_whatever_clocks_do():
    now = at("2027-03-27 22:00")
    assert dates.parse_time("+1d", now, BERLIN) == at("2027-03-28 23:00")


@given(st.text() | st.from_regex(r"([0-9]{1,4}[-: +]|[0-9ampz]|mon|in |T){0,8}"))
def test_any_text_is_a_time_or_a_bad_word(text):
    for parse in (dates.parse_time, dates.parse_until):
        try:
            assert -86400 < parse(text, NOW, BERLIN) < dates.TIME_MAX_S + 86400
        except BadWord:
            continue


ZONES = [BERLIN, NEW_YORK, LORD_HOWE, SANTIAGO, UTC, ZoneInfo("Asia/Kathmandu")]


@given(st.datetimes(datetime(2025, 1, 1), datetime(2030, 1, 1)), st.sampled_from(ZONES))
def test_instants_are_those_of_the_standard_library(clock, zone):
    """For a skipped time, PEP 495 and RFC 5545 agree: the offset before the gap."""
    assert dates.instant(clock, zone) == clock.replace(tzinfo=zone).timestamp()


@given(st.datetimes(datetime(2025, 1, 1), datetime(2030, 1, 1)))
def test_the_zone_of_the_machine_agrees_with_the_named_one(clock):
    with machine_in(POSIX) as zone:
        assert dates.instant(clock, zone) == clock.replace(tzinfo=BERLIN).timestamp()


@given(
    st.integers(0, 400 * 24 * 60),
    st.integers(0, 2 * 365 * 24 * 60),
    st.sampled_from(ZONES),
)
def test_what_is_printed_from_now_on_is_read_as_the_same_minute(ahead, begin, zone):
    now = at("2026-01-01 00:00", UTC) + begin * 60
    moment = now + ahead * 60
    shown = datetime.fromtimestamp(moment, zone)
    words = dates.format_time(moment, now, zone)
    if not shown.fold and not datetime.fromtimestamp(now, zone).fold:
        assert dates.parse_time(words, now, zone) == moment


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("2026-11-20 16:00", "16:00"),
        ("2026-11-20 00:00", "00:00"),
        ("2026-11-20 16:00:29.999999", "16:00"),
        ("2026-11-20 15:59:30.1", "16:00"),
        ("2026-11-20 15:00", "15:00:00"),
        ("2026-11-20 15:09:59.4", "15:09:59"),
        ("2026-11-20 15:10", "15:10"),
        ("2026-11-20 14:50:01", "14:50:01"),
        ("2026-11-20 14:50", "14:50"),
        ("2026-11-20 23:59:31", "tomorrow 00:00"),
        ("2026-11-21 09:00", "tomorrow 09:00"),
        ("2026-11-22 09:00", "Sun 09:00"),
        ("2026-11-26 09:00", "Thu 09:00"),
        ("2026-11-27 09:00", "2026-11-27 09:00"),
        ("2026-11-19 23:59", "2026-11-19 23:59"),
        ("2027-11-20 15:00", "2027-11-20 15:00"),
    ],
)
def test_a_time_is_printed_in_the_fewest_clear_words(moment, words):
    assert dates.format_time(at(moment), NOW, BERLIN) == words


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        ("2026-11-20 16:00", "2026-11-20 18:00", "16:00-18:00"),
        ("2026-11-23 09:00", "2026-11-23 11:00", "Mon 09:00-11:00"),
        ("2026-12-24 09:00", "2026-12-24 11:00", "2026-12-24 09:00-11:00"),
        ("2026-11-20 22:00", "2026-11-21 02:00", "22:00 to tomorrow 02:00"),
        ("2026-11-23 22:00", "2026-11-24 02:00", "Mon 22:00 to Tue 02:00"),
        ("2026-11-20 16:00", "2026-11-20 16:00:20.6", "16:00:00-16:00:21"),
        ("2026-11-23 09:00:05", "2026-11-23 09:10:04", "Mon 09:00:05-09:10:04"),
        ("2026-11-23 09:00:05", "2026-11-23 09:10:05", "Mon 09:00-09:10"),
        ("2026-11-20 15:00:40", "2026-11-20 15:59:30.5", "15:01-16:00"),
        (
            "2026-11-20 23:59:40",
            "2026-11-21 00:00:10",
            "23:59:40 to tomorrow 00:00:10",
        ),
        ("2026-11-20 23:00", "2026-11-20 23:59:50", "23:00 to tomorrow 00:00"),
        (
            "2026-12-31 22:00",
            "2027-01-01 02:00",
            "2026-12-31 22:00 to 2027-01-01 02:00",
        ),
    ],
)
def test_a_begin_and_an_end_are_printed(start, end, words):
    assert dates.format_span(at(start), at(end), NOW, BERLIN) == words


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("2026-11-20 16:00:00", "16:00"),
        ("2026-11-20 16:00:00.001", "16:01"),
        ("2026-11-20 23:59:01", "tomorrow 00:00"),
        ("2026-11-20 15:04:03.2", "15:04:04"),
    ],
)
def test_a_begin_is_rounded_up_so_that_it_is_not_asked_for_too_early(moment, words):
    said = dates.format_time(at(moment), NOW, BERLIN, no_sooner=True)
    assert said == words
    assert dates.parse_time(said, NOW, BERLIN) >= at(moment)


@given(st.floats(NOW, NOW + 86400), st.floats(0, 86400))
def test_the_daemon_says_the_same_minute(end, ago):
    """What stands in a prompt is what `confirm` says."""
    now = end - 600 - ago
    with machine_in("UTC0"):
        said = flag.words("ada", end, now, "").rpartition("until ")[2]
    told = dates.format_time(end, now, UTC)
    assert said.split()[-1] == told.split()[-1]


def test_a_time_that_no_calendar_has_is_not_printed():
    for moment in (1e18, float("inf"), float("nan")):
        with pytest.raises((OverflowError, ValueError, OSError)):
            dates.format_time(moment, NOW, BERLIN)


def starts(start, every, until=None, zone=BERLIN):
    until_s = None if until is None else at(until, zone)
    found = dates.occurrences(at(start, zone), every, until_s, zone).starts
    return [f"{datetime.fromtimestamp(s, zone):%Y-%m-%d %H:%M}" for s in found]


@pytest.mark.parametrize(
    ("start", "every", "until", "expect"),
    [
        ("2026-12-30 09:00", "daily", "2027-01-02 09:00",
         ["2026-12-30 09:00", "2026-12-31 09:00", "2027-01-01 09:00",
          "2027-01-02 09:00"]),
        ("2026-11-23 09:00", "weekly", "2026-12-07 08:59",
         ["2026-11-23 09:00", "2026-11-30 09:00"]),
        ("2026-11-21 09:00", "Weekdays", "2026-11-24 12:00",
         ["2026-11-23 09:00", "2026-11-24 09:00"]),
        ("2026-12-31 09:00", "monthly", "2027-04-01 00:00",
         ["2026-12-31 09:00", "2027-01-31 09:00", "2027-03-31 09:00"]),
        ("2024-02-29 09:00", "FREQ=YEARLY;COUNT=3", None,
         ["2024-02-29 09:00", "2028-02-29 09:00", "2032-02-29 09:00"]),
        ("2026-11-23 09:00", "FREQ=WEEKLY;BYDAY=MO,WE;COUNT=3", None,
         ["2026-11-23 09:00", "2026-11-25 09:00", "2026-11-30 09:00"]),
        ("2026-11-23 09:00", "RRULE:freq=weekly;interval=2;count=2;", None,
         ["2026-11-23 09:00", "2026-12-07 09:00"]),
        ("2026-11-23 09:00", "FREQ=WEEKLY;COUNT=9", "2026-11-30 09:00",
         ["2026-11-23 09:00", "2026-11-30 09:00"]),
        ("2026-11-23 09:00", "FREQ=MONTHLY;BYDAY=-1FR;COUNT=2", None,
         ["2026-11-27 09:00", "2026-12-25 09:00"]),
        ("2026-11-23 09:00", "FREQ=DAILY;BYHOUR=9,14;COUNT=3", None,
         ["2026-11-23 09:00", "2026-11-23 14:00", "2026-11-24 09:00"]),
        ("2026-11-23 09:00", "FREQ=DAILY;UNTIL=20261124", None,
         ["2026-11-23 09:00", "2026-11-24 09:00"]),
        ("2026-11-23 09:00", "FREQ=DAILY;UNTIL=20261124T080000Z", None,
         ["2026-11-23 09:00", "2026-11-24 09:00"]),
        ("2026-11-23 09:00", "FREQ=DAILY;UNTIL=20261124T085959", None,
         ["2026-11-23 09:00"]),
        ("2026-11-23 09:00", "FREQ=DAILY;UNTIL=20261224", "2026-11-24 08:00",
         ["2026-11-23 09:00"]),
    ],
)  # fmt: skip
def test_what_repeats_begins_when_the_rule_says(start, every, until, expect):
    assert starts(start, every, until) == expect


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE, SANTIAGO])
def test_nine_oclock_is_nine_oclock_all_year(zone):
    found = starts("2026-11-23 09:00", "weekly", zone=zone)
    assert len(found) == 53
    assert {words[11:] for words in found} == {"09:00"}


@pytest.mark.parametrize(
    ("start", "zone", "expect"),
    [
        ("2027-03-27 02:30", BERLIN, ["27 02:30", "28 03:30", "29 02:30"]),
        ("2027-03-13 02:30", NEW_YORK, ["13 02:30", "14 03:30", "15 02:30"]),
        ("2027-10-02 02:15", LORD_HOWE, ["02 02:15", "03 02:45", "04 02:15"]),
    ],
)
def test_an_occurrence_that_clocks_skip_moves_forward_by_the_gap(start, zone, expect):
    found = starts(start, "FREQ=DAILY;COUNT=3", zone=zone)
    assert [words[8:] for words in found] == expect


def test_two_occurrences_that_the_gap_makes_one_are_one():
    found = starts("2027-03-27 03:00", "FREQ=DAILY;BYHOUR=2,3;COUNT=4")
    assert [words[8:] for words in found] == ["27 03:00", "28 03:00", "29 02:00"]


def test_occurrences_are_in_order_where_the_gap_turns_them_round():
    found = starts("2027-03-28 01:45", "FREQ=DAILY;BYHOUR=1,2,3;BYMINUTE=15,45;COUNT=5")
    assert found == sorted(found)
    assert len(found) == 3


def test_a_start_in_the_hour_that_comes_twice_stays_in_its_hour():
    second = at("2026-10-25 02:30", BERLIN, fold=1)
    found = dates.occurrences(second, "FREQ=DAILY;COUNT=2", None, BERLIN).starts
    assert found == [second, at("2026-10-26 02:30")]


def test_nothing_begins_before_a_start_in_the_hour_that_comes_twice():
    second = at("2026-10-25 02:10", BERLIN, fold=1)
    found = dates.occurrences(
        second, "FREQ=DAILY;BYMINUTE=10,40;COUNT=3", None, BERLIN
    ).starts
    assert found == [second, at("2026-10-26 02:10")]


def test_a_rule_may_be_asked_for_its_later_times():
    rule = dates.read_rule("FREQ=DAILY;COUNT=5", BERLIN)
    start = datetime(2026, 11, 20, 15)
    found = list(dates.expand(rule, start, BERLIN, NOW + 3 * 86400, NOW + 9 * 86400))
    assert found == [
        (start + timedelta(days=days), NOW + days * 86400) for days in (3, 4)
    ]


def test_a_start_between_two_seconds_stays_there():
    found = dates.occurrences(NOW + 0.25, "FREQ=DAILY;COUNT=2", None, BERLIN).starts
    assert found == [NOW + 0.25, NOW + 86400]


@pytest.mark.parametrize(
    ("every", "until_s", "complete", "count"),
    [
        ("daily", None, False, 365),
        ("weekdays", None, False, 261),
        ("monthly", None, False, 12),
        ("FREQ=YEARLY", None, False, 1),
        ("FREQ=DAILY;COUNT=500", None, True, 500),
        ("FREQ=DAILY;UNTIL=20270101", None, True, 43),
        ("daily", NOW + 86400, True, 2),
    ],
)
def test_without_an_end_it_is_a_year_of_it(every, until_s, complete, count):
    found = dates.occurrences(NOW, every, until_s, BERLIN)
    assert (found.complete, len(found.starts)) == (complete, count)


def test_a_year_from_leap_day_ends_before_march():
    found = starts("2028-02-29 09:00", "daily")
    assert (len(found), found[-1]) == (366, "2029-02-28 09:00")


def test_as_many_as_one_request_may_reserve_and_no_more():
    assert dates.OCCURRENCES_MAX == STARTS_MAX
    with pytest.raises(BadWord, match="more than 500 times: end it with --until TIME"):
        dates.occurrences(NOW, "FREQ=DAILY;COUNT=501", None, BERLIN)
    with pytest.raises(BadWord, match="more than 500 times"):
        dates.occurrences(NOW, "daily", NOW + 501 * 86400, BERLIN)


@pytest.mark.parametrize(
    ("every", "until_s"),
    [
        ("daily", NOW - 1),
        ("FREQ=DAILY;UNTIL=20261119", None),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", None),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", None),
    ],
)
def test_a_rule_that_gives_nothing_is_refused(every, until_s):
    with pytest.raises(BadWord, match=f"rule '{every}' gives no time from 2026-11-20"):
        dates.occurrences(NOW, every, until_s, BERLIN)


@pytest.mark.parametrize(
    ("every", "why"),
    [
        ("FREQ=HOURLY", "repeats too often: at most 24 times a day"),
        ("FREQ=MINUTELY;COUNT=2", "repeats too often"),
        ("FREQ=SECONDLY", "repeats too often"),
        ("FREQ=DAILY;BYHOUR=1,2,3,4,5;BYMINUTE=0,10,20,30,40", "repeats too often"),
        ("", "is not understood: write daily, weekdays, weekly, monthly or"),
        ("hourly", "is not understood"),
        ("FREQ", "is not understood"),
        ("FREQ=", "is not understood"),
        ("FREQ=DAILY;FREQ=DAILY", "is not understood"),
        ("FREQ=DAILY;;COUNT=2", "is not understood"),
        ("COUNT=2", "lacks FREQ"),
        ("FREQ=WEEK", "FREQ=WEEK is wrong"),
        ("FREQ=DAILY;BYEASTER=0", "BYEASTER=0 is wrong"),
        ("FREQ=DAILY;COUNT=0", "COUNT=0 is wrong"),
        ("FREQ=DAILY;COUNT=1,2", "COUNT=1,2 is wrong"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL=0 is wrong"),
        ("FREQ=DAILY;BYHOUR=24", "BYHOUR=24 is wrong"),
        ("FREQ=DAILY;BYSECOND=60", "BYSECOND=60 is wrong"),
        ("FREQ=DAILY;BYMONTHDAY=0", "BYMONTHDAY=0 is wrong"),
        ("FREQ=DAILY;BYMONTHDAY=32", "BYMONTHDAY=32 is wrong"),
        ("FREQ=DAILY;BYMONTH=x", "BYMONTH=X is wrong"),
        ("FREQ=WEEKLY;BYDAY=XX", "BYDAY=XX is wrong"),
        ("FREQ=MONTHLY;BYDAY=0MO", "BYDAY=0MO is wrong"),
        ("FREQ=WEEKLY;BYDAY=1MO", "counts days of the week"),
        ("FREQ=WEEKLY;WKST=XX", "WKST=XX is wrong"),
        ("FREQ=DAILY;UNTIL=tomorrow", "UNTIL=TOMORROW is wrong"),
        ("FREQ=DAILY;UNTIL=20260230", "UNTIL=20260230 is no date"),
        ("FREQ=DAILY;UNTIL=99991231", "UNTIL=99991231 is no date"),
        ("FREQ=DAILY;UNTIL=20270101;COUNT=2", "has COUNT and UNTIL"),
        ("FREQ=YEARLY;BYDAY=53MO;BYMONTH=2", "makes no sense|gives no time"),
    ],
)
def test_a_rule_that_is_wrong_is_refused_by_its_name(every, why):
    with pytest.raises(BadWord, match=f"^rule '{every}'.*({why})"):
        dates.occurrences(NOW, every, None, BERLIN)


PARTS = st.one_of(
    st.sampled_from(["INTERVAL=3", "COUNT=5", "WKST=SU", "UNTIL=20271224"]),
    st.builds("BYMONTH={}".format, st.integers(1, 12)),
    st.builds("BYMONTHDAY={}".format, st.integers(1, 28)),
    st.builds("BYSETPOS={}".format, st.sampled_from([1, -1])),
    st.builds("BYDAY={}MO,FR".format, st.sampled_from(["", "1", "-1", "53"])),
    st.builds("BYHOUR={}".format, st.integers(0, 23)),
    st.builds("BYWEEKNO={}".format, st.sampled_from([1, 53, -53])),
    st.builds("BYYEARDAY={}".format, st.sampled_from([1, 366, -366])),
)


@pytest.mark.slow
@given(
    st.sampled_from(["WEEKLY", "MONTHLY", "YEARLY"]),
    st.lists(PARTS, max_size=3),
    st.sampled_from(ZONES),
)
def test_any_rule_gives_times_in_order_or_a_bad_word(freq, parts, zone):
    start = at("2026-11-23 02:30", zone)
    try:
        rule = ";".join([f"FREQ={freq}", *parts])
        found = dates.occurrences(start, rule, start + 800 * 86400, zone).starts
    except BadWord:
        return
    assert found == sorted(set(found))
    assert start <= found[0] <= found[-1] <= start + 800 * 86400
    assert len(found) <= dates.OCCURRENCES_MAX


@given(st.text() | st.text("=;,FREQDAILYBYMONTHCU0123456789", max_size=40))
def test_any_text_is_a_rule_or_a_bad_word(text):
    try:
        assert dates.read_rule(text, BERLIN).plain
    except BadWord:
        return


@pytest.mark.parametrize("name", ["Europe/Berlin", ":Europe/Berlin"])
def test_the_zone_is_the_one_that_tz_names(name):
    zone = dates.local_zone({"TZ": name}, Path("/nonexistent"))
    assert zone == BERLIN


def test_an_empty_tz_and_a_machine_without_zone_are_utc():
    assert dates.local_zone({"TZ": ""}, Path("/nonexistent")) is UTC
    assert dates.local_zone({}, Path("/nonexistent")) is UTC


@pytest.fixture
def rules_of_berlin():
    """The file of rules, in the system's database or in tzdata's."""
    from importlib.resources import files
    from zoneinfo import TZPATH

    for folder in map(Path, TZPATH):
        if (folder / "Europe/Berlin").is_file():
            return (folder / "Europe/Berlin").read_bytes()
    return files("tzdata.zoneinfo.Europe").joinpath("Berlin").read_bytes()


def test_localtime_is_a_link_into_the_database(tmp_path):
    link = tmp_path / "localtime"
    link.symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    assert dates.local_zone({}, link) == BERLIN
    posix = tmp_path / "zoneinfo/posix/Europe/Berlin"
    assert dates.local_zone({"TZ": f":{posix}"}) == BERLIN


def test_localtime_may_be_a_copy_of_the_rules(tmp_path, rules_of_berlin):
    """As in many containers."""
    copy = tmp_path / "localtime"
    copy.write_bytes(rules_of_berlin)
    zone = dates.local_zone({}, copy)
    assert starts("2026-11-23 09:00", "weekly", zone=zone)[-1][11:] == "09:00"
    assert dates.parse_time("2027-07-01 09:00", NOW, zone) == at("2027-07-01 09:00")


def test_a_copy_that_is_none_leaves_it_to_the_c_library(tmp_path):
    broken = tmp_path / "localtime"
    broken.write_bytes(b"TZif, but no more")
    assert isinstance(dates.local_zone({}, broken), dates.MachineZone)
    assert isinstance(dates.local_zone({}, tmp_path), dates.MachineZone)


@pytest.mark.parametrize("name", ["No/Where", "Europe", "../etc/passwd", "x\x00", ""])
def test_what_no_zone_is_called_is_none(name):
    assert dates.zone_named(name) is None


def test_a_zone_without_a_name_has_its_rules(posix_zone):
    assert isinstance(posix_zone, dates.MachineZone)
    assert dates.parse_time("2027-07-01 09:00", NOW, posix_zone) == at(
        "2027-07-01 09:00"
    )
    assert dates.format_time(NOW, NOW, posix_zone) == "15:00:00"
    assert starts("2027-03-27 02:30", "FREQ=DAILY;COUNT=2", zone=posix_zone)[1] == (
        "2027-03-28 03:30"
    )
    with pytest.raises(BadWord, match="clocks in this time zone go from 2027-03-28 02"):
        dates.parse_time("2027-03-28 02:30", NOW, posix_zone)


def test_a_zone_without_a_name_is_a_tzinfo(posix_zone):
    summer = datetime(2027, 7, 1, 9, tzinfo=posix_zone)
    assert summer.utcoffset() == timedelta(hours=2)
    assert (summer.dst(), summer.tzname()) == (None, "local time")
    assert posix_zone.utcoffset(None) is None
