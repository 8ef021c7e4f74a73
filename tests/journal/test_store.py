from __future__ import annotations

import errno
import importlib
import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdingpen.core.facts import Ended, Fact, Moment
from holdingpen.errors import Damage, Unavailable
from holdingpen.journal import record
from holdingpen.journal.store import Store

if TYPE_CHECKING:
    from types import SimpleNamespace

Batches = list[list[Fact]]
Reopen = Callable[..., Batches]
Fail = Callable[..., None]

BENCH = Path(__file__).parents[1] / "bench"

#: Every system call through which the store changes something.
CALLS = ["open", "pwrite", "posix_fallocate", "fdatasync", "replace", "fsync", "close"]


class Crash(BaseException):
    """The process ends here."""


def gone(lease: int) -> Ended:
    return Ended(lease, Moment(1.0, 1.0), "gone")


# What is kept.


def test_a_fresh_store_has_nothing(store: Store) -> None:
    assert list(store.batches()) == []
    assert store.notes == []
    assert store.trouble is None
    assert store.reserve_ok


def test_what_was_appended_is_read_by_the_next(
    store: Store, batches: Batches, reopen: Reopen
) -> None:
    for facts_ in batches:
        store.append(facts_)
    store.close()
    assert reopen() == batches
    assert reopen() == batches


def test_no_facts_are_no_record(store: Store) -> None:
    before = store.size
    store.append([])
    assert store.size == before


def test_batches_are_handed_out_once(
    store: Store, batches: Batches, state_dir: Path, tool: SimpleNamespace
) -> None:
    store.append(batches[0])
    store.close()
    with closing(Store.open(state_dir, tool.NOW)) as again:
        again.append(batches[1])
        assert list(again.batches()) == batches[:1]
        assert list(again.batches()) == []


def test_each_opening_is_recorded(
    store: Store, reopen: Reopen, tool: SimpleNamespace
) -> None:
    store.close()
    reopen(tool.NOW)
    found = record.scan(store.path.read_bytes(), tool.NOW)
    assert (found.records, found.boot_id) == (2, tool.NOW)


def test_the_journal_is_private(store: Store) -> None:
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_a_leftover_of_a_rotation_is_removed(store: Store, reopen: Reopen) -> None:
    store.close()
    leftover = store.path.with_name("journal.new")
    leftover.write_bytes(b"half a snapsh")
    reopen()
    assert not leftover.exists()


# Torn and damaged files.


def test_a_torn_end_is_cut_kept_and_noted(
    store: Store, batches: Batches, state_dir: Path, tool: SimpleNamespace
) -> None:
    store.append(batches[0])
    end = store.size
    store.append(batches[1])
    cut = store.size - 3
    store.close()
    os.truncate(store.path, cut)
    torn = store.path.read_bytes()[end:]
    with closing(Store.open(state_dir, tool.THEN)) as again:
        again.append(batches[2])
        assert list(again.batches()) == batches[:1]
        assert "not written completely" in again.notes[0]
        assert f"byte {end}" in again.notes[0]
    kept = store.path.with_name("journal.broken").read_bytes()
    assert kept == torn.rstrip(b"\0")
    with closing(Store.open(state_dir, tool.THEN)) as third:
        assert list(third.batches()) == [batches[0], batches[2]]
        assert third.notes == []


@pytest.mark.slow
def test_every_cut_and_every_spoilt_byte_opens_to_a_prefix_or_not_at_all(
    batches: Batches, state_dir: Path, tool: SimpleNamespace, quick_disk: None
) -> None:
    data = tool.write_synced(batches)
    state_dir.mkdir()
    path = state_dir / "journal"
    spoilt = [data[:n] + bytes([data[n] ^ 0xFF]) + data[n + 1 :] for n in range(220)]
    for bad in [*(data[:n] for n in range(len(data))), *spoilt]:
        path.write_bytes(bad)
        try:
            with closing(Store.open(state_dir, tool.NOW)) as store:
                good = list(store.batches())
        except Damage:
            assert path.read_bytes() == bad
        else:
            assert good == batches[: len(good)]
        for kept in state_dir.glob("journal.broken*"):
            kept.unlink()


def test_damage_stops_the_start_and_frees_the_lock(
    store: Store, state_dir: Path, tool: SimpleNamespace
) -> None:
    store.close()
    store.path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(Damage, match="journal repair"):
            Store.open(state_dir, tool.NOW)


def test_a_newer_journal_stops_the_start(
    store: Store, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    monkeypatch.setattr(record, "VERSION", 0)
    with pytest.raises(
        Damage, match=r"version 1 of the format.*knows versions up to 0"
    ):
        Store.open(state_dir, "boot")


def test_a_whole_record_of_unknown_facts_stops_the_start(
    store: Store, state_dir: Path
) -> None:
    store.append([[99, "a fact of a newer release"]])
    store.close()
    with (
        closing(Store.open(state_dir, "boot")) as again,
        pytest.raises(Damage, match="did a newer Holding Pen write it"),
    ):
        list(again.batches())


# The mark of what is on the disk.


def marks(store: Store) -> list[int]:
    return [one.synced_to for one in record.verifiable(store.path.read_bytes())]


def test_records_say_how_much_was_on_the_disk_before_them(store: Store) -> None:
    begun = store.size
    store.append([gone(1)])
    store.sync()
    synced = store.size
    store.append([gone(2)])
    store.append([gone(3)])
    assert marks(store) == [0, begun, synced, synced]


def test_a_sync_vouches_only_for_what_was_there_before_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper goes on appending while a thread waits for the disk."""
    syncing, go_on = threading.Event(), threading.Event()
    real = os.fdatasync

    def slow(fd: int) -> None:
        syncing.set()
        assert go_on.wait(10)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    store.append([gone(1)])
    before = store.size
    thread = threading.Thread(target=store.sync)
    thread.start()
    assert syncing.wait(10)
    store.append([gone(2)])
    go_on.set()
    thread.join()
    assert (before, True) == (store.synced_to, store.size > before)


def test_a_rotation_waits_for_a_sync(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the sync would vouch for the new file with the end of the old one."""
    order: list[str] = []
    syncing, waiting = threading.Event(), threading.Event()
    real, lock = os.fdatasync, store._changing

    class ToldLock:
        def __enter__(self) -> None:
            if syncing.is_set():
                waiting.set()
            lock.acquire()

        def __exit__(self, *ignored: object) -> None:
            lock.release()

    def slow(fd: int) -> None:
        order.append(threading.current_thread().name)
        syncing.set()
        assert waiting.wait(10)
        order.append(threading.current_thread().name)
        real(fd)

    monkeypatch.setattr(store, "_changing", ToldLock())
    monkeypatch.setattr(os, "fdatasync", slow)
    thread = threading.Thread(target=store.sync, name="sync")
    thread.start()
    assert syncing.wait(10)
    store.rotate([[gone(1)]])
    thread.join()
    assert order == ["sync", "sync", "MainThread", "MainThread"]
    assert store.synced_to == store.size


# Rotation.


def test_a_rotation_keeps_the_snapshot_and_what_comes_after(
    store: Store, batches: Batches, reopen: Reopen
) -> None:
    for lease in range(1000):
        store.append([gone(lease)])
    before = store.size
    store.rotate(iter(batches[:2]))
    store.append(batches[2])
    assert store.size < before
    assert store.reserve_ok
    assert not store.path.with_name("journal.new").exists()
    store.close()
    assert reopen() == batches


def test_rotation_is_wanted_by_length(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdingpen.journal.store.ROTATE_BYTES_MIN", 1000)
    store.rotate([[gone(1)] * 10])
    rotated = store.size
    assert not store.wants_rotation
    while store.size <= max(1000, 8 * rotated):
        assert not store.wants_rotation
        store.append([gone(1)])
    assert store.wants_rotation


def crash_at(call: str, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(os, call)

    def crash(*args: object, **options: object) -> None:
        if after:
            real(*args, **options)
        raise Crash

    monkeypatch.setattr(os, call, crash)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", CALLS)
def test_a_crash_in_a_rotation_leaves_the_old_or_the_new(
    store: Store,
    batches: Batches,
    reopen: Reopen,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    after: bool,
) -> None:
    for facts_ in batches:
        store.append(facts_)
    with monkeypatch.context() as patch:
        crash_at(call, after, patch)
        with pytest.raises(Crash):
            store.rotate([[gone(7)]])
    store.close()
    changed = call in ("fsync", "close") or (call == "replace" and after)
    assert reopen() == ([[gone(7)]] if changed else batches)


def test_a_rotation_is_on_the_disk_before_it_has_the_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that survives a power cut: content, name, directory."""
    order: list[str] = []

    def watched(call: str) -> Callable[..., object]:
        real = getattr(os, call)

        def watch(*args: object, **options: object) -> object:
            order.append(call)
            return real(*args, **options)

        return watch

    for call in ("pwrite", "posix_fallocate", "fdatasync", "replace", "fsync"):
        monkeypatch.setattr(os, call, watched(call))
    store.rotate([[gone(1)]])
    assert order == [
        *("pwrite", "pwrite", "posix_fallocate", "fdatasync", "replace", "fsync")
    ]


@pytest.mark.parametrize("call", ["open", "pwrite", "posix_fallocate", "replace"])
def test_a_rotation_without_space_leaves_the_old_file_at_work(
    store: Store,
    batches: Batches,
    reopen: Reopen,
    monkeypatch: pytest.MonkeyPatch,
    fail: Fail,
    call: str,
) -> None:
    store.append(batches[0])
    with monkeypatch.context():
        fail(call, errno.ENOSPC)
        store.rotate([[gone(7)]])
        assert "No space left" in str(store.trouble)
        assert not store.wants_rotation
        monkeypatch.undo()
    store.append(batches[1])
    assert not store.path.with_name("journal.new").exists()
    store.rotate(batches[:2])
    assert store.trouble is None
    store.close()
    assert reopen() == batches[:2]


def test_a_rotation_whose_name_may_be_lost_ends_the_store(
    store: Store, fail: Fail
) -> None:
    fail("fsync", errno.EIO)
    with pytest.raises(Unavailable, match="changing to the new"):
        store.rotate([[gone(1)]])
    with pytest.raises(Unavailable, match="changing to the new"):
        store.append([gone(2)])
    with pytest.raises(Unavailable, match="changing to the new"):
        store.rotate([])


# Failing calls.


def test_short_writes_are_continued(
    store: Store, batches: Batches, reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, what, at: real(fd, what[:7], at))
        for facts_ in batches:
            store.append(facts_)
    store.close()
    assert reopen() == batches


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_write_is_final(
    store: Store, batches: Batches, reopen: Reopen, fail: Fail, code: int
) -> None:
    """Half of the record may be on the disk: nothing may be written after it."""
    store.append(batches[0])
    with pytest.MonkeyPatch.context() as patch:
        real = os.pwrite

        def half(fd: int, what: bytes, at: int) -> int:
            if len(what) < 60:
                raise OSError(code, os.strerror(code))
            return real(fd, what[:-20], at)

        patch.setattr(os, "pwrite", half)
        with pytest.raises(Unavailable, match=f"{store.path} failed"):
            store.append([gone(n) for n in range(3)])
    for call in (lambda: store.append([gone(9)]), store.sync):
        with pytest.raises(Unavailable, match=f"{store.path} failed"):
            call()
    store.close()
    assert reopen() == batches[:1]


def test_a_failed_sync_is_final(store: Store, fail: Fail) -> None:
    """The kernel reports a lost page once; the next fdatasync would say yes."""
    store.append([gone(1)])
    before = store.synced_to
    fail("fdatasync", errno.EIO)
    with pytest.raises(Unavailable, match=r"syncing the journal .*journalctl -k"):
        store.sync()
    with pytest.raises(Unavailable, match="syncing the journal"):
        store.append([gone(2)])
    assert store.synced_to == before


@pytest.mark.parametrize("call", ["pwrite", "posix_fallocate", "fdatasync", "replace"])
def test_a_journal_that_cannot_be_made_says_why(
    state_dir: Path, fail: Fail, call: str
) -> None:
    # the lock is written first
    fail(call, errno.ENOSPC, after=1 if call == "pwrite" else 0)
    with pytest.raises(Unavailable, match=r"making the journal .*Free space"):
        Store.open(state_dir, "boot")


def test_an_unwritable_journal_says_why(
    store: Store, state_dir: Path, fail: Fail
) -> None:
    store.close()
    fail("unlink", errno.EROFS)
    with pytest.raises(Unavailable, match=r"removing .*read-write"):
        Store.open(state_dir, "boot")


# All of it.

STEPS = st.lists(
    st.sampled_from(
        ["append", "append", "sync", "rotate", "restart", "reboot", "kill"]
    ),
    max_size=12,
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS, cut=st.integers(1, 20))
def test_whatever_happens_the_store_says_what_it_was_told(
    tmp_path_factory: pytest.TempPathFactory,
    quick_disk: None,
    steps: list[str],
    cut: int,
) -> None:
    """Appends, syncs, rotations, restarts and torn writes in any order."""
    state_dir = tmp_path_factory.mktemp("state")
    told: Batches = []
    boot = 1
    store = Store.open(state_dir, f"boot-{boot}")
    for lease, step in enumerate(steps):
        match step:
            case "append":
                told.append([gone(lease)])
                store.append(told[-1])
            case "sync":
                store.sync()
            case "rotate":
                store.rotate(told)
            case _:
                if step == "kill":
                    store.append([gone(lease)])
                end = store.size - (cut if step == "kill" else 0)
                store.close()
                if step == "kill":
                    os.truncate(store.path, end)
                boot += step == "reboot"
                store = Store.open(state_dir, f"boot-{boot}")
                assert list(store.batches()) == told
    store.close()


def test_the_journal_that_forgets_in_the_bench_has_all_that_the_daemon_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a field was missing there, and the bench broke where nobody had run it."""
    monkeypatch.syspath_prepend(str(BENCH))
    forgetful = importlib.import_module("without_journal").Discard
    with closing(Store.open(tmp_path, "boot")) as store:
        unlike = {x for x in dir(store) if x[0] != "_"} - set(dir(forgetful))
    # what only the store itself and its tests ask for
    assert unlike == {"path", "room_for", "size", "synced_to"}
