"""Ballast against a thief, in a memory cgroup that plays the machine.

200 MiB are kept and next to nothing else is free.  They are freed for a program, all
at once or paced; a thief takes what he can; and then the program begins to touch them,
at 400 MiB/s.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from holdingpen.daemon.pacer import STEP, Pacer
from holdingpen.devices.growth import Growth

MIB = 2**20
MEMORY_V1 = Path("/sys/fs/cgroup/memory")
KEPT = 200 * MIB
#: What is free before anything is given.
FREE = 4 * MIB
#: Page tables, and pages the kernel charges ahead for each CPU.
CHANGE = 3 * MIB
#: Longest wait for something that takes a second on a quiet machine.
PATIENCE_S = 30.0

PROGRAM = f"""
import mmap, sys, time
memory = mmap.mmap(-1, {KEPT}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
piece = b"x" * 65536
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
for at in range(0, {KEPT}, 65536):
    memory[at:at + 65536] = piece
    ahead = at / (400 << 20) - (time.monotonic() - began)
    if ahead > 0.001:
        time.sleep(ahead)
print("done", flush=True)
sys.stdin.readline()
"""

#: Told the limit, the file to read what is used in, and what must be free for him to
#: act; then he leaves one MiB.  With 0 he never stops, asleep in a fault or not.
THIEF = f"""
import mmap, os, sys, time
memory = mmap.mmap(-1, {2 * KEPT}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
piece, at = b"x" * 65536, 0
print("ready", flush=True)
limit, sees, usage = sys.stdin.readline().split()
usage = os.open(usage, os.O_RDONLY)
def free():
    return int(limit) - int(os.pread(usage, 32, 0))
while at < {2 * KEPT}:
    while int(sees) and free() < int(sees):
        time.sleep(0.0002)
    while not int(sees) or free() > {MIB}:
        memory[at:at + 65536] = piece
        at += 65536
"""


class Machine:
    """A v1 memory cgroup.  Who wants more than there is sleeps, and is not killed."""

    def __init__(self, group: Path) -> None:
        self.group = group
        group.mkdir()
        (group / "memory.oom_control").write_text("1")
        self._started: list[subprocess.Popen[str]] = []
        #: What must be read to know how many bytes are used.
        self.usage = group / "memory.usage_in_bytes"
        #: In bytes, once it is filled.
        self.limit = 0
        #: The ballast: as long as this file is, so much is occupied.
        self.file = os.memfd_create("ballast")
        self.growth = Growth()

    def start(self, program: str) -> subprocess.Popen[str]:
        """Start a Python program inside, and wait until it is ready."""
        join = f"open('{self.group}/cgroup.procs', 'w').write('0')\n"
        started = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", join + program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[self.file],
        )
        self._started.append(started)
        assert started.stdout
        assert started.stdout.readline() == "ready\n"
        return started

    def fill(self) -> None:
        """Occupy the ballast, and leave next to nothing else."""
        fill = f"import os; os.posix_fallocate({self.file}, 0, {KEPT}); print('ready')"
        self.start(fill).wait()
        self.limit = self.used() + FREE
        (self.group / "memory.limit_in_bytes").write_text(str(self.limit))

    def used(self) -> int:
        return int(self.usage.read_text())

    def available(self) -> int:
        return self.limit - self.used()

    def give(self, lease: int, amount: int) -> int:
        size = os.fstat(self.file).st_size
        given = min(amount, size)
        os.ftruncate(self.file, size - given)
        return given

    def close(self) -> None:
        for started in self._started:
            started.kill()
            started.communicate()
        self.growth.close()
        os.close(self.file)
        while True:
            with suppress(OSError):
                self.group.rmdir()
                break


@pytest.fixture
def machine() -> Iterator[Machine]:
    if os.geteuid() != 0 or not os.access(MEMORY_V1 / "cgroup.procs", os.W_OK):
        pytest.skip("needs root and a v1 memory hierarchy to make a group in")
    with closing(Machine(MEMORY_V1 / f"hp-pacing-{os.getpid()}")) as machine:
        yield machine


class Outcome(NamedTuple):
    """Who has the 200 MiB, in bytes."""

    program: int
    thief: int
    #: What is still kept.
    kept: int
    #: What the pacer says was stolen.
    said: int


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin
    process.stdin.write(line + "\n")
    process.stdin.flush()


def settle(look: Callable[[], int], done: Callable[[], bool]) -> None:
    """Wait until `done`, or until `look` has shown the same for a while."""
    deadline_s = time.monotonic() + PATIENCE_S
    looks: list[int] = []
    while not done() and (len(looks) < 8 or len(set(looks[-8:])) > 1):
        assert time.monotonic() < deadline_s
        looks.append(look())
        time.sleep(0.03)


def race(machine: Machine, sees: int, paced: bool) -> Outcome:
    """Hand the ballast over once, until nobody gets any further."""
    program, thief = machine.start(PROGRAM), machine.start(THIEF)
    look = Growth()
    before = [look.of(process.pid) for process in (program, thief)]
    machine.fill()
    tell(thief, f"{machine.limit} {sees} {machine.usage}")
    pacer = Pacer(machine.give, machine.growth.of, machine.available)
    with closing(look), closing(pacer):
        if paced:
            pacer.add(1, program.pid, KEPT)
        else:
            machine.give(1, KEPT)
        assert program.stdout
        settle(lambda: look.of(thief.pid), lambda: False)
        tell(program, "go")
        settle(
            lambda: look.of(program.pid) + look.of(thief.pid),
            lambda: bool(select.select([program.stdout], [], [], 0)[0]),
        )
        got = look.of(program.pid) - before[0]
        taken = look.of(thief.pid) - before[1]
        said = pacer.progress[1].stolen if paced else 0
        return Outcome(got, taken, os.fstat(machine.file).st_size, said)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    "sees", [pytest.param(32 * MIB, id="sees-32-MiB"), pytest.param(0, id="always")]
)
@pytest.mark.parametrize("paced", [False, True], ids=["naive", "paced"])
def test_a_thief_gets_a_step_of_what_is_paced_and_most_of_what_is_not(
    machine: Machine, sees: int, paced: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = race(machine, sees, paced)
    with capsys.disabled():
        how = "paced" if paced else "all at once"
        whom = f"acts on {sees // MIB} MiB free" if sees else "always faulting"
        mib = [f"{amount / MIB:.1f}" for amount in outcome]
        print(
            f"\n{KEPT // MIB} MiB freed {how}, thief {whom}: program {mib[0]}, "
            f"thief {mib[1]}, still kept {mib[2]}, said to be stolen {mib[3]}"
        )
    if not paced:
        assert outcome.thief > KEPT // 2
        return
    assert outcome.thief <= STEP + FREE + MIB
    assert outcome.kept >= KEPT - outcome.program - STEP - CHANGE
    assert outcome.said <= STEP
    if sees:
        # some pages of his own, on some machines
        assert outcome.thief < MIB
        assert outcome.program >= KEPT - CHANGE
