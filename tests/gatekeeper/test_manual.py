"""What is written about gatekeeper says what it does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gatekeeper.helptext import HELP
from gatekeeper.options import FLAGS, SHORT, VALUES

_MANUAL = Path(__file__).parents[2] / "debian" / "gatekeeper.1"
_STATUSES = ["69", "75", "77", "124", "125", "126", "127"]


@pytest.mark.parametrize("option", [*FLAGS, *VALUES])
def test_each_option_is_in_the_help_and_in_the_manual(option):
    assert f"  {option} " in HELP
    assert f"Fl Fl {option[2:]}" in _MANUAL.read_text()


@pytest.mark.parametrize(("short", "option"), SHORT.items())
def test_each_short_name_is_in_the_help_and_in_the_manual(short, option):
    assert f"  {option} (or {short}) " in HELP
    assert f".It Fl Fl {option[2:]} , Fl {short[1:]}\n" in _MANUAL.read_text()


@pytest.mark.parametrize("word", ["exact", "bounded", "best-effort", "none"])
def test_each_promise_is_in_the_help_and_explained_in_the_manual(word):
    assert word in HELP
    assert f"\n.It {word}\n" in _MANUAL.read_text()


@pytest.mark.parametrize(
    "name",
    [
        *("LEASE", "FD", "HANDOVER", "SCRATCH", "SCRATCH_NAME"),
        *("PREFAULT", "PREFAULT_PID"),
    ],
)
def test_each_variable_is_in_the_manual(name):
    environment = _MANUAL.read_text().partition("\n.Sh ENVIRONMENT\n")[2]
    assert f"HOLDINGPEN_{name}" in environment.split()


@pytest.mark.parametrize("status", _STATUSES)
def test_each_exit_status_is_in_the_help_and_in_the_manual(status):
    assert f" {status}  " in HELP
    assert f".It {status}\n" in _MANUAL.read_text()


def test_the_help_fits_a_terminal():
    assert max(map(len, HELP.splitlines())) <= 80


@pytest.mark.parametrize(
    "section",
    [
        *("SYNOPSIS", "DESCRIPTION", "OPTIONS", "HAND-OVER", "ASKING BACK"),
        *("ENVIRONMENT", "EXIT STATUS", "SIGNALS", "FILES", "EXAMPLES"),
    ],
)
def test_the_manual_has_each_section(section):
    assert f"\n.Sh {section}\n" in _MANUAL.read_text()


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_the_manual_is_well_formed():
    words = ["groff", "-mandoc", "-Tutf8", "-ww", "-z", str(_MANUAL)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
