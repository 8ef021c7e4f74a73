"""What two hundred people want of one machine in a term: drawn, always alike.

Everybody asks for something, says how long it will take or does not, is wrong about
it, and does what he does whatever the pen says.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

GIB = 2**30
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
WEEK_S = 7 * DAY_S
STAFF_GID, STUDENTS_GID = 400, 401
STUDENTS = 140
#: Lengths people say.
ROUND_S = [60.0 * m for m in (10, 15, 30, 60, 120, 180, 240, 360, 480, 720, 1440)]
#: How many ask in each hour of a working day, in parts of 100.
HOURS = [1] * 7 + [2, 5, 9, 10, 10, 7, 8, 10, 9, 7, 5, 3, 3, 2, 2, 2, 1]
PRIORITY_MAX = 3


class Job(NamedTuple):
    """One program, and what its user says of it."""

    at_s: float
    uid: int
    gid: int
    amounts: dict[str, int]
    #: How long it really runs.
    runs_s: float
    #: How long its user says; None: he does not.
    says_s: float | None = None
    priority: int = 0
    #: As in Ask.
    wait_s: float | None = None
    #: Its user goes away when it has waited so long; None: he stays.
    leaves_s: float | None = None
    #: How soon it gives back when asked; -1: it said that it does not, None: it said
    #: so, and never does.
    yields_s: float | None = -1.0
    #: Which part of its ram it really uses.
    uses: float = 0.8
    #: Gives a quarter of its ram back half way through.
    shrinks: bool = False
    groups: tuple[int, ...] = ()


class Plan(NamedTuple):
    """One reservation, and what its owner does with it."""

    at_s: float
    uid: int
    amounts: dict[str, int]
    lasts_s: float
    #: When it is to begin, in seconds of the term; empty: as soon as it can.
    starts_s: tuple[float, ...] = ()
    gid: int | None = None
    #: After which part of its time its owner has it end later, or releases it.
    extend_at: float | None = None
    release_at: float | None = None
    #: What is run inside, at so many seconds after its begin.
    inside: tuple[Job, ...] = ()


class People:
    """Draws what is asked for."""

    def __init__(self, seed: int, users: int, days: int, truthful: bool) -> None:
        self._dice = random.Random(seed)
        self._users = users
        self._days = days
        #: Whether all say exactly how long it will take.
        self._truthful = truthful

    def jobs(self) -> Iterator[Job]:
        """Everything asked for at once, soonest first."""
        # 3.2 a user on a working day fill the machine to three quarters
        for day in range(self._days):
            busy = 0.3 if day % 7 > 4 else 1.0
            count = int(3.2 * self._users * busy)
            hours = self._dice.choices(range(24), HOURS, k=count)
            times = sorted((h + self._dice.random()) * HOUR_S for h in hours)
            for time_s in times:
                yield self._job(day * DAY_S + time_s)

    def plans(self) -> Iterator[Plan]:
        """The reservations of the term, soonest asked first."""
        plans = [*self._classes(), *self._sundays()]
        for day in range(self._days):
            if day % 7 < 5:
                plans += [
                    self._plan(day, ahead=n % 2 == 0) for n in range(self._users // 20)
                ]
        return iter(sorted(plans, key=lambda plan: plan.at_s))

    def _job(self, at_s: float) -> Job:
        dice = self._dice
        uid, gid = self._user()
        kind = dice.choices(("short", "long", "batch", "alone"), (64, 23, 12.94, 0.06))[
            0
        ]
        if kind == "alone":
            return self._said(Job(at_s, uid, gid, {"machine": 1}, self._time(15)))
        short = kind == "short"
        amounts = {"ram": self._size(4 if short else 14)}
        if dice.random() < 0.7:
            amounts["cpu"] = dice.choice((1, 1, 2, 4, 8) if short else (2, 4, 8, 16))
        if dice.random() < 0.12:
            amounts["gpu"] = dice.choice((1, 1, 1, 2))
        if dice.random() < 0.10:
            amounts["licence.matlab"] = 1
        if dice.random() < 0.08:
            amounts["disk"] = dice.choice((50, 100, 400)) * GIB
        yields = -1.0
        if kind == "batch":
            yields = None if dice.random() < 0.2 else dice.expovariate(1 / 120)
        priority = 0
        if kind != "batch" and gid == STAFF_GID:
            priority = dice.choices(range(PRIORITY_MAX + 1), (70, 15, 10, 5))[0]
        job = Job(
            at_s, uid, gid, amounts, self._time(12 if short else 60),
            priority=priority,
            wait_s=dice.choices((None, 0.0, 600.0, 2 * HOUR_S), (75, 10, 5, 10))[0],
            leaves_s=dice.expovariate(1 / HOUR_S) if dice.random() < 0.1 else None,
            yields_s=yields,
            uses=min(1.3, dice.betavariate(4, 2) * 1.1),
            shrinks=dice.random() < 0.05,
        )  # fmt: skip
        return self._said(job)

    def _said(self, job: Job) -> Job:
        """With the length its user says: none, or often too much, or too little."""
        if self._truthful:
            return job._replace(says_s=job.runs_s)
        if self._dice.random() < 0.4:
            return job._replace(says_s=None)
        guess_s = job.runs_s * self._dice.lognormvariate(0.5, 0.6)
        said = (x for x in ROUND_S if x >= guess_s)
        return job._replace(says_s=next(said, ROUND_S[-1]))

    def _user(self) -> tuple[int, int]:
        number = self._dice.randrange(self._users)
        students = self._users * STUDENTS // 200
        return 1000 + number, STUDENTS_GID if number < students else STAFF_GID

    def _staff(self) -> int:
        return 1000 + self._dice.randrange(self._users * STUDENTS // 200, self._users)

    def _time(self, median_min: float) -> float:
        return max(20.0, 60 * median_min * self._dice.lognormvariate(0, 1.0))

    def _size(self, median_gib: float) -> int:
        gib = median_gib * self._dice.lognormvariate(0, 0.9)
        return int(min(600.0, max(0.25, gib)) * 4) * GIB // 4

    def _plan(self, day: int, ahead: bool) -> Plan:
        dice = self._dice
        at_s = day * DAY_S + dice.uniform(8, 18) * HOUR_S
        begin_s = None
        if ahead:
            # on the half hour
            begin_s = (at_s + dice.uniform(0.5, 80) * HOUR_S) // 1800 * 1800 + 1800
        uid = self._staff()
        lasts_s = dice.choice((1, 2, 3, 4)) * HOUR_S
        gib = dice.choice((16, 32, 64, 96))
        inside = [
            Job(
                dice.uniform(60, 1800), uid, STAFF_GID, {"ram": gib * GIB // 4},
                dice.uniform(0.2, 1.2) * lasts_s,
            )
            for _ in range(dice.randint(1, 4))
        ]  # fmt: skip
        change = dice.random()
        return Plan(
            at_s, uid, {"ram": gib * GIB, "cpu": dice.choice((4, 8, 16))}, lasts_s,
            () if begin_s is None else (begin_s,),
            extend_at=0.8 if change < 0.3 else None,
            release_at=0.6 if change > 0.7 else None,
            inside=tuple(inside),
        )  # fmt: skip

    def _classes(self) -> Iterator[Plan]:
        """Three courses, each week, booked in the first hour of the term."""
        for number, (day, hour, gib) in enumerate(
            [(0, 9, 120), (2, 14, 90), (3, 9, 150)]
        ):
            weeks = range(1, self._days // 7 + (day < self._days % 7))
            first_s = day * DAY_S + hour * HOUR_S
            starts = tuple(first_s + week * WEEK_S for week in weeks)
            students = self._users * STUDENTS // 200
            members = self._dice.sample(range(students), students * 3 // 14)
            gid = 500 + number
            work = [
                Job(
                    self._dice.uniform(0, 900), 1000 + who, STUDENTS_GID,
                    {"ram": 3 * GIB, "cpu": 1}, self._dice.uniform(1800, 6300),
                    groups=(gid,),
                )
                for who in members
            ]  # fmt: skip
            needs = {"ram": gib * GIB, "cpu": 30}
            if starts:
                yield Plan(
                    600.0 + number, self._staff(), needs, 2 * HOUR_S, starts, gid,
                    inside=tuple(work),
                )  # fmt: skip

    def _sundays(self) -> Iterator[Plan]:
        """The machine is looked after each Sunday at six, as said on Friday."""
        for week in range((self._days + 1) // 7):
            sunday_s = (7 * week + 6) * DAY_S
            yield Plan(
                sunday_s - 2.5 * DAY_S, 0, {"machine": 1}, 2 * HOUR_S,
                (sunday_s + 6 * HOUR_S,),
            )  # fmt: skip
