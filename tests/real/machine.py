"""A machine of its own for measurements: a memory cgroup with a pen inside."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from holdingpen.client.blocking import connect
from holdingpen.errors import Unavailable

MIB = 2**20
#: What is measured is the checkout that this file is in, whatever is installed.
CHECKOUT = Path(__file__).parents[2]

_V1 = Path("/sys/fs/cgroup/memory")


def cgroup_version() -> int:
    """The version whose memory controller is used here: 1 or 2."""
    return 1 if _V1.is_dir() else 2


def make_cgroup(limit: int) -> Path:
    """Make a memory cgroup of `limit` bytes.

    Raises:
        OSError: when none can be made here.
    """
    name = f"holdingpen-test-{os.getpid()}"
    if cgroup_version() == 1:
        group = _V1 / name
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
    """The cgroup, with a private pen of its own inside.

    When it is full, exec(2) fails in it (E2BIG): start everything before that, and
    let it wait for a word on its standard input.
    """

    def __init__(self, limit: int, config: str) -> None:
        """Make a machine of `limit` bytes; `config` is its pen's configuration.

        Raises:
            OSError: when no cgroup can be made here.
        """
        self.cgroup = make_cgroup(limit)
        self.limit = limit
        self.version = cgroup_version()
        self.processes: list[subprocess.Popen[str]] = []
        self.home = Path(tempfile.mkdtemp(prefix="holdingpen-"))
        (self.home / "holdingpen.toml").write_text(config)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HOLDINGPEN")},
            "PYTHONPATH": str(CHECKOUT),
            "XDG_RUNTIME_DIR": str(self.home),
            "XDG_STATE_HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home),
            "HOLDINGPEN_SOCKET": str(self.home / "holdingpen.socket"),
        }

    def start(
        self, *command: str, pass_fds: Sequence[int] = (), log: str = ""
    ) -> subprocess.Popen[str]:
        """Start a program inside.

        Args:
            command: its words.
            pass_fds: descriptors it inherits.
            log: a name for what it says on stderr, which `said` returns.
        """
        into = f'echo $$ > {self.cgroup}/cgroup.procs; exec "$@"'
        with contextlib.ExitStack() as closing:
            stderr = closing.enter_context(self._log(log).open("w")) if log else None
            process = subprocess.Popen(
                ["sh", "-c", into, "sh", *command],
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                pass_fds=pass_fds,
                text=True,
            )
        self.processes.append(process)
        return process

    def _log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def said(self, log: str) -> str:
        """The last line of a log; empty when nothing was said."""
        lines = self._log(log).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def serve(self) -> subprocess.Popen[str]:
        """Start the pen and wait until it answers.

        Raises:
            Unavailable: when it ended instead, or took half a minute.
        """
        words = ["--user", "--socket", self.env["HOLDINGPEN_SOCKET"]]
        daemon = self.start(sys.executable, "-m", "holdingpen", *words, log="daemon")
        for _ in range(300):
            with contextlib.suppress(Unavailable):
                self.held()
                return daemon
            if daemon.poll() is not None:
                break
            time.sleep(0.1)
        raise Unavailable(f"the pen did not come up: {self.said('daemon')}")

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
        """Kill all that is inside and take the cgroup away; Ctrl-C waits for it."""
        with _uninterrupted():
            for process in self.processes:
                process.kill()
            # and what they have started
            for _ in range(200):
                for pid in (self.cgroup / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                for process in self.processes:
                    process.poll()
                with contextlib.suppress(OSError):
                    self.cgroup.rmdir()
                    break
                time.sleep(0.05)
            for process in self.processes:
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        with contextlib.suppress(BrokenPipeError):
                            pipe.close()
                process.wait()
            shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
