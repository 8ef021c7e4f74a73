"""The archive: leases that ended go to the history, and people ask what was used.

One task, and one call at a time in a thread: the history blocks.  What it cannot write
down yet is kept, and tried again; meanwhile everything else goes on.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

import trio

from holdingpen.core.books import ENDED_MAX, Books
from holdingpen.core.facts import Moment
from holdingpen.core.handover import assurance
from holdingpen.core.leases import BOOKED, Lease
from holdingpen.core.rights import Rules
from holdingpen.errors import HoldingPenError
from holdingpen.journal.history import CONNECTION, RESERVATION, Given, History, Record
from holdingpen.journal.report import report
from holdingpen.wire import messages as wire

#: Seconds between two times that something is written: many at once cost 5 us each,
#: and one alone 22 us in which nobody is served.
WRITE_EVERY_S: Final = 1.0
#: So many are not kept waiting: after a crash the books know the last ENDED_MAX.
HURRY: Final = ENDED_MAX // 2
#: Seconds between two tries to write down what could not be written.
TRY_AGAIN_S: Final = 10.0
#: Seconds between two looks for what is too old.
PRUNE_EVERY_S: Final = 86_400.0
#: Ended leases kept in memory while they cannot be written: some 20 MiB.
UNWRITTEN_MAX: Final = 50_000
#: Questions that wait for the history.
QUESTIONS_MAX: Final = 64

Result = TypeVar("Result")


class Archive:
    """The history, and the leases on their way to it."""

    def __init__(
        self,
        directory: Path,
        reply: Callable[[int, wire.Reply], None],
        clock: Callable[[], Moment],
    ) -> None:
        """Open the history, if that is possible.

        Args:
            directory: the state directory.
            reply: called in trio's thread with an answer to a client.
            clock: gives the moment.
        """
        self._directory = directory
        self._reply = reply
        self._clock = clock
        self._history: History | None = None
        #: Why nothing can be written down; None: it can.
        self.trouble: str | None = None
        #: Seconds a lease is kept after its end; set on reload.
        self.keep_s = 0.0
        self._unwritten: deque[Record] = deque(maxlen=UNWRITTEN_MAX)
        self._questions: deque[tuple[int, int, Callable[[History], wire.Reply]]]
        self._questions = deque()
        self._wanted = trio.Event()
        self._prune_at_s = 0.0
        self.notes: list[str] = []
        try:
            self._history = History.open(directory)
            self.notes += self._history.notes
        except HoldingPenError as why:
            self.trouble = str(why)
            self.notes.append(self.trouble)

    def add(self, records: Iterable[Record]) -> None:
        """Have these leases written down; returns at once."""
        self._unwritten.extend(records)
        self._wanted.set()

    def close(self) -> None:
        """Close the file."""
        if self._history is not None:
            self._history.close()

    async def work(self) -> None:
        """Write, and answer, for ever."""
        write_at_s = 0.0
        while True:
            if not self._unwritten:
                await self._wanted.wait()
            with trio.move_on_at(write_at_s):
                while not self._questions and not self._hurries:
                    self._wanted = trio.Event()
                    await self._wanted.wait()
            while self._questions:
                await self._answer(*self._questions.popleft())
            if trio.current_time() >= write_at_s or self._hurries:
                await self._write()
                pause_s = WRITE_EVERY_S if self.trouble is None else TRY_AGAIN_S
                write_at_s = trio.current_time() + pause_s

    @property
    def _hurries(self) -> bool:
        """Whether it writes before its time; what fails would fail again at once."""
        return self.trouble is None and len(self._unwritten) >= HURRY

    async def _answer(
        self, conn: int, number: int, answer: Callable[[History], wire.Reply]
    ) -> None:
        try:
            found = await self._in_thread(answer)
        except HoldingPenError as why:
            found = wire.Refused(number, "unavailable", str(why))
        self._reply(conn, found)

    async def _write(self) -> None:
        batch = list(self._unwritten)
        now_s = self._clock().wall_s
        try:
            if batch:
                await self._in_thread(lambda history: history.add(batch))
            if now_s >= self._prune_at_s and self.keep_s:
                self._prune_at_s = now_s + PRUNE_EVERY_S
                before_s = now_s - self.keep_s
                await self._in_thread(lambda history: history.forget(before_s))
        except (HoldingPenError, sqlite3.Error) as why:
            self.trouble = f"ended leases cannot be written down: {why}"
            return
        self.trouble = None
        # more may have come meanwhile, and pushed the oldest out
        written = {one.id for one in batch}
        while self._unwritten and self._unwritten[0].id in written:
            self._unwritten.popleft()

    async def _in_thread(self, job: Callable[[History], Result]) -> Result:
        def work() -> Result:
            if self._history is None:
                self._history = History.open(self._directory)
            return job(self._history)

        return await trio.to_thread.run_sync(work)

    # Questions.

    def _ask(
        self, conn: int, number: int, answer: Callable[[History], wire.Reply]
    ) -> wire.Refused | None:
        if len(self._questions) >= QUESTIONS_MAX:
            message = "too many ask what was used. Try again in a moment."
            return wire.Refused(number, "limit", message)
        self._questions.append((conn, number, answer))
        self._wanted.set()
        return None

    def story(
        self, conn: int, request: wire.GetStory, unknown: wire.Refused
    ) -> wire.Refused | None:
        """Look for a lease that the books have forgotten, and answer later.

        Args:
            conn: who asks.
            request: what he asks.
            unknown: what to say when the history does not know it either.

        Returns:
            A refusal at once; None: the answer will come.
        """
        unwritten = next((x for x in self._unwritten if x.id == request.lease), None)

        def answer(history: History) -> wire.Reply:
            record = unwritten or history.find(request.lease)
            if record is None:
                return unknown
            return wire.Story(request.id, _told(record))

        return self._ask(conn, request.id, answer)

    def report(
        self, conn: int, request: wire.GetReport, live: list[Record], now_s: float
    ) -> wire.Refused | None:
        """Count what was used, and answer later; as `story`.

        Args:
            conn: who asks.
            request: what he asks.
            live: the leases that go on.
            now_s: seconds since 1970.
        """
        # those on their way to the history are none of those that go on
        live = [*live, *self._unwritten]

        def answer(history: History) -> wire.Reply:
            records = history.between(request.since, now_s)
            found = report(records, request.since, now_s, live)
            return wire.Report(
                request.id, request.since, now_s, found.users, found.total
            )

        return self._ask(conn, request.id, answer)


def records(books: Books, at: Moment, rules: Rules) -> list[Record]:
    """All that goes on, as if it ended now."""
    return [
        record(lease, rules, at)
        for lease in books.leases.values()
        if lease.state != BOOKED
    ]


def record(lease: Lease, rules: Rules, at: Moment | None = None) -> Record:
    """What the history keeps of a lease.

    Args:
        lease: one that is over, or with `at` one that goes on.
        rules: by which it was handed over.
        at: now.
    """
    ask, granted = lease.ask, lease.granted
    end = lease.ended or at
    assert end is not None
    end = lease.by_its_date(end)
    begin = granted or end
    held_s, waited_s = end.boot_s - begin.boot_s, begin.boot_s - lease.asked.boot_s
    if lease.reservation:
        # it may have outlived a boot, and one that was booked waits from its date on
        asked_s = lease.starts_wall_s or lease.asked.wall_s
        held_s, waited_s = end.wall_s - begin.wall_s, begin.wall_s - asked_s
    sure = assurance(lease, rules.handover)
    given = [
        Given(x.at.boot_s - begin.boot_s, x.amounts) if granted else Given(0.0, {})
        for x in lease.given
    ]
    return Record(
        lease.id,
        ask.who.uid,
        RESERVATION if lease.reservation else CONNECTION,
        ask.amounts,
        ask.priority,
        ask.label,
        ask.reason,
        ask.command,
        lease.asked.wall_s,
        granted.wall_s if granted else None,
        end.wall_s,
        lease.why,
        lease.by_uid,
        ask.inside,
        sure.promise,
        max(0.0, held_s),
        max(0.0, waited_s),
        given,
        [name for name in ask.amounts if lease.key(name) == name] if ask.inside else [],
    )


def _told(one: Record) -> wire.LeaseInfo:
    amounts = dict(one.amounts)
    for given in one.given_back:
        for name, amount in given.amounts.items():
            amounts[name] -= amount
    return wire.LeaseInfo(
        id=one.id,
        state="ended",
        uid=one.uid,
        pid=0,
        amounts=amounts,
        asked=one.asked_wall_s,
        granted=one.granted_wall_s or 0.0,
        ended=one.ended_wall_s,
        priority=one.priority,
        command=one.command,
        label=one.label,
        reason=one.reason,
        handover=one.handover,
        why_ended=one.why,
        ended_by=one.by_uid,
        kind=one.kind,
        inside=one.inside,
    )
