"""The hand of one disk: a file, a file system of the lease's own, or a directory.

Ballast is taken while more than `keep` stays available to others.  All that lies on the
disk outlives the daemon, and the next one goes on with what its books know.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from holdingpen.ballast import Piece, mounting
from holdingpen.ballast.blocks import UNIT
from holdingpen.ballast.disk import PACE_EVERY_S, DiskBallast, open_disk_ballast
from holdingpen.ballast.heirs import Heir
from holdingpen.core import effects as do
from holdingpen.core.handover import AS_IS, BEST_EFFORT, Choice
from holdingpen.core.leases import Lease
from holdingpen.core.resources import DISK
from holdingpen.daemon.hands import Adopted, Ready, unheard
from holdingpen.daemon.settings import Settings
from holdingpen.devices.filesystem import FileSystem
from holdingpen.errors import Unavailable

#: A pause between two looks into directories is so many times what the look took.
PAUSE_PER_LOOK: Final = 4.0


class DiskHand:
    """The hand of `disk.NAME`."""

    wants_eye = False
    unit = UNIT

    def __init__(
        self, word: str, settings: Settings, mounts: Path, *, lasting: bool = False
    ) -> None:
        """Open what the table [disk.`word`] says.

        Args:
            word: the name of the disk.
            settings: what the administrator decided.
            mounts: where its file systems are mounted, and no other disk's.
            lasting: whether another daemon will go on with what is there at the end.

        Raises:
            HoldingPenError: when there is no such directory, or it is not for us.
        """
        disk = settings.disks[word]
        self.word = word
        self._mounts = mounts
        self._lasting = lasting
        path = Path(disk.path)
        self._filesystem = FileSystem(path)
        self.ballast: DiskBallast = open_disk_ballast(
            path, disk.hold, self._filesystem, mounts
        )
        self._keep_bytes = disk.keep
        #: Called with what broke a thread of this hand.
        self.broken: Callable[[Exception], None] = unheard
        #: Lease to what its directory uses, and what others took, when last looked.
        self._used: dict[int, int] = {}
        self.stolen: Mapping[int, int] = {}
        #: What is freed of a disk for one, few take: nothing is kept to make it good.
        self.made_good: Mapping[int, int] = {}
        #: Lease that is over to why what it had is not back.
        self._busy: dict[int, str] = {}
        #: Leases with a directory; replaced and never changed.
        self._paced: tuple[int, ...] = ()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(
            target=self._work, name=f"pacer of {word}", daemon=True
        )
        self._thread.start()

    @property
    def notes(self) -> list[str]:
        """What was found, belonged to nobody, and was cleared."""
        return [f"[disk.{self.word}]: {note}" for note in self.ballast.notes]

    def configure(self, settings: Settings) -> None:
        """Obey a configuration that was read again."""
        self._keep_bytes = settings.disks[self.word].keep

    def adopt(
        self, booked: int, leases: Mapping[int, Lease], over: frozenset[int]
    ) -> Adopted | None:
        """Find what lies there; what belongs to nobody is cleared.

        Of leases that are over it waits for `take_back`.  What was being made ready
        when the daemon ended is ballast again, and has to be made ready anew.
        """
        name = f"{DISK}.{self.word}"
        promised = {x: one for x, one in leases.items() if name in one.dropping}
        heirs = {
            x: Heir(one.how[name], one.amounts[name], one.drawn.get(name, 0))
            for x, one in leases.items()
            if name in one.how and x not in promised
        }
        to_be_kept = sum(one.drawn.get(name, 0) for one in promised.values())
        kept = self.ballast.adopt(booked + to_be_kept, heirs, over)
        paced = tuple(x for x in kept if heirs[x].kind == "directory")
        self._used = {x: self.ballast.peak(x) for x in paced}
        with self._changed:
            self._paced = paced
            self._changed.notify()
        return Adopted(min(booked, self.ballast.held), kept)

    def total(self) -> int:
        """Bytes of the file system that its users may have."""
        return self._filesystem.total()

    def wishes(self, settings: Settings) -> dict[str, Choice]:
        """A file system of its own where that can be had; a file for who wants it."""
        no_reserve = self._filesystem.why
        image_why = self.ballast.image_why
        if no_reserve:
            place = Choice("directory", no_reserve, promise=BEST_EFFORT)
            file = Choice("file", no_reserve, promise=BEST_EFFORT)
        elif image_why:
            place = Choice("directory", image_why, self.ballast.step)
            file = Choice("file")
        else:
            place, file = Choice("image"), Choice("file")
        return {AS_IS: place, "program": place, "descriptor": file}

    def troubles(self, settings: Settings) -> list[str]:
        """What does not come back, and why nothing better can be had."""
        found = [
            f"disk.{self.word}: what lease {lease} had is not back: {why}."
            for lease, why in self._busy.items()
        ]
        if mounting.socket_path() and self.ballast.image_why:
            found.append(
                f"disk.{self.word}: no lease gets a part of it: "
                f"{self.ballast.image_why} Restart the daemon then."
            )
        if settings.disks[self.word].hold and self._filesystem.why:
            found.append(f"disk.{self.word}: {self._filesystem.why}")
        return found

    def may_take(self, step_bytes: int) -> bool:
        """Whether enough is left for the others."""
        return self._filesystem.available() - step_bytes >= self._keep_bytes

    def available(self) -> int:
        """Bytes anybody could write now, and ballast of before that will be ours."""
        return self._filesystem.available() + self.ballast.found

    def used(self) -> dict[int, int]:
        """Lease to bytes in its directory.  Files and images are kept, not used."""
        return dict(self._used)

    @property
    def kept(self) -> dict[int, int]:
        """As the ballast has it."""
        return self.ballast.kept

    def prepare(self, what: do.Prepare) -> Ready:
        """Make the file, file system or directory.

        Where no file system can be made after all, it is a directory.
        """
        self.ballast.keep(what.lease, what.amount)
        uid, gid = what.who.uid, what.who.gid
        if what.how == "file":
            self.ballast.prepare_file(what.lease, what.need, self.may_take)
            return Ready()
        how = why = ""
        if what.how == "image":
            try:
                place = self.ballast.prepare_image(
                    what.lease, what.need, uid, gid, self.may_take
                )
                return Ready(os.fspath(place))
            except Unavailable as error:
                how, why = "directory", str(error)
        place = self.ballast.prepare_directory(what.lease, what.need, uid, gid)
        with self._changed:
            self._paced = (*self._paced, what.lease)
            self._changed.notify()
        return Ready(os.fspath(place), how, why)

    def take_back(self, lease: int, amount: int | None) -> int | None:
        """Have it back: wiped, unmounted, removed."""
        if amount is not None:
            return self.ballast.back(lease, amount)
        with self._changed:
            self._paced = tuple(one for one in self._paced if one != lease)
            self._used.pop(lease, None)
            self.stolen = {x: n for x, n in self.stolen.items() if x != lease}
        back = self.ballast.back(lease)
        if back is None:
            self._busy[lease] = self.ballast.busy(lease)
        else:
            self._busy.pop(lease, None)
        return back

    def lend(self, lease: int, amount: int, uid: int) -> list[Piece]:
        """Pass the file."""
        return self.ballast.lend(lease, amount, self.may_take)

    def _work(self) -> None:
        try:
            while not self._closed:
                with self._changed:
                    if not self._paced:
                        self._changed.wait()
                    paced = self._paced
                began_s = time.monotonic()
                for lease in paced:
                    self._look(lease)
                took_s = time.monotonic() - began_s
                time.sleep(max(PACE_EVERY_S, took_s * PAUSE_PER_LOOK))
        except Exception as why:
            self.broken(why)

    def _look(self, lease: int) -> None:
        seen = self.ballast.pace(lease)
        if seen is None:
            return
        with self._changed:
            if lease in self._paced:
                self._used[lease] = seen.used
                most = max(seen.stolen, self.stolen.get(lease, 0))
                if most:
                    self.stolen = {**self.stolen, lease: most}

    def close(self) -> None:
        """Give everything back, or let go of it as it is where it is to last."""
        with self._changed:
            self._closed = True
            self._paced = ()
            self._changed.notify()
        if self._lasting:
            self.ballast.leave()
            return
        self.ballast.close()
        for place in (self._mounts, self._mounts.parent):
            with contextlib.suppress(OSError):
                place.rmdir()
