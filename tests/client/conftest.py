"""`serve(answer)` starts a make-believe daemon and gives it back.

`granting` is one that grants whatever is asked for.
"""

import contextlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from holdingpen.client.memory import LeaseMemory
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


def piece(size, data=b""):
    """An open file of that many bytes; those after `data` are zeros."""
    fd = os.memfd_create("piece")
    os.truncate(fd, size)
    os.pwrite(fd, data, 0)
    return fd


@pytest.fixture(name="piece")
def make_piece():
    return piece


@pytest.fixture
def parcel():
    """`parcel(message, fds, cuts=())` is a reply with open files."""
    return fake_daemon.Parcel


@pytest.fixture
def pieces_open():
    """`pieces_open()` counts the descriptors and mappings of pieces in this process."""

    def count():
        links = []
        for fd in Path("/proc/self/fd").iterdir():
            # that of this listing is gone by now
            with contextlib.suppress(FileNotFoundError):
                links.append(str(fd.readlink()))
        maps = Path("/proc/self/maps").read_text().splitlines()
        return sum("/memfd:piece" in line for line in links + maps)

    return count


def grant(request):
    """Yes, after a moment in the line; and Released, Shrunk, a page of status.

    What is fetched is one file of 64 GiB, without a page.
    """
    match request:
        case wire.Acquire(id, amounts):
            waiting = wire.Waiting(id, 17, 1, "is about to start")
            return [waiting, wire.Granted(id, 17, amounts, "best-effort")]
        case wire.Release(id, lease):
            return [wire.Released(id, lease)]
        case wire.Shrink(id, lease, amounts):
            left = {name: 8 * 2**30 - less for name, less in amounts.items()}
            return [wire.Shrunk(id, lease, left)]
        case wire.Fetch(id, lease, resource):
            fetched = wire.Fetched(id, lease, resource, [2**36])
            return [fake_daemon.Parcel(fetched, [piece(2**36)])]
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


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Callable[[LeaseMemory], None]:
    """Memory is not touched here: the pieces of make-believe daemons are sparse.

    Give it to a test that wants it touched.
    """
    populate = LeaseMemory.populate
    monkeypatch.setattr(LeaseMemory, "populate", lambda memory: None)
    return populate
