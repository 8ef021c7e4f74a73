"""A daemon that does nothing but what systemd.py is for; it stands in for the real one.

One line from a client, one line back:

    who            its connection's name, how many daemons there were before, its pid
    hang           no more signs of life
    twice NAME     keeps another descriptor as NAME
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

from holdingpen.daemon import systemd
from holdingpen.daemon.systemd import Systemd

SIZE = 4096


def say(text: str, level: int = systemd.INFO) -> None:
    print(systemd.line(text, level, journal=systemd.to_journal()), file=sys.stderr)


class Tiny:
    def __init__(self) -> None:
        self.systemd = Systemd()
        listener = self.systemd.listening()
        assert listener is not None
        self.listener = listener
        stored = self.systemd.stored()
        self.ballast = stored.pop("ballast", -1)
        if self.ballast < 0:
            self.ballast = os.memfd_create("ballast", os.MFD_CLOEXEC)
            os.truncate(self.ballast, SIZE)
            self.systemd.keep("ballast", self.ballast)
            self.before = 0
        else:
            self.before = os.pread(self.ballast, 1, 0)[0] + 1
        os.pwrite(self.ballast, bytes([self.before]), 0)
        self.clients = {name: socket.socket(fileno=fd) for name, fd in stored.items()}
        self.last = max((int(name[1:]) for name in self.clients), default=0)
        self.epoll = select.epoll()
        self.epoll.register(self.listener)
        for client in self.clients.values():
            self.epoll.register(client, select.EPOLLIN)
        self.hangs = False

    def status(self) -> str:
        return f"daemon {self.before}, {len(self.clients)} clients"

    def serve(self) -> None:
        signal.signal(signal.SIGHUP, lambda *_: self.reload())
        say("an error\nof two lines", systemd.ERROR)
        say("a warning", systemd.WARNING)
        say("for information")
        self.systemd.ready(self.status())
        wait_s = (self.systemd.watchdog_s or 10.0) / 3
        while True:
            if not self.hangs:
                self.systemd.alive()
            for fd, _ in self.epoll.poll(wait_s):
                self.accept() if fd == self.listener.fileno() else self.hear(fd)

    def reload(self) -> None:
        self.systemd.reloading()
        self.systemd.ready(f"{self.status()}, read again")

    def accept(self) -> None:
        client, _ = self.listener.accept()
        self.last += 1
        name = f"c{self.last}"
        self.clients[name] = client
        began_s = time.monotonic()
        self.systemd.keep(name, client.fileno())
        kept = self.systemd.barrier()
        self.barrier_ms = (time.monotonic() - began_s) * 1e3
        assert kept
        self.epoll.register(client, select.EPOLLIN)

    def hear(self, fd: int) -> None:
        name = next(x for x, y in self.clients.items() if y.fileno() == fd)
        client = self.clients[name]
        words = client.recv(1000).decode().split()
        match words:
            case []:
                self.epoll.unregister(client)
                del self.clients[name]
                client.shutdown(socket.SHUT_RDWR)
                client.close()
                self.systemd.forget(name)
                self.systemd.status(self.status())
            case ["hang"]:
                self.hangs = True
            case ["twice", other]:
                self.systemd.keep(other, os.dup(self.ballast))
                client.sendall(b"kept\n")
            case _:
                said = f"{name} {self.before} {os.getpid()} {os.environ.get('FDSTORE')}"
                client.sendall(f"{said}\n".encode())


Tiny().serve()
