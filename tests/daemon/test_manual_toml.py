"""What is written about the configuration says what is read."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from holdingpen.daemon.settings import ALLOW_KEYS, DISK_KEYS, KEYS, parse_settings

MANUAL = Path(__file__).parents[2] / "debian" / "holdingpen.toml.5"
TEXT = MANUAL.read_text("ascii")

TABLES = {**KEYS, "disk.NAME": DISK_KEYS, "[allow]": ALLOW_KEYS}


@pytest.mark.parametrize(
    ("table", "keys"),
    [(table, list(keys)) for table, keys in TABLES.items()],
    ids=list(TABLES),
)
def test_each_key_is_in_the_section_of_its_table_and_no_other(table, keys):
    section = TEXT.partition(f"\n.Ss [{table}]\n")[2].partition("\n.S")[0]
    items = [x for x in section.splitlines() if x.startswith(".It Cm ")]
    assert items == [f".It Cm {key}" for key in keys]


def test_the_example_is_accepted():
    example = TEXT.partition("\n.Bd -literal\n")[2].partition("\n.Ed")[0]
    settings = parse_settings(example, "the example")
    assert settings.ram_hold == 32 * 2**30
    assert len(settings.allow) == 2


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_the_manual_is_well_formed():
    words = ["groff", "-mandoc", "-Tutf8", "-ww", "-z", str(MANUAL)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")
def test_mandoc_has_nothing_against_it():
    words = ["mandoc", "-T", "lint", "-W", "warning", str(MANUAL)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")
