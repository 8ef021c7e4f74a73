"""One lease's control group, and the helper in it that holds its memory.

What it is for is said in samegroup.py, what the helper says in lazyholder.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from pathlib import Path

from holdingpen.ballast import lazyholder
from holdingpen.errors import Unavailable

#: Longest wait for the helper's next line: it takes 10 ms for a step, or seconds on
#: a machine that is out of memory.
ANSWER_S = 10.0

#: The helper's badness when memory runs out: the last but one to be killed, as the
#: service is.  Measured with 1000, the first: beside a program that always wants more
#: the helper was killed, and that program had 171 of its 300 MiB.
OOM_SCORE_ADJ = -900

#: The program that is run as the helper.
HELPER = lazyholder.__file__


class LeaseGroup:
    """One lease's group and the helper in it."""

    def __init__(self, path: Path, amount: int) -> None:
        """Make the group, in which a former one of this name may not be in use."""
        self.path = path
        #: Bytes to be held, whole pages.
        self.amount = amount
        #: Bytes the helper has touched.
        self.filled = 0
        #: Bytes of them that others in the group have got.
        self.given = 0
        self._helper: subprocess.Popen[bytes] | None = None
        self._unread = b""
        #: Whether `follow` reads what the helper says, and closes the pipe.
        self._followed = False
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()
        path.mkdir()

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
            bufsize=0,
        )
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
        assert self._helper
        assert self._helper.stdout
        with self._helper.stdout as said:
            while more := said.read(4096):
                *lines, self._unread = (self._unread + more).split(b"\n")
                for line in lines:
                    self.given = int(line.removeprefix(b"given "))
        self._lift()
        ended = self._helper.wait()
        if ended == lazyholder.EXIT_SPENT:
            self.given = self.filled
            return "spent"
        return "stuck" if ended == lazyholder.EXIT_STUCK else "died"

    def stop(self) -> None:
        """End the helper, which frees what it still holds."""
        if self._helper is None:
            return
        assert self._helper.stdin
        self._helper.stdin.close()
        try:
            self._helper.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            self._helper.kill()
            self._helper.wait()
        self._lift()
        if not self._followed and self._helper.stdout:
            self._helper.stdout.close()

    def _lift(self) -> None:
        # the group is gone when its lease has ended: then nobody is slowed down
        with contextlib.suppress(FileNotFoundError):
            write_to(self.path / "memory.high", "max")

    def _tell(self, line: bytes) -> None:
        assert self._helper
        assert self._helper.stdin
        self._helper.stdin.write(line)

    def _answer(self, word: bytes) -> bytes:
        """What follows `word` in the helper's next line."""
        assert self._helper
        assert self._helper.stdout
        pipe = self._helper.stdout
        while b"\n" not in self._unread:
            ready = select.select([pipe], [], [], ANSWER_S)[0]
            more = pipe.read(4096) if ready else None
            if not more:
                how = f"has ended with {self._helper.wait()}" if ready else "is silent"
                raise Unavailable(f"the helper in {self.path} {how}")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line.removeprefix(word)


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
