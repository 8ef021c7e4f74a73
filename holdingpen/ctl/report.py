"""holdingpenctl report: who used how much of what, and how long people waited."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdingpen.ctl.render import View
    from holdingpen.wire import messages as wire

#: The days that are looked at where --days does not say: as canhazgpu's report does.
DAYS = 30
_DAYS_MAX = 36500

#: So many users are named for each resource.
_NAMED_MAX = 3

#: Hours have so many digits that say something, and one after the point at least: a
#: short run is not "0.0".
_DIGITS = 3
#: A millionth of an hour is 4 ms: what is less is told as that.
_DECIMALS_MAX = 6

_EPILOG = """\
Bytes are counted as GiB-hours: 8 GiB for 3 hours are 24.  A lease counts with
what it held, used or not; a reservation counts once, with what is drawn from
it.  What is held now counts up to now.  SHARE is of what all had of it.  LEFT
are those who gave up waiting; WAITED is how long the others did on average.

JSON (version 1): "used" in byte-seconds or unit-seconds, "share" from 0 to 1,
"waited_mean" and "waited_max" in seconds.

examples:
  holdingpenctl report
  holdingpenctl report --days 7 --user ada
  holdingpenctl report --json | jq '.users[] | [.user, .share.ram]'
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Teach the command line the verb."""
    parser = verbs.add_parser(
        "report",
        help="who used how much",
        description="Show who had how much of what for how long, most first.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--days",
        type=_days,
        default=DAYS,
        metavar="N",
        help=f"the last N days (default: {DAYS})",
    )
    parser.add_argument("--user", metavar="USER", help="only this user's part")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object, version 1"
    )
    parser.set_defaults(run=run)


def _days(text: str) -> int:
    # a page of nines is no number of days, and int() would take its time
    if text.isascii() and text.isdigit() and len(text) < 10:
        days = int(text)
        if 0 < days <= _DAYS_MAX:
            return days
    raise argparse.ArgumentTypeError(
        f"{text!r} is no number of days from 1 to {_DAYS_MAX}"
    )


def run(args: argparse.Namespace) -> int:
    """Ask what was used, and show it."""
    from holdingpen.client.blocking import connect
    from holdingpen.ctl import export, terminal
    from holdingpen.ctl.asking import user_id

    uid = None if args.user is None else user_id(args.user)
    with connect(args.socket, "holdingpenctl") as conn:
        report = conn.report(terminal.now_s() - args.days * 86400)
    view = terminal.view()
    if args.json:
        answer = report_object(report, args.days, uid, view.user)
        terminal.say([export.json_line(answer)])
    else:
        terminal.say(lines(report, args.days, uid, view))
    return 0


def report_object(
    report: wire.Report, days: int, uid: int | None, user: Callable[[int], str]
) -> dict[str, object]:
    """What `report --json` prints.

    Args:
        report: what the daemon said.
        days: how many were asked for.
        uid: the only user to show; None: all.
        user: the name of a uid.
    """
    from holdingpen.ctl.export import VERSION

    return {
        "version": VERSION,
        "since": report.since,
        "until": report.until,
        "days": days,
        "users": [
            {"user": user(one.uid or 0), "uid": one.uid} | _usage_object(one)
            for one in _shown(report, uid)
        ],
        "all": _usage_object(report.all),
    }


def _usage_object(usage: wire.Usage) -> dict[str, object]:
    return {
        "used": usage.used,
        "share": usage.share,
        "leases": usage.leases,
        "reservations": usage.reservations,
        "left": usage.left,
        "waited_mean": usage.waited_mean_s,
        "waited_max": usage.waited_max_s,
    }


def _shown(report: wire.Report, uid: int | None) -> list[wire.Usage]:
    users = report.users if uid is None else [a for a in report.users if a.uid == uid]
    return sorted(users, key=_most, reverse=True)


def _most(usage: wire.Usage) -> float:
    return max(usage.share.values(), default=0.0)


def lines(report: wire.Report, days: int, uid: int | None, view: View) -> list[str]:
    """What was used, in lines for people: by user, and by resource.

    Args:
        report: what the daemon said.
        days: how many were asked for.
        uid: the only user to show; None: all.
        view: for whom to print.
    """
    from holdingpen.ctl import render
    from holdingpen.ctl.text import Column, clean

    begin, end = view.date(report.since), view.date(report.until)
    period = f"From {begin} to {end} ({days} {'day' if days == 1 else 'days'})"
    users = _shown(report, uid)
    if not users:
        who = "Nobody" if uid is None else clean(view.user(uid))
        said = f"{who} had {'anything' if uid is None else 'nothing'}."
        return render.folded([f"{period}:", said], view)
    layout = [
        Column("USER", least=6),
        Column("RESOURCE", least=8),
        Column("HOURS", right=True),
        Column("SHARE", right=True),
        Column("LEASES", right=True, spare=True),
        Column("RESERVATIONS", right=True, spare=True),
        Column("WAITED", right=True, spare=True),
        Column("AT MOST", right=True, spare=True),
        Column("LEFT", right=True, spare=True),
    ]
    everybody = report.all
    rows = [
        row for one in users for row in _rows(view.user(one.uid or 0), one, everybody)
    ]
    rows += _rows("TOTAL", everybody, everybody)
    page = [*render.folded([f"{period}:"], view), *render.titled(layout, rows, view)]
    if uid is None and report.all.used:
        page += ["", *_by_resource(report, users, view)]
    return page


def _rows(name: str, usage: wire.Usage, everybody: wire.Usage) -> Iterator[list[str]]:
    """A row for each resource; what is not by resource stands on the first."""
    from holdingpen.ctl.render import span
    from holdingpen.ctl.text import clean

    first = [
        str(usage.leases),
        str(usage.reservations),
        span(0.0, usage.waited_mean_s),
        span(0.0, usage.waited_max_s),
        str(usage.left or ""),
    ]
    person = clean(name)
    had = [name for name in everybody.used if name in usage.used]
    # whoever only waited has a row, too
    for resource in had or [""]:
        hours = _hours(resource, usage.used[resource]) if resource else "0"
        # TOTAL is all of it, whatever was counted
        share = _percent(usage.share.get(resource, 1.0)) if resource else ""
        yield [person, _counted(resource), hours, share, *first]
        person, first = "", [""] * len(first)


def _percent(part: float) -> str:
    return f"{100 * part:.1f}%"


def _counted(resource: str) -> str:
    from holdingpen.amounts import is_bytes
    from holdingpen.ctl.text import clean

    return clean(f"{resource} (GiB)" if is_bytes(resource) else resource)


def _hours(resource: str, used: float) -> str:
    from holdingpen.amounts import is_bytes

    hours = used / 3600 / (2**30 if is_bytes(resource) else 1)
    if not hours:
        return "0"
    # of the rounded number: 9.999 has two digits before the point
    exponent = int(f"{hours:.{_DIGITS - 1}e}".partition("e")[2])
    if exponent < -_DECIMALS_MAX:
        return f"<{10**-_DECIMALS_MAX:.{_DECIMALS_MAX}f}"
    return f"{hours:.{min(max(1, _DIGITS - 1 - exponent), _DECIMALS_MAX)}f}"


def _by_resource(report: wire.Report, users: list[wire.Usage], view: View) -> list[str]:
    from holdingpen.ctl import render
    from holdingpen.ctl.text import Column, clean

    layout = [
        Column("BY RESOURCE", least=8),
        Column("HOURS", right=True),
        Column("USERS", right=True, spare=True),
        Column("MOST", least=10),
    ]
    rows = []
    for resource, used in report.all.used.items():
        having = [one for one in users if one.used.get(resource)]
        having.sort(key=lambda one: -one.used[resource])
        most = [
            f"{clean(view.user(one.uid or 0))} {_percent(one.share.get(resource, 0.0))}"
            for one in having[:_NAMED_MAX]
        ]
        rows.append(
            [
                _counted(resource),
                _hours(resource, used),
                str(len(having)),
                ", ".join(most),
            ]
        )
    return render.titled(layout, rows, view)
