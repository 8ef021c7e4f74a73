"""What is said to whoever started the daemon; see sd_notify(3)."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from holdingpen.daemon.systemd import Systemd


@pytest.fixture
def listening(tmp_path, monkeypatch):
    """The datagram socket of whoever started us."""
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.settimeout(5)
        yield listening


@pytest.fixture
def systemd(listening):
    systemd = Systemd()
    with closing(systemd._notifier.socket):
        yield systemd


def test_ready_comes_with_a_line_for_systemctl_status(listening, systemd):
    systemd.ready("serving /run/x")
    assert listening.recv(1000) == b"READY=1\nSTATUS=serving /run/x"


def test_reloading_comes_with_the_moment_it_began(listening, systemd):
    """systemd refuses RELOADING=1 of Type=notify-reload without it."""
    systemd.reloading()
    word, moment = listening.recv(1000).decode().split("\n")
    assert word == "RELOADING=1"
    assert int(moment.removeprefix("MONOTONIC_USEC=")) > 0


def test_stopping(listening, systemd):
    systemd.stopping()
    assert listening.recv(1000) == b"STOPPING=1"


# sdnotify leaves a socket to the collector then
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_outside_systemd_nothing_is_said(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd = Systemd()
    systemd.ready("serving /run/x")
    systemd.stopping()


def test_whoever_started_us_may_be_gone(listening, systemd, tmp_path):
    listening.close()
    systemd.ready("serving /run/x")
