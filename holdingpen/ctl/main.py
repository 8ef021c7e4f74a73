"""The words of holdingpenctl's command line, and its errors as exit statuses."""

from __future__ import annotations

import argparse
import os
import sys

import holdingpen
from holdingpen.ctl import (
    completion,
    confirm,
    doctor,
    journal,
    leases,
    orders,
    prompt,
    release,
    report,
    reserve,
    schedule,
    status,
    terminal,
    watch,
)
from holdingpen.errors import EXIT_NO, EXIT_USAGE, HoldingPenError

_EPILOG = """\
exit status: 0 done; 1 the answer is no; 2 wrong usage; 65 bad data;
69 no daemon; 75 not available now; 77 not permitted.

'holdingpenctl VERB --help' says more about each verb, with examples.
"""

#: The files of the verbs, in the order of --help.
_PARTS = (
    status,
    leases,
    confirm,
    watch,
    report,
    reserve,
    release,
    schedule,
    orders,
    prompt,
    completion,
    journal,
    doctor,
)

#: What a shell reports of a command that SIGINT or SIGPIPE ended.
_EXIT_SIGINT, _EXIT_SIGPIPE = 130, 141


def make_parser() -> argparse.ArgumentParser:
    """The command line with all its verbs; each sets `run`."""
    parser = argparse.ArgumentParser(
        prog="holdingpenctl",
        description="Look at the machine that Holding Pen lends, and give orders.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help="where the daemon listens; else $HOLDINGPEN_SOCKET, the system's "
        "socket or your own, the first that answers",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"holdingpenctl {holdingpen.__version__}",
    )
    # with `prog` given argparse need not format a usage, which imports shutil
    verbs = parser.add_subparsers(
        title="verbs", metavar="VERB", dest="verb", prog="holdingpenctl"
    )
    for part in _PARTS:
        part.add_parser(verbs)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run holdingpenctl and return its exit status.

    Args:
        argv: the words after the command's name; None: those of this process.

    Raises:
        SystemExit: for --help, --version (0) and words that do not fit (2), as
            argparse does.
    """
    # A terminal that cannot show a letter shows `?`; it is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        try:
            return _obey(argv)
        finally:
            sys.stdout.flush()
    except HoldingPenError as why:
        terminal.complain(why)
        return why.exit_status
    except KeyboardInterrupt:
        return _EXIT_SIGINT
    except BrokenPipeError:
        _discard_output()
        return _EXIT_SIGPIPE
    except OSError as why:
        # what concerns the daemon's socket became an Unavailable in the client
        _discard_output()
        terminal.complain(f"cannot print the answer: {why.strerror or why}.")
        return EXIT_NO


def _obey(argv: list[str] | None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.verb is None:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    exit_status = args.run(args)
    assert isinstance(exit_status, int)
    return exit_status


def _discard_output() -> None:
    # Python flushes standard output once more at exit and would complain again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
