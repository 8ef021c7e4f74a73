"""The command line, and errors as exit statuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import holdingpen
from holdingpen import errors
from holdingpen.ctl import main as ctl_main
from holdingpen.wire import messages as wire

VERBS = ["status", "list", "queue", "why", "confirm", "watch", "report"]
VERBS += ["reserve", "extend", "release", "set", "drain", "grant", "revoke"]
VERBS += ["prompt", "doctor"]


def test_the_version_is_that_of_the_package(ctl):
    assert ctl("--version") == (0, f"holdingpenctl {holdingpen.__version__}\n", "")


def test_without_a_verb_there_is_help_and_status_2(ctl):
    exit_status, out, help_text = ctl()
    assert (exit_status, out) == (2, "")
    assert all(f"    {verb}" in help_text for verb in [*VERBS, "journal", "timetable"])


@pytest.mark.parametrize(
    "verb", [*VERBS, "undrain", "timetable show", "timetable import"]
)
def test_every_verb_explains_itself_with_examples_in_80_columns(ctl, verb):
    exit_status, out, _ = ctl(*verb.split(), "--help")
    assert exit_status == 0
    assert f"examples:\n  holdingpenctl {verb}" in out
    assert max(map(len, out.splitlines())) <= 80


WRONG = [
    ("frobnicate",),
    ("why",),
    ("why", "x"),
    ("why", "-1"),
    ("why", "0"),
    ("why", "9" * 30),
    ("release", "17", "x"),
    ("release", "--all", "--label", "x"),
    ("extend", "17"),
    ("extend", "x", "1h"),
    ("reserve", "--priority", "high"),
    ("reserve", "--wait", "1h", "--nonblock"),
    ("timetable",),
    ("timetable", "import"),
    ("report", "--days", "0"),
    ("report", "--days", "9" * 5000),
    ("set", "ram"),
    ("status", "--json", "--short"),
    ("status", "--watch", "0"),
    ("status", "--watch", "soon"),
    ("status", "--watch", "nan"),
    ("status", "--color", "sometimes"),
]


@pytest.mark.parametrize("words", WRONG)
def test_wrong_usage_is_status_2_before_anybody_is_asked(ctl, words):
    exit_status, out, err = ctl(*words)
    assert (exit_status, out) == (2, "")
    assert "usage: holdingpenctl" in err


@pytest.mark.parametrize(
    "words", [["status"], ["list"], ["why", "1"], ["release", "1"], ["drain"]]
)
def test_without_a_daemon_it_is_69_and_one_line_says_so(ctl, words, tmp_path):
    exit_status, out, err = ctl(*words)
    assert (exit_status, out) == (69, "")
    assert err.startswith(
        f"holdingpenctl: no daemon listens; tried {tmp_path / 'socket'} "
    )
    assert err.count("\n") == 1


def test_a_socket_may_be_named_in_the_environment(serve, capsys, monkeypatch, status):
    daemon = serve(lambda r: [status()] if type(r) is wire.GetStatus else [])
    monkeypatch.setenv("HOLDINGPEN_SOCKET", daemon.path)
    assert ctl_main.main(["list"]) == 0
    assert capsys.readouterr().out == "Nobody holds a lease.\n"


def test_the_daemon_learns_who_asks(ctl, serve):
    daemon = serve(lambda r: [] if type(r) is wire.Hello else [wire.Done(r.id)])
    ctl("undrain")
    assert daemon.heard[0] == wire.Hello(wire.VERSION, "holdingpenctl")


ENDS = [
    (errors.Refusal("no.", "never-fits"), 1),
    (errors.Refusal("no.", "no-such-lease"), 1),
    (errors.Refusal("no.", "not-now"), 75),
    (errors.Refusal("no.", "limit"), 75),
    (errors.Refusal("no.", "not-permitted"), 77),
    (errors.BadWord("no."), 2),
    (errors.RemoteMistake("no."), 65),
    (errors.Damage("no."), 65),
    (errors.Unavailable("no."), 69),
]


def raising(monkeypatch, error):
    def run(args):
        raise error

    monkeypatch.setattr("holdingpen.ctl.orders.run_undrain", run)


@pytest.mark.parametrize(("error", "exit_status"), ENDS)
def test_an_error_is_said_and_has_its_exit_status(ctl, monkeypatch, error, exit_status):
    raising(monkeypatch, error)
    assert ctl("undrain") == (exit_status, "", "holdingpenctl: no.\n")


def test_what_the_daemon_says_does_not_drive_the_terminal(ctl, monkeypatch):
    raising(monkeypatch, errors.Refusal("of \x1b[2Jada\nand more", "limit"))
    assert ctl("undrain")[2] == ("holdingpenctl: of ?[2Jada\nholdingpenctl: and more\n")


def test_ctrl_c_is_130_and_silent(ctl, monkeypatch):
    raising(monkeypatch, KeyboardInterrupt())
    assert ctl("undrain") == (130, "", "")


# What only a real process has: a standard output that breaks.

PROGRAM = "import sys; from holdingpen.ctl.main import main; sys.exit(main())"


def test_a_reader_who_has_seen_enough_ends_it_in_silence(telling, busy):
    daemon = telling(busy)
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as nobody_reads:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "status"],
            env={**os.environ, "HOLDINGPEN_SOCKET": daemon.path},
            stdout=nobody_reads,
            stderr=subprocess.PIPE,
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_is_said(telling, busy):
    daemon = telling(busy)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "status"],
            env={**os.environ, "HOLDINGPEN_SOCKET": daemon.path},
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert (done.returncode, done.stderr) == (
        1,
        b"holdingpenctl: cannot print the answer: No space left on device.\n",
    )
