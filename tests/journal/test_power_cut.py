"""Real power cuts: a file system that forgets all that was not brought to its disk.

    python tests/journal/test_power_cut.py [CUTS]

cuts the power of a whole daemon while reservations are made, extended and given back.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

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


#: argv: image, mount point, how often the power is cut, and where the dice begin.
#: What was answered is there; the one request that was not may have been carried out.
#: An answer that came after the cut had begun counts as none: the file system is shut
#: down step by step, and in between fdatasync can find the transaction given up for
#: which it would wait, and return 0 (3 of 800 cuts, by pwrite and fdatasync alone).
DAYS = """
import fcntl, os, random, struct, subprocess, sys, threading, time, uuid
from pathlib import Path
from holdingpen.client.blocking import connect
from holdingpen.errors import HoldingPenError

image, top, cuts, seed = sys.argv[1:]
dice = random.Random(int(seed))
here = Path(image).parent
(here / "config").write_text("[ram]\\ncapacity = '1G'\\n[resources]\\nseat = 1000\\n")
said = here / "said"
disk = -1
began = threading.Event()

def mount():
    # another boot: what was not synced before is not believed
    (here / "boot_id").write_text(f"{uuid.uuid4()}\\n")
    subprocess.run(["mount", "-o", "loop", image, top], check=True)

def serve():
    words = [sys.executable, "-m", "holdingpen", "--config", here / "config"]
    words += ["--socket", here / "s", "--state", Path(top) / "state"]
    words = ["setpriv", "--pdeathsig", "KILL", *words]
    daemon = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=said.open("wb"))
    while b"serves" not in said.read_bytes():
        assert daemon.poll() is None, said.read_text()
        time.sleep(0.005)
    return daemon

def cut():
    began.set()
    fcntl.ioctl(disk, 0x8004587D, struct.pack("I", 2))

class Life:
    def __init__(self):
        self.until_s, self.seats, self.drained, self.answered = {}, None, False, 0
        self.asked = None
    def step(self, conn):
        # what is so if it is carried out is written down before it is asked
        until_s, seats, drained = dict(self.until_s), self.seats, self.drained
        kind = dice.choice(["reserve", "book", "extend", "release", "set", "drain"])
        some = dice.choice(sorted(until_s)) if until_s else 0
        if not some and kind in ("extend", "release"):
            kind = "reserve"
        if drained or len(until_s) > 60:
            kind = "undrain" if drained else "release"
        self.asked = (kind, some)
        match kind:
            case "reserve":
                made = conn.reserve({"seat": 1}, 9e4)
                until_s |= dict.fromkeys(made.leases, None)
            case "book":
                starts = [time.time() + 1e5 * n for n in range(1, 4)]
                made = conn.reserve({"seat": 1}, 9e4, starts=starts)
                until_s |= dict.fromkeys(made.leases, None)
            case "extend":
                until_s[some] = conn.extend(some, 7.0).expires
            case "release":
                conn.release(some)
                del until_s[some]
            case "set":
                seats = dice.randrange(500, 1000)
                self.asked = (kind, seats)
                conn.set_capacity("seat", seats)
            case "drain":
                conn.drain("cut")
                drained = True
            case "undrain":
                conn.undrain()
                drained = False
        if began.is_set():
            # self.asked stays: it may have been carried out
            raise HoldingPenError("answered too late to count")
        self.until_s, self.seats, self.drained = until_s, seats, drained
        self.answered += 1
        self.asked = None

def found(life):
    with connect(str(here / "s")) as conn:
        status = conn.status()
    return (
        {x.id: x.expires for x in status.leases},
        status.resources["seat"].capacity,
        status.drain is not None,
    )

def check(life):
    there, seats, drained = found(life)
    kind, some = life.asked or ("", 0)
    maybe = {some} if kind in ("release", "extend") else set()
    lost = life.until_s.keys() - there.keys() - (maybe if kind == "release" else set())
    more = there.keys() - life.until_s.keys()
    assert not lost, ("lost", lost, life.asked)
    most = {"reserve": 1, "book": 3}.get(kind, 0)
    assert len(more) <= most, ("more", more, life.asked)
    for number, end_s in life.until_s.items():
        if end_s is not None and number not in maybe:
            assert there[number] == end_s, ("date", number, life.asked)
    expected = {life.seats or 1000} | ({some} if kind == "set" else set())
    assert seats in expected, (seats, expected)
    assert drained == life.drained or kind in ("drain", "undrain"), life.asked
    life.until_s = there
    life.seats, life.drained = seats, drained

(here / "boot_id").touch()
mount()
real = "/proc/sys/kernel/random/boot_id"
subprocess.run(["mount", "--bind", here / "boot_id", real], check=True)
life = Life()
for _ in range(int(cuts)):
    daemon = serve()
    check(life)
    disk = os.open(top, os.O_RDONLY)
    began.clear()
    timer = threading.Timer(dice.uniform(0.0, 0.2), cut)
    timer.start()
    try:
        with connect(str(here / "s")) as conn:
            while True:
                life.step(conn)
    except HoldingPenError:
        # it is gone with its disk, or says that it cannot write
        pass

    timer.join()
    os.close(disk)
    daemon.kill()
    daemon.wait()
    subprocess.run(["umount", top], check=True)
    mount()
daemon = serve()
check(life)
print(f"{cuts} cuts, {life.answered} answers, {len(life.until_s)} reservations there")
daemon.kill()
daemon.wait()
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
    done = cut_power(tmp_path, CUT, deed)
    assert (done.stderr, done.stdout) == ("", "")


@pytest.mark.root
@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root")
@pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="needs mkfs.ext4")
def test_what_the_daemon_answered_is_there_after_a_power_cut(tmp_path: Path) -> None:
    done = cut_power(tmp_path, DAYS, "6", "1")
    assert done.stderr == ""
    assert "6 cuts" in done.stdout


def cut_power(
    tmp_path: Path, script: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts above on a file system of its own."""
    image, top = tmp_path / "disk", tmp_path / "top"
    top.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    try_mount = ["unshare", "-m", "mount", "-o", "loop", image, top]
    if subprocess.run(try_mount, capture_output=True, check=False).returncode:
        pytest.skip("no loop devices here")
    return subprocess.run(
        ["unshare", "-m", sys.executable, "-c", script, image, top, *words],
        capture_output=True,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        ended = cut_power(Path(directory), DAYS, *(sys.argv[1:] or ["50"]), "1")
    sys.stdout.write(ended.stdout + ended.stderr)
