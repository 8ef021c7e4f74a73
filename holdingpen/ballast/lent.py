"""A file that others may have: another descriptor of it, and whether anybody uses it.

The kernel knows who does: fcntl(F_SETLEASE, F_WRLCK) fails with EAGAIN as long as the
file is open anywhere but here, and a mapping or a descriptor on its way through a
socket keeps it open (fcntl(2), "Leases").  What it counts are opens: a duplicate of our
own descriptor would not be noticed, nor is what memfd_create(2) returns counted.  So
ours is always one that open(2) gave, and each lent one is opened anew.
"""

from __future__ import annotations

import fcntl
import os
import signal


def open_again(fd: int) -> int:
    """Open the file `fd` once more, for reading and writing."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)


def in_use(fd: int) -> bool:
    """Whether anybody but us has the file `fd` open or mapped.

    Raises:
        OSError: when the kernel does not tell: /proc/sys/fs/leases-enable.
    """
    # Who opens it before the unlocking, through /proc, makes the kernel signal us.
    # SIGIO, which it would be, ends a process that did not expect it.
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
