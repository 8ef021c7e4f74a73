"""gatekeeper as a real program, and a daemon that says what the test says."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdingpen.wire import messages as wire
from holdingpen.wire.session import ServerSession, encode

ROOT = Path(__file__).parents[2]
#: Whatever should come within this has been lost.
PATIENCE_S = 10.0
BOOT = (
    f"import sys; sys.path[:0] = [{str(ROOT)!r}]; "
    "from gatekeeper.__main__ import main; sys.exit(main())"
)
#: A Thursday, 15:00 in Berlin: 2026-11-26.
THURSDAY_S = 1795701600.0
GRANTED = wire.Granted(1, 17, {"ram": 2**30})


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is that of Berlin, by a rule that needs no files."""
    with monkeypatch.context() as there:
        there.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


def waiting(place: int = 2, reason: str = "waiting for ram (lease 12)") -> wire.Waiting:
    return wire.Waiting(1, 17, place, reason)


class Client:
    """The daemon's end of one connection."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._session = ServerSession()
        self.requests: list[wire.Request] = []

    def hears(self, count: int = 2) -> list[wire.Request]:
        """Wait until `count` requests have come in all."""
        while len(self.requests) < count:
            data = self._stream.recv(65536)
            assert data, f"the client left after {self.requests}"
            self.requests += self._session.receive(data)
        return self.requests

    @property
    def pid(self) -> int:
        """The process that connected."""
        size = struct.calcsize("3i")
        peer = self._stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return struct.unpack("3i", peer)[0]

    @property
    def acquire(self) -> wire.Acquire:
        request = self.hears()[1]
        assert isinstance(request, wire.Acquire)
        return request

    def say(self, *messages: wire.Message) -> None:
        self._stream.sendall(b"".join(encode(message) for message in messages))

    def say_bytes(self, data: bytes) -> None:
        self._stream.sendall(data)

    def hang_up(self) -> None:
        self._stream.close()

    def hands_over(self, steps: int | None = None) -> list[wire.HandOver]:
        """Do what each HandOver asks for, `steps` times or until the client leaves."""
        orders: list[wire.HandOver] = []
        while steps is None or len(orders) < steps:
            data = self._stream.recv(65536)
            if not data:
                break
            for request in self._session.receive(data):
                assert isinstance(request, wire.HandOver)
                orders.append(request)
                self.say(wire.Done(request.id))
        return orders

    def orders(self, count: int) -> list[wire.HandOver]:
        """Wait until HandOver has come `count` times, and do nothing."""
        self.hears(2 + count)
        return [one for one in self.requests if isinstance(one, wire.HandOver)]

    def peek(self) -> None:
        """Wait until something has been said that was not read yet, or it left."""
        self._stream.recv(1, socket.MSG_PEEK)

    def left(self) -> bool:
        """Wait until the last copy of the client's descriptor is closed."""
        return self._stream.recv(65536) == b""

    def silent(self) -> bool:
        """Whether the connection is open now, and nothing was said."""
        return not select.select([self._stream], [], [], 0)[0]


class Daemon:
    """A listening socket; each test plays the daemon itself."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(PATIENCE_S)
        self._listener.bind(self.path)
        self._listener.listen()
        self._clients: list[Client] = []

    def accept(self) -> Client:
        stream, _ = self._listener.accept()
        stream.settimeout(PATIENCE_S)
        self._clients.append(Client(stream))
        return self._clients[-1]

    def greets(self) -> Client:
        """Accept, hear Hello and Acquire, and say Welcome."""
        client = self.accept()
        client.hears()
        client.say(wire.Welcome(1, "0.1.0"))
        return client

    def grants(self, granted: wire.Granted = GRANTED) -> Client:
        client = self.greets()
        client.say(granted)
        return client

    def unvisited(self) -> bool:
        """Whether nobody has connected and not been accepted."""
        return not select.select([self._listener], [], [], 0)[0]

    def close(self) -> None:
        self._listener.close()
        for client in self._clients:
            client.hang_up()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "pen.socket")
    yield made
    made.close()


@dataclass
class Ended:
    status: int
    out: str
    err: str


class Program:
    """A running gatekeeper."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def line(self, stream: str = "out") -> str:
        """The next line it, or CMD, writes."""
        pipe = self.process.stdout if stream == "out" else self.process.stderr
        assert pipe is not None
        return pipe.readline().decode()

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def end(self) -> Ended:
        out, err = self.process.communicate(timeout=PATIENCE_S)
        status = self.process.returncode
        return Ended(status, (out or b"").decode(), (err or b"").decode())


Start = Callable[..., Program]


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """An environment in which no daemon of this machine can be met."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "XDG_RUNTIME_DIR": str(tmp_path),
        "HOLDINGPEN_SOCKET": str(tmp_path / "pen.socket"),
    }


@pytest.fixture
def start(surroundings: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start gatekeeper with these words; its own interpreter flags are -I and -S."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        *words: str | bytes,
        flags: tuple[str, ...] = (),
        boot: str | None = None,
        **more: object,
    ):
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", *flags, "-c", boot or BOOT, *words],
            **{
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "env": surroundings,
                "cwd": tmp_path,
                **more,
            },
        )
        started.append(process)
        return Program(process)

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


class Terminal:
    """A pseudo-terminal with a program in a session of its own on it."""

    def __init__(self, words: list[str], env: dict[str, str], cwd: Path) -> None:
        self.seen = ""
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            # else Ctrl-C drops what was written and not read yet
            modes = termios.tcgetattr(0)
            modes[3] |= termios.NOFLSH
            termios.tcsetattr(0, termios.TCSANOW, modes)
            os.chdir(cwd)
            os.execve(words[0], words, env)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, expected: str) -> str:
        """Read until `expected` is seen; returns all that came up to and with it."""
        deadline_s = time.monotonic() + PATIENCE_S
        while expected not in self.seen:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([self._master], [], [], left_s)[0]:
                raise AssertionError(f"{expected!r} did not come: {self.seen!r}")
            try:
                piece = os.read(self._master, 65536)
            except OSError:
                # all other ends are closed
                piece = b""
            assert piece, f"{expected!r} did not come: {self.seen!r}"
            self.seen += piece.decode(errors="replace")
        before, _, self.seen = self.seen.partition(expected)
        return before + expected

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self._master, (rows, columns))

    def status(self) -> int:
        """Wait for the end; as subprocess does, minus the signal's number."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        # the hangup ends what is left
        os.close(self._master)


OnTerminal = Callable[..., Terminal]


@pytest.fixture
def terminal(surroundings: dict[str, str], tmp_path: Path) -> Iterator[OnTerminal]:
    opened: list[Terminal] = []

    def open_one(*words: str, term: str = "xterm") -> Terminal:
        env = {**surroundings, "TERM": term, "PS1": "> ", "BOOT": BOOT}
        env["PYTHON"] = sys.executable
        opened.append(Terminal(list(words), env, tmp_path))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def gatekeeper_words() -> list[str]:
    return [sys.executable, "-I", "-S", "-c", BOOT]
