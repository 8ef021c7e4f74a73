"""Leases with a disk under a real systemd: what they have outlives the daemon."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

from holdingpen.ballast import scratch
from holdingpen.client.blocking import connect
from holdingpen.wire import messages as wire

_spec = importlib.util.spec_from_file_location(
    "booted_machine", Path(__file__).with_name("machine.py")
)
assert _spec is not None
assert _spec.loader is not None
machine = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(machine)

pytestmark = [pytest.mark.real, pytest.mark.root, pytest.mark.slow]

SERVICE = "holdingpen.service"
MIB = 2**20
HELD = 128 * MIB
CONFIG = """\
[ram]
capacity = "1G"
[disk.a]
path = "/disk"
hold = "128M"
"""

#: The nodes that images need, and a disk: a small ext4, whose blocks take no memory
#: until they are written.
PREPARE = """\
mknod /dev/loop-control c 10 237
for n in $(seq 0 63); do mknod /dev/loop$n b 7 $n; done
mount -o remount,rw /sys
truncate -s 300M /disk.img
mkfs.ext4 -q -F -m 0 -E nodiscard /disk.img
mkdir /disk
mount -o loop /disk.img /disk
"""

# Writes on, a line each time, into one file that is open and one that is new; ends,
# and says what it wrote, when a file `end` is there.
WRITER = """\
cd "$HOLDINGPEN_SCRATCH"
echo $$ >pid
exec 3>open
n=0
until [ -e end ]; do
    n=$((n + 1))
    echo line >&3
    echo line >"new-$((n % 10))" || exit 9
    sleep 0.01
done
[ "$(wc -l <open)" = $n ] || exit 8
echo "$HOLDINGPEN_SCRATCH"
"""


class Pen:
    """The service in its machine, with a disk."""

    def __init__(self) -> None:
        self.machine = machine.Machine()
        self.machine.write("/etc/holdingpen.toml", CONFIG)
        self.machine.run("sh", "-ec", PREPARE)
        self.machine.run("systemctl", "start", "holdingpen.socket")
        self.path = self.machine.outside("/run/holdingpen.socket")

    def kill(self) -> None:
        machine.until(lambda: self.machine.show(SERVICE, "MainPID") != "0", "started")
        self.machine.run(
            "systemctl", "kill", "--signal=KILL", "--kill-whom=main", SERVICE
        )

    def status(self) -> wire.Status:
        with connect(self.path) as conn:
            return conn.status()

    def until_held(self, amount: int = HELD) -> None:
        machine.until(
            lambda: self.status().resources["disk.a"].held == amount,
            f"{amount} bytes are held: {self.status()}",
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Run a program under a lease of 32 MiB of the disk."""
        ask = ["gatekeeper", "--disk", "32M", *words]
        return subprocess.Popen(
            self.machine.inside(*ask, "sh", "-c", WRITER),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def lines(self, place: str) -> int:
        """How often the writer there has written."""
        return int(self.machine.run("sh", "-c", f"wc -l <{place}/open || echo 0"))

    def place(self) -> str:
        (lease,) = self.status().leases
        return f"/run/holdingpen.scratch/a/{lease.id}"

    def close(self) -> None:
        stop = ["systemctl", "stop", "holdingpen.socket", SERVICE]
        self.machine.try_(*stop)
        self.machine.try_("holdingpen", "--give-back")
        self.machine.try_("umount", "/disk")
        self.machine.close()


@pytest.fixture(scope="module")
def pen():
    if why := machine.why_not() or scratch.why_not():
        pytest.skip(why)
    one = Pen()
    yield one
    one.close()


@pytest.fixture
def writer(pen):
    """A program that writes on in an image of its own."""
    pen.until_held()
    process = pen.start()
    machine.until(lambda: pen.status().leases, "it has its lease")
    machine.until(lambda: pen.lines(pen.place()) > 3, "it writes")
    number = pen.machine.run("cat", f"{pen.place()}/pid").strip()
    yield process
    if process.poll() is None:
        # its number is that inside: it may be in a place that nobody reaches
        pen.machine.try_("kill", "-KILL", number)
        process.communicate(timeout=machine.PATIENCE_S)


def goes_on(pen, process: subprocess.Popen[str], lease: int, place: str) -> None:
    """The same lease, the same file system, and nothing else is held for it."""
    machine.until(lambda: pen.status().leases, "it serves again")
    status = pen.status()
    assert [x.id for x in status.leases] == [lease]
    assert status.leases[0].handover == "exact"
    assert (status.resources["disk.a"].held, status.troubles) == (HELD - 32 * MIB, [])
    before = pen.lines(place)
    machine.until(lambda: pen.lines(place) > before + 3, "it writes on")
    assert process.poll() is None


def ends_well(pen, process: subprocess.Popen[str], place: str) -> None:
    """It finds all it wrote; then the space is ballast again, and nothing is left."""
    pen.machine.run("touch", f"{place}/end")
    said, _ = process.communicate(timeout=machine.PATIENCE_S)
    assert (process.returncode, said.strip()) == (0, place)
    pen.until_held()
    assert pen.machine.try_("ls", place).returncode != 0
    assert "image" not in pen.machine.run("ls", "/disk/.holdingpen")


def test_a_program_writes_on_while_its_daemon_is_killed_again_and_again(pen, writer):
    lease, place = pen.status().leases[0].id, pen.place()
    for _round in range(3):
        pen.kill()
        goes_on(pen, writer, lease, place)
    ends_well(pen, writer, place)


def test_a_restart_of_service_and_socket_leaves_it_alone(pen, writer):
    lease, place = pen.status().leases[0].id, pen.place()
    pen.machine.run("systemctl", "restart", "holdingpen.socket", SERVICE)
    goes_on(pen, writer, lease, place)
    ends_well(pen, writer, place)


def test_it_goes_on_through_stop_and_start(pen, writer):
    if pen.machine.version() < 254:
        pytest.skip("before systemd 254 connections end when the service is stopped")
    lease, place = pen.status().leases[0].id, pen.place()
    pen.machine.run("systemctl", "stop", "holdingpen.socket", SERVICE)
    before = pen.lines(place)
    machine.until(lambda: pen.lines(place) > before + 3, "it writes on")
    pen.machine.run("systemctl", "start", "holdingpen.socket", SERVICE)
    goes_on(pen, writer, lease, place)
    ends_well(pen, writer, place)


def test_what_ends_while_there_is_no_daemon_is_taken_back_by_the_next(pen, writer):
    place = pen.place()
    pen.kill()
    pen.machine.run("touch", f"{place}/end")
    writer.communicate(timeout=machine.PATIENCE_S)
    pen.until_held()
    assert pen.status().leases == []
    assert pen.machine.try_("ls", place).returncode != 0


def test_a_stopped_service_holds_what_it_held_until_it_is_told_to_give_it_back(
    pen, writer
):
    """As when the package is removed.  A program that runs on keeps what it has."""
    place = pen.place()
    busy = pen.machine.try_("holdingpen", "--give-back")
    assert busy.returncode == 69
    assert "another daemon" in busy.stderr
    pen.machine.run("systemctl", "stop", "holdingpen.socket", SERVICE)
    held = pen.machine.run("sh", "-c", "du -ms /disk/.holdingpen | cut -f1")
    assert int(held) >= HELD // MIB
    said = pen.machine.run("holdingpen", "--give-back")
    assert "image" in said
    assert "free when its last user is gone" in said
    assert said.endswith("[disk.a]: nothing is held in /disk\n")
    assert pen.machine.run("ls", "-A", "/disk").split() == ["lost+found"]
    assert writer.poll() is None
    assert pen.machine.try_("ls", place).returncode != 0
    pen.machine.run("systemctl", "start", "holdingpen.socket", SERVICE)
