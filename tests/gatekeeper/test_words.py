"""What is said to people."""

from __future__ import annotations

import pytest

from gatekeeper.words import clean, say


@pytest.mark.parametrize("letter", ["\x1b", "\n", "\x9b", "\u202e", "\x7f"])
def test_nothing_that_drives_a_terminal_comes_through(letter):
    assert clean(f"a{letter}b") == "a?b"


def test_a_notice_is_one_line_with_our_name(capfd):
    say("evil\nlabel")
    assert capfd.readouterr().err == "gatekeeper: evil?label\n"
