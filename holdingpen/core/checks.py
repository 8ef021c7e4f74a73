"""The invariants of the books, run after every event in tests.

`check` recounts everything from the leases alone and compares; `view` shows the
books as plain values, so that replayed books can be compared with live ones.
"""

from __future__ import annotations

from itertools import accumulate

from msgspec import structs

from holdingpen.core.books import ENDED_MAX, Books
from holdingpen.core.facts import MACHINE
from holdingpen.core.leases import (
    BOOKED,
    ENDED,
    LIVE,
    PROMISED,
    WAITING,
    Lease,
    allotment,
    needs_of,
)
from holdingpen.core.resources import MACHINE_UNITS
from holdingpen.errors import BrokenInvariant


def check(books: Books) -> None:
    """Recount the books.

    Raises:
        BrokenInvariant: with what does not balance.
    """
    _check_ledgers(books)
    _check_leases(books)
    _check_reservations(books)
    _check_asked(books)
    _check_line(books)


def _demand(condition: bool, message: str) -> None:
    if not condition:
        raise BrokenInvariant(message)


def _check_ledgers(books: Books) -> None:
    states = (PROMISED, LIVE)
    holding = [lease for lease in books.leases.values() if lease.state in states]
    held = sorted(lease.id for lease in holding)
    _demand(held == sorted(books.held), f"held: {held} counted, {books.held} kept")
    for name, ledger in books.ledgers.items():
        _demand(name == ledger.name, f"{name} is the name of {ledger}")
        parts = [ledger.held, ledger.taking, ledger.leased, ledger.settling]
        parts += [ledger.foreign, ledger.free]
        _demand(min(parts) >= 0, f"{name}: below zero: {ledger}")
        total = sum(parts)
        _demand(
            total == ledger.capacity + ledger.over,
            f"{name}: {total} booked of {ledger.capacity}: {ledger}",
        )
        leased = sum(lease.needs.get(name, 0) for lease in holding)
        _demand(ledger.leased == leased, f"{name}: leased {leased}, not {ledger}")
        drawn = sum(
            lease.drawn.get(ledger.resource, 0)
            for lease in holding
            if lease.key(ledger.resource) == name
        )
        drawn += sum(owed.get(name, 0) for owed in books.coming.values())
        _demand(ledger.drawn == drawn, f"{name}: drawn {drawn}, not {ledger}")
        _demand(ledger.held % ledger.unit == 0, f"{name}: odd ballast: {ledger}")


def _check_leases(books: Books) -> None:
    users: dict[int, list[int]] = {}
    numbers: set[tuple[int, int, int]] = set()
    ends, patience = [], []
    for number, lease in books.leases.items():
        _demand(number == lease.id <= books.last_lease, f"id of {lease}")
        states = (BOOKED, WAITING, PROMISED, LIVE)
        _demand(lease.state in states, f"state of {lease}")
        given = {n: x - lease.amounts[n] for n, x in lease.ask.amounts.items()}
        needs = needs_of(lease.ask, books.ledgers)
        for name in given:
            needs[lease.key(name)] -= given[name]
        _demand(lease.needs == needs, f"needs of {lease}")
        _demand(all(x > 0 for x in lease.amounts.values()), f"amounts of {lease}")
        _demand(min(given.values(), default=0) >= 0, f"grown: {lease}")
        _demand((lease.granted is not None) == (lease.state == LIVE), f"{lease}")
        _demand(not lease.dropping or lease.state == PROMISED, f"{lease}")
        _demand(lease.how.keys() <= lease.drawn.keys(), f"{lease}")
        _demand(number not in books.coming, f"{lease} is not over")
        waiting = lease.state == WAITING
        held = lease.state in (PROMISED, LIVE)
        users.setdefault(lease.ask.who.uid, [0, 0])[not held] += 1
        # a reservation needs no connection
        if not lease.reservation:
            numbers.add((lease.ask.conn, lease.ask.number, number))
        if lease.known_end_s is not None:
            ends.append((lease.known_end_s, number))
        booked = lease.starts_wall_s is not None
        if waiting and lease.ask.wait_s is not None and not booked:
            patience.append(number)
    _demand(users == books.users, f"users: {users} counted, {books.users} kept")
    kept = {
        (conn, asked, lease)
        for conn, known in books.connections.items()
        for asked, lease in known.leases.items()
    }
    _demand(numbers <= kept, f"connections: {numbers} counted, {kept} kept")
    spare = {books.leases[lease].reservation for _, _, lease in kept - numbers}
    _demand(spare <= {True}, f"connections: {kept - numbers} are not there")
    _demand(sorted(ends) == list(books.known_ends), "known ends")
    impatient = sorted(lease for _, lease in books.patience)
    _demand(sorted(patience) == impatient, "patience")
    _demand(len(books.ended) <= ENDED_MAX, "too many ended leases kept")
    for lease in books.ended.values():
        _demand(lease.state == ENDED and lease.ended is not None, f"{lease}")


def _check_reservations(books: Books) -> None:
    live, dates, calendar = {}, [], []
    for number, lease in books.leases.items():
        _demand(lease.reservation or lease.until_wall_s is None, f"{lease}")
        if lease.reservation and lease.state == LIVE:
            live[number] = lease
        if lease.until_wall_s is not None:
            dates.append((lease.until_wall_s, number))
        if lease.starts_wall_s is not None and lease.state != LIVE:
            calendar.append((lease.starts_wall_s, number))
    _demand(live == books.reservations, f"live: {sorted(live)}")
    _demand(sorted(dates) == list(books.expiries), "expiries")
    _demand({number for _, number in dates} == books.dated.keys(), "dated")
    _demand(sorted(calendar) == list(books.calendar), "calendar")
    there = {name for name in books.ledgers if name not in books.resources}
    parts = {allotment(n, x.id) for x in live.values() for n in x.needs}
    _demand(there == parts, f"allotments: {there}")
    for name, ledger in books.resources.items():
        _demand(books.ledgers.get(name) is ledger, f"{name} twice")
    for lease in live.values():
        inside = [x for x in books.held.values() if x.ask.inside == lease.id]
        _demand(lease.drawing == len(inside), f"{len(inside)} draw on {lease}")
        for name, need in lease.needs.items():
            part = books.ledgers[allotment(name, lease.id)]
            whole = MACHINE_UNITS if name == MACHINE else need
            _demand(part.capacity == whole and not part.foreign, f"{part} of {lease}")
    for lease in books.leases.values():
        _demand(not lease.ask.inside or lease.ask.inside in live, f"{lease}")


def _check_asked(books: Books) -> None:
    held = [x for x in books.held.values() if x.state == LIVE]
    asked = {x.id for x in held if x.needed_by}
    _demand(asked == set(books.asked), f"asked back: {asked}")
    for lease in held:
        _demand(bool(lease.needed_by) == (lease.asked_back is not None), f"{lease}")
    may = {x.id for x in held if x.ask.reclaimable and not x.needed_by}
    kept = [-number for _, _, number in books.reclaimable]
    _demand(sorted(may) == sorted(kept), f"reclaimable: {may}, not {kept}")


def _check_line(books: Books) -> None:
    """Walk the line as the law says it, and compare with the cuts."""
    line = books.line
    waiting = [x for x in books.leases.values() if x.state == WAITING]
    ranks = {x.id: books.rank_of(x) for x in waiting}
    waiting.sort(key=lambda lease: (ranks[lease.id], lease.id))
    _demand([x.id for x in waiting] == list(line.first(len(waiting) + 1)), "order")
    left = {name: ledger.room for name, ledger in books.ledgers.items()}
    off = {number: until_s for until_s, number in books.deferred}
    kept_off = {n: x.until_s for n, x in line.waiters.items() if x.until_s}
    _demand(off == kept_off, f"deferred: {off}, not {kept_off}")
    cut: set[str] = set()
    ready = []
    for lease in waiting:
        fits = all(need <= left[name] for name, need in lease.needs.items())
        if fits and lease.id not in off:
            ready.append(lease.id)
        for name, need in lease.needs.items():
            if need > left[name]:
                cut.add(name)
            covered = name not in cut
            _demand(
                line.is_covered(lease.id, name) == covered, f"{name} cut at {lease.id}"
            )
            left[name] = max(0, left[name] - need)
    _demand([number for _, number in line.ready] == ready, f"ready: {ready}")
    _demand({name for x in waiting for name in x.needs} == set(line.lanes), "lanes")
    for name, lane in line.lanes.items():
        there = [x for x in waiting if name in x.needs]
        keys = [(ranks[x.id], x.id) for x in there]
        _demand([*lane.covered, *lane.behind] == keys, f"{name}: {keys} stand there")
        sums = list(accumulate((x.needs[name] for x in there), initial=0))
        counted = (sums[len(lane.covered)], sums[-1])
        kept = (lane.covered_sum, lane.total)
        _demand(counted == kept, f"{name}: {counted} are needed, {kept} kept")


def view(books: Books) -> dict[str, object]:
    """The books as plain values; equal views mean equal books."""
    line = books.line
    return {
        "ledgers": {name: str(x) for name, x in sorted(books.ledgers.items())},
        "resources": sorted(books.resources),
        "leases": [str(_sorted(lease)) for lease in books.leases.values()],
        "ended": [str(_sorted(lease)) for lease in books.ended.values()],
        "connections": {c: str(x) for c, x in sorted(books.connections.items())},
        "line": list(line.order),
        "ready": list(line.ready),
        "covered": {n: list(lane.covered) for n, lane in sorted(line.lanes.items())},
        "last": (books.last_lease, books.last_conn),
        "drain": books.drain,
        "users": {uid: tuple(counts) for uid, counts in sorted(books.users.items())},
        "known_ends": list(books.known_ends),
        "patience": list(books.patience),
        "boot_id": books.boot_id,
        "coming": dict(sorted(books.coming.items())),
        "calendar": list(books.calendar),
        "expiries": list(books.expiries),
        "reservations": sorted(books.reservations),
        "deferred": list(books.deferred),
        "reclaimable": list(books.reclaimable),
        "asked": sorted(books.asked),
        "seated": (sorted(books.seated), sorted(books.seats)),
        "ageing": books.ageing_s,
    }


def _sorted(lease: Lease) -> Lease:
    """The same, whatever came first of what it waited for."""
    fallen, places = dict(sorted(lease.fallen.items())), sorted(lease.places.items())
    return structs.replace(lease, fallen=fallen, places=dict(places))
