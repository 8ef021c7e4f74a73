"""holdingpenctl timetable: a reservation for each event of a calendar."""

import os

import pytest
from msgspec.structs import replace

from holdingpen.wire import messages as wire

GIB = 2**30
ME = os.getuid()
#: Second 10,000 is 02:46:40 on the first day; the course is on days 2, 9 and 16.
COURSE = """\
BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//test//test//EN
BEGIN:VEVENT
UID:course
DTSTAMP:19700101T000000Z
DTSTART:19700102T080000Z
DTEND:19700102T100000Z
RRULE:FREQ=WEEKLY;COUNT=3
SUMMARY:Algorithms
LOCATION:Room 5
END:VEVENT
BEGIN:VEVENT
UID:exam
DTSTAMP:19700101T000000Z
DTSTART:19700120T080000Z
DTEND:19700120T110000Z
SUMMARY:Final exam
END:VEVENT
END:VCALENDAR
"""
STARTS = [86_400.0 * day + 8 * 3600 for day in (1, 8, 15)]
EXAM = 86_400.0 * 19 + 8 * 3600


@pytest.fixture
def course(tmp_path):
    path = tmp_path / "course.ics"
    path.write_bytes(COURSE.replace("\n", "\r\n").encode())
    return str(path)


@pytest.fixture
def pen(serve, status):
    """Remembers what was reserved; `taken` are the begins that it refuses, by code."""

    def start(taken=()):
        leases = []

        def answer(request):
            match request:
                case wire.GetStatus(id=number):
                    return [replace(status(leases=leases), id=number)]
                case wire.Reserve(id=number, starts=[begin]) if begin in dict(taken):
                    code = dict(taken)[begin]
                    return [wire.Refused(number, code, "taken.", begin + 7200)]
                case wire.Reserve(id=number, starts=[begin]):
                    lease = len(leases) + 17
                    end = begin + request.length_s
                    leases.append(
                        wire.LeaseInfo(
                            lease,
                            "booked",
                            ME if request.uid is None else request.uid,
                            1,
                            request.amounts,
                            1.0,
                            kind="reservation",
                            starts=begin,
                            expires=end,
                            label=request.label,
                        )
                    )
                    amounts = request.amounts
                    return [wire.Reserved(number, [lease], amounts, begin, end)]
            return []

        return serve(answer)

    return start


def asked(daemon):
    return [r for r in daemon.heard if type(r) is wire.Reserve]


def test_show_needs_no_daemon(ctl, course):
    assert ctl("timetable", "show", course) == (
        0,
        "WHEN                 EVENT       WHERE\n"
        "<115200>-<122400>    Algorithms  Room 5\n"
        "<720000>-<727200>    Algorithms  Room 5\n"
        "<1324800>-<1332000>  Algorithms  Room 5\n"
        "<1670400>-<1681200>  Final exam\n",
        "",
    )


CHOICES = [
    (["--match", "EXAM"], ["<1670400>-<1681200>"]),
    (
        ["--from", "@200000", "--match", "alg"],
        ["<720000>-<727200>", "<1324800>-<1332000>"],
    ),
    (["--until", "@200000"], ["<115200>-<122400>"]),
]


@pytest.mark.parametrize(("words", "shown"), CHOICES)
def test_a_part_of_the_events_may_be_meant(ctl, course, words, shown):
    _, *lines = ctl("timetable", "show", course, *words)[1].splitlines()
    assert [line.split()[0] for line in lines] == shown


def test_no_event_is_said(ctl, course):
    out = ctl("timetable", "show", course, "--match", "party")[1]
    assert out == f"{course} has no such event.\n"


def test_each_event_is_reserved_for(ctl, course, pen):
    daemon = pen()
    words = ["--ram", "16G", "--for", "4321", "--group", "root"]
    assert ctl("timetable", "import", course, *words) == (
        0,
        "<115200>-<122400>  Algorithms: lease 17\n"
        "<720000>-<727200>  Algorithms: lease 18\n"
        "<1324800>-<1332000>  Algorithms: lease 19\n"
        "<1670400>-<1681200>  Final exam: lease 20\n"
        "Reserved for 4 of 4 events.\n",
        "",
    )
    first, *_, last = asked(daemon)
    assert first == wire.Reserve(
        first.id,
        {"ram": 16 * GIB},
        7200.0,
        [STARTS[0]],
        label=first.label,
        reason="Algorithms",
        uid=4321,
        gid=0,
    )
    assert (last.starts, last.length_s, last.label) == ([EXAM], 10_800.0, "exam")
    assert len({request.label for request in asked(daemon)}) == 4


def test_what_is_there_is_not_reserved_again(ctl, course, pen):
    daemon = pen()
    ctl("timetable", "import", course, "--cpu", "1", "--match", "exam")
    exit_status, out, _ = ctl("timetable", "import", course, "--cpu", "1")
    assert exit_status == 0
    assert out.endswith("Reserved for 3 of 4 events; 1 reserved before.\n")
    assert [r.starts[0] for r in asked(daemon)] == [EXAM, *STARTS]


def test_what_somebody_else_reserved_is_not_ones_own(ctl, course, pen):
    pen()
    ctl("timetable", "import", course, "--cpu", "1", "--for", "4321")
    out = ctl("timetable", "import", course, "--cpu", "1")[1]
    assert out.endswith("Reserved for 4 of 4 events.\n")


def test_a_moved_event_is_told_with_the_lease_at_the_old_time(
    ctl, course, pen, tmp_path
):
    daemon = pen()
    ctl("timetable", "import", course, "--cpu", "1")
    moved = tmp_path / "moved.ics"
    moved.write_text(COURSE.replace("19700120T", "19700121T"))
    assert ctl("timetable", "import", str(moved), "--cpu", "1") == (
        1,
        "Reserved for 0 of 4 events; 3 reserved before; 1 reserved at another time.\n",
        "holdingpenctl: <1756800>-<1767600>  Final exam: lease 20 is at another time: "
        "release it and import again.\n",
    )
    assert len(asked(daemon)) == 4


def test_a_conflict_is_told_with_its_alternative_and_the_others_are_made(
    ctl, course, pen
):
    pen([(STARTS[1], "conflict")])
    exit_status, out, err = ctl("timetable", "import", course, "--machine")
    assert exit_status == 1
    assert out.endswith("Reserved for 3 of 4 events; 1 refused.\n")
    assert err == (
        "holdingpenctl: <720000>-<727200>  Algorithms: taken. It would fit from "
        "1970-01-09 10:00.\n"
    )


def test_what_all_would_meet_ends_it(ctl, course, pen):
    daemon = pen([(STARTS[1], "not-permitted")])
    exit_status, out, err = ctl("timetable", "import", course, "--machine")
    assert (exit_status, out) == (77, "<115200>-<122400>  Algorithms: lease 17\n")
    assert err.endswith("So far 1 of 4 events were reserved for.\n")
    assert len(asked(daemon)) == 2


def test_a_dry_run_reserves_nothing(ctl, course, pen):
    daemon = pen()
    words = ["--machine", "--match", "exam", "--dry-run"]
    assert ctl("timetable", "import", course, *words) == (
        0,
        "<1670400>-<1681200>  Final exam\nWould reserve for 1 of 1 events.\n",
        "",
    )
    assert asked(daemon) == []


def test_a_key_too_long_for_a_label_is_still_found_again(ctl, pen, tmp_path):
    daemon = pen()
    file = tmp_path / "long.ics"
    file.write_text(COURSE.replace("UID:exam", f"UID:{'x' * 300}"))
    words = ["timetable", "import", str(file), "--machine", "--match", "exam"]
    ctl(*words)
    assert ctl(*words)[1].endswith("1 reserved before.\n")
    assert len(asked(daemon)[0].label) <= wire.TEXT_MAX


WRONG = [
    ([], "how much? Say what to reserve", 2),
    (["--machine", "--from", "soon"], "time 'soon' is not understood", 2),
    (["--machine", "--from", "@9", "--until", "@9"], "--until comes before --from", 2),
    (["--machine", "--for", "no-such"], "there is no user 'no-such'", 2),
]


@pytest.mark.parametrize(("words", "problem", "end"), WRONG)
def test_what_cannot_be_meant_is_not_asked(ctl, course, words, problem, end):
    exit_status, out, err = ctl("timetable", "import", course, *words)
    assert (exit_status, out) == (end, "")
    assert err.startswith(f"holdingpenctl: {problem}")


@pytest.mark.parametrize("part", [["show"], ["import", "--machine"]])
def test_a_file_that_cannot_be_read_is_bad_data(ctl, part, tmp_path):
    exit_status, out, err = ctl("timetable", *part, str(tmp_path / "none.ics"))
    assert (exit_status, out) == (65, "")
    assert err.startswith(f"holdingpenctl: cannot read {tmp_path}/none.ics: No such")


def test_a_file_that_is_no_calendar_is_named(ctl, tmp_path):
    file = tmp_path / "x.ics"
    file.write_text("hello")
    exit_status, out, err = ctl("timetable", "show", str(file))
    assert (exit_status, out) == (65, "")
    assert err.startswith(f"holdingpenctl: {file}: ")


def test_a_file_of_any_length_is_read_no_further_than_a_calendar(ctl):
    exit_status, out, err = ctl("timetable", "show", "/dev/zero")
    assert (exit_status, out) == (65, "")
    assert err.startswith("holdingpenctl: /dev/zero: ")
