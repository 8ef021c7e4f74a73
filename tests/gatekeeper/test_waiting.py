"""What one sees while waiting."""

from __future__ import annotations

import os
import signal
import time

import pytest

from gatekeeper.waiting import View, about, columns, fitted, ordinal
from holdingpen.errors import RemoteMistake
from holdingpen.wire import messages as wire

from .conftest import THURSDAY_S


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (11, "11th"),
        (12, "12th"),
        (13, "13th"),
        (21, "21st"),
        (112, "112th"),
        (1002, "1002nd"),
    ],
)
def test_places_are_ordinals(place, expected):
    assert expected == ordinal(place)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(59, "59s"), (599, "9m59s"), (1490, "25m"), (3629, "1h"), (90000, "1d1h")],
)
def test_a_forecast_is_no_more_exact_than_it_deserves(seconds, expected):
    assert expected == about(seconds)


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (16, "me: the why: 25m"),
        (15, "me: the...: 25m"),
        (14, "me: th...: 25m"),
        (12, "me: ...: 25m"),
        (11, "me: : 25m"),
        (5, "me: :"),
        (0, ""),
    ],
)
def test_what_is_too_long_for_the_terminal_is_cut_in_the_middle(width, expected):
    assert expected == fitted("me: ", "the why", ": 25m", width)


def test_wide_letters_take_two_columns():
    assert columns(fitted("", "漢字" * 50, "", 20)) <= 20


def _say(view: View, place: int, reason: str, **more: object) -> None:
    view.tell({"t": "waiting", "lease": 17, "place": place, "reason": reason, **more})


def test_elsewhere_than_on_a_terminal_each_change_is_a_line(capfd):
    view = View()
    _say(view, 2, "waiting for ram (lease 12).", expected=time.time() + 1500)
    _say(view, 2, "waiting for ram (lease 12).", expected=time.time() + 1400)
    _say(view, 1, "waiting for ram (lease 12).")
    view.tick()
    view.close()
    assert capfd.readouterr().err == (
        "gatekeeper: 2nd in line, waiting for ram (lease 12): about 25m\n"
        "gatekeeper: 1st in line, waiting for ram (lease 12): time unknown\n"
    )


def test_what_is_days_away_has_a_date(capfd, berlin, monkeypatch):
    """A Thursday: the machine is reserved until Monday."""
    monkeypatch.setattr("gatekeeper.waiting.time", lambda: THURSDAY_S)
    monkeypatch.setattr("time.time", lambda: THURSDAY_S)
    view = View()
    for place, days in ((3, 0.9), (2, 3.75), (1, 40)):
        _say(view, place, "reserved by ada", expected=THURSDAY_S + days * 86400)
    assert capfd.readouterr().err == (
        "gatekeeper: 3rd in line, reserved by ada: about 21h36m\n"
        "gatekeeper: 2nd in line, reserved by ada: about 3d18h (Mon 09:00)\n"
        "gatekeeper: 1st in line, reserved by ada: about 40d (Tue 2027-01-05 15:00)\n"
    )


@pytest.mark.parametrize("expected", [float("nan"), float("inf"), -1.0, 1e300, "x"])
def test_an_impossible_time_is_an_unknown_one(capfd, expected):
    _say(View(), 1, "why", expected=expected)
    assert "time unknown" in capfd.readouterr().err


def test_a_time_that_has_come_is_any_moment(capfd):
    _say(View(), 1, "why", expected=time.time() - 5)
    assert capfd.readouterr().err == "gatekeeper: 1st in line, why: any moment\n"


def test_a_hostile_reason_does_not_drive_the_terminal(capfd):
    _say(View(), 1, "\x1b]0;evil\x07")
    assert "1st in line, ?]0;evil?:" in capfd.readouterr().err


@pytest.mark.parametrize("broken", [{"place": "2"}, {"place": -1}, {"reason": None}])
def test_a_broken_message_is_called_so(broken):
    with pytest.raises(RemoteMistake):
        View().tell({"t": "waiting", "place": 1, "reason": "", **broken})


# On a terminal.

_CLEAR = "\r\x1b[K"


def test_on_a_terminal_one_line_is_rewritten_and_cleared(
    daemon, terminal, gatekeeper_words
):
    screen = terminal(*gatekeeper_words, "echo", "done")
    client = daemon.greets()
    client.say(wire.Waiting(1, 17, 2, "waiting for ram (lease 12)"))
    screen.until(
        f"{_CLEAR}gatekeeper: 2nd in line, waiting for ram (lease 12): "
        "time unknown, waited 0s"
    )
    client.say(wire.Waiting(1, 17, 1, "waiting for ram"))
    screen.until(f"{_CLEAR}gatekeeper: 1st in line, waiting for ram: ")
    client.say(wire.Granted(1, 17, {}))
    assert screen.until("done").endswith(f"{_CLEAR}done")


@pytest.mark.slow
def test_on_a_terminal_the_time_waited_passes(daemon, terminal, gatekeeper_words):
    screen = terminal(*gatekeeper_words, "true")
    daemon.greets().say(wire.Waiting(1, 17, 2, "why"))
    screen.until("waited 1s")


def test_the_line_fits_the_terminal(daemon, terminal, gatekeeper_words):
    screen = terminal(*gatekeeper_words, "true")
    screen.resize(24, 60)
    client = daemon.greets()
    client.say(wire.Waiting(1, 17, 2, "x" * 200))
    drawn = screen.until("waited 0s").rpartition(_CLEAR)[2]
    assert len(drawn) == 59


def test_a_dumb_terminal_gets_lines(daemon, terminal, gatekeeper_words):
    screen = terminal(*gatekeeper_words, "true", term="dumb")
    daemon.greets().say(wire.Waiting(1, 17, 2, "why"))
    expected = "gatekeeper: 2nd in line, why: time unknown\r\n"
    assert expected == screen.until("\n")


def test_in_the_background_no_line_is_rewritten(daemon, terminal, gatekeeper_words):
    """`gatekeeper CMD &` must not write into the shell's prompt each second."""
    shell = ["/bin/sh", "-c", 'set -m; "$@" & wait; read x', "sh"]
    screen = terminal(*shell, *gatekeeper_words, "true")
    daemon.greets().say(wire.Waiting(1, 17, 2, "why"))
    expected = "gatekeeper: 2nd in line, why: time unknown\r\n"
    assert expected == screen.until("\n")


def test_quiet_is_quiet(daemon, terminal, gatekeeper_words):
    screen = terminal(*gatekeeper_words, "--quiet", "echo", "done")
    client = daemon.greets()
    client.say(wire.Waiting(1, 17, 2, "why"), wire.Granted(1, 17, {}))
    assert screen.until("done") == "done"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_deadly_signal_clears_the_live_line_first(
    daemon, terminal, gatekeeper_words, signum
):
    # under a shell: with the leader of a session its terminal's output may be lost
    shell = ["/bin/sh", "-c", '"$@"; echo status $?; read x', "sh"]
    screen = terminal(*shell, *gatekeeper_words, "true")
    client = daemon.greets()
    client.say(wire.Waiting(1, 17, 2, "why"))
    screen.until("waited 0s")
    os.kill(client.pid, signum)
    screen.until(_CLEAR)
    screen.until(f"status {128 + signum}")
    assert client.left()


def test_ctrl_c_leaves_the_line_and_is_died_of(daemon, terminal, gatekeeper_words):
    """What we write then may be lost: the terminal drops its output at Ctrl-C."""
    screen = terminal(*gatekeeper_words, "true")
    client = daemon.greets()
    client.say(wire.Waiting(1, 17, 2, "why"))
    screen.until("waited 0s")
    screen.type("\x03")
    assert screen.status() == -2
    assert client.left()
