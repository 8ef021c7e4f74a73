"""What systemd tells the daemon and is told by it, and the descriptors it keeps for it.

    systemd -> daemon   the environment: NOTIFY_SOCKET, WATCHDOG_*, LISTEN_*, FDSTORE
    daemon -> systemd   one datagram for each message, with a descriptor where need be

It is sd_notify(3) and sd_listen_fds(3), and nothing else: the socket of socket
activation, readiness, the watchdog, and the descriptor store of
https://systemd.io/FILE_DESCRIPTOR_STORE.  What is in the store outlives the daemon, is
handed to the next one, and so a connection, and with it a lease, sees a pause at most.

**What the store does by itself.**  A socket whose other end hangs up is thrown out
(FDPOLL=1): a client that goes while there is no daemon is not handed back.  A memfd
cannot be polled and stays.  As the store has a duplicate of each connection, close(2)
is not its end: shutdown(2) is, and `forget` besides.

**When systemd does not listen.**  Its socket takes 512 datagrams; then sending waits.
After `SEND_TIMEOUT_S` a promise that depends on it is not made, and `Unavailable` says
so; what only informs is left out.  The watchdog's sign of life does not wait at all:
the next one comes soon.

**What it costs.**  systemd compares each descriptor with all it has.  Measured on two
busy processors: one `keep` with its `barrier` takes 0.02 to 0.6 ms while there are few,
and 3 to 4 ms beside 4000; 4000 in one go take 2.7 s on systemd 257 and 7.5 s on 252,
where one waited 0.4 s.

Outside systemd (no NOTIFY_SOCKET) nothing is said.  A private pen started by
`gatekeeper --start` is waited for in the same way.
"""

from __future__ import annotations

import array
import fcntl
import os
import re
import select
import socket
import stat
import struct
import sys
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

from holdingpen.errors import LocalMistake, Unavailable

#: The first descriptor that is handed over: SD_LISTEN_FDS_START of sd-daemon.h.
FIRST_FD: Final = 3

#: Descriptors that are kept for us get higher numbers: FD_SETSIZE of select(2).
LOW_FDS: Final = 1024

#: How long a message may wait for systemd to read others.  PID 1 reads thousands in a
#: second; where it does not for so long, it is stopped, or the machine nearly is.
SEND_TIMEOUT_S: Final = 5.0

#: Bytes in the name of a kept descriptor.  All names together travel in one variable
#: of the environment, and such a string ends at 128 KiB (MAX_ARG_STRLEN, execve(2)):
#: 7680 of them, which is FileDescriptorStoreMax= in our unit.
NAME_BYTES_MAX: Final = 16

#: Priorities of syslog(3).
ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6

# printable, but for what separates names in LISTEN_FDNAMES
_NAME = re.compile(f"[!-9;-~]{{1,{NAME_BYTES_MAX}}}")
#: What systemd calls a descriptor that has no name.
_NO_NAME = "unknown"
# sockaddr_un, unix(7): 108 bytes with the zero at the end
_PATH_BYTES_MAX = 107
_TIMEVAL = struct.Struct("@ll")

_VARIABLES = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "FDSTORE",
)


class Systemd:
    """Whoever started the daemon; one for a process, made before others are started."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Take over what the environment says, and take it out of there.

        It is for this process alone: helpers must not believe it is for them.

        Args:
            environ: where it is; the process's own.

        Raises:
            LocalMistake: when it says what systemd would not.
        """
        said = {name: environ.pop(name, "") for name in _VARIABLES}
        self._address = _address(said["NOTIFY_SOCKET"])
        #: What was handed over and makes no sense; for the log.
        self.notes: list[str] = []
        #: Seconds within which a sign of life must come; None: nobody waits for any.
        self.watchdog_s = _watchdog_s(said["WATCHDOG_USEC"], said["WATCHDOG_PID"])
        #: How many descriptors the store takes; 0: there is none, or, before systemd
        #: 254, nobody said so.
        self.store_max = _number("FDSTORE", said["FDSTORE"] or "0")
        if not self._address:
            self.store_max = 0
        self._listener: socket.socket | None = None
        self._stored: dict[str, int] = {}
        #: The names of all that is kept, by a former daemon or this one.
        self._kept: set[str] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # The socket blocks, and the kernel ends the wait: a timeout of Python's makes
        # it a non-blocking one, whose send fails when systemd has much to read.
        seconds, part = divmod(SEND_TIMEOUT_S, 1.0)
        wait = _TIMEVAL.pack(int(seconds), int(part * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        try:
            handed = _handed_over(said)
            for fd, name in handed:
                self._sort(fd, name)
        except LocalMistake:
            self.close()
            raise

    @property
    def can_keep(self) -> bool:
        """Whether there is a store."""
        return self.store_max > 0

    def _sort(self, fd: int, name: str) -> None:
        # What it is says the kernel: names are whatever a unit file calls them.
        if not _listens(fd):
            if name in self._stored:
                self.notes.append(f"two kept descriptors are called {name}: closed one")
                os.close(fd)
            else:
                self._stored[name] = _moved_up(fd)
                self._kept.add(name)
        elif self._listener is None:
            self._listener = socket.socket(fileno=fd)
            self._listener.setblocking(False)
        else:
            raise LocalMistake(
                f"systemd hands over two listening sockets, descriptors "
                f"{self._listener.fileno()} and {fd} ({name}); holdingpen serves one. "
                "Leave one ListenStream= in holdingpen.socket."
            )

    def listening(self) -> socket.socket | None:
        """The socket that systemd opened; non-blocking, and now the caller's.

        Returns:
            None when there is none; also when it was had before.
        """
        listener, self._listener = self._listener, None
        return listener

    def stored(self, initial: str = "") -> dict[str, int]:
        """What a former daemon had kept: name to descriptor, now the caller's.

        Args:
            initial: what the names begin with.

        Returns:
            Nothing the second time.  Everything that is not wanted has to be closed,
            and its name forgotten.
        """
        stored = {x: fd for x, fd in self._stored.items() if x.startswith(initial)}
        for name in stored:
            del self._stored[name]
        return stored

    # What is said.

    def ready(self, status: str) -> None:
        """The socket is open; `status` is one line for `systemctl status`."""
        self._inform(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """Show another line in `systemctl status`."""
        self._inform(f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow."""
        stamp = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._inform(f"RELOADING=1\nMONOTONIC_USEC={stamp}")

    def stopping(self) -> None:
        """The daemon is about to end."""
        self._inform("STOPPING=1")

    def alive(self) -> None:
        """The daemon does its work; to be said twice within `watchdog_s`."""
        if self.watchdog_s is not None:
            self._inform("WATCHDOG=1", flags=socket.MSG_DONTWAIT)

    # What is kept.

    def keep(self, name: str, fd: int, poll: bool = True) -> None:
        """Have a duplicate of `fd` kept, and handed to the next daemon as `name`.

        Nothing happens where there is no store.

        Args:
            name: 1 to 16 printable ASCII characters without blanks and colons, that
                nothing else in the store has.
            fd: any open descriptor; systemd has it when `barrier` is through.
            poll: whether it is thrown out when its other end hangs up.

        Raises:
            Unavailable: when systemd does not take it.
        """
        if self.can_keep:
            self._kept.add(name)
            how = "" if poll else "\nFDPOLL=0"
            self._tell(f"FDSTORE=1\nFDNAME={_good(name)}{how}", fd)

    def forget(self, name: str) -> None:
        """Have everything closed that is kept as `name`, if there is anything.

        Raises:
            Unavailable: when systemd does not take it.
        """
        if self.can_keep:
            self._kept.discard(name)
            self._tell(f"FDSTOREREMOVE=1\nFDNAME={_good(name)}")

    @property
    def trouble(self) -> str:
        """Why not all that is kept will be there later on; empty: it will."""
        if len(self._kept) <= self.store_max:
            return ""
        return (
            f"{len(self._kept)} descriptors are to outlive the daemon, connections of "
            f"leases and what these have, and systemd keeps {self.store_max}: the last "
            "end with the daemon. Raise FileDescriptorStoreMax= of holdingpen.service, "
            "and FDSTORE= with it."
        )

    def begin_barrier(self) -> int:
        """Ask systemd to work off all it was told before.

        Returns:
            A descriptor that becomes readable (end of file) when it has; the caller's.

        Raises:
            Unavailable: when systemd does not take it.
        """
        reader, writer = os.pipe()
        try:
            # systemd reads nothing from the other end: it closes it
            self._tell("BARRIER=1", writer)
        except Unavailable:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        return reader

    def barrier(self, timeout_s: float = SEND_TIMEOUT_S) -> bool:
        """Wait until systemd has worked off all it was told before.

        Returns:
            False when it has not after `timeout_s`; true outside systemd.

        Raises:
            Unavailable: when systemd does not take it.
        """
        if not self._address:
            return True
        reader = self.begin_barrier()
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        try:
            return bool(poll.poll(timeout_s * 1000))
        finally:
            os.close(reader)

    def close(self) -> None:
        """Close everything that nobody has asked for."""
        self._socket.close()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for fd in self.stored().values():
            os.close(fd)

    def _inform(self, words: str, flags: int = 0) -> None:
        with suppress(OSError):
            self._send(words, [], flags)

    def _tell(self, words: str, *fds: int) -> None:
        try:
            self._send(words, fds)
        except OSError as why:
            # EAGAIN: full all the time; ETOOMANYREFS: descriptors it has not read yet
            what = words.replace("\n", " ")
            raise Unavailable(
                f"cannot tell systemd {what!r} at {self._address!r}: {why.strerror}. "
                "Is systemd stopped or the machine out of memory?"
            ) from None

    def _send(
        self, words: str, fds: tuple[int, ...] | list[int], flags: int = 0
    ) -> None:
        if not self._address:
            return
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        # Not connected: systemd may open its socket anew when it executes itself again.
        self._socket.sendmsg(
            [words.encode()],
            [rights] if fds else [],
            flags | socket.MSG_NOSIGNAL,
            self._address,
        )


def to_journal(environ: MutableMapping[str, str] = os.environ, fd: int = 2) -> bool:
    """Whether what is written to `fd` goes to systemd's journal: $JOURNAL_STREAM."""
    found = os.fstat(fd)
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def line(text: str, level: int = INFO, *, journal: bool) -> str:
    """Make of `text` what is written for the administrator, without the last newline.

    Args:
        text: what to say.
        level: one of the priorities above.
        journal: it knows who says it, and takes the level before each line as `<6>`
            (sd-daemon(3)); everybody else gets the name of the program.
    """
    before = f"<{level}>" if journal else "holdingpen: "
    return "\n".join(before + part for part in text.split("\n"))


def log(text: str, level: int = INFO) -> None:
    """One line for the administrator; `level` as in syslog(3)."""
    print(line(text, level, journal=to_journal()), file=sys.stderr, flush=True)


def _address(said: str) -> str | bytes:
    """The address of the socket for messages; empty: there is none."""
    if not said:
        return ""
    if said[0] not in "/@" or len(said) < 2:
        raise LocalMistake(
            f"NOTIFY_SOCKET is {said!r}; expected a path, or @ and an abstract "
            "address. systemd sets it: take it out of your environment."
        )
    if len(os.fsencode(said)) > _PATH_BYTES_MAX:
        raise LocalMistake(
            f"NOTIFY_SOCKET has {len(os.fsencode(said))} bytes; a unix socket may have "
            f"{_PATH_BYTES_MAX}."
        )
    # an abstract one: unix(7)
    return b"\0" + os.fsencode(said[1:]) if said[0] == "@" else said


def _watchdog_s(said: str, pid: str) -> float | None:
    if not said or (pid and _number("WATCHDOG_PID", pid) != os.getpid()):
        return None
    return _number("WATCHDOG_USEC", said) / 1e6 or None


def _handed_over(said: dict[str, str]) -> list[tuple[int, str]]:
    """Descriptors that were handed over, and their names."""
    if not said["LISTEN_PID"] or not said["LISTEN_FDS"]:
        return []
    if _number("LISTEN_PID", said["LISTEN_PID"]) != os.getpid():
        # it is for whoever started us
        return []
    count = _number("LISTEN_FDS", said["LISTEN_FDS"])
    names = said["LISTEN_FDNAMES"].split(":") if said["LISTEN_FDNAMES"] else []
    names = names or [_NO_NAME] * count
    if len(names) != count:
        raise LocalMistake(
            f"LISTEN_FDS says {count} descriptors and LISTEN_FDNAMES has {len(names)} "
            "names: this is not from systemd."
        )
    fds = range(FIRST_FD, FIRST_FD + count)
    for fd in fds:
        try:
            os.set_inheritable(fd, False)
        except OSError as why:
            raise LocalMistake(
                f"LISTEN_FDS says {count} descriptors; number {fd} cannot be used: "
                f"{why.strerror}. Only systemd, or who does as it does, may set it."
            ) from None
    return list(zip(fds, names, strict=True))


def _moved_up(fd: int) -> int:
    """The same descriptor with a number that leaves the low ones to others.

    select(2) takes none above 1023, and there may be thousands.
    """
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOW_FDS)
    except OSError:
        # the limit is lower than that, and so are all numbers
        return fd
    os.close(fd)
    return moved


def _listens(fd: int) -> bool:
    """Whether it is a listening unix socket."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    with socket.socket(fileno=os.dup(fd)) as found:
        if found.family != socket.AF_UNIX or found.type != socket.SOCK_STREAM:
            return False
        return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _number(name: str, said: str) -> int:
    # more digits than any of these has would only take time
    if not (said.isascii() and said.isdigit() and len(said) <= 20):
        raise LocalMistake(
            f"{name} is {said!r}; expected a whole number. systemd sets it: take it "
            "out of your environment."
        )
    return int(said)


def _good(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise LocalMistake(
            f"{name!r} cannot be the name of a kept descriptor: 1 to {NAME_BYTES_MAX} "
            "printable ASCII characters, no blank and no colon."
        )
    return name
