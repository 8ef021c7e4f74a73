"""The main job on real memory: a program gets what it asked for on a full machine.

    python tests/real/main_job.py

A memory cgroup plays the machine.  In it a private pen holds ballast back, a hog
fills all the rest, and a program that needs 200 MiB is started twice: bare, and under
gatekeeper.  What happened is printed.  Needs root (or a delegated memory cgroup) and
numpy.
"""

# ruff: noqa: E402 (the path comes first)

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from machine import MIB, Machine

MACHINE = 768 * MIB
HOLD = 320 * MIB
NEED = 200 * MIB

CONFIG = f"""
[ram]
keep = "8M"
hold = "{HOLD // MIB}M"
"""

#: Fills what there is until 24 MiB are left, then sits on it.
HOG = """
import sys
from holdingpen.devices.host import Host
host, mine = Host(), []
while host.ram_available() > 24 * 2**20:
    mine.append(bytearray(b"h" * 2**20))
print(len(mine), flush=True)
sys.stdin.read()
"""

#: When memory runs out the kernel is to choose the newcomer, as it would choose the
#: biggest on a machine where that is MATLAB.
PROGRAM = f"""
open("/proc/self/oom_score_adj", "w").write("1000")
import numpy
a = numpy.ones({NEED} // 8)
assert a.sum() == a.size
print(f"numpy filled {{a.nbytes // 2**20}} MiB")
"""


class Outcome(NamedTuple):
    """What came of it."""

    #: Exit statuses of the program, negative: the signal that killed it.
    bare: int
    leased: int
    #: What the program said under its lease.
    said: str
    #: Ballast in bytes before, under the lease is 0, and after it.
    held_before: int
    held_after: int
    #: MiB the hog had when the machine was full.
    hog_mib: int


def main_job(say: object = print) -> Outcome:
    """Do it all once; `say` gets a line at a time."""
    tell = say if callable(say) else print
    python = sys.executable
    gatekeeper = [python, "-m", "gatekeeper"]
    machine = Machine(MACHINE, CONFIG)
    try:
        tell(f"a machine of {MACHINE // MIB} MiB (a memory cgroup)")
        machine.start(*gatekeeper, "--start", "--ram", "1M", "--", "true").wait()
        before = machine.wait_until_held(HOLD)
        tell(f"a private pen holds {before // MIB} MiB back")
        hog = machine.start(python, "-c", HOG)
        assert hog.stdout is not None
        hog_mib = int(hog.stdout.readline())
        tell(f"a hog fills all the rest: {hog_mib} MiB")
        bare = machine.start(python, "-c", PROGRAM)
        bare.communicate()
        tell(f"a program that needs {NEED // MIB} MiB, bare: status {bare.returncode}")
        leased = machine.start(
            *gatekeeper, "--require", "--ram", f"{HOLD}", "--", python, "-c", PROGRAM
        )
        said = leased.communicate()[0].strip()
        tell(f"the same under a lease: status {leased.returncode}, {said!r}")
        after = machine.wait_until_held(HOLD - 32 * MIB)
        tell(f"the pen has taken {after // MIB} MiB back; the hog still runs")
        assert hog.poll() is None
        return Outcome(bare.returncode, leased.returncode, said, before, after, hog_mib)
    finally:
        machine.end()


if __name__ == "__main__":
    outcome = main_job()
    sys.exit(outcome.leased or not outcome.bare)
