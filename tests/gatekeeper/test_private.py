"""--start: a private daemon, here a small one that stands in for holdingpen."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from gatekeeper import private
from holdingpen.errors import Unavailable

_ROOT = Path(__file__).parents[2]

#: Stands in for `python -m holdingpen`: locks, listens, says READY, grants.
_STAND_IN = r"""
import fcntl, json, os, signal, socket, sys, time

fds = sorted(os.listdir("/proc/self/fd"))
socket_path = os.environ["XDG_RUNTIME_DIR"] + "/holdingpen.socket"
if "--socket" in sys.argv:
    socket_path = sys.argv[sys.argv.index("--socket") + 1]
state = os.environ["XDG_STATE_HOME"] + "/holdingpen"
if os.environ.get("STAND_IN") == "fails":
    sys.exit("bad configuration")
lock = os.open(state + "/lock", os.O_CREAT | os.O_RDWR)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(75)
try:
    terminal = os.open("/dev/tty", os.O_RDWR)
except OSError:
    terminal = None
status = dict(
    line.split(":\t") for line in open("/proc/self/status").read().splitlines()
    if line.startswith("Sig")
)
with open(state + "/seen.json", "w") as file:
    json.dump({
        "argv": sys.argv[1:], "pid": os.getpid(), "leads": os.getsid(0) == os.getpid(),
        "blocked": status["SigBlk"], "ignored": status["SigIgn"], "cwd": os.getcwd(),
        "fds": fds, "terminal": terminal,
        "stdin": os.readlink("/proc/self/fd/0"), "lease": os.getenv("HOLDINGPEN_LEASE"),
    }, file)
listener = socket.socket(socket.AF_UNIX)
listener.bind(socket_path)
listener.listen()
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"READY=1\n", "\0" + os.environ["NOTIFY_SOCKET"][1:])
held = []
while True:
    client, _ = listener.accept()
    held.append(client)
    client.sendall(b"\0\0\0\x16\x83\xa1t\xa7granted\xa2id\x01\xa5lease\x2a")
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A place with gatekeeper and the stand-in, as an installation would be."""
    root = tmp_path / "installed"
    (root / "holdingpen").mkdir(parents=True)
    shutil.copytree(_ROOT / "gatekeeper", root / "gatekeeper")
    for name in ("__init__", "amounts", "durations", "errors", "places"):
        shutil.copy(_ROOT / "holdingpen" / f"{name}.py", root / "holdingpen")
    (root / "holdingpen" / "__main__.py").write_text(_STAND_IN)
    return root


@pytest.fixture
def state(tmp_path: Path):
    """Where the private daemon keeps its state; its end, too."""
    state = tmp_path / "state" / "holdingpen"
    yield state
    if (state / "seen.json").exists():
        os.kill(json.loads((state / "seen.json").read_text())["pid"], signal.SIGKILL)


@pytest.fixture
def start_private(root: Path, state: Path, start, surroundings, monkeypatch):
    surroundings["XDG_STATE_HOME"] = str(state.parent)
    del surroundings["HOLDINGPEN_SOCKET"]
    boot = f"import sys; sys.path[:0] = [{str(root)!r}]; " + (
        "from gatekeeper.__main__ import main; sys.exit(main())"
    )
    monkeypatch.setitem(start.__globals__, "BOOT", boot)

    def start_private(*words: str, **more: object):
        return start("--start", *words, **more)

    return start_private


def _seen(state: Path) -> dict[str, object]:
    return json.loads((state / "seen.json").read_text())


def test_a_private_daemon_is_started_and_grants(start_private, state: Path):
    ended = start_private("sh", "-c", "echo $HOLDINGPEN_LEASE").end()
    assert (ended.status, ended.out, ended.err) == (0, "42\n", "")
    assert _seen(state)["argv"] == ["--user", "--exit-idle", "1m"]
    assert state.stat().st_mode & 0o777 == 0o700


def test_it_has_nothing_of_ours(start_private, state: Path, surroundings):
    """Neither descriptors, nor mask and dispositions, nor terminal, nor place."""
    surroundings["HOLDINGPEN_LEASE"] = "3"
    with Path("/dev/null").open() as ours:

        def before() -> None:
            os.set_inheritable(ours.fileno(), True)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

        assert start_private("true", preexec_fn=before).end().status == 0
    seen = _seen(state)
    assert seen["fds"] == ["0", "1", "2", "3"]  # 3 is the listing itself
    assert int(seen["blocked"], 16) == 0
    # SIGPIPE and SIGXFSZ are Python's own
    assert int(seen["ignored"], 16) == 1 << 12 | 1 << 24
    assert (seen["leads"], seen["cwd"], seen["stdin"]) == (True, "/", "/dev/null")
    assert (seen["terminal"], seen["lease"]) == (None, None)


def test_it_is_no_child_of_the_command(start_private):
    script = "import os\ntry: os.wait()\nexcept ChildProcessError: print('none')"
    assert start_private(sys.executable, "-c", script).end().out == "none\n"


def test_two_that_start_at_once_both_succeed(start_private):
    programs = [start_private("sh", "-c", "echo $HOLDINGPEN_LEASE") for _ in range(3)]
    assert [program.end().out for program in programs] == ["42\n"] * 3


def test_it_listens_where_it_is_told(start_private, state: Path, tmp_path: Path):
    """Relative to where we are, and not to where the daemon goes."""
    program = start_private("--socket", "mine", "sh", "-c", "echo $HOLDINGPEN_LEASE")
    assert program.end().out == "42\n"
    assert _seen(state)["argv"][-2:] == ["--socket", str(tmp_path / "mine")]


def test_a_daemon_that_answers_is_preferred(start_private, daemon, state: Path):
    program = start_private(f"--socket={daemon.path}", "true")
    daemon.grants()
    assert program.end().status == 0
    assert not state.exists()


@pytest.mark.parametrize(("words", "status"), [([], 0), (["--require"], 69)])
def test_a_daemon_that_fails_is_told_with_its_log(
    start_private, surroundings, state: Path, words, status
):
    surroundings["STAND_IN"] = "fails"
    ended = start_private(*words, "true").end()
    assert ended.status == status
    assert f"could not be started: it ended with status 1, see {state}" in ended.err
    assert (state / "private.log").read_text() == "bad configuration\n"


def test_what_is_no_directory_is_told(start_private, state: Path):
    state.parent.write_text("")
    assert f"no place for a private one: {state}" in start_private("true").end().err


def test_only_what_we_ourselves_say_is_ready(monkeypatch):
    import socket

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with ours, theirs:
        for said, expected in ((b"STATUS=x", False), (b"A=1\nREADY=1\n", True)):
            theirs.send(said)
            assert private._says_ready(ours) is expected
        theirs.send(b"READY=1")
        monkeypatch.setattr("os.geteuid", lambda: 4711)
        assert not private._says_ready(ours)


def test_a_long_log_is_begun_anew(start_private, state: Path):
    state.mkdir(parents=True)
    (state / "private.log").write_bytes(b"x" * (private.LOG_BYTES_MAX + 1))
    start_private("true").end()
    assert (state / "private.log").read_text() == ""


def test_a_home_that_is_unknown_is_told(monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("holdingpen.places.posix.geteuid", lambda: 4711 * 10**5)
    with pytest.raises(Unavailable):
        private.log_path()


def test_a_socket_we_may_not_open_is_not_waited_for(monkeypatch, tmp_path: Path):
    """Its daemon answers to others, and will not answer to us in 20 s either."""

    def denied(paths: list[str]) -> None:
        raise Unavailable("it exists, and we may not open it.", "socket-denied")

    def not_now(*words: object) -> int:
        return private.EXIT_NOT_NOW

    monkeypatch.setattr(private, "_started_by_helper", not_now)
    monkeypatch.setattr(private, "connect", denied)
    monkeypatch.delattr(private, "sleep")
    with pytest.raises(Unavailable, match="may not open it"):
        private.start(str(tmp_path / "socket"))
