"""Starting: what is still true of what a former daemon had promised.

Where somebody kept its connections and its ballast, leases go on.  What the hands have
found again is held and kept as before; the rest went with the daemon.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core import facts as fact
from holdingpen.core.desk import Desk
from holdingpen.core.ending import Ending
from holdingpen.core.handover import FREE, METHODS
from holdingpen.core.leases import LIVE, PROMISED, Lease, Why

#: Why what a lease gets is not handed over as well as it was.
_LOST: Final = "the daemon was restarted, and what it kept was freed"


class Starting:
    """Puts the books right when a daemon begins."""

    def __init__(
        self, desk: Desk, ending: Ending, tell_granted: Callable[[Lease], None]
    ) -> None:
        self._desk = desk
        self._ending = ending
        self._tell_granted = tell_granted

    def start(self, event: ev.Started) -> None:
        """Judge it."""
        desk, books = self._desk, self._desk.books
        known = books.boot_id
        desk.record(fact.Opened(event.at, event.boot_id))
        for uid, until in sorted(books.seats) if event.boot_id != known else ():
            desk.record(fact.Seated(uid, False, 0, until))
        self._find_ballast(event)
        self._find_what_comes_back(event)
        for lease in list(books.leases.values()):
            self._find_lease(lease, event)
        for conn in books.connections.keys() - event.conns:
            desk.record(fact.Left(conn))

    def _find_ballast(self, event: ev.Started) -> None:
        """What is not held any more; and what settled has settled."""
        books = self._desk.books
        there = dict(event.held)
        owing = {key for owed in books.coming.values() for key in owed}
        for ledger in books.ledgers.values():
            name = ledger.resource
            if ledger.taking or ledger.not_before_s:
                self._desk.record(fact.Taken(ledger.name, ledger.taking, 0))
            held = min(ledger.held, there.get(name, 0))
            if name in there:
                there[name] -= held
            if ledger.held > held:
                self._desk.record(fact.Shed(ledger.name, ledger.held - held))
            # what still comes back would count as free and as held
            if ledger.settling and not (name in there and ledger.name in owing):
                self._desk.record(fact.Seen(ledger.name, 0, ledger.foreign))

    def _find_what_comes_back(self, event: ev.Started) -> None:
        """Of leases that were over: whoever has it is asked once more."""
        desk = self._desk
        for lease, owed in list(desk.books.coming.items()):
            for key in list(owed):
                name = desk.books.ledgers[key].resource
                if name in event.held:
                    desk.effects.append(do.TakeBack(name, lease))
                else:
                    desk.record(fact.Recovered(lease, name, 0))

    def _find_lease(self, lease: Lease, event: ev.Started) -> None:
        if lease.stays:
            if lease.ask.conn in event.conns:
                self._tell_granted(lease)
            return
        if lease.ask.conn not in event.conns:
            self._ending.end(event.at, lease, Why.RESTARTED)
            return
        again = self._unready(lease, event)
        for name, how in lease.how.items():
            kept = name in again or lease.id in event.kept.get(name, ())
            if how != FREE and not kept:
                self._desk.record(fact.Lost(lease.id, name, _LOST))
        if again:
            self._make_ready(lease, again)
        elif lease.state == PROMISED:
            self._desk.record(fact.Granted(lease.id, event.at))
        if lease.state == LIVE:
            # nobody knows whether the last daemon came to say so
            self._tell_granted(lease)

    def _unready(self, lease: Lease, event: ev.Started) -> list[str]:
        """What was being made ready when the daemon ended, and can be made anew."""
        return [
            name
            for name in lease.dropping
            if lease.how.get(name) in METHODS
            and lease.id not in event.kept.get(name, {lease.id})
        ]

    def _make_ready(self, lease: Lease, names: list[str]) -> None:
        for name in [x for x in lease.dropping if x not in names]:
            self._desk.record(fact.Dropped(lease.id, name))
        for name in names:
            amount, need = lease.drawn[name], lease.ask.amounts[name]
            who, how = lease.ask.who, lease.how[name]
            self._desk.effects.append(
                do.Prepare(name, amount, lease.id, how, need, who)
            )
