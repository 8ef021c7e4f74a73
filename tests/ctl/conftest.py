"""A make-believe daemon, a status for it to tell, holdingpenctl and a view."""

import importlib.util
from datetime import UTC
from pathlib import Path

import pytest
from msgspec.structs import replace

from holdingpen.ctl.main import main
from holdingpen.ctl.render import View
from holdingpen.wire import messages as wire

_SPEC = importlib.util.spec_from_file_location(
    "fake_daemon", Path(__file__).parents[1] / "client" / "fake_daemon.py"
)
fake_daemon = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake_daemon)

GIB = 2**30
NAMES = {0: "root", 1000: "ada", 1001: "bob"}


def time_words(seconds, now):
    return f"<{seconds:.15g}>"


def times_words(start, end, now):
    return f"<{start:.15g}>-<{end:.15g}>"


@pytest.fixture
def serve(tmp_path):
    """Start a daemon that answers with `answer(request)`."""
    daemons = []

    def start(answer=lambda request: []):
        daemons.append(fake_daemon.FakeDaemon(tmp_path / "socket", answer))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.close()


@pytest.fixture
def ctl(tmp_path, capsys, monkeypatch):
    """Run holdingpenctl against that daemon: its exit status, output and errors."""
    for name in ("COLUMNS", "NO_COLOR", "HOLDINGPEN_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    for name, known in (
        ("user_name", lambda uid: NAMES.get(uid, str(uid))),
        ("now_s", lambda: 10_000.0),
        ("zone", lambda: UTC),
        ("time_words", time_words),
        ("times_words", times_words),
    ):
        monkeypatch.setattr(f"holdingpen.ctl.terminal.{name}", known)

    def run(*words):
        try:
            exit_status = main(["--socket", str(tmp_path / "socket"), *words])
        except SystemExit as end:
            exit_status = end.code
        return exit_status, *capsys.readouterr()

    return run


@pytest.fixture
def view():
    """A view `width` columns wide; dates are seconds since 1970."""

    def make(width=80, colour=False):
        return View(
            width,
            colour,
            user=lambda uid: NAMES.get(uid, str(uid)),
            date=lambda seconds: f"<{seconds:g}>",
            time=time_words,
            times=times_words,
            group={100: "users"}.get,
        )

    return make


@pytest.fixture
def status():
    """A status at second 10,000 of a daemon that started at 1,000."""

    def make(**more):
        known = {
            "id": 1,
            "daemon": "0.1.0",
            "since": 1000.0,
            "socket": "/run/holdingpen.socket",
            "now": 10_000.0,
            "resources": {
                "machine": wire.Books(1, 0, 0, 0, 0, 0),
                "ram": wire.Books(62 * GIB, 14 * GIB, 8 * GIB, 40 * GIB, 0, 0, 16),
                "cpu": wire.Books(8, 6, 0, 2, 0, 0),
            },
        }
        return wire.Status(**known | more)

    return make


@pytest.fixture
def busy(status):
    """Two leases, two who wait."""
    leases = [
        wire.LeaseInfo(
            17,
            "live",
            1000,
            4242,
            {"ram": 32 * GIB, "cpu": 2},
            2000.0,
            granted=2800.0,
            expires=12_400.0,
            command="matlab -batch simulation",
            label="whisper",
            reclaimable=True,
        ),
        wire.LeaseInfo(
            18,
            "waiting",
            1001,
            4243,
            {"machine": 1},
            9000.0,
            place=2,
            waits_for=[17, 21],
        ),
        wire.LeaseInfo(
            20,
            "waiting",
            0,
            4244,
            {"ram": 60 * GIB},
            9300.0,
            priority=5,
            place=1,
            expected=12_400.0,
            waits_for=[17],
            waits_why="60.0 GiB ram; 22.0 are there",
        ),
        wire.LeaseInfo(
            21, "promised", 1001, 4245, {"ram": 8 * GIB}, 9999.0, command="python x.py"
        ),
    ]
    return status(leases=leases, line=2)


@pytest.fixture
def reserving(status):
    """Reservations: two live ones, a lease inside, one that waits, two ahead."""
    leases = [
        wire.LeaseInfo(
            30,
            "live",
            1000,
            4242,
            {"ram": 16 * GIB},
            2000.0,
            granted=2800.0,
            expires=17_200.0,
            kind="reservation",
            label="exam",
            reason="final",
            starts=2800.0,
            gid=100,
        ),
        wire.LeaseInfo(
            31,
            "live",
            1000,
            4250,
            {"ram": 4 * GIB},
            9000.0,
            granted=9000.0,
            command="matlab",
            reclaimable=True,
            inside=30,
            asked_back=9960.0,
            asked_back_for=34,
            unyielding=True,
        ),
        wire.LeaseInfo(
            32,
            "live",
            1001,
            4251,
            {"cpu": 2},
            2000.0,
            granted=2000.0,
            expires=10_600.0,
            kind="reservation",
            reason="timing",
            starts=2000.0,
            idle_since=6400.0,
        ),
        wire.LeaseInfo(
            34,
            "waiting",
            0,
            4252,
            {"machine": 1},
            9000.0,
            kind="reservation",
            place=1,
            waits_for=[30, 31],
        ),
        *(
            wire.LeaseInfo(
                number,
                "booked",
                1000,
                4253,
                {"machine": 1},
                2000.0,
                kind="reservation",
                starts=starts,
                expires=starts + 7200.0,
                label="course",
                reason="Algorithms",
                series=40,
                made_by=0,
            )
            for number, starts in ((41, 700_000.0), (40, 96_400.0))
        ),
    ]
    return status(leases=leases, line=1, seated=[1000])


@pytest.fixture
def telling(serve):
    """A daemon that answers GetStatus with each of these, then hangs up."""

    def start(*statuses):
        rest = list(statuses)

        def answer(request):
            if type(request) is not wire.GetStatus:
                return []
            return [replace(rest.pop(0), id=request.id)] if rest else [None]

        return serve(answer)

    return start
