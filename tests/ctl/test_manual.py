"""What is written about holdingpenctl says what it does."""

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest

from holdingpen.ctl.main import make_parser

MANUAL = Path(__file__).parents[2] / "debian" / "holdingpenctl.1"


def verbs() -> list[str]:
    (choices,) = (
        action.choices
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return sorted(choices)


@pytest.mark.parametrize("verb", verbs())
def test_each_verb_is_in_the_manual(verb):
    text = MANUAL.read_text()
    assert f"\\fB{verb}" in text or f"\n.B {verb}\n" in text


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_the_manual_is_well_formed():
    words = ["groff", "-man", "-Tutf8", "-ww", "-z", str(MANUAL)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
