"""The daemon as a process of its own: signals, exit statuses, kill -9, a crowd."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdingpen.daemon.listener import SPARE_DESCRIPTORS
from holdingpen.wire import messages as wire

pytestmark = [pytest.mark.slow, pytest.mark.real]

ROOT = Path(__file__).parents[2]
#: A machine of which nothing is really taken.
CONFIG = '[ram]\ncapacity = "1G"\nkeep = "0"\n[cpu]\ncapacity = 8\n'


class Process:
    """`python -m holdingpen`, and what it tells whoever started it."""

    def __init__(self, directory: Path, *words: str, state: str = "state") -> None:
        self.socket = directory / "s"
        self.config = directory / "x.toml"
        if not self.config.exists():
            self.config.write_text(CONFIG)
        notify = directory / f"notify-{state}"
        notify.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(os.fspath(notify))
        paths = [
            *("--socket", os.fspath(self.socket)),
            *("--state", os.fspath(directory / state)),
            *("--config", os.fspath(self.config)),
        ]
        self.run = subprocess.Popen(
            [sys.executable, "-m", "holdingpen", *paths, *words],
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": os.fspath(notify)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def told(self) -> str:
        """The next word to whoever started it."""
        return self._notify.recv(1000).decode().partition("\n")[0]

    def ready(self) -> Process:
        assert self.told() == "READY=1"
        return self

    def end(self) -> tuple[int, str]:
        """Wait for its end: exit status, and what it said on standard error."""
        _, said = self.run.communicate()
        return self.run.returncode, said

    @property
    def rss_bytes(self) -> int:
        pages = Path(f"/proc/{self.run.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    def close(self) -> None:
        self.run.kill()
        self.run.communicate()
        self._notify.close()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[type[Process]]:
    """Start daemons in one directory."""
    started = []

    def start(*words: str, state: str = "state") -> Process:
        started.append(Process(tmp_path, *words, state=state))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def call(new_caller):
    """A client who has said Hello to a daemon, and asks for one cpu."""

    def call(process: Process) -> wire.Reply:
        caller = new_caller(process.socket)
        caller.say(wire.Hello(wire.VERSION), wire.Acquire(1, {"cpu": 1}))
        assert isinstance(caller.next(), wire.Welcome)
        return caller.next()

    return call


def test_from_start_to_sigterm(process, call):
    daemon = process().ready()
    assert wire.Granted(1, 1, {"cpu": 1}) == call(daemon)
    daemon.run.send_signal(signal.SIGHUP)
    assert [daemon.told(), daemon.told()] == ["RELOADING=1", "READY=1"]
    daemon.config.write_text("[ram]\nhodl = 1\n")
    daemon.run.send_signal(signal.SIGHUP)
    assert [daemon.told(), daemon.told()] == ["RELOADING=1", "READY=1"]
    assert wire.Granted(1, 2, {"cpu": 1}) == call(daemon)
    daemon.run.send_signal(signal.SIGTERM)
    assert daemon.told() == "STOPPING=1"
    exit_status, said = daemon.end()
    assert exit_status == 0
    assert "unknown key 'hodl'" in said
    assert "Traceback" not in said
    assert not daemon.socket.exists()


def test_after_kill_9_the_next_start_serves_and_uses_no_id_again(process, call):
    first = process().ready()
    assert call(first).lease == 1
    first.run.kill()
    first.end()
    assert first.socket.is_socket()
    second = process().ready()
    assert call(second).lease == 2


def test_a_second_one_on_the_same_socket_or_state_exits_with_75(process, call):
    first = process().ready()
    exit_status, said = process(state="other").end()
    assert exit_status == 75
    assert f"another daemon serves {first.socket}" in said
    exit_status, said = process().end()
    assert exit_status == 75
    assert len(said.splitlines()) == 1
    assert isinstance(call(first), wire.Granted)


def test_a_bad_configuration_exits_with_65(process, tmp_path):
    (tmp_path / "x.toml").write_text("[ram]\nhodl = 1\n")
    exit_status, said = process().end()
    assert exit_status == 65
    assert len(said.splitlines()) == 1
    assert "line 2: unknown key 'hodl'" in said


def test_a_damaged_journal_exits_with_65_and_says_what_to_do(process, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "journal").write_bytes(b"this is no journal at all")
    exit_status, said = process().end()
    assert exit_status == 65
    assert "holdingpenctl journal" in said
    assert "Traceback" not in said


def test_a_journal_that_cannot_be_written_ends_it_in_one_line(process, call):
    """By an error in a task of trio's nursery, which wraps it into a group."""
    daemon = process().ready()
    journal = daemon.socket.parent / "state" / "journal"
    # no write may go beyond the first byte: EFBIG
    resource.prlimit(daemon.run.pid, resource.RLIMIT_FSIZE, (1, 1))
    with pytest.raises(AssertionError, match="hung up"):
        call(daemon)
    exit_status, said = daemon.end()
    assert exit_status == 69
    assert f"writing the journal {journal} failed: File too large" in said
    assert "Traceback" not in said


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 10_000 + 4 * SPARE_DESCRIPTORS,
    reason="the limit on descriptors (ulimit -Hn) is too low for 10,000 clients",
)
def test_10000_connections_that_say_nothing(process, call, tmp_path):
    """They cost under 2 KiB each, disturb nobody, and are hung up on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    silent = []
    try:
        limits = '[daemon]\nconnections_per_user_max = 10_100\nhello_within = "2s"\n'
        (tmp_path / "x.toml").write_text(CONFIG + limits)
        daemon = process().ready()
        assert isinstance(call(daemon), wire.Granted)
        before = daemon.rss_bytes
        for _ in range(10_000):
            silent.append(socket.socket(socket.AF_UNIX))
            silent[-1].connect(os.fspath(daemon.socket))
        assert isinstance(call(daemon), wire.Granted)
        assert daemon.rss_bytes - before < 10_000 * 2048
        for client in silent:
            assert b"no Hello within 2 s" in client.recv(1000)
        assert silent[-1].recv(1000) == b""
        assert isinstance(call(daemon), wire.Granted)
        assert daemon.rss_bytes - before < 10_000 * 2048
    finally:
        for client in silent:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
