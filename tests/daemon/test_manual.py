"""What is written about the daemon says what it does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from holdingpen.daemon.settings import DISK_KEYS, KEYS

MANUAL = Path(__file__).parents[2] / "debian" / "holdingpen.8"


@pytest.mark.parametrize(
    ("table", "key"), [(table, key) for table, keys in KEYS.items() for key in keys]
)
def test_each_key_is_in_the_manual(table, key):
    section = MANUAL.read_text().partition(f".Ss [{table}]\n")[2].partition("\n.Ss")[0]
    assert f".It Cm {key}\n" in section


@pytest.mark.parametrize("key", DISK_KEYS)
def test_each_key_of_a_disk_is_in_the_manual(key):
    section = MANUAL.read_text().partition(".Ss [disk.NAME]\n")[2]
    assert f".It Cm {key}\n" in section.partition("\n.Ss")[0]


@pytest.mark.parametrize(
    "option",
    ["config", "socket", "state", "user", "exit-idle", "check-config", "give-back"],
)
def test_each_option_is_in_the_manual(option):
    assert f".It Fl Fl {option}" in MANUAL.read_text()


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_the_manual_is_well_formed():
    words = ["groff", "-mandoc", "-Tutf8", "-ww", "-z", str(MANUAL)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
