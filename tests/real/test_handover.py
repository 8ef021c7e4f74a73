"""What is held back reaches the one it was held for, whoever dies on the way.

A real daemon, real memory and a real disk.  After each fault the books balance: what
was held is held again, and nothing is leased.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import holdingpen

pytestmark = [pytest.mark.real, pytest.mark.slow]

MIB = 2**20
HELD = 64 * MIB
SOURCE = str(Path(holdingpen.__file__).parents[1])
PATIENCE_S = 30.0

#: Says that it holds the memory, and its first byte; then sits on it.
KEEPER = """
import holdingpen, sys
with holdingpen.lease(ram="32M", memory=True) as lease:
    memory = lease.memory()
    print(memory[0], memory.handover, flush=True)
    memory[0] = 7
    {then}
"""


@pytest.fixture
def pen(pen, monkeypatch):
    monkeypatch.setenv("HOLDINGPEN_SOCKET", pen.socket)
    pen.env["PYTHONPATH"] = os.pathsep.join([SOURCE, *sys.path])
    return pen


@pytest.fixture
def held(pen):
    """A pen that serves, and holds all of its ballast."""
    pen.serve()
    wait_until(lambda: books().held == HELD)
    return pen


def books(name: str = "ram"):
    return holdingpen.status().resources[name]


def wait_until(true: Callable[[], bool]) -> None:
    """Look every so often, and not for ever."""
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, holdingpen.status()
        time.sleep(0.02)


def nothing_is_leased(name: str = "ram", held: int = HELD) -> None:
    """All is as before."""
    wait_until(lambda: books(name).leased == 0 and books(name).settling == 0)
    wait_until(lambda: books(name).held == held)


def start(pen, then: str) -> subprocess.Popen[str]:
    """Start a program that holds memory, and wait until it does."""
    program = subprocess.Popen(
        [sys.executable, "-c", KEEPER.format(then=then)],
        env=pen.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pen._started.append(program)
    assert program.stdout is not None
    assert program.stdout.readline() == "0 exact\n"
    return program


def test_the_memory_is_exact_is_shown_and_comes_back_wiped(held):
    for _ in range(2):
        with holdingpen.lease(ram="32M", memory=True) as lease:
            memory = lease.memory()
            assert (lease.handover, memory.handover) == ("exact", "exact")
            assert bytes(memory[:4]) == bytes(4), "what the one before wrote"
            memory[:4] = b"mine"
            (info,) = holdingpen.status().leases
            assert (info.handover, info.kept) == ("exact", {"ram": 32 * MIB})
            assert books().held == HELD - 32 * MIB
        nothing_is_leased()


def test_numpy_and_a_worker_see_the_same_pages(held):
    numpy = pytest.importorskip("numpy")
    with holdingpen.lease(ram="32M", memory=True) as lease:
        array = lease.memory().asarray("i8")
        assert array.nbytes == 32 * MIB
        child = os.fork()
        if not child:
            array[-1] = 42
            os._exit(0)
        os.waitpid(child, 0)
        assert array[-1] == 42
        assert numpy.shares_memory(array, lease.memory().asarray("u1"))
        del array
    nothing_is_leased()


def test_a_client_that_is_killed_half_way_leaves_nothing_behind(held):
    program = start(held, "sys.stdin.read()")
    program.send_signal(signal.SIGKILL)
    program.wait()
    nothing_is_leased()


def test_a_grandchild_that_keeps_the_memory_is_waited_for(held):
    """Its own lease is over, but nobody else may have those pages."""
    then = "import os\n    if os.fork(): os._exit(0)\n    lease.close()\n    "
    then += "sys.stdin.read()"
    program = start(held, then)
    program.wait()
    wait_until(lambda: books().leased == 0)
    status = holdingpen.status()
    assert status.resources["ram"].held == HELD - 32 * MIB
    assert status.leases == []
    program.stdin.close()
    program.stdin = None
    nothing_is_leased()


def test_a_killed_daemon_takes_no_memory_away_from_a_program(held):
    program = start(held, "sys.stdin.read(); print(memory[0], flush=True)")
    held.daemon.kill()
    held.daemon.wait()
    program.stdin.close()
    program.stdin = None
    assert program.stdout.readline() == "7\n"
    program.wait()
    held.serve()
    nothing_is_leased()


def test_what_is_paced_comes_back_when_its_program_is_killed_half_way(held):
    half = "x = bytearray(b'x' * (20 << 20)); import sys; print(1, flush=True); " \
           "sys.stdin.read()"  # fmt: skip
    program = held.gatekeeper("--ram", "48M", "--", sys.executable, "-c", half)
    assert program.stdout.readline() == "1\n"
    (info,) = holdingpen.status().leases
    assert (info.handover, info.bound) == ("bounded", 8 * MIB)
    wait_until(lambda: holdingpen.status().leases[0].kept["ram"] < 48 * MIB - 8 * MIB)
    assert holdingpen.status().leases[0].kept["ram"] > 0
    program.kill()
    nothing_is_leased()


def test_prefault_has_all_of_it_before_the_program_begins(held):
    words = "import os; print(os.environ['HOLDINGPEN_HANDOVER'], " \
            "int(open('/proc/self/statm').read().split()[1]) * 4096 >> 20)"  # fmt: skip
    status, out, err = held.run(
        "--prefault", "--ram", "48M", "--", sys.executable, "-c", words
    )
    assert (status, err) == (0, "")
    sure, resident = out.split()
    assert sure == "bounded"
    assert int(resident) >= 48
    nothing_is_leased()


def test_the_grant_says_which_promise_it_is(held):
    _, _, err = held.run("-v", "--ram", "48M", "--", "true")
    assert "bounded (8.0 MiB)" in err
    status, _, err = held.run("--exact", "--ram", "48M", "--", "true")
    assert status == 75
    assert "bounded" in err


# A disk.


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 MiB of its own."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root and mkfs.ext4")
    image, mount = tmp_path / "image", tmp_path / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(160 * MIB)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mount], check=False).returncode:
        pytest.skip("needs loop devices")
    yield mount
    subprocess.run(["umount", mount], check=False)


@pytest.fixture
def lending(pen, disk):
    """A pen that holds 96 MiB of the disk."""
    config = f'[disk.scratch]\npath = "{disk}"\nhold = "96M"\n'
    (pen.home / "holdingpen.toml").write_text(config)
    pen.serve()
    wait_until(lambda: books("disk.scratch").held == 96 * MIB)
    yield pen
    if pen.daemon.poll() is None:
        pen.daemon.terminate()
        pen.daemon.wait()


def fill(disk: Path) -> None:
    """Another user leaves nobody any room."""
    with (disk / "other").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(MIB))
        except OSError:
            return


def test_scratch_has_its_space_on_a_full_disk_and_is_gone_afterwards(lending, disk):
    fill(disk)
    program = 'dd if=/dev/zero of="$HOLDINGPEN_SCRATCH/x" bs=1M count=60 2>/dev/null' \
              ' && echo "$HOLDINGPEN_SCRATCH $HOLDINGPEN_HANDOVER"'  # fmt: skip
    status, out, err = lending.run("--disk", "64M", "--", "sh", "-c", program)
    assert (status, err) == (0, "")
    place, sure = out.split()
    assert sure in ("exact", "bounded")
    wait_until(lambda: not Path(place).exists())
    nothing_is_leased("disk.scratch", 96 * MIB)


def test_a_file_has_its_blocks_on_a_full_disk(lending, disk):
    fill(disk)
    with holdingpen.lease(disk="64M", file=True) as lease:
        file = lease.file()
        assert (lease.handover, file.size >= 64 * MIB) == ("exact", True)
        file.write(bytes(64 * MIB))
        file.flush()
        os.fsync(file.fileno())
    nothing_is_leased("disk.scratch", 96 * MIB)


def test_a_scratch_that_is_busy_at_its_end_is_said_and_comes_back_later(lending):
    stay = 'cd "$HOLDINGPEN_SCRATCH" && echo x > y && exec sleep 60'
    with holdingpen.lease(disk="32M") as lease:
        sitter = subprocess.Popen(
            ["sh", "-c", stay],
            env=os.environ | {"HOLDINGPEN_SCRATCH": str(lease.scratch)},
        )
        wait_until(lambda: (lease.scratch / "y").exists())
    wait_until(lambda: books("disk.scratch").leased == 0)
    wait_until(lambda: any("is not back" in x for x in holdingpen.status().troubles))
    sitter.kill()
    sitter.wait()
    nothing_is_leased("disk.scratch", 96 * MIB)
    assert holdingpen.status().troubles == []


def test_what_a_killed_daemon_left_on_the_disk_is_found_and_cleared(lending, disk):
    with holdingpen.lease(disk="32M") as lease:
        place = lease.scratch
        lending.daemon.kill()
        lending.daemon.wait()
    lending.serve()
    wait_until(lambda: not place.exists() or not any(place.iterdir()))
    nothing_is_leased("disk.scratch", 96 * MIB)
    with holdingpen.lease(disk="96M", file=True) as again:
        assert again.handover == "exact"


def test_a_daemon_that_ends_gives_the_disk_back(lending, disk):
    lending.daemon.terminate()
    lending.daemon.wait()
    room = os.statvfs(disk)
    assert room.f_bavail * room.f_frsize > 120 * MIB
