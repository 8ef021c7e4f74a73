"""Calendars as universities, Outlook and scripts write them.

Runs with every icalendar from 4.0.3 (Debian 12) on.
"""

import builtins
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.ctl import timetable
from holdingpen.ctl.timetable import Event, read_timetable
from holdingpen.errors import EXIT_BAD_DATA, LocalMistake, Unavailable

pytest.importorskip("icalendar", reason="timetables need icalendar")

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
HOUR = "DURATION:PT1H"
MON = "DTSTART;TZID=Europe/Berlin:20261123T090000\nDURATION:PT1H"

ZONE = """\
BEGIN:VTIMEZONE
TZID:Campus time
BEGIN:DAYLIGHT
TZOFFSETFROM:+0100
TZOFFSETTO:+0200
DTSTART:19700329T020000
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=3
END:DAYLIGHT
BEGIN:STANDARD
TZOFFSETFROM:+0200
TZOFFSETTO:+0100
DTSTART:19701025T030000
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=10
END:STANDARD
END:VTIMEZONE
"""


def at(words, zone=BERLIN):
    return datetime.fromisoformat(words).replace(tzinfo=zone).timestamp()


def calendar(*events, head=""):
    """A file of events; each is its lines, with a UID and a SUMMARY unless it has."""
    lines = "BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//test//EN\n" + head
    for event in events:
        uid = "" if "UID:" in event else "UID:a@b\n"
        name = "" if "SUMMARY" in event else "SUMMARY:Algorithms\n"
        lines += f"BEGIN:VEVENT\n{uid}{name}{event.strip()}\nEND:VEVENT\n"
    return (lines + "END:VCALENDAR\n").replace("\n", "\r\n").encode()


def read(data, zone=BERLIN, start="2026-01-01", end="2029-01-01"):
    return read_timetable(data, zone, at(start, zone), at(end, zone))


def spans(data, zone=BERLIN, **span):
    """Begin and end of each event, as clocks in `zone` show them."""
    return [
        f"{datetime.fromtimestamp(e.start_s, zone):%Y-%m-%d %H:%M} to "
        f"{datetime.fromtimestamp(e.end_s, zone):%Y-%m-%d %H:%M}"
        for e in read(data, zone, **span)
    ]


def test_an_event_has_its_times_and_its_words():
    data = calendar(
        "UID:42@uni\nSUMMARY:Algorithms\\, part 1\nLOCATION:Room 7\n"
        "DESCRIPTION:bring a laptop\nDTSTART;TZID=Europe/Berlin:20261123T090000\n"
        "DTEND;TZID=Europe/Berlin:20261123T103000"
    )
    assert read(data) == [
        Event(
            start_s=at("2026-11-23 09:00"),
            end_s=at("2026-11-23 10:30"),
            summary="Algorithms, part 1",
            location="Room 7",
            uid="42@uni",
            key="42@uni",
        )
    ]


@pytest.mark.parametrize(
    ("lines", "zone", "span"),
    [
        ("DTSTART:20261123T080000Z\nDTEND:20261123T090000Z", BERLIN,
         "2026-11-23 09:00 to 2026-11-23 10:00"),
        ("DTSTART:20261123T090000\nDTEND:20261123T100000", BERLIN,
         "2026-11-23 09:00 to 2026-11-23 10:00"),
        ("DTSTART:20261123T090000\nDTEND:20261123T100000", NEW_YORK,
         "2026-11-23 09:00 to 2026-11-23 10:00"),
        ("DTSTART;TZID=Europe/Berlin:20261123T090000\nDURATION:PT1H", NEW_YORK,
         "2026-11-23 03:00 to 2026-11-23 04:00"),
        ("DTSTART;TZID=W. Europe Standard Time:20261123T090000\nDURATION:PT1H", BERLIN,
         "2026-11-23 09:00 to 2026-11-23 10:00"),
        ("DTSTART;TZID=/site.org/2021_1/Europe/Berlin:20261123T090000\nDURATION:PT1H",
         UTC, "2026-11-23 08:00 to 2026-11-23 09:00"),
        ("DTSTART;TZID=Campus time:20260723T090000\nDURATION:PT1H", UTC,
         "2026-07-23 07:00 to 2026-07-23 08:00"),
        ("DTSTART;VALUE=DATE:20261123", BERLIN,
         "2026-11-23 00:00 to 2026-11-24 00:00"),
        ("DTSTART;VALUE=DATE:20261123\nDTEND;VALUE=DATE:20261126", NEW_YORK,
         "2026-11-23 00:00 to 2026-11-26 00:00"),
        ("DTSTART;VALUE=DATE:20261123\nDURATION:P2D", BERLIN,
         "2026-11-23 00:00 to 2026-11-25 00:00"),
        ("DTSTART:20261231T220000\nDURATION:PT4H", BERLIN,
         "2026-12-31 22:00 to 2027-01-01 02:00"),
        ("DTSTART:20261123T090000\nDTEND;VALUE=DATE:20261124", BERLIN,
         "2026-11-23 09:00 to 2026-11-24 00:00"),
        # The day that has 23 hours, and the one that has 25
        ("DTSTART;VALUE=DATE:20270328", BERLIN, "2027-03-28 00:00 to 2027-03-29 00:00"),
        ("DTSTART;VALUE=DATE:20271031", BERLIN, "2027-10-31 00:00 to 2027-11-01 00:00"),
        ("DTSTART:20270327T120000\nDURATION:P1D", BERLIN,
         "2027-03-27 12:00 to 2027-03-28 12:00"),
        ("DTSTART:20270327T220000\nDURATION:PT8H", BERLIN,
         "2027-03-27 22:00 to 2027-03-28 07:00"),
        ("DTSTART:20270328T023000\nDURATION:PT1H", BERLIN,
         "2027-03-28 03:30 to 2027-03-28 04:30"),
    ],
)  # fmt: skip
def test_times_are_those_of_their_zone(lines, zone, span):
    assert spans(calendar(lines, head=ZONE), zone) == [span]


@pytest.mark.parametrize(
    ("lines", "begins"),
    [
        ("RRULE:FREQ=WEEKLY;COUNT=2", ["11-23 09:00", "11-30 09:00"]),
        ("RRULE:FREQ=WEEKLY;UNTIL=20261130T080000Z", ["11-23 09:00", "11-30 09:00"]),
        ("RRULE:FREQ=WEEKLY;UNTIL=20261130", ["11-23 09:00", "11-30 09:00"]),
        ("RRULE:UNTIL=20261130T075959Z;FREQ=WEEKLY", ["11-23 09:00"]),
        ("RRULE:FREQ=WEEKLY;BYDAY=TU;COUNT=1", ["11-23 09:00", "11-24 09:00"]),
        ("RRULE:FREQ=DAILY;BYHOUR=9,14;COUNT=3\nSEQUENCE:1",
         ["11-23 09:00", "11-23 14:00", "11-24 09:00"]),
        ("RRULE:FREQ=WEEKLY;COUNT=2\nRRULE:FREQ=DAILY;COUNT=2",
         ["11-23 09:00", "11-24 09:00", "11-30 09:00"]),
        ("RRULE:FREQ=WEEKLY;COUNT=3\nEXDATE;TZID=Europe/Berlin:20261130T090000",
         ["11-23 09:00", "12-07 09:00"]),
        ("RRULE:FREQ=WEEKLY;COUNT=3\nEXDATE:20261123T080000Z,20261130T080000Z",
         ["12-07 09:00"]),
        ("RRULE:FREQ=WEEKLY;COUNT=3\nEXDATE;VALUE=DATE:20261130",
         ["11-23 09:00", "12-07 09:00"]),
        ("RRULE:FREQ=WEEKLY;COUNT=3\nEXDATE:20261130T080000Z\nEXDATE:20261207T080000Z",
         ["11-23 09:00"]),
        ("RRULE:FREQ=WEEKLY;COUNT=1\nEXDATE:20261130T080000Z", ["11-23 09:00"]),
        ("RDATE;TZID=Europe/Berlin:20261125T090000,20261126T140000",
         ["11-23 09:00", "11-25 09:00", "11-26 14:00"]),
        ("RDATE:20261123T080000Z", ["11-23 09:00"]),
        ("RRULE:FREQ=DAILY;COUNT=2\nRDATE:20261201T080000Z\nEXDATE:20261124T080000Z",
         ["11-23 09:00", "12-01 09:00"]),
    ],
)  # fmt: skip
def test_a_series_begins_when_its_rules_say(lines, begins):
    found = spans(calendar(f"{MON}\n{lines}"))
    assert [words[5:16] for words in found] == begins


def test_an_added_period_has_its_own_length():
    data = calendar(
        f"{MON}\nRDATE;VALUE=PERIOD:20261125T080000Z/PT2H,"
        "20261126T080000Z/20261126T110000Z"
    )
    assert spans(data)[1:] == [
        "2026-11-25 09:00 to 2026-11-25 11:00",
        "2026-11-26 09:00 to 2026-11-26 12:00",
    ]


@pytest.mark.parametrize(
    ("zone", "name"),
    [
        (BERLIN, "Europe/Berlin"),
        (NEW_YORK, "America/New_York"),
        (LORD_HOWE, "Australia/Lord_Howe"),
        (BERLIN, "Campus time"),
    ],
)
def test_a_series_keeps_its_place_on_the_clock_all_year(zone, name):
    data = calendar(
        f"DTSTART;TZID={name}:20261123T090000\n{HOUR}\nRRULE:FREQ=WEEKLY;COUNT=53",
        head=ZONE,
    )
    found = spans(data, zone)
    assert len(found) == 53
    assert {(words[11:16], words[-5:]) for words in found} == {("09:00", "10:00")}


@pytest.mark.parametrize("name", ["Europe/Berlin", "Campus time"])
def test_an_occurrence_that_clocks_skip_moves_forward_and_keeps_its_length(name):
    data = calendar(
        f"DTSTART;TZID={name}:20270327T023000\n{HOUR}\nRRULE:FREQ=DAILY;COUNT=3",
        head=ZONE,
    )
    assert spans(data) == [
        "2027-03-27 02:30 to 2027-03-27 03:30",
        "2027-03-28 03:30 to 2027-03-28 04:30",
        "2027-03-29 02:30 to 2027-03-29 03:30",
    ]


def test_a_series_over_the_change_of_clocks_lasts_as_long_as_ever():
    """RFC 5545, 3.8.5.3: DTEND is an exact length for all occurrences."""
    data = calendar(
        "DTSTART;TZID=Europe/Berlin:20270327T220000\n"
        "DTEND;TZID=Europe/Berlin:20270328T010000\nRRULE:FREQ=DAILY;COUNT=30"
    )
    assert {event.end_s - event.start_s for event in read(data)} == {3 * 3600}


def test_a_series_of_days_goes_from_midnight_to_midnight():
    data = calendar("DTSTART;VALUE=DATE:20270327\nRRULE:FREQ=DAILY;COUNT=3")
    assert spans(data) == [
        "2027-03-27 00:00 to 2027-03-28 00:00",
        "2027-03-28 00:00 to 2027-03-29 00:00",
        "2027-03-29 00:00 to 2027-03-30 00:00",
    ]
    assert [e.end_s - e.start_s for e in read(data)] == [86400, 82800, 86400]


def test_days_are_left_out_of_a_series_of_days():
    data = calendar(
        "DTSTART;VALUE=DATE:20270327\nRRULE:FREQ=DAILY;COUNT=3\n"
        "EXDATE;VALUE=DATE:20270328"
    )
    assert [words[:10] for words in spans(data)] == ["2027-03-27", "2027-03-29"]


def test_leap_day_comes_in_leap_years():
    data = calendar("DTSTART;VALUE=DATE:20240229\nRRULE:FREQ=YEARLY")
    assert spans(data, end="2037-01-01") == [
        f"{year}-02-29 00:00 to {year}-03-01 00:00" for year in (2028, 2032, 2036)
    ]


def test_a_series_in_utc_is_meant_in_the_zone_of_its_calendar():
    """Google's X-WR-TIMEZONE: without it the class moves by an hour in summer."""
    event = f"DTSTART:20261123T080000Z\n{HOUR}\nRRULE:FREQ=WEEKLY;COUNT=30"
    wide = calendar(event, head="X-WR-TIMEZONE:Europe/Berlin\n")
    assert {words[11:16] for words in spans(wide)} == {"09:00"}
    assert {words[11:16] for words in spans(calendar(event))} == {"09:00", "10:00"}


CHANGE = """\
RECURRENCE-ID;TZID=Europe/Berlin:20261130T090000
DTSTART;TZID=Europe/Berlin:20261201T110000
DURATION:PT2H
SUMMARY:moved
"""


@pytest.mark.parametrize("first", [0, 1])
def test_a_change_stands_in_for_its_occurrence(first):
    series = f"{MON}\nRRULE:FREQ=WEEKLY;COUNT=3"
    events = read(calendar(*[(series, CHANGE), (CHANGE, series)][first]))
    assert [(e.start_s, e.end_s, e.summary, e.key) for e in events] == [
        (at("2026-11-23 09:00"), at("2026-11-23 10:00"), "Algorithms",
         "a@b/20261123T080000Z"),
        (at("2026-12-01 11:00"), at("2026-12-01 13:00"), "moved",
         "a@b/20261130T080000Z"),
        (at("2026-12-07 09:00"), at("2026-12-07 10:00"), "Algorithms",
         "a@b/20261207T080000Z"),
    ]  # fmt: skip


def test_only_the_changed_one_of_two_on_a_day_is_changed():
    data = calendar(
        f"{MON}\nRRULE:FREQ=DAILY;BYHOUR=9,14;COUNT=2",
        "RECURRENCE-ID:20261123T130000Z\nDTSTART:20261123T150000\nDURATION:PT1H",
    )
    assert [words[11:16] for words in spans(data)] == ["09:00", "15:00"]


def test_the_last_change_of_an_occurrence_counts():
    newer = CHANGE.replace("T110000", "T120000") + "SEQUENCE:10\n"
    for changes in ([newer, CHANGE + "SEQUENCE:9"], [CHANGE, newer]):
        data = calendar(f"{MON}\nRRULE:FREQ=WEEKLY;COUNT=2", *changes)
        assert spans(data)[1] == "2026-12-01 12:00 to 2026-12-01 14:00"


def test_a_change_out_of_the_span_takes_its_occurrence_along():
    away = CHANGE.replace("20261201", "20300101")
    assert len(read(calendar(f"{MON}\nRRULE:FREQ=WEEKLY;COUNT=2", away))) == 1


def test_a_change_without_its_series_is_an_event():
    assert [event.key for event in read(calendar(CHANGE))] == ["a@b/20261130T080000Z"]


def test_what_is_cancelled_is_left_out():
    series = f"{MON}\nRRULE:FREQ=WEEKLY;COUNT=2"
    assert read(calendar(f"{series}\nSTATUS:CANCELLED", CHANGE)) == []
    kept = spans(calendar(series, f"{CHANGE}STATUS:cancelled"))
    assert kept == ["2026-11-23 09:00 to 2026-11-23 10:00"]
    assert len(read(calendar(f"{series}\nSTATUS:CONFIRMED"))) == 2


def test_the_last_version_of_an_event_counts():
    old, new = f"{MON}\nSEQUENCE:9", MON.replace("T09", "T10") + "\nSEQUENCE:10"
    for events in ([old, new], [new, old]):
        assert spans(calendar(*events)) == ["2026-11-23 10:00 to 2026-11-23 11:00"]
    assert len(read(calendar(old, old))) == 1


def test_several_calendars_in_a_row_are_read_as_one():
    data = calendar(MON) + calendar(f"UID:2\n{MON}")
    assert [event.uid for event in read(data)] == ["2", "a@b"]


def test_files_of_windows_and_of_scripts_are_read():
    data = calendar(MON)
    assert read(b"\xef\xbb\xbf" + data) == read(data.replace(b"\r\n", b"\n"))


def test_keys_stay_the_same_when_a_file_is_read_again_for_another_time():
    data = calendar(f"{MON}\nRRULE:FREQ=WEEKLY", f"UID:2\n{MON}", f"UID: \n{MON}")
    year = {event.key: event for event in read(data, end="2027-11-23")}
    week = {event.key: event for event in read(data, end="2026-11-30")}
    assert len(year) == 53 + 2
    assert len(week) == 3
    assert week.items() <= year.items()


def test_events_without_uid_are_told_apart_by_what_they_are():
    data = calendar(MON, MON.replace("T09", "T10")).replace(b"UID:a@b\r\n", b"")
    keys = [event.key for event in read(data)]
    assert len(set(keys)) == 2
    assert all(key.startswith("no-uid-") for key in keys)
    assert keys == [event.key for event in read(data)]


def test_what_begins_within_the_span_is_read_and_its_end_is_not():
    data = calendar(f"{MON}\nRRULE:FREQ=DAILY;COUNT=5")
    found = read_timetable(data, BERLIN, at("2026-11-24 09:00"), at("2026-11-26 09:00"))
    assert [event.start_s for event in found] == [
        at("2026-11-24 09:00"), at("2026-11-25 09:00")
    ]  # fmt: skip
    assert read(data, start="2027-01-01") == []


def test_a_series_without_end_is_read_as_far_as_the_span():
    old = "DTSTART;TZID=Europe/Berlin:19100103T090000\nDURATION:PT1H\nRRULE:FREQ=WEEKLY"
    assert len(read(calendar(old), start="2026-01-01", end="2027-01-01")) == 52


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("DTSTART:20261123T090000",
         "2026-11-23 09:00, has no end .DTEND or DURATION.: how long"),
        ("DTSTART:20261123T090000\nDTEND:20261123T090000", "does not end after"),
        ("DTSTART:20261123T090000\nDTEND:20261123T080000", "does not end after"),
        ("DTSTART:20261123T090000\nDURATION:-PT1H", "does not end after"),
        ("DTSTART;VALUE=DATE:20261123\nDTEND;VALUE=DATE:20261123", "does not end"),
        ("DTSTART:20261123T090000\nDURATION:20261123T100000", "its DURATION is"),
        ("DURATION:PT1H", "has no begin"),
        ("DTSTART:2026x\nDURATION:PT1H", "its DTSTART is not understood"),
        ("DTSTART:20260230T090000\nDURATION:PT1H", "its DTSTART is not understood"),
        ("DTSTART:20261123T090000\nDTEND:soon", "its DTEND is not understood"),
        ("DTSTART:00010101T090000\nDURATION:PT1H", "the year 1 is a mistake"),
        ("DTSTART:99991231T090000\nDURATION:PT1H", "the year 9999 is a mistake"),
        ("DTSTART:090000\nDURATION:PT1H", "09:00:00, which is no date"),
        ("DTSTART:20261123T090000\nDTSTART:20261124T090000", "more than one DTSTART"),
        ("DTSTART;TZID=No/Where:20261123T090000\nDURATION:PT1H",
         "the time zone 'No/Where' is known neither here nor"),
        (f"{MON}\nRRULE:FREQ=HOURLY", "repeats too often"),
        (f"{MON}\nRRULE:FREQ=SECONDLY", "repeats too often"),
        (f"{MON}\nRRULE:FREQ=FORTNIGHTLY", "its RRULE is not understood"),
        (f"{MON}\nRRULE:COUNT=3", "lacks FREQ"),
        (f"{MON}\nRRULE:FREQ=DAILY;COUNT=0", "COUNT=0 is wrong"),
        (f"{MON}\nRRULE:FREQ=YEARLY;BYDAY=53MO;BYMONTH=2",
         "makes no sense|its RRULE is not understood"),
        (f"{MON}\nEXDATE:never", "its EXDATE is not understood"),
        (f"{MON}\nRDATE:20261x", "its RDATE is not understood"),
        (f"{MON}\nEXRULE:FREQ=DAILY", "EXRULE, which RFC 5545 took away"),
        (f"{MON}\nRDATE;VALUE=PERIOD:20261125T080000Z/20261125T080000Z",
         "does not end after"),
        (f"{MON}\nRECURRENCE-ID;RANGE=THISANDFUTURE:20261130T080000Z",
         "changes all later ones, too"),
    ],
)  # fmt: skip
def test_what_an_event_leaves_open_is_an_error_that_names_it(lines, why):
    with pytest.raises(LocalMistake, match=f"^event 'Algorithms'.*{why}") as caught:
        read(calendar(lines))
    assert caught.value.exit_status == EXIT_BAD_DATA
    assert caught.value.code == "bad-timetable"


def test_the_length_of_an_event_out_of_the_span_is_not_asked_for():
    reminder = "UID:old\nDTSTART:20201123T090000"
    assert len(read(calendar(reminder, MON))) == 1


def test_two_events_with_one_uid_are_a_mistake_of_the_file():
    with pytest.raises(LocalMistake, match="'Algorithms' and event 'B' have the same"):
        read(calendar(MON, MON.replace("T09", "T10") + "\nSUMMARY:B"))


def test_an_error_names_the_event_in_harmless_letters():
    event = "SUMMARY:\x1b[31mred" + "x" * 100 + "\nDTSTART:20261123T090000"
    with pytest.raises(LocalMistake) as caught:
        read(calendar(event))
    assert str(caught.value).startswith("event '?[31mredxxx")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"hello world", b"x:y", bytes(range(256)), b"%PDF-1.7\n", b"<html>",
        b"BEGIN:VCALENDAR\r\n", calendar(MON)[:-20], calendar(MON)[20:],
        b"BEGIN:VCARD\r\nVERSION:3.0\r\nEND:VCARD\r\n",
        calendar(MON).decode().encode("utf-16"),
    ],
)  # fmt: skip
def test_what_is_no_calendar_is_refused(data):
    with pytest.raises(LocalMistake, match="this is no iCalendar file") as caught:
        read(data)
    assert caught.value.exit_status == EXIT_BAD_DATA


def test_a_calendar_without_events_is_refused():
    with pytest.raises(LocalMistake, match="the calendar has no event"):
        read(calendar(head=ZONE))


def test_more_than_a_calendar_has_is_refused(monkeypatch):
    monkeypatch.setattr(timetable, "FILE_MAX_BYTES", 100)
    with pytest.raises(LocalMistake, match="bytes are more than a calendar has: 100"):
        read(calendar(MON))


@pytest.mark.parametrize(
    "events",
    [
        [f"{MON}\nRRULE:FREQ=DAILY"],
        [f"UID:{n}\n{MON}" for n in range(11)],
    ],
)
def test_more_events_than_are_made_at_once_are_refused(monkeypatch, events):
    monkeypatch.setattr(timetable, "EVENTS_MAX", 10)
    with pytest.raises(LocalMistake, match="more than 10 events begin in this time"):
        read(calendar(*events))


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=SECONDLY",
        "FREQ=YEARLY;BYSECOND=1",
        "FREQ=YEARLY;\n BYMINUTE=1,2",
        "FREQ=YEARLY;FREQ=MINUTELY",
    ],
)
def test_a_zone_that_changes_all_the_time_is_refused(rule):
    """icalendar 4 goes through all changes until 2038 as it reads the file."""
    zone = ZONE.replace("FREQ=YEARLY;BYDAY=-1SU;BYMONTH=10", rule)
    with pytest.raises(LocalMistake, match="changes more often than by the year"):
        read(calendar(MON, head=zone))


def test_without_icalendar_it_is_said_what_to_install(monkeypatch):
    real = builtins.__import__

    def absent(name, *args):
        if name == "icalendar":
            raise ImportError("No module named 'icalendar'")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(Unavailable, match="install python3-icalendar, or holdingpen.t"):
        read(calendar(MON))


WHOLE = calendar(
    f"{MON}\nRRULE:FREQ=WEEKLY;BYDAY=MO,WE;UNTIL=20270201T000000Z\n"
    "EXDATE:20261130T080000Z\nRDATE;VALUE=PERIOD:20261201T080000Z/PT2H\nSEQUENCE:1",
    CHANGE,
    head=ZONE,
)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 3), st.binary(max_size=3))
def test_a_damaged_file_is_read_or_refused(place, gone, put):
    """Whatever is cut out or put in, and wherever."""
    try:
        events = read(WHOLE[:place] + put + WHOLE[place + gone :])
    except LocalMistake:
        return
    assert all(event.start_s < event.end_s for event in events)
