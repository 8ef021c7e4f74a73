"""holdingpenctl list, queue, why and release."""

import json

import pytest
from msgspec.structs import replace

from holdingpen.wire import messages as wire


@pytest.fixture
def daemon(serve, busy):
    """It knows the leases of `busy`; 18 is somebody else's."""

    def answer(request):
        match request:
            case wire.GetStatus(id=number):
                return [replace(busy, id=number)]
            case wire.GetStory(id=number, lease=17):
                return [wire.Story(number, busy.leases[0])]
            case wire.Release(id=number, lease=17 | 20):
                return [wire.Released(number, request.lease)]
            case wire.Release(id=number, lease=18):
                return [wire.Refused(number, "not-permitted", "18 is not yours.")]
            case wire.GetStory(id=number) | wire.Release(id=number):
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


RELEASES = [
    (["17"], 0, []),
    (["17", "20"], 0, []),
    (["99"], 1, ["there is no lease 99."]),
    (["18"], 77, ["18 is not yours."]),
    (["99", "17"], 1, ["there is no lease 99."]),
    (["18", "99", "17"], 77, ["18 is not yours.", "there is no lease 99."]),
]


@pytest.mark.parametrize(("leases", "exit_status", "problems"), RELEASES)
def test_release_does_what_it_may_and_says_what_it_may_not(
    ctl, daemon, leases, exit_status, problems
):
    err = "".join(f"holdingpenctl: {problem}\n" for problem in problems)
    assert ctl("release", *leases) == (exit_status, "", err)
    asked = [request.lease for request in daemon.heard[1:]]
    assert asked == list(map(int, leases))
