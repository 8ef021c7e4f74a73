"""holdingpenctl list, queue and why: leases, places in the line, reservations ahead."""

from __future__ import annotations

import argparse

from holdingpen.ctl.asking import lease_id

_LIST_EPILOG = """\
A reservation is a lease without a program of its own; 'in 17' draws on it, and
is a part of it.  With --ahead: those that begin at a date, the next on top; one
that is about to begin stands in the line, too.

examples:
  holdingpenctl list
  holdingpenctl list --ahead
  holdingpenctl list --json | jq '.leases[] | select(.user == "ada").id'
"""

_QUEUE_EPILOG = """\
The first in the line stands on top.  EXPECTED is known only where the end of
every lease before it is known (gatekeeper --time); AFTER names the first few
leases whose end would help.

examples:
  holdingpenctl queue
  holdingpenctl queue --json | jq '.line | length'
"""

_WHY_EPILOG = """\
examples:
  holdingpenctl why 17
  holdingpenctl why 17 --json | jq .lease.why_ended
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Teach the command line the verbs."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser(
        "list",
        help="the leases, one a line",
        description="Show who holds what, one lease a line.",
        epilog=_LIST_EPILOG,
        formatter_class=raw,
    )
    parser.add_argument(
        "--ahead", action="store_true", help="the reservations that begin at a date"
    )
    _add_json(parser)
    parser.set_defaults(run=run_list)

    parser = verbs.add_parser(
        "queue",
        help="the line, first comes first",
        description="Show who waits for what, and why.",
        epilog=_QUEUE_EPILOG,
        formatter_class=raw,
    )
    _add_json(parser)
    parser.set_defaults(run=run_queue)

    parser = verbs.add_parser(
        "why",
        help="the story of one lease",
        description="Tell the story of a lease or of a place in the line: when and by\n"
        "whom it was asked for, how long and for whom it waited, how it ended.",
        epilog=_WHY_EPILOG,
        formatter_class=raw,
    )
    parser.add_argument("lease", metavar="ID", type=lease_id, help="its number")
    _add_json(parser)
    parser.set_defaults(run=run_why)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="one JSON object, version 1"
    )


def run_list(args: argparse.Namespace) -> int:
    """Show the leases."""
    from holdingpen.client.blocking import connect
    from holdingpen.ctl import export, render, terminal

    with connect(args.socket, "holdingpenctl") as conn:
        status = conn.status()
    view = terminal.view()
    if args.ahead and args.json:
        ahead = [export.lease_object(a, view.user) for a in export.booked(status)]
        page = {"version": export.VERSION, "now": status.now, "ahead": ahead}
        terminal.say([export.json_line(page)])
    elif args.ahead:
        terminal.say(render.ahead_lines(status, view))
    elif args.json:
        leases = [export.lease_object(a, view.user) for a in export.holders(status)]
        page = {"version": export.VERSION, "now": status.now, "leases": leases}
        terminal.say([export.json_line(page)])
    else:
        terminal.say(render.lease_lines(status, view))
    return 0


def run_queue(args: argparse.Namespace) -> int:
    """Show the line."""
    from holdingpen.client.blocking import connect
    from holdingpen.ctl import export, render, terminal

    with connect(args.socket, "holdingpenctl") as conn:
        status = conn.status()
    view = terminal.view()
    if args.json:
        line = [export.waiter_object(a, view.user) for a in export.waiters(status)]
        page = {"version": export.VERSION, "now": status.now, "line": line}
        terminal.say([export.json_line(page)])
    else:
        terminal.say(render.queue_lines(status, view))
    return 0


def run_why(args: argparse.Namespace) -> int:
    """Tell the story of a lease."""
    from holdingpen.client.blocking import connect
    from holdingpen.ctl import export, story, terminal

    with connect(args.socket, "holdingpenctl") as conn:
        lease = conn.story(args.lease)
    view = terminal.view()
    if args.json:
        terminal.say([export.json_line(export.story_object(lease, view.user))])
    else:
        terminal.say(story.story_lines(lease, terminal.now_s(), view))
    return 0
