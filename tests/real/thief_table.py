"""The thief table: who gets what is held back for a lease.

    python tests/real/thief_table.py [--quick] [--only NAME ...]

A memory cgroup plays the machine.  In it a pen holds ballast back, a thief takes all
the rest and goes on wanting, and a client under a lease wants its memory 1.5 s after
the grant, as a program does that has to start first.  Each thief is tried with each
way of handing over; --only names some of either.  Needs root (or a delegated memory
cgroup), numpy and a C compiler.

Where cgroups are of version 1 the way `exact` is played in a virtual machine, if one
can be had: see vm/run.py.  Durations mean little in there.  So they are measured again
in the same machine without lease and thief, and the ratio is to that.

It takes about five minutes, with --quick two, of which the machine has three and one
half.

It is a measurement: the exit status is 1 only when something could not be run.
"""

# ruff: noqa: E402 (the path comes first)

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [
    str(HERE),
    str(HERE / "thieves"),
    str(HERE / "vm"),
    str(HERE.parents[1]),
]

import run as vm
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

NOBODY = Thief("none", "nobody else wants any", lambda _: [])

#: The thieves of vm/same_group.py, and the one that is tried with --quick.
VM_THIEVES, VM_QUICK = ("polite", "greedy", "churn"), ("polite",)
VM_MEMORY_MB = 900
#: The file that is churned: more than memory.
VM_DISK_MB = 1500
V2_KILLS = "in version 2 the OOM killer ends it"
#: Seconds for booting, and for a scene.  Measured: 8, and 5 to 20.
VM_BOOT_S, VM_SCENE_S = 60, 60


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
        return f"needs a cgroup of version 1: {V2_KILLS}"
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


class InVm(NamedTuple):
    """What came of the scenes in the virtual machine."""

    #: The kernel's release there; empty when nothing was played.
    kernel: str = ""
    #: A client without lease or thief, while nothing is held back.
    bare: Outcome = Outcome()
    #: Thief to its outcome; NOBODY's too.
    outcomes: dict[str, Outcome] = {}
    #: Why there is no machine, in a line; empty when there is.
    lack: str = ""


def play_in_vm(thieves: Sequence[str], rounds: int) -> InVm:
    """Play the way `exact` with some thieves in one virtual machine, a few times.

    Args:
        thieves: names of VM_THIEVES.
        rounds: how often; of amounts the worst is told, of durations the median.
    """
    kernel = next((one for one in vm.KERNELS if not vm.why_not(one)), "")
    if not kernel:
        return InVm(lack=vm.why_not(next(iter(vm.KERNELS))))
    scenes = ["none bare", *(f"{one} whole" for one in (NOBODY.name, *thieves))]
    # the first one pays for the memory and the code that qemu has not seen yet: 2.4 s
    # were measured, and 1.2 s later
    played = ["none bare", *scenes * rounds]
    python, program = shlex.quote(sys.executable), HERE / "vm/same_group.py"
    script = "\n".join(
        f"echo 'scene {one}'; {python} {shlex.quote(str(program))} {one}"
        for one in played
    )
    try:
        machine = vm.Machine(kernel, VM_MEMORY_MB, disk_mb=VM_DISK_MB)
        ended = machine.run(script, VM_BOOT_S + VM_SCENE_S * len(played))
    except vm.VmError as error:
        return InVm(lack=str(error).partition("\n")[0])
    return understood(ended.said, scenes)


def understood(said: str, scenes: Sequence[str]) -> InVm:
    """What scenes have said, each after a line with its name; the first is to warm."""
    heard: dict[str, list[Outcome]] = {one: [] for one in scenes}
    release = ""
    for part in f"\n{said}".split("\nscene ")[2:]:
        name, *lines = part.strip().splitlines()
        last = lines[-1] if lines else "the scene said nothing"
        if not last.startswith("{"):
            heard[name].append(Outcome(note=last))
            continue
        told = json.loads(last)
        release = told["kernel"]
        heard[name].append(_told(told))
    bare, *outcomes = (_all_of(heard[one]) for one in scenes)
    names = (one.partition(" ")[0] for one in scenes[1:])
    return InVm(release, bare, dict(zip(names, outcomes, strict=True)))


def _told(told: dict[str, object]) -> Outcome:
    def size(name: str) -> int:
        number = told.get(name, 0)
        assert isinstance(number, int)
        return number * MIB

    took_s = told.get("took_s")
    if not isinstance(took_s, float):
        return Outcome(note=f"the thief has died, status {told.get('thief_died')}")
    died = told.get("client_died")
    return Outcome(
        note="" if died is None else f"the client ended, status {died}",
        wanted=size("wanted"),
        got=size("client"),
        rss=size("rss"),
        used=size("used"),
        gained=max(0, size("thief_in_prepare") + size("thief_gained")),
        took_s=took_s if told["client"] == told["wanted"] else None,
    )


def _all_of(ones: Sequence[Outcome]) -> Outcome:
    if not ones:
        return Outcome(note="the virtual machine died before")
    bad = [one for one in ones if one.note]
    took_s = [one.took_s for one in ones if one.took_s is not None]
    return Outcome(
        note=f"{bad[0].note}, {len(bad)} of {len(ones)} times" if bad else "",
        wanted=max(one.wanted for one in ones),
        used=max(one.used for one in ones),
        got=min(one.got for one in ones),
        rss=min(one.rss for one in ones),
        gained=max(one.gained for one in ones),
        took_s=median(took_s) if len(took_s) == len(ones) else None,
    )


_COLUMNS = "{:<9}{:<33}{:<8}{:>7}{:>6}{:>6}{:>6}{:>8}{:>9}{:>8}{:>7}  {}"
_HEADS = ("thief", "", "way", "wanted", "got", "rss", "used", "gained", "after", "idle")


def _row(way: str, thief: Thief, outcome: Outcome, idle_s: float) -> str:
    took_s = outcome.took_s
    return _COLUMNS.format(
        thief.name,
        thief.says,
        way,
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


def _lacks(way: str, lack: str, thief: str = "") -> str:
    return f"{thief:<42}{way:<8} not measured: {lack}"


def _vm_rows(
    way: str, thieves: Sequence[Thief], *, quick: bool
) -> Iterator[tuple[str, bool]]:
    """Rows from a virtual machine, and whether each could be had."""
    names = VM_QUICK if quick else VM_THIEVES
    here = [one for one in thieves if one.name in names]
    played = play_in_vm([one.name for one in here], 1 if quick else 3)
    if lack := played.lack or played.bare.note:
        # that there is no machine is no failure: it is not measured natively either
        yield _lacks(way, f"needs a cgroup of version 2; {lack}"), bool(played.lack)
        return
    place = f"in a virtual machine of {VM_MEMORY_MB} MiB: amounts only"
    idle_s = played.bare.took_s or VM_SCENE_S
    rows = [("bare", NOBODY, played.bare)]
    rows += [(way, one, played.outcomes[one.name]) for one in (NOBODY, *here)]
    for name, thief, outcome in rows:
        if not outcome.wanted:
            yield _lacks(name, outcome.note, thief.name), False
            continue
        words = (outcome.note, place, f"Linux {played.kernel}")
        note = "; ".join(word for word in words if word)
        row = _row(name, thief, outcome._replace(note=note), idle_s)
        yield row, not outcome.note
    for thief in thieves:
        if thief.name not in VM_THIEVES:
            lack = "the virtual machine has no such thief: " + V2_KILLS
        elif thief not in here:
            lack = "left out by --quick"
        else:
            continue
        yield _lacks(way, lack, thief.name), True


def _meaning(give_up_s: float) -> str:
    return f"""
wanted, got: MiB the client wanted to fill, and MiB it filled.
rss: MiB in its resident set at the end, with interpreter and libraries.
used: MiB it had before it asked.
gained: MiB the thief, or the page cache, grew by at its most since the client asked.
    It is what was held back and others took, for good or until it was won back; a paced
    lease is promised that it lacks 8 MiB at most.  What others take is made good out
    of a reserve (32 MiB here), which the keenest thieves get as well.
after: from its first want until it had everything; never: given up after
    {give_up_s:.0f} s.  idle: the same without a thief.  ratio: after by idle; at most
    1.5 where exact is promised.
In a virtual machine the lease is for 300 MiB, and filled as fast as can be: so the
    cost of each page counts whole.  All processors are one of the host's: what a thief
    computes counts too.  (One that only computes made bare 3.6 times as slow.)
    bare: without lease and thief, and nothing is held back;
    idle is that.  greedy comes after the grant, and the OOM killer ends it."""


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
            if how.version2 and cgroup_version() == 1:
                for row, had in _vm_rows(how.name, thieves, quick=quick):
                    print(row, flush=True)
                    complete = complete and had
                continue
            if lack := missing(how):
                print(_lacks(how.name, lack))
                continue
            alone = [
                try_out(program, how, None, give_up_s) for _ in range(1 if quick else 3)
            ]
            if note := next((one.note for one in alone if one.note), ""):
                print(_lacks(how.name, note))
                complete = False
                continue
            idle_s = median(one.took_s or give_up_s for one in alone)
            for thief in thieves:
                if lack := refused(thief):
                    print(_lacks(how.name, lack, thief.name))
                    continue
                outcome = try_out(program, how, thief, give_up_s)
                print(_row(how.name, thief, outcome, idle_s), flush=True)
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
