from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.daemon.pacer import (
    GRAIN,
    GROWN_MIN,
    OWED_MIN,
    PAUSE_MAX_S,
    PAUSE_MIN_S,
    PROBE_MAX_S,
    PROBE_MIN_S,
    STEP,
    Pacer,
    may_give,
    pause_s,
)
from holdingpen.errors import Unavailable

MIB = 2**20
GIB = 2**30
UNIT = 2 * MIB
PATIENCE_S = 20


class World:
    """A full machine with ballast kept for lease 1, and the program of pid 10."""

    def __init__(self, kept: int = 100 * MIB) -> None:
        self.kept = {1: kept}
        self.use = {10: 0}
        self.free = 0
        #: What was freed, in order.
        self.given: list[int] = []
        self.forgotten: list[int] = []
        self.hidden = ""
        #: What there is to make good with, and what of it was given, in order.
        self.reserve = 0
        self.made_good: list[int] = []
        self.now_s = 0.0
        #: Set with each giving.
        self.gave = threading.Event()

    def give(self, lease: int, amount: int) -> int:
        amount = min(amount, self.kept.get(lease, 0))
        self.kept[lease] = self.kept.get(lease, 0) - amount
        self.free += amount
        self.given.append(amount)
        self.gave.set()
        return amount

    def make_good(self, amount: int) -> int:
        amount = min(-(-amount // UNIT) * UNIT, self.reserve)
        self.reserve -= amount
        self.free += amount
        self.made_good.append(amount)
        return amount

    def clock(self) -> float:
        return self.now_s

    def used(self, pid: int) -> int:
        if self.hidden:
            raise Unavailable(self.hidden)
        return self.use[pid]

    def available(self) -> int:
        return self.free

    def grow(self, amount: int, pid: int = 10) -> int:
        """The program takes what it needs, as far as there is any; returns that."""
        got = min(amount, self.free)
        self.free -= got
        self.use[pid] += got
        return got

    def thief(self, most: int = GIB) -> int:
        """Takes what is free, up to `most`; returns that."""
        got = min(self.free, most)
        self.free -= got
        return got


class Still(Pacer):
    """Looks only when a test says so."""

    def _work(self) -> None:
        """Let the thread end at once."""

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self._look_at_all()


def still(world: World, **more: Any) -> Still:
    parts = world.give, world.used, world.available
    return Still(*parts, make_good=world.make_good, clock=world.clock, **more)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def pacer(world: World) -> Iterator[Still]:
    pacer = still(world, forget=world.forgotten.append)
    yield pacer
    pacer.close()


@pytest.mark.parametrize(
    ("released", "peak_use", "may"),
    [
        (0, 0, 8),
        (8, 0, 0),
        (8, 3, 3),
        (8, 8, 8),
        (16, 100, 92),
        # given too much, or grown by less than was given: nothing, and no debt
        (20, 3, 0),
    ],
)
def test_the_law(released: int, peak_use: int, may: int) -> None:
    assert may_give(released, peak_use, 8) == may
    assert released + may - peak_use <= max(8, released - peak_use)


@pytest.mark.parametrize(
    ("available", "expected_s"),
    [
        (0, PAUSE_MIN_S),
        (STEP, PAUSE_MIN_S),
        (64 * MIB, 1 / 256),
        (GIB, PAUSE_MAX_S),
    ],
)
def test_it_looks_before_the_fastest_program_can_have_eaten_all(
    available: int, expected_s: float
) -> None:
    assert pause_s(available) == pytest.approx(expected_s)


def test_the_first_step_is_given_by_add_itself(world: World, pacer: Still) -> None:
    pacer.add(1, 10, 100 * MIB)
    assert world.given == [STEP]
    assert pacer.progress[1].released == STEP


def test_to_a_program_that_does_not_grow_nothing_more_is_given(
    world: World, pacer: Still
) -> None:
    pacer.add(1, 10, 100 * MIB)
    pacer.look(100)
    assert world.given == [STEP]


def test_a_program_that_grows_gets_all(world: World, pacer: Still) -> None:
    pacer.add(1, 10, 100 * MIB)
    for _ in range(100):
        assert world.grow(MIB) == MIB
        pacer.look()
    assert world.kept == {1: 0}
    assert pacer.progress[1].released == pacer.progress[1].peak_use == 100 * MIB
    assert pacer.progress[1].stolen == 0


def test_what_is_freed_comes_in_whole_grains_and_then_the_rest() -> None:
    world = World(13 * MIB + 1)
    pacer = Still(world.give, world.used, world.available)
    pacer.add(1, 10, 13 * MIB + 1)
    while world.kept[1]:
        world.grow(MIB // 2)
        pacer.look()
    assert world.given == [STEP, GRAIN, GRAIN, MIB + 1]


def test_a_thief_gets_one_step_and_the_rest_stays_held(
    world: World, pacer: Still
) -> None:
    pacer.add(1, 10, 100 * MIB)
    stolen = world.thief()
    for _ in range(100):
        pacer.look()
        world.grow(MIB)
        stolen += world.thief()
    assert stolen == STEP
    assert world.kept == {1: 100 * MIB - STEP}
    assert pacer.progress[1].stolen == STEP


def test_memory_a_program_gave_up_is_not_freed_for_it_again(
    world: World, pacer: Still
) -> None:
    pacer.add(1, 10, 100 * MIB)
    world.use[10] = 20 * MIB
    pacer.look()
    assert pacer.progress[1].released == 28 * MIB
    for use in (0, 20 * MIB, 0, 20 * MIB):
        world.use[10] = use
        pacer.look()
    assert pacer.progress[1].released == 28 * MIB


def test_growth_out_of_what_is_free_anyway_frees_ballast_behind_it(
    world: World, pacer: Still
) -> None:
    world.free = GIB
    pacer.add(1, 10, 100 * MIB)
    world.grow(60 * MIB)
    pacer.look()
    assert world.given == [STEP, 60 * MIB]


def test_the_memory_of_what_asked_does_not_count_as_the_programs(
    world: World, pacer: Still
) -> None:
    """gatekeeper has some MiB, which are gone when it becomes its program."""
    world.use[10] = 5 * MIB
    pacer.add(1, 10, 100 * MIB)
    for use in (5 * MIB, 6 * MIB, MIB, 2 * MIB):
        world.use[10] = use
        pacer.look()
    assert world.given == [STEP]
    world.use[10] = 9 * MIB
    pacer.look()
    assert world.given == [STEP, 8 * MIB]


def test_what_a_program_had_before_it_asked_frees_nothing(
    world: World, pacer: Still
) -> None:
    """A Python process of 1 GiB asks for more: that GiB did not come from here."""
    world.use[10] = GIB
    pacer.add(1, 10, 100 * MIB)
    world.use[10] = GIB + MIB
    pacer.look()
    assert world.given == [STEP]
    world.use[10] = GIB + 8 * MIB
    pacer.look()
    assert world.given == [STEP, 8 * MIB]


def test_leases_of_one_process_do_not_count_its_growth_twice(
    world: World, pacer: Still
) -> None:
    world.kept[2] = 100 * MIB
    pacer.add(1, 10, 20 * MIB)
    pacer.add(2, 10, 100 * MIB)
    world.use[10] = 12 * MIB
    pacer.look()
    assert world.given == [STEP, STEP, 12 * MIB]
    world.use[10] = 26 * MIB
    pacer.look()
    assert world.given[3:] == [6 * MIB]
    assert pacer.progress[1].peak_use >= 20 * MIB
    assert pacer.progress[2].peak_use == 6 * MIB


def test_when_less_is_kept_than_was_said_it_ends_with_that(
    world: World, pacer: Still
) -> None:
    """Somebody fetched a part of it as files meanwhile."""
    pacer.add(1, 10, 100 * MIB)
    world.kept[1] = 3 * MIB
    world.use[10] = 50 * MIB
    pacer.look(3)
    assert world.given == [STEP, 3 * MIB]
    assert pacer._paced == ()


def test_stolen_is_what_is_neither_the_programs_nor_available() -> None:
    world = World()
    pacer = Still(world.give, world.used, world.available)
    pacer.add(1, 10, 100 * MIB)
    world.grow(5 * MIB)
    world.free = MIB
    pacer.look(2)
    # released 8 + 4 (whole grains), of which the program has 5
    assert pacer.progress[1].released == 12 * MIB
    assert pacer.progress[1].stolen == 2 * MIB
    world.free = 0
    pacer.look(2)
    assert pacer.progress[1].stolen == 7 * MIB
    world.free = GIB
    pacer.look(2)
    assert pacer.progress[1].stolen == 7 * MIB


def test_what_is_missing_at_one_look_only_was_not_stolen(
    world: World, pacer: Still
) -> None:
    pacer.add(1, 10, 100 * MIB)
    free, world.free = world.free, 0
    pacer.look()
    world.free = free
    pacer.look(3)
    assert pacer.progress[1].stolen == 0


def test_what_others_took_once_is_made_good_to_the_last(
    world: World, pacer: Still
) -> None:
    world.reserve = 32 * MIB
    pacer.add(1, 10, 100 * MIB)
    world.grow(MIB)
    assert world.thief() == 7 * MIB
    for _ in range(400):
        pacer.look()
        world.grow(MIB)
    assert world.use[10] == 101 * MIB
    assert pacer.progress[1].stolen == 7 * MIB
    assert pacer.progress[1].made_good == 8 * MIB, "in whole units"
    assert world.reserve == 24 * MIB


def test_a_reserve_that_is_too_small_makes_good_what_it_can(
    world: World, pacer: Still
) -> None:
    world.reserve = 4 * MIB
    pacer.add(1, 10, 100 * MIB)
    world.thief()
    for _ in range(400):
        pacer.look()
        world.grow(MIB)
        world.now_s += PROBE_MAX_S
    # the last grain is worth half a step, which paces all of the rest
    assert world.use[10] == 96 * MIB
    assert pacer.progress[1].made_good == 4 * MIB
    assert pacer.progress[1].stolen == STEP


def test_to_who_has_not_grown_it_comes_in_grains_ever_more_seldom(
    world: World, pacer: Still
) -> None:
    """Who takes whatever is there shall not have it all before it is wanted."""
    world.reserve = 100 * MIB
    pacer.add(1, 10, 100 * MIB)
    at_s: list[float] = []
    for _ in range(100_000):
        world.thief()
        before = len(world.made_good)
        pacer.look()
        if len(world.made_good) > before:
            at_s.append(world.now_s)
        if len(at_s) == 10:
            break
        world.now_s += 0.01
    assert set(world.made_good) == {GRAIN}
    pauses = [late - soon for soon, late in itertools.pairwise(at_s)]
    doubled = [min(PROBE_MIN_S * 2**n, PROBE_MAX_S) for n in range(1, 10)]
    assert pauses == pytest.approx(doubled, abs=0.02)
    assert pacer.progress[1].released == STEP


def test_who_has_grown_gets_all_that_is_lacking_at_once(
    world: World, pacer: Still
) -> None:
    world.reserve = 32 * MIB
    pacer.add(1, 10, 100 * MIB)
    world.thief()
    pacer.look(3)
    assert world.made_good == [GRAIN]
    world.thief()
    pacer.look(2)
    assert world.made_good == [GRAIN]
    world.use[10] += GROWN_MIN
    pacer.look()
    assert world.made_good == [GRAIN, STEP]


def test_who_grows_again_waits_no_longer_than_at_first(
    world: World, pacer: Still
) -> None:
    world.reserve = 100 * MIB
    pacer.add(1, 10, 100 * MIB)
    for _ in range(5):
        world.thief()
        pacer.look(2)
        world.now_s += PROBE_MAX_S
    world.use[10] += GROWN_MIN
    world.thief()
    pacer.look(2)
    given = len(world.made_good)
    world.thief()
    world.now_s += PROBE_MIN_S
    pacer.look(2)
    assert len(world.made_good) == given + 1


@pytest.mark.parametrize(("took", "made_good"), [(OWED_MIN - 1, 0), (OWED_MIN, UNIT)])
def test_less_than_figures_may_be_wrong_by_is_not_made_good(
    world: World, pacer: Still, took: int, made_good: int
) -> None:
    world.reserve = 32 * MIB
    pacer.add(1, 10, 100 * MIB)
    world.thief(took)
    pacer.look(5)
    assert sum(world.made_good) == made_good


def test_what_use_may_fall_short_by_is_not_made_good(world: World) -> None:
    """On 64 CPUs with Linux 6.2 these are 32 MiB."""
    world.reserve = 100 * MIB
    pacer = still(world, step=STEP + 32 * MIB, short=32 * MIB)
    pacer.add(1, 10, 100 * MIB)
    world.free = 0
    pacer.look(5)
    assert pacer.progress[1].stolen == STEP + 32 * MIB
    for _ in range(100):
        pacer.look(5)
        world.now_s += PROBE_MAX_S
    assert sum(world.made_good) == STEP


def test_of_an_empty_reserve_is_asked_no_oftener_than_of_a_full_one(
    world: World, pacer: Still
) -> None:
    pacer.add(1, 10, 100 * MIB)
    world.thief()
    world.use[10] += GROWN_MIN
    pacer.look(100)
    assert world.made_good == [0]


def test_after_remove_nothing_is_made_good(world: World, pacer: Still) -> None:
    world.reserve = 32 * MIB
    pacer.add(1, 10, 100 * MIB)
    world.thief()
    pacer.remove(1)
    pacer.look(5)
    assert world.made_good == []


def test_each_lease_that_was_stolen_from_has_its_part(
    world: World, pacer: Still
) -> None:
    world.kept[2], world.use[20], world.reserve = 100 * MIB, 0, 32 * MIB
    pacer.add(1, 10, 100 * MIB)
    pacer.add(2, 20, 100 * MIB)
    world.thief()
    for _ in range(400):
        pacer.look()
        world.grow(MIB, 10)
        pacer.look()
        world.grow(MIB, 20)
        world.now_s += PROBE_MAX_S
    assert world.use == {10: 100 * MIB, 20: 100 * MIB}


def test_a_program_that_ended_gets_nothing_more(world: World, pacer: Still) -> None:
    pacer.add(1, 10, 100 * MIB)
    world.use[10] = 0
    pacer.look(5)
    assert world.given == [STEP]


def test_nothing_is_given_to_whom_cannot_be_seen(world: World, pacer: Still) -> None:
    world.hidden = "cannot see how much RAM process 0 uses"
    with pytest.raises(Unavailable, match="process 0"):
        pacer.add(1, 10, 100 * MIB)
    assert world.given == []
    assert pacer.progress == {}


def test_who_cannot_be_seen_any_more_gets_nothing_more_and_that_is_said(
    world: World, pacer: Still
) -> None:
    pacer.add(1, 10, 100 * MIB)
    world.use[10] = 50 * MIB
    world.hidden = "cannot see it"
    pacer.look(3)
    assert world.given == [STEP]
    assert pacer.progress[1].unknown == "cannot see it"


def test_after_remove_nothing_more_is_given(world: World, pacer: Still) -> None:
    pacer.add(1, 10, 100 * MIB)
    pacer.remove(1)
    world.use[10] = 50 * MIB
    pacer.look()
    assert world.given == [STEP]
    assert pacer.progress == {}


def test_removing_twice_or_what_was_never_there_is_no_error(
    world: World, pacer: Still
) -> None:
    pacer.add(1, 10, 100 * MIB)
    for lease in (1, 1, 7):
        pacer.remove(lease)
    assert world.forgotten == [10]


def test_a_pid_is_forgotten_with_its_last_lease(world: World, pacer: Still) -> None:
    pacer.add(1, 10, MIB)
    pacer.add(2, 10, MIB)
    pacer.remove(1)
    assert world.forgotten == []
    pacer.remove(2)
    assert world.forgotten == [10]


def test_when_closed_it_paces_nobody(world: World, pacer: Still) -> None:
    pacer.add(1, 10, 100 * MIB)
    pacer.close()
    pacer.close()
    with pytest.raises(Unavailable, match="ending"):
        pacer.add(2, 10, MIB)
    assert world.given == [STEP]
    assert world.forgotten == [10]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["grow", "shrink", "thief", "others"]), st.integers(0, 40)
        ),
        max_size=60,
    ),
    st.integers(1, 16),
    st.integers(1, 200),
    st.integers(0, 20),
)
def test_whatever_happens_a_step_is_the_most_that_lies_about(
    moves: list[tuple[str, int]], step: int, kept: int, units: int
) -> None:
    """And what was made good, which is no more than was stolen, in whole units."""
    world = World(kept * MIB)
    world.reserve = units * UNIT
    pacer = still(world, step=step * MIB)
    pacer.add(1, 10, kept * MIB)
    progress = pacer.progress[1]
    peak = 0
    for move, mib in moves:
        if move == "grow":
            world.grow(mib * MIB)
        elif move == "shrink":
            gone = min(world.use[10], mib * MIB)
            world.use[10] -= gone
            world.free += gone
        elif move == "thief":
            world.thief()
        else:
            world.free += mib * MIB
        peak = max(peak, world.use[10])
        pacer.look()
        assert progress.released == kept * MIB - world.kept[1]
        assert progress.released - peak <= step * MIB
        assert progress.stolen <= step * MIB + progress.made_good
        assert progress.made_good == units * UNIT - world.reserve
        assert progress.made_good < progress.stolen + UNIT
        world.now_s += 0.05


@given(st.lists(st.integers(1, 64), min_size=1), st.integers(1, 16))
def test_without_a_thief_nobody_starves(pieces: list[int], step: int) -> None:
    """A program that takes bit by bit whatever it can gets what was kept for it."""
    world = World()
    pacer = Still(world.give, world.used, world.available, step=step * MIB)
    pacer.add(1, 10, 100 * MIB)
    for turn in range(100_000):
        if not world.kept[1]:
            break
        if not world.free:
            pacer.look()
            assert world.free, "it waits, and nothing comes"
        world.grow(pieces[turn % len(pieces)] * MIB // 16)
        pacer.look()
    assert world.kept[1] == 0


@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(0, 8)), min_size=1),
    st.integers(4, 16),
    st.integers(1, 20),
)
def test_with_a_thief_nobody_starves_as_long_as_the_reserve_lasts(
    turns: list[tuple[int, int]], step: int, units: int
) -> None:
    world = World()
    world.reserve = units * UNIT
    pacer = still(world, step=step * MIB)
    pacer.add(1, 10, 100 * MIB)
    # what is rounded up is lost to what is to be made good later
    left = world.reserve // 2
    for turn in range(10_000):
        piece, stolen = turns[turn % len(turns)]
        left -= world.thief(min(left, stolen * MIB))
        pacer.look(2)
        world.grow(piece * MIB // 16)
        world.now_s += 1.0
        if world.use[10] >= 100 * MIB - OWED_MIN and not world.kept[1]:
            return
    raise AssertionError(f"it has {world.use[10] / MIB} MiB, and no more comes")


def test_the_thread_gives_as_the_program_grows() -> None:
    world = World()
    pacer = Pacer(world.give, world.used, world.available)
    pacer.add(1, 10, 100 * MIB)
    while world.kept[1]:
        world.gave.clear()
        world.grow(STEP)
        assert world.gave.wait(PATIENCE_S)
    pacer.close()
    assert world.given[0] == STEP
    assert sum(world.given) == 100 * MIB


def test_what_breaks_the_thread_is_reported() -> None:
    world = World()
    heard: list[Exception] = []
    told = threading.Event()

    def broken(why: Exception) -> None:
        heard.append(why)
        told.set()

    def available() -> int:
        raise OSError(5, "Input/output error")

    pacer = Pacer(world.give, world.used, available, broken=broken)
    pacer.add(1, 10, 100 * MIB)
    assert told.wait(PATIENCE_S)
    assert [OSError] == [type(why) for why in heard]
    pacer.close()


def test_closing_ends_the_thread() -> None:
    before = threading.enumerate()
    world = World()
    pacer = Pacer(world.give, world.used, world.available)
    (thread,) = set(threading.enumerate()) - set(before)
    pacer.add(1, 10, 100 * MIB)
    pacer.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
