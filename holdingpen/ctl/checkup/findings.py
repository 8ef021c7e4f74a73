"""One thing that was looked at: what was found, and the command that mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from holdingpen.ctl.render import BOLD, GREEN, RED, paint
from holdingpen.ctl.text import clean, fold

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdingpen.ctl.render import View

OK, HINT, WRONG, UNCHECKED = "ok", "hint", "wrong", "unchecked"

#: The version of the JSON.
JSON_VERSION: Final = 1

#: The first word of a check, and the heading its findings stand under, in order.
GROUPS: Final = {
    "daemon": "Daemon",
    "socket": "Socket",
    "config": "Configuration",
    "state": "State",
    "systemd": "systemd",
    "memory": "Memory",
    "disk": "Disks",
    "clock": "Clock",
    "limits": "Limits",
    "programs": "Programs",
    "leftovers": "Leftovers",
}

#: How a verdict is written.  Wrong is a shout, which needs no colour to be seen.
_LABELS: Final = {OK: "ok", HINT: "hint", WRONG: "WRONG", UNCHECKED: "?"}
_COLOURS: Final = {OK: GREEN, HINT: BOLD, WRONG: RED}
_INDENT: Final = 9

_SEE_MORE: Final = "was not checked: run as root"


class Finding(NamedTuple):
    """What came of one check."""

    #: A stable name: `socket.access`.
    check: str
    #: One of the four.
    verdict: str
    #: For people: what is so, with the numbers.
    text: str
    #: The command that mends it, or what to do in a few words; empty: nothing to do.
    mend: str = ""


class Orders(NamedTuple):
    """The commands that set things right on this machine."""

    #: Start the daemon; stop it and start it; have it read its configuration again.
    start: str = "systemctl start holdingpen.service"
    restart: str = "systemctl restart holdingpen.service"
    reload: str = "systemctl reload holdingpen.service"
    #: Change its unit; empty: it has none.
    edit: str = "systemctl edit holdingpen.service"

    def unit(self, setting: str) -> str:
        """Put a setting into the daemon's unit."""
        if not self.edit:
            return f"{setting} in a unit of systemd: see the one that is shipped"
        return f"{self.edit}  # {setting}"


def ok(check: str, text: str) -> Finding:
    """All is as it should be."""
    return Finding(check, OK, text)


def hint(check: str, text: str, mend: str = "") -> Finding:
    """No fault, but it could be better."""
    return Finding(check, HINT, text, mend)


def wrong(check: str, text: str, mend: str) -> Finding:
    """Something is wrong; `mend` says what to do about it."""
    return Finding(check, WRONG, text, mend)


def unchecked(check: str, what: str) -> Finding:
    """We may not look at `what`."""
    text = f"{what} {_SEE_MORE}"
    return Finding(check, UNCHECKED, text, "sudo holdingpenctl doctor")


def seen_by_root(findings: list[Finding]) -> list[Finding]:
    """What is said to root of what he may not look at: a container hides it."""
    hidden = "cannot be seen from here"
    return [
        one._replace(text=one.text.replace(_SEE_MORE, hidden), mend="")
        if one.verdict == UNCHECKED
        else one
        for one in findings
    ]


def count(findings: Iterable[Finding], verdict: str) -> int:
    """How many findings have this verdict."""
    return sum(one.verdict == verdict for one in findings)


def lines(findings: list[Finding], view: View) -> list[str]:
    """All findings in lines for people, under headings, with the sum at the end.

    What mends is never folded, so that it can be copied.
    """
    said: list[str] = []
    for group, heading in GROUPS.items():
        here = [x for x in findings if x.check.partition(".")[0] == group]
        if here:
            said += [paint(heading, BOLD, view), *_group(here, view), ""]
    return [*said, *_sum(findings, view)]


def _group(findings: list[Finding], view: View) -> list[str]:
    said = []
    for one in findings:
        label = _LABELS[one.verdict]
        pad = " " * (_INDENT - len(label) - 2)
        room = None if view.columns is None else view.columns - _INDENT
        # only the word in colour: a page in red is no easier to read
        word = paint(label, _COLOURS.get(one.verdict, BOLD), view)
        first, *rest = fold(clean(one.text), room)
        said.append(f"  {word}{pad}{first}")
        said += [" " * _INDENT + line for line in rest]
        if one.mend:
            # deeper than the text, which may go on over several lines
            said.append(" " * (_INDENT + 2) + clean(one.mend))
    return said


def _sum(findings: list[Finding], view: View) -> list[str]:
    faults, hints = count(findings, WRONG), count(findings, HINT)
    skipped = count(findings, UNCHECKED)
    words = [_many(faults, "thing is wrong", "things are wrong")] if faults else []
    if not faults:
        words = ["Nothing is wrong" + (" that could be seen" if skipped else "")]
    words += [_many(hints, "hint", "hints")] if hints else []
    words += [f"{skipped} not checked"] if skipped else []
    colour = RED if faults else GREEN
    return [paint(", ".join(words) + ".", colour, view)]


def _many(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def as_json(findings: list[Finding]) -> dict[str, object]:
    """All findings as one object, version 1."""
    return {
        "version": JSON_VERSION,
        "wrong": count(findings, WRONG),
        "hints": count(findings, HINT),
        "unchecked": count(findings, UNCHECKED),
        "findings": [one._asdict() for one in findings],
    }
