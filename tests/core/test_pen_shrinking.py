"""A part of a lease given back: booked, measured, served to the line, never twice."""

import pytest

from holdingpen.core import effects as do
from holdingpen.core import facts as fact
from holdingpen.journal.replay import replay, snapshot

NOTHING_HELD = "nothing was held back"


@pytest.fixture
def lease(pen):
    """Eight of ten bytes."""
    return pen.ask(ram=8)


@pytest.fixture
def ballasted(play):
    """A pen of 20 bytes with 8 held, in units of 2, that are measured."""
    player = play()
    player.has("ram", 20, 8, 2, measured=True)
    player.fill()
    return player


def amounts(pen, request):
    return pen.books.leases[request.lease].amounts


def test_what_is_given_back_is_free(pen, lease):
    assert pen.shrink(lease, ram=3) == [do.TellShrunk(1, 9, 1, {"ram": 5})]
    assert (pen.ledger().leased, pen.ledger().free) == (5, 5)
    assert amounts(pen, lease) == {"ram": 5}


def test_it_serves_the_line(pen, lease):
    one = pen.ask(ram=4)
    assert pen.state(one) == "waiting"
    pen.shrink(lease, ram=3)
    assert pen.state(one) == "live"


def test_the_end_gives_back_what_is_left(pen, lease):
    pen.shrink(lease, ram=3)
    pen.gone(lease)
    assert (pen.ledger().leased, pen.ledger().free) == (0, 10)


def test_other_resources_stay(pen):
    pen.has("cpu", 4)
    one = pen.ask(ram=8, cpu=2)
    pen.shrink(one, cpu=1)
    assert amounts(pen, one) == {"ram": 8, "cpu": 1}


def test_it_is_asked_for_again_and_again(pen, lease):
    pen.shrink(lease, ram=3, number=2)
    pen.shrink(lease, ram=3, number=3)
    assert amounts(pen, lease) == {"ram": 2}


def test_a_repeated_request_is_answered_and_not_carried_out_twice(pen, lease):
    first = pen.shrink(lease, ram=3)
    assert pen.shrink(lease, ram=3) == first
    assert amounts(pen, lease) == {"ram": 5}


def test_a_repeated_request_is_known_after_a_restart(pen, lease):
    pen.shrink(lease, ram=3)
    pen.restart([lease.conn])
    pen.shrink(lease, ram=3)
    assert amounts(pen, lease) == {"ram": 5}


def test_asked_again_for_the_lease_it_says_what_is_left(pen, lease):
    pen.shrink(lease, ram=3)
    (told,) = pen.again(lease, ram=8)
    assert told == do.TellGranted(1, 1, 1, {"ram": 5}, "best-effort", why=NOTHING_HELD)


# Who and how much.


@pytest.mark.parametrize(
    ("less", "words"),
    [
        ({"ram": 8}, "holds 8 B ram; give back more than 0 and less than that, not 8"),
        ({"ram": 9}, "To give all back, release it instead"),
        ({"ram": 0}, "more than 0"),
        ({"ram": -1}, "more than 0"),
        ({}, "give something of lease 1 back"),
        ({"cpu": 1}, "cannot give 'cpu' back; it can give back of: ram"),
        ({"machine": 1}, "cannot give 'machine' back"),
        ({"ram": 1, "cpu": 1}, "cannot give 'cpu' back"),
    ],
)
def test_what_it_does_not_hold_it_cannot_give(pen, lease, less, words):
    (told,) = pen.shrink(lease, **less)
    assert (told.code, words in told.message) == ("bad-amount", True), told.message
    assert amounts(pen, lease) == {"ram": 8}


def test_an_exclusive_lease_has_nothing_else_to_give(pen):
    one = pen.ask(machine=1)
    (told,) = pen.shrink(one, machine=1)
    assert "it can give back of: nothing" in told.message


def test_who_waits_holds_nothing_to_give_back(pen, lease):
    one = pen.ask(ram=8)
    pen.shrink(one, ram=1)
    assert pen.refusal() == "bad-amount"


def test_a_lease_that_is_over_cannot_shrink(pen, lease):
    pen.gone(lease)
    pen.shrink(lease, ram=1)
    assert pen.refusal() == "no-such-lease"


def test_its_owner_may_from_elsewhere_and_the_holder_is_told(pen, lease):
    effects = pen.shrink(lease, by=7, ram=3)
    assert effects == [
        do.TellShrunk(1, 0, 1, {"ram": 5}),
        do.TellShrunk(7, 9, 1, {"ram": 5}),
    ]


@pytest.mark.parametrize("uid", [0, 1001])
def test_nobody_else_may_not_even_root(pen, lease, uid):
    pen.shrink(lease, by=7, uid=uid, ram=3)
    assert pen.refusal() == "not-permitted"


# Ballast and measuring.


def test_it_settles_until_it_is_measured(ballasted):
    one = ballasted.ask(ram=12)
    ballasted.dropped()
    ballasted.measured(used={one.lease: 12})
    ballasted.shrink(one, ram=5)
    assert ballasted.ledger().settling == 5
    ballasted.measured(used={one.lease: 7})
    assert ballasted.ledger().settling == 0


def test_memory_that_was_not_freed_becomes_foreign(ballasted):
    one = ballasted.ask(ram=12)
    ballasted.dropped()
    ballasted.shrink(one, ram=5)
    ballasted.tick(10)
    ballasted.measured(used={one.lease: 12})
    assert (ballasted.ledger().settling, ballasted.ledger().foreign) == (0, 5)


def test_the_ballast_of_what_is_given_back_is_taken_again(ballasted):
    one = ballasted.ask(ram=8)
    ballasted.dropped()
    assert ballasted.books.leases[one.lease].drawn == {"ram": 8}
    ballasted.shrink(one, ram=3)
    assert ballasted.books.leases[one.lease].drawn == {"ram": 6}
    ballasted.measured(used={one.lease: 5})
    ballasted.fill()
    assert ballasted.ledger().held == 2


def test_a_lease_that_drew_less_than_it_keeps_hands_back_as_much_as_before(ballasted):
    one = ballasted.ask(ram=12)
    ballasted.dropped()
    ballasted.shrink(one, ram=4)
    assert ballasted.books.leases[one.lease].drawn == {"ram": 8}


def test_a_snapshot_has_each_part_with_its_time(ballasted):
    one = ballasted.ask(ram=8)
    ballasted.dropped()
    ballasted.shrink(one, ram=3, number=2)
    ballasted.shrink(one, ram=3, number=3)
    facts = [x for batch in snapshot(ballasted.books) for x in batch]
    parts = [x.amounts for x in facts if isinstance(x, fact.Shrunk)]
    assert parts == [{"ram": 3}, {"ram": 3}]
    assert replay([facts]).leases[one.lease].drawn == {"ram": 2}


def test_a_reservation_keeps_what_it_has(pen):
    reserved = pen.ask(lasts=60.0, ram=6)
    pen.shrink(reserved, ram=2)
    assert pen.refusal() == "bad-amount"
    assert pen.books.leases[reserved.lease].amounts == {"ram": 6}
