"""What lies in the directories of a ballast: whose it is, and what a crash leaves."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from holdingpen.ballast import disk, grounds
from holdingpen.ballast.blocks import UNIT
from holdingpen.ballast.disk import DiskBallast, open_disk_ballast
from holdingpen.devices.filesystem import FileSystem
from holdingpen.errors import Unavailable

from .conftest import ABOVE_PACKAGE

MIB = 2**20


def open_one(path: Path, hold: int = 2**40) -> DiskBallast:
    ballast = open_disk_ballast(path, hold, FileSystem(path), path / "mounts")
    ballast.adopt()
    return ballast


def leave(ballast: DiskBallast) -> None:
    """End as a crash does: descriptors are closed, and nothing else."""
    files = [lent.file for lent in ballast._lent.values() if lent.file]
    for file in [*files, *ballast._pool.files]:
        os.close(file.fd)
    ballast._grounds.close()


def refuse(step: int) -> bool:
    raise AssertionError("the guard was asked")


def always(step: int) -> bool:
    return True


def names(path: Path) -> list[str]:
    found = [*(path / grounds.OURS).iterdir(), *(path / grounds.LEASES).iterdir()]
    return sorted(file.name for file in found)


def test_a_second_daemon_is_kept_out(tmp_path: Path) -> None:
    daemon = open_one(tmp_path)
    with pytest.raises(Unavailable, match="another daemon does so"):
        open_one(tmp_path)
    daemon.close()
    open_one(tmp_path).close()


def test_a_directory_removed_by_the_last_daemon_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened while the other still had it, locked when it was no more."""
    first = open_one(tmp_path)
    real = grounds.trees.open_own
    closed: list[Path] = []

    def open_then_close(path: Path, mode: int) -> int:
        fd = real(path, mode)
        if not closed:
            closed.append(path)
            first.close()
        return fd

    monkeypatch.setattr(grounds.trees, "open_own", open_then_close)
    with closing(open_one(tmp_path)) as second:
        assert second.take(UNIT, always) == UNIT
        assert names(tmp_path) == ["ballast-1"]


def test_somebody_s_link_is_refused_and_nothing_stays_locked(tmp_path: Path) -> None:
    (tmp_path / "trap").mkdir()
    (tmp_path / grounds.LEASES).symlink_to(tmp_path / "trap")
    with pytest.raises(Unavailable, match="not a directory"):
        open_one(tmp_path)
    (tmp_path / grounds.LEASES).unlink()
    open_one(tmp_path).close()


@pytest.mark.parametrize(
    ("where", "name", "match"),
    [
        (grounds.fcntl, "fcntl", "cannot tell who uses a file: Invalid"),
        (grounds, "fallocate", "cannot preallocate: Invalid"),
    ],
)
def test_a_file_system_that_cannot_do_it_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    name: str,
    match: str,
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    with monkeypatch.context() as patch:
        patch.setattr(where, name, fail)
        with pytest.raises(Unavailable, match=match):
            open_one(tmp_path)
    assert names(tmp_path) == []
    open_one(tmp_path).close()


def test_a_full_disk_is_no_reason_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(grounds, "fallocate", fail)
        ballast = open_one(tmp_path)
    with closing(ballast):
        assert ballast.take(UNIT, always) == UNIT


def test_ballast_left_behind_is_found_and_adopted_without_a_guard(
    tmp_path: Path,
) -> None:
    first = open_one(tmp_path)
    first.take(8 * UNIT, always)
    leave(first)
    with closing(open_one(tmp_path)) as ballast:
        assert (ballast.found, ballast.held, ballast.notes) == (8 * UNIT, 0, [])
        assert ballast.drop(UNIT) == 0
        assert ballast.take(3 * UNIT, refuse) == 3 * UNIT
        assert (ballast.found, ballast.held) == (5 * UNIT, 3 * UNIT)
        assert ballast.take(6 * UNIT, always) == 6 * UNIT
        assert (ballast.found, ballast.held) == (0, 9 * UNIT)


def test_what_was_found_goes_into_no_lease_before_it_is_adopted(tmp_path: Path) -> None:
    first = open_one(tmp_path)
    first.take(8 * UNIT, always)
    leave(first)
    with closing(open_one(tmp_path)) as ballast:
        ballast.take(2 * UNIT, refuse)
        ballast.keep(1, 2 * UNIT)
        ballast.prepare_file(1, 2 * UNIT)
        assert (ballast.found, ballast.held) == (6 * UNIT, 0)
        assert ballast.kept == {1: 2 * UNIT}


def test_more_than_is_held_now_is_freed_at_once(tmp_path: Path) -> None:
    """Else it would occupy the disk for nobody."""
    first = open_one(tmp_path)
    first.take(8 * UNIT, always)
    leave(first)
    with closing(open_one(tmp_path, hold=3 * UNIT)) as ballast:
        assert ballast.found == 3 * UNIT
        (note,) = ballast.notes
        assert note.endswith(
            "left from before: ballast: 5.0 MiB more than is held: freed."
        )


def test_ballast_that_ended_in_mid_step_counts_as_far_as_it_is_there(
    tmp_path: Path,
) -> None:
    leave(open_one(tmp_path))
    with (tmp_path / grounds.OURS / "ballast-3").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2 * UNIT + 4096)
        file.truncate(8 * UNIT)
    (tmp_path / grounds.OURS / "ballast-4").touch()
    with closing(open_one(tmp_path)) as ballast:
        assert ballast.found == 2 * UNIT
        assert ballast.take(UNIT, refuse) == UNIT


def test_a_file_of_a_lease_nobody_uses_is_ballast_again_and_wiped(
    tmp_path: Path,
) -> None:
    first = open_one(tmp_path)
    first.take(4 * UNIT, always)
    first.keep(1, 3 * UNIT)
    (piece,) = first.lend(1, 3 * UNIT, always)
    os.pwrite(piece.fd, b"secret" * 1000, UNIT)
    os.close(piece.fd)
    leave(first)
    with closing(open_one(tmp_path)) as ballast:
        assert ballast.found == 4 * UNIT
        (note,) = ballast.notes
        assert note.endswith(".holdingpen/file-1: ballast again.")
        for file in ballast._pool.files:
            assert os.pread(file.fd, file.size, 0) == bytes(file.size)


def test_a_file_its_client_still_uses_is_left_to_him_alone(tmp_path: Path) -> None:
    first = open_one(tmp_path)
    first.take(4 * UNIT, always)
    first.keep(1, 3 * UNIT)
    (piece,) = first.lend(1, 3 * UNIT, always)
    os.pwrite(piece.fd, b"mine", 0)
    leave(first)
    with closing(open_one(tmp_path)) as ballast:
        assert ballast.found == UNIT
        assert ballast.notes[0].endswith("file-1: free when its last user is gone.")
        assert os.pread(piece.fd, 4, 0) == b"mine"
        assert os.fstat(piece.fd).st_nlink == 0
    os.close(piece.fd)


def test_directories_of_leases_are_removed(tmp_path: Path) -> None:
    first = open_one(tmp_path)
    place = first.prepare_directory(7, UNIT, os.geteuid(), os.getegid())
    (place / "a" / "b").mkdir(parents=True)
    (tmp_path / grounds.OURS / "gone-8-2" / "c").mkdir(parents=True)
    (tmp_path / "mounts" / "9").mkdir(parents=True)
    leave(first)
    with closing(open_one(tmp_path)) as ballast:
        assert names(tmp_path) == []
        assert not (tmp_path / "mounts" / "9").exists()
        notes = [note.partition("before: ")[2] for note in ballast.notes]
        assert notes == [
            ".holdingpen/gone-8-2: removed.",
            ".holdingpen-leases/7: removed.",
        ]


def test_what_is_none_of_ours_is_left_alone_and_said(tmp_path: Path) -> None:
    leave(open_one(tmp_path))
    here = tmp_path / grounds.OURS
    outside = tmp_path / "dear"
    outside.write_bytes(b"x" * 4 * UNIT)
    (here / "letter").write_text("dear")
    (here / "ballast-1").symlink_to(outside)
    (here / "ballast-2").hardlink_to(outside)
    (here / "image-3").mkdir()
    os.mkfifo(here / "file-4")
    with closing(open_one(tmp_path)) as ballast:
        assert ballast.found == 0
        assert len(ballast.notes) == 5
        assert all("left alone" in note for note in ballast.notes)
        assert ballast.take(UNIT, always) == UNIT
        assert outside.read_bytes() == b"x" * 4 * UNIT
    assert outside.read_bytes() == b"x" * 4 * UNIT


def test_what_cannot_be_looked_at_is_an_error_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    first = open_one(tmp_path)
    first.take(2 * UNIT, always)
    leave(first)
    with monkeypatch.context() as patch:
        patch.setattr(grounds, "_names", fail)
        with pytest.raises(Unavailable, match="Input/output"):
            open_one(tmp_path)
    with closing(open_one(tmp_path)) as ballast:
        assert ballast.found == 2 * UNIT


KILLED = """
import sys
from pathlib import Path
from holdingpen.ballast import disk, grounds
from holdingpen.devices.filesystem import FileSystem
path = Path(sys.argv[1])
ballast = disk.open_disk_ballast(path, 2**40, FileSystem(path), path / "mounts")
ballast.take(12 << 20, lambda step: True)
ballast.keep(1, 4 << 20)
ballast.prepare_file(1, 4 << 20)
ballast.keep(2, 4 << 20)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.real
@pytest.mark.slow
def test_after_a_kill_nothing_is_lost_and_nobody_is_locked_out(tmp_path: Path) -> None:
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    daemon = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ABOVE_PACKAGE
    )
    assert daemon.stdin
    assert daemon.stdout
    with daemon.stdin, daemon.stdout:
        assert daemon.stdout.readline() == b"ready\n"
        with pytest.raises(Unavailable, match="another daemon"):
            open_one(tmp_path)
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    with closing(open_one(tmp_path)) as ballast:
        assert ballast.found == 12 * UNIT
        assert ballast.take(12 * UNIT, refuse) == 12 * UNIT


def test_a_disk_ballast_is_opened_with_the_pace_of_the_manual() -> None:
    assert disk.PACE_STEP == 64 * MIB
