"""What the daemon says, in lines for people.

All text of others goes through `clean` here.  Nothing here asks the system for
anything: width, colour, names and dates come in with `View`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from holdingpen.amounts import format_amount, format_amounts, format_size, is_bytes
from holdingpen.ctl.export import COUNTS, MACHINE, holders, waiters
from holdingpen.ctl.text import WIDTH_MIN, Column, clean, cut, fold, table
from holdingpen.durations import DURATION_MAX_S, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdingpen.wire import messages as wire

_BOLD, _RED, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[0m"

#: How the daemon's stable words for an end read.
_ENDS = {
    "gone": "its program ended",
    "released": "given back",
    "ordered": "ordered",
    "wait-over": "left the line: it waited as long as it wanted to",
    "never-fits": "the capacity was lowered below what it asked for",
    "not-ready": "what it was to get could not be made ready",
    "daemon-restarted": "the daemon started anew and its connection was lost",
}


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


# The status page.


def status_lines(status: wire.Status, view: View) -> list[str]:
    """The whole page: the daemon, the resources, who holds, who waits, who else."""
    lines = _daemon_lines(status, view)
    lines += ["", *resource_lines(status, view)]
    lines += ["", *lease_lines(status, view)]
    lines += ["", *queue_lines(status, view)]
    foreign = [one for one in status.foreign if _counts(one, status)]
    if foreign:
        lines += ["", *_foreign_lines(foreign, view)]
    return lines


def _counts(one: wire.ForeignUser, status: wire.Status) -> bool:
    # everybody uses some memory; it is news only where it eats into what is lent
    books = status.resources.get(one.resource)
    return books is not None and books.foreign > 0


def _daemon_lines(status: wire.Status, view: View) -> list[str]:
    up = _span(status.since, status.now)
    first = f"Holding Pen {clean(status.daemon)}, up {up}, {clean(status.socket)}"
    lines = [first if view.columns is None else cut(first, view.columns)]
    if status.drain is not None:
        reason = f": {clean(status.drain).rstrip('.')}" if status.drain else ""
        lines += _alarm(f"Draining{reason}. Nothing new starts.", view)
    for trouble in status.troubles:
        lines += _alarm(clean(trouble), view)
    return lines


def _alarm(text: str, view: View) -> list[str]:
    return [_paint(line, _RED, view) for line in fold(text, view.columns, 2)]


def _paint(line: str, colour: str, view: View) -> str:
    return f"{colour}{line}{_PLAIN}" if view.colour else line


def _table(
    layout: Sequence[Column], rows: Sequence[Sequence[str]], view: View
) -> list[str]:
    heading, *lines = table(layout, rows, view.columns)
    return [_paint(heading, _BOLD, view), *lines]


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
    return _table(layout, rows, view)


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
        Column("AMOUNTS", least=10),
        Column("FOR", right=True),
        Column("ENDS", right=True, spare=True),
        Column("HAND-OVER", spare=True),
        Column("NOTE", spare=True),
        Column("COMMAND", least=8),
    ]
    now = status.now
    rows = [
        [
            str(lease.id),
            clean(view.user(lease.uid)),
            short_amounts(lease.amounts),
            _span(lease.granted, now) if lease.granted else "",
            _ahead(now, lease.expires, ""),
            _promise(lease) if lease.handover != "none" else "",
            _note(lease),
            _called(lease),
        ]
        for lease in leases
    ]
    return _table(layout, rows, view)


def queue_lines(status: wire.Status, view: View) -> list[str]:
    """A line for each place in the line, the first on top."""
    line = waiters(status)
    if not line:
        return ["Nobody is waiting."]
    layout = [
        Column("PLACE", right=True),
        Column("ID", right=True),
        Column("USER", least=6),
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
            short_amounts(lease.amounts),
            _span(lease.asked, now),
            _ahead(now, lease.expected, "unknown"),
            _ids(lease.waits_for),
            clean(lease.waits_why),
        ]
        for lease in line
    ]
    return _table(layout, rows, view)


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
    return _table(layout, rows, view)


def _span(since: float, until: float) -> str:
    # The wall clock may have been set back in between, and a client may have named
    # any length, even infinity.
    return format_duration(min(max(0.0, until - since), DURATION_MAX_S))


def _ahead(now: float, then: float | None, unknown: str) -> str:
    if then is None:
        return unknown
    return "overdue" if then < now else f"in {_span(now, then)}"


def _promise(lease: wire.LeaseInfo) -> str:
    bound = f" ({short('ram', lease.bound)})" if lease.bound else ""
    return f"{clean(lease.handover)}{bound}"


def _note(lease: wire.LeaseInfo) -> str:
    if lease.state == "promised":
        return "starting"
    lost = {name: amount for name, amount in lease.stolen.items() if amount}
    if lost:
        return f"lost {short_amounts(lost)}"
    return "reclaimable" if lease.reclaimable else ""


def _called(lease: wire.LeaseInfo) -> str:
    return clean(": ".join(text for text in (lease.label, lease.command) if text))


def _ids(leases: Sequence[int]) -> str:
    return ", ".join(map(str, leases))


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
    lines.append(f"{leases} {'lease' if leases == 1 else 'leases'}, {line} waiting")
    return lines if view.columns is None else [cut(a, view.columns) for a in lines]


# The story of a lease.


def story_lines(lease: wire.LeaseInfo, now: float, view: View) -> list[str]:
    """`why`: what happened to a lease, in order, and what it waits for now.

    Args:
        lease: what the daemon knows of it.
        now: seconds since 1970.
        view: for whom to print.
    """
    who = clean(view.user(lease.uid))
    story = [
        f"Lease {lease.id} {_state(lease)}.",
        f"{view.date(lease.asked)}: asked for {_in_words(lease.amounts)} "
        f"by {who} (uid {lease.uid}, pid {lease.pid}){_conditions(lease)}.",
    ]
    for what, text in (("Command", lease.command), ("Label", lease.label)):
        if text:
            story.append(f"{what}: {clean(text)}")
    if lease.reason:
        story.append(f"Reason: {clean(lease.reason)}")
    if lease.state == "waiting":
        story += _wait_so_far(lease, now)
    elif lease.waits_for:
        story.append(f"In the line it waited for leases {_ids(lease.waits_for)}.")
    if lease.granted:
        waited = lease.granted - lease.asked >= 1
        when = f"after {_span(lease.asked, lease.granted)}" if waited else "at once"
        story.append(f"{view.date(lease.granted)}: granted {when}{_handover(lease)}.")
    story += _handed(lease)
    if lease.used:
        story.append(f"Its programs used {_in_words(lease.used)} when last measured.")
    if lease.ended:
        story.append(_end(lease, view))
    elif lease.expires is not None and lease.granted:
        story.append(f"{view.date(lease.expires)}: its expected end.")
    return [line for part in story for line in fold(part, view.columns, 4)]


def _state(lease: wire.LeaseInfo) -> str:
    if lease.state == "waiting":
        return f"waits: it is number {lease.place} in the line"
    if lease.state == "promised":
        return "is starting: what was held back is being made ready for it"
    return "has ended" if lease.state == "ended" else f"is {clean(lease.state)}"


def _in_words(amounts: Mapping[str, int]) -> str:
    counted = {name: n for name, n in amounts.items() if name != MACHINE}
    if MACHINE not in amounts:
        return clean(format_amounts(counted))
    more = f", {format_amounts(counted)}" if counted else ""
    return f"the whole machine{clean(more)}"


def _conditions(lease: wire.LeaseInfo) -> str:
    words = [f"priority {lease.priority}"] if lease.priority else []
    words += ["reclaimable"] if lease.reclaimable else []
    return "".join(f", {word}" for word in words)


def _wait_so_far(lease: wire.LeaseInfo, now: float) -> list[str]:
    waited = _span(lease.asked, now)
    why = f": {clean(lease.waits_why).removesuffix('.')}" if lease.waits_why else ""
    if lease.expected is None:
        expected = "nobody knows when it starts: not every end before it is known"
    else:
        expected = f"it should start {_ahead(now, lease.expected, '')}"
    after = [f"It may start after {_ids(lease.waits_for)}."] if lease.waits_for else []
    return [
        f"It has waited {waited} so far{why}.",
        *after,
        f"As things stand {expected}.",
    ]


def _handover(lease: wire.LeaseInfo) -> str:
    drawn = {name: amount for name, amount in lease.drawn.items() if amount}
    if not drawn and lease.handover == "none":
        return ""
    source = f"{_in_words(drawn)} from ballast" if drawn else "no ballast drawn"
    bound = f" ({format_amount('ram', lease.bound)})" if lease.bound else ""
    why = f": {clean(lease.handover_why)}" if lease.handover_why else ""
    return f"; {source}, hand-over {clean(lease.handover)}{bound}{why.rstrip('.')}"


def _handed(lease: wire.LeaseInfo) -> list[str]:
    lines = [
        f"It may write in {clean(place)}: {clean(name)}."
        for name, place in lease.places.items()
    ]
    kept = {name: amount for name, amount in lease.kept.items() if amount}
    if kept:
        lines.append(f"Still kept for it: {_in_words(kept)}.")
    lost = {name: amount for name, amount in lease.stolen.items() if amount}
    if lost:
        lines.append(f"Of what was freed for it others took {_in_words(lost)}.")
    return lines


def _end(lease: wire.LeaseInfo, view: View) -> str:
    if lease.granted:
        how_long = f"after {_span(lease.granted, lease.ended)}"
    else:
        how_long = f"never granted, after {_span(lease.asked, lease.ended)}"
    why = _ENDS.get(lease.why_ended, clean(lease.why_ended) or "the cause is unknown")
    by = "" if lease.ended_by is None else f" by {clean(view.user(lease.ended_by))}"
    return f"{view.date(lease.ended)}: ended {how_long}: {why}{by}."


# Events.


def event_line(event: wire.Happened, view: View) -> str:
    """`watch`: one line for one event."""
    facts = event.facts
    undrained = event.what == "drained" and facts.get("reason") is None
    what = "undrained" if undrained else clean(event.what)
    where = "" if event.lease is None else f"lease {event.lease}"
    resource = str(facts.get("resource", ""))
    words = [_fact(key, value, resource, view) for key, value in facts.items()]
    rest = ", ".join(word for word in words if word)
    line = f"{view.date(event.at)}  {what:<9}  {where:<10}  {rest}".rstrip()
    return line if view.columns is None else cut(line, view.columns)


def _fact(key: str, value: object, resource: str, view: View) -> str:
    match key, value:
        case "capacity", None:
            return "capacity as configured"
        case _, None | "":
            return ""
        case "resource", str():
            return clean(value)
        case "why", str():
            return _ENDS.get(value, clean(value))
        case "uid", int():
            return clean(view.user(value))
        case "by_uid", int():
            return f"by {clean(view.user(value))}"
        case _, dict():
            counts = {str(name): n for name, n in value.items() if isinstance(n, int)}
            words = short_amounts(counts)
            return words if key == "amounts" else f"{clean(key)} {words}"
        case _, int() if resource:
            return f"{clean(key)} {short(resource, value)}"
    return f"{clean(key)} {clean(str(value))}"
