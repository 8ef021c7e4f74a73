"""Bad input, nothing lost: whatever one client says, the others and the books are well.

`room.close` recounts the books after each test, replays the journal and compares.
"""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdingpen.core import events as ev
from holdingpen.core.checks import check
from holdingpen.wire import messages as wire
from holdingpen.wire.session import encode

HELLO = encode(wire.Hello(wire.VERSION, "test"))
HUGE = 2**64 - 1

NONSENSE = {
    "an amount of nothing": (wire.Acquire(1, {"ram": 0}), "bad-amount"),
    "a negative amount": (wire.Acquire(1, {"ram": -1}), "bad-amount"),
    "the most negative amount": (wire.Acquire(1, {"ram": -(2**63)}), "bad-amount"),
    "an amount beyond all": (wire.Acquire(1, {"ram": HUGE}), "bad-amount"),
    "more than there is": (wire.Acquire(1, {"cpu": 2**63 - 1}), "never-fits"),
    "two machines": (wire.Acquire(1, {"machine": 2}), "bad-amount"),
    "an unknown resource": (wire.Acquire(1, {"": 1}), "unknown-resource"),
    "a long unknown resource": (wire.Acquire(1, {"x" * 60_000: 1}), "unknown-resource"),
    "many resources": (wire.Acquire(1, {str(n): 1 for n in range(65)}), "bad-request"),
    "request 0": (wire.Acquire(0, {"cpu": 1}), "bad-request"),
    "request -1": (wire.Acquire(-1, {"cpu": 1}), "bad-request"),
    "a request beyond all": (wire.Acquire(HUGE, {"cpu": 1}), "bad-request"),
    "a negative wait": (wire.Acquire(1, {"cpu": 1}, wait_s=-1.0), "bad-request"),
    "an endless wait": (wire.Acquire(1, {"cpu": 1}, wait_s=math.inf), "bad-request"),
    "a wait of nan": (wire.Acquire(1, {"cpu": 1}, wait_s=math.nan), "bad-request"),
    "a negative length": (wire.Acquire(1, {"cpu": 1}, length_s=-0.1), "bad-request"),
    "an endless length": (wire.Acquire(1, {"cpu": 1}, length_s=1e300), "bad-request"),
    "a high priority": (wire.Acquire(1, {"cpu": 1}, priority=HUGE), "bad-request"),
    "a long label": (wire.Acquire(1, {"cpu": 1}, label="x" * 257), "bad-request"),
    "a long command": (wire.Acquire(1, {"cpu": 1}, command="x" * 4097), "bad-request"),
    "to release nothing": (wire.Release(1, 0), "no-such-lease"),
    "to release less": (wire.Release(1, -1), "no-such-lease"),
    "to release beyond all": (wire.Release(HUGE, HUGE), "no-such-lease"),
    "the story of nothing": (wire.GetStory(1, 0), "no-such-lease"),
    "the story beyond all": (wire.GetStory(1, HUGE), "no-such-lease"),
    "to set nothing": (wire.SetCapacity(1, "", 1), "unknown-resource"),
    "to set the machine": (wire.SetCapacity(1, "machine", 1), "unknown-resource"),
    "to set less": (wire.SetCapacity(1, "cpu", -1), "bad-amount"),
    "to set beyond all": (wire.SetCapacity(1, "cpu", HUGE), "bad-amount"),
}


@pytest.mark.parametrize(("request_", "code"), NONSENSE.values(), ids=NONSENSE)
def test_what_makes_no_sense_is_refused_and_one_may_go_on(room, request_, code):
    caller = room.caller(uid=0)
    caller.say(request_)
    room.wake_up(6)
    (refused,) = caller.heard()
    assert (request_.id, code) == (refused.id, refused.code)
    caller.say(wire.Acquire(7, {"cpu": 1}))
    room.wake_up()
    assert [wire.Granted(7, 1, {"cpu": 1})] == caller.heard()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 20])
def test_a_frame_that_never_ends_holds_nobody_up(room, length):
    caller, other = room.caller(), room.caller()
    caller.say_bytes(encode(wire.Acquire(1, {"cpu": 1}))[:length])
    room.wake_up()
    other.say(wire.Acquire(1, {"cpu": 8}))
    room.wake_up()
    assert [wire.Granted(1, 1, {"cpu": 8})] == other.heard()


def test_many_bytes_behind_a_bad_frame_are_not_read(room):
    caller = room.caller()
    caller.sock.setblocking(False)
    caller.sock.send(b"\xff" * 100_000)
    room.wake_up()
    assert caller.heard()[-1].code == "too-long"
    assert caller.over


def test_connections_that_come_and_go_leave_nothing_behind(room):
    for _ in range(300):
        caller = room.knock()
        caller.say_bytes(HELLO[:-1])
        caller.close()
        room.wake_up(2)
    connections = room.connections
    assert len(connections) == 0
    assert not connections._by_number
    assert not connections._of_user
    assert not connections._silent
    assert not connections._dirty


REQUESTS = st.one_of(
    st.builds(
        wire.Acquire,
        st.integers(1, 9),
        st.dictionaries(
            st.sampled_from(["cpu", "ram", "machine", "x"]),
            st.integers(-1, 9),
            max_size=2,
        ),
        st.integers(-2, 2),
        st.none() | st.floats(0, 9),
        st.none() | st.floats(0, 9),
    ),
    st.builds(wire.Release, st.integers(1, 9), st.integers(0, 9)),
    st.builds(wire.GetStatus, st.integers(1, 9)),
    st.builds(wire.GetStory, st.integers(1, 9), st.integers(0, 9)),
    st.builds(
        wire.SetCapacity,
        st.integers(1, 9),
        st.sampled_from(["cpu", "y"]),
        st.none() | st.integers(-1, 9),
    ),
    st.builds(wire.Drain, st.integers(1, 9), st.booleans()),
    st.builds(wire.Watch, st.integers(1, 9)),
    st.just(wire.Hello(wire.VERSION)),
).map(encode)


@st.composite
def bad_streams(draw: st.DrawFn) -> bytes:
    """A good conversation with a byte changed, put in or left out somewhere."""
    stream = bytearray(HELLO + b"".join(draw(st.lists(REQUESTS, max_size=5))))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(stream) - 1))
        byte = draw(st.binary(max_size=1))
        stream[place : place + draw(st.integers(0, 1))] = byte
        if not stream:
            break
    return bytes(stream)


STREAMS = bad_streams() | st.binary(max_size=60) | st.binary().map(HELLO.__add__)
EACH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@EACH
@given(STREAMS, st.lists(st.integers(1, 40), max_size=6))
def test_no_bytes_however_cut_harm_the_daemon(new_room, stream, cuts):
    with new_room() as room:
        other, caller = room.caller(), room.knock(uid=0)
        start = 0
        for size in [*cuts, len(stream)]:
            caller.say_bytes(stream[start : start + size])
            start += size
            room.wake_up()
            check(room.pen.books)
        caller.heard()
        caller.close()
        room.wake_up(3)
        assert len(room.connections) == 1
        other.say(wire.Drain(1, on=False), wire.GetStory(2, 1))
        room.wake_up()
        assert len(other.heard()) == 2


ACTIONS = st.one_of(
    st.tuples(st.just("say"), REQUESTS),
    st.tuples(st.just("say"), st.binary(min_size=1, max_size=8)),
    st.tuples(st.sampled_from(["say", "cut"]), st.just(HELLO)),
    st.tuples(
        st.sampled_from(["come", "go", "half-close", "hear", "late", "wake"]),
        st.just(b""),
    ),
)


@EACH
@given(st.lists(st.tuples(st.integers(0, 3), ACTIONS), max_size=40))
def test_whatever_clients_do_each_connection_ends_once(new_room, steps):
    with new_room() as room:
        gone: Counter[int] = Counter()
        put = room.keeper.put

        def counted(item):
            if isinstance(item, ev.Gone):
                gone[item.conn] += 1
            put(item)

        room.connections._put = counted
        callers = [room.caller(uid=uid) for uid in (0, 1000, 1000, 1001)]
        came = len(callers)
        for who, (action, data) in steps:
            caller = callers[who]
            match action:
                case "say":
                    caller.say_bytes(data)
                case "cut":
                    caller.say_bytes(data[: len(data) // 2])
                case "come":
                    callers[who] = room.knock(uid=who)
                    came += 1
                case "go":
                    caller.close()
                    callers[who] = room.caller(uid=who)
                    came += 1
                case "half-close":
                    caller.sock.shutdown(1)
                    callers[who] = room.caller(uid=who)
                    came += 1
                case "hear":
                    caller.heard()
                case "late":
                    room.now_s += 4
                    room.connections.look_around()
                case "wake":
                    room.wake_up()
            check(room.pen.books)
        for caller in room._callers:
            caller.close()
        room.wake_up(80)
        assert dict.fromkeys(range(1, came + 1), 1) == gone
        assert room.pen.books.leases == {}
        assert len(room.connections) == 0
