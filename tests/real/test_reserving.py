"""Reservations by the commands people type, over kill -9 of the daemon."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.slow]

#: Longest wait for something that takes milliseconds on a quiet machine.
PATIENCE_S = 30.0
USR1 = "trap 'echo asked; exit 7' USR1; echo on; while :; do read -t 1 x; done"


@pytest.fixture
def ctl(pen):
    """Run `holdingpenctl WORDS`: status, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "holdingpen.ctl", *words],
            env=pen.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def start_ctl(pen):
    """Start `holdingpenctl WORDS` and do not wait for its end."""
    started = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "holdingpen.ctl", *words],
            env=pen.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def states(pen) -> dict[int, str]:
    with pen.connect() as conn:
        return {lease.id: lease.state for lease in conn.status().leases}


def until_ended(pen, lease: int) -> str:
    """Watch until `lease` is over; returns why it ended."""
    with pen.connect() as conn:
        events = conn.watch()
        with pen.connect() as other:
            story = other.story(lease)
        if story.state == "ended":
            return story.why_ended
        for event in events:
            if (event.what, event.lease) == ("ended", lease):
                return str(event.facts["why"])
    raise AssertionError


def test_short_prints_the_number_and_what_is_said_while_waiting_goes_elsewhere(
    served, ctl, start_ctl
):
    assert ctl("reserve", "--res", "slot=100", "-d", "1h", "--short") == (0, "1\n", "")
    waiting = start_ctl("reserve", "--res", "slot=1", "-d", "1h", "--short")
    assert "number 1 in the line" in waiting.stderr.readline()
    assert ctl("release", "1")[0] == 0
    out, _ = waiting.communicate(timeout=PATIENCE_S)
    assert (waiting.returncode, out) == (0, "2\n")


def test_what_was_promised_is_there_after_kill_9(pen, ctl):
    pen.serve()
    assert ctl("reserve", "--res", "slot=60", "-d", "1h", "--short")[1] == "1\n"
    assert ctl("reserve", "--res", "slot=40", "-d", "1s", "--short")[1] == "2\n"
    at = ["--at", "+1h", "--every", "daily", "--until", "+3d"]
    booked = ctl("reserve", "--machine", "-d", "5m", "--short", *at)
    assert booked[1] == "3\n4\n5\n"
    before = json.loads(ctl("why", "--json", "1")[1])
    pen.daemon.kill()
    pen.daemon.wait()
    assert ctl("list")[0] == 69
    pen.serve()
    assert (
        json.loads(ctl("why", "--json", "1")[1])["lease"]["expires"]
        == (before["lease"]["expires"])
    )
    assert until_ended(pen, 2) == "expired"
    assert states(pen) == {1: "live", 3: "booked", 4: "booked", 5: "booked"}
    assert ctl("release", "1", "4") == (0, "Released 1, 4.\n", "")
    pen.serve()
    assert states(pen) == {3: "booked", 5: "booked"}


def test_extending_and_releasing_outlive_kill_9(pen, ctl):
    pen.serve()
    for _ in range(2):
        ctl("reserve", "--res", "slot=10", "-d", "30s")
    assert ctl("extend", "1", "1h")[0] == 0
    with pen.connect() as conn:
        end_s = conn.story(1).expires
    assert ctl("release", "2")[0] == 0
    pen.serve()
    with pen.connect() as conn:
        assert conn.story(1).expires == end_s
        assert conn.story(2).why_ended == "released"
    assert states(pen) == {1: "live"}


def test_who_waits_when_the_daemon_is_killed_gets_nothing_and_is_told(
    pen, ctl, start_ctl
):
    pen.serve()
    ctl("reserve", "--res", "slot=100", "-d", "1h")
    waiting = start_ctl("reserve", "--res", "slot=1", "-d", "1h", "--short")
    assert "number 1" in waiting.stderr.readline()
    pen.serve()
    out, err = waiting.communicate(timeout=PATIENCE_S)
    assert (waiting.returncode, out) == (69, "")
    assert "hung up" in err
    assert states(pen) == {1: "live"}


def test_what_was_booked_begins_and_ends_by_itself(served, ctl):
    made = ctl("reserve", "--res", "slot=9", "-d", "1s", "--at", "+1s", "--short")
    assert made == (0, "1\n", "")
    assert until_ended(served, 1) == "expired"


def test_a_program_draws_on_its_users_reservation_and_is_told_when_it_is_over(
    served, ctl
):
    ctl("reserve", "--res", "slot=100", "-d", "2s")
    holder = served.gatekeeper("--stay", "--res", "slot=60", "sh", "-c", "read x")
    line = holder.stderr.readline()
    assert line == (
        "gatekeeper: lease 2 was ended: its reservation is over; sh goes on.\n"
    )


def test_the_whole_machine_is_waited_for_kept_shown_and_given_back(
    served, ctl, start_ctl
):
    flag = Path(served.socket).with_suffix(".reserved")
    first = served.gatekeeper("--res", "slot=1", "sh", "-c", "echo on; read x")
    assert first.stdout.readline() == "on\n"
    reason = "timing `id` $(id)"
    alone = start_ctl("reserve", "--machine", "-d", "1h", "-r", reason, "--short")
    assert "waits for the others" in alone.stderr.readline()
    assert ctl("status", "--exit-code") == (0, "", "")
    assert not flag.exists()
    first.communicate("\n", timeout=PATIENCE_S)
    assert alone.communicate(timeout=PATIENCE_S)[0] == "2\n"
    assert ctl("status", "--exit-code")[0] == 1
    assert flag.read_text().endswith(f"({reason})\n")
    status, out, _ = ctl("confirm")
    assert status == 0
    assert "(lease 2)" in out
    assert f"Reason: {reason}\n" in out
    served.serve()
    assert ctl("status", "--exit-code")[0] == 1
    assert flag.exists()
    assert served.run("--in", "none", "--res", "slot=1", "--nonblock", "true")[0] == 75
    assert served.run("--res", "slot=1", "true")[0] == 0
    assert ctl("release", "2")[0] == 0
    assert ctl("status", "--exit-code")[0] == 0
    assert not flag.exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_prompt_shows_who_has_the_machine(served, ctl, shell, tmp_path):
    """The words are another user's, and nothing in them is run."""
    if subprocess.run(["which", shell], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no {shell} here")
    reason = f"$(touch {tmp_path}/owned) `touch {tmp_path}/owned`"
    ctl("reserve", "--machine", "-d", "1h", "-r", reason)
    snippet = tmp_path / "snippet"
    snippet.write_text(ctl("prompt", shell)[1])
    precmd = {
        "bash": 'eval "$PROMPT_COMMAND"',
        "zsh": "for f in $precmd_functions; do $f; done",
        "fish": "emit fish_prompt; fish_prompt >/dev/null",
    }[shell]
    words = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}
    script = f"source {snippet}; {precmd}; printf '%s\\n' \"$HOLDINGPEN_ALERT\""
    done = subprocess.run(
        [shell, *words[shell], "-c", script],
        env={**served.env, "TERM": "xterm"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "has the whole machine until" in done.stdout, done.stderr
    assert f"({reason})" in done.stdout
    assert not (tmp_path / "owned").exists()


def test_an_asked_back_program_gets_the_signal_and_the_other_starts(served):
    holder = served.gatekeeper(
        "--reclaim-signal", "USR1", "--res", "licence=1", "bash", "-c", USR1
    )
    assert holder.stdout.readline() == "on\n"
    higher = served.run("--priority", "1", "--res", "licence=1", "echo", "mine")
    assert higher[:2] == (0, "mine\n")
    assert holder.communicate(timeout=PATIENCE_S)[0] == "asked\n"
    assert holder.returncode == 7


def test_a_timetable_is_imported_once(served, ctl, tmp_path):
    calendar = tmp_path / "c.ics"
    event = (
        "BEGIN:VEVENT\nUID:{0}\nDTSTAMP:20200101T000000Z\n"
        "DTSTART:20990105T{1}0000Z\nDTEND:20990105T{2}0000Z\n"
        "SUMMARY:Lab {0}\nEND:VEVENT\n"
    )
    events = event.format("a", "09", "10") + event.format("b", "11", "12")
    calendar.write_text(
        f"BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:x\n{events}END:VCALENDAR\n"
    )
    words = ["timetable", "import", str(calendar), "--res", "slot=60"]
    words += ["--until", "2099-12-31"]
    assert ctl(*words)[0] == 0
    assert states(served) == {1: "booked", 2: "booked"}
    served.serve()
    assert ctl(*words)[0] == 0
    assert states(served) == {1: "booked", 2: "booked"}
    status, _, err = ctl(
        "reserve", "--res", "slot=60", "-d", "1h", "--at", "2099-01-05 09:30"
    )
    assert status == 75
    assert "reservation 1 (" in err
    assert "It would fit from" in err


def test_why_and_report_know_what_ended_before_a_restart(served, ctl):
    made = ctl("reserve", "--res", "slot=50", "-d", "1s", "-r", "remember me")
    assert made[0] == 0
    assert until_ended(served, 1) == "expired"
    with served.connect() as conn:
        for _ in range(200):
            conn.release(conn.acquire({"slot": 1}).lease)
    served.serve()
    status, out, _ = ctl("why", "1")
    assert status == 0
    assert "Reason: remember me" in out
    assert "its time was over" in out
    report = json.loads(ctl("report", "--json", "--days", "1")[1])
    assert report["all"]["reservations"] == 1
    assert report["all"]["leases"] == 200
    assert 50.0 <= report["all"]["used"]["slot"] < 150.0
