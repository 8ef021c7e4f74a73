"""Disk space on a disk that is really full: a small ext4 on a loop device.

outer disk (ext4, 160 MiB)  <-  ballast, files, images, directories
a thief, not root, takes what is left and whatever becomes free
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import holdingpen
from holdingpen.ballast import scratch
from holdingpen.ballast.disk import DiskBallast, open_disk_ballast
from holdingpen.ballast.heirs import Heir
from holdingpen.devices.filesystem import FileSystem
from holdingpen.errors import Refusal, Unavailable

pytestmark = [pytest.mark.real, pytest.mark.root, pytest.mark.slow]

MIB = 2**20
ABOVE_PACKAGE = Path(holdingpen.__file__).parents[1]
SIZE = 160 * MIB
#: The client's user and the thief's: nobody, and nobody else.
CLIENT, THIEF = 65534, 65533
PATIENCE_S = 20.0


def always(step: int) -> bool:
    return True


class Disk:
    """An ext4 of its own, mounted."""

    def __init__(self, home: Path, reserve: int) -> None:
        """`reserve`: percent that ext4 keeps for root."""
        self.home = home
        self.path = home / "disk"
        self.mounts = home / "mounts"
        self.path.mkdir()
        image = home / "outer"
        fd = os.open(image, os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(fd, 0, SIZE)
        os.close(fd)
        make = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", str(reserve)]
        for words in (
            [*make, "-E", "nodiscard", str(image)],
            ["mount", "-o", "loop", str(image), str(self.path)],
        ):
            subprocess.run(words, check=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin"})
        self.path.chmod(0o1777)
        self._started: list[subprocess.Popen[str]] = []

    def open(self, step: int = 8 * MIB) -> DiskBallast:
        """A daemon that knows nothing of the one before."""
        ballast = self.open_next(step)
        ballast.adopt()
        return ballast

    def open_next(self, step: int = 8 * MIB) -> DiskBallast:
        """A daemon that is still to be told which leases go on."""
        filesystem = FileSystem(self.path)
        assert (filesystem.kind, filesystem.why) == ("ext4", "")
        return open_disk_ballast(self.path, SIZE, filesystem, self.mounts, step)

    @property
    def available(self) -> int:
        return FileSystem(self.path).available()

    def start(self, program: str, *words: str, user: int = 0) -> subprocess.Popen[str]:
        """Start a Python program, as `user`; it says what it has to say."""
        process = subprocess.Popen(
            ["/usr/bin/python3" if user else sys.executable, "-c", program, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            user=user,
            group=user,
            extra_groups=[],
            cwd="/" if user else ABOVE_PACKAGE,
        )
        self._started.append(process)
        return process

    def run(self, program: str, *words: str, user: int) -> str:
        """Run one to its end."""
        out, _ = self.start(program, *words, user=user).communicate(timeout=PATIENCE_S)
        return out.strip()

    def fill(self) -> None:
        """Let others have every block there is for them."""
        self.run(FILL, str(self.path), user=THIEF)
        assert self.available < MIB

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        for _attempt in range(50):
            if (
                subprocess.run(["umount", self.path], capture_output=True).returncode
                == 0
            ):
                return
            time.sleep(0.1)
        subprocess.run(["umount", "-l", self.path], check=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def make_disk(reserve: int) -> Iterator[Disk]:
    why = scratch.why_not()
    if why:
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="hp-disk-") as home:
        Path(home).chmod(0o755)
        try:
            disk = Disk(Path(home), reserve)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no file system can be made and mounted here: {error}")
        with closing(disk):
            yield disk


@pytest.fixture
def disk() -> Iterator[Disk]:
    yield from make_disk(5)


@pytest.fixture
def disk_without_reserve() -> Iterator[Disk]:
    yield from make_disk(0)


FILL = """
import os, sys
fd, size = os.open(sys.argv[1] + '/stolen', os.O_RDWR | os.O_CREAT), 0
for step in (1 << 20, 1 << 12):
    while True:
        try:
            os.posix_fallocate(fd, size, step)
        except OSError:
            break
        size += step
"""

# Acts on 32 MiB free, or on any: takes them all.
THIEF_AT = """
import os, sys
path, least = sys.argv[1], int(sys.argv[2])
fd, size = os.open(path + '/stolen-2', os.O_RDWR | os.O_CREAT), 0
print('ready', flush=True)
while True:
    now = os.statvfs(path)
    free = now.f_bavail * now.f_frsize
    if free >= least:
        try:
            os.posix_fallocate(fd, size, free & -4096)
            size += free & -4096
        except OSError:
            os.ftruncate(fd, size)
"""

# Writes all it is told to, and says how much it could.
WRITE = """
import os, sys
fd, size = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), 0
block, want, tries = os.urandom(1 << 20), int(sys.argv[2]), int(sys.argv[3])
while size < want and tries:
    try:
        size += os.pwrite(fd, block[:want - size], size)
        os.fsync(fd)
    except OSError:
        tries -= 1
        __import__('time').sleep(0.02)
print(size)
"""


def write(disk: Disk, file: Path, want: int, tries: int = 1) -> int:
    return int(disk.run(WRITE, str(file), str(want), str(tries), user=CLIENT))


def ready(disk: Disk, amount: int) -> DiskBallast:
    """A ballast of `amount` on a disk that is full otherwise."""
    ballast = disk.open()
    assert ballast.take(amount, always) == amount
    disk.fill()
    return ballast


def test_taking_ends_where_others_have_no_more(disk: Disk) -> None:
    """Root's reserve is not ballast."""
    with closing(disk.open()) as ballast:
        taken = ballast.take(SIZE, always)
        assert taken == ballast.held > SIZE // 2
        now = os.statvfs(disk.path)
        assert now.f_bavail >= 0 < (now.f_bfree - now.f_bavail)
        assert ballast.take(64 * MIB, always) == 0
        disk.fill()
        assert ballast.take(MIB, always) == 0
        assert ballast.drop(8 * MIB) == 8 * MIB
        assert 8 * MIB <= disk.available < 9 * MIB


def test_closing_gives_the_disk_back(disk: Disk) -> None:
    before = disk.available
    ballast = disk.open()
    ballast.take(64 * MIB, always)
    ballast.keep(1, 32 * MIB)
    ballast.keep(2, 8 * MIB)
    ballast.prepare_image(1, 32 * MIB, CLIENT, CLIENT)
    ballast.prepare_directory(2, 8 * MIB, CLIENT, CLIENT)
    ballast.close()
    assert disk.available == before
    assert list(disk.mounts.iterdir()) == []
    assert [path.name for path in disk.path.iterdir()] == ["lost+found"]


def has_every_byte(disk: Disk, sizes: list[int], thief_sees: int) -> None:
    """Files of `sizes` MiB are all the ballast; one is cut of nearly all of them."""
    with closing(disk.open()) as ballast:
        ballast.take(sum(sizes) * MIB, always)
        for lease, mib in enumerate(sizes):
            ballast.keep(lease, mib * MIB)
            ballast.prepare_file(lease, mib * MIB)
        for lease in range(len(sizes)):
            ballast.back(lease)
        disk.fill()
        thief = disk.start(THIEF_AT, str(disk.path), str(thief_sees), user=THIEF)
        assert said(thief) == "ready"
        want = (sum(sizes) - 4) * MIB
        ballast.keep(9, want)
        (piece,) = ballast.lend(9, want, always)
        assert piece.size == want
        for at in range(0, want, MIB):
            assert os.pwrite(piece.fd, os.urandom(MIB), at) == MIB
        os.fsync(piece.fd)
        os.close(piece.fd)
        assert (disk.path / "stolen-2").stat().st_blocks == 0
        assert ballast.back(9) == want
        # the last unit may have gone for a block of the file's own map
        assert ballast.held >= (sum(sizes) - 1) * MIB


@pytest.mark.parametrize("sizes", [[64], [16, 48], [40, 24, 8]], ids=str)
def test_a_file_has_every_byte_on_a_full_disk_with_a_thief(
    disk: Disk, sizes: list[int]
) -> None:
    """Cut from one file or grown from several: he never sees 2 MiB free."""
    has_every_byte(disk, sizes, 2 * MIB)


@pytest.mark.parametrize("sizes", [[64], [16, 48], [40, 24, 8]], ids=str)
def test_without_root_s_reserve_a_thief_never_sees_more_than_a_window(
    disk_without_reserve: Disk, sizes: list[int]
) -> None:
    has_every_byte(disk_without_reserve, sizes, 16 * MIB)


def test_an_image_has_its_bytes_on_a_full_disk(disk: Disk) -> None:
    with closing(ready(disk, 64 * MIB)) as ballast:
        ballast.keep(1, 64 * MIB)
        place = ballast.prepare_image(1, 64 * MIB, CLIENT, CLIENT)
        assert (place, ballast.kept) == (disk.mounts / "1", {1: 64 * MIB})
        found = place.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (
            CLIENT,
            CLIENT,
            0o700,
        )
        assert list(place.iterdir()) == []
        options = os.statvfs(place).f_flag
        assert options & os.ST_NOSUID
        assert options & os.ST_NODEV
        usable = ballast.usable(1)
        assert usable > 0.94 * 64 * MIB
        assert write(disk, place / "file", usable - MIB) == usable - MIB
        assert (place / "file").stat().st_size == usable - MIB
        assert write(disk, disk.path / "outside", MIB) == 0
        assert disk.run(TRY, str(place), user=THIEF) == "Permission denied"
        assert ballast.back(1) == 64 * MIB
        assert (ballast.held, ballast.kept, disk.available < MIB) == (
            64 * MIB,
            {},
            True,
        )
        assert list(disk.mounts.iterdir()) == []


TRY = """
import os, sys
try:
    print(os.listdir(sys.argv[1]))
except OSError as error:
    print(error.strerror)
"""

SPRINKLE = """
import os, random, sys
fd = os.open(sys.argv[1] + '/file', os.O_RDWR | os.O_CREAT)
os.posix_fallocate(fd, 0, 24 << 20)
os.fsync(fd)
chosen = random.Random(1)
for time in range(600):
    os.pwrite(fd, b'x' * 4096, chosen.randrange(6000) * 4096)
os.fsync(fd)
for number in range(200):
    with open(f'{sys.argv[1]}/{number}', 'wb') as file:
        file.write(b'y' * 40000)
    if number % 2:
        os.unlink(file.name)
os.sync()
"""


def test_nothing_its_users_do_takes_blocks_from_the_image(disk: Disk) -> None:
    """Unwritten extents split by writes, deletions, fstrim."""
    with closing(ready(disk, 64 * MIB)) as ballast:
        ballast.keep(1, 64 * MIB)
        place = ballast.prepare_image(1, 64 * MIB, CLIENT, CLIENT)
        image = disk.path / ".holdingpen" / "image-1"
        disk.run(SPRINKLE, str(place), user=CLIENT)
        trimmed = subprocess.run(["fstrim", place], capture_output=True, text=True)
        assert trimmed.returncode != 0
        assert image.stat().st_blocks * 512 >= 64 * MIB


def test_the_next_one_reads_nothing_of_the_last(disk: Disk) -> None:
    with closing(ready(disk, 32 * MIB)) as ballast:
        ballast.keep(1, 32 * MIB)
        place = ballast.prepare_image(1, 32 * MIB, CLIENT, CLIENT)
        (place / "file").write_bytes(b"secret" * 2 * MIB)
        subprocess.run(["sync", "-f", place], check=True)
        assert ballast.back(1) == 32 * MIB
        ballast.keep(2, 32 * MIB)
        (piece,) = ballast.lend(2, 32 * MIB, always)
        assert os.pread(piece.fd, 32 * MIB, 0) == bytes(32 * MIB)
        os.close(piece.fd)


def stay_inside(disk: Disk, place: Path, way: str) -> subprocess.Popen[str]:
    stay = {
        "cwd": "os.chdir(sys.argv[1])",
        "file": "kept = open(sys.argv[1] + '/kept', 'wb')",
        "map": "f = open(sys.argv[1] + '/m', 'w+b'); f.truncate(4096);"
        "import mmap; kept = mmap.mmap(f.fileno(), 4096); f.close()",
    }[way]
    program = f"import os, sys\n{stay}\nprint('in', flush=True)\nsys.stdin.read()"
    process = disk.start(program, str(place), user=CLIENT)
    assert said(process) == "in"
    return process


@pytest.mark.parametrize("way", ["cwd", "file", "map"])
def test_a_busy_image_lets_nobody_in_and_comes_when_its_last_user_goes(
    disk: Disk, way: str
) -> None:
    with closing(ready(disk, 32 * MIB)) as ballast:
        ballast.keep(1, 32 * MIB)
        place = ballast.prepare_image(1, 32 * MIB, CLIENT, CLIENT)
        keeper = stay_inside(disk, place, way)
        for _time in range(2):
            assert ballast.back(1) is None
            assert ballast.busy(1).startswith("its scratch is still used by python3")
            assert ballast.busy(1).endswith(f" ({keeper.pid})")
            assert (ballast.held, ballast.kept) == (0, {1: 32 * MIB})
        assert not place.exists()
        assert disk.available < MIB
        keeper.kill()
        keeper.wait()
        wait_until(lambda: ballast.back(1) == 32 * MIB)
        assert (ballast.held, ballast.kept) == (32 * MIB, {})


def wait_until(question: object) -> None:
    """Asked until it is so: the kernel takes its time with the last user's end."""
    assert callable(question)
    until = time.monotonic() + PATIENCE_S
    while not question():
        assert time.monotonic() < until, "it never became so"
        time.sleep(0.02)


def test_a_daemon_that_ends_leaves_a_busy_image_to_the_kernel(disk: Disk) -> None:
    before = disk.available
    ballast = disk.open()
    ballast.take(32 * MIB, always)
    ballast.keep(1, 32 * MIB)
    keeper = stay_inside(
        disk, ballast.prepare_image(1, 32 * MIB, CLIENT, CLIENT), "cwd"
    )
    ballast.close()
    assert disk.available < before
    keeper.kill()
    keeper.wait()
    wait_until(lambda: disk.available == before)


def loops_of(disk: Disk) -> int:
    """Loop devices on images of this disk; tests beside us have theirs."""
    texts = [_text(x) for x in Path("/sys/block").glob("loop*/loop/backing_file")]
    return sum(text.startswith(f"{disk.path}/.holdingpen/") for text in texts)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        # it went meanwhile
        return ""


def test_an_image_that_cannot_be_mounted_leaves_nothing(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    with closing(ready(disk, 32 * MIB)) as ballast:
        ballast.keep(1, 32 * MIB)
        loops = loops_of(disk)
        for name in ("_make_file_system", "attach", "_protect", "_mount"):
            with monkeypatch.context() as patch:
                patch.setattr(scratch, name, fail)
                with pytest.raises(Unavailable, match="not permitted"):
                    ballast.prepare_image(1, 32 * MIB, CLIENT, CLIENT)
            assert (ballast.held, ballast.kept) == (0, {1: 32 * MIB})
            assert loops_of(disk) == loops
            assert not list(disk.mounts.glob("*"))
        assert ballast.prepare_image(1, 32 * MIB, CLIENT, CLIENT).is_dir()
        with pytest.raises(Refusal):
            ballast.lend(1, 32 * MIB, always)


@pytest.mark.parametrize("way", ["paced", "naive"])
def test_a_thief_who_sees_32_mib_gets_nothing_paced_and_most_of_it_naive(
    disk: Disk, way: str
) -> None:
    """Steps are 8 MiB here; the thief takes all that is free from 32 MiB on."""
    with closing(ready(disk, 80 * MIB)) as ballast:
        thief = disk.start(THIEF_AT, str(disk.path), str(32 * MIB), user=THIEF)
        assert said(thief) == "ready"
        ballast.keep(1, 80 * MIB)
        place = ballast.prepare_directory(1, 80 * MIB, CLIENT, CLIENT)
        if way == "naive":
            ballast.give(1, 80 * MIB)
            # he acts before a program that has to start first
            wait_until(lambda: (disk.path / "stolen-2").stat().st_blocks)
        file = place / "file"
        words = (str(file), str(78 * MIB), "100")
        client = disk.start(WRITE, *words, user=CLIENT)
        while client.poll() is None:
            paced = ballast.pace(1)
            assert paced
            assert way == "naive" or paced.released - paced.used <= 8 * MIB
            time.sleep(0.002)
        got = int(client.communicate()[0])
        stolen = (disk.path / "stolen-2").stat().st_blocks * 512
        paced = ballast.pace(1)
        assert paced
        if way == "paced":
            assert (got, stolen, paced.stolen) == (78 * MIB, 0, 0)
        else:
            assert stolen >= 32 * MIB
            assert got + stolen <= 81 * MIB
            assert abs(paced.stolen - stolen) < 2 * MIB


def test_a_thief_who_takes_all_gets_a_step_at_most(disk: Disk) -> None:
    with closing(ready(disk, 80 * MIB)) as ballast:
        thief = disk.start(THIEF_AT, str(disk.path), "4096", user=THIEF)
        assert said(thief) == "ready"
        ballast.keep(1, 80 * MIB)
        ballast.prepare_directory(1, 80 * MIB, CLIENT, CLIENT)
        wait_until(lambda: disk.available < MIB)
        for _look in range(20):
            paced = ballast.pace(1)
        assert paced
        assert 7 * MIB <= paced.stolen <= paced.released == 8 * MIB
        assert ballast.kept == {1: 72 * MIB}


def test_a_directory_is_its_client_s_alone(disk: Disk) -> None:
    with closing(ready(disk, 32 * MIB)) as ballast:
        ballast.keep(1, 32 * MIB)
        place = ballast.prepare_directory(1, 32 * MIB, CLIENT, CLIENT)
        assert write(disk, place / "file", MIB) == MIB
        assert disk.run(TRY, str(place), user=THIEF) == "Permission denied"
        assert disk.run(TRY, str(place.parent), user=THIEF) == "Permission denied"
        ours = str(disk.path / ".holdingpen")
        assert disk.run(TRY, ours, user=THIEF) == "Permission denied"


PLANT = """
import os, sys
os.symlink(sys.argv[2], sys.argv[1] + '/out')
os.makedirs(sys.argv[1] + '/a/b')
os.symlink(sys.argv[2] + '/dear', sys.argv[1] + '/a/b/file')
os.mkdir(sys.argv[1] + '/locked')
open(sys.argv[1] + '/locked/file', 'w').close()
os.chmod(sys.argv[1] + '/locked', 0)
"""


def test_links_planted_in_a_lease_s_directory_lead_nowhere(disk: Disk) -> None:
    outside = disk.home / "outside"
    outside.mkdir()
    (outside / "dear").write_text("dear")
    with closing(disk.open()) as ballast:
        place = ballast.prepare_directory(1, MIB, CLIENT, CLIENT)
        disk.run(PLANT, str(place), str(outside), user=CLIENT)
        paced = ballast.pace(1)
        assert paced
        assert paced.used < MIB
        assert ballast.back(1) == 0
        assert not place.exists()
    assert (outside / "dear").read_text() == "dear"


def test_what_is_mounted_in_a_lease_s_directory_is_not_emptied(disk: Disk) -> None:
    """Root's bind mount, of the same file system: its device tells nothing."""
    dear = disk.path / "dear"
    dear.mkdir()
    (dear / "file").write_text("dear")
    with closing(disk.open()) as ballast:
        place = ballast.prepare_directory(1, MIB, CLIENT, CLIENT)
        (place / "a" / "mounted").mkdir(parents=True)
        subprocess.run(["mount", "--bind", dear, place / "a" / "mounted"], check=True)
        assert ballast.back(1) is None
        assert ballast.busy(1) == "mounted: something is mounted there"
        assert (dear / "file").read_text() == "dear"
        mounted = [
            line.split()[4]
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if line.split()[4].endswith("/mounted")
        ]
        subprocess.run(["umount", *mounted], check=True)
        assert ballast.back(1) == 0


def test_a_trap_that_somebody_laid_in_a_public_directory_is_not_entered(
    disk: Disk,
) -> None:
    disk.run(
        "import os, sys; os.mkdir(sys.argv[1])", f"{disk.path}/.holdingpen", user=THIEF
    )
    with pytest.raises(Unavailable, match=f"belongs to uid {THIEF}"):
        disk.open()


# A daemon that is killed at any stage.

KILLED = """
import os, signal, sys
from pathlib import Path
from holdingpen.ballast import blocks, disk, scratch
from holdingpen.devices.filesystem import FileSystem
path, mounts, stage = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

def then_die(where, name):
    real = getattr(where, name)
    def do(*args):
        real(*args)
        die()
    setattr(where, name, do)

def before(where, name):
    setattr(where, name, die)

ballast = disk.open_disk_ballast(path, 2**40, FileSystem(path), mounts)
ballast.take(48 << 20, lambda step: True)
ballast.keep(1, 32 << 20)
if stage == "kept":
    die()
if stage == "cutting":
    then_die(blocks.BlockFile, "shrink")
if stage == "made":
    then_die(scratch, "_make_file_system")
if stage == "attached":
    before(scratch, "_mount")
if stage == "mounted":
    then_die(scratch, "_mount")
if stage == "file":
    ballast.prepare_file(1, 32 << 20)
    die()
if stage == "directory":
    place = ballast.prepare_directory(1, 32 << 20, 65534, 65534)
    (place / "file").write_text("data")
    die()
place = ballast.prepare_image(1, 32 << 20, 65534, 65534)
(place / "file").write_text("data")
if stage == "returning":
    before(blocks.BlockFile, "wipe")
    ballast.back(1)
die()
"""

STAGES = {
    "kept": 48,
    "cutting": 48,
    "file": 48,
    "made": 48,
    "attached": 48,
    "mounted": 48,
    "used": 48,
    "returning": 48,
    # all of it was given: its step is 64 MiB
    "directory": 16,
}


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_killed_daemon_left_is_cleared_by_the_next(
    disk: Disk, stage: str
) -> None:
    before, loops = disk.available, loops_of(disk)
    words = (str(disk.path), str(disk.mounts), stage)
    daemon = disk.start(KILLED, *words)
    assert daemon.wait(PATIENCE_S) == -signal.SIGKILL
    ballast = disk.open()
    assert ballast.found == STAGES[stage] * MIB
    assert loops_of(disk) == loops
    assert not list(disk.mounts.glob("*"))
    if stage != "kept":
        assert ballast.notes
    assert ballast.take(ballast.found, always) == STAGES[stage] * MIB
    ballast.keep(1, 16 * MIB)
    assert ballast.prepare_image(1, 16 * MIB, CLIENT, CLIENT).is_dir()
    ballast.close()
    assert disk.available == before


def test_an_image_somebody_is_in_outlives_two_daemons_and_then_goes(disk: Disk) -> None:
    before = disk.available
    daemon = disk.start(KILLED, str(disk.path), str(disk.mounts), "mounted")
    assert daemon.wait(PATIENCE_S) == -signal.SIGKILL
    keeper = stay_inside_as_root(disk, disk.mounts / "1")
    with closing(disk.open()) as ballast:
        assert ballast.found == 16 * MIB
        assert "unmounted" in ballast.notes[0]
        assert "free when its last user is gone" in ballast.notes[1]
        assert not list(disk.mounts.glob("*"))
        assert ballast.take(ballast.found, always) == 16 * MIB
    keeper.kill()
    keeper.wait()
    wait_until(lambda: disk.available == before)


def stay_inside_as_root(disk: Disk, place: Path) -> subprocess.Popen[str]:
    program = "import os, sys\nos.chdir(sys.argv[1])\nprint('in', flush=True)\n"
    process = disk.start(program + "sys.stdin.read()", str(place))
    assert said(process) == "in"
    return process


# A daemon whose leases go on under the next one.

IMAGE = Heir("image", 32 * MIB, 32 * MIB)


@pytest.fixture
def with_image(disk: Disk) -> Path:
    """Where lease 1 has an image of 32 MiB; 16 are held, and its daemon is dead."""
    daemon = disk.start(KILLED, str(disk.path), str(disk.mounts), "used")
    assert daemon.wait(PATIENCE_S) == -signal.SIGKILL
    return disk.mounts / "1"


def test_an_image_outlives_daemon_after_daemon(disk: Disk, with_image: Path) -> None:
    before = disk.available
    keeper = stay_inside(disk, with_image, "cwd")
    for _daemon in range(3):
        ballast = disk.open_next()
        assert ballast.adopt(16 * MIB, {1: IMAGE}) == {1}
        assert (ballast.held, ballast.found) == (16 * MIB, 0)
        assert (ballast.kept, ballast.notes) == ({1: 32 * MIB}, [])
        assert loops_of(disk) == 1
        assert (with_image / "file").read_text() == "data"
        assert write(disk, with_image / "more", MIB) == MIB
        assert ballast.usable(1) > 24 * MIB
        ballast.leave()
    keeper.kill()
    keeper.wait()
    with closing(disk.open_next()) as ballast:
        assert ballast.adopt(16 * MIB, {1: IMAGE}) == {1}
        wait_until(lambda: ballast.back(1) == 32 * MIB)
        assert ballast.held == 48 * MIB
        assert disk.available >= before
        assert not with_image.exists()
        (piece,) = take_a_file(ballast, 48 * MIB)
        assert os.pread(piece, 48 * MIB, 0) == bytes(48 * MIB)
        os.close(piece)


def take_a_file(ballast: DiskBallast, size: int) -> list[int]:
    ballast.keep(9, size)
    return [piece.fd for piece in ballast.lend(9, size, always)]


def unmount(disk: Disk, place: Path) -> None:
    subprocess.run(["umount", place], check=True)


def mount_elsewhere(disk: Disk, place: Path) -> None:
    (disk.home / "elsewhere").mkdir()
    subprocess.run(["mount", "--move", place, disk.home / "elsewhere"], check=True)


def mount_over_it(disk: Disk, place: Path) -> None:
    """Its own file system, unmounted, and another one there."""
    unmount(disk, place)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)


def cut_the_image(disk: Disk, place: Path) -> None:
    os.truncate(disk.path / ".holdingpen" / "image-1", 16 * MIB)


def unlink_the_image(disk: Disk, place: Path) -> None:
    (disk.path / ".holdingpen" / "image-1").unlink()


DAMAGE = {unmount: 32, mount_elsewhere: 32, mount_over_it: 32, cut_the_image: 16}


@pytest.mark.parametrize("damage", [*DAMAGE, unlink_the_image])
def test_an_image_that_is_not_as_it_was_is_cleared(
    disk: Disk, with_image: Path, damage: object
) -> None:
    assert callable(damage)
    damage(disk, with_image)
    with closing(disk.open_next()) as ballast:
        assert ballast.adopt(16 * MIB, {1: IMAGE}) == frozenset()
        back = DAMAGE.get(damage, 0) * MIB
        assert (ballast.held, ballast.found) == (16 * MIB, back)
        assert (ballast.kept, ballast.back(1)) == ({}, 0)
        assert ballast.notes
        assert not list(disk.mounts.glob("*"))
        wait_until(lambda: not loops_of(disk))


@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "still mounted"])
def test_an_image_that_is_busy_after_its_lease_s_end_is_waited_for(
    disk: Disk, with_image: Path, asked: bool
) -> None:
    """Whether the daemon before had come to unmount it or not."""
    keeper = stay_inside(disk, with_image, "cwd")
    if asked:
        first = disk.open_next()
        first.adopt(16 * MIB, {1: IMAGE})
        assert first.back(1) is None
        first.leave()
    for _daemon in range(2):
        ballast = disk.open_next()
        assert ballast.adopt(16 * MIB, over={1}) == frozenset()
        assert ballast.back(1) is None
        assert ballast.busy(1) == f"its scratch is still used by python3 ({keeper.pid})"
        assert (ballast.held, ballast.kept) == (16 * MIB, {1: 32 * MIB})
        assert not with_image.exists()
        ballast.leave()
    keeper.kill()
    keeper.wait()
    with closing(disk.open_next()) as ballast:
        ballast.adopt(16 * MIB, over={1})
        wait_until(lambda: ballast.back(1) == 32 * MIB)
        assert (ballast.held, ballast.kept) == (48 * MIB, {})


def test_an_image_whose_lease_ended_while_there_was_no_daemon_comes_back(
    disk: Disk, with_image: Path
) -> None:
    with closing(disk.open_next()) as ballast:
        ballast.adopt(16 * MIB, over={1})
        assert ballast.back(1) == 32 * MIB
        assert (ballast.held, ballast.notes) == (48 * MIB, [])
        assert not with_image.exists()


def test_an_image_is_closed_with_its_daemon_where_no_other_comes(
    disk: Disk, with_image: Path
) -> None:
    ballast = disk.open_next()
    ballast.adopt(16 * MIB, {1: IMAGE})
    ballast.close()
    assert not with_image.exists()
    assert [path.name for path in disk.path.iterdir()] == ["lost+found"]
