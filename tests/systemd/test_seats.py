"""Who sits at the machine: a real logind with real sessions, and gdm's hooks."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location(
    "machine", Path(__file__).with_name("machine.py")
)
assert _spec is not None
assert _spec.loader is not None
booting: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(booting)

pytestmark = [pytest.mark.real, pytest.mark.root, pytest.mark.slow]

HOOKS = booting.CHECKOUT / "systemd" / "gdm"
ADA, BOB = 1501, 1502

#: A login as a display manager makes it, without a password.
PAM = """
auth required pam_permit.so
account required pam_permit.so
session required pam_systemd.so
"""

#: Says each thing that the console reports, as one line; ends with its standard input,
#: as nsenter(1) passes no signals on.
LISTENER = """
import json, os, sys, threading, trio
from holdingpen.daemon.console import Console
from holdingpen.devices.logind import open_logind

def report(seen):
    print(json.dumps([sorted(seen.seated), sorted(seen.logged_in)]), flush=True)

async def main():
    console = Console(open_logind, lambda: [], report)
    console.configure(True)
    await console.watch()

def end():
    sys.stdin.read()
    os._exit(0)

threading.Thread(target=end, daemon=True).start()
trio.run(main)
"""


class Room:
    """A machine, its users, and who logs in at it."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        for name, uid in (("ada", ADA), ("bob", BOB), ("gdm", 1500)):
            machine.try_("userdel", name)
            machine.run("useradd", "--create-home", "--uid", str(uid), name)
        machine.write("/etc/pam.d/boot-test", PAM)
        machine.run("systemctl", "start", "dbus.service", "systemd-logind.service")
        # else user@.service starts with each login, and soon too often for systemd
        machine.run("loginctl", "enable-linger", "ada", "bob", "gdm")

    def log_in(self, unit: str, user: str, **words: str) -> str:
        """Open a session on the seat; returns its name."""
        given = {"SEAT": "seat0", "SESSION_CLASS": "user", "SESSION_TYPE": "wayland"}
        given |= words
        before = self.sessions()
        self.machine.run(
            *("systemd-run", "--quiet", "--no-block", f"--unit={unit}"),
            *("-p", "PAMName=boot-test", "-p", f"User={user}"),
            *(f"--setenv=XDG_{key}={value}" for key, value in given.items() if value),
            *("sleep", "infinity"),
        )
        booting.until(lambda: self.sessions() - before, f"{user} logs in")
        (session,) = self.sessions() - before
        return session

    def log_out(self, unit: str) -> None:
        self.machine.run("systemctl", "stop", unit)

    def sessions(self) -> set[str]:
        said = self.machine.run("loginctl", "list-sessions", "--no-legend")
        return {line.split()[0] for line in said.splitlines()}

    def activate(self, session: str) -> None:
        self.machine.run("loginctl", "activate", session)


@pytest.fixture(scope="module")
def room() -> Iterator[Room]:
    why_not = booting.why_not()
    if why_not:
        pytest.skip(why_not)
    machine = booting.Machine()
    try:
        yield Room(machine)
    finally:
        machine.close()


class Listener:
    """What the console reports inside."""

    def __init__(self, machine: Any) -> None:
        env = [f"PYTHONPATH={booting.CHECKOUT}", "PYTHONDONTWRITEBYTECODE=1"]
        self._process = subprocess.Popen(
            machine.inside(*env, sys.executable, "-c", LISTENER),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._said: Queue[list[list[int]]] = Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(json.loads(line))

    def until(self, seated: set[int], logged_in: set[int]) -> list[list[int]]:
        """Wait for that; returns all seats that were told, the last as well."""
        seats = []
        said: list[list[int]] = []
        while said != [sorted(seated), sorted(logged_in)]:
            said = self._said.get(timeout=booting.PATIENCE_S)
            seats.append(said[0])
        return seats

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()


@pytest.fixture
def listener(room) -> Iterator[Listener]:
    listener = Listener(room.machine)
    yield listener
    listener.close()
    room.machine.try_("systemctl", "stop", "one", "two", "three")
    booting.until(lambda: not room.sessions(), "all are logged out")


def test_a_login_is_followed_from_its_beginning_to_its_end(room, listener):
    listener.until(set(), set())
    room.log_in("one", "ada")
    # nobody, or nobody but logged in, and then she: never anybody else
    assert listener.until({ADA}, {ADA})[-1] == [ADA]
    room.log_out("one")
    listener.until(set(), set())


def test_who_switches_to_another_user_leaves_the_seat_and_stays_logged_in(
    room, listener
):
    ada = room.log_in("one", "ada")
    listener.until({ADA}, {ADA})
    bob = room.log_in("two", "bob")
    room.activate(bob)
    listener.until({BOB}, {ADA, BOB})
    room.activate(ada)
    listener.until({ADA}, {ADA, BOB})
    room.log_out("one")
    seats = listener.until(set(), {BOB})
    assert [BOB] not in seats, "nobody has switched to him"
    room.activate(bob)
    listener.until({BOB}, {BOB})


def test_the_greeter_sits_nowhere(room, listener):
    ada = room.log_in("one", "ada")
    listener.until({ADA}, {ADA})
    greeter = room.log_in("two", "gdm", SESSION_CLASS="greeter")
    room.activate(greeter)
    assert listener.until(set(), {ADA})[-1] == []
    room.activate(ada)
    listener.until({ADA}, {ADA})


def test_a_locked_screen_is_still_his(room, listener):
    room.log_in("two", "bob")
    room.activate(ada := room.log_in("one", "ada"))
    listener.until({ADA}, {ADA, BOB})
    path = f"/org/freedesktop/login1/session/{ada}"
    room.machine.run(
        *("busctl", "call", "org.freedesktop.login1", path),
        *("org.freedesktop.login1.Session", "SetLockedHint", "b", "true"),
    )
    # what comes in is told in order
    room.log_out("two")
    assert listener.until({ADA}, {ADA}) == [[ADA]]


@pytest.mark.parametrize(
    "words",
    [
        {"SEAT": "", "SESSION_TYPE": "tty"},
        {"SEAT": "", "SESSION_CLASS": "background", "SESSION_TYPE": ""},
    ],
)
def test_a_login_without_the_seat_is_not_told(room, listener, words):
    """As ssh and cron make it."""
    listener.until(set(), set())
    room.log_in("one", "ada", **words)
    # what comes in is told in order: she would have been told before him
    room.log_in("two", "bob")
    assert [ADA] not in listener.until({BOB}, {BOB})


def test_a_restarted_logind_is_followed_on(room, listener):
    room.log_in("one", "ada")
    listener.until({ADA}, {ADA})
    room.machine.run("systemctl", "restart", "systemd-logind.service")
    bob = room.log_in("two", "bob")
    room.activate(bob)
    listener.until({BOB}, {ADA, BOB})


def test_its_session_is_known_of_a_process_of_a_login(room, listener):
    session = room.log_in("one", "ada")
    listener.until({ADA}, {ADA})
    pid = room.machine.show("one.service", "MainPID")
    script = f"""
        from holdingpen.devices.logind import open_logind
        logind = open_logind()
        print(logind.session_of({pid}, {ADA}), logind.session_of({pid}, {BOB}),
              logind.session_of(1, {ADA}), logind.is_over("{session}", {ADA}), sep=",")
    """
    words = [f"PYTHONPATH={booting.CHECKOUT}", sys.executable, "-c"]
    said = room.machine.run("env", *words, textwrap.dedent(script))
    assert said == f"{session},,,False\n"


# gdm's hooks.


def hook(room: Room, name: str, user: str = "ada") -> subprocess.CompletedProcess[str]:
    """Run one as gdm does: uid 0, the user's groups, cwd / and this environment."""
    said = {
        "USER": user,
        "LOGNAME": user,
        "USERNAME": user,
        "GROUP": user,
        "HOME": f"/home/{user}",
        "PWD": f"/home/{user}",
        "SHELL": "/bin/bash",
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/games",
        "RUNNING_UNDER_GDM": "true",
    }
    words = [f"{key}={value}" for key, value in said.items()]
    groups = ["setpriv", f"--regid={user}", f"--groups={user}"]
    if room.machine.try_("id", user).returncode:
        groups = []
    clean = ["env", "--ignore-environment", "--chdir=/", *words]
    return room.machine.try_(*groups, *clean, str(HOOKS / f"holdingpen-{name}"))


def seated(room: Room) -> list[str]:
    said = room.machine.run("holdingpenctl", "status", "--json")
    return [x["user"] for x in json.loads(said)["seated"]]


@pytest.fixture
def pen(room) -> Iterator[Room]:
    """A daemon that asks no logind."""
    room.machine.write("/etc/holdingpen.toml", "[console]\nlogind = false\n")
    words = ["systemd-run", "--quiet", "--collect", "--unit=pen"]
    how = ("-p", "Type=notify", "-p", "NotifyAccess=all")
    room.machine.run(*words, *how, "/usr/bin/holdingpen")
    yield room
    room.machine.try_("systemctl", "kill", "--signal=CONT", "pen")
    room.machine.run("systemctl", "stop", "pen")
    room.machine.run("rm", "-rf", "/var/lib/holdingpen")


def test_gdms_hooks_give_the_seat_and_take_it(pen):
    assert hook(pen, "presession").returncode == 0
    assert seated(pen) == ["ada"]
    assert hook(pen, "presession", "bob").returncode == 0
    assert seated(pen) == ["ada", "bob"]
    assert hook(pen, "postsession").returncode == 0
    assert seated(pen) == ["bob"]


@pytest.mark.parametrize("name", ["presession", "postsession"])
@pytest.mark.parametrize("user", ["ada", "", "nobody-knows", "-x", "a b; reboot"])
def test_without_a_daemon_and_whoever_it_is_nobodys_login_fails(room, name, user):
    assert hook(room, name, user).returncode == 0


@pytest.mark.parametrize("name", ["presession", "postsession"])
def test_a_daemon_that_does_not_answer_stops_no_login(pen, name):
    pen.machine.run("systemctl", "kill", "--signal=STOP", "pen")
    assert hook(pen, name).returncode == 0


@pytest.mark.parametrize("name", ["presession", "postsession"])
def test_nothing_of_the_users_reaches_what_runs_as_root(room, name):
    """Python would run ~/.local/lib/python3*/site-packages/usercustomize.py."""
    room.machine.write(
        "/usr/sbin/holdingpenctl", '#!/bin/sh\nenv >/tmp/env\necho "$@" >>/tmp/env\n',
        mode="755",
    )  # fmt: skip
    try:
        assert hook(room, name).returncode == 0
    finally:
        room.machine.run("rm", "/usr/sbin/holdingpenctl")
    said = dict(
        line.partition("=")[::2]
        for line in room.machine.run("cat", "/tmp/env").splitlines()
    )
    verb = {"presession": "grant", "postsession": "revoke"}[name]
    assert said.pop(f"{verb} -- ada") == ""
    assert said == {
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PWD": "/",
        "PYTHONNOUSERSITE": "1",
    }


# A daemon that asks logind.


@pytest.fixture
def seeing(room) -> Iterator[Room]:
    """It lets in root only, and who sits at the machine."""
    room.machine.write("/etc/holdingpen.toml", '[daemon]\nmode = "0600"\n')
    start(room)
    yield room
    room.machine.try_("systemctl", "stop", "pen", "one", "two", "three")
    room.machine.run("rm", "-rf", "/var/lib/holdingpen")
    booting.until(lambda: not room.sessions(), "all are logged out")


def start(room: Room) -> None:
    words = ["systemd-run", "--quiet", "--collect", "--unit=pen"]
    how = ("-p", "Type=notify", "-p", "NotifyAccess=all")
    room.machine.run(*words, *how, "/usr/bin/holdingpen")


def gets_in(room: Room, user: str) -> bool:
    words = ["runuser", "-u", user, "--", "holdingpenctl", "status"]
    return not room.machine.try_(*words).returncode


def test_the_socket_is_open_to_who_sits_here_from_login_to_logout(seeing):
    assert not gets_in(seeing, "ada")
    seeing.log_in("one", "ada")
    booting.until(lambda: seated(seeing) == ["ada"], "she sits here")
    assert [gets_in(seeing, name) for name in ("ada", "bob")] == [True, False]
    bob = seeing.log_in("two", "bob")
    seeing.activate(bob)
    booting.until(lambda: seated(seeing) == ["bob"], "he sits here")
    assert [gets_in(seeing, name) for name in ("ada", "bob")] == [False, True]
    seeing.log_out("two")
    booting.until(lambda: seated(seeing) == [], "nobody sits here")
    assert not gets_in(seeing, "bob")


def test_a_killed_daemon_leaves_no_seat_to_who_has_logged_out_since(seeing):
    seeing.log_in("one", "ada")
    booting.until(lambda: seated(seeing) == ["ada"], "she sits here")
    seeing.machine.run("systemctl", "kill", "--signal=KILL", "pen")
    seeing.log_out("one")
    booting.until(lambda: not seeing.sessions(), "she is logged out")
    unloaded = ("pen.service", "LoadState")
    booting.until(lambda: seeing.machine.show(*unloaded) == "not-found", "it is gone")
    start(seeing)
    assert seated(seeing) == []


def grant_from_inside(room: Room, session: str, user: str) -> None:
    """As gdm's worker does, which is in the session's control group."""
    group = f"/sys/fs/cgroup/user.slice/user-{ADA}.slice/session-{session}.scope"
    script = f"echo $$ >{group}/cgroup.procs && exec holdingpenctl grant {user}"
    room.machine.run("sh", "-c", script)


def test_a_grant_ends_with_its_session_though_nobody_revokes_it(pen):
    """gdm's worker was killed, so PostSession did not run."""
    session = pen.log_in("one", "ada")
    grant_from_inside(pen, session, "ada")
    grant_from_inside(pen, session, "bob")
    assert seated(pen) == ["ada", "bob"]
    pen.log_out("one")
    booting.until(lambda: seated(pen) == ["bob"], "hers is over")
