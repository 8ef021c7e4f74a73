"""No text of others drives the terminal, and no line is too wide for it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdingpen.ctl import confirm, render, report, story
from holdingpen.ctl.render import View
from holdingpen.ctl.text import columns
from holdingpen.wire import messages as wire

SGR = re.compile(r"\x1b\[(?:1|31|32|0)m")

TEXT = st.text(max_size=60)
WHEN = st.floats(0, 2e9) | st.sampled_from([0.0, float("inf"), float("nan"), -5.0])
AMOUNT = st.integers(0, 2**63 - 1)
AMOUNTS_ANY = st.dictionaries(st.sampled_from(["ram", "machine"]) | TEXT, AMOUNT)
LEASE = st.builds(
    wire.LeaseInfo,
    id=st.integers(1, 2**63),
    state=st.sampled_from(["waiting", "promised", "live", "booked", "ended"]) | TEXT,
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
    kind=st.sampled_from(["connection", "reservation"]) | TEXT,
    starts=st.none() | WHEN,
    inside=st.integers(0, 100),
    gid=st.none() | st.integers(0, 2000),
    made_by=st.none() | st.integers(0, 2000),
    series=st.integers(0, 100),
    asked_back=WHEN,
    asked_back_for=st.integers(0, 100),
    unyielding=st.booleans(),
    idle_since=WHEN,
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
    seated=st.lists(st.integers(0, 2000), max_size=2),
)
SHARE = st.dictionaries(st.just("ram") | TEXT, st.floats(0, 1e30), max_size=3)
USAGE = st.builds(
    wire.Usage,
    uid=st.integers(0, 2000),
    used=SHARE,
    share=SHARE,
    leases=AMOUNT,
    reservations=AMOUNT,
    left=AMOUNT,
    waited_mean_s=WHEN,
    waited_max_s=WHEN,
)
REPORT = st.builds(
    wire.Report,
    id=st.just(1),
    since=WHEN,
    until=WHEN,
    users=st.lists(USAGE, max_size=3),
    all=USAGE,
)
ANY_VIEW = st.builds(
    View,
    width=st.none() | st.integers(0, 130),
    colour=st.booleans(),
    user=st.just(lambda uid: f"user\x1b{uid}"),
    date=st.just(lambda seconds: "2026-11-20 10:42:10"),
    time=st.just(lambda seconds, now: "Mon 10:42"),
    times=st.just(lambda start, end, now: "Mon 10:42-11:42"),
    group=st.just(lambda gid: f"group\x1b{gid}"),
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
    assert harmless(render.ahead_lines(status, view), view)
    assert harmless(confirm.lines(status, view), view)


@pytest.mark.slow
@settings(deadline=None)
@given(REPORT, st.none() | st.integers(0, 2000), ANY_VIEW)
def test_no_report_drives_the_terminal_or_is_too_wide(answer, uid, view):
    assert harmless(report.lines(answer, 30, uid, view), view)


@pytest.mark.slow
@settings(deadline=None)
@given(LEASE, WHEN, ANY_VIEW)
def test_no_story_drives_the_terminal_or_is_too_wide(lease, now, view):
    assert harmless(story.story_lines(lease, now, view), view)


FACTS = st.dictionaries(
    TEXT | st.sampled_from(["uid", "amounts", "resource", "by_uid"]),
    TEXT | st.integers() | AMOUNTS_ANY | st.none() | st.floats() | st.lists(TEXT),
    max_size=5,
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.builds(wire.Happened, WHEN, TEXT, FACTS, st.none() | AMOUNT), ANY_VIEW)
def test_no_event_drives_the_terminal_or_is_too_wide(event, view):
    assert harmless([story.event_line(event, view)], view)
