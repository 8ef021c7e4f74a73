"""What the daemon says while the command runs."""

from __future__ import annotations

import socket

import pytest

from gatekeeper.conversation import Conversation
from gatekeeper.options import parse
from gatekeeper.watch import watch
from holdingpen.wire import messages as wire
from holdingpen.wire.session import encode

_ON, _OFF = wire.Reclaim(17, True), wire.Reclaim(17, False)
_SENDING = "lease 17 is asked back: sending SIGTERM to whisper."
_UNTOLD = "lease 17 is asked back; whisper is not told (no --reclaim-signal)."
_WITHDRAWN = "lease 17 is not asked back any more."
_LOST = (
    "the daemon is gone: it closed the connection; whisper goes on, without a lease."
)
_TERM = "--reclaim-signal TERM"


def _watched(words: str, data: bytes) -> int:
    """How often the command was to be sent its signal before the connection ended."""
    woken = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        options = parse([*words.split(), "whisper", "a.ogg"])
        watch(Conversation(ours), options, "17", lambda: woken.append(1))
    return len(woken)


@pytest.mark.parametrize(
    ("words", "news", "woken", "said"),
    [
        (_TERM, [_ON], 1, [_SENDING]),
        (_TERM, [_ON, _ON], 1, [_SENDING]),
        (_TERM, [_ON, _OFF], 1, [_SENDING, _WITHDRAWN]),
        (_TERM, [_ON, _OFF, _OFF, _ON], 2, [_SENDING, _WITHDRAWN, _SENDING]),
        (_TERM, [_OFF], 0, []),
        (_TERM, [], 0, []),
        ("--reclaimable", [_ON, _OFF], 0, [_UNTOLD, _WITHDRAWN]),
        ("--stay", [_ON], 0, [_UNTOLD]),
        (_TERM, [wire.Done(1), wire.Happened(0.0, "seen"), _ON], 1, [_SENDING]),
    ],
)
def test_a_lease_asked_back_is_told_once(capfd, words, news, woken, said):
    assert woken == _watched(words, b"".join(map(encode, news)))
    assert capfd.readouterr().err.splitlines() == [
        f"gatekeeper: {line}" for line in [*said, _LOST]
    ]


@pytest.mark.parametrize(
    ("word", "said"), [("10", "SIGUSR1"), ("ABRT", "SIGABRT"), ("40", "signal 40")]
)
def test_the_signal_is_named(capfd, word, said):
    _watched(f"--reclaim-signal {word}", encode(_ON))
    assert f"sending {said} to whisper.\n" in capfd.readouterr().err


def test_quiet_is_quiet_and_the_signal_is_sent_all_the_same(capfd):
    assert _watched(f"--quiet {_TERM}", encode(_ON) + encode(_OFF)) == 1
    assert _watched(f"--quiet {_TERM}", encode(wire.Ended(17, "idle"))) == 0
    assert capfd.readouterr().err == ""


def test_after_the_end_nothing_is_asked_back(capfd):
    ended = encode(wire.Ended(17, "reservation-over"))
    assert _watched(_TERM, ended + encode(_ON)) == 0
    assert capfd.readouterr().err == (
        "gatekeeper: lease 17 was ended: its reservation is over; whisper goes on.\n"
    )


@pytest.mark.parametrize("broken", [b"\0\0\0\1\xc1", b"\0\0\0\x09\x81\xa1t\xa5ended"])
def test_what_is_no_message_ends_the_watch_and_not_the_command(capfd, broken):
    assert _watched(_TERM, broken + encode(_ON)) == 0
    err = capfd.readouterr().err
    assert err.endswith("; whisper goes on, without a lease.\n")
    assert err.count("\n") == 1


def test_a_request_without_its_field_asks_for_nothing(capfd):
    assert _watched(_TERM, b"\0\0\0\x0b\x81\xa1t\xa7reclaim") == 0
    assert "asked back" not in capfd.readouterr().err


def test_a_hostile_name_does_not_drive_the_terminal(capfd):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(encode(wire.Ended(17, "\x1b]0;evil")))
        watch(Conversation(ours), parse(["\x1b[2J"]), "17", lambda: None)
    assert "\x1b" not in capfd.readouterr().err
