from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

MIB = 2**20
GIB = 2**30


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class FakeMachine:
    """A tree of files as a kernel shows them: 64 GiB, 48 of them available."""

    OURS = 500

    def __init__(self, place: Path) -> None:
        self.proc = place / "proc"
        self.cgroup = place / "cgroup"
        self.cgroup.mkdir()
        self.memory(64 * GIB, 48 * GIB)
        write(self.proc / "sys/kernel/random/boot_id", "0f0e-boot\n")
        self.process(self.OURS, comm="holdingpen", anon=32 * MIB)
        (self.proc / "self").symlink_to(str(self.OURS))

    def memory(self, total: int, available: int) -> None:
        write(
            self.proc / "meminfo",
            f"MemTotal:       {total // 1024} kB\n"
            f"MemFree:        {available // 2048} kB\n"
            f"MemAvailable:   {available // 1024} kB\n"
            "Buffers:            1024 kB\n",
        )

    def pressure(self, some: float, full: float = 0.0) -> None:
        write(self.proc / "pressure/memory", psi(some, full))

    def process(
        self,
        pid: int,
        *,
        parent: int = 1,
        comm: str = "program",
        uid: int = 1000,
        anon: int = 0,
        shmem: int = 0,
        file: int = 0,
        flags: int = 0x400000,
        groups: str = "",
    ) -> None:
        pages = (anon + shmem + file) // 4096
        rest = " ".join(["7"] * 13)
        write(
            self.proc / f"{pid}/stat",
            f"{pid} ({comm}) S {parent} 1 1 0 -1 {flags} {rest} 1000 {pages} 18446 1\n",
        )
        name = comm.replace("\\", "\\\\").replace("\n", "\\n")
        amounts = "" if flags & 0x200000 else status_amounts(anon, file, shmem)
        write(
            self.proc / f"{pid}/status",
            f"Name:\t{name}\nUmask:\t0022\nUid:\t{uid}\t0\t0\t0\nGroups:\t{groups}\n"
            f"{amounts}Cpus_allowed:\tff\nCpus_allowed_list:\t0-3,8\n",
        )

    def groups(self, own: str, mounts: str) -> None:
        write(self.proc / "self/cgroup", own)
        write(self.proc / "self/mountinfo", mounts)

    def group(self, path: str, **files: str) -> None:
        """Make a cgroup of files; `memory_max="1"` is memory.max."""
        for name, text in files.items():
            controller, _, rest = name.partition("_")
            write(self.cgroup / path / f"{controller}.{rest}", text)


def psi(some: float, full: float = 0.0) -> str:
    rest = "avg60=9.00 avg300=9.00 total=12345"
    return f"some avg10={some:.2f} {rest}\nfull avg10={full:.2f} {rest}\n"


def status_amounts(anon: int, file: int, shmem: int) -> str:
    return (
        f"VmRSS:\t{(anon + file + shmem) // 1024} kB\nRssAnon:\t{anon // 1024} kB\n"
        f"RssFile:\t{file // 1024} kB\nRssShmem:\t{shmem // 1024} kB\n"
    )


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


@pytest.fixture
def pressure_text() -> Callable[..., str]:
    return psi
