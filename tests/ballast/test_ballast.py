"""What every ballast does, the make-believe one too."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable

import pytest

from holdingpen.ballast import BallastLike, Piece
from holdingpen.ballast.ram import STEP, UNIT
from holdingpen.errors import Refusal


def always(step: int) -> bool:
    return True


def never(step: int) -> bool:
    return False


def purses(ballast: BallastLike) -> tuple[int, dict[int, int]]:
    """What is held and what is kept, in units."""
    kept = {lease: n // UNIT for lease, n in ballast.kept.items()}
    return ballast.held // UNIT, kept


def close_all(pieces: Iterable[Piece]) -> int:
    """Do as who was lent them and has ended; return their bytes in units."""
    pieces = list(pieces)
    for piece in pieces:
        os.close(piece.fd)
    return sum(piece.size for piece in pieces) // UNIT


def test_a_new_one_holds_nothing(ballast: BallastLike) -> None:
    assert ballast.held == 0


def test_taking_holds_what_was_asked(ballast: BallastLike) -> None:
    assert ballast.take(64 * 2**20, always) == 64 * 2**20
    assert ballast.held == 64 * 2**20


def test_taking_rounds_down_to_units(ballast: BallastLike) -> None:
    assert ballast.take(2 * UNIT - 1, always) == UNIT
    assert ballast.held == UNIT


def test_taking_less_than_a_unit_takes_nothing(ballast: BallastLike) -> None:
    assert [ballast.take(n, always) for n in (UNIT - 1, 0, -UNIT)] == [0, 0, 0]
    assert ballast.held == 0


def test_the_guard_is_asked_before_each_step_with_its_bytes(
    ballast: BallastLike,
) -> None:
    asked: list[tuple[int, int]] = []

    def may(step: int) -> bool:
        asked.append((step, ballast.held))
        return True

    ballast.take(2 * STEP + UNIT, may)
    assert asked == [(STEP, 0), (STEP, STEP), (UNIT, 2 * STEP)]


def test_the_first_no_ends_the_taking(ballast: BallastLike) -> None:
    answers = iter([True, False, True])
    assert ballast.take(4 * STEP, lambda step: next(answers)) == STEP
    assert ballast.held == STEP


def test_a_no_at_once_takes_nothing(ballast: BallastLike) -> None:
    assert ballast.take(STEP, never) == 0
    assert ballast.held == 0


def test_dropping_gives_back_what_was_asked(ballast: BallastLike) -> None:
    ballast.take(3 * UNIT, always)
    assert ballast.drop(UNIT) == UNIT
    assert ballast.held == 2 * UNIT


def test_dropping_rounds_up_to_units(ballast: BallastLike) -> None:
    """Who was promised a byte gets it."""
    ballast.take(3 * UNIT, always)
    assert ballast.drop(UNIT + 1) == 2 * UNIT
    assert ballast.held == UNIT


def test_dropping_more_than_there_is_gives_back_all(ballast: BallastLike) -> None:
    ballast.take(UNIT, always)
    assert ballast.drop(STEP) == UNIT
    assert (ballast.drop(STEP), ballast.held) == (0, 0)


def test_dropping_nothing_or_less_gives_back_nothing(ballast: BallastLike) -> None:
    ballast.take(UNIT, always)
    assert (ballast.drop(0), ballast.drop(-UNIT)) == (0, 0)
    assert ballast.held == UNIT


def test_what_was_dropped_can_be_taken_again(ballast: BallastLike) -> None:
    for _round in range(3):
        assert ballast.take(STEP, always) == STEP
        assert ballast.drop(STEP) == STEP


def test_a_drop_between_two_steps_of_a_taking_counts(ballast: BallastLike) -> None:
    """A lease is granted while ballast is still being taken back."""
    ballast.take(UNIT, always)
    assert ballast.take(2 * STEP, lambda step: ballast.drop(UNIT) >= 0) == 2 * STEP
    assert ballast.held == 2 * STEP - UNIT


def test_closing_gives_back_all(ballast: BallastLike) -> None:
    ballast.take(STEP, always)
    ballast.close()
    ballast.close()
    assert (ballast.held, ballast.drop(UNIT)) == (0, 0)


def test_it_says_what_it_is(ballast: BallastLike) -> None:
    assert ballast.kind in ("huge tmpfs", "memfd", "scripted")
    assert ballast.why == "" or ballast.why.endswith(".")
    assert ballast.noswap in (True, False)


# Purses.


def test_a_new_one_keeps_nothing(ballast: BallastLike) -> None:
    assert (ballast.kept, ballast.swapped) == ({}, 0)


def test_what_is_kept_is_not_held_and_stays_occupied(ballast: BallastLike) -> None:
    ballast.take(8 * UNIT, always)
    assert ballast.keep(1, 3 * UNIT) == 3 * UNIT
    assert ballast.keep(2, UNIT) == UNIT
    assert ballast.keep(1, UNIT) == UNIT
    assert purses(ballast) == (3, {1: 4, 2: 1})


@pytest.mark.parametrize(
    ("asked", "got"), [(-UNIT, 0), (0, 0), (1, 1), (UNIT + 1, 2), (9 * UNIT, 4)]
)
def test_amounts_are_rounded_up_to_units_and_end_at_all(
    ballast: BallastLike, asked: int, got: int
) -> None:
    ballast.take(4 * UNIT, always)
    assert ballast.keep(1, asked) == got * UNIT
    assert purses(ballast) == (4 - got, {1: got} if got else {})
    assert ballast.back(1) == got * UNIT
    ballast.keep(1, 4 * UNIT)
    assert ballast.back(1, asked) == got * UNIT
    assert purses(ballast) == (got, {1: 4 - got} if got < 4 else {})
    ballast.keep(1, 4 * UNIT)
    assert ballast.give(1, asked) == got * UNIT
    assert purses(ballast) == (0, {1: 4 - got} if got < 4 else {})


def test_a_drop_leaves_what_is_kept(ballast: BallastLike) -> None:
    ballast.take(4 * UNIT, always)
    ballast.keep(1, 3 * UNIT)
    assert ballast.drop(STEP) == UNIT
    assert purses(ballast) == (0, {1: 3})


def test_giving_leaves_what_is_held_and_what_is_kept_for_others(
    ballast: BallastLike,
) -> None:
    ballast.take(4 * UNIT, always)
    ballast.keep(1, UNIT)
    ballast.keep(2, UNIT)
    assert ballast.give(1, STEP) == UNIT
    assert purses(ballast) == (2, {2: 1})


def test_who_has_nothing_gets_nothing_and_that_is_no_error(
    ballast: BallastLike,
) -> None:
    ballast.take(UNIT, always)
    assert (ballast.give(7, UNIT), ballast.back(7), ballast.back(7, UNIT)) == (0, 0, 0)
    assert purses(ballast) == (1, {})


# Lending.


def test_what_is_lent_is_what_was_kept(ballast: BallastLike) -> None:
    """Nothing is asked of the guard: nothing is taken."""
    ballast.take(STEP, always)
    ballast.keep(1, STEP)
    pieces = ballast.lend(1, STEP, never)
    assert purses(ballast) == (0, {1: STEP // UNIT})
    assert close_all(pieces) == STEP // UNIT


@pytest.mark.parametrize("units", [1, 7, 8, 15, 17, 24, 33, 40])
@pytest.mark.parametrize("may", [always, never])
def test_any_part_of_what_is_kept_can_be_lent(
    ballast: BallastLike, units: int, may: object
) -> None:
    """Files of 32 MiB, and a machine that is short or is not."""
    ballast.take(40 * UNIT, always)
    ballast.keep(1, 40 * UNIT)
    pieces = ballast.lend(1, units * UNIT, always if may is always else never)
    assert purses(ballast) == (0, {1: 40})
    for piece in pieces:
        assert os.fstat(piece.fd).st_size >= piece.size
        assert not os.get_inheritable(piece.fd)
    assert close_all(pieces) == units
    assert ballast.back(1) == 40 * UNIT
    assert purses(ballast) == (40, {})


def test_it_is_rounded_up_to_units(ballast: BallastLike) -> None:
    assert close_all(ballast.lend(1, UNIT + 1, always)) == 2


@pytest.mark.parametrize("amount", [0, -UNIT])
def test_nothing_is_lent_as_no_file(ballast: BallastLike, amount: int) -> None:
    assert ballast.lend(1, amount, always) == []
    assert ballast.kept == {}


def test_what_is_lacking_is_taken_anew_and_not_from_what_is_held(
    ballast: BallastLike,
) -> None:
    """What is held is promised to somebody, for all that is known here."""
    ballast.take(5 * UNIT, always)
    ballast.keep(1, 2 * UNIT)
    assert close_all(ballast.lend(1, 20 * UNIT, always)) == 20
    assert purses(ballast) == (3, {1: 20})


@pytest.mark.parametrize("yeses", [0, 1, 2])
def test_without_what_is_lacking_it_is_refused_and_nothing_has_changed(
    ballast: BallastLike, yeses: int
) -> None:
    ballast.take(5 * UNIT, always)
    ballast.keep(1, 2 * UNIT)
    answers = iter([True] * yeses)
    with pytest.raises(Refusal, match="lease 1 now") as refused:
        ballast.lend(1, 40 * UNIT, lambda step: next(answers, False))
    assert refused.value.code == "not-now"
    assert purses(ballast) == (3, {1: 2})
    assert ballast.give(1, STEP) == 2 * UNIT
    assert ballast.drop(STEP) == 3 * UNIT


def test_a_guard_that_breaks_changes_nothing(ballast: BallastLike) -> None:
    with pytest.raises(ZeroDivisionError):
        ballast.lend(1, UNIT, lambda step: step == 1 // 0)
    assert purses(ballast) == (0, {})
    assert close_all(ballast.lend(1, UNIT, always)) == 1


def test_asked_again_it_is_the_same_files(ballast: BallastLike) -> None:
    """The answer was lost, and the client asks once more."""
    first = ballast.lend(1, 20 * UNIT, always)
    again = ballast.lend(1, 20 * UNIT, never)
    same = [[os.fstat(piece.fd).st_ino for piece in these] for these in (first, again)]
    assert same[0] == same[1]
    assert [piece.size for piece in first] == [piece.size for piece in again]
    assert not {piece.fd for piece in first} & {piece.fd for piece in again}
    close_all(first + again)
    assert purses(ballast) == (0, {1: 20})


def test_asked_for_more_it_adds_files(ballast: BallastLike) -> None:
    first = ballast.lend(1, 3 * UNIT, always)
    more = ballast.lend(1, 5 * UNIT, always)
    assert [piece.size for piece in more] == [3 * UNIT, 2 * UNIT]
    assert close_all(first + more) == 3 + 5


def test_what_one_wrote_the_other_reads(ballast: BallastLike) -> None:
    piece = ballast.lend(1, UNIT, always)[0]
    again = ballast.lend(1, UNIT, always)[0]
    with mmap.mmap(piece.fd, piece.size) as one, mmap.mmap(again.fd, UNIT) as other:
        one[UNIT - 1] = 7
        assert other[UNIT - 1] == 7
    close_all([piece, again])


def test_what_is_lent_is_neither_given_nor_dropped(ballast: BallastLike) -> None:
    ballast.take(4 * UNIT, always)
    ballast.keep(1, 3 * UNIT)
    pieces = ballast.lend(1, 2 * UNIT, always)
    assert ballast.give(1, STEP) == UNIT
    assert ballast.drop(STEP) == UNIT
    assert purses(ballast) == (0, {1: 2})
    close_all(pieces)


# And back.


def test_what_is_in_use_does_not_come_back(ballast: BallastLike) -> None:
    ballast.take(3 * UNIT, always)
    ballast.keep(1, 3 * UNIT)
    pieces = ballast.lend(1, 2 * UNIT, always)
    assert ballast.back(1) is None
    assert purses(ballast) == (0, {1: 3})
    close_all(pieces)
    assert ballast.back(1) == 3 * UNIT
    assert purses(ballast) == (3, {})


def test_a_map_is_a_use(ballast: BallastLike) -> None:
    """Who has mapped it needs the descriptor no more."""
    piece = ballast.lend(1, UNIT, always)[0]
    with mmap.mmap(piece.fd, UNIT):
        close_all([piece])
        assert ballast.back(1) is None
    assert ballast.back(1) == UNIT


def test_a_part_comes_back_of_what_is_not_lent(ballast: BallastLike) -> None:
    ballast.take(5 * UNIT, always)
    ballast.keep(1, 5 * UNIT)
    pieces = ballast.lend(1, 2 * UNIT, always)
    assert ballast.back(1, 2 * UNIT) == 2 * UNIT
    assert ballast.back(1, 2 * UNIT) == UNIT
    assert ballast.back(1, 2 * UNIT) == 0
    assert purses(ballast) == (3, {1: 2})
    close_all(pieces)


def test_what_one_wrote_the_next_does_not_see(ballast: BallastLike) -> None:
    for lease in range(3):
        for piece in ballast.lend(lease, 20 * UNIT, always):
            with mmap.mmap(piece.fd, piece.size) as memory:
                assert memory.find(b"secret") < 0
                memory[UNIT - 3 : UNIT + 3] = b"secret"
                memory[-6:] = b"secret"
            close_all([piece])
        assert ballast.back(lease) == 20 * UNIT
        ballast.keep(lease + 1, 20 * UNIT)
    assert purses(ballast) == (0, {3: 20})


def test_what_came_back_can_be_dropped_kept_and_lent(ballast: BallastLike) -> None:
    for lease in (1, 2, 3):
        close_all(ballast.lend(lease, 5 * UNIT, always))
        assert ballast.back(lease) == 5 * UNIT
        assert ballast.keep(lease + 1, 4 * UNIT) == 4 * UNIT
        assert ballast.drop(UNIT) == UNIT


def test_a_closed_one_has_nothing_and_takes_nothing(ballast: BallastLike) -> None:
    ballast.take(5 * UNIT, always)
    ballast.keep(1, 2 * UNIT)
    pieces = ballast.lend(1, UNIT, always)
    ballast.close()
    assert (purses(ballast), ballast.take(UNIT, always)) == ((0, {}), 0)
    assert (ballast.keep(1, UNIT), ballast.give(1, UNIT), ballast.back(1)) == (0, 0, 0)
    with pytest.raises(Refusal):
        ballast.lend(1, UNIT, always)
    close_all(pieces)
