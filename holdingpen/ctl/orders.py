"""holdingpenctl set, drain, undrain, grant and revoke: what operators may order."""

from __future__ import annotations

import argparse

from holdingpen.amounts import parse_amount
from holdingpen.errors import LocalMistake

_SET_EPILOG = """\
AMOUNT: 512M, 4G and 1.5T are powers of 1024, 4GB is 10^9, a bare number is
bytes; counts are whole numbers.  'default' is what the machine has, or what
the configuration says.  The order outlives a restart and a reboot.

Less than what is leased now ends nobody's lease: nothing more is lent until
enough was given back.

examples:
  holdingpenctl set ram 48G
  holdingpenctl set licence 2
  holdingpenctl set ram default
"""

_DRAIN_EPILOG = """\
What runs goes on; what waits goes on waiting.  The order outlives a restart and
a reboot, until 'holdingpenctl undrain'.

examples:
  holdingpenctl drain new kernel at six
  holdingpenctl list        # who is still there?
  holdingpenctl undrain
"""

_UNDRAIN_EPILOG = """\
examples:
  holdingpenctl undrain
"""

_GRANT_EPILOG = """\
Who sits at the machine may ask without any [[allow]] rule, and what he asks for
goes before what others ask for from afar.  It is until 'holdingpenctl revoke'.

examples:
  holdingpenctl grant ada
"""

_REVOKE_EPILOG = """\
What the user has got meanwhile stays his.

examples:
  holdingpenctl revoke ada
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Teach the command line the verbs."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser(
        "set",
        help="how much of a resource may be lent",
        description="Set how much of a resource may be lent (operators only).",
        epilog=_SET_EPILOG,
        formatter_class=raw,
    )
    parser.add_argument("resource", metavar="NAME", help="ram, cpu, licence, ...")
    parser.add_argument("amount", metavar="AMOUNT", help="how much, or 'default'")
    parser.set_defaults(run=run_set)

    parser = verbs.add_parser(
        "drain",
        help="start nothing new",
        description="Let nothing new start (operators only).",
        epilog=_DRAIN_EPILOG,
        formatter_class=raw,
    )
    parser.add_argument(
        "reason", metavar="REASON", nargs="*", help="why: shown to those who wait"
    )
    parser.set_defaults(run=run_drain)

    parser = verbs.add_parser(
        "undrain",
        help="start new leases again",
        description="Let leases start again (operators only).",
        epilog=_UNDRAIN_EPILOG,
        formatter_class=raw,
    )
    parser.set_defaults(run=run_undrain)

    parser = verbs.add_parser(
        "grant",
        help="say that a user sits at the machine",
        description="Say that a user sits at the machine (operators only).",
        epilog=_GRANT_EPILOG,
        formatter_class=raw,
    )
    parser.add_argument("user", metavar="USER", help="name of a user")
    parser.set_defaults(run=run_seat, on=True)

    parser = verbs.add_parser(
        "revoke",
        help="say that a user sits there no more",
        description="Say that a user sits at the machine no more (operators only).",
        epilog=_REVOKE_EPILOG,
        formatter_class=raw,
    )
    parser.add_argument("user", metavar="USER", help="name of a user")
    parser.set_defaults(run=run_seat, on=False)


def run_set(args: argparse.Namespace) -> int:
    """Set a capacity."""
    from holdingpen.client.blocking import connect

    default = args.amount == "default"
    amount = None if default else parse_amount(args.resource, args.amount)
    with connect(args.socket, "holdingpenctl") as conn:
        conn.set_capacity(args.resource, amount)
    return 0


def run_drain(args: argparse.Namespace) -> int:
    """Let nothing new start."""
    from holdingpen.client.blocking import connect
    from holdingpen.wire.messages import TEXT_MAX

    reason = " ".join(args.reason)
    if len(reason) > TEXT_MAX:
        raise LocalMistake(
            f"a reason of {len(reason)} characters is too long: at most {TEXT_MAX} "
            "are shown to those who wait."
        )
    with connect(args.socket, "holdingpenctl") as conn:
        conn.drain(reason)
    return 0


def run_seat(args: argparse.Namespace) -> int:
    """Say who sits at the machine."""
    from holdingpen.client.blocking import connect
    from holdingpen.ctl.asking import user_id

    uid = user_id(args.user)
    with connect(args.socket, "holdingpenctl") as conn:
        conn.seat(uid, args.on)
    return 0


def run_undrain(args: argparse.Namespace) -> int:
    """Let leases start again."""
    from holdingpen.client.blocking import connect

    with connect(args.socket, "holdingpenctl") as conn:
        conn.undrain()
    return 0
