"""A client that asks something all the time, and knows what was answered.

What it has and had to wait for shows whether a daemon was missed meanwhile.
"""

from __future__ import annotations

import threading
import time

from holdingpen.client.finding import dial
from holdingpen.errors import HoldingPenError
from holdingpen.wire import messages as wire
from holdingpen.wire.session import ClientSession, encode

MIB = 2**20


class Worker:
    """A client with a lease or a place in the line, who asks something all the time."""

    def __init__(self, path: str, amounts: dict[str, int]) -> None:
        self._socket, _ = dial(path)
        self._session = ClientSession()
        self._socket.settimeout(60.0)
        ask = wire.Acquire(1, amounts)
        self._socket.sendall(self._session.hello("worker") + encode(ask))
        self.lease = 0
        self.granted = False
        #: Requests sent, and those that were answered, in any order.
        self.asked, self.answered = 1, set()
        self.pause_s = 0.0
        self.failure: Exception | None = None
        self.doubled = 0
        self._stop = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stop:
                self.asked += 1
                self._socket.sendall(encode(wire.GetStory(self.asked, self.lease or 1)))
                began_s = time.monotonic()
                while self.asked not in self.answered:
                    self._hear()
                self.pause_s = max(self.pause_s, time.monotonic() - began_s)
                time.sleep(0.02)
        except (HoldingPenError, OSError) as why:
            self.failure = why

    def _hear(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError("hung up")
        for reply in self._session.receive(data):
            if isinstance(reply, wire.Waiting | wire.Granted):
                if self.lease not in (0, reply.lease):
                    self.doubled += 1
                self.lease = reply.lease
                self.granted |= isinstance(reply, wire.Granted)
            else:
                self.answered.add(getattr(reply, "id", 0))

    def stop(self) -> None:
        self._stop = True
        self._thread.join(90.0)
        self._socket.close()
