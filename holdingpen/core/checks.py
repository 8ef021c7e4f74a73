"""The invariants of the books, run after every event in tests.

`check` recounts everything from the leases alone and compares; `view` shows the
books as plain values, so that replayed books can be compared with live ones.
"""

from __future__ import annotations

from itertools import accumulate

from holdingpen.core.books import ENDED_MAX, Books
from holdingpen.core.leases import ENDED, LIVE, PROMISED, WAITING, needs_of
from holdingpen.errors import BrokenInvariant


def check(books: Books) -> None:
    """Recount the books.

    Raises:
        BrokenInvariant: with what does not balance.
    """
    _check_ledgers(books)
    _check_leases(books)
    _check_line(books)


def _demand(condition: bool, message: str) -> None:
    if not condition:
        raise BrokenInvariant(message)


def _check_ledgers(books: Books) -> None:
    holding = [lease for lease in books.leases.values() if lease.state != WAITING]
    held = sorted(lease.id for lease in holding)
    _demand(held == sorted(books.held), f"held: {held} counted, {books.held} kept")
    for name, ledger in books.resources.items():
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
        drawn = sum(lease.drawn.get(name, 0) for lease in holding)
        drawn += sum(owed.get(name, 0) for owed in books.coming.values())
        _demand(ledger.drawn == drawn, f"{name}: drawn {drawn}, not {ledger}")
        _demand(ledger.held % ledger.unit == 0, f"{name}: odd ballast: {ledger}")


def _check_leases(books: Books) -> None:
    users: dict[int, list[int]] = {}
    numbers: dict[int, dict[int, int]] = {}
    ends, patience = [], []
    for number, lease in books.leases.items():
        _demand(number == lease.id <= books.last_lease, f"id of {lease}")
        _demand(lease.state in (WAITING, PROMISED, LIVE), f"state of {lease}")
        given = {n: x - lease.amounts[n] for n, x in lease.ask.amounts.items()}
        needs = {n: x - given.get(n, 0) for n, x in needs_of(lease.ask).items()}
        _demand(lease.needs == needs, f"needs of {lease}")
        _demand(all(x > 0 for x in lease.amounts.values()), f"amounts of {lease}")
        _demand(min(given.values(), default=0) >= 0, f"grown: {lease}")
        _demand((lease.granted is not None) == (lease.state == LIVE), f"{lease}")
        _demand(not lease.dropping or lease.state == PROMISED, f"{lease}")
        _demand(lease.how.keys() <= lease.drawn.keys(), f"{lease}")
        _demand(number not in books.coming, f"{lease} is not over")
        waiting = lease.state == WAITING
        users.setdefault(lease.ask.who.uid, [0, 0])[waiting] += 1
        numbers.setdefault(lease.ask.conn, {})[lease.ask.number] = number
        if lease.known_end_s is not None:
            ends.append((lease.known_end_s, number))
        if waiting and lease.ask.wait_s is not None:
            patience.append(number)
    _demand(users == books.users, f"users: {users} counted, {books.users} kept")
    kept = {c: conn.leases for c, conn in books.connections.items() if conn.leases}
    _demand(numbers == kept, f"connections: {numbers} counted, {kept} kept")
    _demand(sorted(ends) == list(books.known_ends), "known ends")
    impatient = sorted(lease for _, lease in books.patience)
    _demand(sorted(patience) == impatient, "patience")
    _demand(len(books.ended) <= ENDED_MAX, "too many ended leases kept")
    for lease in books.ended.values():
        _demand(lease.state == ENDED and lease.ended is not None, f"{lease}")


def _check_line(books: Books) -> None:
    """Walk the line as the law says it, and compare with the cuts."""
    line = books.line
    waiting = [x for x in books.leases.values() if x.state == WAITING]
    waiting.sort(key=lambda lease: (-lease.ask.priority, lease.id))
    _demand([x.id for x in waiting] == list(line.first(len(waiting) + 1)), "order")
    left = {name: ledger.room for name, ledger in books.resources.items()}
    cut: set[str] = set()
    ready = []
    for lease in waiting:
        fits = all(need <= left[name] for name, need in lease.needs.items())
        if fits:
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
        keys = [(-x.ask.priority, x.id) for x in there]
        _demand([*lane.covered, *lane.behind] == keys, f"{name}: {keys} stand there")
        sums = list(accumulate((x.needs[name] for x in there), initial=0))
        counted = (sums[len(lane.covered)], sums[-1])
        kept = (lane.covered_sum, lane.total)
        _demand(counted == kept, f"{name}: {counted} are needed, {kept} kept")


def view(books: Books) -> dict[str, object]:
    """The books as plain values; equal views mean equal books."""
    line = books.line
    return {
        "resources": {name: str(x) for name, x in sorted(books.resources.items())},
        "leases": [str(lease) for lease in books.leases.values()],
        "ended": [str(lease) for lease in books.ended.values()],
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
    }
