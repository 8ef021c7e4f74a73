"""What this machine lends, and to how many: settings and host in the core's words."""

from __future__ import annotations

import os

from holdingpen.ballast.ram import UNIT
from holdingpen.core import events as ev
from holdingpen.core.facts import Moment
from holdingpen.core.rights import Rules
from holdingpen.daemon.connections import Limits
from holdingpen.daemon.settings import GIB, Settings
from holdingpen.devices import HostLike


def rules(settings: Settings) -> Rules:
    """What the core must know of the configuration.

    The operators are root and whoever runs the daemon: a private pen is its user's.
    """
    return Rules(
        operators=frozenset({0, os.geteuid()}),
        share={"ram": settings.ram_share},
        leases_per_user_max=settings.leases_per_user_max,
        waiting_per_user_max=settings.waiting_per_user_max,
        backfill=settings.backfill,
    )


def keep_bytes(settings: Settings, host: HostLike) -> int:
    """Bytes never lent."""
    if settings.ram_keep is not None:
        return settings.ram_keep
    return min(max(host.ram_total() // 16, GIB // 2), 4 * GIB)


def configured(at: Moment, settings: Settings, host: HostLike) -> ev.Configured:
    """The machine as its configuration has it."""
    ram = settings.ram_capacity
    if ram is None:
        ram = max(0, host.ram_total() - keep_bytes(settings, host))
    cpus = settings.cpu_capacity
    return ev.Configured(
        at,
        (
            ev.Resource("ram", ram, min(settings.ram_hold, ram), UNIT, measured=True),
            ev.Resource("cpu", host.cpus() if cpus is None else cpus),
            *(ev.Resource(name, count) for name, count in settings.resources.items()),
        ),
    )


def limits(settings: Settings, connections_fit: int) -> Limits:
    """How many clients may come in."""
    most = min(settings.connections_max or connections_fit, connections_fit)
    mine = settings.connections_per_user_max or max(1, most // 2)
    return Limits(most, mine, settings.hello_within_s)
