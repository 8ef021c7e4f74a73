from __future__ import annotations

import contextlib
import errno
import itertools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from holdingpen.ballast import hugefile, ram
from holdingpen.ballast.files import HUGE, MEMFD, MemFiles
from holdingpen.ballast.ram import STEP, UNIT, RamBallast
from holdingpen.devices.host import Host
from holdingpen.errors import Unavailable

if TYPE_CHECKING:
    from .conftest import FullableGroup

MIB = 2**20


def always(step: int) -> bool:
    return True


def refuse(*numbers: int) -> Callable[..., tuple[int, bool]]:
    def refusal(*args: object) -> tuple[int, bool]:
        raise OSError(numbers[0], os.strerror(numbers[0]))

    return refusal


def test_sizes_are_whole_units() -> None:
    assert STEP % UNIT == 0


def test_the_best_kind_is_huge_and_says_nothing_against_itself() -> None:
    with closing(ram.open_ram_ballast()) as ballast:
        assert (ballast.kind == HUGE) == (ballast.why == "")


def test_without_a_private_tmpfs_it_is_a_memfd_that_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hugefile, "open_mount", refuse(errno.EPERM))
    with closing(ram.open_ram_ballast()) as ballast:
        assert (ballast.kind, ballast.noswap) == (MEMFD, False)
        assert ballast.why == "No huge pages: Operation not permitted."
        assert ballast.take(UNIT, always) == UNIT


def test_a_tmpfs_without_huge_pages_is_not_called_huge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """shmem_enabled=deny lets huge=always be mounted, and gives small pages."""
    small = os.open("/", os.O_PATH)
    monkeypatch.setattr(hugefile, "open_mount", lambda: (small, True))
    monkeypatch.setattr(hugefile, "open_file", lambda mount: os.memfd_create("small"))
    with closing(ram.open_ram_ballast()) as ballast:
        assert (ballast.kind, ballast.noswap) == (MEMFD, False)
        assert "shmem_enabled" in ballast.why


def test_an_older_kernel_gives_a_memfd_without_the_seal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memfd_create = os.memfd_create

    def before_6_3(name: str, flags: int) -> int:
        if flags & ~(os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING):
            raise OSError(errno.EINVAL, "Invalid argument")
        return memfd_create(name, flags)

    monkeypatch.setattr(os, "memfd_create", before_6_3)
    with closing(RamBallast(MemFiles("Because."))) as ballast:
        assert ballast.take(UNIT, always) == UNIT


def test_without_any_file_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hugefile, "open_mount", refuse(errno.EPERM))
    monkeypatch.setattr(os, "memfd_create", refuse(errno.EMFILE))
    with pytest.raises(Unavailable, match=r"Too many open files.*hold = 0"):
        ram.open_ram_ballast()


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOSPC, errno.EFBIG])
def test_taking_ends_where_the_system_has_no_more(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real_ballast.take(UNIT, always)
    monkeypatch.setattr(os, "posix_fallocate", refuse(number))
    assert real_ballast.take(STEP, always) == 0
    assert real_ballast.held == UNIT


def test_any_other_failure_is_raised(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        real_ballast.take(STEP, always)


def test_a_file_size_limit_ends_the_taking_after_a_whole_step(
    real_ballast: RamBallast,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (STEP + UNIT, hard))
    try:
        assert real_ballast.take(2 * STEP, always) == STEP
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert real_ballast.held == STEP


def test_no_descriptor_is_inherited(real_ballast: RamBallast) -> None:
    real_ballast.take(5 * STEP, always)
    assert [os.get_inheritable(piece.fd) for piece in real_ballast._pool] == [False] * 3


def test_what_is_held_is_not_in_our_resident_set(real_ballast: RamBallast) -> None:
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    real_ballast.take(64 * MIB, always)
    assert resident() - before < 8 * MIB


@pytest.mark.real
@pytest.mark.slow
def test_memory_available_falls_by_what_is_taken_and_comes_back(
    real_ballast: RamBallast,
) -> None:
    """Within 64 MiB of 512, in the best of five: others use this machine too."""
    host, size = Host(), 512 * MIB
    errors = []
    for _round in range(5):
        before = host.ram_available(exact=True)
        assert real_ballast.take(size, always) == size
        during = host.ram_available(exact=True)
        assert real_ballast.drop(size) == size
        after = host.ram_available(exact=True)
        errors.append(max(abs(before - during - size), abs(after - during - size)))
    assert min(errors) < 64 * MIB


@pytest.mark.real
@pytest.mark.slow
def test_other_threads_run_while_ballast_is_dropped() -> None:
    """512 MiB of small pages take 70 ms to free; no thread waits for half of it."""

    def stall_share() -> float:
        ticks: list[float] = []
        stop = threading.Event()

        def tick() -> None:
            while not stop.is_set():
                ticks.append(time.monotonic())

        with closing(RamBallast(MemFiles("Asked for by a test."))) as ballast:
            ballast.take(512 * MIB, always)
            ticker = threading.Thread(target=tick)
            ticker.start()
            start = time.monotonic()
            ballast.drop(512 * MIB)
            end = time.monotonic()
            stop.set()
            ticker.join()
        inside = [start, *(at for at in ticks if start < at < end), end]
        gaps = (late - early for early, late in itertools.pairwise(inside))
        return max(gaps) / (end - start)

    assert min(stall_share() for _round in range(3)) < 0.5


HOLDER = """
import os
from holdingpen.ballast.files import MemFiles, open_files
from holdingpen.ballast.ram import UNIT, RamBallast
ballast = RamBallast({files}, 32 << 20)
join()
ballast.take(96 << 20, lambda step: True)
ballast.drop(UNIT)
print("taken", flush=True)
os.read(0, 1)
given = ballast.drop(64 << 20)
print(given >> 20, flush=True)
"""

HOG = """
join()
blocks = []
while True:
    blocks.append(bytearray(1 << 20))
"""


@pytest.mark.real
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("files", ["open_files()", "MemFiles('')"])
def test_dropping_works_in_a_memory_cgroup_that_is_full(
    fullable_group: FullableGroup, files: str
) -> None:
    """Nobody is killed there: a member that allocates sleeps for ever."""
    holder = fullable_group.start(HOLDER.format(files=files))
    assert fullable_group.said(holder) == "taken\n"
    fullable_group.start(HOG)
    fullable_group.wait_full()
    assert holder.stdin
    holder.stdin.write("x")
    holder.stdin.flush()
    assert fullable_group.said(holder) == "64\n"


def run_as_nobody(command: list[str], cwd: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        user=65534,
        group=65534,
        extra_groups=[],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )


def interpreter_for_nobody() -> str:
    """This one, or the system's of the same version where nobody may not run this."""
    ours = tuple(sys.version_info[:2])
    is_ours = f"import sys; sys.exit(sys.version_info[:2] != {ours})"
    for candidate in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            run_as_nobody([candidate, "-c", is_ours], "/")
            return candidate
    pytest.skip(f"there is no Python {ours[0]}.{ours[1]} that nobody can run")


@pytest.mark.real
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_an_ordinary_user_has_ballast_too() -> None:
    program = (
        "import os\n"
        "from holdingpen.ballast.ram import open_ram_ballast\n"
        "ballast = open_ram_ballast()\n"
        "taken = ballast.take(64 << 20, lambda step: True)\n"
        "print(taken >> 20, ballast.held >> 20, ballast.drop(taken) >> 20)\n"
        "print(ballast.kind, ballast.why, sep='|')\n"
        "pieces = ballast.lend(1, 32 << 20, lambda step: True)\n"
        "print(ballast.back(1))\n"
        "for piece in pieces: os.close(piece.fd)\n"
        "print(ballast.back(1) >> 20, ballast.swapped)\n"
    )
    # the checkout may lie where nobody cannot look
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        shutil.copytree(Path(ram.__file__).parents[1], Path(place, "holdingpen"))
        shutil.copytree(Path(msgspec.__file__).parent, Path(place, "msgspec"))
        done = run_as_nobody([interpreter_for_nobody(), "-B", "-c", program], place)
    amounts, kind, *lent = done.stdout.splitlines()
    assert lent == ["None", "32 0"]
    assert amounts == "64 64 64"
    assert kind == "huge tmpfs|" or kind.startswith("memfd|No huge pages: ")
