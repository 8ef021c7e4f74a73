"""Who sits at the machine, as systemd-logind keeps it.

It is the user of seat0's active session, when that is an ordinary login: of class
`user`, in state `active`, and not remote.  Nobody sits there while the greeter, a lock
screen's own session or a session that is just being opened or closed is in front.  Who
has switched to another user, or logs in from afar, does not sit there; who has locked
the screen inside his own session still does.

Read through libsystemd's sd-login(3), which reads logind's files in /run/systemd: no
D-Bus, no privilege, and 60 us a look.  logind's files are private and not parsed here.

Two monitors, one for seats and one for sessions.  A session appears first without a
class, and gets it 10 to 20 ms later: the seat's monitor has nothing to say then.  One
monitor for all that logind keeps could not be had while /run/systemd/machines is not
there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

#: The seat with the machine's own screen and keyboard; there may be others, to which
#: devices were attached by loginctl(1).
SEAT: Final = "seat0"

_LIBRARY: Final = "libsystemd.so.0"
#: What is watched, and the directories of that.
_WATCHED: Final = {"seat": "seats", "session": "sessions"}

_TEXT = ctypes.POINTER(ctypes.c_void_p)
_TEXTS = ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))
_NUMBER = ctypes.POINTER(ctypes.c_uint32)

#: The functions of sd-login(3) that are used, and what they take; each returns an
#: int, negative for an errno.
_TAKES: Final[dict[str, tuple[Any, ...]]] = {
    "sd_seat_get_active": (ctypes.c_char_p, _TEXT, _NUMBER),
    "sd_seat_get_sessions": (ctypes.c_char_p, _TEXTS, ctypes.c_void_p, ctypes.c_void_p),
    "sd_session_get_class": (ctypes.c_char_p, _TEXT),
    "sd_session_get_state": (ctypes.c_char_p, _TEXT),
    "sd_session_get_uid": (ctypes.c_char_p, _NUMBER),
    "sd_session_is_remote": (ctypes.c_char_p,),
    "sd_pid_get_session": (ctypes.c_int, _TEXT),
    "sd_login_monitor_new": (ctypes.c_char_p, _TEXT),
    "sd_login_monitor_get_fd": (ctypes.c_void_p,),
    "sd_login_monitor_get_events": (ctypes.c_void_p,),
    "sd_login_monitor_flush": (ctypes.c_void_p,),
    "sd_login_monitor_unref": (ctypes.c_void_p,),
}

_libc = ctypes.CDLL(None)
_libc.free.argtypes = (ctypes.c_void_p,)
_libc.free.restype = None


class LogindLike(Protocol):
    """What the daemon asks about logins."""

    @property
    def why(self) -> str:
        """Why nobody is ever seen to sit here, and what to do; empty: they are."""

    def fileno(self) -> int:
        """The descriptor to wait for: readable when something changed; -1: none."""

    def clear(self) -> None:
        """Have the descriptor wait for the next change.  Clear first, then look."""

    def seated(self) -> frozenset[int]:
        """Who sits at the machine: one user or none."""

    def logged_in(self) -> frozenset[int]:
        """Who is logged in at the machine: who sits there, and who switched away."""

    def session_of(self, pid: int, uid: int) -> str:
        """The login session of user `uid` that a process is in; empty: in none."""

    def is_over(self, session: str, uid: int) -> bool:
        """Whether that session of user `uid` is known to be over."""

    def close(self) -> None:
        """Watch nothing any more.  Closing twice is allowed."""


class Logind:
    """logind, through libsystemd.  Made by `open_logind`."""

    def __init__(self, library: Any, home: Path, why: str = "") -> None:
        """Watch logind.

        Args:
            library: libsystemd, or None: nobody is ever seen.
            home: where logind keeps its directories.
            why: why there is no library, and what to do.
        """
        self._library = library
        self._why = why
        self._monitors: list[ctypes.c_void_p] = []
        self._epoll: select.epoll | None = None
        if library is None:
            return
        for name, takes in _TAKES.items():
            getattr(library, name).argtypes = takes
        try:
            self._watch(home)
        except OSError as no:
            self.close()
            self._why = (
                f"It is not seen who sits at the machine: systemd-logind cannot be "
                f"watched ({no.strerror}). Start it, use holdingpenctl grant, or set "
                "[console] logind = false."
            )

    @property
    def why(self) -> str:
        """Why nobody is ever seen to sit here, and what to do; empty: they are."""
        return self._why

    def fileno(self) -> int:
        """The descriptor to wait for: readable when something changed; -1: none."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def clear(self) -> None:
        """Have the descriptor wait for the next change.  Clear first, then look."""
        for monitor in self._monitors:
            self._library.sd_login_monitor_flush(monitor)

    def seated(self) -> frozenset[int]:
        """Who sits at the machine: one user or none."""
        if self._library is None:
            return frozenset()
        uid = ctypes.c_uint32()
        active = self._text("sd_seat_get_active", SEAT.encode(), ctypes.byref(uid))
        there = bool(active) and self._is_login(active.encode(), ("active",))
        return frozenset({uid.value} if there else ())

    def logged_in(self) -> frozenset[int]:
        """Who is logged in at the machine: who sits there, and who switched away."""
        if self._library is None:
            return frozenset()
        found = ctypes.POINTER(ctypes.c_void_p)()
        count = self._library.sd_seat_get_sessions(
            SEAT.encode(), ctypes.byref(found), None, None
        )
        uids = set()
        for number in range(count if found else 0):
            text = found[number]
            session = ctypes.string_at(text)
            _libc.free(text)
            uid = ctypes.c_uint32()
            known = self._library.sd_session_get_uid(session, ctypes.byref(uid))
            if known >= 0 and self._is_login(session, ("active", "online", "opening")):
                uids.add(uid.value)
        _libc.free(found)
        return frozenset(uids)

    def _is_login(self, session: bytes, states: tuple[str, ...]) -> bool:
        return (
            self._text("sd_session_get_class", session) == "user"
            and self._text("sd_session_get_state", session) in states
            and bool(self._library.sd_session_is_remote(session) == 0)
        )

    def session_of(self, pid: int, uid: int) -> str:
        """The login session of user `uid` that a process is in; empty: in none.

        Args:
            pid: the process; its control group tells.  Where the daemon may not see
                it in /proc, the answer is empty.
            uid: whose session it must be.
        """
        if self._library is None:
            return ""
        session = self._text("sd_pid_get_session", pid)
        owner = ctypes.c_uint32()
        failed = self._library.sd_session_get_uid(session.encode(), ctypes.byref(owner))
        return session if session and failed >= 0 and owner.value == uid else ""

    def is_over(self, session: str, uid: int) -> bool:
        """Whether that session of user `uid` is known to be over.

        It is when his programs linger and only the login is gone: logind calls it
        `closing`.
        """
        if self._library is None:
            return False
        owner = ctypes.c_uint32()
        failed = self._library.sd_session_get_uid(session.encode(), ctypes.byref(owner))
        if failed < 0:
            return bool(failed == -errno.ENXIO)
        if owner.value != uid:
            # numbers are used again
            return True
        return self._text("sd_session_get_state", session.encode()) == "closing"

    def close(self) -> None:
        """Watch nothing any more.  Closing twice is allowed."""
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        while self._monitors:
            self._library.sd_login_monitor_unref(self._monitors.pop())

    def _watch(self, home: Path) -> None:
        library = self._library
        for name in _WATCHED.values():
            # a monitor would find out as well, but giving one up takes the kernel
            # 7 to 17 ms, and this is tried again and again
            (home / name).stat()
        self._epoll = select.epoll()
        for what in _WATCHED:
            monitor = ctypes.c_void_p()
            _check(library.sd_login_monitor_new(what.encode(), ctypes.byref(monitor)))
            self._monitors.append(monitor)
            fd = _check(library.sd_login_monitor_get_fd(monitor))
            events = _check(library.sd_login_monitor_get_events(monitor))
            # poll(2) and epoll_ctl(2) have the same numbers for these
            self._epoll.register(fd, events)

    def _text(self, function: str, about: bytes | int, *more: object) -> str:
        """The text that a function gives; empty when it has none."""
        found = ctypes.c_void_p()
        failed = getattr(self._library, function)(about, ctypes.byref(found), *more)
        if failed < 0 or found.value is None:
            return ""
        text = ctypes.string_at(found.value)
        _libc.free(found)
        return text.decode(errors="replace")


def open_logind(
    load: Callable[[str], Any] = ctypes.CDLL, home: Path = Path("/run/systemd")
) -> Logind:
    """Watch logind.

    Args:
        load: gives a shared library by its name.
        home: where logind keeps its directories.

    Returns:
        One in any case; see its `why`.
    """
    try:
        library = load(_LIBRARY)
    except OSError as no:
        return Logind(
            None,
            home,
            f"It is not seen who sits at the machine: {_LIBRARY} cannot be loaded "
            f"({no}). Install libsystemd, use holdingpenctl grant, or set [console] "
            "logind = false.",
        )
    return Logind(library, home)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
