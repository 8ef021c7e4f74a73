"""Nameless files of huge pages, on a tmpfs that nobody else can see.

    fsopen("tmpfs")                               a file system being configured
    fsconfig(huge=always, size=0, mode=0700)      see tmpfs(5)
    fsconfig(noswap)                              root only, Linux 6.4
    fsmount()                                     mounted, but at no path
    openat(mount, ".", O_TMPFILE)                 a file, and one more, and one more
    close(mount)                                  its files keep the rest alive

`size=0` lifts the limit of half the memory that tmpfs has otherwise: nobody else
can write here, and memory cgroups, with which `size=100%` does not reckon, limit it
all the same.

Mounting takes CAP_SYS_ADMIN.  Who lacks it has it in a user namespace of his own,
and a process with threads cannot enter one (unshare(2)).  So a short-lived helper
does: this same file, run as a program, which hands the mount's descriptor back over
a socket and ends.  Files are then opened on it from here, outside the namespace: the
mount was made for the uid that asks.  The helper must not import anything of
holdingpen.

Containers and sandboxes refuse these calls, and so they may.  But a seccomp filter
must refuse them, not kill for them: SystemCallErrorNumber=EPERM in systemd.exec(5).
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys

#: How long the helper may take.  It needs 30 ms on a quiet machine.
HELPER_TIMEOUT_S = 5.0

#: The file that is run as the helper: this one.
HELPER = __file__

# The same on every architecture Debian has but alpha:
# include/uapi/asm-generic/unistd.h, include/uapi/linux/mount.h.
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _CMD_CREATE = 0, 1, 6
_MOUNT_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000

_libc = ctypes.CDLL(None, use_errno=True)


def open_file(mount: int) -> int:
    """Open an empty file on a `mount`, for this user alone, and return its descriptor.

    Its pages are huge wherever the kernel finds such.

    Raises:
        OSError: too many descriptors, or no memory for it.
    """
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    return os.open(".", flags, 0o600, dir_fd=mount)


def open_mount() -> tuple[int, bool]:
    """Mount a tmpfs of huge pages, at no path.

    Returns:
        Its descriptor, and whether its files can never be swapped out.

    Raises:
        OSError: when it can be had neither as we are nor in a user namespace; the
            message says why of both.
    """
    try:
        return mount_here()
    except OSError as here:
        try:
            return mount_by_helper()
        except OSError as helped:
            raise OSError(
                helped.errno,
                f"a private tmpfs is refused: {here.strerror}; "
                f"in a user namespace too: {helped.strerror}",
            ) from helped


def mount_here() -> tuple[int, bool]:
    """Like `open_mount`, with the privileges this process has."""
    fs = _call("fsopen", _SYS_FSOPEN, b"tmpfs", _FSOPEN_CLOEXEC)
    try:
        for key, value in ((b"huge", b"always"), (b"size", b"0"), (b"mode", b"0700")):
            _call(f"tmpfs {key.decode()}", _SYS_FSCONFIG, fs, _SET_STRING, key, value)
        noswap = _sets_noswap(fs)
        _call("tmpfs", _SYS_FSCONFIG, fs, _CMD_CREATE, None, None)
        flags = (_FSMOUNT_CLOEXEC, _MOUNT_NOSUID_NODEV_NOEXEC)
        return _call("fsmount", _SYS_FSMOUNT, fs, *flags), noswap
    finally:
        os.close(fs)


def _sets_noswap(fs: int) -> bool:
    try:
        _call("tmpfs noswap", _SYS_FSCONFIG, fs, _SET_FLAG, b"noswap", None)
    except OSError:
        return False
    return True


def _call(what: str, number: int, *args: int | bytes | None) -> int:
    # five arguments whatever the call: a variadic C function must not be given an
    # int where the kernel reads a long
    padded = (*args, *(0,) * (5 - len(args)))
    longs = (ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in padded)
    result: int = _libc.syscall(ctypes.c_long(number), *longs)
    if result < 0:
        _fail(what)
    return result


def _fail(what: str) -> None:
    errno = ctypes.get_errno()
    raise OSError(errno, f"{what}: {os.strerror(errno)}")


def mount_by_helper() -> tuple[int, bool]:
    """Like `open_mount`, by a helper process in a user namespace of its own.

    It is an ordinary child, started and waited for, not a fork of this process: so
    threads are no danger to it, and it leaves no zombie.

    Raises:
        OSError: when the helper cannot be run, fails, or takes longer than
            `HELPER_TIMEOUT_S`, after which it is killed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            number = theirs.fileno()
            # -I -S: nothing from the environment or site-packages, and 6 ms to start
            command = [sys.executable or "", "-I", "-S", HELPER, str(number)]
            try:
                done = subprocess.run(  # noqa: S603 (our own file)
                    command,
                    pass_fds=[number],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    timeout=HELPER_TIMEOUT_S,
                )
            except subprocess.TimeoutExpired as late:
                said = f"the helper was killed after {HELPER_TIMEOUT_S:g} s"
                raise TimeoutError(None, said) from late
        # it has ended, so what it sent is here; never wait for more
        ours.setblocking(False)
        noswap, fds, _flags, _peer = socket.recv_fds(ours, 1, 1)
    if not fds:
        lines = done.stderr.decode(errors="replace").split("\n")
        said = lines[-2] if len(lines) > 1 else f"helper ended with {done.returncode}"
        raise OSError(None, said)
    os.set_inheritable(fds[0], False)
    return fds[0], noswap == b"1"


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(ctypes.c_int(_CLONE_NEWUSER | _CLONE_NEWNS)) < 0:
        _fail("unshare")
    # user_namespaces(7): without a mapping its files would belong to nobody whom
    # the file system knows (EOVERFLOW); gid_map is refused before setgroups is
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 (start-up)
            file.write(line)


def _help(number: int) -> None:
    try:
        _enter_user_namespace()
        mount, noswap = mount_here()
    except OSError as error:
        sys.exit(error.strerror)
    with socket.socket(fileno=number) as ours:
        socket.send_fds(ours, [b"1" if noswap else b"0"], [mount])


if __name__ == "__main__":
    _help(int(sys.argv[1]))
