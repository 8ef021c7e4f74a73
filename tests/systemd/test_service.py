"""The unit file is one that systemd understands, and keeps what leases need."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "holdingpen.service"


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)
def test_systemd_has_nothing_to_say_about_it(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # the manual and the program are not installed here
    text = UNIT.read_text().replace("/usr/bin/holdingpen", "/bin/true")
    unit.write_text(text.replace("Documentation=man:holdingpen(8)\n", ""))
    words = ["systemd-analyze", "verify", "--recursive-errors=no", str(unit)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_it_has_no_mount_namespace_of_its_own() -> None:
    """Clients would not see the file systems of their leases."""
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    own = {"PrivateTmp", "ProtectSystem", "ProtectHome", "PrivateDevices"}
    own |= {"ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "PrivateMounts"}
    own |= {"ProtectKernelTunables", "ProtectControlGroups", "MountFlags"}
    assert own & set(unit["Service"]) == set()


def test_a_shortage_kills_others_first_and_swaps_nothing_of_it() -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.read(UNIT)
    assert int(unit["Service"]["OOMScoreAdjust"]) == -900
    assert unit["Service"]["MemorySwapMax"] == "0"
