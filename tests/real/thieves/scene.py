"""One client against one thief, in a machine where nothing is left but ballast."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import client
import numpy as np
from machine import CHECKOUT, MIB, Machine

from holdingpen.errors import Unavailable

MACHINE = 640 * MIB
#: What the pen holds back and the lease is for.
HOLD = 256 * MIB
#: What the client fills: the lease less 6 % for page tables and interpreter.
WANTED = 240 * MIB
RATE = 400 * MIB
DELAY_S = 1.5

#: Whatever takes longer has failed.
PATIENCE_S = 30.0


class Thief(NamedTuple):
    """Somebody who takes what is free."""

    name: str
    says: str
    #: Its words after the slot, limit and usage, in a directory of its own.
    words: Callable[[Path], list[str]]
    #: Whether what it takes is page cache.
    caches: bool = False
    #: Whether it takes the last page there is and sleeps in its page fault until there
    #: is another, for which only version 1 can keep the OOM killer away.
    blocks: bool = False


class HandOver(NamedTuple):
    """A way of handing over: one more line for [ram], and how the client is started."""

    name: str
    says: str
    config: str
    #: The words that start it, of the words of client.py without the last.
    command: Callable[[list[str]], list[str]]
    #: Bytes that a thief may take of it at most; None: nothing is promised.
    bound: int | None = None
    #: What the client needs that may not be there.
    lease_option: str = ""
    #: Whether it takes the lease's own control group, of version 2.
    version2: bool = False


class Outcome(NamedTuple):
    """What came of one client and one thief.  All sizes are bytes."""

    wanted: int = WANTED
    #: What the client filled.
    got: int = 0
    #: Its resident set at the end, interpreter included.
    rss: int = 0
    #: What the client had of its own before it asked.  It is part of what its lease is
    #: for, so the pen rightly frees as much for whoever comes.
    used: int = 0
    #: What the thief had more, at its most, than before the client asked; less what
    #: was free then and the page cache that made room, if it takes the last page.
    gained: int = 0
    #: Seconds from wanting to having everything; None: never.
    took_s: float | None = None
    #: What went wrong, in a line; empty when nothing did.
    note: str = ""


@cache
def accepts(config: str) -> bool:
    """Whether the pen of this checkout takes this line in [ram]."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(f"[ram]\n{config}\n")
        file.flush()
        words = ["--check-config", "--config", file.name]
        done = subprocess.run(
            [sys.executable, "-m", "holdingpen", *words],
            cwd=CHECKOUT,
            capture_output=True,
            check=False,
        )
    return done.returncode == 0


class Slot:
    """Numbers that a program inside writes and we read, at no cost to the machine."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("slot")
        os.ftruncate(self.fd, mmap.PAGESIZE)
        page = mmap.mmap(self.fd, mmap.PAGESIZE)
        # touched here first: the page is charged to us, not to the machine
        page[:] = bytes(len(page))
        self._numbers = np.frombuffer(page, np.uint64)

    def __getitem__(self, place: int) -> int:
        return int(self._numbers[place])

    def close(self) -> None:
        os.close(self.fd)


class Scene:
    """A machine with a pen, a client and perhaps a thief; both wait for a word."""

    def __init__(self, program: Path, how: HandOver, thief: Thief | None) -> None:
        """Start everything that is to run, before the machine is full.

        Raises:
            Unavailable: when the pen does not come up.
        """
        line = how.config if accepts(how.config) else ""
        config = f'[ram]\nkeep = "8M"\nhold = "{HOLD // MIB}M"\n{line}\n'
        self._thief = thief
        self.stolen, self.client = Slot(), Slot()
        self.machine = machine = Machine(MACHINE, config)
        try:
            self._usage = machine.cgroup / "memory.current"
            if machine.version == 1:
                self._usage = machine.cgroup / "memory.usage_in_bytes"
                # Nobody is killed: who finds no memory sleeps until there is some.
                (machine.cgroup / "memory.oom_control").write_text("1")
            daemon = machine.serve()
            self.held = machine.wait_until_held(HOLD)
            if thief and thief.blocks:
                # The pen gets memory of its own, as memory.min gives it: in a machine
                # without a page left, and without OOM killer, it would sleep as all
                # do.  What it has taken stays charged to the machine.
                procs = machine.cgroup.parent / "cgroup.procs"
                procs.write_text(str(daemon.pid))
            words = [sys.executable, str(Path(__file__).with_name("client.py"))]
            words += [str(self.client.fd), str(HOLD), str(WANTED), str(DELAY_S)]
            words = how.command([*words, str(RATE)])
            self.process = machine.start(
                *words, pass_fds=[self.client.fd], log="client"
            )
            assert self.process.stdout is not None
            self.ready = self.process.stdout.readline() == "ready\n"
            if thief:
                words = [str(program), str(self.stolen.fd), str(MACHINE)]
                words += [str(self._usage), *thief.words(machine.home)]
                self._thief_process = machine.start(
                    *words, pass_fds=[self.stolen.fd], log="thief"
                )
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Kill everybody and leave nothing behind."""
        self.machine.end()
        self.stolen.close()
        self.client.close()

    def taken(self) -> int:
        """Bytes that the thief has."""
        if self._thief and self._thief.caches:
            return self._cache()
        return self.stolen[0]

    def free_for_thief(self) -> int:
        """Bytes free now that the thief will take though nothing is handed over."""
        if not self._thief or not self._thief.blocks:
            return 0
        return MACHINE - int(self._usage.read_text())

    def cache_for_thief(self) -> int:
        """Bytes of page cache: whoever takes the last page has the kernel drop them.

        Programs' own code is among it, so how much there is depends on who read a file
        first: this machine or another.
        """
        if not self._thief or not self._thief.blocks:
            return 0
        return self._cache()

    def _cache(self) -> int:
        stat = (self.machine.cgroup / "memory.stat").read_text().split()
        total = "total_" if self.machine.version == 1 else ""
        names = (f"{total}inactive_file", f"{total}active_file")
        return sum(int(stat[stat.index(name) + 1]) for name in names)

    def fill(self) -> None:
        """Let the thief begin, and wait until the machine is full."""
        if not self._thief:
            return
        say(self._thief_process)
        last, since_s = -1, time.monotonic()
        end_s = since_s + PATIENCE_S / 2
        while time.monotonic() < end_s:
            taken, now_s = self.taken(), time.monotonic()
            # page cache comes and goes for ever
            if taken > last + (8 * MIB if self._thief.caches else 0):
                last, since_s = taken, now_s
            elif taken and now_s - since_s > 0.5:
                return
            time.sleep(0.02)

    def let_loose(self) -> None:
        """Let a thief that takes the last page do so."""
        if self._thief and self._thief.blocks:
            say(self._thief_process)

    def rss(self, *kinds: str) -> int:
        """Bytes in the client's resident set, of some kinds or all; 0: it is gone."""
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        words = text.split()
        return sum(int(words[words.index(f"{kind}:") + 1]) * 1024 for kind in kinds
                   if f"{kind}:" in words)  # fmt: skip


def say(process: subprocess.Popen[str]) -> None:
    """Give it the word it waits for."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def try_out(
    program: Path, how: HandOver, thief: Thief | None, give_up_s: float = 10.0
) -> Outcome:
    """One client, one thief; the client has `give_up_s` from wanting to having."""
    try:
        scene = Scene(program, how, thief)
    except Unavailable as why:
        return Outcome(note=str(why))
    try:
        if not scene.ready:
            said = scene.machine.said("client")
            return Outcome(note=f"the client did not start: {said}")
        if scene.held < HOLD:
            held = f"{scene.held // MIB} of {HOLD // MIB} MiB"
            return Outcome(note=f"the pen holds {held}: memory is short here")
        return _watch(scene, give_up_s)
    finally:
        scene.end()


def _watch(scene: Scene, give_up_s: float) -> Outcome:
    slot, note = scene.client, ""
    scene.fill()
    used = scene.rss("RssAnon", "RssShmem")
    before, cache = scene.taken() + scene.free_for_thief(), scene.cache_for_thief()
    rss, gained, dropped, loose = 0, 0, 0, False
    end_s = time.monotonic() + DELAY_S + give_up_s
    say(scene.process)
    while slot[client.PHASE] != client.DONE and time.monotonic() < end_s:
        if scene.process.poll() is not None:
            said = scene.machine.said("client")
            note = f"the client ended, status {scene.process.returncode}: {said}"
            break
        if slot[client.PHASE] >= client.GRANTED and not loose:
            scene.let_loose()
            loose = True
        rss = scene.rss("VmRSS") or rss
        dropped = max(dropped, cache - scene.cache_for_thief())
        gained = max(gained, scene.taken() - before - dropped)
        time.sleep(0.005)
    took_s = None
    if slot[client.PHASE] == client.DONE:
        took_s = (slot[client.DONE_NS] - slot[client.BEGAN_NS]) / 1e9
    elif not note and not loose:
        note = "no lease was granted"
    return Outcome(
        got=slot[client.FILLED],
        rss=scene.rss("VmRSS") or rss,
        used=used,
        gained=gained,
        took_s=took_s,
        note=note,
    )
