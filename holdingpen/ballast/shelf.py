"""The shelf: where files of a ballast outlive this process.

    files    each piece by a number, in the descriptor store of whoever started us
    table    one more file there: what of them is kept for whom

A number never changes its file, so lending, which is said in the table, needs no word
to the store.  The table is written in place, in one of two halves by turns, each with
its turn and its crc: a process that is killed while it writes leaves the other.

Who puts nothing on a shelf, because nobody started us who keeps it, has none: what he
held ends with him.
"""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from holdingpen.ballast.files import memfd
from holdingpen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What names begin with.  The table has no more; the files have their numbers, too.
INITIAL: Final = "b"

#: Bytes of each half of the table: 30,000 leases.  Only what is written is there.
_HALF_BYTES: Final = 1 << 20
#: Turn, bytes, crc.
_HEAD: Final = struct.Struct("<QII")


class Store(Protocol):
    """What keeps descriptors for the next process: `daemon.systemd.Systemd`."""

    def keep(self, name: str, fd: int, poll: bool = True) -> None:
        """Keep a duplicate of `fd` as `name`; with `poll` until it hangs up."""

    def forget(self, name: str) -> None:
        """Close what is kept as `name`."""


class Label(msgspec.Struct, frozen=True, array_like=True):
    """Of a file that was in somebody's hands: in whose, and for which lease now."""

    user: int | None = None
    lease: int | None = None


class Purses(msgspec.Struct, frozen=True, array_like=True):
    """What is kept for whom."""

    #: Lease to bytes of what is not lent.
    kept: dict[int, int] = {}
    #: Number of a file to its label; a file without was in nobody's hands.
    labels: dict[int, Label] = {}


class Left(NamedTuple):
    """One file that a former process had."""

    number: int
    #: Open; of whoever takes it.
    fd: int
    label: Label


class Shelf:
    """The shelf of one ballast.  Guarded by its lock."""

    def __init__(self, store: Store, handed: Mapping[str, int]) -> None:
        """Find what a former process put there.

        Args:
            store: keeps descriptors for the next process.
            handed: names that begin with INITIAL, and descriptors; now the shelf's.
        """
        self._store = store
        self._turn = 0
        self._table = -1
        #: What a former process kept for whom; None: there was none, or its table
        #: cannot be read, and then nobody knows who has its files.
        self.purses: Purses | None = None
        #: Its files, for whoever takes them up; closed otherwise.
        self.left: list[Left] = []
        handed = dict(handed)
        table = handed.pop(INITIAL, -1)
        if table >= 0:
            self._table = table
            self._turn, self.purses = _read(table)
        numbers = {}
        for name, fd in handed.items():
            digits = name.removeprefix(INITIAL)
            if self.purses is not None and digits.isdecimal():
                numbers[int(digits)] = fd
            else:
                os.close(fd)
                self._forget(name)
        self._number = max(numbers, default=0)
        labels = self.purses.labels if self.purses is not None else {}
        for number, fd in sorted(numbers.items()):
            self.left.append(Left(number, fd, labels.get(number, Label())))
        if self._table < 0:
            self._table = memfd("purses")
            self._keep(INITIAL, self._table)

    def put(self, fd: int) -> int:
        """Have a file outlive this process; return its number."""
        self._number += 1
        self._keep(f"{INITIAL}{self._number}", fd)
        return self._number

    def remove(self, number: int) -> None:
        """Let a file go; whoever closes it has cut it before."""
        self._forget(f"{INITIAL}{number}")

    def write(self, purses: Purses) -> None:
        """Say what is kept for whom."""
        said = msgspec.msgpack.encode(purses)
        if len(said) > _HALF_BYTES - _HEAD.size:
            # 30,000 leases: what is said last stands
            return
        self._turn += 1
        head = _HEAD.pack(self._turn, len(said), zlib.crc32(said))
        os.pwrite(self._table, head + said, self._turn % 2 * _HALF_BYTES)

    def close(self) -> None:
        """Close the table; it stays where it is kept."""
        os.close(self._table)

    # A store that does not listen loses what the next process would have had; it does
    # no harm to this one.

    def _keep(self, name: str, fd: int) -> None:
        with suppress(Unavailable):
            self._store.keep(name, fd)

    def _forget(self, name: str) -> None:
        with suppress(Unavailable):
            self._store.forget(name)


def _read(table: int) -> tuple[int, Purses | None]:
    """The last turn, and what was said in it; None: neither half is whole."""
    found: tuple[int, Purses | None] = (0, None)
    for start in (0, _HALF_BYTES):
        head = os.pread(table, _HEAD.size, start)
        if len(head) < _HEAD.size:
            continue
        turn, length, crc = _HEAD.unpack(head)
        said = os.pread(table, min(length, _HALF_BYTES), start + _HEAD.size)
        if turn <= found[0] or len(said) < length or zlib.crc32(said) != crc:
            continue
        with suppress(msgspec.DecodeError):
            found = turn, msgspec.msgpack.decode(said, type=Purses)
    return found
