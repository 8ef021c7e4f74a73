"""A term on the pure core: 200 users, 30 days, everything the line and time can do.

    python tests/core/term.py [--users N] [--days N] [--seed N] [--truthful]

plays the term and prints what became of it.  Everybody's requests are in people.py;
the laws, checked after every event, in laws.py.  The hands are simulated here: ballast
comes and goes after a while, and programs use what they use, not what they asked for.

The books are balanced after every event; they are recounted in full after each that
changes a plan, a capacity or who is asked back, and after every RECOUNT_EVERY-th.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import count
from pathlib import Path
from unittest import mock

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import laws  # noqa: E402
import tally  # noqa: E402
from people import (  # noqa: E402
    DAY_S,
    GIB,
    HOUR_S,
    PRIORITY_MAX,
    STAFF_GID,
    STUDENTS_GID,
    Job,
    People,
    Plan,
)

from holdingpen.core import effects as do  # noqa: E402
from holdingpen.core import events as ev  # noqa: E402
from holdingpen.core import measuring, telling  # noqa: E402
from holdingpen.core.facts import Ask, Moment, Reserved, Who  # noqa: E402
from holdingpen.core.leases import LIVE, WAITING  # noqa: E402
from holdingpen.core.pen import Pen  # noqa: E402
from holdingpen.core.rights import Allow, Rules  # noqa: E402

#: Monday, 5 October 2026, 0:00 UTC, less the seconds since boot.
WALL_S = 1_791_158_400.0
ROOT = Who(0, 0, 1)
#: Full recounts, between those after structural events.
RECOUNT_EVERY = 1000
#: While all is quiet the machine is measured so seldom, what settles so seldom, and so
#: seldom people are told: the daemon's 2 s, 0.25 s and 1 s make three million events of
#: the same kind.
QUIET_S = 60.0
SETTLING_S = 2.0
TELL_S = 60.0
#: Ballast is freed so fast (measured: 16 GiB/s), and taken in so many seconds a GiB.
DROP_BYTES_S = 16 * GIB
TAKE_S_PER_GIB = 0.25
#: A process of 100 GiB takes 7 s to be torn down.
TEARDOWN_BYTES_S = 13.8 * GIB
#: Never are the last so many bytes taken as ballast.
GUARD = 2 * GIB
RESOURCES = (
    # ballast by 2 GiB, so that it does not come and go in a million slices
    ev.Resource("ram", 512 * GIB, hold=128 * GIB, unit=2 * GIB, measured=True),
    ev.Resource("cpu", 128),
    ev.Resource("gpu", 8),
    ev.Resource("licence.matlab", 10),
    ev.Resource("disk.scratch", 4096 * GIB),
)
RULES = Rules(
    allow=(
        Allow(
            'rule 1 (group = "students")',
            gids=frozenset({STUDENTS_GID}),
            most={"ram": 128 * GIB, "machine": 0},
            time_max_s=12 * HOUR_S,
            priority_max=0,
            reserve=False,
        ),
        Allow("rule 2", priority_max=PRIORITY_MAX),
    ),
    ageing_s=HOUR_S,
    reclaim_grace_s=180.0,
)


class Sat:
    """What became of one request."""

    def __init__(self, job: Job, asked_s: float) -> None:
        self.job = job
        self.asked_s = asked_s
        self.lease = 0
        self.started_s: float | None = None
        #: (when told, boot_s foretold): the first and the last.
        self.first: tuple[float, float] | None = None
        self.last: tuple[float, float] | None = None
        self.gone = False
        #: Grows when what it was about to do is off: yield, stop.
        self.turn = 0

    def used(self, now_s: float) -> int:
        """Bytes of ram it uses now."""
        assert self.started_s is not None
        # a program has all it wants after a tenth of its time
        grown = min(1.0, (now_s - self.started_s) / (self.job.runs_s / 10))
        return int(self.job.amounts.get("ram", 0) * self.job.uses * grown)


class Real:
    """The machine's memory as it really is, whatever the books say."""

    def __init__(self) -> None:
        self.ballast = 0
        #: Used by programs that have no lease.
        self.outside = 0
        #: What was used by programs that have ended, and is not free yet.
        self.dying = 0
        #: Lease to its program, also when the lease is over and the program runs on.
        self.running: dict[int, Sat] = {}

    def available(self, now_s: float) -> int:
        used = sum(sat.used(now_s) for sat in self.running.values())
        there = RESOURCES[0].capacity - self.ballast - self.outside - self.dying
        return max(0, there - used)


class Term:
    """A pen, its people, its hands, and a clock that jumps to what comes next."""

    def __init__(
        self, users: int = 200, days: int = 30, seed: int = 1, truthful: bool = False,
        rules: Rules = RULES,
    ) -> None:  # fmt: skip
        self.books = laws.Watched(rules, PRIORITY_MAX)
        self.pen = Pen(self.books, rules)
        self.end_s = days * DAY_S
        self._days = days
        self._people = People(seed, users, days, truthful)
        self._dice = random.Random(seed + 1)
        self.now_s = 0.0
        self._todo: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._conns = count(1)
        self.jobs: dict[int, Sat] = {}
        self.plans: dict[int, Plan] = {}
        # The machine as it really is.
        self._real = Real()
        # What is counted.
        self.tally: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.waits_s: dict[int, list[float]] = defaultdict(list)
        self.late_s: list[float] = []
        self.late_why: Counter[str] = Counter()
        self.need_not: list[str] = []
        self.errors: dict[str, list[tuple[float, float]]] = {"first": [], "last": []}
        self.waited = 0
        self.foretold = 0
        #: Resource to unit-seconds leased; and of ballast: held, wanted.
        self.leased: dict[str, float] = defaultdict(float)
        self.ballast_s = [0.0, 0.0]
        self.longest_line = 0

    # The clock.

    @property
    def at(self) -> Moment:
        return Moment(self.now_s, self.now_s + WALL_S)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._todo, (self.now_s + seconds, next(self._order), what))

    def run(self) -> None:
        """Play the term, and let those who are there then finish."""
        calm = mock.patch.multiple(
            measuring, EVERY_S=QUIET_S, SETTLING_MAX_S=SETTLING_S
        )
        with calm, mock.patch.multiple(telling, TELL_EVERY_S=TELL_S):
            self._begin()
            stop_s = self.end_s + 30 * DAY_S
            while self.books.leases or self.now_s < self.end_s:
                if self.now_s > stop_s:
                    raise laws.Unlawful(f"for ever: {self.books.leases}")
                self._step()

    def _step(self) -> None:
        wake_s = self.pen.wake_at_s
        if self._todo and self._todo[0][0] <= wake_s:
            time_s, _, what = heapq.heappop(self._todo)
            self._pass(time_s)
            what()
            return
        self._pass(max(wake_s, self.now_s))
        self.play(ev.Ticked(self.at))
        if self.pen.wake_at_s <= self.now_s:
            # what came of the time may have to be told, but that is that
            self.play(ev.Ticked(self.at))
        if self.pen.wake_at_s <= self.now_s:
            self.tally["woken again and again"] += 1
            self._pass(self.now_s + 0.01)

    def _pass(self, time_s: float) -> None:
        spent_s = time_s - self.now_s
        self.now_s = time_s
        if time_s <= self.end_s:
            for name, ledger in self.books.resources.items():
                self.leased[name] += spent_s * ledger.leased
            ram = self.books.resources["ram"]
            self.ballast_s[0] += spent_s * ram.held
            self.ballast_s[1] += spent_s * max(0, ram.hold - ram.drawn)

    def _begin(self) -> None:
        self.play(ev.Started(self.at, "boot"))
        self.play(ev.Configured(self.at, RESOURCES))
        self._next_job(iter(self._people.jobs()))
        for plan in self._people.plans():
            self.later(plan.at_s, lambda plan=plan: self._reserve(plan))
        for hour in range(24 * self._days):
            self.later(hour * HOUR_S, self._others)
        # a module of memory is taken out for a day, and the room is cleaned for an hour
        self._order_at(16, 10, lambda: self._set(384 * GIB))
        self._order_at(17, 10, lambda: self._set(None))
        self._order_at(9, 17, lambda: self._drain("cleaning"))
        self._order_at(9, 18, lambda: self._drain(None))

    def _order_at(self, day: int, hour: int, order: Callable[[], None]) -> None:
        if day < self._days:
            self.later(day * DAY_S + hour * HOUR_S, order)

    def _next_job(self, jobs) -> None:
        job = next(jobs, None)
        if job is not None:
            self.later(max(0.0, job.at_s - self.now_s), lambda: self._comes(job, jobs))

    def _comes(self, job: Job, jobs) -> None:
        self._next_job(jobs)
        self._ask(job)

    # The pen.

    def play(self, event: ev.Event) -> None:
        """Put an event before the pen, check the laws, and do what it wants done."""
        facts, effects = self.pen.handle(event)
        self.tally["events"] += 1
        laws.balance(self.books)
        number = self.tally["events"]
        self.tally["recounts"] += laws.whole(self.books, facts, number, RECOUNT_EVERY)
        for what in facts:
            if isinstance(what, Reserved):
                self._began(what)
        self.longest_line = max(self.longest_line, len(self.books.line))
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: do.Effect) -> None:
        match effect:
            case do.TellGranted():
                self._granted(self.jobs[effect.conn], effect)
            case do.TellWaiting():
                self._told(self.jobs.get(effect.conn), effect)
            case do.TellRefused():
                self._was_refused(effect)
            case do.TellReserved():
                self._was_reserved(effect)
            case do.TellReclaim():
                self._reclaim(effect)
            case do.TellEnded():
                self._was_ended(effect)
            case do.DropBallast():
                self._real.ballast -= effect.amount
                if effect.lease:
                    self._drop(effect)
            case do.TakeBallast():
                self._take(effect)
            case do.Measure():
                self.later(0.005, lambda: self._measure(effect))
            case do.Note():
                self.tally["notes"] += 1
            case _:
                pass

    # People.

    def _ask(self, job: Job) -> None:
        conn = next(self._conns)
        sat = self.jobs[conn] = Sat(job, self.now_s)
        self.tally["requests"] += 1
        who = Who(job.uid, job.gid, conn)
        reclaimable = job.yields_s is None or job.yields_s >= 0
        ask = Ask(
            conn, 1, who, job.amounts, job.priority, job.says_s, job.wait_s, reclaimable
        )
        if job.leaves_s is not None:
            self.later(job.leaves_s, lambda: self._leaves(conn, sat))
        self.play(ev.Asked(self.at, ask, frozenset(job.groups)))
        lease = self.books.leases.get(self.books.last_lease)
        if lease is not None and lease.ask.conn == conn and lease.state == WAITING:
            self.waited += 1

    def _leaves(self, conn: int, sat: Sat) -> None:
        if sat.started_s is None and not sat.gone:
            self.tally["left"] += 1
            self._go(conn, sat)

    def _granted(self, sat: Sat, told: do.TellGranted) -> None:
        sat.lease, sat.started_s = told.lease, self.now_s
        self.tally["granted"] += 1
        inside = self.books.leases[told.lease].ask.inside
        self.tally["granted inside"] += bool(inside)
        wait_s = self.now_s - sat.asked_s
        if not inside:
            self.waits_s[sat.job.priority].append(wait_s)
        for name, foretold in (("first", sat.first), ("last", sat.last)):
            if foretold is not None:
                error_s = self.now_s - foretold[1]
                self.errors[name].append((error_s, self.now_s - foretold[0]))
        self.foretold += sat.first is not None
        self._real.running[told.lease] = sat
        turn = sat.turn
        self.later(sat.job.runs_s, lambda: self._stops(told.conn, sat, turn))
        if sat.job.shrinks:
            self.later(sat.job.runs_s / 2, lambda: self._shrinks(told.conn, sat))

    def _stops(self, conn: int, sat: Sat, turn: int) -> None:
        if not sat.gone and sat.turn == turn:
            self.tally["finished"] += 1
            self._go(conn, sat)

    def _go(self, conn: int, sat: Sat) -> None:
        """The program ends, and its connection is closed; its memory takes longer."""
        sat.gone = True
        if self._real.running.pop(sat.lease, None) is not None:
            used = sat.used(self.now_s)
            slow = 60.0 if self._dice.random() < 0.01 else 0.0
            self._real.dying += used
            self.later(slow + used / TEARDOWN_BYTES_S, lambda: self._dies(used))
        self.play(ev.Gone(self.at, conn))

    def _dies(self, used: int) -> None:
        self._real.dying -= used

    def _shrinks(self, conn: int, sat: Sat) -> None:
        lease = self.books.leases.get(sat.lease)
        if sat.gone or lease is None or lease.state != LIVE:
            return
        self.tally["shrunk"] += 1
        quarter = {"ram": lease.amounts["ram"] // 4}
        sat.job = sat.job._replace(uses=sat.job.uses * 3 / 4)
        who = lease.ask.who
        self.play(ev.ShrinkAsked(self.at, conn, 2, who, lease.id, quarter))

    def _told(self, sat: Sat | None, told: do.TellWaiting) -> None:
        if sat is not None and told.expected_wall_s is not None:
            sat.last = (self.now_s, told.expected_wall_s - WALL_S)
            sat.first = sat.first or sat.last

    def _was_refused(self, told: do.TellRefused) -> None:
        sat, plan = self.jobs.get(told.conn), self.plans.get(told.conn)
        if sat is not None and not sat.gone:
            late = self.now_s > sat.asked_s
            self.refused[told.code + (", after waiting" if late else "")] += 1
            sat.gone = True
            self.later(0.0, lambda: self.play(ev.Gone(self.at, told.conn)))
        elif plan is not None:
            what = "reservation" if told.number == 1 else "extension"
            self.refused[f"{told.code} ({what})"] += 1
            if told.free_wall_s is not None and len(plan.starts_s) == 1:
                again = plan._replace(starts_s=(told.free_wall_s - WALL_S,))
                self.later(60.0, lambda: self._reserve(again))

    def _reclaim(self, told: do.TellReclaim) -> None:
        sat = self.jobs[told.conn]
        sat.turn += 1
        turn = sat.turn
        left_s = sat.job.runs_s - (self.now_s - (sat.started_s or 0.0))
        if told.on:
            self.tally["asked back"] += 1
        else:
            self.tally["withdrawn"] += 1
        yields_s = sat.job.yields_s
        # who never said that he would yields when a reservation asks, mostly
        if yields_s == -1.0:
            yields_s = 150.0 if sat.lease % 4 else None
        if told.on and yields_s is not None and yields_s < left_s:
            self.later(yields_s, lambda: self._yields(told.conn, sat, turn))
        else:
            stop = lambda: self._stops(told.conn, sat, turn)  # noqa: E731
            self.later(max(0.0, left_s), stop)

    def _yields(self, conn: int, sat: Sat, turn: int) -> None:
        if not sat.gone and sat.turn == turn:
            self.tally["yielded"] += 1
            self._go(conn, sat)

    def _was_ended(self, told: do.TellEnded) -> None:
        self.ended[told.why] += 1
        sat = self.jobs.get(told.conn)
        if sat is not None and not sat.gone:
            # its program runs on for a while: foreign use
            sat.turn += 1
            self.later(30.0, lambda: None if sat.gone else self._go(told.conn, sat))

    # Reservations.

    def _reserve(self, plan: Plan) -> None:
        conn = next(self._conns)
        self.plans[conn] = plan
        self.tally["reservations asked"] += 1
        who = Who(plan.uid, STAFF_GID if plan.uid else 0, conn)
        ask = Ask(
            conn, 1, who, plan.amounts, length_s=plan.lasts_s, lasts_s=plan.lasts_s,
            gid=plan.gid,
        )  # fmt: skip
        if plan.starts_s:
            starts = tuple(WALL_S + x for x in plan.starts_s)
            self.play(ev.BookAsked(self.at, ask, starts))
        else:
            self.play(ev.Asked(self.at, ask))

    def _was_reserved(self, told: do.TellReserved) -> None:
        if self.books.leases[told.leases[0]].state != LIVE:
            self.tally["booked"] += len(told.leases)
            for number in told.leases:
                begin_s = self.books.leases[number].starts_wall_s - WALL_S
                self.later(begin_s - self.now_s + 1.0, lambda n=number: self._look(n))
        self.later(1.0, lambda: self.play(ev.Gone(self.at, told.conn)))

    def _look(self, number: int) -> None:
        """A second after its date: has it begun?"""
        lease = self.books.leases.get(number)
        if lease is not None and lease.state == WAITING:
            why = laws.blockers(self.books, lease, self.at)
            self.late_why[why] += 1
            if why in laws.NEED_NOT:
                self.need_not.append(f"{number} at {self.now_s:.0f}: {why}")

    def _began(self, what: Reserved) -> None:
        lease = self.books.leases[what.lease]
        plan = self.plans[lease.ask.conn]
        self.tally["reservations begun"] += 1
        begin_s = self.now_s
        if lease.starts_wall_s is not None:
            begin_s = lease.starts_wall_s - WALL_S
            self.late_s.append(max(0.0, self.now_s - begin_s))
        wait_s = max(0.0, begin_s - self.now_s)
        for job in plan.inside:
            self.later(wait_s + job.at_s, lambda job=job: self._ask(job))
        number, lasts_s = lease.id, plan.lasts_s
        if plan.extend_at is not None:
            later_s = wait_s + plan.extend_at * lasts_s
            self.later(later_s, lambda: self._extend(number, lease.ask))
        if plan.release_at is not None:
            later_s = wait_s + plan.release_at * lasts_s
            self.later(later_s, lambda: self._release(number, lease.ask))

    def _extend(self, number: int, ask: Ask) -> None:
        if number in self.books.reservations:
            self.tally["extensions asked"] += 1
            gids = frozenset({ask.who.gid})
            extend = ev.ExtendAsked(self.at, ask.conn, 2, ask.who, number, HOUR_S, gids)
            self.play(extend)

    def _release(self, number: int, ask: Ask) -> None:
        if number in self.books.reservations:
            self.tally["reservations released"] += 1
            self.play(ev.Released(self.at, next(self._conns), 1, ask.who, number))

    # The administrator.

    def _set(self, capacity: int | None) -> None:
        self.play(ev.CapacityAsked(self.at, 0, 1, ROOT, "ram", capacity))

    def _drain(self, reason: str | None) -> None:
        self.play(ev.DrainAsked(self.at, 0, 1, ROOT, reason))

    # Hands.

    def _drop(self, drop: do.DropBallast) -> None:
        answer = lambda: self.play(  # noqa: E731
            ev.BallastDropped(self.at, drop.lease, drop.resource)
        )
        self.later(drop.amount / DROP_BYTES_S, answer)

    def _take(self, take: do.TakeBallast) -> None:
        self.later(take.amount / GIB * TAKE_S_PER_GIB, lambda: self._took(take))

    def _took(self, take: do.TakeBallast) -> None:
        there = max(0, self._real.available(self.now_s) - GUARD)
        got = min(take.amount, there // RESOURCES[0].unit * RESOURCES[0].unit)
        self.tally["ballast not taken"] += got < take.amount
        self._real.ballast += got
        answer = ev.BallastTaken(self.at, take.resource, take.amount, got, take.ledger)
        self.play(answer)

    def _others(self) -> None:
        """What is used outside of all leases changes each hour."""
        self._real.outside = int(self._dice.uniform(0, 16) * GIB)

    def _measure(self, wanted: do.Measure) -> None:
        used = {n: x.used(self.now_s) for n, x in self._real.running.items()}
        there = self._real.available(self.now_s)
        self.play(
            ev.Measured(
                self.at, wanted.resource, there, self._real.ballast, used, wanted.fresh
            )
        )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--users", type=int, default=200)
    options.add_argument("--days", type=int, default=30)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument(
        "--truthful", action="store_true", help="all say exactly how long it will take"
    )
    chosen = options.parse_args()
    term = Term(chosen.users, chosen.days, chosen.seed, chosen.truthful)
    began_s = time.perf_counter()
    term.run()
    spent_s = time.perf_counter() - began_s
    print(f"{chosen.users} users, {chosen.days} days, in {spent_s:.1f} s of real time")
    for what, how_much in tally.rows(term):
        print(f"{what:<44}{how_much}")
    for line in term.need_not:
        print("late, and need not:", line)


if __name__ == "__main__":
    main()
