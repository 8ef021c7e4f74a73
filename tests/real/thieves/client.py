"""A program that wants its memory some time after it was granted.

    client.py SLOT LEASED WANTED DELAY_S BYTES_A_SECOND plain|memory|leased

SLOT is the descriptor of a file of 8-byte numbers that says how far it is: phase, bytes
filled, nanoseconds when it began to want and when it had everything.  When it
has said `ready` a word on stdin starts it; it ends when stdin does.

plain   asks for a lease and fills memory of its own
memory  asks for a lease with its memory, and fills that: `lease.memory()`
leased  runs under gatekeeper, which has the lease, and fills memory of its own
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np

import holdingpen

MIB = 2**20

#: Numbers in the slot, and phases.
PHASE, FILLED, BEGAN_NS, DONE_NS = range(4)
WAITING, ASKING, GRANTED, WANTING, DONE = range(5)


def main(words: list[str]) -> None:
    """Do what the command line says."""
    fd, leased, wanted = map(int, words[:3])
    delay_s, rate, way = float(words[3]), int(words[4]), words[5]
    slot = np.frombuffer(mmap.mmap(fd, mmap.PAGESIZE), np.uint64)
    # When memory runs out, the newcomer is killed and not the pen.
    Path("/proc/self/oom_score_adj").write_text("1000")
    if way != "leased":
        print("ready", flush=True)
        sys.stdin.readline()
    slot[PHASE] = ASKING
    with ExitStack() as held:
        memory = _memory(held, way, leased, wanted)
        slot[PHASE] = GRANTED
        time.sleep(delay_s)
        slot[BEGAN_NS], slot[PHASE] = time.monotonic_ns(), WANTING
        _fill(memory, slot, rate)
        slot[DONE_NS], slot[PHASE] = time.monotonic_ns(), DONE
        sys.stdin.readline()
        # not through the interpreter's own end, which may want memory
        os._exit(0)


def _memory(held: ExitStack, way: str, leased: int, wanted: int) -> np.ndarray:
    if way == "memory":
        lease = held.enter_context(holdingpen.lease(ram=leased, memory=True))
        return np.frombuffer(lease.memory(), np.uint8)[:wanted]
    if way == "plain":
        held.enter_context(holdingpen.lease(ram=leased))
    return np.empty(wanted, np.uint8)


def _fill(memory: np.ndarray, slot: np.ndarray, rate: int) -> None:
    began_s = time.monotonic()
    step: Final = MIB // 4
    for at in range(0, memory.size, step):
        ahead_s = at / rate - (time.monotonic() - began_s)
        if ahead_s > 0:
            time.sleep(ahead_s)
        memory[at : at + step] = 1
        slot[FILLED] = min(at + step, memory.size)


if __name__ == "__main__":
    main(sys.argv[1:])
