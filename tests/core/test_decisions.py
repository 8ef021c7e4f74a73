"""Judgments over ledgers, without a pen around them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.core.decisions import (
    FOREIGN_GRAIN,
    STEPS_MAX,
    TAKE_SLICE,
    draw,
    expected_starts,
    may_pass,
    misfit,
    retake,
    seen,
    shortage,
    surplus,
)
from holdingpen.core.events import Measured
from holdingpen.core.facts import Ask, Moment, Who
from holdingpen.core.leases import WAITING, Lease, needs_of
from holdingpen.core.line import Line
from holdingpen.core.resources import MACHINE_UNITS, Ledger

NOW = Moment(100.0, 1100.0)


def lease(number, length=None, **amounts):
    ask = Ask(number, 1, Who(1, 1, 1), amounts, length_s=length)
    return Lease(number, ask, needs_of(ask), WAITING, NOW, amounts=amounts)


def ledgers(**resources):
    machine = Ledger("machine", MACHINE_UNITS)
    return {"machine": machine} | {
        name: x if isinstance(x, Ledger) else Ledger(name, x)
        for name, x in resources.items()
    }


def stand(resources, *leases):
    """A line of leases."""
    line = Line(lambda name: resources[name].room)
    for one in leases:
        line.add(one.id, one.ask.priority, one.needs, one.ask.length_s is not None)
    return line


# What can never be.


@pytest.mark.parametrize(
    ("amounts", "code"),
    [
        ({"ram": 10}, None),
        ({"machine": 1}, None),
        ({}, None),
        ({"ram": 11}, "never-fits"),
        ({"rma": 1}, "unknown-resource"),
        ({"hugepages": 1}, "unknown-resource"),
        ({"ram": 0}, "bad-amount"),
        ({"ram": 2**63}, "bad-amount"),
        ({"machine": 2}, "bad-amount"),
        ({"ram": 1, "machine": 0}, "bad-amount"),
    ],
)
def test_what_can_never_be_has_a_code(amounts, code):
    problem = misfit(amounts, ledgers(ram=10))
    assert (problem and problem[0]) == code


def test_an_unknown_resource_is_answered_with_those_there_are():
    _, message = misfit({"rma": 1}, ledgers(ram=10, cpu=2))
    assert "it has: cpu, machine, ram." in message


def test_a_bad_amount_is_answered_with_a_good_one():
    assert misfit({"machine": 2}, ledgers())[1] == "asked 2 machine; ask for 1 machine."
    assert misfit({"ram": 0}, ledgers(ram=1))[1] == "asked 0 ram; ask for more than 0."


# Ballast.


@pytest.mark.parametrize(
    ("need", "held", "unit", "drawn"),
    [
        (4, 10, 1, {"ram": 4}),
        (4, 3, 1, {"ram": 3}),
        (4, 0, 1, {}),
        (3, 10, 5, {"ram": 5}),
        (6, 5, 5, {"ram": 5}),
    ],
)
def test_ballast_is_drawn_as_far_as_there_is_any(need, held, unit, drawn):
    books = ledgers(ram=Ledger("ram", 100, held=held, unit=unit))
    assert draw({"ram": need, "machine": 1}, books) == drawn


@pytest.mark.parametrize(
    ("ledger", "amount"),
    [
        (Ledger("ram", 100, hold=60), 60),
        (Ledger("ram", 100, hold=60, held=50), 10),
        (Ledger("ram", 100, hold=60, drawn=60, leased=60), 0),
        (Ledger("ram", 100, hold=60, leased=70), 30),
        (Ledger("ram", 100, hold=60, leased=75, unit=10), 20),
        (Ledger("ram", 100, hold=60, leased=101), 0),
        (Ledger("ram", 100, hold=60, taking=1), 0),
        (Ledger("ram", 100, hold=60, not_before_s=100.5), 0),
        (Ledger("ram", 100, hold=60, not_before_s=100.0), 60),
        (Ledger("ram", 2**40, hold=2**40), TAKE_SLICE),
        (Ledger("ram", 2**40, hold=2**40, unit=2**30), 2**30),
        (Ledger("ram", 100, hold=10, held=20), 0),
    ],
)
def test_one_slice_is_taken_of_what_is_free_and_wanted(ledger, amount):
    assert retake(ledger, 100.0) == amount


@pytest.mark.parametrize(
    ("ledger", "amount"),
    [
        (Ledger("ram", 100, hold=60, held=60), 0),
        (Ledger("ram", 100, hold=20, held=60), 40),
        (Ledger("ram", 100, hold=20, held=20, drawn=10, leased=10), 10),
        (Ledger("ram", 100, hold=60, held=60, leased=55, unit=20), 20),
        (Ledger("ram", 100, hold=60, held=20, leased=155, unit=20), 20),
        (Ledger("ram", 100, hold=60, leased=155), 0),
        (Ledger("ram", 100, hold=10, held=20, drawn=50, leased=50), 20),
    ],
)
def test_ballast_beyond_the_hold_or_the_capacity_is_given_up(ledger, amount):
    assert surplus(ledger) == amount


@given(
    unit=st.integers(1, 9),
    held=st.integers(0, 9),
    hold=st.integers(0, 9),
    leased=st.integers(0, 99),
    drawn=st.integers(0, 99),
)
def test_what_was_given_up_is_not_taken_again(unit, held, hold, leased, drawn):
    ledger = Ledger("ram", 50, None, hold * unit, unit)
    ledger.held, ledger.leased = held * unit, leased
    ledger.drawn = min(drawn, leased)
    ledger.held -= surplus(ledger)
    assert surplus(ledger) == 0
    assert ledger.over == 0 or ledger.held == 0
    amount = retake(ledger, 100.0)
    ledger.held += amount
    assert amount % unit == 0
    assert surplus(ledger) == 0


# Measuring (model.md 5).


def measure(ledger, available, ballast=0, fresh=True, used=None, leases=None):
    used, leases = used or {}, leases or {}
    measured = Measured(NOW, "ram", available, ballast, used, fresh)
    found = seen(ledger, [], measured, leases)
    assert [one.resource for one in found] in ([], ["ram"])
    return (
        (found[0].settling, found[0].foreign)
        if found
        else (ledger.settling, ledger.foreign)
    )


@pytest.mark.parametrize(
    ("ledger", "available", "found"),
    [
        (Ledger("ram", 1000), 1000, (0, 0)),
        (Ledger("ram", 1000), 2000, (0, 0)),
        (Ledger("ram", 1000), 900, (0, 100)),
        (Ledger("ram", 1000, leased=950), 900, (0, 50)),
        (Ledger("ram", 1000, leased=1100), 900, (0, 0)),
        (Ledger("ram", 1000, settling=200, settle_by_s=101), 900, (100, 0)),
        (Ledger("ram", 1000, settling=200, settle_by_s=101), 700, (200, 100)),
        (Ledger("ram", 1000, settling=200, settle_by_s=100), 900, (0, 100)),
        (Ledger("ram", 1000, settling=200, foreign=50, settle_by_s=101), 900, (50, 50)),
        (Ledger("ram", 1000, foreign=100), 903, (0, 100)),
        (Ledger("ram", 1000, foreign=100), 904, (0, 96)),
        (Ledger("ram", 1000, foreign=2), 1000, (0, 0)),
        (Ledger("ram", 1000, foreign=100, leased=903), 903, (0, 97)),
    ],
)
def test_what_is_missing_settles_or_is_foreign(ledger, available, found):
    assert 1000 // FOREIGN_GRAIN == 3
    assert measure(ledger, available) == found


def test_ballast_and_what_leases_use_is_not_missing():
    leases = {1: lease(1, ram=300), 2: lease(2, cpu=1)}
    ledger = Ledger("ram", 1000, held=200, leased=300)
    used = {1: 250, 2: 10, 3: 40}
    assert measure(ledger, 500, 200, True, used, leases) == (0, 50)


def test_a_lease_that_uses_more_than_it_asked_for_is_foreign_for_the_rest():
    ledger = Ledger("ram", 1000, leased=300)
    found = measure(ledger, 500, 0, True, {1: 500}, {1: lease(1, ram=300)})
    assert found == (0, 200)


def test_a_stale_look_settles_but_makes_nothing_foreign():
    ledger = Ledger("ram", 1000, settling=200, foreign=40, settle_by_s=0)
    assert measure(ledger, 900, fresh=False) == (60, 40)


@given(
    amounts=st.lists(st.integers(0, 500), min_size=5, max_size=5),
    available=st.integers(0, 1500),
    ballast=st.integers(0, 500),
    fresh=st.booleans(),
    settle_by_s=st.sampled_from([99.0, 101.0]),
)
def test_what_was_seen_never_exceeds_the_capacity(
    amounts, available, ballast, fresh, settle_by_s
):
    held, taking, leased, settling, foreign = amounts
    capacity = 1000
    ledger = Ledger("ram", capacity, settle_by_s=settle_by_s)
    ledger.held, ledger.taking, ledger.leased = held, taking, leased
    ledger.settling = max(0, min(settling, ledger.balance))
    ledger.foreign = max(0, min(foreign, ledger.balance))
    over = ledger.over
    was = ledger.settling
    ledger.settling, ledger.foreign = measure(ledger, available, ballast, fresh)
    assert 0 <= ledger.settling <= was
    assert ledger.foreign >= 0
    assert ledger.over == over


# Reasons.


def test_the_reason_says_what_is_lacking():
    books = ledgers(ram=10, cpu=4)
    first, second = lease(1, ram=12), lease(2, ram=3, cpu=5)
    line = stand(books, first, second)
    words = [shortage(line, number, books, None) for number in (1, 2)]
    assert words == [
        "waits for 12 B ram (10 B there)",
        "waits for 3 B ram (10 B there, set aside for those ahead) and 5 cpu (4 there)",
    ]


def test_the_reason_may_be_the_machine():
    books = ledgers(ram=10)
    books["machine"].leased = 1
    line = stand(books, lease(1, machine=1), lease(2, ram=1))
    words = [shortage(line, number, books, None) for number in (1, 2)]
    assert words == [
        "waits for the others",
        "waits for one who wants the whole machine",
    ]


@pytest.mark.parametrize(
    ("drain", "word"),
    [
        (None, "is about to start"),
        ("", "nothing new starts: the pen is being drained"),
        ("new disks", "nothing new starts: new disks"),
    ],
)
def test_who_lacks_nothing_waits_for_the_administrator(drain, word):
    books = ledgers(ram=10)
    assert shortage(stand(books, lease(1, ram=1)), 1, books, drain) == word


# When it will be (model.md 10).


def starts(waiters, ends=(), **room):
    room = {"machine": MACHINE_UNITS} | room
    ends = [(end, needs) for end, needs in ends]
    found = expected_starts(waiters, room, ends, 100.0)
    return [found.get(one.id) for one in waiters]


def test_who_fits_is_expected_now():
    assert starts([lease(1, ram=4)], ram=4) == [100.0]


def test_who_waits_for_a_known_end_is_expected_then():
    ends = [(150.0, {"ram": 2}), (130.0, {"ram": 2})]
    assert starts([lease(1, ram=4)], ends, ram=0) == [150.0]
    assert starts([lease(1, ram=4)], ends, ram=2) == [130.0]


def test_an_end_that_is_past_is_expected_now():
    assert starts([lease(1, ram=4)], [(50.0, {"ram": 4})], ram=0) == [100.0]


def test_who_waits_for_an_unknown_end_is_not_foretold():
    assert starts([lease(1, ram=5)], [(150.0, {"ram": 4})], ram=0) == [None]


def test_those_ahead_who_said_how_long_give_it_back():
    line = [lease(1, 10, ram=4), lease(2, 10, ram=4), lease(3, 10, ram=4)]
    assert starts(line, ram=4) == [100.0, 110.0, 120.0]


def test_those_ahead_who_did_not_keep_it_for_ever():
    line = [lease(1, ram=4), lease(2, ram=4), lease(3, cpu=1)]
    assert starts(line, ram=4, cpu=1) == [100.0, None, 100.0]


def test_what_is_set_aside_for_one_not_foretold_is_not_counted_on():
    line = [lease(1, ram=4, gpu=1), lease(2, ram=4)]
    assert starts(line, [(150.0, {"ram": 2})], ram=4, gpu=0) == [None, None]


def test_who_waits_for_one_thing_does_not_wait_for_another():
    """The first waits for ram till 200; the licence of the second is back at 150."""
    ends = [(150.0, {"licence": 1}), (200.0, {"ram": 4})]
    line = [lease(1, ram=4), lease(2, licence=1)]
    assert starts(line, ends, ram=0, licence=0) == [200.0, 150.0]


def test_who_waits_for_two_things_waits_for_the_later():
    ends = [(150.0, {"licence": 1}), (200.0, {"ram": 4})]
    assert starts([lease(1, ram=4, licence=1)], ends, ram=0, licence=0) == [200.0]


# Who may pass (model.md 8b); see also test_fairness.py.


def passes(resources, line, ends, length):
    """Whether the last in the line may pass."""
    *_, last = line
    last.ask = Ask(9, 1, Who(1, 1, 1), last.ask.amounts, length_s=length)
    return may_pass(
        last, last.ask.length_s, 100.0, stand(resources, *line), resources, ends
    )


def test_who_does_not_say_how_long_may_not_pass():
    books = ledgers(ram=Ledger("ram", 10, leased=9))
    line = [lease(1, ram=10), lease(2, ram=1)]
    ends = [(200.0, {"ram": 9})]
    assert passes(books, line, ends, 50.0)
    assert not passes(books, line, ends, None)


def test_who_may_start_before_the_end_may_not_be_passed():
    books = ledgers(ram=Ledger("ram", 10, leased=9))
    line = [lease(1, ram=10), lease(2, ram=1)]
    ends = [(150.0, {"ram": 5}), (200.0, {"ram": 4})]
    assert passes(books, line, ends, 100.0)
    assert not passes(books, line, ends, 101.0)


def test_who_loses_nothing_may_be_passed_whenever_he_may_start():
    """2 are there; the first needs 1 of them and a gpu that may be back soon."""
    books = ledgers(ram=Ledger("ram", 10, leased=8), gpu=Ledger("gpu", 1, leased=1))
    line = [lease(1, ram=1, gpu=1), lease(2, ram=10), lease(3, ram=1)]
    ends = [(200.0, {"ram": 8})]
    assert passes(books, line, ends, 50.0)


def test_who_waits_for_one_thing_holds_up_nobody_who_wants_another():
    """The first waits long for a gpu; the second may have its ram at any moment."""
    books = ledgers(ram=Ledger("ram", 10, leased=8), gpu=Ledger("gpu", 1, leased=1))
    line = [lease(1, gpu=1), lease(2, ram=3), lease(3, ram=2)]
    assert not passes(books, line, [(200.0, {"gpu": 1})], 50.0)
    assert passes(books, line, [(200.0, {"ram": 8})], 50.0)


def test_what_is_not_there_cannot_be_passed_with():
    books = ledgers(ram=Ledger("ram", 10, leased=9))
    line = [lease(1, ram=10), lease(2, ram=2)]
    assert not passes(books, line, [(200.0, {"ram": 9})], 50.0)


@pytest.mark.parametrize("small", [STEPS_MAX - 1, STEPS_MAX])
def test_looking_too_far_is_a_no(small):
    """Before the last stand many who wait long for something else."""
    books = ledgers(ram=Ledger("ram", 999, leased=998), gpu=Ledger("gpu", 1, leased=1))
    line = [lease(n, ram=1, gpu=1) for n in range(1, small + 1)]
    ends = [(200.0, {"gpu": 1})]
    assert passes(books, [*line, lease(999, ram=1)], ends, 50.0) == (small < STEPS_MAX)


def test_a_deep_line_is_passed_where_its_first_holds_up_all():
    books = ledgers(ram=Ledger("ram", 10, leased=9))
    line = [lease(n, ram=10 if n == 1 else 1) for n in range(1, 2 * STEPS_MAX)]
    assert passes(books, line, [(200.0, {"ram": 9})], 50.0)
