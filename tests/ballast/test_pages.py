from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from holdingpen.ballast import pages
from holdingpen.ballast.files import MEMFD
from holdingpen.ballast.ram import UNIT, RamBallast

HEADER = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
PAGE = mmap.PAGESIZE


def always(step: int) -> bool:
    return True


@pytest.mark.parametrize(
    ("text", "can"), [(HEADER, False), (HEADER + "/dev/zram0 partition 1 0 5\n", True)]
)
def test_a_machine_can_swap_when_something_follows_the_header(
    tmp_path: Path, text: str, can: bool
) -> None:
    swaps = tmp_path / "swaps"
    swaps.write_text(text)
    assert pages.can_swap(swaps) == can


def test_this_machine_tells_whether_it_can_swap() -> None:
    assert pages.can_swap() in (True, False)


@pytest.fixture
def cachestat() -> None:
    probe = os.memfd_create("probe")
    known = pages.resident(probe)
    os.close(probe)
    if known is None:
        pytest.skip("cachestat(2) is of Linux 6.5")


@pytest.mark.usefixtures("cachestat")
def test_all_of_a_ballast_is_resident_where_nothing_swaps(
    real_ballast: RamBallast,
) -> None:
    """Pages that nobody ever touched, too."""
    if pages.can_swap() and not real_ballast.noswap:
        pytest.skip("this machine may swap it out meanwhile")
    real_ballast.take(9 * UNIT, always)
    (piece,) = real_ballast._pool
    assert pages.resident(piece.fd) == 9 * UNIT


@pytest.mark.usefixtures("cachestat")
def test_what_is_not_there_is_not_resident(real_ballast: RamBallast) -> None:
    real_ballast.take(2 * UNIT, always)
    (piece,) = real_ballast._pool
    libc = ctypes.CDLL(None)
    libc.fallocate64(piece.fd, 1 | 2, ctypes.c_int64(UNIT), ctypes.c_int64(3 * PAGE))
    assert pages.resident(piece.fd) == 2 * UNIT - 3 * PAGE


@pytest.mark.usefixtures("cachestat")
def test_a_wrong_descriptor_is_an_error() -> None:
    with pytest.raises(OSError, match="cachestat: Bad file"):
        pages.resident(-1)


def test_an_older_kernel_cannot_tell(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_SYS_CACHESTAT", 9999)
    monkeypatch.setattr(pages, "can_swap", lambda: True)
    real_ballast.noswap = False
    real_ballast.take(UNIT, always)
    (piece,) = real_ballast._pool
    assert pages.resident(piece.fd) is None
    assert real_ballast.swapped == 0


# What a ballast makes of it.


@pytest.fixture
def swapping(real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch) -> RamBallast:
    """A ballast of which all but one page of each file was swapped out."""
    real_ballast.noswap = False
    monkeypatch.setattr(pages, "can_swap", lambda: True)
    monkeypatch.setattr(pages, "resident", lambda fd: PAGE)
    return real_ballast


def test_what_is_swapped_out_is_what_is_not_resident(swapping: RamBallast) -> None:
    """Of all purses: held, kept and lent."""
    swapping.take(3 * UNIT, always)
    swapping.keep(1, UNIT)
    (piece,) = swapping.lend(2, UNIT, always)
    assert swapping.swapped == 4 * UNIT - 2 * PAGE
    os.close(piece.fd)


def test_more_resident_than_occupied_is_nothing_swapped(
    swapping: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is written out is counted twice for a moment."""
    swapping.take(UNIT, always)
    monkeypatch.setattr(pages, "resident", lambda fd: 2 * UNIT)
    assert swapping.swapped == 0


def test_nothing_is_looked_at_where_nothing_can_be_swapped(
    swapping: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapping.take(UNIT, always)
    monkeypatch.delattr(pages, "resident")
    monkeypatch.setattr(pages, "can_swap", lambda: False)
    assert swapping.swapped == 0
    swapping.noswap = True
    monkeypatch.delattr(pages, "can_swap")
    assert swapping.swapped == 0


def test_a_file_that_is_dropped_amid_the_looking_counts_nothing(
    swapping: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapping.take(UNIT, always)
    (piece,) = swapping._pool
    swapping.drop(UNIT)
    assert swapping._swapped(piece) == 0


def test_huge_pages_are_told_from_small_ones(real_ballast: RamBallast) -> None:
    real_ballast.take(UNIT, always)
    (piece,) = real_ballast._pool
    huge = pages.mapped_huge_bytes(piece.fd)
    assert huge == (0 if real_ballast.kind == MEMFD else UNIT)
