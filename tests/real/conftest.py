"""A real daemon, real gatekeepers, real processes."""

import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdingpen.client.blocking import Connection, connect
from holdingpen.errors import Unavailable

CONFIG = """
[ram]
keep = "64M"
hold = "64M"
share = "32M"
[resources]
licence = 1
slot = 100
"""

#: Longest wait for something that takes milliseconds on a quiet machine.
PATIENCE_S = 30.0


def end(process: subprocess.Popen[str]) -> None:
    """Kill it, if it still runs, and let go of it."""
    process.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    process.wait()


class Pen:
    """A private pen in a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.socket = str(home / "holdingpen.socket")
        (home / "holdingpen.toml").write_text(CONFIG)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HOLDINGPEN")}
        self.env = {
            **kept,
            "XDG_RUNTIME_DIR": str(home),
            "XDG_STATE_HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
            "HOLDINGPEN_SOCKET": self.socket,
        }
        self.daemon: subprocess.Popen[str] | None = None
        self._started: list[subprocess.Popen[str]] = []

    def serve(self) -> None:
        """Start the daemon and wait until it says that it serves."""
        if self.daemon is not None:
            end(self.daemon)
        words = [sys.executable, "-m", "holdingpen", "--user", "--socket", self.socket]
        self.daemon = subprocess.Popen(
            words, env=self.env, stderr=subprocess.PIPE, text=True
        )
        assert self.daemon.stderr is not None
        # before that it may say what the last one left
        assert any("serves" in line for line in self.daemon.stderr)

    def gatekeeper(self, *words: str, **how: object) -> subprocess.Popen[str]:
        """Start `gatekeeper WORDS`."""
        process = subprocess.Popen(
            [sys.executable, "-m", "gatekeeper", *words],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **how,  # type: ignore[call-overload]
        )
        self._started.append(process)
        return process

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run `gatekeeper WORDS` to its end: status, stdout, stderr."""
        process = self.gatekeeper(*words)
        out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, err

    def connect(self) -> Connection:
        """A client of our own."""
        return connect(self.socket)

    def wait_for(self, resource: str, amount: int) -> None:
        """Stand in the line for `amount`: returns once it could be granted."""
        with self.connect() as conn:
            conn.acquire({resource: amount}, wait_s=PATIENCE_S)

    def close(self) -> None:
        """Kill whatever was started, a daemon started by --start too."""
        for process in self._started:
            end(process)
        if self.daemon is not None:
            end(self.daemon)
            return
        try:
            with self.connect() as conn:
                twin = socket.socket(fileno=os.dup(conn.fileno()))
            with twin:
                credentials = twin.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except Unavailable:
            return
        os.kill(struct.unpack("iII", credentials)[0], signal.SIGKILL)


@pytest.fixture
def pen() -> Iterator[Pen]:
    """A private pen whose daemon is not started yet."""
    with tempfile.TemporaryDirectory(prefix="hp-") as home:
        one = Pen(Path(home))
        yield one
        one.close()


@pytest.fixture
def served(pen: Pen) -> Pen:
    """A private pen that is served."""
    pen.serve()
    return pen
