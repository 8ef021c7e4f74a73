"""The mounter: a program that mounts for the daemon, which may not.

    python3 -I -m holdingpen.ballast.mounter DIRECTORY

It is started by systemd for who connects to holdingpen-mounter.socket, and ends when
nobody has for `IDLE_S`.  It has no state: what it made is seen in the kernel, and is
there whether it lives or not.  What may be asked is said in mounting.py; it is done by
the functions of scratch.py and hugefile.py that do it elsewhere too.

**What it trusts.**  Who connects is root, by the word of the kernel.  All the same it
does no more than it is here for, so that a daemon that was taken over cannot mount
what it likes where it likes:

    where     DIRECTORY/WORD/NUMBER and nowhere else, and no link on the way there
    what      a file system that it has just made itself, nosuid and nodev; of a
              regular file of root's that came as a descriptor, open for writing
    given     an empty directory of root's alone that came as a descriptor

**What it cannot keep out.**  Root, who needs no mounter to mount.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import select
import signal
import socket
import stat
import struct
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, assert_never

import msgspec

from holdingpen.ballast import hugefile, mounting, scratch
from holdingpen.ballast.mounting import (
    WITH_DESCRIPTOR,
    Answer,
    Clear,
    Done,
    Failed,
    Give,
    Huge,
    Leave,
    Look,
    Make,
    Remove,
    Request,
)
from holdingpen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

#: It ends when nobody came for so long, and starts again in 0.2 s.
IDLE_S: Final = 60.0

#: How long a request may be on its way; it is sent in one piece.
REQUEST_S: Final = 5.0

#: What is done at once: a disk that hangs stops no other.
THREADS_MAX: Final = 8

#: Loop devices have smaller numbers: MINORBITS of include/linux/kdev_t.h.
_LOOP_MAX: Final = 2**20

#: sd_listen_fds(3)
_FIRST_PASSED: Final = 3

_PLACE: Final = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*/[0-9]+")
_UCRED: Final = struct.Struct("iII")


class Mounter:
    """What is mounted below one directory."""

    def __init__(self, root: Path) -> None:
        #: Below it and nowhere else.
        self._root = root

    def serve(self, listener: socket.socket, idle_s: float = IDLE_S) -> None:
        """Answer whoever comes, until nobody has for `idle_s`."""
        listener.setblocking(False)
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        jobs: set[Future[None]] = set()
        with ThreadPoolExecutor(THREADS_MAX) as pool:
            while True:
                over = {job for job in jobs if job.done()}
                jobs -= over
                for job in over:
                    # a fault of ours is seen in the journal, and the next one starts
                    job.result()
                if len(jobs) == THREADS_MAX:
                    wait(jobs, return_when="FIRST_COMPLETED")
                    continue
                if not poll.poll(idle_s * 1000):
                    if not jobs:
                        return
                    continue
                with contextlib.suppress(BlockingIOError):
                    conn, _ = listener.accept()
                    jobs.add(pool.submit(self.answer, conn))

    def answer(self, conn: socket.socket) -> None:
        """Hear one request, do it, answer, and hang up; whoever has gone is let go."""
        passed: list[int] = []
        with conn:
            conn.settimeout(REQUEST_S)
            try:
                request = self._hear(conn, passed)
                answer, mount = self._try(request, passed)
            except _Refused as why:
                answer, mount = Failed(str(why), errno.EPERM), -1
            except OSError:
                # it hung up, or said nothing
                return
            finally:
                for fd in passed:
                    os.close(fd)
            try:
                fds = [mount] if mount >= 0 else []
                with contextlib.suppress(OSError):
                    socket.send_fds(conn, [msgspec.json.encode(answer)], fds)
            finally:
                if mount >= 0:
                    os.close(mount)

    def _hear(self, conn: socket.socket, passed: list[int]) -> Request:
        """A request, its descriptors put into `passed`."""
        # read first: who hangs up on something unread takes his answer back
        data, fds, flags, _ = socket.recv_fds(conn, mounting.MESSAGE_MAX, 2)
        passed += fds
        for fd in fds:
            os.set_inheritable(fd, False)
        said = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _gid = _UCRED.unpack(said)
        if uid != 0:
            raise _Refused(f"process {pid} of uid {uid} asks, and only root may.")
        if not data:
            raise ConnectionResetError
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise _Refused("a request that is too long, or has too many descriptors.")
        try:
            request: Request = msgspec.json.decode(data, type=Request)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _Refused(f"a request that makes no sense: {error}.") from None
        wanted = int(isinstance(request, WITH_DESCRIPTOR))
        if len(fds) != wanted:
            what = type(request).__name__
            raise _Refused(f"{what} comes with {wanted} descriptors, not {len(fds)}.")
        return request

    def _try(self, request: Request, passed: list[int]) -> tuple[Answer, int]:
        try:
            return self._do(request, passed)
        except Unavailable as error:
            return Failed(str(error)), -1
        except OSError as error:
            return Failed(error.strerror or str(error), error.errno or 0), -1

    def _do(self, request: Request, passed: list[int]) -> tuple[Answer, int]:
        """Do it; returns the answer and a descriptor for it, or -1."""
        match request:
            case Make(directory, uid, gid):
                _must_be_image(passed[0])
                place = self._place(directory)
                made = scratch.make(passed[0], place, _user(uid), _user(gid))
                return Done(made.number), -1
            case Leave(directory, number):
                if not 0 <= number < _LOOP_MAX:
                    raise _Refused(f"there is no loop device {number}.")
                scratch.leave(scratch.Scratch(self._place(directory), number))
            case Clear():
                _must_be_image(passed[0])
                places = [str(place) for place in scratch.clear(passed[0])]
                return Done(places=places), -1
            case Remove(directory):
                scratch.remove_directory(self._place(directory))
            case Huge():
                mount, noswap = hugefile.mount_here()
                return Done(noswap=noswap), mount
            case Give(uid, gid):
                _must_be_new(passed[0])
                os.fchown(passed[0], _user(uid), _user(gid))
            case Look():
                return Done(why=scratch.why_not()), -1
            case _:
                assert_never(request)
        return Done(), -1

    def _place(self, directory: str) -> Path:
        """A place that is ours: below our directory, and not by way of a link."""
        below = directory.removeprefix(f"{self._root}/")
        if below == directory or _PLACE.fullmatch(below) is None:
            raise _Refused(
                f"{directory} is not a place for a file system: those are "
                f"{self._root}/NAME/NUMBER."
            )
        place = self._root / below
        for one in (place, place.parent, self._root):
            if one.is_symlink():
                raise _Refused(f"{one} is a link.")
        return place


class _Refused(Exception):
    """What is not done for anybody."""


def _user(number: int) -> int:
    # -1 is "leave it as it is" for chown(2)
    if not 0 <= number < 2**32 - 1:
        raise _Refused(f"there is no user or group {number}.")
    return number


def _must_be_image(fd: int) -> None:
    found = os.fstat(fd)
    writes = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or not writes:
        raise _Refused("what came is no file of root's that is open for writing.")


def _must_be_new(fd: int) -> None:
    found = os.fstat(fd)
    ours = found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077
    if not stat.S_ISDIR(found.st_mode) or not ours or os.listdir(fd):
        raise _Refused("what came is no empty directory of root's alone.")


def _end(number: int, frame: object) -> NoReturn:
    # what is being done is done first: threads are waited for
    raise SystemExit(0)


def main(words: Sequence[str]) -> int:
    """Serve the socket that systemd passed; returns the exit status."""
    if len(words) != 1 or not words[0].startswith("/"):
        print(
            "usage: python3 -I -m holdingpen.ballast.mounter DIRECTORY", file=sys.stderr
        )
        return 2
    if os.environ.get("LISTEN_FDS") != "1":
        print(f"no socket: start {mounting.SOCKET_UNIT}", file=sys.stderr)
        return 2
    # never ask oneself
    os.environ.pop(mounting.VARIABLE, None)
    os.set_inheritable(_FIRST_PASSED, False)
    signal.signal(signal.SIGTERM, _end)
    with socket.socket(fileno=_FIRST_PASSED) as listener:
        Mounter(Path(words[0])).serve(listener)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
