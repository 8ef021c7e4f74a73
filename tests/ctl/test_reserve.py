"""holdingpenctl reserve and extend: words to a request, and the answer to people."""

import json
import subprocess
import sys
from signal import SIGINT

import pytest

from holdingpen.errors import EXIT_NOT_NOW
from holdingpen.wire import messages as wire

GIB = 2**30
#: A day after 1970 began; now is second 10,000.
AT = "@86400"
DAY = 86_400.0


@pytest.fixture
def daemon(serve):
    """It has room for whatever is asked."""

    def answer(request):
        match request:
            case wire.Reserve(id=number, starts=starts):
                leases = list(range(17, 17 + max(1, len(starts))))
                begin = (starts or [10_000.0])[0]
                end = begin + request.length_s
                return [wire.Reserved(number, leases, request.amounts, begin, end)]
            case wire.Extend(id=number):
                return [wire.Extended(number, request.lease, 13_600.0)]
        return []

    return serve(answer)


def asked(daemon):
    (request,) = [r for r in daemon.heard if type(r) is wire.Reserve]
    return request


# What is asked.

AMOUNTS = [
    (["--ram", "8G"], {"ram": 8 * GIB}),
    (["--ram", "8G", "--cpu", "2"], {"ram": 8 * GIB, "cpu": 2}),
    (["--disk", "50G"], {"disk": 50 * GIB}),
    (
        ["--disk", "5G:scratch", "--disk", "1G:work"],
        {"disk.scratch": 5 * GIB, "disk.work": GIB},
    ),
    (["--res", "licence=1", "--res", "seat=2"], {"licence": 1, "seat": 2}),
    (["--res", "ram=1G"], {"ram": GIB}),
    (["--machine"], {"machine": 1}),
    (["--machine", "--ram", "1G"], {"ram": GIB, "machine": 1}),
]


@pytest.mark.parametrize(("words", "amounts"), AMOUNTS)
def test_amounts_are_words_of_their_own(ctl, daemon, words, amounts):
    assert ctl("reserve", *words, "-d", "2h")[0] == 0
    assert asked(daemon) == wire.Reserve(1, amounts, 7200.0)


REQUESTS = [
    (["--nonblock"], {"wait_s": 0.0}),
    (["--wait", "10m"], {"wait_s": 600.0}),
    (["-r", "big run", "--label", "x"], {"reason": "big run", "label": "x"}),
    (["--priority", "-3"], {"priority": -3}),
    (["--for", "daemon"], {"uid": 1}),
    (["--for", "4321"], {"uid": 4321}),
    (["--group", "root"], {"gid": 0}),
    (["--at", AT], {"starts": [DAY]}),
    (["--at", AT, "--nonblock"], {"starts": [DAY], "wait_s": 0.0}),
    (
        ["--at", AT, "--every", "daily", "--until", "@259200"],
        {"starts": [DAY, 2 * DAY, 3 * DAY]},
    ),
]


@pytest.mark.parametrize(("words", "fields"), REQUESTS)
def test_the_rest_is_asked_as_it_was_said(ctl, daemon, words, fields):
    assert ctl("reserve", "--cpu", "1", "-d", "2h", *words)[0] == 0
    assert asked(daemon) == wire.Reserve(1, {"cpu": 1}, 7200.0, **fields)


def test_bytes_that_are_no_text_are_asked_as_question_marks(ctl, daemon):
    ctl("reserve", "--cpu", "1", "-d", "2h", "-r", "\udcff")
    assert asked(daemon).reason == "?"


WRONG = [
    ([], "how much? Say what to reserve with --ram, --cpu, "),
    (["--cpu", "1"], "how long? A reservation lasts as long as you say"),
    (["--cpu", "1", "-d", "2"], "duration '2' lacks a unit"),
    (["--cpu", "0", "-d", "2h"], "cpu: nothing of it need not be reserved"),
    (["--ram", "much", "-d", "2h"], "size 'much' is not understood"),
    (["--ram", "1G", "--res", "ram=1G", "-d", "2h"], "ram is given twice"),
    (["--disk", "5G:", "-d", "2h"], "--disk '5G:': write the name of a disk"),
    (["--res", "licence", "-d", "2h"], "--res 'licence' is not understood"),
    (["--res", "=1", "-d", "2h"], "--res '=1' is not understood"),
    (["--res", "machine=1", "-d", "2h"], "--res machine: write --machine"),
    (["--cpu", "1", "-d", "2h", "--wait", "x"], "duration 'x' is not understood"),
    (["--cpu", "1", "-d", "2h", "--for", "no-such"], "there is no user 'no-such'"),
    (["--cpu", "1", "-d", "2h", "--for", "٣"], "there is no user '٣'"),
    (["--cpu", "1", "-d", "2h", "--group", "no-such"], "there is no group 'no-such'"),
    (["--cpu", "1", "-d", "2h", "-r", "x" * 257], "a reason of 257 characters is"),
    (["--cpu", "1", "-d", "2h", "--label", "x" * 257], "a label of 257 characters"),
    (["--cpu", "1", "-d", "2h", "--at", "soon"], "time 'soon' is not understood"),
    (["--cpu", "1", "-d", "2h", "--every", "daily"], "--every and --until need a"),
    (["--cpu", "1", "-d", "2h", "--until", AT], "--every and --until need a begin"),
    (["--cpu", "1", "-d", "2h", "--at", AT, "--until", AT], "--until says how long"),
    (["--cpu", "1", "-d", "2h", "--at", AT, "--wait", "1h"], "what begins at a date"),
    (["--cpu", "1", "-d", "2h", "--at", AT, "--every", "x"], "rule 'x' "),
]


@pytest.mark.parametrize(("words", "problem"), WRONG)
def test_what_cannot_be_meant_is_not_asked(ctl, words, problem):
    exit_status, out, err = ctl("reserve", *words)
    assert (exit_status, out) == (2, "")
    assert err.startswith(f"holdingpenctl: {problem}")


# What is answered.


def test_a_reservation_is_told_with_its_use_and_its_end(ctl, daemon):
    assert ctl("reserve", "--ram", "8G", "-d", "2h") == (
        0,
        "Reserved 8.0 GiB ram for 2h, until <17200>: lease 17.\n"
        "Your programs draw on it by themselves; 'gatekeeper --in 17 CMD' draws on "
        "no other.\n"
        "End it: holdingpenctl release 17\n",
        "",
    )


def test_one_for_somebody_else_is_told_as_his(ctl, daemon):
    out = ctl("reserve", "--machine", "-d", "2h", "--for", "4321")[1]
    assert out.startswith(
        "Reserved the whole machine for 4321 for 2h, until <17200>: lease 17.\n"
        "4321's programs draw on it by themselves; "
    )


def test_one_at_a_date_is_told_with_its_times(ctl, daemon):
    out = ctl("reserve", "--cpu", "4", "-d", "2h", "--at", AT)[1]
    assert out.startswith("Reserved 4 cpu, <86400>-<93600>: lease 17.\n")


def test_a_series_is_told_by_its_first_and_last(ctl, daemon):
    words = ["--at", AT, "--every", "daily", "--until", "@345600"]
    assert ctl("reserve", "--cpu", "4", "-d", "2h", *words)[1] == (
        "Reserved 4 cpu, 4 times: leases 17-20.\n"
        "First <86400>-<93600>, last <345600>-<352800>.\n"
        "Your programs draw on them by themselves, on each in its time.\n"
        "End one of them: holdingpenctl release 17\n"
        "End all of them: holdingpenctl release --series 17\n"
    )


def test_a_series_without_an_end_is_a_year_and_that_is_said(ctl, daemon):
    words = ["--at", AT, "--every", "weekly"]
    out = ctl("reserve", "--cpu", "4", "-d", "2h", *words)[1]
    assert out.startswith("Reserved 4 cpu, 53 times: leases 17-69.\n")
    assert "That is a year ahead; with --until it is what you say.\n" in out


def test_short_is_the_numbers_and_nothing_else(ctl, daemon):
    words = ["--at", AT, "--every", "daily", "--until", "@172800", "--short"]
    assert ctl("reserve", "--cpu", "4", "-d", "2h", *words) == (0, "17\n18\n", "")


def test_json_is_one_object(ctl, daemon):
    out = ctl("reserve", "--cpu", "4", "-d", "2h", "--at", AT, "--json")[1]
    assert json.loads(out) == {
        "version": 1,
        "leases": [17],
        "amounts": {"cpu": 4},
        "starts": [DAY],
        "length": 7200.0,
        "expires": DAY + 7200,
    }


def test_json_of_one_that_has_begun_says_when(ctl, daemon):
    out = ctl("reserve", "--cpu", "4", "-d", "2h", "--json")[1]
    assert json.loads(out)["starts"] == [10_000.0]


REFUSALS = [
    ("conflict", 20_000.0, EXIT_NOT_NOW, "taken. It would fit from 05:34."),
    ("conflict", 10_060.5, EXIT_NOT_NOW, "taken. It would fit from 02:47:41."),
    ("conflict", None, EXIT_NOT_NOW, "taken."),
    ("not-now", 20_000.0, EXIT_NOT_NOW, "taken. It would fit from 05:34."),
    ("never-fits", None, 1, "taken."),
    ("not-permitted", None, 77, "taken."),
]


@pytest.mark.parametrize(("code", "free_at", "exit_status", "said"), REFUSALS)
@pytest.mark.parametrize(
    "words", [["reserve", "--cpu", "1", "-d", "2h", "--at", AT], ["extend", "17", "1h"]]
)
def test_a_no_comes_with_the_next_time_that_is_free(
    ctl, serve, words, code, free_at, exit_status, said
):
    serve(
        lambda r: (
            []
            if type(r) is wire.Hello
            else [wire.Refused(r.id, code, "taken.", free_at)]
        )
    )
    assert ctl(*words) == (exit_status, "", f"holdingpenctl: {said}\n")


def test_of_a_series_the_first_date_that_clashes_is_meant(ctl, serve):
    """The daemon looks at one after the other, and at none after it."""
    serve(
        lambda r: (
            []
            if type(r) is wire.Hello
            else [wire.Refused(r.id, "conflict", "taken then.", 2 * DAY)]
        )
    )
    words = ["--at", AT, "--every", "daily", "--until", "@259200"]
    assert ctl("reserve", "--cpu", "1", "-d", "2h", *words)[2] == (
        "holdingpenctl: taken then. The first that clashes would fit from Sat 00:00.\n"
    )


def test_a_name_that_ends_in_s_gets_no_second_one(ctl, daemon, monkeypatch):
    """Every Debian has a user `games`."""
    monkeypatch.setattr("holdingpen.ctl.terminal.user_name", lambda uid: "games")
    out = ctl("reserve", "--cpu", "1", "-d", "2h", "--for", "5")[1]
    assert "\ngames' programs draw on it by themselves; " in out


@pytest.mark.parametrize(
    "words",
    [
        ["extend", "1", "-30s"],
        ["extend", "1", "-.5h"],
        ["reserve", "--cpu", "1", "-d", "-30s"],
        ["reserve", "--cpu", "1", "-d", "1h", "--wait", "-30s"],
    ],
)
def test_a_duration_below_0_is_said_to_be_that(ctl, words):
    exit_status, out, err = ctl(*words)
    assert (exit_status, out) == (2, "")
    assert err.startswith("holdingpenctl: duration '-")
    assert err.endswith("': it must be more than 0, such as 30m.\n")


def test_extend_tells_the_new_end(ctl, daemon):
    assert ctl("extend", "17", "30m") == (0, "Lease 17 ends <13600>.\n", "")
    assert daemon.heard[1:] == [wire.Extend(1, 17, 1800.0)]


# The line.


def test_waiting_is_told_on_stderr_a_line_per_change(ctl, serve):
    def answer(request):
        if type(request) is not wire.Reserve:
            return []
        news = [(2, "cpu: 0 are there.", None), (2, "cpu: 0 are there.", 10_060.0)]
        news += [(1, "cpu: 1 is there.", 10_060.0)]
        return [
            *(wire.Waiting(1, 17, place, why, [3], at) for place, why, at in news),
            wire.Reserved(1, [17], {"cpu": 2}, 10_000.0, 17_200.0),
        ]

    serve(answer)
    assert ctl("reserve", "--cpu", "2", "-d", "2h", "--short") == (
        0,
        "17\n",
        "holdingpenctl: number 2 in the line, time unknown: cpu: 0 are there\n"
        "holdingpenctl: number 1 in the line, expected in 1m: cpu: 1 is there\n",
    )


@pytest.mark.slow
def test_ctrl_c_leaves_the_line(serve):
    """The connection is the place in the line: its end is seen by the daemon."""
    daemon = serve(
        lambda r: [wire.Waiting(1, 17, 1, "cpu.")] if type(r) is wire.Reserve else []
    )
    words = ["--socket", daemon.path, "reserve", "--cpu", "2", "-d", "2h"]
    with subprocess.Popen(
        [sys.executable, "-m", "holdingpen.ctl", *words], stderr=subprocess.PIPE
    ) as waiting:
        assert waiting.stderr.readline().startswith(b"holdingpenctl: number 1 in")
        assert not daemon.left.is_set()
        waiting.send_signal(SIGINT)
        assert waiting.wait(10) == 130
    assert daemon.left.wait(5)
