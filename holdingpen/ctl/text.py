"""Text in columns of a terminal: made harmless, measured, cut, folded, put in tables.

Labels, reasons and command lines come from other users.  Nothing of theirs may
move the cursor, change the colour or turn the reading direction of a terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from unicodedata import category, east_asian_width

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What stands for the rest of a text that was cut.
ELLIPSIS = "…"

#: Lines narrower than this are not made, whatever the terminal says.
WIDTH_MIN = 20

_GAP = 2
#: Asks for the colourful form of the letter before it, which may take a second
#: column; terminals differ, so it counts as one.
_EMOJI_FORM = "\ufe0f"


def clean(text: str) -> str:
    """Make text of others harmless: what it prints is letters, never orders.

    White space of any kind becomes a space.  Control characters, bidirectional
    overrides and other invisible or unknown characters become `?`, as ls(1) does.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else "?"
        for letter in text
    )


def columns(text: str) -> int:
    """How many columns of a terminal clean text takes (Unicode Annex 11)."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(letter: str) -> int:
    if east_asian_width(letter) in "WF":
        return 2
    return 0 if category(letter) in ("Mn", "Me") and letter != _EMOJI_FORM else 1


def cut(text: str, width: int) -> str:
    """Shorten clean text to `width` columns; a cut text ends with an ellipsis."""
    if columns(text) <= width:
        return text
    return _head(text, width - 1) + ELLIPSIS if width > 0 else ""


def _head(text: str, width: int) -> str:
    end = 0
    for letter in text:
        width -= _columns_of(letter)
        if width < 0:
            break
        end += 1
    return text[:end]


def fold(text: str, width: int | None, indent: int = 0) -> list[str]:
    """Break clean text into lines of at most `width` columns, between words.

    Args:
        text: one paragraph.
        width: columns, WIDTH_MIN at least; None: one line, however long.
        indent: columns left free before all lines but the first.
    """
    if width is None:
        return [text]
    lines, line, pad = [], "", " " * min(indent, width // 2)
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if columns(longer) <= width:
            line = longer
            continue
        if line.strip():
            lines.append(line)
            line = pad + word
        else:
            line = longer
        while columns(line) > width:
            head = _head(line, width)
            lines.append(head)
            line = pad + line[len(head) :]
    return [*lines, line]


class Column(NamedTuple):
    """One column of a table."""

    heading: str
    #: Numbers stand at the right.
    right: bool = False
    #: The narrowest it may be cut to where room is short; None: never cut.
    least: int | None = None
    #: Whether it is left out where the others do not fit beside it.
    spare: bool = False


def table(
    layout: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None
) -> list[str]:
    """Put clean cells in columns, under a line of headings.

    Columns in which nothing stands are left out.  Where the lines would be longer
    than `width`, spare columns go, the last first; then the widest column that may
    be cut is cut; and what is still too long is cut at the end of the line.

    Args:
        layout: one for each cell of a row.
        rows: the cells.
        width: columns of the terminal; None: as many as it takes.
    """
    lines = [[column.heading for column in layout], *rows]
    widths = [max(columns(line[n]) for line in lines) for n in range(len(layout))]
    shown = [n for n in range(len(layout)) if any(row[n] for row in rows)]
    if width is not None:
        shown = _without_spare(shown, layout, widths, width)
        _squeeze(widths, layout, shown, width)
    return [_line(line, shown, layout, widths, width) for line in lines]


def _without_spare(
    shown: list[int], layout: Sequence[Column], widths: list[int], width: int
) -> list[int]:
    spare = [n for n in shown if layout[n].spare]
    while spare:
        least = sum(_least(layout[n], widths[n]) + _GAP for n in shown) - _GAP
        if least <= width:
            break
        dropped = spare.pop()
        shown = [n for n in shown if n != dropped]
    return shown


def _least(column: Column, width: int) -> int:
    return width if column.least is None else min(column.least, width)


def _squeeze(
    widths: list[int], layout: Sequence[Column], shown: list[int], width: int
) -> None:
    excess = sum(widths[n] + _GAP for n in shown) - _GAP - width
    while excess > 0:
        soft = [n for n in shown if widths[n] > _least(layout[n], widths[n])]
        if not soft:
            return
        widths[max(soft, key=widths.__getitem__)] -= 1
        excess -= 1


def _line(
    cells: Sequence[str],
    shown: Sequence[int],
    layout: Sequence[Column],
    widths: Sequence[int],
    width: int | None,
) -> str:
    words = []
    for n in shown:
        word = cut(cells[n], widths[n])
        pad = " " * (widths[n] - columns(word))
        words.append(pad + word if layout[n].right else word + pad)
    line = (" " * _GAP).join(words).rstrip()
    return line if width is None else cut(line, width)
