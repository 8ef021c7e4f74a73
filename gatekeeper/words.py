"""What is said to people: one line on stderr.  Imported by whoever has to say it."""

from __future__ import annotations

import posix
import sys

_STDERR = 2
#: Dates beyond this (the year 5138) are somebody's mistake.
_DATE_MAX_S = 1e11
#: So long the day of the week says which day is meant.
_WEEKDAY_S = 6 * 86400

#: Why a lease is over, in the daemon's stable words and in people's.
_ENDS = {
    "ordered": "its owner or an operator ordered it",
    "reservation-over": "its reservation is over",
    "reclaimed": "it was asked back and not given back in time",
    "expired": "its time was over",
    "idle": "nothing used it",
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
    """A time to come on the wall clock here: `Mon 09:00`, `Mon 2026-11-30 09:00`.

    Args:
        at: seconds since 1970.  It is rounded up to the minute, so that whoever comes
            at the time shown does not come too early; a fraction of a second is not
            worth a minute.
    """
    from time import localtime, strftime, time

    form = "%a %H:%M" if at - time() < _WEEKDAY_S else "%a %Y-%m-%d %H:%M"
    return strftime(form, localtime(-(-int(at) // 60) * 60))
