"""Many clients at once."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from functools import partial

from harness import (
    OTHER_CORE,
    PLENTY,
    Client,
    Row,
    Run,
    Server,
    acquire,
    daemon,
    echo,
    in_turn,
    on_core,
    ratios,
    versus,
)

from holdingpen.wire import messages as wire
from holdingpen.wire.session import ClientSession, encode

BUSY = 256
#: What load.c puts the request's id and the lease's id in the place of.
ID, LEASE = 0x7F7F7F01, 0x7F7F7F02


def cpu(run: Run) -> Iterator[Row]:
    load = run.program("load")
    seconds = "1.0" if not run.quick else "0.6"
    frames = [
        encode(message).hex()
        for message in (
            wire.Hello(wire.VERSION, "load"),
            acquire(ID, {"slot": 1}),
            wire.Release(ID, LEASE),
        )
    ]

    rates: dict[Server, list[float]] = {}

    def cpu_for_one(server: Server) -> float:
        command = [load, server.path, str(BUSY), "0.3", seconds, *frames]
        with (
            on_core(OTHER_CORE),
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as going,
        ):
            if going.stdout.readline() != "go\n":
                raise RuntimeError("the load did not start")
            before = server.cpu_s()
            replies = int(going.stdout.readline())
            spent = server.cpu_s() - before
        rates.setdefault(server, []).append(replies / float(seconds))
        return spent / replies

    with daemon(run, "daemon") as ours, echo(run, "stream") as stream, \
            echo(run, "epoll") as epoll:  # fmt: skip
        for server in (ours, stream, epoll):
            # closed at once, so that every round begins alike
            cpu_for_one(server)
        mine, streamed, bare = in_turn(
            run.pick(5, 2),
            partial(cpu_for_one, ours),
            partial(cpu_for_one, stream),
            partial(cpu_for_one, epoll),
        )
    figure = f"server CPU for a request, {BUSY} clients"
    yield Row(
        figure, "a SocketStream echo in trio, a task each",
        ratios(mine, streamed), versus(mine, streamed, 1e6, "us"), 0.6,
    )  # fmt: skip
    yield Row(
        "  the same", "an epoll echo in trio",
        ratios(mine, bare), versus(mine, bare, 1e6, "us"),
    )  # fmt: skip
    yield Row(
        "  requests per second", "-", rates[ours][1:],
        "an acquire and a release of a counted resource in turn", unit="/s",
    )  # fmt: skip


def _descriptors(wanted: int) -> int:
    """So many of `wanted` connections as the limit on descriptors allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, hard - 100)


def idle(run: Run) -> Iterator[Row]:
    count = _descriptors(10_000)
    config = f"{PLENTY}[daemon]\nconnections_per_user_max = {count + 10}\n"
    with daemon(run, "daemon", config) as ours:
        # what the first ones cost is not what one more costs
        clients = [Client(ours.path) for _ in range(100)]
        before = ours.rss_bytes()
        clients += [Client(ours.path) for _ in range(count - len(clients))]
        grown = ours.rss_bytes() - before
        yield Row(
            "memory for an idle connection", "-", [grown / (count - 100) / 1024],
            f"{count:,} connections that said Hello", 1.0, unit="KiB",
        )  # fmt: skip
        before = ours.rss_bytes()
        for client in clients:
            client.acquire({"slot": 1})
        grown = ours.rss_bytes() - before
        yield Row(
            "  and for its lease", "-", [grown / count / 1024],
            f"{count:,} connections hold one each", unit="KiB",
        )  # fmt: skip


#: Enough to say that nothing gave.
ENOUGH = 200_000
CONNECTIONS = 16


def most(run: Run) -> Iterator[Row]:
    enough = run.pick(ENOUGH, 20_000)
    with daemon(run, "daemon") as ours:
        held, why = _hold(ours, enough)
        grown = ours.rss_bytes() / 2**20
    yield Row(
        "leases held at once until something gives", "-", [held],
        f"{why}; {CONNECTIONS} connections, limits raised, daemon has {grown:.0f} MiB",
        10_000, at_least=True,
    )  # fmt: skip
    with daemon(run, "as-configured", "[resources]\nslot = 1_000_000\n") as ours:
        held, why = _hold(ours, enough)
    yield Row("  with the limits as they come", "-", [held], why, 10_000, at_least=True)


def _hold(server: Server, enough: int) -> tuple[int, str]:
    """How many leases could be had, and what came then."""
    clients = [Client(server.path) for _ in range(CONNECTIONS)]
    sessions = [_Opened() for _ in clients]
    held, batch, last = 0, 100, dict.fromkeys(range(CONNECTIONS), 0)
    while held < enough:
        for which, client in enumerate(clients):
            first = last[which] + 1
            last[which] += batch
            frames = [encode(acquire(first + n, {"slot": 1})) for n in range(batch)]
            client.sock.sendall(b"".join(frames))
            left = batch
            while left:
                data = client.sock.recv(65536)
                if not data:
                    return held, "the daemon hung up"
                for reply in sessions[which].receive(data):
                    if type(reply) is not wire.Granted:
                        return held, f"{reply}"
                    held += 1
                    left -= 1
    return held, "nothing gave"


class _Opened(ClientSession):
    """The client's end after the Welcome."""

    def __init__(self) -> None:
        super().__init__()
        self.daemon = "open"
