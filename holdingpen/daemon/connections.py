"""The connections: every client, in one task on a private epoll.

One task owns an epoll of its own and awaits *its* descriptor through trio; a wake-up
serves everybody who spoke, in one batch.  A task for each connection costs three
times the CPU for a request and twenty times the memory when idle (both measured).

A client's end is exactly one `Gone`, whatever ended it: EOF, reset, half a frame, a
broken protocol, a silence at the start.  What limits a client:

    connections   in all and for each user; beyond that: told so and closed
    silence       no Hello in time: closed
    frames        `wire.framing` bounds them
    haste         at one wake-up so much work is done for a client; the rest waits for
                  the next, and meanwhile it is not read from
    not reading   while its replies pile up beyond BACKLOG_BYTES it is not listened
                  to; so it cannot ask for more, and what it is owed is bounded

**What outlives the daemon.**  Where systemd keeps descriptors, a connection that has a
lease or a place in the line is kept there, and the next daemon goes on with it
(`adopt`).  What a client says is taken out of the socket only when it was answered, so
that the next daemon reads it again; that a request is carried out once is seen to by
its number.  Connections with half a reply are not kept until they have read it, because
the next daemon would not know the rest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import trio

from holdingpen import __version__
from holdingpen.ballast.shelf import Store
from holdingpen.core import events as ev
from holdingpen.core.facts import Moment, Who
from holdingpen.core.pen import Pen
from holdingpen.daemon import translate
from holdingpen.daemon.archive import Archive, records
from holdingpen.daemon.keeper import Item, Question
from holdingpen.daemon.listener import groups_of, peer, peer_groups
from holdingpen.errors import HoldingPenError, Refusal, RemoteMistake
from holdingpen.wire import messages as wire
from holdingpen.wire.framing import REQUEST_BYTES_MAX, complete
from holdingpen.wire.session import ServerSession, encode

#: Bytes read from one client at one wake-up.
READ_BYTES: Final = 16 * 1024
#: Bytes looked at that stay in the socket: the longest frame must be seen whole.
PEEK_BYTES: Final = REQUEST_BYTES_MAX + 4
#: Work done for one client at one wake-up: requests count 1, and a page of status,
#: which takes a millisecond or two, counts as much as all others together.
WORK_MAX: Final = 64
#: After a wake-up, wait so long for the next without going back to trio, and so
#: often.  A client that asks again does so in 15 to 50 us (measured), and everything
#: else in the daemon can wait for this.
LINGER_S: Final = 100e-6
LINGER_TIMES: Final = 16
#: Clients served at one wake-up.
BATCH: Final = 512
#: Replies not yet read by a client before it is no longer read from.
BACKLOG_BYTES: Final = 64 * 1024
#: ... before a watcher, who asked to be told everything, is hung up on, and before a
#: waiter, who may be suspended on its terminal, is no longer told its place.
UNREAD_BYTES_MAX: Final = 1024 * 1024
#: Clients accepted at one wake-up.
ACCEPT_BATCH: Final = 128

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
#: There is half a frame, and more is waited for.
_MORE: Final = select.EPOLLIN | select.EPOLLET
_WELCOME: Final = encode(wire.Welcome(wire.VERSION, __version__))


class Parcel(bytes):
    """Bytes with whose first one open files go out; they are closed then."""

    files: list[int]


class Client:
    """One connection."""

    __slots__ = (
        "_groups",
        "backlog_bytes",
        "fd",
        "half_said",
        "kept",
        "mask",
        "number",
        "out",
        "owed",
        "parcels",
        "session",
        "sock",
        "todo",
        "who",
    )

    def __init__(self, sock: socket.socket, number: int, who: Who) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        #: Never reused.
        self.number = number
        self.who = who
        self.session = ServerSession()
        #: Requests heard and not yet worked off: under a thousand.  No deque, for an
        #: empty one takes 0.6 KiB.
        self.todo: list[wire.Request] = []
        #: Bytes to be written, in order.
        self.out: list[bytes] = []
        #: How many they are.
        self.backlog_bytes = 0
        #: How many of `out` are parcels.
        self.parcels = 0
        #: What the epoll waits for.
        self.mask = _IN
        self._groups: frozenset[int] | None = None
        #: Bytes that were read and still lie in the socket, until they are answered.
        self.owed = 0
        #: Whether the store has it.
        self.kept = False
        #: Whether it is not there only until it has read the half of a reply.
        self.half_said = False

    @property
    def groups(self) -> frozenset[int]:
        """His groups; the kernel is asked once, and not for those who ask nothing."""
        if self._groups is None:
            self._groups = peer_groups(self.sock)
        return self._groups


class Limits(msgspec.Struct, frozen=True):
    """How many may come in, and how long they may be silent at first."""

    connections_max: int
    per_user_max: int
    hello_within_s: float


class Connections:
    """All clients."""

    def __init__(
        self,
        listener: socket.socket,
        limits: Limits,
        first_number: int,
        put: Callable[[Item], None],
        turn: Callable[[], None],
        clock: Callable[[], Moment],
        surroundings: Callable[[], translate.Surroundings],
        archive: Archive | None = None,
        store: Store | None = None,
        unsynced: Callable[[], frozenset[int]] = frozenset,
    ) -> None:
        """Make them; nobody is accepted before `serve`.

        Args:
            listener: the listening socket, non-blocking.
            limits: how many may come in.
            first_number: the first number a connection may get.
            put: takes an event or question into the keeper's inbox.
            turn: has the keeper work its inbox off.
            clock: gives the moment for events.
            surroundings: what status tells beside the books.
            archive: what it knows of leases that are over; None: nothing is known.
            store: keeps descriptors for the next daemon; None: nobody does.
            unsynced: connections whose answers wait for the disk.
        """
        self._archive = archive
        self._store = store
        self._unsynced = unsynced
        #: How what clients say is read.
        self._flags = socket.MSG_PEEK if store is not None else 0
        #: Clients of whose words some still lie in their sockets.
        self._owing: set[Client] = set()
        #: Why a connection could not be kept; None: all are.
        self.trouble: str | None = None
        self.limits = limits
        self._listener = listener
        self._next = first_number
        self._put = put
        self._turn = turn
        self._clock = clock
        self._surroundings = surroundings
        self._epoll = select.epoll()
        self._epoll.register(listener.fileno(), _IN)
        self._by_fd: dict[int, Client] = {}
        self._by_number: dict[int, Client] = {}
        self._of_user: dict[int, int] = {}
        #: Connected and no Hello yet: number to the boot_s it must come by.
        self._silent: dict[int, float] = {}
        #: Clients with something to write at the end of the wake-up.
        self._dirty: set[Client] = set()
        #: Clients with requests left for the next wake-up.
        self._busy: set[Client] = set()
        self.watchers: set[Client] = set()
        #: boot_s of the last end of a connection, or of the start.
        self.idle_since_s = clock().boot_s
        self._paused = False

    def __len__(self) -> int:
        return len(self._by_fd)

    async def serve(self) -> None:
        """Serve all clients, for ever."""
        while True:
            if self._busy:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            self.wake_up()
            self._linger()

    def _linger(self) -> None:
        """Stay for who answers at once: a way through trio and back costs 10 us."""
        here = [self._epoll]
        for _ in range(LINGER_TIMES):
            if self._busy or not select.select(here, (), (), LINGER_S)[0]:
                return
            self.wake_up()

    def wake_up(self) -> None:
        """Serve everybody who is ready now, as one batch."""
        at = self._clock()
        if self._busy:
            busy, self._busy = self._busy, set()
            for client in busy:
                self._work(client, at)
        for fd, mask in self._epoll.poll(0, BATCH):
            speaker = self._by_fd.get(fd)
            if speaker is None:
                if fd == self._listener.fileno():
                    self._accept(at)
                continue
            if mask & _OUT:
                self._write(speaker)
                self._work(speaker, at)
            if mask & ~_OUT and speaker.fd >= 0:
                self._read(speaker, at)
        self._turn()
        self.flush()

    # In.

    def _accept(self, at: Moment) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                sock, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as why:
                if why.errno == errno.ECONNABORTED:
                    continue
                self._pause()
                return
            self._enter(sock, at)

    def _enter(self, sock: socket.socket, at: Moment) -> None:
        sock.setblocking(False)
        who = peer(sock)
        mine = self._of_user.get(who.uid, 0)
        problem = ""
        if len(self._by_fd) >= self.limits.connections_max:
            problem = f"all {self.limits.connections_max} connections are in use"
        elif mine >= self.limits.per_user_max:
            problem = f"you have {mine} connections, the most one user may have"
        if problem:
            refused = wire.Failed("limit", f"{problem}. Close some, or try later.")
            _last_word(sock, refused)
            return
        client = Client(sock, self._next, who)
        self._next += 1
        self._of_user[who.uid] = mine + 1
        self._by_fd[client.fd] = client
        self._by_number[client.number] = client
        self._silent[client.number] = at.boot_s + self.limits.hello_within_s
        self._epoll.register(client.fd, _IN)

    def _pause(self) -> None:
        """No descriptor is left: accept nobody until one is, or a moment passed."""
        if not self._paused:
            self._paused = True
            self._epoll.unregister(self._listener.fileno())

    def look_around(self) -> None:
        """Hang up on the silent, and accept again; to be called every so often."""
        if self._paused:
            self._paused = False
            self._epoll.register(self._listener.fileno(), _IN)
        now_s = self._clock().boot_s
        overdue = [n for n, by_s in self._silent.items() if by_s <= now_s]
        for number in overdue:
            late = RemoteMistake(
                f"no Hello within {self.limits.hello_within_s:g} s.", "out-of-turn"
            )
            self._break(self._by_number[number], self._clock(), late)
        if overdue:
            self._turn()
            self.flush()

    def _read(self, client: Client, at: Moment) -> None:
        if client.owed:
            # it hung up meanwhile, and what lies there was heard already
            return
        try:
            size = PEEK_BYTES if self._flags else READ_BYTES
            data = client.sock.recv(size, self._flags)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(client, at)
            return
        session = client.session
        was_open = session.open
        if self._flags:
            data = self._leave(client, data)
            if not data:
                return
        try:
            requests = session.receive(data)
        except RemoteMistake as mistake:
            self._break(client, at, mistake)
            return
        if not was_open and session.open:
            self._silent.pop(client.number, None)
        if len(requests) == 1 and client.mask == _IN and not client.todo:
            # nearly always: nothing stands before it, and its turn has come
            self._hear(client, requests[0], at)
            return
        client.todo.extend(requests)
        self._work(client, at)

    def _leave(self, client: Client, data: bytes) -> bytes:
        """Of what lies in the socket, what is to be heard now.

        Whole frames stay there until they are answered, and half a one until its end
        has come: the epoll then says only when there is more.
        """
        whole = complete(data)
        if whole:
            client.owed += whole
            self._owing.add(client)
            return data[:whole]
        announced = int.from_bytes(data[:4], "big") if len(data) >= 4 else 0
        if announced > REQUEST_BYTES_MAX or _has_ended(client.fd):
            # there will be no end of it
            return client.sock.recv(PEEK_BYTES)
        if client.mask == _IN:
            client.mask = _MORE
            self._epoll.modify(client.fd, _MORE)
        return b""

    def settle(self) -> None:
        """Take out of the sockets what was answered, and listen again."""
        if not self._owing:
            return
        unsynced = self._unsynced()
        for client in list(self._owing):
            if client.fd < 0:
                self._owing.discard(client)
            elif client.todo or client.number in unsynced:
                # not listened to meanwhile: the epoll would say that it is there
                self._arm(client)
            else:
                self._owing.discard(client)
                client.sock.recv(client.owed)
                client.owed = 0
                if client.mask != _IN:
                    self._arm(client)

    def _work(self, client: Client, at: Moment) -> None:
        """Work off what a client asked, as far as it is its turn."""
        todo, left = client.todo, WORK_MAX
        while todo and left > 0 and client.fd >= 0:
            if client.backlog_bytes > BACKLOG_BYTES:
                break
            request = todo.pop(0)
            left -= WORK_MAX if type(request) is wire.GetStatus else 1
            self._hear(client, request, at)
        else:
            if todo:
                self._busy.add(client)
        if todo or client.mask != _IN:
            self._arm(client)

    def _arm(self, client: Client) -> None:
        """Have the epoll wait for what can be done for this client now."""
        if client.fd < 0:
            return
        backlog = client.backlog_bytes
        listen = not client.todo and not client.owed and backlog <= BACKLOG_BYTES
        mask = (_IN if listen else 0) | (_OUT if backlog else 0)
        if mask != client.mask:
            client.mask = mask
            self._epoll.modify(client.fd, mask)

    def _hear(self, client: Client, request: wire.Request, at: Moment) -> None:
        number = client.number
        if self._store is not None and type(request) not in wire.READING:
            # before it is written down: else nobody might hear what came of it
            self.keep(number)
        match request:
            case wire.Acquire() | wire.Reserve() | wire.Extend():
                try:
                    event = self._asked(client, request, at)
                except Refusal as no:
                    refused = wire.Refused(request.id, no.code, str(no))
                    self._put(Question(number, lambda pen, at: refused))
                else:
                    self._put(event)
            case wire.Release(id, lease):
                who, groups = client.who, client.groups
                self._put(ev.Released(at, number, id, who, lease, groups))
            case wire.Shrink(id, lease, amounts):
                self._put(ev.ShrinkAsked(at, number, id, client.who, lease, amounts))
            case wire.Hello():
                self._append(client, _WELCOME)
            case wire.Fetch(id, lease, resource, first):
                self._put(ev.FetchAsked(at, number, id, lease, resource, first))
            case wire.HandOver(id, lease, resource, amount):
                self._put(ev.StepAsked(at, number, id, lease, resource, amount))
            case wire.SetCapacity(id, name, capacity):
                who, groups = client.who, client.groups
                self._put(ev.CapacityAsked(at, number, id, who, name, capacity, groups))
            case wire.Drain(id, on, reason):
                why = reason[: wire.TEXT_MAX] if on else None
                who, groups = client.who, client.groups
                self._put(ev.DrainAsked(at, number, id, who, why, groups))
            case wire.Seat(id, uid, on):
                who, groups = client.who, client.groups
                self._put(ev.SeatAsked(at, number, id, who, uid, on, groups))
            case wire.GetReport():
                self._look_up(number, request)
            case wire.Watch(id):
                self.watchers.add(client)
                self._put(Question(number, lambda pen, at: wire.Done(id)))
            case wire.GetStatus():
                around = self._surroundings
                self._put(
                    Question(
                        number,
                        lambda pen, at: translate.status(pen, at, request, around()),
                    )
                )
            case wire.GetStory():
                self._look_up(number, request)

    def _look_up(self, conn: int, request: wire.GetStory | wire.GetReport) -> None:
        """Answer from the books, and what they do not know from the archive."""
        archive, around = self._archive, self._surroundings

        def story(pen: Pen, at: Moment) -> wire.Message | None:
            assert isinstance(request, wire.GetStory)
            found = translate.story(pen, at, request, around())
            there = 0 < request.lease <= pen.books.last_lease
            if isinstance(found, wire.Story) or archive is None or not there:
                return found
            return archive.story(conn, request, found)

        def report(pen: Pen, at: Moment) -> wire.Message | None:
            assert isinstance(request, wire.GetReport)
            if archive is None:
                return wire.Refused(request.id, "unavailable", "no history is kept.")
            live = records(pen.books, at, pen.rules)
            return archive.report(conn, request, live, at.wall_s)

        ask = story if isinstance(request, wire.GetStory) else report
        self._put(Question(conn, ask))

    def _asked(
        self,
        client: Client,
        request: wire.Acquire | wire.Reserve | wire.Extend,
        at: Moment,
    ) -> ev.Event:
        number, who, groups = client.number, client.who, client.groups
        match request:
            case wire.Acquire():
                return translate.asked(at, number, who, request, groups)
            case wire.Reserve():
                return translate.reserve_asked(
                    at, number, who, request, groups, groups_of
                )
            case wire.Extend():
                return translate.extend_asked(at, number, who, request, groups)

    # Out.

    def send(self, number: int, message: wire.Message) -> None:
        """Have `message` go out at the end of the wake-up; the gone hear nothing."""
        client = self._by_number.get(number)
        if client is None:
            return
        if type(message) is wire.Waiting and client.backlog_bytes > UNREAD_BYTES_MAX:
            return
        self._append(client, encode(message))

    def send_files(self, number: int, message: wire.Message, files: list[int]) -> None:
        """Have `message` go out with open files, which are closed afterwards.

        Who has not yet read those sent before gets none: it asks again.
        """
        client = self._by_number.get(number)
        if client is None or client.parcels:
            _close(files)
            return
        parcel = Parcel(encode(message))
        parcel.files = files
        client.parcels += 1
        self._append(client, parcel)

    def show(self, messages: list[wire.Happened]) -> None:
        """Tell all watchers what happened."""
        data = b"".join(encode(message) for message in messages)
        for client in list(self.watchers):
            if client.backlog_bytes + len(data) > UNREAD_BYTES_MAX:
                slow = RemoteMistake("you watch, but do not read.", "too-slow")
                self._break(client, self._clock(), slow)
            else:
                self._append(client, data)

    def _append(self, client: Client, data: bytes) -> None:
        client.out.append(data)
        client.backlog_bytes += len(data)
        self._dirty.add(client)

    def flush(self) -> None:
        """Write what is to be written, but for those whom the epoll watches for it.

        They are written to when it says so, and then their requests go on.
        """
        while self._dirty:
            dirty, self._dirty = self._dirty, set()
            for client in dirty:
                if client.fd >= 0 and not client.mask & _OUT:
                    self._write(client)
        self.settle()

    def _write(self, client: Client) -> None:
        if client.parcels:
            self._write_parcels(client)
            return
        data = client.out[0] if len(client.out) == 1 else b"".join(client.out)
        try:
            sent = client.sock.send(data) if data else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            # It is gone, and the EOF that says so is on its way.
            client.out.clear()
            client.backlog_bytes = 0
            return
        client.out.clear()
        client.backlog_bytes = len(data) - sent
        if sent < len(data):
            client.out.append(data[sent:])
        self._mind_the_half(client)
        if sent < len(data) or client.mask != _IN:
            self._arm(client)

    def _write_parcels(self, client: Client) -> None:
        """Write one thing after the other, and files with what they belong to."""
        out = client.out
        while out:
            data = out[0]
            files = data.files if isinstance(data, Parcel) else []
            try:
                if files:
                    sent = socket.send_fds(client.sock, [data], files)
                else:
                    sent = client.sock.send(data) if data else 0
            except BlockingIOError:
                break
            except OSError as why:
                self._cannot_write(client, why)
                return
            if files:
                client.parcels -= 1
                _close(files)
            client.backlog_bytes -= sent
            out[0] = bytes(data[sent:])
            if out[0]:
                break
            del out[0]
        self._mind_the_half(client)
        self._arm(client)

    def _mind_the_half(self, client: Client) -> None:
        """Keep no connection on which half a reply was said: nobody knows the rest."""
        if client.backlog_bytes and client.kept and self._store is not None:
            with contextlib.suppress(HoldingPenError):
                self._store.forget(f"c{client.number}")
                client.kept, client.half_said = False, True
        elif client.half_said and not client.backlog_bytes:
            client.half_said = False
            self.keep(client.number)

    def _cannot_write(self, client: Client, why: OSError) -> None:
        """It is gone, or it lets descriptors pile up unread (ETOOMANYREFS)."""
        _drop_parcels(client)
        client.out.clear()
        client.backlog_bytes = 0
        if why.errno in (errno.ETOOMANYREFS, errno.EMFILE, errno.ENFILE):
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_RDWR)

    # What outlives the daemon.

    def keep(self, number: int) -> None:
        """Have connection `number` kept for the next daemon."""
        client = self._by_number.get(number)
        if self._store is None or client is None:
            return
        try:
            if not client.kept:
                self._store.keep(f"c{number}", client.fd)
                client.kept = True
            self.trouble = None
        except HoldingPenError as why:
            self.trouble = f"leases do not outlive a restart of the daemon: {why}"

    def adopt(self, stored: Mapping[str, int]) -> frozenset[int]:
        """Go on with the connections that a former daemon had kept.

        Returns:
            Their numbers.
        """
        for name, fd in stored.items():
            digits = name.removeprefix("c")
            if not name.startswith("c") or not digits.isdigit():
                os.close(fd)
                continue
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            client = Client(sock, int(digits), peer(sock))
            client.session.resume()
            client.kept = True
            self._next = max(self._next, client.number + 1)
            uid = client.who.uid
            self._of_user[uid] = self._of_user.get(uid, 0) + 1
            self._by_fd[client.fd] = client
            self._by_number[client.number] = client
            self._epoll.register(client.fd, _IN)
        return frozenset(self._by_number)

    # Ends.

    def close(self) -> None:
        """Close all descriptors but the listener's; the clients hear it as EOF."""
        for client in self._by_fd.values():
            _drop_parcels(client)
            client.sock.close()
        self._epoll.close()

    def _break(self, client: Client, at: Moment, mistake: RemoteMistake) -> None:
        """The protocol is broken: say how, as far as the socket takes it, and close."""
        failed = encode(wire.Failed(mistake.code, str(mistake)))
        client.out.append(failed)
        self._write(client)
        self._close(client, at)

    def _close(self, client: Client, at: Moment) -> None:
        self._epoll.unregister(client.fd)
        del self._by_fd[client.fd]
        del self._by_number[client.number]
        client.fd = -1
        _drop_parcels(client)
        if client.kept and self._store is not None:
            # the store has a copy, and to close ours would be no end
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(HoldingPenError):
                self._store.forget(f"c{client.number}")
        client.sock.close()
        self._silent.pop(client.number, None)
        client.todo.clear()
        self._busy.discard(client)
        self.watchers.discard(client)
        left = self._of_user[client.who.uid] - 1
        if left:
            self._of_user[client.who.uid] = left
        else:
            del self._of_user[client.who.uid]
        self.idle_since_s = at.boot_s
        self._put(ev.Gone(at, client.number))


def _has_ended(fd: int) -> bool:
    """Whether the other end will say no more."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))


def _drop_parcels(client: Client) -> None:
    for data in client.out if client.parcels else ():
        if isinstance(data, Parcel):
            _close(data.files)
    client.parcels = 0


def _close(files: list[int]) -> None:
    for fd in files:
        os.close(fd)


def _last_word(sock: socket.socket, message: wire.Message) -> None:
    with sock:
        try:
            sock.send(encode(message))
        except OSError:
            return
