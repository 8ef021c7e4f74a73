"""A daemon that starts: what is still true of what the last one had promised."""

from __future__ import annotations

import pytest

from holdingpen.core import effects as do
from holdingpen.core.handover import FREE, Choice
from holdingpen.core.rights import Rules

PACED = {"ram": {"as-is": Choice("paced")}}


@pytest.fixture
def pen(play):
    """20 bytes of ram, 8 of them held back, that are paced."""
    pen = play(Rules(handover=PACED))
    pen.has("ram", 20, hold=8, measured=True)
    pen.fill()
    return pen


def granted(pen, **amounts):
    one = pen.ask(**amounts)
    pen.dropped()
    return one


def test_ballast_that_is_found_is_held_and_not_taken_again(pen):
    started = pen.restart(found=["ram"])
    assert (pen.ledger().held, pen.takes) == (8, [])
    assert started == []


def test_what_is_not_found_of_it_is_taken_again(pen):
    pen._occupied["ram"] = 5
    pen.restart(found=["ram"])
    assert [take.amount for take in pen.takes] == [3]


def test_a_lease_that_still_has_what_was_kept_has_lost_nothing(pen):
    one = granted(pen, ram=4)
    started = pen.restart([one.conn], found=["ram"])
    assert pen.books.leases[one.lease].how == {"ram": "paced"}
    (told,) = pen.said(do.TellGranted, started)
    assert (told.lease, told.handover) == (one.lease, "bounded")
    pen.gone(one)
    pen.back()
    assert pen.ledger().held == 8


def test_a_lease_whose_part_is_not_found_is_best_effort(pen):
    one, two = granted(pen, ram=4), granted(pen, ram=2)
    del pen.kept["ram", two.lease]
    pen.restart([one.conn, two.conn], found=["ram"])
    hows = [pen.books.leases[x.lease].how["ram"] for x in (one, two)]
    assert hows == ["paced", FREE]


def test_the_part_of_a_lease_that_ended_meanwhile_is_asked_for(pen):
    one = granted(pen, ram=4)
    started = pen.restart(found=["ram"])
    assert pen.said(do.TakeBack, started) == [do.TakeBack("ram", one.lease)]
    pen.back()
    assert (pen.ledger().held, pen.books.coming) == (8, {})


def test_what_the_last_one_had_asked_for_is_asked_for_once_more(pen):
    one = granted(pen, ram=4)
    pen.gone(one)
    started = pen.restart(found=["ram"])
    assert pen.said(do.TakeBack, started) == [do.TakeBack("ram", one.lease)]
    # until it is there it is neither free nor held
    assert pen.ledger().settling == 4
    pen.back()
    assert (pen.ledger().held, pen.ledger().settling, pen.books.coming) == (8, 0, {})


def test_it_is_owed_for_ever_by_nobody(pen):
    one = granted(pen, ram=4)
    pen.gone(one)
    pen.restart()
    assert (pen.books.coming, pen.ledger().settling) == ({}, 0)


def test_what_is_reserved_is_found_with_the_machine_s(play):
    pen = play()
    pen.has("ram", 20, hold=8)
    pen.fill()
    pen.ask(lasts=100.0, ram=6)
    pen.fill()
    assert (pen.ledger("ram@1").held, pen.ledger().held) == (6, 2)
    pen.restart(found=["ram"])
    assert (pen.ledger("ram@1").held, pen.ledger().held) == (6, 2)
    pen._occupied["ram"] = 7
    pen.restart(found=["ram"])
    assert pen.held() == 7


def not_yet(pen, name, amount):
    """The daemon died before it had begun to make it ready: it is still held."""
    pen.kept.clear()
    pen._occupied[name] += amount


@pytest.fixture
def with_disk(play):
    """8 bytes of a disk are held back, and handed over as images; 8 of ram."""
    handover = {"disk.a": {"as-is": Choice("image")}, **PACED}
    pen = play(Rules(handover=handover))
    pen.has("ram", 20, hold=8, measured=True)
    pen.has("disk.a", 20, hold=8, measured=True)
    pen.fill()
    return pen


def test_an_image_that_was_being_made_is_made_anew(with_disk):
    one = with_disk.ask(amounts={"disk.a": 4})
    not_yet(with_disk, "disk.a", 4)
    started = with_disk.restart([one.conn], found=["disk.a"])
    (again,) = with_disk.said(do.Prepare, started)
    assert (again.lease, again.amount, again.need, again.how) == (1, 4, 4, "image")
    assert again.who == with_disk.books.leases[1].ask.who
    assert with_disk.said(do.TellGranted, started) == []
    (told,) = with_disk.said(do.TellGranted, with_disk.dropped(place="/there"))
    assert (told.places, told.handover) == ({"disk.a": "/there"}, "exact")


def test_memory_that_was_not_yet_kept_is_kept_anew(pen):
    one = pen.ask(ram=4)
    not_yet(pen, "ram", 4)
    started = pen.restart([one.conn], found=["ram"])
    (again,) = pen.said(do.Prepare, started)
    assert (again.resource, again.amount, again.how) == ("ram", 4, "paced")
    assert pen.said(do.TellGranted, pen.dropped())
    assert pen.books.leases[one.lease].how == {"ram": "paced"}


def test_what_else_its_lease_waited_for_is_ready(with_disk):
    one = with_disk.ask(amounts={"ram": 4, "disk.a": 4})
    not_yet(with_disk, "disk.a", 4)
    with_disk.restart([one.conn], found=["disk.a"])
    assert with_disk.books.leases[one.lease].dropping == ["disk.a"]
    assert with_disk.books.leases[one.lease].how["ram"] == FREE


def test_where_no_hand_goes_on_nothing_is_made_anew(with_disk):
    one = with_disk.ask(amounts={"disk.a": 4})
    started = with_disk.restart([one.conn])
    assert with_disk.said(do.Prepare, started) == []
    assert with_disk.books.leases[one.lease].state == "live"
