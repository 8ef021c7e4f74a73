"""How things stand, in lines for people: resources, leases, the line, what is to come.

All text of others goes through `clean` here.  Nothing here asks the system for
anything: width, colour, names and dates come in with `View`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from holdingpen.amounts import format_amounts, format_size, is_bytes
from holdingpen.ctl.export import (
    CONNECTION,
    COUNTS,
    MACHINE,
    booked,
    holders,
    is_due,
    waiters,
)
from holdingpen.ctl.text import WIDTH_MIN, Column, clean, cut, fold, table
from holdingpen.durations import DURATION_MAX_S, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdingpen.wire import messages as wire

BOLD, RED, GREEN, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[0m"

#: So many reservations ahead are on the status page.
AHEAD_SHOWN = 5


class View(NamedTuple):
    """For whom to print."""

    #: Columns of the terminal; None: as many as it takes.
    width: int | None
    #: Whether to colour.
    colour: bool
    #: The name of a uid.
    user: Callable[[int], str]
    #: Seconds since 1970 as a date and time of day.
    date: Callable[[float], str]
    #: A time in the fewest words that are clear to who reads them now: `Mon 09:00`.
    time: Callable[[float, float], str]
    #: The same of a begin, an end and now: `Mon 09:00-11:00`.
    times: Callable[[float, float, float], str]
    #: The name of a gid.
    group: Callable[[int], str]

    @property
    def columns(self) -> int | None:
        """The width to keep to."""
        return None if self.width is None else max(self.width, WIDTH_MIN)


def short(resource: str, amount: int) -> str:
    """An amount in the fewest columns: `8.0G`, `3`, `0`."""
    if not is_bytes(resource) or amount == 0:
        return str(amount)
    return format_size(amount).replace(" ", "").removesuffix("iB")


def short_amounts(amounts: Mapping[str, int]) -> str:
    """Several amounts in few columns: `8.0G ram, 2 cpu`, or `whole machine`."""
    words = ["whole machine"] if MACHINE in amounts else []
    words += [
        f"{short(name, amount)} {clean(name)}"
        for name, amount in amounts.items()
        if name != MACHINE
    ]
    return ", ".join(words) or "nothing"


def in_words(amounts: Mapping[str, int]) -> str:
    """Several amounts in a sentence: `8.0 GiB ram, 2 cpu`, or `the whole machine`."""
    counted = {name: n for name, n in amounts.items() if name != MACHINE}
    if MACHINE not in amounts:
        return clean(format_amounts(counted))
    more = f", {format_amounts(counted)}" if counted else ""
    return f"the whole machine{clean(more)}"


def span(begin: float, end: float) -> str:
    """How long from one time to another; `0s` where the clock was set back."""
    # a client may have named any length, even infinity
    return format_duration(min(max(0.0, end - begin), DURATION_MAX_S))


def until(now: float, then: float | None, unknown: str) -> str:
    """How far ahead a time is: `in 40m`, `overdue`, or else `unknown`."""
    if then is None:
        return unknown
    return "overdue" if then < now else f"in {span(now, then)}"


def ids(leases: Sequence[int]) -> str:
    """Numbers of leases: `17, 18`, and `17-28` for three and more in a row."""
    runs: list[list[int]] = []
    for lease in leases:
        if runs and lease == runs[-1][-1] + 1:
            runs[-1].append(lease)
        else:
            runs.append([lease])
    words: list[str] = []
    for run in runs:
        words += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run)
    return ", ".join(words)


def paint(line: str, colour: str, view: View) -> str:
    """A line in a colour, where there is any."""
    return f"{colour}{line}{_PLAIN}" if view.colour else line


def folded(paragraphs: Sequence[str], view: View) -> list[str]:
    """Sentences in lines as wide as the view."""
    return [line for part in paragraphs for line in fold(part, view.columns, 4)]


def titled(
    layout: Sequence[Column], rows: Sequence[Sequence[str]], view: View
) -> list[str]:
    """A table for `view`, its headings in bold."""
    heading, *lines = table(layout, rows, view.columns)
    return [paint(heading, BOLD, view), *lines]


# The status page.


def status_lines(status: wire.Status, view: View) -> list[str]:
    """The whole page: the daemon, the resources, who holds, who waits, who else."""
    lines = _daemon_lines(status, view)
    lines += ["", *resource_lines(status, view)]
    lines += ["", *lease_lines(status, view)]
    lines += ["", *queue_lines(status, view)]
    if booked(status):
        lines += ["", *ahead_lines(status, view, AHEAD_SHOWN)]
    foreign = [one for one in status.foreign if _counts(one, status)]
    if foreign:
        lines += ["", *_foreign_lines(foreign, view)]
    return lines


def _counts(one: wire.ForeignUser, status: wire.Status) -> bool:
    # everybody uses some memory; it is news only where it eats into what is lent
    books = status.resources.get(one.resource)
    return books is not None and books.foreign > 0


def _daemon_lines(status: wire.Status, view: View) -> list[str]:
    up = span(status.since, status.now)
    first = f"Holding Pen {clean(status.daemon)}, up {up}, {clean(status.socket)}"
    lines = [first if view.columns is None else cut(first, view.columns)]
    if status.drain is not None:
        reason = f": {clean(status.drain).rstrip('.')}" if status.drain else ""
        lines += _alarm(f"Draining{reason}. Nothing new starts.", view)
    if status.seated:
        names = ", ".join(clean(view.user(uid)) for uid in status.seated)
        lines += fold(f"At the machine: {names}.", view.columns, 2)
    for trouble in status.troubles:
        lines += _alarm(clean(trouble), view)
    return lines


def _alarm(text: str, view: View) -> list[str]:
    return [paint(line, RED, view) for line in fold(text, view.columns, 2)]


def resource_lines(status: wire.Status, view: View) -> list[str]:
    """A line for each resource; settling and foreign only where there is any."""
    books = _counted(status)
    if not books:
        text = "Nothing is lent here: the daemon knows no resource."
        return fold(text, view.columns)
    keys = [
        key
        for key in COUNTS
        if key not in ("settling", "foreign")
        or any(getattr(one, key) for one in books.values())
    ]
    layout = [Column("RESOURCE", least=8)]
    layout += [
        Column(key.upper(), right=True, spare=key in ("settling", "foreign"))
        for key in keys
    ]
    rows = [
        [clean(name), *(short(name, getattr(one, key)) for key in keys)]
        for name, one in books.items()
    ]
    return titled(layout, rows, view)


def _counted(status: wire.Status) -> dict[str, wire.Books]:
    # who has the whole machine stands with the leases
    return {n: books for n, books in status.resources.items() if n != MACHINE}


def lease_lines(status: wire.Status, view: View) -> list[str]:
    """A line for each lease, by id."""
    leases = holders(status)
    if not leases:
        return fold("Nobody holds a lease.", view.columns)
    layout = [
        Column("ID", right=True),
        Column("USER", least=6),
        Column("KIND", spare=True),
        Column("AMOUNTS", least=10),
        Column("FOR", right=True),
        Column("ENDS", right=True, spare=True),
        Column("NOTE", least=16, spare=True),
        Column("HAND-OVER", spare=True),
        Column("COMMAND", least=8),
    ]
    now = status.now
    rows = [
        [
            str(lease.id),
            clean(view.user(lease.uid)),
            _kind(lease),
            short_amounts(lease.amounts),
            span(lease.granted, now) if lease.granted else "",
            until(now, lease.expires, ""),
            _note(lease, now),
            _promise(lease) if lease.handover != "none" else "",
            _called(lease),
        ]
        for lease in leases
    ]
    return titled(layout, rows, view)


def queue_lines(status: wire.Status, view: View) -> list[str]:
    """A line for each place in the line, the first on top."""
    line = waiters(status)
    if not line:
        return ["Nobody is waiting."]
    layout = [
        Column("PLACE", right=True),
        Column("ID", right=True),
        Column("USER", least=6),
        Column("KIND", spare=True),
        Column("WANTS", least=10),
        Column("WAITED", right=True, spare=True),
        Column("EXPECTED", right=True, spare=True),
        Column("AFTER", least=5, spare=True),
        Column("WHY", least=8),
    ]
    now = status.now
    rows = [
        [
            str(lease.place),
            str(lease.id),
            clean(view.user(lease.uid)),
            _kind(lease),
            short_amounts(lease.amounts),
            # one that was booked did not stand here all the time
            "" if is_due(lease) else span(lease.asked, now),
            until(now, lease.expected, "unknown"),
            ids(lease.waits_for),
            clean(lease.waits_why),
        ]
        for lease in line
    ]
    return titled(layout, rows, view)


def _foreign_lines(foreign: Sequence[wire.ForeignUser], view: View) -> list[str]:
    layout = [
        Column("WITHOUT A LEASE", least=15),
        Column("PID", right=True, spare=True),
        Column("USER", least=6),
        Column("COMMAND", least=8),
    ]
    rows = [
        [
            f"{short(one.resource, one.amount)} {clean(one.resource)}",
            str(one.pid),
            clean(view.user(one.uid)),
            clean(one.command),
        ]
        for one in foreign
    ]
    return titled(layout, rows, view)


def _promise(lease: wire.LeaseInfo) -> str:
    bound = f" ({short('ram', lease.bound)})" if lease.bound else ""
    return f"{clean(lease.handover)}{bound}"


def _kind(lease: wire.LeaseInfo) -> str:
    if lease.inside:
        return f"in {lease.inside}"
    return "" if lease.kind == CONNECTION else "reserved"


def _note(lease: wire.LeaseInfo, now: float) -> str:
    if lease.state == "promised":
        return "starting"
    if lease.asked_back:
        if lease.unyielding:
            return f"does not yield to {lease.asked_back_for}"
        since = span(lease.asked_back, now)
        return f"asked back for {lease.asked_back_for}, {since} ago"
    lost = lost_of(lease)
    if lost:
        return f"lost {short_amounts(lost)}"
    if lease.idle_since:
        return f"idle for {span(lease.idle_since, now)}"
    return "reclaimable" if lease.reclaimable else ""


def lost_of(lease: wire.LeaseInfo) -> dict[str, int]:
    """What others took of it, and was not made good."""
    lost = {
        name: amount - lease.made_good.get(name, 0)
        for name, amount in lease.stolen.items()
    }
    return {name: amount for name, amount in lost.items() if amount > 0}


def _called(lease: wire.LeaseInfo) -> str:
    if lease.kind == CONNECTION:
        return clean(": ".join(text for text in (lease.label, lease.command) if text))
    # the label of an imported event is long, and for programs
    label = f" ({lease.label})" if lease.reason and lease.label else lease.label
    return clean(f"{lease.reason}{label}")


def ahead_lines(
    status: wire.Status, view: View, shown_max: int | None = None
) -> list[str]:
    """A line for each reservation that begins at a date, the next on top.

    Args:
        status: what the daemon said.
        view: for whom to print.
        shown_max: how many at most; then the others are counted.  None: all.
    """
    ahead = booked(status)
    if not ahead:
        return fold("Nothing is reserved ahead.", view.columns)
    layout = [
        Column("ID", right=True),
        Column("USER", least=6),
        Column("AMOUNTS", least=10),
        Column("RESERVED AHEAD"),
        Column("BEGINS", right=True, spare=True),
        Column("FOR WHAT", least=8),
    ]
    rows = [
        [
            str(lease.id),
            clean(view.user(lease.uid)),
            short_amounts(lease.amounts),
            reserved_times(lease, status.now, view),
            _begins(lease, status.now),
            _called(lease),
        ]
        for lease in ahead[:shown_max]
    ]
    lines = titled(layout, rows, view)
    if more := len(ahead) - len(rows):
        text = f"... and {more} more; 'holdingpenctl list --ahead' shows all."
        lines += fold(text, view.columns, 2)
    return lines


def _begins(lease: wire.LeaseInfo, now: float) -> str:
    return "about to begin" if is_due(lease) else until(now, lease.starts, "")


def part_lines(parts: Sequence[wire.LeaseInfo], now: float, view: View) -> list[str]:
    """A line for each of some live reservations: whose, of what, until when, why."""
    layout = [
        Column("RESERVED", least=10),
        Column("USER", least=6),
        Column("UNTIL"),
        Column("FOR WHAT", least=8),
    ]
    rows = [
        [
            short_amounts(lease.amounts),
            clean(view.user(lease.uid)),
            "" if lease.expires is None else view.time(lease.expires, now),
            _called(lease),
        ]
        for lease in parts
    ]
    return titled(layout, rows, view)


def reserved_times(lease: wire.LeaseInfo, now: float, view: View) -> str:
    """From when to when a reservation is: `Mon 09:00-11:00`, `until 16:00`."""
    if lease.starts is not None and lease.expires is not None:
        return view.times(lease.starts, lease.expires, now)
    return "" if lease.expires is None else f"until {view.time(lease.expires, now)}"


def summary_lines(status: wire.Status, view: View) -> list[str]:
    """`status --short`: a line for each resource, and how many hold and wait."""
    lines = []
    for name, one in _counted(status).items():
        held = f" + {short(name, one.held)} held" if one.held else ""
        lines.append(
            f"{clean(name)} {short(name, one.free)} free{held} "
            f"of {short(name, one.capacity)}"
        )
    leases, line = len(holders(status)), len(waiters(status))
    ahead = f", {len(booked(status))} reserved ahead" if booked(status) else ""
    lines.append(
        f"{leases} {'lease' if leases == 1 else 'leases'}, {line} waiting{ahead}"
    )
    return lines if view.columns is None else [cut(a, view.columns) for a in lines]
