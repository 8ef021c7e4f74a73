"""Status for scripts: JSON (version 1) and single fields.  Both are promises.

Amounts are bytes or units, times seconds since 1970.  A key may be added; none is
dropped or renamed without a new VERSION.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdingpen.errors import LocalMistake

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdingpen.wire import messages as wire

#: The version of all JSON that holdingpenctl prints.
VERSION = 1

#: The protocol's word for the whole machine: one unit, free while nobody holds a lease.
MACHINE = "machine"

#: The two kinds of lease.
CONNECTION, RESERVATION = "connection", "reservation"

#: The numbers of one resource, in the order of the table.
COUNTS = ("capacity", "free", "held", "leased", "settling", "foreign")


def holders(status: wire.Status) -> list[wire.LeaseInfo]:
    """The leases that are promised or live, by id."""
    return [lease for lease in status.leases if lease.state in ("promised", "live")]


def waiters(status: wire.Status) -> list[wire.LeaseInfo]:
    """The line, first comes first."""
    line = [lease for lease in status.leases if lease.state == "waiting"]
    return sorted(line, key=lambda lease: (lease.place, lease.id))


def booked(status: wire.Status) -> list[wire.LeaseInfo]:
    """The reservations that begin at a date and have not begun, the next first."""
    ahead = [a for a in status.leases if a.state == "booked" or is_due(a)]
    return sorted(ahead, key=lambda lease: (lease.starts or 0.0, lease.id))


def is_due(lease: wire.LeaseInfo) -> bool:
    """Whether the date of a reservation has come, or nearly: it is in the line, too."""
    return lease.state == "waiting" and lease.starts is not None


def reserved(status: wire.Status) -> bool:
    """Whether somebody has the whole machine for himself."""
    return any(MACHINE in lease.amounts for lease in holders(status))


def status_object(status: wire.Status, user: Callable[[int], str]) -> dict[str, object]:
    """What `status --json` prints; `user` is the name of a uid."""
    return {
        "version": VERSION,
        "daemon": {
            "version": status.daemon,
            "since": status.since,
            "socket": status.socket,
        },
        "now": status.now,
        "drain": status.drain,
        "troubles": status.troubles,
        "resources": {
            name: {key: getattr(books, key) for key in (*COUNTS, "hold")}
            for name, books in status.resources.items()
        },
        "devices": [],
        "leases": [lease_object(lease, user) for lease in holders(status)],
        "line": [waiter_object(lease, user) for lease in waiters(status)],
        "ahead": [lease_object(lease, user) for lease in booked(status)],
        "seated": [{"user": user(uid), "uid": uid} for uid in status.seated],
        "foreign_users": [
            {
                "resource": one.resource,
                "pid": one.pid,
                "user": user(one.uid),
                "uid": one.uid,
                "command": one.command,
                "amount": one.amount,
            }
            for one in status.foreign
        ],
    }


def lease_object(
    lease: wire.LeaseInfo, user: Callable[[int], str]
) -> dict[str, object]:
    """One lease, as `status --json` and `list --json` print it."""
    return {
        "id": lease.id,
        "kind": lease.kind,
        "state": lease.state,
        "user": user(lease.uid),
        "uid": lease.uid,
        "pid": lease.pid,
        "command": lease.command,
        "amounts": lease.amounts,
        "devices": [],
        "priority": lease.priority,
        "reclaimable": lease.reclaimable,
        "reclaim_requested": bool(lease.asked_back),
        "label": lease.label,
        "reason": lease.reason,
        "since": lease.granted or lease.asked,
        "starts": lease.starts,
        "expires": lease.expires,
        "inside": lease.inside or None,
        "series": lease.series or None,
        "gid": lease.gid,
        "made_by": None if lease.made_by is None else user(lease.made_by),
        "asked_back_since": lease.asked_back or None,
        "asked_back_for": lease.asked_back_for or None,
        "unyielding": lease.unyielding,
        "idle": bool(lease.idle_since),
        "idle_since": lease.idle_since or None,
        "handover": lease.handover,
        "bound": lease.bound,
        "handover_why": lease.handover_why,
        "places": lease.places,
        "kept": lease.kept,
        "stolen": lease.stolen,
        "made_good": lease.made_good,
        "drawn": lease.drawn,
        "used": lease.used,
    }


def waiter_object(
    lease: wire.LeaseInfo, user: Callable[[int], str]
) -> dict[str, object]:
    """One place in the line, as `status --json` and `queue --json` print it."""
    return {
        "id": lease.id,
        "kind": lease.kind,
        "place": lease.place,
        "user": user(lease.uid),
        "uid": lease.uid,
        "pid": lease.pid,
        "command": lease.command,
        "amounts": lease.amounts,
        "priority": lease.priority,
        "since": lease.asked,
        "waits_for": lease.waits_for,
        "expected": lease.expected,
        "starts": lease.starts,
        "inside": lease.inside or None,
        "waits_why": lease.waits_why,
        "reclaimable": lease.reclaimable,
        "label": lease.label,
        "reason": lease.reason,
    }


def story_object(
    lease: wire.LeaseInfo, user: Callable[[int], str]
) -> dict[str, object]:
    """What `why --json` prints; null: it has not come to that."""
    ended_by = None if lease.ended_by is None else user(lease.ended_by)
    story = lease_object(lease, user) | {
        "asked": lease.asked,
        "granted": lease.granted or None,
        "ended": lease.ended or None,
        "why_ended": lease.why_ended or None,
        "ended_by": ended_by,
        "place": lease.place or None,
        "waits_for": lease.waits_for,
        "waits_why": lease.waits_why,
        "expected": lease.expected,
    }
    return {"version": VERSION, "lease": story}


def event_object(event: wire.Happened) -> dict[str, object]:
    """What `watch --json` prints for each event."""
    return {
        "version": VERSION,
        "at": event.at,
        "what": event.what,
        "lease": event.lease,
        "facts": event.facts,
    }


def json_line(answer: dict[str, object]) -> str:
    r"""JSON in one line that does nothing to a terminal it is printed on.

    Characters that are not printable are written as `\u202e`, which says the same.
    """
    from msgspec import json

    text = json.encode(answer).decode()
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(letter: str) -> str:
    units = letter.encode("utf-16-be")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))


def fields(status: wire.Status, wanted: str) -> str:
    """The values of a comma list of fields in one line, with tabs between.

    Args:
        status: what the daemon said.
        wanted: for example `ram.free,leases,line`.

    Raises:
        LocalMistake: when a field is unknown; the message names all there are.
    """
    known: dict[str, object] = {
        f"{name}.{key}": getattr(books, key)
        for name, books in status.resources.items()
        for key in COUNTS
    }
    known |= {
        "leases": len(holders(status)),
        "line": len(waiters(status)),
        "ahead": len(booked(status)),
        "reserved": _word(reserved(status)),
        "draining": _word(status.drain is not None),
        "troubles": len(status.troubles),
        "version": status.daemon,
        "since": status.since,
        "socket": status.socket,
    }
    words = [word.strip() for word in wanted.split(",")]
    for word in words:
        if word not in known:
            raise LocalMistake(
                f"status has no field {word!r}; it has: {', '.join(known)}."
            )
    return "\t".join(str(known[word]) for word in words)


def _word(answer: bool) -> str:
    return "true" if answer else "false"
