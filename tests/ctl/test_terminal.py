"""What is asked of the system: width, colour, names, dates, the whole screen."""

import os
import pty
import signal
import sys

import pytest

from holdingpen.ctl import terminal


class Screen:
    """Standard output that is a terminal."""

    def __init__(self, fd):
        self.fd = fd
        self.text = ""

    def isatty(self):
        return True

    def fileno(self):
        return self.fd

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.fixture
def attach(monkeypatch):
    """Makes a terminal standard output; it has no size, as new ones have none.

    The test must call it: pytest puts its own standard output in place after setup.
    """
    ours, theirs = pty.openpty()
    for name in ("COLUMNS", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)

    def make():
        screen = Screen(theirs)
        monkeypatch.setattr(sys, "stdout", screen)
        return screen

    yield make
    os.close(ours)
    os.close(theirs)


def resize(screen, lines, columns):
    import fcntl
    import struct
    import termios

    size = struct.pack("HHHH", lines, columns, 0, 0)
    fcntl.ioctl(screen.fd, termios.TIOCSWINSZ, size)


def test_a_terminal_is_as_wide_as_it_says_or_80(attach):
    screen = attach()
    assert terminal.view().width == 80
    resize(screen, 24, 132)
    assert terminal.view().width == 132


@pytest.mark.parametrize(
    ("value", "width"), [("100", 100), ("0", 80), ("x", 80), ("", 80), ("²", 80)]
)
def test_columns_goes_before_the_terminal(attach, monkeypatch, value, width):
    attach()
    monkeypatch.setenv("COLUMNS", value)
    assert terminal.view().width == width


def test_into_a_pipe_nothing_is_cut(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal.view().width is None


COLOURS = [
    ({}, "auto", True),
    ({"NO_COLOR": "1"}, "auto", False),
    ({"NO_COLOR": ""}, "auto", True),
    ({"TERM": "dumb"}, "auto", False),
    ({"NO_COLOR": "1"}, "always", True),
    ({}, "never", False),
]


@pytest.mark.parametrize(("environment", "wanted", "colourful"), COLOURS)
def test_colour_on_a_terminal(attach, monkeypatch, environment, wanted, colourful):
    attach()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert terminal.view(wanted).colour is colourful


def test_no_colour_into_a_pipe(capsys):
    assert terminal.view().colour is False


def test_a_user_without_a_name_is_a_number():
    assert terminal.user_name(0) == "root"
    assert terminal.user_name(4_000_000_000) == "4000000000"
    assert terminal.user_name(2**70) == str(2**70)


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e300])
def test_a_date_that_cannot_be_is_no_crash(seconds):
    assert terminal.date(seconds) == "on a date that cannot be"


def test_a_date_has_day_and_second():
    assert terminal.date(1e9).endswith(":40")
    assert terminal.date(1e9).startswith("2001-09-")


def test_lines_that_do_not_fit_the_screen_are_counted():
    lines = ["one", "two", "three", "four"]
    assert terminal.picture(lines, 3) == (
        "\x1b[Hone\x1b[K\r\ntwo\x1b[K\r\n... and 2 more lines\x1b[K\x1b[J"
    )
    assert "four" in terminal.picture(lines, 4)


def test_the_screen_is_given_back_as_it_was(attach):
    screen = attach()
    with pytest.raises(KeyError), terminal.full_screen():
        raise KeyError
    assert screen.text == "\x1b[?1049h\x1b[?25l\x1b[?25h\x1b[?1049l"


def test_the_screen_is_given_back_on_sigterm_too(attach):
    screen = attach()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, terminal.full_screen():
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 143
    assert screen.text.endswith("\x1b[?25h\x1b[?1049l")
    assert signal.getsignal(signal.SIGTERM) is before


def test_watching_on_a_terminal_paints_over_the_page(attach, telling, busy, ctl):
    screen = attach()
    resize(screen, 10, 80)
    telling(busy, busy)
    exit_status, _, err = ctl("status", "--watch", "0.1")
    assert (exit_status, "hung up" in err) == (69, True)
    assert screen.text.count("\x1b[HHolding Pen 0.1.0, up 2h30m") == 2
    assert "... and 4 more lines" in screen.text
    assert screen.text.endswith("\x1b[?25h\x1b[?1049l")


def test_times_are_told_in_few_words_of_the_zone_here(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    monday = 1795424400.0  # 2026-11-23 09:00
    now = monday - 2 * 86_400
    assert terminal.time_words(monday, now) == "Mon 09:00"
    assert terminal.times_words(monday, monday + 7200, now) == "Mon 09:00-11:00"


@pytest.mark.parametrize("when", [float("inf"), float("nan"), 1e18])
def test_a_time_that_cannot_be_is_said_to_be_so(monkeypatch, when):
    monkeypatch.setenv("TZ", "UTC")
    said = "on a date that cannot be"
    assert terminal.date(when) == said
    assert terminal.time_words(when, 0.0) == said
    assert terminal.times_words(0.0, when, 0.0) == said


def test_a_group_without_a_name_is_its_number():
    assert terminal.group_name(0) == "root"
    assert terminal.group_name(2**31 - 5) == "2147483643"
