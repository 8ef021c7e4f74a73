"""The performer: ballast and measuring, in threads; what came of it is an event.

Two threads, begun at the start, because none can be begun when memory is gone:

    the hand    takes and drops ballast and measures, one job after the other, so a
                measurement never falls into the middle of a drop
    the eye     looks over all processes when a measurement is to be fresh, then has
                the hand measure at once, so that the two belong together

The guard.  Ballast is taken only while the machine bears it: after each step
`keep_free_bytes` must still be available and nobody may wait for memory.  So taking
never pushes anybody into reclaim, let alone the OOM killer.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from holdingpen.ballast import BallastLike
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import Moment
from holdingpen.devices import Foreign, HostLike, Uses

#: Percent of the last 10 s in which somebody waited for memory that forbid taking.
#: An idle machine shows 0.00; one that reclaims in earnest shows more than 1.
PRESSURE_MAX: Final = 1.0

Job = Callable[[], ev.Event | None]


class Performer:
    """Does `DropBallast`, `TakeBallast` and `Measure`."""

    def __init__(
        self,
        ballast: BallastLike,
        host: HostLike,
        keep_free_bytes: int,
        clock: Callable[[], Moment],
        report: Callable[[ev.Event], None],
    ) -> None:
        """Make a performer; must be called inside trio.

        Args:
            ballast: the ballast of `ram`.
            host: the machine.
            keep_free_bytes: what must stay available when ballast is taken.
            clock: gives the moment for events.
            report: called in trio's thread with what came of a job.
        """
        self._ballast = ballast
        self._host = host
        self.keep_free_bytes = keep_free_bytes
        self._clock = clock
        self._report = report
        self._token = trio.lowlevel.current_trio_token()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        #: Lease to the pid its processes descend from; kept by the daemon's thread.
        self.roots: dict[int, int] = {}
        #: What the eye saw last: lease to bytes, and the biggest of the others.
        self.used: dict[int, int] = {}
        self.foreign: list[Foreign] = []
        #: Resources the eye is looking for just now.
        self._looking: set[str] = set()
        self._looks: queue.SimpleQueue[tuple[str, dict[int, int]] | None]
        self._looks = queue.SimpleQueue()
        self._broken: Exception | None = None
        self._breakage = trio.Event()
        self._closed = False
        for work in (self._hand, self._eye):
            thread = threading.Thread(
                target=self._work, args=(work,), name=work.__name__, daemon=True
            )
            thread.start()

    def close(self) -> None:
        """Let the threads end when they have done what they were given.

        What comes of that is not reported any more.
        """
        self._closed = True
        self._jobs.put(None)
        self._looks.put(None)

    def perform(self, effect: do.DropBallast | do.TakeBallast | do.Measure) -> None:
        """Have one effect done; returns at once."""
        match effect:
            case do.DropBallast():
                self._jobs.put(lambda: self._drop(effect))
            case do.TakeBallast():
                self._jobs.put(lambda: self._take(effect))
            case do.Measure(resource, True):
                if resource not in self._looking:
                    self._looking.add(resource)
                    self._looks.put((resource, dict(self.roots)))
            case do.Measure(resource):
                self._jobs.put(lambda: self._measure(resource, self.used, fresh=False))

    async def watch(self) -> None:
        """Raise what broke one of the threads, or the reporting, if ever."""
        await self._breakage.wait()
        raise self._broken or RuntimeError("a thread of the performer broke")

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as why:
            self._tell(partial(self._break, why))

    def _hand(self) -> None:
        while (job := self._jobs.get()) is not None:
            event = job()
            if event is not None:
                self._tell(partial(self._report, event))

    def _drop(self, effect: do.DropBallast) -> ev.Event | None:
        self._ballast.drop(effect.amount)
        if not effect.lease:
            return None
        return ev.BallastDropped(self._clock(), effect.lease, effect.resource)

    def _take(self, effect: do.TakeBallast) -> ev.Event:
        amount = self._ballast.take(effect.amount, self._may_take)
        return ev.BallastTaken(self._clock(), effect.resource, effect.amount, amount)

    def _may_take(self, step_bytes: int) -> bool:
        left = self._host.ram_available() - step_bytes
        return left >= self.keep_free_bytes and self._host.pressure() < PRESSURE_MAX

    def _measure(self, resource: str, used: dict[int, int], fresh: bool) -> ev.Event:
        available = self._host.ram_available(exact=True)
        held = self._ballast.held
        return ev.Measured(self._clock(), resource, available, held, used, fresh)

    def _eye(self) -> None:
        while (look := self._looks.get()) is not None:
            resource, roots = look
            uses = self._host.uses(roots)
            self._tell(partial(self._seen, resource, uses))
            used = uses.by_lease
            self._jobs.put(partial(self._measure, resource, used, fresh=True))

    def _seen(self, resource: str, uses: Uses) -> None:
        self.used, self.foreign = uses.by_lease, uses.foreign
        self._looking.discard(resource)

    def _tell(self, news: Callable[[], None]) -> None:
        try:
            self._token.run_sync_soon(self._hear, news)
        except trio.RunFinishedError:
            # The daemon ended meanwhile; so will this thread.
            return

    def _hear(self, news: Callable[[], None]) -> None:
        """In trio's thread, where an exception would end trio itself."""
        if self._closed or self._broken:
            return
        try:
            news()
        except Exception as why:
            self._break(why)

    def _break(self, why: Exception) -> None:
        self._broken = why
        self._breakage.set()
