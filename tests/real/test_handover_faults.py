"""What a daemon, its clients and their ends may do to each other in a hand-over.

A real daemon with ballast of ram and of a disk; as root it makes file systems.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import holdingpen
from holdingpen.ballast import scratch
from holdingpen.client.blocking import connect
from holdingpen.devices.filesystem import FileSystem
from holdingpen.wire import messages as wire
from holdingpen.wire.session import ClientSession, encode

pytestmark = [pytest.mark.real, pytest.mark.root, pytest.mark.slow]

MIB = 2**20
HOLD = 64 * MIB
ABOVE_PACKAGE = Path(holdingpen.__file__).parents[1]
#: A client's user, and somebody else.
CLIENT, OTHER = 65534, 65533
PATIENCE_S = 30.0

CONFIG = """
[daemon]
mode = "0666"
[ram]
keep = "64M"
hold = "64M"
[disk.{word}]
path = "{path}"
hold = "64M"
keep = "8M"
"""


class Caller:
    """A client that keeps to nothing but the encoding."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(path)
        self._session = ClientSession()
        self._heard: list[wire.Reply] = []
        self._numbers = itertools.count(1)
        self.files: list[int] = []
        self._socket.sendall(self._session.hello("test"))
        while not self._session.daemon:
            self._listen()

    def _listen(self) -> None:
        data, files, _flags, _address = socket.recv_fds(self._socket, 65536, 253)
        self.files += files
        assert data, "the daemon hung up"
        self._heard += self._session.receive(data)

    def send(self, kind: type[wire.Message], **fields: object) -> int:
        number = next(self._numbers)
        self._socket.sendall(encode(kind(id=number, **fields)))  # type: ignore[call-arg]
        return number

    def answer(self, number: int) -> wire.Reply:
        """What is said to that request at last."""
        while True:
            for reply in self._heard:
                waits = isinstance(reply, wire.Waiting)
                if getattr(reply, "id", None) == number and not waits:
                    self._heard.remove(reply)
                    return reply
            self._listen()

    def ask(self, kind: type[wire.Message], **fields: object) -> wire.Reply:
        return self.answer(self.send(kind, **fields))

    def close(self) -> None:
        self._socket.close()
        for fd in self.files:
            os.close(fd)


class Pen:
    """A daemon for everybody, in a directory that everybody can reach."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.disk = home / "disk"
        self.disk.mkdir()
        self.socket = str(home / "pen.socket")
        self.daemon: subprocess.Popen[str] | None = None
        self.word = "a"

    def serve(self, umask: int = 0o022) -> None:
        (self.home / "c.toml").write_text(CONFIG.format(word=self.word, path=self.disk))
        words = ["--config", "c.toml", "--socket", self.socket, "--state", "state"]
        self.daemon = subprocess.Popen(
            [sys.executable, "-m", "holdingpen", *words],
            cwd=self.home,
            env={**os.environ, "PYTHONPATH": str(ABOVE_PACKAGE)},
            stderr=subprocess.PIPE,
            text=True,
            umask=umask,
        )
        assert self.daemon.stderr is not None
        assert any("serves" in line for line in self.daemon.stderr)

    def stop(self, number: int) -> int:
        assert self.daemon is not None
        assert self.daemon.stderr is not None
        self.daemon.send_signal(number)
        status = self.daemon.wait(PATIENCE_S)
        self.daemon.stderr.close()
        return status

    def is_whole(self) -> bool:
        """Whether all of it is ballast, and nothing is lent or on its way."""
        with connect(self.socket) as conn:
            books = conn.status().resources
        ours = [books[name] for name in ("ram", f"disk.{self.word}")]
        return (
            all((x.held, x.leased, x.settling) == (HOLD, 0, 0) for x in ours)
            and not self.left()
        )

    def left(self) -> list[str]:
        """What there is of leases: mounts, loop devices, files, directories."""
        home = str(self.home)
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        found = [line for line in mounts if home in line]
        for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                found += [x for x in [entry.read_text()] if home in x]
        files = self.disk.rglob("*")
        return found + [
            str(x) for x in files if x.name.startswith(("file-", "image-", "gone-"))
        ]

    def descriptors(self) -> int:
        """How many the daemon has open, but for its ballast."""
        assert self.daemon is not None
        found = 0
        for entry in Path(f"/proc/{self.daemon.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                name = str(entry.readlink())
                found += "(deleted)" not in name and "/ballast-" not in name
        return found

    def close(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.stop(signal.SIGKILL)
        for line in Path("/proc/self/mounts").read_text().splitlines():
            if str(self.home) in line:
                subprocess.run(["umount", "-l", line.split()[1]], check=False)


@pytest.fixture
def pen() -> Iterator[Pen]:
    home = Path(tempfile.mkdtemp(prefix="hp-faults-"))
    home.chmod(0o755)
    one = Pen(home)
    if why := FileSystem(one.disk).why or scratch.why_not():
        pytest.skip(why)
    yield one
    one.close()
    shutil.rmtree(home)


def wait_until(question: Callable[[], bool]) -> None:
    by_s = time.monotonic() + PATIENCE_S
    while not question():
        assert time.monotonic() < by_s, "it never came"
        time.sleep(0.02)


def test_a_killed_daemon_and_a_renamed_disk_are_survived(pen: Pen) -> None:
    pen.serve()
    wait_until(pen.is_whole)
    caller = Caller(pen.socket)
    granted = caller.ask(wire.Acquire, amounts={"ram": 8 * MIB, "disk": 8 * MIB})
    assert isinstance(granted, wire.Granted)
    pen.stop(signal.SIGKILL)
    assert len(pen.left()) == 3
    pen.word = "b"
    pen.serve()
    caller.close()
    wait_until(pen.is_whole)


@pytest.mark.parametrize("attempt", range(4))
def test_a_daemon_that_ends_while_it_makes_a_file_system_leaves_nothing(
    pen: Pen, attempt: int
) -> None:
    pen.serve()
    wait_until(pen.is_whole)
    caller = Caller(pen.socket)
    caller.send(wire.Acquire, amounts={"disk": 32 * MIB})
    while not [*pen.disk.glob(".holdingpen/image-*")]:
        pass
    # from just begun to mounted
    time.sleep(attempt * 0.004)
    assert pen.stop(signal.SIGTERM) == 0
    assert pen.left() == []
    assert [*pen.disk.iterdir()] == []
    caller.close()


def may_write(place: str, user: int) -> bool:
    words = ["touch", f"{place}/mine"]
    done = subprocess.run(
        words, user=user, extra_groups=[], stderr=subprocess.DEVNULL, check=False
    )
    return done.returncode == 0


def test_a_scratch_is_its_user_s_alone_whatever_the_daemon_s_umask(pen: Pen) -> None:
    pen.serve(umask=0o077)
    wait_until(pen.is_whole)
    os.seteuid(CLIENT)
    try:
        caller = Caller(pen.socket)
    finally:
        os.seteuid(0)
    granted = caller.ask(wire.Acquire, amounts={"disk": 8 * MIB})
    assert isinstance(granted, wire.Granted)
    place = granted.places["disk.a"]
    assert may_write(place, CLIENT)
    assert not may_write(place, OTHER)
    caller.close()
    wait_until(pen.is_whole)


def test_a_lease_too_small_for_a_file_system_has_a_directory(pen: Pen) -> None:
    pen.serve()
    wait_until(pen.is_whole)
    caller = Caller(pen.socket)
    granted = caller.ask(wire.Acquire, amounts={"disk": MIB})
    assert isinstance(granted, wire.Granted)
    assert granted.handover == "bounded"
    assert "too few" in granted.why
    assert Path(granted.places["disk.a"]).is_relative_to(pen.disk)
    caller.close()
    wait_until(pen.is_whole)


def live_and_end(pen: Pen, chance: random.Random) -> None:
    """One lease of any kind, used in any way, and ended in any way."""
    caller = Caller(pen.socket)
    with contextlib.closing(caller):
        wishes = {
            "ram": chance.choice(["as-is", "program", "steps", "descriptor"]),
            "disk": chance.choice(["as-is", "descriptor"]),
        }
        names = chance.choice([["ram"], ["disk"], ["ram", "disk"]])
        amounts = {x: chance.choice([1, MIB, 3 * MIB + 5, 30 * MIB]) for x in names}
        wanted = {name: wishes[name] for name in names}
        number = caller.send(wire.Acquire, amounts=amounts, wishes=wanted)
        if chance.random() < 0.2:
            time.sleep(chance.random() * 0.03)
            return
        granted = caller.answer(number)
        assert isinstance(granted, wire.Granted), granted
        about = {"lease": granted.lease}
        for name in names:
            number = caller.send(wire.Fetch, **about, resource=name)
            if chance.random() < 0.2:
                return
            found = caller.answer(number)
            assert isinstance(found, wire.Fetched) == (wishes[name] == "descriptor")
            if amounts[name] > 1:
                less = {name: amounts[name] // 3}
                caller.ask(wire.Shrink, **about, amounts=less)
        for fd in caller.files:
            os.pwrite(fd, b"mine", 0)
            os.ftruncate(fd, chance.choice([0, 4096, MIB]))
        caller.ask(wire.HandOver, **about, resource="ram", amount=10**12)
        for place in granted.places.values():
            (Path(place) / "mine").write_bytes(b"x" * 4096)
        if chance.random() < 0.5:
            assert isinstance(caller.ask(wire.Release, **about), wire.Released)


def test_after_many_leases_of_all_kinds_all_is_as_before(pen: Pen) -> None:
    pen.serve()
    wait_until(pen.is_whole)
    before = pen.descriptors()
    wrong: list[BaseException] = []

    def live(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(15):
                live_and_end(pen, chance)
        except BaseException as why:
            wrong.append(why)

    threads = [threading.Thread(target=live, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    wait_until(pen.is_whole)
    wait_until(lambda: pen.descriptors() <= before)
    assert pen.stop(signal.SIGTERM) == 0
    assert [*pen.disk.iterdir()] == []
