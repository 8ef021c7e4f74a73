"""The pacer: ballast kept for a lease is freed step by step, as its program grows.

Memory that is freed belongs to nobody until its program touches it, and whoever
faults faster has it.  So no more than `STEP` of it is ever left lying: after each
giving

    released - peak growth of the lease's processes <= STEP         (`may_give`)

and a thief gets at most that of what is kept for the lease.  It is growth that counts,
since the lease began: what they had before they did not get from here.  It is the peak
that counts: what a program had and gave up is not freed for it a second time.  Nothing
is given because a program waits: that law was tried, and lost half of the ballast to a
thief who waits as well.  What is not given stays occupied.  So the law bounds the loss;
it does not promise the program its memory.

**What is made good.**  The reserve does, as long as it lasts: what others took of what
was freed for a lease is freed once more, from there and not from what is kept for it.
Nothing can be done about him who takes whatever is there and never has enough; but he
should not have the reserve before the program has come to want it.  So to a program
that has grown since the last time all that is lacking is made good at once.  To one
that has not, a single grain is, and each after twice the pause of the one before.

    MiB in reserve          0      8     12      16       24       32
    the program got         0      1    15-94  53-207   69-240   92-240
    all of it, in trials   0/3    0/3    0/3     0/3      2/3      5/7
    the thief got          5-6   12-13  16-17   19-26    19-29    19-37

(MiB, of 256 paced in a full machine and 240 wanted, 1.5 s after the grant and at 400
MiB/s, beside a thief who wants 20 MiB more each second and other work, load 4 on 2
CPUs.  Beside no other work 24 MiB were enough in 4 of 4 trials and 32 in 9 of 9: the
program is done sooner.  Against one who is always faulting all of it went, 32 MiB in
10 s, and the program got 2 to 60 MiB.)

**How often to look.**  A program must not run out between two looks: where nothing
can be reclaimed either, the kernel kills it.  Before it runs out it has to eat all that
is available, what was freed for it included.  So the next look comes
when the fastest program (`FASTEST_BYTES_S`) could have eaten half of that, but between
1 and 50 ms; where 800 MiB or more are available it is 50 ms.  With nothing to pace
the thread sleeps.

    a look each     1 ms    4 ms    50 ms
    of one CPU       8 %     3 %    0.6 %      one still program, 2 virtual CPUs

Where a step is all there is, which takes a machine with less than its `keep` left, a
program that filled 190 MiB was never killed by small pages (30 trials, 2 GB/s).  By
huge ones, as numpy has them (up to 5.5 GB/s), it was killed in 5 of 60 trials beside
other work (load 4 on 2 CPUs) and in none of 10 beside less.  To look less often at
programs that have not grown for a while does not work: at 5 ms one that began after
such a while was killed in 5 of 12.

**What else makes it late** is other programs on the CPUs, so the thread has the
highest priority a nice value gives (as root), and our own threads, which keep the GIL
for `sys.getswitchinterval()`.

**What it costs the program.**  While memory is available otherwise nothing that could
be measured: it takes that, and the ballast follows.

**Who cannot be seen** is not paced: `add` says so before anything is given.

The thread is begun at once, because none can be begun when memory is gone.  On its way
to giving it makes no object but small numbers, and it logs nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from holdingpen.ballast import may_give
from holdingpen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes that may lie freed and untouched for one lease.  Measured against a thief who
#: takes all when he sees 32 MiB free: with 8 MiB he got nothing, with 64 MiB 16 %.
STEP: Final = 8 * 1024 * 1024

#: Less than this is not worth a giving, unless it is the last: one huge page.
GRAIN: Final = 2 * 1024 * 1024

#: How fast a program can occupy memory.  Measured: 2.3 GB/s by small pages, 5.8 GB/s
#: by huge ones, as numpy has its arrays.
FASTEST_BYTES_S: Final = 8 * 1024 * 1024 * 1024

#: Shortest and longest pause between two looks.
PAUSE_MIN_S: Final = 0.001
PAUSE_MAX_S: Final = 0.05

#: A pause is so many times what the look took, so that very many processes under
#: leases cost a fifth of one CPU, not all of it.
PAUSE_PER_LOOK: Final = 4


#: Less than this is not made good: page tables take as much, and what lies in the
#: lists of each CPU.
OWED_MIN: Final = 1024 * 1024

#: A program that has grown by less has not come to want what is kept for it.
GROWN_MIN: Final = 256 * 1024

#: Shortest and longest pause between two grains for a program that does not grow.
#: So 16 grains last for a minute and a half against whoever takes them all.
PROBE_MIN_S: Final = 0.1
PROBE_MAX_S: Final = 10.0


def pause_s(available: int) -> float:
    """Seconds until the next look, with so many bytes `available` to a program."""
    return min(max(available / FASTEST_BYTES_S / 2, PAUSE_MIN_S), PAUSE_MAX_S)


class Progress:
    """How far one lease's ballast has come."""

    __slots__ = ("made_good", "peak_use", "released", "stolen", "unknown")

    def __init__(self) -> None:
        #: Bytes freed for it of what was kept for it.
        self.released = 0
        #: Bytes freed for it out of the reserve.
        self.made_good = 0
        #: The most its processes were seen to have grown at one time, in bytes.
        self.peak_use = 0
        #: Bytes freed for it that it has not got and that are not available any more:
        #: the most that was ever so at two looks in a row.  At most a step, and what
        #: was made good, because that can be stolen as well.
        #: An estimate: too high by the program's page tables, and by free pages on the
        #: lists of single CPUs, which are not called available.
        self.stolen = 0
        #: Why its use cannot be seen any more; nothing is given then.  Empty: it can.
        self.unknown = ""


class _Paced:
    """One lease that was added and not removed."""

    __slots__ = (
        "amount",
        "good_s",
        "lacking",
        "lease",
        "others",
        "over",
        "pause_s",
        "peak_then",
        "pid",
        "progress",
    )

    def __init__(self, lease: int, pid: int, amount: int) -> None:
        self.lease = lease
        self.pid = pid
        #: Bytes to be freed in all; less when less turned out to be kept.
        self.amount = amount
        #: Of what its processes have grown, bytes that belong to older leases of the
        #: same pid.
        self.others = 0
        #: Bytes freed, not got and not available at the last look.
        self.lacking = 0
        #: When something of it was made good last, how far it had grown then, and
        #: the pause until the next time if it does not grow.
        self.good_s = -math.inf
        self.peak_then = 0
        self.pause_s = PROBE_MIN_S
        self.progress = Progress()
        #: Whether there is nothing left to look for.
        self.over = False


class Pacer:
    """Frees what is kept for leases, each for its own program."""

    def __init__(
        self,
        give: Callable[[int, int], int],
        used: Callable[[int], int],
        available: Callable[[], int],
        *,
        make_good: Callable[[int], int] = lambda amount: 0,
        forget: Callable[[int], None] = lambda pid: None,
        broken: Callable[[Exception], None] | None = None,
        step: int = STEP,
        short: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin the thread.

        Args:
            give: frees bytes kept for a lease, returns how many: `BallastLike.give`.
            used: bytes the process and its descendants use now: `Growth.of`.
            available: bytes a program could have now: `HostLike.ram_available`.
            make_good: frees bytes of the reserve, returns how many:
                `ReservedBallast.make_good`.
            forget: told each pid that `used` is not asked about any more.
            broken: called in the pacer's thread with what ended it.  Without it the
                exception goes to `threading.excepthook`.
            step: bytes that may lie freed and untouched for one lease; more than
                `short`, or a program starves.
            short: bytes by which `used` may fall short of the truth: so much may seem
                stolen that is not.
            clock: gives seconds that go on.
        """
        self._give = give
        self._used = used
        self._available = available
        self._make_good = make_good
        self._forget = forget
        self._broken = broken
        self._step = step
        self._short = short
        self._clock = clock
        self._grain = min(GRAIN, step)
        #: Lease to how far it is, until `remove`.  Replaced and never changed, so that
        #: any thread may go through it.
        self.progress: dict[int, Progress] = {}
        #: All that were added and not removed, oldest first; guarded, like everything
        #: here, by `_changed`, which tells that there are more.
        self._leases: dict[int, _Paced] = {}
        #: Those of them that are not over, replaced and never changed.
        self._paced: tuple[_Paced, ...] = ()
        self._changed = threading.Condition()
        #: pid to the least its processes were seen to use since its oldest lease.  What
        #: they had before they did not get from here; and execve(2) gives up what the
        #: one who asked had.
        self._least: dict[int, int] = {}
        self._closed = False
        thread = threading.Thread(target=self._work, name="pacer", daemon=True)
        thread.start()

    def add(self, lease: int, pid: int, amount: int) -> None:
        """Free the first step for a lease, now, and pace the rest.

        Args:
            lease: not being paced yet.
            pid: the process whose tree is to have it.
            amount: bytes that are kept for it, and more than 0.

        Raises:
            Unavailable: when the process cannot be seen, or the pacer is closed; then
                nothing was given, and the caller must choose another way.
        """
        with self._changed:
            if self._closed:
                raise Unavailable(f"cannot pace lease {lease}: the daemon is ending")
            assert lease not in self._leases
            use = self._used(pid)
            self._least[pid] = min(use, self._least.get(pid, use))
            paced = _Paced(lease, pid, amount)
            self._release(paced, min(self._step, amount))
            self._leases[lease] = paced
            self._sort_out()
            self._changed.notify()

    def remove(self, lease: int) -> None:
        """Give nothing more for a lease, from when this returns.  Idempotent.

        It may take as long as one giving.
        """
        with self._changed:
            paced = self._leases.pop(lease, None)
            if paced:
                self._sort_out()
                if all(other.pid != paced.pid for other in self._leases.values()):
                    del self._least[paced.pid]
                    self._forget(paced.pid)

    def close(self) -> None:
        """Give nothing more at all, from when this returns; the thread ends itself."""
        with self._changed:
            self._closed = True
            for lease in list(self._leases):
                self.remove(lease)
            self._changed.notify()

    def _sort_out(self) -> None:
        """Who is to be looked at and shown; which part of a pid's use who has.

        The oldest lease has what was kept for it first, then the next.
        """
        had: dict[int, int] = {}
        for paced in self._leases.values():
            paced.others = had.get(paced.pid, 0)
            had[paced.pid] = paced.others + paced.amount
        self._paced = tuple(one for one in self._leases.values() if not one.over)
        self.progress = {one.lease: one.progress for one in self._leases.values()}

    def _work(self) -> None:
        # beside 3 busy programs a look meant for 1 ms came within 24 ms in 99 % without
        # this, and within 5 ms with it
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -20)
        try:
            with self._changed:
                while not self._closed:
                    self._changed.wait(self._look_at_all() if self._paced else None)
        except Exception as why:
            if self._broken is None:
                raise
            self._broken(why)

    def _look_at_all(self) -> float:
        """Give each what it may have; return the seconds until the next look."""
        began_s = self._clock()
        # before use is read, so that what a program takes between the two is not
        # mistaken for stolen
        available = self._available()
        some_over, gave = False, False
        for paced in self._paced:
            gave = self._look(paced, available, began_s) or gave
            some_over = some_over or paced.over
        if some_over:
            self._sort_out()
        if gave:
            # giving takes its time, and the program did not wait
            return PAUSE_MIN_S
        took_s = self._clock() - began_s
        return max(pause_s(available), took_s * PAUSE_PER_LOOK)

    def _look(self, paced: _Paced, available: int, now_s: float) -> bool:
        """Give one what it may have; return whether that was anything."""
        progress = paced.progress
        try:
            use = self._used(paced.pid)
        except Unavailable as why:
            progress.unknown, paced.over = str(why), True
            return False
        least = self._least[paced.pid]
        if use < least:
            least = self._least[paced.pid] = use
        grown = use - least - paced.others
        if grown > progress.peak_use:
            progress.peak_use = grown
        freed = progress.released + progress.made_good
        lacking = freed - progress.peak_use - available
        # once may be chance: what is being freed is not at once available
        stolen = min(lacking, paced.lacking)
        progress.stolen = max(progress.stolen, stolen)
        paced.lacking = lacking
        good = self._make_good_to(paced, stolen, now_s)
        left = paced.amount - progress.released
        may = may_give(progress.released, progress.peak_use, self._step)
        if left > may:
            may -= may % self._grain
        give = min(left, may)
        if give > 0:
            self._release(paced, give)
        paced.over = progress.peak_use >= progress.released >= paced.amount
        return good or give > 0

    def _make_good_to(self, paced: _Paced, stolen: int, now_s: float) -> bool:
        """Free of the reserve what others have now; return whether that was any."""
        progress = paced.progress
        owed = stolen - progress.made_good - self._short
        if owed < OWED_MIN:
            return False
        if progress.peak_use - paced.peak_then >= GROWN_MIN:
            paced.pause_s = PROBE_MIN_S
        elif now_s < paced.good_s + paced.pause_s:
            return False
        else:
            owed = min(owed, self._grain)
            paced.pause_s = min(2 * paced.pause_s, PROBE_MAX_S)
        paced.good_s, paced.peak_then = now_s, progress.peak_use
        given = self._make_good(owed)
        progress.made_good += given
        return given > 0

    def _release(self, paced: _Paced, amount: int) -> None:
        given = self._give(paced.lease, amount)
        paced.progress.released += given
        if given < amount:
            # no more is kept than that: it was passed on, or kept back, in another way
            paced.amount = paced.progress.released
