"""RAM held back as the pages of files that only this process has.

The ballast is a list of files of shared memory, held by their descriptors and never
mapped: posix_fallocate(3) at the end of the last occupies more, ftruncate(2) gives
the tail back.  Never mapped, because

* pages of an unmapped file are in nobody's resident set, so the OOM killer sees
  nothing in this process worth killing (measured: with 500 MiB held so, the program
  that wanted too much was killed and the holder was not);
* nobody waits for the lock of an address space while it grows (measured: populating
  3 GiB of anonymous memory in one call stops every other thread's mmap(2) for 0.9 s);
* a file can be lent to a client, who maps it, cuts it or fills it with what he
  likes, and no access of ours can fail for that.

What the pages are decides how fast they are given back:

    kind         4 GiB taken   4 GiB dropped   never swapped out
    huge tmpfs        7 ms          9 ms       as root, Linux 6.4 and later
    memfd           950 ms        510 ms       no

(AMD EPYC of 2024, 2 virtual CPUs, Linux 6.18.)  A huge page is not zeroed until
somebody maps it.

**Dropping never allocates.**  It is a subtraction and an ftruncate(2) for each file
of `piece_bytes`, which frees whole pages and needs no memory of its own in the
kernel; no message is made, nothing is logged.  It works in a memory cgroup that is
full to the last page.  All of it lets go of the GIL.

**Taking can kill.**  When the memory cgroup of this process is at its limit,
posix_fallocate does not fail: the kernel reclaims and, finding nothing, calls the
cgroup's OOM killer.  When the machine is short, it reclaims from everybody.  What
prevents both is the guard `may`, asked before each step of `STEP` bytes.  It must
leave at least that much room.

**Purses.**  Bytes that nobody has seen are all alike, so `held` and what is kept for
leases are numbers over one pool.  What is lent is bound to files:

    pool     whole files                          sum of sizes = held + kept, unlent
    holed    came back with holes: `held`, until `take` has filled them
    lent     the files of each lease              kept, too

**What is lent is never owned by nobody.**  Lending passes whole files of the pool.
What no file fits, less than the smallest left, goes over in steps: a step more in a
file for the lease, then a step less in the pool.  Only where `may` says no, the pool
goes first: then one unit at a time is nobody's, for some microseconds.  4 GiB are lent
in 0.4 ms where whole files fit, and exchanged so in 17 ms (small pages: 820).

Huge tmpfs is what is lent where it can be had, though it cannot be sealed and a memfd
can.  Turning one into the other would need both at once.  Huge pages save the client
most of his page faults.  And seals would protect nobody: not us, who map nothing, and
not the client from others, for whoever has his descriptor has it from him.

**What outlives this process** lies on a shelf, where there is one: all files, and a
table of who has what of them.  It is written before anything is freed or passed on; so
what was cut short leaves too much that is `held`, and the books know how much to drop.

`noswap` false means that pressure can push the ballast into swap, where it holds
nothing: see `swapped`.  The remedy is outside: `MemorySwapMax=0` for the service.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from holdingpen.amounts import format_size
from holdingpen.ballast import Piece, pages
from holdingpen.ballast.files import open_files
from holdingpen.ballast.lent import in_use
from holdingpen.ballast.pieces import UNIT as UNIT
from holdingpen.ballast.pieces import PieceFile
from holdingpen.ballast.pool import Pool, piece_size
from holdingpen.ballast.shelf import Label, Purses
from holdingpen.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdingpen.ballast.files import Files
    from holdingpen.ballast.shelf import Shelf

#: Bytes occupied between two looks at the guard.  0.02 ms of huge pages, 4 ms of
#: small ones.
STEP = 16 * 1024 * 1024

#: More files than this are not kept in the pool.  Full ones are at most 128; a lease
#: of an odd size adds one, which comes back.  What comes back beyond is freed.
FILES_MAX = 256


class RamBallast:
    """RAM occupied by the pages of files.  Made by `open_ram_ballast`.

    All methods may run in several threads at once.  A `drop` waits for one step of a
    taking or a lending at most, and never for the wiping of what came back.
    """

    def __init__(
        self, files: Files, piece_bytes: int = 0, shelf: Shelf | None = None
    ) -> None:
        """Hold nothing yet, but what a former process left on the shelf.

        Args:
            files: where files of shared memory come from; closed with the ballast.
            piece_bytes: size of a full file, a multiple of STEP; 0: by the memory of
                this machine.
            shelf: where what is held outlives this process; closed with the ballast.
        """
        #: "huge tmpfs" or "memfd".
        self.kind = files.kind
        #: One sentence on why it is no better kind; empty for the best.
        self.why = files.why
        #: Whether the kernel has promised never to swap it out.
        self.noswap = files.noswap
        self._lock = threading.Lock()
        # All below is guarded by it.
        self._pool = Pool(files, piece_bytes or piece_size(_ram_total()), shelf)
        #: Lease to bytes of the pool that are kept for it, > 0.
        self._kept: dict[int, int] = {}
        #: Their sum, at most the size of the pool.
        self._kept_sum = 0
        #: Lease to the files it was lent, or is being lent.
        self._lent: dict[int, list[PieceFile]] = {}
        #: Lease to what is being found for it.
        self._coming: dict[int, _Coming] = {}
        #: Leases whose files are being found or wiped by some thread: only that
        #: thread touches them.
        self._busy: set[int] = set()
        self._shelf = shelf
        #: Whether a former process left something, or left word that it had nothing.
        self.inherited = shelf is not None and shelf.purses is not None
        if shelf is not None:
            self._inherit(shelf)

    def _inherit(self, shelf: Shelf) -> None:
        for left in shelf.left:
            piece, lease = PieceFile.found(left, shelf), left.label.lease
            if lease is None:
                self._pool.put(piece)
            else:
                self._lent.setdefault(lease, []).append(piece)
        kept = shelf.purses.kept if shelf.purses is not None else {}
        room = self._pool.size
        # the reserve, which has the number 0, is the last to have any
        for lease in sorted(kept, reverse=True):
            part = min(kept[lease], room)
            room -= part
            self._keep(lease, part)
        self._save()

    @property
    def held(self) -> int:
        """Bytes occupied at this moment and kept for no lease.

        As the kernel counts them (1 us a file).  What was swapped out counts too: see
        `swapped`.
        """
        with self._lock:
            return sum(piece.occupied for piece in self._pool) - self._kept_sum

    @property
    def kept(self) -> dict[int, int]:
        """Lease to bytes occupied for it at this moment.

        Of what is lent it counts what its client has left of it.
        """
        with self._lock:
            kept = self._kept.copy()
            for lease, pieces in self._bound():
                there = sum(piece.occupied for piece in pieces)
                kept[lease] = kept.get(lease, 0) + there
        return kept

    @property
    def swapped(self) -> int:
        """Bytes of `held` and `kept` that are swapped out, and so hold nothing.

        0 as well where the kernel cannot tell: before Linux 6.5.
        """
        if self.noswap or not pages.can_swap():
            return 0
        with self._lock:
            pieces = [*self._pool]
            for _lease, bound in self._bound():
                pieces += bound
        # one file at a time, so that nobody waits long
        return sum(map(self._swapped, pieces))

    def _swapped(self, piece: PieceFile) -> int:
        with self._lock:
            if piece.fd < 0:
                return 0
            resident = pages.resident(piece.fd)
            return 0 if resident is None else max(0, piece.occupied - resident)

    def take(self, amount: int, may: Callable[[int], bool]) -> int:
        """Occupy up to `amount` more bytes, step by step.

        Args:
            amount: bytes, rounded down to a multiple of `UNIT`.
            may: asked before each step with the step's bytes, at most `STEP`; its
                first no ends the taking.  It may be slow and may raise.

        Returns:
            Bytes taken: less than asked when `may` said no or when the system has no
            more.  A multiple of `UNIT`, unless holes were filled that clients made.

        Raises:
            OSError: for anything else than want of memory; steps before it stand.
        """
        taken = 0
        while (step := min(STEP, (amount - taken) // UNIT * UNIT)) > 0 and may(step):
            with self._lock:
                became = self._pool.occupy(step)
            if became is None:
                break
            taken += became
        return taken

    def drop(self, amount: int) -> int:
        """Give back at least `amount` bytes of `held`, or all.  Never allocates.

        Args:
            amount: bytes, rounded up to a multiple of `UNIT`.

        Returns:
            Bytes given back.  They are free when this returns, though MemAvailable
            may not yet show all of them: see `Host.ram_available`.
        """
        with self._lock:
            given = max(0, min(_up(amount), self._pool.size - self._kept_sum))
            self._pool.cut(given)
            if given < amount:
                given += self._pool.free_holed(amount - given)
        return given

    def keep(self, lease: int, amount: int) -> int:
        """Set at least `amount` bytes of `held` apart for `lease`, or all.

        Args:
            lease: any number.
            amount: bytes, rounded up to a multiple of `UNIT`.

        Returns:
            Bytes set apart now.  Files with holes are not, before `take` fills them.
        """
        with self._lock:
            apart = max(0, min(_up(amount), self._pool.size - self._kept_sum))
            self._keep(lease, apart)
            self._save()
        return apart

    def give(self, lease: int, amount: int) -> int:
        """Free at least `amount` bytes kept for `lease`, or all.  As `drop` does.

        Nothing that is lent is freed.

        Args:
            lease: one that nothing is kept for is no error.
            amount: bytes, rounded up to a multiple of `UNIT`.

        Returns:
            Bytes freed.
        """
        with self._lock:
            given = max(0, min(_up(amount), self._kept.get(lease, 0)))
            self._keep(lease, -given)
            self._save()
            self._pool.cut(given)
        return given

    def lend(
        self, lease: int, amount: int, may: Callable[[int], bool], user: int = 0
    ) -> list[Piece]:
        """Pass what is kept for `lease`, and what is lacking to `amount`, as files.

        Asked again for no more, it gives the same pieces, as new descriptors; asked
        for more, it adds to them.  What is kept beyond `amount` stays kept.

        Args:
            lease: whose it is.
            amount: bytes in all, rounded up to a multiple of `UNIT`.
            may: as in `take`, for what is lacking, and for one step ahead.
            user: whose program it is (a uid).  Files that another one had are not
                lent to him, but exchanged for new ones, step by step.

        Returns:
            Pieces of `amount` bytes together.  Each descriptor must be closed by the
            caller: `back` waits for it.

        Raises:
            Refusal: `not-now`, when `may` or the system said no, or when the pieces
                are just being found or taken back: nothing has changed.
        """
        wanted = _up(amount)
        with self._lock:
            if self._pool.closed or lease in self._busy:
                raise _refusal(lease, amount, "another call is about it")
            self._busy.add(lease)
            coming = self._coming[lease] = _Coming()
            whole = min(wanted - self._lent_size(lease), self._kept.get(lease, 0))
            coming.pieces = self._pool.pick(whole, user)
            self._keep(lease, -sum(piece.size for piece in coming.pieces))
        try:
            while (missing := wanted - self._lent_size(lease)) > 0:
                step = min(STEP, missing)
                if not self._add(lease, step, ahead=may(step)):
                    raise _refusal(
                        lease, amount, f"{format_size(missing)} of it cannot be had"
                    )
            return self._hand_out(lease, amount, user)
        finally:
            with self._lock:
                self._undo(lease)
                self._busy.remove(lease)
                self._save()

    def back(self, lease: int, amount: int | None = None) -> int | None:
        """What is kept for `lease`, or `amount` of it, is `held` again.

        What was lent is wiped first, at `PieceFile.wipe`'s speed.  What clients have
        punched out of it or cut off is not there, and what cannot be wiped is freed.

        Args:
            lease: one that nothing is kept for is no error.
            amount: bytes of what is not lent, rounded up to a multiple of `UNIT`;
                None: all, lent or not.

        Returns:
            Bytes that are held again; None: somebody still uses what was lent, or
            another call is about it; nothing has changed: ask again later.

        Raises:
            OSError: when the kernel does not tell whether it is in use.
        """
        with self._lock:
            kept = self._kept.get(lease, 0)
            if amount is not None:
                kept = max(0, min(_up(amount), kept))
                self._keep(lease, -kept)
                self._save()
                return kept
            lent = self._lent.get(lease, [])
            if lease in self._busy or any(in_use(piece.fd) for piece in lent):
                return None
            self._keep(lease, -kept)
            self._busy.add(lease)
        clean = []
        try:
            clean = [_wipe(piece) for piece in lent]
        finally:
            with self._lock:
                self._busy.remove(lease)
                if len(clean) == len(lent):
                    self._lent.pop(lease, None)
                    kept += sum(map(self._put, lent, clean))
                self._save()
        return kept

    def close(self) -> None:
        """Give everything back for good, but what is on a shelf.

        What clients have open stays theirs.  Closing twice is allowed.
        """
        with self._lock:
            for lease in [*self._lent]:
                # a busy one is closed by the thread that is at it
                if lease not in self._busy:
                    for piece in self._lent.pop(lease):
                        self._pool.let_go(piece)
            self._pool.close()
            self._kept, self._kept_sum = {}, 0
            if self._shelf is not None:
                self._shelf.close()
                self._shelf = None

    # Below, the lock is held by whoever calls, unless it says otherwise.

    def _bound(self) -> Iterator[tuple[int, list[PieceFile]]]:
        yield from self._lent.items()
        for lease, coming in self._coming.items():
            yield lease, coming.pieces

    def _keep(self, lease: int, more: int) -> None:
        self._kept_sum += more
        kept = self._kept.pop(lease, 0) + more
        if kept:
            self._kept[lease] = kept

    def _save(self) -> None:
        """Say on the shelf who has what."""
        if self._shelf is None:
            return
        labels = {
            piece.number: Label(piece.user)
            for piece in self._pool
            if piece.user is not None
        }
        for lease, pieces in self._lent.items():
            labels |= {piece.number: Label(piece.user, lease) for piece in pieces}
        self._shelf.write(Purses(self._kept, labels))

    def _put(self, piece: PieceFile, clean: bool) -> int:
        if clean and self._pool.count < FILES_MAX:
            return self._pool.put(piece)
        piece.close()
        return 0

    def _lent_size(self, lease: int) -> int:
        pieces = (*self._lent.get(lease, ()), *self._coming[lease].pieces)
        return sum(piece.size for piece in pieces)

    def _add(self, lease: int, step: int, *, ahead: bool) -> bool:
        """Bind up to `step` bytes more: kept ones first, then new ones.

        Takes the lock itself.  `ahead`: whether `step` bytes may be occupied beside
        those there are.
        """
        with self._lock:
            coming, kept = self._coming[lease], self._kept.get(lease, 0)
            if not ahead and not kept:
                return False
            if kept:
                step = min(step if ahead else UNIT, kept)
            if not ahead:
                self._keep(lease, -step)
                self._pool.cut(step)
            became = self._pool.grow(coming.pieces, step)
            if became is None:
                return False
            if not kept:
                coming.anew += became
            elif ahead:
                self._keep(lease, -became)
                self._pool.cut(became)
            return True

    def _hand_out(self, lease: int, amount: int, user: int) -> list[Piece]:
        """Lend what is bound, and all that was lent before.  Takes the lock itself."""
        with self._lock:
            if self._pool.closed:
                raise _refusal(lease, amount, "the ballast is closed")
            new = self._coming[lease].pieces
            lent = [*self._lent.get(lease, ()), *new]
            handed: list[Piece] = []
            try:
                for piece in new:
                    # who cannot tell when it is free again must not lend it
                    in_use(piece.fd)
                for piece in lent:
                    handed.append(Piece(piece.lend(), piece.size))  # noqa: PERF401
            except OSError as why:
                for fd, _size in handed:
                    os.close(fd)
                raise _refusal(lease, amount, str(why)) from why
            for piece in new:
                piece.user = user
            if lent:
                self._lent[lease] = lent
            del self._coming[lease]
            self._save()
            return handed

    def _undo(self, lease: int) -> None:
        """What was bound and not handed out is kept again, or free, as it was."""
        coming = self._coming.pop(lease, None)
        if coming is None:
            return
        for piece in coming.pieces:
            # last in the row, so that what was taken for it is what is cut off
            self._keep(lease, self._pool.put(piece))
        if not self._pool.closed:
            self._keep(lease, -coming.anew)
            self._pool.cut(coming.anew)


class _Coming:
    """What is being found for a lease."""

    def __init__(self) -> None:
        #: Files that are bound to it.
        self.pieces: list[PieceFile] = []
        #: Bytes of them that were taken for it and not kept before.
        self.anew = 0


def _wipe(piece: PieceFile) -> bool:
    try:
        piece.wipe()
    except OSError:
        return False
    return True


def _up(amount: int) -> int:
    return -(-amount // UNIT) * UNIT


def _ram_total() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _refusal(lease: int, amount: int, why: str) -> Refusal:
    return Refusal(
        f"cannot lend {format_size(amount)} of ram to lease {lease} now: {why}. "
        "Ask again later, or ask for less.",
        "not-now",
    )


def open_ram_ballast(shelf: Shelf | None = None) -> RamBallast:
    """Open a ballast of the best kind this machine and user have.

    See `open_files` for how long it takes.

    Args:
        shelf: where what is held outlives this process, and what a former one left.

    Raises:
        Unavailable: when not even a memfd can be had.
    """
    return RamBallast(open_files(), shelf=shelf)
