"""`serve(answer)` starts a make-believe daemon and gives it back.

`granting` is one that grants whatever is asked for.
"""

import importlib.util
from pathlib import Path

import pytest

from holdingpen.wire import messages as wire

_SPEC = importlib.util.spec_from_file_location(
    "fake_daemon", Path(__file__).with_name("fake_daemon.py")
)
fake_daemon = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake_daemon)


@pytest.fixture
def serve(tmp_path):
    daemons = []

    def start(answer=lambda request: []):
        path = tmp_path / f"holdingpen{len(daemons) or ''}.socket"
        daemons.append(fake_daemon.FakeDaemon(path, answer))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.close()


def grant(request):
    """Yes, after a moment in the line; and Released, Shrunk, a page of status."""
    match request:
        case wire.Acquire(id, amounts):
            waiting = wire.Waiting(id, 17, 1, "is about to start")
            return [waiting, wire.Granted(id, 17, amounts, "best-effort")]
        case wire.Release(id, lease):
            return [wire.Released(id, lease)]
        case wire.Shrink(id, lease, amounts):
            left = {name: 8 * 2**30 - less for name, less in amounts.items()}
            return [wire.Shrunk(id, lease, left)]
        case wire.GetStatus(id):
            books = wire.Books(2**34, 2**34, 0, 0, 0, 0)
            lease = wire.LeaseInfo(17, "live", 0, 1, {"ram": 2**33}, 1.0)
            return [
                wire.Status(id, "0.1.0", 0.0, "/x", 1.0, {"ram": books}, [lease]),
            ]
    return []


@pytest.fixture
def granting(serve, monkeypatch):
    daemon = serve(grant)
    monkeypatch.setenv("HOLDINGPEN_SOCKET", daemon.path)
    return daemon
