"""Disk space held back as preallocated files, and handed over without a gap.

Where what lies is said in grounds.py.  Three ways to hand over, prepared before the
lease is granted:

    prepare_file        exact      `lend` passes the file; needs nothing
    prepare_image       exact      see scratch.py; needs root and loop devices
    prepare_directory   bounded    space is freed as it is used: `pace`

**Exact** means that the blocks never belong to nobody: a file is cut out of ballast
(blocks.py) and becomes ballast again when nobody uses it.  Blocks belong to the
daemon, so nobody's quota is charged.  A client can give blocks of his file back by
truncating it; what is then missing is looked for when the file returns.

**Paced.**  A program that writes to a full disk does not wait, it fails.  So `step`
bytes are free for it from the beginning, and after each look again:

    released - the most it ever used <= step                        (`due`)

`pace` must be called before a program can have written that: 2 GB/s for 20 ms are
40 MiB of 64.  A look takes 2 us for each file there, so with 10,000 files once in
20 ms is a whole CPU: pause for 4 times what the look took, and 20 ms at least.

**After a daemon's end**, by a crash or by `leave`, all of it is still there, and
programs work on in what they have.  The next daemon finds it and says to `adopt` which
leases go on; they have then what they had.

    ballast        held, as far as the daemon before knew it; what is beyond counts as
                   `found` until `take` adopts it, which is free and asks no guard.
                   Whoever measures what is available must add `found`
    file, image    the lease's, or waited for until its last user goes
    directory      its share is freed on: `step` bytes more than is in it now.  While
                   there is no daemon nothing is freed, and a program that writes more
                   than a step in that pause finds the disk full

What belongs to no lease is cleared, and `notes` says so: what nobody uses becomes
ballast, without being freed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from holdingpen.amounts import format_size
from holdingpen.ballast import Piece, may_give, scratch
from holdingpen.ballast.blocks import STEP, BlockFile, Pool, round_down, round_up
from holdingpen.ballast.grounds import Grounds
from holdingpen.ballast.heirs import Heir, Lent, inherited, still_due
from holdingpen.ballast.lent import in_use, open_again
from holdingpen.errors import Refusal, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping
    from pathlib import Path

#: Bytes that are free for a paced lease before it has used them; the most a thief
#: gets.
PACE_STEP: Final = 64 * 1024 * 1024

#: Least seconds between two looks of `pace`.
PACE_EVERY_S: Final = 0.02

#: How long closing waits for what is being prepared or taken back: longer than the
#: slowest part of it, mkfs, may take.
CLOSE_WITHIN_S: Final = scratch.MKFS_TIMEOUT_S + 5.0


class FileSystemLike(Protocol):
    """What must be known of the file system; `devices.filesystem` knows it."""

    @property
    def kind(self) -> str:
        """What it is: ext4."""

    @property
    def why(self) -> str:
        """Why preallocation is no reservation on it; empty: it is."""

    def used(self, directory: Path) -> int:
        """Bytes a tree of files occupies; links are not followed."""


class Paced(NamedTuple):
    """What one look of `pace` showed, in bytes."""

    #: What is in the directory now.
    used: int
    #: Freed for it until now, this look's share included.
    released: int
    #: Freed for it, not used by it, and not available: others took it.
    stolen: int


def due(kept: int, released: int, peak: int, step: int) -> int:
    """Bytes to free now, so that `released - peak <= step` still holds.

    Args:
        kept: bytes that are not freed yet.
        released: bytes freed until now.
        peak: the most bytes that were ever used.
        step: bytes that may be free before they are used.

    Returns:
        A multiple of `UNIT`, or all that is kept.
    """
    may = may_give(released, peak, step)
    return kept if may >= kept else round_down(may)


def always(step: int) -> bool:
    """The guard that lets everything pass."""
    return True


class DiskBallast:
    """Disk space held back.  Made by `open_disk_ballast`.

    Its methods may run in several threads at once, those for one lease in one at a
    time.  `close` waits for what is being prepared or taken back.
    """

    def __init__(
        self, grounds: Grounds, filesystem: FileSystemLike, hold: int, step: int
    ) -> None:
        """Own `grounds`, and find what is there; `hold` and `step` as given."""
        #: "files on ext4".
        self.kind = f"files on {filesystem.kind}"
        #: Why others may have some of it all the same; empty: they cannot.
        self.why = filesystem.why
        #: A disk is never swapped out; a tmpfs is.
        self.noswap = filesystem.kind != "tmpfs"
        #: Why no private file system can be made; empty: it can.
        self.image_why = scratch.why_not()
        #: Bytes a paced lease may have free and unused.
        self.step = step
        self._grounds = grounds
        self._used = filesystem.used
        self._pool = Pool(grounds.ours)
        grounds.probe(filesystem.kind)
        grounds.find(self._pool)
        self._hold = hold
        #: Bytes of ballast that lie there from before and count nowhere yet.
        self.found = self._pool.size
        #: What was found and cleared: sentences for the log.
        self.notes = grounds.notes
        # pool.size == found + held + all kept apart; guarded, as they are, by _lock
        self._held = 0
        self._apart: dict[int, int] = {}
        self._lent: dict[int, Lent] = {}
        self._lock = threading.Lock()
        self._closed = False
        #: Calls that are preparing or taking back; guarded by _lock as well.
        self._at_work = 0
        self._idle = threading.Condition(self._lock)

    # What is there from before.

    def adopt(
        self,
        booked: int = 0,
        heirs: Mapping[int, Heir] = MappingProxyType({}),
        over: Container[int] = (),
    ) -> frozenset[int]:
        """Go on with what a former daemon left; called once, before anything else.

        Args:
            booked: bytes of ballast that it knew to be held for no lease.
            heirs: its leases that go on.
            over: those that do not, and for which `back` will be called.

        Returns:
            Those of `heirs` that have what they had.

        Raises:
            Unavailable: when the disk cannot be read.
        """
        try:
            kept = self._adopt_leases(heirs, over)
            self._adopt_ballast(booked, heirs)
        except OSError as error:
            raise _unreadable(self._grounds.path, error) from error
        return kept

    def _adopt_leases(
        self, heirs: Mapping[int, Heir], over: Container[int]
    ) -> frozenset[int]:
        left = self._grounds.left
        while left:
            one = left[0]
            heir = heirs.get(one.lease)
            lent = None
            if heir is not None and heir.kind == one.kind:
                lent = inherited(one, heir, self._grounds)
            elif heir is None and one.lease in over and one.lease not in self._lent:
                lent = still_due(one, self._grounds)
            if lent is None:
                self._grounds.clear(one, self._pool)
            else:
                self._lent[one.lease] = lent
            left.popleft()
        self._grounds.clear_mounts(
            [x.directory for x in self._lent.values() if x.directory is not None]
        )
        return frozenset(self._lent.keys() & heirs.keys())

    def _adopt_ballast(self, booked: int, heirs: Mapping[int, Heir]) -> None:
        booked = round_down(booked)
        # what is beyond the books can only have been kept for directories
        spare = max(0, self._pool.size - booked)
        for lease, lent in self._lent.items():
            if lent.file is not None or lease not in heirs:
                continue
            drawn = round_up(heirs[lease].drawn)
            lent.peak = self._used(self._grounds.place(lease))
            kept = min(drawn, round_up(drawn - lent.peak - self.step), spare)
            spare -= kept
            lent.released = drawn - kept
            if kept:
                self._apart[lease] = kept
        there = self._pool.size - sum(self._apart.values())
        self._held = min(booked, there)
        beyond = there - self._held
        self.found = min(beyond, round_down(self._hold - self._held))
        if beyond > self.found:
            self._grounds.free(beyond - self.found, self._pool)

    # The purses.

    @property
    def swapped(self) -> int:
        """Nothing: a disk is not memory."""
        return 0

    @property
    def held(self) -> int:
        """Bytes occupied and kept for no lease; what is `found` is not in it."""
        return self._held

    @property
    def kept(self) -> dict[int, int]:
        """Lease to bytes occupied for it: files and images whole, whatever is in them.

        Of a paced directory what is not freed yet; what was written is not in it.
        """
        kept = dict(self._apart)
        for lease, lent in list(self._lent.items()):
            if lent.file is not None:
                kept[lease] = kept.get(lease, 0) + lent.file.size
        return {lease: amount for lease, amount in kept.items() if amount}

    def take(self, amount: int, may: Callable[[int], bool]) -> int:
        """Occupy up to `amount` more bytes: what was found first, then step by step.

        Args:
            amount: bytes, rounded down to a multiple of `UNIT`.
            may: asked before each step with its bytes, at most `blocks.STEP`, but not
                for what was found; its first no ends the taking.

        Returns:
            Bytes that are held now and were not before: less than asked when `may`
            said no, or when others than root have no more.

        Raises:
            OSError: for anything else than want of space; steps before it stand.
        """
        with self._lock:
            adopted = min(self.found, round_down(amount))
            self.found -= adopted
            self._held += adopted
        return adopted + self._occupy(amount - adopted, may)

    def _occupy(self, amount: int, may: Callable[[int], bool]) -> int:
        taken, most = 0, STEP
        while (step := min(most, round_down(amount - taken))) > 0 and may(step):
            with self._lock:
                if self._closed:
                    break
                grown = self._pool.grow(step)
                if grown:
                    self._held += step
            if grown:
                taken += step
            else:
                # the last blocks of a disk that becomes full
                most = round_down(step // 2)
        return taken

    def drop(self, amount: int) -> int:
        """Free at least `amount` bytes of `held`, or all; return how many."""
        with self._lock:
            given = min(round_up(amount), self._held)
            self._pool.shrink(given)
            self._held -= given
        return given

    def keep(self, lease: int, amount: int) -> int:
        """Set at least `amount` bytes of `held` apart, or all; return how many."""
        with self._lock:
            return self._keep(lease, round_up(amount))

    def _keep(self, lease: int, amount: int) -> int:
        kept = min(amount, self._held)
        if kept:
            self._held -= kept
            self._apart[lease] = self._apart.get(lease, 0) + kept
        return kept

    def give(self, lease: int, amount: int) -> int:
        """Free at least `amount` bytes kept for `lease`, or all; return how many.

        Nothing that was made a file or an image is freed.
        """
        with self._lock:
            return self._give(lease, round_up(amount))

    def _give(self, lease: int, amount: int) -> int:
        given = max(0, min(amount, self._apart.get(lease, 0)))
        self._pool.shrink(given)
        self._put_back(lease, given)
        lent = self._lent.get(lease)
        if lent is not None:
            lent.released += given
        return given

    def _put_back(self, lease: int, amount: int) -> None:
        """Take `amount` out of what is apart for `lease`; it goes nowhere yet."""
        left = self._apart.pop(lease, 0) - amount
        if left > 0:
            self._apart[lease] = left

    # Handing over.

    def prepare_file(
        self, lease: int, amount: int, may: Callable[[int], bool] = always
    ) -> None:
        """Make a file of `amount` bytes of what is kept for `lease`.

        What is lacking is taken as `take` does.  Asked again, it does nothing.

        Raises:
            Refusal: `not-now`, when `may` or the system said no; then all is as
                before, but for what others stole meanwhile.
        """
        with self._working():
            if lease not in self._lent:
                file = self._cut(lease, amount, may, f"file-{lease}")
                self._lent[lease] = Lent(amount, file)

    def prepare_image(
        self,
        lease: int,
        amount: int,
        uid: int,
        gid: int,
        may: Callable[[int], bool] = always,
    ) -> Path:
        """Make a file system of `amount` bytes for `lease`: see scratch.py.

        Returns:
            The directory, mode 0700, of `uid` and `gid`.

        Raises:
            Refusal: as of `prepare_file`.
            Unavailable: when no file system can be made or mounted here; then all is
                as before, and `prepare_directory` may still do.
        """
        place = self._grounds.mounts / str(lease)
        if lease in self._lent:
            return place
        if self.image_why:
            raise Unavailable(self.image_why)
        with self._working():
            file = self._cut(lease, amount, may, f"image-{lease}")
            try:
                mounted = scratch.make(file.fd, place, uid, gid)
            except Unavailable:
                file.wipe()
                with self._lock:
                    self._return(file)
                    self._keep(lease, file.size)
                raise
            self._lent[lease] = Lent(amount, file, mounted, place)
        return place

    def prepare_directory(self, lease: int, amount: int, uid: int, gid: int) -> Path:
        """Make a directory for `lease` and free the first step for it.

        What is kept for the lease and more than `amount` is held again; what is
        lacking is not taken.

        Returns:
            The directory, mode 0700, of `uid` and `gid`.

        Raises:
            Refusal: `not-permitted`, when we may not make one for `uid`.
            Unavailable: when it cannot be made: no room for it.
        """
        place = self._grounds.place(lease)
        if lease in self._lent:
            return place
        with self._working():
            self._make_directory(lease, amount, uid, gid, place)
        return place

    def _make_directory(
        self, lease: int, amount: int, uid: int, gid: int, place: Path
    ) -> None:
        try:
            self._grounds.make(lease, uid, gid)
        except PermissionError:
            raise Refusal(
                f"cannot make {place} for uid {uid}: this daemon runs as uid "
                f"{os.geteuid()}, and only root's serves others.",
                "not-permitted",
            ) from None
        except OSError as error:
            raise Unavailable(f"cannot make {place}: {error.strerror}.") from None
        with self._lock:
            self._lent[lease] = Lent(amount, directory=place)
            surplus = self._apart.get(lease, 0) - round_up(amount)
            if surplus > 0:
                self._put_back(lease, surplus)
                self._held += surplus
            self._give(lease, due(self._apart.get(lease, 0), 0, 0, self.step))

    def lend(
        self, lease: int, amount: int, may: Callable[[int], bool], user: int = 0
    ) -> list[Piece]:
        """Pass the file of `lease`, prepared now if it was not.

        Returns:
            One piece; asked again, the same file by another descriptor.

        Raises:
            Refusal: `not-now` as of `prepare_file`; `bad-request` when the lease has
                a directory.
        """
        with self._working():
            self.prepare_file(lease, amount, may)
            lent = self._lent[lease]
            if lent.file is None or lent.mounted is not None:
                raise Refusal(
                    f"lease {lease} has its disk space in {lent.directory}, not as a "
                    "file.",
                    "bad-request",
                )
            return [Piece(open_again(lent.file.fd), lent.size)]

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Nothing is closed meanwhile, and nothing begun that nobody would end."""
        with self._lock:
            if self._closed and not self._at_work:
                raise Refusal("the daemon is ending. Ask the next one.", "not-now")
            self._at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1
                self._idle.notify_all()

    def _cut(
        self, lease: int, amount: int, may: Callable[[int], bool], name: str
    ) -> BlockFile:
        """A file of what is apart for `lease`, and of free space as far as lacking."""
        size = round_up(amount)
        with self._lock:
            before = self._apart.get(lease, 0)
        taken = self._occupy(max(0, size - before), may)
        with self._lock:
            self._keep(lease, taken)
            there = self._apart.get(lease, 0)
            if there >= size:
                others = sum(self._apart.values()) - there
                file = self._pool.cut(size, self.found + others, name)
                if file.size == size:
                    self._apart.pop(lease)
                    self._held += there - size
                    self._mourn(lease)
                    return file
                # what came together is ballast again
                self._pool.put(file)
                self._mourn(lease)
                there = self._apart.get(lease, 0)
            self._give(lease, there - before)
        raise Refusal(
            f"a file of {format_size(size)} was asked for in {self._grounds.path}: "
            f"{format_size(before)} were held back for it, and {format_size(there)} "
            "can be had now. Ask again later, or for less.",
            "not-now",
        )

    def _mourn(self, lease: int) -> None:
        """Write off what the pool has lost: `held` first, then of `lease`."""
        lost = self.found + self._held + sum(self._apart.values()) - self._pool.size
        part = min(lost, self._held)
        self._held -= part
        lost -= part
        part = min(lost, self.found)
        self.found -= part
        lost -= part
        for unlucky in (lease, *sorted(self._apart, reverse=True)):
            part = min(lost, self._apart.get(unlucky, 0))
            self._put_back(unlucky, part)
            lost -= part

    def _return(self, file: BlockFile) -> None:
        self._pool.put(file)
        self._held += file.size

    def pace(self, lease: int) -> Paced | None:
        """Look once into the directory of `lease`, and free what is due.

        To be called every `PACE_EVERY_S` and not sooner than 4 times what it took.

        Returns:
            What was seen; None: the lease has no directory, or no more.
        """
        lent = self._lent.get(lease)
        if lent is None or lent.directory is None or lent.file is not None:
            return None
        used = self._used(lent.directory)
        with self._lock:
            if self._lent.get(lease) is not lent or lent.left:
                return None
            lent.peak = max(lent.peak, used)
            kept = self._apart.get(lease, 0)
            self._give(lease, due(kept, lent.released, lent.peak, self.step))
            now = os.fstatvfs(self._grounds.ours)
            available = now.f_bavail * now.f_frsize
            stolen = max(0, lent.released - lent.peak - available)
            return Paced(used, lent.released, stolen)

    def peak(self, lease: int) -> int:
        """The most bytes that were seen in the directory of `lease`."""
        lent = self._lent.get(lease)
        return lent.peak if lent else 0

    def usable(self, lease: int) -> int:
        """Bytes that can still be written to the image of `lease`; 0: it has none."""
        lent = self._lent.get(lease)
        if lent is None or lent.mounted is None or lent.left:
            return 0
        return scratch.usable_bytes(lent.mounted)

    def busy(self, lease: int) -> str:
        """Why what `lease` had is not back, in a few words; empty: not known."""
        lent = self._lent.get(lease)
        return lent.busy if lent else ""

    # Taking back.

    def back(self, lease: int, amount: int | None = None) -> int | None:
        """What is kept for `lease`, or `amount` of it, is `held` again.

        With `amount`, only what was not made a file or an image.  Without, a file is
        wiped; an image unmounted and wiped; a directory removed, and what was written
        to it is free.  An image in use is detached: see scratch.py.

        Returns:
            Bytes that are held again, fewer if the client gave some away; None:
            somebody still uses it, `busy` says who, and it is to be asked again.
        """
        if amount is not None:
            with self._lock:
                part = min(round_down(amount), self._apart.get(lease, 0))
                self._put_back(lease, part)
                self._held += part
            return part
        with self._working():
            lent = self._lent.get(lease)
            if lent is not None:
                lent.busy = self._end(lease, lent)
                if lent.busy:
                    return None
            with self._lock:
                self._lent.pop(lease, None)
                part = self._apart.pop(lease, 0)
                self._held += part
                if lent is not None and lent.file is not None:
                    self._return(lent.file)
                    part += lent.file.size
        return part

    def _end(self, lease: int, lent: Lent) -> str:
        """Have it back, wiped or removed; why not, if not."""
        if lent.file is None:
            lent.left = True
            return self._grounds.remove(lease)
        if lent.mounted is not None and not lent.left:
            scratch.leave(lent.mounted)
            lent.left = True
        if in_use(lent.file.fd):
            if lent.mounted is None:
                return "its file is still open somewhere"
            names = ", ".join(scratch.keepers(lent.mounted.device))
            return f"its scratch is still used by {names or 'somebody'}"
        lent.file.wipe()
        return ""

    def close(self) -> None:
        """Give everything back for good, what leases still have included.

        What is in use goes with its last user.  Closing twice is allowed.
        """
        if self._closed:
            return
        for lease, one in self._end_with(self._pool.close).items():
            if one.file is None:
                self._grounds.remove(lease)
                continue
            if one.mounted is not None and not one.left:
                scratch.leave(one.mounted)
            self._pool.remove(one.file)
        self._grounds.remove_own()
        self._grounds.close()

    def leave(self) -> None:
        """Let go of everything as it is: another daemon goes on with it.

        Leaving or closing afterwards is allowed, and does nothing.
        """
        if self._closed:
            return
        for one in self._end_with(self._pool.leave).values():
            if one.file is not None:
                os.close(one.file.fd)
        self._grounds.close()

    def _end_with(self, end: Callable[[], None]) -> dict[int, Lent]:
        """Own nothing any more, and `end` the pool; what leases have is returned."""
        with self._lock:
            self._closed = True
            self._idle.wait_for(lambda: not self._at_work, CLOSE_WITHIN_S)
            lent, self._lent = self._lent, {}
            self._held = self.found = 0
            self._apart.clear()
            end()
        return lent


def open_disk_ballast(
    path: Path,
    hold: int,
    filesystem: FileSystemLike,
    mounts: Path,
    step: int = PACE_STEP,
) -> DiskBallast:
    """Open the ballast of one [disk.NAME]; `adopt` must be the next that is called.

    Args:
        path: an existing directory.
        hold: bytes of ballast that may be kept of what is found and booked nowhere.
        filesystem: that of `path`.
        mounts: directory for the mounts of this disk and no other; made when needed.
        step: bytes a paced lease may have free and unused.

    Raises:
        Unavailable: when its directories are not ours, or another daemon has them.
    """
    grounds = Grounds(path, mounts)
    try:
        return DiskBallast(grounds, filesystem, hold, step)
    except OSError as error:
        grounds.close()
        raise _unreadable(path, error) from error
    except BaseException:
        grounds.close()
        raise


def _unreadable(path: Path, error: OSError) -> Unavailable:
    return Unavailable(f"cannot look at the ballast in {path}: {error.strerror}.")
