"""Terminals: a line for a user who has no connection, as write(1) would show it.

Only on terminals that are his and take messages (mesg(1)): the kernel's own owner and
mode of the device say so, whatever keeps or does not keep a list of logins.
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Where terminals are: those of windows and of ssh, and the consoles.
PLACES: Final = (("/dev/pts", "[0-9]*"), ("/dev", "tty[0-9]*"))


def tell(uid: int, text: str) -> None:
    """Show one line on all of a user's terminals; returns at once.

    In a thread, because a terminal may be stopped (Ctrl-S): then it is left out.
    """
    threading.Thread(target=show, args=(uid, text), daemon=True).start()


def show(
    uid: int, text: str, places: tuple[tuple[str, str], ...] = PLACES
) -> list[Path]:
    """Show one line on all of a user's terminals.

    Args:
        uid: the user.
        text: printable.
        places: directories, and the names that terminals have there.

    Returns:
        Those on which it was shown.
    """
    shown = []
    line = f"\r\nHolding Pen: {text}\r\n".encode()
    for directory, names in places:
        for path in sorted(Path(directory).glob(names)):
            with suppress(OSError):
                if _takes_messages(path, uid) and _write(path, line):
                    shown.append(path)
    return shown


def _takes_messages(path: Path, uid: int) -> bool:
    found = path.lstat()
    there = stat.S_ISCHR(found.st_mode) and found.st_uid == uid
    return there and bool(found.st_mode & stat.S_IWGRP)


def _write(path: Path, line: bytes) -> bool:
    fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.isatty(fd) and os.write(fd, line) == len(line)
    finally:
        os.close(fd)
