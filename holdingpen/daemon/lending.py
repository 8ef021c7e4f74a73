"""What this machine lends, and to how many: settings and host in the core's words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

from holdingpen.ballast.ram import UNIT
from holdingpen.core import events as ev
from holdingpen.core.facts import Moment
from holdingpen.core.handover import AS_IS, FREE, Choice
from holdingpen.core.resources import DISK
from holdingpen.core.rights import Rules
from holdingpen.daemon.connections import Limits
from holdingpen.daemon.settings import GIB, Settings
from holdingpen.devices import HostLike
from holdingpen.errors import BadSettings

Wishes = dict[str, Choice]

#: The reserve that makes good what others take from paced leases, as a part of what is
#: held.  Beside a program that takes 400 MiB/s, one who takes 20 gets a twentieth.
RESERVE_PART: Final = 20
#: And before the program begins he gets a step and some grains: with 24 MiB in all the
#: program mostly had everything, with 16 it had not; see pacer.py.
RESERVE_MIN: Final = 32 * 2**20
#: What he gets in 50 s, in which a program has 20 GiB.
RESERVE_MAX: Final = GIB
#: Who holds little does not lose more than this part of it to the reserve.
RESERVE_PART_MAX: Final = 4


def rules(settings: Settings, handover: Mapping[str, Wishes] | None = None) -> Rules:
    """What the core must know of the configuration.

    The operators are root and whoever runs the daemon, as a private pen is its
    user's, and those whom `[daemon] operators` adds.

    Args:
        settings: what the administrator decided.
        handover: resource to how each wish is met there; None: by the settings.
    """
    return Rules(
        operators=frozenset({0, os.geteuid()}) | settings.operators.uids,
        operator_groups=settings.operators.gids,
        allow=settings.allow,
        seat_priority=settings.seat_priority,
        seat_ends=settings.console_after_logout == "end",
        share={"ram": settings.ram_share},
        leases_per_user_max=settings.leases_per_user_max,
        waiting_per_user_max=settings.waiting_per_user_max,
        backfill=settings.backfill,
        ageing_s=settings.ageing_s,
        reclaim_grace_s=settings.reclaim_grace_s,
        reclaim_ends=settings.reclaim_ends,
        idle_after_s=settings.idle_after_s,
        idle_ends=settings.idle_ends,
        assume_s=settings.assume_s,
        ready_before_s=settings.ready_before_s,
        handover=handover or {"ram": ram_wishes(settings, "")},
        yields=frozenset({"ram"} if settings.ram_policy == "yield" else ()),
    )


def ram_wishes(settings: Settings, no_group: str, step_bytes: int = 0) -> Wishes:
    """How each wish for ram is met.

    `auto` is the surest that can be had.  A client that does not say it becomes the
    program is not moved into a control group of the lease's, unless only `exact` will
    do.

    Args:
        settings: for `[ram] handover`.
        no_group: one sentence on why no control group can be shared with the program;
            empty: it can.
        step_bytes: what may lie freed for a paced lease; 0: the usual.

    Raises:
        BadSettings: `exact` is demanded and cannot be had.
    """
    kind = settings.ram_handover
    if kind == "exact" and no_group:
        raise BadSettings(
            f'[ram] handover = "exact" cannot be had: {no_group.rstrip(".")}. Write '
            '"auto", or let programs ask with memory=True.'
        )
    if kind == FREE:
        as_is = program = Choice(FREE, f'[ram] handover = "{kind}" is set')
    elif kind == "paced":
        why = f'[ram] handover = "{kind}" is set'
        as_is = program = Choice("paced", why, step_bytes)
    elif no_group:
        as_is = program = Choice("paced", no_group, step_bytes)
    else:
        program = Choice("group")
        more = "exact is for programs under gatekeeper, and for memory=True"
        as_is = program if kind == "exact" else Choice("paced", more, step_bytes)
    steps = Choice("steps", "the program takes it step by step")
    return {
        AS_IS: as_is,
        "program": program,
        "steps": steps,
        "descriptor": Choice("pieces"),
    }


def keep_bytes(settings: Settings, host: HostLike) -> int:
    """Bytes never lent."""
    if settings.ram_keep is not None:
        return settings.ram_keep
    return min(max(host.ram_total() // 16, GIB // 2), 4 * GIB)


class RamPlan(NamedTuple):
    """What becomes of the machine's memory, in bytes."""

    #: Lent in all.
    capacity: int
    #: Of it, held back.
    hold: int
    #: Held back beside the capacity, to make good what others take: in no books.
    reserve: int


def ram_plan(settings: Settings, host: HostLike) -> RamPlan:
    """How much memory is lent, held, and in reserve.

    Without ballast, or where it is freed before the grant, there is no reserve.  A
    capacity that the administrator has written is lent whole, and the reserve is held
    beside it.
    """
    total = host.ram_total()
    most = settings.ram_capacity
    if most is None:
        most = max(0, total - keep_bytes(settings, host))
    hold = min(settings.ram_hold, most)
    reserve = 0
    if settings.ram_handover != FREE:
        reserve = min(max(hold // RESERVE_PART, RESERVE_MIN), RESERVE_MAX)
        reserve = min(reserve, hold // RESERVE_PART_MAX) // UNIT * UNIT
    if settings.ram_capacity is None:
        capacity = most - reserve
    else:
        capacity = max(0, min(most, total - reserve))
    return RamPlan(capacity, min(hold, capacity), reserve)


def configured(
    at: Moment,
    settings: Settings,
    host: HostLike,
    disks: Mapping[str, tuple[int, int]] | None = None,
) -> ev.Configured:
    """The machine as its configuration has it.

    Args:
        at: now.
        settings: what the administrator decided.
        host: the machine.
        disks: name of a [disk.NAME] table to the bytes its file system has, and the
            unit of its ballast.
    """
    ram = ram_plan(settings, host)
    cpus = settings.cpu_capacity
    pool = host.huge_page_pool()
    return ev.Configured(
        at,
        (
            ev.Resource("ram", ram.capacity, ram.hold, UNIT, measured=True),
            ev.Resource("cpu", host.cpus() if cpus is None else cpus),
            *([ev.Resource("hugepages", pool)] if pool else []),
            *_disks(settings, disks or {}),
            *(ev.Resource(name, count) for name, count in settings.resources.items()),
        ),
    )


def _disks(
    settings: Settings, disks: Mapping[str, tuple[int, int]]
) -> list[ev.Resource]:
    found = []
    for word, (total, unit) in disks.items():
        disk = settings.disks[word]
        capacity = max(0, total - disk.keep)
        hold = min(disk.hold, capacity)
        name = f"{DISK}.{word}"
        found.append(ev.Resource(name, capacity, hold, unit, measured=True))
    return found


def limits(settings: Settings, connections_fit: int) -> Limits:
    """How many clients may come in."""
    most = min(settings.connections_max or connections_fit, connections_fit)
    mine = settings.connections_per_user_max or max(1, most // 2)
    return Limits(most, mine, settings.hello_within_s)
