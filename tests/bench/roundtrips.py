"""One client and its round trips.  Server and client share a core: see harness.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from harness import (
    HERE,
    SERVER_CORE,
    Client,
    Row,
    Run,
    acquire,
    daemon,
    echo,
    in_turn,
    median,
    on_core,
    pair_p50,
    ratios,
    versus,
)

from holdingpen.wire import messages as wire
from holdingpen.wire.session import encode

#: Seconds of one round of one side.
ROUND_S = 0.4
SLOT = {"slot": 1}
RAM = {"ram": 2**20}
HELLO = encode(wire.Hello(wire.VERSION, "bench"))


def single(run: Run) -> Iterator[Row]:
    with (
        daemon(run, "daemon") as ours,
        echo(run, "epoll") as epoll,
        echo(run, "stream") as stream,
        on_core(SERVER_CORE),
    ):
        pen, client = Client(ours.path), partial(pair_p50, seconds=ROUND_S)
        slot, bare, streamed, ram = in_turn(
            run.pick(9, 3),
            partial(client, pen, amounts=SLOT),
            partial(client, Client(epoll.path), amounts=SLOT),
            partial(client, Client(stream.path), amounts=SLOT),
            partial(client, pen, amounts=RAM),
        )
    figure, two = "acquire + release, p50", "two round trips of"
    yield Row(
        f"{figure}, journal on", f"{two} an epoll echo in trio",
        ratios(slot, bare), versus(slot, bare, 1e6, "us"), 1.5,
    )  # fmt: skip
    yield Row(
        "  the same", f"{two} a SocketStream echo",
        ratios(slot, streamed), versus(slot, streamed, 1e6, "us"),
    )  # fmt: skip
    yield Row(
        "  the same of 1 MiB ram, measured after", f"{two} an epoll echo in trio",
        ratios(ram, bare), versus(ram, bare, 1e6, "us"),
    )  # fmt: skip


def journaled(run: Run) -> Iterator[Row]:
    forgetful = (str(HERE / "without_journal.py"),)
    with (
        daemon(run, "on") as on,
        daemon(run, "off", program=forgetful) as off,
        on_core(SERVER_CORE),
    ):
        with_it, without = in_turn(
            run.pick(9, 3),
            partial(pair_p50, Client(on.path), ROUND_S, SLOT),
            partial(pair_p50, Client(off.path), ROUND_S, SLOT),
        )
    yield Row(
        "acquire + release, journal on", "journal off",
        ratios(with_it, without), versus(with_it, without, 1e6, "us"), 1.2,
    )  # fmt: skip


def connecting(run: Run) -> Iterator[Row]:
    with daemon(run, "daemon") as ours, on_core(SERVER_CORE):

        def connect_p50() -> float:
            spent = []
            clock = time.perf_counter
            end = clock() + ROUND_S
            while (start := clock()) < end:
                # Hello and the request go out in one write, as gatekeeper's do
                client = Client(ours.path, greets=False)
                client.sock.sendall(HELLO + encode(acquire(1, SLOT)))
                while type(client.hear()) is not wire.Granted:
                    pass
                client.close()
                spent.append(clock() - start)
            return median(spent)

        open_one = Client(ours.path)
        each, pair = in_turn(
            run.pick(7, 3), connect_p50, partial(pair_p50, open_one, ROUND_S, SLOT)
        )
    yield Row(
        "connect + acquire + close", "acquire + release when connected",
        ratios(each, pair), versus(each, pair, 1e6, "us"), 2.0,
    )  # fmt: skip
