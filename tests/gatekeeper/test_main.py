"""From words to the end: gatekeeper as a program, and a daemon played by the test."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from gatekeeper.__main__ import ASK_AGAIN_MAX, ASK_ANEW_MAX, stand_in_line
from gatekeeper.conversation import Conversation
from gatekeeper.failures import explain
from gatekeeper.options import parse
from holdingpen.errors import Refusal, RemoteMistake, Unavailable
from holdingpen.wire import messages as wire
from holdingpen.wire.session import ServerSession, encode

from .conftest import THURSDAY_S

_WELCOME = wire.Welcome(1, "0.1.0")


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Conversation(ours), theirs


def _hears(pair, *replies: wire.Message, words: str = "true") -> object:
    """The id of the lease that is granted."""
    talk, theirs = pair
    theirs.sendall(b"".join(map(encode, replies)))
    return stand_in_line(talk, parse(words.split()))[1]["lease"]


def test_the_lease_granted_is_returned(pair):
    assert _hears(pair, _WELCOME, wire.Granted(1, 17, {})) == 17


def test_news_in_between_does_not_matter(pair):
    news = [wire.Happened(0.0, "seen"), wire.Done(9)]
    assert _hears(pair, _WELCOME, *news, wire.Granted(1, 17, {})) == 17


def test_the_wait_is_told(pair, capfd):
    _hears(pair, _WELCOME, wire.Waiting(1, 17, 3, "why"), wire.Granted(1, 17, {}))
    assert "3rd in line, why" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("not-now", 75),
        ("limit", 75),
        ("cannot-record", 75),
        ("not-permitted", 77),
        ("never-fits", 125),
        ("unknown-resource", 125),
        ("of-tomorrow", 125),
    ],
)
def test_a_refusal_ends_with_its_status(pair, capfd, code, status):
    with pytest.raises(Refusal, match="no way") as caught:
        _hears(pair, _WELCOME, wire.Refused(1, code, "no way"))
    assert explain(caught.value) == status
    assert capfd.readouterr().err == "gatekeeper: no way\n"


def test_a_place_taken_away_is_a_refusal(pair):
    said = "taken away: its owner or an operator ordered it; nothing was started."
    with pytest.raises(Refusal, match=said) as caught:
        _hears(pair, _WELCOME, wire.Ended(17, "ordered"))
    assert explain(caught.value) == 125


_MONDAY_S = THURSDAY_S + 3.75 * 86400


@pytest.mark.parametrize(
    ("message", "free_at", "expected"),
    [
        ("No way.", _MONDAY_S, "No way. It would fit from Mon 09:00."),
        ("No way", _MONDAY_S, "No way. It would fit from Mon 09:00."),
        ("No way", None, "No way"),
        ("No way.", THURSDAY_S - 1, "No way."),
        ("No way.", 1e300, "No way."),
        ("No way.", float("nan"), "No way."),
    ],
)
def test_a_refusal_says_from_when_it_would_fit(
    pair, berlin, monkeypatch, message, free_at, expected
):
    monkeypatch.setattr("gatekeeper.failures.time", lambda: THURSDAY_S)
    monkeypatch.setattr("time.time", lambda: THURSDAY_S)
    with pytest.raises(Refusal) as caught:
        _hears(pair, _WELCOME, wire.Refused(1, "not-now", message, free_at))
    assert str(caught.value) == expected


def test_a_failed_conversation_says_what_the_daemon_said(pair):
    with pytest.raises(RemoteMistake, match="speaks 2"):
        _hears(pair, wire.Failed("wrong-version", "this daemon speaks 2"))


def test_a_grant_without_a_lease_is_a_mistake(pair):
    talk, theirs = pair
    theirs.sendall(b"\0\0\0\x0b\x81\xa1t\xa7granted")
    with pytest.raises(RemoteMistake, match="lacks a usable 'lease'"):
        stand_in_line(talk, parse(["true"]))


@pytest.mark.parametrize(("words", "status"), [("true", 125), ("--require true", 69)])
def test_a_daemon_that_goes_away_means_nothing_was_started(pair, words, status):
    talk, theirs = pair
    theirs.sendall(encode(_WELCOME) + encode(wire.Waiting(1, 17, 1, "why")))
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(Unavailable, match="nothing was started") as caught:
        stand_in_line(talk, parse(words.split()))
    assert caught.value.exit_status == status


def test_a_request_without_an_answer_is_made_again_under_its_number(pair, monkeypatch):
    """A daemon killed between reading and answering was restarted."""
    talk, theirs = pair
    answers = iter([None, None, {"t": "granted", "lease": 17}])
    monkeypatch.setattr(Conversation, "hear", lambda *_: next(answers))
    assert stand_in_line(talk, parse(["true"]))[1]["lease"] == 17
    requests = ServerSession().receive(theirs.recv(65536))
    asked = wire.Acquire(1, command="true", wishes={"ram": "program"})
    assert requests[1:] == [asked] * 3


def test_it_asks_again_only_a_few_times(pair, monkeypatch):
    talk, theirs = pair
    answers = iter([*[None] * 50, {"t": "granted", "lease": 17}])
    monkeypatch.setattr(Conversation, "hear", lambda *_: next(answers))
    stand_in_line(talk, parse(["true"]))
    requests = ServerSession().receive(theirs.recv(65536))
    assert len(requests) == 2 + ASK_AGAIN_MAX


# The program.


def test_what_is_asked_for(daemon, start):
    program = start("--ram=1G", "--label", "me", "--", "echo", "a b")
    client = daemon.accept()
    assert client.hears() == [
        wire.Hello(1, "gatekeeper"),
        wire.Acquire(
            1,
            {"ram": 2**30},
            label="me",
            command="echo 'a b'",
            wishes={"ram": "program"},
        ),
    ]
    client.say(_WELCOME, wire.Granted(1, 17, {}))
    assert program.end().out == "a b\n"


def test_the_whole_machine_is_one_s_own_until_the_command_ends(daemon, start):
    """An exam: the others see why, and wait for its end, however it comes."""
    program = start("--exclusive", "--reason", "exam", "sh", "-c", "cat; exit 3")
    client = daemon.grants(wire.Granted(1, 17, {"machine": 1}))
    assert client.acquire.amounts == {"machine": 1}
    assert client.acquire.reason == "exam"
    assert client.silent()
    assert program.end().status == 3
    assert client.left()


@pytest.mark.parametrize(("word", "expected"), [("17", 17), ("none", -1)])
def test_the_reservation_to_draw_on_is_named(daemon, start, word, expected):
    program = start("--in", word, "true")
    client = daemon.grants()
    assert client.acquire.inside == expected
    assert program.end().status == 0


def test_what_is_said_while_waiting_stays_out_of_stdout(daemon, start):
    program = start("--verbose", "echo", "mine")
    client = daemon.greets()
    client.say(wire.Waiting(1, 17, 2, "why"), wire.Waiting(1, 17, 1, "why"))
    client.say(wire.Granted(1, 17, {"ram": 2**30}, "exact"))
    ended = program.end()
    assert ended.out == "mine\n"
    assert ended.err.count("gatekeeper: ") == 3


@pytest.mark.parametrize("mode", [[], ["--stay"]])
def test_the_exit_status_is_the_command_s(daemon, start, mode):
    program = start(*mode, "sh", "-c", "exit 7")
    daemon.grants()
    assert program.end().status == 7


def test_a_refusal_is_told_and_nothing_is_started(daemon, start):
    program = start("--nonblock", "echo", "started")
    client = daemon.greets()
    assert client.acquire.wait_s == 0
    client.say(wire.Refused(1, "not-now", "refused: lease 12 has it."))
    ended = program.end()
    assert ended.status == 75
    assert ended.out == ""
    assert ended.err == "gatekeeper: refused: lease 12 has it.\n"


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 200 OK\r\n", b"\0\0\0\1\xc1"])
def test_a_stranger_on_the_socket_is_told_from_the_daemon(daemon, start, garbage):
    program = start("echo", "started")
    daemon.accept().say_bytes(garbage)
    ended = program.end()
    assert ended.status == 125
    assert ended.out == ""
    assert "nothing was started" in ended.err


def test_without_a_daemon_the_command_runs_after_one_warning(start):
    ended = start("echo", "started").end()
    assert (ended.status, ended.out) == (0, "started\n")
    assert ended.err.startswith("gatekeeper: no daemon at ")
    assert ended.err.endswith("; running echo without a lease.\n")
    assert ended.err.count("\n") == 1


def test_without_a_daemon_quiet_is_quiet(start):
    assert start("--quiet", "true").end().err == ""


def test_without_a_daemon_require_does_not_run_the_command(start):
    ended = start("--require", "echo", "started").end()
    assert (ended.status, ended.out) == (69, "")
    assert "nothing was started" in ended.err


@pytest.mark.parametrize("words", [["--ram", "8X", "true"], [], ["--gpus", "1", "x"]])
def test_wrong_usage_is_125_and_points_to_the_help(start, words):
    ended = start(*words).end()
    assert ended.status == 125
    assert ended.err.endswith("See `gatekeeper --help`.\n")


def test_help_and_version_go_to_stdout(start):
    assert start("--help").end().out.startswith("Usage: gatekeeper")
    assert start("--version").end().out.startswith("gatekeeper 0.")


def test_a_fault_of_ours_is_not_taken_for_the_command_s_status(start):
    with Path("/dev/full").open("wb") as full:
        assert start("--help", stdout=full).end().status == 125


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_waiting_leaves_the_line(daemon, start, signum):
    program = start("true")
    client = daemon.greets()
    client.say(wire.Waiting(1, 17, 2, "why"))
    assert "2nd in line" in program.line("err")
    program.signal(signum)
    assert program.end().status == -signum
    assert client.left()


def test_a_daemon_that_ends_before_it_has_heard_us_is_followed_by_its_next(
    daemon, start
):
    program = start("--ram", "1G", "true")
    for _ in range(ASK_ANEW_MAX):
        daemon.accept().hang_up()
    heard = daemon.greets()
    heard.say(wire.Granted(1, 17, {"ram": 2**30}))
    assert program.end().status == 0


def test_one_that_had_given_us_a_place_is_not(daemon, start):
    program = start("--ram", "1G", "true")
    client = daemon.greets()
    client.say(wire.Waiting(1, 17, 1, "why"))
    client.hang_up()
    ended = program.end()
    assert (ended.status, daemon.unvisited()) == (125, True)
    assert "nothing was started" in ended.err


def test_where_there_is_no_next_one_it_is_gone(daemon, start):
    program = start("--ram", "1G", "true")
    client = daemon.accept()
    daemon.close()
    client.hang_up()
    ended = program.end()
    assert ended.status == 125
    assert "the daemon is gone" in ended.err
