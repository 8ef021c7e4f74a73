from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import holdingpen
from holdingpen.ballast import BallastLike, hugefile, ram
from holdingpen.ballast.files import HUGE, MEMFD, HugeFiles, MemFiles
from holdingpen.ballast.reserve import ReservedBallast
from holdingpen.devices.scripted import ScriptedBallast, ScriptedHost

MIB = 2**20
#: Small, so that little memory makes several files.
PIECE = 2 * ram.STEP
#: Where the package lies: `python -c` finds it from there.
ABOVE_PACKAGE = Path(holdingpen.__file__).parents[1]
MEMORY_V1 = Path("/sys/fs/cgroup/memory")


def open_kind(kind: str) -> BallastLike:
    if kind == "scripted":
        return ScriptedBallast(ScriptedHost())
    if kind == "with a reserve":
        return ReservedBallast(open_kind("scripted"))
    if kind == MEMFD:
        return ram.RamBallast(MemFiles("Asked for by a test."), PIECE)
    try:
        mount, noswap = hugefile.open_mount()
    except OSError as error:
        pytest.skip(f"no huge pages here: {error.strerror}")
    return ram.RamBallast(HugeFiles(mount, noswap=noswap), PIECE)


@pytest.fixture(params=[HUGE, MEMFD, "scripted", "with a reserve"])
def ballast(request: pytest.FixtureRequest) -> Iterator[BallastLike]:
    with closing(open_kind(request.param)) as ballast:
        yield ballast


@pytest.fixture(params=[HUGE, MEMFD])
def real_ballast(request: pytest.FixtureRequest) -> Iterator[ram.RamBallast]:
    with closing(open_kind(request.param)) as ballast:
        assert isinstance(ballast, ram.RamBallast)
        yield ballast


class FullableGroup:
    """A v1 memory cgroup whose members sleep, unkilled, when it is full."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        path.mkdir()
        (path / "memory.limit_in_bytes").write_text(str(limit))
        self._started: list[subprocess.Popen[str]] = []
        self._oom = os.eventfd(0)
        with (path / "memory.oom_control").open("r+") as control:
            control.write("1")
            control.flush()
            # cgroup-v1/memory.rst, 10: told by eventfd, so nobody polls
            (path / "cgroup.event_control").write_text(
                f"{self._oom} {control.fileno()}"
            )

    def start(self, program: str) -> subprocess.Popen[str]:
        """Start a Python program that becomes a member by `join()`."""
        tasks = f"{self.path}/cgroup.procs"
        join = f"def join():\n open({tasks!r}, 'w').write('0')\n"
        started = subprocess.Popen(
            [sys.executable, "-c", join + program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ABOVE_PACKAGE,
        )
        self._started.append(started)
        return started

    def said(self, program: subprocess.Popen[str]) -> str:
        """The next line a program says, waited for as long as is decent."""
        assert program.stdout
        assert select.select([program.stdout], [], [], 20)[0], "it says nothing"
        return program.stdout.readline()

    def wait_full(self) -> None:
        assert select.select([self._oom], [], [], 20)[0], "it never became full"

    def close(self) -> None:
        for started in self._started:
            started.kill()
            started.communicate()
        os.close(self._oom)
        self.path.rmdir()


@pytest.fixture
def fullable_group() -> Iterator[FullableGroup]:
    path = MEMORY_V1 / f"hp-test-{os.getpid()}"
    if os.geteuid() != 0 or not os.access(MEMORY_V1 / "cgroup.procs", os.W_OK):
        pytest.skip("needs root and a v1 memory hierarchy to make a group in")
    with closing(FullableGroup(path, 128 * MIB)) as group:
        yield group
