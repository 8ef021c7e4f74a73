"""What happened, letter by letter."""

import pytest
from msgspec.structs import replace

from holdingpen.ctl.story import event_line, story_lines
from holdingpen.wire import messages as wire

GIB = 2**30


def page(lines):
    return "\n".join(lines) + "\n"


def test_the_story_of_a_live_lease(view):
    lease = wire.LeaseInfo(
        17,
        "live",
        1000,
        4242,
        {"ram": 8 * GIB},
        100.0,
        granted=160.0,
        priority=5,
        expires=4000.0,
        command="matlab",
        label="whisper",
        reason="demo",
        reclaimable=True,
        handover="best-effort",
        drawn={"ram": 4 * GIB},
        used={"ram": 3 * GIB},
    )
    assert (
        page(story_lines(lease, 200.0, view(100)))
        == """\
Lease 17 is live.
<100>: asked for 8.0 GiB ram by ada (uid 1000, pid 4242), priority 5, reclaimable.
Command: matlab
Label: whisper
Reason: demo
<160>: granted after 1m; 4.0 GiB ram from ballast, hand-over best-effort.
Its programs used 3.0 GiB ram when last measured.
<4000>: its expected end.
"""
    )


def test_the_story_remembers_whom_it_waited_for(view):
    lease = wire.LeaseInfo(
        7, "live", 1000, 42, {"cpu": 1}, 100.0, granted=160.0, waits_for=[3, 5]
    )
    story = story_lines(lease, 200.0, view(None))
    assert "In the line it waited for leases 3, 5." in story
    story = story_lines(replace(lease, waits_for=[3]), 200.0, view(None))
    assert "In the line it waited for lease 3." in story


def test_the_story_of_one_who_waits(busy, view):
    first, second = busy.leases[2], busy.leases[1]
    assert (
        page(story_lines(first, busy.now, view()))
        == """\
Lease 20 waits: it is number 1 in the line.
<9300>: asked for 60.0 GiB ram by root (uid 0, pid 4244), priority 5.
It has waited 11m40s so far: 60.0 GiB ram; 22.0 are there.
It may start after 17.
As things stand it should start in 40m.
"""
    )
    assert (
        page(story_lines(second, busy.now, view()))
        == """\
Lease 18 waits: it is number 2 in the line.
<9000>: asked for the whole machine by bob (uid 1001, pid 4243).
It has waited 16m40s so far.
It may start after 17, 21.
As things stand nobody knows when it starts: not every end before it is known.
"""
    )


def test_the_story_of_one_that_starts(busy, view):
    assert story_lines(busy.leases[3], busy.now, view())[0] == (
        "Lease 21 is starting: what was held back is being made ready for it."
    )


def test_the_story_of_a_live_reservation(reserving, view):
    assert (
        page(story_lines(reserving.leases[0], 10_000.0, view(100)))
        == """\
Reservation 30 is live.
<2000>: asked for 16.0 GiB ram by ada (uid 1000, pid 4242).
Reserved: <2800>-<17200>.
Members of the group users may draw on it, too.
Label: exam
Reason: final
<2800>: it began.
<17200>: its end.
"""
    )


def test_the_story_of_a_reservation_ahead_says_who_made_it(reserving, view):
    assert (
        page(story_lines(reserving.leases[-1], 10_000.0, view(100)))
        == """\
Reservation 40 is booked: it begins at a date.
<2000>: asked for the whole machine by root for ada (uid 0 for 1000, pid 4253).
Reserved: <96400>-<103600>.
It is one of the series 40.
Label: course
Reason: Algorithms
"""
    )


def test_the_story_of_a_lease_inside_that_is_asked_back(reserving, view):
    assert (
        page(story_lines(reserving.leases[1], 10_000.0, view(100)))
        == """\
Lease 31 is live.
<9000>: asked for 4.0 GiB ram by ada (uid 1000, pid 4250), reclaimable.
It draws on reservation 30.
Command: matlab
<9000>: granted at once.
<9960>: asked back for 34; it does not yield.
"""
    )


def test_the_story_of_one_that_ended_says_for_whom_it_was_asked_back(view):
    lease = wire.LeaseInfo(
        7,
        "ended",
        1000,
        1,
        {"cpu": 1},
        100.0,
        granted=100.0,
        ended=160.0,
        why_ended="reclaimed",
        asked_back=130.0,
        asked_back_for=9,
    )
    assert story_lines(lease, 200.0, view(None))[-2:] == [
        "<130>: asked back for 9.",
        "<160>: ended after 1m: it was asked back and not given back in time.",
    ]


def test_the_story_of_one_that_is_about_to_begin(view):
    """It was booked a day ago, and has not waited for so long."""
    lease = wire.LeaseInfo(
        42,
        "waiting",
        1000,
        4260,
        {"ram": 2 * GIB},
        1000.0,
        kind="reservation",
        starts=90_000.0,
        expires=97_200.0,
        place=1,
        waits_for=[30],
        waits_why="waits for 2.0 GiB ram.",
        expected=90_000.0,
    )
    assert (
        page(story_lines(lease, 89_980.0, view(None)))
        == """\
Reservation 42 is about to begin: it is number 1 in the line.
<1000>: asked for 2.0 GiB ram by ada (uid 1000, pid 4260).
Reserved: <90000>-<97200>.
In the line: waits for 2.0 GiB ram.
It may start after 30.
As things stand it should start in 20s.
"""
    )


def test_the_story_of_an_idle_reservation(reserving, view):
    story = story_lines(reserving.leases[2], 10_000.0, view())
    assert "Nothing has drawn on it for 1h." in story


def test_a_reservation_that_waits_has_no_times_yet(reserving, view):
    story = story_lines(reserving.leases[3], 10_000.0, view())
    assert story[0] == "Reservation 34 waits: it is number 1 in the line."
    assert not any(line.startswith("Reserved") for line in story)


ENDS = [
    ("expired", None, "<160>: ended after 1m: its time was over."),
    ("idle", None, "<160>: ended after 1m: nothing drew on it for too long."),
    ("gone", None, "<160>: ended after 1m: its program ended."),
    ("released", None, "<160>: ended after 1m: given back."),
    ("ordered", 0, "<160>: ended after 1m: ordered by root."),
    ("wait-over", None, "<160>: ended after 1m: left the line: it waited as long"),
    ("new-word\x1b", None, "<160>: ended after 1m: new-word?."),
    ("", None, "<160>: ended after 1m: the cause is unknown."),
]


@pytest.mark.parametrize(("why", "by", "line"), ENDS)
def test_a_story_ends_with_how_it_ended(view, why, by, line):
    lease = wire.LeaseInfo(
        7,
        "ended",
        1000,
        1,
        {"cpu": 1},
        90.0,
        granted=100.0,
        ended=160.0,
        expires=900.0,
        why_ended=why,
        ended_by=by,
    )
    story = story_lines(lease, 200.0, view(None))
    assert story[0] == "Lease 7 has ended."
    assert story[-1].startswith(line)


def test_who_did_not_wait_got_it_at_once(view):
    lease = wire.LeaseInfo(7, "live", 0, 1, {"cpu": 1}, 90.0, granted=90.4)
    assert story_lines(lease, 200.0, view())[-1] == "<90.4>: granted at once."


def test_who_never_got_it_is_told_so(view):
    lease = wire.LeaseInfo(
        7, "ended", 0, 1, {"cpu": 1}, 90.0, ended=100.0, why_ended="gone"
    )
    assert story_lines(lease, 200.0, view())[-1] == (
        "<100>: ended never granted, after 10s: its program ended."
    )


# Events.

EVENTS = [
    ("joined", 17, {"uid": 1000, "amounts": {"ram": GIB}}, "ada, 1.0G ram"),
    ("promised", 17, {"drawn": {"ram": GIB}}, "drawn 1.0G ram"),
    ("granted", 17, {}, ""),
    ("ended", 17, {"why": "ordered", "by_uid": 0}, "ordered, by root"),
    ("ended", 17, {"why": "a-new-word"}, "a-new-word"),
    ("taken", None, {"resource": "ram", "amount": GIB}, "ram, amount 1.0G"),
    ("set", None, {"resource": "cpu", "capacity": 3}, "cpu, capacity 3"),
    (
        "set",
        None,
        {"resource": "cpu", "capacity": None, "uid": 0},
        "cpu, capacity as configured, root",
    ),
    ("drained", None, {"reason": "new kernel"}, "reason new kernel"),
    ("drained", None, {"reason": ""}, ""),
    ("booked", 17, {"starts": 60.0, "until": 90}, "starts <60>, until <90>"),
    ("askedback", 17, {"uid": 1000, "needed_by": 34}, "ada, for 34"),
    ("seated", None, {"uid": 1000, "on": True}, "ada, sits at the machine"),
    ("seated", None, {"uid": 1000, "on": False}, "ada, sits there no more"),
    ("hostile", None, {"\x07": "\u202e", "": True, "n": 3}, "? ?,  True, n 3"),
]


@pytest.mark.parametrize(("what", "lease", "facts", "words"), EVENTS)
def test_an_event_is_one_line(view, what, lease, facts, words):
    where = f"lease {lease}" if lease else ""
    assert event_line(wire.Happened(5.0, what, facts, lease), view()) == (
        f"<5>  {what:<9}  {where:<10}  {words}".rstrip()
    )


def test_the_end_of_draining_has_a_word_of_its_own(view):
    event = wire.Happened(5.0, "drained", {"reason": None, "uid": 0})
    assert event_line(event, view()) == "<5>  undrained              root"
