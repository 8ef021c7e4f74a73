"""Real power cuts: a file system that forgets all that was not brought to its disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

#: argv: image, mount point, what to do before the power is cut.
#: EXT4_IOC_SHUTDOWN with NOLOGFLUSH (2): linux/fs/ext4/ext4.h.
CUT = """
import fcntl, os, struct, subprocess, sys
from contextlib import closing
from pathlib import Path
from holdingpen.core.facts import CapacitySet, Ended, Moment
from holdingpen.journal.store import Store

image, top, deed = sys.argv[1:]
def mount(): subprocess.run(["mount", "-o", "loop", image, top], check=True)
def fact(n): return [CapacitySet("ram", n, 0)]
def gone(n): return [Ended(n, Moment(1.0, 1.0), "gone")]

mount()
where = Path(top) / "state"
store = Store.open(where, "boot-1")
sure = [fact(n) for n in range(500)]
for batch in sure:
    store.append(batch)
if deed == "sync":
    store.sync()
elif deed == "rotate":
    sure = [sum(sure, [])]
    store.rotate(sure)
else:
    sure = []
lost = [gone(n) for n in range(20_000)]
for batch in lost:
    store.append(batch)
disk = os.open(top, os.O_RDONLY)
fcntl.ioctl(disk, 0x8004587D, struct.pack("I", 2))
os.close(disk)
store.close()
subprocess.run(["umount", top], check=True)
mount()
with closing(Store.open(where, "boot-2")) as store:
    found = list(store.batches())
    assert found[: len(sure)] == sure, len(found)
    more = found[len(sure) :]
    assert deed == "nothing" or more == lost[: len(more)], len(more)
    store.append(gone(7))
with closing(Store.open(where, "boot-2")) as store:
    assert list(store.batches()) == [*found, gone(7)]
subprocess.run(["umount", top], check=True)
"""


@pytest.mark.root
@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root")
@pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="needs mkfs.ext4")
@pytest.mark.parametrize("deed", ["nothing", "sync", "rotate"])
def test_a_power_cut_takes_nothing_that_was_on_the_disk(
    tmp_path: Path, deed: str
) -> None:
    image, top = tmp_path / "disk", tmp_path / "top"
    top.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    try_mount = ["unshare", "-m", "mount", "-o", "loop", image, top]
    if subprocess.run(try_mount, capture_output=True, check=False).returncode:
        pytest.skip("no loop devices here")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", CUT, image, top, deed],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.stdout) == ("", "")
