"""How those who wait stand."""

import pytest

from holdingpen.core.standings import (
    HOLDERS_LOOKED_AT,
    TELL_FIRST,
    WAITS_FOR_MAX,
    holders,
    standings,
)


def stand(pen, *requests, **more):
    found = standings(pen.books, pen.at, [x.lease for x in requests], **more)
    return [found[x.lease] for x in requests]


def test_place_reason_holders_and_time_are_told(pen):
    holder = pen.ask(ram=9, length=30)
    one, two = pen.ask(ram=4, length=10), pen.ask(ram=10)
    first, second = stand(pen, one, two)
    assert (first.place, second.place) == (1, 2)
    assert first.reason == "waits for 4 B ram (1 B there)"
    assert first.waits_for == second.waits_for == [holder.lease]
    assert first.expected_wall_s == pen.at.wall_s + 30
    assert second.expected_wall_s == pen.at.wall_s + 40


def test_who_depends_on_an_unknown_end_is_told_no_time(pen):
    pen.ask(ram=9)
    (only,) = stand(pen, pen.ask(ram=4))
    assert only.expected_wall_s is None


def test_no_time_is_told_while_the_pen_is_drained(pen):
    pen.ask(ram=9, length=30)
    one = pen.ask(ram=4)
    pen.drain()
    assert stand(pen, one)[0].expected_wall_s is None


def test_no_time_is_told_where_none_was_asked_for(pen):
    pen.ask(ram=9, length=30)
    one = pen.ask(ram=4)
    assert stand(pen, one, forecast=False)[0].expected_wall_s is None
    assert standings(pen.books, pen.at, []) == {}


def test_the_time_heeds_what_is_booked_too_much(pen):
    """Of the 6 that come back at 30 only 1 is lent again."""
    pen.ask(ram=6, length=30)
    pen.ask(ram=4, length=50)
    one = pen.ask(ram=3)
    pen.set("ram", 5)
    assert stand(pen, one)[0].expected_wall_s == pen.at.wall_s + 50


def test_a_time_is_told_to_the_first_only(pen, monkeypatch):
    monkeypatch.setattr("holdingpen.core.standings.TELL_FIRST", 2)
    assert TELL_FIRST >= 2
    pen.ask(ram=10, length=30)
    line = [pen.ask(ram=10, length=10) for _ in range(3)]
    times = [x.expected_wall_s for x in stand(pen, *line)]
    assert times == [pen.at.wall_s + 30, pen.at.wall_s + 40, None]


def test_those_who_hold_what_is_lacking_are_named_each_once(pen):
    pen.has("licence", 1)
    one = pen.ask(ram=5, licence=1)
    pen.ask(ram=0, amounts={})
    two = pen.ask(ram=5)
    known = {}
    assert holders(pen.books, ["licence", "ram"], known) == [one.lease, two.lease]
    assert known == {"licence": [one.lease], "ram": [one.lease, two.lease]}
    assert holders(pen.books, ["ram"], {"ram": [7]}) == [7]


@pytest.mark.parametrize("many", [WAITS_FOR_MAX + 2])
def test_only_the_first_few_are_named(pen, many):
    leases = [pen.ask(ram=1).lease for _ in range(many)]
    assert many < HOLDERS_LOOKED_AT
    assert holders(pen.books, ["ram"], {}) == leases[:WAITS_FOR_MAX]
