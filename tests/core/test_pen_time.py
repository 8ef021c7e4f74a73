"""Time: what was found by playing a term (term.py) and by writing its laws down.

Each failed once, and says what should be.
"""

import pytest

from holdingpen.core import effects as do
from holdingpen.core.rights import Rules
from holdingpen.core.standings import standings


@pytest.fixture
def pen(play):
    pen = play(Rules(ready_before_s=10.0, assume_s=100.0))
    pen.has("ram", 20)
    pen.has("cpu", 4)
    return pen


def wall(pen, seconds=0.0):
    return pen.at.wall_s + seconds


def asked_back(pen, effects=None):
    return [(x.lease, x.on) for x in pen.said(do.TellReclaim, effects)]


def expected_in_s(pen, request):
    """Seconds until it is foretold to start; None: unknown."""
    plan = pen.pen.plan(pen.at)
    (how,) = standings(pen.books, pen.at, [request.lease], soonest=plan).values()
    return None if how.expected_wall_s is None else how.expected_wall_s - pen.at.wall_s


# Waiting for nothing.


def test_who_has_reserved_the_machine_waits_for_nobody_it_keeps_out(pen):
    pen.ask(lasts=600.0, machine=1)
    pen.ask(uid=1001, ram=20)
    assert pen.state(pen.ask(ram=4)) == "live"


def test_all_who_were_deferred_for_a_reservation_start_when_it_is_released(play):
    pen = play(Rules(ready_before_s=10.0, assume_s=100.0))
    pen.has("ram", 100)
    mine = pen.ask(ram=1)
    (lease,) = pen.book(wall(pen, 500), ram=100)
    # a second one, so that there is still something to be deferred for
    pen.book(wall(pen, 9000), ram=100)
    jobs = [pen.ask(ram=1, length=1000.0) for _ in range(40)]
    pen.release(mine._replace(lease=lease), by=pen.connect())
    pen.sleep(100)
    assert {pen.state(job) for job in jobs} == {"live"}


def test_a_booking_above_a_lowered_capacity_keeps_nobody_waiting(pen):
    pen.book(wall(pen, 500), ram=16)
    pen.set("ram", 10)
    pen.sleep(495)
    assert pen.state(pen.ask(ram=4, length=5.0)) == "live"


def test_one_that_has_begun_keeps_the_rest_when_a_capacity_is_lowered(pen):
    pen.ask(lasts=600.0, ram=8, cpu=4)
    pen.set("cpu", 2)
    assert pen.book(wall(pen, 300), ram=16) == []
    assert pen.refusal() == "conflict"
    assert pen.book(wall(pen, 700), ram=16)


# Beginning late, though it need not.


def test_for_two_reservations_that_are_due_both_are_asked_for(pen):
    one, other = pen.ask(ram=16), pen.ask(cpu=4)
    pen.book(wall(pen, 500), ram=16)
    pen.book(wall(pen, 500), cpu=4)
    effects = pen.sleep(495)
    assert sorted(asked_back(pen, effects)) == [(one.lease, True), (other.lease, True)]


def test_a_reservation_that_cannot_begin_hides_no_other(pen):
    pen.ask(ram=16, length=5000.0)
    other = pen.ask(cpu=4)
    pen.book(wall(pen, 500), ram=16)
    pen.book(wall(pen, 501), cpu=4)
    assert asked_back(pen, pen.sleep(495)) == [(other.lease, True)]


def test_who_ends_before_the_date_counts_when_others_are_asked_back_for_it(pen):
    one = pen.ask(ram=8)
    pen.ask(ram=8, length=498.0)
    pen.book(wall(pen, 500), ram=16)
    assert asked_back(pen, pen.sleep(495)) == [(one.lease, True)]


def test_what_others_use_is_planned_around(play):
    pen = play(Rules(ready_before_s=10.0, assume_s=100.0))
    pen.has("ram", 20, measured=True)
    pen.measured(outside=4)
    (lease,) = pen.book(wall(pen, 500), ram=12)
    pen.ask(ram=8, length=1000.0)
    pen.sleep(501)
    assert pen.books.leases[lease].state == "live"


def test_a_booking_into_a_lease_with_a_known_end_is_refused_at_once(pen):
    pen.ask(ram=16, length=5000.0)
    assert pen.book(wall(pen, 500), ram=16) == []


# Delayed by somebody behind.


def test_a_booking_delays_nobody_who_waited_before(pen):
    one = pen.ask(ram=16, length=100.0)
    waits = pen.ask(ram=20, length=1000.0)
    assert expected_in_s(pen, waits) == 100
    pen.book(wall(pen, 300), ram=16, uid=1001)
    pen.sleep(100)
    pen.gone(one)
    assert pen.state(waits) == "live"


def test_what_passed_by_its_end_does_not_end_later_after_all(pen):
    pen.ask(ram=16, length=200.0)
    waits = pen.ask(ram=20)
    passed = pen.ask(ram=4, lasts=100.0, uid=1001)
    assert pen.state(passed) == "live"
    pen.extend(passed.lease, 1000.0, uid=1001)
    assert expected_in_s(pen, waits) == 200


# Asking back too many.


def test_who_comes_before_the_one_in_need_is_served_from_what_is_asked_back(pen):
    pen.ask(ram=10, reclaimable=True)
    pen.ask(ram=10, reclaimable=True)
    pen.ask(ram=4, priority=1)
    assert asked_back(pen) == [(2, True)]
    pen.ask(ram=4, priority=2)
    assert asked_back(pen) == []


# Foretelling what does not come.


def test_who_stays_longer_than_he_said_has_no_known_end(pen):
    pen.ask(ram=20, length=100.0)
    waits = pen.ask(ram=4)
    pen.sleep(200)
    assert expected_in_s(pen, waits) is None


def test_who_was_told_a_time_is_told_when_it_has_passed(pen):
    pen.ask(ram=20, length=100.0)
    waits = pen.ask(ram=4)
    effects = pen.sleep(200)
    told = pen.said(do.TellWaiting, effects)
    assert [(x.lease, x.expected_wall_s) for x in told[-1:]] == [(waits.lease, None)]


def test_what_is_foretold_knows_what_is_reserved_by_then(pen):
    pen.ask(ram=20, length=450.0)
    pen.book(wall(pen, 500), ram=16, lasts=60.0)
    waits = pen.ask(ram=8, length=100.0)
    assert expected_in_s(pen, waits) == 560
