"""holdingpenctl report."""

import json

import pytest

from holdingpen.ctl import report
from holdingpen.wire import messages as wire

GIBH = 2**30 * 3600.0
REPORT = wire.Report(
    1,
    0.0,
    10_000.0,
    [
        wire.Usage(
            1001,
            {"cpu": 20 * 3600.0, "ram": 100 * GIBH},
            {"cpu": 0.4, "ram": 0.2},
            140,
            left=1,
            waited_mean_s=400.0,
            waited_max_s=30_000.0,
        ),
        wire.Usage(
            1000,
            {"ram": 400 * GIBH, "cpu": 30 * 3600.0},
            {"ram": 0.8, "cpu": 0.6},
            12,
            2,
            waited_mean_s=40.0,
            waited_max_s=3000.0,
        ),
        wire.Usage(7, left=3),
    ],
    wire.Usage(
        None,
        {"ram": 500 * GIBH, "cpu": 50 * 3600.0},
        {},
        152,
        2,
        4,
        waited_mean_s=300.0,
        waited_max_s=30_000.0,
    ),
)


@pytest.fixture
def daemon(serve):
    return serve(lambda r: [REPORT] if type(r) is wire.GetReport else [])


def test_who_used_most_of_anything_stands_on_top(view):
    assert report.lines(REPORT, 30, None, view(90)) == [
        "From <0> to <10000> (30 days):",
        "USER   RESOURCE   HOURS   SHARE  LEASES  RESERVATIONS  WAITED  AT MOST  LEFT",
        "ada    ram (GiB)  400.0   80.0%      12             2     40s      50m",
        "       cpu         30.0   60.0%",
        "bob    ram (GiB)  100.0   20.0%     140             0   6m40s    8h20m     1",
        "       cpu         20.0   40.0%",
        "7                     0               0             0      0s       0s     3",
        "TOTAL  ram (GiB)  500.0  100.0%     152             2      5m    8h20m     4",
        "       cpu         50.0  100.0%",
        "",
        "BY RESOURCE  HOURS  USERS  MOST",
        "ram (GiB)    500.0      2  ada 80.0%, bob 20.0%",
        "cpu           50.0      2  ada 60.0%, bob 40.0%",
    ]


def test_one_user_is_shown_beside_the_total(view):
    lines = report.lines(REPORT, 1, 1001, view(90))
    assert lines[0].endswith("(1 day):")
    assert [line[:18] for line in lines[2:]] == [
        "bob    ram (GiB)  ",
        "       cpu        ",
        "TOTAL  ram (GiB)  ",
        "       cpu        ",
    ]


@pytest.mark.parametrize(
    ("hours", "told"),
    [
        (0.0, "0"),
        (20 / 3600, "0.00556"),
        (0.5, "0.500"),
        (0.9999, "1.00"),
        (5.5, "5.50"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (123.46, "123.5"),
        (1234567.0, "1234567.0"),
        (0.0000123, "0.000012"),
        (0.00000123, "0.000001"),
        (1e-7, "<0.000001"),
    ],
)
def test_hours_have_three_digits_that_say_something(view, hours, told):
    """20 seconds of a CPU are no 0.0."""
    usage = wire.Usage(1000, {"cpu": hours * 3600}, {"cpu": 1.0}, 1)
    page = report.lines(wire.Report(1, 0.0, 1.0, [usage], usage), 1, None, view())
    assert page[2].split()[:3] == ["ada", "cpu", told]


@pytest.mark.parametrize(
    ("users", "uid", "said"),
    [([], None, "Nobody had anything."), (REPORT.users, 4321, "4321 had nothing.")],
)
def test_nothing_used_is_said(view, users, uid, said):
    answer = wire.Report(1, 0.0, 10_000.0, users, wire.Usage(None))
    assert report.lines(answer, 30, uid, view())[1:] == [said]


@pytest.mark.parametrize(
    ("words", "days"), [([], 30), (["--days", "7"], 7), (["--days", "36500"], 36_500)]
)
def test_the_days_before_now_are_asked_for(ctl, daemon, words, days):
    exit_status, out, _ = ctl("report", *words)
    assert (exit_status, out.splitlines()[1].split()[0]) == (0, "USER")
    assert daemon.heard[1:] == [wire.GetReport(1, 10_000.0 - days * 86_400)]


def test_json_has_a_version_and_plain_units(ctl, daemon):
    page = json.loads(ctl("report", "--json")[1])
    assert (page["version"], page["days"], page["since"], page["until"]) == (
        1,
        30,
        0.0,
        10_000.0,
    )
    assert page["users"][0] == {
        "user": "ada",
        "uid": 1000,
        "used": {"ram": 400 * GIBH, "cpu": 108_000.0},
        "share": {"ram": 0.8, "cpu": 0.6},
        "leases": 12,
        "reservations": 2,
        "left": 0,
        "waited_mean": 40.0,
        "waited_max": 3000.0,
    }
    assert page["all"]["leases"] == 152


def test_json_of_one_user_has_him_alone(ctl, daemon):
    page = json.loads(ctl("report", "--json", "--user", "1001")[1])
    assert [one["user"] for one in page["users"]] == ["bob"]


def test_an_unknown_user_is_wrong_usage(ctl):
    exit_status, _, err = ctl("report", "--user", "no-such")
    assert (exit_status, err) == (
        2,
        "holdingpenctl: there is no user 'no-such' on this machine.\n",
    )
