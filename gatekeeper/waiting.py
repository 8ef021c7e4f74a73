"""What one sees while waiting: a live line on a terminal, a line per change elsewhere.

Imported when the daemon first says Waiting.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed knows only signal
import posix
from time import monotonic, time

from gatekeeper.conversation import number, text
from gatekeeper.words import clean, date, moment, put, say
from holdingpen.durations import format_duration

_STDERR = 2
_WIDTH_WITHOUT_SIZE = 80
#: From here on a date says more than a duration.
_DATED_S = 86400
#: To the first column, and erase to the end of the line (ECMA-48 EL).
_CLEAR = "\r\x1b[K"
#: Signals that end us while we wait.  Others keep what they did before.
_DEADLY = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)


class View:
    """Shows one place in the line until it is granted or given up."""

    def __init__(self) -> None:
        self._since = monotonic()
        #: What Waiting said last: who and for what, and when (None: unknown).
        self._head = ""
        self._reason = ""
        self._expected_s: float | None = None
        #: Whether something of ours stands in the terminal's last line.
        self._drawn = False
        self._dumb = posix.environ.get(b"TERM", b"dumb") in (b"", b"dumb")
        #: Signals whose default action we put off to clear the line first.
        self._caught: list[int] = []

    def tell(self, waiting: dict[object, object]) -> None:
        """Show what a Waiting says.

        Raises:
            RemoteMistake: when it lacks a place or a reason.
        """
        head = f"{ordinal(number(waiting, 'place'))} in line"
        reason = clean(text(waiting, "reason").rstrip(". "))
        changed = (head, reason) != (self._head, self._reason)
        self._head, self._reason = head, reason
        self._expected_s = date(waiting.get("expected"))
        if self._foreground():
            self.tick()
        elif changed:
            say(f"{head}, {reason}: {self._when()}")

    def tick(self) -> None:
        """Draw the live line anew; where there is none, do nothing."""
        if not self._foreground():
            return
        self._catch()
        room = _width() - 1
        tail = f": {self._when()}, waited {format_duration(monotonic() - self._since)}"
        line = fitted(f"gatekeeper: {self._head}, ", self._reason, tail, room)
        # first, for a signal may come as soon as the line stands there
        self._drawn = True
        put(_CLEAR + line)

    def close(self) -> None:
        """Clear the live line and leave all signals as they were."""
        if self._drawn:
            put(_CLEAR)
            self._drawn = False
        for caught in self._caught:
            _signal.signal(caught, _signal.SIG_DFL)
        self._caught.clear()

    @property
    def live(self) -> bool:
        """Whether `tick` is worth calling each second."""
        return not self._dumb and posix.isatty(_STDERR)

    def _foreground(self) -> bool:
        # `gatekeeper CMD &` must not write into the shell's prompt each second
        if not self.live:
            return False
        try:
            return posix.tcgetpgrp(_STDERR) == posix.getpgrp()
        except OSError:
            return True

    def _when(self) -> str:
        if self._expected_s is None:
            return "time unknown"
        left_s = self._expected_s - time()
        if left_s < 1:
            return "any moment"
        if left_s < _DATED_S:
            return f"about {about(left_s)}"
        return f"about {about(left_s)} ({moment(self._expected_s)})"

    def _catch(self) -> None:
        if self._caught:
            return
        for deadly in _DEADLY:
            if _signal.getsignal(deadly) is _signal.SIG_DFL:
                _signal.signal(deadly, self._die)
                self._caught.append(deadly)

    def _die(self, signum: int, _frame: object) -> None:
        # the end of the process is what leaves the line
        self.close()
        posix.kill(posix.getpid(), signum)


def ordinal(place: int) -> str:
    """1st, 2nd, 3rd, 4th, ... 11th, ... 21st."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{'th' if place % 100 in (11, 12, 13) else ending}"


def about(seconds: float) -> str:
    """A duration no more exact than it deserves: whole minutes from ten on."""
    if seconds >= 600:
        seconds = round(seconds / 60) * 60
    return format_duration(seconds)


def fitted(head: str, middle: str, tail: str, width: int) -> str:
    """Join the three in `width` columns; what is too long is cut, the middle first."""
    if columns(head + middle + tail) <= width:
        return head + middle + tail
    room = width - columns(head + tail) - 3
    if room >= 0:
        return head + _cut(middle, room) + "..." + tail
    return _cut(head + tail, width)


def _cut(words: str, width: int) -> str:
    while columns(words) > width:
        words = words[:-1]
    return words


def columns(words: str) -> int:
    """Columns on a terminal, at most: from Hangul (U+1100) on, letters may take two."""
    return sum(2 if letter >= "\u1100" else 1 for letter in words)


def _width() -> int:
    try:
        width: int = posix.get_terminal_size(_STDERR).columns
    except OSError:
        width = 0
    return width or _WIDTH_WITHOUT_SIZE
