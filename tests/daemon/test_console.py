"""From login to logout, and what is told of it."""

from __future__ import annotations

import os
from contextlib import closing

import pytest
import trio
import trio.testing

from holdingpen.daemon.console import AGAIN_S, Console, Seen

ADA, BOB = 1001, 1002


class FakeLogind:
    """logind on a machine where `at` sits; an eventfd stands for its monitors."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.why = "" if world.runs else "no logind"
        self.bell = os.eventfd(0, os.EFD_NONBLOCK) if world.runs else -1

    def fileno(self) -> int:
        return self.bell

    def clear(self) -> None:
        if self.world.cleared is not None:
            os.eventfd_read(self.bell)
            self.world.cleared.set()
            self.world.cleared = None

    def seated(self) -> frozenset[int]:
        return frozenset(self.world.at) if self.bell >= 0 else frozenset()

    def logged_in(self) -> frozenset[int]:
        return self.seated() | self.world.away

    def session_of(self, pid: int, uid: int) -> str:
        return f"session of {pid} and {uid}"

    def is_over(self, session: str, uid: int) -> bool:
        return (uid, session) in self.world.over

    def close(self) -> None:
        if self.bell >= 0:
            os.close(self.bell)
            self.bell = -1


class World:
    """A machine, its logind, and what the console reported."""

    def __init__(self, runs: bool = True) -> None:
        self.runs = runs
        self.at: set[int] = set()
        #: Who has switched away.
        self.away: set[int] = set()
        self.over: set[tuple[int, str]] = set()
        self.bound: set[tuple[int, str]] = set()
        #: Set once the bell that rang was cleared.
        self.cleared: trio.Event | None = None
        self.opened: list[FakeLogind] = []
        self.reports: list[Seen] = []
        self.console = Console(self.open, lambda: self.bound, self.report)

    def open(self) -> FakeLogind:
        self.opened.append(FakeLogind(self))
        return self.opened[-1]

    def report(self, seen: Seen) -> None:
        self.reports.append(seen)
        self.bound -= seen.over

    def ring(self) -> trio.Event:
        self.cleared = trio.Event()
        os.eventfd_write(self.opened[-1].bell, 1)
        return self.cleared

    def told(self) -> list[Seen]:
        reports, self.reports = self.reports, []
        return reports


def seen(*at: int, away: tuple[int, ...] = (), over: tuple[int, str] | None = None):
    ended = frozenset({over} if over else ())
    return Seen(frozenset(at), frozenset({*at, *away}), ended)


@pytest.fixture
def world():
    world = World()
    with closing(world.console):
        yield world


@pytest.fixture
async def watched(world, nursery):
    world.console.configure(True)
    nursery.start_soon(world.console.watch)
    await trio.testing.wait_all_tasks_blocked()
    assert world.told() == [seen()]
    yield world
    nursery.cancel_scope.cancel()


async def heard(world: World) -> list[Seen]:
    """What is reported once everybody has done what he can."""
    with trio.fail_after(30):
        await world.ring().wait()
    await trio.testing.wait_all_tasks_blocked()
    return world.told()


def test_the_first_look_is_told_whoever_sits_here(world):
    """It puts right what a dead daemon left in its journal."""
    world.console.configure(True)
    assert world.told() == [seen()]
    world.console.look()
    assert world.told() == []


def test_who_sits_here_already_is_seen_at_once(world):
    world.at = {ADA}
    world.console.configure(True)
    assert world.told() == [seen(ADA)]


async def test_login_switch_and_logout_are_followed(watched):
    told = []
    for at in ({ADA}, {BOB}, set(), {ADA}, set()):
        watched.at = at
        told += await heard(watched)
    assert told == [seen(ADA), seen(BOB), seen(), seen(ADA), seen()]


async def test_who_switches_away_is_still_logged_in(watched):
    watched.at, watched.away = {BOB}, {ADA}
    assert await heard(watched) == [seen(BOB, away=(ADA,))]
    watched.away = set()
    assert await heard(watched) == [seen(BOB)]


async def test_a_ring_that_changes_nothing_is_not_told(watched):
    watched.at = {ADA}
    assert await heard(watched) == [seen(ADA)]
    assert await heard(watched) == []


async def test_a_grant_ends_with_its_session_and_is_told_once(watched):
    watched.bound = {(ADA, "c1"), (BOB, "c2")}
    assert await heard(watched) == []
    watched.over = {(ADA, "c1")}
    assert await heard(watched) == [seen(over=(ADA, "c1"))]
    assert await heard(watched) == []


def test_a_grant_that_ended_while_no_daemon_ran_is_told_at_the_first_look(world):
    world.bound = {(ADA, "c1")}
    world.over = {(ADA, "c1")}
    world.console.configure(True)
    assert world.told() == [seen(over=(ADA, "c1"))]


def test_with_logind_off_nobody_sits_here_but_grants_end(world):
    world.at = {ADA}
    world.bound = {(ADA, "c1")}
    world.console.configure(False)
    assert world.told() == [seen()]
    world.over = {(ADA, "c1")}
    world.console.look()
    assert world.told() == [seen(over=(ADA, "c1"))]
    assert world.console.why == ""


def test_the_setting_can_be_changed_while_it_runs(world):
    world.at = {ADA}
    for on in (True, True, False, True):
        world.console.configure(on)
    assert world.told() == [seen(ADA), seen(), seen(ADA)]


async def test_a_logind_that_starts_late_is_found(nursery, autojump_clock):
    world = World(runs=False)
    world.console.configure(True)
    assert (world.told(), world.console.why) == ([seen()], "no logind")
    nursery.start_soon(world.console.watch)
    await trio.sleep(AGAIN_S * 3.5)
    assert len(world.opened) == 4
    world.runs, world.at = True, {ADA}
    await trio.sleep(AGAIN_S)
    assert (world.told(), world.console.why) == ([seen(ADA)], "")
    nursery.cancel_scope.cancel()
    world.console.close()


async def test_a_monitor_gone_deaf_is_made_up_for(watched, autojump_clock):
    """Its directories may be made anew, and it hangs on the old ones."""
    watched.at = {ADA}
    await trio.sleep(AGAIN_S * 1.5)
    assert watched.told() == [seen(ADA)]
    assert len(watched.opened) == 1


def test_the_session_of_who_grants_is_looked_up(world):
    assert world.console.session_of(42, ADA) == "session of 42 and 1001"
