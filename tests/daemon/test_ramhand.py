"""The hand of ram, with a make-believe control group."""

from __future__ import annotations

from contextlib import closing

import pytest

from holdingpen.core import effects as do
from holdingpen.core.facts import Who
from holdingpen.daemon import ramhand
from holdingpen.daemon.hands import Ready
from holdingpen.daemon.ramhand import Groups, RamHand, open_groups
from holdingpen.daemon.settings import Settings
from holdingpen.devices.scripted import ScriptedBallast, ScriptedHost
from holdingpen.errors import Refusal, Unavailable

MIB = 2**20
GIB = 2**30
WHO = Who(1000, 1000, 10)


class Same:
    """What a `SameGroup` does, without one."""

    def __init__(self) -> None:
        self.done: list[tuple[object, ...]] = []
        self.got = 0
        self.fails: Exception | None = None
        self.hands_over = True

    def prepare(self, lease, amount, give):
        if self.fails is not None:
            give(8 * MIB)
            raise self.fails
        assert give(amount) == amount

    def hand_over(self, lease, pid):
        if not self.hands_over:
            raise Refusal("it is gone.", "ended")
        self.done.append(("moved", lease, pid))

    def handed(self, lease):
        return self.got

    def end(self, lease):
        self.done.append(("ended", lease))

    def sweep(self):
        return 0

    def close(self):
        self.done.append(("closed",))


@pytest.fixture
def host():
    host = ScriptedHost(total=4 * GIB)
    host.run(10, ram=MIB)
    return host


@pytest.fixture
def same():
    return Same()


@pytest.fixture
def hand(host, same):
    ballast = ScriptedBallast(host)
    groups = Groups(same, "")
    with closing(RamHand(ballast, host, Settings(ram_keep=0), groups)) as hand:
        ballast.take(512 * MIB, lambda step: True)
        yield hand


def prepare(hand, how="group", amount=256 * MIB):
    return hand.prepare(do.Prepare("ram", amount, 5, how, amount, WHO))


def test_a_group_is_filled_and_the_client_moved_before_the_grant(hand, same):
    assert prepare(hand) == Ready()
    assert same.done == [("moved", 5, 10)]
    assert hand.ballast.kept == {}
    assert hand.kept == {5: 256 * MIB}


def test_what_the_program_has_got_is_kept_no_more(hand, same):
    prepare(hand)
    same.got = 200 * MIB
    assert hand.kept == {5: 56 * MIB}


def test_what_a_helper_has_marked_is_not_available(hand, host, same):
    """64 MiB of it count as MemAvailable."""
    before = hand.available()
    prepare(hand)
    freed = 256 * MIB
    assert hand.available() == before + freed - 64 * MIB
    same.got = 246 * MIB
    assert hand.available() == before + freed - 10 * MIB


@pytest.mark.parametrize("why", [Refusal("no room.", "not-now"), Unavailable("gone.")])
def test_where_no_group_can_be_filled_it_is_paced_and_said(hand, same, why):
    same.fails = why
    assert prepare(hand) == Ready("", "paced", str(why))
    assert hand.ballast.kept == {5: 240 * MIB}, "8 were given, and a step is free"


def test_a_client_that_is_gone_is_not_moved(hand, same):
    same.hands_over = False
    assert prepare(hand).how == "paced"
    assert hand.kept == {}


def test_the_end_of_a_lease_ends_its_group(hand, same):
    prepare(hand)
    assert hand.take_back(5, None) == 0
    assert same.done[-1] == ("ended", 5)
    assert hand.kept == {}


@pytest.mark.parametrize(
    ("how", "said"), [("died", True), ("stuck", True), ("spent", False)]
)
def test_a_group_that_ends_too_early_is_said_until_its_lease_ends(hand, how, said):
    prepare(hand)
    hand._groups.over(5, how)
    assert hand.kept == {}
    assert bool(hand.troubles(Settings())) == said
    hand.take_back(5, None)
    assert hand.troubles(Settings()) == []


def test_wishes_follow_whether_groups_can_be_had(hand, host):
    assert hand.wishes(Settings())["program"].method == "group"
    with closing(RamHand(ScriptedBallast(host), host, Settings())) as private:
        choice = private.wishes(Settings())["program"]
    assert (choice.method, choice.why) == ("paced", "A private pen moves no programs.")


def test_groups_are_opened_only_where_they_are_wanted(monkeypatch):
    asked = []

    def refuse(version, paths, over):
        asked.append(version)
        raise Unavailable("version 1.")

    monkeypatch.setattr(ramhand.SameGroup, "open", refuse)
    assert open_groups(Settings(ram_hold=GIB)).why_not == "version 1."
    for settings in (Settings(), Settings(ram_hold=GIB, ram_handover="paced")):
        assert open_groups(settings).same is None
    assert len(asked) == 1
