"""What limits a client: haste, not reading, silence, numbers; stepped by hand."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress

from holdingpen.daemon.connections import (
    BACKLOG_BYTES,
    READ_BYTES,
    UNREAD_BYTES_MAX,
    WORK_MAX,
)
from holdingpen.wire import messages as wire
from holdingpen.wire.session import encode

HELLO = wire.Hello(wire.VERSION, "test")


def acquire(number: int = 1, **amounts: int) -> wire.Acquire:
    return wire.Acquire(number, amounts or {"cpu": 1})


def failed(replies: list[wire.Reply]) -> str:
    """The code with which a client was hung up on."""
    assert isinstance(replies[-1], wire.Failed), replies
    assert replies[-1].id is None
    return replies[-1].code


# Haste.


def test_a_flood_delays_nobody_beyond_one_share(room):
    """10,000 requests at once, and another client's single one behind them."""
    flood, other = room.caller(), room.caller()
    flood.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
    flood.sock.setblocking(False)
    requests = b"".join(encode(wire.GetStory(n, 1)) for n in range(1, 10_001))
    sent, answers, wake_ups = 0, 0, 0
    while answers < 10_000:
        wake_ups += 1
        with suppress(BlockingIOError):
            sent += flood.sock.send(requests[sent : sent + 100_000])
        other.say(wire.GetStory(wake_ups, 1))
        room.wake_up()
        assert len(other.heard()) == 1, "it is answered at the very next wake-up"
        share = len(flood.heard())
        # what was left over, and what was read now
        assert share <= 2 * WORK_MAX
        answers += share
    assert wake_ups >= 10_000 // (2 * WORK_MAX)


def test_what_is_heard_and_not_done_is_bounded_by_one_read(room):
    caller = room.caller()
    smallest = encode(wire.GetStory(1, 1))
    caller.say_bytes(smallest * 5000)
    for _ in range(50):
        room.wake_up()
        assert room.undone <= READ_BYTES // len(smallest) + 1
    caller.heard()


def test_a_page_of_status_counts_as_much_as_many_requests(room):
    caller = room.caller()
    caller.say(*(wire.GetStatus(n) for n in range(1, 6)))
    counts = []
    for _ in range(6):
        room.wake_up()
        counts.append(len(caller.heard()))
    assert counts == [1, 1, 1, 1, 1, 0]


# Not reading.


def test_who_asks_and_never_reads_is_not_listened_to_any_more(room):
    """What it is owed is bounded, and others are served."""
    deaf, other = room.caller(), room.caller()
    deaf.say(*(acquire(n) for n in range(1, 9)))
    room.wake_up()
    deaf.sock.setblocking(False)
    request, number, most = b"", 9, 0
    for turn in range(2000):
        try:
            while True:
                request = request or encode(wire.GetStory(number, 1))
                request = request[deaf.sock.send(request) :]
                number += not request
        except BlockingIOError:
            pass
        room.wake_up()
        most = max(most, room.owed_bytes)
        if turn % 100 == 0:
            other.say(wire.GetStory(turn + 1, 1))
            room.wake_up()
            assert len(other.heard()) == 1
    assert BACKLOG_BYTES < most < BACKLOG_BYTES + WORK_MAX * 1024
    assert number > 2 * WORK_MAX
    deaf.sock.setblocking(True)
    got = 8
    while got < number - 1:
        got += len(deaf.heard())
        room.wake_up()
    assert not deaf.over


def test_who_asks_for_status_and_never_reads_is_owed_no_more_than_a_page(room):
    deaf, holder = room.caller(), room.caller()
    for number in range(1, 601):
        holder.say(acquire(number, ram=1))
        room.wake_up()
        holder.heard()
    deaf.say(*(wire.GetStatus(n) for n in range(1, 300)))
    most = 0
    for _ in range(300):
        room.wake_up()
        most = max(most, room.owed_bytes)
    page = len(encode(next(iter(deaf.heard()))))
    assert most <= BACKLOG_BYTES + page
    holder.say(wire.GetStory(601, 1))
    room.wake_up()
    assert isinstance(holder.heard()[-1], wire.Story)


def test_a_waiter_who_never_reads_is_owed_a_bounded_number_of_words(room):
    """Suspended on a terminal for a weekend, while the line moves every second."""
    caller, holder = room.caller(), room.caller()
    holder.say(acquire(cpu=8))
    room.wake_up()
    caller.say(acquire(cpu=8))
    room.wake_up()
    conn = next(reversed(room.pen.books.leases.values())).ask.conn
    for place in range(40_000):
        room.connections.send(conn, wire.Waiting(1, 2, place, "waits for cpu " * 5))
        room.connections.flush()
    assert room.owed_bytes < UNREAD_BYTES_MAX + 1024
    holder.say(wire.Release(2, 1))
    room.wake_up()
    last = None
    for _ in range(1000):
        heard = caller.heard()
        last = heard[-1] if heard else last
        room.wake_up()
    assert wire.Granted(1, 2, {"cpu": 8}) == last


def test_who_reads_at_last_is_listened_to_again_however_the_backlog_went(room):
    """It read all while somebody else's turn was on, not its own.

    What it had asked meanwhile was left undone for ever.
    """
    caller = room.caller()
    caller.say(acquire())
    caller.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    room.wake_up()
    caller.heard()
    stories = b"".join(encode(wire.GetStory(n, 1)) for n in range(2, 4000))
    caller.sock.setblocking(False)
    sent = 0
    while not (room.undone and room.owed_bytes > BACKLOG_BYTES):
        with suppress(BlockingIOError):
            sent += caller.sock.send(stories[sent:])
        room.wake_up()
    room.wake_up()
    assert not room.connections._busy
    heard = 0
    for _ in range(100):
        heard += len(caller.heard())
        room.connections._dirty.update(room.connections._by_fd.values())
        room.connections.flush()
    assert room.undone
    while sent < len(stories):
        with suppress(BlockingIOError):
            sent += caller.sock.send(stories[sent:])
        room.wake_up()
        heard += len(caller.heard())
    for _ in range(200):
        room.wake_up()
        heard += len(caller.heard())
    assert heard == 3998


def test_a_watcher_hears_what_happens_after_done(room):
    watcher, other = room.caller(), room.caller()
    watcher.say(wire.Watch(1))
    other.say(acquire())
    room.wake_up()
    done, happened = watcher.heard()
    assert wire.Done(1) == done
    assert (happened.what, happened.lease) == ("granted", 1)


def test_a_watcher_who_does_not_read_is_hung_up_on(room):
    watcher, other = room.caller(), room.caller()
    watcher.say(wire.Watch(1))
    other.sock.setblocking(False)
    most, number = 0, 0
    for _ in range(20_000):
        number += 2
        request = wire.Acquire(number, {"cpu": 1}, command="x" * wire.COMMAND_MAX)
        other.say(request, wire.Release(number + 1, number // 2))
        room.wake_up()
        other.heard()
        most = max(most, room.owed_bytes)
        if len(room.connections) == 1:
            break
    assert len(room.connections) == 1
    assert UNREAD_BYTES_MAX // 2 < most <= UNREAD_BYTES_MAX


# Silence.


def test_who_says_no_hello_in_time_is_told_and_hung_up_on(room):
    silent, stutterer = room.knock(), room.knock()
    stutterer.say_bytes(encode(HELLO)[:-1])
    polite = room.caller()
    room.wake_up()
    room.now_s += 9.9
    room.connections.look_around()
    assert len(room.connections) == 3
    room.now_s += 0.2
    room.connections.look_around()
    assert len(room.connections) == 1
    assert failed(silent.heard()) == "out-of-turn"
    (failure,) = stutterer.heard()
    assert failure.message == "no Hello within 10 s."
    polite.heard()
    assert not polite.over


def test_after_hello_one_may_be_silent_for_ever(room):
    caller = room.caller()
    caller.say(acquire())
    room.wake_up()
    room.now_s += 1e6
    room.connections.look_around()
    assert list(room.pen.books.leases) == [1]


# Limits.


def test_connections_of_one_user_are_limited_told_and_freed_by_closing(room):
    room.limit(of_one=2)
    first, _ = room.caller(uid=1000), room.caller(uid=1000)
    third = room.knock(uid=1000)
    (refused,) = third.heard()
    assert (refused.code, refused.id) == ("limit", None)
    assert "you have 2 connections" in refused.message
    assert third.over
    other = room.caller(uid=1001)
    assert not other.over
    first.close()
    room.wake_up()
    room.caller(uid=1000)


def test_connections_in_all_are_limited_told_and_freed_by_closing(room):
    room.limit(connections=2)
    first, _ = room.caller(uid=1000), room.caller(uid=1001)
    third = room.knock(uid=1002)
    assert failed(third.heard()) == "limit"
    first.close()
    room.wake_up()
    room.caller(uid=1002)


def test_silent_and_broken_connections_free_their_place(room):
    room.limit(of_one=1)
    room.knock()
    room.now_s += 11
    room.connections.look_around()
    room.knock().say_bytes(b"\xff" * 8)
    room.wake_up()
    room.caller()
    assert room.connections._of_user == {1000: 1}


def test_without_descriptors_nobody_is_let_in_until_a_moment_has_passed(room):
    class Full:
        """A listener on which accept fails with EMFILE."""

        fileno = room.listener.fileno

        def accept(self):
            raise OSError(errno.EMFILE, "Too many open files")

    caller = room.caller()
    room.connections._listener = Full()
    late = room.knock()
    room.wake_up(3)
    assert len(room.connections) == 1
    assert room.connections._epoll.poll(0) == [], "it must not spin"
    caller.say(acquire())
    room.wake_up()
    assert len(caller.heard()) == 1
    room.connections._listener = room.listener
    room.connections.look_around()
    late.say(HELLO)
    room.wake_up(2)
    assert len(late.heard()) == 1


def test_a_client_that_went_before_it_was_accepted_stops_nobody(room):
    listener = room.listener

    class Aborting:
        """A listener whose first client is gone already."""

        fileno = listener.fileno
        first = True

        def accept(self):
            if self.first:
                self.first = False
                raise OSError(errno.ECONNABORTED, "Connection aborted")
            return listener.accept()

    room.connections._listener = Aborting()
    room.caller()
    assert len(room.connections) == 1
    room.connections._listener = listener


def test_idle_counts_from_the_end_of_the_last_connection(room):
    caller = room.caller()
    room.now_s = 150.0
    caller.close()
    room.wake_up()
    assert room.connections.idle_since_s == 150.0
