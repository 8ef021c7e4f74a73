"""Reservations: leases without a connection, allotments, dates (model.md 2, 12, 13)."""

import pytest

from holdingpen.core import effects as do
from holdingpen.core.leases import Why
from holdingpen.core.rights import Allow, Rules


@pytest.fixture
def pen(play):
    pen = play(Rules(ready_before_s=10.0, assume_s=100.0))
    pen.has("ram", 20, hold=8, measured=True)
    pen.has("cpu", 4)
    pen.fill()
    return pen


def wall(pen, seconds=0.0):
    return pen.at.wall_s + seconds


def the_end(pen, lease):
    return pen.books.ended[lease].why


# Beginning now.


def test_a_reservation_outlives_its_connection_and_ends_at_its_date(pen):
    mine = pen.ask(lasts=60.0, ram=6)
    (told,) = pen.said(do.TellReserved)
    assert (told.leases, told.amounts) == ([1], {"ram": 6})
    assert (told.starts_wall_s, told.until_wall_s) == (wall(pen), wall(pen, 60))
    pen.gone(mine)
    assert pen.state(mine) == "live"
    pen.sleep(59.9)
    assert pen.state(mine) == "live"
    pen.sleep(0.2)
    assert the_end(pen, 1) == Why.EXPIRED


def test_what_it_drew_of_the_ballast_stays_held_for_it(pen):
    pen.ask(lasts=60.0, ram=6)
    assert (pen.ledger().held, pen.ledger("ram@1").held) == (2, 6)
    assert pen.drops == []
    pen.sleep(61)
    assert pen.ledger().held == 8


def test_more_than_the_ballast_becomes_ballast_of_its_own(pen):
    pen.ask(lasts=60.0, ram=12)
    assert (pen.ledger().held, pen.ledger("ram@1").held) == (0, 8)
    (take,) = pen.takes
    assert (take.resource, take.amount, take.ledger) == ("ram", 4, "ram@1")
    pen.taken()
    assert pen.ledger("ram@1").held == 12
    pen.sleep(61)
    assert (pen.ledger().held, pen.occupied()) == (8, 8)


def test_what_is_being_taken_when_it_ends_becomes_the_machines(pen):
    pen.ask(lasts=60.0, ram=12)
    pen.sleep(61)
    assert pen.ledger().taking == 4
    pen.taken()
    assert (pen.ledger().taking, pen.ledger().held, pen.occupied()) == (0, 8, 8)


def test_it_waits_as_any_request_does_and_leaves_with_its_connection(pen):
    pen.ask(ram=20)
    mine = pen.ask(lasts=60.0, ram=6)
    assert pen.state(mine) == "waiting"
    pen.gone(mine)
    assert the_end(pen, mine.lease) == Why.GONE


def test_a_request_sent_again_gets_the_same_reservation(pen):
    mine = pen.ask(lasts=60.0, ram=6)
    pen.again(mine, lasts=60.0, ram=6)
    assert pen.said(do.TellReserved)[0].leases == [1]
    assert pen.facts == []


# Inside.


def test_its_owners_requests_draw_on_it_by_themselves(pen):
    pen.ask(lasts=60.0, ram=6)
    mine = pen.ask(ram=4)
    assert pen.books.leases[mine.lease].ask.inside == 1
    pen.dropped()
    assert pen.ledger().leased == 6
    assert (pen.ledger("ram@1").leased, pen.ledger("ram@1").held) == (4, 2)


@pytest.mark.parametrize(
    ("asked", "inside"),
    [
        ({"ram": 4}, 1),
        ({"ram": 7}, 0),
        ({"cpu": 1}, 0),
        ({"ram": 4, "cpu": 1}, 1),
        ({"ram": 4, "uid": 1001}, 0),
        ({"ram": 4, "inside": -1}, 0),
        ({"machine": 1}, 0),
    ],
)
def test_what_it_has_enough_of_is_drawn_from_it(pen, asked, inside):
    pen.ask(lasts=60.0, ram=6)
    one = pen.ask(**asked)
    assert pen.books.leases[one.lease].ask.inside == inside


def test_when_it_is_used_up_the_machine_is_asked_and_else_it_is_waited_for(pen):
    pen.ask(lasts=600.0, ram=6)
    first = pen.ask(ram=4)
    other = pen.ask(ram=4)
    asks = [pen.books.leases[x.lease].ask.inside for x in (first, other)]
    assert asks == [1, 0]
    pen.ask(uid=1001, ram=10)
    third = pen.ask(ram=4)
    assert pen.books.leases[third.lease].ask.inside == 1
    assert pen.state(third) == "waiting"
    pen.dropped(0)
    pen.gone(first)
    pen.measured()
    assert pen.state(third) != "waiting"


def test_who_says_in_which_gets_it_or_is_told_why_not(pen):
    pen.ask(lasts=60.0, ram=6)
    pen.ask(inside=1, ram=7)
    assert pen.refusal() == "never-fits"
    pen.ask(inside=7, ram=1)
    assert pen.refusal() == "no-such-lease"
    pen.ask(inside=1, ram=1, uid=1001)
    assert pen.refusal() == "not-permitted"
    pen.ask(inside=1, machine=1)
    assert pen.refusal() == "never-fits"
    assert pen.state(pen.ask(inside=1, ram=1)) == "promised"
    assert pen.state(pen.ask(inside=1, ram=1, uid=0)) == "promised"


def test_members_of_its_group_draw_on_it_too(pen):
    pen.ask(lasts=60.0, ram=6, gid=50)
    one = pen.ask(ram=2, uid=1001, groups=(40, 50))
    assert pen.books.leases[one.lease].ask.inside == 1
    other = pen.ask(ram=2, uid=1002, groups=(40,))
    assert pen.books.leases[other.lease].ask.inside == 0


def test_its_end_ends_what_was_drawn_on_it_and_says_so(pen):
    pen.ask(lasts=60.0, ram=6)
    one = pen.ask(ram=4)
    pen.dropped()
    pen.ask(uid=1001, ram=14)
    waits = pen.ask(ram=4)
    pen.ask(uid=1001, conn=one.conn, number=7, ram=1)
    effects = pen.sleep(61)
    told = [(x.lease, x.why) for x in pen.said(do.TellEnded, effects)]
    assert told == [(one.lease, Why.OUTLIVED), (1, Why.EXPIRED)]
    assert waits.lease not in pen.books.leases
    (refused,) = pen.said(do.TellRefused, effects)
    assert refused.code == "not-now"
    assert pen.ledger().settling == 4


def test_what_settles_inside_is_seen_to_settle(pen):
    pen.ask(lasts=600.0, ram=6)
    one = pen.ask(ram=4)
    pen.dropped()
    pen.gone(one)
    assert pen.ledger("ram@1").settling == 4
    pen.measured()
    assert pen.ledger("ram@1").settling == 0
    pen.fill()
    assert pen.ledger("ram@1").held == 6
    pen.sleep(1)


# The whole machine.


def test_who_reserved_the_machine_has_it_for_himself(pen):
    pen.ask(lasts=60.0, machine=1)
    other = pen.ask(uid=1001, ram=1)
    assert pen.state(other) == "waiting"
    mine = pen.ask(ram=4)
    assert pen.state(mine) == "promised"
    pen.dropped()
    pen.sleep(61)
    assert pen.state(other) != "waiting"


# Dates.


def test_a_booking_is_planned_around_and_begins_at_its_date(pen):
    (lease,) = pen.book(wall(pen, 1000), ram=12)
    assert pen.books.leases[lease].state == "booked"
    assert pen.ledger().leased == 0
    pen.sleep(989)
    assert pen.books.leases[lease].state == "booked"
    pen.sleep(2)
    assert pen.books.leases[lease].state == "live"
    pen.fill()
    assert pen.ledger(f"ram@{lease}").held == 12
    pen.sleep(1070 - 991 + 1)
    assert the_end(pen, lease) == Why.EXPIRED


def test_who_would_still_hold_then_does_not_start(pen):
    pen.book(wall(pen, 50), ram=16)
    assert pen.state(pen.ask(ram=4)) == "promised"
    late = pen.ask(ram=5)
    assert pen.state(late) == "waiting"
    assert pen.books.line.waiters[late.lease].until_s == pytest.approx(
        pen.now_s + 50 + 60
    )


def test_who_ends_before_starts(pen):
    pen.book(wall(pen, 50), ram=16)
    assert pen.state(pen.ask(ram=8, length=30.0)) == "promised"


def test_who_gives_back_when_asked_starts(pen):
    pen.book(wall(pen, 50), ram=16)
    assert pen.state(pen.ask(ram=8, reclaimable=True)) == "promised"
    pen.dropped()
    effects = pen.sleep(41)
    assert [x.on for x in pen.said(do.TellReclaim, effects)] == [True]


def test_who_said_no_end_is_asked_back_in_time(pen):
    old = pen.ask(ram=8)
    pen.dropped()
    (lease,) = pen.book(wall(pen, 500), ram=16)
    effects = pen.sleep(491)
    assert [x.lease for x in pen.said(do.TellReclaim, effects)] == [old.lease]
    assert pen.books.leases[lease].state == "waiting"
    pen.gone(old)
    pen.measured()
    pen.fill()
    assert pen.books.leases[lease].state == "live"


def test_a_booking_that_could_not_begin_before_its_end_is_over(pen):
    pen.ask(ram=8)
    pen.dropped()
    (lease,) = pen.book(wall(pen, 500), ram=16)
    effects = pen.sleep(561)
    assert the_end(pen, lease) == Why.MISSED
    assert pen.said(do.Note, effects)


def test_two_bookings_that_do_not_fit_together_are_told_at_once(pen):
    pen.book(wall(pen, 100), ram=12)
    assert pen.book(wall(pen, 130), ram=12) == []
    (refused,) = pen.said(do.TellRefused)
    assert refused.code == "conflict"
    assert refused.free_wall_s == wall(pen, 160)
    assert "1 (user 1000" in refused.message
    assert pen.book(wall(pen, 160), ram=12) == [2]
    assert pen.book(wall(pen, 130), ram=8) == [3]


@pytest.mark.parametrize(("length", "booked"), [(None, []), (0.0, [3])])
def test_who_waits_and_said_0_keeps_nobody_from_a_date(pen, length, booked):
    """Who did not say is taken to last 100 s here, and stands before it."""
    pen.ask(ram=16, length=50.0)
    pen.dropped()
    pen.ask(ram=16, length=length)
    assert pen.book(wall(pen, 60), ram=16) == booked


def test_the_first_date_that_clashes_may_have_begun(pen):
    pen.ask(lasts=60.0, ram=12)
    pen.sleep(5)
    assert pen.book(wall(pen, 100), wall(pen, -1), ram=12) == []
    (refused,) = pen.said(do.TellRefused)
    assert refused.message.startswith("date 1 of 2, in 0s: reservation 1 (")


def test_all_dates_of_one_request_are_booked_or_none(pen):
    pen.book(wall(pen, 300), ram=12)
    assert pen.book(wall(pen, 100), wall(pen, 310), ram=12) == []
    assert len(pen.books.leases) == 1
    (refused,) = pen.said(do.TellRefused)
    assert refused.free_wall_s == wall(pen, 360)
    assert refused.message == (
        "date 2 of 2, in 5m10s: reservation 1 (user 1000) leaves no room for it then."
    )
    series = pen.book(wall(pen, 100), wall(pen, 200), ram=12)
    assert [pen.books.leases[x].series for x in series] == [2, 2]


@pytest.mark.parametrize("starts", [(-100,), (100, 120)])
def test_dates_that_are_over_or_overlap_are_refused(pen, starts):
    assert pen.book(*(wall(pen, x) for x in starts), ram=1) == []
    assert pen.refusal() == "bad-request"


def test_a_step_of_the_wall_clock_moves_dates_and_not_durations(pen):
    plain = pen.ask(ram=2, length=100.0)
    pen.dropped()
    pen.ask(lasts=60.0, ram=2)
    pen.wall_s += 3600
    pen.tick()
    assert the_end(pen, 2) == Why.EXPIRED
    assert pen.books.leases[plain.lease].known_end_s == 200.0


def test_a_restart_keeps_reservations_and_what_they_hold_is_taken_again(pen):
    pen.ask(lasts=60.0, ram=6)
    pen.ask(ram=4)
    pen.book(wall(pen, 1000), ram=12)
    pen.restart()
    assert sorted(pen.books.leases) == [1, 3]
    pen.measured()
    pen.fill()
    assert pen.ledger("ram@1").held == 6


def test_time_that_passed_while_the_daemon_was_away_counts(pen):
    pen.ask(lasts=60.0, ram=6)
    (booked,) = pen.book(wall(pen, 1000), ram=12)
    # a reboot: the clock since boot begins anew
    pen.wall_s += pen.now_s - 3.0 + 1030.0
    pen.now_s = 3.0
    pen.restart(boot_id="next")
    assert the_end(pen, 1) == Why.EXPIRED
    assert pen.books.leases[booked].state == "live"


# Orders about them.


def test_only_its_owner_and_operators_release_it(pen):
    mine = pen.ask(lasts=60.0, ram=6)
    pen.release(mine, by=pen.connect(), uid=1001)
    assert pen.refusal() == "not-permitted"
    pen.release(mine, by=pen.connect(), uid=1000)
    (told,) = pen.said(do.TellReleased)
    assert told.durable
    assert the_end(pen, 1) == Why.RELEASED


def test_it_is_extended_unless_that_is_in_anothers_way(pen):
    pen.ask(lasts=60.0, ram=12)
    pen.extend(1, 30.0)
    (told,) = pen.said(do.TellExtended)
    assert told.until_wall_s == wall(pen, 90)
    pen.book(wall(pen, 100), ram=12, uid=1001)
    pen.extend(1, 11.0)
    assert pen.refusal() == "conflict"
    pen.extend(1, 5.0, uid=1001)
    assert pen.refusal() == "not-permitted"
    pen.extend(99, 5.0)
    assert pen.refusal() == "no-such-lease"
    pen.sleep(89)
    assert 1 in pen.books.leases
    pen.sleep(2)
    assert the_end(pen, 1) == Why.EXPIRED


def test_a_plain_lease_cannot_be_extended(pen):
    pen.ask(ram=1)
    pen.extend(1, 30.0)
    assert pen.refusal() == "bad-request"


def test_only_operators_reserve_for_others(pen):
    pen.ask(lasts=60.0, ram=1, by=1001)
    assert pen.refusal() == "not-permitted"
    mine = pen.ask(lasts=60.0, ram=1, by=0)
    assert pen.books.leases[mine.lease].ask.by_uid == 0


def test_the_rule_says_how_long_and_whether_at_all(play):
    rule = Allow("rule 1", uids=frozenset({1000}), time_max_s=100.0)
    never = Allow("rule 2", reserve=False)
    pen = play(Rules(allow=(rule, never)))
    pen.has("ram", 20)
    pen.ask(lasts=101.0, ram=1)
    assert pen.refusal() == "not-permitted"
    pen.ask(lasts=100.0, ram=1, uid=1001)
    assert pen.refusal() == "not-permitted"
    pen.ask(lasts=99.0, ram=1)
    pen.extend(1, 2.0)
    assert pen.refusal() == "not-permitted"


# Idle ones.


def test_what_nothing_draws_on_is_ended_where_that_is_said(play):
    pen = play(Rules(idle_after_s=30.0, idle_ends=True))
    pen.has("ram", 20)
    pen.ask(lasts=600.0, ram=6)
    one = pen.ask(ram=4)
    pen.sleep(40)
    assert pen.books.leases[1].state == "live"
    pen.gone(one)
    pen.sleep(29)
    assert 1 in pen.books.leases
    pen.sleep(2)
    assert the_end(pen, 1) == Why.IDLE
