"""Pure judgments: can it ever fit, what does it draw, who may pass, when will it be.

Nothing here changes anything; `Pen` asks, and turns the answers into facts.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

from holdingpen.amounts import AMOUNT_MAX, format_amount
from holdingpen.core.events import Measured
from holdingpen.core.facts import MACHINE, Seen
from holdingpen.core.leases import Lease
from holdingpen.core.line import Line
from holdingpen.core.resources import MACHINE_UNITS, Ledger

Ledgers = Mapping[str, Ledger]

#: Ballast is taken in slices of this many bytes, so that a request never waits for
#: more than one: 64 MiB are 16 ms of 4K pages, 0.2 ms of huge ones (measured).
TAKE_SLICE = 64 * 2**20
#: Given up at once under pressure, at least, in bytes.
YIELD_MIN = 256 * 2**20
#: How many candidates, waiters and known ends one backfill decision may look at.
CANDIDATES_MAX = 32
STEPS_MAX = 256
ENDS_MAX = 1024
#: Foreign use is recorded when it moved by this part of the capacity.
FOREIGN_GRAIN = 256


def misfit(amounts: Mapping[str, int], ledgers: Ledgers) -> tuple[str, str] | None:
    """Why these amounts can never be granted.

    Returns:
        An `errors.Refusal` code and a message with the numbers; None: they can.
    """
    for name, amount in amounts.items():
        ledger = ledgers.get(name)
        if ledger is None:
            if name == "hugepages":
                return "unknown-resource", (
                    "asked for hugepages, and no pool of them is set apart. An "
                    "administrator does that with `sysctl vm.nr_hugepages=N` and "
                    "`systemctl reload holdingpen`."
                )
            known = ", ".join(sorted(ledgers))
            return "unknown-resource", (
                f"asked for {name!r}, which this pen does not have; it has: {known}. "
                "An administrator adds resources under [resources]."
            )
        if not 0 < amount <= AMOUNT_MAX or (name == MACHINE and amount != 1):
            return "bad-amount", (
                f"asked {amount} {name}; ask for "
                f"{'1 machine' if name == MACHINE else 'more than 0'}."
            )
        if name != MACHINE and amount > ledger.capacity:
            return "never-fits", (
                f"asked {format_amount(name, amount)} {name}; this pen can lend "
                f"{format_amount(name, ledger.capacity)}. Ask for less, or see "
                f"`holdingpenctl set {name}` and the keys under [{name}]."
            )
    return None


def draw(needs: Mapping[str, int], ledgers: Ledgers) -> dict[str, int]:
    """How much ballast a lease of `needs` draws of each resource, if there is any.

    Rounded up to the ledger's unit, which `held` is a multiple of; the bytes drawn
    beyond the need become free.
    """
    drawn = {}
    for key, need in needs.items():
        ledger = ledgers[key]
        if ledger.held:
            amount = min(-(-need // ledger.unit) * ledger.unit, ledger.held)
            drawn[ledger.resource] = amount
    return drawn


def undraw(
    drawn: Mapping[str, int], left: Mapping[str, int], ledgers: Ledgers
) -> dict[str, int]:
    """How much of the ballast drawn a lease need not hand back when it keeps `left`.

    Who never held more than `left` would have drawn no more than that, rounded up
    to the ledger's unit.
    """
    undrawn = {}
    for name, amount in drawn.items():
        unit = ledgers[name].unit
        less = amount - -(-left[name] // unit) * unit
        if less > 0:
            undrawn[name] = less
    return undrawn


def retake(ledger: Ledger, now_s: float) -> int:
    """How much free memory to make ballast now: one slice at most, maybe 0."""
    if ledger.taking or now_s < ledger.not_before_s:
        return 0
    wanted = ledger.hold - ledger.drawn - ledger.held
    amount = min(wanted, max(TAKE_SLICE, ledger.unit), ledger.free)
    return amount // ledger.unit * ledger.unit if amount > 0 else 0


def surplus(ledger: Ledger) -> int:
    """How much ballast to give up: `hold` or the capacity was lowered."""
    wanted = max(0, ledger.hold - ledger.drawn)
    too_much = max(ledger.held - wanted, ledger.over)
    units = -(-too_much // ledger.unit) * ledger.unit
    return max(0, min(units, ledger.held))


def yielded(ledger: Ledger) -> int:
    """How much ballast to give up at once when programs wait for memory.

    A quarter of what is left, so that a short shortage does not cost all of it; the
    last YIELD_MIN go together.
    """
    part = max(ledger.held // 4, YIELD_MIN)
    return min(-(-part // ledger.unit) * ledger.unit, ledger.held)


def seen(
    ledger: Ledger,
    parts: Sequence[Ledger],
    measured: Measured,
    leases: Mapping[int, Lease],
) -> list[Seen]:
    """Book a measurement: what is missing settles, or is foreign (model.md 5).

    What the leases use has gone out of `available`, and so has what is kept for them
    and the ballast: whatever else of the capacity is not available, somebody outside
    has.  When it is not fresh what leases use, it may be one of them: then foreign use
    is as it was.

    Args:
        ledger: the resource.
        parts: what reservations have of it; whose it is that came back cannot be
            seen, and theirs is taken to be first.
        measured: what was measured.
        leases: all leases by id.

    Returns:
        What changed; the resource itself comes last.
    """
    used = 0
    kept = measured.kept
    for lease in measured.used.keys() | kept.keys():
        holder = leases.get(lease)
        if holder is not None:
            amount = measured.used.get(lease, 0) + kept.get(lease, 0)
            used += min(amount, holder.amounts.get(ledger.name, 0))
    missing = max(0, ledger.capacity - measured.available - measured.ballast - used)
    all_of_it = (*parts, ledger)
    settling = sum(one.settling for one in all_of_it)
    still = min(settling, max(0, missing - ledger.foreign))
    overdue = measured.at.boot_s >= max(one.settle_by_s for one in all_of_it)
    if measured.fresh and overdue:
        still = 0
    left = _settle(all_of_it, settling - still)
    foreign = ledger.foreign
    if measured.fresh:
        most = ledger.balance + ledger.settling + ledger.foreign - left[ledger.name]
        foreign = max(0, min(missing - still, most))
        grain = ledger.capacity // FOREIGN_GRAIN
        little = abs(foreign - ledger.foreign) <= grain
        if little and foreign and ledger.foreign <= most:
            foreign = ledger.foreign
    found = [Seen(x.name, left[x.name], 0) for x in parts]
    found.append(Seen(ledger.name, left[ledger.name], foreign))
    return [x for x, was in zip(found, all_of_it, strict=True) if _differs(x, was)]


def _settle(ledgers: Iterable[Ledger], amount: int) -> dict[str, int]:
    """What still settles of each when so much came back."""
    left = {}
    for one in ledgers:
        back = min(amount, one.settling)
        amount -= back
        left[one.name] = one.settling - back
    return left


def _differs(found: Seen, was: Ledger) -> bool:
    return (found.settling, found.foreign) != (was.settling, was.foreign)


def drained(reason: str) -> str:
    """Why nothing starts while the pen is drained, for people."""
    return f"nothing new starts: {reason or 'the pen is being drained'}"


def shortage(
    line: Line, lease: int, ledgers: Ledgers, drain: str | None, alone: str = ""
) -> str:
    """One sentence for people: what `lease` waits for.

    Args:
        line: where it stands.
        lease: one who waits.
        ledgers: the resources.
        drain: why nothing starts; None: it does.
        alone: who has the whole machine; empty: nobody.
    """
    if drain is not None:
        return drained(drain)
    words = []
    waiter = line.waiters[lease]
    for key in line.lacking(lease):
        need = waiter.needs[key]
        name = ledgers[key].resource
        if name == MACHINE:
            everybody = "the others" if need == MACHINE_UNITS else ""
            who = alone.replace(" has ", ", who has ", 1)
            words.append(everybody or who or "one who wants the whole machine")
        else:
            room = ledgers[key].room
            there = f"{format_amount(name, room)} there"
            if key != name:
                there += " in its reservation"
            if room >= need:
                there += ", set aside for those ahead"
            words.append(f"{format_amount(name, need)} {name} ({there})")
    if waiter.until_s:
        words.append("the end of what is reserved ahead")
    return "waits for " + " and ".join(words) if words else "is about to start"


def expected_starts(
    waiters: Iterable[Lease],
    room: dict[str, int],
    ends: Iterable[tuple[float, Mapping[str, int]]],
    now_s: float,
    until_s: Mapping[int, float] | None = None,
    soonest: Callable[[Lease, float], float] | None = None,
) -> dict[int, float]:
    """When each will start, as far as known ends tell (model.md 10).

    Everybody starts as soon as what he needs is there beside the needs of all ahead
    of him who are not over by then, and himself ends when he said.  Somebody who
    depends on one without a known end gets no time, and is taken to keep for ever
    what is set aside for him.

    Args:
        waiters: the first of the line, in order.
        room: resource to units there now, below 0 if overcommitted; used up.
        ends: boot_s and needs of the leases that have a known end.
        now_s: boot_s now; an end that is past is taken to be now.
        until_s: lease to the boot_s before which it may not start.
        soonest: when one that would start at a boot_s may, as far as what is reserved
            goes.

    Returns:
        Lease to boot_s, for those whose start is known.
    """
    until_s = until_s or {}
    coming: dict[str, list[tuple[float, int]]] = {name: [] for name in room}
    for end_s, needs in ends:
        for name, need in needs.items():
            coming[name].append((end_s, need))
    for lane in coming.values():
        heapq.heapify(lane)
    # Who stands behind another in a lane never has it sooner, so each lane's time
    # only goes on, and each end is looked at once.
    lane_s = dict.fromkeys(room, now_s)
    starts = {}
    for lease in waiters:
        start_s = max(now_s, until_s.get(lease.id, 0.0))
        for name, need in lease.needs.items():
            room[name] -= need
            lane = coming[name]
            while room[name] < 0 and lane:
                lane_s[name], back = heapq.heappop(lane)
                room[name] += back
            start_s = max(start_s, lane_s[name] if room[name] >= 0 else inf)
        if soonest is not None and start_s != inf:
            start_s = soonest(lease, start_s)
        if start_s == inf:
            continue
        starts[lease.id] = start_s
        if lease.ask.length_s is not None:
            for name, need in lease.needs.items():
                heapq.heappush(coming[name], (start_s + lease.ask.length_s, need))
    return starts


def may_pass(
    candidate: Lease,
    length_s: float | None,
    now_s: float,
    line: Line,
    ledgers: Ledgers,
    ends: Sequence[tuple[float, Mapping[str, int]]],
) -> bool:
    """Whether `candidate` may start before those ahead of it (model.md 8b).

    It must fit what is there now, and must be known to end before anybody ahead of
    it can start from whom it takes something.  What is not leased until a known end
    may be there at any moment: what settles, what is foreign, what those hold who
    never said how long.  So nobody starts later than if all stood strictly in line;
    but who could himself pass others may find that one behind him did so first.

    Args:
        candidate: one who waits.
        length_s: how long it will be; None: unknown.
        now_s: boot_s now.
        line: the line he stands in.
        ledgers: the resources.
        ends: boot_s and needs of the leases that have a known end, soonest first.

    Returns:
        False also when it would have to look too far.
    """
    if length_s is None:
        return False
    if any(need > ledgers[name].room for name, need in candidate.needs.items()):
        return False
    leased = _leased_until(now_s + length_s, ends)
    lacking = line.lacking(candidate.id)
    ahead = dict.fromkeys(lacking, 0)
    #: What those need who surely wait until the candidate is over.
    stuck = dict.fromkeys(ledgers, 0)
    for number in line.first(STEPS_MAX):
        if number == candidate.id:
            return True
        needs = line.waiters[number].needs
        waits = line.waiters[number].until_s >= now_s + length_s or any(
            leased.get(name, 0) + stuck[name] + need > ledgers[name].capacity
            for name, need in needs.items()
        )
        for name in lacking:
            ahead[name] += needs.get(name, 0)
            room = ledgers[name].room - candidate.needs[name]
            if name in needs and ahead[name] > room and not waits:
                return False
        if waits:
            for name, need in needs.items():
                stuck[name] += need
            if all(
                leased.get(name, 0) + stuck[name] >= ledgers[name].capacity
                for name in lacking
            ):
                # Whoever comes next and needs any of it surely waits too.
                return True
    return False


def _leased_until(
    end_s: float, ends: Sequence[tuple[float, Mapping[str, int]]]
) -> dict[str, int]:
    """What is leased until `end_s` or longer, as far as is known."""
    leased: dict[str, int] = {}
    for time_s, needs in reversed(ends):
        if time_s < end_s:
            break
        for name, need in needs.items():
            leased[name] = leased.get(name, 0) + need
    return leased
