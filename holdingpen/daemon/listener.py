"""The socket: where clients come in, and who they are.

The socket appears with its mode and group already set: it is bound under a umask
that lets nobody in, and opened only then.  Who a client is says the kernel
(SO_PEERCRED, unix(7)), as it was when the client called connect(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import os
import pwd
import resource
import socket
import struct
from pathlib import Path

from holdingpen.core.facts import Who
from holdingpen.errors import EXIT_NOT_NOW, BadSettings, LocalMistake, Unavailable

#: Connections that may wait to be accepted; the kernel caps it at somaxconn (4096).
BACKLOG = 4096
#: Descriptors kept for everything that is not a connection.
SPARE_DESCRIPTORS = 64

#: SO_PEERGROUPS (Linux 4.13) of include/uapi/asm-generic/socket.h; all of Debian's
#: architectures but hppa and sparc64 have this number.
SO_PEERGROUPS: int = getattr(socket, "SO_PEERGROUPS", 59)
#: Groups that are made room for at first: few users have more.
GROUPS_FIRST = 64

_UCRED = struct.Struct("iII")

_libc = ctypes.CDLL(None, use_errno=True)


class Taken(Unavailable):
    """Another daemon serves this socket."""

    code = "taken"
    exit_status = EXIT_NOT_NOW


def open_listener(path: Path, mode: int, group: str | None) -> socket.socket:
    """Bind the socket and listen, non-blocking.

    A socket left behind by a daemon that was killed is replaced.

    Args:
        path: where; its directory must exist.
        mode: permission bits of the socket.
        group: its group; None: the daemon's own.

    Raises:
        Taken: when a daemon answers there.
        BadSettings: when the group does not exist.
        Unavailable: when it cannot be bound.
    """
    gid = None if group is None else _group(group)
    _make_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    before = os.umask(0o777)
    try:
        listener.bind(os.fspath(path))
    except OSError as why:
        listener.close()
        raise Unavailable(
            f"cannot bind the socket {path}: {why.strerror or why}. Its directory must "
            "exist and be writable; see [daemon] socket."
        ) from None
    finally:
        os.umask(before)
    try:
        if gid is not None:
            os.chown(path, -1, gid)
        listener.listen(BACKLOG)
        path.chmod(mode)
    except OSError as why:
        listener.close()
        raise Unavailable(
            f"cannot open the socket {path} to others: {why.strerror}. "
            "See [daemon] mode and group."
        ) from None
    return listener


def _make_way(path: Path) -> None:
    """Remove a socket nobody listens on."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except (FileNotFoundError, NotADirectoryError):
            return
        except ConnectionRefusedError:
            pass
        except OSError as why:
            if why.errno == errno.ENAMETOOLONG or "too long" in str(why):
                raise LocalMistake(
                    f"the socket path {path} is longer than the 107 bytes a unix "
                    "socket may have. Choose a shorter one."
                ) from None
            raise Taken(
                f"something answers at {path}: {why.strerror or why}."
            ) from None
        else:
            raise Taken(f"another daemon serves {path}; nothing was started.")
    if not path.is_socket():
        raise Unavailable(f"{path} is in the way and no socket: move it elsewhere.")
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise BadSettings(
            f"[daemon] group: there is no group {name!r}; create it, or leave the key "
            "out."
        ) from None


def peer(client: socket.socket) -> Who:
    """Who is at the other end, as the kernel says."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(credentials)
    return Who(uid, gid, pid)


def peer_groups(client: socket.socket) -> frozenset[int]:
    """The groups of who is at the other end, as they were when he connected.

    Returns:
        His own group (SO_PEERCRED) and those besides it (SO_PEERGROUPS); his own
        alone where the kernel does not tell the others.
    """
    own = frozenset({peer(client).gid})
    count = GROUPS_FIRST
    while True:
        # not the socket's getsockopt: that has no room for more than 256 groups
        found = (ctypes.c_uint32 * count)()
        size = ctypes.c_uint32(ctypes.sizeof(found))
        failed = _libc.getsockopt(
            client.fileno(),
            socket.SOL_SOCKET,
            SO_PEERGROUPS,
            found,
            ctypes.byref(size),
        )
        told = size.value // ctypes.sizeof(ctypes.c_uint32)
        if not failed:
            return own.union(found[:told])
        if ctypes.get_errno() != errno.ERANGE or told <= count:
            return own
        # the kernel has said how many there are
        count = told


def groups_of(uid: int) -> frozenset[int]:
    """The groups of a user who is not connected, as the system's user database says.

    Returns:
        His own group and those besides it; none when nobody has this uid.
    """
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return frozenset()
    return frozenset(os.getgrouplist(user.pw_name, user.pw_gid))


def user_name(uid: int) -> str:
    """What people call a user; his number when he has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def raise_descriptor_limit() -> int:
    """Raise the soft limit on descriptors to the hard one.

    Returns:
        How many connections fit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(1, min(hard, 2**20) - SPARE_DESCRIPTORS)
