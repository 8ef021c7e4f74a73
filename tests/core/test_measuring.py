"""When a resource is measured."""

from math import inf

from holdingpen.core.effects import Measure
from holdingpen.core.measuring import EVERY_S, FIRST_S, SETTLING_MAX_S, Measuring


def test_what_was_never_measured_is_never_due():
    measuring = Measuring()
    assert (measuring.next_s, measuring.due(1e9)) == (inf, [])


def test_what_is_never_answered_is_asked_again():
    measuring = Measuring()
    assert measuring.now("ram", 100.0, fresh=False) == Measure("ram", fresh=False)
    assert measuring.due(100.0 + EVERY_S - 0.1) == []
    assert measuring.due(100.0 + EVERY_S) == ["ram"]


def test_while_it_settles_the_pauses_grow_and_then_it_is_quiet():
    measuring = Measuring()
    measuring.soon("ram", 0.0)
    pauses = [measuring.next_s]
    for _ in range(9):
        measuring.done("ram", 0.0, settling=5)
        pauses.append(measuring.next_s)
    assert pauses[:3] == [FIRST_S, FIRST_S, 2 * FIRST_S]
    assert pauses[-1] == SETTLING_MAX_S
    measuring.done("ram", 0.0, settling=0)
    assert measuring.next_s == EVERY_S


def test_what_is_no_more_is_never_due():
    measuring = Measuring()
    measuring.now("ram", 0.0)
    measuring.now("disk.a", 1.0)
    measuring.never("ram")
    measuring.never("ram")
    assert measuring.due(1e9) == ["disk.a"]
