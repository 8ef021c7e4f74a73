"""The hand of `ram`: paced, in steps, as files, or in a control group of the lease's.

The guard.  Ballast is taken only while the machine bears it: after each step
`keep_free_bytes` must still be available, and nobody may wait for memory.  So taking
never pushes anybody into reclaim, let alone the OOM killer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from holdingpen.amounts import format_size
from holdingpen.ballast import BallastLike, Piece
from holdingpen.ballast.lazyholder import WINDOW
from holdingpen.ballast.ram import UNIT
from holdingpen.ballast.reserve import ReservedBallast
from holdingpen.ballast.samegroup import SameGroup
from holdingpen.ballast.shelf import Store
from holdingpen.core import effects as do
from holdingpen.core.handover import METHODS, Choice
from holdingpen.core.leases import Lease
from holdingpen.daemon.hands import Adopted, Ready, unheard
from holdingpen.daemon.lending import keep_bytes, ram_plan, ram_wishes
from holdingpen.daemon.pacer import STEP, Pacer
from holdingpen.daemon.settings import Settings
from holdingpen.devices import HostLike
from holdingpen.devices.cgroup import find_groups
from holdingpen.devices.growth import short_bytes
from holdingpen.errors import Refusal, Unavailable

#: Percent of the last 10 s in which somebody waited for memory that forbid taking.
#: An idle machine shows 0.00; one that reclaims in earnest shows more than 1.
PRESSURE_MAX: Final = 1.0


#: The methods whose ballast a former daemon can have left.
_LASTS: Final = ("paced", "steps", "pieces")

#: How a control group's end reads that was none.
_OVER: Final = {"died": "lost its helper", "stuck": "stood still"}


class Groups:
    """The control groups of leases, or why there are none."""

    def __init__(
        self,
        same: SameGroup | None,
        why_not: str,
        handed: Mapping[str, int] | None = None,
        store: Store | None = None,
    ) -> None:
        self.same = same
        #: Why no lease gets a new one; empty: it does.
        self.why_not = why_not
        self._store = store
        #: What a former daemon left of its groups' helpers.
        self._handed = handed or {}
        self._heard: Callable[[int, str], None] = lambda lease, how: None

    def listen(self, heard: Callable[[int, str], None]) -> None:
        """Have `heard` called when a lease's group has nothing more to hand over."""
        self._heard = heard

    def over(self, lease: int, how: str) -> None:
        """For `SameGroup.open`."""
        self._heard(lease, how)

    def begin(self, amounts: Mapping[int, int]) -> frozenset[int]:
        """Go on with those that a former daemon filled, lease to bytes; the leases."""
        handed, self._handed = self._handed, {}
        if self.same is None:
            for name, fd in handed.items():
                # a helper ends with its pipe
                os.close(fd)
                if self._store is not None:
                    with suppress(Unavailable):
                        self._store.forget(name)
            return frozenset()
        try:
            return self.same.begin(handed, amounts)
        except Unavailable as why:
            self.same, self.why_not = None, str(why)
            return frozenset()


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
        *,
        inherited: bool = False,
    ) -> None:
        """Take `ballast` in hand; it is closed with the hand.

        Args:
            ballast: what is held back.
            host: the machine.
            settings: what the administrator decided.
            groups: the control groups of leases, or why there are none.
            inherited: whether a former daemon left it.
        """
        self._inherited = inherited
        #: It, with the reserve.
        self.ballast = ReservedBallast(ballast, self._is_short)
        #: What must stay available when ballast is taken.
        self.keep_free_bytes = 0
        #: Whether ballast is given up when programs wait for memory.
        self._yields = False
        self._host = host
        #: Called with what broke a thread of this hand.
        self.broken: Callable[[Exception], None] = unheard
        #: Bytes that may lie freed for a paced lease: more where the kernel's figures
        #: fall short, or programs starve.
        self._step_bytes = -(-(STEP + short_bytes()) // UNIT) * UNIT
        self._pacer = Pacer(
            self.ballast.give,
            host.use_of,
            host.ram_available,
            make_good=self.ballast.make_good,
            forget=host.forget,
            broken=lambda why: self.broken(why),
            step=self._step_bytes,
            short=short_bytes(),
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
        self._yields = settings.ram_policy == "yield"
        plan = ram_plan(settings, self._host)
        self.ballast.resize(plan.hold, plan.reserve)

    def adopt(
        self, booked: int, leases: Mapping[int, Lease], over: frozenset[int]
    ) -> Adopted | None:
        """Take up what it left; a step more is freed for each that is paced."""
        in_groups = {
            x.id: x.drawn.get("ram", 0)
            for x in leases.values()
            if x.how.get("ram") == "group"
        }
        # before: one may be over at once
        self._filled |= in_groups
        fed = self._groups.begin(in_groups)
        for number in in_groups.keys() - fed:
            self._filled.pop(number, None)
        if not self._inherited:
            # the table cannot be read, but groups need none
            return Adopted(0, fed) if fed else None
        ballast, kept = self.ballast, self.ballast.kept
        go_on = {
            x.id: x
            for x in leases.values()
            if x.id in fed or (x.how.get("ram") in _LASTS and not _is_unready(x, kept))
        }
        for lease in go_on.values():
            ballast.expect(lease.id, lease.drawn.get("ram", 0))
            if lease.how["ram"] == "paced" and kept.get(lease.id):
                with suppress(Unavailable):
                    # it has ended, and its end is about to be heard
                    self._pacer.add(lease.id, lease.ask.who.pid, kept[lease.id])
        nobodys = kept.keys() - go_on.keys() - over
        in_use = frozenset(n for n in nobodys if ballast.back(n) is None)
        # what was not begun to be made ready is about to be
        unready = (x for x in leases.values() if _is_unready(x, kept))
        to_be_kept = sum(x.drawn.get("ram", 0) for x in unready)
        ballast.drop(max(0, ballast.held - booked - to_be_kept))
        return Adopted(min(booked, ballast.held), frozenset(go_on), in_use)

    def total(self) -> int:
        """The machine's memory."""
        return self._host.ram_total()

    def wishes(self, settings: Settings) -> dict[str, Choice]:
        """How each wish of a client is met here."""
        return ram_wishes(settings, self._groups.why_not, self._step_bytes)

    def troubles(self, settings: Settings) -> list[str]:
        """Why the ballast is of no better kind."""
        found = [self.ballast.why] if settings.ram_hold and self.ballast.why else []
        plan = ram_plan(settings, self._host)
        if plan.hold < settings.ram_hold:
            found.append(
                f"[ram] hold is {format_size(settings.ram_hold)}, and no more than "
                f"{format_size(plan.hold)} can be held: lower it."
            )
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
        return found + self._spent()

    def _spent(self) -> list[str]:
        """What others took and the reserve made good."""
        made_good = sum(self.made_good.values())
        if not made_good:
            return []
        return [
            f"{format_size(made_good)} that others took from leases were made good out "
            f"of the reserve; {format_size(self.ballast.reserve)} of "
            f"{format_size(self.ballast.wanted)} are left in it."
        ]

    def _is_short(self) -> bool:
        """Whether others are to have memory before the reserve has it."""
        return self._yields and self._host.ram_available() < self.keep_free_bytes

    def may_take(self, step_bytes: int) -> bool:
        """Whether the machine bears it."""
        left = self._host.ram_available() - step_bytes
        return left >= self.keep_free_bytes and self._host.pressure() < PRESSURE_MAX

    def available(self) -> int:
        """MemAvailable, and what lies in the lists of each CPU, less what is promised.

        Promised is the reserve, as far as it is not there.  With T bytes in the
        machine, of which K are never lent and W are to be the reserve, the capacity is
        C = T - K - W.  When R of W are there, H are held, L are kept for leases and
        used by them, and others use X, then

            MemAvailable = T - X - H - L - R
            available    = MemAvailable - (W - R)     = T - X - H - L - W
            foreign      = C - available - H - L      = X - K

        whatever R is.  So the reserve is no foreign use while it is there; while it is
        taken, spent and taken again nothing settles and nothing is found; nothing is
        lent that it is to be taken from; and what was stolen is foreign use, made good
        or not, because others have it.  It is below 0 when not even the reserve is
        left: a 0 would hide that others have some of the capacity as well.
        """
        if self._is_short() and self._host.pressure() >= PRESSURE_MAX:
            self.ballast.give_up()
        else:
            self.ballast.top_up(self.may_take)
        lacking = max(0, self.ballast.wanted - self.ballast.reserve)
        # looked up here, in the hand's thread: it walks all pages
        self._swapped = self.ballast.swapped
        marked = 0
        if self._groups.same is not None:
            self._groups.same.sweep()
            # what a helper has marked as free is called available, and is not
            marked = sum(min(left, WINDOW) for left in self._left().values())
        return max(0, self._host.ram_available(exact=True) - marked) - lacking

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
    def made_good(self) -> Mapping[int, int]:
        """Lease to bytes, of those stolen from it, that the reserve gave it."""
        return {lease: x.made_good for lease, x in self._pacer.progress.items()}

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


def _is_unready(lease: Lease, kept: Mapping[int, int]) -> bool:
    """Whether a former daemon had still to make its memory ready."""
    how = lease.how.get("ram")
    if "ram" not in lease.dropping or how not in METHODS:
        return False
    return how == "group" or not kept.get(lease.id)


def open_groups(
    settings: Settings,
    store: Store | None = None,
    handed: Mapping[str, int] | None = None,
) -> Groups:
    """The control groups of leases, where they can be had and are wanted.

    Args:
        settings: what the administrator decided.
        store: keeps the pipes of their helpers for the next daemon; None: nobody does.
        handed: those that a former one left; closed by `Groups.begin`.
    """
    why_not = ""
    if settings.ram_handover not in ("auto", "exact") or not settings.ram_hold:
        why_not = (
            "When this daemon started nothing was to be held back, or [ram] handover "
            "said otherwise: restart it."
        )
    groups = Groups(None, why_not, handed, store)
    if why_not and not handed:
        return groups
    found = find_groups("memory", Path("/proc"), Path("/sys/fs/cgroup"))
    try:
        groups.same = SameGroup.open(found.version, found.paths, groups.over, store)
    except Unavailable as why:
        groups.why_not = groups.why_not or str(why)
    return groups
