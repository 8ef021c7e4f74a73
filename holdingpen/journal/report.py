"""What was used between two dates: by user and by resource.  Pure.

The rules, for a window of time that includes its begin and not its end:

- A lease is charged its amounts for as long as it was held inside the window, a part
  that it gave back only until then.
- A reservation is charged to its owner, used or not.  A lease that draws on one is
  counted as a lease of its user and not charged what the reservation has.
- `granted`, `left` and the waits are of the requests *asked* in the window.
- A lease that goes on counts up to its `ended_wall_s`, which is then now.

So the amounts and the requests of two adjoining windows add up to those of both; a
lease that was held in both is counted in each.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from msgspec import Struct, field

from holdingpen.journal.history import RESERVATION
from holdingpen.wire.messages import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from holdingpen.journal.history import Record


class ResourceUsage(Struct, frozen=True, gc=False):
    """What everybody had of one resource."""

    resource: str
    #: Byte-seconds or unit-seconds, > 0.
    used: float
    #: Leases and reservations that were charged.
    leases: int
    #: Uids, who used most first.
    users: list[int]


class Report(Struct, frozen=True, gc=False):
    """What was used from one date to another, in seconds since 1970."""

    from_wall_s: float
    to_wall_s: float
    #: Everybody who held or asked for something; first who has the greatest shares,
    #: those of all resources added up.
    users: list[Usage]
    total: Usage
    #: In the order of their names.
    resources: list[ResourceUsage]


class _Sum(Struct):
    """What is being counted for one user or for all."""

    used: dict[str, float] = field(default_factory=dict)
    #: Resource to leases and reservations charged.
    charged: dict[str, int] = field(default_factory=dict)
    leases: int = 0
    reservations: int = 0
    granted: int = 0
    left: int = 0
    waited_s: float = 0.0
    waited_max_s: float = 0.0


def report(
    records: Iterable[Record],
    from_wall_s: float,
    to_wall_s: float,
    live: Iterable[Record] = (),
) -> Report:
    """Count what was used between two dates.

    Args:
        records: ended leases, each once; those outside the window count nothing.
        from_wall_s: seconds since 1970.
        to_wall_s: not included; a window that ends before it begins is empty.
        live: what the history does not have: leases that go on, with the present
            for their end and no `why`, and those that ended just now.  They may be
            among `records` all the same, and then are counted once, as told here.
    """
    total, sums = _Sum(), dict[int, _Sum]()
    for one in _each_once(records, live):
        used = _used(one, from_wall_s, to_wall_s)
        asked = from_wall_s <= one.asked_wall_s < to_wall_s
        if used is None and not asked:
            continue
        user = sums.setdefault(one.uid, _Sum())
        for into in (user, total):
            if used is not None:
                _count_held(into, one, used)
            if asked:
                _count_asked(into, one)
    users = [_usage(uid, counted, total) for uid, counted in sums.items()]
    users.sort(key=lambda user: (-sum(user.share.values()), user.uid))
    return Report(
        from_wall_s,
        to_wall_s,
        users,
        _usage(None, total, total),
        [_resource(name, sums, total) for name in sorted(total.used)],
    )


def _each_once(records: Iterable[Record], live: Iterable[Record]) -> Iterator[Record]:
    there = {one.id: one for one in live}
    return chain(there.values(), (one for one in records if one.id not in there))


def _used(one: Record, from_wall_s: float, to_wall_s: float) -> dict[str, float] | None:
    """Resource to what is charged; None: it was not held in the window at all."""
    if one.granted_wall_s is None or to_wall_s <= from_wall_s:
        return None
    end = one.ended_wall_s
    begin = end - one.held_s
    # One that was held for no time is in the window that has its moment.
    if begin >= to_wall_s or (end <= from_wall_s and begin < from_wall_s):
        return None
    amounts = one.amounts
    if one.inside:
        amounts = {name: amounts[name] for name in one.beside}

    def inside_s(since: float) -> float:
        return max(0.0, min(end, to_wall_s) - max(since, from_wall_s))

    held_s = inside_s(begin)
    used = {name: amount * held_s for name, amount in amounts.items()}
    for given in one.given_back:
        rest_s = inside_s(begin + given.after_s)
        for name in given.amounts.keys() & used.keys():
            used[name] -= given.amounts[name] * rest_s
    return {name: amount_s for name, amount_s in used.items() if amount_s > 0}


def _count_held(into: _Sum, one: Record, used: dict[str, float]) -> None:
    if one.kind == RESERVATION:
        into.reservations += 1
    else:
        into.leases += 1
    for name, amount_s in used.items():
        into.used[name] = into.used.get(name, 0.0) + amount_s
        into.charged[name] = into.charged.get(name, 0) + 1


def _count_asked(into: _Sum, one: Record) -> None:
    if one.granted_wall_s is not None:
        into.granted += 1
        into.waited_s += one.waited_s
        into.waited_max_s = max(into.waited_max_s, one.waited_s)
    elif one.why:
        into.left += 1


def _usage(uid: int | None, counted: _Sum, total: _Sum) -> Usage:
    return Usage(
        uid,
        counted.used,
        {name: used / total.used[name] for name, used in counted.used.items()},
        counted.leases,
        counted.reservations,
        counted.left,
        counted.waited_s / counted.granted if counted.granted else 0.0,
        counted.waited_max_s,
        counted.granted,
    )


def _resource(name: str, sums: dict[int, _Sum], total: _Sum) -> ResourceUsage:
    users = [uid for uid, counted in sums.items() if name in counted.used]
    users.sort(key=lambda uid: (-sums[uid].used[name], uid))
    return ResourceUsage(name, total.used[name], total.charged[name], users)
