"""Between the tongue and the mind."""

from __future__ import annotations

import math

import pytest

from holdingpen.amounts import AMOUNT_MAX
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core import facts as fact
from holdingpen.core.facts import Ask, Moment, Who
from holdingpen.core.pen import Pen
from holdingpen.daemon import translate
from holdingpen.daemon.translate import PAGE, PAGE_TEXT, PRIORITY_MAX, Surroundings
from holdingpen.durations import DURATION_MAX_S
from holdingpen.errors import Refusal
from holdingpen.wire import messages as wire

GIB = 2**30
ADA = Who(1000, 1000, 42)
AROUND = Surroundings("0.1.0", 5.0, "/run/s", {}, [], [])


def at(boot_s: float = 10.0) -> Moment:
    return Moment(boot_s, 1000.0 + boot_s)


@pytest.fixture
def pen() -> Pen:
    pen = Pen()
    resources = (ev.Resource("ram", 64 * GIB), ev.Resource("cpu", 2000))
    pen.handle(ev.Configured(at(), resources))
    return pen


def ask(pen: Pen, number: int = 1, **more: object) -> None:
    known = {"amounts": {"cpu": 1}} | more
    pen.handle(ev.Asked(at(), Ask(1, number, ADA, **known)))


def status(pen: Pen, after: int = 0, around: Surroundings = AROUND) -> wire.Status:
    return translate.status(pen, at(20.0), wire.GetStatus(1, after), around)


def story(pen: Pen, lease: int) -> wire.Story | wire.Refused:
    return translate.story(pen, at(20.0), wire.GetStory(1, lease), AROUND)


# What a client says.


def test_a_request_becomes_an_event_with_who_the_kernel_says_it_is():
    request = wire.Acquire(3, {"ram": GIB}, 5, 60.0, 7.0, True, "l", "r", "c")
    ask_ = Ask(9, 3, ADA, {"ram": GIB}, 5, 60.0, 7.0, True, "l", "r", "c")
    assert ev.Asked(at(), ask_) == translate.asked(at(), 9, ADA, request)


LIMITS = {
    "id": (1, 2**63 - 1),
    "priority": (-PRIORITY_MAX, PRIORITY_MAX),
    "length_s": (0, DURATION_MAX_S),
    "wait_s": (0, DURATION_MAX_S),
    "label": ("", "x" * wire.TEXT_MAX),
    "reason": ("", "x" * wire.TEXT_MAX),
    "command": ("", "x" * wire.COMMAND_MAX),
    "amounts": ({}, {f"r{n}": 1 for n in range(wire.AMOUNTS_MAX)}),
}
BEYOND = {
    "id": (0, -1, 2**63, 2**64 - 1),
    "priority": (-PRIORITY_MAX - 1, PRIORITY_MAX + 1, 2**64 - 1),
    "length_s": (-1, -1e-9, DURATION_MAX_S + 1, math.inf, -math.inf, math.nan),
    "wait_s": (-1, -1e-9, DURATION_MAX_S + 1, math.inf, -math.inf, math.nan),
    "label": ("x" * (wire.TEXT_MAX + 1),),
    "reason": ("x" * (wire.TEXT_MAX + 1),),
    "command": ("x" * (wire.COMMAND_MAX + 1),),
    "amounts": ({f"r{n}": 1 for n in range(wire.AMOUNTS_MAX + 1)},),
}


@pytest.mark.parametrize(
    ("field", "value"), [(f, v) for f, values in LIMITS.items() for v in values]
)
def test_what_is_within_the_limits_is_accepted(field, value):
    translate.asked(at(), 1, ADA, wire.Acquire(**{"id": 1, field: value}))


@pytest.mark.parametrize(
    ("field", "value"), [(f, v) for f, values in BEYOND.items() for v in values]
)
def test_what_makes_no_sense_is_refused_before_the_core_sees_it(field, value):
    with pytest.raises(Refusal) as refused:
        translate.asked(at(), 1, ADA, wire.Acquire(**{"id": 1, field: value}))
    assert refused.value.code == "bad-request"


@pytest.mark.parametrize("amount", [0, -1, -(2**63), AMOUNT_MAX + 1, 2**64 - 1])
def test_amounts_that_make_no_sense_are_refused_by_the_core(pen, amount):
    request = wire.Acquire(1, {"ram": amount})
    facts, (refused,) = pen.handle(translate.asked(at(), 1, ADA, request))
    assert facts == []
    assert refused.code == "bad-amount"


# What it is told.


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        (
            do.TellGranted(9, 1, 17, {"ram": GIB}, "exact"),
            wire.Granted(1, 17, {"ram": GIB}, "exact"),
        ),
        (
            do.TellWaiting(9, 1, 17, 2, "waits", [3], 5.0),
            wire.Waiting(1, 17, 2, "waits", [3], 5.0),
        ),
        (do.TellRefused(9, 1, "limit", "no"), wire.Refused(1, "limit", "no")),
        (do.TellReleased(9, 1, 17), wire.Released(1, 17)),
        (do.TellShrunk(9, 1, 17, {"ram": GIB}), wire.Shrunk(1, 17, {"ram": GIB})),
        (do.TellEnded(9, 17, "ordered"), wire.Ended(17, "ordered")),
        (do.TellDone(9, 1), wire.Done(1)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_each_word_of_the_core_has_its_message(effect, message):
    assert message == translate.reply(effect)


# Status.


def test_status_tells_the_books_and_what_is_around_them(pen):
    ask(pen, amounts={"ram": GIB})
    foreign = [wire.ForeignUser("ram", 7, 0, "x", 5)]
    around = Surroundings("0.1.0", 5.0, "/run/s", {1: 77}, foreign, ["no room"])
    told = status(pen, around=around)
    assert wire.Books(64 * GIB, 63 * GIB, 0, GIB, 0, 0) == told.resources["ram"]
    assert (
        told.leases[0].used,
        told.leases[0].handover,
    ) == ({"ram": 77}, "best-effort")
    assert (
        told.id,
        told.daemon,
        told.since,
        told.socket,
        told.now,
    ) == (1, "0.1.0", 5.0, "/run/s", 1020.0)
    assert (foreign, ["no room"]) == (told.foreign, told.troubles)
    assert (told.line, told.more, told.drain) == (0, False, None)


def test_people_know_one_machine(pen):
    def machine() -> tuple[int, int, int]:
        books = status(pen).resources["machine"]
        return books.capacity, books.free, books.leased

    assert machine() == (1, 1, 0)
    ask(pen, 1)
    assert machine() == (1, 0, 0), "shared by some: not free, and nobody's alone"
    pen.handle(ev.Gone(at(), 1))
    pen.handle(ev.Asked(at(), Ask(2, 1, ADA, {"machine": 1})))
    assert machine() == (1, 0, 1)


def test_1200_leases_come_in_pages_each_once_and_in_order(pen):
    for number in range(1, 1201):
        ask(pen, number)
    ids, after, pages = [], 0, 0
    while True:
        page = status(pen, after)
        ids += [lease.id for lease in page.leases]
        pages += 1
        if not page.more:
            break
        after = ids[-1]
    assert list(range(1, 1201)) == ids
    assert (500, pages) == (PAGE, 3)


def test_a_full_last_page_is_the_last(pen):
    for number in range(1, PAGE + 1):
        ask(pen, number)
    assert not status(pen).more
    assert status(pen, after=PAGE).leases == []


def test_long_commands_make_pages_shorter(pen):
    """A page is encoded at one go, while all others wait."""
    for number in range(1, 201):
        ask(pen, number, command="x" * wire.COMMAND_MAX)
    page = status(pen)
    assert page.more
    assert sum(len(lease.command) for lease in page.leases) <= 2 * PAGE_TEXT


@pytest.mark.parametrize("after", [-(2**63), 10, 2**64 - 1])
def test_a_page_may_begin_anywhere(pen, after):
    ask(pen)
    assert (after < 1) == bool(status(pen, after).leases)


def test_who_waits_is_shown_with_place_reason_and_whom_it_waits_for(pen):
    ask(pen, 1, amounts={"cpu": 2000}, length_s=60.0)
    ask(pen, 2, amounts={"cpu": 1}, label="l")
    live, waiting = status(pen).leases
    assert (live.state, live.place, live.expires) == ("live", 0, 1070.0)
    assert (
        waiting.state,
        waiting.place,
        waiting.waits_for,
        waiting.expected,
    ) == ("waiting", 1, [1], 1070.0)
    assert "1 cpu (0 there)" in waiting.waits_why
    assert status(pen).line == 1


# Stories.


def test_the_story_of_a_live_lease(pen):
    ask(pen, reason="because", command="matlab")
    lease = story(pen, 1).lease
    assert (
        lease.state,
        lease.asked,
        lease.granted,
        lease.ended,
    ) == ("live", 1010.0, 1010.0, 0.0)
    assert (
        lease.reason,
        lease.command,
        lease.uid,
        lease.pid,
    ) == ("because", "matlab", 1000, 42)


def test_the_story_of_one_that_waits(pen):
    ask(pen, 1, amounts={"cpu": 2000})
    ask(pen, 2)
    lease = story(pen, 2).lease
    assert (lease.state, lease.place, lease.waits_for) == ("waiting", 1, [1])


def test_the_story_of_one_that_ended(pen):
    ask(pen)
    pen.handle(ev.Released(at(15.0), 7, 1, Who(0, 0, 1), 1))
    lease = story(pen, 1).lease
    assert (
        lease.state,
        lease.why_ended,
        lease.ended_by,
        lease.ended,
    ) == ("ended", "ordered", 0, 1015.0)


@pytest.mark.parametrize("lease", [0, -1, 2, 2**64 - 1])
def test_the_story_of_one_that_never_was(pen, lease):
    ask(pen)
    refused = story(pen, lease)
    assert refused.code == "no-such-lease"
    assert "never given" in refused.message


def test_the_story_of_one_forgotten(pen):
    for number in range(1, 300):
        ask(pen, number)
        pen.handle(ev.Released(at(), 1, number, ADA, number))
    refused = story(pen, 1)
    assert refused.code == "no-such-lease"
    assert "too long ago" in refused.message


# What happened.


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (fact.Opened(at(), "b"), ("opened", {"boot_id": "b"})),
        (fact.DrainSet("x", 0), ("drained", {"reason": "x", "by_uid": 0})),
        (
            fact.CapacitySet("cpu", None, 0),
            ("set", {"resource": "cpu", "capacity": None, "by_uid": 0}),
        ),
        (fact.Taken("ram", 9, 4), ("taken", {"resource": "ram", "amount": 4})),
        (fact.Shed("ram", 4), ("shed", {"resource": "ram", "amount": 4})),
        (
            fact.Seen("ram", 1, 2),
            ("seen", {"resource": "ram", "settling": 1, "foreign": 2}),
        ),
    ],
)
def test_what_happened_to_the_machine_is_told(pen, what, told):
    happened = translate.happened(what, at(), pen.books)
    assert (told, 1010.0, None) == (
        (happened.what, happened.facts),
        happened.at,
        happened.lease,
    )


@pytest.mark.parametrize(
    "what",
    [
        fact.Counted(1, 1),
        fact.ResourceSet("cpu", 1),
        fact.Left(1),
        fact.Taking("ram", 1),
        fact.Dropped(1, "ram"),
        fact.Heard(1, 1),
    ],
)
def test_what_says_nothing_to_people_is_not_told(pen, what):
    assert translate.happened(what, at(), pen.books) is None


def test_what_happened_to_a_lease_is_told_with_whose_it_is(pen):
    ask(pen, label="whisper")
    granted = fact.Granted(1, at())
    told = {"uid": 1000, "amounts": {"cpu": 1}, "command": "whisper"}
    assert wire.Happened(1010.0, "granted", told, 1) == translate.happened(
        granted, at(), pen.books
    )
    pen.handle(ev.Gone(at(), 1))
    ended = translate.happened(fact.Ended(1, at(), "gone", 0), at(), pen.books)
    assert {**told, "why": "gone", "by_uid": 0} == ended.facts
    promised = translate.happened(fact.Promised(1, {"ram": 2}, at()), at(), pen.books)
    assert {**told, "drawn": {"ram": 2}} == promised.facts


def test_of_a_lease_that_is_forgotten_only_the_number_is_told(pen):
    happened = translate.happened(fact.Granted(99, at()), at(), pen.books)
    assert wire.Happened(1010.0, "granted", {}, 99) == happened


def test_a_part_given_back_is_told_with_what_is_left(pen):
    ask(pen, amounts={"cpu": 3})
    (shrunk,), _ = pen.handle(ev.ShrinkAsked(at(), 1, 2, ADA, 1, {"cpu": 2}))
    told = {"uid": 1000, "amounts": {"cpu": 1}, "given": {"cpu": 2}}
    assert wire.Happened(1010.0, "shrunk", told, 1) == translate.happened(
        shrunk, at(), pen.books
    )
    assert status(pen).leases[0].amounts == {"cpu": 1}
