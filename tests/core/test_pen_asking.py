"""Asking, waiting, passing, giving back."""

from math import inf

import pytest

from holdingpen.amounts import AMOUNT_MAX
from holdingpen.core import effects as do
from holdingpen.core import facts as fact
from holdingpen.core.pen import Pen
from holdingpen.core.rights import Rules

NOTHING_HELD = "nothing was held back"


def test_a_request_that_fits_is_granted_at_once(pen):
    one = pen.ask(ram=8)
    assert pen.effects == [
        do.TellGranted(
            one.conn, 1, one.lease, {"ram": 8}, "best-effort", why=NOTHING_HELD
        )
    ]
    assert (pen.ledger().leased, pen.ledger().free) == (8, 2)


def test_a_grant_is_one_fact(pen):
    one = pen.ask(ram=8)
    assert pen.facts == [fact.Granted(one.lease, pen.at, one_ask(pen, one))]


def one_ask(pen, request):
    return pen.books.leases[request.lease].ask


def test_no_handover_is_promised_where_no_memory_was_asked_for(pen):
    pen.has("licence", 3)
    pen.ask(licence=1)
    assert pen.said(do.TellGranted)[0].handover == "none"


def test_what_does_not_fit_waits_and_is_told_so(pen):
    one = pen.ask(ram=8)
    two = pen.ask(ram=4)
    reason = "waits for 4 B ram (2 B there)"
    assert pen.effects == [
        do.TellWaiting(two.conn, 1, two.lease, 1, reason, [one.lease], None)
    ]


def test_the_story_keeps_who_held_what_was_lacking(pen):
    """The 2 of ram are there, just so; only the licence is not."""
    pen.has("licence", 1)
    pen.ask(ram=8)
    holder = pen.ask(licence=1)
    one = pen.ask(ram=2, licence=1)
    pen.gone(holder)
    assert pen.books.leases[one.lease].waited_for == [holder.lease]


def test_a_waiter_starts_when_enough_came_back(pen):
    one, two = pen.ask(ram=8), pen.ask(ram=4)
    pen.gone(one)
    assert pen.state(two) == "live"


@pytest.mark.parametrize("end", ["gone", "release"])
def test_an_end_gives_all_back(pen, end):
    one = pen.ask(ram=8)
    getattr(pen, end)(one)
    assert pen.state(one) == "ended"
    assert pen.ledger().free == 10


def test_the_end_of_a_connection_ends_all_its_leases(pen):
    one = pen.ask(ram=2)
    two = pen.ask(ram=2, conn=one.conn, number=2)
    three = pen.ask(ram=8, conn=one.conn, number=3)
    pen.gone(one)
    assert [pen.state(x) for x in (one, two, three)] == ["ended"] * 3
    assert one.conn not in pen.books.connections


def test_the_end_of_a_connection_that_asked_for_nothing_is_no_fact(pen):
    assert pen.gone(pen.ask(ram=99)) == []
    assert pen.facts == []


def test_a_connection_whose_lease_was_given_back_is_forgotten_when_it_ends(pen):
    one = pen.ask(ram=2)
    pen.release(one)
    pen.gone(one)
    assert pen.facts == [fact.Left(one.conn)]


# The line.


def test_the_first_to_come_is_the_first_to_start(pen):
    holder = pen.ask(ram=10)
    first, second = pen.ask(ram=10), pen.ask(ram=10)
    pen.gone(holder)
    assert (pen.state(first), pen.state(second)) == ("live", "waiting")


def test_a_higher_priority_goes_first(pen):
    holder = pen.ask(ram=10)
    early, urgent = pen.ask(ram=10), pen.ask(ram=10, priority=5)
    assert pen.waiting() == [urgent.lease, early.lease]
    pen.gone(holder)
    assert (pen.state(early), pen.state(urgent)) == ("waiting", "live")


def test_a_higher_priority_may_start_past_those_who_wait(pen):
    pen.ask(ram=7)
    pen.ask(ram=5)
    assert pen.state(pen.ask(ram=3, priority=1)) == "live"


def test_a_small_request_cannot_take_what_is_set_aside_for_a_big_one(pen):
    holder = pen.ask(ram=6)
    big, small = pen.ask(ram=8), pen.ask(ram=1)
    assert pen.state(small) == "waiting"
    pen.gone(holder)
    assert [pen.state(x) for x in (big, small)] == ["live", "live"]


def test_a_small_request_may_pass_with_what_is_left(pen):
    pen.has("licence", 3)
    pen.ask(ram=8)
    pen.ask(ram=4, licence=1)
    assert pen.state(pen.ask(licence=2)) == "live"
    assert pen.state(pen.ask(licence=1)) == "waiting"


def test_leaving_the_line_gives_back_what_was_set_aside(pen):
    pen.ask(ram=6)
    big, small = pen.ask(ram=8), pen.ask(ram=3)
    pen.gone(big)
    assert pen.state(small) == "live"


def test_leaving_the_line_changes_nothing_else(pen):
    pen.ask(ram=10)
    first, second, third = (pen.ask(ram=5) for _ in range(3))
    pen.release(second)
    assert pen.facts == [fact.Ended(second.lease, pen.at, "released")]
    assert pen.waiting() == [first.lease, third.lease]


# Passing by a known end (model.md 8b).


def big_waits_for_100_s(pen):
    """9 of 10 are leased for 100 s; somebody waits for all 10."""
    pen.ask(ram=9, length=100)
    return pen.ask(ram=10)


def test_who_is_over_before_the_first_can_start_may_pass(pen):
    big_waits_for_100_s(pen)
    assert pen.state(pen.ask(ram=1, length=50)) == "live"


def test_who_ends_just_when_the_first_can_start_may_pass(pen):
    big_waits_for_100_s(pen)
    assert pen.state(pen.ask(ram=1, length=100)) == "live"


@pytest.mark.parametrize("length", [101, inf, None])
def test_who_is_not_over_before_the_first_can_start_may_not_pass(pen, length):
    big_waits_for_100_s(pen)
    assert pen.state(pen.ask(ram=1, length=length)) == "waiting"


def test_nobody_passes_one_who_may_start_at_any_moment(pen):
    """The holder has no known end: it may be over in a second."""
    pen.ask(ram=9)
    pen.ask(ram=10)
    assert pen.state(pen.ask(ram=1, length=1)) == "waiting"


def test_an_unknown_end_does_not_forbid_what_a_known_one_allows(pen):
    """Whatever the one without a length does, the other keeps his 4 for 100 s."""
    pen.ask(ram=4, length=100)
    pen.ask(ram=5)
    pen.ask(ram=10)
    assert pen.state(pen.ask(ram=1, length=50)) == "live"


def test_an_end_that_is_past_may_come_at_any_moment(pen):
    big_waits_for_100_s(pen)
    pen.tick(101)
    assert pen.state(pen.ask(ram=1, length=1)) == "waiting"


def test_nobody_passes_with_what_is_not_there(pen):
    big_waits_for_100_s(pen)
    assert pen.state(pen.ask(ram=2, length=1)) == "waiting"


def test_what_settles_may_be_back_in_a_moment(pen):
    """6 settle: once they are measured free the first starts, were it not for us."""
    pen.has("ram", 20, measured=True)
    early = pen.ask(ram=6)
    pen.ask(ram=9, length=100)
    first = pen.ask(ram=10)
    pen.gone(early)
    assert pen.state(pen.ask(ram=5, length=50)) == "waiting"
    pen.measured()
    assert pen.state(first) == "live"


def test_who_has_nothing_set_aside_yet_is_not_delayed_either(pen):
    """All that is there is set aside for the first, who waits long for a licence.

    The second will have his 5 in 10 s; the third, who could be over before the
    first, would take them from him.
    """
    pen.has("licence", 1)
    pen.ask(licence=1, length=100)
    pen.ask(ram=5, length=10)
    pen.ask(ram=5, licence=1)
    second = pen.ask(ram=5)
    third = pen.ask(ram=5, length=50)
    assert (pen.state(second), pen.state(third)) == ("waiting", "waiting")


def test_those_ahead_may_be_over_before_the_end_of_who_would_pass(pen):
    """The second waits for a licence only until the first has had it for 5 s."""
    pen.has("licence", 1)
    pen.ask(licence=1, length=10)
    pen.ask(licence=1, length=5)
    pen.ask(ram=9)
    pen.ask(ram=1, licence=1)
    assert pen.state(pen.ask(ram=1, length=50)) == "waiting"


def test_who_is_covered_all_the_same_is_not_asked(pen):
    """A byte is left beside what is set aside for the first; the last takes it."""
    pen.has("licence", 1)
    pen.ask(licence=1)
    pen.ask(ram=4, length=100)
    pen.ask(ram=5, licence=1)
    pen.ask(ram=9)
    assert pen.state(pen.ask(ram=1, length=50)) == "live"
    assert pen.state(pen.ask(ram=1, length=50)) == "waiting"


def test_an_exclusive_request_can_be_passed_too(pen):
    pen.ask(ram=1, length=100)
    pen.ask(machine=1)
    assert pen.state(pen.ask(ram=1, length=50)) == "live"
    assert pen.state(pen.ask(ram=1, length=200)) == "waiting"


def test_passing_is_the_administrators_choice(play):
    pen = play(Rules(backfill=False))
    pen.has("ram", 10)
    big_waits_for_100_s(pen)
    assert pen.state(pen.ask(ram=1, length=50)) == "waiting"


def test_several_may_pass_at_once(pen):
    pen.ask(ram=6, length=100)
    pen.drain()
    pen.ask(ram=10)
    small = [pen.ask(ram=2, length=50) for _ in range(3)]
    pen.drain(None)
    assert [pen.state(x) for x in small] == ["live", "live", "waiting"]


# Who does not wait, or not for ever.


def test_who_will_not_wait_is_refused_at_once(pen):
    pen.ask(ram=8)
    refused = pen.ask(ram=4, wait=0)
    assert pen.refusal() == "not-now"
    assert (pen.facts, pen.state(refused)) == ([], "refused")


def test_who_will_not_wait_is_granted_what_is_there(pen):
    assert pen.state(pen.ask(ram=4, wait=0)) == "live"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"ram": 4}, "asked 4 B ram; 2 B of ram are there."),
        ({"machine": 1}, "asked 1 machine; others hold leases."),
        ({"ram": 1}, "asked 1 B ram; 1 wait ahead."),
    ],
)
def test_the_refusal_says_what_is_there(pen, asked, words):
    pen.ask(ram=8)
    if asked == {"ram": 1}:
        pen.ask(ram=4)
    pen.ask(wait=0, **asked)
    (told,) = pen.said(do.TellRefused)
    assert told.message.startswith(words)


def test_the_refusal_says_that_the_whole_machine_is_taken(pen):
    pen.ask(machine=1)
    pen.ask(ram=1, wait=0)
    (told,) = pen.said(do.TellRefused)
    assert "; user 1000 has the whole machine." in told.message


def test_who_will_not_wait_waits_for_what_settles(pen):
    pen.has("ram", 10, measured=True)
    pen.gone(pen.ask(ram=8))
    patient = pen.ask(ram=10, wait=0)
    assert pen.state(patient) == "waiting"
    pen.measured()
    assert pen.state(patient) == "live"


def test_who_will_not_wait_waits_for_what_is_being_taken(pen):
    pen.has("ram", 10, hold=6)
    patient = pen.ask(ram=10, wait=0)
    pen.taken()
    pen.dropped()
    assert pen.state(patient) == "live"


def test_who_will_not_wait_is_refused_when_nothing_comes_back(pen):
    pen.has("ram", 10, measured=True)
    pen.gone(pen.ask(ram=8))
    patient = pen.ask(ram=10, wait=0)
    pen.measured(outside=8)
    effects = pen.sleep(10)
    assert [told.code for told in pen.said(do.TellRefused, effects)] == ["not-now"]
    assert pen.state(patient) == "ended"


def test_who_will_not_wait_is_refused_what_is_set_aside_for_others(pen):
    """Room and what settles would do for him, but not for all ahead of him too."""
    pen.has("ram", 10, measured=True)
    pen.ask(ram=4)
    pen.gone(pen.ask(ram=6))
    pen.ask(ram=10, priority=9)
    pen.ask(ram=9, priority=0)
    pen.ask(ram=6, priority=5, wait=0)
    assert pen.refusal() == "not-now"


def test_who_waited_long_enough_is_refused(pen):
    pen.ask(ram=8)
    two = pen.ask(ram=4, wait=30)
    assert pen.said(do.TellRefused, pen.sleep(29)) == []
    assert pen.said(do.TellRefused, pen.sleep(1))[0].code == "not-now"
    assert pen.books.ended[two.lease].why == "wait-over"


def test_who_starts_in_the_last_moment_is_not_refused(pen):
    one, two = pen.ask(ram=8), pen.ask(ram=4, wait=30)
    pen.now_s += 30
    pen.gone(one)
    assert pen.state(two) == "live"


def test_those_behind_start_in_the_moment_one_has_waited_long_enough(pen):
    pen.ask(ram=6)
    pen.ask(ram=8, wait=30)
    small = pen.ask(ram=3)
    pen.tick(30)
    assert pen.state(small) == "live"


def test_one_who_waited_long_enough_may_start_as_another_is_refused(pen):
    pen.ask(ram=6)
    big, small = pen.ask(ram=8, wait=30), pen.ask(ram=3, wait=30)
    pen.tick(30)
    assert (pen.state(big), pen.state(small)) == ("ended", "live")


def test_whose_lease_started_has_nothing_to_wait_for(pen):
    one, two = pen.ask(ram=8), pen.ask(ram=4, wait=30)
    pen.gone(one)
    pen.sleep(60)
    assert pen.state(two) == "live"


# The whole machine.


def test_an_exclusive_lease_starts_when_it_is_alone(pen):
    one = pen.ask(ram=1)
    alone = pen.ask(machine=1)
    assert pen.said(do.TellWaiting)[0].reason == "waits for the others"
    pen.gone(one)
    assert pen.state(alone) == "live"


def test_nobody_starts_beside_an_exclusive_lease(pen):
    alone = pen.ask(machine=1)
    one = pen.ask(ram=1)
    reason = "waits for user 1000, who has the whole machine"
    assert pen.said(do.TellWaiting)[0].reason == reason
    pen.gone(alone)
    assert pen.state(one) == "live"


def test_an_exclusive_lease_may_have_amounts_too(pen):
    pen.ask(machine=1, ram=4)
    assert pen.ledger().leased == 4


def test_leases_share_the_machine(pen):
    assert [pen.state(pen.ask(ram=1)) for _ in range(3)] == ["live"] * 3


# What is refused.


@pytest.mark.parametrize(
    ("amounts", "code"),
    [
        ({"ram": 11}, "never-fits"),
        ({"ram": AMOUNT_MAX}, "never-fits"),
        ({"rma": 1}, "unknown-resource"),
        ({"ram": 0}, "bad-amount"),
        ({"ram": -1}, "bad-amount"),
        ({"ram": AMOUNT_MAX + 1}, "bad-amount"),
        ({"machine": 2}, "bad-amount"),
        ({"machine": 0}, "bad-amount"),
    ],
)
def test_what_can_never_be_is_refused_at_once(pen, amounts, code):
    pen.ask(amounts=amounts)
    assert (pen.refusal(), pen.facts) == (code, [])


def test_a_refusal_gives_the_numbers_and_the_way_out(pen):
    pen.ask(ram=11)
    (told,) = pen.said(do.TellRefused)
    assert told.message == (
        "asked 11 B ram; this pen can lend 10 B. Ask for less, or see "
        "`holdingpenctl set ram` and the keys under [ram]."
    )


def test_a_user_may_hold_so_many_leases(play):
    pen = play(Rules(leases_per_user_max=2))
    pen.has("ram", 10)
    one = pen.ask(ram=1)
    pen.ask(ram=1)
    pen.ask(ram=1)
    assert pen.refusal() == "limit"
    assert pen.state(pen.ask(ram=1, uid=1001)) == "live"
    pen.gone(one)
    assert pen.state(pen.ask(ram=1)) == "live"


def test_a_user_may_have_so_many_places_in_the_line(play):
    pen = play(Rules(waiting_per_user_max=1))
    pen.has("ram", 10)
    pen.ask(ram=10)
    pen.ask(ram=1)
    pen.ask(ram=1)
    assert pen.refusal() == "limit"
    assert pen.state(pen.ask(ram=1, uid=1001)) == "waiting"


# Asking for nothing in particular.


@pytest.mark.parametrize(
    ("share", "got"),
    [
        ({"ram": 4}, {"ram": 4}),
        ({"ram": 64}, {"ram": 10}),
        ({"ram": 4, "gpu": 1}, {"ram": 4}),
        ({}, {}),
    ],
)
def test_who_asks_for_nothing_gets_the_share_as_far_as_there_is_any(play, share, got):
    pen = play(Rules(share=share))
    pen.has("ram", 10)
    pen.has("gpu", 0)
    pen.ask()
    assert pen.said(do.TellGranted)[0].amounts == got


# Asking again.


def test_a_request_sent_again_while_it_waits_is_told_its_place(pen):
    pen.ask(ram=8)
    two = pen.ask(ram=4)
    told = pen.said(do.TellWaiting)
    assert pen.again(two, ram=4) == told
    assert pen.facts == []


def test_a_request_sent_again_while_it_is_promised_is_told_what_it_waits_for(pen):
    """Else who sends again for want of an answer would give up in the end."""
    pen.has("ram", 10, hold=5)
    pen.fill()
    one = pen.ask(ram=4)
    (told,) = pen.again(one, ram=4)
    assert (told.place, told.reason) == (1, "what was held back is being made ready")
    assert pen.said(do.TellGranted, pen.dropped())[0].lease == one.lease


def test_a_request_sent_again_while_it_lives_is_told_so_and_not_granted_twice(pen):
    one = pen.ask(ram=4)
    assert [told.lease for told in pen.again(one, ram=4)] == [one.lease]
    assert pen.ledger().leased == 4


def test_a_request_sent_again_when_it_is_over_is_stale(pen):
    one = pen.ask(ram=4)
    pen.release(one)
    pen.again(one, ram=4)
    assert pen.refusal() == "stale-request"
    assert pen.ledger().leased == 0


def test_a_request_that_was_refused_may_be_sent_again(pen):
    holder = pen.ask(ram=8)
    one = pen.ask(ram=4, wait=0)
    pen.gone(holder)
    pen.again(one, ram=4, wait=0)
    assert len(pen.said(do.TellGranted)) == 1


# Giving back.


def test_a_release_is_answered(pen):
    one = pen.ask(ram=4)
    assert pen.release(one, number=2) == [do.TellReleased(one.conn, 2, one.lease)]


def test_a_release_sent_again_is_answered_again(pen):
    one = pen.ask(ram=4)
    pen.release(one, number=2)
    told = pen.release(one, number=2)
    assert told == [do.TellReleased(one.conn, 2, one.lease)]
    assert pen.facts == []


def test_the_owner_may_end_his_lease_from_elsewhere(pen):
    one = pen.ask(ram=4, uid=1000)
    other = pen.connect()
    assert pen.release(one, by=other, uid=1000) == [
        do.TellEnded(one.conn, one.lease, "ordered"),
        do.TellReleased(other, 9, one.lease),
    ]
    assert pen.books.ended[one.lease].by_uid == 1000


def test_root_may_end_any_lease(pen):
    one = pen.ask(ram=4)
    pen.release(one, by=pen.connect(), uid=0)
    assert pen.state(one) == "ended"


def test_an_operator_may_end_any_lease(play):
    pen = play(Rules(operators=frozenset({7})))
    pen.has("ram", 10)
    one, two = pen.ask(ram=4), pen.ask(ram=4)
    pen.release(one, by=pen.connect(), uid=7)
    pen.release(two, by=pen.connect(), uid=0)
    assert (pen.state(one), pen.state(two)) == ("ended", "live")


def test_a_stranger_may_not(pen):
    one = pen.ask(ram=4)
    pen.release(one, by=pen.connect(), uid=1001)
    assert (pen.refusal(), pen.state(one)) == ("not-permitted", "live")


def test_there_must_be_such_a_lease(pen):
    one = pen.ask(ram=4)
    pen.release(one._replace(lease=99))
    assert pen.refusal() == "no-such-lease"


def test_what_another_ended_is_no_lease_any_more(pen):
    one = pen.ask(ram=4)
    pen.release(one)
    pen.release(one, by=pen.connect())
    assert pen.refusal() == "no-such-lease"


def test_what_ended_is_handed_out_once(pen):
    request = pen.ask(ram=1)
    pen.gone(request)
    assert [lease.id for lease in pen.pen.take_ended()] == [request.lease]
    assert pen.pen.take_ended() == []


def test_users_are_called_what_the_shell_calls_them():
    assert Pen().name_of(7) == "user 7"
    assert Pen(name_of=lambda uid: f"no. {uid}").name_of(7) == "no. 7"
