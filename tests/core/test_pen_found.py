"""What careful reading and random days found wrong in reservations and asking back."""

import pytest

from holdingpen.core import books
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import Ask, Who
from holdingpen.core.handover import AS_IS, Choice
from holdingpen.core.leases import Why
from holdingpen.core.rights import Rules


@pytest.fixture
def pen(play):
    pen = play(Rules(ready_before_s=10.0, assume_s=100.0))
    pen.has("ram", 20)
    pen.has("cpu", 4)
    return pen


def wall(pen, seconds=0.0):
    return pen.at.wall_s + seconds


def state(pen, lease):
    known = pen.books.leases.get(lease) or pen.books.ended[lease]
    return known.state


# Waking.


def test_one_live_before_its_date_is_not_looked_at_as_idle_for_ever(play):
    pen = play(Rules(ready_before_s=300.0, idle_after_s=30.0, idle_ends=True))
    pen.has("ram", 20, measured=True)
    (lease,) = pen.book(wall(pen, 1000), ram=12)
    pen.sleep(800)
    assert state(pen, lease) == "live"


def test_a_clock_that_is_slewed_does_not_wake_the_pen_in_vain(pen):
    pen.ask(lasts=60.0, ram=6)
    pen.wall_s -= 0.4
    pen.tick(59.9)
    pen.sleep(1)
    assert pen.books.ended[1].why == Why.EXPIRED


def test_a_deferral_that_moved_a_little_does_not_wake_the_pen_in_vain(pen):
    pen.book(wall(pen, 50), ram=16)
    pen.ask(ram=5)
    pen.extend(1, 0.5)
    pen.sleep(120)


def test_a_clock_that_was_set_while_nothing_was_reserved_is_known(pen):
    pen.ask(lasts=60.0, ram=6)
    pen.sleep(61)
    pen.wall_s += 1000.0
    new = pen.ask(lasts=60.0, ram=6)
    pen.sleep(61)
    assert pen.books.ended[new.lease].why == Why.EXPIRED


def test_of_many_deferred_none_is_forgotten(pen):
    pen.book(wall(pen, 50), cpu=4)
    many = [pen.ask(uid=1001, cpu=1) for _ in range(40)]
    pen.release(many[0]._replace(lease=1))
    pen.sleep(1)
    for one in many:
        pen.sleep(1)
        assert pen.state(one) == "live"
        pen.gone(one)


# Due ones.


def test_of_those_that_are_due_the_one_whose_date_is_first_goes_first(pen):
    (late,) = pen.book(wall(pen, 108), ram=12, lasts=60.0)
    (early,) = pen.book(wall(pen, 103), ram=12, lasts=5.0)
    pen.drain("x")
    pen.sleep(104)
    pen.drain(None)
    assert (state(pen, early), state(pen, late)) == ("live", "waiting")


def test_one_that_is_due_passes_none_whom_its_real_end_delays(pen):
    # it is known that the first can begin in 7 s, and the second ends in 12 s
    pen.ask(cpu=4, length=97.0)
    (big,) = pen.book(wall(pen, 98), cpu=4, ram=16, lasts=4.0)
    (small,) = pen.book(wall(pen, 102), ram=5, lasts=5.0)
    pen.sleep(93)
    assert (state(pen, big), state(pen, small)) == ("waiting", "waiting")


def test_one_that_fits_no_more_does_not_stand_in_the_way(pen):
    (lease,) = pen.book(wall(pen, 100), ram=12)
    pen.set("ram", 10)
    pen.sleep(95)
    assert pen.state(pen.ask(ram=4, reclaimable=True, uid=1001)) == "live"
    assert lease in pen.books.leases


# Planning around.


def test_what_is_drawn_from_the_machine_inside_is_planned_around_too(pen):
    pen.ask(lasts=600.0, ram=6)
    (lease,) = pen.book(wall(pen, 50), cpu=4, uid=1001)
    inside = pen.ask(inside=1, ram=2, cpu=2, length=200.0)
    assert pen.state(inside) == "waiting"
    pen.sleep(51)
    assert state(pen, lease) == "live"


def test_who_stays_longer_than_he_said_is_asked_back_for_one_that_is_due(pen):
    old = pen.ask(ram=12, length=20.0)
    pen.book(wall(pen, 200), ram=12)
    effects = pen.sleep(195)
    assert [x.lease for x in pen.said(do.TellReclaim, effects)] == [old.lease]


def test_a_step_of_the_clock_while_the_daemon_was_away_moves_deferrals(pen):
    pen.book(wall(pen, 50), ram=16)
    late = pen.ask(ram=5)
    pen.wall_s += 1000
    pen.restart(conns=[late.conn])
    assert pen.state(late) == "live"


# Idle ones.


def test_a_promise_inside_is_use(play):
    pen = play(Rules(idle_after_s=30.0, idle_ends=True))
    pen.has("ram", 20, hold=8)
    pen.fill()
    pen.ask(lasts=600.0, ram=6)
    pen.sleep(29)
    inside = pen.ask(ram=4)
    assert pen.state(inside) == "promised"
    pen.sleep(2)
    assert pen.state(inside) == "promised"


def test_a_reboot_does_not_make_an_idle_one_busy(play):
    pen = play(Rules(idle_after_s=30.0, idle_ends=True))
    pen.has("ram", 20)
    pen.now_s = 100_000.0
    pen.ask(lasts=6000.0, ram=6)
    pen.wall_s += pen.now_s - 3.0
    pen.now_s = 3.0
    pen.restart(boot_id="next")
    pen.sleep(40)
    assert pen.books.ended[1].why == Why.IDLE


# Allotments.


def test_what_a_resource_not_measured_any_more_lent_inside_is_free_at_once(pen):
    pen.has("ram", 20, measured=True)
    pen.ask(lasts=60.0, ram=6)
    pen.has("ram", 20, measured=False)
    one = pen.ask(inside=1, ram=4)
    pen.gone(one)
    assert pen.ledger("ram@1").settling == 0


def test_what_comes_back_late_goes_to_the_allotment_it_is_from(new_player, monkeypatch):
    monkeypatch.setattr(books, "ENDED_MAX", 2)
    pen = new_player(Rules(handover={"ram": {AS_IS: Choice("paced")}}))
    pen.has("cpu", 4)
    pen.has("ram", 20, hold=8)
    pen.fill()
    pen.ask(lasts=600.0, ram=6)
    one = pen.ask(ram=4)
    pen.dropped()
    pen.gone(one)
    for _ in range(3):
        pen.gone(pen.ask(cpu=1, inside=-1, uid=1001))
    pen.back()
    assert pen.books.coming == {}
    assert pen.ledger("ram@1").drawn == 0
    pen.over()


# Snapshots.


def test_a_snapshot_keeps_the_order_in_which_reservations_began(pen):
    old = pen.ask(ram=20)
    pen.ask(lasts=60.0, ram=6)
    pen.ask(lasts=60.0, cpu=1)
    pen.gone(old)
    assert list(pen.books.reservations) == [3, 2]


def test_a_snapshot_keeps_that_a_booked_one_was_asked_back(pen):
    ask = Ask(
        pen.connect(), 1, Who(1000, 1000, 1), {"ram": 20}, 0, 60.0, None, True,
        lasts_s=60.0,
    )  # fmt: skip
    pen.play(ev.BookAsked(pen.at, ask, (wall(pen, 5),)))
    pen.sleep(6)
    pen.ask(ram=4, priority=1, uid=1001)
    assert pen.said(do.TellReclaim)


def test_of_a_series_whose_first_is_forgotten_no_other_stands_for_all(
    new_player, monkeypatch
):
    monkeypatch.setattr(books, "ENDED_MAX", 2)
    pen = new_player()
    pen.has("cpu", 4)
    pen.book(wall(pen, 500), wall(pen, 1000), cpu=4)
    pen.ask(conn=1, number=2, cpu=1)
    pen.play(ev.Released(pen.at, 1, 3, Who(1000, 1000, 1), 1))
    for _ in range(2):
        pen.gone(pen.ask(cpu=1, length=1.0, uid=1001))
    assert 1 not in pen.books.ended
    pen.over()
