"""The flag file: there while somebody has the whole machine, one line saying who.

A prompt tests for it and reads it with what its shell has built in, so it costs no
process (holdingpen/ctl/shell).  It lies beside the socket.  For /run/holdingpen.socket
that is /run/holdingpen.reserved, with for example

    ada has the whole machine until 16:00 (exam)

The file is a service to people and no promise: where it cannot be written the daemon
goes on, and `status` says so.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

#: The line is read at a prompt: more than two rows of a terminal is no glance.
CHARACTERS_MAX = 200

#: Users' names are at most this long (useradd(8)); directories of names allow more.
_NAME_CHARACTERS_MAX = 32

_MODE = 0o644
#: What was there before the first `show` is not known.
_UNKNOWN = object()


def flag_path(socket: str | Path) -> Path:
    """Where the flag of the daemon that listens at `socket` is.

    `.socket` at the end becomes `.reserved`; any other name gets `.reserved` added.
    The snippets in holdingpen/ctl/shell have the same rule.
    """
    return Path(str(socket).removesuffix(".socket") + ".reserved")


def words(user: str, until_wall_s: float | None, now_wall_s: float, reason: str) -> str:
    """Say who has the whole machine, in one harmless line for people.

    Args:
        user: his name.
        until_wall_s: when it ends, in seconds since 1970; None: nobody knows.  It is
            said to the nearest minute of local time, with the date unless it is today.
        now_wall_s: the present, in seconds since 1970.
        reason: in the user's words; what is too long of it is cut.  It may be empty.
    """
    line = f"{_cut(_harmless(user), _NAME_CHARACTERS_MAX)} has the whole machine"
    if until_wall_s is not None:
        line += _until(until_wall_s, now_wall_s)
    reason = _harmless(reason).strip()
    if reason:
        line += f" ({_cut(reason, CHARACTERS_MAX - len(line) - len(' ()'))})"
    return line


def _until(until_wall_s: float, now_wall_s: float) -> str:
    try:
        # durations become dates with an error of less than a second: without the
        # rounding four o'clock could be said as 15:59
        end = time.localtime(round(until_wall_s / 60) * 60)
        today = time.localtime(now_wall_s)
        form = "%H:%M" if end[:3] == today[:3] else "%Y-%m-%d %H:%M"
        return time.strftime(f" until {form}", end)
    except (OverflowError, ValueError, OSError):
        # a date that cannot be is none
        return ""


def _harmless(text: str) -> str:
    """Without line ends, control characters and what turns the reading direction.

    No terminal is known here, so what is not certain to be a letter becomes `?`.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else "?"
        for letter in text
    )


def _cut(text: str, characters_max: int) -> str:
    # three full stops: a prompt may be in a locale that has no ellipsis
    if len(text) <= characters_max:
        return text
    return text[: characters_max - 3] + "..."


class Flag:
    """The file and what it says.  It touches the disk only when that changes."""

    def __init__(self, path: Path) -> None:
        self._directory, self._name = path.parent, path.name
        # One daemon for each socket, so the name need not be unique; the dot keeps it
        # out of sight.
        self._new_name = f".{path.name}.new"
        #: The line the file has, None for no file, or _UNKNOWN.
        self._shown: object = _UNKNOWN
        #: Why the file is not as it should be, and what to do; None: it is.
        self.trouble: str | None = None

    def show(self, text: str | None) -> None:
        """Have the file say `text`, or not be there.

        A reader sees the old line or the new one, never a part.  What a dead daemon
        left is replaced or removed by the first call.  It never raises OSError: see
        `trouble`.  After trouble the next call tries again.

        Args:
            text: as `words` makes it; None: nobody has the whole machine.
        """
        if text is not None:
            text = _cut(_harmless(text), CHARACTERS_MAX)
        if text == self._shown:
            return
        try:
            if text is None:
                self._remove()
            else:
                self._write(text)
        except OSError as why:
            self._shown = _UNKNOWN
            what = "remove" if text is None else "write"
            self.trouble = (
                f"cannot {what} {self._directory / self._name}: "
                f"{why.strerror or why}. Prompts and logins do not show whether "
                "somebody has the whole machine; see to the directory."
            )
            return
        self._shown, self.trouble = text, None

    def close(self) -> None:
        """Remove the file: a daemon that has ended says nothing about the machine."""
        self.show(None)

    def _write(self, text: str) -> None:
        # All names are looked up in one directory, and none is followed: in a
        # directory that others may write, a link of theirs is replaced, not written
        # through.
        where = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _unlink(self._new_name, where)
            try:
                self._write_new(text, where)
                os.rename(
                    self._new_name, self._name, src_dir_fd=where, dst_dir_fd=where
                )
            except OSError:
                _unlink(self._new_name, where)
                raise
        finally:
            os.close(where)

    def _write_new(self, text: str, where: int) -> None:
        # O_EXCL: made by us just now; a link with this name is an error
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._new_name, flags, _MODE, dir_fd=where)
        with os.fdopen(fd, "wb") as file:
            # whatever the umask is
            os.fchmod(fd, _MODE)
            file.write(f"{text}\n".encode())

    def _remove(self) -> None:
        try:
            where = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            _unlink(self._name, where)
        finally:
            os.close(where)


def _unlink(name: str, where: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=where)
