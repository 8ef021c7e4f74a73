"""holdingpenctl confirm."""

import io

import pytest
from msgspec.structs import replace

from holdingpen.ctl import confirm
from holdingpen.wire import messages as wire

GIB = 2**30
ALONE = wire.LeaseInfo(
    50,
    "live",
    1001,
    77,
    {"machine": 1},
    6000.0,
    granted=6400.0,
    expires=11_800.0,
    kind="reservation",
    reason="big run",
)


def test_when_nobody_has_it_one_may_do_what_one_likes(status, view):
    text = "Nobody has the machine to himself; do what you like."
    assert confirm.lines(status(), view()) == [text]
    assert confirm.lines(status(), view(80, colour=True)) == [f"\x1b[32m{text}\x1b[0m"]


def test_connections_that_are_not_alone_are_nobodys_business(busy, view):
    assert confirm.lines(busy, view())[0].startswith("Nobody has the machine")


def test_who_has_it_is_told_with_why_and_until_when(status, view):
    assert confirm.lines(status(leases=[ALONE]), view(80, colour=True)) == [
        "\x1b[31mBe careful: bob has the whole machine (lease 50).\x1b[0m",
        "Reason: big run",
        "Since: <6400> (1h ago)",
        "Until: <11800>",
        "Time remaining: 30m",
    ]


def test_until_a_command_ends_is_no_time(status, view):
    """gatekeeper --exclusive, or resman -x of old."""
    lease = replace(
        ALONE, kind="connection", expires=None, reason="", label="x", command="./run"
    )
    assert confirm.lines(status(leases=[lease]), view())[1:] == [
        "Reason: x",
        "Command: ./run",
        "Since: <6400> (1h ago)",
        "Until: its program ends",
        "Time remaining: not known",
    ]


def test_reservations_of_parts_are_told_too(reserving, view):
    parts = [
        "RESERVED   USER  UNTIL    FOR WHAT",
        "16.0G ram  ada   <17200>  final (exam)",
        "2 cpu      bob   <10600>  timing",
    ]
    live = replace(reserving, leases=reserving.leases[:3])
    assert confirm.lines(live, view()) == [
        "Nobody has the machine to himself, but parts of it are reserved.",
        "",
        *parts,
    ]
    both = replace(live, leases=[*live.leases, ALONE])
    assert confirm.lines(both, view())[-4:] == ["", *parts]


@pytest.mark.parametrize(
    ("starts", "told"), [(10_000.0 + 3600, True), (10_000.0 + 90_000, False)]
)
def test_the_machine_within_a_day_is_told_beforehand(status, view, starts, told):
    lease = replace(ALONE, state="booked", starts=starts, expires=starts + 60)
    lines = confirm.lines(status(leases=[lease]), view())
    said = f"To come: bob has the whole machine <{starts:g}>-<{starts + 60:g}>: big run"
    assert (said in lines) == told


def test_what_is_to_come_stands_apart_from_what_is_reserved_now(reserving, view):
    soon = replace(ALONE, state="booked", starts=10_600.0, expires=10_660.0)
    live = replace(reserving, leases=[reserving.leases[2], soon])
    assert confirm.lines(live, view())[-3:] == [
        "2 cpu     bob   <10600>  timing",
        "",
        "To come: bob has the whole machine <10600>-<10660>: big run",
    ]


def test_one_that_is_due_is_to_come(status, view):
    """It waits for its date, or for somebody who is over his time."""
    lease = replace(ALONE, state="waiting", starts=9_990.0, expires=10_290.0, place=1)
    said = "To come: bob has the whole machine <9990>-<10290>: big run"
    assert said in confirm.lines(status(leases=[lease]), view())


ENTER = "Press ENTER when you have read this. "


@pytest.mark.parametrize(
    ("leases", "terminal", "waits"),
    [([ALONE], True, True), ([], True, False), ([ALONE], False, False)],
)
def test_only_on_a_terminal_and_only_for_the_whole_machine_it_waits(
    ctl, telling, status, monkeypatch, leases, terminal, waits
):
    keyboard = io.StringIO("\nrest")
    keyboard.isatty = lambda: terminal
    monkeypatch.setattr("sys.stdin", keyboard)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    telling(status(leases=leases))
    exit_status, out, _ = ctl("confirm")
    assert (exit_status, out.endswith(ENTER)) == (0, waits)
    assert keyboard.read() == ("rest" if waits else "\nrest")


def test_into_a_pipe_it_only_tells(ctl, telling, status):
    telling(status(leases=[ALONE]))
    exit_status, out, _ = ctl("confirm")
    assert (exit_status, out.splitlines()[-1]) == (0, "Time remaining: 30m")
