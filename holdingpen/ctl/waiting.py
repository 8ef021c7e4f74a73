"""What one sees on standard error while a reservation waits in the line.

A line that is painted over on a terminal; a line for each change elsewhere.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from holdingpen.ctl import terminal
from holdingpen.ctl.render import span, until
from holdingpen.ctl.text import clean, cut

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from holdingpen.wire import messages as wire

#: The live line is painted anew, so that time is seen to pass.
_TICK_S = 1.0
#: To the first column, and erase to the end of the line (ECMA-48 EL).
_CLEAR = "\r\x1b[K"


class Vigil:
    """Shows one place in the line, from the first `tell` to the end of its block."""

    def __init__(self) -> None:
        self._since_s = terminal.now_s()
        #: What the daemon said last; None: nothing yet.
        self._news: wire.Waiting | None = None
        #: What was printed last where there is no live line: place and reason.
        self._told: tuple[int, str] | None = None
        #: The action for SIGALRM before ours; None: it is still that.
        self._before: object = None
        dumb = os.environ.get("TERM", "dumb") in ("", "dumb")
        self._live = sys.stderr.isatty() and not dumb

    def __enter__(self) -> Vigil:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)  # type: ignore[arg-type]
            self._before = None
            _put(_CLEAR)

    def tell(self, news: wire.Waiting) -> None:
        """Show what the daemon says of the line."""
        self._news = news
        if not self._live:
            if self._told != (news.place, news.reason):
                self._told = (news.place, news.reason)
                terminal.complain(self.line())
            return
        if self._before is None:
            # the client waits in recv(2), which a signal interrupts and Python resumes
            self._before = signal.signal(signal.SIGALRM, self._tick)
            signal.setitimer(signal.ITIMER_REAL, _TICK_S, _TICK_S)
        self._paint()

    def line(self, waited: str = "") -> str:
        """What there is to say now; the reason comes last, for it may be cut."""
        news, now = self._news, terminal.now_s()
        assert news is not None  # it was told
        expected = "time unknown"
        if news.expected is not None:
            left = until(now, news.expected, "")
            expected = "any moment" if left == "overdue" else f"expected {left}"
        reason = clean(news.reason).rstrip(". ")
        return f"number {news.place} in the line, {expected}{waited}: {reason}"

    def _tick(self, number: int, frame: FrameType | None) -> None:
        self._paint()

    def _paint(self) -> None:
        if not _in_foreground():
            return
        line = self.line(f", waited {span(self._since_s, terminal.now_s())}")
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        _put(_CLEAR + cut(line, width - 1))


def _in_foreground() -> bool:
    # 'holdingpenctl reserve ... &' must not write into the shell's prompt each second
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except OSError:
        return True


def _put(text: str) -> None:
    # past the buffer of sys.stderr: a signal may come while that is written to
    os.write(sys.stderr.fileno(), text.encode("utf-8", "replace"))
