"""Asking back (model.md 11), ageing, and who sits at the machine."""

import pytest

from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import Who
from holdingpen.core.leases import Why
from holdingpen.core.rights import Allow, Rules


@pytest.fixture
def pen(play):
    pen = play(Rules(reclaim_grace_s=30.0))
    pen.has("ram", 20)
    return pen


def asked(pen, effects=None):
    return [(x.lease, x.on) for x in pen.said(do.TellReclaim, effects)]


def test_only_the_reclaimable_of_lower_priority_are_asked(pen):
    pen.ask(ram=8)
    pen.ask(ram=4, reclaimable=True, priority=5)
    low = pen.ask(ram=8, reclaimable=True)
    pen.ask(ram=4, priority=5)
    assert asked(pen) == [(low.lease, True)]


def test_nobody_is_asked_when_all_together_do_not_suffice(pen):
    pen.ask(ram=12)
    pen.ask(ram=8, reclaimable=True)
    pen.ask(ram=9, priority=1)
    assert asked(pen) == []


def test_the_lowest_then_the_youngest_and_as_few_as_possible(pen):
    for size, priority in ((4, 1), (4, 0), (6, 0), (6, 1)):
        pen.ask(ram=size, priority=priority, reclaimable=True)
        pen.sleep(1)
    pen.ask(ram=8, priority=9)
    assert sorted(asked(pen)) == [(2, True), (3, True)]


def test_who_is_not_needed_after_all_is_left_alone(pen):
    pen.ask(ram=4, reclaimable=True)
    pen.ask(ram=16, priority=1, reclaimable=True)
    pen.ask(ram=16, priority=9)
    assert asked(pen) == [(2, True)]


def test_who_was_asked_is_not_asked_again(pen):
    pen.ask(ram=20, reclaimable=True)
    pen.ask(ram=4, priority=1)
    assert asked(pen) == [(1, True)]
    pen.ask(ram=4, priority=1)
    pen.sleep(5)
    assert asked(pen, pen.all_effects) == [(1, True)]


def test_it_is_withdrawn_when_the_one_in_need_leaves_or_starts(pen):
    one = pen.ask(ram=20, reclaimable=True)
    other = pen.ask(ram=4, priority=1)
    pen.gone(other)
    assert asked(pen) == [(one.lease, False)]
    other = pen.ask(ram=4, priority=1)
    assert asked(pen) == [(one.lease, True)]
    pen.shrink(one, ram=5)
    assert pen.state(other) == "live"
    assert asked(pen) == [(one.lease, False)]
    assert pen.state(one) == "live"


def test_who_gives_all_back_is_asked_no_more(pen):
    one = pen.ask(ram=20, reclaimable=True)
    other = pen.ask(ram=4, priority=1)
    pen.release(one)
    assert pen.state(other) == "live"
    assert asked(pen) == []


def test_nobody_is_asked_while_the_pen_is_drained(pen):
    pen.ask(ram=20, reclaimable=True)
    pen.drain("x")
    pen.ask(ram=4, priority=1)
    assert asked(pen) == []
    pen.drain(None)
    assert asked(pen) == [(1, True)]


def test_for_the_whole_machine_all_are_asked_or_none(pen):
    pen.ask(ram=2, reclaimable=True)
    other = pen.ask(ram=2)
    pen.ask(machine=1, priority=1)
    assert asked(pen) == []
    pen.gone(other)
    assert asked(pen) == [(1, True)]


def test_who_does_not_yield_is_shown_and_left_alone(pen):
    one = pen.ask(ram=20, reclaimable=True)
    pen.ask(ram=4, priority=1)
    lease = pen.books.leases[one.lease]
    assert not pen.pen.reclaiming.unyielding(lease, pen.at)
    pen.sleep(30)
    assert pen.pen.reclaiming.unyielding(lease, pen.at)
    assert pen.state(one) == "live"


def test_who_does_not_yield_is_ended_where_that_is_said(play):
    pen = play(Rules(reclaim_grace_s=30.0, reclaim_ends=True))
    pen.has("ram", 20)
    one = pen.ask(ram=20, reclaimable=True)
    other = pen.ask(ram=4, priority=1)
    pen.sleep(29)
    assert pen.state(one) == "live"
    pen.sleep(2)
    assert pen.books.ended[one.lease].why == Why.RECLAIMED
    assert pen.state(other) == "live"


# Ageing.


def test_without_ageing_priority_always_counts(pen):
    pen.ask(ram=20)
    pen.ask(ram=4)
    pen.sleep(1e6)
    pen.ask(ram=4, priority=1)
    assert pen.waiting() == [3, 2]


def test_so_many_seconds_in_the_line_count_as_one_priority(play):
    pen = play(Rules(ageing_s=100.0))
    pen.has("ram", 20)
    pen.ask(ram=20)
    old = pen.ask(ram=4)
    pen.sleep(150)
    one = pen.ask(ram=4, priority=1)
    two = pen.ask(ram=4, priority=2)
    assert pen.waiting() == [two.lease, old.lease, one.lease]


def test_ageing_can_be_switched_on_and_off(pen):
    pen.ask(ram=20)
    old = pen.ask(ram=4)
    pen.sleep(150)
    new = pen.ask(ram=4, priority=1)
    pen.pen.rules = Rules(ageing_s=100.0)
    pen.reload()
    assert pen.waiting() == [old.lease, new.lease]
    pen.pen.rules = Rules()
    pen.reload()
    assert pen.waiting() == [new.lease, old.lease]


# Who sits at the machine.


def seat(pen, uid, on=True, by=0):
    who = Who(by, by, 1)
    return pen.play(ev.SeatAsked(pen.at, 97, 1, who, uid, on))


def test_who_sits_at_the_machine_goes_first_and_asks_the_others_back(pen):
    pen.ask(ram=20, reclaimable=True)
    waits = pen.ask(ram=4, uid=1001)
    seat(pen, 1002)
    here = pen.ask(ram=4, uid=1002)
    assert pen.waiting() == [here.lease, waits.lease]
    assert asked(pen) == [(1, True)]
    assert pen.books.leases[here.lease].ask.priority == 100


def test_he_may_ask_without_any_rule(play):
    pen = play(Rules(allow=(Allow("rule 1", uids=frozenset({1000})),)))
    pen.has("ram", 20)
    pen.ask(ram=1, uid=1002)
    assert pen.refusal() == "not-permitted"
    seat(pen, 1002)
    assert pen.state(pen.ask(ram=1, uid=1002)) == "live"
    seat(pen, 1002, on=False)
    pen.ask(ram=1, uid=1002)
    assert pen.refusal() == "not-permitted"


def test_only_operators_say_who_sits_there(pen):
    seat(pen, 1002, by=1002)
    assert pen.refusal() == "not-permitted"
    assert pen.books.seated == set()


def test_a_reboot_leaves_nobody_seated_and_a_restart_does(pen):
    pen.restart(boot_id="one")
    seat(pen, 1002)
    pen.restart(boot_id="one")
    assert pen.books.seated == {1002}
    pen.restart(boot_id="two")
    assert pen.books.seated == set()


# Nonblock and backfill.


def test_who_will_not_wait_passes_those_he_cannot_delay(pen):
    pen.ask(ram=15, length=100.0)
    pen.ask(ram=10)
    assert pen.state(pen.ask(ram=5, length=50.0, wait=0)) == "live"
    pen.ask(ram=1, length=500.0, wait=0)
    assert pen.refusal() == "not-now"


def test_who_will_not_wait_for_a_reservation_is_told_until_when(pen):
    pen.book(pen.at.wall_s + 500, ram=18)
    pen.ask(ram=4, wait=0)
    (refused,) = pen.said(do.TellRefused)
    assert refused.free_wall_s == pen.at.wall_s + 500 + 60
    assert "reservation 1" in refused.message


def test_what_one_user_holds_and_asks_is_limited_by_his_rule(play):
    rule = Allow("rule 1", most={"ram": 10})
    pen = play(Rules(allow=(rule,)))
    pen.has("ram", 20)
    pen.ask(ram=11)
    assert pen.refusal() == "not-permitted"
    pen.ask(lasts=60.0, ram=8)
    inside = pen.ask(ram=8)
    assert pen.state(inside) == "live"
    pen.ask(ram=3, inside=-1)
    assert pen.refusal() == "limit"
