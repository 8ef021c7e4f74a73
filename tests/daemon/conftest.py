"""Two ways to run the daemon in a test.

    room    the connections and the keeper alone, stepped by hand: `room.wake_up()`;
            its callers are plain sockets; nothing runs between two steps
    start   the whole daemon inside trio, on a make-believe machine and a clock that
            stands still until `clock.jump(seconds)`

After each test the books are recounted, and the journal is replayed and compared.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from holdingpen.core import events as ev
from holdingpen.core.checks import check, view
from holdingpen.core.facts import Fact, Moment, Who
from holdingpen.core.pen import Pen
from holdingpen.core.rights import Rules
from holdingpen.daemon import connections as connections_module
from holdingpen.daemon import translate
from holdingpen.daemon.connections import Connections, Limits
from holdingpen.daemon.daemon import Daemon
from holdingpen.daemon.diskhand import DiskHand
from holdingpen.daemon.hands import Hand
from holdingpen.daemon.keeper import Answer, Keeper, Outcome
from holdingpen.daemon.listener import open_listener
from holdingpen.daemon.options import Options
from holdingpen.daemon.ramhand import RamHand
from holdingpen.daemon.settings import Settings
from holdingpen.devices.scripted import ScriptedBallast, ScriptedHost
from holdingpen.journal.replay import replay
from holdingpen.journal.store import Store
from holdingpen.wire import messages as wire
from holdingpen.wire.framing import REPLY_BYTES_MAX, Unframer
from holdingpen.wire.session import ClientSession, encode

GIB = 2**30
#: Whatever should come within this has been lost.
PATIENCE_S = 20.0
#: Seconds since 1970 when make-believe clocks show 0.
EPOCH_S = 1_800_000_000.0

_reply = msgspec.msgpack.Decoder(wire.Reply).decode


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Let no test hang: SIGALRM raises in it."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"nothing came of it within {PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def clock() -> MockClock:
    """Time, which stands still until it is told to jump.

    It is the daemon's in any case, and trio's in tests that ask for it themselves.
    """
    return MockClock()


class Caller:
    """A client with a plain blocking socket, who may say anything."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.fspath(path))
        self._frames = Unframer(REPLY_BYTES_MAX)
        #: Whether the daemon hung up.
        self.over = False

    def say(self, *messages: wire.Message) -> None:
        self.say_bytes(b"".join(map(encode, messages)))

    def say_bytes(self, data: bytes) -> None:
        """Send it all; to somebody who hung up nothing more can be said."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def heard(self) -> list[wire.Reply]:
        """All replies that are there now."""
        payloads = []
        while not self.over:
            try:
                data = self.sock.recv(2**20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            self.over = not data
            payloads += self._frames.feed(data)
        return [_reply(payload) for payload in payloads]

    def next(self) -> wire.Reply:
        """Wait for a reply."""
        while True:
            data = self.sock.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL)
            assert data, "the daemon hung up"
            size = int.from_bytes(data, "big") + 4
            frame = self.sock.recv(size, socket.MSG_WAITALL)
            return _reply(frame[4:])

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def new_caller() -> Iterator[Callable[[Path], Caller]]:
    """Callers of a daemon that runs elsewhere."""
    callers = []

    def call(path: Path) -> Caller:
        callers.append(Caller(path))
        return callers[-1]

    yield call
    for caller in callers:
        caller.close()


class ListJournal:
    """A journal that is a list; `keeper.Journal`."""

    def __init__(self) -> None:
        self.batches: list[list[Fact]] = []
        #: Whether there is no more space when it is looked for.
        self.disk_full = False
        self.trouble: str | None = None
        self.reserve_ok = True
        self.wants_rotation = False
        self.owed: list[int] = []
        #: How often it was synced, looked for room, and what it was rotated to.
        self.synced = 0
        self.tries = 0
        self.rotated: list[list[list[Fact]]] = []

    def append(self, facts: list[Fact]) -> None:
        self.batches.append(facts)

    def sync(self) -> None:
        self.synced += 1

    def owe(self, leases: int) -> None:
        self.owed.append(leases)

    def try_extend(self) -> bool:
        self.tries += 1
        self.reserve_ok = not self.disk_full
        self.trouble = "the disk is full" if self.disk_full else None
        return self.reserve_ok

    def rotate(self, batches: Iterator[list[Fact]]) -> None:
        self.wants_rotation = False
        self.rotated.append(list(batches))


class Room:
    """Connections and keeper, without a loop around them."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.now_s = 100.0
        #: Who the next one to come in is, as the kernel says.
        self.who = Who(1000, 1000, 4242)
        monkeypatch.setattr(connections_module, "peer", lambda sock: self.who)
        self.journal = ListJournal()
        self.pen = Pen(rules=Rules(operators=frozenset({0}), share={"cpu": 1}))
        self.keeper = Keeper(
            self.pen, self.journal, self._perform, self._show, self.clock
        )
        self.listener = open_listener(path, 0o600, None)
        self.connections = Connections(
            self.listener,
            Limits(100, 100, 10.0),
            1,
            self.keeper.put,
            self.keeper.turn,
            self.clock,
            lambda: translate.Surroundings("0", 0.0, str(path), {}, [], []),
        )
        self._callers: list[Caller] = []
        resources = (ev.Resource("ram", 64 * GIB), ev.Resource("cpu", 8))
        self.keeper.put(ev.Configured(self.clock(), resources))
        self.keeper.turn()

    def clock(self) -> Moment:
        return Moment(self.now_s, EPOCH_S + self.now_s)

    def _perform(self, outcome: Outcome) -> None:
        if isinstance(outcome, Answer):
            self.connections.send(outcome.conn, outcome.message)
        else:
            self.connections.send(outcome.conn, translate.reply(outcome))

    def _show(self, facts: list[Fact]) -> None:
        at = self.clock()
        told = (translate.happened(what, at, self.pen.books) for what in facts)
        self.connections.show([one for one in told if one is not None])

    def limit(self, connections: int = 100, of_one: int = 100) -> None:
        self.connections.limits = Limits(connections, of_one, 10.0)

    def knock(self, uid: int = 1000) -> Caller:
        """Somebody connects, is let in, and says nothing yet."""
        self.who = Who(uid, uid, 4242)
        caller = Caller(self.path)
        self._callers.append(caller)
        self.wake_up()
        return caller

    def caller(self, uid: int = 1000) -> Caller:
        """Somebody connects and has said Hello."""
        caller = self.knock(uid)
        caller.say(wire.Hello(wire.VERSION, "test"))
        self.wake_up()
        assert [wire.Welcome] == [type(reply) for reply in caller.heard()]
        return caller

    def wake_up(self, times: int = 1) -> None:
        for _ in range(times):
            self.connections.wake_up()

    def until(self, done: Callable[[], bool]) -> int:
        """Wake up until `done`; returns how often that was."""
        for times in itertools.count():
            if done():
                return times
            assert times < 100_000, "it never came"
            self.wake_up()
        raise AssertionError

    @property
    def owed_bytes(self) -> int:
        """What the daemon keeps in memory for its clients."""
        clients = self.connections._by_fd.values()
        return sum(client.backlog_bytes for client in clients)

    @property
    def undone(self) -> int:
        """Requests heard and not worked off."""
        clients = self.connections._by_fd.values()
        return sum(len(client.todo) for client in clients)

    def close(self) -> None:
        for caller in self._callers:
            caller.close()
        check(self.pen.books)
        assert view(self.pen.books) == view(replay(self.journal.batches))
        self.connections.close()
        self.listener.close()
        self.path.unlink()


@pytest.fixture
def new_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], AbstractContextManager[Room]]:
    """Rooms for those who need one for each example of hypothesis."""
    return lambda: closing(Room(tmp_path / "s", monkeypatch))


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    with closing(Room(tmp_path / "s", monkeypatch)) as room:
        yield room


@pytest.fixture
def journal() -> ListJournal:
    return ListJournal()


class Client:
    """A client inside trio, who keeps to the protocol."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._session = ClientSession()
        self._ids = itertools.count(1)
        self._heard: deque[wire.Reply] = deque()

    async def greet(self) -> None:
        await self.stream.send_all(self._session.hello("test"))
        while not self._session.daemon:
            await self._listen()

    async def _listen(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            self._session.end()
            raise EOFError("the daemon hung up")
        self._heard += self._session.receive(data)

    async def send(self, kind: type[wire.Message], **fields: object) -> int:
        """Send a request with the next id, and return that."""
        number = next(self._ids)
        await self.stream.send_all(encode(kind(id=number, **fields)))
        return number

    async def next(self) -> wire.Reply:
        """Whatever the daemon says next."""
        while not self._heard:
            await self._listen()
        return self._heard.popleft()

    async def answer(self, number: int) -> wire.Reply:
        """The next reply to that request; others wait their turn."""
        while True:
            for reply in self._heard:
                if getattr(reply, "id", None) == number:
                    self._heard.remove(reply)
                    return reply
            await self._listen()

    async def ask(self, kind: type[wire.Message], **fields: object) -> wire.Reply:
        """Send a request, and wait for the first reply to it."""
        return await self.answer(await self.send(kind, **fields))

    async def acquire(self, **amounts: int) -> wire.Reply:
        return await self.ask(wire.Acquire, amounts=amounts)

    async def books(self, resource: str) -> wire.Books:
        status = await self.ask(wire.GetStatus)
        assert isinstance(status, wire.Status)
        return status.resources[resource]

    async def close(self) -> None:
        await self.stream.aclose()


class Told:
    """Whoever started the daemon; `systemd.Systemd`."""

    trouble = ""
    #: The store of descriptors; None: there is none.  It outlives daemons.
    store: dict[str, int] | None = None

    def __init__(self, store: dict[str, int] | None = None) -> None:
        self.words: list[str] = []
        self.up = trio.Event()
        self.store = store

    @property
    def can_keep(self) -> bool:
        return self.store is not None

    def listening(self) -> None:
        return None

    def stored(self, initial: str = "") -> dict[str, int]:
        """What the last daemon had kept; the store keeps copies."""
        return {name: os.dup(fd) for name, fd in (self.store or {}).items()}

    def keep(self, name: str, fd: int, poll: bool = True) -> None:
        assert self.store is not None
        assert name not in self.store
        self.store[name] = os.dup(fd)

    def forget(self, name: str) -> None:
        assert self.store is not None
        os.close(self.store.pop(name))

    def alive(self) -> None:
        self.words.append("alive")

    def ready(self, status: str) -> None:
        self.words.append("ready")
        self.up.set()

    def reloading(self) -> None:
        self.words.append("reloading")

    def stopping(self) -> None:
        self.words.append("stopping")


class Running:
    """The whole daemon inside trio, and what a test does with it."""

    def __init__(self, daemon: Daemon, host: ScriptedHost, told: Told) -> None:
        self.daemon = daemon
        self.host = host
        self.ballast = daemon._hands["ram"].ballast
        self.told = told
        #: What ended it, once something did; None: it was told to end.
        self.failure: Exception | None = None
        self.over = trio.Event()
        self._scope = trio.CancelScope()
        self._streams: list[trio.SocketStream] = []
        self._moved = trio.Event()
        self._wake = daemon.keeper.wake
        daemon.keeper.wake = self._turned

    def _turned(self, wake_at_s: float) -> None:
        self._wake(wake_at_s)
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def serve(self) -> None:
        try:
            with self._scope:
                await self.daemon.run()
        except Exception as why:
            self.failure = why
        self.over.set()

    @property
    def books(self):
        return self.daemon.keeper.pen.books

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until `done`, which is asked after each turn of the keeper."""
        while not done():
            await self._moved.wait()

    async def connect(self) -> trio.SocketStream:
        stream = await trio.open_unix_socket(self.daemon.socket)
        self._streams.append(stream)
        return stream

    async def client(self) -> Client:
        client = Client(await self.connect())
        await client.greet()
        return client

    async def stop(self, failure: type[Exception] | None = None) -> None:
        """End it, or (with `failure`) wait for its end; and prove its books."""
        if failure is None:
            self._scope.cancel()
        await self.over.wait()
        assert failure is (self.failure and type(self.failure)), repr(self.failure)
        state = self.daemon._journal.path.parent
        self.daemon.close()
        for stream in self._streams:
            stream.socket.close()
        check(self.books)
        with closing(Store.open(state, self.host.boot)) as store:
            replayed = replay(store.batches())
        if failure is None:
            assert view(self.books) == view(replayed)


@pytest.fixture
def anybody(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Who comes in is user `anybody["uid"]` until that is changed."""
    who = {"uid": 0}
    monkeypatch.setattr(
        connections_module, "peer", lambda sock: Who(who["uid"], who["uid"], 4242)
    )
    return who


Start = Callable[..., "trio.Awaitable[Running]"]


@pytest.fixture
async def start(
    tmp_path: Path, clock: MockClock, anybody: dict[str, int]
) -> AsyncIterator[Start]:
    """Start daemons: the settings in words, and `host`, `name`, `config`, `idle_s`."""
    running: list[Running] = []

    async def start(
        host: ScriptedHost | None = None,
        name: str = "s",
        state: str = "state",
        config: Path = Path("/nowhere"),
        idle_s: float | None = None,
        store: dict[str, int] | None = None,
        **settings: object,
    ) -> Running:
        host = host or ScriptedHost()
        usual = {"ram_keep": 0, "ram_capacity": 16 * GIB, "ram_handover": "free"}
        known = usual | settings
        options = Options(
            config, str(tmp_path / name), str(tmp_path / state), False, idle_s, False
        )

        def moment() -> Moment:
            now_s = clock.current_time()
            return Moment(now_s, EPOCH_S + now_s)

        chosen = Settings(**known)
        hands: dict[str, Hand] = {"ram": RamHand(ScriptedBallast(host), host, chosen)}
        for word in chosen.disks:
            mounts, lasting = tmp_path / "scratch" / word, store is not None
            hands[f"disk.{word}"] = DiskHand(word, chosen, mounts, lasting=lasting)
        told = Told(store)
        daemon = Daemon(chosen, options, host, hands, moment, told)
        pen = Running(daemon, host, told)
        running.append(pen)
        nursery.start_soon(pen.serve)
        await pen.told.up.wait()
        await trio.testing.wait_all_tasks_blocked()
        return pen

    async with trio.open_nursery() as nursery:
        yield start
        for pen in running:
            if pen.daemon._journal._fd >= 0:
                await pen.stop()


@pytest.fixture
def slowly() -> Callable[[Callable[[], None]], tuple[Callable, threading.Event]]:
    """Make a blocking call wait until the test lets it go on."""
    gates = []

    def slow(call: Callable[[], None]) -> tuple[Callable, threading.Event]:
        gate = threading.Event()
        gates.append(gate)

        def waiting() -> None:
            assert gate.wait(PATIENCE_S)
            call()

        return waiting, gate

    yield slow
    for gate in gates:
        gate.set()


@pytest.fixture
def host() -> ScriptedHost:
    return ScriptedHost()
