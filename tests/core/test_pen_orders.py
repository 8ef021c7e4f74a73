"""Orders, configuration, and starting after a crash."""

import pytest

from holdingpen.amounts import AMOUNT_MAX
from holdingpen.core import effects as do
from holdingpen.core import facts as fact


def test_set_changes_the_capacity(pen):
    assert pen.set("ram", 20) == [do.TellDone(99, 1)]
    assert pen.state(pen.ask(ram=20)) == "live"


def test_set_serves_the_line(pen):
    pen.ask(ram=10)
    one = pen.ask(ram=10)
    pen.set("ram", 20)
    assert pen.state(one) == "live"


def test_set_to_nothing_goes_back_to_what_is_configured(pen):
    pen.set("ram", 20)
    pen.set("ram", None)
    assert pen.ledger().capacity == 10


def test_set_survives_a_reload_and_a_restart(pen):
    pen.set("ram", 20)
    pen.reload()
    pen.restart()
    assert pen.ledger().capacity == 20


@pytest.mark.parametrize(
    ("resource", "capacity", "uid", "code"),
    [
        ("ram", 20, 1000, "not-permitted"),
        ("rma", 20, 0, "unknown-resource"),
        ("machine", 2, 0, "unknown-resource"),
        ("ram", -1, 0, "bad-amount"),
        ("ram", AMOUNT_MAX + 1, 0, "bad-amount"),
    ],
)
def test_a_set_that_makes_no_sense_is_refused(pen, resource, capacity, uid, code):
    pen.set(resource, capacity, uid)
    assert (pen.refusal(), pen.facts) == (code, [])


def test_while_draining_nothing_new_starts(pen):
    assert pen.drain("new disks") == [do.TellDone(99, 1)]
    one = pen.ask(ram=1)
    assert pen.state(one) == "waiting"
    assert pen.said(do.TellWaiting)[0].reason == "nothing new starts: new disks"


def test_while_draining_who_will_not_wait_is_refused(pen):
    pen.drain()
    pen.ask(ram=1, wait=0)
    assert pen.refusal() == "not-now"
    assert "the pen is being drained" in pen.said(do.TellRefused)[0].message


def test_draining_ends_nobody(pen):
    one = pen.ask(ram=1)
    pen.drain()
    assert pen.state(one) == "live"


def test_while_draining_what_is_promised_is_granted(pen):
    pen.has("ram", 10, hold=4)
    pen.fill()
    one = pen.ask(ram=1)
    pen.drain()
    pen.dropped()
    assert pen.state(one) == "live"


def test_while_draining_waits_can_be_over(pen):
    pen.drain()
    one = pen.ask(ram=1, wait=5)
    pen.sleep(5)
    assert pen.state(one) == "ended"


def test_undrain_serves_the_line(pen):
    pen.drain()
    one = pen.ask(ram=1)
    pen.drain(None)
    assert pen.state(one) == "live"


def test_those_who_wait_are_told_that_the_pen_is_drained(pen):
    pen.ask(ram=10)
    pen.ask(ram=10)
    pen.sleep(5)
    pen.drain("new disks")
    (told,) = pen.said(do.TellWaiting, pen.sleep(1))
    assert told.reason == "nothing new starts: new disks"


def test_only_operators_drain(pen):
    pen.drain(uid=1000)
    assert (pen.refusal(), pen.facts) == ("not-permitted", [])


def test_a_drain_survives_a_restart(pen):
    pen.drain("new disks")
    pen.restart()
    assert pen.books.drain == "new disks"


# Configuration.


def test_the_same_configuration_again_changes_nothing(pen):
    pen.has("ram", 10, hold=4, unit=2, measured=True)
    pen.fill()
    assert pen.reload() == [do.Measure("ram")]
    assert pen.facts == []


def test_a_reload_may_change_a_resource(pen):
    pen.has("ram", 20)
    assert pen.facts == [fact.ResourceSet("ram", 20)]


def test_a_resource_no_longer_configured_cannot_be_asked_for(pen):
    pen.has("licence", 3)
    one = pen.ask(licence=1)
    del pen.resources["licence"]
    pen.reload()
    assert pen.state(one) == "live"
    pen.ask(licence=1)
    assert pen.refusal() == "never-fits"


def test_a_resource_is_removed_once(pen):
    pen.has("licence", 3)
    del pen.resources["licence"]
    pen.reload()
    pen.reload()
    assert pen.facts == []


def test_a_resource_no_longer_configured_gives_its_ballast_up(pen):
    pen.has("disk", 10, hold=10)
    pen.fill()
    del pen.resources["disk"]
    assert pen.reload() == [do.DropBallast("disk", 10, 0)]


def test_a_resource_no_longer_configured_is_not_lent_because_somebody_set_it(pen):
    pen.has("licence", 3)
    pen.set("licence", 5)
    del pen.resources["licence"]
    pen.reload()
    assert pen.ledger("licence").capacity == 0


def test_a_resource_no_longer_configured_is_not_measured(pen):
    pen.has("vram", 10, measured=True)
    del pen.resources["vram"]
    pen.reload()
    assert pen.sleep(60) == []


def test_a_resource_no_longer_configured_has_no_foreign_use(pen):
    pen.has("vram", 1000, measured=True)
    pen.measured(outside=300, name="vram")
    del pen.resources["vram"]
    pen.reload()
    assert pen.ledger("vram").foreign == 0


def test_a_resource_no_longer_measured_keeps_nothing_back(pen):
    """Nobody would ever say that it is free."""
    pen.has("ram", 1000, measured=True)
    pen.measured(outside=300)
    pen.gone(pen.ask(ram=500))
    pen.has("ram", 1000, measured=False)
    assert pen.ledger().free == 1000


def test_a_measurement_that_comes_too_late_is_not_booked(pen):
    pen.has("ram", 1000, measured=True)
    pen.has("ram", 1000, measured=False)
    pen.measured(outside=300)
    assert (pen.facts, pen.ledger().free) == ([], 1000)
    assert pen.sleep(60) == []


# After a crash.


def test_a_start_after_a_crash_ends_leases_whose_connection_is_gone(pen):
    one, two = pen.ask(ram=4), pen.ask(ram=4)
    waits = pen.ask(ram=4)
    pen.restart(conns={two.conn})
    assert [pen.state(x) for x in (one, two, waits)] == ["ended", "live", "ended"]
    assert pen.books.ended[one.lease].why == "daemon-restarted"


def test_a_start_serves_those_whose_connection_survived(pen):
    pen.ask(ram=8)
    waits = pen.ask(ram=4)
    started = pen.restart(conns={waits.conn})
    assert [told.lease for told in pen.said(do.TellGranted, started)] == [waits.lease]


def test_a_promise_is_kept_after_a_crash(pen):
    """The ballast went with the daemon: it is free already."""
    pen.has("ram", 10, hold=6)
    pen.fill()
    one = pen.ask(ram=4)
    started = pen.restart(conns={one.conn})
    assert [told.lease for told in pen.said(do.TellGranted, started)] == [one.lease]


def test_ids_grow_over_restarts(pen):
    one = pen.ask(ram=4)
    pen.restart()
    assert pen.ask(ram=4).lease == one.lease + 1
    assert pen.books.last_conn >= one.conn


def test_ballast_is_taken_anew_after_a_crash(pen):
    pen.has("ram", 10, hold=6)
    pen.fill()
    pen.restart()
    assert (pen.ledger().held, pen.takes) == (0, [do.TakeBallast("ram", 6)])


def test_a_slice_that_was_being_taken_is_free_after_a_crash(pen):
    pen.has("ram", 10, hold=6)
    pen.restart()
    assert pen.ledger().taking == 6
    pen.taken()
    assert pen.ledger().held == 6


def test_a_connection_that_only_released_is_forgotten_after_a_crash(pen):
    one = pen.ask(ram=4)
    pen.release(one)
    pen.restart()
    assert pen.books.connections == {}


def test_what_was_settling_has_settled_after_a_crash(pen):
    pen.has("ram", 1000, measured=True)
    pen.gone(pen.ask(ram=500))
    pen.restart()
    assert pen.ledger().settling == 0


def test_a_refusal_of_the_machine_is_forgotten_with_the_boot(pen):
    """The clock begins anew: the old moment may be days ahead."""
    pen.has("ram", 10, hold=6)
    pen.taken(0)
    pen.now_s = 1.0
    pen.restart(boot_id="next")
    assert pen.takes == [do.TakeBallast("ram", 6)]


def test_the_start_is_a_fact(pen):
    pen.restart(boot_id="next")
    assert fact.Opened(pen.at, "next") in pen.log
    assert pen.books.boot_id == "next"


def test_a_request_sent_again_to_the_next_daemon_is_not_carried_out_twice(pen):
    pen.ask(ram=8)
    waits = pen.ask(ram=4, wait=60)
    pen.restart(conns=pen.books.connections.keys())
    (told,) = pen.said(do.TellWaiting, pen.again(waits, ram=4, wait=60))
    assert told.lease == waits.lease


def test_who_can_never_start_any_more_is_told_so_and_does_not_stand_in_the_way(pen):
    """An administrator lowers a capacity while somebody waits for more than that."""
    one = pen.ask(ram=8)
    big = pen.ask(ram=9)
    small = pen.ask(ram=3)
    effects = pen.set("ram", 8)
    assert [(x.conn, x.code) for x in effects if type(x) is do.TellRefused] == [
        (big.conn, "never-fits")
    ]
    assert pen.books.ended[big.lease].why == "never-fits"
    pen.gone(one)
    assert pen.state(small) == "live"
