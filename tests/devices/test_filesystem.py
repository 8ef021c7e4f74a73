from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdingpen.devices import filesystem
from holdingpen.devices.filesystem import FileSystem, used
from holdingpen.errors import Unavailable

MIB = 2**20


def of(path: Path) -> int:
    return os.lstat(path).st_blocks * 512


def fill(path: Path, size: int) -> Path:
    path.write_bytes(b"x" * size)
    return path


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
def test_preallocation_is_a_reservation_on(kind: str, tmp_path: Path) -> None:
    assert FileSystem(tmp_path, kind=kind).why == ""


@pytest.mark.parametrize(
    ("kind", "because"),
    [
        ("btrfs", "copy on write"),
        ("zfs", "refreservation"),
        ("overlay", "what lies below"),
        ("nfs4", "server"),
        ("fuse.sshfs", "a program decides"),
        ("fuseblk", "not known"),
        ("ext2", "cannot preallocate"),
        ("unknown", "not known"),
    ],
)
def test_it_is_none_on(kind: str, because: str, tmp_path: Path) -> None:
    why = FileSystem(tmp_path, kind=kind).why
    assert why.startswith(f"On {kind} preallocation is no reservation: ")
    assert because in why
    assert why.endswith(".")


def test_the_kind_is_that_of_the_mount() -> None:
    assert FileSystem(Path("/proc")).kind == "proc"


def test_a_mount_is_known_by_its_number(tmp_path: Path) -> None:
    """Paths there may hide one another, and device numbers may be shared."""
    fd = os.open(tmp_path, os.O_RDONLY)
    words = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
    os.close(fd)
    number = words[words.index("mnt_id:") + 1]
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"1{number} 1 8:1 / / rw - btrfs /dev/a rw\n"
        f"{number} 1 8:1 / /with\\040space rw shared:1 master:2 - xfs /dev/b rw\n"
    )
    assert FileSystem(tmp_path, mounts).kind == "xfs"
    mounts.write_text("garbled\n")
    assert FileSystem(tmp_path, mounts).kind == "unknown"


def test_a_directory_that_is_not_there_is_an_error_that_says_what_to_do(
    tmp_path: Path,
) -> None:
    with pytest.raises(Unavailable, match=r"nowhere: No such file.*\[disk\]"):
        FileSystem(tmp_path / "nowhere")
    with pytest.raises(Unavailable, match="Not a directory"):
        FileSystem(fill(tmp_path / "file", 1))


def test_what_root_keeps_is_neither_there_nor_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = (4096, 4096, 1000, 300, 250, 0, 0, 0, 0, 255)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(fields))
    one = FileSystem(tmp_path, kind="ext4")
    assert one.available() == 250 * 4096
    assert one.total() == 950 * 4096


def test_used_is_what_a_tree_occupies(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    files = [fill(tmp_path / "f", 5000), fill(tmp_path / "a" / "b" / "g", MIB)]
    places = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", *files]
    assert used(tmp_path) == sum(map(of, places))
    assert FileSystem(tmp_path).used(tmp_path) == used(tmp_path)


def test_holes_are_not_used_and_preallocated_blocks_are(tmp_path: Path) -> None:
    before = used(tmp_path)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(64 * MIB)
        assert used(tmp_path) - before < MIB
        os.posix_fallocate(file.fileno(), 0, 8 * MIB)
    assert 8 * MIB <= used(tmp_path) - before < 9 * MIB


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    one = fill(tmp_path / "one", MIB)
    before = used(tmp_path)
    (tmp_path / "two").hardlink_to(one)
    assert used(tmp_path) == before


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    fill(outside / "big", MIB)
    (inside / "out").symlink_to(outside)
    (inside / "file").symlink_to(outside / "big")
    assert used(inside) < MIB
    assert used(inside / "out") == 0


def test_other_file_systems_are_not_entered() -> None:
    """/ has /proc on it, where a file says that it has no end."""
    fields = os.lstat("/proc")
    found = filesystem._open("/", None)
    try:
        assert filesystem._enter("proc", found, fields.st_dev + 1) == []
    finally:
        os.close(found)


def test_a_tree_that_is_not_there_uses_nothing(tmp_path: Path) -> None:
    assert used(tmp_path / "nowhere") == 0
    assert used(fill(tmp_path / "file", MIB)) == 0


def test_what_vanishes_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    names = [fill(tmp_path / name, 1) for name in ("a", "b", "c")]
    real = filesystem._next

    def vanish(entries: os._ScandirIterator[str]) -> os.DirEntry[str] | None:
        entry = real(entries)
        for name in names:
            name.unlink(missing_ok=True)
        if (tmp_path / "d").exists():
            (tmp_path / "d").rmdir()
        return entry

    monkeypatch.setattr(filesystem, "_next", vanish)
    assert used(tmp_path) == of(tmp_path)


def test_a_tree_of_any_depth_is_looked_at_with_few_descriptors(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _depth in range(300):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    before = len(list(Path("/proc/self/fd").iterdir()))
    size = of(tmp_path / "d")
    assert used(tmp_path) == of(tmp_path) + filesystem.DEPTH_MAX * size
    assert len(list(Path("/proc/self/fd").iterdir())) == before
