"""The journal: putting facts on the disk, reading them back, writing it anew."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import trio
from harness import COMMAND, LABEL, Row, Run, in_turn, median, ratios, versus

from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import (
    Ask,
    CapacitySet,
    Ended,
    Fact,
    Granted,
    Moment,
    ResourceSet,
    Who,
)
from holdingpen.core.pen import Pen
from holdingpen.core.rights import Rules
from holdingpen.daemon.keeper import Keeper, now
from holdingpen.journal import record
from holdingpen.journal.replay import replay, snapshot
from holdingpen.journal.store import Store

ROOT = Who(0, 0, 4242)
AT_ONCE = 256


def group_commit(run: Run) -> Iterator[Row]:
    """The keeper judges, writes and syncs; against it the bare journal alone."""
    rounds = run.pick(15, 5)
    together = Store.open(run.place("together"), "")
    for_each = Store.open(run.place("for-each"), "")

    async def main() -> tuple[list[float], list[float]]:
        done = trio.Event()
        told = 0

        def perform(outcome: object) -> None:
            nonlocal told
            told += type(outcome) is do.TellDone
            if told == AT_ONCE:
                done.set()

        rules = Rules(leases_per_user_max=2**40)
        keeper = Keeper(Pen(rules=rules), together, perform, lambda facts: None)
        keeper.put(ev.Configured(now(), (ev.Resource("slot", 10),)))
        keeper.turn()
        ours, theirs = [], []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.sync_forever)
            for _ in range(rounds):
                told, done = 0, trio.Event()
                at = now()
                start = time.perf_counter()
                for number in range(AT_ONCE):
                    keeper.put(ev.CapacityAsked(at, 1, number, ROOT, "slot", number))
                keeper.turn()
                await done.wait()
                ours.append(time.perf_counter() - start)
                start = time.perf_counter()
                for number in range(AT_ONCE):
                    for_each.append([CapacitySet("slot", number, 0)])
                    for_each.sync()
                theirs.append(time.perf_counter() - start)
            nursery.cancel_scope.cancel()
        return ours, theirs

    ours, theirs = trio.run(main)
    rates = [AT_ONCE / median(times) for times in (ours, theirs)]
    yield Row(
        f"{AT_ONCE} durable facts at once, per second", "fdatasync for each",
        ratios(theirs, ours), f"{rates[0]:,.0f} / {rates[1]:,.0f} a second",
        10.0, at_least=True,
    )  # fmt: skip
    together.close()
    for_each.close()


def _facts(count: int, held: int) -> Iterator[Fact]:
    """A long day: so many are granted and ended, `held` of them at any time."""
    yield ResourceSet("slot", held + 1)
    for lease in range(1, count // 2 + held + 1):
        at = Moment(1000.0 + lease / 100, 1.7e9 + lease / 100)
        if lease <= count // 2:
            ask = Ask(lease, 1, ROOT, {"slot": 1}, 1, label=LABEL, command=COMMAND)
            yield Granted(lease, at, ask)
        if lease > held:
            yield Ended(lease - held, at, "gone")


def replaying(run: Run) -> Iterator[Row]:
    """One fact in each record: that is the most work."""
    count = run.pick(1_000_000, 100_000)
    place = run.place("state")
    _write_journal(place, _facts(count, held=1000))
    size = (place / "journal").stat().st_size

    def start_again() -> float:
        start = time.perf_counter()
        store = Store.open(place, "")
        replay(store.batches())
        spent = time.perf_counter() - start
        store.close()
        return spent

    def read_and_sum() -> float:
        start = time.perf_counter()
        zlib.crc32((place / "journal").read_bytes())
        return time.perf_counter() - start

    read_and_sum()
    ours, theirs = in_turn(run.pick(3, 3), start_again, read_and_sum)
    yield Row(
        f"open and replay {count:,} facts, {size / count:.0f} bytes each",
        "reading and crc32 of the file",
        ratios(ours, theirs), versus(ours, theirs, 1, "s"), 30.0,
    )  # fmt: skip


def _write_journal(place: Path, facts: Iterator[Fact]) -> None:
    written, link = record.pack_opening("", 0, 0)
    with (place / "journal").open("wb") as file:
        file.write(written)
        for fact in facts:
            written, link = record.pack([fact], link, 0)
            file.write(written)


def rotation(run: Run) -> Iterator[Row]:
    """The loop stands still while it is written anew."""
    leases = 10_000
    pen = Pen(rules=Rules(leases_per_user_max=2**40))
    pen.handle(ev.Configured(Moment(0.0, 0.0), (ev.Resource("slot", leases),)))
    for number in range(1, leases + 1):
        ask = Ask(number, 1, ROOT, {"slot": 1}, label=LABEL, command=COMMAND)
        pen.handle(ev.Asked(Moment(0.0, 0.0), ask))
    store = Store.open(run.place("state"), "")
    spent = []
    for _ in range(run.pick(15, 5)):
        start = time.perf_counter()
        store.rotate(snapshot(pen.books))
        spent.append((time.perf_counter() - start) * 1e3)
    store.close()
    yield Row(
        f"stall: a journal with {leases:,} leases is rotated", "-",
        spent, "ms, once for each 16 MiB at least",
    )  # fmt: skip
