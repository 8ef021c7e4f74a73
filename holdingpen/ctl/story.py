"""What happened, in lines for people: the story of one lease, and single events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdingpen.amounts import format_amount
from holdingpen.ctl.export import CONNECTION, is_due
from holdingpen.ctl.render import (
    folded,
    ids,
    in_words,
    reserved_times,
    short,
    short_amounts,
    span,
    until,
)
from holdingpen.ctl.text import clean, cut

if TYPE_CHECKING:
    from holdingpen.ctl.render import View
    from holdingpen.wire import messages as wire

#: How the daemon's stable words for an end read.
_ENDS = {
    "gone": "its program ended",
    "released": "given back",
    "ordered": "ordered",
    "wait-over": "left the line: it waited as long as it wanted to",
    "never-fits": "the capacity was lowered below what it asked for",
    "not-ready": "what it was to get could not be made ready",
    "daemon-restarted": "the daemon started anew and its connection was lost",
    "expired": "its time was over",
    "never-began": "it could not begin before its time was over",
    "reservation-over": "the reservation it drew on is over",
    "reclaimed": "it was asked back and not given back in time",
    "idle": "nothing drew on it for too long",
    "logged-out": "it was asked for at the machine, and the user logged out there",
}

#: Facts that are dates.
_DATES = ("starts", "until")


def story_lines(lease: wire.LeaseInfo, now: float, view: View) -> list[str]:
    """`why`: what happened to a lease, in order, and what it waits for now.

    Args:
        lease: what the daemon knows of it.
        now: seconds since 1970.
        view: for whom to print.
    """
    story = [f"{_what(lease)} {lease.id} {_state(lease)}.", _asked(lease, view)]
    story += _reservation(lease, now, view)
    for what, text in (("Command", lease.command), ("Label", lease.label)):
        if text:
            story.append(f"{what}: {clean(text)}")
    if lease.reason:
        story.append(f"Reason: {clean(lease.reason)}")
    if lease.state == "waiting":
        story += _wait_so_far(lease, now)
    elif lease.waits_for:
        leases = "lease" if len(lease.waits_for) == 1 else "leases"
        story.append(f"In the line it waited for {leases} {ids(lease.waits_for)}.")
    if lease.granted:
        waited = lease.granted - lease.asked >= 1
        when = f"after {span(lease.asked, lease.granted)}" if waited else "at once"
        granted = f"granted {when}" if lease.starts is None else "it began"
        story.append(f"{view.date(lease.granted)}: {granted}{_handover(lease)}.")
    story += _handed(lease)
    if lease.used:
        story.append(f"Its programs used {in_words(lease.used)} when last measured.")
    story += _wanted_back(lease, now, view)
    if lease.ended:
        story.append(_end(lease, view))
        return folded(story, view)
    if lease.expires is not None and lease.granted:
        sure = "expected end" if lease.kind == CONNECTION else "end"
        story.append(f"{view.date(lease.expires)}: its {sure}.")
    return folded(story, view)


def _what(lease: wire.LeaseInfo) -> str:
    return "Lease" if lease.kind == CONNECTION else clean(lease.kind).capitalize()


def _asked(lease: wire.LeaseInfo, view: View) -> str:
    who, uid = clean(view.user(lease.uid)), f"uid {lease.uid}"
    if lease.made_by is not None:
        who = f"{clean(view.user(lease.made_by))} for {who}"
        uid = f"uid {lease.made_by} for {lease.uid}"
    # no pid: made for somebody else, or so long ago that only the history knows it
    pid = f", pid {lease.pid}" if lease.pid else ""
    return (
        f"{view.date(lease.asked)}: asked for {in_words(lease.amounts)} by {who} "
        f"({uid}{pid}){_conditions(lease)}."
    )


def _reservation(lease: wire.LeaseInfo, now: float, view: View) -> list[str]:
    lines = []
    if lease.inside:
        lines.append(f"It draws on reservation {lease.inside}.")
    if lease.kind != CONNECTION and (times := reserved_times(lease, now, view)):
        lines.append(f"Reserved: {times}.")
    if lease.series:
        lines.append(f"It is one of the series {lease.series}.")
    if lease.gid is not None:
        group = clean(view.group(lease.gid))
        lines.append(f"Members of the group {group} may draw on it, too.")
    return lines


def _wanted_back(lease: wire.LeaseInfo, now: float, view: View) -> list[str]:
    lines = []
    # what is over has it still: for whom it was to go
    if lease.asked_back:
        stays = "; it does not yield" if lease.unyielding else ""
        lines.append(
            f"{view.date(lease.asked_back)}: asked back for {lease.asked_back_for}"
            f"{stays}."
        )
    if lease.idle_since:
        lines.append(f"Nothing has drawn on it for {span(lease.idle_since, now)}.")
    return lines


def _state(lease: wire.LeaseInfo) -> str:
    if is_due(lease):
        return f"is about to begin: it is number {lease.place} in the line"
    if lease.state == "waiting":
        return f"waits: it is number {lease.place} in the line"
    if lease.state == "promised":
        return "is starting: what was held back is being made ready for it"
    if lease.state == "booked":
        return "is booked: it begins at a date"
    return "has ended" if lease.state == "ended" else f"is {clean(lease.state)}"


def _conditions(lease: wire.LeaseInfo) -> str:
    words = [f"priority {lease.priority}"] if lease.priority else []
    words += ["reclaimable"] if lease.reclaimable else []
    return "".join(f", {word}" for word in words)


def _wait_so_far(lease: wire.LeaseInfo, now: float) -> list[str]:
    # one that was booked was asked for long before it stood in the line
    waited = "" if is_due(lease) else f"It has waited {span(lease.asked, now)} so far"
    why = clean(lease.waits_why).removesuffix(".")
    so_far = ": ".join(filter(None, (waited or "In the line", why)))
    if lease.expected is None:
        expected = "nobody knows when it starts: not every end before it is known"
    else:
        expected = f"it should start {until(now, lease.expected, '')}"
    after = [f"It may start after {ids(lease.waits_for)}."] if lease.waits_for else []
    return [
        f"{so_far}.",
        *after,
        f"As things stand {expected}.",
    ]


def _handover(lease: wire.LeaseInfo) -> str:
    drawn = {name: amount for name, amount in lease.drawn.items() if amount}
    if not drawn and lease.handover == "none":
        return ""
    source = f"{in_words(drawn)} from ballast" if drawn else "no ballast drawn"
    if lease.kind != CONNECTION:
        # what it holds is handed over to those who draw on it
        return f"; {source}"
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
        lines.append(f"Still kept for it: {in_words(kept)}.")
    stolen = {name: amount for name, amount in lease.stolen.items() if amount}
    if stolen:
        good = {name: amount for name, amount in lease.made_good.items() if amount}
        made = f", and {in_words(good)} were made good" if good else ""
        lines.append(f"Of what was freed for it others took {in_words(stolen)}{made}.")
    return lines


def _end(lease: wire.LeaseInfo, view: View) -> str:
    if lease.granted:
        how_long = f"after {span(lease.granted, lease.ended)}"
    else:
        how_long = f"never granted, after {span(lease.asked, lease.ended)}"
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
        case _, int() | float() if key in _DATES:
            return f"{clean(key)} {view.date(value)}"
        case "on", bool():
            return "sits at the machine" if value else "sits there no more"
        case "needed_by", int():
            return f"for {value}"
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
