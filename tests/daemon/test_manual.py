"""What is written about the daemon says what it does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MANUAL = Path(__file__).parents[2] / "debian" / "holdingpen.8"


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
