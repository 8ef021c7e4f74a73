"""What people see, letter by letter."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdingpen.ctl import render
from holdingpen.ctl.render import View
from holdingpen.ctl.text import columns
from holdingpen.wire import messages as wire

GIB = 2**30
SGR = re.compile(r"\x1b\[(?:1|31|0)m")


def page(lines):
    return "\n".join(lines) + "\n"


def test_the_page_at_80_columns(busy, view):
    assert (
        page(render.status_lines(busy, view(80)))
        == """\
Holding Pen 0.1.0, up 2h30m, /run/holdingpen.socket

RESOURCE  CAPACITY   FREE  HELD  LEASED
ram          62.0G  14.0G  8.0G   40.0G
cpu              8      6     0       2

ID  USER  AMOUNTS           FOR    ENDS  NOTE         COMMAND
17  ada   32.0G ram, 2 cpu   2h  in 40m  reclaimable  whisper: matlab -batch si…
21  bob   8.0G ram                       starting     python x.py

PLACE  ID  USER  WANTS          WAITED  EXPECTED  AFTER   WHY
    1  20  root  60.0G ram      11m40s    in 40m  17      60.0 GiB ram; 22.0 ar…
    2  18  bob   whole machine  16m40s   unknown  17, 21
"""
    )


def test_the_page_at_40_columns_gives_up_what_can_be_spared(busy, view):
    assert (
        page(render.status_lines(busy, view(40)))
        == """\
Holding Pen 0.1.0, up 2h30m, /run/holdi…

RESOURCE  CAPACITY   FREE  HELD  LEASED
ram          62.0G  14.0G  8.0G   40.0G
cpu              8      6     0       2

ID  USER  AMOUNTS      FOR  COMMAND
17  ada   32.0G ram,…   2h  whisper: ma…
21  bob   8.0G ram          python x.py

PLACE  ID  USER  WANTS       WHY
    1  20  root  60.0G ram   60.0 GiB r…
    2  18  bob   whole mac…
"""
    )


def test_the_page_at_120_columns_uses_them(busy, view):
    assert (
        page(render.status_lines(busy, view(120)))
        == """\
Holding Pen 0.1.0, up 2h30m, /run/holdingpen.socket

RESOURCE  CAPACITY   FREE  HELD  LEASED
ram          62.0G  14.0G  8.0G   40.0G
cpu              8      6     0       2

ID  USER  AMOUNTS           FOR    ENDS  NOTE         COMMAND
17  ada   32.0G ram, 2 cpu   2h  in 40m  reclaimable  whisper: matlab -batch simulation
21  bob   8.0G ram                       starting     python x.py

PLACE  ID  USER  WANTS          WAITED  EXPECTED  AFTER   WHY
    1  20  root  60.0G ram      11m40s    in 40m  17      60.0 GiB ram; 22.0 are there
    2  18  bob   whole machine  16m40s   unknown  17, 21
"""
    )


def test_nobody_at_all_is_said_in_sentences(status, view):
    lines = render.status_lines(status(), view())
    assert lines[-3:] == ["Nobody holds a lease.", "", "Nobody is waiting."]


def test_without_resources_it_is_said(status, view):
    lines = render.resource_lines(status(resources={}), view())
    assert lines == ["Nothing is lent here: the daemon knows no resource."]


def test_settling_and_foreign_are_shown_where_there_is_any(status, view):
    ram = wire.Books(16 * GIB, 4 * GIB, 0, 8 * GIB, 3 * GIB, GIB)
    disk = wire.Books(0, 0, 0, 0, 0, 0)
    lines = render.resource_lines(
        status(resources={"ram": ram, "disk.scratch": disk}), view()
    )
    assert (
        page(lines)
        == """\
RESOURCE      CAPACITY  FREE  HELD  LEASED  SETTLING  FOREIGN
ram              16.0G  4.0G     0    8.0G      3.0G     1.0G
disk.scratch         0     0     0       0         0        0
"""
    )


def test_draining_and_troubles_stand_on_top_in_red(status, view):
    state = status(drain="new kernel at six.", troubles=["the journal is full."])
    assert render.status_lines(state, view(80, colour=True))[1:3] == [
        "\x1b[31mDraining: new kernel at six. Nothing new starts.\x1b[0m",
        "\x1b[31mthe journal is full.\x1b[0m",
    ]


def test_draining_needs_no_reason(status, view):
    assert "Draining. Nothing new starts." in render.status_lines(
        status(drain=""), view()
    )


def test_a_long_trouble_is_folded_not_cut(status, view):
    trouble = "the journal has no room: 0 bytes are left. Make some."
    lines = render.status_lines(status(troubles=[trouble]), view(40))
    assert lines[1:3] == [
        "the journal has no room: 0 bytes are",
        "  left. Make some.",
    ]


def test_headings_are_bold_where_there_is_colour(status, view):
    lines = render.resource_lines(status(), view(80, colour=True))
    assert lines[0].startswith("\x1b[1mRESOURCE")
    assert lines[0].endswith("\x1b[0m")
    assert "\x1b" not in lines[1]


def test_ten_thousand_leases_have_ten_thousand_lines(status, view):
    leases = [
        wire.LeaseInfo(n, "live", 1000, n, {"ram": n}, 1.0, granted=2.0, command="x")
        for n in range(1, 10_001)
    ]
    lines = render.lease_lines(status(leases=leases), view())
    assert len(lines) == 10_001
    assert lines[-1] == "10000  ada   9.8K ram   2h46m  x"


def test_a_hostile_label_does_not_drive_the_terminal(status, view):
    lease = wire.LeaseInfo(
        1, "live", 0, 1, {"ram": 1}, 1.0, granted=1.0, label="\x1b[2J\n\u202eroot"
    )
    lines = render.lease_lines(status(leases=[lease]), view())
    assert lines[1].endswith("?[2J ?root")


@pytest.mark.parametrize(
    ("expires", "shown"),
    [(10_060.0, "in 1m"), (9_999.0, "overdue"), (float("inf"), "in 36500d")],
)
def test_the_end_of_a_lease_is_shown_as_far_as_it_is_known(
    status, view, expires, shown
):
    lease = wire.LeaseInfo(
        1, "live", 0, 1, {"ram": 1}, 1.0, granted=1.0, expires=expires, command="x"
    )
    lines = render.lease_lines(status(leases=[lease]), view())
    assert f"  {shown}  x" in lines[1]


SHORT = [
    ("ram", 0, "0"),
    ("ram", 512, "512B"),
    ("ram", 8 * GIB, "8.0G"),
    ("disk.scratch", 3 * 2**39, "1.5T"),
    ("cpu", 12_000, "12000"),
]


@pytest.mark.parametrize(("resource", "amount", "word"), SHORT)
def test_amounts_are_short_in_tables(resource, amount, word):
    assert render.short(resource, amount) == word


AMOUNTS = [
    ({}, "nothing"),
    ({"ram": 8 * GIB, "cpu": 2}, "8.0G ram, 2 cpu"),
    ({"machine": 1}, "whole machine"),
    ({"ram": GIB, "machine": 1}, "whole machine, 1.0G ram"),
    ({"x\x1b": 3}, "3 x?"),
]


@pytest.mark.parametrize(("amounts", "words"), AMOUNTS)
def test_several_amounts_stand_in_one_cell(amounts, words):
    assert render.short_amounts(amounts) == words


def test_the_summary_has_a_line_for_each_resource_and_one_for_people(busy, view):
    assert render.summary_lines(busy, view()) == [
        "ram 14.0G free + 8.0G held of 62.0G",
        "cpu 6 free of 8",
        "2 leases, 2 waiting",
    ]


def test_one_lease_is_not_leases(status, view):
    lease = wire.LeaseInfo(1, "live", 0, 1, {}, 1.0)
    assert render.summary_lines(status(leases=[lease]), view())[-1] == (
        "1 lease, 0 waiting"
    )


# Stories.


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
        page(render.story_lines(lease, 200.0, view(100)))
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
    story = render.story_lines(lease, 200.0, view(None))
    assert "In the line it waited for leases 3, 5." in story


def test_the_story_of_one_who_waits(busy, view):
    first, second = busy.leases[2], busy.leases[1]
    assert (
        page(render.story_lines(first, busy.now, view()))
        == """\
Lease 20 waits: it is number 1 in the line.
<9300>: asked for 60.0 GiB ram by root (uid 0, pid 4244), priority 5.
It has waited 11m40s so far: 60.0 GiB ram; 22.0 are there.
It may start after 17.
As things stand it should start in 40m.
"""
    )
    assert (
        page(render.story_lines(second, busy.now, view()))
        == """\
Lease 18 waits: it is number 2 in the line.
<9000>: asked for the whole machine by bob (uid 1001, pid 4243).
It has waited 16m40s so far.
It may start after 17, 21.
As things stand nobody knows when it starts: not every end before it is known.
"""
    )


def test_the_story_of_one_that_starts(busy, view):
    assert render.story_lines(busy.leases[3], busy.now, view())[0] == (
        "Lease 21 is starting: what was held back is being made ready for it."
    )


ENDS = [
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
    story = render.story_lines(lease, 200.0, view(None))
    assert story[0] == "Lease 7 has ended."
    assert story[-1].startswith(line)


def test_who_did_not_wait_got_it_at_once(view):
    lease = wire.LeaseInfo(7, "live", 0, 1, {"cpu": 1}, 90.0, granted=90.4)
    assert render.story_lines(lease, 200.0, view())[-1] == "<90.4>: granted at once."


def test_others_are_named_only_where_they_eat_into_what_is_lent(status, view):
    ram = wire.Books(16 * GIB, 8 * GIB, 0, 0, 0, 8 * GIB)
    foreign = [
        wire.ForeignUser("ram", 911, 1001, "firefox", 7 * GIB),
        wire.ForeignUser("vram", 912, 1001, "game", GIB),
    ]
    lines = render.status_lines(status(foreign=foreign), view())
    assert lines[-1] == "Nobody is waiting."
    lines = render.status_lines(status(foreign=foreign, resources={"ram": ram}), view())
    assert lines[-2:] == [
        "WITHOUT A LEASE  PID  USER  COMMAND",
        "7.0G ram         911  bob   firefox",
    ]


def test_who_never_got_it_is_told_so(view):
    lease = wire.LeaseInfo(
        7, "ended", 0, 1, {"cpu": 1}, 90.0, ended=100.0, why_ended="gone"
    )
    assert render.story_lines(lease, 200.0, view())[-1] == (
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
    ("hostile", None, {"\x07": "\u202e", "": True, "n": 3}, "? ?,  True, n 3"),
]


@pytest.mark.parametrize(("what", "lease", "facts", "words"), EVENTS)
def test_an_event_is_one_line(view, what, lease, facts, words):
    where = f"lease {lease}" if lease else ""
    assert render.event_line(wire.Happened(5.0, what, facts, lease), view()) == (
        f"<5>  {what:<9}  {where:<10}  {words}".rstrip()
    )


def test_the_end_of_draining_has_a_word_of_its_own(view):
    event = wire.Happened(5.0, "drained", {"reason": None, "uid": 0})
    assert render.event_line(event, view()) == "<5>  undrained              root"


# Whatever comes.

TEXT = st.text(max_size=60)
WHEN = st.floats(0, 2e9) | st.sampled_from([0.0, float("inf"), float("nan"), -5.0])
AMOUNT = st.integers(0, 2**63 - 1)
AMOUNTS_ANY = st.dictionaries(st.sampled_from(["ram", "machine"]) | TEXT, AMOUNT)
LEASE = st.builds(
    wire.LeaseInfo,
    id=st.integers(1, 2**63),
    state=st.sampled_from(["waiting", "promised", "live", "ended"]) | TEXT,
    uid=st.integers(0, 2000),
    pid=st.integers(0, 2**22),
    amounts=AMOUNTS_ANY,
    asked=WHEN,
    granted=WHEN,
    ended=WHEN,
    expires=st.none() | WHEN,
    command=TEXT,
    label=TEXT,
    reason=TEXT,
    reclaimable=st.booleans(),
    handover=TEXT,
    drawn=AMOUNTS_ANY,
    used=AMOUNTS_ANY,
    place=st.integers(0, 100_000),
    waits_for=st.lists(st.integers(1, 10**6)),
    expected=st.none() | WHEN,
    waits_why=TEXT,
    why_ended=TEXT,
    ended_by=st.none() | st.integers(0, 2000),
)
BOOKS = st.builds(wire.Books, AMOUNT, AMOUNT, AMOUNT, AMOUNT, AMOUNT, AMOUNT)
STATUS = st.builds(
    wire.Status,
    id=st.just(1),
    daemon=TEXT,
    since=WHEN,
    socket=TEXT,
    now=WHEN,
    resources=st.dictionaries(st.just("ram") | TEXT, BOOKS, max_size=4),
    leases=st.lists(LEASE, max_size=4),
    drain=st.none() | TEXT,
    foreign=st.lists(
        st.builds(
            wire.ForeignUser, TEXT, st.integers(), st.integers(0, 2000), TEXT, AMOUNT
        ),
        max_size=2,
    ),
    troubles=st.lists(TEXT, max_size=2),
)
ANY_VIEW = st.builds(
    View,
    width=st.none() | st.integers(0, 130),
    colour=st.booleans(),
    user=st.just(lambda uid: f"user\x1b{uid}"),
    date=st.just(lambda seconds: "2026-11-20 10:42:10"),
)


def harmless(lines, view):
    for line in lines:
        plain = SGR.sub("", line) if view.colour else line
        assert plain.isprintable()
        assert view.width is None or columns(plain) <= max(view.width, 20)
    return True


@pytest.mark.slow
@settings(deadline=None)
@given(STATUS, ANY_VIEW)
def test_no_page_drives_the_terminal_or_is_too_wide(status, view):
    assert harmless(render.status_lines(status, view), view)
    assert harmless(render.summary_lines(status, view), view)


@pytest.mark.slow
@settings(deadline=None)
@given(LEASE, WHEN, ANY_VIEW)
def test_no_story_drives_the_terminal_or_is_too_wide(lease, now, view):
    assert harmless(render.story_lines(lease, now, view), view)


FACTS = st.dictionaries(
    TEXT | st.sampled_from(["uid", "amounts", "resource", "by_uid"]),
    TEXT | st.integers() | AMOUNTS_ANY | st.none() | st.floats() | st.lists(TEXT),
    max_size=5,
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.builds(wire.Happened, WHEN, TEXT, FACTS, st.none() | AMOUNT), ANY_VIEW)
def test_no_event_drives_the_terminal_or_is_too_wide(event, view):
    assert harmless([render.event_line(event, view)], view)
