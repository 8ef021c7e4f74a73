"""The helper in a lease's control group: it holds the group's memory until it is used.

    python -I -S lazyholder.py GROUP AMOUNT OOM_SCORE_ADJ

A program of its own, which must not import anything of holdingpen.  It maps AMOUNT
bytes of private memory and speaks, a line at a time, with whoever started it:

    in       out
             ready
    touch N A               N bytes more occupied, as long as A stay available
             touched M      so many it became
    free     freed          from now on the group's other members are fed from it
             given N        bytes they have got so far; some of these lines are lost
    tell     given N        once more
             spent, stuck   it has ended so: see below
    EOF                     let go of everything, and end

What is touched is marked with MADV_FREE (madvise(2)), a window at a time, when the
group's other members need it: the kernel takes such pages first when the group is
above its memory.high.  It ends

    0  everything was taken
    3  it is stuck: the kernel does not take it, and the others were slowed down
       (both are said: whoever listens then may not be its parent)
    4  its standard input was closed, or SIGTERM came

and in every case memory.high is "max" before it ends.  Else the others
would be slowed down for ever.  SIGKILL alone is left to its parent.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import sys
import time
from contextlib import suppress

MIB = 1024 * 1024

#: Bytes that are lazily free at once.  The kernel counts them as MemAvailable, and
#: they must last for the 10 ms to the next look: 6 GiB/s.
WINDOW = 64 * MIB

#: Bytes touched between two looks at MemAvailable: 0.4 ms.
CHUNK = MIB

#: Lazily free bytes that are not worth waiting for.
SPENT = 256 * 1024

#: Least time between two looks: the kernel tells of no more than 100 events a second.
PAUSE_S = 0.01

#: How long the others may be above memory.high without getting anything from here.
STUCK_S = 1.0

#: What memory.high may be passed by without anybody being in need: charges come in
#: batches of 64 pages for each processor.
SLACK = MIB

_MCL_CURRENT = 1

EXIT_SPENT, EXIT_STUCK, EXIT_TOLD = 0, 3, 4


class Held:
    """Private memory that was touched and can be lazily freed, from its beginning."""

    def __init__(self, amount: int) -> None:
        """Map `amount` bytes, of which none is occupied yet."""
        # mmap's default is MAP_SHARED, which MADV_FREE refuses
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._map = mmap.mmap(-1, amount, flags=flags)
        # a huge page would be taken as a whole or not at all
        self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self._rollup = os.open("/proc/self/smaps_rollup", os.O_RDONLY)
        self._meminfo = os.open("/proc/meminfo", os.O_RDONLY)
        #: Bytes occupied so far.
        self.touched = 0
        #: Bytes of them that were marked as free.
        self.marked = 0

    def touch(self, amount: int, floor: int) -> int:
        """Occupy up to `amount` bytes more, while `floor` bytes are available."""
        before, end = self.touched, min(self.touched + amount, len(self._map))
        while self.touched < end:
            chunk = min(CHUNK, end - self.touched)
            if _number(self._meminfo, b"MemAvailable:") * 1024 < floor + chunk:
                break
            pages = slice(self.touched, self.touched + chunk, mmap.PAGESIZE)
            self._map[pages] = b"\1" * -(-chunk // mmap.PAGESIZE)
            self.touched += chunk
        return self.touched - before

    def lazy(self) -> int:
        """Bytes that are marked and not yet taken: a walk of the page table."""
        return _number(self._rollup, b"LazyFree:") * 1024

    def mark(self, amount: int) -> None:
        """Let the kernel take up to `amount` bytes more."""
        amount = min(amount, self.touched - self.marked)
        self._map.madvise(mmap.MADV_FREE, self.marked, amount)
        self.marked += amount


class Group:
    """The control group as seen by its helper."""

    def __init__(self, path: str) -> None:
        """Open the files of the group at `path`."""
        self._high = os.open(f"{path}/memory.high", os.O_RDWR)
        self._current = os.open(f"{path}/memory.current", os.O_RDONLY)
        #: Becomes urgent to read, POLLPRI, when one of its numbers has changed.
        self.events = os.open(f"{path}/memory.events", os.O_RDONLY)

    def high_events(self) -> int:
        """How often somebody was above memory.high; ends the urgency."""
        return _number(self.events, b"high ")

    def above(self) -> bool:
        """Whether the group is above memory.high by more than it may be."""
        high = os.pread(self._high, 32, 0).strip()
        current = int(os.pread(self._current, 32, 0))
        return high != b"max" and current > int(high) + SLACK

    def lift(self) -> None:
        """Have nobody slowed down any more."""
        os.pwrite(self._high, b"max\n", 0)


class Feeding:
    """Marking what is held, as fast as the group's other members take it."""

    def __init__(self, held: Held, group: Group) -> None:
        """Nothing is marked before the first `look`."""
        self._held = held
        self._group = group
        #: Bytes the others have got so far.
        self.given = 0
        self._high_events = group.high_events()
        self._stalled_since: float | None = None

    def look(self) -> int | None:
        """See what was taken and mark more; the exit status when it is over."""
        held = self._held
        # read before anything else, so that what comes later is told of again
        high_events = self._group.high_events()
        lazy = held.lazy()
        given = held.marked - lazy
        if held.marked == held.touched and lazy <= SPENT:
            return EXIT_SPENT
        if lazy < WINDOW // 2 and held.marked < held.touched:
            held.mark(WINDOW - lazy)
        if given > self.given:
            say(f"given {given}")
            self.given, self._stalled_since = given, None
        elif high_events > self._high_events and self._group.above():
            now = time.monotonic()
            if self._stalled_since is None:
                self._stalled_since = now
            elif now > self._stalled_since + STUCK_S:
                return EXIT_STUCK
        self._high_events = high_events
        return None


def _number(file: int, key: bytes) -> int:
    text = os.pread(file, 4096, 0)
    start = text.find(key)
    return int(text[start + len(key) :].split(None, 1)[0]) if start >= 0 else 0


def say(line: str) -> None:
    """Tell our parent; a line that finds no room is lost: nothing may block here."""
    with suppress(BlockingIOError, BrokenPipeError):
        os.write(1, f"{line}\n".encode())


def obey(held: Held) -> bool:
    """Do what our parent says, until it is `free`; false when he is gone."""
    unread = b""
    told = select.poll()
    told.register(0, select.POLLIN)
    while True:
        while not told.poll(1000 * STUCK_S):
            # a signal that came just before read(2) would wait for its end
            pass
        *lines, unread = (unread + (more := os.read(0, 4096))).split(b"\n")
        for line in lines:
            if line == b"free":
                return True
            amount, floor = line.removeprefix(b"touch ").split()
            say(f"touched {held.touch(int(amount), int(floor))}")
        if not more:
            return False


def feed(feeding: Feeding, group: Group) -> int:
    """Feed the others until nothing is left, or nobody can ask us any more."""
    parent, either = select.poll(), select.poll()
    for poll in (parent, either):
        poll.register(0, select.POLLIN)
    either.register(group.events, select.POLLPRI)
    while True:
        began = time.monotonic()
        status = feeding.look()
        if status is not None:
            return status
        # a walk of 100 GiB takes 50 ms: at most a tenth of our time is for looking
        took = time.monotonic() - began
        if parent.poll(1000 * max(PAUSE_S, 9 * took)):
            if not os.read(0, 4096):
                return EXIT_TOLD
            say(f"given {feeding.given}")
        either.poll(1000 * STUCK_S)


def main(path: str, amount: int, oom_score_adj: int) -> int:
    """Hold, feed, and lift memory.high whatever comes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TOLD))
    os.set_blocking(1, False)
    group = Group(path)
    try:
        # to lower it takes CAP_SYS_RESOURCE
        with suppress(PermissionError):
            score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
            os.write(score, str(oom_score_adj).encode())
        # where everybody fights for memory, our own code must not be read again
        # from disk while others wait for us; what is mapped later can be marked
        ctypes.CDLL(None).mlockall(_MCL_CURRENT)
        held = Held(amount)
        say("ready")
        if not obey(held):
            return EXIT_TOLD
        feeding = Feeding(held, group)
        status = feeding.look()
        say("freed")
        if status is None:
            status = feed(feeding, group)
        if status != EXIT_TOLD:
            say("spent" if status == EXIT_SPENT else "stuck")
        return status
    finally:
        group.lift()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
