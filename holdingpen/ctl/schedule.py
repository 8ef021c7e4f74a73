"""holdingpenctl timetable: a reservation for each event of a calendar file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from holdingpen.ctl.asking import (
    add_amounts,
    add_people,
    read_amounts,
    read_people,
    with_alternative,
)
from holdingpen.errors import EXIT_BAD_DATA, EXIT_NO, LocalMistake, Refusal

if TYPE_CHECKING:
    from holdingpen.client.blocking import Connection
    from holdingpen.ctl.asking import People
    from holdingpen.ctl.timetable import Event
    from holdingpen.wire import messages as wire

#: How far ahead the events count where --until does not say.
AHEAD_DAYS = 365

_EPILOG = """\
FILE.ics is an iCalendar file (RFC 5545), as calendars export it; events that
repeat count each time.
"""

_SHOW_EPILOG = """\
exit status: 0 done; 65 the file cannot be read, or is no calendar.

examples:
  holdingpenctl timetable show course.ics
  holdingpenctl timetable show course.ics --match exam --until 2027-03-01
"""

_IMPORT_EPILOG = """\
Each event becomes a reservation from its begin to its end; the event's title
is its reason.  What was imported before is not reserved again, so the same
file may be imported whenever it has grown; where an event was moved, the lease
at the old time is named, and one that was cancelled stays reserved.  Where
something reserved is in the way, it is said and the others are made.

exit status: 0 all are reserved; 1 some are not; 65 the file cannot be read, or
is no calendar; 77 not permitted.

examples:
  holdingpenctl timetable import course.ics --ram 16G --cpu 4 --dry-run
  holdingpenctl timetable import course.ics --machine --match exam
  holdingpenctl timetable import course.ics --ram 16G --for ada --group course
"""


class _Count(NamedTuple):
    """What came of an import: how many events."""

    all: int
    #: Reserved now; with --dry-run: would be.
    made: int
    #: Reserved before, at the same time, or at another.
    there: int
    moved: int
    refused: int


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Teach the command line the verb."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser(
        "timetable",
        help="a reservation for each event of a calendar",
        description="Show the events of a calendar, or reserve for each.",
        epilog=_EPILOG,
        formatter_class=raw,
    )
    parts = parser.add_subparsers(
        title="what to do",
        metavar="WHAT",
        required=True,
        prog="holdingpenctl timetable",
    )
    show = parts.add_parser(
        "show",
        help="print the events",
        description="Print the events of a calendar.  This needs no daemon.",
        epilog=_SHOW_EPILOG,
        formatter_class=raw,
    )
    show.set_defaults(run=run_show)
    book = parts.add_parser(
        "import",
        help="reserve for each event",
        description="Make a reservation for each event of a calendar.",
        epilog=_IMPORT_EPILOG,
        formatter_class=raw,
    )
    book.set_defaults(run=run_import)
    for part in (show, book):
        part.add_argument("file", metavar="FILE.ics", type=Path, help="the calendar")
        which = part.add_argument_group("which events")
        which.add_argument(
            "--from", dest="since", metavar="TIME", help="from then on; else from now"
        )
        which.add_argument(
            "--until", metavar="TIME", help="up to then; else a year ahead"
        )
        which.add_argument("--match", metavar="TEXT", help="with this in their title")
    add_amounts(book)
    add_people(book)
    book.add_argument(
        "--dry-run", action="store_true", help="say what would be reserved"
    )


def run_show(args: argparse.Namespace) -> int:
    """Print the events."""
    from holdingpen.ctl import render, terminal
    from holdingpen.ctl.text import Column, clean

    now, view = terminal.now_s(), terminal.view()
    events = _events(args, now)
    if not events:
        terminal.say([f"{args.file} has no such event."])
        return 0
    rows = [
        [
            view.times(event.start_s, event.end_s, now),
            clean(event.summary),
            clean(event.location),
        ]
        for event in events
    ]
    layout = [
        Column("WHEN"),
        Column("EVENT", least=10),
        Column("WHERE", least=8, spare=True),
    ]
    terminal.say(render.titled(layout, rows, view))
    return 0


def _events(args: argparse.Namespace, now: float) -> list[Event]:
    """The events that the words mean, in order.

    Raises:
        BadWord: when a time is none.
        LocalMistake: when the file cannot be read (65) or is no calendar.
    """
    from holdingpen.ctl import dates, terminal, timetable

    zone = terminal.zone()
    since = now if args.since is None else dates.parse_time(args.since, now, zone)
    if args.until is None:
        until = since + AHEAD_DAYS * 86400
    else:
        until = dates.parse_until(args.until, now, zone)
    if until <= since:
        raise LocalMistake("--until comes before --from: no event can be between.")
    data = _read(args.file, timetable.FILE_MAX_BYTES)
    try:
        events = timetable.read_timetable(data, zone, since, until)
    except LocalMistake as why:
        raise _unusable(f"{args.file}: {why}") from None
    wanted = (args.match or "").casefold()
    return [event for event in events if wanted in event.summary.casefold()]


def _read(path: Path, size_max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            # one more, so that what is too long is seen to be
            return file.read(size_max_bytes + 1)
    except OSError as why:
        raise _unusable(f"cannot read {path}: {why.strerror or why}.") from None


def _unusable(message: str) -> LocalMistake:
    error = LocalMistake(message, "no-calendar")
    error.exit_status = EXIT_BAD_DATA
    return error


def run_import(args: argparse.Namespace) -> int:
    """Reserve for each event, and say what came of it."""
    from holdingpen.client.blocking import connect
    from holdingpen.ctl import terminal

    now = terminal.now_s()
    amounts, people = read_amounts(args), read_people(args)
    events = _events(args, now)
    with connect(args.socket, "holdingpenctl") as conn:
        there = _reserved_before(conn.status(), people)
        new = [event for event in events if _label(event) not in there]
        moved = _tell_moved(events, there, now)
        made, refused = len(new), 0
        if not args.dry_run:
            made, refused = _book(conn, new, amounts, people, now)
        elif new:
            terminal.say([_told(event, now) for event in new])
    old = len(events) - len(new) - moved
    count = _Count(len(events), made, old, moved, refused)
    terminal.say([_summary(count, args.dry_run)])
    return EXIT_NO if moved or refused else 0


def _reserved_before(status: wire.Status, people: People) -> dict[str, wire.LeaseInfo]:
    """What the same user has reserved, by its label."""
    import os

    from holdingpen.ctl.export import RESERVATION

    uid = os.getuid() if people.uid is None else people.uid
    return {
        a.label: a
        for a in status.leases
        if a.kind == RESERVATION and a.uid == uid and a.state != "ended"
    }


def _label(event: Event) -> str:
    """By which an event is found again."""
    from hashlib import sha256

    from holdingpen.wire.messages import TEXT_MAX

    if len(event.key) <= TEXT_MAX:
        return event.key
    return sha256(event.key.encode("utf-8", "replace")).hexdigest()


def _tell_moved(
    events: list[Event], there: dict[str, wire.LeaseInfo], now: float
) -> int:
    """Name what is reserved at another time than its event is; returns how many."""
    from holdingpen.ctl import terminal

    moved = 0
    for event in events:
        old = there.get(_label(event))
        if old is None or old.state != "booked" or old.starts == event.start_s:
            continue
        moved += 1
        terminal.complain(
            f"{_told(event, now)}: lease {old.id} is at another time: release it and "
            "import again."
        )
    return moved


def _book(
    conn: Connection,
    events: list[Event],
    amounts: dict[str, int],
    people: People,
    now: float,
) -> tuple[int, int]:
    """Reserve for each; returns how many were made and how many refused.

    Raises:
        Refusal: of a kind that all the others would meet too.
    """
    from holdingpen.ctl import terminal
    from holdingpen.wire.messages import TEXT_MAX

    made = refused = 0
    for event in events:
        try:
            reserved = conn.reserve(
                amounts,
                event.end_s - event.start_s,
                starts=[event.start_s],
                label=_label(event),
                reason=event.summary[:TEXT_MAX],
                uid=people.uid,
                gid=people.gid,
            )
        except Refusal as why:
            if why.code != "conflict":
                said = f"So far {made} of {len(events)} events were reserved for."
                raise with_alternative(why, said) from None
            refused += 1
            terminal.complain(f"{_told(event, now)}: {with_alternative(why)}")
        else:
            made += 1
            terminal.say([f"{_told(event, now)}: lease {reserved.leases[0]}"])
    return made, refused


def _told(event: Event, now: float) -> str:
    from holdingpen.ctl import terminal
    from holdingpen.ctl.text import clean

    times = terminal.times_words(event.start_s, event.end_s, now)
    return f"{times}  {clean(event.summary)}"


def _summary(count: _Count, dry_run: bool) -> str:
    done = "Would reserve for" if dry_run else "Reserved for"
    parts = [f"{done} {count.made} of {count.all} events"]
    if count.there:
        parts.append(f"{count.there} reserved before")
    if count.moved:
        parts.append(f"{count.moved} reserved at another time")
    if count.refused:
        parts.append(f"{count.refused} refused")
    return "; ".join(parts) + "."
