"""A connection sorts what the daemon says: answers, news, refusals, the end."""

import os
import select
import socket

import pytest

from holdingpen import places
from holdingpen.client.blocking import Connection, connect
from holdingpen.errors import Refusal, RemoteMistake, Unavailable
from holdingpen.wire import messages as wire
from holdingpen.wire.session import encode

GIB = 2**30


def books(capacity=16 * GIB):
    return wire.Books(capacity, capacity, 0, 0, 0, 0)


def page(request, leases=(), **more):
    return wire.Status(
        id=request.id,
        daemon="0.1.0",
        since=0.0,
        socket="/run/holdingpen.socket",
        now=10.0,
        resources={"ram": books()},
        leases=[wire.LeaseInfo(n, "live", 0, 1, {"ram": 1}, 1.0) for n in leases],
        **more,
    )


def when(kind, *replies):
    """Answers each request of one kind; `replies` make a reply of the request."""
    return lambda request: (
        [reply(request) for reply in replies] if type(request) is kind else []
    )


# Finding the daemon.


def test_connecting_says_hello_and_learns_the_version(serve):
    daemon = serve()
    with connect(daemon.path, "test") as conn:
        assert conn.daemon == "0.1.0"
    assert daemon.heard == [wire.Hello(wire.VERSION, "test")]


def test_the_first_place_where_somebody_listens_is_taken(serve, tmp_path, monkeypatch):
    daemon = serve()
    nothing = str(tmp_path / "nothing")
    monkeypatch.setattr(places, "candidates", lambda path: [nothing, daemon.path])
    with connect() as conn:
        assert conn.path == daemon.path


def test_without_a_daemon_every_place_is_named_with_its_reason(tmp_path, monkeypatch):
    deaf = tmp_path / "deaf"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(deaf))
    nothing = tmp_path / "nothing"
    monkeypatch.delenv("HOLDINGPEN_SOCKET", raising=False)
    monkeypatch.setattr(places, "candidates", lambda path: [str(nothing), str(deaf)])
    with pytest.raises(Unavailable) as caught:
        connect()
    assert str(caught.value) == (
        f"no daemon listens; tried {nothing} (no such file or directory), "
        f"{deaf} (connection refused). Start it with 'systemctl start "
        "holdingpen.socket', or one of your own with 'holdingpen --user'."
    )
    assert (caught.value.code, caught.value.exit_status) == ("unavailable", 69)


def test_a_place_that_was_named_is_doubted(tmp_path):
    with pytest.raises(Unavailable, match="Is --socket or"):
        connect(str(tmp_path / "nothing"))


def test_a_path_too_long_for_a_socket_is_said_to_be_so(tmp_path):
    with pytest.raises(Unavailable, match="path too long"):
        connect(str(tmp_path / ("x" * 200)))


def test_a_socket_one_may_not_open_is_no_missing_daemon(monkeypatch, tmp_path):
    """The places after it are not tried: they are not the machine's daemon."""
    locked = str(tmp_path)

    class Locked(socket.socket):
        def connect(self, place):
            assert place == locked
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "socket", Locked)
    monkeypatch.setattr(places, "candidates", lambda path: [locked, "/nowhere"])
    with pytest.raises(Unavailable, match=r"you may not open .*; it is for") as caught:
        connect()
    assert (caught.value.code, caught.value.exit_status) == ("not-permitted", 69)


def test_a_socket_one_may_not_even_look_at_has_no_group(monkeypatch):
    class Locked(socket.socket):
        def connect(self, place):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "socket", Locked)
    with pytest.raises(Unavailable, match=r"socket /nowhere/x\. Ask the admin"):
        connect("/nowhere/x")


def test_a_daemon_that_explains_itself_before_hanging_up_is_quoted(serve):
    daemon = serve(lambda hello: [wire.Failed("wrong-version", "we speak 2.")])
    with pytest.raises(RemoteMistake, match=r"the daemon hung up: we speak 2\.") as why:
        connect(daemon.path)
    assert why.value.code == "wrong-version"


def test_its_last_words_are_heard_even_when_it_is_gone_before_we_speak():
    """A daemon that is full says so and hangs up without reading."""
    here, there = socket.socketpair()
    there.sendall(encode(wire.Failed("limit", "too many connections.")))
    there.close()
    with pytest.raises(RemoteMistake, match="too many connections"):
        Connection(here, "/x", "test")


def test_a_silent_daemon_is_given_up_after_a_time():
    here, there = socket.socketpair()
    with there, pytest.raises(Unavailable, match=r"has not answered for 0\.02 s"):
        Connection(here, "/run/x", "test", answer_s=0.02)
    assert here.fileno() == -1


# Requests and their answers.


def test_requests_are_numbered_from_one(serve):
    daemon = serve(when(wire.Drain, lambda r: wire.Done(r.id)))
    with connect(daemon.path) as conn:
        conn.drain("new kernel")
        conn.undrain()
    assert daemon.heard[1:] == [
        wire.Drain(1, True, "new kernel"),
        wire.Drain(2, False),
    ]


def test_status_asks_for_every_page_and_shows_the_books_of_the_last(serve):
    pages = {
        0: ([3, 5], {"more": True, "line": 1}),
        5: ([9], {"more": True}),
        9: ([12], {"line": 2, "drain": "soon"}),
    }

    def answer(request):
        if type(request) is not wire.GetStatus:
            return []
        leases, more = pages[request.after]
        return [page(request, leases, **more)]

    with connect(serve(answer).path) as conn:
        status = conn.status()
    assert [lease.id for lease in status.leases] == [3, 5, 9, 12]
    assert (status.line, status.drain, status.more) == (2, "soon", False)


@pytest.mark.parametrize("leases", [[], [0]])
def test_pages_that_lead_nowhere_are_not_followed_for_ever(serve, leases):
    answer = when(wire.GetStatus, lambda r: page(r, leases, more=True))
    with connect(serve(answer).path) as conn, pytest.raises(RemoteMistake):
        conn.status()


def test_a_story_is_what_is_known_of_the_lease(serve):
    lease = wire.LeaseInfo(17, "ended", 1000, 4242, {"ram": GIB}, 5.0)
    with connect(
        serve(when(wire.GetStory, lambda r: wire.Story(r.id, lease))).path
    ) as conn:
        assert conn.story(17) == lease


def test_a_capacity_is_set_and_set_back(serve):
    daemon = serve(when(wire.SetCapacity, lambda r: wire.Done(r.id)))
    with connect(daemon.path) as conn:
        conn.set_capacity("ram", GIB)
        conn.set_capacity("ram", None)
    assert [order.capacity for order in daemon.heard[1:]] == [GIB, None]


def test_a_release_is_answered(serve):
    daemon = serve(when(wire.Release, lambda r: wire.Released(r.id, r.lease)))
    with connect(daemon.path) as conn:
        conn.release(17)
    assert daemon.heard[1:] == [wire.Release(1, 17)]


def test_a_no_is_raised_with_its_code_and_exit_status(serve):
    answer = when(
        wire.Release, lambda r: wire.Refused(r.id, "not-permitted", "it is not yours.")
    )
    with (
        connect(serve(answer).path) as conn,
        pytest.raises(Refusal, match=r"^it is not yours\.$") as caught,
    ):
        conn.release(17)
    assert (caught.value.code, caught.value.exit_status) == ("not-permitted", 77)


def test_a_request_that_broke_the_protocol_is_our_mistake_by_name(serve):
    answer = when(wire.Release, lambda r: wire.Failed("out-of-turn", "no.", r.id))
    with (
        connect(serve(answer).path) as conn,
        pytest.raises(RemoteMistake, match=r"^no\.$"),
    ):
        conn.release(17)


def test_an_answer_of_the_wrong_kind_closes_the_connection(serve):
    answer = when(wire.GetStory, lambda r: wire.Done(r.id))
    with connect(serve(answer).path) as conn:
        with pytest.raises(RemoteMistake, match="Done where Story was due"):
            conn.story(1)
        assert conn.fileno() == -1


def test_a_daemon_that_hangs_up_instead_of_answering_is_unavailable(serve):
    daemon = serve(when(wire.GetStatus, lambda r: None))
    with connect(daemon.path) as conn, pytest.raises(Unavailable, match="hung up"):
        conn.status()


def test_a_frame_cut_by_the_end_is_a_broken_protocol():
    here, there = socket.socketpair()
    there.sendall(encode(wire.Welcome(1, "0.1.0")) + encode(wire.Done(1))[:-1])
    with Connection(here, "/x", "test") as conn:
        there.recv(4096)
        there.close()
        with pytest.raises(RemoteMistake) as caught:
            conn.next()
        assert caught.value.code == "half-a-frame"


def test_a_reset_is_a_hang_up():
    here, there = socket.socketpair()
    there.sendall(encode(wire.Welcome(1, "0.1.0")))
    with Connection(here, "/x", "test") as conn:
        there.close()  # with our Hello unread
        with pytest.raises(Unavailable, match=r"hung up \(connection reset by peer\)"):
            conn.next()


def test_a_daemon_that_hears_no_more_has_hung_up():
    here, there = socket.socketpair()
    there.sendall(encode(wire.Welcome(1, "0.1.0")))
    with there, Connection(here, "/x", "test") as conn:
        there.shutdown(socket.SHUT_RD)
        with pytest.raises(Unavailable, match=r"hung up \(broken pipe\)"):
            conn.undrain()


def test_a_daemon_that_does_not_read_is_given_up():
    here, there = socket.socketpair()
    there.sendall(encode(wire.Welcome(1, "0.1.0")))
    with there, Connection(here, "/x", "test", answer_s=0.02) as conn:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with pytest.raises(Unavailable, match="has not answered"):
            conn.acquire({}, command="x" * 10**6)


def test_a_daemon_that_does_not_answer_is_given_up(serve):
    with (
        connect(serve().path, answer_s=0.02) as conn,
        pytest.raises(Unavailable, match="has not answered"),
    ):
        conn.undrain()


# Leases.


def test_acquire_waits_in_the_line_and_tells_of_it(serve):
    daemon = serve(
        when(
            wire.Acquire,
            lambda r: wire.Waiting(r.id, 17, 2, "waits for 3", [3]),
            lambda r: wire.Waiting(r.id, 17, 1, "waits for 3", [3]),
            lambda r: wire.Granted(r.id, 17, r.amounts, "best-effort"),
        )
    )
    places_in_line = []
    with connect(daemon.path) as conn:
        grant = conn.acquire(
            {"ram": GIB}, waiting=lambda news: places_in_line.append(news.place)
        )
    assert grant == wire.Granted(1, 17, {"ram": GIB}, "best-effort")
    assert places_in_line == [2, 1]


def test_acquire_asks_for_all_that_it_was_given(serve):
    daemon = serve(when(wire.Acquire, lambda r: wire.Granted(r.id, 1, r.amounts)))
    wishes = {
        "priority": 5,
        "length_s": 60.0,
        "wait_s": 0.0,
        "reclaimable": True,
        "label": "whisper",
        "reason": "demo",
        "command": "python w.py",
        "inside": 12,
    }
    with connect(daemon.path) as conn:
        conn.acquire({"ram": 1}, **wishes)
    assert daemon.heard[1] == wire.Acquire(1, {"ram": 1}, **wishes)


def test_a_lease_that_is_not_to_be_had_is_refused(serve):
    answer = when(wire.Acquire, lambda r: wire.Refused(r.id, "not-now", "not now."))
    with connect(serve(answer).path) as conn, pytest.raises(Refusal) as caught:
        conn.acquire({"ram": GIB}, wait_s=0)
    assert caught.value.exit_status == 75


def test_closing_the_connection_is_what_gives_the_lease_back(serve):
    daemon = serve(when(wire.Acquire, lambda r: wire.Granted(r.id, 1, r.amounts)))
    with connect(daemon.path) as conn:
        conn.acquire({"ram": 1})
        assert not daemon.left.is_set()
    assert daemon.left.wait(5)


# Reservations.


def test_reserve_waits_in_the_line_and_tells_of_it(serve):
    made = wire.Reserved(1, [17], {"ram": GIB}, 100.0, 160.0)
    daemon = serve(
        when(
            wire.Reserve,
            lambda r: wire.Waiting(r.id, 17, 1, "waits for 3", [3]),
            lambda r: made,
        )
    )
    news = []
    with connect(daemon.path) as conn:
        assert conn.reserve({"ram": GIB}, 60.0, waiting=news.append) == made
    assert [one.lease for one in news] == [17]
    assert daemon.heard[1] == wire.Reserve(1, {"ram": GIB}, 60.0)


def test_reserve_asks_for_all_that_it_was_given(serve):
    daemon = serve(when(wire.Reserve, lambda r: wire.Reserved(r.id, [1], {}, 0, 1)))
    wishes = {
        "priority": 5,
        "wait_s": 0.0,
        "label": "exam",
        "reason": "the final one",
        "uid": 1001,
        "gid": 100,
    }
    with connect(daemon.path) as conn:
        conn.reserve({"machine": 1}, 60.0, starts=(5.0, 7.0), **wishes)
    asked = wire.Reserve(1, {"machine": 1}, 60.0, [5.0, 7.0], **wishes)
    assert daemon.heard[1] == asked


@pytest.mark.parametrize("free_at", [None, 1000.0])
def test_a_conflict_says_when_it_would_fit(serve, free_at):
    answer = when(
        wire.Reserve, lambda r: wire.Refused(r.id, "conflict", "taken.", free_at)
    )
    with connect(serve(answer).path) as conn, pytest.raises(Refusal) as caught:
        conn.reserve({"ram": 1}, 60.0, starts=[5.0])
    assert (caught.value.code, caught.value.free_at) == ("conflict", free_at)


def test_extend_tells_the_new_end(serve):
    daemon = serve(when(wire.Extend, lambda r: wire.Extended(r.id, r.lease, 9.0)))
    with connect(daemon.path) as conn:
        assert conn.extend(17, 60.0) == wire.Extended(1, 17, 9.0)
    assert daemon.heard[1:] == [wire.Extend(1, 17, 60.0)]


def test_a_seat_is_taken_and_left(serve):
    daemon = serve(when(wire.Seat, lambda r: wire.Done(r.id)))
    with connect(daemon.path) as conn:
        conn.seat(1000, True)
        conn.seat(1000, False)
    assert daemon.heard[1:] == [wire.Seat(1, 1000, True), wire.Seat(2, 1000, False)]


def test_a_report_is_what_was_used_since(serve):
    report = wire.Report(1, 5.0, 9.0, [wire.Usage(1000)], wire.Usage(None))
    daemon = serve(when(wire.GetReport, lambda r: report))
    with connect(daemon.path) as conn:
        assert conn.report(5.0) == report
    assert daemon.heard[1:] == [wire.GetReport(1, 5.0)]


# What nobody asked for.


def test_news_that_came_before_the_answer_is_kept_in_order(serve):
    answer = when(
        wire.Drain,
        lambda r: wire.Ended(17, "ordered"),
        lambda r: wire.Happened(1.0, "drained"),
        lambda r: wire.Done(r.id),
    )
    with connect(serve(answer).path) as conn:
        conn.undrain()
        assert conn.next(0) == wire.Ended(17, "ordered")
        assert conn.next(0) == wire.Happened(1.0, "drained")
        assert conn.next(0) is None


def test_an_answer_to_another_request_is_kept(serve):
    answer = when(
        wire.Acquire, lambda r: wire.Done(7), lambda r: wire.Granted(r.id, 1, {})
    )
    with connect(serve(answer).path) as conn:
        conn.acquire({})
        assert conn.next(0) == wire.Done(7)


def test_a_request_for_a_lease_is_not_answered_by_news_of_the_line(serve):
    answer = when(
        wire.Acquire,
        lambda r: wire.Waiting(r.id, 1, 1, "soon"),
        lambda r: wire.Granted(r.id, 1, {}),
    )
    with connect(serve(answer).path) as conn:
        ask = wire.Acquire(conn.next_id(), {})
        assert conn.request(ask) == wire.Granted(1, 1, {})
        assert conn.next(0) == wire.Waiting(1, 1, 1, "soon")


def test_events_go_on_until_the_daemon_hangs_up(serve):
    def answer(request):
        if type(request) is wire.Hello:
            return [wire.Welcome(1, "0.1.0"), wire.Ended(1, "gone")]
        return [None]

    with connect(serve(answer).path) as conn:
        conn._send(encode(wire.Watch(1)))
        heard = []
        with pytest.raises(Unavailable):
            heard.extend(conn.events())
    assert heard == [wire.Ended(1, "gone")]


def test_watching_yields_facts_and_leaves_other_news_alone(serve):
    answer = when(
        wire.Watch,
        lambda r: wire.Done(r.id),
        lambda r: wire.Happened(1.0, "joined", {}, 17),
        lambda r: wire.Ended(3, "ordered"),
        lambda r: wire.Happened(2.0, "granted", {}, 17),
    )
    with connect(serve(answer).path) as conn:
        facts = conn.watch()
        assert [next(facts).what, next(facts).what] == ["joined", "granted"]
        assert conn.next(0) == wire.Ended(3, "ordered")


def test_the_descriptor_can_be_waited_on_and_is_not_inherited(serve):
    daemon = serve(when(wire.Watch, lambda r: wire.Done(r.id)))
    with connect(daemon.path) as conn:
        conn._send(encode(wire.Watch(1)))
        assert select.select([conn], [], [], 5)[0] == [conn]
        assert not os.get_inheritable(conn.fileno())
