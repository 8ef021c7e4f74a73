"""The keeper: the one owner of the pen.

    inbox -> judge -> write down -> perform        in this order, nowhere else

Whatever came in since the last turn is judged as one batch; its facts become one
record of the journal; and only when that is written is anybody told anything.  A
turn is synchronous: no `await`, so nothing can come between.

What can outlive the machine's boot (reservations, capacities, what an administrator
ordered) must moreover be on the disk before anybody is told that it is done: such an
answer waits for an fdatasync in a thread, which serves all that have gathered meanwhile
(group commit).  Everything else goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

import trio
from msgspec import Struct

from holdingpen.core import events as ev
from holdingpen.core.effects import (
    Effect,
    TellDone,
    TellExtended,
    TellRefused,
    TellReleased,
    TellReserved,
)
from holdingpen.core.facts import Fact, Moment
from holdingpen.core.pen import Pen
from holdingpen.journal.replay import snapshot
from holdingpen.wire.messages import Message


class Answer(Struct, frozen=True):
    """A reply made from the books as they stood at its place in the batch."""

    conn: int
    message: Message


class Question(Struct, frozen=True):
    """Something to be read from the books, not to be judged."""

    conn: int
    #: The answer; None: it comes later, from elsewhere.
    ask: Callable[[Pen, Moment], Message | None]


Item: TypeAlias = ev.Event | Question
Outcome: TypeAlias = Effect | Answer

#: Events that make the journal grow; all others only end what is in it.
New: TypeAlias = (
    ev.Asked
    | ev.BookAsked
    | ev.ExtendAsked
    | ev.SeatAsked
    | ev.CapacityAsked
    | ev.DrainAsked
)
NEW = frozenset(New.__args__)
#: Answers that say of something that it will outlive the boot; that of a release only
#: of a reservation.
Durable: TypeAlias = TellDone | TellReserved | TellExtended | TellReleased

_NOBODY: frozenset[int] = frozenset()

#: Seconds between two tries to find room for the journal again.
TRY_AGAIN_S = 1.0


class Journal(Protocol):
    """What the keeper wants of `journal.store.Store`."""

    @property
    def trouble(self) -> str | None:
        """What an administrator must mend, for people; None: nothing."""

    @property
    def reserve_ok(self) -> bool:
        """Whether there is room for something new and for all that will end."""

    def append(self, facts: list[Fact]) -> None:
        """Write one record."""

    def sync(self) -> None:
        """Have all that was appended on the disk."""

    def owe(self, leases: int) -> None:
        """Keep room for the ends of so many leases."""

    def try_extend(self) -> bool:
        """Look for room again."""

    @property
    def wants_rotation(self) -> bool:
        """Whether the file has grown long."""

    def rotate(self, batches: Iterable[list[Fact]]) -> None:
        """Begin anew with a snapshot."""


def now() -> Moment:
    """This instant on both clocks."""
    return Moment(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


class Keeper:
    """Owns the pen and its journal."""

    def __init__(
        self,
        pen: Pen,
        journal: Journal,
        perform: Callable[[Outcome], None],
        watch: Callable[[list[Fact]], None],
        clock: Callable[[], Moment] = now,
    ) -> None:
        """Make a keeper.

        Args:
            pen: the pen, with its books replayed.
            journal: where facts are written.
            perform: does one effect or sends one answer; must not block.
            watch: is shown the facts of each turn once they are written.
            clock: gives the moment for questions.
        """
        self.pen = pen
        self.journal = journal
        self._perform = perform
        self._watch = watch
        self._clock = clock
        #: What came in since the last turn.
        self._inbox: list[Item] = []
        #: Answers that wait for the disk.
        self._unsynced: list[Durable] = []
        #: Those that an fdatasync is under way for.
        self._syncing: list[Durable] = []
        self._sync_wanted = trio.Event()
        #: Called with boot_s when the pen wants to be woken, after each turn.
        self.wake: Callable[[float], None] = lambda time_s: None
        #: Called after something was performed outside a turn.
        self.flush: Callable[[], None] = lambda: None
        self._try_again_s = 0.0
        #: Whether the journal had room when the batch began.
        self._roomy = True

    def put(self, item: Item) -> None:
        """Take in what happened or is asked, for the next turn."""
        self._inbox.append(item)

    def turn(self) -> None:
        """Judge, write down, perform: until the inbox is empty.

        Raises:
            Unavailable: the journal cannot be written.  The daemon must end: no
                promise without a record.
            BrokenInvariant: likewise.
        """
        while self._inbox:
            batch, self._inbox = self._inbox, []
            facts: list[Fact] = []
            outcomes: list[Outcome] = []
            # The reserve bears any one batch, so looking once for each is enough.
            self._roomy = self._has_room()
            for item in batch:
                self._judge(item, facts, outcomes)
            if facts:
                self.journal.append(facts)
                self.journal.owe(len(self.pen.books.leases))
            for outcome in outcomes:
                self._perform(outcome)
            if facts:
                self._watch(facts)
        if self.journal.wants_rotation:
            self.journal.rotate(snapshot(self.pen.books))
        self.wake(self.pen.wake_at_s)

    def _judge(self, item: Item, facts: list[Fact], outcomes: list[Outcome]) -> None:
        if isinstance(item, Question):
            answer = item.ask(self.pen, self._clock())
            if answer is not None:
                outcomes.append(Answer(item.conn, answer))
            return
        if not self._roomy and type(item) in NEW:
            outcomes.append(self._cannot_record(item))  # type: ignore[arg-type]
            return
        news, effects = self.pen.handle(item)
        facts += news
        for effect in effects:
            if isinstance(effect, Durable) and _is_durable(effect):
                self._unsynced.append(effect)
                self._sync_wanted.set()
            else:
                outcomes.append(effect)

    def _has_room(self) -> bool:
        """While the journal has no room what is new is refused, what ends is booked."""
        journal = self.journal
        if journal.trouble is not None:
            now_s = self._clock().boot_s
            if now_s >= self._try_again_s:
                self._try_again_s = now_s + TRY_AGAIN_S
                journal.try_extend()
        return journal.reserve_ok

    def _cannot_record(self, item: New) -> TellRefused:
        asked = item.ask if isinstance(item, ev.Asked | ev.BookAsked) else item
        return TellRefused(
            asked.conn, asked.number, "cannot-record", self.journal.trouble or ""
        )

    def unsynced(self) -> frozenset[int]:
        """Connections whose answers wait for the disk."""
        if not self._unsynced and not self._syncing:
            return _NOBODY
        waiting = (*self._unsynced, *self._syncing)
        return frozenset(outcome.conn for outcome in waiting)

    async def sync_forever(self) -> None:
        """Put durable facts on the disk and then say Done, batch after batch."""
        while True:
            await self._sync_wanted.wait()
            self._sync_wanted = trio.Event()
            self._syncing, self._unsynced = self._unsynced, []
            await trio.to_thread.run_sync(self.journal.sync)
            waiting, self._syncing = self._syncing, []
            for outcome in waiting:
                self._perform(outcome)
            self.flush()


def _is_durable(effect: Durable) -> bool:
    return type(effect) is not TellReleased or effect.durable
