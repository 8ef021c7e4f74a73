"""Reservations where they are rare: repetitions, owed ballast, what cannot be."""

import pytest

from holdingpen.core import calendar
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core import facts as fact
from holdingpen.core.books import GIVEN_MAX
from holdingpen.core.facts import Who
from holdingpen.core.handover import AS_IS, FREE, Choice
from holdingpen.core.leases import Why
from holdingpen.core.rights import Allow, Rules
from holdingpen.errors import BrokenInvariant

PACED = {"ram": {AS_IS: Choice("paced", "x")}, "disk.a": {AS_IS: Choice("paced", "x")}}


@pytest.fixture
def pen(play):
    pen = play(Rules(ready_before_s=10.0, assume_s=100.0))
    pen.has("ram", 20)
    return pen


def wall(pen, seconds=0.0):
    return pen.at.wall_s + seconds


def extend(pen, conn, number, by_s=30.0, uid=1000):
    who = Who(uid, uid, 1)
    return pen.play(ev.ExtendAsked(pen.at, conn, number, who, 1, by_s))


# Repetitions.


def test_an_extension_asked_for_again_is_told_and_not_done_twice(pen):
    pen.ask(lasts=60.0, ram=6)
    conn = pen.connect()
    extend(pen, conn, 1)
    (told,) = pen.said(do.TellExtended)
    extend(pen, conn, 1)
    assert pen.said(do.TellExtended) == [told]
    assert pen.facts == []


def test_a_booking_asked_for_again_is_told_and_not_done_twice(pen):
    pen.book(wall(pen, 500), ram=6)
    (told,) = pen.said(do.TellReserved)
    ask = pen.books.leases[1].ask
    pen.play(ev.BookAsked(pen.at, ask, (wall(pen, 500),)))
    assert pen.said(do.TellReserved) == [told]
    assert pen.facts == []


def test_a_waiter_of_a_daemon_that_died_twice_has_lost_it_once(play):
    pen = play(Rules(handover=PACED))
    pen.has("ram", 20, hold=8)
    pen.fill()
    one = pen.ask(ram=4)
    pen.dropped()
    pen.restart(conns=[one.conn])
    assert pen.books.leases[one.lease].how == {"ram": FREE}
    pen.restart(conns=[one.conn])
    lost = [x for x in pen.log if isinstance(x, fact.Lost)]
    assert len(lost) == 1


# What is owed.


def test_what_is_owed_inside_comes_back_to_the_machine_when_it_is_over(play):
    pen = play(Rules(handover=PACED))
    pen.has("ram", 20, hold=8)
    pen.has("disk.a", 20, hold=8)
    pen.fill()
    pen.ask(lasts=60.0, ram=8, amounts={"ram": 8, "disk.a": 8})
    one = pen.ask(amounts={"ram": 4, "disk.a": 4})
    pen.dropped(0)
    pen.dropped(0)
    pen.gone(one)
    assert pen.books.coming == {one.lease: {"ram@1": 4, "disk.a@1": 4}}
    pen.sleep(61)
    assert pen.books.coming == {one.lease: {"ram": 4, "disk.a": 4}}
    pen.back(which=1)
    pen.back(which=0)
    assert pen.books.coming == {}
    assert (pen.ledger().drawn, pen.ledger("disk.a").drawn) == (0, 0)


def test_who_gives_back_very_often_is_remembered_for_the_first_times(pen):
    one = pen.ask(ram=20)
    for number in range(GIVEN_MAX + 2):
        pen.shrink(one, ram=1, number=number + 2)
    given = pen.books.leases[one.lease].given
    assert len(given) == GIVEN_MAX
    assert sum(x.amounts["ram"] for x in given) == GIVEN_MAX + 2


# What cannot be.


@pytest.mark.parametrize(
    "what",
    [
        lambda at: fact.Due(1, at),
        lambda at: fact.Deferred(1, 5.0),
        lambda at: fact.AskedBack(9, at, 1),
        lambda at: fact.Ended(1, at, Why.EXPIRED),
    ],
)
def test_facts_that_contradict_the_books_are_none(new_player, what):
    pen = new_player()
    pen.has("ram", 20)
    pen.ask(lasts=60.0, ram=6)
    pen.ask(ram=4)
    with pytest.raises(BrokenInvariant):
        pen.books.apply(what(pen.at))


# Rights and rules.


def test_inside_one_that_has_not_begun_nothing_is_granted(pen):
    (lease,) = pen.book(wall(pen, 500), ram=6)
    pen.ask(inside=lease, ram=1)
    assert pen.refusal() == "not-now"


def test_what_is_his_already_he_may_draw_on_whatever_rules_say_now(pen):
    pen.ask(lasts=60.0, ram=6)
    pen.pen.rules = Rules(allow=(Allow("rule 1", uids=frozenset({7})),))
    assert pen.state(pen.ask(ram=4)) == "live"
    extend(pen, pen.connect(), 1)
    assert pen.refusal() == "not-permitted"


def test_what_a_user_has_is_counted_at_each_moment(pen):
    pen.book(wall(pen, 500), ram=6)
    pen.book(wall(pen, 600), ram=4)
    pen.ask(ram=3, length=50.0)
    rules, starts = pen.pen.rules, (wall(pen, 480),)
    held = calendar.held_by(1000, pen.books, pen.at, starts, 300.0, rules)
    assert held == {"ram": 6}
    assert calendar.held_by(9, pen.books, pen.at, starts, 300.0, rules) == {}


# Deferred and due.


def test_who_was_deferred_and_left_is_not_looked_at(pen):
    (lease,) = pen.book(wall(pen, 50), ram=18)
    many = [pen.ask(uid=1001, ram=4) for _ in range(40)]
    who = Who(1000, 1000, 1)
    pen.play(ev.Released(pen.at, 99, 1, who, lease))
    for one in many[32:36]:
        pen.gone(one)
    pen.sleep(1)
    assert pen.books.line.waiters.keys() <= {x.lease for x in many[5:32] + many[36:]}


def test_one_that_is_due_may_pass_another_by_its_real_end(play):
    pen = play(Rules(ready_before_s=50.0, assume_s=10.0))
    pen.has("ram", 20, measured=True)
    pen.has("cpu", 4)
    pen.ask(ram=15, length=100.0, uid=1001)
    (big,) = pen.book(wall(pen, 101), ram=16, lasts=50.0)
    (small,) = pen.book(wall(pen, 102), ram=4, lasts=5.0)
    pen.sleep(60)
    states = [pen.books.leases[x].state for x in (big, small)]
    assert states == ["waiting", "waiting"]


def test_who_waits_with_less_priority_is_in_no_bookings_way(pen):
    pen.ask(ram=20, length=100.0, uid=1001)
    pen.ask(ram=20, length=1000.0, priority=-1, uid=1001)
    assert len(pen.book(wall(pen, 300), ram=16)) == 1


def test_one_that_is_due_and_fits_no_more_is_over_and_that_is_said(pen):
    (lease,) = pen.book(wall(pen, 15), ram=12)
    pen.sleep(6)
    assert pen.books.leases[lease].state == "waiting"
    pen.set("ram", 10)
    assert pen.books.ended[lease].why == Why.MISFIT
    assert pen.said(do.Note)
    assert pen.said(do.TellUser)


def test_who_is_seated_already_is_seated_once(pen):
    who = Who(0, 0, 1)
    for _ in range(2):
        pen.play(ev.SeatAsked(pen.at, 97, 1, who, 1002, True))
    assert pen.facts == []
    assert pen.said(do.TellDone)


def test_what_is_drawn_on_is_not_woken_for(play):
    pen = play(Rules(idle_after_s=30.0))
    pen.has("ram", 20)
    pen.ask(lasts=600.0, ram=6)
    pen.ask(lasts=600.0, ram=6)
    pen.ask(inside=1, ram=4)
    pen.ask(inside=2, ram=4)
    assert pen.pen.wake_at_s > pen.now_s + 500


def test_the_owner_of_an_idle_one_is_told_once(play):
    pen = play(Rules(idle_after_s=30.0))
    pen.has("ram", 20)
    pen.ask(lasts=600.0, ram=6)
    effects = pen.sleep(40)
    effects += pen.tick(5)
    assert len(pen.said(do.TellUser, effects)) == 1
