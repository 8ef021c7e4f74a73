"""Whether it matters how long the line is."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from functools import partial

import fill
from harness import (
    HERE,
    OTHER_CORE,
    PLENTY,
    SERVER_CORE,
    Client,
    Row,
    Run,
    daemon,
    in_turn,
    median,
    on_core,
    pair_p50,
    ratios,
    versus,
)

from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import Ask, Moment, Who
from holdingpen.core.pen import Pen
from holdingpen.core.rights import Rules

LEASES = 10_000
ROUND_S = 0.4


def loaded(run: Run) -> Iterator[Row]:
    waiting = run.pick(100_000, 20_000)
    config = PLENTY.replace("[resources]", f"[resources]\n{fill.CONFIG}")
    with daemon(run, "loaded", config) as full, daemon(run, "empty", config) as empty:
        with on_core(OTHER_CORE):
            filler = subprocess.Popen(
                [
                    *(sys.executable, str(HERE / "fill.py")),
                    *(str(full.path), str(LEASES), str(waiting)),
                ],
                stdout=subprocess.PIPE,
                env={"PYTHONPATH": ":".join(sys.path)},
            )
        try:
            if filler.stdout.readline() != b"ready\n":
                raise RuntimeError("the daemon could not be filled")
            with on_core(SERVER_CORE):
                slot = {"slot": 1}
                long, short = in_turn(
                    run.pick(9, 3),
                    partial(pair_p50, Client(full.path), ROUND_S, slot),
                    partial(pair_p50, Client(empty.path), ROUND_S, slot),
                )
        finally:
            filler.kill()
            filler.communicate()
    yield Row(
        f"acquire + release, {LEASES:,} held, {waiting:,} waiting", "the same, empty",
        ratios(long, short), versus(long, short, 1e6, "us"), 1.3,
    )  # fmt: skip


#: Leases held while decisions are measured.
HELD = 50


class Site:
    """A pen with a line that stays as long as it is: who starts is replaced."""

    def __init__(
        self, waiting: int, resources: dict[str, int], shapes: list[dict[str, int]]
    ) -> None:
        rules = Rules(leases_per_user_max=2**40, waiting_per_user_max=2**40)
        self._pen = Pen(rules=rules)
        self._at = Moment(0.0, 0.0)
        self._who = Who(1000, 1000, 4242)
        self._shapes = shapes
        self._random = random.Random(1)
        self._held: deque[int] = deque()
        self._number = 0
        found = tuple(ev.Resource(name, units) for name, units in resources.items())
        self._pen.handle(ev.Configured(self._at, found))
        while len(self._pen.books.line) < waiting:
            self._join()

    def _join(self) -> None:
        self._number += 1
        amounts = self._random.choice(self._shapes)
        ask = Ask(self._number % 1000, self._number, self._who, amounts)
        _, effects = self._pen.handle(ev.Asked(self._at, ask))
        self._note(effects)

    def _note(self, effects: list[do.Effect]) -> int:
        started = [what.lease for what in effects if type(what) is do.TellGranted]
        self._held.extend(started)
        return len(started)

    def decision_p50(self, count: int) -> float:
        """Median seconds of the end of the oldest lease that lets somebody start."""
        spent = []
        while len(spent) < count:
            lease = self._held.popleft()
            conn = self._pen.books.leases[lease].ask.conn
            event = ev.Released(self._at, conn, 2**40, self._who, lease)
            start = time.perf_counter()
            _, effects = self._pen.handle(event)
            after = time.perf_counter()
            started = self._note(effects)
            if started:
                spent.append(after - start)
            for _ in range(started):
                self._join()
        return median(spent)


def decision(run: Run) -> Iterator[Row]:
    waiting = run.pick(100_000, 20_000)
    one_each = [
        {"licence": 1, f"r{which}": units}
        for which in range(5)
        for units in (1, 2, 3, 4)
    ]
    enough = {"licence": HELD, **{f"r{which}": 10**9 for which in range(5)}}
    for figure, resources, shapes, limit in (
        ("decision", enough, one_each, 2.0),
        (
            "  six resources short",
            dict.fromkeys(enough, HELD),
            [{**shape, "licence": shape[name]} for shape in one_each
             for name in shape if name != "licence"],
            None,
        ),
    ):  # fmt: skip
        long, short = Site(waiting, resources, shapes), Site(10, resources, shapes)
        many, few = in_turn(
            run.pick(9, 3),
            partial(long.decision_p50, 1000),
            partial(short.decision_p50, 1000),
        )
        yield Row(
            f"{figure}, {waiting:,} waiting, 20 shapes", "with 10 waiting",
            ratios(many, few), versus(many, few, 1e6, "us"), limit,
        )  # fmt: skip
