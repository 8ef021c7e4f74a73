"""Ending: one lease is over, and with a reservation all that was drawn on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from holdingpen.core import effects as do
from holdingpen.core import facts as fact
from holdingpen.core.desk import Desk
from holdingpen.core.facts import Moment
from holdingpen.core.leases import BOOKED, LIVE, WAITING, Lease, Why

#: What the owner of a reservation did not see coming, and need not be connected for.
_UNEXPECTED: Final = {
    Why.IDLE: "nothing drew on it",
    Why.MISSED: "it could not begin before its time was over",
    Why.ORDERED: "an administrator ended it",
    Why.MISFIT: "there is less now than it was for",
}


class Ending:
    """Ends leases."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def end(
        self, at: Moment, lease: Lease, why: str, by_uid: int | None = None
    ) -> None:
        """End a lease, a promise, a booking or a place in the line."""
        desk = self._desk
        was = lease.state
        if was == LIVE and lease.reservation:
            self._end_inside(at, lease)
        desk.record(fact.Ended(lease.id, at, why, by_uid))
        desk.ended.append(lease)
        desk.teller.forget(lease.id)
        if was in (WAITING, BOOKED):
            return
        for name in lease.how:
            desk.effects.append(do.TakeBack(name, lease.id))
        self.measure_soon(lease.needs, at)

    def end_and_tell(
        self, at: Moment, lease: Lease, why: str, by_uid: int | None = None
    ) -> None:
        """End it, and tell the one who has it, if he is there."""
        self.end(at, lease, why, by_uid)
        if lease.reservation and why in _UNEXPECTED:
            text = f"your reservation {lease.id} is over: {_UNEXPECTED[why]}."
            self._desk.effects.append(do.TellUser(lease.ask.who.uid, text))
        self._desk.effects.append(do.TellEnded(lease.ask.conn, lease.id, why))

    def _end_inside(self, at: Moment, reservation: Lease) -> None:
        """Its allotments vanish, so nobody may hold or want anything of them."""
        inside = [
            lease
            for lease in self._desk.books.leases.values()
            if lease.ask.inside == reservation.id
        ]
        for lease in inside:
            if lease.state == WAITING:
                self.end(at, lease, Why.OUTLIVED)
                message = (
                    f"reservation {reservation.id}, on which it was to draw, is over. "
                    "Ask again."
                )
                ask = lease.ask
                self._desk.refuse(ask.conn, ask.number, ("not-now", message))
            else:
                self.end_and_tell(at, lease, Why.OUTLIVED)

    def measure(self, name: str, at: Moment, fresh: bool = True) -> None:
        """Have a resource measured now."""
        desk = self._desk
        desk.effects.append(desk.measuring.now(name, at.boot_s, fresh))

    def measure_soon(self, keys: Iterable[str], at: Moment) -> None:
        """Something of these ledgers was given back."""
        desk = self._desk
        books = desk.books
        for key in keys:
            # an allotment's ledger goes with its reservation
            ledger = books.ledgers.get(key)
            if ledger is not None and ledger.measured:
                name = ledger.resource
                desk.measuring.soon(name, at.boot_s)
                if key in books.line.lanes:
                    # Mostly it is back before its connection was seen to close.
                    self.measure(name, at, fresh=False)
