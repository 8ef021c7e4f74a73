"""Programs: how soon they run, and how soon the next one does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from harness import (
    PATIENCE_S,
    ROOT,
    Client,
    Row,
    Run,
    Server,
    Skipped,
    daemon,
    in_turn,
    ratios,
    versus,
)

TRUE = shutil.which("true") or "/bin/true"
#: The interpreter itself, not a shim or a venv's link to it.
PYTHON = str(Path(sys.executable).resolve())
CONFIG = "[resources]\nslot = 1_000_000\nlicence = 1\n"


def _installed(run: Run) -> str:
    """gatekeeper as `pip install` leaves it, in a venv of its own."""
    place = run.directory / "venv"
    make = [sys.executable, "-m", "venv", "--without-pip", str(place)]
    subprocess.run(make, check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    leave = shutil.ignore_patterns("__pycache__")
    for package in ("gatekeeper", "holdingpen"):
        shutil.copytree(ROOT / package, packages / package, ignore=leave)
    python = place / "bin/python"
    subprocess.run([python, "-m", "compileall", "-q", packages], check=True)
    script = place / "bin/gatekeeper"
    source = (ROOT / "gatekeeper/script.py").read_text()
    script.write_text(source.replace("#!python", f"#!{python}", 1))
    script.chmod(0o755)
    return str(script)


def _environment(server: Server) -> dict[str, str]:
    return {"HOLDINGPEN_SOCKET": str(server.path), "PATH": os.environ["PATH"]}


def starting(run: Run) -> Iterator[Row]:
    with daemon(run, "daemon", CONFIG, core=None) as ours:
        environment = _environment(ours)
        lent = ["--require", "--", TRUE]
        bare = f"import posix; posix.execv({TRUE!r}, [{TRUE!r}])"
        from_checkout = (
            f"import sys; sys.path[:0] = [{str(ROOT)!r}]; "
            "from gatekeeper.__main__ import main; sys.exit(main())"
        )
        commands = (
            [_installed(run), *lent],
            [PYTHON, "-I", "-S", "-c", from_checkout, *lent],
            [PYTHON, "-I", "-S", "-c", bare],
            [TRUE],
        )
        sides = [partial(_run_s, command, environment) for command in commands]
        in_turn(2, *sides)
        script, isolated, python, nothing = in_turn(run.pick(60, 15), *sides)
    against = "python3 -I -S that becomes true"
    yield Row(
        "gatekeeper true, as pip installs it", against,
        ratios(script, python), versus(script, python, 1e3, "ms"), 1.35,
    )  # fmt: skip
    yield Row(
        "  the same with python3 -I -S", against,
        ratios(isolated, python), versus(isolated, python, 1e3, "ms"),
    )  # fmt: skip
    yield Row(
        "  the same", "true alone",
        ratios(script, nothing), versus(script, nothing, 1e3, "ms"),
    )  # fmt: skip


def _run_s(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    pid = os.posix_spawn(command[0], command, environment)
    _, status = os.waitpid(pid, 0)
    spent = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{command} ended with {os.waitstatus_to_exitcode(status)}")
    return spent


#: Holders to be killed: an interpreter, as in real life, and next to nothing.
HOLDERS = {
    "a python3 holder": [PYTHON, "-c", "import json, time; time.sleep(1000)"],
    "a holder of no size": [shutil.which("sleep") or "sleep", "1000"],
}


def handover(run: Run) -> Iterator[Row]:
    flock = shutil.which("flock")
    if flock is None:
        raise Skipped("there is no flock(1)")
    stamp = str(run.program("stamp"))
    with daemon(run, "daemon", CONFIG, core=None) as ours:
        gatekeeper = [_installed(run), "--res", "licence=1", "--require", "--"]
        lock = run.directory / "lock"
        lock.touch()
        locked = [flock, "--no-fork", str(lock)]
        environment = _environment(ours)
        watcher = Client(ours.path)

        def by_pen(holder: list[str]) -> float:
            return _handover_s(
                [*gatekeeper, *holder],
                lambda pid: bool(watcher.status().resources["licence"].leased),
                [*gatekeeper, stamp],
                lambda pid: watcher.status().line == 1,
                environment,
            )

        def by_flock(holder: list[str]) -> float:
            return _handover_s(
                [*locked, *holder],
                lambda pid: _in_locks(pid, waits=False),
                [*locked, stamp],
                lambda pid: _in_locks(pid, waits=True),
                environment,
            )

        for name, limit in zip(HOLDERS, (1.5, None), strict=True):
            held, flocked = in_turn(
                run.pick(15, 5),
                partial(by_pen, HOLDERS[name]),
                partial(by_flock, HOLDERS[name]),
            )
            yield Row(
                f"from kill -9 of {name} to the next",
                "the same with flock(1)",
                ratios(held, flocked), versus(held, flocked, 1e3, "ms"), limit,
            )  # fmt: skip


def _in_locks(pid: int, *, waits: bool) -> bool:
    for line in Path("/proc/locks").read_text().splitlines():
        if str(pid) in line.split() and "FLOCK" in line:
            return ("->" in line) == waits
    return False


def _handover_s(
    holder: list[str],
    holds: Callable[[int], bool],
    waiter: list[str],
    waits: Callable[[int], bool],
    environment: dict[str, str],
) -> float:
    """Seconds from the kill of the holder to the first act of the one who waits."""
    quiet = subprocess.DEVNULL
    one = subprocess.Popen(holder, stderr=quiet, env=environment)
    _until(lambda: holds(one.pid))
    two = subprocess.Popen(
        waiter, stdout=subprocess.PIPE, stderr=quiet, env=environment
    )
    _until(lambda: waits(two.pid))
    # both have become what they are to be, and are asleep
    time.sleep(0.06)
    start_ns = time.monotonic_ns()
    one.kill()
    said, _ = two.communicate(timeout=PATIENCE_S)
    one.wait()
    return (int(said) - start_ns) / 1e9


def _until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > until:
            raise RuntimeError("what was waited for did not come")
        time.sleep(0.002)
