"""What the store does about a disk that fills up."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from holdingpen.core import facts
from holdingpen.core.facts import CapacitySet, Ended, Fact, Granted, Left, Moment
from holdingpen.errors import Unavailable
from holdingpen.journal import record
from holdingpen.journal.store import CHUNK_BYTES, LEASE_BYTES, RESERVE_BYTES, Store

Reopen = Callable[..., list[list[Fact]]]
Fail = Callable[..., None]


@contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond `n_bytes`: a disk that is full there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def gone(lease: int) -> Ended:
    return Ended(lease, Moment(1.0, 1.0), "gone")


def fill(store: Store) -> None:
    """Use up all that is not reserved."""
    while store.room_for(0):
        store.append([CapacitySet("x" * 50_000, 1, 0)])


def append_for_ever(store: Store, batch: list[Fact]) -> NoReturn:
    while True:
        store.append(batch)


def test_a_full_disk_is_told_while_there_is_still_room(
    store: Store, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context():
        fail("posix_fallocate", errno.ENOSPC)
        while store.trouble is None:
            store.append([CapacitySet("x" * 50_000, 1, 0)])
        assert "Free space on that file system" in store.trouble
        assert store.reserve_ok
        fill(store)
        assert not store.reserve_ok
        assert not store.try_extend()
        monkeypatch.undo()
    assert store.try_extend()
    assert store.reserve_ok
    assert store.trouble is None


def test_on_a_full_disk_every_lease_can_still_end(
    store: Store, fail: Fail, reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with the longest story, and each fact in a record of its own."""
    leases = 300
    store.owe(leases)
    ask = facts.Ask(1, 1, facts.Who(1, 1, 1), {"ram": 1})
    with monkeypatch.context():
        fail("posix_fallocate", errno.ENOSPC)
        fill(store)
        assert not store.room_for(0)
        for lease in range(leases):
            for fact in longest_story(2**32 + lease):
                store.append([fact])
        for _ in range(RESERVE_BYTES // 60 // 2):
            store.append([gone(1)])
        with pytest.raises(Unavailable, match=r"reserve is used up.*Free space"):
            append_for_ever(store, [facts.Joined(1, Moment(1.0, 1.0), ask)] * 99)
        monkeypatch.undo()
    store.close()
    assert [gone(1)] in reopen()


def longest_story(lease: int) -> list[Fact]:
    """What may still be written of a lease that is in the books already."""
    at = Moment(1.0, 1.0)
    drawn = {"ram": 2**62, "disk.scratch": 2**62, "vram": 2**62}
    return [
        facts.Promised(lease, drawn, at),
        facts.Dropped(lease, "disk.scratch"),
        facts.Dropped(lease, "vram"),
        Granted(lease, at),
        Ended(lease, at, "x" * 16, 2**32 - 1),
        Left(2**40),
        facts.Taking("disk.scratch", 2**62),
        facts.Taken("disk.scratch", 2**62, 2**62, 1.0),
        facts.Seen("disk.scratch", 2**62, 2**62, 1.0),
    ]


def test_the_longest_story_fits_what_is_reserved_for_it() -> None:
    story = longest_story(2**40)
    assert sum(len(record.pack([fact], 1, 1)[0]) for fact in story) <= LEASE_BYTES


def test_more_leases_reserve_more(store: Store) -> None:
    store.owe(100_000)
    assert store.reserve_ok
    assert store.path.stat().st_size > 100_000 * LEASE_BYTES
    store.owe(0)
    assert store.room_for(100_000 * LEASE_BYTES)


def test_more_leases_than_the_disk_can_promise_are_seen(
    store: Store, fail: Fail
) -> None:
    fail("posix_fallocate", errno.EDQUOT)
    store.owe(100_000)
    assert not store.reserve_ok
    assert "quota" in str(store.trouble)


def test_room_is_made_for_a_long_batch(store: Store) -> None:
    assert store.room_for(50 * CHUNK_BYTES)
    store.append([CapacitySet("x" * 5 * CHUNK_BYTES, 1, 0)])
    assert store.reserve_ok


def test_appending_goes_into_space_allocated_ahead(store: Store) -> None:
    for _ in range(100):
        store.append([CapacitySet("x" * 50_000, 1, 0)])
        status = store.path.stat()
        assert status.st_size >= store.size + RESERVE_BYTES
        assert status.st_blocks * 512 >= status.st_size


def test_a_file_that_was_copied_sparse_is_allocated_again(
    store: Store, state_dir: Path, tool: SimpleNamespace
) -> None:
    store.close()
    size = store.path.stat().st_size
    os.truncate(store.path, store.size)
    os.truncate(store.path, size)
    with closing(Store.open(state_dir, tool.NOW)):
        status = store.path.stat()
        assert status.st_blocks * 512 >= size


def test_a_start_on_a_full_disk_keeps_its_reserve(
    store: Store, state_dir: Path, tool: SimpleNamespace
) -> None:
    store.append([CapacitySet("x" * 50_000, 1, 0)])
    store.close()
    with (
        file_size_limit(store.path.stat().st_size),
        closing(Store.open(state_dir, tool.NOW)) as again,
    ):
        assert again.trouble is not None
        assert again.reserve_ok


def test_a_limit_on_file_sizes_is_a_full_disk(
    store: Store, reopen: Reopen, quick_disk: None
) -> None:
    """The kernel's own EFBIG, at a byte that is no boundary of ours."""
    with file_size_limit(5_000_001):
        fill(store)
        assert "limit on the size of files" in str(store.trouble)
        store.append([gone(7)])
        size = store.size
        with pytest.raises(Unavailable, match="reserve is used up"):
            append_for_ever(store, [CapacitySet("x" * 50_000, 1, 0)])
        assert store.size > size + RESERVE_BYTES // 2
    store.close()
    assert [gone(7)] in reopen()


FULL_TMPFS = """
import sys
from contextlib import closing, suppress
from pathlib import Path
from holdingpen.core.facts import CapacitySet, Ended, Moment
from holdingpen.errors import Unavailable
from holdingpen.journal.store import Store
where = Path(sys.argv[1]) / "state"
gone = [Ended(7, Moment(1.0, 1.0), "gone")]
with closing(Store.open(where, "boot")) as store:
    stuffing = where / "stuffing"
    with stuffing.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    while store.room_for(0):
        store.append([CapacitySet("x" * 50_000, 1, 0)])
    assert "No space left" in store.trouble, store.trouble
    for _ in range(10_000):
        store.append(gone)
    store.sync()
    store.rotate([gone])
    assert "No space left" in store.trouble, store.trouble
with closing(Store.open(where, "boot")) as store:
    assert sum(batch == gone for batch in store.batches()) == 10_000
    stuffing.unlink()
    assert store.try_extend() and store.reserve_ok and store.trouble is None
print("all kept")
"""


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs: needs root")
def test_a_really_full_file_system_forgets_nothing(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=8m none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            mount,
            "sh",
            tmp_path,
            sys.executable,
            FULL_TMPFS,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.stdout) == ("", "all kept\n")


def test_a_file_system_that_cannot_allocate_is_refused_at_the_start(
    store: Store, state_dir: Path, fail: Fail
) -> None:
    """Without allocation no end of a lease could be promised its record."""
    store.close()
    fail("posix_fallocate", errno.EOPNOTSUPP)
    with pytest.raises(Unavailable, match=r"cannot grow.*not supported"):
        Store.open(state_dir, "boot")
