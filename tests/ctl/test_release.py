"""holdingpenctl release."""

import os

import pytest
from msgspec.structs import replace

from holdingpen.wire import messages as wire

ME, OTHER = os.getuid(), os.getuid() + 1


@pytest.fixture
def daemon(serve, busy):
    """17 and 20 can be released; 18 is somebody else's."""

    def answer(request):
        match request:
            case wire.Release(id=number, lease=17 | 20):
                return [wire.Released(number, request.lease)]
            case wire.Release(id=number, lease=18):
                return [wire.Refused(number, "not-permitted", "18 is not yours.")]
            case wire.Release(id=number):
                why = f"there is no lease {request.lease}."
                return [wire.Refused(number, "no-such-lease", why)]
        return []

    return serve(answer)


RELEASES = [
    (["17"], 0, "Released 17.\n", []),
    (["20", "17"], 0, "Released 17, 20.\n", []),
    (["99"], 1, "", ["there is no lease 99."]),
    (["18"], 77, "", ["18 is not yours."]),
    (["99", "17"], 1, "Released 17.\n", ["there is no lease 99."]),
    (
        ["18", "99", "17"],
        77,
        "Released 17.\n",
        ["18 is not yours.", "there is no lease 99."],
    ),
]


@pytest.mark.parametrize(("leases", "exit_status", "out", "problems"), RELEASES)
def test_release_does_what_it_may_and_says_what_it_may_not(
    ctl, daemon, leases, exit_status, out, problems
):
    err = "".join(f"holdingpenctl: {problem}\n" for problem in problems)
    assert ctl("release", *leases) == (exit_status, out, err)
    asked = [request.lease for request in daemon.heard[1:]]
    assert asked == list(map(int, leases))


def lease(number, uid=ME, **more):
    return wire.LeaseInfo(
        number, more.pop("state", "live"), uid, 1, {"cpu": 1}, 1.0, **more
    )


LEASES = [
    lease(10, kind="reservation", label="exam"),
    lease(11, label="exam", inside=10),
    lease(12, OTHER, label="exam"),
    lease(13, OTHER, kind="reservation", label="exam", made_by=ME),
    lease(14, kind="reservation", state="waiting"),
    lease(20, kind="reservation", state="booked", series=20),
    lease(21, kind="reservation", state="booked", series=20),
    lease(22, OTHER, kind="reservation", state="booked", series=22),
    lease(23, kind="reservation", state="ended", label="exam"),
]


@pytest.fixture
def pen(serve, status):
    """It knows LEASES, and lets nobody release 13."""

    def answer(request):
        match request:
            case wire.GetStatus():
                return [replace(status(leases=LEASES), id=request.id)]
            case wire.Release(lease=13):
                return [wire.Refused(request.id, "not-permitted", "no.")]
            case wire.Release():
                return [wire.Released(request.id, request.lease)]
        return []

    return serve(answer)


CHOICES = [
    (["--label", "exam"], [13, 11, 10], (77, "Released 10, 11.\n")),
    (["--series", "20"], [21, 20], (0, "Released 20, 21.\n")),
    (["--series", "21"], [21, 20], (0, "Released 20, 21.\n")),
    (["--series", "22"], [22], (0, "Released 22.\n")),
    (["--series", "11"], [11], (0, "Released 11.\n")),
    (["--all"], [21, 20, 14, 10], (0, "Released 10, 14, 20, 21.\n")),
    (["--mine"], [21, 20, 14, 10], (0, "Released 10, 14, 20, 21.\n")),
]


@pytest.mark.parametrize(("words", "released", "end"), CHOICES)
def test_what_is_meant_is_looked_up_and_ended_the_latest_first(
    ctl, pen, words, released, end
):
    assert ctl("release", *words)[:2] == end
    asked = [r.lease for r in pen.heard if type(r) is wire.Release]
    assert asked == released


NOTHING = [
    (["--label", "no"], "nothing of yours has the label 'no'"),
    (["--series", "99"], "there is no lease 99, nor any that was made with it"),
]


@pytest.mark.parametrize(("words", "why"), NOTHING)
def test_nothing_to_release_is_no(ctl, pen, words, why):
    said = f"holdingpenctl: there is nothing to release: {why}.\n"
    assert ctl("release", *words) == (1, "", said)


def test_who_has_no_reservation_is_told_so(ctl, telling, busy):
    telling(busy)
    exit_status, out, err = ctl("release", "--all")
    assert (exit_status, out) == (1, "")
    assert err.endswith("you have no reservation.\n")


@pytest.mark.parametrize("words", [[], ["17", "--all"], ["17", "--label", "x"]])
def test_it_must_be_said_which_and_in_one_way(ctl, words):
    exit_status, out, err = ctl("release", *words)
    assert (exit_status, out) == (2, "")
    assert err.startswith("holdingpenctl: say which: 'holdingpenctl release ID...'")
