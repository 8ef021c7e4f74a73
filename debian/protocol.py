"""Make the manual page of the protocol out of the protocol's document.

That is holdingpen/wire/messages.py: its docstrings and the `#:` lines above fields.
Usage: python3 debian/protocol.py > holdingpen-protocol.7
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MESSAGES = ROOT / "holdingpen" / "wire" / "messages.py"
FRAMING = ROOT / "holdingpen" / "wire" / "framing.py"

HEAD = """\
.\\" Made by debian/protocol.py out of holdingpen/wire/messages.py: edit that.
.Dd November 21, 2026
.Dt HOLDINGPEN-PROTOCOL 7
.Os "Holding Pen"
.Sh NAME
.Nm holdingpen-protocol
.Nd what clients and the daemon say to each other
.Sh DESCRIPTION
"""

TAIL = """\
.Sh FILES
.Bl -tag -width Ds
.It Pa /run/holdingpen.socket , $XDG_RUNTIME_DIR/holdingpen.socket
Where the daemon of the machine listens, and that of a user.
.El
.Sh SEE ALSO
.Xr gatekeeper 1 ,
.Xr holdingpenctl 1 ,
.Xr unix 7 ,
.Xr holdingpen 8
"""


def page() -> str:
    """The whole manual page."""
    tree = ast.parse(MESSAGES.read_text("utf-8"))
    source = MESSAGES.read_text("utf-8").splitlines()
    lines = [*_prose(_doc(tree))]
    lines += [".Ss Frames", *_prose(_doc(ast.parse(FRAMING.read_text("utf-8"))))]
    lines += _limits(tree, source)
    titles = {
        "# What a client says.": "WHAT A CLIENT SAYS",
        "# What the daemon says.": "WHAT THE DAEMON SAYS",
    }
    starts = {source.index(line): title for line, title in titles.items()}
    structs = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or node.name == "Message":
            continue
        for at, title in list(starts.items()):
            if at < node.lineno:
                lines.append(f".Sh {title}")
                del starts[at]
        if _tag(node):
            lines += _message(node, source)
        else:
            structs.append(node)
    lines.append(".Sh WHAT IS IN THEM")
    for node in structs:
        lines += _message(node, source)
    return HEAD + "\n".join(lines) + "\n" + TAIL


def _doc(node: ast.Module | ast.ClassDef) -> str:
    return ast.get_docstring(node) or ""


def _tag(node: ast.ClassDef) -> str:
    """The tag of a message; empty for a plain struct."""
    for word in node.keywords:
        if word.arg == "tag":
            return str(ast.literal_eval(word.value))
    return ""


def _message(node: ast.ClassDef, source: list[str]) -> Iterator[str]:
    tag = _tag(node)
    yield f".Ss {node.name}" + (f" (t = \\(dq{tag}\\(dq)" if tag else "")
    yield from _prose(_doc(node))
    fields = [x for x in node.body if isinstance(x, ast.AnnAssign)]
    if not fields:
        return
    yield ".Bl -tag -width Ds"
    for field in fields:
        assert isinstance(field.target, ast.Name)
        kind = _text(ast.unparse(field.annotation))
        default = "" if field.value is None else f" = {_text(ast.unparse(field.value))}"
        yield f".It Cm {field.target.id} No : {kind}{default}"
        yield from _sentences(_comment(source, field.lineno))
    yield ".El"


def _limits(tree: ast.Module, source: list[str]) -> Iterator[str]:
    """The numbers that bound what may be said."""
    yield ".Ss Limits"
    yield ".Bl -tag -width Ds"
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            comment = _comment(source, node.lineno)
            yield f".It Dv {node.targets[0].id} No = {_text(ast.unparse(node.value))}"
            yield from _sentences(comment)
    yield ".El"


def _comment(source: list[str], line: int) -> str:
    """The `#:` lines just above a line."""
    found: list[str] = []
    at = line - 2
    while source[at].strip().startswith("#:"):
        found.insert(0, source[at].strip()[2:])
        at -= 1
    # a list: each entry begins a line of its own
    entries = [re.sub(r"^   (\S+) {2,}", "\n\\1: ", line) for line in found]
    return "\n".join(" ".join(x.split()) for x in " ".join(entries).split("\n"))


def _prose(text: str) -> Iterator[str]:
    """Paragraphs and indented examples, one sentence a line."""
    for number, block in enumerate(text.split("\n\n")):
        if block.startswith("    "):
            yield ".Bd -literal"
            yield from (_text(line.removeprefix("    ")) for line in block.splitlines())
            yield ".Ed"
            continue
        if number:
            yield ".Pp"
        yield from _sentences(" ".join(block.split()))


def _sentences(text: str) -> Iterator[str]:
    text = text.replace("\n", "\n.br\n")
    for sentence in re.split(r"\n|(?<=[.?!])\s+(?=[A-Z`*])", text):
        if sentence == ".br":
            yield sentence
        elif sentence:
            marked = re.sub(r"`([^`]+)`|\*\*(.+?)\*\*", "\1\\1\\2\2", sentence)
            plain = _text(marked)
            yield plain.replace("\1", "\\fB").replace("\2", "\\fR")


def _text(text: str) -> str:
    """As roff: no letter of it is a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{text}" if text.startswith((".", "\\(aq")) else text


if __name__ == "__main__":
    sys.stdout.write(page())
