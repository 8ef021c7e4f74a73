"""The verb doctor: what it prints, and its exit status."""

import json

import pytest

from holdingpen.ctl import doctor
from holdingpen.ctl.checkup import ask, findings, survey
from holdingpen.ctl.checkup.around import Library
from holdingpen.ctl.checkup.findings import hint, ok, unchecked, wrong
from holdingpen.ctl.checkup.service import Answer
from holdingpen.ctl.checkup.units import Units
from holdingpen.ctl.text import columns
from holdingpen.wire import messages as wire

FOUND = [
    wrong("socket.access", "ada may not open it", "newgrp pen"),
    ok("daemon.answers", "the daemon answers"),
    hint("clock.zone", "no time zone is set"),
    unchecked("state.directory", "/st"),
]

PAGE = """\
Daemon
  ok     the daemon answers

Socket
  WRONG  ada may not open it
           newgrp pen

State
  ?      /st was not checked: run as root
           sudo holdingpenctl doctor

Clock
  hint   no time zone is set

1 thing is wrong, 1 hint, 1 not checked."""


def test_findings_stand_under_headings_with_what_mends_them(view):
    assert "\n".join(findings.lines(FOUND, view())) == PAGE


def test_only_the_word_is_in_colour(view):
    page = findings.lines(FOUND[:1], view(colour=True))
    assert page[1] == "  \x1b[31mWRONG\x1b[0m  ada may not open it"


def test_text_is_folded_and_what_mends_is_not(view):
    """A command must be copied whole."""
    long = wrong("config.good", "many words " * 9, "a-long-command " * 9)
    *page, mend = findings.lines([long], view(40))[1:-2]
    assert max(map(columns, page)) <= 40
    assert all(line.startswith(" " * 9) for line in page[1:])
    assert mend.strip() == long.mend.strip()


SUMS = [
    (FOUND[1:2], "Nothing is wrong."),
    (FOUND[1:3], "Nothing is wrong, 1 hint."),
    (FOUND[3:], "Nothing is wrong that could be seen, 1 not checked."),
    (FOUND[:1] * 2, "2 things are wrong."),
]


@pytest.mark.parametrize(("found", "expected"), SUMS)
def test_the_last_line_says_how_many(found, expected, view):
    assert findings.lines(found, view())[-1] == expected


def test_what_others_wrote_does_not_drive_the_terminal(view):
    evil = wrong("config.good", "key \x1b[2J", "rm \x1b[2J")
    assert "\x1b" not in "".join(findings.lines([evil], view()))


def test_root_is_not_told_to_become_root():
    (found,) = findings.seen_by_root(FOUND[3:])
    assert (found.text, found.mend) == ("/st cannot be seen from here", "")


def test_every_group_has_a_heading(ctl):
    found = json.loads(ctl("doctor", "--json")[1])["findings"]
    assert {x["check"].partition(".")[0] for x in found} <= set(findings.GROUPS)


ENDS = [(FOUND[1:], 0), (FOUND, 1), ([], 0)]


@pytest.mark.parametrize(("found", "expected"), ENDS)
def test_the_status_is_1_when_something_is_wrong_and_hints_do_not_count(
    ctl, monkeypatch, found, expected
):
    monkeypatch.setattr(doctor, "look", lambda socket: found)
    assert ctl("doctor")[0] == expected


def test_json_has_a_version_and_counts(ctl, monkeypatch):
    monkeypatch.setattr(doctor, "look", lambda socket: FOUND)
    told = json.loads(ctl("doctor", "--json")[1])
    assert (told["version"], told["wrong"], told["hints"], told["unchecked"]) == (
        1,
        1,
        1,
        1,
    )
    assert told["findings"][0] == {
        "check": "socket.access",
        "verdict": "wrong",
        "text": "ada may not open it",
        "mend": "newgrp pen",
    }


def by_check(out):
    return {one["check"]: one for one in json.loads(out)["findings"]}


def test_without_a_daemon_that_is_what_is_wrong_and_the_rest_is_looked_at(ctl):
    exit_status, out, _ = ctl("doctor", "--json")
    found = by_check(out)
    assert exit_status == 1
    assert found["daemon.answers"]["verdict"] == "wrong"
    assert {"config.good", "memory.swap", "clock.right"} <= set(found)


def test_a_daemon_is_asked_for_its_version_and_its_troubles(ctl, telling, status):
    telling(status(daemon="0.0.1", troubles=["the journal has no room."]))
    found = by_check(ctl("doctor", "--json")[1])
    assert found["daemon.answers"]["verdict"] == "ok"
    assert found["daemon.version"]["text"].startswith("it is version 0.0.1")
    assert found["daemon.trouble"]["text"].endswith("has no room.")
    assert found["socket.access"]["verdict"] == "ok"


def answered(place, pid=7, private=False):
    return Answer(place, "1", pid=pid, private=private)


ELSEWHERE = [
    (answered("/run/holdingpen.socket"), False),
    (answered("/s"), True),
    (answered("/s", private=True), False),
    # the unit's own, as its configuration says
    (answered("/s", pid=500), False),
]


@pytest.mark.parametrize(("answer", "expected"), ELSEWHERE)
def test_whether_a_daemon_is_the_machines(answer, expected):
    systemd = Units(service={"MainPID": "500"})
    assert doctor._is_elsewhere(answer, systemd) is expected


PIDS = [
    (answered("/s", pid=1), 500),
    (answered("/s", pid=7), 7),
    (Answer("/run/holdingpen.socket", code="not-permitted"), 500),
    (Answer("/s", code="not-permitted"), 0),
]


@pytest.mark.parametrize(("answer", "expected"), PIDS)
def test_where_systemd_listens_the_process_is_that_of_the_unit(answer, expected):
    systemd = Units(service={"MainPID": "500"})
    assert doctor._with_pid(answer, systemd).pid == expected
    assert doctor._with_pid(answer, Units()).pid == answer.pid


def test_a_daemon_that_hangs_up_is_stuck(ctl, serve):
    serve(lambda request: [None] if type(request) is wire.GetStatus else [])
    found = by_check(ctl("doctor", "--json")[1])
    assert found["daemon.answers"]["verdict"] == "wrong"
    assert "hung up" in found["daemon.answers"]["text"]


def test_one_that_says_nothing_is_not_waited_for(serve, tmp_path):
    daemon = serve(lambda request: [])
    answer = ask.ask_daemon(daemon.path, answer_s=0.01)
    assert (answer.code, answer.version) == ("silent", "")


def crippled(socket):
    raise ModuleNotFoundError("No module named 'msgspec'")


def test_a_missing_library_is_a_finding_and_no_traceback(ctl, monkeypatch):
    monkeypatch.setattr(doctor, "look", crippled)
    lacking = ("3.11", "3.11", [Library("msgspec", "0.18", None)])
    for told, mend in ((lacking, "pip install 'msgspec>=0.18'"), (("3", "", []), "")):
        monkeypatch.setattr(survey, "libraries", lambda told=told: told)
        exit_status, out, _ = ctl("doctor")
        assert exit_status == 1
        assert "msgspec" in out
        assert mend in out
