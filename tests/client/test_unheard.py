"""A daemon that ends before it has heard a client: the client asks its next.

Under systemd the socket is there all the time, so the next one hears it.
"""

from __future__ import annotations

import pytest
import trio

import holdingpen
from holdingpen.client.blocking import connect
from holdingpen.client.held import ASK_ANEW_MAX
from holdingpen.errors import Unavailable
from holdingpen.wire import messages as wire


class Killed:
    """Hangs up on so many requests of a kind; a bit of all others is granted."""

    def __init__(self, kind: type[wire.Message], times: int, first: object = None):
        self.kind, self.times, self.first = kind, times, first

    def __call__(self, request: wire.Request) -> list[object]:
        if type(request) is self.kind and self.times:
            self.times -= 1
            return [self.first, None] if self.first is not None else [None]
        match request:
            case wire.Acquire(id):
                return [wire.Granted(id, 17, {"ram": 1})]
            case wire.Release(id, lease):
                return [wire.Released(id, lease)]
            case wire.GetStory(id):
                return [wire.Story(id, wire.LeaseInfo(17, "live", 0, 1, {}, 1.0))]
            case wire.Hello():
                return []
            case _:
                return [wire.Done(getattr(request, "id", 0))]


def kinds(daemon) -> list[str]:
    return [type(x).__name__ for x in daemon.heard if type(x) is not wire.Hello]


@pytest.mark.parametrize("times", [1, ASK_ANEW_MAX])
@pytest.mark.parametrize("kind", [wire.Hello, wire.Acquire])
def test_a_lease_is_asked_for_anew(serve, kind, times):
    daemon = serve(Killed(kind, times))
    with holdingpen.lease(ram=1, socket=daemon.path) as lease:
        assert lease.id == 17
    assert lease.ended == "released"


@pytest.mark.parametrize("kind", [wire.Hello, wire.Acquire])
def test_under_trio_too(serve, kind):
    daemon = serve(Killed(kind, 2))

    async def main() -> int:
        async with holdingpen.lease(ram=1, socket=daemon.path) as lease:
            return lease.id

    assert trio.run(main) == 17


def test_not_for_ever(serve):
    daemon = serve(Killed(wire.Acquire, 100))
    with pytest.raises(Unavailable, match="hung up"):
        holdingpen.lease(ram=1, socket=daemon.path).__enter__()
    assert kinds(daemon) == ["Acquire"] * (ASK_ANEW_MAX + 1)


def test_who_had_a_place_in_the_line_has_lost_it(serve):
    daemon = serve(Killed(wire.Acquire, 1, wire.Waiting(1, 17, 1, "why")))
    with pytest.raises(Unavailable, match="hung up"):
        holdingpen.lease(ram=1, socket=daemon.path).__enter__()
    assert kinds(daemon) == ["Acquire"]


@pytest.mark.parametrize("kind", [wire.Hello, wire.GetStory])
def test_what_is_only_read_is_read_from_the_next(serve, kind):
    daemon = serve(Killed(kind, 1))
    with connect(daemon.path) as conn:
        assert conn.story(17).id == 17


def test_a_daemon_that_ends_each_time_is_said(serve):
    daemon = serve(Killed(wire.GetStory, 2))
    with connect(daemon.path) as conn, pytest.raises(Unavailable, match="hung up"):
        conn.story(17)


def test_an_idle_connection_is_made_anew(serve):
    daemon = serve(Killed(wire.GetStory, 0))
    with connect(daemon.path) as conn:
        daemon.client.close()
        assert conn.story(17).id == 17


def test_what_changes_something_is_not_done_twice(serve):
    daemon = serve(Killed(wire.SetCapacity, 1))
    with connect(daemon.path) as conn, pytest.raises(Unavailable, match="hung up"):
        conn.set_capacity("cpu", 1)
    assert kinds(daemon) == ["SetCapacity"]


def test_a_connection_with_a_lease_is_not_made_anew(serve):
    daemon = serve(Killed(wire.GetStory, 1))
    with connect(daemon.path) as conn:
        conn.acquire({"ram": 1})
        with pytest.raises(Unavailable, match="every lease of this connection is over"):
            conn.story(17)
