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
from holdingpen.core.leases import PROMISED, Lease

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
    for ledger in books.resources.values():
        # Not yet measured: what the ended leases below gave back has its own fact.
        yield fact.ResourceSet(ledger.name, ledger.configured, ledger.hold, ledger.unit)
        if ledger.override is not None:
            yield fact.CapacitySet(ledger.name, ledger.override, 0)
        if ledger.taking:
            yield fact.Taking(ledger.name, ledger.taking)
        drawn = ledger.drawn + sum(
            lease.drawn.get(ledger.name, 0) for lease in books.ended.values()
        )
        drawn -= sum(owed.get(ledger.name, 0) for owed in books.coming.values())
        if ledger.held or drawn or ledger.not_before_s:
            held = ledger.held + drawn
            yield fact.Taken(ledger.name, 0, held, ledger.not_before_s)
    entered = {**books.ended, **books.leases}
    for number in sorted(entered):
        yield from _lease(entered[number])
    for lease in books.ended.values():
        assert lease.ended is not None
        yield fact.Ended(lease.id, lease.ended, lease.why, lease.by_uid)
        for resource in lease.how:
            yield fact.Recovered(lease.id, resource, 0)
    for number, owed in books.coming.items():
        for resource, amount in owed.items():
            yield fact.Owed(number, resource, amount)
    for ledger in books.resources.values():
        if ledger.measured:
            yield fact.ResourceSet(
                ledger.name, ledger.configured, ledger.hold, ledger.unit, True
            )
        if ledger.settling or ledger.foreign or ledger.settle_by_s:
            yield fact.Seen(
                ledger.name, ledger.settling, ledger.foreign, ledger.settle_by_s
            )
    for conn in {lease.ask.conn for lease in books.ended.values()}:
        if conn not in books.connections:
            yield fact.Left(conn)
    for conn, heard in books.connections.items():
        yield fact.Heard(conn, heard.last)
    if books.drain is not None:
        yield fact.DrainSet(books.drain, 0)
    if books.boot_id:
        yield fact.Opened(fact.Moment(0.0, 0.0), books.boot_id)
    yield fact.Counted(books.last_lease, books.last_conn)


def _lease(lease: Lease) -> Iterator[Fact]:
    stood = lease.granted != lease.asked or lease.waited_for
    if stood or lease.drawn:
        ask = None
        yield fact.Joined(lease.id, lease.asked, lease.ask, lease.waited_for)
    else:
        ask = lease.ask
    if lease.drawn:
        yield fact.Promised(lease.id, lease.drawn, lease.asked, None, lease.how)
        ready = lease.places.keys() | lease.fallen.keys()
        if lease.state == PROMISED:
            ready = lease.drawn.keys() - set(lease.dropping)
        for resource in ready:
            place, why = lease.places.get(resource, ""), lease.fallen.get(resource, "")
            how = lease.how[resource] if why else ""
            yield fact.Dropped(lease.id, resource, place, how, why)
    if lease.granted is not None:
        yield fact.Granted(lease.id, lease.granted, ask)
    if lease.amounts != lease.ask.amounts:
        given = {
            name: amount - lease.amounts[name]
            for name, amount in lease.ask.amounts.items()
            if amount != lease.amounts[name]
        }
        # `drawn` above is what it has to hand back now.
        yield fact.Shrunk(lease.id, lease.asked, *lease.shrunk_by, given)
