"""What every figure is measured with: rows, servers, clients, cores, C programs.

A ratio is taken between two things measured in turn, A B A B, in one run; a row keeps
the ratio of every round and shows their median and range.  So a noisy minute strikes
both sides.  Absolute figures are printed for orientation only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from holdingpen.wire import messages as wire
from holdingpen.wire.session import encode

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MIB, GIB = 2**20, 2**30

CORES = sorted(os.sched_getaffinity(0))
#: Where servers run, and where those run that must not share it with them.  A client
#: in a round trip shares it: across cores the waking of an idle one (20 us and more)
#: drowns everything else.
SERVER_CORE, OTHER_CORE = CORES[-1], CORES[0]

#: Whatever takes longer has failed.
PATIENCE_S = 60.0

_decode = msgspec.msgpack.Decoder(wire.Reply).decode
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Skipped(Exception):
    """A figure cannot be had on this machine; the message says why."""


class Row(NamedTuple):
    """One line of the table."""

    figure: str
    against: str
    #: One value for each round: a ratio, or with `unit` an absolute figure.
    rounds: list[float]
    #: What is measured and what it is measured against, for orientation.
    detail: str
    #: What the median must not be beyond; None: only for information.
    limit: float | None = None
    #: Whether `limit` is what it must reach at least.
    at_least: bool = False
    #: Empty for a ratio.
    unit: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.rounds)

    @property
    def met(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Run(NamedTuple):
    """How thorough this run is, and where it may write."""

    quick: bool
    directory: Path

    def pick(self, thorough: int, quick: int) -> int:
        """So many rounds, or things, as fit the time there is."""
        return quick if self.quick else thorough

    def place(self, name: str) -> Path:
        """A new directory."""
        path = self.directory / name
        path.mkdir()
        return path

    def program(self, name: str) -> Path:
        """One of the C programs beside this file, compiled."""
        made = self.directory / name
        if not made.exists():
            compiler = shutil.which("cc")
            if compiler is None:
                raise Skipped("there is no C compiler (cc)")
            command = [compiler, "-O2", "-o", made, HERE / f"{name}.c"]
            subprocess.run(command, check=True)
        return made


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def in_turn(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Measure all sides once in each round; returns the values of each side."""
    values = [[side() for side in sides] for _ in range(rounds)]
    return [list(side) for side in zip(*values, strict=True)]


def median(values: list[float]) -> float:
    return statistics.median(values)


def versus(ours: list[float], theirs: list[float], scale: float, unit: str) -> str:
    """Both medians, as text."""
    a, b = median(ours) * scale, median(theirs) * scale
    return f"{a:.3g} / {b:.3g} {unit}"


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run this process, and what it starts meanwhile, on one core."""
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, CORES)


class Server:
    """A program that serves a unix socket until this is left."""

    def __init__(
        self, command: list[str], path: Path, log: Path, core: int | None = None
    ) -> None:
        """Start it and wait until it accepts; on `core` only, if given."""
        self.path = path
        self._log = log
        pinned = contextlib.nullcontext() if core is None else on_core(core)
        with pinned, log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                stdout=out,
                stderr=out,
                env=_ENVIRONMENT,
            )
        self.pid = self._process.pid
        until = time.monotonic() + PATIENCE_S
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command} did not start: {log.read_text()}")
            time.sleep(0.01)

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return not probe.connect_ex(str(self.path))

    def cpu_s(self) -> float:
        """Seconds of CPU it used so far, all threads together."""
        spent = 0
        for file in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            spent += int(file.read_text().split()[0])
        return spent / 1e9

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


#: Counted resources and limits high enough not to matter.
PLENTY = """
[resources]
slot = 1_000_000_000
[line]
leases_per_user_max = 10_000_000
waiting_per_user_max = 10_000_000
"""


def daemon(
    run: Run,
    name: str,
    config: str = PLENTY,
    core: int | None = SERVER_CORE,
    program: tuple[str, ...] = ("-m", "holdingpen"),
) -> Server:
    """A daemon of this checkout with a state directory of its own."""
    place = run.place(name)
    (place / "config.toml").write_text(config)
    path = place / "socket"
    command = [
        *program,
        *("--config", str(place / "config.toml")),
        *("--socket", str(path)),
        *("--state", str(place / "state")),
    ]
    return Server(command, path, place / "log", core)


def echo(run: Run, kind: str) -> Server:
    """An echo server: see echo.py."""
    place = run.place(f"echo-{kind}")
    path = place / "socket"
    command = [str(HERE / "echo.py"), str(path), kind]
    return Server(command, path, place / "log", SERVER_CORE)


#: With these texts the frame of an Acquire has 117 bytes, like those of the trial
#: that the limits come from.
LABEL = "bench"
COMMAND = "python3 train.py --epochs 100 --batch 64"


def acquire(number: int, amounts: dict[str, int]) -> wire.Acquire:
    return wire.Acquire(number, amounts, 1, label=LABEL, command=COMMAND)


class Client:
    """A blocking client, as small as it can be."""

    def __init__(self, path: Path, *, greets: bool = True) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(path))
        self._number = 0
        # the timeout costs a poll(2) for each call
        self.sock.setblocking(True)
        self._rest = b""
        if greets:
            self.ask(wire.Hello(wire.VERSION, "bench"))

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def ask(self, message: wire.Message) -> wire.Reply:
        self.sock.sendall(encode(message))
        return self.hear()

    def hear(self) -> wire.Reply:
        data = self._rest or self.sock.recv(65536)
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            more = self.sock.recv(65536)
            if not more:
                raise RuntimeError("the server hung up")
            data += more
        size = 4 + int.from_bytes(data[:4], "big")
        self._rest = data[size:]
        return _decode(data[4:size])

    def acquire(self, amounts: dict[str, int]) -> int:
        """Get a lease, waiting for it if need be; returns its id."""
        reply = self.ask(acquire(self.next_number(), amounts))
        while type(reply) is wire.Waiting:
            reply = self.hear()
        if type(reply) is not wire.Granted:
            raise RuntimeError(f"asked {amounts}: {reply}")
        return reply.lease

    def release(self, lease: int) -> None:
        reply = self.ask(wire.Release(self.next_number(), lease))
        if type(reply) is not wire.Released:
            raise RuntimeError(f"released {lease}: {reply}")

    def status(self) -> wire.Status:
        # a repeated answer to an older request may still be under way
        reply = self.ask(wire.GetStatus(self.next_number(), 2**62))
        while type(reply) is not wire.Status:
            reply = self.hear()
        return reply

    def close(self) -> None:
        self.sock.close()


def pair_p50(client: Client, seconds: float, amounts: dict[str, int]) -> float:
    """Median seconds of an acquire and its release."""
    spent = []
    clock = time.perf_counter
    end = clock() + seconds
    while (start := clock()) < end:
        client.release(client.acquire(amounts))
        spent.append(clock() - start)
    return median(spent)


def available_bytes() -> int:
    """What MemAvailable says."""
    text = Path("/proc/meminfo").read_text()
    return int(text.partition("MemAvailable:")[2].split()[0]) * 1024
