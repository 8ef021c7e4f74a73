"""The cuts find what the law finds by walking."""

from itertools import count
from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from holdingpen.core.line import Line

NAMES = ("ram", "cpu", "gpu")


def walk(line, room):
    """The law (model.md 8a) to the letter: who can start, who has all he needs of what.

    Everybody in order: who fits starts; for who does not, what is there of what he
    needs is set aside.
    """
    left, ready, covered = dict(room), [], set()
    for number in line.first(len(line)):
        needs = line.waiters[number].needs
        if all(need <= left[name] for name, need in needs.items()):
            ready.append(number)
        for name, need in needs.items():
            if need <= left[name]:
                covered.add((number, name))
            left[name] -= min(left[name], need)
    return ready, covered


class Walked(RuleBasedStateMachine):
    """A line beside its walk."""

    def __init__(self) -> None:
        super().__init__()
        self.room = dict.fromkeys(NAMES, 8)
        self.line = Line(self.room.__getitem__)
        self.numbers = count(1)

    needs = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 9), min_size=1)

    @rule(priority=st.integers(-1, 2), needs=needs, timed=st.booleans())
    def add(self, priority, needs, timed):
        expected = self.would_start(priority, needs)
        number = next(self.numbers)
        if self.line.lets_pass(-priority, needs):
            assert expected
        elif not self.line.order or -priority >= self.line.order[-1][0]:
            assert not expected
        for name in needs:
            self.check_ahead(name, priority)
        self.line.add(number, -priority, needs, timed)

    def would_start(self, priority, needs):
        first = self.line.first(len(self.line))
        ahead = [n for n in first if self.line.waiters[n].key[0] <= -priority]
        return all(
            sum(self.line.waiters[n].needs.get(name, 0) for n in ahead) + need
            <= self.room[name]
            for name, need in needs.items()
        )

    def check_ahead(self, name, priority):
        waiters = self.line.waiters.values()
        needs = [w.needs.get(name, 0) for w in waiters if w.key[0] <= -priority]
        assert self.line.ahead(name, -priority, 99) == sum(needs)

    @precondition(lambda self: len(self.line))
    @rule(data=st.data())
    def remove(self, data):
        self.line.remove(data.draw(st.sampled_from(sorted(self.line.waiters))))

    @rule(name=st.sampled_from(NAMES), room=st.integers(0, 30))
    def change_room(self, name, room):
        self.room[name] = room
        self.line.settle(name)

    @invariant()
    def cuts_are_where_the_walk_finds_them(self):
        ready, covered = walk(self.line, self.room)
        assert [number for _, number in self.line.ready] == ready
        for number, waiter in self.line.waiters.items():
            mine = {name for name in waiter.needs if (number, name) in covered}
            assert set(waiter.needs) - mine == set(self.line.lacking(number))

    @invariant()
    def order_is_priority_and_arrival(self):
        keys = sorted(waiter.key for waiter in self.line.waiters.values())
        assert keys == list(self.line.order)
        places = [self.line.place(number) for _, number in keys]
        assert places == list(range(1, len(keys) + 1))

    @invariant()
    def nothing_is_kept_of_who_left(self):
        waiters = self.line.waiters.values()
        assert set(self.line.lanes) == {name for w in waiters for name in w.needs}
        assert {n for _, n in self.line.timed} <= set(self.line.waiters)


@pytest.mark.slow
def test_the_cuts_are_where_the_walk_finds_them():
    run_state_machine_as_test(Walked)


@pytest.mark.parametrize("seed", range(3))
def test_so_they_are_after_thousands_of_changes(seed):
    walked, random = Walked(), Random(seed)
    for step in range(3000):
        waiting = sorted(walked.line.waiters)
        if random.random() < 0.4 or not waiting:
            names = random.sample(NAMES, random.randint(1, 3))
            needs = {name: random.randint(1, 9) for name in names}
            walked.add(random.randint(-1, 2), needs, random.random() < 0.5)
        elif random.random() < 0.4 or len(waiting) > 60:
            walked.line.remove(random.choice(waiting))
        else:
            walked.change_room(random.choice(NAMES), random.randint(0, 60))
        if step % 20 == 0:
            walked.cuts_are_where_the_walk_finds_them()
    walked.nothing_is_kept_of_who_left()


@pytest.fixture
def line():
    """10 of a, and three who want 6 of it, the last urgently."""
    line = Line({"a": 10, "b": 1}.__getitem__)
    for number, priority in ((1, 0), (2, 0), (3, 5)):
        line.add(number, -priority, {"a": 6}, timed=number == 2)
    return line


def test_the_first_are_given_in_order(line):
    assert list(line.first(2)) == [3, 1]
    assert list(line.first(9, start=1)) == [1, 2]


def test_the_timed_are_kept_apart(line):
    assert [number for _, number in line.timed] == [2]


def test_a_newcomer_may_start_where_nobody_waits(line):
    assert line.lets_pass(0, {"b": 1})


def test_a_newcomer_of_higher_priority_joins_to_see(line):
    assert not line.lets_pass(-9, {"a": 1})


def test_who_would_look_too_far_ahead_is_told_nothing(line):
    assert line.ahead("a", -3, steps_max=1) == 6
    assert line.ahead("a", -3, steps_max=0) is None


def test_a_lane_nobody_waits_in_is_settled_in_silence(line):
    line.settle("b")
    assert set(line.lanes) == {"a"}
