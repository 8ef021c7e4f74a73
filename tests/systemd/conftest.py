"""One machine with a real systemd for all tests that need one; see machine.py."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("booted", _HERE / "machine.py")
assert _spec is not None
assert _spec.loader is not None
machine = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(machine)

SOCKET = "/run/holdingpen.socket"


@pytest.fixture(scope="session")
def booted() -> Iterator[object]:
    """A machine whose holdingpen is tiny.py, under the real units.

    HOLDINGPEN_TEST_ROOT names another tree to boot, of a newer systemd for example.
    """
    if why := machine.why_not():
        pytest.skip(why)
    root = os.environ.get("HOLDINGPEN_TEST_ROOT", "/")
    one = machine.Machine(root, daemon=str(_HERE / "tiny.py"))
    yield one
    one.close()


class Client:
    """A connection to the daemon in the machine, made from outside."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(machine.PATIENCE_S)
        self.socket.connect(path)

    def ask(self, words: str = "who") -> list[str]:
        """One line there, one line back; empty when it was hung up."""
        self.socket.sendall(words.encode())
        return self.socket.recv(1000).decode().split()


class Pen:
    """The service, and clients of it."""

    def __init__(self, booted: object) -> None:
        self.machine = booted
        self._clients: list[Client] = []

    def connect(self) -> Client:
        self._clients.append(Client(self.machine.outside(SOCKET)))
        return self._clients[-1]

    def systemctl(self, *words: str) -> None:
        self.machine.run("systemctl", *words)

    def show(self, name: str, unit: str = "holdingpen.service") -> str:
        return self.machine.show(unit, name)

    def kill(self, signal: str = "KILL") -> None:
        words = [f"--signal={signal}", "--kill-whom=main"]
        self.systemctl("kill", *words, "holdingpen.service")

    def kept(self) -> int:
        """How many descriptors are in the store."""
        return int(self.show("NFileDescriptorStore"))

    def close(self) -> None:
        for client in self._clients:
            client.socket.close()
        self.systemctl("stop", "holdingpen.socket", "holdingpen.service")
        if self.machine.version() >= 254:
            self.systemctl("clean", "--what=fdstore", "holdingpen.service")
        self.systemctl("reset-failed")


@pytest.fixture
def pen(booted: object) -> Iterator[Pen]:
    """The socket, started; nobody has come yet."""
    pen = Pen(booted)
    pen.systemctl("start", "holdingpen.socket")
    yield pen
    pen.close()


@pytest.fixture
def until() -> object:
    return machine.until
