"""The ledger of one resource: where every byte or unit of it is.

    free + held + taking + leased + settling + foreign = capacity      all >= 0

free      neither leased nor held: best-effort, others may be quicker
held      ballast: really occupied by the daemon, leased to nobody
taking    on its way from free to held; `status` counts it as settling
leased    promised or granted to leases
settling  given back by a lease and not yet measured free
foreign   eaten by use outside all leases

What can be granted is free + held, the *room*.  A capacity lowered below what is
leased ends nobody: then free is 0 and the sum exceeds the capacity until leases end.
Ballast that must be given up for that is no room any more.

What a live reservation has of a resource has a ledger of its own, `ram@17`: its
capacity is leased in the resource's ledger, and none of it is ever foreign.
"""

from __future__ import annotations

from msgspec import Struct

#: A lease's memory that is not back after this many seconds is foreign use.  A
#: process of 100 GiB in 4K pages takes 7 s to be torn down (13.8 GiB/s measured).
SETTLE_LIMIT_S = 10.0

#: How many units of `machine` there are: more than there can ever be leases.
MACHINE_UNITS = 2**40


#: Disks are `disk.NAME`; where there is one, `disk` means that.
DISK = "disk"


class Ledger(Struct, gc=False):
    """One resource.  Only `Pen.apply` changes it."""

    name: str
    #: What the machine and the configuration say; bytes or units.
    configured: int
    #: What `holdingpenctl set` said instead; None: nothing.
    override: int | None = None
    #: Ballast wanted in all when no lease has drawn on it; a multiple of `unit`.
    hold: int = 0
    #: Ballast moves in multiples of this.
    unit: int = 1
    #: Whether given back is not yet free: it must be measured.
    measured: bool = False

    held: int = 0
    taking: int = 0
    leased: int = 0
    settling: int = 0
    foreign: int = 0

    #: Ballast drawn by promised and live leases: to be taken back when they end.
    drawn: int = 0
    #: boot_s before which ballast is not taken (the machine said no).
    not_before_s: float = 0.0
    #: boot_s after which what still settles is foreign.
    settle_by_s: float = 0.0

    @property
    def resource(self) -> str:
        """What it is of: `ram` for `ram@17`."""
        return self.name.partition("@")[0]

    @property
    def capacity(self) -> int:
        """What can be lent in all."""
        return self.configured if self.override is None else self.override

    @property
    def balance(self) -> int:
        """Capacity less everything booked: `free`, or below 0 when overcommitted."""
        return (
            (self.configured if self.override is None else self.override)
            - self.held
            - self.taking
            - self.leased
            - self.settling
            - self.foreign
        )

    @property
    def free(self) -> int:
        """What is neither leased nor held nor on the way; never below 0."""
        balance = self.balance
        return balance if balance > 0 else 0

    @property
    def room(self) -> int:
        """What can be granted now: free + held, less what must be given up."""
        room = self.held + self.balance
        return room if room > 0 else 0

    @property
    def transit(self) -> int:
        """What will be room in a moment, if nobody else eats it."""
        return self.settling + self.taking

    @property
    def over(self) -> int:
        """How much is booked beyond the capacity; 0 when the books balance."""
        balance = self.balance
        return -balance if balance < 0 else 0
