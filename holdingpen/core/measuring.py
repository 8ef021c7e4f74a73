"""When to measure: often while something settles, seldom while all is quiet.

This is no state: replay does not find it again, and nothing is decided by it.
"""

from __future__ import annotations

from math import inf
from typing import Final

from holdingpen.core.effects import Measure

#: Measure this often while all is quiet, and so soon while something settles.
EVERY_S: Final = 2.0
FIRST_S: Final = 0.005
SETTLING_MAX_S: Final = 0.25


class Measuring:
    """Remembers when each resource is to be measured next."""

    def __init__(self) -> None:
        #: Resource to boot_s.
        self._due_s: dict[str, float] = {}
        #: Resource to seconds until the measurement after the next.
        self._gap_s: dict[str, float] = {}

    def now(self, name: str, now_s: float, fresh: bool = True) -> Measure:
        """Measure it now."""
        # Should no answer ever come, it is asked again.
        self._due_s[name] = now_s + EVERY_S
        return Measure(name, fresh)

    def soon(self, name: str, now_s: float) -> None:
        """Something of it was given back."""
        self._gap_s[name] = FIRST_S
        self._due_s[name] = now_s + FIRST_S

    def done(self, name: str, now_s: float, settling: int) -> None:
        """It was measured, and so much of it still settles."""
        gap_s = self._gap_s.get(name, EVERY_S) if settling else EVERY_S
        self._due_s[name] = now_s + gap_s
        self._gap_s[name] = min(gap_s * 2, SETTLING_MAX_S)

    def never(self, name: str) -> None:
        """It is measured no more."""
        self._due_s.pop(name, None)

    def due(self, now_s: float) -> list[str]:
        """What is to be measured by now."""
        return [name for name, due_s in self._due_s.items() if now_s >= due_s]

    @property
    def next_s(self) -> float:
        """boot_s when something is due; infinity: never."""
        # asked after every event: min() over an iterator costs twice as much
        next_s = inf
        for due_s in self._due_s.values():
            if due_s < next_s:
                next_s = due_s
        return next_s
