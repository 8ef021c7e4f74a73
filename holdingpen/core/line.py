"""The line: who stands where, and who may start, without walking the line.

Order is rank (lower first), then arrival (lower id first): the *place key* is
`(rank, lease)`.  The rank is the negative priority; with ageing the time of arrival
counts in it, too, and as all age alike it never changes (`Books.rank`).  The law
(model.md 8a) says: walk the line; who fits, starts; who does not is set aside what is
there of what he needs; what is left goes on.  Both the one who starts and the one who
waits take min(left, need) out of what is left, so after i places exactly
max(0, room - need_1 - ... - need_i) is left, and

    a waiter can start  <=>  for each resource he needs,
                             the needs of all up to and including him fit the room.

So each resource keeps a *lane*: its waiters in order, cut in two at the point where
their needs exceed the room.  Those before the cut are *covered*.  Who is covered in
every lane he stands in is *ready*.  A change of room moves the cut by as many places
as it pays for, and nobody else is looked at: the cost of a decision does not grow
with the line.  The cut is a function of the waiters and the rooms alone, so replay
finds it again.

Who is *deferred* may not start yet, because of what is reserved ahead.  What is there
is set aside for him all the same; he is just not ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from math import inf

from msgspec import Struct
from sortedcontainers import SortedList

#: A place in the line: (rank, lease).
Key = tuple[float, int]
#: Reservations whose time has come stand before everybody else, in the order of their
#: dates (seconds since 1970, which beside this number keep their milliseconds).
FIRST = -1e13


class Waiter(Struct, gc=False):
    """One place in the line."""

    key: Key
    #: Resource to units, each > 0.
    needs: Mapping[str, int]
    #: In how many of its lanes it stands behind the cut; 0: ready, unless deferred.
    uncovered: int
    #: boot_s before which it may not start; 0: it may.
    until_s: float = 0.0


class Lane:
    """The waiters for one resource, cut where the room ends."""

    __slots__ = ("behind", "covered", "covered_sum", "total")

    def __init__(self) -> None:
        #: Keys before the cut: their needs together fit the room.
        self.covered: SortedList = SortedList()
        #: Keys behind the cut.
        self.behind: SortedList = SortedList()
        #: Sum of the needs of `covered`.
        self.covered_sum = 0
        #: Sum of the needs of all in the lane.
        self.total = 0


class Line:
    """All who wait."""

    def __init__(self, room: Callable[[str], int]) -> None:
        """Make an empty line.

        Args:
            room: tells how much of a resource can be granted now.
        """
        self._room = room
        #: Everybody's key, first first.
        self.order: SortedList = SortedList()
        self.waiters: dict[int, Waiter] = {}
        #: Only resources somebody waits for.
        self.lanes: dict[str, Lane] = {}
        #: Keys of those who can start, first first.
        self.ready: SortedList = SortedList()
        #: Keys of those with a known length, who may pass others; first first.
        self.timed: SortedList = SortedList()

    def __len__(self) -> int:
        return len(self.waiters)

    def add(
        self, lease: int, rank: float, needs: Mapping[str, int], timed: bool
    ) -> None:
        """Put `lease` at its place; `timed` if the length it wants is known."""
        key = (rank, lease)
        self.order.add(key)
        if timed:
            self.timed.add(key)
        self.waiters[lease] = Waiter(key, needs, len(needs))
        for resource, need in needs.items():
            lane = self.lanes.get(resource)
            if lane is None:
                lane = self.lanes[resource] = Lane()
            lane.total += need
            # Behind the cut it changes nothing; before it, it may push others out.
            lane.behind.add(key)
            if key == lane.behind[0]:
                self._cover(resource, lane, need)
            self.settle(resource)

    def remove(self, lease: int) -> None:
        """Take `lease` out: it started, or it left."""
        waiter = self.waiters.pop(lease)
        key = waiter.key
        self.order.remove(key)
        self.timed.discard(key)
        self.ready.discard(key)
        for resource, need in waiter.needs.items():
            lane = self.lanes[resource]
            lane.total -= need
            if lane.behind and key >= lane.behind[0]:
                lane.behind.remove(key)
            else:
                lane.covered.remove(key)
                lane.covered_sum -= need
            if lane.covered or lane.behind:
                self.settle(resource)
            else:
                del self.lanes[resource]

    def defer(self, lease: int, until_s: float) -> None:
        """Let `lease` not start before `until_s`; 0: let him."""
        waiter = self.waiters[lease]
        waiter.until_s = until_s
        if until_s:
            self.ready.discard(waiter.key)
        elif not waiter.uncovered and waiter.key not in self.ready:
            self.ready.add(waiter.key)

    def settle(self, resource: str) -> None:
        """Move the cut of one lane to where the room ends now."""
        lane = self.lanes.get(resource)
        if lane is None:
            return
        room = self._room(resource)
        while lane.covered_sum > room:
            self._uncover(resource, lane)
        while lane.behind:
            need = self.waiters[lane.behind[0][1]].needs[resource]
            if lane.covered_sum + need > room:
                break
            self._cover(resource, lane, need)

    def _cover(self, resource: str, lane: Lane, need: int) -> None:
        key = lane.behind.pop(0)
        lane.covered.add(key)
        lane.covered_sum += need
        waiter = self.waiters[key[1]]
        waiter.uncovered -= 1
        if not waiter.uncovered and not waiter.until_s:
            self.ready.add(key)

    def _uncover(self, resource: str, lane: Lane) -> None:
        key = lane.covered.pop()
        lane.behind.add(key)
        waiter = self.waiters[key[1]]
        lane.covered_sum -= waiter.needs[resource]
        if not waiter.uncovered and not waiter.until_s:
            self.ready.remove(key)
        waiter.uncovered += 1

    def lets_pass(self, rank: float, needs: Mapping[str, int]) -> bool:
        """Whether a newcomer could start at once, were he to join now.

        True only if he would stand last and everybody's needs together with his fit;
        a False for one of lower rank is not final: let him join and see.
        """
        if self.waiters and rank < self.order[-1][0]:
            return False
        for resource, need in needs.items():
            lane = self.lanes.get(resource)
            ahead = lane.total if lane is not None else 0
            if ahead + need > self._room(resource):
                return False
        return True

    def ahead(self, resource: str, rank: float, steps_max: int) -> int | None:
        """What all who would stand before a newcomer need of `resource`.

        Returns:
            Units; None when more than `steps_max` waiters had to be counted.
        """
        lane = self.lanes.get(resource)
        if lane is None:
            return 0
        if rank >= self.order[-1][0]:
            return lane.total
        total = 0
        last = (rank, inf)
        keys = chain(lane.covered.irange(None, last), lane.behind.irange(None, last))
        for count, (_, other) in enumerate(keys):
            if count >= steps_max:
                return None
            total += self.waiters[other].needs[resource]
        return total

    def place(self, lease: int) -> int:
        """Where `lease` stands; 1 is first."""
        return int(self.order.index(self.waiters[lease].key)) + 1

    def first(self, count: int, start: int = 0) -> Iterator[int]:
        """The leases at `count` places from `start` (0 is first), in order."""
        keys = self.order.islice(start, start + count)
        return (lease for _, lease in keys)

    def lacking(self, lease: int) -> list[str]:
        """The resources for which `lease` stands behind the cut."""
        waiter = self.waiters[lease]
        return [name for name in waiter.needs if not self.is_covered(lease, name)]

    def is_covered(self, lease: int, resource: str) -> bool:
        """Whether what `lease` needs of `resource` is set aside for him in full."""
        behind = self.lanes[resource].behind
        return not behind or self.waiters[lease].key < behind[0]
