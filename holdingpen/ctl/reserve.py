"""holdingpenctl reserve and extend: amounts for a time, without a connection."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, NamedTuple

from holdingpen.ctl.asking import (
    add_amounts,
    add_people,
    duration,
    lease_id,
    take_negative,
)
from holdingpen.durations import format_duration
from holdingpen.errors import LocalMistake, Refusal

if TYPE_CHECKING:
    from datetime import tzinfo

    from holdingpen.ctl.asking import People
    from holdingpen.wire import messages as wire

_RESERVE_EPILOG = """\
A reservation is yours until its time is over or you release it, whatever runs
or does not run in it; it outlives a restart and a reboot.  Your programs draw
on it by themselves, and 'gatekeeper --in ID CMD' on this one.

Without --at it begins as soon as it can.  Until then it waits in the line, and
Ctrl-C leaves the line.  With --at it is decided at once: what is in its way is
said, and when it would fit.

TIME: 14:00, tomorrow 9:00, mon 9:00, 2026-11-23 09:00, +2h.
RULE: daily, weekdays, weekly, monthly, or an RRULE such as
FREQ=WEEKLY;BYDAY=MO,WE.  Without --until it goes on for a year.

exit status: 0 reserved; 1 it can never be; 75 not now, or something reserved
is in its way; 77 not permitted; 130 Ctrl-C.

examples:
  holdingpenctl reserve --ram 8G -d 2h
  holdingpenctl reserve --machine -d 30m -r 'timing runs' --wait 1h
  holdingpenctl reserve --ram 16G -d 2h --at 'mon 9:00' --every weekly \\
      --until 2027-02-01 --group course -r 'Algorithms'
  lease=$(holdingpenctl reserve --short --cpu 4 -d 1h) &&
      gatekeeper --in "$lease" make
"""

_EXTEND_EPILOG = """\
It is told when it ends now.  What is reserved after it may be in the way (75).

examples:
  holdingpenctl extend 17 30m
"""


class Wish(NamedTuple):
    """What a `reserve` asks for, read from its words."""

    amounts: dict[str, int]
    length_s: float
    #: Seconds since 1970; empty: as soon as it can.
    starts: list[float]
    #: Whether the rule goes on after the last of them.
    goes_on: bool
    wait_s: float | None
    label: str
    reason: str
    people: People


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Teach the command line the verbs."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser(
        "reserve",
        help="have something for a time, now or at a date",
        description="Reserve something for a time: from now, or from when it is free,\n"
        "or at a date.",
        epilog=_RESERVE_EPILOG,
        formatter_class=raw,
    )
    add_amounts(parser)
    when = parser.add_argument_group("when")
    when.add_argument("-d", dest="length", metavar="DUR", help="how long, such as 2h")
    when.add_argument("--at", metavar="TIME", help="begin at this time")
    when.add_argument("--every", metavar="RULE", help="and again, by this rule")
    when.add_argument("--until", metavar="TIME", help="not after this time")
    patience = when.add_mutually_exclusive_group()
    patience.add_argument(
        "--nonblock", action="store_true", help="now or not at all: do not wait"
    )
    patience.add_argument("--wait", metavar="DUR", help="wait so long at most")
    when.add_argument(
        "--priority",
        type=int,
        default=0,
        metavar="N",
        help="place in the line; higher goes first",
    )
    add_people(parser)
    told = parser.add_argument_group("what others and you are told")
    told.add_argument("-r", dest="reason", metavar="REASON", default="", help="why")
    told.add_argument("--label", metavar="TEXT", default="", help="a name for it")
    form = told.add_mutually_exclusive_group()
    form.add_argument(
        "--short", action="store_true", help="print its number and nothing else"
    )
    form.add_argument("--json", action="store_true", help="one JSON object, version 1")
    take_negative(parser)
    parser.set_defaults(run=run_reserve)

    parser = verbs.add_parser(
        "extend",
        help="have a reservation end later",
        description="Have a reservation end later.",
        epilog=_EXTEND_EPILOG,
        formatter_class=raw,
    )
    parser.add_argument("lease", metavar="ID", type=lease_id, help="its number")
    parser.add_argument("by", metavar="DUR", help="by how much, such as 30m")
    take_negative(parser)
    parser.set_defaults(run=run_extend)


def run_reserve(args: argparse.Namespace) -> int:
    """Ask, wait in the line where there is one, and say what came of it."""
    from holdingpen.client.blocking import connect
    from holdingpen.ctl import asking, terminal
    from holdingpen.ctl.waiting import Vigil

    now, zone = terminal.now_s(), terminal.zone()
    wish = read_wish(args, now, zone)
    with connect(args.socket, "holdingpenctl") as conn, Vigil() as vigil:
        try:
            made = conn.reserve(
                wish.amounts,
                wish.length_s,
                starts=wish.starts,
                priority=args.priority,
                wait_s=wish.wait_s,
                label=wish.label,
                reason=wish.reason,
                uid=wish.people.uid,
                gid=wish.people.gid,
                waiting=vigil.tell,
            )
        except Refusal as why:
            several = len(wish.starts) > 1
            raise asking.with_alternative(why, several=several) from None
    terminal.say(_answer(args, wish, made))
    return 0


def read_wish(args: argparse.Namespace, now: float, zone: tzinfo) -> Wish:
    """Make sense of the words.

    Args:
        args: of the command line.
        now: seconds since 1970.
        zone: in which times are written.

    Raises:
        LocalMistake: when they make none.
    """
    from holdingpen.ctl import asking

    amounts = asking.read_amounts(args)
    if args.length is None:
        raise LocalMistake(
            "how long? A reservation lasts as long as you say, whether you use it or "
            "not: add -d, such as -d 2h."
        )
    length_s = duration(args.length)
    wait_s = 0.0 if args.nonblock else None
    if args.wait is not None:
        wait_s = duration(args.wait)
    return Wish(
        amounts,
        length_s,
        *_starts(args, now, zone),
        wait_s,
        asking.must_be_short("label", args.label),
        asking.must_be_short("reason", args.reason),
        asking.read_people(args),
    )


def _starts(
    args: argparse.Namespace, now: float, zone: tzinfo
) -> tuple[list[float], bool]:
    """When each is to begin, and whether the rule goes on after the last."""
    if args.at is None:
        if args.every is not None or args.until is not None:
            raise LocalMistake("--every and --until need a begin: add --at TIME.")
        return [], False
    if args.wait is not None:
        raise LocalMistake(
            "what begins at a date is decided at once and never waits in the line: "
            "leave out --at or --wait."
        )
    from holdingpen.ctl import dates

    start = dates.parse_time(args.at, now, zone)
    if args.every is None:
        if args.until is not None:
            raise LocalMistake(
                "--until says how long --every goes on; the end of one reservation is "
                "its begin and -d."
            )
        return [start], False
    until = None
    if args.until is not None:
        until = dates.parse_until(args.until, now, zone)
    series = dates.occurrences(start, args.every, until, zone)
    return series.starts, not series.complete


def _answer(args: argparse.Namespace, wish: Wish, made: wire.Reserved) -> list[str]:
    from holdingpen.ctl import export, terminal

    if args.short:
        return [str(lease) for lease in made.leases]
    if args.json:
        answer: dict[str, object] = {
            "version": export.VERSION,
            "leases": made.leases,
            "amounts": made.amounts,
            "starts": wish.starts or [made.starts],
            "length": wish.length_s,
            "expires": made.expires,
        }
        return [export.json_line(answer)]
    uid = wish.people.uid
    user = None if uid is None else terminal.user_name(uid)
    return [*_made(wish, made, user), *_how_to_use(made.leases, user)]


def _made(wish: Wish, made: wire.Reserved, user: str | None) -> list[str]:
    from holdingpen.ctl import render, terminal

    now = terminal.now_s()
    what = render.in_words(made.amounts)
    for_whom = "" if user is None else f" for {user}"
    long = format_duration(wish.length_s)
    first = terminal.times_words(made.starts, made.expires, now)
    if not wish.starts:
        end = terminal.time_words(made.expires, now)
        when = f"for {long}, until {end}: lease {made.leases[0]}"
        return [f"Reserved {what}{for_whom} {when}."]
    if len(wish.starts) == 1:
        return [f"Reserved {what}{for_whom}, {first}: lease {made.leases[0]}."]
    end = terminal.times_words(wish.starts[-1], wish.starts[-1] + wish.length_s, now)
    lines = [
        f"Reserved {what}{for_whom}, {len(wish.starts)} times: "
        f"leases {render.ids(made.leases)}.",
        f"First {first}, last {end}.",
    ]
    if wish.goes_on:
        lines.append("That is a year ahead; with --until it is what you say.")
    return lines


def _how_to_use(leases: list[int], user: str | None) -> list[str]:
    whose = "Your" if user is None else f"{user}'{'' if user.endswith('s') else 's'}"
    first = leases[0]
    if len(leases) > 1:
        return [
            f"{whose} programs draw on them by themselves, on each in its time.",
            f"End one of them: holdingpenctl release {first}",
            f"End all of them: holdingpenctl release --series {first}",
        ]
    return [
        f"{whose} programs draw on it by themselves; 'gatekeeper --in {first} CMD' "
        "draws on no other.",
        f"End it: holdingpenctl release {first}",
    ]


def run_extend(args: argparse.Namespace) -> int:
    """Have it end later, and say when."""
    from holdingpen.client.blocking import connect
    from holdingpen.ctl import asking, terminal

    by_s = duration(args.by)
    with connect(args.socket, "holdingpenctl") as conn:
        try:
            extended = conn.extend(args.lease, by_s)
        except Refusal as why:
            sys.stdout.flush()
            raise asking.with_alternative(why) from None
    end = terminal.time_words(extended.expires, terminal.now_s())
    terminal.say([f"Lease {extended.lease} ends {end}."])
    return 0
