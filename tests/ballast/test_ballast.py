"""What every ballast does, the make-believe one too."""

from __future__ import annotations

from holdingpen.ballast import BallastLike
from holdingpen.ballast.ram import STEP, UNIT


def always(step: int) -> bool:
    return True


def never(step: int) -> bool:
    return False


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
