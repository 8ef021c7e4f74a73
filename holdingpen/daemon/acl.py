"""The socket's access list: an entry for each user who sits at the machine.

With `[daemon] mode = "0660"` only the group may connect.  Who sits at the machine may
as well, from login to logout: he gets an entry of his own on the socket, acl(5).  It
only opens the door; what he may ask for is decided when he asks.

An entry of the same user that somebody else made stands, whatever it says.  Nobody
else's rights change: where a mask took rights from the other entries, these lose them
for good before the mask is widened, so that it gives them nothing.

The kernel's own format is written (system.posix_acl_access), as
include/uapi/linux/posix_acl_xattr.h has it: version 2, then tag, rights and id of each
entry, sorted by tag.  Mode 0660 with user 1000 let in:

    02000000                    version
    0100 0600 ffffffff          the owner: rw
    0200 0600 e8030000          user 1000: rw
    0400 0600 ffffffff          the group: rw
    1000 0600 ffffffff          mask: what all but the owner and others may at most
    2000 0000 ffffffff          others: nothing

A list without users and groups of its own is turned into the plain mode by the kernel.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

OWNER: Final = 0x01
USER: Final = 0x02
GROUP: Final = 0x04
NAMED_GROUP: Final = 0x08
MASK: Final = 0x10
OTHERS: Final = 0x20

#: To connect(2) to a socket one must be able to write it; rw is how modes say that.
RW: Final = 6

_XATTR: Final = "system.posix_acl_access"
_VERSION: Final = struct.pack("<I", 2)
_ENTRY: Final = struct.Struct("<HHI")
_NO_ID: Final = 0xFFFFFFFF


class Entry(NamedTuple):
    """What one kind of people, or one user, may do."""

    tag: int
    rights: int
    id: int = _NO_ID


def let_in(entries: Iterable[Entry], uid: int) -> list[Entry]:
    """The list with an entry that lets this user in; all others may what they could."""
    return _masked([*_without(entries, uid), Entry(USER, RW, uid)])


def take_out(entries: Iterable[Entry], uid: int) -> list[Entry]:
    """The list without an entry for this user; all others may what they could."""
    return _masked(_without(entries, uid))


def rights(entries: Iterable[Entry], uid: int) -> int | None:
    """What the entry of this user gives him; None: he has none."""
    entries = list(entries)
    mine = [x.rights for x in entries if (x.tag, x.id) == (USER, uid)]
    return mine[0] & _mask(entries) if mine else None


def _mask(entries: Iterable[Entry]) -> int:
    return next((x.rights for x in entries if x.tag == MASK), 0o7)


def _without(entries: Iterable[Entry], uid: int) -> list[Entry]:
    """All but the mask and this user, with what the mask leaves them."""
    entries = list(entries)
    mask = _mask(entries)
    return [
        x if x.tag in (OWNER, OTHERS) else x._replace(rights=x.rights & mask)
        for x in entries
        if x.tag != MASK and (x.tag, x.id) != (USER, uid)
    ]


def _masked(entries: list[Entry]) -> list[Entry]:
    if any(x.tag in (USER, NAMED_GROUP) for x in entries):
        mask = 0
        for entry in entries:
            if entry.tag not in (OWNER, OTHERS):
                mask |= entry.rights
        entries = [*entries, Entry(MASK, mask)]
    return sorted(entries, key=lambda x: (x.tag, x.id))


def read(path: Path) -> list[Entry]:
    """The access list of a file; without one, what its mode says.

    Raises:
        OSError: when it cannot be read, or this file system keeps none.
    """
    try:
        found = os.getxattr(path, _XATTR, follow_symlinks=False)
    except OSError as no:
        if no.errno != errno.ENODATA:
            raise
        mode = stat.S_IMODE(path.lstat().st_mode)
        owner, group, others = mode >> 6 & 7, mode >> 3 & 7, mode & 7
        return [Entry(OWNER, owner), Entry(GROUP, group), Entry(OTHERS, others)]
    body = found[len(_VERSION) :]
    return [Entry(*words) for words in _ENTRY.iter_unpack(body)]


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Set the access list of a file.

    Raises:
        OSError: when it is not ours, or this file system keeps none.
    """
    packed = _VERSION + b"".join(_ENTRY.pack(*entry) for entry in entries)
    os.setxattr(path, _XATTR, packed, follow_symlinks=False)


class Doorway:
    """Who is let in at the socket besides those whom its mode lets in."""

    def __init__(self, socket: Path, known: Iterable[int] = ()) -> None:
        """Make it; nothing is touched before `admit`.

        Args:
            socket: where it is.
            known: users whom an earlier daemon let in at the same socket, that is
                who sat at the machine by the journal.
        """
        self._socket = socket
        self._ours = set(known)
        #: Why somebody is not let in or still is, and what to do; None: all is well.
        self.trouble: str | None = None

    def admit(self, uids: Iterable[int]) -> None:
        """Let these users in, and of those let in before no others.

        Costs one system call when nothing is to be done, and may be called at any
        time: what somebody else has taken away since, with setfacl(1) or by making
        the socket anew, is put back.  It never raises OSError: see `trouble`.
        """
        try:
            self._admit(set(uids))
        except OSError as no:
            self.trouble = (
                f"cannot set who may connect to {self._socket} "
                f"({no.strerror}). {_advice(no.errno)}"
            )
        else:
            self.trouble = None

    def _admit(self, wanted: set[int]) -> None:
        if not wanted and not self._ours:
            return
        before = entries = read(self._socket)
        if _is_open(entries):
            wanted = set()
        for uid in wanted:
            allowed = rights(entries, uid)
            if allowed is not None and uid not in self._ours:
                continue
            self._ours.add(uid)
            if allowed != RW:
                entries = let_in(entries, uid)
        over = self._ours - wanted
        for uid in over:
            if rights(entries, uid) is not None:
                entries = take_out(entries, uid)
        if entries != before:
            write(self._socket, entries)
        self._ours -= over


def _is_open(entries: Iterable[Entry]) -> bool:
    """Whether everybody may connect: mode 0666."""
    kinds = {x.tag: x.rights & RW for x in entries if x.tag in (GROUP, OTHERS)}
    return set(kinds.values()) == {RW}


def _advice(number: int | None) -> str:
    if number == errno.EOPNOTSUPP:
        return (
            "Its file system keeps no access lists: have the socket on one that does, "
            'as tmpfs and ext4, or set [daemon] mode = "0666".'
        )
    if number in (errno.EPERM, errno.EACCES):
        return (
            "The daemon must own the socket or have CAP_FOWNER; or set [daemon] mode = "
            '"0666".'
        )
    return "Who sits at the machine may be shut out; see to the socket."
