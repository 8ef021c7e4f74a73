"""Two ends joined, and ends that meet something else."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdingpen.errors import RemoteMistake
from holdingpen.wire import messages as wire
from holdingpen.wire.framing import REPLY_BYTES_MAX, REQUEST_BYTES_MAX, frame
from holdingpen.wire.session import ClientSession, ServerSession, encode

HELLO = wire.Hello(wire.VERSION, "test")
WELCOME = wire.Welcome(wire.VERSION, "0.1.0")


def pack(**fields):
    """A frame of whatever fields."""
    return frame(msgspec.msgpack.encode(fields))


@pytest.fixture
def server():
    session = ServerSession()
    session.receive(encode(HELLO))
    return session


@pytest.fixture
def client():
    session = ClientSession()
    session.receive(encode(WELCOME))
    return session


def test_two_ends_talk():
    client, server = ClientSession(), ServerSession()
    acquire = wire.Acquire(1, {"ram": 2**33})
    requests = server.receive(client.hello("test") + encode(acquire))
    assert requests == [HELLO, acquire]
    assert (server.open, server.name) == (True, "test")
    granted = wire.Granted(1, 17, {"ram": 2**33}, "best-effort")
    assert client.receive(encode(WELCOME) + encode(granted)) == [granted]
    assert client.daemon == "0.1.0"
    client.end()
    server.end()


def test_a_conversation_may_be_cut_anywhere():
    requests = [HELLO, wire.Acquire(1, {"ram": 1}), wire.Release(2, 1), wire.Watch(3)]
    stream = b"".join(map(encode, requests))
    for cut in range(len(stream) + 1):
        server = ServerSession()
        got = server.receive(stream[:cut]) + server.receive(stream[cut:])
        assert got == requests


# Who may speak when.


def code_of(receive, data):
    """The code of the mistake that `data` is."""
    with pytest.raises(RemoteMistake) as caught:
        receive(data)
    return caught.value.code


def test_nothing_goes_before_hello():
    assert code_of(ServerSession().receive, encode(wire.Watch(1))) == "out-of-turn"


def test_hello_is_said_once(server):
    assert code_of(server.receive, encode(HELLO)) == "out-of-turn"


@pytest.mark.parametrize("version", [0, 2, -1, 2**64 - 1])
def test_a_version_not_spoken_is_refused_with_the_one_that_is(version):
    with pytest.raises(
        RemoteMistake, match=r"this daemon speaks 1\. Install"
    ) as caught:
        ServerSession().receive(encode(wire.Hello(version)))
    assert caught.value.code == "wrong-version"


def test_a_name_is_cut():
    server = ServerSession()
    server.receive(encode(wire.Hello(wire.VERSION, "x" * 1000)))
    assert server.name == "x" * wire.TEXT_MAX


def test_nothing_goes_before_welcome():
    assert code_of(ClientSession().receive, encode(wire.Done(1))) == "out-of-turn"


def test_welcome_may_be_said_again_by_a_daemon_that_was_restarted(client):
    again = wire.Welcome(wire.VERSION, "0.2.0")
    assert client.receive(encode(again)) == []
    assert client.daemon == "0.2.0"


def test_hello_may_come_again_to_a_server_that_resumes():
    server = ServerSession()
    server.resume()
    hello = encode(wire.Hello(wire.VERSION, "x"))
    assert len(server.receive(hello)) == 1
    assert code_of(server.receive, hello) == "out-of-turn"


def test_a_daemon_that_hangs_up_says_why():
    failed = wire.Failed("wrong-version", "this daemon speaks 2.")
    with pytest.raises(RemoteMistake, match="hung up: this daemon speaks 2") as caught:
        ClientSession().receive(encode(failed))
    assert caught.value.code == "wrong-version"


def test_a_failure_of_one_request_is_a_reply(client):
    failed = wire.Failed("out-of-turn", "no.", 7)
    assert client.receive(encode(failed)) == [failed]


@pytest.mark.parametrize("kind", [ServerSession, ClientSession])
def test_an_end_in_the_middle_of_a_frame_is_a_mistake(kind):
    session = kind()
    session.end()
    session.receive(b"\0\0")
    with pytest.raises(RemoteMistake, match="ended 2 bytes into a frame") as caught:
        session.end()
    assert caught.value.code == "half-a-frame"


def test_each_role_hears_only_the_other(server, client):
    assert code_of(server.receive, encode(wire.Done(1))) == "not-msgpack"
    assert code_of(client.receive, encode(wire.Watch(1))) == "not-msgpack"


# What is no message.

DEEP = b"\x91" * 60_000 + b"\xc0"
NO_MESSAGES = {
    "nothing": frame(b""),
    "not msgpack": frame(b"\xc1"),
    "text": frame(b"GET / HTTP/1.1"),
    "half": frame(b"\x82\xa1t\xa5watch"),
    "two in one frame": frame(b"\x82\xa1t\xa5watch\xa2id\x01" * 2),
    "an array": frame(msgspec.msgpack.encode(["watch", 1])),
    "no tag": pack(id=1),
    "unknown tag": pack(t="dance", id=1),
    "tag of another type": pack(t=3, id=1),
    "field missing": pack(t="watch"),
    "text for a number": pack(t="watch", id="1"),
    "float for a number": pack(t="watch", id=1.5),
    "bool for a number": pack(t="watch", id=True),
    "nothing for a number": pack(t="watch", id=None),
    "number for a text": pack(t="set", id=1, resource=5),
    "float for an amount": pack(t="acquire", id=1, amounts={"ram": 0.5}),
    "text for amounts": pack(t="acquire", id=1, amounts="ram"),
    "array for amounts": pack(t="acquire", id=1, amounts=["ram", 1]),
    "text that is no UTF-8": frame(b"\x83\xa1t\xa3why\xa2id\x01\xa5lease\xa1\xff"),
    "name that is no UTF-8": frame(
        b"\x84\xa1t\xa3set\xa2id\x01\xa8resource\xa1\xff\xa8capacity\x01"
    ),
    "surrogate": frame(
        b"\x84\xa1t\xa3set\xa2id\x01\xa8resource\xa3\xed\xa0\x80\xa8capacity\x01"
    ),
    "deep": frame(DEEP),
    "deep in an unknown field": frame(b"\x83\xa1t\xa5watch\xa2id\x01\xa1z" + DEEP),
    "deep in the tag": frame(b"\x82\xa1t" + DEEP + b"\xa2id\x01"),
    "an endless array": frame(b"\x83\xa1t\xa5watch\xa2id\x01\xa1z\xdd\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("data", NO_MESSAGES.values(), ids=NO_MESSAGES)
def test_what_is_no_message_is_a_mistake(server, client, data):
    assert code_of(server.receive, data) == "not-msgpack"
    assert code_of(client.receive, data) == "not-msgpack"


def test_the_mistake_is_told_with_its_place(server):
    message = r"a frame of 17 bytes is no message of version 1: .* at `\$\.id`"
    with pytest.raises(RemoteMistake, match=message):
        server.receive(pack(t="watch", id="word"))


def test_a_reply_nested_too_deep_is_a_mistake(client):
    head = b"\x84\xa1t\xa8happened\xa2at\xcb" + bytes(8) + b"\xa4what\xa1x\xa5facts"
    assert code_of(client.receive, frame(head + b"\x81\xa1a" + DEEP)) == "not-msgpack"
    assert code_of(client.receive, frame(head + b"\x81\x80\x01")) == "not-msgpack"


def test_a_request_may_be_so_long_and_a_reply_so_long(server, client):
    request = (REQUEST_BYTES_MAX + 1).to_bytes(4, "big")
    reply = (REPLY_BYTES_MAX + 1).to_bytes(4, "big")
    assert code_of(server.receive, request) == "too-long"
    assert client.receive(request) == []
    assert code_of(ClientSession().receive, reply) == "too-long"


# What is a message all the same.


@pytest.mark.parametrize("number", [-1, 0, 2**63, 2**64 - 1])
def test_numbers_of_any_size_are_let_through_to_be_judged(server, number):
    assert server.receive(pack(t="watch", id=number)) == [wire.Watch(number)]


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_larger_ones_cannot_be_said(number):
    with pytest.raises(OverflowError):
        encode(wire.Watch(number))


@pytest.mark.parametrize("value", [1, "x", [1, {"a": None}], 1.5, b"x", {"id": 2}])
def test_an_unknown_field_is_ignored(server, client, value):
    """A client may be newer than the daemon, and the daemon than the client."""
    assert server.receive(pack(t="watch", new=value, id=1)) == [wire.Watch(1)]
    assert client.receive(pack(t="done", id=1, new=value)) == [wire.Done(1)]


# Whoever sends whatever.

#: Frames of fields that look like ours, to come near.
near = st.builds(
    pack,
    t=st.sampled_from(["hello", "acquire", "release", "watch", "welcome", "granted"]),
    version=st.just(1) | st.integers(0, 2),
    id=st.integers(-1, 2**64 - 1) | st.none() | st.text(max_size=3),
    amounts=st.dictionaries(st.text(max_size=3), st.integers(0, 9) | st.floats()),
    lease=st.integers(0, 9),
    daemon=st.text(max_size=3),
    wait_s=st.floats() | st.none(),
)
hostile = st.lists(
    st.binary(max_size=60) | st.binary(max_size=60).map(frame) | near, max_size=6
)


@pytest.mark.parametrize("kind", [ServerSession, ClientSession])
@given(sent=hostile, data=st.data())
@example(sent=[encode(HELLO)[:3]], data=None)
def test_nothing_but_a_remote_mistake_ever_comes_out(kind, sent, data):
    session, stream = kind(), b"".join(sent)
    opening = encode(HELLO if kind is ServerSession else WELCOME)
    if data is not None and data.draw(st.booleans()):
        stream = opening + stream
    step = data.draw(st.integers(1, 99)) if data is not None else 1
    limit = REQUEST_BYTES_MAX if kind is ServerSession else REPLY_BYTES_MAX
    with suppress(RemoteMistake):
        for start in range(0, len(stream), step):
            for message in session.receive(stream[start : start + step]):
                assert isinstance(message, wire.Message)
            assert session._frames.half < limit + 4
        session.end()
