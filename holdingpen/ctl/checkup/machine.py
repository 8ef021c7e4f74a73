"""Verdicts on memory, kernel, clock and limits: what the machine does to a pen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from holdingpen.amounts import format_size
from holdingpen.ctl.checkup.findings import (
    Finding,
    Orders,
    hint,
    ok,
    unchecked,
    wrong,
)
from holdingpen.durations import format_duration

if TYPE_CHECKING:
    from holdingpen.ctl.checkup.units import Process
    from holdingpen.daemon.settings import Settings

#: The first kernel whose memory.high works under a memory.min that is too large; the
#: first whose lists of free pages of each processor grow; the first tmpfs that is
#: never swapped out.
SPREADS_WELL, LISTS_GROW, NO_SWAP = (6, 2), (6, 7), (6, 4)

#: vm.percpu_pagelist_high_fraction with which what is freed is found again.
LIST_FRACTION: Final = 1000

#: What the helper in a lease's control group locks: its own code, 12 MiB measured.
HELPER_LOCKS_BYTES: Final = 16 * 2**20

#: Descriptors of the daemon that are no connections.
SPARE_DESCRIPTORS: Final = 64
#: A machine with fewer connections is soon full: each waiter has one.
FEW_CONNECTIONS: Final = 512

#: The wall clock is never before this program was written: 2026.
WRITTEN_S: Final = 1_767_225_600.0
#: Steps of the clock that are none: what a start takes, and NTP's own corrections.
STEP_S: Final = 30.0

#: vm.overcommit_memory with which ballast counts against what all may ask for.
_STRICT: Final = 2


class Memory(NamedTuple):
    """The machine's memory, and what the kernel does with it."""

    total_bytes: int = 64 * 2**30
    #: MemAvailable.
    available_bytes: int = 32 * 2**30
    #: Bytes never lent, as the configuration or the machine has it.
    keep_bytes: int = 4 * 2**30
    #: What the daemon holds now.
    held_bytes: int = 0
    swap_bytes: int = 0
    swappiness: int = 60
    #: The word in brackets in shmem_enabled; empty: no such file.
    huge: str = "never"
    #: Whether the kernel counts pressure.
    pressure: bool = True
    #: vm.overcommit_memory.
    overcommit: int = 0
    kernel: tuple[int, int] = (6, 12)
    #: vm.percpu_pagelist_high_fraction; None: no such file.
    list_fraction: int | None = LIST_FRACTION
    #: Of the control groups that count memory: 1, 2, or 0 without any.
    groups_version: int = 2
    #: One sentence; empty: exact hand-over can be had; None: it may not be looked at.
    why_not_exact: str | None = ""


def judge_amounts(memory: Memory, settings: Settings, orders: Orders) -> list[Finding]:
    """Whether the machine bears what the configuration wants."""
    check, hold = "memory.hold", settings.ram_hold
    total, keep = memory.total_bytes, memory.keep_bytes
    words = f"hold {format_size(hold)} and keep {format_size(keep)}"
    if hold + keep > total:
        text = f"{words} are more than the {format_size(total)} there are"
        return [wrong(check, text, f"lower [ram] hold or keep, then {orders.reload}")]
    capacity = settings.ram_capacity
    if capacity is not None and capacity > total:
        text = f"[ram] capacity is {format_size(capacity)}, the machine has "
        text += format_size(total)
        return [wrong(check, text, f"lower [ram] capacity, then {orders.reload}")]
    if not hold:
        text = "no memory is held back: leases get what happens to be free"
        return [hint(check, text, f'[ram] hold = "8G", then {orders.reload}')]
    said = [ok(check, f"{words} of {format_size(total)}")]
    missing = hold - memory.held_bytes
    if missing > 0 and missing + keep > memory.available_bytes:
        there = format_size(memory.available_bytes)
        text = f"{format_size(missing)} to be held are lacking, {there} are available"
        said.append(hint("memory.room", text, "ps axo pid,user,rss,comm --sort -rss"))
    return said


def judge_swap(memory: Memory, daemon: Process | None, orders: Orders) -> list[Finding]:
    """Whether what is held back can be swapped out, where it holds nothing."""
    check = "memory.swap"
    if not memory.swap_bytes:
        return [ok(check, "there is no swap, which ballast could go to")]
    swap = f"{format_size(memory.swap_bytes)} of swap"
    if daemon is None:
        text = f"{swap}: ballast must not go there"
        return [hint(check, text, orders.unit("[Service] MemorySwapMax=0"))]
    if daemon.uid == 0 and memory.kernel >= NO_SWAP and memory.huge != "deny":
        return [ok(check, f"{swap}, and ballast is on a file system that never swaps")]
    if daemon.swap_max == "0":
        return [ok(check, f"{swap}, and none of it for the daemon")]
    text = f"{swap}, and ballast can go there (vm.swappiness {memory.swappiness}): "
    text += "it holds nothing then"
    if memory.groups_version != 2:
        return [wrong(check, text, "swapoff -a")]
    return [wrong(check, text, orders.unit("[Service] MemorySwapMax=0"))]


def judge_exact(
    memory: Memory,
    settings: Settings,
    daemon: Process | None,
    orders: Orders,
    private: bool = False,
) -> list[Finding]:
    """Whether programs can have what is held back exactly, and what stands in the way.

    Args:
        memory: the machine's.
        settings: what the administrator decided.
        daemon: its process, if it is known.
        orders: the commands here.
        private: whether it is somebody's own, which moves no programs.
    """
    check, why = "memory.exact", memory.why_not_exact
    if why is None:
        return [unchecked(check, "whether memory can be handed over exactly")]
    if private and not why:
        why = "A private pen moves no programs."
    if why:
        text = f"memory is not handed over exactly: {why}"
        if settings.ram_handover == "exact":
            mend = f'[ram] handover = "auto", then {orders.reload}'
            return [wrong(check, text, mend)]
        mend = ""
        if memory.groups_version == 1 and not private:
            mend = "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's line"
        return [hint(check, text, mend)]
    said = [ok(check, "memory is handed over exactly to programs under gatekeeper")]
    if memory.kernel < SPREADS_WELL:
        now = ".".join(map(str, memory.kernel))
        text = f"before Linux 6.2 no other unit may have memory.min; this is {now}"
        mend = "grep -v ^0 /sys/fs/cgroup/*/memory.min"
        said.append(hint("memory.kernel", text, mend))
    fraction = memory.list_fraction
    if (
        memory.kernel >= LISTS_GROW
        and fraction is not None
        and fraction < LIST_FRACTION
    ):
        text = "up to an eighth of freed memory stays on lists of a processor, where "
        text += f"nobody finds it: vm.percpu_pagelist_high_fraction is {fraction}"
        mend = f"sysctl -w vm.percpu_pagelist_high_fraction={LIST_FRACTION}"
        said.append(hint("memory.lists", text, mend))
    if daemon and daemon.may_lock is False and daemon.memlock_bytes is not None:
        limit = daemon.memlock_bytes
        if limit < HELPER_LOCKS_BYTES:
            text = f"helpers cannot lock their code in memory: {format_size(limit)}"
            mend = orders.unit("[Service] LimitMEMLOCK=infinity")
            said.append(hint("memory.lock", text, mend))
    return said


def judge_kernel(memory: Memory, settings: Settings) -> list[Finding]:
    """Whether the kernel serves the ballast well."""
    said = []
    if memory.huge in ("", "deny"):
        text = "ballast is of small pages: given back at 8 GiB/s, and not at 400"
        if memory.huge:
            path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
            said.append(hint("memory.huge", text, f"echo never > {path}"))
        else:
            said.append(hint("memory.huge", f"{text}: this kernel has no others"))
    else:
        text = f"ballast can have huge pages (shmem_enabled: {memory.huge})"
        said.append(ok("memory.huge", text))
    check = "memory.pressure"
    if memory.pressure:
        said.append(ok(check, "the kernel tells when programs wait for memory (PSI)"))
    else:
        text = "the kernel does not tell when programs wait for memory (PSI)"
        mend = "boot with psi=1 on the kernel's line"
        if settings.ram_policy == "yield":
            text += ', which [ram] policy = "yield" needs'
            said.append(wrong(check, text, mend))
        else:
            said.append(hint(check, text, mend))
    if memory.overcommit == _STRICT and settings.ram_hold:
        text = "vm.overcommit_memory is 2: ballast counts against what all may ask for"
        said.append(hint("memory.overcommit", text, "sysctl -w vm.overcommit_memory=0"))
    return said


class Clock(NamedTuple):
    """The clocks, and where the machine thinks it is."""

    wall_s: float
    #: When the journal was last written, seconds since 1970; 0: unknown.
    written_s: float = 0.0
    #: How far the wall clock was set since the daemon started; None: unknown.
    stepped_s: float | None = 0.0
    #: Whether it is kept right; None: the kernel does not tell.
    synchronised: bool | None = True
    #: Its name; empty: none is set.
    zone: str = "Europe/Berlin"
    #: Whether the system knows that zone.
    zone_known: bool = True


def judge_clock(clock: Clock) -> list[Finding]:
    """Whether dates mean what people think they do; reservations are dates."""
    check, mend = "clock.right", "timedatectl set-ntp true"
    said = []
    if clock.wall_s < max(WRITTEN_S, clock.written_s - STEP_S):
        text = "the clock is behind what was written already: reservations begin late"
        said.append(wrong(check, text, mend))
    elif clock.synchronised is None:
        said.append(hint(check, "whether the clock is kept right is not known", mend))
    elif clock.synchronised:
        said.append(ok(check, "the clock is kept right (NTP)"))
    else:
        text = "nobody keeps the clock right, and reservations are dates"
        said.append(hint(check, text, mend))
    stepped_s = clock.stepped_s
    if stepped_s is not None and abs(stepped_s) > STEP_S:
        way = "forward" if stepped_s > 0 else "back"
        text = f"the clock was set {way} by {format_duration(abs(stepped_s))} since "
        text += "the daemon started; dates went with it"
        said.append(hint("clock.step", text, "holdingpenctl list --ahead"))
    return [*said, _zone(clock)]


def _zone(clock: Clock) -> Finding:
    check, mend = "clock.zone", "timedatectl set-timezone Europe/Berlin"
    if not clock.zone_known:
        text = f"there is no time zone {clock.zone}: times of day are UTC"
        return wrong(check, text, f"apt install tzdata; {mend}")
    if not clock.zone:
        return hint(check, "no time zone is set: times of day are UTC", mend)
    return ok(check, f"times of day are those of {clock.zone}")


def judge_limits(
    daemon: Process | None, settings: Settings, orders: Orders, store_max: int = 0
) -> list[Finding]:
    """Whether as many clients can come as are meant to.

    Args:
        daemon: its process, if it is known.
        settings: what the administrator decided.
        orders: the commands here.
        store_max: descriptors that systemd keeps for it; 0: it keeps none.
    """
    check = "limits.descriptors"
    if daemon is None:
        return []
    if daemon.nofile is None:
        return [unchecked(check, "the daemon's limits")]
    fit = max(0, daemon.nofile - SPARE_DESCRIPTORS)
    mend = orders.unit("[Service] LimitNOFILE=524288")
    wanted = settings.connections_max
    if wanted is not None and wanted > fit:
        text = f"[daemon] connections_max is {wanted}, and {fit} fit in the limit of "
        return [wrong(check, f"{text}{daemon.nofile} open files", mend)]
    if 0 < store_max < (wanted or 0):
        text = f"[daemon] connections_max is {wanted}, and systemd keeps {store_max} "
        text += "descriptors over a restart: what is more loses its lease"
        mend = orders.unit(f"[Service] FileDescriptorStoreMax={wanted}")
        return [hint("limits.store", text, mend)]
    most = wanted or (min(fit, store_max) if store_max else fit)
    if most < FEW_CONNECTIONS:
        text = f"no more than {most} clients may be connected at once"
        return [hint(check, text, mend)]
    return [ok(check, f"{most} clients may be connected at once")]
