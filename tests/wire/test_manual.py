"""The manual page of the protocol is made of its document, and leaves nothing out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import fields

from holdingpen.wire import messages

MAKER = Path(__file__).parents[2] / "debian" / "protocol.py"


@pytest.fixture(scope="module")
def manual() -> str:
    made = subprocess.run([sys.executable, MAKER], capture_output=True, check=True)
    return made.stdout.decode("ascii")


STRUCTS = [
    *get_args(messages.Request),
    *get_args(messages.Reply),
    *(messages.Books, messages.LeaseInfo, messages.Usage, messages.ForeignUser),
]


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
def test_each_message_is_there_with_its_tag_and_fields(kind, manual):
    tag = kind.__struct_config__.tag
    title = f"{kind.__name__} (t = \\(dq{tag}\\(dq)" if tag else kind.__name__
    section = manual.partition(f"\n.Ss {title}\n")[2].partition("\n.S")[0]
    items = [x.split()[2] for x in section.splitlines() if x.startswith(".It Cm ")]
    assert items == [field.name for field in fields(kind)]


def test_each_limit_is_there(manual):
    for name in ("VERSION", "TEXT_MAX", "COMMAND_MAX", "AMOUNTS_MAX", "FILES_MAX"):
        assert f"\n.It Dv {name} No = {getattr(messages, name)}\n" in manual


def test_each_way_of_handing_over_stands_in_a_line_of_its_own(manual):
    for wish in messages.WISHES:
        name = wish.replace("-", "\\-")
        assert f"\n.br\n{name}: " in manual


@pytest.mark.parametrize("title", ["WHAT A CLIENT SAYS", "WHAT THE DAEMON SAYS"])
def test_requests_and_replies_have_sections_of_their_own(title, manual):
    kinds = messages.Request if "CLIENT" in title else messages.Reply
    section = manual.partition(f"\n.Sh {title}\n")[2].partition("\n.Sh ")[0]
    for kind in get_args(kinds):
        assert f".Ss {kind.__name__} (t = " in section


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_the_manual_is_well_formed(manual):
    words = ["groff", "-mandoc", "-Tutf8", "-ww", "-z"]
    ended = subprocess.run(
        words, input=manual, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")
def test_mandoc_has_nothing_against_it(manual):
    words = ["mandoc", "-T", "lint", "-W", "warning"]
    ended = subprocess.run(
        words, input=manual, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "")
