"""The daemon: all parts joined; nurseries, signals, the clock.

Start order: configuration, ballast, journal (lock and replay), socket, then READY.
Whatever is wrong is said before anybody is let in.  There is no stop order: a stop
is a crash that was asked for, and start-up is the recovery path.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from pathlib import Path

import trio
from msgspec import structs

from holdingpen import __version__, places
from holdingpen.amounts import format_size
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import LOGIND, MACHINE, Fact, Moment, Seated
from holdingpen.core.handover import AS_IS, Choice
from holdingpen.core.pen import Pen
from holdingpen.core.resources import DISK
from holdingpen.core.rights import Rules
from holdingpen.daemon import terminals, translate
from holdingpen.daemon.acl import Doorway
from holdingpen.daemon.archive import Archive, record
from holdingpen.daemon.connections import Connections
from holdingpen.daemon.console import Console, Seen
from holdingpen.daemon.flag import Flag, flag_path, words
from holdingpen.daemon.hands import Hand
from holdingpen.daemon.keeper import Answer, Item, Keeper, Outcome, now
from holdingpen.daemon.lending import configured, keep_bytes, limits, rules
from holdingpen.daemon.listener import (
    open_listener,
    raise_descriptor_limit,
    user_name,
)
from holdingpen.daemon.options import Options, socket_path, state_path
from holdingpen.daemon.performer import Performer
from holdingpen.daemon.settings import Settings, read_settings
from holdingpen.daemon.systemd import ERROR, NOTICE, WARNING, Systemd, log
from holdingpen.daemon.yielding import Yielding
from holdingpen.devices import HostLike
from holdingpen.devices.logind import open_logind
from holdingpen.devices.pressure import open_pressure_trigger
from holdingpen.durations import format_duration
from holdingpen.errors import HoldingPenError
from holdingpen.journal.replay import replay
from holdingpen.journal.store import Store
from holdingpen.wire import messages as wire

#: Seconds between two looks at silent clients and at whether to end when idle.
LOOK_AROUND_S = 1.0


class Daemon:
    """All parts, joined."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        host: HostLike,
        hands: Mapping[str, Hand],
        clock: Callable[[], Moment] = now,
        systemd: Systemd | None = None,
    ) -> None:
        """Join the parts and open the socket; must be called inside trio.

        Args:
            settings: what the administrator decided.
            options: what the command line says.
            host: the machine.
            hands: resource to the hand that holds it back; closed with the daemon.
            clock: gives the moment, in any thread; its boot_s must go as trio's
                clock does.
            systemd: whoever started the daemon; None: nobody who is told anything.

        Raises:
            HoldingPenError: when the journal is damaged or taken, or the socket is.
        """
        self._options = options
        self._systemd = systemd or Systemd({})
        self._host = host
        self._hands = dict(hands)
        self._clock = clock
        self._since = clock()
        self._settings = settings
        #: Why the last reload changed nothing; empty: it did.
        self._mistake = ""
        self._wake_at_s = inf
        self._timer = trio.CancelScope()
        self.socket = where(settings, options)
        state = Path(options.state or settings.state or state_path(options))
        self._journal = Store.open(state, host.boot_id())
        for note in self._journal.notes:
            log(note)
        books = replay(self._journal.batches())
        self.keeper = Keeper(
            Pen(books, self._rules(), user_name),
            self._journal,
            self._perform,
            self._watch,
            clock,
        )
        self.keeper.wake = self._set_timer
        if options.user and not options.socket and not settings.socket:
            places.make_user_directory()
        # A client may come from now on, and waits until all is there.
        self._listener = self._open_listener()
        self._performer = Performer(
            self._hands, host, clock, self._happened, self._reply
        )
        #: boot_s when programs last waited for memory; minus infinity: never.
        self._pressed_s = -inf
        self._yielding = Yielding(
            open_pressure_trigger, host.ram_available, self._pressed
        )
        self._yielding.configure(self._yields_below())
        self._doorway = Doorway(self.socket, books.seated)
        self._console = Console(open_logind, self._bound, self._seen)
        self._archive = self._open_archive(state)
        self._flag = Flag(flag_path(self.socket))
        #: The lease it shows, and until when.
        self._flagged: tuple[int, float | None] | None = None
        self.connections = Connections(
            self._listener,
            limits(settings, raise_descriptor_limit()),
            books.last_conn + 1,
            self._put,
            self.keeper.turn,
            clock,
            self._surroundings,
            self._archive,
            self._systemd if self._systemd.can_keep else None,
            self.keeper.unsynced,
        )
        self._say_what_is_gone()
        stored = self.connections.adopt(self._systemd.stored("c"))
        if stored:
            log(f"{len(stored)} connections of the last daemon go on")
        self.keeper.flush = self.connections.flush
        self.keeper.put(self._started(stored))
        self.keeper.put(self._configured())
        # what a dead daemon had in its journal is put right before anybody is served
        self._console.configure(self._sees_logins())
        self.keeper.turn()
        self._open_door()

    def _open_listener(self) -> socket.socket:
        """The socket that clients connect to: systemd's, or one of our own."""
        activated = self._systemd.listening()
        #: Whether the socket is ours to remove.
        self._own_socket = activated is None
        if activated is not None:
            self.socket = Path(activated.getsockname())
            return activated
        settings = self._settings
        return open_listener(self.socket, settings.mode, settings.group)

    def _open_archive(self, state: Path) -> Archive:
        archive = Archive(state, self._answer, self._clock)
        archive.keep_s = self._settings.history_keep_s
        for note in archive.notes:
            log(note)
        # a crash may have come between the journal and the history
        pen = self.keeper.pen
        archive.add(record(lease, pen.rules) for lease in pen.books.ended.values())
        return archive

    async def run(self) -> None:
        """Serve until told to end by a signal, or until idle long enough.

        Raises:
            HoldingPenError: when the journal cannot be written, or the books do not
                balance.
            Exception: what broke one of the performer's threads.
        """
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.connections.serve)
                nursery.start_soon(self.keeper.sync_forever)
                nursery.start_soon(self._performer.watch)
                nursery.start_soon(self._performer.chase)
                nursery.start_soon(self._yielding.watch)
                nursery.start_soon(self._console.watch)
                nursery.start_soon(self._archive.work)
                nursery.start_soon(self._tick)
                nursery.start_soon(self._look_around, nursery.cancel_scope.cancel)
                await self._obey()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            failure = first_error(group)
        if failure is not None:
            raise failure

    async def _obey(self) -> None:
        """Do what signals say; returns when one says to end."""
        systemd = self._systemd
        with trio.open_signal_receiver(
            signal.SIGTERM, signal.SIGINT, signal.SIGHUP
        ) as signals:
            systemd.ready(f"serving {self.socket}")
            log(
                f"{__version__} serves {self.socket}; ballast: "
                f"{self._hands['ram'].ballast.kind}, "
                f"{format_size(self._settings.ram_hold)} wanted"
            )
            async for number in signals:
                if number != signal.SIGHUP:
                    systemd.stopping()
                    return
                systemd.reloading()
                self._reload()
                systemd.ready(self._mistake or f"serving {self.socket}")

    def close(self) -> None:
        """Let go of what the process would let go of anyway; for tests, mostly."""
        if self._own_socket:
            self.socket.unlink(missing_ok=True)
        self._listener.close()
        self.connections.close()
        self._performer.close()
        self._yielding.close()
        self._console.close()
        self._archive.close()
        self._flag.close()
        self._journal.close()
        for hand in self._hands.values():
            hand.close()

    def _yields_below(self) -> int | None:
        """Bytes available below which ballast is given up; None: never."""
        if self._settings.ram_policy != "yield":
            return None
        return keep_bytes(self._settings, self._host)

    def _sees_logins(self) -> bool:
        wanted = self._settings.console_logind
        return wanted if wanted is not None else not self._options.user

    def _bound(self) -> list[tuple[int, str]]:
        """Users, and the sessions of theirs with which they leave the seat."""
        seats = self.keeper.pen.books.seats
        return [x for x in seats if x[1] not in ("", LOGIND)]

    def _seen(self, seen: Seen) -> None:
        self._happened(ev.SeatsSeen(self._clock(), *seen))

    def _put(self, event: Item) -> None:
        """An event from a connection: for a grant the machine knows more."""
        if isinstance(event, ev.SeatAsked) and event.on:
            session = self._console.session_of(event.who.pid, event.uid)
            event = structs.replace(event, session=session)
        self.keeper.put(event)

    def _pressed(self) -> None:
        at = self._clock()
        self._pressed_s = at.boot_s
        self._happened(ev.Pressed(at, "ram"))

    def _given_up(self) -> list[str]:
        """What status says of ballast that was given up under pressure."""
        ram = self.keeper.pen.books.resources["ram"]
        missing = ram.hold - ram.drawn - ram.held - ram.taking
        if missing <= 0 or self._pressed_s < 0:
            return []
        ago = format_duration(self._clock().boot_s - self._pressed_s)
        return [
            f"{format_size(missing)} of the ballast are given up: programs waited for "
            f"memory {ago} ago. They are taken again when memory is free."
        ]

    def _rules(self) -> Rules:
        pool = {AS_IS: Choice("pool"), "program": Choice("pool")}
        wishes = {name: x.wishes(self._settings) for name, x in self._hands.items()}
        return rules(self._settings, {**wishes, "hugepages": pool})

    def _started(self, conns: frozenset[int]) -> ev.Started:
        """What goes on: connections, and what the hands find again for them."""
        books = self.keeper.pen.books
        held: dict[str, int] = {}
        kept: dict[str, frozenset[int]] = {}
        going_on = {
            x.id: x for x in books.held.values() if x.stays or x.ask.conn in conns
        }
        over = [x for x in books.held.values() if x.id not in going_on]
        for name, hand in self._hands.items():
            ledgers = books.ledgers.values()
            booked = sum(x.held for x in ledgers if x.resource == name)
            owing = {x.id for x in over if name in x.how}
            for lease, owed in books.coming.items():
                owing |= {lease for key in owed if books.ledgers[key].resource == name}
            adopted = hand.adopt(booked, going_on, frozenset(owing))
            for note in hand.notes:
                log(note)
            if adopted is not None:
                held[name], kept[name] = adopted.held, adopted.kept
                for lease in adopted.in_use:
                    self._performer.expect(name, lease)
        return ev.Started(self._clock(), self._host.boot_id(), conns, held, kept)

    def _say_what_is_gone(self) -> None:
        """Disks of the books that the configuration does not name any more."""
        for name, ledger in self.keeper.pen.books.resources.items():
            word = name.partition(".")[2]
            if name.startswith(f"{DISK}.") and ledger.hold and name not in self._hands:
                log(
                    f"[disk.{word}] is not in the configuration any more. What it held "
                    "and its leases had is still on the disk: put the table back and "
                    "run holdingpen --give-back.",
                    WARNING,
                )

    def _configured(self) -> ev.Configured:
        disks = {
            name.partition(".")[2]: (hand.total(), hand.unit)
            for name, hand in self._hands.items()
            if name.startswith(f"{DISK}.")
        }
        return configured(self._clock(), self._settings, self._host, disks)

    def _reload(self) -> None:
        try:
            settings = read_settings(self._options.config)
            for hand in self._hands.values():
                hand.wishes(settings)
        except HoldingPenError as why:
            log(f"{why} The configuration in force stays.", ERROR)
            self._mistake = f"the configuration in force is older than its file: {why}"
            return
        self._mistake = ""
        old = {word: disk.path for word, disk in self._settings.disks.items()}
        if old != {word: disk.path for word, disk in settings.disks.items()}:
            log("other [disk.NAME] tables count after a restart; these stay.")
            settings = structs.replace(settings, disks=self._settings.disks)
        self._settings = settings
        self.keeper.pen.rules = self._rules()
        for hand in self._hands.values():
            hand.configure(settings)
        self._yielding.configure(self._yields_below())
        self._console.configure(self._sees_logins())
        self._archive.keep_s = settings.history_keep_s
        most = raise_descriptor_limit()
        self.connections.limits = limits(settings, most)
        self._happened(self._configured())
        log(f"read {self._options.config} again")

    # Effects and events.

    def _perform(self, outcome: Outcome) -> None:
        match outcome:
            # first, because nearly all are: a class that does not match costs 0.1 us
            case do.TellGranted() | do.TellReleased():
                self.connections.send(outcome.conn, translate.reply(outcome))
            case Answer(conn, message):
                self.connections.send(conn, message)
            case do.Measure():
                if outcome.fresh:
                    self._performer.roots = self._roots(outcome.resource)
                self._performer.perform(outcome)
            case (
                do.DropBallast()
                | do.TakeBallast()
                | do.Prepare()
                | do.TakeBack()
                | do.Lend()
                | do.GiveStep()
            ):
                self._performer.perform(outcome)
            case do.Note(text):
                log(text, NOTICE)
            case do.TellUser(uid, text):
                terminals.tell(uid, text)
            case _:
                self.connections.send(outcome.conn, translate.reply(outcome))

    def _roots(self, resource: str) -> dict[int, int]:
        held = self.keeper.pen.books.held.values()
        return {x.id: x.ask.who.pid for x in held if resource in x.needs}

    def _happened(self, event: ev.Event) -> None:
        """Something came of an effect, or of the clock."""
        self.keeper.put(event)
        self.keeper.turn()
        self.connections.flush()

    def _reply(self, conn: int, message: wire.Reply, files: list[int]) -> None:
        if files:
            self.connections.send_files(conn, message, files)
        else:
            self.connections.send(conn, message)
        self.connections.flush()

    def _answer(self, conn: int, message: wire.Reply) -> None:
        self._reply(conn, message, [])

    def _watch(self, facts: list[Fact]) -> None:
        pen = self.keeper.pen
        if ended := pen.take_ended():
            # a booking that was taken back before its date was never there
            there = [x for x in ended if x.granted or x.starts_wall_s is None]
            self._archive.add(record(lease, pen.rules) for lease in there)
        self._raise_flag()
        if any(isinstance(what, Seated) for what in facts):
            self._open_door()
        if self._options.verbose or self.connections.watchers:
            at = self._clock()
            books = self.keeper.pen.books
            told = (translate.happened(what, at, books) for what in facts)
            happened = [one for one in told if one is not None]
            if self._options.verbose:
                for one in happened:
                    log(f"{one.what} {one.lease or ''} {one.facts}")
            self.connections.show(happened)

    def _open_door(self) -> None:
        """Let in who sits at the machine.  In a private pen nobody else is let in."""
        if not self._options.user:
            self._doorway.admit(self.keeper.pen.books.seated)

    def _raise_flag(self) -> None:
        """Show who has the whole machine, or that nobody has."""
        books = self.keeper.pen.books
        if books.resources[MACHINE].room:
            self._flag.show(None)
            self._flagged = None
            return
        for lease in books.held.values():
            shown = (lease.id, lease.until_wall_s)
            if not lease.exclusive or lease.ask.inside:
                continue
            if shown != self._flagged or self._flag.trouble:
                self._flagged = shown
                ask, until_s = lease.ask, lease.until_wall_s
                user, why = user_name(ask.who.uid), ask.reason or ask.label
                self._flag.show(words(user, until_s, self._clock().wall_s, why))
            return

    def _surroundings(self) -> translate.Surroundings:
        troubles = [self._journal.trouble] if self._journal.trouble else []
        troubles += [self._mistake] if self._mistake else []
        for hand in self._hands.values():
            troubles += hand.troubles(self._settings)
        troubles += self._performer.troubles.values()
        parts = (self._archive, self._flag, self.connections, self._systemd)
        troubles += [part.trouble for part in parts if part.trouble]
        troubles += self._given_up()
        troubles += [self._doorway.trouble] if self._doorway.trouble else []
        if self._settings.console_logind and self._console.why:
            troubles.append(self._console.why)
        if self._yielding.why:
            troubles.append(self._yielding.why)
        foreign = [
            wire.ForeignUser("ram", user.pid, user.uid, user.comm, user.ram_bytes)
            for user in self._performer.foreign
        ]
        return translate.Surroundings(
            __version__,
            self._since.wall_s,
            str(self.socket),
            self._performer.used,
            foreign,
            troubles,
            {name: hand.kept for name, hand in self._hands.items()},
            {name: hand.stolen for name, hand in self._hands.items()},
            {name: hand.made_good for name, hand in self._hands.items()},
        )

    # Time.

    def _set_timer(self, wake_at_s: float) -> None:
        if wake_at_s != self._wake_at_s:
            self._wake_at_s = wake_at_s
            ahead_s = wake_at_s - self._clock().boot_s
            self._timer.deadline = trio.current_time() + ahead_s

    async def _tick(self) -> None:
        while True:
            self._timer = trio.CancelScope()
            self._set_timer_anew()
            with self._timer:
                await trio.sleep_forever()
            self._happened(ev.Ticked(self._clock()))

    def _set_timer_anew(self) -> None:
        wake_at_s, self._wake_at_s = self._wake_at_s, -inf
        self._set_timer(max(wake_at_s, self._clock().boot_s))

    async def _look_around(self, end: Callable[[], None]) -> None:
        while True:
            await trio.sleep(LOOK_AROUND_S)
            self.connections.look_around()
            # the socket may have been made anew
            self._open_door()
            # a step of the wall clock moves dates, and the timer does not know; and it
            # is the keeper whose life counts
            self._happened(ev.Ticked(self._clock()))
            self._systemd.alive()
            idle_s = self._options.exit_idle_s if self._own_socket else None
            quiet_s = self._clock().boot_s - self.connections.idle_since_s
            if idle_s is None or self.connections or quiet_s < idle_s:
                continue
            if self.keeper.pen.books.expiries:
                # a reservation needs no connection, but somebody to hold it
                continue
            # Nobody can come in any more; somebody may have just done so, and then
            # others must find the socket as well.
            aside = self.socket.with_name(f"{self.socket.name}.ending")
            with suppress(FileNotFoundError):
                self.socket.rename(aside)
            self.connections.wake_up()
            if not self.connections:
                aside.unlink(missing_ok=True)
                log(f"idle for {quiet_s:.0f} s: ending")
                end()
                return
            with suppress(FileNotFoundError):
                aside.rename(self.socket)


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of what went wrong in a nursery; the others came of it.

    A nursery that was only cancelled from outside gives the group itself.
    """
    _, errors = group.split(trio.Cancelled)
    if errors is None:
        return group
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def where(settings: Settings, options: Options) -> Path:
    """Where the socket is."""
    return Path(options.socket or settings.socket or socket_path(options))
