"""holdingpenctl confirm: tell who has the machine, and see to it that it is read."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdingpen.ctl.render import View
    from holdingpen.wire import messages as wire

#: A reservation of the whole machine is told of beforehand, so many seconds: what is
#: started by hand today may still run then.
_SOON_S = 24 * 3600

_EPILOG = """\
Says who has the whole machine, why, since when and until when, and what else
is reserved now.  On a terminal it waits for ENTER when somebody has the whole
machine: put it into a login script.  For scripts there is
'holdingpenctl status --exit-code', and 'holdingpenctl prompt' for prompts.

exit status: 0, whoever has it; 69 no daemon.

examples:
  holdingpenctl confirm
  holdingpenctl confirm && ./benchmark
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Teach the command line the verb."""
    parser = verbs.add_parser(
        "confirm",
        help="who has the machine? On a terminal: press ENTER",
        description="Tell who has the machine; on a terminal wait until it is read.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tell, and wait for ENTER where somebody is there to press it."""
    from holdingpen.client.blocking import connect
    from holdingpen.ctl import export, terminal

    with connect(args.socket, "holdingpenctl") as conn:
        status = conn.status()
    terminal.say(lines(status, terminal.view()))
    if export.reserved(status) and sys.stdin.isatty() and sys.stdout.isatty():
        print("Press ENTER when you have read this. ", end="", flush=True)
        sys.stdin.readline()
    return 0


def lines(status: wire.Status, view: View) -> list[str]:
    """Who has the machine, in lines for people."""
    from holdingpen.ctl import render
    from holdingpen.ctl.export import MACHINE, RESERVATION, booked, holders

    said: list[str] = []
    for lease in holders(status):
        if MACHINE in lease.amounts:
            said += _alone(lease, status.now, view)
    parts = [
        lease
        for lease in holders(status)
        if lease.kind == RESERVATION and MACHINE not in lease.amounts
    ]
    if not said:
        text = "Nobody has the machine to himself"
        if parts:
            said += render.folded([f"{text}, but parts of it are reserved."], view)
        else:
            free = render.folded([f"{text}; do what you like."], view)
            said += [render.paint(line, render.GREEN, view) for line in free]
    if parts:
        said += ["", *render.part_lines(parts, status.now, view)]
    soon = [
        _to_come(lease, status.now, view)
        for lease in booked(status)
        if MACHINE in lease.amounts and (lease.starts or 0.0) < status.now + _SOON_S
    ]
    if soon and parts:
        said.append("")
    return said + render.folded(soon, view)


def _alone(lease: wire.LeaseInfo, now: float, view: View) -> list[str]:
    from holdingpen.ctl import render
    from holdingpen.ctl.text import clean

    since = lease.granted or lease.asked
    story = []
    if lease.reason or lease.label:
        story.append(f"Reason: {clean(lease.reason or lease.label)}")
    if lease.command:
        story.append(f"Command: {clean(lease.command)}")
    story.append(f"Since: {view.time(since, now)} ({render.span(since, now)} ago)")
    if lease.expires is None:
        story.append("Until: its program ends")
        story.append("Time remaining: not known")
    else:
        story.append(f"Until: {view.time(lease.expires, now)}")
        story.append(f"Time remaining: {render.span(now, lease.expires)}")
    user = clean(view.user(lease.uid))
    first = f"Be careful: {user} has the whole machine (lease {lease.id})."
    alarm = [render.paint(a, render.RED, view) for a in render.folded([first], view)]
    return [*alarm, *render.folded(story, view)]


def _to_come(lease: wire.LeaseInfo, now: float, view: View) -> str:
    from holdingpen.ctl import render
    from holdingpen.ctl.text import clean

    why = clean(lease.reason or lease.label)
    times = render.reserved_times(lease, now, view)
    user = clean(view.user(lease.uid))
    return f"To come: {user} has the whole machine {times}{': ' if why else ''}{why}"
