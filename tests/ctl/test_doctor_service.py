"""Verdicts on the daemon, its socket, its configuration and its state directory."""

import pytest

from holdingpen.ctl.checkup.findings import Orders
from holdingpen.ctl.checkup.service import (
    SILENT,
    Answer,
    Config,
    Door,
    Person,
    State,
    judge_config,
    judge_daemon,
    judge_socket,
    judge_state,
    rule,
)

ORDERS = Orders()
GIB = 2**30


def told(findings):
    """Check and verdict of each."""
    return [(one.check, one.verdict) for one in findings]


def mends(findings):
    return [one.mend for one in findings if one.verdict == "wrong"]


ANSWERS = [
    (Answer("/s", "1", pid=5), [("answers", "ok"), ("version", "ok")], []),
    (
        Answer("/s", "0.9", pid=5),
        [("answers", "ok"), ("version", "wrong")],
        [ORDERS.restart],
    ),
    (Answer("/s", code="unavailable"), [("answers", "wrong")], [ORDERS.start]),
    (Answer("/s", code=SILENT, why="?"), [("answers", "wrong")], [ORDERS.restart]),
    (
        Answer("/s", code="wrong-version", why="you speak 1."),
        [("version", "wrong")],
        [ORDERS.restart],
    ),
    (Answer("/s", code="not-permitted"), [("answers", "unchecked")], []),
    (
        Answer("/s", "1", troubles=("no room.",)),
        [("answers", "ok"), ("version", "ok"), ("trouble", "wrong")],
        ["holdingpenctl --socket /s status"],
    ),
]


@pytest.mark.parametrize(("answer", "expected", "mending"), ANSWERS)
def test_a_daemon_should_answer_and_be_of_our_version(answer, expected, mending):
    found = judge_daemon(answer, "1", ORDERS)
    assert told(found) == [(f"daemon.{check}", verdict) for check, verdict in expected]
    assert mends(found) == mending


ROOT = Person(0, "root", frozenset({0}), frozenset({0}))
ADA = Person(1000, "ada", frozenset({1000}), frozenset({1000}))
JOINED = ADA._replace(known_groups=frozenset({1000, 900}))
MEMBER = JOINED._replace(groups=frozenset({1000, 900}))
DOOR = Door("/s", 0o660, 0, 900, "root", "pen", True, False, True)


RULES = [
    (DOOR, ROOT, "as root"),
    (DOOR._replace(uid=1000), ADA, "as its owner"),
    (DOOR._replace(uid=1000, mode=0o466), ADA, ""),
    (DOOR, MEMBER, "as a member of pen"),
    (DOOR._replace(mode=0o606), MEMBER, ""),
    (DOOR, ADA, ""),
    (DOOR._replace(mode=0o666), ADA, "as everybody may"),
]


@pytest.mark.parametrize(("door", "me", "expected"), RULES)
def test_the_first_rule_that_names_one_counts(door, me, expected):
    assert rule(door, me, me.groups) == expected


OPENS = [
    (DOOR._replace(may_open=True), MEMBER, "ok", "ada may open it as a member of pen"),
    (DOOR._replace(may_open=True), ADA, "ok", "by an entry of its access list"),
    (DOOR, JOINED, "wrong", "after this login: log in again"),
    (DOOR, MEMBER, "wrong", "a directory above is closed"),
    (DOOR, ADA, "wrong", "not a member of pen"),
    (DOOR._replace(gid=0, group="root"), ADA, "wrong", "it is for root alone"),
    (DOOR._replace(mode=0o600), ADA, "wrong", "it is for root alone"),
]


@pytest.mark.parametrize(("door", "me", "verdict", "words"), OPENS)
def test_whether_one_may_open_the_socket_is_said_with_the_rule(
    door, me, verdict, words
):
    found = judge_socket(door, me, ORDERS)[-1]
    assert (found.check, found.verdict) == ("socket.access", verdict)
    assert words in found.text


def test_who_joined_the_group_after_the_login_is_told_how_to_get_it():
    assert judge_socket(DOOR, JOINED, ORDERS)[-1].mend == "newgrp pen"
    assert judge_socket(DOOR, ADA, ORDERS)[-1].mend == "sudo usermod -aG pen ada"


MODES = [
    (DOOR, "ok"),
    (DOOR._replace(wanted_group="pen"), "ok"),
    (DOOR._replace(mode=0o600), "wrong"),
    (DOOR._replace(wanted_group="users"), "wrong"),
    # systemd's socket unit says otherwise, and is right
    (DOOR._replace(mode=0o666, wanted_group="users", by_daemon=False), "ok"),
]


@pytest.mark.parametrize(("door", "verdict"), MODES)
def test_the_socket_should_be_as_the_configuration_says(door, verdict):
    assert judge_socket(door, ROOT, ORDERS)[0].verdict == verdict


def test_a_socket_for_root_alone_is_a_hint_to_root():
    found = judge_socket(DOOR._replace(gid=0, may_open=True), ROOT, ORDERS)
    assert told(found)[1] == ("socket.group", "hint")


def test_but_not_when_the_pen_is_his_own():
    found = judge_socket(DOOR._replace(gid=0, private=True), ROOT, ORDERS)
    assert "socket.group" not in dict(told(found))


def test_what_is_no_socket_is_in_the_way():
    found = judge_socket(DOOR._replace(is_socket=False), ROOT, ORDERS)
    assert told(found) == [("socket.kind", "wrong")]


CONFIGS = [
    (Config("/c", there=False), ["ok"]),
    (Config("/c", there=True), ["ok"]),
    (Config("/c", there=True, error=None), ["unchecked"]),
    (Config("/c", there=True, error="/c, line 3: unknown key."), ["wrong"]),
    (Config("/c", there=True, mode=0o666), ["ok", "wrong"]),
    (Config("/c", there=True, uid=1000), ["ok", "wrong"]),
    (Config("/c", there=True, uid=1000, daemon_uid=1000), ["ok"]),
]


@pytest.mark.parametrize(("config", "verdicts"), CONFIGS)
def test_the_configuration_should_be_good_and_safe(config, verdicts):
    assert [one.verdict for one in judge_config(config)] == verdicts


def test_a_bad_configuration_is_tested_again_after_it_was_changed():
    config = Config("/c", there=True, error="bad", private=True)
    (found,) = judge_config(config)
    test = "holdingpen --user --config /c --check-config"
    assert (found.text, found.mend) == ("bad", f"sensible-editor /c && {test}")


GOOD = State("/st")
STATES = [
    (GOOD, []),
    (GOOD._replace(there=False), ["state.directory wrong"]),
    (GOOD._replace(there=None), ["state.directory unchecked"]),
    (GOOD._replace(mode=0o777), ["state.directory wrong"]),
    (GOOD._replace(mode=0o755), []),
    (GOOD._replace(uid=1000), ["state.directory wrong"]),
    (GOOD._replace(uid=1000, daemon_uid=1000), []),
    (GOOD._replace(daemon_uid=1000), ["state.directory wrong"]),
    (GOOD._replace(kind="tmpfs"), ["state.filesystem wrong"]),
    (GOOD._replace(kind="nfs4"), ["state.filesystem hint"]),
    (GOOD._replace(kind="fuse.sshfs"), ["state.filesystem hint"]),
    (GOOD._replace(free_bytes=2**20), ["state.room wrong"]),
    (GOOD._replace(free_bytes=32 * 2**20), []),
    (GOOD._replace(journal="none"), []),
    (GOOD._replace(journal="torn"), ["state.journal hint"]),
    (GOOD._replace(journal="damaged"), ["state.journal wrong"]),
    (GOOD._replace(journal="unknown"), ["state.journal wrong"]),
    (GOOD._replace(journal="unseen"), ["state.journal unchecked"]),
    (GOOD._replace(broken=("journal.broken",)), ["state.broken hint"]),
]


@pytest.mark.parametrize(("state", "expected"), STATES)
def test_the_state_directory_should_keep_what_was_promised(state, expected):
    found = judge_state(state, running=True, orders=ORDERS)
    said = [f"{one.check} {one.verdict}" for one in found if one.verdict != "ok"]
    assert said == expected


def test_before_the_first_start_there_is_no_state_and_that_is_no_fault():
    found = judge_state(GOOD._replace(there=False), running=False, orders=ORDERS)
    assert told(found) == [("state.directory", "hint")]


def test_a_damaged_journal_is_mended_by_its_own_verb():
    state = GOOD._replace(journal="damaged", journal_says="byte 7")
    assert mends(judge_state(state, running=False, orders=ORDERS)) == [
        "holdingpenctl journal repair --state /st"
    ]
