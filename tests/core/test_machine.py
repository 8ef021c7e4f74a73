"""Whatever happens, in whatever order, the books balance and promises are kept."""

from collections import Counter
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import structs

from holdingpen.core import checks
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core import facts as fact
from holdingpen.core.facts import Ask, Who
from holdingpen.core.handover import AS_IS, Choice
from holdingpen.core.leases import LIVE, PROMISED, Why
from holdingpen.core.pen import Pen
from holdingpen.core.rights import ANY, Allow, Rules, may_end
from holdingpen.journal.replay import replay, snapshot

RULES = Rules(
    share={"ram": 4},
    leases_per_user_max=6,
    waiting_per_user_max=6,
    handover={
        "ram": {AS_IS: Choice("paced", "x"), "descriptor": Choice("pieces")},
        "disk": {AS_IS: Choice("free", "x"), "descriptor": Choice("image")},
    },
    yields=frozenset({"ram"}),
    assume_s=60.0,
    ready_before_s=10.0,
    reclaim_grace_s=5.0,
    idle_after_s=30.0,
)
ALLOW = (
    Allow(
        "rule 1",
        uids=frozenset({1000}),
        most={"ram": 12, "machine": 0},
        time_max_s=60.0,
        priority_max=1,
    ),
    Allow("rule 2", gids=frozenset({50}), end=ANY),
)
NAMES = ("ram", "disk", "cpu")
#: Seconds since 1970 at the first boot: then, now, and before a leap day.
EPOCHS = (0.0, 1_793_000_000.0, 1_835_395_100.0)

#: How often the pen is woken at most in one sleep: enough for all but measuring.
WAKES_MAX = 12

few = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 6), min_size=1)
amounts = st.one_of(
    few,
    few,
    few,
    st.dictionaries(st.sampled_from(NAMES), st.integers(1, 12)),
    st.just({"machine": 1}),
    st.just({"machine": 1, "ram": 3}),
    st.dictionaries(st.sampled_from((*NAMES, "gpu")), st.integers(-1, 99)),
)
some = st.one_of(
    few,
    few,
    few,
    st.just({"machine": 1}),
    st.dictionaries(st.sampled_from(NAMES), st.integers(1, 12), min_size=1),
)
wishes = st.dictionaries(
    st.sampled_from(NAMES), st.sampled_from(("as-is", "program", "descriptor"))
)
uids = st.sampled_from((0, 1000, 1001))
groups = st.sampled_from((frozenset(), frozenset({50})))
gids = st.sampled_from((None, 50))
outcomes = st.sampled_from((("", ""), ("/scratch/1", ""), ("", "no loop device.")))
some_seconds = st.sampled_from((None, 0.0, 1.0, 5.0, 30.0))
lengths = st.sampled_from((1.0, 5.0, 20.0, 60.0, 60.0, 200.0, 86400.0))
dates = st.lists(
    st.sampled_from((-50, 0, 3, 12, 20, 40, 100, 1000, 86400)),
    min_size=1, max_size=3, unique=True,
)  # fmt: skip
quantity = st.integers(0, 20)
capacities = st.sampled_from((None, None, 20, 25, 15, 10, 3, 0))


class Living(RuleBasedStateMachine):
    """A pen, its clients, its hands and its administrator, all out of step."""

    def __init__(self, new_player) -> None:
        super().__init__()
        self.pen = new_player(RULES)
        self.play = self.pen.play
        self.pen.play = self.watched
        #: Connection to the number of its last request.
        self.conns: dict[int, int] = {}
        #: Lease to what was promised to whom, for ever.
        self.granted: dict[int, tuple] = {}
        self.boots = 1
        #: Reservation that was told to its last date in seconds since 1970.
        self.told: dict[int, float] = {}
        #: After each event: how many facts there are, and what is told.
        self.told_at: list[tuple[int, dict[int, float]]] = [(0, {})]
        #: Resources of which more may be reserved than there is: it became less.
        self.lessened: set[str] = set()
        self.capacities: dict[str, int] = {}

    @initialize(epoch=st.sampled_from(EPOCHS))
    def configure(self, epoch):
        self.pen.wall_s = epoch
        self.pen.resources = {
            "ram": ev.Resource("ram", 20, 9, 2, measured=True),
            "disk": ev.Resource("disk", 12, 5),
            "cpu": ev.Resource("cpu", 4),
        }
        self.pen.reload()

    # What is true after each event.

    def watched(self, event):
        """Play an event, and look at what came of it."""
        effects = self.play(event)
        books = self.pen.books
        capacities = {name: x.capacity for name, x in books.resources.items()}
        if not any(x.reservation for x in books.leases.values()):
            self.lessened.clear()
        for name, capacity in self.capacities.items():
            if capacities[name] < capacity:
                self.lessened.add(name)
                # who has more of it than there is cannot begin: all that he has may
                # be reserved again
                for number in self.told.keys() & books.leases.keys():
                    needs = books.leases[number].needs
                    if needs.get(name, 0) > capacities[name]:
                        self.lessened |= needs.keys()
        self.capacities = capacities
        if books.expiries:
            assert books.expiries[0][0] > event.at.wall_s, "past its date"
        self.remember_what_was_told(event, effects)
        self.no_more_is_reserved_than_there_is()
        return effects

    def remember_what_was_told(self, event, effects):
        for effect in effects:
            if isinstance(effect, do.TellGranted):
                to = (effect.conn, effect.number)
                assert self.granted.setdefault(effect.lease, to) == to, "id used twice"
        told = dict(self.told)
        for what in self.pen.facts:
            match what:
                case fact.Booked() | fact.Reserved() | fact.Extended():
                    told[what.lease] = what.until_wall_s
                case fact.Ended() if what.lease in told:
                    self.demand_a_reason(event, what, told.pop(what.lease))
        for lease, until_s in told.items():
            assert self.pen.books.leases[lease].until_wall_s == until_s
        heard = [x.leases for x in effects if isinstance(x, do.TellReserved)]
        for lease in told.keys() - self.told.keys():
            assert any(lease in leases for leases in heard), "reserved and not told"
        self.told = told
        self.told_at.append((len(self.pen.log), self.told))

    def demand_a_reason(self, event, ended, until_s):
        rules = self.pen.pen.rules
        lease = self.pen.books.ended.get(ended.lease)
        over = until_s <= event.at.wall_s
        assert {
            Why.EXPIRED: over,
            Why.MISSED: over and (lease is None or lease.granted is None),
            Why.RELEASED: isinstance(event, ev.Released),
            Why.ORDERED: isinstance(event, ev.Released),
            Why.MISFIT: isinstance(event, (ev.CapacityAsked, ev.Configured)),
            Why.IDLE: rules.idle_ends,
        }.get(ended.why), ended

    def no_more_is_reserved_than_there_is(self):
        """At any date, by those who were told, unless there has become less."""
        books = self.pen.books
        spans = []
        for number in self.told:
            lease = books.leases[number]
            # it may be live before its date, when nobody else wants it
            spans.append((lease.starts_wall_s or 0.0, lease.until_wall_s, lease.needs))
        for date_s, *_ in spans:
            used = Counter()
            for begin_s, until_s, needs in spans:
                if begin_s <= date_s < until_s:
                    used.update(needs)
            for name, need in used.items():
                enough = need <= books.resources[name].capacity
                assert enough or name in self.lessened, f"{name} is reserved twice"

    # Clients.

    @rule(
        conn=st.integers(0, 3),
        amounts=amounts,
        uid=uids,
        priority=st.integers(-1, 2),
        length=some_seconds,
        wait=some_seconds,
        wishes=wishes,
        reclaimable=st.booleans(),
        groups=groups,
        inside=st.integers(-1, 3),
    )
    def ask(
        self, conn, amounts, uid, priority, length, wait, wishes, reclaimable, groups,
        inside,
    ):  # fmt: skip
        conn = self.some_conn(conn)
        number = self.conns[conn] = self.conns[conn] + 1
        inside = self.some_reservation(inside)
        self.pen.ask(
            conn=conn, number=number, uid=uid, amounts=amounts,
            priority=priority, length=length, wait=wait, wishes=wishes,
            reclaimable=reclaimable, groups=groups, inside=inside,
        )  # fmt: skip
        lease = self.demand_an_answer(conn, number, do.TellGranted)
        if lease is not None and lease.ask.inside:
            owner = self.pen.books.leases[lease.ask.inside].ask
            his = uid == owner.who.uid or owner.gid in groups
            assert his or (uid == 0 and inside > 0)
        assert lease is None or inside >= 0 or not lease.ask.inside

    @precondition(lambda self: self.pen.books.reservations)
    @rule(data=st.data(), conn=st.integers(0, 3), length=some_seconds)
    def draw_on_a_reservation(self, data, conn, length):
        reservations = self.pen.books.reservations
        whose = reservations[data.draw(st.sampled_from(list(reservations)))]
        there = {name: n for name, n in whose.amounts.items() if name != "machine"}
        name = data.draw(st.sampled_from(sorted(there) or ["ram"]))
        amounts = {name: data.draw(st.integers(1, there.get(name, 4)))}
        conn = self.some_conn(conn)
        number = self.conns[conn] = self.conns[conn] + 1
        self.pen.ask(
            conn=conn, number=number, uid=whose.ask.who.uid, amounts=amounts,
            length=length, inside=data.draw(st.sampled_from((0, whose.id))),
        )  # fmt: skip
        self.demand_an_answer(conn, number, do.TellGranted)

    @precondition(lambda self: self.pen.books.reclaimable)
    @rule(data=st.data(), conn=st.integers(0, 3), length=some_seconds)
    def need_what_may_be_asked_back(self, data, conn, length):
        key = data.draw(st.sampled_from(list(self.pen.books.reclaimable)))
        lease = self.pen.books.leases[-key[2]]
        conn = self.some_conn(conn)
        number = self.conns[conn] = self.conns[conn] + 1
        amounts = {n: x + self.pen.ledger(n).room for n, x in lease.amounts.items()}
        self.pen.ask(
            conn=conn, number=number, uid=0, amounts=amounts, length=length,
            priority=lease.ask.priority + 1,
        )  # fmt: skip
        self.demand_an_answer(conn, number, do.TellGranted)

    def some_reservation(self, which):
        """-1: none; 0: whichever is his; else one, or one that is none."""
        known = [*self.pen.books.reservations, *self.pen.books.leases]
        return known[which % len(known)] if which > 0 and known else which

    def demand_an_answer(self, conn, number, granted):
        """The lease that came of a request; None: no, or it is over already."""
        told = [x for x in self.pen.effects if self.is_about(x, conn, number)]
        kinds = [type(x) for x in told]
        assert len(kinds) <= 1, kinds
        known = self.pen.books.connections.get(conn)
        lease = self.pen.books.leases.get(known.leases.get(number, 0)) if known else 0
        if not kinds:
            assert lease.state == PROMISED
        elif kinds != [do.TellRefused]:
            assert kinds in ([granted], [do.TellWaiting])
            assert lease
        return lease or None

    @rule(
        conn=st.integers(0, 3), amounts=some, uid=uids, lasts=lengths, gid=gids,
        wait=some_seconds, priority=st.integers(-1, 2),
    )  # fmt: skip
    def reserve(self, conn, amounts, uid, lasts, gid, wait, priority):
        conn = self.some_conn(conn)
        number = self.conns[conn] = self.conns[conn] + 1
        self.pen.ask(
            conn=conn, number=number, uid=uid, amounts=amounts, lasts=lasts, gid=gid,
            wait=wait, priority=priority,
        )  # fmt: skip
        self.demand_an_answer(conn, number, do.TellReserved)

    @rule(
        conn=st.integers(0, 3), amounts=some, uid=uids, lasts=lengths, gid=gids,
        starts=dates, by=st.sampled_from((None, 0, 1001)),
    )  # fmt: skip
    def book(self, conn, amounts, uid, lasts, gid, starts, by):
        conn = self.some_conn(conn)
        number = self.conns[conn] = self.conns[conn] + 1
        at = self.pen.at
        who = None if by is None else Who(by, by, 1)
        ask = Ask(
            conn, number, Who(uid, uid, 1), amounts, length_s=lasts, lasts_s=lasts,
            gid=gid, by_uid=by,
        )  # fmt: skip
        starts = tuple(at.wall_s + start for start in starts)
        self.pen.play(ev.BookAsked(at, ask, starts, by=who))
        (told,) = [x for x in self.pen.effects if self.is_about(x, conn, number)]
        new = {x.lease for x in self.pen.facts if isinstance(x, fact.Booked)}
        if isinstance(told, do.TellRefused):
            assert not new
            return
        assert set(told.leases) == new
        assert len(new) == len(starts)
        assert by != 1001

    @precondition(lambda self: self.pen.books.last_lease)
    @rule(
        which=st.integers(0, 3), uid=uids, data=st.data(),
        by_s=st.sampled_from((0.5, 5.0, 60.0, 86400.0)),
    )  # fmt: skip
    def extend(self, which, uid, data, by_s):
        lease = data.draw(self.some_lease())
        conn = self.some_conn(which)
        number = self.conns[conn] = self.conns[conn] + 1
        before = self.told.get(lease)
        event = ev.ExtendAsked(self.pen.at, conn, number, Who(uid, uid, 1), lease, by_s)
        self.pen.play(event)
        if any(isinstance(x, do.TellExtended) for x in self.pen.effects):
            assert self.told[lease] == before + by_s

    def some_lease(self):
        last = self.pen.books.last_lease + 1
        told = sorted(self.told)
        return st.sampled_from(told) if told else st.integers(1, last)

    def some_conn(self, which):
        """One of the open connections, or a new one."""
        open_conns = sorted(self.conns)
        if which < len(open_conns):
            return open_conns[which]
        conn = self.pen.connect()
        self.conns[conn] = 0
        return conn

    def is_about(self, effect, conn, number):
        tells = (do.TellGranted, do.TellWaiting, do.TellRefused, do.TellReserved)
        return isinstance(effect, tells) and (effect.conn, effect.number) == (
            conn,
            number,
        )

    @precondition(lambda self: self.conns)
    @rule(data=st.data())
    def ask_again(self, data):
        conn = data.draw(st.sampled_from(sorted(self.conns)))
        number = data.draw(st.integers(0, self.conns[conn]))
        known = self.pen.books.connections.get(conn)
        if known is not None and number <= known.last:
            self.pen.ask(conn=conn, number=number, ram=1)
            # The time of others may have come, but nothing new is asked for.
            asks = [getattr(x, "ask", None) for x in self.pen.facts]
            assert asks == [None] * len(asks)

    @precondition(lambda self: self.pen.books.last_lease)
    @rule(data=st.data(), which=st.integers(0, 3), uid=uids, groups=groups,
          told=st.booleans())  # fmt: skip
    def release(self, data, which, uid, groups, told):
        lease = data.draw(st.integers(1, self.pen.books.last_lease + 1))
        if told:
            lease = data.draw(self.some_lease())
        conn = self.some_conn(which)
        number = self.conns[conn] = self.conns[conn] + 1
        what = self.pen.books.leases.get(lease)
        who = Who(uid, uid, 1)
        self.pen.play(ev.Released(self.pen.at, conn, number, who, lease, groups))
        (answer,) = [x for x in self.pen.effects if self.is_answer(x, conn, number)]
        if what is not None and not may_end(
            who, what.ask.who.uid, self.pen.pen.rules, groups
        ):
            mine = what.ask.conn == conn
            assert isinstance(answer, do.TellReleased) == mine

    def is_answer(self, effect, conn, number):
        tells = (do.TellReleased, do.TellRefused)
        return isinstance(effect, tells) and (effect.conn, effect.number) == (
            conn,
            number,
        )

    @precondition(lambda self: self.pen.books.held)
    @rule(data=st.data(), less=amounts, uid=uids, again=st.booleans())
    def shrink(self, data, less, uid, again):
        held = self.pen.books.held
        lease = held[data.draw(st.sampled_from(list(held)))]
        before, live = dict(lease.amounts), lease.state == LIVE
        conn = self.some_conn(3)
        if lease.ask.conn in self.conns:
            conn = data.draw(st.sampled_from((lease.ask.conn, conn)))
        number = self.conns[conn] = self.conns[conn] + 1
        who = Who(uid, uid, 1)
        event = ev.ShrinkAsked(self.pen.at, conn, number, who, lease.id, less)
        self.pen.play(event)
        tells = (do.TellShrunk, do.TellRefused)
        told = [x for x in self.pen.effects if isinstance(x, tells)]
        (answer,) = [x for x in told if (x.conn, x.number) == (conn, number)]
        if isinstance(answer, do.TellRefused):
            assert lease.amounts == before
            return
        assert live
        assert conn == lease.ask.conn or uid == lease.ask.who.uid
        left = {name: n - less.get(name, 0) for name, n in before.items()}
        assert answer.amounts == lease.amounts == left
        if again and lease.id in self.pen.books.leases:
            self.pen.play(event)
            assert lease.amounts == left, "given back twice"

    @precondition(lambda self: self.pen.books.asked)
    @rule(data=st.data())
    def give_back_what_was_asked_for(self, data):
        asked = self.pen.books.asked
        lease = asked[data.draw(st.sampled_from(sorted(asked)))]
        conn = lease.ask.conn
        number = self.conns[conn] = self.conns[conn] + 1
        name = data.draw(st.sampled_from((*sorted(lease.amounts), "")))
        less = {name: lease.amounts[name] // 2} if name else {}
        event = ev.ShrinkAsked(
            self.pen.at, conn, number, lease.ask.who, lease.id, less
        )  # fmt: skip
        if not name:
            event = ev.Released(self.pen.at, conn, number, lease.ask.who, lease.id)
        self.pen.play(event)

    @precondition(lambda self: self.conns)
    @rule(data=st.data())
    def gone(self, data):
        conn = data.draw(st.sampled_from(sorted(self.conns)))
        del self.conns[conn]
        self.pen.play(ev.Gone(self.pen.at, conn))
        assert conn not in self.pen.books.connections

    # Hands.

    @precondition(lambda self: self.pen.drops)
    @rule(data=st.data())
    def dropped(self, data):
        which = data.draw(st.integers(0, len(self.pen.drops) - 1))
        prepared = isinstance(self.pen.drops[which], do.Prepare)
        place, problem = data.draw(outcomes) if prepared else ("", "")
        self.pen.dropped(which, place, problem)

    @precondition(lambda self: self.pen.kept)
    @rule(data=st.data())
    def given(self, data):
        name, lease = data.draw(st.sampled_from(sorted(self.pen.kept)))
        unit = self.pen.ledger(name).unit
        units = data.draw(st.integers(0, self.pen.kept[name, lease] // unit))
        self.pen.kept[name, lease] -= units * unit

    @precondition(lambda self: self.pen.wanted_back)
    @rule(data=st.data(), late=st.booleans())
    def back(self, data, late):
        which = data.draw(st.integers(0, len(self.pen.wanted_back) - 1))
        name, lease = self.pen.wanted_back[which]
        if late:
            self.pen.play(ev.BallastBack(self.pen.at, lease, name, 0))
        else:
            # a daemon that started anew keeps nothing
            self.pen.kept.setdefault((name, lease), 0)
            self.pen.back(which=which)

    @rule()
    def pressed(self):
        self.pen.play(ev.Pressed(self.pen.at, "ram"))

    @precondition(lambda self: self.pen.takes)
    @rule(data=st.data())
    def taken(self, data):
        which = data.draw(st.integers(0, len(self.pen.takes) - 1))
        take = self.pen.takes[which]
        unit = 2 if take.resource == "ram" else 1
        units = data.draw(st.integers(0, take.amount // unit))
        self.pen.taken(units * unit, which)

    @rule(available=quantity, ballast=quantity, used=quantity, fresh=st.booleans())
    def measured(self, available, ballast, used, fresh):
        used = dict.fromkeys(list(self.pen.books.leases)[:3], used) | {9999: 3}
        self.pen.play(ev.Measured(self.pen.at, "ram", available, ballast, used, fresh))

    # Time.

    @rule(seconds=st.sampled_from((0.0, 0.001, 0.5, 2.0, 10.0, 60.0)))
    def sleep(self, seconds):
        pen = self.pen
        until_s = pen.now_s + seconds
        for _ in range(WAKES_MAX):
            if pen.pen.wake_at_s > until_s:
                break
            # a timer never comes on the dot
            pen.now_s = max(pen.now_s, pen.pen.wake_at_s) + 0.001
            for _ in range(4):
                pen.tick()
                if pen.pen.wake_at_s > pen.now_s:
                    break
            assert pen.pen.wake_at_s > pen.now_s, "it would be woken for ever"
        pen.now_s = max(pen.now_s, until_s)

    @rule(seconds=st.sampled_from((20.0, 50.0, 970.0, 86400.0)), told=st.booleans())
    def suspend(self, seconds, told):
        self.pen.now_s += seconds
        if told:
            self.pen.tick()

    @rule(
        seconds=st.sampled_from(
            (-86400.0, -970.0, -15.0, -3.0, -0.3, 0.3, 3.0, 15.0, 20.0, 970.0, 86400.0)
        )
    )
    def the_wall_clock_is_set(self, seconds):
        self.pen.wall_s = max(self.pen.wall_s + seconds, -self.pen.now_s)

    # The administrator.

    @rule(name=st.sampled_from((*NAMES, "gpu")), capacity=capacities)
    def set(self, name, capacity):
        self.pen.set(name, capacity)

    @rule(reason=st.sampled_from((None, None, None, "", "new disks")))
    def drain(self, reason):
        self.pen.drain(reason)

    @rule(uid=uids, on=st.booleans(), by=st.sampled_from((0, 1000)))
    def seat(self, uid, on, by):
        who = Who(by, by, 1)
        seated = set(self.pen.books.seated)
        self.pen.play(ev.SeatAsked(self.pen.at, 97, 1, who, uid, on))
        if by == 0:
            seated = seated | {uid} if on else seated - {uid}
        assert self.pen.books.seated == seated

    @rule(
        ageing=st.sampled_from((None, 7.0, 50.0)), allow=st.sampled_from(((), ALLOW)),
        idle_ends=st.booleans(), reclaim_ends=st.booleans(), backfill=st.booleans(),
    )  # fmt: skip
    def change_the_rules(self, ageing, allow, idle_ends, reclaim_ends, backfill):
        self.pen.pen.rules = structs.replace(
            RULES, ageing_s=ageing, allow=allow, idle_ends=idle_ends,
            reclaim_ends=reclaim_ends, backfill=backfill,
        )  # fmt: skip
        self.pen.reload()
        assert self.pen.books.ageing_s == (ageing or 0.0)

    @rule(
        name=st.sampled_from(NAMES), capacity=quantity, hold=quantity,
        measured=st.booleans(), there=st.sampled_from((True, True, False)),
    )  # fmt: skip
    def reload(self, name, capacity, hold, measured, there):
        if there:
            unit = 2 if name == "ram" else 1
            self.pen.has(name, capacity, hold, unit, measured)
        else:
            self.pen.resources.pop(name, None)
            self.pen.reload()
        self.pen.reload()
        known = len(self.pen.log)
        self.pen.reload()
        assert len(self.pen.log) == known, "the same configuration changed something"

    @rule(data=st.data(), reboot_s=st.sampled_from((None, None, None, 5.0, 970.0)),
          all_survive=st.booleans(), found=st.booleans())  # fmt: skip
    def crash(self, data, reboot_s, all_survive, found):
        survive = frozenset(self.conns)
        if not all_survive:
            survive = data.draw(st.frozensets(st.sampled_from([0, *self.conns])))
        if reboot_s is not None:
            survive = frozenset()
            self.pen.wall_s += self.pen.now_s + reboot_s - 1.0
            self.pen.now_s = 1.0
            self.boots += 1
            found = False
        names = [x for x in self.pen.books.resources if x != "cpu"] if found else []
        self.pen.restart(survive, f"boot {self.boots}", names)
        self.conns = {conn: n for conn, n in self.conns.items() if conn in survive}
        assert set(self.pen.books.connections) <= survive

    @rule(data=st.data())
    def a_crash_at_any_fact_could_have_been_survived(self, data):
        until = data.draw(st.integers(0, len(self.pen.log)))
        books = self.start_from(self.pen.log[:until])
        assert books.last_lease <= self.pen.books.last_lease

    @rule(data=st.data())
    def a_crash_after_any_event_loses_no_reservation(self, data):
        until, told = data.draw(st.sampled_from(self.told_at))
        now_s = self.pen.at.wall_s
        whole = self.pen.log[:until]
        shorter = [x for batch in snapshot(replay([whole])) for x in batch]
        for log in (whole, shorter):
            books = self.start_from(log)
            for lease, until_s in told.items():
                assert lease in books.leases or until_s <= now_s

    def start_from(self, log):
        """The books with which a daemon starts after a reboot."""
        books = replay([log])
        # what hangs together only after an event is not true after each of its facts
        checks._check_ledgers(books)
        checks._check_leases(books)
        pen = Pen(books, RULES)
        pen.handle(ev.Started(self.pen.at, "next"))
        checks.check(books)
        assert all(x.reservation for x in books.leases.values())
        return books

    # What is always true.

    @invariant()
    def a_grant_is_a_live_lease_and_its_ballast_is_free(self):
        for told in self.pen.said(do.TellGranted):
            lease = self.pen.books.leases.get(told.lease)
            assert lease is None or lease.amounts == told.amounts
        promised = {drop.lease for drop in self.pen.drops}
        for lease in self.pen.books.leases.values():
            if lease.state == LIVE:
                assert lease.id not in promised
                to = (lease.ask.conn, lease.ask.number)
                told = lease.id in self.told or self.granted.get(lease.id) == to
                assert told, "never told"

    @invariant()
    def what_is_being_taken_is_asked_for(self):
        """Once for each ledger; what a reservation's end left over is the machine's."""
        ledgers = self.pen.books.ledgers
        taking = Counter()
        asked = Counter((x.resource, x.ledger) for x in self.pen.takes)
        for take in self.pen.takes:
            home = take.ledger if take.ledger in ledgers else take.resource
            taking[home] += take.amount
        assert {n: x.taking for n, x in ledgers.items() if x.taking} == taking
        assert all(times == 1 for times in asked.values())

    @invariant()
    def a_promise_waits_for_its_ballast(self):
        for lease in self.pen.books.leases.values():
            mine = [x.resource for x in self.pen.drops if x.lease == lease.id]
            assert sorted(lease.dropping) == sorted(mine)

    @invariant()
    def who_is_asked_back_is_asked_for_one_who_waits(self):
        waiters = self.pen.books.line.waiters
        assert all(x.needed_by in waiters for x in self.pen.books.asked.values())

    @invariant()
    def a_snapshot_gives_the_same_books(self):
        live = checks.view(self.pen.books)
        assert checks.view(replay(snapshot(self.pen.books))) == live

    def teardown(self):
        self.pen.over()


@pytest.mark.slow
def test_whatever_happens_the_books_balance_and_promises_are_kept(new_player):
    # each step recounts all books and replays them: with CI's coverage it adds up
    most = settings.default.max_examples
    some = settings(max_examples=most if most > 1000 else min(most, 60))
    run_state_machine_as_test(partial(Living, new_player), settings=some)
