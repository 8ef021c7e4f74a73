"""The performer: effects done by hands, in threads; what came of it is an event.

Threads, begun at the start, because none can be begun when memory is gone:

    a hand for each resource   does its jobs one after the other, so a measurement
                               never falls into the middle of a drop
    a second one for each      takes back and lends what was passed as files: to wipe
                               it takes 0.15 s for each GiB, and no drop waits for that
    the eye                    looks over all processes when a measurement is to be
                               fresh, then has the hand measure at once, so that the
                               two belong together

What is to come back from a lease that is over may still be in use: then it is asked
for again, every ASK_BACK_EVERY_S, until it comes.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import trio

from holdingpen.ballast import Piece
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import Moment
from holdingpen.core.resources import SETTLE_LIMIT_S
from holdingpen.daemon.hands import Hand, Ready
from holdingpen.devices import Foreign, HostLike, Uses
from holdingpen.errors import HoldingPenError, Refusal
from holdingpen.wire import messages as wire

#: How often to ask whether what was lent to a lease that is over is free again: a
#: question costs 2 us, and the next in line may wait for the answer.
ASK_BACK_EVERY_S: Final = 0.1
#: When what does not come back is given up, until it comes after all.  A bit sooner
#: than the core calls it foreign.
OVERDUE_S: Final = 0.9 * SETTLE_LIMIT_S

#: How often the files of one lease are passed to its client: a repetition after a
#: pause is honest, and pages of many files; hundreds are not, and cost descriptors.
LENT_TIMES_MAX: Final = 64

Job = Callable[[], "ev.Event | None"]
Effect = (
    do.DropBallast
    | do.TakeBallast
    | do.Prepare
    | do.TakeBack
    | do.Lend
    | do.GiveStep
    | do.Measure
)
#: Sends an answer to a connection, with files that are closed afterwards.
Reply = Callable[[int, wire.Reply, list[int]], None]


class Performer:
    """Has the effects done."""

    def __init__(
        self,
        hands: Mapping[str, Hand],
        host: HostLike,
        clock: Callable[[], Moment],
        report: Callable[[ev.Event], None],
        reply: Reply,
    ) -> None:
        """Make a performer; must be called inside trio.

        Args:
            hands: resource to the hand that does its jobs.
            host: the machine, for the eye.
            clock: gives the moment for events.
            report: called in trio's thread with what came of a job.
            reply: called in trio's thread with an answer to a client.
        """
        self._hands = dict(hands)
        self._host = host
        self._clock = clock
        self._report = report
        self._reply = reply
        self._token = trio.lowlevel.current_trio_token()
        self._jobs: dict[str, queue.SimpleQueue[Job | None]] = {}
        self._long_jobs: dict[str, queue.SimpleQueue[Job | None]] = {}
        #: Lease to the pid its processes descend from; kept by the daemon's thread.
        self.roots: dict[int, int] = {}
        #: What the eye saw last: lease to bytes, and the biggest of the others.
        self.used: dict[int, int] = {}
        self.foreign: list[Foreign] = []
        #: Resource to why its ballast could not be taken; written by its hand.
        self.troubles: dict[str, str] = {}
        #: Resources the eye is looking for just now.
        self._looking: set[str] = set()
        self._looks: queue.SimpleQueue[tuple[str, dict[int, int]] | None]
        self._looks = queue.SimpleQueue()
        #: (resource, lease) to how often its files were passed; the second hands' own.
        self._lent: dict[tuple[str, int], int] = {}
        #: What is still in use: (resource, lease) to the boot_s when that is too
        #: long; infinity: it was given up.
        self._coming: dict[tuple[str, int], float] = {}
        #: Those of them that a hand has just been asked for.
        self._asked: set[tuple[str, int]] = set()
        self._something_comes = trio.Event()
        self._broken: Exception | None = None
        self._breakage = trio.Event()
        self._closed = False
        self._begin("eye", self._eye)
        for name, hand in self._hands.items():
            hand.broken = lambda why: self._tell(partial(self._break, why))
            jobs = self._jobs[name] = queue.SimpleQueue()
            self._begin(f"hand of {name}", partial(self._work_off, jobs))
            jobs = self._long_jobs[name] = queue.SimpleQueue()
            self._begin(f"second hand of {name}", partial(self._work_off, jobs))

    def _begin(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(
            target=self._work, args=(work,), name=name, daemon=True
        )
        thread.start()

    def expect(self, resource: str, lease: int) -> None:
        """Ask for what was lent to a lease that is long over, until it comes."""
        self._coming[resource, lease] = float("inf")
        self._something_comes.set()

    def close(self) -> None:
        """Let the threads end when they have done what they were given.

        What comes of that is not reported any more.
        """
        self._closed = True
        for jobs in (*self._jobs.values(), *self._long_jobs.values()):
            jobs.put(None)
        self._looks.put(None)

    def perform(self, effect: Effect) -> None:
        """Have one effect done; returns at once."""
        if effect.resource not in self._hands:
            self._without_hand(effect)
            return
        jobs, long = self._jobs[effect.resource], self._long_jobs[effect.resource]
        hand = self._hands[effect.resource]
        match effect:
            case do.DropBallast():
                jobs.put(lambda: self._drop(hand, effect))
            case do.TakeBallast():
                jobs.put(lambda: self._take(hand, effect))
            case do.Prepare():
                jobs.put(lambda: self._prepare(hand, effect))
            case do.TakeBack():
                # by way of the first hand, which may still be making it ready
                jobs.put(lambda: long.put(lambda: self._take_back(hand, effect)))
            case do.Lend():
                long.put(lambda: self._lend(hand, effect))
            case do.GiveStep():
                jobs.put(lambda: self._give_step(hand, effect))
            case do.Measure(resource, True) if hand.wants_eye:
                if resource not in self._looking:
                    self._looking.add(resource)
                    self._looks.put((resource, dict(self.roots)))
            case do.Measure(resource, fresh):
                jobs.put(lambda: self._measure(hand, resource, None, fresh))

    def _without_hand(self, effect: Effect) -> None:
        """The last daemon had a table for it: nothing of it can be had here."""
        at, name = self._clock(), effect.resource
        event: ev.Event
        match effect:
            case do.TakeBack():
                event = ev.BallastBack(at, effect.lease, name, 0)
            case do.TakeBallast():
                event = ev.BallastTaken(at, name, effect.amount, 0, effect.ledger)
            case do.Prepare():
                why = f"{name} is not in the configuration any more."
                event = ev.BallastDropped(at, effect.lease, name, problem=why)
            case _:
                return
        self._tell(partial(self._report, event))

    async def watch(self) -> None:
        """Raise what broke one of the threads, or the reporting, if ever."""
        await self._breakage.wait()
        raise self._broken or RuntimeError("a thread of the performer broke")

    async def chase(self) -> None:
        """Ask for what is to come back, for ever."""
        while True:
            if not self._coming:
                self._something_comes = trio.Event()
                await self._something_comes.wait()
            await trio.sleep(ASK_BACK_EVERY_S)
            for resource, lease in self._coming.keys() - self._asked:
                self._asked.add((resource, lease))
                self.perform(do.TakeBack(resource, lease))

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as why:
            self._tell(partial(self._break, why))

    def _work_off(self, jobs: queue.SimpleQueue[Job | None]) -> None:
        while (job := jobs.get()) is not None:
            event = job()
            if event is not None:
                self._tell(partial(self._report, event))

    # In the hand's thread.

    def _drop(self, hand: Hand, effect: do.DropBallast) -> ev.Event | None:
        hand.ballast.drop(effect.amount)
        if not effect.lease:
            return None
        return ev.BallastDropped(self._clock(), effect.lease, effect.resource)

    def _take(self, hand: Hand, effect: do.TakeBallast) -> ev.Event:
        amount = 0
        try:
            amount = hand.ballast.take(effect.amount, hand.may_take)
            self.troubles.pop(effect.resource, None)
        except OSError as why:
            # a disk that fails is no reason to leave everybody alone
            words = f"cannot hold {effect.resource} back: {why.strerror}."
            self.troubles[effect.resource] = words
        return ev.BallastTaken(
            self._clock(), effect.resource, effect.amount, amount, effect.ledger
        )

    def _prepare(self, hand: Hand, effect: do.Prepare) -> ev.Event:
        ready, problem = Ready(), ""
        try:
            ready = hand.prepare(effect)
        except (HoldingPenError, OSError) as why:
            problem = str(why)
        return ev.BallastDropped(
            self._clock(),
            effect.lease,
            effect.resource,
            ready.place,
            problem,
            ready.how,
            ready.why,
        )

    def _take_back(self, hand: Hand, effect: do.TakeBack) -> ev.Event | None:
        key = (effect.resource, effect.lease)
        try:
            amount = hand.take_back(effect.lease, effect.amount)
        except (HoldingPenError, OSError):
            # Whether it is in use cannot be known: so it is.
            amount = None
        at = self._clock()
        if effect.amount is not None:
            part = amount or 0
            return ev.BallastBack(at, effect.lease, effect.resource, part, part=True)
        if amount is None:
            self._tell(partial(self._wait_for, key, at.boot_s))
            return None
        self._lent.pop(key, None)
        self._tell(partial(self._came, key))
        return ev.BallastBack(at, effect.lease, effect.resource, amount)

    def _lend(self, hand: Hand, effect: do.Lend) -> None:
        key = (effect.resource, effect.lease)
        times = self._lent[key] = self._lent.get(key, 0) + 1
        try:
            if times > LENT_TIMES_MAX:
                message = f"the files of lease {effect.lease} were fetched too often."
                raise Refusal(message, "limit")
            pieces = hand.lend(effect.lease, effect.amount, effect.uid)
        except (HoldingPenError, OSError) as why:
            code = why.code if isinstance(why, HoldingPenError) else "not-now"
            refused = wire.Refused(effect.number, code, str(why))
            self._tell(partial(self._reply, effect.conn, refused, []))
            return
        wanted = pieces[effect.first : effect.first + wire.FILES_MAX]
        fetched = wire.Fetched(
            effect.number,
            effect.lease,
            effect.resource,
            [piece.size for piece in wanted],
            "exact" if effect.exact else "best-effort",
            effect.first + len(wanted) < len(pieces),
        )
        _close([piece for piece in pieces if piece not in wanted])
        files = [piece.fd for piece in wanted]
        self._tell(partial(self._reply, effect.conn, fetched, files))

    def _give_step(self, hand: Hand, effect: do.GiveStep) -> None:
        hand.ballast.give(effect.lease, effect.amount)
        self._tell(partial(self._reply, effect.conn, wire.Done(effect.number), []))

    def _measure(
        self, hand: Hand, resource: str, used: dict[int, int] | None, fresh: bool
    ) -> ev.Event:
        if used is None:
            used = self.used if hand.wants_eye else hand.used()
        available = hand.available()
        ballast, kept = hand.ballast.held, hand.kept
        return ev.Measured(
            self._clock(), resource, available, ballast, used, fresh, kept
        )

    def _eye(self) -> None:
        while (look := self._looks.get()) is not None:
            resource, roots = look
            uses = self._host.uses(roots)
            self._tell(partial(self._seen, resource, uses))
            hand = self._hands[resource]
            self._jobs[resource].put(
                partial(self._measure, hand, resource, uses.by_lease, fresh=True)
            )

    # In trio's thread.

    def _seen(self, resource: str, uses: Uses) -> None:
        self.used, self.foreign = uses.by_lease, uses.foreign
        self._looking.discard(resource)

    def _wait_for(self, key: tuple[str, int], now_s: float) -> None:
        """It is still in use.  Say so once it has been so for too long."""
        self._asked.discard(key)
        overdue_s = self._coming.setdefault(key, now_s + OVERDUE_S)
        self._something_comes.set()
        if now_s >= overdue_s:
            self._coming[key] = float("inf")
            resource, lease = key
            self._report(ev.BallastBack(self._clock(), lease, resource, 0))

    def _came(self, key: tuple[str, int]) -> None:
        self._asked.discard(key)
        self._coming.pop(key, None)

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


def _close(pieces: list[Piece]) -> None:
    for piece in pieces:
        os.close(piece.fd)
