"""What can be said of scratch file systems without making one.

Those that are really made are in tests/real/test_disk.py.
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from holdingpen.ballast import scratch
from holdingpen.errors import Unavailable

MIB = 2**20


@pytest.fixture
def image() -> int:
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * MIB)
        return os.dup(file.fileno())


def test_only_root_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert scratch.why_not() == "A private file system can only be made by root."


def as_root(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    control = path / "loop-control"
    control.touch()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(scratch, "_CONTROL", control)
    monkeypatch.setattr(scratch.shutil, "which", lambda name, path: f"/sbin/{name}")
    monkeypatch.setattr(Path, "samefile", lambda one, other: True)


def test_with_all_there_is_no_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_root(monkeypatch, tmp_path)
    assert scratch.why_not() == ""


def test_without_loop_devices_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_root(monkeypatch, tmp_path)
    (tmp_path / "loop-control").unlink()
    assert scratch.why_not().startswith("There are no loop devices here: ")


def test_without_mkfs_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_root(monkeypatch, tmp_path)
    monkeypatch.setattr(scratch.shutil, "which", lambda name, path: None)
    assert scratch.why_not() == "mkfs.ext4 is not installed: apt install e2fsprogs."


def test_in_a_mount_namespace_of_its_own_nobody_would_see_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A unit with PrivateTmp=yes."""
    as_root(monkeypatch, tmp_path)
    monkeypatch.setattr(Path, "samefile", lambda one, other: False)
    assert "PrivateTmp=" in scratch.why_not()


def test_where_the_first_process_cannot_be_seen_nothing_is_said_against_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(one: Path, other: str) -> bool:
        raise PermissionError(13, "Permission denied")

    as_root(monkeypatch, tmp_path)
    monkeypatch.setattr(Path, "samefile", refuse)
    assert scratch.why_not() == ""


def test_too_little_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(MIB)
        with pytest.raises(Unavailable, match="1048576 bytes are too few, 2097152"):
            scratch.make(file.fileno(), tmp_path / "7", 0, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (subprocess.CalledProcessError(1, [], None, b"a\nDevice is odd.\n"), "Device"),
        (subprocess.CalledProcessError(-9, [], None, b""), "mkfs.ext4 ended -9"),
        (subprocess.TimeoutExpired([], 30), "took longer than 30 s"),
        (FileNotFoundError(2, "mkfs.ext4 is not installed"), "is not installed"),
        (OSError("odd"), "odd"),
    ],
    ids=["status", "killed", "late", "missing", "other"],
)
def test_why_mkfs_failed_is_said(
    image: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    match: str,
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(scratch, "_make_file_system", fail)
    with pytest.raises(Unavailable, match=rf"for {tmp_path}/7: .*{match}") as caught:
        scratch.make(image, tmp_path / "7", 0, 0)
    assert str(caught.value).endswith(".")
    assert not str(caught.value).endswith("..")
    os.close(image)


def test_the_request_is_the_kernel_s_struct() -> None:
    """struct loop_config of linux/loop.h: fd at 0, lo_flags at 8 + 52, 304 bytes."""
    request = scratch.request(77)
    assert len(request) == 304
    assert struct.unpack_from("=I", request, 0) == (77,)
    assert struct.unpack_from("=I", request, 60) == (4 | 16,)
    assert request.count(b"\0") == 302


def test_its_device_is_that_of_its_files() -> None:
    assert scratch.Scratch(Path("/x"), 3).device == os.makedev(7, 3)


# Who keeps it busy: told by device, so any file system will do.


def test_who_has_a_file_open_there_is_found(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb"):
        found = scratch.keepers(tmp_path.stat().st_dev)
    assert len(found) <= scratch.KEEPERS_MAX
    assert all(name.endswith(")") for name in found)


def make_process(proc: Path, pid: int, name: str) -> Path:
    process = proc / str(pid)
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text(f"{name}\n")
    (process / "maps").write_text("7f00-7f01 r--p 00000000 fe:63 99   /usr/lib/x\n")
    for word in ("cwd", "root", "exe"):
        (process / word).symlink_to("/proc")
    return process


def test_every_kind_of_use_counts_and_the_first_three_are_named(tmp_path: Path) -> None:
    proc, dear = tmp_path / "proc", tmp_path / "dear"
    dear.touch()
    device = dear.stat().st_dev
    make_process(proc, 1, "init")
    (make_process(proc, 20, "reader") / "fd" / "3").symlink_to(dear)
    (make_process(proc, 30, "gone") / "fd" / "3").symlink_to(tmp_path / "nowhere")
    mapper = make_process(proc, 100, "map\x1bper")
    major, minor = os.major(device), os.minor(device)
    (mapper / "maps").write_text(f"7f00-7f01 rw-s 0 {major:02x}:{minor:02x} 5 /x\n")
    for pid, word in ((200, "cwd"), (300, "root")):
        link = make_process(proc, pid, word) / word
        link.unlink()
        # a directory in life; of an overlay its device would be another
        link.symlink_to(dear)
    (proc / "meminfo").touch()
    (proc / "55").mkdir()
    found = scratch.keepers(device, proc)
    assert found == ["reader (20)", "map?per (100)", "cwd (200)"]


def test_a_mapping_keeps_a_file_system_after_the_descriptor_is_closed(
    tmp_path: Path,
) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(mmap.PAGESIZE)
        mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE)
    # on btrfs the numbers in maps are others than those of stat(2)
    maps = Path("/proc/self/maps").read_text()
    (line,) = [line for line in maps.splitlines() if str(tmp_path) in line]
    major, minor = (int(word, 16) for word in line.split()[3].split(":"))
    assert scratch._keeps(Path("/proc/self"), os.makedev(major, minor))
    mapped.close()


def test_mounts_are_found_by_device(tmp_path: Path) -> None:
    assert scratch._mounts(os.makedev(7, 4095)) == []
    root = Path("/").stat().st_dev
    if (
        f" {os.major(root)}:{os.minor(root)} "
        in Path("/proc/self/mountinfo").read_text()
    ):
        assert Path("/") in scratch._mounts(root)


def test_a_file_nothing_was_made_of_is_clear(image: int) -> None:
    assert scratch.clear(image) == []
    os.close(image)
