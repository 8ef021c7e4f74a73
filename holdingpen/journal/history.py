"""Ended leases, kept so that people can ask what was used: an SQLite file.

Theory of operation.  The journal is the truth and this is a convenience: nothing that
goes wrong here may stop the daemon.  It hands over the leases that ended (`add`),
keeps them until that has succeeded, and after a crash hands over again what it cannot
be sure of; an id that is there already stays as it is.  Every call blocks, and one
thread at a time may be inside: which one does not matter, since a pool of threads
takes whichever is idle, so the file is not tied to the thread that opened it.

**Files**, in the state directory, mode 0600: `history.sqlite`, and beside it
`history.sqlite-wal` while it is open or after a crash.

**Losing power.**  A write-ahead log with `synchronous=NORMAL`: SQLite syncs only when
it moves the log into the file, and neither order of writes can damage the file.  A
power cut takes what the kernel had not written back, about half a minute, as it does
with the journal's facts about connections, which are not synced either.  A rollback
journal would need two or three syncs for each `add` to be as safe.  The file is locked
for as long as it is open: there is one writer and nobody else reads it, and SQLite
then needs no shared memory, which network file systems do not have.

**Trouble.**  A file that is damaged, or is not ours, is set aside as
`history.sqlite.broken-N` and a new one begun: when opening, at once, and `notes` says
so; in a later call the call fails, once.  All else (no room, no permission, a lock)
raises Unavailable and leaves the file as it was; the next call opens it anew.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct, structs

from holdingpen.errors import Damage, Unavailable
from holdingpen.journal import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CONNECTION: Final = "connection"
RESERVATION: Final = "reservation"

#: How long opening waits for somebody else's lock: a look with sqlite3(1) takes less.
LOCKED_S: Final = 0.1

#: What leads from each version of the file to the next; a file knows its own by
#: `PRAGMA user_version`.  Steps are only ever added.  The columns are the fields of
#: Record, in their order; a new field goes last in both.
_STEPS = (
    """
    CREATE TABLE lease (
        id INTEGER PRIMARY KEY,
        uid INTEGER NOT NULL,
        kind TEXT NOT NULL,
        amounts TEXT NOT NULL,
        priority INTEGER NOT NULL,
        label TEXT NOT NULL,
        reason TEXT NOT NULL,
        command TEXT NOT NULL,
        asked_wall_s REAL NOT NULL,
        granted_wall_s REAL,
        ended_wall_s REAL NOT NULL,
        why TEXT NOT NULL,
        by_uid INTEGER,
        inside INTEGER NOT NULL,
        handover TEXT NOT NULL,
        held_s REAL NOT NULL,
        waited_s REAL NOT NULL,
        given_back TEXT NOT NULL,
        beside TEXT NOT NULL
    ) STRICT;
    CREATE INDEX lease_last ON lease (max(asked_wall_s, ended_wall_s));
    """,
)

_ADD: Final = """
    INSERT INTO lease
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO NOTHING
"""
_FIND: Final = "SELECT * FROM lease WHERE id = ?"
# The first condition is the index's expression to the letter, or it is not used.
_BETWEEN: Final = """
    SELECT * FROM lease
    WHERE max(asked_wall_s, ended_wall_s) >= ?
    AND min(asked_wall_s, ended_wall_s - held_s) < ?
"""
_FORGET: Final = "DELETE FROM lease WHERE max(asked_wall_s, ended_wall_s) < ?"

#: What SQLite says of a file that is not what it wrote.  ERROR is for a statement that
#: makes no sense: as ours do, it is the file's tables or its format that do not.
_DAMAGED: Final = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
)
#: SQLite's errors, as the system's that has the fitting advice.
_ERRNO: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_IOERR: errno.EIO,
}


class Given(Struct, frozen=True, array_like=True, gc=False):
    """A part of a lease that was given back while the rest went on."""

    #: Seconds since the grant.
    after_s: float
    #: Resource to bytes or units.
    amounts: dict[str, int]


class Record(Struct, frozen=True, gc=False):
    """One lease that is over, or for a report one that goes on.

    It was held for `held_s` up to `ended_wall_s`.  Where the wall clock was set in
    between, its last reading is believed and the duration is counted back from there.
    """

    #: Lease ids are never used again.
    id: int
    #: Whose it was.
    uid: int
    #: CONNECTION or RESERVATION.
    kind: str
    #: Resource to bytes or units, as granted.
    amounts: dict[str, int]
    priority: int
    label: str
    reason: str
    command: str
    #: Dates are seconds since 1970.
    asked_wall_s: float
    #: None: never granted; it left the line, or stands in it.
    granted_wall_s: float | None
    #: When it goes on: now.
    ended_wall_s: float
    #: One of `leases.Why`; empty: it goes on.
    why: str
    #: Who ended it, when that was not its owner.
    by_uid: int | None
    #: The reservation that it drew on; 0: none.
    inside: int
    #: What it was promised: exact, bounded, best-effort or none.
    handover: str
    #: Seconds from grant to end by CLOCK_BOOTTIME, which is never set; 0: not granted.
    held_s: float
    #: Seconds in the line, by the same clock.
    waited_s: float
    #: Each part that was given back before the end.
    given_back: list[Given] = []
    #: When it drew on a reservation: resources that it had from the machine all the
    #: same, because the reservation has none of them.
    beside: list[str] = []


class History:
    """The open history.  Made by `History.open`; see the head of this file."""

    def __init__(self, directory: Path) -> None:
        self.path: Final = directory / "history.sqlite"
        #: None: closed, by `close` or a failure; the next call opens it.
        self._db: sqlite3.Connection | None = None
        #: What an administrator should know: one line for each file set aside.
        self.notes: list[str] = []

    @classmethod
    def open(cls, directory: Path) -> History:
        """Open the history in the state directory, or begin one.

        All of the file is read to see that it is whole: 17 MB and 0.03 s for 100,000
        leases.

        Args:
            directory: is there, and nobody else has its lock (`files.lock`).

        Raises:
            Damage: when a newer version wrote the file; it is left alone.
            Unavailable: when somebody has it locked, or a call fails.  The daemon
                goes on without a history, and may try again at any time.
        """
        history = cls(directory)
        history._begin()
        return history

    def add(self, records: Iterable[Record]) -> None:
        """Keep these: all or, when it fails, none.  An id that is there stays.

        Raises:
            Unavailable: when they could not be written: try again later with the
                same.  Also Damage, as for `open`, when it had to be opened anew.
        """
        with self._at_work("writing the history") as db, db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(_ADD, map(_row, records))

    def find(self, lease: int) -> Record | None:
        """The lease with this id; None: it is not over, forgotten, or never was.

        Raises:
            Unavailable: when the file cannot be read; Damage as for `open`.
        """
        with self._at_work("reading the history") as db:
            row = db.execute(_FIND, (lease,)).fetchone()
            return None if row is None else _record(row)

    def between(self, from_wall_s: float, to_wall_s: float) -> Iterator[Record]:
        """Each lease that was asked for or held between two dates, one by one.

        They are read while they are taken, and never lie in memory all together, so
        take them where the history may be used: in its thread.

        Args:
            from_wall_s: seconds since 1970.
            to_wall_s: not included.

        Raises:
            Unavailable: when the file cannot be read; Damage as for `open`.
        """
        with self._at_work("reading the history") as db:
            for row in db.execute(_BETWEEN, (from_wall_s, to_wall_s)):
                yield _record(row)

    def forget(self, before_wall_s: float) -> int:
        """Forget the leases that ended before a date.

        The file does not shrink; what comes later uses the room.

        Returns:
            How many there were.

        Raises:
            Unavailable: when nothing was forgotten; Damage as for `open`.
        """
        with self._at_work("pruning the history") as db, db:
            return db.execute(_FORGET, (before_wall_s,)).rowcount

    def close(self) -> None:
        """Close the file.  Nothing is lost without it: `open` reads the log."""
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):  # a disk that fails now has failed before
                db.close()

    @contextmanager
    def _at_work(self, doing: str) -> Iterator[sqlite3.Connection]:
        if self._db is None:
            self._begin()
        assert self._db is not None
        try:
            yield self._db
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # no trouble with the file but a fault of ours
        except _TROUBLES as why:
            self.close()
            if _is_damage(why):
                self._set_aside(str(why))
                raise Unavailable(f"{self.notes[-1]} Try again.") from why
            raise _failed(doing, self.path, why) from why

    def _begin(self) -> None:
        try:
            try:
                self._db = _connect(self.path)
            except _TROUBLES as why:
                if not _is_damage(why):
                    raise
                self._set_aside(str(why))
                self._db = _connect(self.path)
        except _TROUBLES as why:
            raise _failed("opening the history", self.path, why) from why

    def _set_aside(self, why: str) -> None:
        number = 1
        while any(_beside(self.path, number, side).exists() for side in _SIDES):
            number += 1
        beside = _beside(self.path, number, "")
        with files.telling("setting the damaged history aside as", beside):
            for side in _SIDES:
                with suppress(FileNotFoundError):
                    old = self.path.with_name(self.path.name + side)
                    old.rename(_beside(self.path, number, side))
            files.sync_directory(self.path.parent)
        self.notes.append(
            f"the history {self.path} was damaged ({why}). It is kept as {beside}, "
            "and a new one begins: reports do not know what was before."
        )


class _NotOursError(Exception):
    """SQLite can read it, but it is not what we wrote."""


#: What a file in trouble raises.  Python cannot decode an error's text that quotes
#: damaged bytes: UnicodeDecodeError.
_TROUBLES: Final = (
    sqlite3.Error,
    UnicodeDecodeError,
    msgspec.DecodeError,
    _NotOursError,
)


#: What belongs to an SQLite file, itself last: while it is there, the rest is its.
_SIDES: Final = ("-wal", "-shm", "-journal", "")


def _beside(path: Path, number: int, side: str) -> Path:
    return path.with_name(f"{path.name}.broken-{number}{side}")


def _is_damage(why: Exception) -> bool:
    if not isinstance(why, sqlite3.Error):
        return True
    code = getattr(why, "sqlite_errorcode", None)
    # Without a code it was Python that could not make a text of the bytes.
    return code is None or code & 0xFF in _DAMAGED


def _failed(doing: str, path: Path, why: Exception) -> Unavailable:
    code = getattr(why, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(
            f"{doing} {path} failed: another program has it locked. End that one "
            "(see fuser(1)), then try again.",
            "locked",
        )
    return files.failed(doing, path, OSError(_ERRNO.get(code, 0), str(why)))


def _connect(path: Path) -> sqlite3.Connection:
    with files.telling("making the history", path), suppress(FileExistsError):
        # SQLite would make it with 0644; what it makes beside has the mode of this.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o600))
    db = sqlite3.connect(
        path, timeout=LOCKED_S, isolation_level=None, check_same_thread=False
    )
    try:
        # In this order: a log begun under an exclusive lock uses no shared memory.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        _check(db)
        _upgrade(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection) -> None:
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise _NotOursError(found)


def _upgrade(db: sqlite3.Connection, path: Path) -> None:
    """Bring a file of any older version, 0 being an empty one, to ours at once."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    ours = len(_STEPS)
    if version > ours:
        raise Damage(
            f"the history {path} is of a newer version: {version}, and this program "
            f"knows {ours}. Install the Holding Pen that wrote it, or move the file "
            "away to begin anew. It was not changed."
        )
    if version < ours:
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version < 0 or (version == 0 and tables):
            raise _NotOursError("it is the database of another program")
        steps = "".join(_STEPS[version:])
        try:
            db.executescript(
                f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {ours}; COMMIT;"
            )
        except sqlite3.Error as why:  # a fault of ours must cost nobody his history
            raise _failed("opening the history", path, why) from why
    columns = [row[1] for row in db.execute("PRAGMA table_info(lease)")]
    if columns != list(_FIELDS):
        raise _NotOursError("its columns are not ours")


_FIELDS: Final = Record.__struct_fields__
_encode: Final = msgspec.json.Encoder().encode
#: Place of each column that holds JSON to what reads it.
_DECODERS: Final = {
    _FIELDS.index("amounts"): msgspec.json.Decoder(dict[str, int]).decode,
    _FIELDS.index("given_back"): msgspec.json.Decoder(list[Given]).decode,
    _FIELDS.index("beside"): msgspec.json.Decoder(list[str]).decode,
}


def _row(record: Record) -> list[Any]:
    row = list(structs.astuple(record))
    for place in _DECODERS:
        row[place] = _encode(row[place]).decode()
    return row


def _record(row: Iterable[Any]) -> Record:
    values = list(row)
    for place, decode in _DECODERS.items():
        values[place] = decode(values[place])
    return Record(*values)
