"""Devices: what the machine has, and who uses it.

The hands of this floor are plain blocking code, called from the daemon's worker
threads.  `host.py` is the real machine; `scripted.py` is a make-believe one, shipped
for tests and demonstrations, which passes the same tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class Foreign(NamedTuple):
    """A process outside all leases."""

    pid: int
    #: Its real user.
    uid: int
    #: What the process calls itself, printable: at most 15 bytes, never believed.
    comm: str
    #: RAM it uses, in bytes, counted as in `Uses.by_lease`.
    ram_bytes: int


class Uses(NamedTuple):
    """Who uses the RAM, at one look over the processes."""

    #: Lease to bytes; every lease that was asked about is named.
    by_lease: dict[int, int]
    #: The biggest processes outside all leases, biggest first.
    foreign: list[Foreign]


class HostLike(Protocol):
    """What the daemon asks of the machine."""

    def ram_total(self) -> int:
        """Bytes of RAM this process and those it serves may have in all."""

    def ram_available(self, *, exact: bool = False) -> int:
        """Bytes a program could get now without pushing others.

        `exact`: dearer, and for keeping books; without it less may be said.
        """

    def pressure(self) -> float:
        """Percent of the last 10 s in which somebody waited for memory."""

    def huge_page_pool(self) -> int:
        """Bytes of huge pages the administrator set apart (hugetlb); 0: none."""

    def use_of(self, pid: int) -> int:
        """Bytes the processes descending from `pid` use now; quick, and rough.

        Raises:
            Unavailable: when they cannot be seen.
        """

    def forget(self, pid: int) -> None:
        """`use_of` is not asked about `pid` any more."""

    def cpus(self) -> int:
        """CPUs that can be used, 1 or more."""

    def boot_id(self) -> str:
        """A word that changes with each boot."""

    def uses(self, roots: Mapping[int, int], top: int = 5) -> Uses:
        """Who uses the RAM: `roots` maps lease to the pid its processes descend from.

        `top`: how many foreign processes to name.
        """
