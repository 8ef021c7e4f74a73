"""The bare echo servers that the daemon is measured against: echo.py SOCKET KIND.

They read the daemon's frames, decode every request and encode a reply of the same
shape and size as the daemon's; there is nothing else in them.

    epoll     one trio task that owns an epoll and awaits its descriptor, as the
              daemon does
    stream    a trio task and a SocketStream for each connection, as the book says
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys

import msgspec
import trio

from holdingpen.wire import messages as wire

_decode = msgspec.msgpack.Decoder(wire.Request).decode
_encode = msgspec.msgpack.Encoder().encode

READ_BYTES = 16 * 1024


def reply(request: wire.Request) -> wire.Reply:
    match request:
        case wire.Acquire(id, amounts):
            return wire.Granted(id, 1_000_000 + id, amounts)
        case wire.Release(id, lease):
            return wire.Released(id, lease)
    return wire.Welcome(wire.VERSION, "echo")


def answer(data: bytes) -> tuple[bytes, bytes]:
    """All replies to the whole frames in `data`, and what is left of it."""
    replies = []
    start, end = 0, len(data)
    while end - start >= 4:
        stop = start + 4 + int.from_bytes(data[start : start + 4], "big")
        if stop > end:
            break
        payload = _encode(reply(_decode(data[start + 4 : stop])))
        replies.append(len(payload).to_bytes(4, "big") + payload)
        start = stop
    return b"".join(replies), data[start:]


async def serve_by_epoll(listener: socket.socket) -> None:
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    rests: dict[int, bytes] = {}
    while True:
        await trio.lowlevel.wait_readable(epoll.fileno())
        for fd, _ in epoll.poll(0, 512):
            if fd == listener.fileno():
                client, _address = listener.accept()
                client.setblocking(False)
                epoll.register(client, select.EPOLLIN)
                clients[client.fileno()] = client
                rests[client.fileno()] = b""
                continue
            try:
                data = clients[fd].recv(READ_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                epoll.unregister(fd)
                clients.pop(fd).close()
                continue
            replies, rests[fd] = answer(rests[fd] + data if rests[fd] else data)
            with contextlib.suppress(ConnectionError):
                clients[fd].send(replies)


async def serve_one(stream: trio.SocketStream) -> None:
    rest = b""
    async with stream:
        # a load that ends does not wait for its last replies
        with contextlib.suppress(trio.BrokenResourceError):
            while data := await stream.receive_some(READ_BYTES):
                replies, rest = answer(rest + data if rest else data)
                await stream.send_all(replies)


async def serve_by_stream(listener: socket.socket) -> None:
    incoming = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    await trio.serve_listeners(serve_one, [incoming])


def main() -> None:
    path, kind = sys.argv[1:]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(4096)
    listener.setblocking(False)
    trio.run({"epoll": serve_by_epoll, "stream": serve_by_stream}[kind], listener)


if __name__ == "__main__":
    main()
