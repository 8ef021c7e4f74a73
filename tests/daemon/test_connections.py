"""The connections, stepped by hand: one `wake_up` is one turn of the loop."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from holdingpen.core.facts import Ended, Left
from holdingpen.wire import messages as wire
from holdingpen.wire.framing import frame
from holdingpen.wire.session import encode

HELLO = wire.Hello(wire.VERSION, "test")


def acquire(number: int = 1, **amounts: int) -> wire.Acquire:
    return wire.Acquire(number, amounts or {"cpu": 1})


def failed(replies: list[wire.Reply]) -> str:
    """The code with which a client was hung up on."""
    assert isinstance(replies[-1], wire.Failed), replies
    assert replies[-1].id is None
    return replies[-1].code


def ends(room) -> list[str]:
    facts = [fact for batch in room.journal.batches for fact in batch]
    return [fact.why for fact in facts if isinstance(fact, Ended)]


# Ordinary conversations.


def test_hello_is_answered_with_the_version_of_the_daemon(room):
    caller = room.knock()
    caller.say(HELLO)
    room.wake_up()
    (welcome,) = caller.heard()
    assert isinstance(welcome, wire.Welcome)
    assert welcome.version == wire.VERSION


def test_hello_and_acquire_may_come_in_one_write(room):
    caller = room.knock()
    caller.say(HELLO, acquire())
    room.wake_up()
    welcome, granted = caller.heard()
    assert isinstance(welcome, wire.Welcome)
    assert wire.Granted(1, 1, {"cpu": 1}) == granted


def test_a_request_may_come_byte_by_byte(room):
    caller = room.caller()
    data = encode(acquire())
    for place in range(len(data)):
        assert caller.heard() == []
        caller.say_bytes(data[place : place + 1])
        room.wake_up()
    assert [wire.Granted(1, 1, {"cpu": 1})] == caller.heard()


def test_who_does_not_fit_is_told_his_place_and_gets_it_when_it_is_released(room):
    first, second = room.caller(), room.caller()
    first.say(acquire(cpu=8))
    room.wake_up()
    second.say(acquire(cpu=3))
    room.wake_up()
    (waiting,) = second.heard()
    assert (waiting.id, waiting.lease, waiting.place) == (1, 2, 1)
    first.say(wire.Release(2, 1))
    room.wake_up()
    assert [wire.Granted(1, 1, {"cpu": 8}), wire.Released(2, 1)] == first.heard()
    assert [wire.Granted(1, 2, {"cpu": 3})] == second.heard()


def test_one_connection_may_hold_several_leases_and_release_one_early(room):
    caller = room.caller()
    caller.say(acquire(1, cpu=2), acquire(2, cpu=3), wire.Release(3, 1))
    room.wake_up()
    granted, second, released = caller.heard()
    assert (granted.lease, second.lease) == (1, 2)
    assert wire.Released(3, 1) == released
    assert list(room.pen.books.leases) == [2]


def test_a_part_of_a_lease_is_given_back(room):
    caller = room.caller()
    caller.say(acquire(1, cpu=3), wire.Shrink(2, 1, {"cpu": 2}))
    caller.say(wire.Shrink(3, 1, {"cpu": 1}))
    room.wake_up()
    _, shrunk, refused = caller.heard()
    assert wire.Shrunk(2, 1, {"cpu": 1}) == shrunk
    assert (refused.id, refused.code) == (3, "bad-amount")


def test_a_request_sent_again_gets_the_same_lease(room):
    caller = room.caller()
    caller.say(acquire(), acquire(), acquire())
    room.wake_up()
    assert [wire.Granted(1, 1, {"cpu": 1})] * 3 == caller.heard()
    assert list(room.pen.books.leases) == [1]


def test_a_request_that_is_over_is_not_carried_out_when_sent_again(room):
    caller = room.caller()
    caller.say(acquire(), wire.Release(2, 1), acquire())
    room.wake_up()
    refused = caller.heard()[-1]
    assert (refused.id, refused.code) == (1, "stale-request")
    assert room.pen.books.leases == {}


# Ends.


def close(caller) -> None:
    caller.close()


def reset(caller) -> None:
    """Close with something unread, which a unix socket tells as a reset."""
    caller.say(wire.GetStatus(9))
    linger = struct.pack("ii", 1, 0)
    caller.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    caller.close()


def half_a_frame(caller) -> None:
    caller.say_bytes(encode(acquire(2))[:-3])
    caller.close()


def half_closed(caller) -> None:
    caller.sock.shutdown(socket.SHUT_WR)


def bad_frame(caller) -> None:
    caller.say_bytes(b"\0\0\0\1\xc1")


def deaf(caller) -> None:
    """Hear nothing, and then go: what is written to it fails first."""
    caller.sock.shutdown(socket.SHUT_RD)
    caller.say(wire.GetStatus(9))
    caller.close()


@pytest.mark.parametrize(
    "end", [close, reset, half_a_frame, half_closed, bad_frame, deaf]
)
def test_whatever_ends_a_connection_its_leases_end_once(room, end):
    """One that is granted, and one that waits."""
    caller, other = room.caller(), room.caller()
    caller.say(acquire(1, cpu=8), acquire(2, cpu=8))
    room.wake_up()
    other.say(acquire(cpu=8))
    room.wake_up()
    end(caller)
    room.wake_up(3)
    assert ends(room) == ["gone", "gone"]
    assert len(room.connections) == 1
    assert [wire.Waiting, wire.Granted] == [type(x) for x in other.heard()]


def test_a_connection_without_leases_leaves_once(room):
    caller = room.caller()
    caller.say(acquire(), wire.Release(2, 1))
    room.wake_up()
    caller.close()
    room.wake_up(2)
    facts = [fact for batch in room.journal.batches for fact in batch]
    assert sum(isinstance(fact, Left) for fact in facts) == 1


def test_a_lease_ends_with_the_last_copy_of_the_descriptor(room):
    caller = room.caller()
    copy = caller.sock.dup()
    caller.say(acquire())
    room.wake_up()
    caller.close()
    room.wake_up()
    assert list(room.pen.books.leases) == [1]
    copy.close()
    room.wake_up()
    assert room.pen.books.leases == {}


def test_what_was_said_before_the_end_is_still_done(room):
    caller = room.caller()
    caller.say(acquire())
    caller.close()
    room.wake_up(2)
    assert ends(room) == ["gone"]


def test_a_number_is_never_given_to_a_second_connection(room):
    first = room.caller()
    first.say(acquire())
    room.wake_up()
    first.close()
    room.wake_up()
    second = room.caller()
    second.say(acquire())
    room.wake_up()
    conns = [lease.ask.conn for lease in room.pen.books.leases.values()]
    assert conns == [2]
    assert [wire.Granted(1, 2, {"cpu": 1})] == second.heard()


# Broken protocol.

BROKEN = {
    "too-long": (b"\xff\xff\xff\xff", "too-long"),
    "just too long": ((64 * 1024 + 1).to_bytes(4, "big"), "too-long"),
    "an empty frame": (b"\0\0\0\0", "not-msgpack"),
    "no msgpack": (b"\0\0\0\1\xc1", "not-msgpack"),
    "no map": (b"\0\0\0\1\x01", "not-msgpack"),
    "cut msgpack": (b"\0\0\0\2\x81\xa1", "not-msgpack"),
    "bad UTF-8": (b"\0\0\0\6\x81\xa1t\xa2\xff\xff", "not-msgpack"),
    "unknown message": (b"\0\0\0\x0b\x82\xa1t\xa3bad\xa2id\x01", "not-msgpack"),
    # msgspec raises RecursionError there, which once ended the daemon
    "an unknown field as deep as a well": (
        frame(b"\x84\xa1t\xa3why\xa2id\x01\xa5lease\x01\xa1x" + b"\x91" * 9000),
        "not-msgpack",
    ),
    "a wrong type": (encode(wire.Acquire("one")), "not-msgpack"),
    "a reply": (encode(wire.Done(1)), "not-msgpack"),
    "Hello again": (encode(HELLO), "out-of-turn"),
}


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
def test_a_broken_protocol_is_told_and_hung_up_on_and_harms_nobody(room, data, code):
    other, caller = room.caller(), room.caller()
    other.say(acquire())
    caller.say_bytes(data)
    room.wake_up(2)
    assert code == failed(caller.heard())
    assert caller.over
    assert [wire.Granted(1, 1, {"cpu": 1})] == other.heard()
    assert len(room.connections) == 1


@pytest.mark.parametrize("request_", [acquire(), wire.GetStatus(1), wire.Watch(1)])
def test_nothing_may_be_said_before_hello(room, request_):
    caller = room.knock()
    caller.say(request_)
    room.wake_up()
    assert failed(caller.heard()) == "out-of-turn"
    assert room.pen.books.leases == {}


@pytest.mark.parametrize("version", [0, 2, -1, 2**63])
def test_another_version_is_told_which_one_is_spoken_here(room, version):
    caller = room.knock()
    caller.say(wire.Hello(version), acquire())
    room.wake_up()
    (failure,) = caller.heard()
    assert failure.code == "wrong-version"
    assert f"version {version}" in failure.message
    assert f"speaks {wire.VERSION}" in failure.message


def test_a_long_legal_request_is_no_frame_too_long(room):
    caller = room.caller()
    caller.say(wire.Acquire(1, {"cpu": 1}, command="\U0001f9ee" * wire.COMMAND_MAX))
    room.wake_up(2)
    (granted,) = caller.heard()
    assert isinstance(granted, wire.Granted)


# Files that go out with an answer.


def files(count: int) -> list[int]:
    return [os.memfd_create(f"{number}") for number in range(count)]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def number_of(room) -> int:
    (number,) = room.connections._by_number
    return number


def test_files_arrive_with_their_answer_and_are_closed_here(room):
    caller = room.caller()
    mine = files(3)
    fetched = wire.Fetched(2, 1, "ram", [1, 2, 3])
    room.connections.send_files(number_of(room), fetched, mine)
    room.connections.flush()
    data, theirs, _, _ = socket.recv_fds(caller.sock, 65536, 8)
    assert data == encode(fetched)
    names = [str(Path(f"/proc/self/fd/{fd}").readlink())[:8] for fd in theirs]
    assert names == ["/memfd:0", "/memfd:1", "/memfd:2"]
    for fd in theirs:
        os.close(fd)
    # they had the same numbers, unless ours were still open
    assert not any(map(is_open, mine))


def test_files_for_somebody_gone_are_closed(room):
    mine = files(1)
    room.connections.send_files(99, wire.Fetched(2, 1, "ram", [1]), mine)
    assert not is_open(mine[0])


def test_files_for_whoever_does_not_read_wait_in_order_and_only_once(room):
    """Else a client could make the daemon hold any number of descriptors."""
    caller = room.caller()
    number = number_of(room)
    big = wire.Refused(1, "not-now", "x" * 200_000)
    for _ in range(3):
        room.connections.send(number, big)
    mine, more = files(1), files(1)
    room.connections.send_files(number, wire.Fetched(2, 1, "ram", [1]), mine)
    room.connections.send(number, wire.Done(3))
    room.connections.flush()
    room.connections.send_files(number, wire.Fetched(4, 1, "ram", [1]), more)
    assert (is_open(mine[0]), is_open(more[0])) == (True, False)
    data, theirs = b"", []
    while not data.endswith(encode(wire.Done(3))):
        part, fds, _, _ = socket.recv_fds(caller.sock, 65536, 8)
        theirs += fds
        data += part
        room.wake_up()
    assert data == encode(big) * 3 + encode(wire.Fetched(2, 1, "ram", [1])) + encode(
        wire.Done(3)
    )
    assert len(theirs) == 1
    os.close(theirs[0])
    assert not is_open(mine[0])


def test_files_that_nobody_fetched_are_closed_with_the_connection(room):
    caller = room.caller()
    number = number_of(room)
    room.connections.send(number, wire.Refused(1, "not-now", "x" * 900_000))
    mine = files(2)
    room.connections.send_files(number, wire.Fetched(2, 1, "ram", [1, 1]), mine)
    room.connections.flush()
    assert all(map(is_open, mine))
    caller.sock.close()
    room.wake_up()
    assert not any(map(is_open, mine))


def test_who_lets_descriptors_pile_up_is_hung_up_on(room, monkeypatch):
    caller = room.caller()
    mine = files(1)

    def refuse(*_):
        raise OSError(errno.ETOOMANYREFS, "too many")

    monkeypatch.setattr(socket, "send_fds", refuse)
    room.connections.send_files(number_of(room), wire.Fetched(2, 1, "ram", [1]), mine)
    room.connections.flush()
    assert not is_open(mine[0])
    assert caller.sock.recv(10) == b""


def test_what_a_lease_is_kept_in_is_asked_for_by_its_connection(room):
    caller = room.caller()
    caller.say(wire.Fetch(2, 7, "ram"), wire.HandOver(3, 7, "ram", 5))
    room.wake_up()
    assert [(no.id, no.code) for no in caller.heard()] == [
        (2, "no-such-lease"),
        (3, "no-such-lease"),
    ]
