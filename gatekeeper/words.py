"""What is said to people: one line on stderr.  Imported by whoever has to say it."""

from __future__ import annotations

import posix
import sys

_STDERR = 2


def say(text: str) -> None:
    """Write one line to stderr, with our name before it.

    A stderr that is closed or full is not our business: CMD counts, not the notice.
    """
    put(f"gatekeeper: {clean(text)}\n")


def put(text: str) -> None:
    """Write `text` to stderr as it is, unbuffered: we may exec or die right after."""
    encoded = text.encode(sys.getfilesystemencoding(), "backslashreplace")
    try:
        posix.write(_STDERR, encoded)
    except OSError:
        return


def clean(text: str) -> str:
    """Replace what is not printable, so that no label can drive the terminal."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "?" for letter in text)
