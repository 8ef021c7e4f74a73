"""Facts to books, and books to the few facts that make them again.

    replay(batches)   books, by applying every fact: what a start does
    snapshot(books)   batches of facts which, replayed, give equal books

A snapshot is nothing but facts, so there is one format, one mutator and one proof.
It lists the resources, then every lease in the order of its id, then the ends, then
what only a long history knows: counters and the last numbers of connections.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from holdingpen.core import facts as fact
from holdingpen.core.books import Books
from holdingpen.core.facts import Fact
from holdingpen.core.leases import BOOKED, ENDED, PROMISED, Lease, allotment
from holdingpen.core.resources import Ledger

#: Facts in one batch of a snapshot: about 100 KiB.
BATCH: Final = 1000


def replay(batches: Iterable[Iterable[Fact]]) -> Books:
    """Make the books from the journal.

    Raises:
        BrokenInvariant: when the facts contradict each other.
    """
    books = Books()
    apply = books.apply
    # Nothing here is garbage: without the collector it takes a fifth less.
    gc.disable()
    try:
        for batch in batches:
            for what in batch:
                apply(what)
    finally:
        gc.enable()
    return books


def snapshot(books: Books) -> Iterator[list[Fact]]:
    """Give the facts that make these books, in batches; the books must not change."""
    facts = _facts(books)
    while batch := list(islice(facts, BATCH)):
        yield batch


def _facts(books: Books) -> Iterator[Fact]:
    if books.ageing_s:
        yield fact.AgeingSet(books.ageing_s)
    for ledger in books.resources.values():
        # Not yet measured: what the ended leases below gave back has its own fact.
        yield fact.ResourceSet(ledger.name, ledger.configured, ledger.hold, ledger.unit)
        if ledger.override is not None:
            yield fact.CapacitySet(ledger.name, ledger.override, 0)
        if ledger.taking:
            yield fact.Taking(ledger.name, ledger.taking)
        drawn = _drawn(books, ledger)
        if ledger.held or drawn or ledger.not_before_s:
            held = ledger.held + drawn
            yield fact.Taken(ledger.name, 0, held, ledger.not_before_s)
    entered = {**books.ended, **books.leases}
    for number in sorted(entered):
        yield from _lease(entered[number])
        if entered[number].reservation:
            yield from _allotments(books, entered[number])
    for lease in books.ended.values():
        assert lease.ended is not None
        yield fact.Ended(lease.id, lease.ended, lease.why, lease.by_uid)
        for resource in lease.how:
            yield fact.Recovered(lease.id, resource, 0)
    for lease in entered.values():
        # not all that drew on it are known any more
        if lease.unused is not None:
            yield fact.Unused(lease.id, lease.unused)
    for until_s, number in books.deferred:
        yield fact.Deferred(number, until_s)
    for number, owed in books.coming.items():
        for resource, amount in owed.items():
            yield fact.Owed(number, resource, amount)
    for ledger in books.ledgers.values():
        if ledger.measured or ledger.name not in books.resources:
            yield fact.ResourceSet(
                ledger.name,
                ledger.configured,
                ledger.hold,
                ledger.unit,
                ledger.measured,
            )
        if ledger.settling or ledger.foreign or ledger.settle_by_s:
            yield fact.Seen(
                ledger.name, ledger.settling, ledger.foreign, ledger.settle_by_s
            )
    for conn in {lease.ask.conn for lease in entered.values()}:
        if conn not in books.connections:
            yield fact.Left(conn)
    for conn, heard in books.connections.items():
        yield fact.Heard(conn, heard.last)
    if books.drain is not None:
        yield fact.DrainSet(books.drain, 0)
    for uid, until in sorted(books.seats):
        yield fact.Seated(uid, True, 0, until)
    if books.boot_id:
        yield fact.Opened(fact.Moment(0.0, 0.0), books.boot_id)
    yield fact.Counted(books.last_lease, books.last_conn)


def _drawn(books: Books, ledger: Ledger) -> int:
    """Ballast that the leases in a snapshot draw, and what is owed of it has its fact.

    What a reservation of these drew is its own, so it comes back when it ends: that is
    seen to in `_allotments`.
    """
    name = ledger.resource
    drawn = ledger.drawn
    for lease in books.ended.values():
        if lease.drawn and lease.key(name) == ledger.name:
            drawn += lease.drawn.get(name, 0)
    return drawn - sum(owed.get(ledger.name, 0) for owed in books.coming.values())


def _allotments(books: Books, lease: Lease) -> Iterator[Fact]:
    """What a reservation that is or was live has of its own now."""
    if lease.granted is None:
        return
    for name in lease.needs:
        key = allotment(name, lease.id)
        there = books.ledgers.get(key) or Ledger(key, 0)
        held = there.held + _drawn(books, there) - lease.drawn.get(name, 0)
        if held or there.not_before_s:
            yield fact.Taken(key, 0, held, there.not_before_s)
        if there.taking:
            yield fact.Taking(key, there.taking)


def _lease(lease: Lease) -> Iterator[Fact]:
    if lease.starts_wall_s is not None:
        yield from _booked(lease)
    else:
        yield from _asked(lease)
    if lease.asked_back is not None:
        yield fact.AskedBack(lease.id, lease.asked_back, lease.needed_by)
    if lease.reservation and lease.changed_by != (0, 0):
        assert lease.until_wall_s is not None
        by = (0, *lease.changed_by)
        yield fact.Extended(lease.id, lease.asked, lease.until_wall_s, *by)


def _asked(lease: Lease) -> Iterator[Fact]:
    stood = lease.granted != lease.asked or lease.waited_for
    if stood or (lease.drawn and not lease.reservation):
        ask = None
        yield fact.Joined(lease.id, lease.asked, lease.ask, lease.waited_for)
    else:
        ask = lease.ask
    if lease.drawn and not lease.reservation:
        yield fact.Promised(lease.id, lease.drawn, lease.asked, None, lease.how)
        ready = lease.places.keys() | lease.fallen.keys()
        if lease.state == PROMISED:
            ready = lease.drawn.keys() - set(lease.dropping)
        for resource in sorted(ready):
            place, why = lease.places.get(resource, ""), lease.fallen.get(resource, "")
            how = lease.how[resource] if why else ""
            yield fact.Dropped(lease.id, resource, place, how, why)
    if lease.granted is not None and lease.reservation:
        yield _reserved(lease, ask)
    elif lease.granted is not None:
        yield fact.Granted(lease.id, lease.granted, ask)
    for given in lease.given:
        # `drawn` above is what it has to hand back now.
        yield fact.Shrunk(lease.id, given.at, *lease.changed_by, given.amounts)


def _booked(lease: Lease) -> Iterator[Fact]:
    assert lease.starts_wall_s is not None
    assert lease.until_wall_s is not None
    yield fact.Booked(
        lease.id,
        lease.asked,
        lease.ask,
        lease.starts_wall_s,
        lease.until_wall_s,
        lease.series,
    )
    if lease.granted is not None or lease.state not in (BOOKED, ENDED):
        yield fact.Due(lease.id, lease.asked)
    if lease.granted is not None:
        yield _reserved(lease, None)


def _reserved(lease: Lease, ask: fact.Ask | None) -> Fact:
    assert lease.granted is not None
    assert lease.until_wall_s is not None
    return fact.Reserved(lease.id, lease.granted, lease.until_wall_s, lease.drawn, ask)
