"""A journal at rest: lock it, read it, say what is wrong with it, cut it.

Also the words for system calls that fail: each names what was being done, to which
path, what the kernel said, and what to do.

    journal             the journal
    journal.new         a rotation that did not come to its end; opening removes it
    journal.broken[.N]  what was cut from the end of a journal
    lock                held by the daemon (flock), with its process id in it
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from holdingpen.errors import EXIT_NOT_NOW, EXIT_NOT_PERMITTED, Damage, Unavailable
from holdingpen.journal import record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ADVICE: Final = {
    errno.ENOSPC: "Free space on that file system",
    errno.EDQUOT: "Free space, or raise the quota of the journal's owner",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f, LimitFSIZE=)",
    errno.EIO: "The disk may be failing (see `journalctl -k`): take another",
    errno.EROFS: "Mount that file system read-write",
    errno.EACCES: "Run this as root or the journal's owner, or choose another --state",
    errno.EPERM: "Run this as root or the journal's owner, or choose another --state",
}


def advice(why: OSError) -> str:
    """What to do about a failed call, without a full stop."""
    return _ADVICE.get(why.errno or 0, "Remove the cause")


def failed(doing: str, path: Path, why: OSError) -> Unavailable:
    """Put a failed call in words: `writing the journal` `path` failed: ..."""
    error = Unavailable(
        f"{doing} {path} failed: {why.strerror or why}. {advice(why)}, then try again."
    )
    if why.errno in (errno.EACCES, errno.EPERM):
        error.exit_status = EXIT_NOT_PERMITTED
    return error


@contextmanager
def telling(doing: str, path: Path) -> Iterator[None]:
    """Turn the OSError of a call into the Unavailable of `failed`."""
    try:
        yield
    except OSError as why:
        raise failed(doing, path, why) from why


def lock(state_dir: Path) -> int:
    """Make the state directory (0700) if need be, and lock it against a second user.

    Returns:
        The descriptor that is the lock: closing it, or dying, gives it up.

    Raises:
        Unavailable: when another process holds it (code `locked`, exit status 75),
            or the directory cannot be made or written.
    """
    with telling("making the state directory", state_dir):
        if not state_dir.exists():
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(state_dir.parent)
    path = state_dir / "lock"
    with telling("opening the lock", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise _held(state_dir, holder or "unknown") from None
    except OSError as why:
        os.close(fd)
        raise failed("locking", path, why) from why
    return fd


def _held(state_dir: Path, holder: str) -> Unavailable:
    error = Unavailable(
        f"the state directory {state_dir} is in use by another daemon, process "
        f"{holder}. Stop that one first, or choose another --state.",
        "locked",
    )
    error.exit_status = EXIT_NOT_NOW
    return error


def read(path: Path) -> bytes:
    """Read a whole journal.

    Raises:
        FileNotFoundError: when there is none.
        Unavailable: when it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as why:
        raise failed("reading the journal", path, why) from why


def explain(path: Path, found: record.Scan) -> str:
    """Say in full how a journal ends and what to do about it, for people."""
    place = f"{path}, byte {found.good_until}, record {found.records}: {found.what}"
    state = f"--state {path.parent}"
    match found.end:
        case record.End.CLEAN:
            return f"the journal is clean: {path}, {found.records} records."
        case record.End.TORN:
            lost = f"; the {found.later} whole records after it were not synced either"
            return (
                f"the end of the journal was not written completely: {place}"
                f"{lost if found.later else ''}."
            )
        case record.End.DAMAGED:
            return (
                f"the journal is damaged: {place}; {found.later} whole records "
                f"follow. Look at it with `holdingpenctl journal check {state}`; "
                f"`holdingpenctl journal repair {state}` cuts it there and keeps "
                "the rest as journal.broken. Until then nothing is changed."
            )
        case record.End.FOREIGN:
            return (
                f"the journal is of a newer version: {place}. Install the Holding "
                f"Pen that wrote it, or move {path.parent} away to begin anew. "
                "Nothing was changed."
            )


def explain_undecodable(path: Path, why: record.Undecodable) -> str:
    """Say that a whole record cannot be decoded, and what to do, for people."""
    return (
        f"the journal {path} is damaged: {why} Install that version, or cut the "
        f"journal there with `holdingpenctl journal repair --state {path.parent}`, "
        "which keeps the rest as journal.broken."
    )


def repair(state_dir: Path, boot_id: str) -> str:
    """Cut a journal at the first thing that cannot be believed, and keep the rest.

    A journal without any good record is put aside whole.

    Args:
        state_dir: where `journal` is.
        boot_id: as for `record.scan`.

    Returns:
        What was done, for people.

    Raises:
        FileNotFoundError: when there is no journal.
        Unavailable: when a daemon holds the directory, or a call fails; then the
            journal is as it was.
        Damage: when a newer version wrote it: only that version may judge it.
    """
    path = state_dir / "journal"
    path.stat()
    held = lock(state_dir)
    try:
        data = read(path)
        found = record.scan(data, boot_id)
        if found.end is record.End.FOREIGN:
            raise Damage(explain(path, found))
        until = _decodable_until(data, found)
        if found.end is record.End.CLEAN and until == found.good_until:
            return f"nothing to repair: {explain(path, found)}"
        return f"{path} was cut at byte {until}; {cut(path, data, until)}."
    finally:
        os.close(held)


def _decodable_until(data: bytes, found: record.Scan) -> int:
    try:
        for _ in record.batches(data, found.good_until):
            pass
    except record.Undecodable as why:
        return why.offset
    return found.good_until


def cut(path: Path, data: bytes, until: int) -> str:
    """Cut a journal at `until`, after what follows is on the disk in another file.

    Args:
        path: the journal; the caller holds the lock.
        data: all of it.
        until: the end of the last good record; 0: put the whole file aside.

    Returns:
        What was kept where, as the rest of a sentence.

    Raises:
        Unavailable: when a call fails: nothing is cut that is not kept.
    """
    rest = data[until:].rstrip(b"\0")
    beside = _free_name(path)
    with telling("keeping the cut bytes as", beside):
        _write_file(beside, rest)
        sync_directory(path.parent)
    with telling("cutting the journal", path):
        if until:
            _truncate(path, until)
        else:
            path.unlink()
            sync_directory(path.parent)
    return f"the {len(rest)} bytes from there on are kept as {beside}"


def _free_name(path: Path) -> Path:
    beside, count = path.with_name("journal.broken"), 0
    while beside.exists():
        count += 1
        beside = path.with_name(f"journal.broken.{count}")
    return beside


def _write_file(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_at(fd, content, 0)
        os.fdatasync(fd)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)


def _truncate(path: Path, until: int) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, until)
        os.fdatasync(fd)
    finally:
        os.close(fd)


def write_at(fd: int, content: bytes, offset: int) -> None:
    """Write all of `content`, however short the kernel's writes are.

    Raises:
        OSError: the kernel's own, for the part that did not go.
    """
    written = os.pwrite(fd, content, offset)
    while written < len(content):
        written += os.pwrite(fd, content[written:], offset + written)


def sync_directory(directory: Path) -> None:
    """Bring the names in `directory` to the disk.

    Raises:
        OSError: the kernel's own.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
