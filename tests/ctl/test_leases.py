"""holdingpenctl list, queue and why."""

import json

import pytest
from msgspec.structs import replace

from holdingpen.wire import messages as wire


@pytest.fixture
def daemon(serve, busy):
    """It knows the leases of `busy`."""

    def answer(request):
        match request:
            case wire.GetStatus(id=number):
                return [replace(busy, id=number)]
            case wire.GetStory(id=number, lease=17):
                return [wire.Story(number, busy.leases[0])]
            case wire.GetStory(id=number):
                why = f"there is no lease {request.lease}."
                return [wire.Refused(number, "no-such-lease", why)]
        return []

    return serve(answer)


def test_list_has_a_line_for_each_lease(ctl, daemon):
    assert ctl("list") == (
        0,
        "ID  USER  AMOUNTS           FOR    ENDS  NOTE         COMMAND\n"
        "17  ada   32.0G ram, 2 cpu   2h  in 40m  reclaimable  "
        "whisper: matlab -batch simulation\n"
        "21  bob   8.0G ram                       starting     python x.py\n",
        "",
    )


def test_queue_has_a_line_for_each_who_waits(ctl, daemon):
    assert ctl("queue") == (
        0,
        "PLACE  ID  USER  WANTS          WAITED  EXPECTED  AFTER   WHY\n"
        "    1  20  root  60.0G ram      11m40s    in 40m  17      "
        "60.0 GiB ram; 22.0 are there\n"
        "    2  18  bob   whole machine  16m40s   unknown  17, 21\n",
        "",
    )


def test_list_and_queue_have_json_with_a_version(ctl, daemon):
    leases = json.loads(ctl("list", "--json")[1])
    line = json.loads(ctl("queue", "--json")[1])
    assert (leases["version"], [a["id"] for a in leases["leases"]]) == (1, [17, 21])
    assert (line["version"], [a["id"] for a in line["line"]]) == (1, [20, 18])


@pytest.fixture
def ahead(telling, reserving):
    return telling(reserving)


def test_list_has_reservations_and_what_draws_on_them(ctl, ahead):
    exit_status, out, err = ctl("list")
    assert (exit_status, err) == (0, "")
    assert [line.split()[:4] for line in out.splitlines()] == [
        ["ID", "USER", "KIND", "AMOUNTS"],
        ["30", "ada", "reserved", "16.0G"],
        ["31", "ada", "in", "30"],
        ["32", "bob", "reserved", "2"],
    ]


@pytest.fixture
def due(reserving):
    """The same, and one that begins in 20 seconds."""
    lease = wire.LeaseInfo(
        42,
        "waiting",
        1000,
        4260,
        {"machine": 1},
        2000.0,
        kind="reservation",
        starts=10_020.0,
        expires=10_080.0,
        reason="timing",
        place=1,
        waits_for=[30],
        waits_why="waits for 2.0 GiB ram (1.0 GiB there)",
    )
    return replace(reserving, leases=[*reserving.leases, lease])


def test_list_shows_what_is_ahead_the_next_on_top(ctl, ahead):
    assert ctl("list", "--ahead") == (
        0,
        "ID  USER  AMOUNTS        RESERVED AHEAD       BEGINS  FOR WHAT\n"
        "40  ada   whole machine  <96400>-<103600>      in 1d  Algorithms (course)\n"
        "41  ada   whole machine  <700000>-<707200>  in 7d23h  Algorithms (course)\n",
        "",
    )


def test_one_that_is_due_is_ahead_and_in_the_line(ctl, telling, due):
    telling(due, due, due)
    assert ctl("list", "--ahead")[1].splitlines()[:3] == [
        "ID  USER  AMOUNTS        RESERVED AHEAD             BEGINS  FOR WHAT",
        "42  ada   whole machine  <10020>-<10080>    about to begin  timing",
        "40  ada   whole machine  <96400>-<103600>            in 1d  "
        "Algorithms (course)",
    ]
    page = ctl("status")[1]
    assert "42  ada   whole machine  <10020>-<10080>    about to begin  timing" in page
    (place,) = (a for a in page.splitlines() if a.startswith("    1  42  "))
    # not for how long it waits: it was booked long before it stood in the line
    assert place.split()[2:8] == [
        "ada",
        "reserved",
        "whole",
        "machine",
        "unknown",
        "30",
    ]
    assert ctl("status", "--short")[1].endswith(", 2 waiting, 3 reserved ahead\n")


def test_scripts_find_it_ahead_by_its_state(ctl, telling, due):
    telling(due)
    page = json.loads(ctl("list", "--ahead", "--json")[1])
    assert [(a["id"], a["state"]) for a in page["ahead"]] == [
        (42, "waiting"),
        (40, "booked"),
        (41, "booked"),
    ]


def test_nothing_ahead_is_said(ctl, telling, busy):
    telling(busy)
    assert ctl("list", "--ahead") == (0, "Nothing is reserved ahead.\n", "")


def test_what_is_ahead_has_json_of_its_own(ctl, ahead):
    page = json.loads(ctl("list", "--ahead", "--json")[1])
    assert page["version"] == 1
    assert [(a["id"], a["state"], a["starts"]) for a in page["ahead"]] == [
        (40, "booked", 96_400.0),
        (41, "booked", 700_000.0),
    ]


def test_a_reservation_may_wait_in_the_line(ctl, ahead):
    assert ctl("queue") == (
        0,
        "PLACE  ID  USER  KIND      WANTS          WAITED  EXPECTED  AFTER\n"
        "    1  34  root  reserved  whole machine  16m40s   unknown  30, 31\n",
        "",
    )


def test_why_tells_the_story(ctl, daemon):
    exit_status, out, err = ctl("why", "17")
    assert (exit_status, err) == (0, "")
    assert out.startswith("Lease 17 is live.\n")
    assert "asked for 32.0 GiB ram, 2 cpu by ada (uid 1000, pid 4242)" in out


def test_why_tells_it_to_scripts_too(ctl, daemon):
    story = json.loads(ctl("why", "17", "--json")[1])
    assert (story["version"], story["lease"]["granted"]) == (1, 2800.0)


def test_why_of_no_lease_is_no(ctl, daemon):
    assert ctl("why", "99") == (1, "", "holdingpenctl: there is no lease 99.\n")
