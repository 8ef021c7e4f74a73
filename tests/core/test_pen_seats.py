"""Who sits at the machine: for what reasons, until when, and what becomes of it."""

import pytest

from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import LOGIND, Who
from holdingpen.core.leases import Why
from holdingpen.core.rights import Rules

ADA, BOB = 1001, 1002


@pytest.fixture
def pen(play):
    pen = play(Rules(seat_ends=True))
    pen.has("ram", 20)
    return pen


def order(pen, uid=ADA, on=True, session=""):
    pen.play(ev.SeatAsked(pen.at, 97, 1, Who(0, 0, 1), uid, on, session=session))


def see(pen, *uids, away=(), over=()):
    there = frozenset({*uids, *away})
    pen.play(ev.SeatsSeen(pen.at, frozenset(uids), there, frozenset(over)))


def test_who_logs_in_sits_here_until_he_logs_out(pen):
    see(pen, ADA)
    assert pen.books.seated == {ADA}
    see(pen, BOB, away=(ADA,))
    assert pen.books.seated == {BOB}
    see(pen)
    assert pen.books.seated == set()


def test_what_has_not_changed_is_not_written_down(pen):
    see(pen, ADA)
    facts = len(pen.log)
    see(pen, ADA, away=(BOB,))
    assert len(pen.log) == facts


def test_a_grant_stays_when_logind_sees_nobody(pen):
    order(pen)
    see(pen, ADA)
    see(pen)
    assert pen.books.seats == {(ADA, "")}
    order(pen, on=False)
    assert pen.books.seated == set()


def test_a_revoke_leaves_what_logind_says(pen):
    see(pen, ADA)
    order(pen)
    order(pen, on=False)
    assert pen.books.seats == {(ADA, LOGIND)}


def test_a_grant_from_a_session_ends_with_it_and_no_other_does(pen):
    order(pen, session="c1")
    order(pen, BOB, session="c2")
    see(pen, over=[(ADA, "c1")])
    assert pen.books.seats == {(BOB, "c2")}


def test_a_revoke_ends_all_grants(pen):
    order(pen, session="c1")
    order(pen)
    order(pen, on=False)
    assert pen.books.seats == set()


def test_a_login_that_ended_while_no_daemon_ran_leaves_nobody_here(pen):
    pen.restart(boot_id="one")
    see(pen, ADA)
    order(pen, BOB)
    pen.restart(boot_id="one")
    see(pen)
    assert pen.books.seats == {(BOB, "")}


def test_a_reboot_ends_them_all(pen):
    pen.restart(boot_id="one")
    see(pen, ADA)
    order(pen)
    order(pen, BOB, session="c1")
    pen.restart(boot_id="two")
    assert pen.books.seats == set()


# What was asked for at the machine.


def test_at_logout_it_ends_if_the_administrator_says_so(pen):
    before = pen.ask(ram=1, uid=ADA)
    see(pen, ADA)
    mine = pen.ask(ram=18, uid=ADA)
    others = pen.ask(ram=1, uid=BOB)
    waits = pen.ask(ram=2, uid=ADA)
    see(pen)
    assert [pen.state(x) for x in (before, others)] == ["live", "live"]
    assert [pen.books.ended[x.lease].why for x in (mine, waits)] == [Why.LOGGED_OUT] * 2
    assert [x.lease for x in pen.said(do.TellEnded)] == [mine.lease]
    assert pen.refusal() == "not-now"


def test_else_it_runs_on_with_the_priority_it_has(play):
    pen = play()
    pen.has("ram", 20)
    see(pen, ADA)
    mine = pen.ask(ram=20, uid=ADA)
    waits = pen.ask(ram=1, uid=ADA)
    see(pen)
    assert (pen.state(mine), pen.waiting()) == ("live", [waits.lease])
    assert pen.books.leases[waits.lease].ask.priority == 100


def test_a_switch_to_another_user_ends_nothing(pen):
    see(pen, ADA)
    mine = pen.ask(ram=1, uid=ADA)
    see(pen, BOB, away=(ADA,))
    assert pen.state(mine) == "live"
    see(pen, BOB)
    assert pen.state(mine) == "ended"


def test_a_revoke_is_a_logout_where_logind_knows_of_none(pen):
    order(pen)
    mine = pen.ask(ram=1, uid=ADA)
    order(pen, on=False)
    assert pen.state(mine) == "ended"


def test_who_has_a_grant_besides_his_login_has_not_left(pen):
    order(pen)
    see(pen, ADA)
    mine = pen.ask(ram=1, uid=ADA)
    see(pen)
    assert pen.state(mine) == "live"


def test_a_reservation_is_for_when_nobody_is_there(pen):
    see(pen, ADA)
    pen.ask(lasts=60.0, uid=ADA, ram=4)
    see(pen)
    assert [x.reservation for x in pen.books.leases.values()] == [True]


def test_a_logout_while_no_daemon_ran_is_made_up_for(pen):
    pen.restart(boot_id="one")
    see(pen, ADA)
    mine = pen.ask(ram=1, uid=ADA)
    pen.restart(conns=(mine.conn,), boot_id="one")
    assert pen.state(mine) == "live"
    see(pen)
    assert pen.state(mine) == "ended"
