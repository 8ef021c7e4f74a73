"""A pen to play with: `pen.ask(ram=8)`, `pen.tick(1)`, `pen.gone(one)`.

After every event the books are recounted; when a test is over, its facts and the
snapshot of its books are replayed and must give the same books.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from holdingpen.core import checks
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import Ask, Fact, Moment, Who
from holdingpen.core.leases import WAITING
from holdingpen.core.pen import Pen
from holdingpen.core.rights import Rules
from holdingpen.journal.replay import replay, snapshot

ROOT = 0
#: Seconds since 1970 less seconds since boot, all through a test.
WALL = 1000.0


class Request(NamedTuple):
    """What a client knows of what it asked for; `lease` 0: it got no place."""

    conn: int
    number: int
    lease: int


class Player:
    """A pen, a clock in the hand, and what the pen wants done."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.pen = Pen(rules=rules)
        self.now_s = 100.0
        #: Seconds since 1970 less seconds since boot.
        self.wall_s = WALL
        self.resources: dict[str, ev.Resource] = {}
        #: All facts ever, and the effects of the last event and of all.
        self.log: list[Fact] = []
        self.facts: list[Fact] = []
        self.effects: list[do.Effect] = []
        self.all_effects: list[do.Effect] = []
        #: Effects that wait for an answer.
        self.drops: list[do.DropBallast | do.Prepare] = []
        #: (resource, lease) to bytes that stay occupied for a lease, over or not.
        self.kept: dict[tuple[str, int], int] = {}
        #: Those of which the pen wants all back.
        self.wanted_back: list[tuple[str, int]] = []
        self.takes: list[do.TakeBallast] = []
        self._conn = 0
        self._occupied: dict[str, int] = {}

    @property
    def books(self):
        return self.pen.books

    @property
    def at(self) -> Moment:
        return Moment(self.now_s, self.now_s + self.wall_s)

    def play(self, event: ev.Event) -> list[do.Effect]:
        """Put an event before the pen; what it wants done."""
        self.facts, self.effects = self.pen.handle(event)
        self.log += self.facts
        self.all_effects += self.effects
        for effect in self.effects:
            if isinstance(effect, do.DropBallast):
                self._occupied[effect.resource] -= effect.amount
                if effect.lease:
                    self.drops.append(effect)
            elif isinstance(effect, do.Prepare):
                self._occupied[effect.resource] = (
                    self.occupied(effect.resource) - effect.amount
                )
                self.kept[effect.resource, effect.lease] = effect.amount
                self.drops.append(effect)
            elif isinstance(effect, do.TakeBack) and effect.amount is None:
                self.wanted_back.append((effect.resource, effect.lease))
            elif isinstance(effect, do.TakeBallast):
                self.takes.append(effect)
        checks.check(self.books)
        for name in self.books.resources:
            assert self.held(name) == self.occupied(name), "not what is really held"
        ready = list(self.books.line.ready)
        assert ready == [] or self.books.drain is not None, "could start, but waits"
        return self.effects

    # The machine and its configuration.

    def has(self, name, capacity, hold=0, unit=1, measured=False) -> list[do.Effect]:
        """Add or change a resource."""
        self.resources[name] = ev.Resource(name, capacity, hold, unit, measured)
        return self.reload()

    def reload(self) -> list[do.Effect]:
        return self.play(ev.Configured(self.at, tuple(self.resources.values())))

    def restart(self, conns=(), boot_id="boot", found=()) -> list[do.Effect]:
        """The daemon dies; the next one reads the journal and starts.

        Of the resources in `found` the ballast is there as it was.
        """
        self.pen = Pen(replay([self.log]), self.pen.rules)
        self.drops.clear()
        self.takes.clear()
        self.wanted_back.clear()
        self.kept = {key: x for key, x in self.kept.items() if key[0] in found}
        self._occupied = {x: n for x, n in self._occupied.items() if x in found}
        held = {name: self.occupied(name) for name in found}
        kept = {
            name: frozenset(lease for what, lease in self.kept if what == name)
            for name in found
        }
        conns = frozenset(conns)
        started = self.play(ev.Started(self.at, boot_id, conns, held, kept))
        self.reload()
        return started

    # Clients.

    def connect(self) -> int:
        self._conn += 1
        return self._conn

    def ask(
        self, *, uid=1000, conn=None, number=1, length=None, wait=None, priority=0,
        amounts=None, wishes=None, inside=0, lasts=None, gid=None, groups=(),
        by=None, reclaimable=False, **resources,
    ) -> Request:  # fmt: skip
        """Ask for a lease, on a connection of its own unless `conn` is given."""
        conn = self.connect() if conn is None else conn
        who = Who(uid, uid, 5000 + conn)
        amounts = resources if amounts is None else amounts
        ask = Ask(
            conn, number, who, amounts, priority, length if lasts is None else lasts,
            wait, reclaimable, wishes=wishes or {}, inside=inside, lasts_s=lasts,
            gid=gid, by_uid=by,
        )  # fmt: skip
        on_behalf = None if by is None else Who(by, by, 1)
        self.play(ev.Asked(self.at, ask, frozenset(groups), on_behalf))
        known = self.books.connections.get(conn)
        return Request(conn, number, known.leases.get(number, 0) if known else 0)

    def book(self, *starts, lasts=60.0, uid=1000, by=None, gid=None, **amounts):
        """Reserve for dates, in seconds since 1970; the leases."""
        conn = self.connect()
        who = Who(uid, uid, 5000 + conn)
        ask = Ask(
            conn, 1, who, amounts, length_s=lasts, lasts_s=lasts, gid=gid, by_uid=by
        )
        on_behalf = None if by is None else Who(by, by, 1)
        self.play(ev.BookAsked(self.at, ask, starts, by=on_behalf))
        told = self.said(do.TellReserved)
        return told[0].leases if told else []

    def extend(self, lease, by_s, uid=1000):
        who, conn = Who(uid, uid, 1), self.connect()
        return self.play(ev.ExtendAsked(self.at, conn, 1, who, lease, by_s))

    def again(self, request: Request, **asked) -> list[do.Effect]:
        """Send a request once more."""
        self.ask(conn=request.conn, number=request.number, **asked)
        return self.effects

    def release(self, request, by=None, uid=1000, number=9) -> list[do.Effect]:
        """Give a lease back, or order its end from connection `by`."""
        conn = request.conn if by is None else by
        who = Who(uid, uid, 5000 + conn)
        return self.play(ev.Released(self.at, conn, number, who, request.lease))

    def shrink(self, request, by=None, uid=1000, number=9, **less):
        """Give a part of a lease back, from its own connection or from `by`."""
        conn = request.conn if by is None else by
        who = Who(uid, uid, 5000 + conn)
        return self.play(
            ev.ShrinkAsked(self.at, conn, number, who, request.lease, less)
        )

    def gone(self, request: Request) -> list[do.Effect]:
        """The connection is closed."""
        return self.play(ev.Gone(self.at, request.conn))

    def set(self, resource, capacity, uid=ROOT) -> list[do.Effect]:
        who = Who(uid, uid, 1)
        return self.play(ev.CapacityAsked(self.at, 99, 1, who, resource, capacity))

    def drain(self, reason: str | None = "", uid=ROOT) -> list[do.Effect]:
        return self.play(ev.DrainAsked(self.at, 99, 1, Who(uid, uid, 1), reason))

    # Hands: what came of effects.

    def dropped(self, which=0, place="", problem="", how="", why="") -> list[do.Effect]:
        """The ballast of one outstanding drop is free, or ready to be handed over."""
        drop = self.drops.pop(which)
        return self.play(
            ev.BallastDropped(
                self.at, drop.lease, drop.resource, place, problem, how, why
            )
        )

    def given(self, request, amount, name="ram") -> None:
        """So much of what is kept has reached the program."""
        self.kept[name, request.lease] -= amount

    def back(self, amount=None, which=0) -> list[do.Effect]:
        """What was kept for a lease that is over is ballast again; not if 0."""
        key = self.wanted_back.pop(which)
        there = self.kept[key] if amount is None else amount
        self.kept[key] -= there
        self._occupied[key[0]] = self.occupied(key[0]) + there
        return self.play(ev.BallastBack(self.at, key[1], key[0], there))

    def taken(self, amount=None, which=0) -> list[do.Effect]:
        """One outstanding slice is ballast, or only `amount` of it."""
        take = self.takes.pop(which)
        got = take.amount if amount is None else amount
        self._occupied[take.resource] = self.occupied(take.resource) + got
        return self.play(
            ev.BallastTaken(self.at, take.resource, take.amount, got, take.ledger)
        )

    def fill(self) -> None:
        """Take all ballast that is wanted."""
        while self.takes:
            self.taken()

    def measured(self, outside=0, used=None, name="ram", fresh=True):
        """A measurement in which `outside` bytes are used by nobody we know."""
        ledger, held = self.books.resources[name], self.held(name)
        used = used or {}
        kept = {lease: x for (what, lease), x in self.kept.items() if what == name}
        occupied = held + sum(used.values()) + sum(kept.values())
        free = max(0, ledger.capacity - occupied - outside)
        return self.play(ev.Measured(self.at, name, free, held, used, fresh, kept))

    # Time.

    def tick(self, seconds=0.0) -> list[do.Effect]:
        """Let time pass, and tell the pen once."""
        self.now_s += seconds
        return self.play(ev.Ticked(self.at))

    def sleep(self, seconds) -> list[do.Effect]:
        """Let time pass, waking the pen whenever it wants; all effects."""
        until_s, effects = self.now_s + seconds, []
        while self.pen.wake_at_s <= until_s:
            self.now_s = max(self.now_s, self.pen.wake_at_s)
            effects += self.tick()
            # What came of the time may have to be told, but that is that.
            effects += self.tick() if self.pen.wake_at_s <= self.now_s else []
            assert self.pen.wake_at_s > self.now_s, "it would be woken for ever"
        self.now_s = until_s
        return effects

    # Looking.

    def state(self, request: Request) -> str:
        """waiting, promised, live, ended, or refused."""
        books = self.books
        lease = books.leases.get(request.lease) or books.ended.get(request.lease)
        return lease.state if lease else "refused"

    def ledger(self, name="ram"):
        return self.books.ledgers[name]

    def held(self, name="ram") -> int:
        """Ballast in all, of the machine and of reservations."""
        return sum(x.held for x in self.books.ledgers.values() if x.resource == name)

    def said(self, kind, effects=None) -> list[do.Effect]:
        """Those of the last event's effects that are a `kind`."""
        effects = self.effects if effects is None else effects
        return [effect for effect in effects if isinstance(effect, kind)]

    def refusal(self) -> str:
        """The code of the one refusal of the last event."""
        (told,) = self.said(do.TellRefused)
        return told.code

    def waiting(self) -> list[int]:
        """Who waits, first first."""
        leases = self.books.leases.values()
        waiting = [x for x in leases if x.state == WAITING]
        waiters = self.books.line.waiters
        waiting.sort(key=lambda lease: waiters[lease.id].key)
        return [lease.id for lease in waiting]

    def occupied(self, name="ram") -> int:
        """Ballast that is really there: taken, and not told to be dropped."""
        return self._occupied.get(name, 0)

    def over(self) -> None:
        """Demand that facts alone make these books again."""
        live = checks.view(self.books)
        assert checks.view(replay([self.log])) == live
        assert checks.view(replay(snapshot(self.books))) == live


@pytest.fixture
def play() -> Iterator[Callable[..., Player]]:
    """Make pens; all are replayed when the test is over."""
    players: list[Player] = []

    def make(rules: Rules | None = None) -> Player:
        players.append(Player(rules))
        return players[-1]

    yield make
    for player in players:
        player.over()


@pytest.fixture
def new_player() -> type[Player]:
    """For tests that make many and end them themselves."""
    return Player


@pytest.fixture
def pen(play: Callable[..., Player]) -> Player:
    """A pen with 10 bytes of ram and nothing else."""
    player = play()
    player.has("ram", 10)
    return player
