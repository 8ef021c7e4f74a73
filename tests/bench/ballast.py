"""Ballast: how long the one who needs it waits, and how long everybody else does."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from harness import (
    GIB,
    HERE,
    PATIENCE_S,
    Client,
    Row,
    Run,
    Skipped,
    available_bytes,
    daemon,
    in_turn,
    median,
    ratios,
    versus,
)

import holdingpen
from holdingpen.devices.host import Host

#: So much must be left to others beside what is measured.
SPARE = 3 * GIB


def _size() -> int:
    """Bytes of ballast: 4 GiB, less where there is no room for it."""
    size = min(4, (available_bytes() - SPARE) // GIB) * GIB
    if size <= 0:
        raise Skipped(
            f"{available_bytes() / GIB:.1f} GiB are available; 4 GiB and more needed"
        )
    return size


class Holder:
    """A client that takes all ballast and gives it back."""

    def __init__(self, path: Path, size: int) -> None:
        self._client = Client(path)
        self._size = size
        self._lease = 0

    def take(self) -> float:
        """Seconds from the request to Granted; all of it comes from ballast."""
        self.wait_held()
        start = time.perf_counter()
        self._lease = self._client.acquire({"ram": self._size})
        return time.perf_counter() - start

    def give_back(self) -> None:
        self._client.release(self._lease)

    def wait_held(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while (status := self._client.status()).resources["ram"].held < self._size:
            if time.monotonic() > until:
                raise RuntimeError(f"the ballast was not taken: {status}")
            time.sleep(0.005)


def _config(size: int) -> str:
    # Lent without ballast there is nothing: so all comes from it.
    return (
        f'[ram]\nkeep = "1G"\ncapacity = "{size}"\nhold = "{size}"\n'
        'handover = "free"\n'
        "[resources]\nslot = 1000\n"
    )


def freeing(run: Run) -> Iterator[Row]:
    size = _size()
    in_c = run.program("munmap")
    huge_seen = []

    def munmap(pages: str) -> float:
        said = subprocess.check_output([in_c, str(size), pages])
        spent_ns, huge_bytes = map(int, said.split())
        if pages == "huge":
            huge_seen.append(huge_bytes >= size)
        return spent_ns / 1e9

    with daemon(run, "daemon", _config(size), core=None) as ours:
        holder = Holder(ours.path, size)

        def first_free_then_take() -> float:
            spent = holder.take()
            holder.give_back()
            holder.wait_held()
            return spent

        kind = (run.directory / "daemon/log").read_text()
        kind = kind.partition("ballast: ")[2].partition(",")[0]
        mine, huge, small = in_turn(
            run.pick(7, 2),
            first_free_then_take,
            lambda: munmap("huge"),
            lambda: munmap("small"),
        )
    if kind != "huge tmpfs" or not all(huge_seen):
        huge, same = small, "4K pages: no huge ones here"
    else:
        same = "huge pages"
    figure = f"free {size // GIB} GiB of ballast, request to granted"
    yield Row(
        figure, f"munmap of {same}, in C",
        ratios(mine, huge), versus(mine, huge, 1e3, f"ms; ballast: {kind}"), 1.3,
    )  # fmt: skip
    if huge is not small:
        yield Row(
            "  the same", "munmap of 4K pages, in C",
            ratios(mine, small), versus(mine, small, 1e3, "ms"), 0.1,
        )  # fmt: skip


def stalls(run: Run) -> Iterator[Row]:
    """What another client sees meanwhile: probe.py, on any core the kernel likes."""
    size = _size()
    with daemon(run, "daemon", _config(size), core=None) as ours:
        holder = Holder(ours.path, size)
        holder.wait_held()

        def moving() -> None:
            for _ in range(3):
                holder.take()
                holder.give_back()
                holder.wait_held()

        rounds = run.pick(5, 2)
        busy, quiet = in_turn(
            rounds,
            lambda: _longest_ms(ours.path, moving),
            lambda: _longest_ms(ours.path, lambda: time.sleep(0.5)),
        )
    yield Row(
        f"longest stall while {size // GIB} GiB are freed or taken", "-",
        [max(busy)], f"ms; of {rounds} rounds {_list(busy)}; idle {_list(quiet)}",
        10.0, unit="ms",
    )  # fmt: skip


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _longest_ms(path: Path, meanwhile: Callable[[], None]) -> float:
    command = [sys.executable, str(HERE / "probe.py"), str(path)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path)},
    ) as probe:
        probe.stdout.readline()
        meanwhile()
        said, _ = probe.communicate()
    return max(msgspec.json.decode(said, type=list[float])) * 1e3


def looking(run: Run) -> Iterator[Row]:
    host = Host()
    for exact, figure in (
        (False, "a look at the available memory"),
        (True, "  the same, exact, for the books"),
    ):
        spent = []
        for _ in range(run.pick(2000, 500)):
            start = time.perf_counter()
            host.ram_available(exact=exact)
            spent.append(time.perf_counter() - start)
        yield Row(figure, "-", [median(spent) * 1e6], "", unit="us")


def handing(run: Run) -> Iterator[Row]:
    """How long a program takes to fill what it was given; what it just takes."""
    numpy = importlib.import_module("numpy")
    size = min(_size(), GIB)
    config = f'[ram]\nkeep = "1G"\nhold = "{size}"\n'

    def by_descriptor() -> float:
        with holdingpen.lease(ram=size, memory=True, socket=str(path)) as lease:
            start = time.perf_counter()
            array = lease.memory().asarray("f8")
            array.fill(1.0)
            spent = time.perf_counter() - start
            del array
        return spent

    def paced() -> float:
        with holdingpen.lease(ram=size, socket=str(path)):
            return bare()

    def bare() -> float:
        start = time.perf_counter()
        array = numpy.empty(size // 8)
        array.fill(1.0)
        return time.perf_counter() - start

    with daemon(run, "daemon", config, core=None) as ours:
        path = ours.path
        holder = Holder(path, size)

        def held(fill: Callable[[], float]) -> Callable[[], float]:
            def once() -> float:
                holder.wait_held()
                return fill()

            return once

        mine, steps, theirs = in_turn(
            run.pick(7, 2), held(by_descriptor), held(paced), held(bare)
        )
    figure = f"{size // 2**20} MiB fetched as files, mapped and filled"
    against = "numpy fills as much of its own"
    yield Row(
        figure, against, ratios(mine, theirs), versus(mine, theirs, 1e3, "ms"), 1.5
    )  # fmt: skip
    yield Row(
        "  the same, of its own and paced", against,
        ratios(steps, theirs), versus(steps, theirs, 1e3, "ms"), 1.5,
    )  # fmt: skip
