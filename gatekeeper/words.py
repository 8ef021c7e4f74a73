"""What is said to people: one line on stderr.  Imported by whoever has to say it."""

from __future__ import annotations

import posix
import sys

_STDERR = 2
#: Dates beyond this (the year 5138) are somebody's mistake.
_DATE_MAX_S = 1e11
#: What is nearer is said to the second, as holdingpenctl does.
_NEAR_S = 600

#: Why a lease is over, in the daemon's stable words and in people's.
_ENDS = {
    "ordered": "its owner or an operator ordered it",
    "reservation-over": "its reservation is over",
    "reclaimed": "it was asked back and not given back in time",
    "expired": "its time was over",
    "idle": "nothing used it",
    "logged-out": "you logged out at the machine",
}


def say(text: str) -> None:
    """Write one line to stderr, with our name before it.

    A stderr that is closed or full is not our business: CMD counts, not the notice.
    """
    put(f"gatekeeper: {clean(text)}\n")


def put(text: str) -> None:
    """Write `text` to stderr as it is, unbuffered: we may exec or die right after."""
    encoded = text.encode(sys.getfilesystemencoding(), "backslashreplace")
    try:
        posix.write(_STDERR, encoded)
    except OSError:
        return


def clean(text: str) -> str:
    """Replace what is not printable, so that no label can drive the terminal."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def why_ended(word: str) -> str:
    """Why a lease is over, for people; a word of later daemons stands for itself."""
    return _ENDS.get(word, word)


def date(seconds: object) -> float | None:
    """A date of a message; None when there is none, or none that can be meant."""
    if isinstance(seconds, (int, float)) and 0 <= seconds < _DATE_MAX_S:
        return float(seconds)
    return None


def moment(at: float) -> str:
    """A time to come on the wall clock here, in the words of holdingpenctl or more.

    Args:
        at: seconds since 1970.  It is rounded up to the minute, so that whoever comes
            at the time shown does not come too early; a fraction of a second is not
            worth a minute.  What is near is said to the second.

    Returns:
        `16:00` today, `tomorrow 09:00`, `Mon 09:00` within a week, else
        `Mon 2026-11-30 09:00`.
    """
    from time import localtime, mktime, strftime, struct_time, time

    def noon_s(day: struct_time) -> float:
        return mktime((day.tm_year, day.tm_mon, day.tm_mday, 12, 0, 0, 0, 0, -1))

    now_s = time()
    clock, step_s = ("%H:%M:%S", 1) if at - now_s < _NEAR_S else ("%H:%M", 60)
    then = localtime(-(-int(at) // step_s) * step_s)
    # from noon to noon: a day may have 23 hours
    days = round((noon_s(then) - noon_s(localtime(now_s))) / 86400)
    if days == 0:
        return strftime(clock, then)
    if days == 1:
        return strftime(f"tomorrow {clock}", then)
    return strftime(f"{'%a' if 1 < days < 7 else '%a %Y-%m-%d'} {clock}", then)
