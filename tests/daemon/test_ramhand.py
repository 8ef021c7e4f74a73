"""The hand of ram, with a make-believe control group."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing

import pytest
from msgspec import structs

from holdingpen.ballast.ram import UNIT
from holdingpen.core import effects as do
from holdingpen.core.facts import Ask, Moment, Who
from holdingpen.core.leases import LIVE, Lease
from holdingpen.daemon import ramhand
from holdingpen.daemon.hands import Adopted, Ready
from holdingpen.daemon.lending import ram_plan
from holdingpen.daemon.pacer import Pacer
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

    def begin(self, handed, amounts):
        if self.fails is not None:
            raise self.fails
        return frozenset(x for x in amounts if f"g{x}told" in handed)

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

    def refuse(version, paths, over, store):
        asked.append(version)
        raise Unavailable("version 1.")

    monkeypatch.setattr(ramhand.SameGroup, "open", refuse)
    assert open_groups(Settings(ram_hold=GIB)).why_not == "version 1."
    for settings in (Settings(), Settings(ram_hold=GIB, ram_handover="paced")):
        assert open_groups(settings).same is None
    assert len(asked) == 1


class Still(Pacer):
    """Looks only when a test says so."""

    def _work(self) -> None:
        """Let the thread end at once."""

    def look(self, times: int = 2) -> None:
        for _ in range(times):
            self._look_at_all()


HOLD = 512 * MIB
RESERVED = Settings(ram_hold=HOLD, ram_keep=128 * MIB, ram_handover="paced")


class Pen:
    """A hand with a reserve, all of it taken, on a machine of 1 GiB."""

    def __init__(self, settings: Settings, groups: Groups | None = None) -> None:
        self.host = ScriptedHost(total=GIB)
        self.host.run(10, ram=0)
        self.settings = settings
        self.hand = RamHand(ScriptedBallast(self.host), self.host, settings, groups)
        self.take()

    def take(self) -> None:
        """As the core does: what is lacking, step by step."""
        plan = ram_plan(self.settings, self.host)
        kept = sum(self.hand.ballast.kept.values())
        self.hand.ballast.take(
            plan.hold - self.hand.ballast.held - kept, self.hand.may_take
        )

    def look(self) -> None:
        pacer = self.hand._pacer
        assert isinstance(pacer, Still)
        pacer.look()

    def foreign(self) -> int:
        """What a measurement makes the core think that others use."""
        ballast, kept = self.hand.ballast.held, sum(self.hand.kept.values())
        used = self.host.use_of(10)
        capacity = ram_plan(self.settings, self.host).capacity
        return capacity - self.hand.available() - ballast - kept - used

    def thief(self) -> None:
        """Takes all there is."""
        self.host.elsewhere += self.host.ram_available()

    def grow(self, amount: int) -> None:
        has = self.host.use_of(10)
        self.host.run(10, ram=has + min(amount, self.host.ram_available()))

    def pace(self, amount: int = 256 * MIB) -> None:
        prepare(self.hand, "paced", amount)

    @property
    def reserve(self) -> int:
        return self.hand.ballast.reserve


@pytest.fixture
def open_pen(monkeypatch):
    monkeypatch.setattr(ramhand, "Pacer", Still)
    with ExitStack() as closing_all:

        def open_one(settings=RESERVED, groups=None):
            pen = Pen(settings, groups)
            closing_all.callback(pen.hand.close)
            return pen

        yield open_one


def test_the_reserve_is_taken_after_the_ballast_and_is_in_no_purse(open_pen):
    pen = open_pen()
    assert (pen.hand.ballast.held, pen.hand.kept) == (HOLD, {})
    assert pen.reserve == 32 * MIB
    assert pen.host.ballast == HOLD + 32 * MIB


@pytest.mark.parametrize("handover", ["auto", "exact", "paced", "free"])
def test_where_nothing_is_paced_there_is_none(open_pen, handover):
    settings = structs.replace(RESERVED, ram_handover=handover)
    pen = open_pen(settings, Groups(Same(), ""))
    assert pen.reserve == (0 if handover == "free" else 32 * MIB)


def test_it_is_taken_only_where_the_machine_bears_it(open_pen):
    pen = open_pen()
    pen.hand.ballast.give_up()
    pen.host.elsewhere = GIB - HOLD - 128 * MIB - UNIT
    pen.foreign()
    assert pen.reserve == 0
    pen.host.elsewhere -= 32 * MIB
    pen.host.pressure_percent = 2.0
    pen.foreign()
    assert pen.reserve == 0
    pen.host.pressure_percent = 0.0
    pen.foreign()
    assert pen.reserve == 32 * MIB


def test_what_others_use_is_what_they_use_whatever_there_is_in_reserve(open_pen):
    """128 MiB are never lent, and whoever uses them does no harm."""
    pen = open_pen()
    pen.host.elsewhere = 160 * MIB
    for left in (32, 20, 0):
        pen.hand.ballast.make_good(pen.reserve - left * MIB)
        pen.host.pressure_percent = 2.0
        assert pen.foreign() == 32 * MIB
        assert pen.reserve == left * MIB
    pen.host.pressure_percent = 0.0
    assert pen.foreign() == 32 * MIB
    assert pen.reserve == 32 * MIB
    # more than the machine has is foreign to no machine
    pen.host.elsewhere = 64 * MIB
    assert pen.foreign() == -64 * MIB


def test_what_was_stolen_is_foreign_and_the_program_has_all_the_same(open_pen):
    pen = open_pen()
    pen.pace()
    pen.thief()
    before = pen.foreign()
    pen.look()
    for _ in range(300):
        pen.look()
        pen.grow(MIB)
    assert pen.host.use_of(10) == 256 * MIB
    assert pen.hand.stolen == {5: 8 * MIB}
    assert pen.hand.made_good == {5: 8 * MIB}
    assert pen.reserve == 24 * MIB
    assert pen.foreign() == before
    (said,) = pen.hand.troubles(Settings())
    assert said.startswith("8.0 MiB that others took from leases were made good")
    assert "24.0 MiB of 32.0 MiB are left in it" in said


def test_it_is_refilled_when_memory_is_free_again(open_pen):
    pen = open_pen()
    pen.pace()
    pen.thief()
    pen.look()
    pen.hand.available()
    assert pen.reserve == 30 * MIB
    pen.host.elsewhere = 0
    pen.hand.available()
    assert pen.reserve == 32 * MIB


def test_the_end_of_a_lease_leaves_the_reserve_as_it_is(open_pen):
    pen = open_pen()
    pen.pace()
    pen.thief()
    pen.look()
    assert pen.hand.take_back(5, None) == 248 * MIB
    assert (pen.hand.made_good, pen.hand.troubles(Settings())) == ({}, [])
    pen.host.elsewhere = 0
    pen.hand.available()
    assert pen.reserve == 30 * MIB, "first the 8 MiB that the ballast lacks"
    pen.take()
    assert (pen.hand.ballast.held, pen.reserve) == (HOLD, 32 * MIB)


def test_it_makes_good_where_a_group_fell_back_to_pacing(open_pen):
    same = Same()
    same.fails = Refusal("no room.", "not-now")
    settings = structs.replace(RESERVED, ram_handover="auto")
    pen = open_pen(settings, Groups(same, ""))
    assert prepare(pen.hand).how == "paced"
    pen.thief()
    pen.look()
    assert pen.hand.made_good == {5: 2 * MIB}


@pytest.mark.parametrize("policy", ["defend", "yield"])
def test_under_pressure_it_goes_first_where_ballast_is_given_up(open_pen, policy):
    pen = open_pen(structs.replace(RESERVED, ram_policy=policy))
    pen.hand.ballast.drop(UNIT)
    assert pen.reserve == 32 * MIB, "there is memory enough"
    pen.host.elsewhere = GIB - HOLD - 100 * MIB
    pen.hand.ballast.drop(UNIT)
    assert pen.reserve == (32 * MIB if policy == "defend" else 0)


@pytest.mark.parametrize("policy", ["defend", "yield"])
def test_it_goes_under_pressure_though_leases_have_all_the_ballast(open_pen, policy):
    """Then the core has none to give up, and says nothing."""
    pen = open_pen(structs.replace(RESERVED, ram_policy=policy))
    pen.pace(HOLD)
    pen.host.elsewhere = GIB - HOLD - 100 * MIB
    pen.hand.available()
    assert pen.reserve == 32 * MIB, "nobody waits for memory"
    pen.host.pressure_percent = 2.0
    pen.hand.available()
    assert pen.reserve == (32 * MIB if policy == "defend" else 0)


@pytest.mark.parametrize(
    ("hold", "handover", "reserve"),
    [
        (64 * MIB, "paced", 16 * MIB),
        (256 * MIB, "paced", 32 * MIB),
        (0, "paced", 0),
        (HOLD, "free", 0),
    ],
)
def test_read_again_the_configuration_makes_it_smaller(
    open_pen, hold, handover, reserve
):
    pen = open_pen()
    before = pen.foreign()
    pen.settings = structs.replace(RESERVED, ram_hold=hold, ram_handover=handover)
    pen.hand.configure(pen.settings)
    assert pen.foreign() == before
    assert pen.reserve == reserve


def test_read_again_the_configuration_makes_it_bigger(open_pen):
    pen = open_pen(structs.replace(RESERVED, ram_hold=64 * MIB))
    assert pen.reserve == 16 * MIB
    before = pen.foreign()
    pen.settings = RESERVED
    pen.hand.configure(pen.settings)
    assert pen.foreign() == before
    assert pen.reserve == 16 * MIB, "first the ballast"
    pen.take()
    assert pen.foreign() == before
    assert pen.reserve == 32 * MIB


def test_it_is_gone_with_the_hand(open_pen):
    pen = open_pen()
    pen.hand.close()
    assert pen.host.ballast == 0


# What a former daemon left.


def left(host, **kept):
    """A ballast of 512 MiB of which so much is kept for leases `l5=...`."""
    ballast = ScriptedBallast(host)
    ballast.take(512 * MIB, lambda step: True)
    for name, amount in kept.items():
        ballast.keep(int(name[1:]), amount)
    return ballast


def going_on(lease=5, how="paced", drawn=64 * MIB):
    ask = Ask(1, 1, WHO, {"ram": drawn})
    at, of = Moment(1.0, 1.0), {"ram": drawn}
    return {lease: Lease(lease, ask, of, LIVE, at, at, how={"ram": how}, drawn=of)}


def inheriting(host, ballast, same=None, **handed):
    groups = Groups(same, "", handed)
    return RamHand(ballast, host, Settings(ram_keep=0), groups, inherited=True)


def test_who_inherits_nothing_says_so(hand):
    assert hand.adopt(0, {}, frozenset()) is None


def test_what_is_kept_is_paced_on(host):
    ballast = left(host, l5=64 * MIB)
    with closing(inheriting(host, ballast)) as hand:
        found = hand.adopt(448 * MIB, going_on(), frozenset())
        assert found == Adopted(448 * MIB, frozenset({5}))
        # a step is free for it, as for one who begins
        assert hand.kept[5] < 64 * MIB
        assert set(hand.stolen) == {5}


def test_what_is_there_and_not_booked_is_freed(host):
    ballast = left(host)
    with closing(inheriting(host, ballast)) as hand:
        assert hand.adopt(100 * MIB, {}, frozenset()) == Adopted(100 * MIB, frozenset())
        assert ballast.held == 100 * MIB


def test_less_than_was_booked_is_said(host):
    with closing(inheriting(host, left(host))) as hand:
        assert hand.adopt(GIB, {}, frozenset()) == Adopted(512 * MIB, frozenset())


def test_what_leases_that_are_over_had_waits_to_be_taken_back(host):
    ballast = left(host, l7=32 * MIB, l8=32 * MIB)
    with closing(inheriting(host, ballast)) as hand:
        # 7 is asked back by the pen; of 8 nobody knows
        hand.adopt(448 * MIB, {}, frozenset({7}))
        assert hand.kept == {7: 32 * MIB}
        assert ballast.held == 448 * MIB
        assert hand.take_back(7, None) == 32 * MIB


def test_a_control_group_whose_helper_is_there_goes_on(host, same):
    same.got = 16 * MIB
    with closing(inheriting(host, left(host), same, g5told=-1)) as hand:
        found = hand.adopt(448 * MIB, going_on(how="group"), frozenset())
        assert found == Adopted(448 * MIB, frozenset({5}))
        assert hand.kept == {5: 48 * MIB}
        hand.take_back(5, None)
        assert same.done[-1] == ("ended", 5)


@pytest.mark.parametrize("why", [None, Unavailable("no groups.")])
def test_a_control_group_without_one_has_lost_it(host, same, why):
    same.fails = why
    handed = {"g5told": -1} if why else {}
    with closing(inheriting(host, left(host), same, **handed)) as hand:
        found = hand.adopt(448 * MIB, going_on(how="group"), frozenset())
        assert found == Adopted(448 * MIB, frozenset())
        assert hand.kept == {}
        wishes = hand.wishes(Settings(ram_hold=GIB))
        assert (wishes["program"].method == "group") == (why is None)


def test_a_daemon_without_groups_lets_helpers_end(host):
    told, ours = os.pipe()
    with closing(inheriting(host, left(host), None, g5told=ours)) as hand:
        hand.adopt(448 * MIB, going_on(how="group"), frozenset())
        assert os.read(told, 1) == b""
    os.close(told)


def test_a_program_that_has_all_of_it_has_lost_nothing(host):
    with closing(inheriting(host, left(host))) as hand:
        found = hand.adopt(448 * MIB, going_on(), frozenset())
        assert found == Adopted(448 * MIB, frozenset({5}))
        assert hand.stolen == {}


def test_a_program_that_cannot_be_seen_is_no_trouble(host, monkeypatch):
    def unseen(pid):
        raise Unavailable(f"process {pid} has ended.")

    ballast = left(host, l5=64 * MIB)
    monkeypatch.setattr(host, "use_of", unseen)
    with closing(inheriting(host, ballast)) as hand:
        assert hand.adopt(448 * MIB, going_on(), frozenset()) is not None
        assert hand.kept == {5: 64 * MIB}


def test_the_reserve_is_not_filled_while_what_was_drawn_is_out(host):
    """What a lease drew under the last daemon comes back, too."""
    ballast = left(host, l5=64 * MIB)
    with closing(inheriting(host, ballast)) as hand:
        hand.ballast.resize(512 * MIB, 32 * MIB)
        hand.adopt(384 * MIB, going_on(), frozenset())
        hand.available()
        assert hand.ballast.reserve == 0
        hand.take_back(5, None)
        hand.ballast.take(512 * MIB - hand.ballast.held, hand.may_take)
        hand.available()
        assert hand.ballast.reserve == 32 * MIB


@pytest.mark.parametrize(("how", "rest"), [("paced", 0), ("group", 24 * MIB)])
def test_what_was_not_ready_yet_is_left_to_be_made_ready(host, same, how, rest):
    """A group that was half full is filled anew, out of what is held again."""
    ballast = left(host, l5=rest)
    leases = going_on(how=how)
    leases[5].dropping.append("ram")
    with closing(inheriting(host, ballast, same)) as hand:
        held = 448 * MIB if how == "paced" else 500 * MIB
        found = hand.adopt(held - 64 * MIB, leases, frozenset())
        assert found == Adopted(held - 64 * MIB, frozenset())
        assert (hand.ballast.held, hand.kept) == (held, {})
        prepare(hand, how, 64 * MIB)
        assert 5 in hand.kept


def test_what_was_ready_though_nobody_heard_goes_on(host):
    leases = going_on()
    leases[5].dropping.append("ram")
    with closing(inheriting(host, left(host, l5=64 * MIB))) as hand:
        found = hand.adopt(448 * MIB, leases, frozenset())
        assert found == Adopted(448 * MIB, frozenset({5}))


def test_what_is_still_in_use_though_nobody_asks_for_it_is_said(host):
    ballast = left(host, l7=32 * MIB)
    lent = ballast.lend(7, 32 * MIB, lambda step: True)
    with closing(inheriting(host, ballast)) as hand:
        found = hand.adopt(480 * MIB, {}, frozenset())
        assert found == Adopted(480 * MIB, frozenset(), frozenset({7}))
        for piece in lent:
            os.close(piece.fd)
        assert hand.take_back(7, None) == 32 * MIB


def test_a_group_goes_on_though_the_table_of_the_rest_is_lost(host, same):
    groups = Groups(same, "", {"g5told": -1})
    with closing(RamHand(left(host), host, Settings(ram_keep=0), groups)) as hand:
        found = hand.adopt(0, going_on(how="group"), frozenset())
        assert found == Adopted(0, frozenset({5}))


class Forgets:
    def __init__(self):
        self.names = []

    def keep(self, name, fd, poll=True):
        raise AssertionError

    def forget(self, name):
        self.names.append(name)


def test_helpers_that_nobody_goes_on_with_are_forgotten():
    store, (told, ours) = Forgets(), os.pipe()
    groups = Groups(None, "no groups here.", {"g5told": ours}, store)
    assert groups.begin({5: MIB}) == frozenset()
    assert (store.names, os.read(told, 1)) == (["g5told"], b"")
    os.close(told)


def test_groups_of_before_go_on_where_no_new_ones_are_wanted(monkeypatch, same):
    monkeypatch.setattr(ramhand.SameGroup, "open", lambda *words: same)
    for settings in (Settings(), Settings(ram_hold=GIB, ram_handover="paced")):
        groups = open_groups(settings, None, {"g5told": -1})
        assert groups.begin({5: MIB}) == {5}
        assert "restart it" in groups.why_not
