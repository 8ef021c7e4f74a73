"""What follows from an ask."""

import pytest

from holdingpen.core.facts import Ask, Moment, Who
from holdingpen.core.leases import LIVE, Lease, needs_of
from holdingpen.core.resources import MACHINE_UNITS


def lease(granted=None, **asked):
    ask = Ask(1, 1, Who(1, 1, 1), **{"amounts": {"ram": 1}, **asked})
    return Lease(1, ask, needs_of(ask), LIVE, Moment(5, 1005), granted)


def test_every_lease_holds_a_share_of_the_machine():
    assert lease().needs == {"ram": 1, "machine": 1}
    assert lease(amounts={}).needs == {"machine": 1}


def test_an_exclusive_one_holds_all_of_it():
    one = lease(amounts={"machine": 1, "cpu": 2})
    assert one.needs == {"machine": MACHINE_UNITS, "cpu": 2}
    assert one.exclusive
    assert not lease().exclusive


@pytest.mark.parametrize(
    ("granted", "length_s", "end_s"),
    [(None, 5.0, None), (Moment(7, 1007), None, None), (Moment(7, 1007), 5.0, 12.0)],
)
def test_an_end_is_known_of_who_started_and_said_how_long(granted, length_s, end_s):
    assert lease(granted, length_s=length_s).known_end_s == end_s


@pytest.mark.parametrize(
    ("lasts_s", "starts_wall_s", "granted", "begins_wall_s"),
    [
        (None, None, Moment(7, 1007), None),
        (60.0, None, None, None),
        (60.0, None, Moment(7, 1007), 1007),
        (60.0, 1010.0, Moment(7, 1007), 1010.0),
    ],
)
def test_a_reservation_begins_at_its_date_or_when_it_became_live(
    lasts_s, starts_wall_s, granted, begins_wall_s
):
    one = lease(granted, lasts_s=lasts_s)
    one.starts_wall_s = starts_wall_s
    assert one.begins_wall_s == begins_wall_s


@pytest.mark.parametrize(
    ("until_wall_s", "wall_s"), [(None, 1007), (1010.0, 1007), (1006.0, 1006.0)]
)
def test_what_ended_while_nobody_was_there_ended_at_its_date(until_wall_s, wall_s):
    one = lease()
    one.until_wall_s = until_wall_s
    assert one.by_its_date(Moment(7, 1007)) == Moment(7, wall_s)
