"""The units are ones that systemd understands, and keep what leases need."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from holdingpen.daemon.systemd import NAME_BYTES_MAX

UNITS = Path(__file__).parents[2] / "systemd"
SYSTEM = ("holdingpen.service", "holdingpen.socket", "holdingpen.slice")
USER = ("user/holdingpen.service", "user/holdingpen.socket")

#: What came with systemd 254; before it is unknown, said so, and passed over.
NEW = {"RestartSteps", "RestartMaxDelaySec", "FileDescriptorStorePreserve"}
#: Exposure that `systemd-analyze security` may find, in tenths: 4.1 on systemd 257,
#: 4.3 on 252.  Half of it is what has to do with mount namespaces; the unit says why
#: there can be none.
EXPOSURE_MAX = 43

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
def test_it_is_exposed_no_more_than_it_must_be(installed: Path) -> None:
    unit = installed / "holdingpen.service"
    words = ["security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX}"]
    ended = analyze(*words, unit)
    assert ended.returncode == 0, ended.stdout.splitlines()[-1]


def test_it_has_no_mount_namespace_of_its_own() -> None:
    """Clients would not see the file systems of their leases.

    Those that give a service one were found by trying each on systemd 252 and 257;
    PrivateNetwork= does so on 257 only.
    """
    own = {"PrivateTmp", "ProtectSystem", "ProtectHome", "PrivateDevices"}
    own |= {"ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "PrivateMounts"}
    own |= {"ProtectKernelTunables", "ProtectControlGroups", "MountFlags"}
    own |= {"ProtectKernelModules", "ProtectKernelLogs", "ProtectProc", "ProcSubset"}
    own |= {"PrivateIPC", "PrivateNetwork", "NoExecPaths", "LogNamespace"}
    assert {f"Service.{key}" for key in own} & set(read("holdingpen.service")) == set()


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

    def test_restarts_have_no_limit(self, name: str) -> None:
        """A start that is refused is leases that are lost."""
        socket = name.replace(".service", ".socket")
        assert read(name)["Unit.StartLimitIntervalSec"] == ["0"]
        assert read(name)["Service.Restart"] == ["always"]
        assert read(socket)["Unit.StartLimitIntervalSec"] == ["0"]
        assert read(socket)["Socket.TriggerLimitIntervalSec"] == ["0"]

    def test_its_socket_goes_with_it(self, name: str) -> None:
        """Else a restart of both is refused, or leaves it deaf."""
        assert read(name)["Unit.Requires"] == ["holdingpen.socket"]
        assert "holdingpen.socket" in read(name)["Unit.After"]


def test_descriptors_are_enough_for_a_full_store_twice() -> None:
    unit = read("holdingpen.service")
    (limit,), (size,) = (
        unit["Service.LimitNOFILE"],
        unit["Service.FileDescriptorStoreMax"],
    )
    assert int(limit) >= 2 * int(size)


def test_each_right_it_has_has_a_reason() -> None:
    text = (UNITS / "holdingpen.service").read_text()
    has = set(
        " ".join(read("holdingpen.service")["Service.CapabilityBoundingSet"]).split()
    )
    explained = {f"CAP_{x}" for x in re.findall("(?m)^#   ([A-Z_]+)  +[a-z]", text)}
    assert has == explained
