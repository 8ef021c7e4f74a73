"""Whole days played through: nobody is ever delayed by someone behind him.

Every lease runs just as long as it runs, whether it said so or not; who behind whom
stands is decided by priority and arrival.  The yardstick is the line in which nobody
passes by a known end, and in it the line without all those behind.
"""

import heapq
from itertools import count
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from holdingpen.core.books import Books
from holdingpen.core.effects import TellGranted
from holdingpen.core.events import Asked, Configured, DrainAsked, Gone, Resource
from holdingpen.core.facts import Ask, Moment, Who
from holdingpen.core.pen import Pen
from holdingpen.core.rights import Rules
from holdingpen.core.standings import standings

ROOT = Who(0, 0, 1)
CAPACITY = {"ram": 6, "gpu": 3, "licence": 1}


class Job(NamedTuple):
    needs: dict[str, int]
    length: int
    #: Whether it says how long it will run.
    says: bool = True
    arrives: int = 0
    priority: int = 0


class Day:
    """A pen, and jobs which come, run and end by themselves."""

    def __init__(self, jobs: list[Job], backfill: bool) -> None:
        self.pen = Pen(Books(), Rules(backfill=backfill))
        resources = tuple(Resource(name, n) for name, n in CAPACITY.items())
        self.pen.handle(Configured(self.at(0), resources))
        self.jobs = jobs
        self.starts: dict[int, int] = {}
        self.order = count()
        # At each moment those who end go before those who come.
        self.todo = [
            (job.arrives, 1, next(self.order), number)
            for number, job in enumerate(jobs)
        ]
        heapq.heapify(self.todo)

    def at(self, time_s: float) -> Moment:
        return Moment(float(time_s), float(time_s))

    def play(self, now: int, event) -> None:
        _, effects = self.pen.handle(event)
        for told in effects:
            if isinstance(told, TellGranted):
                self.starts[told.conn] = now
                end = now + self.jobs[told.conn].length
                heapq.heappush(self.todo, (end, 0, next(self.order), told.conn))

    def come(self, now: int, number: int) -> None:
        job = self.jobs[number]
        length = float(job.length) if job.says else None
        who = Who(1000, 1000, number)
        ask = Ask(number, 1, who, job.needs, job.priority, length)
        self.play(now, Asked(self.at(now), ask))

    def drain(self, now: int, reason: str | None) -> None:
        self.play(now, DrainAsked(self.at(now), 999, 1, ROOT, reason))

    def step(self) -> int:
        now, comes, _, number = heapq.heappop(self.todo)
        if comes:
            self.come(now, number)
        else:
            self.play(now, Gone(self.at(now), number))
        return now

    def run(self) -> dict[int, int]:
        """Let the day pass; job to its start."""
        while self.todo:
            self.step()
        assert len(self.starts) == len(self.jobs), "somebody starved"
        return self.starts


needs = st.fixed_dictionaries(
    {},
    optional={name: st.integers(1, n) for name, n in CAPACITY.items()}
    | {"machine": st.just(1)},
).filter(bool)
lengths = st.integers(1, 12)
coming = st.builds(Job, needs, lengths, st.booleans(), st.integers(0, 12), st.just(0))
days = st.lists(coming, min_size=2, max_size=12)


@given(days)
def test_in_a_strict_line_those_behind_make_no_difference(jobs):
    everybody = Day(jobs, backfill=False).run()
    by_arrival = sorted(range(len(jobs)), key=lambda n: (jobs[n].arrives, n))
    for last in range(1, len(jobs)):
        present = by_arrival[:last]
        without = Day([jobs[n] for n in present], backfill=False).run()
        assert without == {m: everybody[n] for m, n in enumerate(present)}


#: The first waits for the licence till 100; the second has his ram at 10, and the
#: third would take it.
SECOND_IN_LANE = [
    Job({"licence": 1}, 100),
    Job({"ram": 3}, 10),
    Job({"ram": 3, "licence": 1}, 5),
    Job({"ram": 3}, 5),
    Job({"ram": 3}, 50),
]
#: Nobody knows that the second ends at once.
UNKNOWN_END = [
    Job({"ram": 2}, 100),
    Job({"ram": 2}, 1, says=False),
    Job({"ram": 4}, 5),
    Job({"ram": 2}, 50),
]


@given(days)
@example(SECOND_IN_LANE)
@example(UNKNOWN_END)
def test_passing_delays_nobody(jobs):
    """Neither with known lengths nor without."""
    strict = Day(jobs, backfill=False).run()
    passing = Day(jobs, backfill=True).run()
    late = {n: (passing[n], strict[n]) for n in strict if passing[n] > strict[n]}
    assert late == {}


@given(st.lists(st.tuples(coming, st.integers(0, 2)), min_size=2, max_size=12))
def test_passing_delays_nobody_of_higher_priority(jobs):
    """All ask before the pen opens, so that nobody urgent comes when it is too late."""
    jobs = [job._replace(arrives=0, priority=priority) for job, priority in jobs]
    starts = []
    for backfill in (False, True):
        day = Day(jobs, backfill)
        day.drain(0, "closed")
        for _ in jobs:
            day.step()
        day.drain(0, None)
        starts.append(day.run())
    strict, passing = starts
    late = {n: (passing[n], strict[n]) for n in strict if passing[n] > strict[n]}
    assert late == {}


def test_passing_is_worth_it():
    """The small one runs while the big one waits, and the big one waits no longer."""
    jobs = [Job({"ram": 5}, 10), Job({"ram": 6}, 10), Job({"ram": 1}, 8)]
    assert Day(jobs, backfill=False).run() == {0: 0, 1: 10, 2: 20}
    assert Day(jobs, backfill=True).run() == {0: 0, 1: 10, 2: 0}


@given(days)
def test_what_is_foretold_comes_true(jobs):
    """In a strict line where everybody says how long and nobody comes later."""
    day = Day([job._replace(says=True, arrives=0) for job in jobs], backfill=False)
    for _ in jobs:
        now = day.step()
    books = day.pen.books
    told = standings(books, day.at(now), list(books.line.first(99)))
    foretold = {books.leases[n].ask.conn: x.expected_wall_s for n, x in told.items()}
    starts = day.run()
    assert foretold == {n: starts[n] for n in foretold}


@given(days)
def test_what_is_foretold_does_not_come_later(jobs):
    """Unless somebody else runs longer than he said, or comes and is more urgent."""
    day = Day(jobs, backfill=True)
    foretold = {}
    while day.todo:
        now = day.step()
        books = day.pen.books
        waiting = list(books.line.first(99))
        for number, how in standings(books, day.at(now), waiting).items():
            if how.expected_wall_s is not None:
                conn = books.leases[number].ask.conn
                was = foretold.get(conn, how.expected_wall_s)
                foretold[conn] = min(was, how.expected_wall_s)
    late = {n: (day.starts[n], t) for n, t in foretold.items() if day.starts[n] > t}
    assert late == {}
