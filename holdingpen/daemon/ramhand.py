"""The hand of `ram`: paced, in steps, as files, or in a control group of the lease's.

The guard.  Ballast is taken only while the machine bears it: after each step
`keep_free_bytes` must still be available, and nobody may wait for memory.  So taking
never pushes anybody into reclaim, let alone the OOM killer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from holdingpen.amounts import format_size
from holdingpen.ballast import BallastLike, Piece
from holdingpen.ballast.ram import UNIT
from holdingpen.core import effects as do
from holdingpen.core.handover import Choice
from holdingpen.daemon.hands import unheard
from holdingpen.daemon.lending import keep_bytes, ram_wishes
from holdingpen.daemon.pacer import STEP, Pacer
from holdingpen.daemon.settings import Settings
from holdingpen.devices import HostLike
from holdingpen.devices.growth import short_bytes

#: Percent of the last 10 s in which somebody waited for memory that forbid taking.
#: An idle machine shows 0.00; one that reclaims in earnest shows more than 1.
PRESSURE_MAX: Final = 1.0


class RamHand:
    """The hand of `ram`."""

    wants_eye = True
    unit = UNIT

    def __init__(
        self, ballast: BallastLike, host: HostLike, settings: Settings
    ) -> None:
        """Take `ballast` in hand; it is closed with the hand."""
        self.ballast = ballast
        #: What must stay available when ballast is taken.
        self.keep_free_bytes = 0
        self._host = host
        #: Called with what broke a thread of this hand.
        self.broken: Callable[[Exception], None] = unheard
        #: Bytes that may lie freed for a paced lease: more where the kernel's figures
        #: fall short, or programs starve.
        self._step_bytes = -(-(STEP + short_bytes()) // UNIT) * UNIT
        self._pacer = Pacer(
            ballast.give,
            host.use_of,
            host.ram_available,
            forget=host.forget,
            broken=lambda why: self.broken(why),
            step=self._step_bytes,
        )
        #: Bytes that were swapped out when last looked at.
        self._swapped = 0
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Obey a configuration that was read again."""
        self.keep_free_bytes = keep_bytes(settings, self._host)

    def total(self) -> int:
        """The machine's memory."""
        return self._host.ram_total()

    def wishes(self, settings: Settings) -> dict[str, Choice]:
        """How each wish of a client is met here."""
        no_group = "it shares no control group with its program"
        return ram_wishes(settings, no_group, self._step_bytes)

    def troubles(self, settings: Settings) -> list[str]:
        """Why the ballast is of no better kind."""
        found = [self.ballast.why] if settings.ram_hold and self.ballast.why else []
        if self._swapped:
            found.append(
                f"{format_size(self._swapped)} of the ballast are swapped out and hold "
                "nothing. Run the daemon as root on Linux 6.4 or later, or with "
                "MemorySwapMax=0 in its unit."
            )
        return found

    def may_take(self, step_bytes: int) -> bool:
        """Whether the machine bears it."""
        left = self._host.ram_available() - step_bytes
        return left >= self.keep_free_bytes and self._host.pressure() < PRESSURE_MAX

    def available(self) -> int:
        """MemAvailable, and what lies in the lists of each CPU."""
        # looked up here, in the hand's thread: it walks all pages
        self._swapped = self.ballast.swapped
        return self._host.ram_available(exact=True)

    def used(self) -> dict[int, int]:
        """Nothing: the eye sees it."""
        return {}

    def prepare(self, what: do.Prepare) -> str:
        """Keep it, and begin to pace where it is paced."""
        self.ballast.keep(what.lease, what.amount)
        if what.how == "paced":
            self._pacer.add(what.lease, what.who.pid, what.amount)
        return ""

    def take_back(self, lease: int, amount: int | None) -> int | None:
        """Stop pacing, and have it back."""
        if amount is None:
            self._pacer.remove(lease)
        return self.ballast.back(lease, amount)

    def lend(self, lease: int, amount: int, uid: int) -> list[Piece]:
        """Pass it, and what is lacking if the machine bears that."""
        return self.ballast.lend(lease, amount, self.may_take, uid)

    @property
    def stolen(self) -> Mapping[int, int]:
        """As the pacer counts it."""
        return {lease: x.stolen for lease, x in self._pacer.progress.items()}

    @property
    def notes(self) -> list[str]:
        """Nothing."""
        return []

    def close(self) -> None:
        """Give everything back."""
        self._pacer.close()
        self.ballast.close()
