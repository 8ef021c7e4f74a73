"""What a report counts, and what it does not.

Dates are small numbers: seconds since some begin.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.journal.history import CONNECTION, RESERVATION, Given, Record
from holdingpen.journal.report import Report, ResourceUsage, report
from holdingpen.wire.messages import Usage

ADA, BOB, EVE = 1000, 1001, 1002
GIB = 2**30
ALWAYS = -1e9, 1e9


def held(lease: int, begin: float, end: float, **fields: Any) -> Record:
    """A lease of one `cpu`, asked for when it was granted."""
    return record(
        lease,
        asked_wall_s=begin,
        granted_wall_s=begin,
        ended_wall_s=end,
        held_s=end - begin,
        **fields,
    )


def record(lease: int, **fields: Any) -> Record:
    usual: dict[str, Any] = {
        "uid": ADA,
        "kind": CONNECTION,
        "amounts": {"cpu": 1},
        "priority": 0,
        "label": "",
        "reason": "",
        "command": "matlab",
        "asked_wall_s": 0.0,
        "granted_wall_s": None,
        "ended_wall_s": 0.0,
        "why": "gone",
        "by_uid": None,
        "inside": 0,
        "handover": "none",
        "held_s": 0.0,
        "waited_s": 0.0,
    }
    return Record(lease, **(usual | fields))


def test_nobody_used_anything() -> None:
    assert report([], 0, 10) == Report(0, 10, [], Usage(None), [])


@pytest.mark.parametrize(
    ("begin", "end", "used", "leases"),
    [
        (120, 150, 30, 1),  # all of it
        (100, 200, 100, 1),  # just the window
        (50, 130, 30, 1),  # began before
        (170, 250, 30, 1),  # ended after
        (50, 250, 100, 1),  # before and after
        (0, 90, 0, 0),  # over before
        (0, 100, 0, 0),  # over when the window begins
        (200, 300, 0, 0),  # began when the window was over
        (250, 300, 0, 0),  # after
        (150, 150, 0, 1),  # held for no time
        (100, 100, 0, 1),  # the same at the first moment
        (200, 200, 0, 0),  # and at the last, which is not in the window
    ],
)
def test_only_what_lies_inside_the_window_counts(
    begin: float, end: float, used: float, leases: int
) -> None:
    found = report([held(1, begin, end, amounts={"ram": 3})], 100, 200).total
    assert found.used == ({"ram": 3.0 * used} if used else {})
    assert found.leases == leases


@pytest.mark.parametrize(("since", "until"), [(100, 100), (200, 100)])
def test_a_window_that_ends_before_it_begins_is_empty(
    since: float, until: float
) -> None:
    everything = [held(1, 0, 300), record(2, asked_wall_s=100)]
    assert report(everything, since, until).users == []


def test_a_set_clock_does_not_spoil_hours() -> None:
    """An hour long, and the clock was set two hours back meanwhile."""
    stepped = record(
        1,
        asked_wall_s=10_000.0,
        granted_wall_s=10_000.0,
        ended_wall_s=6_400.0,
        held_s=3_600.0,
    )
    assert report([stepped], *ALWAYS).total.used == {"cpu": 3_600.0}
    assert report([stepped], 2_800, 4_600).total.used == {"cpu": 1_800.0}
    assert report([stepped], 6_400, 20_000).total.used == {}


def test_a_part_that_was_given_back_counts_until_then() -> None:
    shrunk = held(
        1,
        100,
        200,
        amounts={"ram": 10, "cpu": 2},
        given_back=[Given(20.0, {"ram": 4}), Given(50.0, {"ram": 6})],
    )
    assert report([shrunk], *ALWAYS).total.used == {
        "ram": 10.0 * 20 + 6 * 30,
        "cpu": 200.0,
    }
    assert report([shrunk], 140, 150).total.used == {"ram": 6.0 * 10, "cpu": 20.0}
    assert report([shrunk], 150, 200).total.used == {"cpu": 100.0}


def test_a_lease_inside_a_reservation_is_not_charged_twice() -> None:
    """The class's reservation is its teacher's, whoever of the class uses it."""
    reservation = held(1, 0, 100, kind=RESERVATION, amounts={"ram": 8}, uid=ADA)
    drawn = held(2, 10, 60, inside=1, amounts={"ram": 8}, uid=BOB)
    found = report([reservation, drawn], *ALWAYS)
    assert [
        Usage(ADA, {"ram": 800.0}, {"ram": 1.0}, reservations=1, granted=1),
        Usage(BOB, leases=1, granted=1),
    ] == found.users
    assert [ResourceUsage("ram", 800.0, 1, [ADA])] == found.resources


def test_what_a_lease_inside_has_from_the_machine_is_charged() -> None:
    """The reservation is of GPUs only; memory comes from where all have it."""
    drawn = held(
        2,
        0,
        10,
        inside=1,
        amounts={"gpu": 1, "ram": 8},
        beside=["ram"],
        given_back=[Given(5.0, {"gpu": 1, "ram": 8})],
    )
    assert report([drawn], *ALWAYS).total.used == {"ram": 40.0}


def test_waits_are_of_those_asked_in_the_window_and_granted() -> None:
    asked = [
        record(1, asked_wall_s=5.0, granted_wall_s=10.0, ended_wall_s=20, waited_s=5),
        record(2, asked_wall_s=10.0, granted_wall_s=12.0, ended_wall_s=20, waited_s=2),
        record(3, asked_wall_s=11.0, granted_wall_s=19.0, ended_wall_s=20, waited_s=8),
        record(4, asked_wall_s=12.0, ended_wall_s=40.0, waited_s=28, why="wait-over"),
        record(5, asked_wall_s=20.0, granted_wall_s=30.0, ended_wall_s=40, waited_s=9),
        record(6, asked_wall_s=19.0, granted_wall_s=30.0, ended_wall_s=40, waited_s=11),
    ]
    found = report(asked, 10, 20).total
    assert (found.granted, found.left) == (3, 1)
    assert (found.waited_mean_s, found.waited_max_s) == (7.0, 11.0)


def test_who_stands_in_the_line_has_neither_left_it_nor_been_granted() -> None:
    waiting = record(1, asked_wall_s=5.0, ended_wall_s=9.0, why="", waited_s=4.0)
    assert [Usage(ADA)] == report([], 0, 10, [waiting]).users


def test_what_goes_on_counts_up_to_now() -> None:
    running = held(1, 0, 70, why="")
    assert report([], 50, 70, [running]).total.used == {"cpu": 20.0}


def test_what_ended_while_the_report_was_asked_for_counts_once() -> None:
    """It went to the history after the daemon had put down that it goes on."""
    found = report([held(1, 0, 75), held(2, 0, 10)], 0, 80, [held(1, 0, 70, why="")])
    assert found.total.used == {"cpu": 80.0}
    assert found.total.leases == 2


def test_who_used_the_greater_part_comes_first() -> None:
    """Bytes do not outweigh devices: it is the shares that are added up."""
    found = report(
        [
            held(1, 0, 10, uid=ADA, amounts={"ram": 3 * GIB, "gpu": 1}),
            held(2, 0, 10, uid=BOB, amounts={"ram": 1 * GIB, "gpu": 3}),
            held(3, 0, 10, uid=BOB, amounts={"gpu": 4}),
            record(4, uid=EVE, why="released"),
        ],
        0,
        10,
    )
    assert [user.uid for user in found.users] == [BOB, ADA, EVE]
    assert [user.share for user in found.users] == [
        {"ram": 0.25, "gpu": 7 / 8},
        {"ram": 0.75, "gpu": 1 / 8},
        {},
    ]
    assert found.total == Usage(
        None,
        {"ram": 40.0 * GIB, "gpu": 80.0},
        {"ram": 1.0, "gpu": 1.0},
        leases=3,
        granted=3,
        left=1,
    )
    assert found.resources == [
        ResourceUsage("gpu", 80.0, 3, [BOB, ADA]),
        ResourceUsage("ram", 40.0 * GIB, 2, [ADA, BOB]),
    ]


def test_equal_users_are_in_the_order_of_their_ids() -> None:
    found = report([held(n, 0, 1, uid=n) for n in (7, 3, 5)], 0, 1)
    assert [user.uid for user in found.users] == [3, 5, 7]
    assert found.resources[0].users == [3, 5, 7]


def test_a_report_goes_into_a_message_and_comes_out_the_same() -> None:
    made = report([held(1, 0, 10, amounts={"ram": 2**40})], *ALWAYS)
    sent = msgspec.msgpack.encode(made)
    assert made == msgspec.msgpack.decode(sent, type=Report)


DATES = st.integers(0, 1000).map(float)


@st.composite
def leases(draw: st.DrawFn, lease: int) -> Record:
    """A lease or place in the line, on a machine whose clock may be set."""
    asked, ended, held_s = draw(DATES), draw(DATES), draw(DATES)
    granted = draw(st.none() | DATES)
    amounts = draw(st.dictionaries(st.sampled_from("abc"), st.integers(1, 9)))
    back = [
        Given(draw(DATES), {name: draw(st.integers(1, n))})
        for name, n in amounts.items()
        if draw(st.booleans())
    ]
    return record(
        lease,
        uid=draw(st.integers(1, 3)),
        kind=draw(st.sampled_from([CONNECTION, RESERVATION])),
        amounts=amounts,
        asked_wall_s=asked,
        granted_wall_s=granted,
        ended_wall_s=ended,
        held_s=0.0 if granted is None else held_s,
        waited_s=draw(DATES),
        why=draw(st.sampled_from(["", "gone"])),
        inside=draw(st.integers(0, 1)),
        given_back=back,
        beside=[name for name in amounts if draw(st.booleans())],
    )


HISTORIES = st.integers(0, 8).flatmap(
    lambda n: st.tuples(*[leases(lease) for lease in range(n)])
)


def charged(one: Record) -> dict[str, float]:
    """What a lease is charged in all: second by second, as nobody would count it."""
    sums: dict[str, float] = {}
    for name in one.amounts:
        if one.inside and name not in one.beside:
            continue
        for second in range(int(one.held_s)):
            there = one.amounts[name]
            for back in one.given_back:
                if second >= back.after_s:
                    there -= back.amounts.get(name, 0)
            sums[name] = sums.get(name, 0.0) + there
    return {name: used for name, used in sums.items() if used}


@pytest.mark.slow
@given(HISTORIES)
def test_a_window_of_all_times_has_every_second_of_every_lease(
    history: tuple[Record, ...],
) -> None:
    expected: dict[str, float] = {}
    for one in history:
        for name, used in charged(one).items():
            expected[name] = expected.get(name, 0.0) + used
    assert pytest.approx(expected) == report(history, *ALWAYS).total.used


@pytest.mark.slow
@given(HISTORIES, st.tuples(DATES, DATES, DATES).map(sorted))
def test_two_windows_make_one(history: tuple[Record, ...], dates: list[float]) -> None:
    begin, middle, end = dates
    whole = report(history, begin, end)
    parts = [report(history, begin, middle), report(history, middle, end)]
    assert added(parts) == pytest.approx(amounts_of(whole))
    for name in ("granted", "left"):
        assert getattr(whole.total, name) == sum(
            getattr(part.total, name) for part in parts
        )
    for name in ("leases", "reservations"):
        each = [getattr(part.total, name) for part in parts]
        assert max(each) <= getattr(whole.total, name) <= sum(each)


def amounts_of(found: Report) -> dict[tuple[int | None, str], float]:
    return {
        (user.uid, name): used
        for user in [*found.users, found.total]
        for name, used in user.used.items()
    }


def added(parts: list[Report]) -> dict[tuple[int | None, str], float]:
    sums: dict[tuple[int | None, str], float] = {}
    for part in parts:
        for key, used in amounts_of(part).items():
            sums[key] = sums.get(key, 0.0) + used
    return sums


@pytest.mark.slow
@given(HISTORIES, st.tuples(DATES, DATES).map(sorted))
def test_the_users_make_the_total(
    history: tuple[Record, ...], dates: list[float]
) -> None:
    since, until = dates
    found = report(history, since, until)
    assert len({user.uid for user in found.users}) == len(found.users)
    for name in ("leases", "reservations", "granted", "left"):
        assert getattr(found.total, name) == sum(
            getattr(user, name) for user in found.users
        )
    assert found.total.waited_mean_s * found.total.granted == pytest.approx(
        sum(user.waited_mean_s * user.granted for user in found.users)
    )
    assert found.total.waited_max_s == max(
        (user.waited_max_s for user in found.users), default=0.0
    )
    for row in found.resources:
        users = [user for user in found.users if row.resource in user.used]
        assert set(row.users) == {user.uid for user in users}
        assert len(row.users) == len(users)
        assert row.used == pytest.approx(sum(u.used[row.resource] for u in users))
        assert sum(user.share[row.resource] for user in users) == pytest.approx(1.0)
