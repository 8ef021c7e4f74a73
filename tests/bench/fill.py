"""Fills a daemon: fill.py SOCKET LEASES WAITING; says "ready"; stays until killed.

One lease takes all 5 of `full`; LEASES hold a `slot` each; WAITING stand in the line,
in 20 shapes that all want `full`.  What the daemon tells them is read and thrown
away, as a gatekeeper's terminal would.
"""

from __future__ import annotations

import select
import socket
import sys

from harness import Client, acquire

from holdingpen.wire import messages as wire
from holdingpen.wire.session import ClientSession, encode

#: Resources of the daemon to be filled.
CONFIG = "full = 5\nwide = 1_000_000_000\n"
#: Connections the leases and the waiters are spread over, and requests in one write.
CONNECTIONS, PIPELINED = 8, 100


def shape(number: int) -> dict[str, int]:
    return {"full": 1 + number % 5, "wide": 1 + number // 5 % 4}


class Filler:
    """One connection with many requests under way."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self._session = ClientSession()
        self.sock.sendall(self._session.hello("fill"))
        self._number = 0

    def ask_all(self, amounts: list[dict[str, int]], answer: type) -> None:
        """Ask for all of these, and hear an `answer` to each."""
        frames = []
        for one in amounts:
            self._number += 1
            frames.append(encode(acquire(self._number, one)))
        self.sock.sendall(b"".join(frames))
        heard: set[int] = set()
        while len(heard) < len(amounts):
            for reply in self._session.receive(self.sock.recv(65536)):
                if type(reply) is wire.Refused:
                    sys.exit(f"{reply}")
                if type(reply) is answer and reply.id > self._number - len(amounts):
                    heard.add(reply.id)


def main() -> None:
    path, leases, waiting = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    holder = Client(path)
    holder.acquire({"full": 5})
    fillers = [Filler(path) for _ in range(CONNECTIONS)]
    held = [{"slot": 1}] * leases
    waits = [shape(number) for number in range(waiting)]
    for wanted, answer in ((held, wire.Granted), (waits, wire.Waiting)):
        for turn, start in enumerate(range(0, len(wanted), PIPELINED)):
            filler = fillers[turn % CONNECTIONS]
            filler.ask_all(wanted[start : start + PIPELINED], answer)
    print("ready", flush=True)
    while True:
        for speaker in select.select([x.sock for x in fillers], [], [])[0]:
            if not speaker.recv(1 << 20):
                return


if __name__ == "__main__":
    main()
