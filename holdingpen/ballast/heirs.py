"""What one lease has on a disk, and how it goes on under the next daemon.

Files, images and directories outlive the daemon by themselves: their blocks are
occupied, their file systems mounted, and programs work on in them.  So the next daemon
only has to find them, and to know of whom they are.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from holdingpen.ballast import scratch
from holdingpen.ballast.blocks import round_up

if TYPE_CHECKING:
    from pathlib import Path

    from holdingpen.ballast.blocks import BlockFile
    from holdingpen.ballast.grounds import Grounds, Left


class Heir(NamedTuple):
    """A lease that goes on although the daemon that granted it has ended."""

    #: What it had: "file", "image" or "directory".
    kind: str
    #: Bytes it holds.
    size: int
    #: Bytes of these that were ballast.
    drawn: int


class Lent:
    """What was prepared for one lease."""

    def __init__(
        self,
        size: int,
        file: BlockFile | None = None,
        mounted: scratch.Scratch | None = None,
        directory: Path | None = None,
    ) -> None:
        #: Bytes the lease holds.
        self.size = size
        #: Cut out of the pool; None: a paced directory.
        self.file = file
        #: Its image's file system; None: it has none.
        self.mounted = mounted
        #: Where the client may write.
        self.directory = directory
        #: Whether the file system was unmounted, at once or lazily.
        self.left = False
        #: Of a directory: bytes freed for it, and the most that was ever in it.
        self.released = 0
        self.peak = 0
        #: Why it is not back yet: a few words.
        self.busy = ""


def inherited(found: Left, heir: Heir, grounds: Grounds) -> Lent | None:
    """What a lease has that goes on; None: it is not as it was."""
    if found.file is None:
        place = grounds.place(found.lease)
        there = place.is_dir() and not place.is_symlink()
        return Lent(heir.size, directory=place) if there else None
    size = round_up(heir.size)
    if found.kind == "image":
        place = grounds.mounts / str(found.lease)
        mounted = scratch.find(found.file.fd, place)
        cut = os.fstat(found.file.fd).st_size < size
        if mounted is None or cut or not scratch.is_mounted(mounted):
            return None
        # its client cannot reach it
        found.file.size = size
        return Lent(heir.size, found.file, mounted, place)
    # its client may have cut it, or written behind its end
    found.file.size = size
    return Lent(heir.size, found.file)


def still_due(found: Left, grounds: Grounds) -> Lent:
    """What is to be taken back of a lease that is over."""
    if found.file is None:
        return Lent(0, directory=grounds.place(found.lease))
    if found.kind == "file":
        return Lent(found.file.size, found.file)
    place = grounds.mounts / str(found.lease)
    mounted = scratch.find(found.file.fd, place)
    lent = Lent(found.file.size, found.file, mounted)
    if mounted is not None and scratch.is_mounted(mounted):
        lent.directory = place
    else:
        # its last user keeps it, or it is mounted where this disk's were before
        scratch.clear(found.file.fd)
        lent.left = True
    return lent
