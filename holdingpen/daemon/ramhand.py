"""The hand of `ram`: paced, in steps, as files, or in a control group of the lease's.

The guard.  Ballast is taken only while the machine bears it: after each step
`keep_free_bytes` must still be available, and nobody may wait for memory.  So taking
never pushes anybody into reclaim, let alone the OOM killer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from holdingpen.amounts import format_size
from holdingpen.ballast import BallastLike, Piece
from holdingpen.ballast.lazyholder import WINDOW
from holdingpen.ballast.ram import UNIT
from holdingpen.ballast.samegroup import SameGroup
from holdingpen.core import effects as do
from holdingpen.core.handover import Choice
from holdingpen.daemon.hands import Ready, unheard
from holdingpen.daemon.lending import keep_bytes, ram_wishes
from holdingpen.daemon.pacer import STEP, Pacer
from holdingpen.daemon.settings import Settings
from holdingpen.devices import HostLike
from holdingpen.devices.cgroup import find_groups
from holdingpen.devices.growth import short_bytes
from holdingpen.errors import Refusal, Unavailable

#: Percent of the last 10 s in which somebody waited for memory that forbid taking.
#: An idle machine shows 0.00; one that reclaims in earnest shows more than 1.
PRESSURE_MAX: Final = 1.0


#: How a control group's end reads that was none.
_OVER: Final = {"died": "lost its helper", "stuck": "stood still"}


class Groups:
    """The control groups of leases, or why there are none."""

    def __init__(self, same: SameGroup | None, why_not: str) -> None:
        self.same = same
        self.why_not = why_not
        self._heard: Callable[[int, str], None] = lambda lease, how: None

    def listen(self, heard: Callable[[int, str], None]) -> None:
        """Have `heard` called when a lease's group has nothing more to hand over."""
        self._heard = heard

    def over(self, lease: int, how: str) -> None:
        """For `SameGroup.open`."""
        self._heard(lease, how)


class RamHand:
    """The hand of `ram`."""

    wants_eye = True
    unit = UNIT

    def __init__(
        self,
        ballast: BallastLike,
        host: HostLike,
        settings: Settings,
        groups: Groups | None = None,
    ) -> None:
        """Take `ballast` in hand; it is closed with the hand.

        Args:
            ballast: what is held back.
            host: the machine.
            settings: what the administrator decided.
            groups: the control groups of leases, or why there are none.
        """
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
        self._groups = groups or Groups(None, "A private pen moves no programs.")
        self._groups.listen(self._group_over)
        #: Lease to bytes that a control group of its own was filled with.
        self._filled: dict[int, int] = {}
        #: Lease to why its control group could not hand all of it over.
        self._fallen: dict[int, str] = {}
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
        return ram_wishes(settings, self._groups.why_not, self._step_bytes)

    def troubles(self, settings: Settings) -> list[str]:
        """Why the ballast is of no better kind."""
        found = [self.ballast.why] if settings.ram_hold and self.ballast.why else []
        if self._swapped:
            found.append(
                f"{format_size(self._swapped)} of the ballast are swapped out and hold "
                "nothing. Run the daemon as root on Linux 6.4 or later, or with "
                "MemorySwapMax=0 in its unit."
            )
        found += [
            f"lease {lease}: its control group {_OVER[how]}; what was not handed over "
            "by then was free for anybody."
            for lease, how in list(self._fallen.items())
        ]
        return found

    def may_take(self, step_bytes: int) -> bool:
        """Whether the machine bears it."""
        left = self._host.ram_available() - step_bytes
        return left >= self.keep_free_bytes and self._host.pressure() < PRESSURE_MAX

    def available(self) -> int:
        """MemAvailable, and what lies in the lists of each CPU."""
        # looked up here, in the hand's thread: it walks all pages
        self._swapped = self.ballast.swapped
        marked = 0
        if self._groups.same is not None:
            self._groups.same.sweep()
            # what a helper has marked as free is called available, and is not
            marked = sum(min(left, WINDOW) for left in self._left().values())
        return max(0, self._host.ram_available(exact=True) - marked)

    def _left(self) -> dict[int, int]:
        """Lease to bytes its control group has still to hand over."""
        same, filled = self._groups.same, dict(self._filled)
        if same is None:
            return {}
        return {x: max(0, filled[x] - same.handed(x)) for x in filled}

    @property
    def kept(self) -> dict[int, int]:
        """As the ballast has it, and what control groups have still to hand over."""
        kept = self.ballast.kept
        for lease, left in self._left().items():
            kept[lease] = kept.get(lease, 0) + left
        return kept

    def used(self) -> dict[int, int]:
        """Nothing: the eye sees it."""
        return {}

    def prepare(self, what: do.Prepare) -> Ready:
        """Keep it; begin to pace, or fill a control group and move the client there.

        Where the group cannot be had after all, it is paced.
        """
        self.ballast.keep(what.lease, what.amount)
        ready = Ready()
        if what.how == "group":
            try:
                self._fill(what)
                return ready
            except (Refusal, Unavailable) as why:
                ready = Ready("", "paced", str(why))
        if what.how == "paced" or ready.how:
            left = self.ballast.kept.get(what.lease, 0)
            if left:
                self._pacer.add(what.lease, what.who.pid, left)
        return ready

    def _fill(self, what: do.Prepare) -> None:
        same, lease = self._groups.same, what.lease
        assert same is not None
        same.prepare(lease, what.amount, partial(self.ballast.give, lease))
        self._filled[lease] = what.amount
        try:
            same.hand_over(lease, what.who.pid)
        except BaseException:
            self._filled.pop(lease, None)
            raise

    def _group_over(self, lease: int, how: str) -> None:
        """In a thread of the group's: it has nothing more to hand over."""
        self._filled.pop(lease, None)
        if how in _OVER:
            self._fallen[lease] = how

    def take_back(self, lease: int, amount: int | None) -> int | None:
        """Stop pacing, and have it back."""
        if amount is None:
            self._pacer.remove(lease)
            if self._groups.same is not None:
                self._groups.same.end(lease)
                self._filled.pop(lease, None)
                self._fallen.pop(lease, None)
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
        if self._groups.same is not None:
            self._groups.same.close()
        self.ballast.close()


def open_groups(settings: Settings) -> Groups:
    """The control groups of leases, where they can be had and are wanted."""
    if settings.ram_handover not in ("auto", "exact") or not settings.ram_hold:
        return Groups(
            None,
            "When this daemon started nothing was to be held back, or [ram] handover "
            "said otherwise: restart it.",
        )
    found = find_groups("memory", Path("/proc"), Path("/sys/fs/cgroup"))
    groups = Groups(None, "")
    try:
        groups.same = SameGroup.open(found.version, found.paths, groups.over)
    except Unavailable as why:
        groups.why_not = str(why)
    return groups
