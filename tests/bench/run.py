"""The speed table; run it as `python tests/bench/run.py [NAME ...] [--quick]`.

Prints every figure with its limit, and the medians behind it for orientation.  It
is a measurement, so a figure that is not met is no failure: the exit status is 1 only
when something could not be run at all.  It takes about three minutes, with --quick
under one; either way it wants a machine that is doing little else.
"""

# ruff: noqa: E402 (the path comes first)

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

# The checkout this file is in is what is measured, whatever is installed.
sys.path[:0] = [str(Path(__file__).parents[2])]

import ballast
import crowd
import journal
import line
import roundtrips
import startup
from harness import CORES, Row, Run, Skipped, available_bytes

#: Name to the functions that measure, each of which gives rows.
GROUPS = {
    "roundtrips": [roundtrips.single, roundtrips.journaled, roundtrips.connecting],
    "line": [line.loaded, line.decision],
    "crowd": [crowd.cpu, crowd.idle, crowd.most],
    "journal": [journal.group_commit, journal.replaying, journal.rotation],
    "ballast": [
        ballast.freeing,
        ballast.stalls,
        ballast.looking,
        ballast.handing,
    ],
    "startup": [startup.starting, startup.handover],
}

WIDTHS = (52, 41, 22, 9, 8)


def show(row: Row) -> None:
    verdict, limit = "", ""
    if row.limit is not None:
        verdict = "met" if row.met else "NOT MET"
        limit = f"{'>=' if row.at_least else '<='} {number(row.limit)}"
    spread = f"({number(min(row.rounds))}-{number(max(row.rounds))})"
    value = f"{number(row.value)} {row.unit}".rstrip()
    if len(row.rounds) > 1:
        value = f"{value} {spread}"
    say(row.figure, row.against, value, limit, verdict, row.detail)


def number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def say(*cells: str) -> None:
    padded = [cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=False)]
    print(" ".join([*padded, *cells[len(WIDTHS) :]]).rstrip(), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(GROUPS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, less each")
    words = parser.parse_args()
    if unknown := set(words.names) - set(GROUPS):
        parser.error(f"unknown {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    failed = False
    began = time.monotonic()
    print(
        f"{len(CORES)} cores, load {os.getloadavg()[0]:.1f}, "
        f"{available_bytes() / 2**30:.0f} GiB available, Linux {os.uname().release}, "
        f"Python {sys.version.split()[0]}{', quick' if words.quick else ''}"
    )
    say("figure", "against", "median (range)", "limit", "", "medians, ours / theirs")
    for name in words.names or GROUPS:
        for measure in GROUPS[name]:
            with tempfile.TemporaryDirectory(prefix="pen-") as directory:
                try:
                    for row in measure(Run(words.quick, Path(directory))):
                        show(row)
                except Skipped as why:
                    print(f"{name}: {measure.__name__} skipped: {why}", flush=True)
                except Exception:
                    failed = True
                    print(f"{name}: {measure.__name__} could not be run:", flush=True)
                    traceback.print_exc()
    print(f"took {time.monotonic() - began:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
