"""Ballast, settling, foreign use, measuring."""

import pytest

from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core import facts as fact
from holdingpen.core.decisions import TAKE_SLICE
from holdingpen.core.measuring import FIRST_S
from holdingpen.core.resources import SETTLE_LIMIT_S

MIB, GIB = 2**20, 2**30


@pytest.fixture
def held(pen):
    """10 bytes, 6 of them ballast, in units of 2."""
    pen.has("ram", 10, hold=6, unit=2)
    pen.fill()
    assert (pen.ledger().held, pen.ledger().free) == (6, 4)
    return pen


@pytest.fixture
def measured(pen):
    pen.has("ram", 1000, measured=True)
    return pen


def test_a_lease_is_told_granted_when_its_ballast_is_free(held):
    one = held.ask(ram=4)
    assert held.effects == [do.DropBallast("ram", 4, one.lease)]
    assert held.state(one) == "promised"
    assert held.dropped() == [
        do.TellGranted(one.conn, 1, one.lease, {"ram": 4}, "best-effort")
    ]


def test_ballast_is_drawn_first(held):
    held.ask(ram=5)
    assert (held.ledger().held, held.ledger().free) == (0, 5)


def test_what_goes_beyond_ballast_comes_from_what_is_free(held):
    held.ask(ram=9)
    assert held.drops[0].amount == 6
    assert (held.ledger().held, held.ledger().free) == (0, 1)


def test_bytes_drawn_beyond_the_need_are_free(held):
    held.ask(ram=1)
    assert held.drops[0].amount == 2
    assert (held.ledger().held, held.ledger().free) == (4, 5)


def test_ballast_of_several_resources_must_all_be_free(held):
    held.has("disk", 10, hold=10)
    held.fill()
    one = held.ask(ram=2, disk=3)
    assert held.dropped(1) == []
    assert held.facts == [fact.Dropped(one.lease, "disk")]
    held.dropped()
    assert held.state(one) == "live"


def test_a_drop_answered_twice_counts_once(held):
    held.has("disk", 10, hold=10)
    held.fill()
    one = held.ask(ram=2, disk=3)
    held.dropped()
    held.play(ev.BallastDropped(held.at, one.lease, "ram"))
    assert held.state(one) == "promised"


def test_a_promise_whose_client_went_away_is_over(held):
    one = held.ask(ram=4)
    held.gone(one)
    assert held.dropped() == []
    assert held.facts == []
    assert held.ledger().leased == 0


def test_a_waiter_draws_too(held):
    held.has("licence", 1)
    one = held.ask(licence=1)
    two = held.ask(licence=1, ram=4)
    held.gone(one)
    assert held.effects == [do.DropBallast("ram", 4, two.lease)]


# Taking back.


def test_ballast_is_taken_from_the_start(pen):
    assert pen.has("ram", 10, hold=6)[-1] == do.TakeBallast("ram", 6)
    assert (pen.ledger().taking, pen.ledger().free) == (6, 4)


def test_the_hold_is_a_multiple_of_the_unit(pen):
    pen.has("ram", 10, hold=7, unit=2)
    assert pen.ledger().hold == 6


def test_ballast_is_taken_in_slices(pen):
    pen.has("ram", GIB, hold=2 * TAKE_SLICE + MIB, unit=MIB)
    amounts = []
    while pen.takes:
        amounts.append(pen.takes[0].amount)
        pen.taken()
    assert amounts == [TAKE_SLICE, TAKE_SLICE, MIB]


def test_a_unit_larger_than_a_slice_is_taken_whole(pen):
    pen.has("ram", 4 * GIB, hold=2 * GIB, unit=GIB)
    pen.fill()
    assert pen.ledger().held == 2 * GIB


def test_a_lease_gives_back_the_ballast_it_drew(held):
    one = held.ask(ram=5)
    held.dropped()
    held.gone(one)
    assert held.takes == [do.TakeBallast("ram", 6)]


def test_no_ballast_is_taken_for_what_leases_drew(held):
    """Who drew on it keeps it; else the hold would grow with each lease."""
    held.ask(ram=4)
    held.dropped()
    assert held.takes == []


def test_the_line_is_served_before_ballast_is_taken(held):
    one = held.ask(ram=10)
    held.dropped()
    two = held.ask(ram=7)
    held.gone(one)
    assert held.state(two) == "live"
    assert held.takes == [do.TakeBallast("ram", 2)]


def test_between_two_slices_the_line_is_served(pen):
    pen.has("ram", 2 * TAKE_SLICE, hold=2 * TAKE_SLICE)
    one = pen.ask(ram=2 * TAKE_SLICE)
    assert pen.state(one) == "waiting"
    pen.taken()
    assert pen.state(one) == "promised"


def test_a_lease_may_draw_on_what_was_taken_in_part(pen):
    pen.has("ram", 10, hold=6)
    pen.taken(2)
    assert (pen.ledger().held, pen.ledger().free) == (2, 8)


def test_when_the_machine_refuses_it_is_left_alone_for_a_while(pen):
    pen.has("ram", 10, hold=6)
    pen.taken(2)
    assert pen.takes == []
    pen.sleep(1.9)
    assert pen.takes == []
    pen.sleep(0.1)
    assert pen.takes == [do.TakeBallast("ram", 4)]


def test_a_pen_that_cannot_take_ballast_sleeps(pen):
    """All is leased when the time to try again comes: nothing wakes it for that."""
    pen.has("ram", 10, hold=6)
    pen.taken(0)
    one = pen.ask(ram=10)
    pen.sleep(60)
    pen.gone(one)
    assert pen.takes == [do.TakeBallast("ram", 6)]


# Giving ballast up.


def test_a_lower_hold_gives_ballast_up(held):
    assert do.DropBallast("ram", 4, 0) in held.has("ram", 10, hold=2, unit=2)
    assert (held.ledger().held, held.ledger().free) == (2, 8)


def test_a_lower_hold_counts_what_leases_drew(held):
    held.ask(ram=4)
    held.has("ram", 10, hold=4, unit=2)
    assert held.ledger().held == 0


def test_a_lower_capacity_gives_ballast_up(held):
    held.ask(ram=2)
    held.set("ram", 3)
    assert (held.ledger().held, held.ledger().free) == (0, 1)


def test_nobody_starts_with_ballast_that_must_be_given_up(held):
    """2 are ballast, but only 1 may still be lent."""
    held.ask(ram=4, length=100)
    held.ask(ram=9)
    late = held.ask(ram=2, length=200)
    held.set("ram", 5)
    assert held.state(late) == "waiting"
    assert held.ledger().leased <= 5


def test_a_capacity_below_what_is_leased_ends_nobody(pen):
    one = pen.ask(ram=8)
    pen.set("ram", 3)
    assert (pen.state(one), pen.ledger().free) == ("live", 0)
    pen.gone(one)
    assert pen.ledger().free == 3


# Settling and foreign use.


def test_what_ended_is_measured_a_moment_later_when_nobody_waits_for_it(measured):
    """Leases that come and go quickly are measured together."""
    one = measured.ask(ram=800)
    measured.gone(one)
    due = measured.now_s + FIRST_S
    assert measured.pen.wake_at_s == pytest.approx(due)


def test_what_ended_is_measured_at_once_for_who_waits_for_it(measured):
    one = measured.ask(ram=800)
    measured.ask(ram=900)
    assert do.Measure("ram", fresh=False) in measured.gone(one)


def test_what_settles_is_measured_at_once_for_who_comes_to_wait_for_it(measured):
    """`gatekeeper a; gatekeeper --nonblock b` in a script: b must not be refused."""
    one = measured.ask(ram=800)
    measured.gone(one)
    two = measured.ask(ram=900, wait=0)
    assert do.Measure("ram", fresh=False) in measured.effects
    measured.measured(fresh=False)
    assert measured.state(two) == "live"


def test_what_ended_settles_until_it_is_measured_free(measured):
    one = measured.ask(ram=800)
    assert measured.gone(one) == []
    assert (measured.ledger().settling, measured.ledger().free) == (800, 200)
    measured.measured(outside=300, fresh=False)
    assert (measured.ledger().settling, measured.ledger().free) == (300, 700)
    measured.measured()
    assert measured.ledger().free == 1000


def test_who_waits_starts_when_enough_is_measured_free(measured):
    one, two = measured.ask(ram=800), measured.ask(ram=600)
    measured.gone(one)
    assert measured.state(two) == "waiting"
    measured.measured(outside=400)
    assert measured.state(two) == "live"


def test_what_settles_is_measured_soon_and_then_less_often(measured):
    measured.gone(measured.ask(ram=800))
    gaps = []
    for _ in range(9):
        measured.measured(outside=800)
        gaps.append(round(measured.pen.wake_at_s - measured.now_s, 3))
        measured.sleep(gaps[-1])
    assert gaps == [0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25, 0.25]


def test_when_all_is_quiet_it_is_measured_now_and_then(measured):
    measured.measured()
    assert measured.sleep(1.9) == []
    assert measured.sleep(0.1) == [do.Measure("ram")]


def test_a_measurement_that_never_came_is_asked_for_again(measured):
    assert measured.sleep(6) == [do.Measure("ram")] * 3


def test_what_is_not_measured_is_free_at_once(pen):
    pen.gone(pen.ask(ram=8))
    assert (pen.ledger().settling, pen.ledger().free) == (0, 10)
    assert pen.pen.wake_at_s == float("inf")


def test_what_does_not_come_back_is_foreign_and_noted(measured):
    measured.gone(measured.ask(ram=800))
    measured.now_s += SETTLE_LIMIT_S
    assert measured.measured(outside=500) == [
        do.Note(
            "500 B ram did not come back within 10 s of their lease's end; "
            "counted as foreign use."
        )
    ]
    assert (measured.ledger().settling, measured.ledger().foreign) == (0, 500)


def test_what_came_back_in_the_last_moment_is_not_noted(measured):
    """Others used as much all the time."""
    measured.measured(outside=200)
    measured.gone(measured.ask(ram=800))
    measured.now_s += SETTLE_LIMIT_S
    assert measured.measured(outside=200) == []


def test_only_what_did_not_come_back_is_noted(measured):
    measured.measured(outside=200)
    measured.gone(measured.ask(ram=800))
    measured.now_s += SETTLE_LIMIT_S
    assert measured.measured(outside=300)[0].text.startswith("100 B ram did not")


def test_a_stale_look_at_processes_makes_nothing_foreign(measured):
    """What they use may be a lease's that grew since."""
    one = measured.ask(ram=500)
    measured.measured(outside=500, fresh=False)
    assert measured.ledger().foreign == 0
    measured.measured(used={one.lease: 500})
    assert measured.ledger().foreign == 0


def test_use_outside_leases_is_foreign_and_reduces_what_is_free(measured):
    measured.measured(outside=300)
    assert (measured.ledger().foreign, measured.ledger().free) == (300, 700)
    assert measured.state(measured.ask(ram=800)) == "waiting"


def test_when_foreign_use_ends_the_line_is_served(measured):
    measured.measured(outside=300)
    one = measured.ask(ram=800)
    measured.measured()
    assert measured.state(one) == "live"


def test_foreign_use_ends_no_lease(measured):
    one = measured.ask(ram=800)
    measured.measured(outside=900)
    assert measured.state(one) == "live"
    assert (measured.ledger().foreign, measured.ledger().free) == (200, 0)


def test_what_a_lease_uses_is_not_foreign(measured):
    one = measured.ask(ram=800)
    measured.measured(used={one.lease: 700})
    assert measured.ledger().foreign == 0


def test_what_a_lease_uses_beyond_its_amount_is_foreign(measured):
    one = measured.ask(ram=500)
    measured.measured(used={one.lease: 700})
    assert measured.ledger().foreign == 200


def test_a_small_change_of_foreign_use_is_no_fact(measured):
    measured.measured(outside=300)
    measured.measured(outside=302)
    assert measured.facts == []
    assert measured.ledger().foreign == 300


def test_the_daemon_starts_with_what_is_foreign_already(measured):
    measured.measured(outside=300)
    measured.restart()
    assert measured.ledger().foreign == 300


def test_ballast_is_not_foreign(pen):
    pen.has("ram", 1000, hold=400, measured=True)
    pen.fill()
    pen.measured()
    assert (pen.ledger().foreign, pen.ledger().free) == (0, 600)
