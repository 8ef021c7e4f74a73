"""holdingpenctl list, queue, why and release: leases and places in the line."""

from __future__ import annotations

import argparse
import sys

from holdingpen.amounts import AMOUNT_MAX

_LIST_EPILOG = """\
examples:
  holdingpenctl list
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

_RELEASE_EPILOG = """\
You may end your own leases and waits; root and operators may end anybody's.
The program of an ended lease goes on running: it is told, and what it uses is
counted as foreign.

exit status: 0 all were released; 1 one of them is no lease; 77 one of them is
not yours.  The others are released all the same.

examples:
  holdingpenctl release 17
  holdingpenctl release 17 18 19
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
    parser.add_argument("lease", metavar="ID", type=_lease_id, help="its number")
    _add_json(parser)
    parser.set_defaults(run=run_why)

    parser = verbs.add_parser(
        "release",
        help="end leases or places in the line",
        description="End leases or places in the line.",
        epilog=_RELEASE_EPILOG,
        formatter_class=raw,
    )
    parser.add_argument(
        "leases", metavar="ID", nargs="+", type=_lease_id, help="number of a lease"
    )
    parser.set_defaults(run=run_release)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="one JSON object, version 1"
    )


def _lease_id(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 20:
        number = int(text)
        if 0 < number <= AMOUNT_MAX:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is no number of a lease, such as 17")


def run_list(args: argparse.Namespace) -> int:
    """Show the leases."""
    from holdingpen.client.blocking import connect
    from holdingpen.ctl import export, render, terminal

    with connect(args.socket, "holdingpenctl") as conn:
        status = conn.status()
    view = terminal.view()
    if args.json:
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
    import time

    from holdingpen.client.blocking import connect
    from holdingpen.ctl import export, render, terminal

    with connect(args.socket, "holdingpenctl") as conn:
        lease = conn.story(args.lease)
    view = terminal.view()
    if args.json:
        terminal.say([export.json_line(export.story_object(lease, view.user))])
    else:
        terminal.say(render.story_lines(lease, time.time(), view))
    return 0


def run_release(args: argparse.Namespace) -> int:
    """End leases; the exit status is that of the gravest refusal."""
    from holdingpen.client.blocking import connect
    from holdingpen.ctl import terminal
    from holdingpen.errors import Refusal

    worst = 0
    with connect(args.socket, "holdingpenctl") as conn:
        for lease in args.leases:
            try:
                conn.release(lease)
            except Refusal as why:
                sys.stdout.flush()
                terminal.complain(why)
                worst = max(worst, why.exit_status)
    return worst
