"""What lies on a disk goes on under the next daemon: ballast, files, directories.

What needs loop devices is in tests/real/test_disk_outliving.py.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from holdingpen.ballast import grounds, heirs
from holdingpen.ballast.blocks import UNIT
from holdingpen.ballast.disk import DiskBallast, open_disk_ballast
from holdingpen.ballast.heirs import Heir
from holdingpen.devices.filesystem import FileSystem
from holdingpen.errors import Refusal, Unavailable

ME = os.geteuid(), os.getegid()
STEP = 8 * UNIT
LOTS = 2**40


def always(step: int) -> bool:
    return True


def refuse(step: int) -> bool:
    raise AssertionError("the guard was asked")


def open_one(path: Path, hold: int = LOTS) -> DiskBallast:
    return open_disk_ballast(path, hold, FileSystem(path), path / "mounts", STEP)


def names(path: Path) -> list[str]:
    found = [*(path / grounds.OURS).iterdir(), *(path / grounds.LEASES).iterdir()]
    return sorted(file.name for file in found)


@pytest.fixture
def first(tmp_path: Path) -> DiskBallast:
    """The daemon before, with 64 units of ballast; the test has it leave."""
    if why := FileSystem(tmp_path).why:
        pytest.skip(why)
    ballast = open_one(tmp_path)
    ballast.adopt()
    ballast.take(64 * UNIT, always)
    return ballast


@pytest.fixture
def second(tmp_path: Path) -> Iterator[DiskBallast]:
    """The daemon after it; the first must have left, and the test adopts."""
    ballasts: list[DiskBallast] = []

    class Later:
        def __getattr__(self, name: str) -> object:
            if not ballasts:
                ballasts.append(open_one(tmp_path))
            return getattr(ballasts[0], name)

    yield Later()  # type: ignore[misc]
    for ballast in ballasts:
        apart = sum(ballast._apart.values())
        assert ballast._pool.size == ballast.found + ballast.held + apart
        ballast.close()
        assert not (tmp_path / grounds.OURS).exists()


# Ballast.


@pytest.mark.parametrize(
    ("booked", "hold", "held", "found"),
    [
        (64, 64, 64, 0),
        (40, 64, 40, 24),
        # more was booked than there is: some went
        (80, 80, 64, 0),
        # its reservations may have more than the configuration wants
        (64, 10, 64, 0),
        (40, 50, 40, 10),
        (40, 10, 40, 0),
        (0, 20, 0, 20),
        (0, 0, 0, 0),
    ],
)
def test_what_the_books_know_is_held_at_once_and_what_is_beyond_as_far_as_wanted(
    first, tmp_path, booked, hold, held, found
):
    first.leave()
    with closing(open_one(tmp_path, hold * UNIT)) as ballast:
        assert ballast.adopt(booked * UNIT) == frozenset()
        assert (ballast.held, ballast.found) == (held * UNIT, found * UNIT)
        freed = 64 - held - found
        assert ballast._pool.size == (held + found) * UNIT
        assert [x.endswith("more than is held: freed.") for x in ballast.notes] == (
            [True] if freed else []
        )
        assert ballast.take(found * UNIT, refuse) == found * UNIT


def test_leaving_lets_go_of_everything_as_it_is(first, tmp_path):
    first.keep(1, 8 * UNIT)
    first.prepare_file(1, 8 * UNIT)
    first.prepare_directory(2, UNIT, *ME)
    before = names(tmp_path)
    for end in (first.leave, first.leave, first.close):
        end()
        assert names(tmp_path) == before
    assert (first.held, first.kept, first.drop(UNIT)) == (0, {}, 0)
    with pytest.raises(Refusal, match="the daemon is ending"):
        first.prepare_file(3, UNIT)
    # and nobody is locked out
    open_one(tmp_path)._grounds.close()


def test_leaving_after_closing_does_nothing(first, tmp_path):
    first.close()
    first.leave()
    assert list(tmp_path.iterdir()) == []


# Files.


def test_a_file_goes_on_with_what_is_in_it(first, second):
    first.keep(1, 8 * UNIT)
    (piece,) = first.lend(1, 8 * UNIT, refuse)
    os.pwrite(piece.fd, b"mine", UNIT)
    first.leave()
    assert second.adopt(56 * UNIT, {1: Heir("file", 8 * UNIT, 8 * UNIT)}) == {1}
    assert (second.held, second.kept) == (56 * UNIT, {1: 8 * UNIT})
    assert second.notes == []
    (again,) = second.lend(1, 8 * UNIT, refuse)
    assert os.pread(again.fd, 4, UNIT) == b"mine"
    os.close(again.fd)
    assert second.back(1) is None
    os.close(piece.fd)
    assert second.back(1) == 8 * UNIT
    assert second.held == 64 * UNIT


@pytest.mark.parametrize("length", [0, 3 * UNIT + 5, 8 * UNIT + 5, 100 * UNIT])
def test_a_file_is_left_as_its_client_made_it_and_comes_back_whole(
    first, second, length
):
    """Its length is his business while he has it."""
    first.keep(1, 8 * UNIT)
    (piece,) = first.lend(1, 8 * UNIT, refuse)
    os.ftruncate(piece.fd, length)
    first.leave()
    assert second.adopt(56 * UNIT, {1: Heir("file", 8 * UNIT, 8 * UNIT)}) == {1}
    assert os.fstat(piece.fd).st_size == length
    assert second.kept == {1: 8 * UNIT}
    os.close(piece.fd)
    assert second.back(1) == 8 * UNIT


def test_a_lease_that_is_no_multiple_of_the_unit_has_its_size(first, second):
    first.keep(1, 2 * UNIT)
    os.close(first.lend(1, UNIT + 5, refuse)[0].fd)
    first.leave()
    assert second.adopt(62 * UNIT, {1: Heir("file", UNIT + 5, 2 * UNIT)}) == {1}
    (piece,) = second.lend(1, UNIT + 5, refuse)
    assert (piece.size, second.kept) == (UNIT + 5, {1: 2 * UNIT})
    os.close(piece.fd)


@pytest.mark.parametrize("kind", ["file", "image", "directory"])
def test_what_is_gone_is_not_kept(first, second, kind):
    first.leave()
    heir = Heir(kind, 8 * UNIT, 8 * UNIT)
    assert second.adopt(64 * UNIT, {1: heir}) == frozenset()
    assert (second.held, second.kept, second.back(1)) == (64 * UNIT, {}, 0)


@pytest.mark.parametrize("kind", ["image", "directory", "free"])
def test_what_it_has_in_another_way_than_the_books_say_is_ballast_again(
    first, second, kind
):
    first.keep(1, 8 * UNIT)
    first.prepare_file(1, 8 * UNIT)
    first.leave()
    heir = Heir(kind, 8 * UNIT, 8 * UNIT)
    assert second.adopt(56 * UNIT, {1: heir}) == frozenset()
    assert (second.held, second.found) == (56 * UNIT, 8 * UNIT)
    assert second.notes[0].endswith("file-1: ballast again.")


def test_an_image_that_is_mounted_no_more_is_ballast_again(first, second, tmp_path):
    """After a boot, or when an administrator unmounted it."""
    first.leave()
    image = tmp_path / grounds.OURS / "image-1"
    with image.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 8 * UNIT)
    assert second.adopt(64 * UNIT, {1: Heir("image", 8 * UNIT, 0)}) == frozenset()
    assert (second.held, second.found) == (64 * UNIT, 8 * UNIT)
    assert second.notes[0].endswith("image-1: ballast again.")


# Directories.


def fill(place: Path, units: int) -> None:
    with (place / "file").open("wb") as file:
        file.write(bytes(range(256)) * 4096 * units)
        os.fsync(file.fileno())


@pytest.mark.parametrize(
    ("size", "drawn", "used", "kept"),
    [
        (32, 32, 0, 24),
        (32, 32, 4, 20),
        (32, 32, 30, 0),
        (32, 8, 0, 0),
        # only half of it was ballast
        (64, 32, 4, 20),
    ],
)
def test_of_a_directory_a_step_more_than_it_uses_is_free(
    first, second, size, drawn, used, kept
):
    first.keep(1, drawn * UNIT)
    place = first.prepare_directory(1, size * UNIT, *ME)
    fill(place, used)
    first.pace(1)
    before = first.kept
    held = first.held
    first.leave()
    heir = Heir("directory", size * UNIT, drawn * UNIT)
    assert second.adopt(held, {1: heir}) == {1}
    # a file's own blocks, and the directory's, may cost a unit
    there = second.kept.get(1, 0) // UNIT
    assert kept - 1 <= there <= kept
    assert second.kept == before
    assert (second.held, second.found) == (held, 0)
    assert second.peak(1) >= used * UNIT
    assert second._lent[1].released - second.peak(1) <= STEP


def test_it_is_freed_on_as_it_fills_and_removed_at_its_end(first, second):
    first.keep(1, 32 * UNIT)
    place = first.prepare_directory(1, 32 * UNIT, *ME)
    first.leave()
    second.adopt(32 * UNIT, {1: Heir("directory", 32 * UNIT, 32 * UNIT)})
    fill(place, 10)
    seen = second.pace(1)
    assert seen is not None
    assert seen.used >= 10 * UNIT
    assert seen.released == 32 * UNIT - second.kept[1] >= 17 * UNIT
    left = second.kept[1]
    assert second.back(1) == left
    assert (place.exists(), second.held) == (False, 32 * UNIT + left)


def test_what_was_deleted_in_it_is_not_held_for_it_once_more(first, second):
    """The rest of the ballast is the others', as the books know."""
    first.keep(1, 32 * UNIT)
    place = first.prepare_directory(1, 32 * UNIT, *ME)
    fill(place, 20)
    first.pace(1)
    left = first.kept[1]
    (place / "file").unlink()
    first.leave()
    second.adopt(32 * UNIT, {1: Heir("directory", 32 * UNIT, 32 * UNIT)})
    assert (second.kept, second.held) == ({1: left}, 32 * UNIT)


def test_a_directory_goes_on_even_if_its_ballast_is_gone(first, second, tmp_path):
    first.keep(1, 32 * UNIT)
    place = first.prepare_directory(1, 32 * UNIT, *ME)
    first.leave()
    for file in (tmp_path / grounds.OURS).iterdir():
        file.unlink()
    heir = Heir("directory", 32 * UNIT, 32 * UNIT)
    assert second.adopt(32 * UNIT, {1: heir}) == {1}
    assert (second.held, second.kept, place.is_dir()) == (0, {}, True)
    assert second.pace(1).released == 32 * UNIT


@pytest.mark.parametrize("instead", ["file", "link"])
def test_something_else_by_its_name_is_no_directory(first, second, tmp_path, instead):
    place = first.prepare_directory(1, UNIT, *ME)
    first.leave()
    place.rmdir()
    (tmp_path / "dear").mkdir()
    if instead == "file":
        place.touch()
    else:
        place.symlink_to(tmp_path / "dear")
    heir = Heir("directory", UNIT, 0)
    assert second.adopt(64 * UNIT, {1: heir}) == frozenset()
    assert not place.is_symlink()
    assert not place.exists()
    assert (tmp_path / "dear").is_dir()


# Leases that are over, and what belongs to nobody.


def test_of_a_lease_that_is_over_its_file_is_waited_for(first, second):
    first.keep(1, 8 * UNIT)
    (piece,) = first.lend(1, 8 * UNIT, refuse)
    first.leave()
    assert second.adopt(56 * UNIT, over={1}) == frozenset()
    assert second.kept == {1: 8 * UNIT}
    assert (second.back(1), second.busy(1)) == (
        None,
        "its file is still open somewhere",
    )
    os.close(piece.fd)
    assert second.back(1) == 8 * UNIT
    assert (second.held, second.notes) == (64 * UNIT, [])


def test_of_a_lease_that_is_over_its_directory_is_removed_when_it_is_asked_for(
    first, second
):
    first.keep(1, 32 * UNIT)
    place = first.prepare_directory(1, 32 * UNIT, *ME)
    fill(place, 2)
    first.leave()
    second.adopt(32 * UNIT, over={1})
    assert place.is_dir()
    assert second.back(1) == 0
    assert not place.exists()
    # what was not freed for it is found: the books take it as they need it
    assert (second.held, second.found, second.kept) == (32 * UNIT, 24 * UNIT, {})


def test_of_a_lease_that_is_over_an_image_that_nobody_uses_comes_back(
    first, second, tmp_path
):
    first.leave()
    with (tmp_path / grounds.OURS / "image-1").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 8 * UNIT)
    second.adopt(64 * UNIT, over={1})
    assert second.back(1) == 8 * UNIT
    assert (second.held, second.notes) == (72 * UNIT, [])


def test_a_lease_that_is_over_and_had_nothing_here_gives_nothing_back(first, second):
    first.leave()
    second.adopt(64 * UNIT, over={1, 2})
    assert [second.back(1), second.back(2)] == [0, 0]


def test_what_no_book_knows_is_cleared_and_said(first, second, tmp_path):
    first.keep(1, 8 * UNIT)
    first.prepare_file(1, 8 * UNIT)
    place = first.prepare_directory(2, UNIT, *ME)
    first.leave()
    (tmp_path / "mounts" / "9").mkdir(parents=True)
    (tmp_path / grounds.LEASES / "strange").mkdir()
    (tmp_path / grounds.OURS / "file-strange").touch()
    second.adopt(48 * UNIT, {3: Heir("file", UNIT, UNIT)}, {4})
    notes = sorted(note.partition("before: ")[2] for note in second.notes)
    assert notes == [
        ".holdingpen-leases/2: removed.",
        ".holdingpen-leases/strange: removed.",
        ".holdingpen/file-1: ballast again.",
        ".holdingpen/file-strange: not made by this daemon: left alone.",
    ]
    assert (place.exists(), (tmp_path / "mounts" / "9").exists()) == (False, False)
    (tmp_path / grounds.OURS / "file-strange").unlink()


def test_two_daemons_in_a_row_change_nothing(first, tmp_path):
    first.keep(1, 8 * UNIT)
    (piece,) = first.lend(1, 8 * UNIT, refuse)
    first.keep(2, 32 * UNIT)
    place = first.prepare_directory(2, 32 * UNIT, *ME)
    fill(place, 3)
    first.pace(2)
    held, kept = first.held, first.kept
    first.leave()
    heir = {
        1: Heir("file", 8 * UNIT, 8 * UNIT),
        2: Heir("directory", 32 * UNIT, 32 * UNIT),
    }
    for _daemon in range(3):
        ballast = open_one(tmp_path)
        assert ballast.adopt(held, heir) == {1, 2}
        assert (ballast.held, ballast.kept, ballast.found) == (held, kept, 0)
        assert ballast.notes == []
        ballast.leave()
    os.close(piece.fd)


@pytest.mark.parametrize(
    ("where", "name"), [(heirs.scratch, "find"), (grounds, "in_use")]
)
def test_what_cannot_be_looked_at_is_an_error_and_nothing_is_lost(
    first, second, tmp_path, monkeypatch, where, name
):
    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    first.leave()
    with (tmp_path / grounds.OURS / "image-1").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 8 * UNIT)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fail)
        ballast = open_one(tmp_path)
        with pytest.raises(Unavailable, match="cannot look at the ballast"):
            ballast.adopt(64 * UNIT, {1: Heir("image", 8 * UNIT, 0)})
        ballast.leave()
    second.adopt(64 * UNIT)
    assert (second.held, second.found) == (64 * UNIT, 8 * UNIT)
