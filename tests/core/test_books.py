"""Facts that cannot have become true are not applied."""

import pytest

from holdingpen.core import facts as fact
from holdingpen.core.books import ENDED_MAX, Books
from holdingpen.core.facts import Ask, Moment, Who
from holdingpen.errors import BrokenInvariant

AT = Moment(1.0, 1001.0)


def ask(conn=1, number=1, **more):
    return Ask(conn, number, Who(1000, 1000, 1), {"ram": 4}, **more)


@pytest.fixture
def books():
    """A lease, 1; a promise, 2; and one who waits, 3."""
    books = Books()
    for what in (
        fact.ResourceSet("ram", 10),
        fact.Taken("ram", 0, 8),
        fact.Granted(1, AT, ask()),
        fact.Promised(2, {"ram": 4}, AT, ask(number=2)),
        fact.Joined(3, AT, ask(number=3)),
    ):
        books.apply(what)
    return books


@pytest.mark.parametrize(
    "what",
    [
        fact.Joined(3, AT, ask(number=4)),
        fact.Granted(1, AT),
        fact.Granted(9, AT),
        fact.Promised(1, {"ram": 4}, AT),
        fact.Promised(2, {"ram": 4}, AT),
        fact.Promised(9, {"ram": 4}, AT),
        fact.Ended(9, AT, "gone"),
        fact.Dropped(2, "disk"),
        fact.Dropped(1, "ram"),
        fact.Dropped(9, "ram"),
        fact.Shrunk(2, AT, 1, 9, {"ram": 1}),
        fact.Shrunk(9, AT, 1, 9, {"ram": 1}),
    ],
    ids=repr,
)
def test_what_contradicts_the_books_is_not_applied(books, what):
    with pytest.raises(BrokenInvariant):
        books.apply(what)


def test_a_lease_has_one_end(books):
    books.apply(fact.Ended(1, AT, "gone"))
    with pytest.raises(BrokenInvariant, match="lease 1 ended, but there is none"):
        books.apply(fact.Ended(1, AT, "gone"))


def test_the_last_that_ended_are_remembered():
    books = Books()
    books.apply(fact.ResourceSet("ram", 10))
    for number in range(1, ENDED_MAX + 3):
        books.apply(fact.Granted(number, AT, ask(number=number)))
        books.apply(fact.Ended(number, AT, "released"))
    assert list(books.ended) == list(range(3, ENDED_MAX + 3))


def test_a_user_with_nothing_is_forgotten(books):
    assert books.users == {1000: [2, 1]}
    for number in (1, 2, 3):
        books.apply(fact.Ended(number, AT, "gone"))
    assert (books.users, books.connections) == ({}, {})


def test_the_last_number_of_a_connection_does_not_sink(books):
    """Whoever resends 2 after 3 repeats himself."""
    books.apply(fact.Heard(1, 7))
    books.apply(fact.Joined(4, AT, ask(number=5)))
    assert books.connections[1].last == 7


def test_the_highest_connection_is_remembered():
    books = Books()
    books.apply(fact.ResourceSet("ram", 10))
    for number, conn in ((1, 5), (2, 3)):
        books.apply(fact.Joined(number, AT, ask(conn=conn)))
    assert books.last_conn == 5


def test_who_waits_by_the_clock_is_forgotten_when_he_starts():
    books = Books()
    books.apply(fact.ResourceSet("ram", 10))
    books.apply(fact.Joined(1, AT, ask(wait_s=5.0, length_s=7.0)))
    assert list(books.patience) == [(6.0, 1)]
    books.apply(fact.Granted(1, AT))
    assert (list(books.patience), list(books.known_ends)) == ([], [(8.0, 1)])
    books.apply(fact.Ended(1, AT, "gone"))
    assert list(books.known_ends) == []


def test_ballast_and_measurements_are_booked(books):
    for what in (
        fact.Taking("ram", 2),
        fact.Shed("ram", 1),
        fact.Seen("ram", 1, 2, 9.0),
        fact.Seen("ram", 1, 2),
        fact.CapacitySet("ram", 20, 0),
    ):
        books.apply(what)
    ram = books.resources["ram"]
    assert (ram.taking, ram.held, ram.capacity, ram.drawn) == (2, 3, 20, 4)
    assert (ram.settling, ram.foreign, ram.settle_by_s) == (1, 2, 9.0)


def test_what_ends_of_a_measured_resource_settles():
    books = Books()
    books.apply(fact.ResourceSet("ram", 10, measured=True))
    books.apply(fact.Granted(1, AT, ask()))
    books.apply(fact.Ended(1, AT, "gone"))
    ram = books.resources["ram"]
    assert (ram.leased, ram.settling, ram.settle_by_s) == (0, 4, 11.0)


def test_the_rest_is_noted(books):
    for what in (
        fact.Opened(AT, "boot"),
        fact.DrainSet("disks", 0),
        fact.Counted(90, 80),
        fact.Dropped(2, "ram"),
        fact.Granted(2, AT),
        fact.Left(77),
    ):
        books.apply(what)
    assert (books.boot_id, books.drain) == ("boot", "disks")
    assert (books.last_lease, books.last_conn) == (90, 80)
    assert books.leases[2].granted == AT


def test_those_who_wait_lose_their_cover_to_one_who_starts_at_once():
    """In the journal a grant may stand beside a line it was not judged against."""
    books = Books()
    books.apply(fact.ResourceSet("ram", 10))
    books.apply(fact.Joined(1, AT, ask()))
    assert list(books.line.ready) == [(0, 1)]
    for number in (2, 3):
        books.apply(fact.Granted(number, AT, ask(number=number)))
    assert list(books.line.ready) == []
