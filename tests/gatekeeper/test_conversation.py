"""The connection, and what is said on it."""

from __future__ import annotations

import os
import shlex
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatekeeper import conversation
from gatekeeper.conversation import (
    Conversation,
    command_line,
    connect,
    opening,
)
from gatekeeper.options import Options
from holdingpen.errors import RemoteMistake, Unavailable
from holdingpen.wire import messages as wire
from holdingpen.wire.session import ServerSession, encode

_text = st.text(max_size=wire.TEXT_MAX)
_seconds = st.none() | st.floats(0, 1e9)


@st.composite
def _options(draw) -> Options:
    options = Options()
    names = st.text(min_size=1, max_size=20)
    amounts = st.integers(1, 2**63 - 1)
    options.amounts = draw(st.dictionaries(names, amounts, max_size=20))
    options.priority = draw(st.integers(-(10**9), 10**9))
    options.length_s = draw(_seconds)
    options.wait_s = draw(_seconds)
    options.reclaimable = draw(st.booleans())
    options.label = draw(_text)
    options.reason = draw(_text)
    options.command = draw(st.lists(st.text(st.characters(codec="ascii"), min_size=1)))
    options.prefault = draw(st.booleans())
    options.inside = draw(st.integers(-1, 10**18 - 1))
    return options


@settings(deadline=None)
@given(_options())
def test_the_opening_is_byte_for_byte_what_the_protocol_has(options):
    data = opening(options)
    hello, acquire = ServerSession().receive(data)
    assert encode(hello) + encode(acquire) == data
    assert acquire == wire.Acquire(
        1,
        options.amounts,
        options.priority,
        options.length_s,
        options.wait_s,
        options.reclaimable,
        options.label,
        options.reason,
        acquire.command,
        options.wishes,
        options.inside,
    )


@given(*[st.integers(1, 2**63 - 1)] * 3)
def test_a_step_is_byte_for_byte_what_the_protocol_has(number, lease, amount):
    expected = wire.HandOver(number, lease, "ram", amount)
    assert encode(expected) == conversation.step(number, lease, "ram", amount)


def test_the_limits_are_those_of_the_protocol():
    assert wire.VERSION == conversation.VERSION
    assert wire.COMMAND_MAX == conversation.COMMAND_MAX


def test_a_huge_request_is_under_the_daemon_s_limit():
    options = Options()
    options.command = ["\U0001f600" * 100_000]
    options.label = options.reason = "\U0001f600" * wire.TEXT_MAX
    options.amounts = {f"{n}{'x' * 200}": 2**62 for n in range(wire.AMOUNTS_MAX)}
    assert ServerSession().receive(opening(options))


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1))
def test_a_command_line_can_be_read_back_by_a_shell(words):
    assert words == shlex.split(command_line(words, 10**6))


def test_a_long_command_line_is_cut():
    assert command_line(["x" * 50, "y"] * 1000, 100) == f"{'x' * 50} y {'x' * 47}"


def test_undecodable_bytes_are_replaced():
    assert command_line([b"a\xff".decode(errors="surrogateescape")], 10) == "'a?'"


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Conversation(ours), theirs


def test_a_message_is_heard_however_it_is_cut(pair):
    talk, theirs = pair
    for byte in encode(wire.Ended(17, "released")):
        assert talk.hear(0.0) is None
        theirs.sendall(bytes([byte]))
    assert talk.hear(None) == {"t": "ended", "lease": 17, "why": "released"}


def test_messages_in_one_packet_are_heard_one_by_one(pair):
    talk, theirs = pair
    theirs.sendall(encode(wire.Done(1)) + encode(wire.Done(2)))
    assert talk.hear(None) == {"t": "done", "id": 1}
    assert talk.hear(None) == {"t": "done", "id": 2}


def test_a_frame_too_long_is_not_waited_for(pair):
    talk, theirs = pair
    theirs.sendall(b"HTTP")
    with pytest.raises(RemoteMistake, match="1213486160 bytes"):
        talk.hear(None)


def test_a_bare_value_is_no_message(pair):
    talk, theirs = pair
    theirs.sendall(b"\0\0\0\1\x07")
    with pytest.raises(RemoteMistake, match="bare value"):
        talk.hear(None)


def test_the_end_of_the_connection_is_the_end_of_the_daemon(pair):
    talk, theirs = pair
    theirs.close()
    with pytest.raises(Unavailable) as caught:
        talk.hear(None)
    assert caught.value.code == "daemon-gone"


def test_speaking_to_nobody_says_so(pair):
    talk, theirs = pair
    theirs.close()
    with pytest.raises(Unavailable, match="daemon is gone"):
        talk.say(b"hello")


def test_the_bequeathed_descriptor_is_inheritable_and_blocking(pair):
    talk, _ = pair
    talk.hear(0.0)
    descriptor = talk.bequeath()
    assert os.get_inheritable(descriptor)
    assert os.get_blocking(descriptor)


def test_the_connection_lies_beyond_the_shell_s_redirections(daemon):
    talk = connect([daemon.path])
    assert talk.bequeath() >= 10
    talk.close()


def test_a_dead_socket_is_passed_over(daemon, tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    nowhere = [str(tmp_path / "none"), str(tmp_path / "dead"), "/" + "x" * 200]
    connect([*nowhere, daemon.path]).close()


def test_without_a_daemon_the_places_are_named():
    with pytest.raises(Unavailable, match="no daemon at /none/a or /none/b"):
        connect(["/none/a", "/none/b"])


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_socket_we_may_not_open_is_told_from_none(daemon, tmp_path: Path):
    Path(daemon.path).chmod(0o600)
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(Unavailable, match="we may not open it") as caught:
            connect([daemon.path])
        assert caught.value.code == "socket-denied"
    finally:
        os.seteuid(0)
