"""Timetables: the events in an iCalendar file, each with its begin and its end.

A timetable comes from elsewhere: from a university's planning system, from Outlook,
from a script.  icalendar takes the file apart; what the events mean is decided here,
by RFC 5545 and by the same rules as `--every`:

    a series    DTSTART, RRULE and RDATE, without EXDATE; the place on the clock stays
    a change    RECURRENCE-ID names the occurrence that it stands in for
    a length    DTEND: so many seconds; DURATION: days on the calendar, then seconds;
                neither: the whole day, and an error where DTSTART is not a day

A time that names no zone, and a day, are those of the reader.  Where a file leaves
open what to reserve, nothing is guessed: the error names the event.
"""

from __future__ import annotations

import re
import warnings
from codecs import BOM_UTF8
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from holdingpen.ctl import dates, text
from holdingpen.errors import EXIT_BAD_DATA, BadWord, LocalMistake, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The largest file that is read.  A university's whole year is some 200 KiB.
FILE_MAX_BYTES = 4 << 20

#: How many events one reading gives at most.
EVENTS_MAX = 5000

#: A series that began earlier is a slip of the pen; birthdays are not.
YEAR_MIN = 1900

_ONCE = ("DTSTART", "DTEND", "DURATION", "RECURRENCE-ID")
_OFTEN = ("RRULE", "RDATE", "EXDATE")
_FOLD = re.compile(rb"(?:\r?\n)+[ \t]")
_ZONES = re.compile(rb"(?ims)^BEGIN:VTIMEZONE\b.*?^END:VTIMEZONE\b")
_RULE = re.compile(rb"(?im)^RRULE\b.*")
_OFTENER = re.compile(rb"(?i)FREQ=(?!YEARLY)|BYHOUR|BYMINUTE|BYSECOND")
_DAY = timedelta(days=1)


class Event(Struct, frozen=True):
    """One event that happens once, or one occurrence of a series."""

    #: Seconds since 1970; the end is later than the begin.
    start_s: float
    end_s: float
    #: As the file has it: text of others.
    summary: str
    location: str
    #: What the file calls the event, or the series.
    uid: str
    #: The same for this occurrence in every version of the file: the UID, and in a
    #: series also when it was first planned, `UID/20261123T080000Z`.
    key: str


class _Moment(Struct, frozen=True):
    clock: datetime
    zone: tzinfo
    whole_day: bool
    #: Seconds since 1970.
    at_s: float


class _Series(Struct):
    """All that a file says under one UID; an event that happens once is one, too."""

    #: The VEVENT itself; None: the file has only changes.
    master: Any = None
    #: VEVENTs in the place of an occurrence, by when that was planned.
    changes: dict[float, Any] = {}
    #: Of days, and of times that name no zone.
    zone: tzinfo = UTC
    #: In which a series planned in UTC was meant (X-WR-TIMEZONE); None: in UTC.
    wide: tzinfo | None = None


def read_timetable(
    data: bytes, zone: tzinfo, from_s: float, until_s: float
) -> list[Event]:
    """Read the events of an iCalendar file (RFC 5545).

    Args:
        data: what stands in the file; several calendars in a row are read as one.
        zone: of days, and of times that name no zone.
        from_s: seconds since 1970; what begins earlier is left out.
        until_s: what begins at this moment or later is left out.

    Returns:
        The events by their begin, without those that are cancelled; none where none
        begins within the span.

    Raises:
        LocalMistake: when it is no calendar, has no event, or one that cannot be
            understood, or more than FILE_MAX_BYTES or EVENTS_MAX; its exit status is
            EXIT_BAD_DATA.
        Unavailable: when icalendar is not installed.
    """
    plan: dict[str, _Series] = {}
    for calendar in _calendars(data):
        wide = dates.zone_named(_text(calendar, "X-WR-TIMEZONE"))
        for component in calendar.walk("VEVENT"):
            _check(component)
            series = plan.setdefault(_uid(component), _Series(zone=zone, wide=wide))
            _add(series, component)
    if not plan:
        raise _bad("the calendar has no event (VEVENT).")
    events: list[Event] = []
    for uid, series in plan.items():
        for event in _events(uid, series, from_s, until_s):
            events.append(event)
            _check_many(len(events))
    return sorted(events, key=lambda event: (event.start_s, event.key))


def _calendars(data: bytes) -> list[Any]:
    try:
        from icalendar import Calendar
    except ImportError as e:
        raise Unavailable(
            f"timetables need icalendar ({e}): install python3-icalendar, or "
            "holdingpen[timetable] from PyPI."
        ) from e
    if len(data) > FILE_MAX_BYTES:
        raise _bad(f"{len(data)} bytes are more than a calendar has: {FILE_MAX_BYTES}.")
    _check_zones(data)
    calendars: list[Any]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            calendars = list(
                Calendar.from_ical(data.removeprefix(BOM_UTF8), multiple=True)
            )
    except Exception as e:
        # What a damaged file does to its parser is not in its documentation
        raise _bad(
            f"this is no iCalendar file: {text.cut(text.clean(str(e)), 120)}"
        ) from e
    if not calendars or any(calendar.name != "VCALENDAR" for calendar in calendars):
        raise _bad("this is no iCalendar file: it lacks BEGIN:VCALENDAR or its END.")
    return calendars


def _check_zones(data: bytes) -> None:
    # icalendar 4 goes through all changes of a zone until 2038 as it reads the file:
    # a zone that changes each second would take all memory.
    for zone in _ZONES.findall(_FOLD.sub(b"", data)):
        for rule in _RULE.findall(zone):
            if _OFTENER.search(rule):
                raise _bad(
                    "a time zone (VTIMEZONE) changes more often than by the year."
                )


def _bad(message: str) -> LocalMistake:
    mistake = LocalMistake(message, "bad-timetable")
    mistake.exit_status = EXIT_BAD_DATA
    return mistake


def _check_many(events: int) -> None:
    if events > EVENTS_MAX:
        raise _bad(
            f"more than {EVENTS_MAX} events begin in this time: read less of it, or a "
            "calendar with fewer."
        )


def _listed(component: Any, name: str) -> list[Any]:
    value = component.get(name)
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _text(component: Any, name: str) -> str:
    return "".join(str(value) for value in _listed(component, name)[:1])


def _who(component: Any) -> str:
    words = _text(component, "SUMMARY") or _text(component, "UID")
    return f"event {text.cut(text.clean(words), 60)!r}"


def _uid(component: Any) -> str:
    # RFC 5545 wants one; what scripts write often has none
    words = f"{_text(component, 'SUMMARY')} {component['DTSTART'].to_ical()!r}"
    return (
        _text(component, "UID") or "no-uid-" + sha256(words.encode()).hexdigest()[:16]
    )


def _check(component: Any) -> None:
    who = _who(component)
    # icalendar notes here what it could not read, and goes on without it
    for name, why in component.errors:
        if name in (*_ONCE, *_OFTEN):
            words = text.cut(text.clean(str(why)), 120)
            raise _bad(f"{who}: its {name} is not understood: {words}.")
    for name in _ONCE:
        if len(_listed(component, name)) > 1:
            raise _bad(f"{who} has more than one {name}.")
    if "DTSTART" not in component:
        raise _bad(f"{who} has no begin (DTSTART).")
    if "EXRULE" in component:
        raise _bad(f"{who} has an EXRULE, which RFC 5545 took away: use EXDATE.")
    for change in _listed(component, "RECURRENCE-ID"):
        if "RANGE" in change.params:
            raise _bad(
                f"{who} changes all later ones, too (RANGE=THISANDFUTURE): end the "
                "series there, and begin another."
            )


def _add(series: _Series, component: Any) -> None:
    instead = component.get("RECURRENCE-ID")
    if instead is not None:
        at = _moment(instead.dt, instead, component, series.zone).at_s
        older = series.changes.get(at)
        if older is None or _sequence(older) <= _sequence(component):
            series.changes[at] = component
        return
    older = series.master
    if older is None or _sequence(older) < _sequence(component):
        series.master = component
    elif (
        _sequence(older) == _sequence(component)
        and older["DTSTART"].to_ical() != component["DTSTART"].to_ical()
    ):
        raise _bad(
            f"{_who(older)} and {_who(component)} have the same UID: each event needs "
            "one of its own."
        )


def _sequence(component: Any) -> int:
    number = _text(component, "SEQUENCE")
    return int(number) if number.isdecimal() and len(number) < 10 else 0


def _cancelled(component: Any) -> bool:
    return _text(component, "STATUS").upper() == "CANCELLED"


def _events(
    uid: str, series: _Series, from_s: float, until_s: float
) -> Iterator[Event]:
    master = series.master
    if master is not None:
        if _cancelled(master):
            return
        repeats = "RRULE" in master or "RDATE" in master or bool(series.changes)
        start = _moment(master["DTSTART"].dt, master["DTSTART"], master, series.zone)
        begins = _begins(series, start, from_s, until_s)
        length = _length(master, start, series.zone) if begins else (0, 0.0)
        for at, (clock, end) in begins.items():
            if at not in series.changes:
                key = _key(uid, at) if repeats else uid
                end = _end(clock, at, start.zone, length) if end is None else end
                yield _event(master, at, end, uid, key)
    for at, change in series.changes.items():
        start = _moment(change["DTSTART"].dt, change["DTSTART"], change, series.zone)
        if from_s <= start.at_s < until_s and not _cancelled(change):
            length = _length(change, start, series.zone)
            end = _end(start.clock, start.at_s, start.zone, length)
            yield _event(change, start.at_s, end, uid, _key(uid, at))


def _key(uid: str, at_s: float) -> str:
    return f"{uid}/{datetime.fromtimestamp(at_s, UTC):%Y%m%dT%H%M%SZ}"


def _event(component: Any, start: float, end: float, uid: str, key: str) -> Event:
    summary, location = _text(component, "SUMMARY"), _text(component, "LOCATION")
    return Event(start, end, summary, location, uid, key)


def _begins(
    series: _Series, start: _Moment, from_s: float, until_s: float
) -> dict[float, tuple[datetime, float | None]]:
    """When the series begins within the span: the clock, and an end of its own."""
    master = series.master
    zone, clock = start.zone, start.clock
    if zone is UTC and series.wide is not None:
        zone, clock = series.wide, dates.shown(start.at_s, series.wide)
    found: dict[float, tuple[datetime, float | None]] = {start.at_s: (clock, None)}
    try:
        for value in _listed(master, "RRULE"):
            rule = dates.read_rule(value.to_ical().decode(), zone)
            for on_clock, at in dates.expand(rule, clock, zone, from_s, until_s):
                found[at] = (on_clock, None)
                _check_many(len(found))
    except BadWord as e:
        raise _bad(f"{_who(master)}: {e}") from e
    for values in _listed(master, "RDATE"):
        for value in values.dts:
            begin, end = _added(value.dt, values, series)
            found[begin] = (dates.shown(begin, zone), end)
    moments, days = _exceptions(series)
    return {
        at: (on_clock, end)
        for at, (on_clock, end) in found.items()
        if from_s <= at < until_s and at not in moments and on_clock.date() not in days
    }


def _added(value: Any, prop: Any, series: _Series) -> tuple[float, float | None]:
    if not isinstance(value, tuple):
        return _moment(value, prop, series.master, series.zone).at_s, None
    begin = _moment(value[0], prop, series.master, series.zone)
    if isinstance(value[1], timedelta):
        end_s = begin.at_s + value[1].total_seconds()
    else:
        end_s = _moment(value[1], prop, series.master, series.zone).at_s
    _check_length(series.master, begin, end_s - begin.at_s)
    return begin.at_s, end_s


def _exceptions(series: _Series) -> tuple[set[float], set[date]]:
    moments, days = set(), set()
    for values in _listed(series.master, "EXDATE"):
        for value in values.dts:
            but = _moment(value.dt, values, series.master, series.zone)
            moments.add(but.at_s)
            # Outlook writes the day alone, also where the series has a time
            if but.whole_day:
                days.add(but.clock.date())
    return moments, days


def _length(component: Any, start: _Moment, zone: tzinfo) -> tuple[int, float]:
    """How long it is: days on the calendar, then seconds that pass."""
    days, seconds = 0, 0.0
    end, duration = component.get("DTEND"), component.get("DURATION")
    if end is not None:
        until = _moment(end.dt, end, component, zone)
        if start.whole_day and until.whole_day:
            days = (until.clock - start.clock).days
        else:
            seconds = until.at_s - start.at_s
    elif duration is not None:
        if not isinstance(duration.dt, timedelta):
            raise _bad(f"{_who(component)}: its DURATION is none, such as PT90M.")
        days, seconds = duration.dt.days, float(duration.dt.seconds)
    elif start.whole_day:
        days = 1
    else:
        raise _bad(
            f"{_who(component)}, {start.clock:%Y-%m-%d %H:%M}, has no end (DTEND or "
            "DURATION): how long it is to be reserved is not known."
        )
    _check_length(component, start, days * 86400 + seconds)
    return days, seconds


def _check_length(component: Any, start: _Moment, seconds: float) -> None:
    if seconds <= 0:
        raise _bad(
            f"{_who(component)}, {start.clock:%Y-%m-%d %H:%M}, does not end after it "
            "begins: correct its DTEND or DURATION."
        )


def _end(
    clock: datetime, at_s: float, zone: tzinfo, length: tuple[int, float]
) -> float:
    days, seconds = length
    return (dates.instant(clock + days * _DAY, zone) if days else at_s) + seconds


def _moment(value: Any, prop: Any, component: Any, zone: tzinfo) -> _Moment:
    """Read a date or time of the file.

    Args:
        value: what icalendar made of it.
        prop: where it stands: it has the name of its zone.
        component: the event, for messages.
        zone: of days, and of times that name no zone.
    """
    if not isinstance(value, date):
        raise _bad(f"{_who(component)} has {value}, which is no date, for one.")
    if not YEAR_MIN <= value.year < dates.YEAR_MAX:
        raise _bad(f"{_who(component)}: the year {value.year} is a mistake.")
    if not isinstance(value, datetime):
        clock = datetime.combine(value, time())
        return _Moment(clock, zone, True, dates.instant(clock, zone))
    name = str(prop.params.get("TZID", ""))
    clock = value.replace(tzinfo=None)
    if value.utcoffset() == timedelta() and not name:
        zone = UTC
    elif name:
        # The database knows a zone better than a copy of its rules in the file does
        known = dates.zone_named(name) or value.tzinfo or _zone_at_the_end_of(name)
        if known is None:
            raise _bad(
                f"{_who(component)}: the time zone {text.clean(name)!r} is known "
                "neither here nor to the file (VTIMEZONE)."
            )
        zone = known
    return _Moment(clock, zone, False, dates.instant(clock, zone))


def _zone_at_the_end_of(name: str) -> tzinfo | None:
    # `/citadel.org/20210210_1/Europe/Berlin`: RFC 5545, 3.2.19
    parts = name.split("/")
    found = (dates.zone_named("/".join(parts[n:])) for n in range(len(parts)))
    return next(filter(None, found), None)
