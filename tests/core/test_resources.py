"""What is free and what can be granted."""

import pytest

from holdingpen.core.resources import Ledger


def test_free_is_what_nobody_has():
    ledger = Ledger(
        "ram", 100, held=10, taking=5, leased=20, settling=7, foreign=8, drawn=4
    )
    assert (ledger.balance, ledger.free, ledger.room, ledger.over) == (50, 50, 60, 0)


def test_what_settles_and_what_is_taken_will_be_room():
    assert Ledger("ram", 100, taking=5, settling=7).transit == 12


@pytest.mark.parametrize(("held", "room"), [(0, 0), (15, 0), (30, 10)])
def test_overcommitted_nothing_is_free_and_ballast_is_no_room(held, room):
    """20 are booked too many; as much of the ballast must go."""
    ledger = Ledger("ram", 100, held=held, leased=120 - held)
    assert (ledger.free, ledger.over) == (0, 20)
    assert ledger.room == max(0, held - 20) == room


def test_what_was_set_counts_more_than_what_is_configured():
    ledger = Ledger("ram", 100, override=30, leased=20)
    assert (ledger.capacity, ledger.free) == (30, 10)
    assert Ledger("ram", 100, override=0).capacity == 0
