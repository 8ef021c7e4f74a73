"""A term played through: whatever two hundred people want, the laws hold (term.py)."""

import importlib.util
from pathlib import Path

import pytest

from holdingpen.core import facts as fact
from holdingpen.core.facts import Ask, Moment, Who
from holdingpen.core.rights import Rules

_SPEC = importlib.util.spec_from_file_location(
    "term", Path(__file__).with_name("term.py")
)
term = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(term)
laws = term.laws


def demand_an_ordinary_end(played):
    """All came to an end, and none of it was for nothing."""
    assert not played.books.leases
    assert played.books.resources["ram"].leased == 0
    assert played.tally["woken again and again"] == 0
    over = ("granted", "left")
    ended = sum(played.tally[x] for x in over) + sum(
        n for why, n in played.refused.items() if "(" not in why
    )
    assert ended == played.tally["requests"]
    assert played.need_not == []


def test_a_small_term_is_lawful():
    played = term.Term(users=40, days=3)
    played.run()
    demand_an_ordinary_end(played)
    assert played.tally["reservations begun"] > 5


@pytest.mark.slow
def test_a_week_is_lawful():
    """The whole term takes minutes: `python tests/core/term.py`."""
    played = term.Term(users=60, days=7)
    played.run()
    demand_an_ordinary_end(played)


@pytest.mark.slow
def test_a_term_in_which_all_tell_the_truth_is_foretold():
    """But for those who pass others, and for those who come and are more urgent."""
    played = term.Term(days=2, truthful=True)
    played.run()
    demand_an_ordinary_end(played)
    off_s = sorted(abs(error_s) for error_s, _ in played.errors["last"])
    assert off_s[len(off_s) // 2] < 60


def test_the_table_has_all_that_was_counted():
    played = term.Term(users=20, days=1, seed=3)
    played.run()
    table = dict(term.tally.rows(played))
    assert table["requests"] == str(played.tally["requests"])
    assert table["leased of ram"].endswith("%")


# The laws can fail.

NOW = Moment(100.0, 1100.0)


@pytest.fixture
def books():
    books = laws.Watched(Rules(assume_s=100.0, ready_before_s=10.0), priority_max=3)
    books.apply(fact.ResourceSet("ram", 10))
    books.apply(fact.AgeingSet(10.0))
    return books


def ask(number, amount, **terms):
    return Ask(number, 1, Who(1000, 1000, number), {"ram": amount}, **terms)


def join(books, number, amount, **terms):
    books.apply(fact.Joined(number, NOW, ask(number, amount, **terms)))


def grant(books, number, amount=None, at=NOW, **terms):
    newcomer = None if amount is None else ask(number, amount, **terms)
    books.apply(fact.Granted(number, at, newcomer))


def book(books, number, amount, in_s):
    wanted = ask(number, amount, lasts_s=60.0)
    starts_s = NOW.wall_s + in_s
    what = fact.Booked(number, NOW, wanted, starts_s, starts_s + 60, number)
    books.apply(what)


def test_who_starts_from_what_was_set_aside_for_another_is_unlawful(books):
    grant(books, 1, 4)
    join(books, 2, 10)
    join(books, 3, 2)
    with pytest.raises(laws.Unlawful, match="passed"):
        grant(books, 3)


def test_who_passes_by_an_end_that_comes_too_late_is_unlawful(books):
    grant(books, 1, 4, length_s=50.0)
    join(books, 2, 10)
    join(books, 3, 2, length_s=51.0)
    join(books, 4, 2, length_s=50.0)
    grant(books, 4)
    with pytest.raises(laws.Unlawful, match="passed"):
        grant(books, 3)


def test_who_starts_without_room_is_unlawful(books):
    grant(books, 1, 4)
    join(books, 2, 8)
    with pytest.raises(laws.Unlawful, match="no room"):
        grant(books, 2)


def test_who_is_deferred_and_starts_is_unlawful(books):
    join(books, 1, 4)
    books.apply(fact.Deferred(1, 200.0))
    with pytest.raises(laws.Unlawful, match="deferred"):
        grant(books, 1)


def test_who_starts_while_it_is_drained_is_unlawful(books):
    books.apply(fact.DrainSet("", 0))
    with pytest.raises(laws.Unlawful, match="drained"):
        grant(books, 1, 1)


def test_who_starts_into_a_reservation_is_unlawful(books):
    book(books, 1, 8, in_s=50)
    grant(books, 2, 2)
    grant(books, 3, 3, length_s=39.0)
    with pytest.raises(laws.Unlawful, match="starts into"):
        grant(books, 4, 3)


def test_reservations_that_overlap_are_unlawful(books):
    book(books, 1, 8, in_s=50)
    with pytest.raises(laws.Unlawful, match="are reserved"):
        book(books, 2, 3, in_s=100)


def test_who_comes_too_late_to_stand_before_is_unlawful(books, monkeypatch):
    """Three priorities and ten seconds for each: thirty seconds later is too late."""
    join(books, 1, 10)
    monkeypatch.setattr(books, "rank", lambda *_: -1000.0)
    late = Moment(131.0, 1131.0)
    books.apply(fact.Joined(2, late, ask(2, 1)))
    with pytest.raises(laws.Unlawful, match="too late"):
        grant(books, 2, at=late)


def test_ledgers_out_of_balance_are_unlawful(books):
    books.ledgers["ram"].settling = -1
    with pytest.raises(laws.Unlawful, match="balance"):
        laws.balance(books)


def test_who_could_start_and_waits_is_unlawful(books):
    join(books, 1, 4)
    with pytest.raises(laws.Unlawful, match="could start"):
        laws.balance(books)


@pytest.mark.parametrize(
    ("facts", "count", "recounted"),
    [([], 9, False), ([], 10, True), ([fact.Due(1, NOW)], 9, True)],
)
def test_all_is_recounted_now_and_then_and_when_a_plan_changes(
    books, facts, count, recounted
):
    assert laws.whole(books, facts, count, 10) == recounted
