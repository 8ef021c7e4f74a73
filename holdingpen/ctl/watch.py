"""holdingpenctl watch: events as they happen."""

from __future__ import annotations

import argparse

_EPILOG = """\
It ends with the daemon (exit status 69) or with Ctrl-C (130).

examples:
  holdingpenctl watch
  holdingpenctl watch --json | jq -c 'select(.what == "granted")'
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Teach the command line the verb."""
    parser = verbs.add_parser(
        "watch",
        help="events as they happen",
        description="Print a line for each event from now on: who joins the line,\n"
        "whose lease begins or ends, what is set.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line, version 1"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print events until the daemon ends, which is an error."""
    from holdingpen.client.blocking import connect
    from holdingpen.ctl import export, story, terminal

    with connect(args.socket, "holdingpenctl") as conn:
        for event in conn.watch():
            if args.json:
                line = export.json_line(export.event_object(event))
            else:
                line = story.event_line(event, terminal.view())
            terminal.say([line])
    return 0
