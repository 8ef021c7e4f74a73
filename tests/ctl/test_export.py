"""Status for scripts: the JSON and the fields that interface.md promises."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.ctl import export
from holdingpen.errors import LocalMistake
from holdingpen.wire import messages as wire

GIB = 2**30

PROMISED = {
    "": {"version", "daemon", "resources", "devices", "leases", "line"},
    "daemon": {"version", "since", "socket"},
    "resource": {"capacity", "free", "held", "leased", "settling", "foreign"},
    "lease": {
        *("id", "kind", "user", "uid", "pid", "command", "amounts", "devices"),
        *("priority", "reclaimable", "reclaim_requested", "label", "reason"),
        *("since", "expires", "handover"),
    },
    "waiter": {
        *("id", "place", "user", "uid", "pid", "command", "amounts", "priority"),
        *("since", "waits_for", "expected"),
    },
}


def name(uid):
    return {1000: "ada", 1001: "bob"}.get(uid, str(uid))


def test_status_has_every_key_that_was_promised(busy):
    page = export.status_object(busy, name)
    assert page.keys() >= PROMISED[""]
    assert page["daemon"].keys() >= PROMISED["daemon"]
    assert page["resources"]["ram"].keys() >= PROMISED["resource"]
    assert all(lease.keys() >= PROMISED["lease"] for lease in page["leases"])
    assert all(waiter.keys() >= PROMISED["waiter"] for waiter in page["line"])


def test_a_reservation_is_a_lease_of_its_kind(reserving):
    page = export.status_object(reserving, name)
    about = ("id", "kind", "starts", "expires", "inside", "idle", "gid")
    assert [tuple(lease[key] for key in about) for lease in page["leases"]] == [
        (30, "reservation", 2800.0, 17_200.0, None, False, 100),
        (31, "connection", None, None, 30, False, None),
        (32, "reservation", 2000.0, 10_600.0, None, True, None),
    ]
    assert [waiter["kind"] for waiter in page["line"]] == ["reservation"]


def test_who_is_asked_back_is_shown(reserving):
    leases = export.status_object(reserving, name)["leases"]
    about = ("reclaim_requested", "asked_back_since", "asked_back_for", "unyielding")
    assert [tuple(lease[key] for key in about) for lease in leases] == [
        (False, None, None, False),
        (True, 9960.0, 34, True),
        (False, None, None, False),
    ]


def test_what_is_reserved_ahead_stands_apart_the_next_first(reserving):
    page = export.status_object(reserving, name)
    about = ("id", "state", "series", "made_by")
    assert [tuple(lease[key] for key in about) for lease in page["ahead"]] == [
        (40, "booked", 40, "0"),
        (41, "booked", 40, "0"),
    ]
    assert page["seated"] == [{"user": "ada", "uid": 1000}]


def test_leases_are_the_promised_and_the_live(busy):
    leases = export.status_object(busy, name)["leases"]
    assert [(lease["id"], lease["user"], lease["since"]) for lease in leases] == [
        (17, "ada", 2800.0),
        (21, "bob", 9999.0),
    ]


def test_the_line_stands_in_the_order_of_places(busy):
    line = export.status_object(busy, name)["line"]
    assert [(one["place"], one["id"], one["since"]) for one in line] == [
        (1, 20, 9300.0),
        (2, 18, 9000.0),
    ]


def test_the_resources_are_all_that_the_daemon_names(busy):
    resources = export.status_object(busy, name)["resources"]
    assert list(resources) == ["machine", "ram", "cpu"]


def test_what_it_says_beyond_the_promise(status):
    page = export.status_object(status(drain="soon", troubles=["no room"]), name)
    assert (page["now"], page["drain"], page["troubles"]) == (
        10_000.0,
        "soon",
        ["no room"],
    )


@given(st.text())
def test_json_is_one_line_that_orders_a_terminal_nothing(text):
    line = export.json_line({"label": text})
    assert line.isprintable()
    assert json.loads(line) == {"label": text}


def test_json_escapes_what_is_not_printable_and_leaves_the_rest():
    answer = {"label": "Größe \x1b[31m \x9b \u202e 🦊\U000e0041"}
    assert export.json_line(answer) == (
        '{"label":"Größe \\u001b[31m \\u009b \\u202e 🦊\\udb40\\udc41"}'
    )


def test_a_length_without_end_is_null():
    assert export.json_line({"expires": float("inf")}) == '{"expires":null}'


FIELDS = [
    ("ram.free", str(14 * GIB)),
    ("ram.free,ram.held,leases,line", f"{14 * GIB}\t{8 * GIB}\t2\t2"),
    ("ahead", "0"),
    ("cpu.capacity, cpu.leased", "8\t2"),
    ("machine.free", "0"),
    ("reserved,draining,troubles", "false\tfalse\t0"),
    ("version,since,socket", "0.1.0\t1000.0\t/run/holdingpen.socket"),
]


@pytest.mark.parametrize(("wanted", "line"), FIELDS)
def test_fields_stand_in_the_order_asked_for(busy, wanted, line):
    assert export.fields(busy, wanted) == line


@pytest.mark.parametrize("wanted", ["", "ram", "ram.hold", "leases,"])
def test_an_unknown_field_is_told_which_there_are(busy, wanted):
    with pytest.raises(LocalMistake, match=r"it has: machine\.capacity.*socket"):
        export.fields(busy, wanted)


@pytest.mark.parametrize(
    ("state", "amounts", "answer"),
    [
        ("live", {"machine": 1}, True),
        ("promised", {"machine": 1, "ram": 1}, True),
        ("waiting", {"machine": 1}, False),
        ("live", {"ram": 1}, False),
        ("booked", {"machine": 1}, False),
    ],
)
def test_reserved_is_who_has_the_whole_machine(status, state, amounts, answer):
    lease = wire.LeaseInfo(1, state, 0, 1, amounts, 1.0)
    assert export.reserved(status(leases=[lease])) is answer


def test_a_story_has_null_for_what_has_not_come():
    lease = wire.LeaseInfo(7, "waiting", 1000, 1, {"ram": 1}, 5.0, place=1)
    story = export.story_object(lease, name)["lease"]
    assert {key: story[key] for key in ("granted", "ended", "why_ended", "place")} == {
        "granted": None,
        "ended": None,
        "why_ended": None,
        "place": 1,
    }


def test_a_story_names_who_ended_it():
    lease = wire.LeaseInfo(
        7, "ended", 1000, 1, {}, 5.0, ended=9.0, why_ended="ordered", ended_by=1001
    )
    assert export.story_object(lease, name)["lease"]["ended_by"] == "bob"
