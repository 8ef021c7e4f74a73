"""What the printing asks of the system: the terminal, the names of users, dates."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from holdingpen.ctl.render import View
from holdingpen.ctl.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo
    from types import FrameType

#: Alternate screen and no cursor; cursor and the screen as it was.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
#: To the top left corner; clear to the end of the line; clear to the end.
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"

_NO_DATE = "on a date that cannot be"


def view(colour: str = "auto") -> View:
    """For whom standard output prints: `colour` is auto, always or never."""
    return View(
        _width(),
        _colourful(colour),
        user_name,
        date,
        time_words,
        times_words,
        group_name,
    )


def _width() -> int | None:
    # As ps(1) does: COLUMNS first, and into a pipe nothing is cut.
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isascii() and wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    if not sys.stdout.isatty():
        return None
    return os.get_terminal_size(sys.stdout.fileno()).columns or 80


def _colourful(colour: str) -> bool:
    if colour != "auto":
        return colour == "always"
    # NO_COLOR: https://no-color.org, any value but the empty one
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and sys.stdout.isatty()


@cache
def user_name(uid: int) -> str:
    """The name of a user; his number where he has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


@cache
def group_name(gid: int) -> str:
    """The name of a group; its number where it has none."""
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return str(gid)


def now_s() -> float:
    """Seconds since 1970."""
    return time.time()


def zone() -> tzinfo:
    """The time zone in which people here write and read times."""
    from holdingpen.ctl import dates

    return dates.local_zone()


def time_words(seconds: float, now: float) -> str:
    """A time in the fewest words that are clear now: `16:00`, `Mon 09:00`."""
    from holdingpen.ctl import dates

    try:
        return dates.format_time(seconds, now, zone())
    except (OverflowError, ValueError, OSError):
        return _NO_DATE


def begin_words(seconds: float, now: float) -> str:
    """The same of a time from which something is free: never a time before it."""
    from holdingpen.ctl import dates

    try:
        return dates.format_time(seconds, now, zone(), no_sooner=True)
    except (OverflowError, ValueError, OSError):
        return _NO_DATE


def times_words(start: float, end: float, now: float) -> str:
    """The same of a begin and an end: `Mon 09:00-11:00`."""
    from holdingpen.ctl import dates

    try:
        return dates.format_span(start, end, now, zone())
    except (OverflowError, ValueError, OSError):
        return _NO_DATE


def date(seconds: float) -> str:
    """Seconds since 1970 as local date and time: `2026-11-20 10:42:10`."""
    try:
        # to the nearest, as times in few words are: both stand on one page
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(round(seconds)))
    except (OverflowError, ValueError, OSError):
        return _NO_DATE


def say(lines: list[str]) -> None:
    """Print lines and see to it that they are out."""
    print("\n".join(lines), flush=True)


def complain(problem: Exception | str) -> None:
    """Print what went wrong to standard error, with the command's name before it."""
    for line in str(problem).splitlines() or [""]:
        print(f"holdingpenctl: {clean(line)}", file=sys.stderr)


@contextmanager
def full_screen() -> Iterator[None]:
    """Have the terminal to oneself, and give it back as it was, even on SIGTERM."""
    before = signal.signal(signal.SIGTERM, _leave)
    print(_ENTER, end="", flush=True)
    try:
        yield
    finally:
        print(_LEAVE, end="", flush=True)
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def repaint(lines: list[str]) -> None:
    """Show lines in place of those before; what does not fit is counted."""
    height = os.get_terminal_size(sys.stdout.fileno()).lines or 24
    print(picture(lines, height), end="", flush=True)


def picture(lines: list[str], height: int) -> str:
    """The characters that put `lines` on a screen of `height` lines."""
    if len(lines) > height:
        hidden = len(lines) - height + 1
        lines = [*lines[: height - 1], f"... and {hidden} more lines"]
    return _HOME + "\r\n".join(f"{a}{_CLEAR_LINE}" for a in lines) + _CLEAR_REST
