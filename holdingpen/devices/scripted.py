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

import heapq
import threading
from typing import TYPE_CHECKING, NamedTuple

from holdingpen.devices import Foreign, Uses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    """Ballast on a ScriptedHost, with the manners of `RamBallast`."""

    kind = "scripted"
    why = "The machine is a make-believe one."

    def __init__(self, host: ScriptedHost) -> None:
        """Hold nothing yet."""
        self._host = host
        self._held = 0
        self._lock = threading.Lock()
        #: What `noswap` says.
        self.noswap = True
        #: Bytes beyond which the system has no more for it; None: as the host has.
        self.held_max: int | None = None

    @property
    def held(self) -> int:
        """Bytes occupied at this moment."""
        return self._held

    def take(self, amount: int, may: Callable[[int], bool]) -> int:
        """Occupy up to `amount` more bytes, asking `may` before each step."""
        taken = 0
        while (step := min(_STEP, (amount - taken) // _UNIT * _UNIT)) > 0 and may(step):
            with self._lock:
                full = self.held_max is not None and self._held + step > self.held_max
                if full or not self._host.occupy(step):
                    break
                self._held += step
            taken += step
        return taken

    def drop(self, amount: int) -> int:
        """Give back `amount` bytes, rounded up to a unit, or all there is."""
        with self._lock:
            given = max(0, min(-(-amount // _UNIT) * _UNIT, self._held))
            self._host.occupy(-given)
            self._held -= given
        return given

    def close(self) -> None:
        """Give everything back for good."""
        self.drop(self._held)
