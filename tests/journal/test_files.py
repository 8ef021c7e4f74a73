from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from holdingpen.errors import (
    EXIT_NOT_NOW,
    EXIT_NOT_PERMITTED,
    Damage,
    Unavailable,
)
from holdingpen.journal import files, record
from holdingpen.journal.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

    from holdingpen.core.facts import Fact


@pytest.fixture
def damaged(tool: SimpleNamespace, batches: list[list[Fact]], state_dir: Path) -> Path:
    """A journal whose second batch is spoilt, though it was synced."""
    data = bytearray(tool.write_synced(batches))
    second = list(record.verifiable(bytes(data)))[2]
    data[second.stop - 1] ^= 1
    state_dir.mkdir()
    path = state_dir / "journal"
    path.write_bytes(data)
    return path


def test_a_locked_directory_names_its_holder(state_dir: Path, store: Store) -> None:
    with pytest.raises(Unavailable, match=f"process {os.getpid()}") as caught:
        files.lock(state_dir)
    assert (caught.value.exit_status, caught.value.code) == (EXIT_NOT_NOW, "locked")


def test_the_lock_is_given_up_by_dying(state_dir: Path) -> None:
    """A kill -9 of the daemon leaves the file, not the lock."""
    holder = (
        "import os, sys, pathlib; from holdingpen.journal import files; "
        "files.lock(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", holder, state_dir], check=False)
    assert done.returncode == -9
    os.close(files.lock(state_dir))


def test_the_state_directory_is_private(state_dir: Path) -> None:
    os.close(files.lock(state_dir))
    assert state_dir.stat().st_mode & 0o777 == 0o700
    assert (state_dir / "lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("call", ["open", "mkdir", "ftruncate"])
def test_a_lock_that_cannot_be_made_says_what_failed(
    state_dir: Path, fail: Callable[..., None], call: str
) -> None:
    fail(call, errno.EACCES)
    with pytest.raises(Unavailable, match=f"{state_dir}.*Permission denied") as caught:
        files.lock(state_dir)
    assert caught.value.exit_status == EXIT_NOT_PERMITTED


def test_an_unreadable_journal_says_so(state_dir: Path) -> None:
    (state_dir / "journal").mkdir(parents=True)
    with pytest.raises(Unavailable, match=r"reading the journal .* Is a directory"):
        files.read(state_dir / "journal")


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "Free space"),
        (errno.EIO, "journalctl -k"),
        (errno.EFBIG, "LimitFSIZE"),
        (errno.EROFS, "read-write"),
        (errno.EBADF, "Remove the cause"),
    ],
)
def test_each_failure_says_what_to_do(code: int, advice: str) -> None:
    error = files.failed("writing", Path("/x"), OSError(code, os.strerror(code)))
    assert f"writing /x failed: {os.strerror(code)}" in str(error)
    assert advice in str(error)


def test_repair_cuts_at_the_damage_and_keeps_the_rest(
    tool: SimpleNamespace, batches: list[list[Fact]], damaged: Path
) -> None:
    before = damaged.read_bytes()
    with pytest.raises(Damage, match="journal repair --state"):
        Store.open(damaged.parent, tool.NOW)
    assert damaged.read_bytes() == before

    said = files.repair(damaged.parent, tool.NOW)
    kept = damaged.with_name("journal.broken")
    assert f"kept as {kept}" in said
    assert damaged.read_bytes() + kept.read_bytes() == before
    with closing(Store.open(damaged.parent, tool.NOW)) as store:
        assert list(store.batches()) == batches[:1]


def test_repair_leaves_a_clean_journal_alone(
    tool: SimpleNamespace, state_dir: Path, store: Store
) -> None:
    store.close()
    before = store.path.read_bytes()
    assert "nothing to repair" in files.repair(state_dir, tool.NOW)
    assert store.path.read_bytes() == before


def test_repair_keeps_what_earlier_repairs_kept(
    tool: SimpleNamespace, damaged: Path
) -> None:
    for name in ("journal.broken", "journal.broken.1"):
        damaged.with_name(name).write_bytes(b"earlier")
    said = files.repair(damaged.parent, tool.NOW)
    assert "journal.broken.2" in said
    assert damaged.with_name("journal.broken.1").read_bytes() == b"earlier"


def test_repair_puts_a_file_without_beginning_aside(
    tool: SimpleNamespace, state_dir: Path
) -> None:
    state_dir.mkdir()
    (state_dir / "journal").write_bytes(b"no journal at all")
    files.repair(state_dir, tool.NOW)
    assert (state_dir / "journal.broken").read_bytes() == b"no journal at all"
    with closing(Store.open(state_dir, tool.NOW)) as store:
        assert list(store.batches()) == []


def test_repair_cuts_at_a_record_it_cannot_decode(
    tool: SimpleNamespace, batches: list[list[Fact]], state_dir: Path
) -> None:
    data = tool.write(batches)
    more, _ = record.pack(["no fact"], record.scan(data, "").link, 0)
    state_dir.mkdir()
    (state_dir / "journal").write_bytes(data + more)
    files.repair(state_dir, tool.NOW)
    assert (state_dir / "journal").read_bytes() == data


def test_repair_leaves_a_newer_version_alone(
    tool: SimpleNamespace, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tool.write([])
    state_dir.mkdir()
    (state_dir / "journal").write_bytes(data)
    monkeypatch.setattr(record, "VERSION", 0)
    with pytest.raises(Damage, match="newer version"):
        files.repair(state_dir, tool.NOW)
    assert (state_dir / "journal").read_bytes() == data


def test_repair_waits_for_no_daemon(
    tool: SimpleNamespace, state_dir: Path, store: Store
) -> None:
    with pytest.raises(Unavailable, match="in use"):
        files.repair(state_dir, tool.NOW)


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "ftruncate", "fsync"])
def test_a_repair_that_fails_cuts_nothing(
    tool: SimpleNamespace, damaged: Path, fail: Callable[..., None], call: str
) -> None:
    """What cannot be kept is not cut; the next try starts from the same bytes."""
    before = damaged.read_bytes()
    # the lock is written first
    fail(call, errno.ENOSPC, after=1 if call in ("pwrite", "ftruncate") else 0)
    with pytest.raises(Unavailable, match="No space left"):
        files.repair(damaged.parent, tool.NOW)
    assert damaged.read_bytes() == before
