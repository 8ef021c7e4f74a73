"""What one sees while standing in the line."""

import os
import pty
import signal
import sys
from contextlib import contextmanager

import pytest

from holdingpen.ctl import terminal
from holdingpen.ctl.waiting import Vigil
from holdingpen.wire import messages as wire

NEWS = wire.Waiting(1, 17, 2, "60.0 GiB ram; 22.0 are there.", [3], 10_060.0)


@pytest.fixture
def clock(monkeypatch):
    """A clock to set, at second 10,000."""
    now = [10_000.0]
    monkeypatch.setattr(terminal, "now_s", lambda: now[0])
    return now


@contextmanager
def screen(term="xterm"):
    """Have a terminal of 80 columns as standard error; gives what is painted on it."""
    ours, theirs = pty.openpty()

    def read():
        # what is painted takes its time through the terminal; a mark comes after it
        os.write(theirs, b"<end>")
        painted = b""
        while not painted.endswith(b"<end>"):
            painted += os.read(ours, 4096)
        return painted.removesuffix(b"<end>").decode()

    # not in a fixture: pytest sets standard error anew between that and the test
    with os.fdopen(theirs, "w") as stderr, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        patch.setenv("TERM", term)
        yield read
    os.close(ours)


def test_a_terminal_has_one_line_that_is_painted_over(clock):
    with screen() as read:
        with Vigil() as vigil:
            vigil.tell(NEWS)
            assert read() == (
                "\r\x1b[Knumber 2 in the line, expected in 1m, waited 0s: "
                "60.0 GiB ram; 22.0 are there"
            )
            clock[0] += 5
            vigil.tell(wire.Waiting(1, 17, 1, "cpu."))
            assert read() == (
                "\r\x1b[Knumber 1 in the line, time unknown, waited 5s: cpu"
            )
        assert read() == "\r\x1b[K"


def test_time_is_seen_to_pass_without_news(clock):
    with screen() as read, Vigil() as vigil:
        vigil.tell(NEWS)
        read()
        clock[0] += 90
        assert signal.getitimer(signal.ITIMER_REAL)[1] == 1.0
        signal.raise_signal(signal.SIGALRM)
        assert "number 2 in the line, any moment, waited 1m30s: 60.0" in read()


def test_the_line_is_no_wider_than_the_terminal(clock):
    with screen() as read, Vigil() as vigil:
        vigil.tell(wire.Waiting(1, 17, 2, "many words " * 20))
        painted = read().removeprefix("\r\x1b[K")
    assert (len(painted), painted[-7:]) == (79, "y word…")


def test_what_others_wrote_does_not_drive_the_terminal(clock):
    with screen() as read, Vigil() as vigil:
        vigil.tell(wire.Waiting(1, 17, 2, "\x1b[2Jx"))
        assert read().endswith(": ?[2Jx")


def test_the_alarm_is_left_as_it_was(clock):
    before = signal.getsignal(signal.SIGALRM)
    with screen():
        with Vigil() as vigil:
            vigil.tell(NEWS)
            assert signal.getsignal(signal.SIGALRM) != before
        assert signal.getsignal(signal.SIGALRM) == before
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_who_need_not_wait_sees_nothing(clock):
    with screen() as read:
        with Vigil():
            pass
        assert read() == ""


def test_a_dumb_terminal_has_a_line_for_each_change(clock):
    with screen("dumb") as read:
        with Vigil() as vigil:
            vigil.tell(NEWS)
            vigil.tell(NEWS)
        assert read() == (
            "holdingpenctl: number 2 in the line, expected in 1m: 60.0 GiB ram; "
            "22.0 are there\r\n"
        )
