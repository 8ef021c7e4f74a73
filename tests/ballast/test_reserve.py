"""The reserve: last taken, first given up, and in nobody's books."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from holdingpen.ballast.files import HUGE, MEMFD
from holdingpen.ballast.ram import UNIT
from holdingpen.ballast.reserve import SLICE, ReservedBallast
from holdingpen.devices.scripted import ScriptedBallast, ScriptedHost
from holdingpen.errors import Refusal

from .conftest import open_kind
from .test_lending import punch

#: What the ballast proper is to be, and the reserve.
HOLD, WANTED = 8 * UNIT, 3 * UNIT


def always(step: int) -> bool:
    return True


def never(step: int) -> bool:
    return False


@pytest.fixture(params=[HUGE, MEMFD, "scripted"])
def ballast(request: pytest.FixtureRequest) -> Iterator[ReservedBallast]:
    with closing(ReservedBallast(open_kind(request.param))) as ballast:
        ballast.resize(HOLD, WANTED)
        yield ballast


@pytest.fixture
def full(ballast: ReservedBallast) -> ReservedBallast:
    """One that is complete, with its reserve."""
    ballast.take(HOLD, always)
    return ballast


def lease(ballast: ReservedBallast, amount: int) -> None:
    """Lease 1 draws `amount`, and all of it goes to its program."""
    assert ballast.keep(1, amount) == amount
    assert ballast.give(1, amount) == amount


def test_it_is_taken_once_the_ballast_proper_is_complete(
    ballast: ReservedBallast,
) -> None:
    ballast.take(HOLD - UNIT, always)
    assert ballast.reserve == 0
    ballast.take(UNIT, always)
    assert ballast.reserve == WANTED


def test_neither_held_nor_kept_shows_it(full: ReservedBallast) -> None:
    assert (full.held, full.kept) == (HOLD, {})
    full.keep(1, UNIT)
    assert (full.held, full.kept) == (HOLD - UNIT, {1: UNIT})


def test_what_leases_drew_is_not_lacking(full: ReservedBallast) -> None:
    lease(full, HOLD)
    full.make_good(2 * UNIT)
    full.top_up(always)
    assert full.reserve == WANTED


def test_what_a_lease_left_behind_is_lacking_until_it_is_taken_anew(
    full: ReservedBallast,
) -> None:
    lease(full, 3 * UNIT)
    full.make_good(2 * UNIT)
    assert full.back(1) == 0
    full.top_up(always)
    assert full.reserve == UNIT
    full.take(3 * UNIT, always)
    assert full.reserve == WANTED


def test_what_a_lease_gave_back_before_its_end_is_lacking_or_held(
    full: ReservedBallast,
) -> None:
    full.keep(1, 4 * UNIT)
    full.give(1, 2 * UNIT)
    assert full.back(1, UNIT) == UNIT
    full.make_good(UNIT)
    full.top_up(always)
    assert full.reserve == WANTED
    assert full.back(1) == UNIT
    full.make_good(UNIT)
    full.top_up(always)
    assert full.reserve == WANTED - UNIT


def test_while_what_was_lent_is_in_use_it_is_not_lacking(full: ReservedBallast) -> None:
    full.keep(1, HOLD)
    pieces = full.lend(1, HOLD, never)
    assert full.back(1) is None
    full.make_good(UNIT)
    full.top_up(always)
    assert full.reserve == WANTED
    for piece in pieces:
        os.close(piece.fd)
    assert full.back(1) == HOLD


def test_what_was_dropped_is_lacking(full: ReservedBallast) -> None:
    """For whom it was dropped nobody knows here."""
    full.drop(UNIT)
    full.make_good(UNIT)
    full.top_up(always)
    assert full.reserve == WANTED - UNIT


def test_it_is_taken_no_further_than_the_guard_says(ballast: ReservedBallast) -> None:
    answers = iter([True, False])
    ballast.take(HOLD, lambda step: next(answers))
    assert (ballast.held, ballast.reserve) == (HOLD, 0)
    asked: list[int] = []
    ballast.top_up(lambda step: bool(asked.append(step)))
    assert (asked, ballast.reserve) == ([WANTED], 0)


def test_a_request_waits_for_one_slice_of_it_at_most() -> None:
    with closing(ReservedBallast(ScriptedBallast(ScriptedHost()))) as ballast:
        ballast.resize(0, 2 * SLICE + UNIT)
        sizes = []
        for _ in range(4):
            ballast.top_up(always)
            sizes.append(ballast.reserve)
    assert sizes == [SLICE, 2 * SLICE, 2 * SLICE + UNIT, 2 * SLICE + UNIT]


@pytest.mark.parametrize(
    ("amount", "units"), [(0, 0), (1, 1), (UNIT + 1, 2), (9 * UNIT, 3)]
)
def test_making_good_frees_that_much_or_all(
    full: ReservedBallast, amount: int, units: int
) -> None:
    assert full.make_good(amount) == units * UNIT
    assert full.reserve == WANTED - units * UNIT
    assert full.held == HOLD


def test_out_of_nothing_nothing_is_made_good(ballast: ReservedBallast) -> None:
    ballast.take(HOLD - UNIT, always)
    assert ballast.make_good(UNIT) == 0
    assert ballast.held == HOLD - UNIT


def test_it_is_lent_to_nobody(full: ReservedBallast) -> None:
    full.keep(1, HOLD)
    with pytest.raises(Refusal):
        full.lend(1, HOLD + UNIT, never)
    assert full.reserve == WANTED


@pytest.mark.parametrize("pressed", [False, True])
def test_under_pressure_it_goes_before_the_ballast(pressed: bool) -> None:
    host = ScriptedHost()
    with closing(ReservedBallast(ScriptedBallast(host), lambda: pressed)) as ballast:
        ballast.resize(HOLD, WANTED)
        ballast.take(HOLD, always)
        assert ballast.drop(UNIT) == UNIT
        assert ballast.held == HOLD - UNIT
        assert ballast.reserve == (0 if pressed else WANTED)


def test_given_up_it_comes_again(full: ReservedBallast) -> None:
    full.give_up()
    assert (full.reserve, full.held) == (0, HOLD)
    full.top_up(always)
    assert full.reserve == WANTED


@pytest.mark.parametrize("units", [0, 1, 3, 5])
def test_with_another_size_it_has_that_after_the_next_top_up(
    full: ReservedBallast, units: int
) -> None:
    full.resize(HOLD, units * UNIT + 1)
    full.top_up(always)
    assert (full.wanted, full.reserve) == (units * UNIT, units * UNIT)
    assert full.held == HOLD


def test_closing_gives_it_back_too() -> None:
    host = ScriptedHost()
    ballast = ReservedBallast(ScriptedBallast(host))
    ballast.resize(HOLD, WANTED)
    ballast.take(HOLD, always)
    assert host.ballast == HOLD + WANTED
    ballast.close()
    assert host.ballast == 0
    ballast.top_up(always)
    assert (host.ballast, ballast.make_good(UNIT)) == (0, 0)


def test_bytes_that_filled_a_clients_holes_are_not_occupied_beside_the_books() -> None:
    """A file with holes is filled first, and is nobody's until it is whole."""
    inner = open_kind(MEMFD)
    with closing(ReservedBallast(inner)) as ballast:
        ballast.resize(0, 0)
        ballast.take(8 * UNIT, always)
        ballast.keep(1, 4 * UNIT)
        (piece,) = ballast.lend(1, 4 * UNIT, always)
        punch(piece.fd, 0, 3 * UNIT)
        os.close(piece.fd)
        assert ballast.back(1) == UNIT
        ballast.keep(2, 4 * UNIT)
        ballast.resize(0, 2 * UNIT)
        ballast.top_up(always)
        assert ballast.reserve == 0
        assert ballast.held <= UNIT
        ballast.top_up(always)
        assert ballast.reserve == 2 * UNIT
