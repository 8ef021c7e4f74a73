"""Memory pressure as a descriptor that becomes readable when programs wait for memory.

For `[ram] policy = "yield"`: ballast is given up before the OOM killer acts.  The
kernel's triggers are used (Documentation/accounting/psi.rst): it is told a share of
stall in a window, and wakes whoever polls when that was reached, once a window.

What is watched: the whole machine, and each of our own version 2 control groups that
has a limit, because its members can be at their end while the machine is idle.
Version 1 has no triggers; stalls in its groups count for the machine, though.

**It is half of the answer.**  Pressure is what reclaim costs, so it warns only while
there is something to reclaim: file cache, swap.  Measured in a cgroup of 128 MiB with
cache in use and no swap, until the kill: a program growing 10 MiB/s stalled others for
10 % of the time 4 s ahead; one growing 50 MiB/s 0.4 s ahead; one growing 400 MiB/s
caused 11 ms of stall in all, which no trigger sees.  So whoever waits for this must
also look at `Host.ram_available` by a clock, as earlyoom does, and a ring of this
bell means: look now.

Why a thread and a bell.  A trigger's descriptor is always readable and writable, and
its news is EPOLLPRI, for which trio cannot wait.  An epoll(7) of our own that waits for
EPOLLPRI is readable, but asking a trigger consumes its news, and so does each outer
epoll when it is armed: tried, news that came while nobody waited was lost, every time.
A thread in poll(2) loses none, and its bell, an eventfd(2), rings until it is cleared.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdingpen.devices.cgroup import MemoryGroup, find_groups

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Share of a window in which somebody waits for memory that rings the bell.  systemd
#: tells services to free their caches at this (10 % of 2 s); GLib warns programs at
#: 3.5 %.  systemd-oomd kills at 60 % of 30 s, which is far too late.  Measured: three
#: readers in a control group far too small for their files make 4 %, and need no help.
STALL_SHARE: Final = 0.1

#: Windows in seconds, tried in this order.  The shortest there is needs
#: CAP_SYS_RESOURCE; without it only multiples of 2 s are accepted (EINVAL else, as
#: seen even by a root that lacks the capability).
WINDOWS_S: Final = (0.5, 2.0)

_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


class PressureTrigger:
    """A bell that rings under memory pressure.  Made by `open_pressure_trigger`.

    Without anything to watch it is a bell that never rings, and `why` says why.
    """

    def __init__(self, sources: Mapping[str, tuple[int, float]], why: str = "") -> None:
        """Own the descriptors in `sources` and listen to them.

        Args:
            sources: path to a descriptor whose POLLPRI is news, and its window in
                seconds.
            why: what could not be watched, and what to do about that.
        """
        #: Path to window in seconds, for the log; what goes away is taken out.
        self.watched = {path: window_s for path, (_, window_s) in sources.items()}
        #: Sentences on what is not watched; empty when everything is.
        self.why = why
        self._paths = {fd: path for path, (fd, _) in sources.items()}
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # begun now: none can be begun when memory is gone
        self._ear = threading.Thread(target=self._listen, name="pressure", daemon=True)
        self._ear.start()

    def fileno(self) -> int:
        """The descriptor to wait for: readable while the bell rings; -1 when closed."""
        return self._bell

    def clear(self) -> bool:
        """Stop the ringing, and return whether it rang.  Never waits.

        Clear before looking at the memory, not after: what comes in between rings
        again.
        """
        with suppress(BlockingIOError):
            return os.eventfd_read(self._bell) > 0
        return False

    def close(self) -> None:
        """Watch nothing any more.  Closing twice is allowed."""
        if self._bell < 0:
            return
        os.eventfd_write(self._stop, 1)
        self._ear.join()
        for fd in (*self._paths, self._stop, self._bell):
            os.close(fd)
        self._bell = -1

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        for fd in self._paths:
            poll.register(fd, select.POLLPRI)
        while True:
            for fd, seen in poll.poll():
                if fd == self._stop:
                    return
                if seen & _GONE:
                    poll.unregister(fd)
                    self._forget(fd)
                # what went away may have taken its last news along
                os.eventfd_write(self._bell, 1)

    def _forget(self, fd: int) -> None:
        path = self._paths.pop(fd)
        os.close(fd)
        del self.watched[path]
        self.why = f"{self.why} {path} is watched no more: its group was removed."
        self.why = self.why.strip()


def open_pressure_trigger(
    proc: Path = Path("/proc"),
    cgroup: Path = Path("/sys/fs/cgroup"),
    share: float = STALL_SHARE,
) -> PressureTrigger:
    """Watch the machine's memory pressure, and that of the groups that limit us.

    Args:
        proc: as mounted at /proc; tests bring their own.
        cgroup: as mounted at /sys/fs/cgroup.
        share: of a window, more than 0 and at most 1: stalls that ring the bell.

    Returns:
        A trigger in any case; see its `watched` and `why`.
    """
    sources = {}
    refused = []
    version, groups = find_groups("memory", proc, cgroup)
    limiting = [group for group in groups if _has_limit(version, group)]
    if version == 1 and limiting:
        refused.append(
            f"The limit of {limiting[0]} is one of control groups version 1, which "
            "cannot be watched; the machine's pressure is."
        )
        limiting = []
    files = [proc / "pressure/memory", *(x / "memory.pressure" for x in limiting)]
    for path in files:
        try:
            sources[str(path)] = _ask(path, share)
        except OSError as no:
            refused.append(
                f"Cannot watch {path}: {no.strerror}. It needs a kernel with PSI "
                "(boot with psi=1); older ones let only root watch."
            )
    return PressureTrigger(sources, " ".join(refused))


def _has_limit(version: int, path: Path) -> bool:
    try:
        return MemoryGroup(version, path).limit() is not None
    except OSError:
        return False


def _ask(path: Path, share: float) -> tuple[int, float]:
    """Open a pressure file and set a trigger: its descriptor and window.

    Raises:
        OSError: when there is none, or it takes none of our windows.
    """
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for window_s in WINDOWS_S:
            stall_us = max(1, round(share * window_s * 1e6))
            words = f"some {stall_us} {round(window_s * 1e6)}\0"
            try:
                os.write(fd, words.encode())
            except OSError as no:
                if no.errno != errno.EINVAL or window_s == WINDOWS_S[-1]:
                    raise
            else:
                return fd, window_s
        raise AssertionError("the last window returns or raises")
    except BaseException:
        os.close(fd)
        raise
