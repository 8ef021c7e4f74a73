"""holdingpenctl status: how things stand."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from typing import TYPE_CHECKING

from holdingpen.errors import EXIT_NO, LocalMistake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdingpen.wire import messages as wire

#: How often --watch looks: as watch(1) does.
WATCH_S = 2.0
#: How often it may look at most: as watch(1) too.
WATCH_S_MIN = 0.1

_EPILOG = """\
A new lease can have what is FREE and what is HELD: HELD is kept back by the
daemon until somebody's lease needs it.  SETTLING was given back and is not
measured free yet; FOREIGN is used by programs outside all leases.

RESERVED AHEAD are the next reservations that begin at a date; 'holdingpenctl
list --ahead' shows all.

fields for -o: NAME.capacity, NAME.free, NAME.held, NAME.leased, NAME.settling
and NAME.foreign for each resource, in bytes or units; leases, line, ahead,
troubles (how many); reserved, draining (true or false); version, since, socket.

exit status with --exit-code: 0 nobody has the whole machine; 1 somebody has,
by a lease or a reservation.  Without a daemon it is 69, as always.

examples:
  holdingpenctl status
  holdingpenctl status --watch 5
  holdingpenctl status -o ram.free,ram.held
  holdingpenctl status --json | jq '.leases[].user'
  holdingpenctl status --exit-code; [ $? = 1 ] && echo 'Do not disturb.'
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Teach the command line the verb."""
    parser = verbs.add_parser(
        "status",
        help="capacity, leases and the line",
        description="Show what the machine has, who holds it and who waits for it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object, version 1")
    form.add_argument(
        "-o",
        dest="fields",
        metavar="FIELDS",
        help="only these values, in one line with tabs between",
    )
    form.add_argument(
        "--short",
        action="store_true",
        help="a line for each resource and one for the leases",
    )
    parser.add_argument(
        "--exit-code",
        action="store_true",
        help="exit 1 when the whole machine is reserved; alone, print nothing",
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_interval,
        const=WATCH_S,
        metavar="SECONDS",
        help=f"show it again every {WATCH_S:g} seconds, or every SECONDS",
    )
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour: on a terminal unless NO_COLOR is set (auto), always or never",
    )
    parser.set_defaults(run=run)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not WATCH_S_MIN <= seconds <= 86400:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds from {WATCH_S_MIN:g} to 86400"
        )
    return seconds


def run(args: argparse.Namespace) -> int:
    """Carry the verb out and return the exit status."""
    from holdingpen.ctl import export, terminal

    if args.watch is not None and args.exit_code:
        raise LocalMistake("--watch never ends by itself: leave out --exit-code.")
    if args.watch is not None:
        # Ctrl-C is how a watch ends; watch(1) calls that a success.
        with contextlib.suppress(KeyboardInterrupt):
            _watch(args)
        return 0
    status = next(_statuses(args))
    if not args.exit_code or args.json or args.short or args.fields is not None:
        terminal.say(_page(status, args))
    return EXIT_NO if args.exit_code and export.reserved(status) else 0


def _statuses(args: argparse.Namespace) -> Iterator[wire.Status]:
    from holdingpen.client.blocking import connect

    with connect(args.socket, "holdingpenctl") as conn:
        while True:
            yield conn.status()
            time.sleep(args.watch)


def _watch(args: argparse.Namespace) -> None:
    from holdingpen.ctl import terminal

    if sys.stdout.isatty() and not args.json and args.fields is None:
        statuses = _statuses(args)
        first = next(statuses)  # no daemon: say so on the ordinary screen
        with terminal.full_screen():
            terminal.repaint(_page(first, args))
            for status in statuses:
                terminal.repaint(_page(status, args))
    else:
        apart = [] if args.json or args.fields is not None else [""]
        for status in _statuses(args):
            terminal.say(_page(status, args) + apart)


def _page(status: wire.Status, args: argparse.Namespace) -> list[str]:
    from holdingpen.ctl import export, render, terminal

    view = terminal.view(args.color)
    if args.json:
        return [export.json_line(export.status_object(status, view.user))]
    if args.fields is not None:
        return [export.fields(status, args.fields)]
    if args.short:
        return render.summary_lines(status, view)
    return render.status_lines(status, view)
