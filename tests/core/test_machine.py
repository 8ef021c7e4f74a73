"""Whatever happens, in whatever order, the books balance and promises are kept."""

from functools import partial

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from holdingpen.core import checks
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import Who
from holdingpen.core.handover import AS_IS, Choice
from holdingpen.core.leases import LIVE, PROMISED
from holdingpen.core.pen import Pen
from holdingpen.core.rights import Rules
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
)
NAMES = ("ram", "disk", "cpu")

amounts = st.one_of(
    st.dictionaries(st.sampled_from(NAMES), st.integers(1, 12)),
    st.just({"machine": 1}),
    st.just({"machine": 1, "ram": 3}),
    st.dictionaries(st.sampled_from((*NAMES, "gpu")), st.integers(-1, 99)),
)
wishes = st.dictionaries(
    st.sampled_from(NAMES), st.sampled_from(("as-is", "program", "descriptor"))
)
uids = st.sampled_from((0, 1000, 1001))
outcomes = st.sampled_from((("", ""), ("/scratch/1", ""), ("", "no loop device.")))
some_seconds = st.sampled_from((None, 0.0, 1.0, 5.0, 30.0))
quantity = st.integers(0, 20)


class Living(RuleBasedStateMachine):
    """A pen, its clients, its hands and its administrator, all out of step."""

    def __init__(self, new_player) -> None:
        super().__init__()
        self.pen = new_player(RULES)
        #: Connection to the number of its last request.
        self.conns: dict[int, int] = {}
        #: Lease to what was promised to whom, for ever.
        self.granted: dict[int, tuple] = {}
        self.heard = 0

    @initialize()
    def configure(self):
        self.pen.resources = {
            "ram": ev.Resource("ram", 20, 9, 2, measured=True),
            "disk": ev.Resource("disk", 12, 5),
            "cpu": ev.Resource("cpu", 4),
        }
        self.pen.reload()

    # Clients.

    @rule(
        conn=st.integers(0, 3),
        amounts=amounts,
        uid=uids,
        priority=st.integers(-1, 2),
        length=some_seconds,
        wait=some_seconds,
        wishes=wishes,
    )
    def ask(self, conn, amounts, uid, priority, length, wait, wishes):
        conn = self.some_conn(conn)
        number = self.conns[conn] = self.conns[conn] + 1
        self.pen.ask(
            conn=conn, number=number, uid=uid, amounts=amounts,
            priority=priority, length=length, wait=wait, wishes=wishes,
        )  # fmt: skip
        told = [x for x in self.pen.effects if self.is_about(x, conn, number)]
        kinds = sorted(type(x).__name__ for x in told)
        assert kinds in (["TellGranted"], ["TellRefused"], ["TellWaiting"], []), kinds
        if kinds == []:
            lease = self.pen.books.connections[conn].leases[number]
            assert self.pen.books.leases[lease].state == PROMISED

    def some_conn(self, which):
        """One of the open connections, or a new one."""
        open_conns = sorted(self.conns)
        if which < len(open_conns):
            return open_conns[which]
        conn = self.pen.connect()
        self.conns[conn] = 0
        return conn

    def is_about(self, effect, conn, number):
        tells = (do.TellGranted, do.TellWaiting, do.TellRefused)
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
    @rule(data=st.data(), which=st.integers(0, 3), uid=uids)
    def release(self, data, which, uid):
        lease = data.draw(st.integers(1, self.pen.books.last_lease + 1))
        conn = self.some_conn(which)
        number = self.conns[conn] = self.conns[conn] + 1
        what = self.pen.books.leases.get(lease)
        who = Who(uid, uid, 1)
        self.pen.play(ev.Released(self.pen.at, conn, number, who, lease))
        (answer,) = [x for x in self.pen.effects if self.is_answer(x, conn, number)]
        if what is not None and uid not in (0, what.ask.who.uid):
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
        conn = data.draw(st.sampled_from((lease.ask.conn, self.some_conn(3))))
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
        if late:
            name, lease = self.pen.wanted_back[which]
            self.pen.play(ev.BallastBack(self.pen.at, lease, name, 0))
        else:
            self.pen.back(which=which)

    @rule()
    def pressed(self):
        self.pen.play(ev.Pressed(self.pen.at, "ram"))

    @precondition(lambda self: self.pen.takes)
    @rule(data=st.data())
    def taken(self, data):
        which = data.draw(st.integers(0, len(self.pen.takes) - 1))
        take = self.pen.takes[which]
        unit = self.pen.ledger(take.resource).unit
        units = data.draw(st.integers(0, take.amount // unit))
        self.pen.taken(units * unit, which)

    @rule(available=quantity, ballast=quantity, used=quantity, fresh=st.booleans())
    def measured(self, available, ballast, used, fresh):
        used = dict.fromkeys(list(self.pen.books.leases)[:3], used) | {9999: 3}
        self.pen.play(ev.Measured(self.pen.at, "ram", available, ballast, used, fresh))

    @rule(seconds=st.sampled_from((0.0, 0.001, 0.5, 2.0, 10.0, 60.0)))
    def sleep(self, seconds):
        self.pen.sleep(seconds)

    # The administrator.

    @rule(name=st.sampled_from((*NAMES, "gpu")), capacity=st.none() | quantity)
    def set(self, name, capacity):
        self.pen.set(name, capacity)

    @rule(reason=st.sampled_from((None, "", "new disks")))
    def drain(self, reason):
        self.pen.drain(reason)

    @rule(name=st.sampled_from(NAMES), capacity=quantity, hold=quantity,
          measured=st.booleans(), there=st.booleans())  # fmt: skip
    def reload(self, name, capacity, hold, measured, there):
        if there:
            unit = 2 if name == "ram" else 1
            self.pen.has(name, capacity, hold, unit, measured)
        else:
            self.pen.resources.pop(name, None)
            self.pen.reload()
        known = len(self.pen.log)
        self.pen.reload()
        assert len(self.pen.log) == known, "the same configuration changed something"

    @rule(data=st.data(), boot_s=st.sampled_from((None, 1.0)))
    def crash(self, data, boot_s):
        survive = data.draw(st.frozensets(st.sampled_from([0, *sorted(self.conns)])))
        if boot_s is not None:
            self.pen.now_s, survive = boot_s, frozenset()
        self.pen.restart(survive)
        self.conns = {conn: n for conn, n in self.conns.items() if conn in survive}
        assert set(self.pen.books.connections) <= survive

    @rule(data=st.data())
    def a_crash_at_any_fact_could_have_been_survived(self, data):
        until = data.draw(st.integers(0, len(self.pen.log)))
        books = replay([self.pen.log[:until]])
        checks.check(books)
        pen = Pen(books, RULES)
        pen.handle(ev.Started(self.pen.at, "next"))
        checks.check(books)
        assert not books.leases
        assert books.last_lease <= self.pen.books.last_lease

    # What is always true.

    @invariant()
    def a_grant_is_a_live_lease_and_its_ballast_is_free(self):
        effects = self.pen.all_effects[self.heard :]
        self.heard = len(self.pen.all_effects)
        for told in effects:
            if isinstance(told, do.TellGranted):
                to = (told.conn, told.number)
                assert self.granted.setdefault(told.lease, to) == to, "id used twice"
                lease = self.pen.books.leases.get(told.lease)
                assert lease is None or lease.amounts == told.amounts
        promised = {drop.lease for drop in self.pen.drops}
        for lease in self.pen.books.leases.values():
            if lease.state == LIVE:
                assert lease.id not in promised
                to = (lease.ask.conn, lease.ask.number)
                assert self.granted.get(lease.id) == to, "never told"

    @invariant()
    def what_is_being_taken_is_asked_for(self):
        for name, ledger in self.pen.books.resources.items():
            takes = [x.amount for x in self.pen.takes if x.resource == name]
            assert ledger.taking == sum(takes)
            assert len(takes) <= 1

    @invariant()
    def a_promise_waits_for_its_ballast(self):
        for lease in self.pen.books.leases.values():
            mine = [x.resource for x in self.pen.drops if x.lease == lease.id]
            assert sorted(lease.dropping) == sorted(mine)

    @invariant()
    def a_snapshot_gives_the_same_books(self):
        live = checks.view(self.pen.books)
        assert checks.view(replay(snapshot(self.pen.books))) == live

    def teardown(self):
        self.pen.over()


@pytest.mark.slow
def test_whatever_happens_the_books_balance_and_promises_are_kept(new_player):
    run_state_machine_as_test(partial(Living, new_player))
