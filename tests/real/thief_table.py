"""The thief table: who gets what is held back for a lease.

    python tests/real/thief_table.py [--quick] [--only NAME ...]

A memory cgroup plays the machine.  In it a pen holds ballast back, a thief takes all
the rest and goes on wanting, and a client under a lease wants its memory 1.5 s after
the grant, as a program does that has to start first.  Each thief is tried with each
way of handing over; --only names some of either.  Needs root (or a delegated memory
cgroup), numpy and a C compiler.  It takes about two minutes, with --quick one.

It is a measurement: the exit status is 1 only when something could not be run.
"""

# ruff: noqa: E402 (the path comes first)

from __future__ import annotations

import argparse
import contextlib
import inspect
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "thieves"), str(HERE.parents[1])]

from machine import MIB, Machine, cgroup_version
from scene import (
    DELAY_S,
    HOLD,
    MACHINE,
    RATE,
    WANTED,
    HandOver,
    Outcome,
    Thief,
    accepts,
    try_out,
)

import holdingpen

THIEVES = [
    Thief(
        "polite",
        "takes while it sees 32 MiB free",
        lambda _: ["polite", str(32 * MIB)],
    ),
    Thief("greedy", "sleeps in its page fault", lambda _: ["greedy"], blocks=True),
    Thief(
        "steady",
        "wants 20 MiB/s more",
        lambda _: ["steady", str(20 * MIB)],
        blocks=True,
    ),
    Thief(
        "churn",
        "reads and writes a big file",
        lambda home: ["churn", str(home / "churned")],
        caches=True,
    ),
]


def _gatekeeper(words: list[str]) -> list[str]:
    # waits as the others do, but for the word that lets it become gatekeeper
    ask = [sys.executable, "-m", "gatekeeper", "--require", "--ram", str(HOLD), "--"]
    wait = 'echo ready; read word; exec "$@"'
    return ["sh", "-c", wait, "sh", *ask, *words, "leased"]


HAND_OVERS = [
    HandOver(
        "free",
        "freed before the grant",
        'handover = "free"',
        lambda words: [*words, "plain"],
    ),
    HandOver(
        "paced",
        "freed as the program grows",
        'handover = "paced"',
        lambda words: [*words, "plain"],
        bound=8 * MIB,
    ),
    HandOver(
        "exact",
        "one control group, gatekeeper",
        'handover = "exact"',
        _gatekeeper,
        bound=0,
        version2=True,
    ),
    HandOver(
        "memory",
        "lease.memory(), open files",
        "",
        lambda words: [*words, "memory"],
        bound=0,
        lease_option="memory",
    ),
]


def missing(how: HandOver) -> str:
    """What this checkout lacks for it; empty when nothing."""
    option = how.lease_option
    if option and option not in inspect.signature(holdingpen.lease).parameters:
        return f"holdingpen.lease has no {option}= yet"
    if how.version2 and cgroup_version() == 1:
        return "needs a cgroup of version 2"
    # a pen that does not know the key frees everything: the first of them
    if how.config and how.name != "free" and not accepts(how.config):
        return f"[ram] {how.config} is not accepted"
    return ""


def cannot_run() -> str:
    """Why nothing can be measured here; empty when it can."""
    if not shutil.which("cc"):
        return "there is no C compiler (cc)"
    try:
        Machine(MACHINE, "").end()
    except OSError as why:
        return f"no memory cgroup can be made here: {why}"
    return ""


def refused(thief: Thief) -> str:
    """Why it cannot be tried here; empty when it can."""
    if thief.blocks and cgroup_version() == 2:
        return "needs a cgroup of version 1: in version 2 the OOM killer ends it"
    return ""


@contextlib.contextmanager
def compiled() -> Iterator[Path]:
    """The thief's program.

    Raises:
        subprocess.CalledProcessError: when it does not compile.
    """
    with tempfile.TemporaryDirectory(prefix="holdingpen-") as place:
        program = Path(place) / "thief"
        source = HERE / "thieves/thief.c"
        subprocess.run(["cc", "-O2", "-o", program, source], check=True)
        yield program


_COLUMNS = "{:<9}{:<33}{:<8}{:>7}{:>6}{:>6}{:>6}{:>8}{:>9}{:>8}{:>7}  {}"
_HEADS = ("thief", "", "way", "wanted", "got", "rss", "used", "gained", "after", "idle")


def _row(how: HandOver, thief: Thief, outcome: Outcome, idle_s: float) -> str:
    took_s = outcome.took_s
    return _COLUMNS.format(
        thief.name,
        thief.says,
        how.name,
        outcome.wanted // MIB,
        outcome.got // MIB,
        round(outcome.rss / MIB),
        round(outcome.used / MIB),
        round(outcome.gained / MIB),
        "never" if took_s is None else f"{took_s:.2f} s",
        f"{idle_s:.2f} s",
        "-" if took_s is None else f"{took_s / idle_s:.2f}",
        outcome.note,
    ).rstrip()


def _meaning(give_up_s: float) -> str:
    return f"""
wanted, got: MiB the client wanted to fill, and MiB it filled.
rss: MiB in its resident set at the end, with interpreter and libraries.
used: MiB it had before it asked.
gained: MiB the thief, or the page cache, grew by at its most since the client asked.
    It is what was held back and others took, for good or until it was won back; a paced
    lease is promised that it is 8 MiB at most.
after: from its first want until it had everything; never: given up after
    {give_up_s:.0f} s.  idle: the same without a thief.  ratio: after by idle; at most
    1.5 where exact is promised."""


def table(hows: Sequence[HandOver], thieves: Sequence[Thief], *, quick: bool) -> bool:
    """Print it; whether all of it could be run."""
    give_up_s = 3.0 if quick else 10.0
    print(
        f"A machine of {MACHINE // MIB} MiB, {HOLD // MIB} MiB of it held back; a "
        f"lease for {HOLD // MIB} MiB, whose client wants\n{WANTED // MIB} MiB "
        f"{DELAY_S} s after the grant, at {RATE // MIB} MiB/s.\n"
    )
    print(_COLUMNS.format(*_HEADS, "ratio", "").rstrip())
    complete = True
    with compiled() as program:
        for how in hows:
            if lack := missing(how):
                print(f"{'':<42}{how.name:<8} not measured: {lack}")
                continue
            alone = [
                try_out(program, how, None, give_up_s) for _ in range(1 if quick else 3)
            ]
            if note := next((one.note for one in alone if one.note), ""):
                print(f"{'':<42}{how.name:<8} not measured: {note}")
                complete = False
                continue
            idle_s = median(one.took_s or give_up_s for one in alone)
            for thief in thieves:
                if lack := refused(thief):
                    print(f"{thief.name:<42}{how.name:<8} not measured: {lack}")
                    continue
                outcome = try_out(program, how, thief, give_up_s)
                print(_row(how, thief, outcome, idle_s), flush=True)
                complete = complete and not outcome.note
    print(_meaning(give_up_s))
    return complete


def main(argv: Sequence[str] | None = None) -> int:
    """Run it from the command line."""
    names = [*(one.name for one in THIEVES), *(one.name for one in HAND_OVERS)]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="give up sooner")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=names, metavar="NAME",
        help="thieves, ways of handing over, or both: " + ", ".join(names),
    )  # fmt: skip
    words = parser.parse_args(argv)
    if why := cannot_run():
        print(f"not run: {why}")
        return 1
    # as Ctrl-C does: nothing is left behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    only = set(words.only)
    hows = [x for x in HAND_OVERS if x.name in only] or HAND_OVERS
    thieves = [x for x in THIEVES if x.name in only] or THIEVES
    try:
        return 0 if table(hows, thieves, quick=words.quick) else 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
