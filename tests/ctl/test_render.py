"""How things stand, letter by letter."""

import pytest

from holdingpen.ctl import render
from holdingpen.wire import messages as wire

GIB = 2**30


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


def test_the_page_with_reservations_at_100_columns(reserving, view):
    assert (
        page(render.status_lines(reserving, view(100)))
        == """\
Holding Pen 0.1.0, up 2h30m, /run/holdingpen.socket
At the machine: ada.

RESOURCE  CAPACITY   FREE  HELD  LEASED
ram          62.0G  14.0G  8.0G   40.0G
cpu              8      6     0       2

ID  USER  KIND      AMOUNTS       FOR    ENDS  NOTE                  COMMAND
30  ada   reserved  16.0G ram      2h   in 2h                        final (exam)
31  ada   in 30     4.0G ram   16m40s          does not yield to 34  matlab
32  bob   reserved  2 cpu       2h13m  in 10m  idle for 1h           timing

PLACE  ID  USER  KIND      WANTS          WAITED  EXPECTED  AFTER
    1  34  root  reserved  whole machine  16m40s   unknown  30, 31

ID  USER  AMOUNTS        RESERVED AHEAD       BEGINS  FOR WHAT
40  ada   whole machine  <96400>-<103600>      in 1d  Algorithms (course)
41  ada   whole machine  <700000>-<707200>  in 7d23h  Algorithms (course)
"""
    )


def test_the_page_with_reservations_at_60_columns(reserving, view):
    lines = render.status_lines(reserving, view(60))
    assert (
        page(lines[7:11] + lines[-3:])
        == """\
ID  USER  KIND      AMOUNTS       FOR    ENDS  COMMAND
30  ada   reserved  16.0G ram      2h   in 2h  final (exam)
31  ada   in 30     4.0G ram   16m40s          matlab
32  bob   reserved  2 cpu       2h13m  in 10m  timing
ID  USER  AMOUNTS     RESERVED AHEAD       BEGINS  FOR WHAT
40  ada   whole mac…  <96400>-<103600>      in 1d  Algorith…
41  ada   whole mac…  <700000>-<707200>  in 7d23h  Algorith…
"""
    )


def test_at_80_columns_there_is_room_for_who_does_not_yield(reserving, view):
    assert (
        page(render.lease_lines(reserving, view(80)))
        == """\
ID  USER  KIND      AMOUNTS       FOR    ENDS  NOTE                 COMMAND
30  ada   reserved  16.0G ram      2h   in 2h                       final (exam)
31  ada   in 30     4.0G ram   16m40s          does not yield to …  matlab
32  bob   reserved  2 cpu       2h13m  in 10m  idle for 1h          timing
"""
    )


def test_the_page_counts_what_is_further_ahead(status, view):
    ahead = [
        wire.LeaseInfo(n, "booked", 0, 1, {"cpu": 1}, 1.0, starts=2e4 + n, expires=3e4)
        for n in range(1, 8)
    ]
    lines = render.status_lines(status(leases=ahead), view())
    assert [line.split()[0] for line in lines[-7:]] == ["ID", *"12345", "..."]
    assert lines[-1] == "... and 2 more; 'holdingpenctl list --ahead' shows all."


NOTES = [
    ({}, ""),
    ({"asked_back": 9960.0, "asked_back_for": 18}, "asked back for 18, 40s ago"),
    (
        {"asked_back": 9960.0, "asked_back_for": 18, "unyielding": True},
        "does not yield to 18",
    ),
    ({"idle_since": 6400.0, "kind": "reservation"}, "idle for 1h"),
    (
        {"idle_since": 6400.0, "reclaimable": True, "stolen": {"ram": GIB}},
        "lost 1.0G ram",
    ),
    (
        {"reclaimable": True, "asked_back": 1.0, "asked_back_for": 2},
        "asked back for 2, 2h46m ago",
    ),
]


@pytest.mark.parametrize(("more", "note"), NOTES)
def test_a_note_says_what_is_most_urgent(status, view, more, note):
    lease = wire.LeaseInfo(1, "live", 0, 1, {"cpu": 1}, 1.0, granted=1.0, **more)
    heading, line = render.lease_lines(status(leases=[lease]), view())
    assert ("NOTE" in heading, note in line) == (note != "", True)


IDS = [
    ([], ""),
    ([17], "17"),
    ([17, 18], "17, 18"),
    ([17, 18, 19], "17-19"),
    ([3, 5, 6, 7, 9], "3, 5-7, 9"),
    ([7, 6], "7, 6"),
]


@pytest.mark.parametrize(("leases", "words"), IDS)
def test_numbers_in_a_row_are_told_by_their_ends(leases, words):
    assert render.ids(leases) == words


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


def test_the_summary_counts_what_is_ahead(reserving, view):
    assert render.summary_lines(reserving, view())[-1] == (
        "3 leases, 1 waiting, 2 reserved ahead"
    )


def test_one_lease_is_not_leases(status, view):
    lease = wire.LeaseInfo(1, "live", 0, 1, {}, 1.0)
    assert render.summary_lines(status(leases=[lease]), view())[-1] == (
        "1 lease, 0 waiting"
    )


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
