"""The main job on real memory: a program gets what it asked for on a full machine.

    python tests/real/main_job.py

A memory cgroup plays the machine.  In it a private pen holds ballast back, a hog
fills all the rest, and a program that needs 200 MiB is started twice: bare, and under
gatekeeper.  What happened is printed.  Needs root (or a delegated memory cgroup) and
numpy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from holdingpen.client.blocking import connect

MIB = 2**20
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


def make_cgroup(limit: int) -> Path:
    """Make a memory cgroup of `limit` bytes.

    Raises:
        OSError: when none can be made here.
    """
    name = f"holdingpen-test-{os.getpid()}"
    first = Path("/sys/fs/cgroup/memory")
    if first.is_dir():
        group = first / name
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
        with contextlib.suppress(OSError):
            (group / "memory.memsw.limit_in_bytes").write_text(str(limit))
        return group
    root = Path("/sys/fs/cgroup")
    own = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
    for parent in (root, root / own.lstrip("/")):
        if "memory" in (parent / "cgroup.subtree_control").read_text().split():
            group = parent / name
            group.mkdir()
            (group / "memory.max").write_text(str(limit))
            with contextlib.suppress(OSError):
                (group / "memory.swap.max").write_text("0")
            return group
    raise OSError("no cgroup here gives its children the memory controller")


class Machine:
    """The cgroup, with a private pen of its own inside."""

    def __init__(self) -> None:
        self.cgroup = make_cgroup(MACHINE)
        self.processes: list[subprocess.Popen[str]] = []
        self.home = Path(tempfile.mkdtemp(prefix="holdingpen-"))
        (self.home / "holdingpen.toml").write_text(CONFIG)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HOLDINGPEN")},
            "XDG_RUNTIME_DIR": str(self.home),
            "XDG_STATE_HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home),
            "HOLDINGPEN_SOCKET": str(self.home / "holdingpen.socket"),
        }

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a program inside."""
        into = f'echo $$ > {self.cgroup}/cgroup.procs; exec "$@"'
        process = subprocess.Popen(
            ["sh", "-c", into, "sh", *command],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def held(self) -> int:
        """Bytes of ballast the pen holds now."""
        with connect(self.env["HOLDINGPEN_SOCKET"]) as conn:
            return conn.status().resources["ram"].held

    def wait_until_held(self, amount: int) -> int:
        """Wait until the pen holds `amount` bytes, half a minute at most."""
        for _ in range(300):
            held = self.held()
            if held >= amount:
                break
            time.sleep(0.1)
        return held

    def end(self) -> None:
        """Kill all that is inside and take the cgroup away."""
        for _ in range(100):
            for pid in (self.cgroup / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                self.cgroup.rmdir()
                break
            time.sleep(0.05)
        for process in self.processes:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            process.wait()
        shutil.rmtree(self.home, ignore_errors=True)


def main_job(say: object = print) -> Outcome:
    """Do it all once; `say` gets a line at a time."""
    tell = say if callable(say) else print
    python = sys.executable
    gatekeeper = [python, "-m", "gatekeeper"]
    machine = Machine()
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
