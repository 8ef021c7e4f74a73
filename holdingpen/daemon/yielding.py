"""Giving up: with `[ram] policy = "yield"` ballast goes before the OOM killer comes.

Two things say that it is time.  Pressure, as the kernel tells it, while less is
available than is to be kept for the system: then programs wait for memory already.
And the clock: a program that grows fast exhausts a machine without swap or cache before
any pressure can be seen, so what is available is looked at as often as the fastest
program could eat half of it, and at a quarter of what is to be kept it is time as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from holdingpen.daemon.pacer import FASTEST_BYTES_S
from holdingpen.devices.pressure import PressureTrigger

#: Shortest and longest pause between two looks at what is available, in seconds.  A
#: look takes 10 to 25 us; freeing a quarter of 8 GiB of huge pages 5 ms.
PAUSE_MIN_S: Final = 0.02
PAUSE_MAX_S: Final = 1.0
#: Without pressure it is time when so much of what is to be kept is left.
LAST_PART: Final = 0.25


class Yielding:
    """Looks out for the time to give ballast up."""

    def __init__(
        self,
        open_trigger: Callable[[], PressureTrigger],
        available: Callable[[], int],
        press: Callable[[], None],
    ) -> None:
        """Make it; `watch` does the looking.

        Args:
            open_trigger: makes what rings under pressure, which has a thread and
                makes the kernel look: so it is called only when it is wanted.
            available: bytes a program could have now.
            press: called when it is time.
        """
        self._open_trigger = open_trigger
        self._trigger: PressureTrigger | None = None
        self._available = available
        self._press = press
        self._changed = trio.Event()
        #: Bytes that are to be kept for the system; None: nothing is given up.
        self._keep_bytes: int | None = None

    @property
    def why(self) -> str:
        """What cannot be watched, and what to do about that."""
        wanted = self._keep_bytes is not None
        return self._trigger.why if wanted and self._trigger is not None else ""

    def configure(self, keep_bytes: int | None) -> None:
        """Give up from when less than `keep_bytes` are available; None: never."""
        if keep_bytes is not None and self._trigger is None:
            self._trigger = self._open_trigger()
        self._keep_bytes = keep_bytes
        self._changed.set()

    async def watch(self) -> None:
        """Look out, for ever."""
        while True:
            keep_bytes, trigger = self._keep_bytes, self._trigger
            if keep_bytes is None or trigger is None:
                self._changed = trio.Event()
                await self._changed.wait()
                continue
            rang = trigger.clear()
            available = self._available()
            if available < keep_bytes * (1.0 if rang else LAST_PART):
                self._press()
            await self._pause(trigger, available)

    async def _pause(self, trigger: PressureTrigger, available: int) -> None:
        until_s = min(max(available / FASTEST_BYTES_S / 2, PAUSE_MIN_S), PAUSE_MAX_S)
        with trio.move_on_after(until_s):
            await trio.lowlevel.wait_readable(trigger.fileno())
            # it may ring at every window, and what can be given is given by then
            await trio.sleep(PAUSE_MIN_S)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._trigger is not None:
            self._trigger.close()
