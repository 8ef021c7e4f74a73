"""The checker finds each way in which books can be wrong."""

import pytest

from holdingpen.core import checks
from holdingpen.core.leases import ENDED, LIVE
from holdingpen.errors import BrokenInvariant


@pytest.fixture
def books(new_player):
    """1 live, 2 promised, 3 and 4 waiting, 5 ended, 6 ready but for the drain."""
    pen = new_player()
    pen.has("ram", 20, hold=4, unit=2)
    pen.fill()
    pen.ask(ram=6, length=9)
    pen.dropped()
    pen.has("disk", 2, hold=2)
    pen.fill()
    pen.ask(disk=2)
    pen.ask(ram=20)
    pen.ask(ram=1, wait=9)
    pen.release(pen.ask(disk=1))
    pen.drain()
    pen.ask(ram=1, priority=9)
    checks.check(pen.books)
    return pen.books


def live(books):
    return books.leases[1]


def ram(books):
    return books.resources["ram"]


def forget_held(books):
    del books.held[1]


def free_below_zero(books):
    ram(books).settling = -1


def booked_twice(books):
    ram(books).leased += 1


def drawn_twice(books):
    ram(books).drawn += 2


def odd_ballast(books):
    ram(books).held += 1


def wrong_id(books):
    live(books).id = 77


def id_not_given_out(books):
    books.last_lease = 3


def wrong_state(books):
    live(books).state = ENDED


def wrong_needs(books):
    live(books).needs = {"ram": 7}


def live_without_grant(books):
    live(books).granted = None


def waits_for_ballast_although_live(books):
    live(books).dropping = ["ram"]


def miscounted_user(books):
    books.users[1000][0] += 1


def unknown_number(books):
    books.connections[1].leases.clear()


def unknown_end(books):
    books.known_ends.clear()


def patience_lost(books):
    books.patience.clear()


def ended_but_live(books):
    books.ended[5].state = LIVE


def ended_without_end(books):
    books.ended[5].ended = None


def line_out_of_order(books):
    books.line.order.clear()


def wrongly_covered(books):
    lane = books.line.lanes["ram"]
    lane.covered.add(lane.behind.pop())


def wrongly_ready(books):
    books.line.ready.add((0, 3))


def miscounted_lane(books):
    books.line.lanes["ram"].total += 1


def miscounted_cover(books):
    books.line.lanes["machine"].covered_sum += 1


def lane_of_nobody(books):
    books.line.lanes["gpu"] = books.line.lanes["ram"]


def too_many_remembered(books):
    books.ended |= dict.fromkeys(range(900, 1200), books.ended[5])


FAULTS = [
    forget_held,
    free_below_zero,
    booked_twice,
    drawn_twice,
    odd_ballast,
    wrong_id,
    id_not_given_out,
    wrong_state,
    wrong_needs,
    live_without_grant,
    waits_for_ballast_although_live,
    miscounted_user,
    unknown_number,
    unknown_end,
    patience_lost,
    ended_but_live,
    ended_without_end,
    line_out_of_order,
    wrongly_covered,
    wrongly_ready,
    lane_of_nobody,
    miscounted_lane,
    miscounted_cover,
    too_many_remembered,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_books_is_found(books, fault):
    fault(books)
    with pytest.raises(BrokenInvariant):
        checks.check(books)


#: What follows from the rest.
HIDDEN = (forget_held, miscounted_lane, miscounted_cover)
VISIBLE = [x for x in FAULTS if x not in HIDDEN]


@pytest.mark.parametrize("fault", VISIBLE)
def test_different_books_look_different(books, fault):
    before = checks.view(books)
    fault(books)
    assert checks.view(books) != before
