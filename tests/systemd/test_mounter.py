"""What is mounted for leases under the real units, and who may have what mounted.

The daemon may not mount; holdingpen-mounter does.  Here both are real, on a real
systemd and with real loop devices, which the machine of machine.py has not by itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "mounting_machine", Path(__file__).with_name("machine.py")
)
assert _spec is not None
assert _spec.loader is not None
machine = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(machine)

pytestmark = [pytest.mark.real, pytest.mark.root, pytest.mark.slow]

SERVICE = "holdingpen.service"
MOUNTER = "holdingpen-mounter.service"
DOOR = "holdingpen-mounter.socket"
SCRATCH = "/run/holdingpen.scratch/a"
PLACE = "/run/holdingpen-mounter.socket"

CONFIG = """\
[ram]
capacity = "1G"
hold = "8M"
[disk.a]
path = "{path}"
hold = "64M"
"""

#: Loop devices, which belong to the kernel and so to all machines; mounting writes to
#: /sys.
DEVICES = """
mount -o remount,rw /sys
mknod /dev/loop-control c 10 237
for i in $(seq 0 255); do mknod /dev/loop$i b 7 $i; done
"""

#: Kills whoever asked it, and its copy is the one that works.
KILLER = "#!/bin/sh\nkill -9 $PPID\nexec sleep 60\n"
#: Works as soon as somebody writes to /run/go.  mke2fs(8) goes by its own name.
PATIENT = """\
#!/bin/bash
read word </run/go
exec -a mkfs.ext4 /usr/sbin/mkfs.ext4.moved "$@"
"""
BROKEN = "#!/bin/sh\necho out of order >&2\nexit 1\n"


class Pen:
    """A daemon with a disk."""

    def __init__(self, root: str) -> None:
        self.machine = machine.Machine(root)
        self._programs: list[subprocess.Popen[str]] = []
        try:
            self._set_up()
        except BaseException:
            self.machine.close()
            raise

    def _set_up(self) -> None:
        self.machine.run("sh", "-c", DEVICES)
        self.machine.run("useradd", "--create-home", "--groups=holdingpen", "ada")
        self.disk = self.machine.shared / "disk"
        self.disk.mkdir()
        self.configure(self.disk)
        self.systemctl("start", DOOR, SERVICE)

    def configure(self, path: object) -> None:
        self.machine.write("/etc/holdingpen.toml", CONFIG.format(path=path))

    def systemctl(self, *words: str) -> None:
        self.machine.run("systemctl", *words)

    def pid(self, unit: str) -> str:
        return self.machine.show(unit, "MainPID")

    def read(self, path: str) -> str:
        return self.machine.run("cat", path)

    def mounts(self, pid: str = "1") -> list[str]:
        """The lines of what is mounted for leases, as a process sees it."""
        lines = self.read(f"/proc/{pid}/mountinfo").splitlines()
        return [line for line in lines if f" {SCRATCH}/" in line]

    def images(self) -> list[str]:
        """Files of leases that are loop devices."""
        # those of others come and go meanwhile
        look = "cat /sys/block/loop*/loop/backing_file"
        found = self.machine.try_("sh", "-c", look).stdout.splitlines()
        return [line for line in found if line.startswith(str(self.machine.shared))]

    def lease(self, user: str = "ada") -> subprocess.Popen[str]:
        """A program with a lease, which has said where its scratch is."""
        program = 'echo "$HOLDINGPEN_SCRATCH $HOLDINGPEN_HANDOVER"; read word'
        words = ["gatekeeper", "--disk", "20M:a", "--", "sh", "-c", program]
        change = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        started = subprocess.Popen(
            self.machine.inside(*change, *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._programs.append(started)
        return started

    def held(self) -> int:
        """Bytes of the disk's ballast."""
        status = json.loads(self.machine.run("holdingpenctl", "status", "--json"))
        return status["resources"]["disk.a"]["held"]

    def all_is_back(self) -> bool:
        return self.held() == 64 * 2**20 and not self.mounts() and not self.images()

    def doctor(self) -> list[dict[str, str]]:
        """What is wrong with mounting and disks."""
        said = self.machine.try_("holdingpenctl", "doctor", "--json").stdout
        return [
            one
            for one in json.loads(said)["findings"]
            if one["verdict"] == "wrong"
            and one["check"].startswith(("systemd.mounts", "disk."))
        ]

    def end(self) -> None:
        for program in self._programs:
            program.kill()
            program.communicate()
        self._programs.clear()
        machine.until(self.all_is_back, "all is back")

    def close(self) -> None:
        self.machine.close()


def where(program: subprocess.Popen[str]) -> list[str]:
    assert program.stdout is not None
    return program.stdout.readline().split()


@pytest.fixture(scope="module")
def one():
    if why := machine.why_not():
        pytest.skip(why)
    if not Path("/dev/loop-control").exists():
        pytest.skip("there are no loop devices here")
    pen = Pen(os.environ.get("HOLDINGPEN_TEST_ROOT", "/"))
    yield pen
    pen.close()


@pytest.fixture
def pen(one):
    machine.until(one.all_is_back, "all is there")
    yield one
    one.end()


@pytest.fixture
def mkfs(pen):
    """Put another mkfs.ext4 in its place."""
    moved = "/usr/sbin/mkfs.ext4.moved"
    pen.machine.run("mv", "/usr/sbin/mkfs.ext4", moved)
    yield lambda text: pen.machine.write("/usr/sbin/mkfs.ext4", text, mode="755")
    pen.machine.run("mv", moved, "/usr/sbin/mkfs.ext4")


class TestLease:
    def test_its_file_system_is_seen_by_all_and_is_its_user_s(self, pen):
        place, how = where(pen.lease())
        assert place.startswith(f"{SCRATCH}/")
        assert how == "exact"
        (line,) = pen.mounts()
        assert f" {place} rw,nosuid,nodev" in line
        assert " - ext4 /dev/loop" in line
        found = pen.machine.run("stat", "-c", "%U %a", place)
        assert found.split() == ["ada", "700"]

    def test_the_daemon_sees_it_from_within_its_own_namespace(self, pen):
        where(pen.lease())
        daemon = pen.pid(SERVICE)
        spaces = ["readlink", f"/proc/{daemon}/ns/mnt", "/proc/1/ns/mnt"]
        assert len(set(pen.machine.run(*spaces).split())) == 2
        assert len(pen.mounts(daemon)) == 1

    def test_nothing_is_left_when_it_is_over(self, pen):
        program = pen.lease()
        where(program)
        assert len(pen.images()) == 1
        program.communicate("done\n")
        machine.until(pen.all_is_back, "all is back")
        assert pen.mounts(pen.pid(SERVICE)) == []

    def test_where_no_file_system_can_be_made_its_user_gets_a_directory(
        self, pen, mkfs
    ):
        """Given to him by the mounter: the daemon may not change owners."""
        mkfs(BROKEN)
        place, how = where(pen.lease())
        assert place.startswith(f"{pen.disk}/")
        assert how == "bounded"
        found = pen.machine.run("stat", "-c", "%U %a", place)
        assert found.split() == ["ada", "700"]


def test_ballast_has_huge_pages_that_the_mounter_mounted(pen):
    """On a tmpfs that is at no path; the daemon says so when it starts."""
    assert "ballast: huge tmpfs" in pen.machine.journal("-u", SERVICE)
    rights = pen.read(f"/proc/{pen.pid(SERVICE)}/status")
    (bounding,) = [x for x in rights.splitlines() if x.startswith("CapBnd:")]
    # CAP_SYS_ADMIN of capabilities(7)
    assert not int(bounding.split()[1], 16) >> 21 & 1


class TestKilled:
    def test_between_two_leases_nobody_notices(self, pen):
        first = where(pen.lease())[0]
        pen.systemctl("kill", "--signal=KILL", MOUNTER)
        machine.until(lambda: pen.pid(MOUNTER) == "0", "it is dead")
        second, how = where(pen.lease())
        assert how == "exact"
        assert {line.split()[4] for line in pen.mounts()} == {first, second}

    def test_in_the_middle_of_a_file_system_none_is_left_and_the_lease_goes_on(
        self, pen, mkfs
    ):
        mkfs(KILLER)
        place, how = where(pen.lease())
        assert (place.startswith(f"{pen.disk}/"), how) == (True, "bounded")
        assert (pen.mounts(), pen.images()) == ([], [])

    def test_a_daemon_that_is_killed_finds_what_was_mounted(self, pen):
        program = pen.lease()
        place, _ = where(program)
        pen.systemctl("kill", "--signal=KILL", "--kill-whom=main", SERVICE)
        machine.until(lambda: pen.machine.show(SERVICE, "NRestarts") != "0", "again")
        assert len(pen.mounts()) == 1
        machine.until(lambda: pen.pid(SERVICE) != "0", "started")
        machine.until(lambda: pen.held() == 44 * 2**20, "it goes on")
        assert [line.split()[4] for line in pen.mounts()] == [place]


@pytest.mark.parametrize(
    "words",
    [
        ("restart", MOUNTER, DOOR),
        ("restart", DOOR),
        ("stop", MOUNTER),
        ("daemon-reexec",),
    ],
    ids=" ".join,
)
def test_what_an_upgrade_does_unmounts_nothing(pen, words):
    first = where(pen.lease())[0]
    pen.systemctl(*words)
    assert [line.split()[4] for line in pen.mounts()] == [first]
    assert where(pen.lease())[1] == "exact"


def test_a_mounter_that_is_stopped_ends_what_it_has_begun(pen, mkfs):
    """As by an upgrade in the middle of it."""
    mkfs(PATIENT)
    pen.machine.run("mkfifo", "/run/go")
    program = pen.lease()
    machine.until(
        lambda: "mkfs.ext4" in pen.machine.run("systemctl", "status", MOUNTER), "begun"
    )
    pen.systemctl("stop", "--no-block", MOUNTER)
    machine.until(
        lambda: pen.machine.show(MOUNTER, "ActiveState") == "deactivating", "ends"
    )
    pen.machine.run("sh", "-c", "echo go >/run/go; rm /run/go")
    assert where(program)[1] == "exact"
    machine.until(lambda: pen.pid(MOUNTER) == "0", "it has ended")


ASK = """
import socket, sys
conn = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    conn.connect(sys.argv[1])
except OSError as error:
    sys.exit(error.strerror)
conn.send(sys.argv[2].encode())
print(conn.recv(9999).decode())
"""


class TestDoor:
    def ask(self, pen, words, user="root"):
        change = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return pen.machine.try_(*change, "python3", "-c", ASK, PLACE, words)

    def test_nobody_but_root_comes_in(self, pen):
        found = pen.machine.run("stat", "-c", "%A %U", PLACE)
        assert found.split() == ["srw-------", "root"]
        assert "Permission denied" in self.ask(pen, "{}", "ada").stderr

    def test_nobody_but_root_is_answered_whatever_the_mode(self, pen):
        pen.machine.run("chmod", "666", PLACE)
        try:
            answer = json.loads(self.ask(pen, '{"type":"Huge"}', "ada").stdout)
        finally:
            pen.machine.run("chmod", "600", PLACE)
        assert answer["type"] == "Failed"
        assert answer["said"].endswith("asks, and only root may.")

    @pytest.mark.parametrize(
        "words",
        [
            "{",
            '{"type":"Mount","directory":"/etc"}',
            '{"type":"Remove","directory":"/home/1"}',
            '{"type":"Clear"}',
            '{"type":"Leave","directory":"/run/holdingpen.scratch/a/1","number":-1}',
        ],
    )
    def test_a_bad_request_gets_an_error_and_it_goes_on(self, pen, words):
        assert "Done" in self.ask(pen, '{"type":"Look"}').stdout
        before = pen.pid(MOUNTER)
        assert json.loads(self.ask(pen, words).stdout)["type"] == "Failed"
        assert "Done" in self.ask(pen, '{"type":"Look"}').stdout
        assert pen.pid(MOUNTER) == before


class TestDoctor:
    def test_all_is_well(self, pen):
        assert pen.doctor() == []

    @pytest.mark.parametrize("how", ["stop", "mask"])
    def test_a_missing_mounter_is_named_and_what_mends_it_does(self, pen, how):
        if how == "mask":
            pen.systemctl("mask", "--runtime", DOOR)
        pen.systemctl("stop", DOOR, MOUNTER)
        (found,) = pen.doctor()
        assert found["check"] == "systemd.mounts"
        pen.machine.run("sh", "-c", found["mend"].replace("unmask", "unmask --runtime"))
        assert pen.doctor() == []
        machine.until(pen.all_is_back, "it serves again")
        assert where(pen.lease())[1] == "exact"

    def test_a_mounter_that_cannot_start_is_named(self, pen):
        """Its socket fails, so nobody waits for it, nor is it tried for ever."""
        drop_in = f"/run/systemd/system/{MOUNTER}.d/zz.conf"
        pen.systemctl("stop", MOUNTER)
        pen.machine.write(drop_in, "[Service]\nExecStart=\nExecStart=/bin/false\n")
        pen.systemctl("daemon-reload")
        program = pen.lease()
        machine.until(lambda: pen.machine.show(DOOR, "ActiveState") == "failed", "ends")
        # refused, or with less than it could have
        program.communicate("done\n")
        (found,) = pen.doctor()
        assert found["text"].startswith(f"{DOOR} is failed: no part of a disk")
        pen.machine.run("rm", drop_in)
        pen.systemctl("daemon-reload")

        def mended() -> bool:
            # systemd 257 lets it fail once more, until the limit's time is over
            pen.machine.run("sh", "-c", found["mend"])
            return where(pen.lease())[1:] == ["exact"]

        machine.until(mended, "it serves again")

    def test_a_disk_in_home_is_shut_off_until_the_line_it_says_is_there(self, pen):
        home = "/home/disk"
        pen.machine.run("mkdir", home)
        pen.machine.run("mount", "--bind", str(pen.disk), home)
        drop_in = f"/run/systemd/system/{SERVICE}.d/home.conf"
        pen.configure(home)
        try:
            pen.machine.try_("systemctl", "restart", SERVICE)
            assert "Read-only file system" in pen.machine.journal("-u", SERVICE)
            (found,) = pen.doctor()
            assert found["check"] == "disk.shut"
            line = found["mend"].partition("# [Service] ")[2]
            assert line == f"ReadWritePaths={home}"
            pen.machine.write(drop_in, f"[Service]\n{line}\n")
            pen.systemctl("daemon-reload")
            pen.systemctl("restart", SERVICE)
            machine.until(pen.all_is_back, "it serves")
            assert pen.doctor() == []
            program = pen.lease()
            assert where(program)[1] == "exact"
            program.communicate("done\n")
            machine.until(pen.all_is_back, "all is back")
        finally:
            pen.configure(pen.disk)
            pen.machine.run("rm", "-f", drop_in)
            pen.systemctl("daemon-reload")
            pen.systemctl("restart", SERVICE)
