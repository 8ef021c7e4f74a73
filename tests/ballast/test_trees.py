from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdingpen.ballast import trees
from holdingpen.ballast.trees import open_own, remove_moved, remove_tree
from holdingpen.errors import Unavailable


class Place:
    """Where a client's tree lies, and the directory nobody else can enter."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = path / "leases" / "1"
        self.tree.mkdir(parents=True)
        (path / "ours").mkdir()
        self.where = os.open(path / "leases", os.O_RDONLY)
        self.ours = os.open(path / "ours", os.O_RDONLY)

    def remove(self) -> str:
        return remove_tree("1", self.where, self.ours, "gone-1-")

    def left(self) -> list[str]:
        found = [*(self.path / "leases").iterdir(), *(self.path / "ours").iterdir()]
        return sorted(path.name for path in found)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    place = Place(tmp_path)
    yield place
    os.close(place.where)
    os.close(place.ours)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_tree_is_removed_with_all_that_is_in_it(place: Place) -> None:
    for name in ("a", "b/c/d", "b/e"):
        (place.tree / name).mkdir(parents=True)
        (place.tree / name / "file").write_text("data")
    os.mkfifo(place.tree / "fifo")
    assert (place.remove(), place.left()) == ("", [])


def test_one_that_is_not_there_is_removed_already(place: Place) -> None:
    assert (place.remove(), place.remove()) == ("", "")


def test_a_file_in_its_place_is_removed(place: Place) -> None:
    place.tree.rmdir()
    place.tree.write_text("data")
    assert (place.remove(), place.left()) == ("", [])


def test_links_are_removed_and_what_they_name_stays(place: Place) -> None:
    outside = place.path / "outside"
    outside.mkdir()
    (outside / "file").write_text("dear")
    (place.tree / "deep").mkdir()
    (place.tree / "directory").symlink_to(outside)
    (place.tree / "deep" / "file").symlink_to(outside / "file")
    (place.tree / "deep" / "dot").symlink_to("..")
    assert (place.remove(), place.left()) == ("", [])
    assert (outside / "file").read_text() == "dear"


def test_a_link_in_the_place_of_the_tree_is_only_a_link(place: Place) -> None:
    outside = place.path / "outside"
    outside.mkdir()
    (outside / "file").write_text("dear")
    place.tree.rmdir()
    place.tree.symlink_to(outside)
    assert (place.remove(), place.left()) == ("", [])
    assert (outside / "file").read_text() == "dear"


def test_a_directory_swapped_for_a_link_meanwhile_is_not_followed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race every recursive remover must win: between the look and the entering."""
    outside = place.path / "outside"
    outside.mkdir()
    (outside / "file").write_text("dear")
    (place.tree / "victim").mkdir()
    (place.tree / "victim" / "file").write_text("mine")
    real = os.rmdir

    def swap(name: str, *, dir_fd: int) -> None:
        try:
            real(name, dir_fd=dir_fd)
        except OSError:
            if name == "victim":
                os.rename("victim", "aside", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                os.symlink(outside, "victim", dir_fd=dir_fd)
            raise

    monkeypatch.setattr(os, "rmdir", swap)
    # the link was renamed as if it were the directory
    assert place.remove() == "somebody still writes there"
    monkeypatch.undo()
    assert (place.remove(), place.left()) == ("", [])
    assert (outside / "file").read_text() == "dear"


@pytest.mark.slow
def test_a_tree_of_any_depth_goes_with_two_descriptors(place: Place) -> None:
    """Too deep for recursion, and for any path: PATH_MAX is 4096."""
    here = os.open(place.tree, os.O_RDONLY)
    for _depth in range(1100):
        os.mkdir("deeper", dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert (place.remove(), place.left()) == ("", [])


def test_what_an_attempt_left_is_removed_by_the_next(place: Place) -> None:
    (place.path / "ours" / "gone-1-7" / "a").mkdir(parents=True)
    (place.path / "ours" / "gone-17-1").mkdir()
    (place.path / "ours" / "ballast-1").touch()
    assert place.remove() == ""
    assert place.left() == ["ballast-1", "gone-17-1"]
    assert remove_moved(place.ours, "gone-17-1") == ""
    assert place.left() == ["ballast-1"]


def test_names_already_taken_are_passed_over(place: Place) -> None:
    (place.path / "ours" / "gone-1-1" / "a").mkdir(parents=True)
    (place.tree / "b").mkdir()
    (place.tree / "b" / "file").touch()
    assert (place.remove(), place.left()) == ("", [])


def test_a_tree_of_very_many_files_is_removed_in_several_calls(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "ENTRIES_MAX", 10)
    for number in range(25):
        (place.tree / str(number)).touch()
    said = [place.remove() for _time in range(4)]
    assert said == ["there are more than 10 files"] * 2 + ["", ""]
    assert place.left() == []


def test_who_still_writes_there_is_said(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.tree / "file").touch()
    real = trees._Removal._empty

    def write_again(removal: trees._Removal, name: str) -> None:
        real(removal, name)
        os.mkdir(f"{name}/more", dir_fd=place.ours)

    with monkeypatch.context() as patch:
        patch.setattr(trees._Removal, "_empty", write_again)
        assert place.remove() == "somebody still writes there"
    assert (place.remove(), place.left()) == ("", [])


def test_directories_their_user_locked_himself_out_of(place: Place) -> None:
    """In a private pen; root is locked out by no mode, so he becomes nobody here."""
    for mode in (0, 0o500, 0o600):
        (place.tree / str(mode) / "b").mkdir(parents=True)
        (place.tree / str(mode) / "b" / "file").touch()
    if os.geteuid() == 0:
        for path in (place.path, *place.path.rglob("*")):
            os.chown(path, 65534, 65534)
    for mode in (0, 0o500, 0o600):
        (place.tree / str(mode)).chmod(mode)
    child = os.fork()
    if child == 0:
        failed = 1
        with contextlib.suppress(OSError):
            if os.geteuid() == 0:
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            failed = int(place.remove() != "")
        os._exit(failed)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert place.left() == []


def test_any_other_failure_is_raised(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **how: object) -> None:
        raise OSError(5, "Input/output error")

    (place.tree / "a" / "b").mkdir(parents=True)
    for name in ("unlink", "rmdir", "rename", "open", "scandir"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="Input/output"):
                place.remove()
    assert (place.remove(), place.left()) == ("", [])


# Directories of ours.


def test_a_directory_is_made_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        os.close(open_own(tmp_path / "a", 0o711))
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o711


def test_one_that_is_there_gets_its_mode_back(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(0o755)
    fd = open_own(tmp_path / "a", 0o700)
    assert os.path.samestat(os.fstat(fd), (tmp_path / "a").stat())
    os.close(fd)
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o700


def test_a_link_or_a_file_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(Unavailable, match=f"{name} must be.*not a directory"):
            open_own(tmp_path / name, 0o700)
    assert (tmp_path / "elsewhere").stat().st_mode & 0o7777 == 0o755


def test_somebody_else_s_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    owner = (tmp_path / "a").stat().st_uid
    with pytest.raises(Unavailable, match=f"of uid 4242.* belongs to uid {owner}"):
        open_own(tmp_path / "a", 0o700)
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o755


def test_what_cannot_be_made_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"No such file.*\[disk\]"):
        open_own(tmp_path / "nowhere" / "a", 0o700)
