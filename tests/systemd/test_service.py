"""The units are ones that systemd understands, and keep what leases need."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from holdingpen.daemon.systemd import NAME_BYTES_MAX

UNITS = Path(__file__).parents[2] / "systemd"
SYSTEM = (
    "holdingpen.service",
    "holdingpen.socket",
    "holdingpen.slice",
    "holdingpen-mounter.service",
    "holdingpen-mounter.socket",
)
USER = ("user/holdingpen.service", "user/holdingpen.socket")

#: What came with systemd 254; before it is unknown, said so, and passed over.
NEW = {"RestartSteps", "RestartMaxDelaySec", "FileDescriptorStorePreserve"}
#: Exposure that `systemd-analyze security` may find, in tenths: 2.0 on systemd 252 and
#: 257.  The unit says of each of the rest why it must be.
EXPOSURE_MAX = 20
#: The mounter has no mount namespace: 3.8 on 252, 3.7 on 257.
MOUNTER_EXPOSURE_MAX = 38

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)


def analyze(*words: object, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, words)],
        env={"PATH": "/usr/bin:/bin", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def read(name: str) -> dict[str, list[str]]:
    """All that a unit says: Section.Key to its values."""
    said: dict[str, list[str]] = {}
    section = ""
    for line in (UNITS / name).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            said.setdefault(f"{section}.{key}", []).append(value)
    return said


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, as far as programs and manuals that are not installed here go."""
    for name in (*SYSTEM, *USER):
        text = (UNITS / name).read_text()
        text = text.replace("/usr/bin/holdingpen", "/bin/true")
        text = text.replace("/usr/bin/python3", "/bin/true")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(re.sub("(?m)^Documentation=.*\n", "", text))
    return tmp_path


@needs_analyze
@pytest.mark.parametrize("names", [SYSTEM, USER], ids=["system", "user"])
def test_systemd_has_nothing_to_say_about_them(
    installed: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    words = ["verify", "--man=no", "--recursive-errors=no"]
    words += ["--user"] if names is USER else []
    found = (installed / name for name in names)
    ended = analyze(*words, *found, XDG_RUNTIME_DIR=str(tmp_path))
    unknown = re.findall(r"Unknown key '(\w+)'.*ignoring\.\n", ended.stderr)
    assert set(unknown) <= NEW
    assert len(ended.stderr.splitlines()) == len(unknown)
    assert ended.returncode == (1 if unknown else 0)


@needs_analyze
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("holdingpen.service", EXPOSURE_MAX),
        ("holdingpen-mounter.service", MOUNTER_EXPOSURE_MAX),
    ],
)
def test_it_is_exposed_no_more_than_it_must_be(
    installed: Path, name: str, most: int
) -> None:
    words = ["security", "--offline=true", "--no-pager", f"--threshold={most}"]
    ended = analyze(*words, installed / name)
    assert ended.returncode == 0, ended.stdout.splitlines()[-1]


#: What gives a service a mount namespace of its own, found by trying each on systemd
#: 252 and 257; PrivateNetwork= does so on 257 only.
OWN_MOUNTS = {
    "Service.PrivateTmp",
    "Service.PrivateDevices",
    "Service.PrivateMounts",
    "Service.PrivateIPC",
    "Service.PrivateNetwork",
    "Service.ProtectSystem",
    "Service.ProtectHome",
    "Service.ProtectProc",
    "Service.ProcSubset",
    "Service.ProtectKernelTunables",
    "Service.ProtectKernelModules",
    "Service.ProtectKernelLogs",
    "Service.ProtectControlGroups",
    "Service.MountFlags",
    "Service.ReadWritePaths",
    "Service.ReadOnlyPaths",
    "Service.InaccessiblePaths",
    "Service.NoExecPaths",
    "Service.LogNamespace",
}


def test_who_mounts_for_everybody_has_no_mount_namespace_of_its_own() -> None:
    """Clients would not see the file systems of their leases."""
    assert OWN_MOUNTS & set(read("holdingpen-mounter.service")) == set()


def test_the_daemon_has_one_and_so_another_mounts_for_it() -> None:
    daemon = read("holdingpen.service")
    assert OWN_MOUNTS & set(daemon)
    (place,) = read("holdingpen-mounter.socket")["Socket.ListenSequentialPacket"]
    assert f"HOLDINGPEN_MOUNTER={place}" in daemon["Service.Environment"]
    # without the mounter it goes on, with less
    assert "holdingpen-mounter.socket" in daemon["Unit.Wants"]
    assert "holdingpen-mounter.socket" in daemon["Unit.After"]


def test_the_daemon_has_no_tmp_of_its_own() -> None:
    """A disk in /var/tmp would be another one, which nobody else sees."""
    assert "Service.PrivateTmp" not in read("holdingpen.service")


def test_the_mounter_mounts_where_the_daemon_looks() -> None:
    """Beside its socket: daemon/run.py."""
    (place,) = read("holdingpen.socket")["Socket.ListenStream"]
    (words,) = read("holdingpen-mounter.service")["Service.ExecStart"]
    assert words.split()[-1] == f"{place.removesuffix('.socket')}.scratch"


def test_only_root_comes_to_the_mounter() -> None:
    socket = read("holdingpen-mounter.socket")
    assert socket["Socket.SocketMode"] == ["0600"]
    assert "Socket.SocketUser" not in socket
    assert "Socket.SocketGroup" not in socket


def test_a_shortage_kills_others_first_and_swaps_nothing_of_it() -> None:
    unit = read("holdingpen.service")
    assert unit["Service.OOMScoreAdjust"] == ["-900"]
    assert unit["Service.MemorySwapMax"] == ["0"]
    # what a former daemon held is no longer the service's
    assert read("holdingpen.slice")["Slice.MemorySwapMax"] == ["0"]


@pytest.mark.parametrize("name", ["holdingpen.service", "user/holdingpen.service"])
class TestStore:
    def test_the_daemon_is_told_its_size_by_any_systemd(self, name: str) -> None:
        unit = read(name)
        (size,) = unit["Service.FileDescriptorStoreMax"]
        assert f"FDSTORE={size}" in unit["Service.Environment"]

    def test_its_names_go_into_one_variable(self, name: str) -> None:
        (size,) = read(name)["Service.FileDescriptorStoreMax"]
        names = int(size) * (NAME_BYTES_MAX + 1)
        # MAX_ARG_STRLEN of execve(2)
        assert len("LISTEN_FDNAMES=") + names <= 32 * 4096


SERVICES = ["holdingpen.service", "user/holdingpen.service"]


@pytest.mark.parametrize("name", [*SERVICES, "holdingpen-mounter.service"])
class TestSocket:
    def test_starts_have_no_limit(self, name: str) -> None:
        """A start that is refused is leases that are lost."""
        socket = name.replace(".service", ".socket")
        assert read(name)["Unit.StartLimitIntervalSec"] == ["0"]
        assert read(socket)["Unit.StartLimitIntervalSec"] == ["0"]

    def test_its_socket_goes_with_it(self, name: str) -> None:
        """Else a restart of both is refused, or leaves it deaf."""
        socket = name.replace(".service", ".socket").removeprefix("user/")
        assert read(name)["Unit.Requires"] == [socket]
        assert socket in read(name)["Unit.After"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_daemon_that_ends_is_started_again_however_often(name: str) -> None:
    socket = name.replace(".service", ".socket")
    assert read(name)["Service.Restart"] == ["always"]
    assert read(socket)["Socket.TriggerLimitIntervalSec"] == ["0"]


def test_a_mounter_that_cannot_start_is_given_up() -> None:
    """Who waits for it would have it started again and again."""
    socket = read("holdingpen-mounter.socket")
    assert int(socket["Socket.TriggerLimitIntervalSec"][0]) > 0


def test_descriptors_are_enough_for_a_full_store_twice() -> None:
    unit = read("holdingpen.service")
    (limit,), (size,) = (
        unit["Service.LimitNOFILE"],
        unit["Service.FileDescriptorStoreMax"],
    )
    assert int(limit) >= 2 * int(size)


@pytest.mark.parametrize("name", ["holdingpen.service", "holdingpen-mounter.service"])
def test_each_right_it_has_has_a_reason(name: str) -> None:
    has = set(" ".join(read(name)["Service.CapabilityBoundingSet"]).split())
    text = (UNITS / name).read_text()
    explained = {f"CAP_{x}" for x in re.findall("(?m)^#   ([A-Z_]+)  +[a-z]", text)}
    assert has == explained


def test_the_daemon_may_neither_mount_nor_give_files_away() -> None:
    unit = read("holdingpen.service")
    has = set(" ".join(unit["Service.CapabilityBoundingSet"]).split())
    assert has & {"CAP_SYS_ADMIN", "CAP_CHOWN"} == set()
    refused = " ".join(x for x in unit["Service.SystemCallFilter"] if x[0] == "~")
    assert {"@mount", "@privileged"} <= set(refused.replace("~", "").split())
