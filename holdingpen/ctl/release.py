"""holdingpenctl release: end leases, places in the line and reservations."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from holdingpen.ctl.asking import lease_id
from holdingpen.errors import EXIT_NO, LocalMistake, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdingpen.client.blocking import Connection
    from holdingpen.wire import messages as wire

_EPILOG = """\
You may end your own leases, waits and reservations; root and operators may end
anybody's.  The program of an ended lease goes on running: it is told, and what
it uses is counted as foreign.

--label takes what is yours or what you reserved for others; --series the
reservations that were made together with ID; --all (or --mine) all your own
reservations, and nothing else: for root those of root.

exit status: 0 all were released; 1 there was nothing to release, or one of
them is no lease; 77 one of them is not yours.  The others are released all the
same.

examples:
  holdingpenctl release 17
  holdingpenctl release 17 18 19
  holdingpenctl release --label exam
  holdingpenctl release --all
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Teach the command line the verb."""
    parser = verbs.add_parser(
        "release",
        help="end leases, places in the line, reservations",
        description="End leases, places in the line and reservations.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "leases", metavar="ID", nargs="*", type=lease_id, help="number of a lease"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--label", metavar="TEXT", help="mine that have this label")
    which.add_argument(
        "--series", metavar="ID", type=lease_id, help="all that were made with this one"
    )
    which.add_argument(
        "--all", "--mine", action="store_true", help="all my reservations"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """End leases; the exit status is that of the gravest refusal."""
    from holdingpen.client.blocking import connect
    from holdingpen.ctl import render, terminal

    chosen = args.label is not None or args.series is not None or args.all
    if bool(args.leases) == chosen:
        raise LocalMistake(
            "say which: 'holdingpenctl release ID...', or one of --label, --series "
            "and --all."
        )
    with connect(args.socket, "holdingpenctl") as conn:
        found = _find(args, conn.status().leases) if chosen else args.leases
        if not found:
            terminal.complain(f"there is nothing to release: {_nothing(args)}.")
            return EXIT_NO
        ended, worst = _end(conn, found)
        if ended:
            terminal.say([f"Released {render.ids(sorted(ended))}."])
        return worst


def _end(conn: Connection, leases: Iterable[int]) -> tuple[list[int], int]:
    """Release each; returns those that are over, and the exit status."""
    from holdingpen.ctl import terminal

    ended, worst = [], 0
    for lease in leases:
        try:
            conn.release(lease)
            ended.append(lease)
        except Refusal as why:
            sys.stdout.flush()
            terminal.complain(why)
            worst = max(worst, why.exit_status)
    return ended, worst


def _find(args: argparse.Namespace, leases: list[wire.LeaseInfo]) -> list[int]:
    """The leases that the options mean, the latest first.

    So what is drawn from a reservation ends before it does, and not because of it.
    """
    import os

    from holdingpen.ctl.export import RESERVATION

    me = os.getuid()
    if args.label is not None:
        found = [
            a for a in leases if a.label == args.label and me in (a.uid, a.made_by)
        ]
    elif args.series is not None:
        first = next(
            (a.series or a.id for a in leases if a.id == args.series), args.series
        )
        found = [a for a in leases if (a.series or a.id) == first]
    else:
        found = [a for a in leases if a.kind == RESERVATION and a.uid == me]
    return sorted((a.id for a in found if a.state != "ended"), reverse=True)


def _nothing(args: argparse.Namespace) -> str:
    if args.label is not None:
        return f"nothing of yours has the label {args.label!r}"
    if args.series is not None:
        return f"there is no lease {args.series}, nor any that was made with it"
    return "you have no reservation"
