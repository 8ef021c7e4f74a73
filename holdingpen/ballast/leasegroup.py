"""One lease's control group, and the helper in it that holds its memory.

What it is for is said in samegroup.py, what the helper says in lazyholder.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from holdingpen.ballast import lazyholder
from holdingpen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Longest wait for the helper's next line: it takes 10 ms for a step, or seconds on
#: a machine that is out of memory.
ANSWER_S = 10.0

#: The helper's badness when memory runs out: the last but one to be killed, as the
#: service is.  Measured with 1000, the first: beside a program that always wants more
#: the helper was killed, and that program had 171 of its 300 MiB.
OOM_SCORE_ADJ = -900

#: The program that is run as the helper.
HELPER = lazyholder.__file__


class Pipes(NamedTuple):
    """The two ends that we have of a helper's pipes."""

    #: What it is told; closed: it ends.
    told: int
    #: What it says; its end of file is the helper's.
    said: int


class LeaseGroup:
    """One lease's group and the helper in it.

    A helper lives as long as somebody has the end of the pipe on which it is told:
    this process, or whoever keeps that for the next one.
    """

    def __init__(self, path: Path, amount: int) -> None:
        """One at `path` that is to hold `amount` bytes; `make` or `find` follows."""
        self.path = path
        #: Bytes to be held, whole pages.
        self.amount = amount
        #: Bytes the helper has touched.
        self.filled = 0
        #: Bytes of them that others in the group have got.
        self.given = 0
        #: The ends of its pipes; None: no helper was started.
        self.pipes: Pipes | None = None
        #: Our child; None: a former process's.
        self._helper: subprocess.Popen[bytes] | None = None
        self._unread = b""
        #: Whether `follow` reads what the helper says.
        self._followed = False
        #: Set when `follow` has heard its end.
        self._ended = threading.Event()

    def make(self) -> None:
        """Make it; a former one of this name may not be in use."""
        with contextlib.suppress(FileNotFoundError):
            self.path.rmdir()
        self.path.mkdir()

    def find(self, pipes: Pipes) -> None:
        """Go on with one that a former process fed; `follow` says how it is."""
        self.filled, self.pipes, self._followed = self.amount, pipes, True
        with contextlib.suppress(BrokenPipeError):
            self._tell(b"tell\n")

    def start(self) -> None:
        """Start the helper as the group's first member."""
        # what is in swap is not held; memory.high would push the program there too
        with contextlib.suppress(FileNotFoundError):
            write_to(self.path / "memory.swap.max", 0)
        # no PR_SET_PDEATHSIG: it is sent when the thread ends that started the child
        self._helper = subprocess.Popen(  # noqa: S603 (our own file)
            [
                *(sys.executable, "-I", "-S", HELPER),
                *(str(self.path), str(self.amount), str(OOM_SCORE_ADJ)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._helper.stdin
        assert self._helper.stdout
        self.pipes = Pipes(
            os.dup(self._helper.stdin.fileno()), os.dup(self._helper.stdout.fileno())
        )
        self._helper.stdin.close()
        self._helper.stdout.close()
        write_to(self.path / "cgroup.procs", self._helper.pid)
        self._answer(b"ready")

    def current(self) -> int:
        """Bytes in the group, the kernel's own and the helper's too."""
        return number_in(self.path / "memory.current")

    def fill(self, amount: int, floor: int) -> int:
        """Have the helper occupy up to `amount` bytes more, as far as they lack.

        Returns:
            How many it became: less when only `floor` bytes are available.
        """
        lacking = self.amount - self.filled
        self._tell(b"touch %d %d\n" % (min(amount, lacking), floor))
        touched = int(self._answer(b"touched "))
        self.filled += touched
        return touched

    def feed(self, high: int) -> None:
        """Set memory.high, and have the helper feed the others from now on."""
        write_to(self.path / "memory.high", high)
        self._tell(b"free\n")
        self._answer(b"freed")
        self._followed = True

    def follow(self) -> str:
        """Listen to the helper to its end, and lift memory.high; how it ended."""
        assert self.pipes
        how = "died"
        for line in self._lines(self.pipes.said):
            if line.startswith(b"given "):
                self.given = int(line.removeprefix(b"given "))
            else:
                how = line.decode()
        self._lift()
        os.close(self.pipes.said)
        if self._helper is not None:
            self._helper.wait()
        if how == "spent":
            self.given = self.filled
        self._ended.set()
        return how

    def _lines(self, said: int) -> Iterator[bytes]:
        """What is said until the end of file, that which was read before first."""
        while True:
            *lines, self._unread = self._unread.split(b"\n")
            yield from lines
            more = os.read(said, 4096)
            if not more:
                return
            self._unread += more

    def stop(self) -> None:
        """End the helper, which frees what it still holds."""
        if self.pipes is None:
            return
        os.close(self.pipes.told)
        if not self._has_ended():
            kill_helper(self.path)
            self._has_ended()
        self._lift()
        if not self._followed:
            os.close(self.pipes.said)

    def _has_ended(self) -> bool:
        if self._followed:
            return self._ended.wait(ANSWER_S)
        assert self._helper
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._helper.wait(ANSWER_S)
        return self._helper.returncode is not None

    def _lift(self) -> None:
        # the group is gone when its lease has ended: then nobody is slowed down
        with contextlib.suppress(FileNotFoundError):
            write_to(self.path / "memory.high", "max")

    def _tell(self, line: bytes) -> None:
        assert self.pipes
        os.write(self.pipes.told, line)

    def _answer(self, word: bytes) -> bytes:
        """What follows `word` in the helper's next line."""
        assert self._helper
        assert self.pipes
        pipe = select.poll()
        pipe.register(self.pipes.said, select.POLLIN)
        while b"\n" not in self._unread:
            ready = pipe.poll(ANSWER_S * 1000)
            more = os.read(self.pipes.said, 4096) if ready else None
            if not more:
                how = f"has ended with {self._helper.wait()}" if ready else "is silent"
                raise Unavailable(f"the helper in {self.path} {how}")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line.removeprefix(word)


def kill_helper(path: Path) -> None:
    """Kill the helper in the group at `path`, if there is one."""
    for pid in words_in(path / "cgroup.procs"):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if HELPER.encode() in command.split(b"\0"):
                os.kill(int(pid), signal.SIGKILL)


def words_in(path: Path) -> list[str]:
    """The words in a file of the kernel; none without a file."""
    try:
        return path.read_text().split()
    except OSError:
        return []


def number_in(path: Path, key: str = "") -> int:
    """The number in a file of the kernel, after `key`; 0 without one, or for "max"."""
    words = words_in(path)
    if key in words:
        words = words[words.index(key) + 1 :]
    return int(words[0]) if words and words[0].isdigit() else 0


def write_to(path: Path, value: object) -> None:
    """Write to a file of the kernel, which must be there.

    Raises:
        OSError: as open(2) and write(2); ESRCH for a process that has ended.
    """
    # not write_text: that would create what is not there
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, f"{value}\n".encode())
    finally:
        os.close(file)
