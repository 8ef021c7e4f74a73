"""Who sits at the machine, by libsystemd over what logind keeps.

The same table is judged with a make-believe libsystemd, and with the real one over a
directory tree as logind writes it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdingpen.devices import logind
from holdingpen.devices.logind import Logind, open_logind

ADA, BOB = 1001, 1002

#: What a session is unless it is said otherwise.
USUAL = {"uid": ADA, "class": "user", "state": "active", "remote": 0}

#: What seat0's active session is, or None, and who sits there.
TABLE: dict[str, tuple[dict[str, Any] | None, set[int]]] = {
    "a user": ({}, {ADA}),
    "another user": ({"uid": BOB}, {BOB}),
    "nobody": (None, set()),
    "the greeter": ({"uid": 120, "class": "greeter"}, set()),
    "a lock screen's own session": ({"class": "lock-screen"}, set()),
    "a user's manager": ({"class": "manager"}, set()),
    "a background session": ({"class": "background"}, set()),
    "one without a class yet": ({"class": ""}, set()),
    "one of a class to come": ({"class": "user-incomplete"}, set()),
    "one that is being opened": ({"state": "opening"}, set()),
    "one that is in the background": ({"state": "online"}, set()),
    "one that is being closed": ({"state": "closing"}, set()),
    "one from another machine": ({"remote": 1}, set()),
    "one of which nothing is known": ({"missing": True}, set()),
}

_libc = ctypes.CDLL(None)
_libc.strdup.restype = ctypes.c_void_p
_libc.malloc.restype = ctypes.c_void_p
_TEXTS = ctypes.POINTER(ctypes.c_void_p)


class FakeLibrary:
    """libsystemd for a machine with these sessions, whose monitors are eventfds."""

    def __init__(self, active: str = "", **sessions: dict[str, Any]) -> None:
        self.active = active
        self.sessions = {name: USUAL | x for name, x in sessions.items()}
        #: Process to session.
        self.processes: dict[int, str] = {}
        self.monitors: list[int] = []
        #: What a function returns instead of doing anything.
        self.failing: dict[str, int] = {}
        for name in logind._TAKES:
            setattr(self, name, self._function(name))

    def _function(self, name: str) -> Callable[..., int]:
        def call(*words: Any) -> int:
            return self.failing.get(name) or getattr(self, name[3:])(*words)

        return call

    def _give(self, text: str, found: Any) -> int:
        if not text:
            return -errno.ENODATA
        found._obj.value = _libc.strdup(text.encode())
        return 0

    def _known(self, session: bytes) -> dict[str, Any]:
        known = self.sessions.get(session.decode(), {"missing": True})
        return {} if known.get("missing") else known

    def seat_get_active(self, seat: bytes, session: Any, uid: Any) -> int:
        assert seat == b"seat0"
        uid._obj.value = self.sessions.get(self.active, USUAL)["uid"]
        return self._give(self.active, session)

    def seat_get_sessions(self, seat: bytes, found: Any, _: None, __: None) -> int:
        assert seat == b"seat0"
        names = list(self.sessions)
        # as a real one it is the caller's to free
        texts = ctypes.cast(_libc.malloc(8 * (len(names) + 1)), _TEXTS)
        for number, name in enumerate(names):
            texts[number] = _libc.strdup(name.encode())
        found._obj.contents = texts.contents
        return len(names)

    def session_get_class(self, session: bytes, found: Any) -> int:
        return self._give(self._known(session).get("class", ""), found)

    def session_get_state(self, session: bytes, found: Any) -> int:
        return self._give(self._known(session).get("state", ""), found)

    def session_get_uid(self, session: bytes, found: Any) -> int:
        known = self._known(session)
        if not known:
            return -errno.ENXIO
        found._obj.value = known["uid"]
        return 0

    def session_is_remote(self, session: bytes) -> int:
        return self._known(session).get("remote", -errno.ENXIO)

    def pid_get_session(self, pid: int, found: Any) -> int:
        return self._give(self.processes.get(pid, ""), found)

    def login_monitor_new(self, _: bytes, found: Any) -> int:
        found._obj.value = os.eventfd(0, os.EFD_NONBLOCK)
        self.monitors.append(found._obj.value)
        return 0

    def login_monitor_get_fd(self, monitor: Any) -> int:
        return monitor.value

    def login_monitor_get_events(self, _: Any) -> int:
        return select.POLLIN

    def login_monitor_flush(self, monitor: Any) -> int:
        try:
            return os.eventfd_read(monitor.value) * 0
        except BlockingIOError:
            return 0

    def login_monitor_unref(self, monitor: Any) -> int:
        os.close(monitor.value)
        self.monitors.remove(monitor.value)
        return 0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where logind has its directories."""
    for name in ("seats", "sessions"):
        (tmp_path / name).mkdir()
    return tmp_path


def open_fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - it lists itself last


def rings(watched: Logind) -> bool:
    poll = select.poll()
    poll.register(watched.fileno(), select.POLLIN)
    return bool(poll.poll(0))


@pytest.mark.parametrize(("session", "seated"), TABLE.values(), ids=TABLE)
def test_who_sits_at_the_machine_is(session, seated, home):
    sessions = {} if session is None else {"c1": session}
    watched = open_logind(lambda _: FakeLibrary(*sessions, **sessions), home)
    assert watched.why == ""
    assert watched.seated() == seated
    watched.close()


def test_who_switched_away_does_not_sit_here(home):
    library = FakeLibrary("c1", c1={}, c2={"uid": BOB, "state": "online"})
    watched = Logind(library, home)
    assert watched.seated() == {ADA}
    library.active = "c2"
    library.sessions["c1"]["state"] = "online"
    library.sessions["c2"]["state"] = "active"
    assert watched.seated() == {BOB}
    assert watched.logged_in() == {ADA, BOB}
    library.sessions["c1"]["state"] = "closing"
    assert watched.logged_in() == {BOB}
    watched.close()


#: Sessions on the seat, and who is logged in there.
LOGGED_IN: list[tuple[list[dict[str, Any]], set[int]]] = [
    ([], set()),
    ([{}], {ADA}),
    ([{"state": "online"}, {"uid": BOB}], {ADA, BOB}),
    ([{"state": "opening"}], {ADA}),
    ([{"state": "closing"}], set()),
    ([{"state": "closing"}, {"state": "online"}], {ADA}),
    ([{"uid": 120, "class": "greeter"}, {"state": "online"}], {ADA}),
    ([{"class": ""}, {"class": "manager"}, {"remote": 1}, {"missing": True}], set()),
]


@pytest.mark.parametrize(("sessions", "uids"), LOGGED_IN)
def test_who_is_logged_in_at_the_machine_is(home, sessions, uids):
    named = {f"c{n}": x for n, x in enumerate(sessions)}
    watched = Logind(FakeLibrary(**named), home)
    assert watched.logged_in() == uids
    watched.close()


@pytest.mark.parametrize("function", ["sd_seat_get_sessions", "sd_session_get_uid"])
def test_who_cannot_be_asked_about_is_not_logged_in(home, function):
    library = FakeLibrary(c1={})
    library.failing[function] = -errno.ENXIO
    watched = Logind(library, home)
    assert watched.logged_in() == set()
    watched.close()


def test_a_change_of_seats_or_of_sessions_rings_until_it_is_cleared(home):
    library = FakeLibrary()
    watched = Logind(library, home)
    assert len(library.monitors) == 2
    for monitor in library.monitors:
        assert not rings(watched)
        os.eventfd_write(monitor, 1)
        assert rings(watched)
        watched.clear()
    assert not rings(watched)
    watched.close()


def test_a_process_belongs_to_its_users_session(home):
    library = FakeLibrary(c1={}, c2={"uid": BOB})
    library.processes = {1: "c1", 2: "c2", 3: "c3"}
    watched = Logind(library, home)
    found = [watched.session_of(pid, ADA) for pid in range(5)]
    assert found == ["", "c1", "", "", ""]
    watched.close()


@pytest.mark.parametrize(
    ("session", "over"),
    [
        ({}, False),
        ({"state": "online"}, False),
        ({"state": "opening"}, False),
        ({"state": "closing"}, True),
        ({"missing": True}, True),
        ({"uid": BOB}, True),
    ],
)
def test_a_session_is_over_when_it_is_gone_closing_or_somebody_elses(
    session, over, home
):
    watched = Logind(FakeLibrary(c1=session), home)
    assert watched.is_over("c1", ADA) is over
    watched.close()


def test_a_session_that_cannot_be_asked_about_is_not_over(home):
    library = FakeLibrary(c1={})
    library.failing["sd_session_get_uid"] = -errno.EIO
    watched = Logind(library, home)
    assert watched.is_over("c1", ADA) is False
    watched.close()


@pytest.mark.parametrize(
    "function",
    [
        "sd_seat_get_active",
        "sd_session_get_class",
        "sd_session_get_state",
        "sd_session_is_remote",
    ],
)
@pytest.mark.parametrize("number", [errno.ENXIO, errno.ENOMEM, errno.EACCES])
def test_who_cannot_be_asked_about_does_not_sit_here(function, number, home):
    library = FakeLibrary("c1", c1={})
    library.failing[function] = -number
    watched = Logind(library, home)
    assert watched.seated() == set()
    watched.close()


def blind(watched: Logind) -> None:
    """It sees nobody, breaks nothing, and can be closed twice."""
    assert watched.fileno() == -1
    watched.clear()
    assert watched.session_of(1, ADA) == ""
    watched.close()
    watched.close()


def test_without_libsystemd_nobody_is_seen_and_it_is_said_why(home):
    def load(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    watched = open_logind(load, home)
    assert "libsystemd.so.0 cannot be loaded" in watched.why
    assert "holdingpenctl grant" in watched.why
    assert "\n" not in watched.why
    assert (watched.seated(), watched.logged_in()) == (set(), set())
    assert watched.is_over("c1", ADA) is False
    blind(watched)


@pytest.mark.parametrize(
    "function",
    ["sd_login_monitor_new", "sd_login_monitor_get_fd", "sd_login_monitor_get_events"],
)
def test_what_cannot_be_watched_is_said_and_leaves_no_descriptor(function, home):
    before = open_fds()
    library = FakeLibrary()
    library.failing[function] = -errno.ENOENT
    watched = Logind(library, home)
    assert "systemd-logind cannot be watched (No such file" in watched.why
    blind(watched)
    assert open_fds() == before


@pytest.mark.parametrize("name", ["seats", "sessions"])
def test_a_machine_on_which_logind_never_ran_is_told_at_no_cost(home, name):
    (home / name).rmdir()
    library = FakeLibrary()
    library.failing["sd_login_monitor_new"] = -errno.EIO
    watched = Logind(library, home)
    assert "systemd-logind cannot be watched (No such file" in watched.why
    blind(watched)


def test_a_closed_one_leaves_no_descriptor(home):
    before = open_fds()
    library = FakeLibrary()
    watched = Logind(library, home)
    watched.close()
    blind(watched)
    assert (open_fds(), library.monitors) == (before, [])


# With the real libsystemd, over a tree as logind writes it.

#: Runs where /run is empty; tells what it saw.
INSIDE = """
import json, os, select, sys
from pathlib import Path
from holdingpen.devices.logind import open_logind
table = json.loads(sys.argv[1])
home = Path("/run/systemd")

def put(name, **words):
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(".new")
    new.write_text("".join(f"{key}={value}\\n" for key, value in words.items()))
    new.rename(path)

def session(name, x):
    if "missing" not in x:
        put(f"sessions/{name}", UID=x["uid"], ACTIVE=1, STATE=x["state"],
            REMOTE=x["remote"], CLASS=x["class"], SEAT="seat0")

def rings(watched):
    return bool(select.select([watched.fileno()], [], [], 0)[0])

told = {"early": open_logind().why}
for name in ("seats", "sessions"):
    (home / name).mkdir(parents=True)
watched = open_logind()
told["why"], told["nothing"] = watched.why, sorted(watched.seated())
told["table"] = []
for x in table:
    (home / "sessions/c1").unlink(missing_ok=True)
    if x is None:
        put("seats/seat0", IS_SEAT0=1)
    else:
        session("c1", x)
        put("seats/seat0", ACTIVE="c1", ACTIVE_UID=x["uid"])
    told["table"].append(sorted(watched.seated()))
told["logged_in"] = []
for sessions in json.loads(sys.argv[2]):
    names = [f"c{n}" for n in range(len(sessions))]
    for name, x in zip(names, sessions):
        (home / "sessions" / name).unlink(missing_ok=True)
        session(name, x)
    put("seats/seat0", IS_SEAT0=1, SESSIONS=" ".join(names))
    told["logged_in"].append(sorted(watched.logged_in()))
session("c1", table[0])
watched.clear()
told["rings"] = [rings(watched)]
session("c1", {**table[0], "class": "greeter"})
told["rings"].append(rings(watched))
watched.clear()
told["rings"].append(rings(watched))
put("seats/seat0", IS_SEAT0=1)
told["rings"].append(rings(watched))
told["over"] = [watched.is_over("c1", table[0]["uid"]), watched.is_over("c9", 1001)]
told["session_of"] = watched.session_of(os.getpid(), 1001)
watched.close()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare(1) to have a /run of its own")
    try:
        ctypes.CDLL("libsystemd.so.0")
    except OSError as no:
        pytest.skip(f"no libsystemd here: {no}")
    table = [x if x is None else USUAL | x for x, _ in TABLE.values()]
    covered = 'mount -t tmpfs none /run && exec "$@"'
    sessions = [[USUAL | x for x in case] for case, _ in LOGGED_IN]
    look = [sys.executable, "-c", INSIDE, json.dumps(table), json.dumps(sessions)]
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", covered, "sh", *look],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.real
@pytest.mark.root
@pytest.mark.slow
def test_the_real_library_judges_alike(told):
    assert told["why"] == ""
    assert told["nothing"] == []
    expected = [sorted(seated) for _, seated in TABLE.values()]
    assert told["table"] == expected
    assert told["logged_in"] == [sorted(uids) for _, uids in LOGGED_IN]


@pytest.mark.real
@pytest.mark.root
@pytest.mark.slow
def test_the_real_library_rings_for_sessions_and_for_seats(told):
    assert told["rings"] == [False, True, False, True]


@pytest.mark.real
@pytest.mark.root
@pytest.mark.slow
def test_the_real_library_knows_what_is_over(told):
    assert told["over"] == [False, True]
    assert told["session_of"] == ""


@pytest.mark.real
@pytest.mark.root
@pytest.mark.slow
def test_a_machine_whose_logind_never_ran_says_so(told):
    assert "systemd-logind cannot be watched (No such file" in told["early"]
