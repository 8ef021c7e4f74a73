"""The same-group hand-over in a machine that others fill: what did everybody get?

    python tests/real/vm/run.py -- python tests/real/vm/same_group.py THIEF HOW

THIEF is none, polite, greedy or churn: see taker.py.  HOW is

    whole    the client takes all of its lease
    killed   half way the helper is killed
    orphan   half way the daemon is killed, and another one takes its place
    heir     the same, and somebody has kept what the next one needs to go on
    beside   as whole, with the leases' groups beside the daemon's, in a slice
    gone     the client has ended before it is moved
    bare     there is no lease, nothing is held back, and the client takes as much

Prints one JSON object.  This process plays the daemon, in a group of its own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from holdingpen.ballast.lazyholder import WINDOW
from holdingpen.ballast.ram import open_ram_ballast
from holdingpen.ballast.samegroup import SameGroup
from holdingpen.devices.cgroup import find_groups
from holdingpen.errors import Refusal

MIB = 2**20
AMOUNT = 300 * MIB
#: A little more than its lease has, so that all of that is used.
CLIENT = AMOUNT // MIB + 8
TOP = Path("/sys/fs/cgroup")
#: The daemon's group, and where the leases' are.
if "beside" in sys.argv:
    OWN = TOP / "holdingpen.slice/holdingpen.service"
    BASE = TOP / "holdingpen.slice/leases"
else:
    OWN = BASE = TOP / "service"
#: The topmost group that covers them.
ABOVE = TOP / OWN.relative_to(TOP).parts[0]
#: The group of thieves, and of clients without a lease.
OTHERS = TOP / "others"
TAKER = str(Path(__file__).with_name("taker.py"))
#: taker.py, loaded before it waits for a word.  Where greedy has been a program cannot
#: start in here: 9p wants half a MiB in one piece to read a directory, and the
#: interpreter ended with ENOMEM the first time in 2 boots of 5.
LOADED = f"""import mmap, os, sys, time
with open({TAKER!r}) as file: code = compile(file.read(), {TAKER!r}, "exec")
sys.stdin.readline()
exec(code)"""
MEMINFO = Path("/proc/meminfo")
PATIENCE_S = 60.0


class Taker:
    """A process of taker.py, what it said last, and when it spoke."""

    def __init__(self, kind: str, what: object, *, loaded: bool = False) -> None:
        self.kind = kind
        self.mib = 0
        #: Seconds of the monotonic clock at its first number and at its last.
        self.first_s = self.last_s = 0.0
        self.reached = threading.Condition()
        waits = kind == "client" and not loaded
        shell = 'read x; exec "$@"' if waits else 'exec "$@"'
        self.process = subprocess.Popen(
            [
                "sh",
                "-c",
                shell,
                "sh",
                sys.executable,
                "-I",
                "-S",
                *(("-c", LOADED) if loaded else (TAKER,)),
                kind,
                str(what),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        OTHERS.mkdir(exist_ok=True)
        (OTHERS / "cgroup.procs").write_text(str(self.process.pid))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            with self.reached:
                self.mib = int(line)
                self.last_s = time.monotonic()
                self.first_s = self.first_s or self.last_s
                self.reached.notify_all()

    def has_mib(self) -> int:
        """What it has taken; of who churns, the disk's pages that the kernel keeps."""
        if self.kind == "churn":
            return number(MEMINFO, "Buffers:") // 1024
        return self.mib

    def resident_mib(self, kind: str) -> int:
        """0 when it has ended."""
        status = Path(f"/proc/{self.process.pid}/status")
        return number(status, f"{kind}:") // 1024 if self.process.poll() is None else 0

    def go(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def wait(self, mib: int) -> bool:
        with self.reached:
            return self.reached.wait_for(lambda: self.mib >= mib, PATIENCE_S)

    def wait_quiet(self) -> None:
        """Until it has taken nothing for a second; page cache comes and goes."""
        self.wait(1)
        slack = 8 if self.kind == "churn" else 0
        before = -1 - slack
        while self.has_mib() > before + slack and self.process.poll() is None:
            before = self.has_mib()
            time.sleep(1)


def number(path: Path, key: str = "") -> object:
    words = path.read_text().split()
    word = words[words.index(key) + 1] if key else words[0]
    return int(word) if word.isdigit() else word


def available_mib() -> int:
    return number(MEMINFO, "MemAvailable:") // 1024


def until(met) -> bool:
    late = time.monotonic() + PATIENCE_S
    while not met():
        if time.monotonic() > late:
            return False
        time.sleep(0.001)
    return True


class Away:
    """A descriptor store at the other end of a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def keep(self, name: str, fd: int, poll: bool = True) -> None:
        socket.send_fds(self._socket, [name.encode()], [fd])

    def forget(self, name: str) -> None:
        pass


def open_same(on_over=lambda lease, how: None, store=None, handed=None) -> SameGroup:
    same = SameGroup.open(*find_groups("memory", Path("/proc"), TOP), on_over, store)
    same.begin(handed or {}, {1: AMOUNT} if handed else {})
    return same


def enter() -> None:
    # khugepaged raises it to 41 MiB: nobody would find as little as 25 free
    Path("/proc/sys/vm/min_free_kbytes").write_text("4096")
    # or 99 of the 300 MiB hide on the processors' lists, from Linux 6.7 on
    Path("/proc/sys/vm/percpu_pagelist_high_fraction").write_text("1000")
    OWN.mkdir(exist_ok=True, parents=True)
    # after the first scene there are groups in it
    inside = OWN / "daemon"
    (inside if inside.exists() else OWN).joinpath("cgroup.procs").write_text("0")


def play_daemon(pid: int, store: Away | None = None) -> None:
    same = open_same(store=store)
    ballast = open_ram_ballast()
    ballast.take(AMOUNT, lambda step: True)
    same.prepare(1, AMOUNT, ballast.drop)
    same.hand_over(1, pid)
    print("handed over", flush=True)
    signal.pause()


def orphan() -> dict[str, object]:
    enter()
    client = Taker("client", CLIENT)
    daemon = subprocess.Popen(
        [sys.executable, __file__, "daemon", str(client.process.pid)],
        stdout=subprocess.PIPE,
    )
    daemon.stdout.readline()
    group = BASE / "lease-1"
    out: dict[str, object] = {"high": number(group / "memory.high") // MIB}
    client.go()
    client.wait(CLIENT // 2)
    daemon.kill()
    began = time.monotonic()
    until(lambda: number(group / "memory.high") == "max")
    out["lifted_s"] = round(time.monotonic() - began, 3)
    out["high_after"] = number(group / "memory.high")
    daemon.wait()
    client.wait(CLIENT)
    out["client"] = client.mib
    out["min_left"] = number(ABOVE / "memory.min") // MIB
    same = open_same()
    out["left"] = same.sweep()
    out["min_after"] = number(group / "memory.min")
    out["min_above_after"] = number(ABOVE / "memory.min")
    client.process.kill()
    client.process.wait()
    out["left_later"] = same.sweep()
    return out


def heir(thief_kind: str) -> dict[str, object]:
    enter()
    client = Taker("client", CLIENT)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    number_of = str(theirs.fileno())
    daemon = subprocess.Popen(
        [sys.executable, __file__, "daemon", str(client.process.pid), number_of],
        stdout=subprocess.PIPE,
        pass_fds=[theirs.fileno()],
    )
    daemon.stdout.readline()
    handed = {}
    for _ in range(2):
        name, (fd,), _flags, _address = socket.recv_fds(ours, 100, 1)
        handed[name.decode()] = fd
    thief = Taker(thief_kind, 2000)
    thief.wait_quiet()
    had, group = thief.has_mib(), BASE / "lease-1"
    watch(client, CLIENT // 3, group, thief)
    daemon.kill()
    daemon.wait()
    out: dict[str, object] = {"kernel": os.uname().release, "how": "heir"}
    # fed by nobody but its helper
    client.wait(CLIENT // 2)
    out["high"] = number(group / "memory.high")
    over: list[tuple[int, str]] = []
    same = open_same(lambda *it: over.append(it), Away(theirs), handed)
    out["fed"] = list(same._leases)
    out["lowest"], most = watch(client, CLIENT, group, thief)
    out |= what_it_got(client)
    out["thief_gained"] = most - had
    until(lambda: over)
    out["over"], out["handed"] = over, same.handed(1) // MIB
    out["high_after"] = number(group / "memory.high")
    out["min_after"] = number(group / "memory.min") // MIB
    same.end(1)
    for taker in (client, thief):
        taker.process.kill()
        taker.process.wait()
    out["left_later"] = same.sweep()
    out["min_above_after"] = number(ABOVE / "memory.min")
    return out


def watch(
    client: Taker, mib: int, group: Path, thief: Taker | None = None
) -> tuple[int, int]:
    """Let the client take so much: the least its group had, the most the thief had."""
    lowest = number(group / "memory.current")
    most = thief.has_mib() if thief else 0
    late = time.monotonic() + PATIENCE_S
    client.go()
    while client.mib < mib and client.process.poll() is None:
        if time.monotonic() > late:
            break
        now = number(group / "memory.current")
        # later the helper ends, and what it had itself is free
        if number(group / "memory.high") != "max":
            lowest = min(lowest, now)
        if thief:
            most = max(most, thief.has_mib())
        time.sleep(0.002)
    return lowest // MIB, most


def what_it_got(client: Taker) -> dict[str, object]:
    return {
        "wanted": CLIENT,
        "client": client.mib,
        "client_died": client.process.poll(),
        "rss": client.resident_mib("VmRSS"),
        "took_s": round(client.last_s - client.first_s, 2),
    }


def bare() -> dict[str, object]:
    enter()
    client = Taker("client", CLIENT)
    out: dict[str, object] = {"kernel": os.uname().release, "how": "bare"}
    out["used"] = client.resident_mib("RssAnon")
    watch(client, CLIENT, OTHERS)
    out |= what_it_got(client)
    out["groups"] = [path.name for path in BASE.glob("lease-*")]
    client.process.kill()
    client.process.wait()
    return out


def scene(thief_kind: str, how: str) -> dict[str, object]:
    enter()
    over: list[tuple[int, str]] = []
    same = open_same(lambda *it: over.append(it))
    ballast = open_ram_ballast()
    ballast.take(AMOUNT + 64 * MIB, lambda step: True)
    client = Taker("client", CLIENT, loaded=thief_kind == "greedy")
    thief = None
    if thief_kind not in ("none", "greedy"):
        thief = Taker(thief_kind, "/dev/scratch" if thief_kind == "churn" else 2000)
        thief.wait_quiet()
    had = thief.has_mib() if thief else 0
    held = ballast.held
    began = time.monotonic()
    same.prepare(1, AMOUNT, ballast.drop)
    group = BASE / "lease-1"
    out: dict[str, object] = {
        "kernel": os.uname().release,
        "thief_kind": thief_kind,
        "how": how,
        "prepared_s": round(time.monotonic() - began, 2),
        "given": (held - ballast.held) // MIB,
        "thief_in_prepare": (thief.has_mib() if thief else 0) - had,
        "current": number(group / "memory.current") // MIB,
        "min": number(group / "memory.min") // MIB,
        "min_above": number(ABOVE / "memory.min") // MIB,
    }
    if thief and thief.process.poll() is not None:
        return out | {"thief_died": thief.process.returncode}
    had = thief.has_mib() if thief else 0
    if how == "gone":
        client.process.kill()
        client.process.wait()
        try:
            same.hand_over(1, client.process.pid)
        except Refusal as no:
            out["refused"] = str(no)
        out["groups"] = [path.name for path in BASE.glob("lease-*")]
        return out
    same.hand_over(1, client.process.pid)
    helper = same._leases[1]._helper
    out["high"] = number(group / "memory.high") // MIB
    out["used"] = client.resident_mib("RssAnon")
    if thief_kind == "greedy":
        # the kernel kills it when it has all it can get: now, or never
        free = available_mib() - WINDOW // MIB
        thief = Taker("greedy", 2000)
        thief.wait(free * 3 // 4)
        had = free
    half = CLIENT // 2 if how == "killed" else CLIENT
    out["lowest"], most = watch(client, half, group, thief)
    out |= what_it_got(client)
    out["thief"] = thief.mib if thief else 0
    out["thief_gained"] = most - had
    out["thief_alive"] = thief is not None and thief.process.poll() is None
    out["handed"] = same.handed(1) // MIB
    out["high_events"] = number(group / "memory.events", "high")
    out["stat"] = {
        key: number(group / "memory.stat", key) // MIB
        for key in ("anon", "file", "inactive_file", "kernel", "pagetables")
    }
    if how == "killed":
        helper.kill()
        began = time.monotonic()
        until(lambda: number(group / "memory.high") == "max")
        out["lifted_s"] = round(time.monotonic() - began, 3)
        client.wait(CLIENT)
        out["client"] = client.mib
    until(lambda: over)
    out["high_after"] = number(group / "memory.high")
    out["over"] = over
    out["handed"] = same.handed(1) // MIB
    out["min_after"] = number(group / "memory.min") // MIB
    out["current_after"] = number(group / "memory.current") // MIB
    same.end(1)
    out["left"] = same.sweep()
    client.process.kill()
    client.process.wait()
    out["left_later"] = same.sweep()
    out["min_above_after"] = number(ABOVE / "memory.min")
    if thief:
        thief.process.kill()
        # the next scene finds the machine empty
        thief.process.wait()
    return out


if __name__ == "__main__":
    if sys.argv[1] == "daemon":
        sock = socket.socket(fileno=int(sys.argv[3])) if sys.argv[3:] else None
        play_daemon(int(sys.argv[2]), Away(sock) if sock else None)
    elif sys.argv[2] == "heir":
        print(json.dumps(heir(sys.argv[1])), flush=True)
    elif sys.argv[2] in ("orphan", "bare"):
        play = orphan if sys.argv[2] == "orphan" else bare
        print(json.dumps(play()), flush=True)
    else:
        print(json.dumps(scene(*sys.argv[1:3])), flush=True)
