"""A line for a user goes to his terminals that take messages, and nowhere else."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from holdingpen.daemon import terminals


@pytest.fixture
def pty():
    """A terminal of our own: its master, and its path."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    yield master, os.ttyname(slave), slave
    os.close(master)
    os.close(slave)


def test_his_terminal_shows_the_line(pty):
    master, path, _ = pty
    Path(path).chmod(0o620)
    shown = terminals.show(os.geteuid(), "reservation 17 is idle.")
    assert path in map(str, shown)
    assert b"\r\nHolding Pen: reservation 17 is idle.\r" in os.read(master, 1000)


@pytest.mark.parametrize(("mode", "other"), [(0o600, 0), (0o620, 1)])
def test_who_takes_no_messages_and_others_are_left_alone(pty, mode, other):
    _, path, _ = pty
    Path(path).chmod(mode)
    shown = terminals.show(os.geteuid() + other, "no.")
    assert path not in map(str, shown)


def test_what_is_no_terminal_is_left_alone(tmp_path):
    file = tmp_path / "0"
    file.write_text("mine")
    file.chmod(0o660)
    (tmp_path / "1").symlink_to("/dev/null")
    assert terminals.show(os.geteuid(), "no.", ((str(tmp_path), "[0-9]*"),)) == []
    assert file.read_text() == "mine"


def test_a_terminal_that_takes_nothing_more_does_not_hold_us_up(pty):
    _, path, slave = pty
    Path(path).chmod(0o620)
    os.set_blocking(slave, False)
    with suppress(BlockingIOError):
        while True:
            os.write(slave, b"x" * 4096)
    showing = threading.Thread(target=terminals.show, args=(os.geteuid(), "no."))
    showing.daemon = True
    showing.start()
    showing.join(10.0)
    assert not showing.is_alive()
