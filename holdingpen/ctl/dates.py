"""Dates: what people write and read for a moment, and the rules by which it repeats.

The daemon knows seconds since 1970 and no time zone.  Words, zones and rules end
here, on the client's side:

    'mon 9:00', on the Friday before, Europe/Berlin   -> 1795420800.0
    1795420800.0, weekly                              -> each Monday at 9, all year

Two local times are not like the others.  In spring an hour of the night is skipped:
whoever writes such a time is told, and a series moves that one time forward by what
is skipped (RFC 5545, 3.3.5).  In autumn an hour comes twice: the first is meant.

Nothing here reads a clock; only `local_zone` asks the machine.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from msgspec import Struct

from holdingpen.durations import parse_duration
from holdingpen.errors import BadWord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: How many times `occurrences` gives at most: as many as one request may reserve.
OCCURRENCES_MAX = 500

#: How often a rule may repeat within a day: once an hour.  A file from elsewhere
#: could ask for 86400 times a day since 1970.
TIMES_A_DAY_MAX = 24

#: Dates lie before this year; what lies beyond is a slip of the pen.
YEAR_MAX = 2200
TIME_MAX_S = datetime(YEAR_MAX, 1, 1, tzinfo=UTC).timestamp()

#: What is nearer or shorter is told to the second: `15:16-15:16` tells nobody anything.
SECONDS_UNDER_S = 600

_DAY = timedelta(days=1)
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_STAMP = "%Y-%m-%d %H:%M"

_TIMES = (
    "write 16:00, 9am, tomorrow 9:00, mon 9:00, 2026-11-23 09:00, +2h, now or "
    "@SECONDS since 1970"
)
_RULES = (
    "write daily, weekdays, weekly, monthly or an RRULE such as "
    "FREQ=WEEKLY;BYDAY=MO,WE;COUNT=10"
)

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_ISO = re.compile(rf"^({_DATE.pattern})t(?=\d)", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d)(?::(\d\d))?)?(am|pm)?", re.ASCII)
_ABROAD = re.compile(r"(.*(?::\d\d|am|pm)) ?(?:z|utc|([+-])(\d\d):?(\d\d))", re.ASCII)
_SECONDS = re.compile(r"\d{1,12}(\.\d{1,6})?", re.ASCII)
_UNTIL = re.compile(r"(\d{8})(?:T(\d{6})(Z?))?", re.ASCII)
_BYDAY = re.compile(r"([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU)", re.ASCII)
_NUMBER = re.compile(r"[+-]?\d{1,4}", re.ASCII)

_TOO_OFTEN = ("SECONDLY", "MINUTELY", "HOURLY")
_WORDS = {
    "daily": "FREQ=DAILY",
    "weekdays": "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR",
    "weekly": "FREQ=WEEKLY",
    "monthly": "FREQ=MONTHLY",
}

#: The parts of a rule that are numbers, each with its least and its most (RFC 5545,
#: 3.3.10, but BYSECOND=60).  Where the least is below 0, 0 is none.
_NUMBERS = {
    "INTERVAL": (1, 9999),
    "COUNT": (1, 9999),
    "BYMONTH": (1, 12),
    "BYWEEKNO": (-53, 53),
    "BYYEARDAY": (-366, 366),
    "BYMONTHDAY": (-31, 31),
    "BYHOUR": (0, 23),
    "BYMINUTE": (0, 59),
    "BYSECOND": (0, 59),
    "BYSETPOS": (-366, 366),
}


class MachineZone(tzinfo):
    """The zone this process runs in, asked of the C library each time.

    For a $TZ that has no name in the database, such as `CET-1CEST,M3.5.0,M10.5.0/3`.
    """

    def fromutc(self, at: datetime) -> datetime:
        """What clocks here show at a moment."""
        here = datetime.fromtimestamp(at.replace(tzinfo=UTC).timestamp())
        return here.replace(tzinfo=self)

    def utcoffset(self, at: datetime | None) -> timedelta | None:
        """How far clocks here are ahead of UTC."""
        if at is None:
            return None
        here = at.replace(tzinfo=None)
        return here - datetime.fromtimestamp(here.timestamp(), UTC).replace(tzinfo=None)

    def dst(self, at: datetime | None) -> timedelta | None:
        """Not known, and never asked for."""
        return None

    def tzname(self, at: datetime | None) -> str:
        """What stands for it in messages."""
        return "local time"


def zone_named(key: str) -> ZoneInfo | None:
    """Find a zone in the database; None where it has none of this name."""
    try:
        return ZoneInfo(key)
    except (KeyError, ValueError, OSError):
        # OSError: `Europe` is a directory there
        return None


def local_zone(
    environ: Mapping[str, str] = os.environ, localtime: Path = Path("/etc/localtime")
) -> tzinfo:
    """Find the zone of this process as localtime(3) does: $TZ, then /etc/localtime.

    Returns:
        A zone with its rules, so that dates on the other side of a change of clocks
        come out right.
    """
    name = environ.get("TZ")
    if name is None:
        return _zone_in(localtime)
    name = name.removeprefix(":")
    if name.startswith("/"):
        return _zone_in(Path(name))
    if not name:
        return UTC
    return zone_named(name) or MachineZone()


def _zone_in(file: Path) -> tzinfo:
    # Usually a link into the database, which has the name; containers have copies.
    _, found, key = str(file.resolve()).partition("/zoneinfo/")
    named = zone_named(key.removeprefix("posix/")) if found else None
    if named is not None:
        return named
    try:
        with file.open("rb") as rules:
            return ZoneInfo.from_file(rules)
    except FileNotFoundError:
        return UTC
    except (ValueError, OSError):
        return MachineZone()


def instant(clock: datetime, zone: tzinfo) -> float:
    """Find when clocks in `zone` show a date and time.

    It goes only by what clocks show at a moment, not by `fold`, which the zones of
    pytz and dateutil do not know.

    Args:
        clock: a date and time without a zone.
        zone: any tzinfo.

    Returns:
        Seconds since 1970.  Of a time that comes twice the first; a time that is
        skipped is moved forward by what is skipped (RFC 5545, 3.3.5).
    """
    before, after = _offsets(clock, zone)
    for offset in sorted((before, after), reverse=True):
        at = clock.replace(tzinfo=UTC) - offset
        if at.astimezone(zone).replace(tzinfo=None) == clock:
            return at.timestamp()
    return (clock.replace(tzinfo=UTC) - before).timestamp()


def _offsets(clock: datetime, zone: tzinfo) -> tuple[timedelta, timedelta]:
    utc = clock.replace(tzinfo=UTC)
    return _offset(utc - _DAY, zone), _offset(utc + _DAY, zone)


def _offset(at: datetime, zone: tzinfo) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta()


def shown(time_s: float, zone: tzinfo) -> datetime:
    """What clocks in `zone` show at a moment: a date and time without a zone."""
    return datetime.fromtimestamp(time_s, zone).replace(tzinfo=None)


def parse_time(text: str, now_s: float, zone: tzinfo) -> float:
    """Read a moment as people write it.

    Args:
        text: a time of day (`16:00`, `9am`, `noon`): the next one; `today`,
            `tomorrow`, a day of the week (the next one) or a date, each with or
            without a time of day, and without one it is where that day begins;
            `2026-11-23T09:00+01:00` and `... UTC`; `+2h` or `in 2h`, in hours that
            pass, whatever clocks do; `now`; `@1790000000`.
        now_s: seconds since 1970.
        zone: where the words are written.

    Returns:
        Seconds since 1970; the past too, where a date or `today` says so.

    Raises:
        BadWord: when it is none of these, or a time that clocks there skip.
    """
    return _read(text, now_s, zone, last=False)


def parse_until(text: str, now_s: float, zone: tzinfo) -> float:
    """Read a last moment: like `parse_time`, but a bare day means its last second.

    Raises:
        BadWord: as for `parse_time`.
    """
    return _read(text, now_s, zone, last=True)


def _read(text: str, now_s: float, zone: tzinfo, last: bool) -> float:
    words = " ".join(text.lower().split())
    if words == "now":
        return now_s
    if words.startswith("@"):
        seconds = float(words[1:]) if _SECONDS.fullmatch(words[1:]) else TIME_MAX_S
        if seconds >= TIME_MAX_S:
            raise BadWord(f"time {text!r} is not understood: {_TIMES}.")
        return seconds
    for ahead in ("+", "in "):
        if words.startswith(ahead):
            return now_s + parse_duration(words[len(ahead) :])
    if abroad := _ABROAD.fullmatch(words):
        words, zone = abroad[1], _fixed(text, abroad)
    days, clock = _day_and_clock(text, words, shown(now_s, zone).date())
    begins = [datetime.combine(day, clock or time()) for day in days]
    if clock is None and last:
        return _first([instant(begin + _DAY, zone) - 1 for begin in begins], now_s)
    at = _first([instant(begin, zone) for begin in begins], now_s)
    if clock is not None and shown(at, zone) not in begins:
        gone = next(begin for begin in begins if instant(begin, zone) == at)
        raise _skipped(text, gone, zone)
    return at


def _first(moments: list[float], now_s: float) -> float:
    return next((at for at in moments if at >= now_s), moments[-1])


def _fixed(text: str, abroad: re.Match[str]) -> tzinfo:
    if abroad[2] is None:
        return UTC
    ahead = timedelta(hours=int(abroad[3]), minutes=int(abroad[4]))
    if ahead >= _DAY or int(abroad[4]) > 59:
        raise BadWord(f"time {text!r} has an offset that no zone has: {_TIMES}.")
    return timezone(ahead if abroad[2] == "+" else -ahead)


def _day_and_clock(
    text: str, words: str, today: date
) -> tuple[list[date], time | None]:
    words = _ISO.sub(r"\1 ", words)
    each = words.replace(" am", "am").replace(" pm", "pm").split()
    days: list[date] | None = None
    clock: time | None = None
    for word in each:
        read = _clock(text, word)
        if read is not None and clock is None:
            clock = read
        elif read is None and days is None:
            days = _days(text, word, today)
        else:
            raise BadWord(f"time {text!r} is not understood: {_TIMES}.")
    if not each:
        raise BadWord(f"a time is missing: {_TIMES}.")
    return days or [today, today + _DAY], clock


def _clock(text: str, word: str) -> time | None:
    if word in ("noon", "midnight"):
        return time(12 if word == "noon" else 0)
    found = _CLOCK.fullmatch(word)
    if found is None:
        return None
    hour, half = int(found[1]), found[4]
    if half is None and found[2] is None:
        raise BadWord(f"time {text!r}: is {word} an hour? Write 9:00 or 9am.")
    if half is not None:
        hour = hour % 12 + (12 if half == "pm" else 0) if 1 <= hour <= 12 else 24
    try:
        return time(hour, int(found[2] or 0), int(found[3] or 0))
    except ValueError:
        raise BadWord(f"time {text!r} is on no clock: {_TIMES}.") from None


def _days(text: str, word: str, today: date) -> list[date]:
    if word in ("today", "tomorrow"):
        return [today if word == "today" else today + _DAY]
    for number, name in enumerate(_DAYS):
        if len(word) >= 3 and name.startswith(word):
            ahead = today + (number - today.weekday()) % 7 * _DAY
            return [ahead, ahead + 7 * _DAY]
    if not _DATE.fullmatch(word):
        raise BadWord(f"time {text!r} is not understood: {_TIMES}.")
    try:
        day = date.fromisoformat(word)
    except ValueError:
        raise BadWord(f"time {text!r}: there is no {word}: {_TIMES}.") from None
    if not 1970 < day.year < YEAR_MAX:
        raise BadWord(f"time {text!r} is not from 1971 to {YEAR_MAX - 1}: {_TIMES}.")
    return [day]


def _skipped(text: str, clock: datetime, zone: tzinfo) -> BadWord:
    before, after = _offsets(clock, zone)
    utc = clock.replace(tzinfo=UTC)
    low, high = int((utc - after).timestamp()), int((utc - before).timestamp())
    change = low + bisect_left(
        range(low, high),
        True,
        key=lambda s: _offset(datetime.fromtimestamp(s, UTC), zone) == after,
    )
    at = datetime.fromtimestamp(change, UTC)
    last, next_ = at + before, at + after
    return BadWord(
        f"time {text!r} does not exist: clocks in {_name(zone)} go from "
        f"{last:{_STAMP}} straight to {next_:{_STAMP}}. "
        f"Write {last - timedelta(minutes=1):{_STAMP}} or {next_:{_STAMP}}."
    )


def _name(zone: tzinfo) -> str:
    return getattr(zone, "key", None) or "this time zone"


class Occurrences(Struct, frozen=True):
    """When something that repeats begins."""

    #: Seconds since 1970, the first first; one at least.
    starts: list[float]
    #: Whether these are all; False: the rule has no end, this is a year of it.
    complete: bool


class Rule(Struct, frozen=True):
    """A rule as RFC 5545 has it, known to be bounded and to make sense."""

    #: As it was written, for messages.
    text: str
    #: As dateutil reads it; without UNTIL.
    plain: str
    #: The last moment at which it may begin; None: not said.
    until_s: float | None
    #: How many times; None: not said.
    count: int | None


def occurrences(
    start_s: float, every: str, until_s: float | None, zone: tzinfo
) -> Occurrences:
    """Find when something that repeats begins.

    It keeps its place on the clock through changes of clocks.  A day that a month or
    year lacks (the 31st, 29 February) is left out, as RFC 5545 says.

    Args:
        start_s: seconds since 1970; the first, if the rule agrees: `weekdays` from a
            Saturday on begins on Monday.
        every: `daily`, `weekdays`, `weekly`, `monthly` or an RRULE.  An UNTIL without
            a time of day takes in that day.
        until_s: it may still begin at this moment; None: until the rule ends, or for
            a year where it does not.
        zone: whose clocks count.

    Raises:
        BadWord: when the rule is none, repeats more often than hourly, gives nothing
            or more than OCCURRENCES_MAX.
    """
    rule = read_rule(every, zone)
    clock = shown(floor(start_s), zone)
    endless = until_s is None and rule.until_s is None and rule.count is None
    if endless:
        until_s = instant(_year_after(clock), zone) - 1
    end_s = min(e for e in (until_s, rule.until_s, TIME_MAX_S) if e is not None)
    starts: set[float] = set()
    # The start may be the second of two times alike: its clock means the first
    for on_clock, at in expand(
        rule, clock, zone, min(start_s, instant(clock, zone)), end_s
    ):
        begin = start_s if on_clock == clock else at
        if begin >= start_s:
            starts.add(begin)
        if len(starts) > OCCURRENCES_MAX:
            raise BadWord(
                f"rule {every!r} gives more than {OCCURRENCES_MAX} times: end it with "
                "--until TIME or COUNT=, or let it repeat less often."
            )
    if not starts:
        raise BadWord(
            f"rule {every!r} gives no time from {clock:{_STAMP}} to "
            f"{shown(end_s, zone):{_STAMP}}: write a later end or "
            "another rule."
        )
    return Occurrences(sorted(starts), complete=not endless)


def _year_after(clock: datetime) -> datetime:
    try:
        return clock.replace(year=clock.year + 1)
    except ValueError:
        return clock.replace(year=clock.year + 1, month=3, day=1)


def expand(
    rule: Rule, clock: datetime, zone: tzinfo, from_s: float, until_s: float
) -> Iterator[tuple[datetime, float]]:
    """Go through the times that a rule gives.

    Args:
        rule: from `read_rule`.
        clock: what clocks in `zone` show when it starts.
        zone: whose clocks count.
        from_s: seconds since 1970; what begins earlier is left out.
        until_s: the last moment at which it may begin, if the rule has no earlier.

    Yields:
        What clocks show, and seconds since 1970.  The order is that of the clock:
        where clocks change, it is not always that of time.

    Raises:
        BadWord: when the parts of the rule do not go together.
    """
    from dateutil.rrule import rrulestr

    if rule.until_s is not None:
        until_s = min(until_s, rule.until_s)
    early, late = shown(from_s, zone) - _DAY, shown(until_s, zone) + _DAY
    try:
        # The rule is asked without a zone: dateutil does not know what is skipped
        for on_clock in rrulestr(rule.plain, dtstart=clock):
            if on_clock > late:
                return
            if on_clock < early:
                continue
            at = instant(on_clock, zone)
            if from_s <= at <= until_s:
                yield on_clock, at
    except (ValueError, IndexError, TypeError) as e:
        raise BadWord(f"rule {rule.text!r} makes no sense: {e}.") from e


def read_rule(text: str, zone: tzinfo) -> Rule:
    """Read a rule: a word or an RRULE, with or without `RRULE:` before it.

    Args:
        text: what was written.
        zone: in which an UNTIL without Z is meant.

    Raises:
        BadWord: when it is none, or repeats more often than hourly.
    """
    word = text.strip()
    plain = _WORDS.get(word.lower(), word).upper().removeprefix("RRULE:").rstrip(";")
    parts: dict[str, str] = {}
    for part in plain.split(";"):
        name, _, value = part.partition("=")
        if not value or name in parts:
            raise BadWord(f"rule {text!r} is not understood: {_RULES}.")
        parts[name] = value
    many = 1
    for name, value in parts.items():
        if not _makes_sense(name, value):
            raise BadWord(f"rule {text!r}: {name}={value} is wrong: {_RULES}.")
        if name in ("BYHOUR", "BYMINUTE", "BYSECOND"):
            many *= len(set(value.split(",")))
    if (
        parts.get("FREQ") in ("SECONDLY", "MINUTELY", "HOURLY")
        or many > TIMES_A_DAY_MAX
    ):
        raise BadWord(
            f"rule {text!r} repeats too often: at most {TIMES_A_DAY_MAX} times a day, "
            "with FREQ=DAILY, WEEKLY, MONTHLY or YEARLY."
        )
    if "FREQ" not in parts:
        raise BadWord(f"rule {text!r} lacks FREQ: {_RULES}.")
    if "COUNT" in parts and "UNTIL" in parts:
        raise BadWord(f"rule {text!r} has COUNT and UNTIL: write one of them.")
    if parts["FREQ"] in ("DAILY", "WEEKLY") and re.search(
        r"\d", parts.get("BYDAY", "")
    ):
        raise BadWord(f"rule {text!r} counts days of the week: that is for months.")
    until = parts.pop("UNTIL", None)
    return Rule(
        text,
        ";".join(f"{name}={value}" for name, value in parts.items()),
        None if until is None else _until(text, until, zone),
        int(parts["COUNT"]) if "COUNT" in parts else None,
    )


def _makes_sense(name: str, value: str) -> bool:
    match name:
        case "FREQ":
            return value in (*_TOO_OFTEN, "DAILY", "WEEKLY", "MONTHLY", "YEARLY")
        case "UNTIL":
            return _UNTIL.fullmatch(value) is not None
        case "WKST":
            return value in ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
        case "BYDAY":
            days = [_BYDAY.fullmatch(day) for day in value.split(",")]
            return all(d and (d[1] is None or 1 <= abs(int(d[1])) <= 53) for d in days)
    least, most = _NUMBERS.get(name, (1, 0))
    words = value.split(",") if name.startswith("BY") else [value]
    return all(
        _NUMBER.fullmatch(n) and least <= int(n) <= most and (int(n) or least == 0)
        for n in words
    )


def _until(text: str, until: str, zone: tzinfo) -> float:
    found = _UNTIL.fullmatch(until)
    assert found is not None
    day, clock, utc = found.groups()
    try:
        at = datetime.strptime(day + (clock or "000000"), "%Y%m%d%H%M%S")
        if clock is None:
            return instant(at + _DAY, zone) - 1
        return instant(at, UTC if utc else zone)
    except (ValueError, OverflowError):
        raise BadWord(f"rule {text!r}: UNTIL={until} is no date: {_RULES}.") from None


def format_time(
    time_s: float, now_s: float, zone: tzinfo, no_sooner: bool = False
) -> str:
    """Print a moment in the fewest words that are clear now.

    Args:
        time_s: seconds since 1970.  It is told to the nearest minute, as the daemon
            tells it (daemon/flag.py); where it is near, to the second.
        now_s: the present, in seconds since 1970.
        zone: whose clocks count.
        no_sooner: round up; for what begins then, so that nobody comes too early.

    Returns:
        `16:00` today, `tomorrow 09:00`, `Mon 09:00` within a week, else
        `2026-11-23 09:00`.  From now on, `parse_time` reads the same from it.

    Raises:
        OverflowError, ValueError, OSError: when no calendar has it.
    """
    step_s = _step_s(time_s - now_s)
    whole_s = ceil(time_s / step_s) * step_s if no_sooner else _nearest(time_s, step_s)
    return _words(whole_s, now_s, zone, step_s)


def format_span(start_s: float, end_s: float, now_s: float, zone: tzinfo) -> str:
    """Print a begin and an end: `Mon 09:00-11:00`, `16:00 to tomorrow 09:00`.

    Both are told to the nearest minute; of a short span, to the second.

    Raises:
        OverflowError, ValueError, OSError: when no calendar has them.
    """
    step_s = _step_s(end_s - start_s)
    start, end = _nearest(start_s, step_s), _nearest(end_s, step_s)
    begins = _words(start, now_s, zone, step_s)
    at = shown(end, zone)
    if shown(start, zone).date() == at.date():
        return f"{begins}-{_clock_words(at, step_s)}"
    return f"{begins} to {_words(end, now_s, zone, step_s)}"


def _words(whole_s: int, now_s: float, zone: tzinfo, step_s: int) -> str:
    at = shown(whole_s, zone)
    clock = _clock_words(at, step_s)
    days = (at.date() - shown(now_s, zone).date()).days
    match days:
        case 0:
            return clock
        case 1:
            return f"tomorrow {clock}"
        case _ if 1 < days < 7:
            return f"{_DAYS[at.weekday()][:3].title()} {clock}"
    return f"{at:%Y-%m-%d} {clock}"


def _clock_words(at: datetime, step_s: int) -> str:
    return f"{at:%H:%M:%S}" if step_s == 1 else f"{at:%H:%M}"


def _step_s(span_s: float) -> int:
    return 1 if abs(span_s) < SECONDS_UNDER_S else 60


def _nearest(time_s: float, step_s: int) -> int:
    return round(time_s / step_s) * step_s
