from __future__ import annotations

import os
from contextlib import closing
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from holdingpen.core.facts import CapacitySet, Ended, Fact, Granted, Moment
from holdingpen.journal import record
from holdingpen.journal.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Boots: the one in which a journal was written, and the one after it.
THEN, NOW = "boot-1", "boot-2"


def write(batches: list[list[Fact]], marks: list[int] | None = None) -> bytes:
    """The bytes of a journal; marks[n] is the synced_to of batch n, else 0."""
    data, link = record.pack_opening(THEN, 0, 0)
    for place, facts in enumerate(batches):
        more, link = record.pack(facts, link, marks[place] if marks else 0)
        data += more
    return data


def write_synced(batches: list[list[Fact]]) -> bytes:
    """A journal that was synced before each record."""
    unsynced = write(batches)
    return write(batches, [one.offset for one in record.verifiable(unsynced)][1:])


def believed(data: bytes, boot_id: str = NOW) -> list[list[Fact]]:
    """The batches that a start takes for true, before it meets damage."""
    until = record.scan(data, boot_id).good_until
    return [facts for _, facts in record.batches(data, until)]


@pytest.fixture(scope="session")
def tool() -> SimpleNamespace:
    """The helpers above."""
    return SimpleNamespace(
        THEN=THEN,
        NOW=NOW,
        write=write,
        write_synced=write_synced,
        believed=believed,
    )


@pytest.fixture(scope="session")
def batches() -> list[list[Fact]]:
    """What a short life of the daemon leaves behind."""
    return [
        [Granted(1, Moment(1.0, 9.0)), Granted(2, Moment(1.0, 9.0))],
        [CapacitySet("ram", 2**30, 0)],
        [Ended(1, Moment(2.0, 10.0), "gone"), Ended(2, Moment(3.0, 11.0), "released")],
    ]


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(state_dir: Path) -> Iterator[Store]:
    """A store in a fresh directory."""
    with closing(Store.open(state_dir, THEN)) as store:
        yield store


@pytest.fixture
def reopen(state_dir: Path) -> Callable[..., list[list[Fact]]]:
    """What the next start reads; by default after a reboot."""

    def reopen(boot_id: str = NOW) -> list[list[Fact]]:
        with closing(Store.open(state_dir, boot_id)) as store:
            return list(store.batches())

    return reopen


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync nothing: for tests that open many journals and cut no power."""
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a function of `os` fail with an errno, from its call number `after` on."""

    def arm(name: str, code: int, after: int = 0) -> None:
        real, calls = getattr(os, name), count()

        def broken(*args: object, **options: object) -> object:
            if next(calls) >= after:
                raise OSError(code, os.strerror(code))
            return real(*args, **options)

        monkeypatch.setattr(os, name, broken)

    return arm
