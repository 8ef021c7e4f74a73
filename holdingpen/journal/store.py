"""The journal at work: open, append, sync, keep room, rotate.

Theory of operation.  The keeper's thread does everything but `sync`, which a worker
thread may call meanwhile.  Records go to the known end by `pwrite`, into space that
was allocated ahead, so appending does not meet a full disk.  Ahead of the end lies

    |..records..|<- reserve: what is owed ->|<- 1 to 2 chunks for what is new ->|
               end                                                      allocated

When the chunks cannot be renewed, `trouble` says so; when they are used up,
`reserve_ok` is false and the keeper refuses new requests, while the ends of leases
go on into the reserve.  The reserve holds the whole remaining story of every lease
in the books (`owe`).  Allocating is certain on ext4, xfs and tmpfs; a copy-on-write
file system may still say no at the write, and then the daemon stops.

A failed write or sync is final: what the kernel dropped it does not tell twice, so
every later call raises the same error until a new start has read the file again.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from holdingpen.amounts import format_size
from holdingpen.errors import Damage, Unavailable
from holdingpen.journal import files, record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from holdingpen.core.facts import Fact

#: Space is allocated in steps of this many bytes: 10 us each on ext4 (once 190),
#: for 10,000 facts or more.
CHUNK_BYTES: Final = 1024 * 1024
#: Kept ahead whatever happens, and
RESERVE_BYTES: Final = 1024 * 1024
#: this much more for each lease in the books: all that may still be written of it
#: from Promised to Left, and of its ballast, each fact in a record of its own, takes
#: about 560 bytes (test_the_longest_story_fits_what_is_reserved_for_it).
LEASE_BYTES: Final = 768

#: A file smaller than this is never worth rotating: it is read in 0.1 s.
ROTATE_BYTES_MIN: Final = 16 * 1024 * 1024
#: Rotate when the file is this many times what was left after the last rotation.
ROTATE_TIMES: Final = 8


class Store:
    """The open journal.  Made by `Store.open`; see the head of this file."""

    def __init__(self, state_dir: Path, boot_id: str, lock_fd: int) -> None:
        self.path: Final = state_dir / "journal"
        self._boot_id = boot_id
        self._lock_fd = lock_fd
        #: The journal; replaced by rotation.
        self._fd = -1
        #: What was read at the start and `batches` has not handed out yet.
        self._old: Iterator[tuple[int, list[Fact]]] = iter(())
        #: Bytes of good records: where the next one goes.
        self._end = 0
        #: The crc of the last record.
        self._link = 0
        #: Bytes known to be on the disk; <= _end.
        self.synced_to = 0
        #: Bytes of the file that have space on the disk for certain; >= _end.
        self._allocated = 0
        #: Bytes ahead of the end that only what is owed may use.
        self._reserve = RESERVE_BYTES
        #: An end beyond this calls for more space.
        self._extend_at = 0
        #: Rotate when the end is beyond this.
        self._rotate_at = ROTATE_BYTES_MIN
        #: Why there is no more space, or no rotation; None: there is.
        self._no_room: str | None = None
        self._no_rotation: str | None = None
        #: What ended this store, once something did.
        self._over: Unavailable | None = None
        #: Held while the file is synced or changed for another.
        self._changing: Final = threading.Lock()
        #: What an administrator should know of the opening: one line each.
        self.notes: list[str] = []

    @classmethod
    def open(cls, state_dir: Path, boot_id: str) -> Store:
        """Lock the state directory, read the journal, cut a torn end.

        Args:
            state_dir: made with mode 0700 if it is not there.
            boot_id: /proc/sys/kernel/random/boot_id; empty: unknown.

        Raises:
            Damage: when what was written is not what is there (nothing is changed).
            Unavailable: when another daemon runs here, or a call fails.
        """
        store = cls(state_dir, boot_id, files.lock(state_dir))
        try:
            store._start()
        except BaseException:
            store.close()
            raise
        return store

    def _start(self) -> None:
        with files.telling("removing", self._new):
            self._new.unlink(missing_ok=True)
        try:
            data = files.read(self.path)
        except FileNotFoundError:
            self._begin()
            return
        found = record.scan(data, self._boot_id)
        if found.end in (record.End.DAMAGED, record.End.FOREIGN):
            raise Damage(files.explain(self.path, found))
        if found.end is record.End.TORN:
            kept = files.cut(self.path, data, found.good_until)
            self.notes.append(
                f"{files.explain(self.path, found)} It was cut there; {kept}."
            )
        with files.telling("opening the journal", self.path):
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            size = os.fstat(self._fd).st_size
        self._old = record.batches(data, found.good_until)
        self._end, self._link = found.good_until, found.link
        self._allocated = self._end
        # A copied file may be sparse: only what is allocated once more is certain.
        if self._allocate(size):
            self.try_extend()
        self._put(*record.pack_opening(self._boot_id, self._link, self.synced_to))
        self.sync()

    @property
    def _new(self) -> Path:
        return self.path.with_name("journal.new")

    def _begin(self) -> None:
        try:
            self._replace([])
        except OSError as why:
            raise files.failed("making the journal", self._new, why) from why

    def batches(self) -> Iterator[list[Fact]]:
        """Hand out what was read at the start, batch by batch, once.

        Raises:
            Damage: at a whole record that this version cannot decode.
        """
        try:
            for _, facts in self._old:
                yield facts
        except record.Undecodable as why:
            raise Damage(files.explain_undecodable(self.path, why)) from why

    def append(self, facts: list[Fact]) -> None:
        """Write what was decided together, as one record; no facts, no record.

        It is then safe from the end of this process, and after `sync` from that of
        the machine.

        Raises:
            Unavailable: when even the reserve is used up, or the disk failed: the
                daemon must stop, for it cannot record what it promises.
        """
        if facts:
            self._put(*record.pack(facts, self._link, self.synced_to))

    def _put(self, written: bytes, link: int) -> None:
        end = self._end + len(written)
        if end > self._extend_at or self._over:
            self._make_room(end)
        try:
            count = os.pwrite(self._fd, written, self._end)
            if count < len(written):
                files.write_at(self._fd, written[count:], self._end + count)
        except OSError as why:
            self._fail("writing the journal", why)
        self._end, self._link = end, link

    def _make_room(self, end: int) -> None:
        if self._over:
            raise self._over
        if self._no_room is None:
            self.try_extend(end - self._end)
        if end > self._allocated and not self.try_extend(end - self._end):
            self._over = Unavailable(
                f"the journal's reserve is used up: {self.trouble}"
            )
            raise self._over

    def _fail(self, doing: str, why: OSError) -> NoReturn:
        self._over = files.failed(doing, self.path, why)
        raise self._over from why

    def owe(self, leases: int) -> None:
        """Say how many leases, promises and waiters are in the books now.

        What may still have to be written of each is kept in reserve.
        """
        self._reserve = RESERVE_BYTES + leases * LEASE_BYTES
        self._aim()
        if self._end > self._extend_at and self._no_room is None:
            self.try_extend()

    def _aim(self) -> None:
        self._extend_at = self._allocated - self._reserve - CHUNK_BYTES

    def room_for(self, n_bytes: int) -> bool:
        """Whether `n_bytes` of something new can be written and the reserve kept.

        Asks the file system for more if need be, unless it has said no already.
        """
        if self._end + n_bytes + self._reserve <= self._allocated:
            return True
        return self._no_room is None and self.try_extend(n_bytes)

    @property
    def reserve_ok(self) -> bool:
        """Whether the reserve is whole; if not, refuse what is new."""
        return self.room_for(0)

    @property
    def trouble(self) -> str | None:
        """What an administrator must mend so that the journal can go on, or None."""
        return self._no_room or self._no_rotation

    def try_extend(self, n_bytes: int = 0) -> bool:
        """Allocate space ahead: the reserve, two chunks, and `n_bytes`.

        One call of about 10 us.  After a failure it is for the caller to try again,
        say once a second.

        Returns:
            Whether it is there; if not, `trouble` says why.
        """
        return self._allocate(self._end + n_bytes + self._reserve + 2 * CHUNK_BYTES)

    def _allocate(self, until: int) -> bool:
        ahead = until - self._allocated
        try:
            if ahead > 0:
                os.posix_fallocate(self._fd, self._allocated, ahead)
                self._allocated = until
        except OSError as why:
            self._no_room = (
                f"the journal {self.path} cannot grow beyond "
                f"{format_size(self._allocated)}: {why.strerror}. "
                f"{files.advice(why)}. New requests are refused when what is left "
                "is needed for the ends of leases."
            )
            return False
        self._no_room = None
        self._aim()
        return True

    def sync(self) -> None:
        """Bring to the disk all that was appended before this call.

        Any thread may call it; appending goes on meanwhile.

        Raises:
            Unavailable: when the disk failed: what was appended may be lost, and
                the daemon must stop.
        """
        with self._changing:
            if self._over:
                raise self._over
            end = self._end
            try:
                os.fdatasync(self._fd)
            except OSError as why:
                self._fail("syncing the journal", why)
            self.synced_to = end

    @property
    def size(self) -> int:
        """Bytes of records, without the space allocated ahead."""
        return self._end

    @property
    def wants_rotation(self) -> bool:
        """Whether the journal is long enough to be written anew from a snapshot."""
        return self._end > self._rotate_at

    def rotate(self, batches: Iterable[list[Fact]]) -> None:
        """Replace the journal by one that says the same in fewer words.

        A crash at any moment leaves the old file or the new one, whole.  When the
        new one cannot be written the old one goes on, `trouble` says why, and
        `wants_rotation` waits for another chunk.

        Args:
            batches: a snapshot of all that the journal has said, in batches.

        Raises:
            Unavailable: when the disk failed so that nobody can know which of the
                two a restart would find.
        """
        if self._over:
            raise self._over
        with self._changing:
            try:
                self._replace(batches)
            except OSError as why:
                self._no_rotation = str(files.failed("rotating into", self._new, why))
                self._rotate_at = self._end + CHUNK_BYTES
                with suppress(OSError):
                    self._new.unlink(missing_ok=True)

    def _replace(self, batches: Iterable[list[Fact]]) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(self._new, flags, 0o600)
        try:
            end, link = _write_new(fd, self._boot_id, batches)
            allocated = end + self._reserve + 2 * CHUNK_BYTES
            os.posix_fallocate(fd, end, allocated - end)
            os.fdatasync(fd)
            self._new.replace(self.path)
        except BaseException:
            os.close(fd)
            raise
        old, self._fd = self._fd, fd
        self._end, self._link, self._allocated = end, link, allocated
        try:
            if old >= 0:
                os.close(old)
            files.sync_directory(self.path.parent)
        except OSError as why:
            self._fail("changing to the new", why)
        self.synced_to = end
        self._aim()
        self._rotate_at = max(ROTATE_BYTES_MIN, ROTATE_TIMES * end)
        self._no_room = self._no_rotation = None

    def close(self) -> None:
        """Close the files and give up the lock.  Nothing is written: see law 4."""
        with self._changing:
            for fd in (self._fd, self._lock_fd):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._lock_fd = -1


def _write_new(fd: int, boot_id: str, batches: Iterable[list[Fact]]) -> tuple[int, int]:
    written, link = record.pack_opening(boot_id, 0, 0)
    files.write_at(fd, written, 0)
    end = len(written)
    for facts in batches:
        written, link = record.pack(facts, link, 0)
        files.write_at(fd, written, end)
        end += len(written)
    return end, link
