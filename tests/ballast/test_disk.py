"""Disk space held back, on whatever file system tests run on.

What needs a full disk, or loop devices, is in tests/real/test_disk.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from holdingpen.ballast import blocks, disk, grounds, scratch
from holdingpen.ballast.blocks import STEP, UNIT
from holdingpen.ballast.disk import DiskBallast, Paced, due, open_disk_ballast
from holdingpen.devices.filesystem import FileSystem
from holdingpen.errors import Refusal, Unavailable

MIB = 2**20
ME = os.geteuid(), os.getegid()


def always(step: int) -> bool:
    return True


def never(step: int) -> bool:
    return False


def open_one(path: Path, hold: int = 2**40, step: int = 8 * MIB) -> DiskBallast:
    filesystem = FileSystem(path)
    ballast = open_disk_ballast(path, hold, filesystem, path / "mounts", step)
    ballast.adopt()
    return ballast


def occupied(path: Path) -> int:
    """Bytes our files really have, by the kernel's count."""
    found = (path / grounds.OURS).iterdir()
    return sum(file.lstat().st_blocks * 512 for file in found)


def names(path: Path) -> list[str]:
    return sorted(file.name for file in (path / grounds.OURS).iterdir())


@pytest.fixture
def ballast(tmp_path: Path) -> Iterator[DiskBallast]:
    """One whose books are checked after the test."""
    with closing(open_one(tmp_path)) as ballast:
        yield ballast
        apart = sum(ballast._apart.values())
        assert ballast._pool.size == ballast.found + ballast.held + apart
        everything = ballast.held + ballast.found + sum(ballast.kept.values())
        assert everything <= occupied(tmp_path) <= everything + MIB


# The purses.


def test_a_new_one_holds_nothing(ballast: DiskBallast) -> None:
    assert (ballast.held, ballast.kept, ballast.found, ballast.notes) == (0, {}, 0, [])


def test_it_says_what_it_is(ballast: DiskBallast, tmp_path: Path) -> None:
    filesystem = FileSystem(tmp_path)
    assert ballast.kind == f"files on {filesystem.kind}"
    assert ballast.why == filesystem.why
    assert ballast.noswap is (filesystem.kind != "tmpfs")


def test_on_a_tmpfs_it_can_be_swapped_out(tmp_path: Path) -> None:
    kind = FileSystem(tmp_path, kind="tmpfs")
    with closing(open_disk_ballast(tmp_path, 0, kind, tmp_path / "mounts")) as ballast:
        assert ballast.noswap is False


def test_taking_occupies_whole_units(ballast: DiskBallast, tmp_path: Path) -> None:
    assert ballast.take(5 * UNIT - 1, always) == 4 * UNIT
    assert [ballast.take(n, always) for n in (UNIT - 1, 0, -UNIT)] == [0, 0, 0]
    assert ballast.held == 4 * UNIT <= occupied(tmp_path)


def test_the_guard_is_asked_before_each_step_with_its_bytes(
    ballast: DiskBallast,
) -> None:
    asked: list[tuple[int, int]] = []

    def may(step: int) -> bool:
        asked.append((step, ballast.held))
        return True

    ballast.take(2 * STEP + UNIT, may)
    assert asked == [(STEP, 0), (STEP, STEP), (UNIT, 2 * STEP)]


def test_the_first_no_ends_the_taking(ballast: DiskBallast) -> None:
    answers = iter([True, False, True])
    assert ballast.take(4 * STEP, lambda step: next(answers)) == STEP
    assert ballast.take(STEP, never) == 0


def test_dropping_rounds_up_and_ends_with_what_is_held(ballast: DiskBallast) -> None:
    ballast.take(5 * UNIT, always)
    ballast.keep(1, UNIT)
    drops = [ballast.drop(n) for n in (0, -UNIT, UNIT + 1, STEP, STEP)]
    assert drops == [0, 0, 2 * UNIT, 2 * UNIT, 0]
    assert ballast.kept == {1: UNIT}


def test_a_drop_between_two_steps_of_a_taking_counts(ballast: DiskBallast) -> None:
    ballast.take(UNIT, always)
    assert ballast.take(2 * STEP, lambda step: ballast.drop(UNIT) >= 0) == 2 * STEP
    assert ballast.held == 2 * STEP - UNIT


def test_what_is_kept_is_not_held_and_as_much_occupied(
    ballast: DiskBallast, tmp_path: Path
) -> None:
    ballast.take(8 * UNIT, always)
    before = occupied(tmp_path)
    assert (ballast.keep(1, UNIT + 1), ballast.keep(2, 0)) == (2 * UNIT, 0)
    assert ballast.keep(3, STEP) == 6 * UNIT
    assert (ballast.held, ballast.kept) == (0, {1: 2 * UNIT, 3: 6 * UNIT})
    assert occupied(tmp_path) == before


def test_giving_frees_what_is_kept_for_that_lease(ballast: DiskBallast) -> None:
    ballast.take(8 * UNIT, always)
    ballast.keep(1, 4 * UNIT)
    given = [ballast.give(1, n) for n in (-UNIT, 1, STEP, 1)]
    assert given == [0, UNIT, 3 * UNIT, 0]
    assert (ballast.give(2, UNIT), ballast.held, ballast.kept) == (0, 4 * UNIT, {})


def test_what_is_kept_comes_back_in_part_or_whole(ballast: DiskBallast) -> None:
    ballast.take(8 * UNIT, always)
    ballast.keep(1, 4 * UNIT)
    assert ballast.back(1, UNIT + 1) == UNIT
    assert ballast.kept == {1: 3 * UNIT}
    assert (ballast.back(1), ballast.back(1), ballast.back(2)) == (3 * UNIT, 0, 0)
    assert (ballast.held, ballast.kept) == (8 * UNIT, {})


def test_any_other_failure_is_raised(
    ballast: DiskBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(5, "Input/output error")

    ballast.take(UNIT, always)
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "fallocate", fail)
        with pytest.raises(OSError, match="Input/output"):
            ballast.take(UNIT, always)
    assert ballast.held == UNIT


def test_closing_removes_everything(tmp_path: Path) -> None:
    ballast = open_one(tmp_path)
    ballast.take(4 * UNIT, always)
    ballast.keep(1, UNIT)
    ballast.prepare_file(1, UNIT)
    ballast.prepare_directory(2, UNIT, *ME)
    ballast.close()
    ballast.close()
    assert list(tmp_path.iterdir()) == []
    assert (ballast.held, ballast.kept, ballast.drop(UNIT)) == (0, {}, 0)
    assert ballast.take(UNIT, always) == 0


# Files.


def lend(ballast: DiskBallast, lease: int, size: int) -> int:
    (piece,) = ballast.lend(lease, size, never)
    assert piece.size == size
    return piece.fd


def test_a_lent_file_has_the_blocks_that_were_kept(
    ballast: DiskBallast, tmp_path: Path
) -> None:
    ballast.take(8 * UNIT, always)
    ballast.keep(1, 3 * UNIT)
    before = occupied(tmp_path)
    fd = lend(ballast, 1, 3 * UNIT)
    assert os.fstat(fd).st_size == 3 * UNIT <= os.fstat(fd).st_blocks * 512
    assert (ballast.held, ballast.kept) == (5 * UNIT, {1: 3 * UNIT})
    assert abs(occupied(tmp_path) - before) < MIB
    os.close(fd)


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ([8], 8),
        ([8], 3),
        ([2, 8, 5], 5),
        ([2, 9, 6], 5),
        ([3, 4], 6),
        ([1, 1, 1, 1], 4),
        ([70, 130], 180),
    ],
    ids=str,
)
def test_a_file_is_cut_from_any_ballast(
    ballast: DiskBallast, files: list[int], size: int
) -> None:
    """One of the size, one that is bigger, several that are smaller."""
    ballast.take(sum(files) * UNIT, always)
    for lease, units in enumerate(files):
        ballast.keep(lease, units * UNIT)
    for lease, units in enumerate(files):
        ballast.prepare_file(lease, units * UNIT)
    for lease in range(len(files)):
        ballast.back(lease)
    assert sorted(f.size // UNIT for f in ballast._pool.files) == sorted(files)
    ballast.keep(9, size * UNIT)
    ballast.prepare_file(9, size * UNIT)
    assert ballast.kept == {9: size * UNIT}
    assert ballast.held == (sum(files) - size) * UNIT


def test_the_same_size_again_is_the_same_file(
    ballast: DiskBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one block changes hands."""
    ballast.take(STEP, always)
    ballast.keep(1, 5 * UNIT)
    ballast.prepare_file(1, 5 * UNIT)
    first = ballast._lent[1].file
    assert ballast.back(1) == 5 * UNIT
    ballast.keep(2, 5 * UNIT)
    monkeypatch.setattr(blocks, "_move", None)
    ballast.prepare_file(2, 5 * UNIT)
    assert ballast._lent[2].file is first


def test_asked_again_it_is_the_same_file_by_another_descriptor(
    ballast: DiskBallast,
) -> None:
    ballast.take(UNIT, always)
    ballast.keep(1, UNIT)
    first, second = lend(ballast, 1, UNIT), lend(ballast, 1, UNIT)
    assert first != second
    assert os.path.sameopenfile(first, second)
    assert not os.get_inheritable(first)
    os.close(first)
    os.close(second)


def test_a_size_that_is_no_unit_is_rounded_up(ballast: DiskBallast) -> None:
    ballast.take(2 * UNIT, always)
    ballast.keep(1, UNIT + 1)
    fd = lend(ballast, 1, UNIT + 1)
    assert os.fstat(fd).st_size == 2 * UNIT
    os.close(fd)


def test_what_is_lacking_is_taken_when_the_guard_allows(ballast: DiskBallast) -> None:
    ballast.take(2 * UNIT, always)
    ballast.keep(1, 2 * UNIT)
    ballast.prepare_file(1, 5 * UNIT, always)
    assert (ballast.held, ballast.kept) == (0, {1: 5 * UNIT})


def test_when_the_guard_says_no_all_is_as_before(ballast: DiskBallast) -> None:
    ballast.take(3 * UNIT, always)
    ballast.keep(1, 2 * UNIT)
    answers = itertools.chain([True], itertools.repeat(False))
    with pytest.raises(Refusal, match=r"80\.0 MiB.*2\.0 MiB were.*66\.0 MiB") as caught:
        ballast.lend(1, STEP + 16 * UNIT, lambda step: next(answers))
    assert caught.value.code == "not-now"
    assert (ballast.held, ballast.kept) == (UNIT, {1: 2 * UNIT})


def test_what_is_kept_beyond_the_size_is_held_again(ballast: DiskBallast) -> None:
    ballast.take(4 * UNIT, always)
    ballast.keep(1, 3 * UNIT)
    ballast.prepare_file(1, UNIT)
    assert (ballast.held, ballast.kept) == (3 * UNIT, {1: UNIT})


def test_nothing_that_is_lent_is_given(ballast: DiskBallast) -> None:
    ballast.take(2 * UNIT, always)
    ballast.keep(1, UNIT)
    ballast.prepare_file(1, UNIT)
    assert (ballast.give(1, UNIT), ballast.back(1, UNIT)) == (0, 0)
    assert ballast.kept == {1: UNIT}


def test_what_was_written_is_wiped_before_it_is_held_again(
    ballast: DiskBallast, tmp_path: Path
) -> None:
    ballast.take(3 * UNIT, always)
    ballast.keep(1, 3 * UNIT)
    before = occupied(tmp_path)
    fd = lend(ballast, 1, 3 * UNIT)
    os.pwrite(fd, b"secret" * UNIT, 1)
    assert ballast.busy(1) == ""
    os.close(fd)
    assert ballast.back(1) == 3 * UNIT
    assert abs(occupied(tmp_path) - before) < MIB
    ballast.keep(2, 3 * UNIT)
    fd = lend(ballast, 2, 3 * UNIT)
    assert os.pread(fd, 4 * UNIT, 0) == bytes(3 * UNIT)
    os.close(fd)


def test_where_blocks_cannot_be_zeroed_they_are_written_over(
    ballast: DiskBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on tmpfs."""
    real = blocks.fallocate

    def without_zero_range(fd: int, mode: int, start: int, length: int) -> None:
        if mode:
            raise OSError(95, "Operation not supported")
        real(fd, mode, start, length)

    monkeypatch.setattr(blocks, "fallocate", without_zero_range)
    ballast.take(2 * UNIT, always)
    ballast.keep(1, 2 * UNIT)
    fd = lend(ballast, 1, 2 * UNIT)
    os.pwrite(fd, b"secret" * 1000, UNIT - 3000)
    file = ballast._lent[1].file
    os.close(fd)
    assert ballast.back(1) == 2 * UNIT
    assert file
    assert os.pread(file.fd, 3 * UNIT, 0) == bytes(2 * UNIT)


def test_a_file_its_client_cut_or_lengthened_is_mended(
    ballast: DiskBallast, tmp_path: Path
) -> None:
    for lease, length in ((1, 0), (2, 7 * UNIT), (3, UNIT + 17)):
        ballast.take(3 * UNIT, always)
        ballast.keep(lease, 3 * UNIT)
        fd = lend(ballast, lease, 3 * UNIT)
        os.ftruncate(fd, length)
        os.pwrite(fd, b"x" * 100, max(0, length - 100))
        os.close(fd)
        assert ballast.back(lease) == 3 * UNIT
        ballast.drop(STEP)
    assert names(tmp_path) == []


def test_blocks_that_are_gone_when_it_comes_back_are_written_off(
    ballast: DiskBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    ballast.take(3 * UNIT, always)
    ballast.keep(1, 3 * UNIT)
    ballast.prepare_file(1, 3 * UNIT)
    real = blocks._zero

    def only_the_first(fd: int, start: int, length: int) -> None:
        if start:
            raise OSError(28, "No space left on device")
        real(fd, start, length)

    monkeypatch.setattr(blocks, "_zero", only_the_first)
    monkeypatch.setattr(blocks, "STEP", 2 * UNIT)
    assert ballast.back(1) == 2 * UNIT
    assert (ballast.held, ballast.kept) == (2 * UNIT, {})


def keep_descriptor(fd: int) -> Callable[[], None]:
    twin = os.dup(fd)
    return lambda: os.close(twin)


def keep_map(fd: int) -> Callable[[], None]:
    return mmap.mmap(fd, UNIT).close


def keep_in_flight(fd: int) -> Callable[[], None]:
    ours, theirs = socket.socketpair()
    socket.send_fds(ours, [b"x"], [fd])
    ours.close()
    return theirs.close


@pytest.mark.parametrize("way", [keep_descriptor, keep_map, keep_in_flight])
def test_a_file_that_is_used_stays_kept(
    ballast: DiskBallast, way: Callable[[int], Callable[[], None]]
) -> None:
    ballast.take(2 * UNIT, always)
    ballast.keep(1, UNIT)
    fd = lend(ballast, 1, UNIT)
    let_go = way(fd)
    os.pwrite(fd, b"mine", 0)
    assert ballast.back(1) is None
    assert ballast.busy(1) == "its file is still open somewhere"
    assert (ballast.held, ballast.kept) == (UNIT, {1: UNIT})
    assert os.pread(fd, 4, 0) == b"mine"
    os.close(fd)
    assert ballast.back(1) is None
    let_go()
    assert ballast.back(1) == UNIT
    assert (ballast.held, ballast.busy(1)) == (2 * UNIT, "")


# Thefts, made to happen.


def steal(monkeypatch: pytest.MonkeyPatch, times: int, most: int = 0) -> list[int]:
    """Nobody can grow before another shrinks, and the first `times` growths fail."""
    stolen: list[int] = []
    real = blocks.BlockFile.grow

    def grow(file: blocks.BlockFile, step: int) -> bool:
        if len(stolen) < times and step > most:
            stolen.append(step)
            return False
        return real(file, step)

    monkeypatch.setattr(blocks, "_room", lambda fd: 0)
    monkeypatch.setattr(blocks.BlockFile, "grow", grow)
    return stolen


def three_files(ballast: DiskBallast, units: int) -> None:
    ballast.take(3 * units * UNIT, always)
    for lease in (91, 92, 93):
        ballast.keep(lease, units * UNIT)
        ballast.prepare_file(lease, units * UNIT)
    for lease in (91, 92, 93):
        ballast.back(lease)


def test_a_stolen_step_is_replaced_from_further_ballast(
    ballast: DiskBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_files(ballast, 4)
    ballast.keep(1, 8 * UNIT)
    # the step, and then each unit of it
    steal(monkeypatch, times=1 + 1)
    ballast.prepare_file(1, 8 * UNIT)
    assert ballast.kept == {1: 8 * UNIT}
    assert ballast.held == 0


def test_a_stolen_step_is_replaced_from_free_space(
    ballast: DiskBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_files(ballast, 4)
    ballast.keep(1, 12 * UNIT)
    steal(monkeypatch, times=4)
    ballast.prepare_file(1, 12 * UNIT)
    assert (ballast.held, ballast.kept) == (0, {1: 12 * UNIT})


def test_when_too_much_is_stolen_it_is_refused_and_the_rest_is_kept(
    ballast: DiskBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_files(ballast, 4)
    ballast.keep(1, 8 * UNIT)
    ballast.keep(2, 2 * UNIT)
    steal(monkeypatch, times=1000)
    with pytest.raises(Refusal, match=r"8\.0 MiB were.*4\.0 MiB can") as caught:
        ballast.prepare_file(1, 8 * UNIT)
    assert caught.value.code == "not-now"
    # what was held replaced what it could; another lease lost nothing
    assert (ballast.held, ballast.kept) == (0, {1: 4 * UNIT, 2: 2 * UNIT})


def test_a_surplus_that_is_stolen_is_not_the_lease_s(
    ballast: DiskBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file keeps its blocks; others' ballast is what moves."""
    ballast.take(8 * UNIT, always)
    ballast.keep(1, 3 * UNIT)
    ballast.keep(2, 4 * UNIT)
    steal(monkeypatch, times=1000)
    ballast.prepare_file(1, 3 * UNIT)
    assert (ballast.held, ballast.kept) == (0, {1: 3 * UNIT})


def test_where_there_is_room_a_file_grows_before_another_shrinks(
    ballast: DiskBallast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    three_files(ballast, 4)
    lowest = []
    real = blocks.BlockFile.shrink

    def shrink(file: blocks.BlockFile, step: int) -> None:
        real(file, step)
        lowest.append(occupied(tmp_path))

    monkeypatch.setattr(blocks.BlockFile, "shrink", shrink)
    ballast.keep(1, 10 * UNIT)
    ballast.prepare_file(1, 10 * UNIT)
    assert min(lowest) >= 12 * UNIT


# Directories.


@pytest.mark.parametrize(
    ("kept", "released", "peak", "step", "expected"),
    [
        (0, 0, 0, 8, 0),
        (4, 0, 0, 8, 4),
        (100, 0, 0, 8, 8),
        (92, 8, 0, 8, 0),
        (92, 8, 3, 8, 3),
        (92, 8, 8, 8, 8),
        (2, 98, 98, 8, 2),
        (50, 50, 40, 8, 0),
        (50, 50, 4000, 8, 50),
    ],
)
def test_what_is_due(
    kept: int, released: int, peak: int, step: int, expected: int
) -> None:
    units = due(kept * UNIT, released * UNIT, peak * UNIT, step * UNIT)
    assert units == expected * UNIT


def test_less_than_a_unit_is_not_due_unless_it_is_the_last() -> None:
    assert due(8 * UNIT, 8 * UNIT, UNIT - 1, 8 * UNIT) == 0
    assert due(UNIT, 8 * UNIT, UNIT + 1, 8 * UNIT) == UNIT


def test_a_directory_belongs_to_its_client_alone(
    ballast: DiskBallast, tmp_path: Path
) -> None:
    place = ballast.prepare_directory(1, UNIT, *ME)
    assert place == tmp_path / grounds.LEASES / "1"
    assert ballast.prepare_directory(1, UNIT, *ME) == place
    found = place.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (*ME, 0o700)
    assert (tmp_path / grounds.LEASES).stat().st_mode & 0o7777 == 0o711
    assert (tmp_path / grounds.OURS).stat().st_mode & 0o7777 == 0o700


def test_space_is_freed_as_the_directory_fills(ballast: DiskBallast) -> None:
    """Here the step is 8 MiB."""
    ballast.take(64 * MIB, always)
    ballast.keep(1, 32 * MIB)
    place = ballast.prepare_directory(1, 30 * MIB, *ME)
    seen = [(ballast.kept.get(1, 0), ballast.held)]
    with (place / "file").open("wb") as file:
        for _look in range(5):
            paced = ballast.pace(1)
            assert paced
            assert paced.released - paced.used <= 8 * MIB
            seen.append((ballast.kept.get(1, 0), paced.released))
            os.posix_fallocate(file.fileno(), 0, paced.released)
    mib = [(kept // MIB, other // MIB) for kept, other in seen]
    assert mib == [(22, 34), (22, 8), (14, 16), (6, 24), (0, 30), (0, 30)]


def test_what_was_used_and_given_up_is_not_freed_twice(ballast: DiskBallast) -> None:
    ballast.take(32 * MIB, always)
    ballast.keep(1, 32 * MIB)
    file = ballast.prepare_directory(1, 32 * MIB, *ME) / "file"
    released = []
    for _time in range(4):
        with file.open("wb") as opened:
            os.posix_fallocate(opened.fileno(), 0, 6 * MIB)
        paced = ballast.pace(1)
        assert paced
        released.append(paced.released // MIB)
        file.unlink()
    assert released == [14, 14, 14, 14]


def test_what_was_freed_and_is_neither_used_nor_available_is_stolen(
    ballast: DiskBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    ballast.take(32 * MIB, always)
    ballast.keep(1, 32 * MIB)
    ballast.prepare_directory(1, 32 * MIB, *ME)
    fields = (4096, 4096, 1000, 300, 512, 0, 0, 0, 0, 255)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: os.statvfs_result(fields))
    monkeypatch.setattr(ballast, "_used", lambda path: MIB)
    assert ballast.pace(1) == Paced(MIB, 9 * MIB, 6 * MIB)


def test_only_a_directory_is_paced(ballast: DiskBallast) -> None:
    ballast.take(UNIT, always)
    ballast.keep(1, UNIT)
    ballast.prepare_file(1, UNIT)
    assert (ballast.pace(1), ballast.pace(2), ballast.usable(1)) == (None, None, 0)


def test_a_lease_with_a_directory_has_no_file(ballast: DiskBallast) -> None:
    ballast.prepare_directory(1, UNIT, *ME)
    with pytest.raises(Refusal, match="not as a file") as caught:
        ballast.lend(1, UNIT, always)
    assert caught.value.code == "bad-request"


def test_when_its_lease_is_over_a_directory_is_gone_and_the_rest_held(
    ballast: DiskBallast, tmp_path: Path
) -> None:
    ballast.take(32 * MIB, always)
    ballast.keep(1, 32 * MIB)
    place = ballast.prepare_directory(1, 32 * MIB, *ME)
    (place / "a" / "b").mkdir(parents=True)
    (place / "a" / "b" / "file").write_text("data")
    assert ballast.back(1, 4 * MIB) == 4 * MIB
    assert ballast.back(1) == 20 * MIB
    assert (ballast.held, ballast.kept) == (24 * MIB, {})
    assert not place.exists()
    assert not [name for name in names(tmp_path) if name.startswith("gone")]
    assert ballast.pace(1) is None


def test_a_directory_that_cannot_be_removed_yet_is_asked_for_again(
    ballast: DiskBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> str:
        raise OSError(28, "No space left on device")

    ballast.take(32 * MIB, always)
    ballast.keep(1, 32 * MIB)
    ballast.prepare_directory(1, 32 * MIB, *ME)
    with monkeypatch.context() as patch:
        patch.setattr(grounds.trees, "remove_tree", fail)
        assert ballast.back(1) is None
    assert ballast.busy(1) == "its directory cannot be removed: No space left on device"
    assert (ballast.kept, ballast.pace(1)) == ({1: 24 * MIB}, None)
    assert ballast.back(1) == 24 * MIB


@pytest.mark.parametrize(
    ("error", "kind", "match"),
    [
        (PermissionError(1, "Operation not permitted"), Refusal, "only root's serves"),
        (OSError(28, "No space left on device"), Unavailable, "No space left"),
    ],
    ids=["permission", "space"],
)
def test_a_directory_that_cannot_be_made_leaves_nothing(
    ballast: DiskBallast,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    kind: type[Exception],
    match: str,
) -> None:
    def fail(*args: object, **how: object) -> None:
        raise error

    ballast.take(UNIT, always)
    ballast.keep(1, UNIT)
    with monkeypatch.context() as patch:
        patch.setattr(os, "chown", fail)
        with pytest.raises(kind, match=match):
            ballast.prepare_directory(1, UNIT, *ME)
    assert ballast.kept == {1: UNIT}
    assert ballast.prepare_directory(1, UNIT, *ME).is_dir()


# Images, without the machine's part.


def test_where_no_image_can_be_had_it_says_why_and_keeps_all(
    ballast: DiskBallast,
) -> None:
    ballast.image_why = "There are no loop devices here."
    ballast.take(4 * UNIT, always)
    ballast.keep(1, 4 * UNIT)
    with pytest.raises(Unavailable, match="no loop devices"):
        ballast.prepare_image(1, 4 * UNIT, *ME)
    assert ballast.kept == {1: 4 * UNIT}


def test_an_image_that_fails_is_wiped_and_stays_kept(
    ballast: DiskBallast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def make(image: int, *args: object) -> None:
        os.pwrite(image, b"a file system", 0)
        raise Unavailable("mkfs.ext4 took longer than 30 s.")

    ballast.image_why = ""
    monkeypatch.setattr(scratch, "make", make)
    ballast.take(6 * UNIT, always)
    ballast.keep(1, 4 * UNIT)
    with pytest.raises(Unavailable, match="longer than"):
        ballast.prepare_image(1, 4 * UNIT, *ME)
    assert (ballast.held, ballast.kept) == (2 * UNIT, {1: 4 * UNIT})
    (file,) = [file for file in ballast._pool.files if file.size == 4 * UNIT]
    assert os.pread(file.fd, 5 * UNIT, 0) == bytes(4 * UNIT)
    assert all(name.startswith("ballast-") for name in names(tmp_path))


def test_the_descriptors_are_not_inherited(ballast: DiskBallast) -> None:
    ballast.take(UNIT, always)
    files = [file.fd for file in ballast._pool.files]
    mine = [ballast._grounds.ours, ballast._grounds.leases, *files]
    flags = [fcntl.fcntl(fd, fcntl.F_GETFD) for fd in mine]
    assert flags == [fcntl.FD_CLOEXEC] * 3


def test_sizes_fit_each_other() -> None:
    assert STEP % UNIT == blocks.WINDOW % UNIT == disk.PACE_STEP % UNIT == 0


def test_asking_for_the_use_of_a_file_ends_nobody(
    ballast: DiskBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens the file just then makes the kernel signal us: SIGIO would end us."""
    ballast.take(UNIT, always)
    ballast.keep(1, UNIT)
    ballast.prepare_file(1, UNIT)
    real_fcntl, opened = fcntl.fcntl, []

    def looked_at(fd: int, command: int, word: int) -> int:
        result: int = real_fcntl(fd, command, word)
        if word == fcntl.F_WRLCK:
            with contextlib.suppress(BlockingIOError):
                os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
            opened.append(fd)
        return result

    got: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _frame: got.append(number))
    monkeypatch.setattr(fcntl, "fcntl", looked_at)
    try:
        assert ballast.back(1) == UNIT
    finally:
        signal.signal(signal.SIGIO, before)
    assert (got, len(opened)) == ([], 1)
