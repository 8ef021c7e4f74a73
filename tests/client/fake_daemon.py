"""A daemon that plays back answers, for the tests of client/ and ctl/."""

import os
import socket
import threading
from itertools import pairwise
from typing import NamedTuple

from holdingpen.errors import RemoteMistake
from holdingpen.wire import messages as wire
from holdingpen.wire.session import ServerSession, encode


class Parcel(NamedTuple):
    """A reply, or bytes, with open files, which are closed once it is sent."""

    message: wire.Message | bytes
    fds: list[int]
    #: Where its frame is cut, to be sent in parts; the files go with the first.
    cuts: tuple[int, ...] = ()

    def send(self, sock):
        data = _bytes(self.message)
        ends = [*self.cuts, len(data)]
        socket.send_fds(sock, [data[: ends[0]]], self.fds)
        self.close()
        for begin, end in pairwise(ends):
            sock.sendall(data[begin:end])

    def close(self):
        while self.fds:
            os.close(self.fds.pop())


class FakeDaemon:
    """Listens on `path`; `answer(request)` lists the replies.

    None in it: hang up; bytes: send them as they are; a Parcel: with its files.
    """

    def __init__(self, path, answer):
        self.path = str(path)
        self.answer = answer
        #: Every request heard, Hello too.
        self.heard = []
        #: Set when a client has closed its connection.
        self.left = threading.Event()
        #: The connection that is served now.
        self.client = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                self.client = client
                self._converse(client)
            self.left.set()

    def _converse(self, client):
        session = ServerSession()
        while True:
            try:
                data = client.recv(65536)
                requests = session.receive(data)
            except (RemoteMistake, OSError):
                return
            if not data:
                return
            for request in requests:
                self.heard.append(request)
                replies = self.answer(request)
                if type(request) is wire.Hello and replies == []:
                    replies = [wire.Welcome(wire.VERSION, "0.1.0")]
                try:
                    for reply in replies:
                        if reply is None:
                            return
                        _send(client, reply)
                except OSError:
                    return  # it did not wait for the answer
                finally:
                    for reply in replies:
                        if isinstance(reply, Parcel):
                            reply.close()

    def say(self, message):
        """Say something unasked to the client that is served now."""
        self.client.sendall(encode(message))

    def close(self):
        """End it; the connections must be closed before."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()
        assert not self._thread.is_alive()


def _send(client, reply):
    if isinstance(reply, Parcel):
        reply.send(client)
    else:
        client.sendall(_bytes(reply))


def _bytes(message):
    return message if isinstance(message, bytes) else encode(message)
