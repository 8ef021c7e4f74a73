"""Open files that the daemon passed, and who closes them.

A descriptor is a plain number to Python: an exception between reading it and using it
would leave it open for ever.  So each belongs to an object from the moment it is here
until it is closed, and is closed with that object at the latest.
"""

from __future__ import annotations

import os
import socket
from array import array
from typing import TYPE_CHECKING

from holdingpen.errors import RemoteMistake

if TYPE_CHECKING:
    from types import TracebackType

    from holdingpen.client.dialogue import Answer

#: Room for as many descriptors as one message can carry, SCM_MAX_FD of the kernel: with
#: less room it would close the rest.
FILES_ROOM = socket.CMSG_SPACE(253 * array("i").itemsize)


class Files:
    """Open files: closed with this object, unless somebody has taken them out."""

    #: Ours, in order.  None before `__init__`, which Ctrl-C may come before.
    fds: list[int] = []

    def __init__(self, fds: list[int]) -> None:
        """Own `fds`."""
        self.fds = fds

    def close(self) -> None:
        """Close them."""
        while self.fds:
            os.close(self.fds.pop())

    def __del__(self) -> None:
        self.close()


class Pieces(Files):
    """The files of one resource, as they come in one answer after another.

    In a `with` block, they are closed when it is left by an exception.
    """

    def __init__(self, fds: list[int], sizes: list[int], handover: str) -> None:
        """Own `fds`; for none yet, see `awaited`."""
        super().__init__(fds)
        #: Bytes of each that are the lease's, in order.
        self.sizes = sizes
        #: exact or best-effort.
        self.handover = handover
        #: Whether more are to be asked for.
        self.more = False

    @classmethod
    def awaited(cls) -> Pieces:
        """None yet, but more to be asked for."""
        pieces = cls([], [], "exact")
        pieces.more = True
        return pieces

    def add(self, answer: Answer | None) -> None:
        """Take over what came with an answer.

        Raises:
            RemoteMistake: when it is not the one that was due.
        """
        if not isinstance(answer, tuple):
            raise RemoteMistake(
                f"the daemon answered with {type(answer).__name__} and no files where "
                "files were due.",
                "out-of-turn",
            )
        fetched, files = answer
        self.sizes += fetched.sizes
        # one statement, so that Ctrl-C leaves each file with one owner
        self.fds, files.fds = [*self.fds, *files.fds], []
        self.more = fetched.more
        if fetched.handover != "exact":
            self.handover = fetched.handover

    def __enter__(self) -> Pieces:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.close()


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The files in what recvmsg(2) calls ancillary data."""
    found = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()
