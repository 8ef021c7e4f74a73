"""What is held back reaches the one it was held for, and comes back."""

from __future__ import annotations

import pytest

from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.handover import AS_IS, Choice
from holdingpen.core.leases import Why
from holdingpen.core.rights import Rules

CHOICES = {
    "ram": {
        AS_IS: Choice("paced", "no groups"),
        "program": Choice("group"),
        "descriptor": Choice("pieces"),
        "steps": Choice("steps", "in steps"),
    },
    "disk.a": {AS_IS: Choice("image"), "descriptor": Choice("file")},
}
PIECES = {"ram": "descriptor"}


@pytest.fixture
def held(play):
    """A pen with 10 bytes of ram, 6 of them ballast in units of 2."""
    pen = play(Rules(handover=CHOICES))
    pen.has("ram", 10, hold=6, unit=2, measured=True)
    pen.fill()
    return pen


@pytest.fixture
def disk(play):
    """A pen with a disk of 10 bytes, 6 of them ballast."""
    pen = play(Rules(handover=CHOICES))
    pen.has("disk.a", 10, hold=6)
    pen.fill()
    return pen


def granted(pen, **asked):
    request = pen.ask(**asked)
    pen.dropped()
    assert pen.state(request) == "live"
    return request


def test_what_is_paced_stays_kept_and_is_granted_when_ready(held):
    one = held.ask(ram=4)
    who = held.books.leases[one.lease].ask.who
    assert held.effects == [do.Prepare("ram", 4, one.lease, "paced", 4, who)]
    assert held.state(one) == "promised"
    (told,) = held.said(do.TellGranted, held.dropped())
    assert (told.handover, told.bound, told.why) == ("bounded", 8 * 2**20, "no groups")
    assert (held.ledger().held, held.ledger().leased) == (2, 4)


def test_what_is_kept_for_a_lease_is_no_foreign_use(held):
    one = granted(held, ram=4)
    held.measured()
    assert (held.ledger().foreign, held.ledger().settling) == (0, 0)
    held.given(one, 2)
    held.measured(used={one.lease: 2})
    assert held.ledger().foreign == 0
    held.measured(used={one.lease: 2}, outside=1)
    assert held.ledger().foreign == 1


def test_the_end_of_a_lease_wants_back_what_is_kept(held):
    one = granted(held, ram=4)
    held.given(one, 2)
    assert do.TakeBack("ram", one.lease) in held.gone(one)
    assert (held.ledger().held, held.ledger().settling) == (2, 4)
    assert held.takes == []
    held.back()
    assert (held.ledger().held, held.ledger().settling) == (4, 2)
    # the rest settles, but something else is free
    assert held.takes == [do.TakeBallast("ram", 2)]
    held.taken()
    assert held.ledger().held == 6


def test_what_is_to_come_back_is_not_taken_anew(held):
    """Else there would be twice as much ballast for a moment."""
    one = granted(held, ram=6)
    held.gone(one)
    held.measured()
    assert held.ledger().settling == 6, "it is occupied for a lease that is over"
    assert held.takes == []
    held.back()
    assert (held.ledger().held, held.takes) == (6, [])


def test_what_is_to_come_back_is_known_to_a_snapshot(held):
    """The player replays one when a test is over."""
    held.has("disk.a", 10, hold=4)
    held.fill()
    one = held.ask(**{"ram": 4, "disk.a": 2})
    held.dropped()
    held.dropped()
    held.gone(one)
    assert held.books.coming == {one.lease: {"ram": 4, "disk.a": 2}}
    held.back()
    assert len(held.books.coming[one.lease]) == 1


def test_what_does_not_come_back_in_time_is_foreign_and_taken_from_elsewhere(held):
    """A grandchild keeps the memory of a lease that is over."""
    one = granted(held, ram=4, wishes=PIECES)
    held.gone(one)
    held.play(ev.BallastBack(held.at, one.lease, "ram", 0))
    held.sleep(11)
    held.measured()
    assert (held.ledger().foreign, held.ledger().held) == (4, 2)
    held.fill()
    assert held.ledger().held == 6
    held.measured()
    # it is over at last: now there is more ballast than is wanted
    effects = held.back()
    assert do.DropBallast("ram", 4, 0) in effects
    assert (held.ledger().held, held.ledger().foreign) == (6, 0)


def test_whoever_waits_gets_what_came_back(held):
    one = granted(held, ram=6)
    two = held.ask(ram=10)
    held.gone(one)
    assert held.state(two) == "waiting"
    held.back()
    assert held.state(two) == "promised"


def test_a_lease_may_end_before_it_is_ready(held):
    one = held.ask(ram=4)
    held.gone(one)
    held.dropped()
    held.back()
    assert (held.ledger().held, held.ledger().settling) == (6, 0)


def test_what_cannot_be_made_ready_is_refused_with_its_reason(held):
    one = held.ask(ram=4, wishes={"ram": "program"})
    effects = held.dropped(problem="no group: read-only.")
    (told,) = held.said(do.TellRefused, effects)
    assert (told.code, told.message) == ("not-now", "no group: read-only.")
    assert held.books.ended[one.lease].why == Why.FAILED
    held.back()
    assert (held.ledger().held, held.ledger().leased) == (6, 0)


def test_what_is_handed_over_less_surely_after_all_is_told_so(held):
    one = held.ask(ram=4, wishes={"ram": "program"})
    (told,) = held.said(do.TellGranted, held.dropped(how="paced", why="no room."))
    assert (told.handover, told.bound, told.why) == ("bounded", 8 * 2**20, "no room.")
    held.shrink(one, ram=2)
    assert held.said(do.TellShrunk), "it is in one piece no more"


def test_a_part_given_back_is_ballast_again(held):
    one = granted(held, ram=6)
    assert do.TakeBack("ram", one.lease, 4) in held.shrink(one, ram=4)
    held._occupied["ram"] += 4
    held.kept["ram", one.lease] -= 4
    held.play(ev.BallastBack(held.at, one.lease, "ram", 4, part=True))
    assert (held.ledger().held, held.ledger().settling) == (4, 0)
    assert held.ledger().leased == 2


def test_a_part_that_comes_back_after_the_end_settles_not_the_whole(held):
    one = granted(held, ram=6)
    held.shrink(one, ram=4)
    held.gone(one)
    held._occupied["ram"] += 4
    held.kept["ram", one.lease] -= 4
    held.play(ev.BallastBack(held.at, one.lease, "ram", 4, part=True))
    assert held.books.coming == {one.lease: {"ram": 2}}
    held.back()
    assert held.books.coming == {}


def test_pressure_many_times_a_second_is_written_down_once(soft):
    for _ in range(100):
        soft.play(ev.Pressed(soft.at, "ram"))
        soft.now_s += 0.005
    assert [type(x).__name__ for x in soft.log].count("Taken") < 80


@pytest.mark.parametrize("wish", ["program", "descriptor"])
def test_what_is_in_one_piece_gives_no_part_back(held, wish):
    one = granted(held, ram=6, wishes={"ram": wish})
    held.shrink(one, ram=2)
    assert held.refusal() == "bad-amount"


def test_files_are_passed_to_whoever_asked_for_them(held):
    one = granted(held, ram=5, wishes=PIECES)
    held.play(ev.FetchAsked(held.at, one.conn, 2, one.lease, "ram"))
    assert held.effects == [
        do.Lend(one.conn, 2, one.lease, "ram", 5, 1000, 0, exact=True),
    ]


def test_files_for_which_nothing_was_held_back_are_no_exact_ones(held):
    one = granted(held, ram=8, wishes=PIECES)
    held.play(ev.FetchAsked(held.at, one.conn, 2, one.lease, "ram", 3))
    assert held.effects == [
        do.Lend(one.conn, 2, one.lease, "ram", 8, 1000, 3, exact=False),
    ]


@pytest.mark.parametrize(
    ("wishes", "conn", "lease", "resource", "first", "code"),
    [
        ({}, 0, 0, "ram", 0, "bad-request"),
        ({"ram": "steps"}, 0, 0, "ram", 0, "bad-request"),
        (PIECES, 1, 0, "ram", 0, "no-such-lease"),
        (PIECES, 0, 1, "ram", 0, "no-such-lease"),
        (PIECES, 0, 0, "disk.a", 0, "bad-request"),
        (PIECES, 0, 0, "ram", -1, "bad-request"),
    ],
)
def test_files_are_refused_to_everybody_else(
    held, wishes, conn, lease, resource, first, code
):
    one = granted(held, ram=4, wishes=wishes)
    held.play(
        ev.FetchAsked(held.at, one.conn + conn, 2, one.lease + lease, resource, first)
    )
    assert held.refusal() == code


def test_files_of_a_promise_are_not_passed_yet(held):
    one = held.ask(ram=4, wishes=PIECES)
    held.play(ev.FetchAsked(held.at, one.conn, 2, one.lease, "ram"))
    assert held.refusal() == "no-such-lease"


def test_a_step_is_freed_when_its_client_says_so(held):
    one = granted(held, ram=4, wishes={"ram": "steps"})
    held.play(ev.StepAsked(held.at, one.conn, 2, one.lease, "ram", 2))
    assert held.effects == [do.GiveStep(one.conn, 2, one.lease, "ram", 2)]


@pytest.mark.parametrize(
    ("wishes", "conn", "amount", "code"),
    [
        ({"ram": "steps"}, 0, 0, "bad-amount"),
        ({"ram": "steps"}, 0, 2**63, "bad-amount"),
        ({"ram": "steps"}, 1, 2, "no-such-lease"),
        ({}, 0, 2, "bad-request"),
    ],
)
def test_a_step_is_refused_to_everybody_else(held, wishes, conn, amount, code):
    one = granted(held, ram=4, wishes=wishes)
    held.play(ev.StepAsked(held.at, one.conn + conn, 2, one.lease, "ram", amount))
    assert held.refusal() == code


def test_the_file_of_the_only_disk_may_be_asked_for_as_disk(disk):
    one = granted(disk, disk=4, wishes={"disk": "descriptor"})
    disk.play(ev.FetchAsked(disk.at, one.conn, 2, one.lease, "disk"))
    assert disk.effects == [do.Lend(one.conn, 2, one.lease, "disk.a", 4, 1000)]


def test_a_directory_is_told_with_the_grant_and_again(disk):
    one = disk.ask(**{"disk.a": 4})
    effects = disk.dropped(place="/scratch/1")
    (told,) = disk.said(do.TellGranted, effects)
    assert (told.places, told.handover) == ({"disk.a": "/scratch/1"}, "exact")
    (told,) = disk.said(do.TellGranted, disk.again(one, **{"disk.a": 4}))
    assert told.places == {"disk.a": "/scratch/1"}


def test_a_disk_is_made_ready_even_without_ballast(disk):
    one = granted(disk, **{"disk.a": 6})
    two = disk.ask(**{"disk.a": 4})
    assert [x.amount for x in disk.said(do.Prepare)] == [0]
    disk.dropped(place="/scratch/2")
    assert (disk.state(one), disk.state(two)) == ("live", "live")


@pytest.mark.parametrize(
    ("disks", "asked", "state"),
    [
        (("disk.a",), {"disk": 4}, "promised"),
        (("disk.a", "disk.b"), {"disk": 4}, "refused"),
        (("disk.a",), {"disk": 4, "disk.a": 2}, "refused"),
        ((), {"disk": 4}, "refused"),
    ],
)
def test_disk_alone_means_the_only_one(play, disks, asked, state):
    pen = play(Rules(handover=CHOICES))
    for name in disks:
        pen.has(name, 10)
    one = pen.ask(amounts=asked, wishes={"disk": "descriptor"})
    assert pen.state(one) == state
    if state == "promised":
        assert pen.books.leases[one.lease].how == {"disk.a": "file"}


def test_two_resources_are_both_made_ready_before_the_grant(held):
    held.has("disk.a", 10)
    one = held.ask(**{"disk.a": 4, "ram": 2})
    held.dropped(which=1)
    assert held.state(one) == "promised"
    held.dropped(place="/scratch/1")
    assert held.state(one) == "live"


def test_a_wish_nobody_can_meet_is_refused(held):
    held.has("cpu", 4)
    held.ask(cpu=1, wishes={"cpu": "descriptor"})
    assert held.refusal() == "bad-request"


def test_a_restart_owes_nothing(held):
    one = granted(held, ram=4)
    held.gone(one)
    held.restart()
    assert (held.books.coming, held.ledger().drawn) == ({}, 0)
    held.fill()
    assert held.ledger().held == 6


# Pressure.

GIB = 2**30


@pytest.fixture
def soft(play):
    """A pen whose 4 GiB of ballast are given up under pressure."""
    pen = play(Rules(handover=CHOICES, yields=frozenset({"ram"})))
    pen.has("ram", 10 * GIB, hold=4 * GIB, unit=2 * 2**20)
    pen.fill()
    return pen


def test_under_pressure_a_quarter_of_the_ballast_is_given_up_and_it_is_said(soft):
    effects = soft.play(ev.Pressed(soft.at, "ram"))
    assert do.DropBallast("ram", GIB, 0) in effects
    (note,) = soft.said(do.Note)
    assert note.text == (
        "programs wait for memory: gave 1.0 GiB ram of the ballast up, "
        "3.0 GiB are left."
    )
    assert soft.takes == [], "and it is not taken back at once"


def test_the_last_of_it_goes_together(soft):
    for _ in range(40):
        soft.play(ev.Pressed(soft.at, "ram"))
    assert soft.ledger().held == 0
    soft.play(ev.Pressed(soft.at, "ram"))
    assert soft.said(do.Note) == []


def test_after_a_rest_it_is_taken_again(soft):
    soft.play(ev.Pressed(soft.at, "ram"))
    soft.sleep(29)
    assert soft.takes == []
    soft.sleep(2)
    soft.fill()
    assert soft.ledger().held == 4 * GIB


def test_who_defends_gives_nothing_up(held):
    assert held.play(ev.Pressed(held.at, "ram")) == []
