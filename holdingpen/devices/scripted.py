"""A make-believe machine, for tests and demonstrations: no memory is really held.

It keeps the books a kernel would: what is available is what the machine has, less
what the rest of it uses, its ballast, and its programs.

    host = ScriptedHost(total=64 * GIB)
    ballast = ScriptedBallast(host)
    ballast.take(8 * GIB, lambda step: host.ram_available() >= step)
    host.run(4242, ram=2 * GIB)          # available: 54 GiB
    host.end(4242)
    host.elsewhere = 60 * GIB            # memory becomes scarce
"""

from __future__ import annotations

import fcntl
import heapq
import os
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple, cast

from holdingpen.devices import Foreign, Uses
from holdingpen.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdingpen.ballast import Piece

# As in ballast/ram.py, which this file may not import: they are siblings.  A test
# holds them together.
_UNIT = 2 * 1024 * 1024
_STEP = 16 * 1024 * 1024


class Program(NamedTuple):
    """A make-believe process."""

    #: The pid of its parent; 0: none on this machine.
    parent: int
    uid: int
    comm: str
    #: RAM it uses, in bytes.
    ram: int


class ScriptedHost:
    """A machine that is as it is told to be.  All amounts are bytes."""

    def __init__(
        self, total: int = 64 * 2**30, cpu_count: int = 8, boot: str = "scripted"
    ) -> None:
        """Make a machine where nothing runs yet."""
        #: What `ram_total` says.
        self.total = total
        #: What `cpus` says.
        self.cpu_count = cpu_count
        #: What `boot_id` says; another word is a reboot.
        self.boot = boot
        #: What `huge_page_pool` says.
        self.pool = 0
        #: What `pressure` says, in percent.
        self.pressure_percent = 0.0
        #: Bytes the rest of the machine uses: set it to make memory scarce.
        self.elsewhere = 0
        #: pid to what runs there: set by `run` and `end`.
        self.programs: dict[int, Program] = {}
        #: Bytes of all ballast on this machine: set by ScriptedBallast.
        self.ballast = 0
        self._lock = threading.Lock()

    def run(
        self,
        pid: int,
        ram: int,
        *,
        parent: int = 0,
        uid: int = 1000,
        comm: str = "program",
    ) -> None:
        """Let `pid` use `ram` bytes from now on, newly started or not."""
        with self._lock:
            self.programs[pid] = Program(parent, uid, comm, ram)

    def end(self, pid: int) -> None:
        """Let `pid` be gone; its children belong to init then."""
        with self._lock:
            del self.programs[pid]
            for child, program in self.programs.items():
                if program.parent == pid:
                    self.programs[child] = program._replace(parent=1)

    def occupy(self, amount: int) -> bool:
        """Make `amount` bytes ballast, negative to give back; False: no room."""
        with self._lock:
            if amount > self._available():
                return False
            self.ballast += amount
        return True

    def _available(self) -> int:
        used = sum(program.ram for program in self.programs.values())
        return max(0, self.total - self.elsewhere - self.ballast - used)

    def ram_total(self) -> int:
        """Bytes of RAM in all: `total`."""
        return self.total

    def ram_available(self, *, exact: bool = False) -> int:
        """Bytes nobody uses, 0 or more; always exact."""
        with self._lock:
            return self._available()

    def huge_page_pool(self) -> int:
        """Bytes: `pool`."""
        return self.pool

    def use_of(self, pid: int) -> int:
        """Bytes the programs descending from `pid` use."""
        return self.uses({1: pid}, 0).by_lease[1]

    def forget(self, pid: int) -> None:
        """`use_of` is not asked about `pid` any more."""

    def pressure(self) -> float:
        """Percent: `pressure_percent`."""
        return self.pressure_percent

    def cpus(self) -> int:
        """CPUs: `cpu_count`."""
        return self.cpu_count

    def boot_id(self) -> str:
        """The word for this boot: `boot`."""
        return self.boot

    def uses(self, roots: Mapping[int, int], top: int = 5) -> Uses:
        """Who uses the RAM, by the rules of the real host."""
        with self._lock:
            programs = dict(self.programs)
        # the smaller id last, so that it has the pid
        leases = {roots[lease]: lease for lease in sorted(roots, reverse=True)}
        by_lease = dict.fromkeys(roots, 0)
        foreign = []
        for pid, program in programs.items():
            lease = _lease_above(pid, programs, leases)
            if lease is None:
                foreign.append(Foreign(pid, program.uid, program.comm, program.ram))
            else:
                by_lease[lease] += program.ram
        biggest = heapq.nlargest(top, foreign, key=lambda process: process.ram_bytes)
        return Uses(by_lease, biggest)


def _lease_above(
    pid: int, programs: Mapping[int, Program], leases: Mapping[int, int]
) -> int | None:
    while pid in programs:
        if pid in leases:
            return leases[pid]
        pid = programs[pid].parent
    return None


class ScriptedBallast:
    """Ballast on a ScriptedHost, with the manners of `RamBallast`.

    What is lent are real files, of memory that is occupied only where it is written.
    """

    kind = "scripted"
    why = "The machine is a make-believe one."

    def __init__(self, host: ScriptedHost) -> None:
        """Hold nothing yet."""
        self._host = host
        #: Bytes of all purses.
        self._occupied = 0
        #: Lease to bytes that are kept for it and not lent.
        self._kept: dict[int, int] = {}
        #: Lease to its files: our descriptor and the size of each.
        self._lent: dict[int, list[tuple[int, int]]] = {}
        self._lock = threading.Lock()
        #: What `noswap` says.
        self.noswap = True
        #: What `swapped` says.
        self.swapped = 0
        #: Bytes beyond which the system has no more for it; None: as the host has.
        self.held_max: int | None = None

    @property
    def held(self) -> int:
        """Bytes occupied at this moment and kept for no lease."""
        with self._lock:
            return self._held()

    def _held(self) -> int:
        lent = sum(map(self._lent_size, self._lent))
        return self._occupied - sum(self._kept.values()) - lent

    def _lent_size(self, lease: int) -> int:
        return sum(size for _fd, size in self._lent.get(lease, ()))

    @property
    def kept(self) -> dict[int, int]:
        """Lease to bytes occupied for it at this moment, lent ones too."""
        with self._lock:
            leases = {*self._kept, *self._lent}
            return {x: self._kept.get(x, 0) + self._lent_size(x) for x in leases}

    def take(self, amount: int, may: Callable[[int], bool]) -> int:
        """Occupy up to `amount` more bytes, asking `may` before each step."""
        return self._take(amount, may, None)

    def _take(self, amount: int, may: Callable[[int], bool], lease: int | None) -> int:
        taken = 0
        while (step := min(_STEP, (amount - taken) // _UNIT * _UNIT)) > 0 and may(step):
            with self._lock:
                most = self.held_max
                if most is not None and self._occupied + step > most:
                    break
                if not self._host.occupy(step):
                    break
                self._occupied += step
                if lease is not None:
                    self._keep(lease, step)
            taken += step
        return taken

    def drop(self, amount: int) -> int:
        """Give back `amount` bytes of `held`, rounded up to a unit, or all."""
        with self._lock:
            given = _part(amount, self._held())
            self._free(given)
        return given

    def keep(self, lease: int, amount: int) -> int:
        """Set `amount` bytes of `held` apart, rounded up to a unit, or all."""
        with self._lock:
            apart = _part(amount, self._held())
            self._keep(lease, apart)
        return apart

    def give(self, lease: int, amount: int) -> int:
        """Free `amount` bytes kept for `lease`, rounded up to a unit, or all."""
        with self._lock:
            given = _part(amount, self._kept.get(lease, 0))
            self._keep(lease, -given)
            self._free(given)
        return given

    def _free(self, amount: int) -> None:
        self._host.occupy(-amount)
        self._occupied -= amount

    def _keep(self, lease: int, more: int) -> None:
        kept = self._kept.pop(lease, 0) + more
        if kept:
            self._kept[lease] = kept

    def lend(
        self, lease: int, amount: int, may: Callable[[int], bool], user: int = 0
    ) -> list[Piece]:
        """Pass `amount` bytes as files: what is kept, and what is lacking, anew."""
        with self._lock:
            missing = _part(amount, sys.maxsize) - self._lent_size(lease)
            lacking = missing - self._kept.get(lease, 0)
        taken = self._take(lacking, may, lease)
        if taken < lacking:
            self.give(lease, taken)
            raise Refusal(
                f"cannot lend {amount} bytes of ram to lease {lease} now: {lacking} "
                "of it cannot be had. Ask again later, or ask for less.",
                "not-now",
            )
        with self._lock:
            if missing > 0:
                self._keep(lease, -missing)
                self._lent.setdefault(lease, []).append((_file(missing), missing))
            lent = self._lent.get(lease, [])
            # ballast.Piece, of a floor that this one may not import
            return [cast("Piece", _Piece(_open_again(fd), size)) for fd, size in lent]

    def back(self, lease: int, amount: int | None = None) -> int | None:
        """What is kept for `lease` is held again; None: what was lent is in use."""
        with self._lock:
            kept = self._kept.get(lease, 0)
            if amount is not None:
                kept = _part(amount, kept)
                self._keep(lease, -kept)
                return kept
            if any(_in_use(fd) for fd, _size in self._lent.get(lease, ())):
                return None
            self._keep(lease, -kept)
            return kept + self._close_lent(lease)

    def _close_lent(self, lease: int) -> int:
        size = self._lent_size(lease)
        for fd, _size in self._lent.pop(lease, ()):
            os.close(fd)
        return size

    def close(self) -> None:
        """Give everything back for good."""
        with self._lock:
            self._kept.clear()
            for lease in [*self._lent]:
                self._close_lent(lease)
            self._free(self._occupied)
            self.held_max = 0


class _Piece(NamedTuple):
    fd: int
    size: int


def _part(amount: int, most: int) -> int:
    return max(0, min(-(-amount // _UNIT) * _UNIT, most))


def _file(size: int) -> int:
    made = os.memfd_create("scripted")
    try:
        os.ftruncate(made, size)
        return _open_again(made)
    finally:
        os.close(made)


def _open_again(fd: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)


def _in_use(fd: int) -> bool:
    # as ballast/pieces.py does, and says why
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
