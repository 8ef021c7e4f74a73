"""Memory handed over inside one control group, so that nobody can come in between.

What is freed is for a moment nobody's, and whoever waits for memory takes it then.
Here it never is.  Each lease has a control group of its own, `lease-17`:

    memory.min  = what is in it: pressure elsewhere takes nothing out of it
    memory.high = that, and `MARGIN`
    members       the helper, which holds the whole amount; later the lease's program

The helper (lazyholder.py) marks its pages as free (MADV_FREE), a window at a time.
Each page the program touches takes the group above memory.high, and the kernel takes
one of the marked pages for it.  The group's sum never falls.  Measured, on machines
whose every other page a second program fought for: it got nothing.

It needs cgroup v2, and the right to make groups and to set memory.min: root.  In a
user's own subtree memory.min has no effect, as long as the groups above have none.

What is in force must end.  memory.high slows a program down for ever once there are
no marked pages left.  So it goes back to "max" when

* the helper sees that they are used up, or has no parent any more;
* the helper dies, of whatever cause: the thread that waits for it writes it;
* the lease ends, or `SameGroup.begin` finds the group of one that does not go on.

A helper that feeds its group needs nobody.  So it outlives the daemon where somebody
keeps its pipes: `begin` goes on with it.

The helper's own code is locked in memory, for where everybody fights for memory it
would be read from disk again while the program waits for it.  What it marks, 64 MiB
at most, counts as MemAvailable.

memory.max is never used: it would kill where memory.high slows down.

Above the leases.  A group's memory.min counts as far as those above it cover it, so
each of them gets the sum of the leases' on top of its own.  Before Linux 6.2 it must
be the sum exactly: what is more is spread over the groups below, and a group below
its share of it is not reclaimed by its own memory.high either.

Filling a group.  Where there is room the helper touches a step first, and then as much
ballast is freed, so that nobody sees it free.  Where there is none it is freed first,
and others may come in between.  Since Linux 6.7 freed pages may also stay on lists of
the processor that freed them, up to an eighth of the memory of all, where nobody finds
them and neither MemFree nor MemAvailable counts them: measured on 6.12, 99 of 300 MiB.
vm.percpu_pagelist_high_fraction = 1000 puts an end to that.

A program that is moved here leaves its own group: its limits, and its session's.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from holdingpen.amounts import format_size
from holdingpen.ballast.leasegroup import (
    LeaseGroup,
    Pipes,
    kill_helper,
    number_in,
    words_in,
    write_to,
)
from holdingpen.errors import Refusal, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from holdingpen.ballast.shelf import Store

#: Bytes that are freed at once and touched by the helper: 2 ms.  Measured with 16 MiB
#: beside a program that took whatever was above 25 MiB free: it got half of them.
STEP = 4 * 1024 * 1024

#: How far memory.high is above what is in the group.
MARGIN = 1024 * 1024

#: Bytes that others may take while a group is filled, and the part of the amount,
#: before that is given up.
LOST_MAX, LOST_PART = 64 * 1024 * 1024, 8

#: The first kernel whose memory.high works under a memory.min that is too large.
LINUX_SPREADS_WELL = (6, 2)

#: The service's slice, when it has one to itself.
SLICE = "holdingpen.slice"

#: What the names of helpers' pipes begin with, where they are kept.
INITIAL = "g"

_MEMINFO = Path("/proc/meminfo")
_MIN_FREE = Path("/proc/sys/vm/min_free_kbytes")
_PREFIX = "lease-"
_DAEMON = "daemon"
_PAGE = os.sysconf("SC_PAGESIZE")


def why_not(version: int, paths: list[Path]) -> str:
    """One sentence on why memory cannot be handed over in one group; empty: it can.

    Args:
        version: of the control groups that count memory: 1, 2, or 0 without any.
        paths: this process's group and those above it that can be seen, innermost
            first, as `holdingpen.devices.cgroup.find_groups` finds them.
    """
    if not version or not paths:
        return "This machine has no control groups that count memory."
    if version == 1:
        return "Memory is counted by control groups of version 1: no memory.min."
    base, above, _ours = _layout(paths)
    # what will be made is as free as what it is made in
    there = [group for group in (base, *above) if group.exists()]
    if "memory" not in words_in(there[0] / "cgroup.controllers"):
        return f"{there[0]} has no memory controller: the service needs Delegate=yes."
    if not os.access(there[0] / "cgroup.subtree_control", os.W_OK):
        return f"Groups may not be made in {there[0]}: only root may, or its delegate."
    if (paths[-1] / "memory.min").exists():
        return "In a container: whether memory.min counts cannot be seen from inside."
    # the root of all groups has no memory.min and needs none
    for group in there[:-1]:
        minimum = group / "memory.min"
        if not os.access(minimum, os.W_OK) and not number_in(minimum):
            return f"{minimum} is 0 and may not be set: without it none below counts."
    return ""


class _Layout(NamedTuple):
    """Where the leases' groups are to be."""

    #: The group they are made in; it need not exist yet.
    base: Path
    #: The groups above it, innermost first; the last is the root of all.
    above: list[Path]
    #: Whether `base` is where the daemon's processes are now.
    ours: bool


def _layout(paths: list[Path]) -> _Layout:
    own, *above = paths
    if not above:
        return _Layout(own / "holdingpen", paths, ours=False)
    if above[0].name == SLICE:
        return _Layout(above[0] / "leases", above, ours=False)
    if own.name == _DAEMON and not words_in(above[0] / "cgroup.procs"):
        # where DelegateSubgroup= of systemd, or a former daemon, put us
        return _Layout(above[0], above[1:], ours=False)
    return _Layout(own, above, ours=True)


class SameGroup:
    """The groups of all leases that are handed over so.  Made by `open`.

    Its methods may run in several threads at once, for one lease in one at a time:
    `prepare` is ended by its `give`.
    """

    def __init__(
        self,
        base: Path,
        above: Iterable[Path],
        on_over: Callable[[int, str], None],
        store: Store | None,
    ) -> None:
        """Use `base`, a group that is ours and has no processes in itself."""
        self._base = base
        self._store = store
        #: The groups above it whose memory.min must cover the leases', to what they
        #: have of their own.
        leftover = number_in(base / "memory.min")
        self._above = {
            group: max(0, number_in(group / "memory.min") - leftover) for group in above
        }
        self._on_over = on_over
        #: Guards the three below, and the memory.min of `base` and those above.
        self._lock = threading.Lock()
        #: Lease to its group, from `prepare` to `end`.
        self._leases: dict[int, LeaseGroup] = {}
        #: Lease to the memory.min of its group; > 0.
        self._minima: dict[int, int] = {}
        #: Groups whose lease is over and which have processes in them.
        self._emptying: set[Path] = set()

    @classmethod
    def open(
        cls,
        version: int,
        paths: list[Path],
        on_over: Callable[[int, str], None] = lambda lease, how: None,
        store: Store | None = None,
    ) -> SameGroup:
        """Find or make the group in which leases can have theirs.

        In a slice of its own, `SLICE`, they lie beside the service, in `leases`: so
        they outlive its restart, and systemd does not kill what is in them.  Else
        they are in the daemon's own group, whose processes move into a group
        `daemon` in it: cgroups(7) allows none beside groups with controllers.  Where
        there is only the root group they are in `holdingpen`.

        `begin` must follow.

        Args:
            version: as in `why_not`.
            paths: as in `why_not`.
            on_over: called from a thread of its own when there is nothing more to
                hand over: with the lease, and `spent` (its program has all),
                `stuck` or `died` (it does not, and must now compete for the rest).
            store: keeps the pipes of helpers for the next process; None: they end
                with this one.

        Raises:
            Unavailable: when there is a reason in `why_not`, or the system refuses.
        """
        if why := why_not(version, paths):
            raise Unavailable(f"cannot hand memory over exactly: {why}")
        base, above, ours = _layout(paths)
        try:
            if ours:
                _move_all(base, base / _DAEMON)
            elif not base.exists():
                write_to(base.parent / "cgroup.subtree_control", "+memory")
                base.mkdir()
            write_to(base / "cgroup.subtree_control", "+memory")
            same = cls(base, above[:-1], on_over, store)
            same._check_above()
        except OSError as error:
            raise Unavailable(
                f"cannot make control groups in {base}: {error}. "
                'Set [ram] handover = "paced" to do without.'
            ) from error
        return same

    def _check_above(self) -> None:
        major, minor = (int(word) for word in os.uname().release.split(".")[:2])
        for group, own in self._above.items():
            if own and (major, minor) < LINUX_SPREADS_WELL:
                raise Unavailable(
                    f"cannot hand memory over exactly: {group}/memory.min is "
                    f"{format_size(own)}, and Linux {major}.{minor} would give it to "
                    "leases that must be reclaimed. Set MemoryMin=0 there."
                )

    def begin(
        self, handed: Mapping[str, int], amounts: Mapping[int, int]
    ) -> frozenset[int]:
        """Go on with groups of a former process, and clear all others.

        Args:
            handed: names that begin with INITIAL, and descriptors; now ours.
            amounts: of the leases that go on, the bytes that their groups held.

        Returns:
            The leases that are still fed, or have got all.

        Raises:
            Unavailable: when the system refuses.
        """
        handed = dict(handed)
        for lease, amount in amounts.items():
            path = self._base / f"{_PREFIX}{lease}"
            told, said = _names(lease)
            if path.is_dir() and told in handed and said in handed:
                group = LeaseGroup(path, amount)
                group.find(Pipes(handed.pop(told), handed.pop(said)))
                self._leases[lease] = group
                self._minima[lease] = number_in(path / "memory.min")
        for name, fd in handed.items():
            os.close(fd)
            self._forget(name)
        try:
            for path in self._base.glob(f"{_PREFIX}*"):
                if not any(path == group.path for group in self._leases.values()):
                    kill_helper(path)
                    self._retire(path)
            self._cover()
        except OSError as error:
            for lease in list(self._leases):
                self.end(lease)
            raise Unavailable(
                f"cannot look after the control groups in {self._base}: {error}."
            ) from error
        for lease, group in self._leases.items():
            self._follow(lease, group)
        return frozenset(self._leases)

    def prepare(self, lease: int, amount: int, give: Callable[[int], int]) -> None:
        """Fill a group for `lease` with `amount` bytes, step by step.

        Args:
            lease: its number.
            amount: bytes, rounded up to whole pages.
            give: called with a step's bytes, frees that much ballast and returns the
                bytes freed, 0 when there is no more.  A step that others took is
                asked for again.

        Raises:
            Refusal: `not-now`, when `give` has no more or too much was lost to
                others; what was given is then free.
            Unavailable: when the group or its helper cannot be made.
        """
        amount = -(-amount // _PAGE) * _PAGE
        group = LeaseGroup(self._base / f"{_PREFIX}{lease}", amount)
        try:
            group.make()
        except OSError as error:
            raise Unavailable(
                f"cannot make a control group for lease {lease}: {error}"
            ) from error
        with self._lock:
            self._leases[lease] = group
        try:
            self._fill(lease, group, give)
        except OSError as error:
            self.end(lease)
            raise Unavailable(
                f"cannot fill the control group of lease {lease}: {error}"
            ) from error
        except BaseException:
            self.end(lease)
            raise

    def _fill(self, lease: int, group: LeaseGroup, give: Callable[[int], int]) -> None:
        floor = _floor()
        lost_max = LOST_MAX + group.amount // LOST_PART
        given = 0
        while group.filled < group.amount or given < group.filled:
            step = min(STEP, group.amount - group.filled)
            ahead = group.filled - given
            available = number_in(_MEMINFO, "MemAvailable:") * 1024
            if given and 0 <= ahead < step and available >= floor + step:
                # touched before as much is freed: nobody ever sees it free
                group.fill(step, floor)
            else:
                freed = give(ahead if ahead > 0 else step)
                if freed <= 0 or -ahead > lost_max:
                    raise Refusal(
                        f"cannot set {format_size(group.amount)} apart for lease "
                        f"{lease}: {format_size(group.filled)} of the "
                        f"{format_size(given)} that were freed could be had; "
                        + ("others have the rest" if freed > 0 else "there is no more")
                        + ". Ask again when the machine is less full.",
                        "not-now",
                    )
                if not given:
                    # only now: the helper needs some memory itself
                    group.start()
                given += freed
                if ahead <= 0:
                    group.fill(step, min(max(available, STEP), floor))
            self._protect(lease, group, group.current())

    def hand_over(self, lease: int, pid: int) -> None:
        """Move the process `pid` into the lease's group, and feed it from there.

        Children it has later are members too.  It may be any program; it should be
        small at this moment, for what it has stays charged where it was.

        Raises:
            Refusal: `ended`, when there is no such process: nothing is left of what
                was prepared, and its memory is free.
            Unavailable: when it may not be moved, or the helper does not answer;
                nothing is left either.
        """
        group = self._leases.get(lease)
        if group is None:
            raise Refusal(f"lease {lease} has ended", "ended")
        try:
            full = group.current()
            self._protect(lease, group, full)
            write_to(group.path / "cgroup.procs", pid)
            group.feed(full + MARGIN)
        except ProcessLookupError as gone:
            self.end(lease)
            raise Refusal(
                f"lease {lease}: its program, process {pid}, has ended", "ended"
            ) from gone
        except OSError as error:
            self.end(lease)
            raise Unavailable(
                f"cannot hand the memory of lease {lease} over to process {pid} in "
                f"{group.path}: {error}"
            ) from error
        except Unavailable:
            self.end(lease)
            raise
        self._keep(lease, group)
        self._follow(lease, group)

    def _follow(self, lease: int, group: LeaseGroup) -> None:
        threading.Thread(
            target=self._watch, args=(lease, group), name=f"lease {lease}", daemon=True
        ).start()

    def _keep(self, lease: int, group: LeaseGroup) -> None:
        """Have its helper outlive this process; if that fails, it does not."""
        if self._store is None or group.pipes is None:
            return
        with contextlib.suppress(Unavailable):
            for name, fd in zip(_names(lease), group.pipes, strict=True):
                self._store.keep(name, fd, poll=False)

    def _forget(self, name: str) -> None:
        if self._store is not None:
            with contextlib.suppress(Unavailable):
                self._store.forget(name)

    def _watch(self, lease: int, group: LeaseGroup) -> None:
        how = group.follow()
        with self._lock:
            ours = self._leases.get(lease) is group
        if not ours:
            return
        # the lease may end at any moment, and its group with it
        with contextlib.suppress(FileNotFoundError):
            # what the helper itself had is not the program's
            self._protect(lease, group, group.filled)
            write_to(group.path / "memory.swap.max", "max")
        self._on_over(lease, how)

    def handed(self, lease: int) -> int:
        """Bytes the lease's program has got so far, as the helper last told."""
        group = self._leases.get(lease)
        return group.given if group else 0

    def end(self, lease: int) -> None:
        """Let go of a lease's group: its helper's memory is free, its limits lifted.

        Processes that are still in it stay there: see `sweep`.  For a lease without
        a group nothing happens.
        """
        with self._lock:
            group = self._leases.pop(lease, None)
            self._minima.pop(lease, None)
        if group is None:
            return
        # first: as long as somebody has its pipe it does not end
        for name in _names(lease):
            self._forget(name)
        group.stop()
        self._retire(group.path)
        self._cover()

    def sweep(self) -> int:
        """Remove groups of former leases whose last process has ended.

        Returns:
            How many there still are.
        """
        with self._lock:
            for path in list(self._emptying):
                if _removed(path):
                    self._emptying.discard(path)
            return len(self._emptying)

    def close(self) -> None:
        """End all leases' groups, but what is kept.  Closing twice is allowed."""
        if self._store is None:
            for lease in list(self._leases):
                self.end(lease)
        self.sweep()

    def _retire(self, path: Path) -> None:
        for name, value in (
            ("memory.high", "max"),
            ("memory.min", 0),
            ("memory.swap.max", "max"),
        ):
            with contextlib.suppress(OSError):
                write_to(path / name, value)
        if not _removed(path):
            with self._lock:
                self._emptying.add(path)

    def _protect(self, lease: int, group: LeaseGroup, minimum: int) -> None:
        with self._lock:
            if self._leases.get(lease) is not group:
                return
            self._minima[lease] = minimum
        self._cover()
        write_to(group.path / "memory.min", minimum)

    def _cover(self) -> None:
        """Give the groups above as much memory.min as the leases have together."""
        with self._lock:
            needed = sum(self._minima.values())
            for group, own in {self._base: 0, **self._above}.items():
                minimum = group / "memory.min"
                if number_in(minimum) == own + needed:
                    continue
                try:
                    write_to(minimum, own + needed)
                except PermissionError as error:
                    if own < needed:
                        raise Unavailable(
                            f"{minimum} covers {format_size(own)} and the leases need "
                            f"{format_size(needed)}: {error.strerror}. "
                            f"Set MemoryMin= of its unit."
                        ) from error


def _names(lease: int) -> tuple[str, str]:
    """What the ends of a helper's pipes are kept as."""
    return f"{INITIAL}{lease}told", f"{INITIAL}{lease}said"


def _floor() -> int:
    """Bytes that must stay available, or touching could bring the OOM killer.

    MemAvailable allows for the high watermark, 1.5 times min_free_kbytes, but not for
    its boost, up to 1.5 times that again (vm.watermark_boost_factor).
    """
    return number_in(_MIN_FREE) * 1024 * 9 // 4


def _move_all(base: Path, child: Path) -> None:
    child.mkdir(exist_ok=True)
    # a process that forks while it is moved leaves its child behind
    for _ in range(10):
        for pid in (pids := words_in(base / "cgroup.procs")):
            with contextlib.suppress(ProcessLookupError):
                write_to(child / "cgroup.procs", pid)
        if not pids:
            return


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
