"""One conversation, without the wire: bytes in, messages out, and who may speak when.

Both roles are here, so that two of them joined can be tested without a socket.

    state     server hears                    client hears
    fresh     Hello, and then it is open      Welcome or Failed
    open      any Request but Hello           any Reply but Welcome
    closed    nothing; EOF is final           the same

A mistake of the other end raises `RemoteMistake` and closes the session: nothing
that comes after it can be trusted.
"""

from __future__ import annotations

from typing import Final

import msgspec

from holdingpen.errors import RemoteMistake
from holdingpen.wire import messages as wire
from holdingpen.wire.framing import REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Unframer, frame

#: What decoding raises for bytes that are no message.  An unknown field is skipped
#: however deep it is nested, until that goes too deep.
_NO_MESSAGE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_encode = msgspec.msgpack.Encoder().encode
_request: Final = msgspec.msgpack.Decoder(wire.Request).decode
_reply: Final = msgspec.msgpack.Decoder(wire.Reply).decode


def encode(message: wire.Message) -> bytes:
    """One message as the bytes of its frame."""
    return frame(_encode(message))


class ServerSession:
    """The daemon's end of one connection."""

    __slots__ = ("_frames", "_resumed", "name", "open")

    def __init__(self) -> None:
        self._frames = Unframer(REQUEST_BYTES_MAX)
        #: Whether Hello was heard.
        self.open = False
        #: The client's name for itself.
        self.name = ""
        self._resumed = False

    def resume(self) -> None:
        """Go on with a conversation that another server began.

        Its Hello may come once more, because nobody knows whether it was answered.
        """
        self.open = self._resumed = True

    def receive(self, data: bytes) -> list[wire.Request]:
        """Take bytes from the client.

        Returns:
            The requests that are complete now; the Hello is among them.

        Raises:
            RemoteMistake: for a frame too long, a payload that is no message, an
                unknown version, or a message out of turn.
        """
        requests = []
        for payload in self._frames.feed(data):
            try:
                request = _request(payload)
            except _NO_MESSAGE as why:
                raise _undecodable(payload, why) from None
            if not self.open or type(request) is wire.Hello:
                self._begin(request)
            requests.append(request)
        return requests

    def _begin(self, request: wire.Request) -> None:
        if type(request) is not wire.Hello:
            raise RemoteMistake("say Hello before anything else.", "out-of-turn")
        if self.open and not self._resumed:
            raise RemoteMistake("Hello was said already.", "out-of-turn")
        if request.version != wire.VERSION:
            raise RemoteMistake(
                f"you speak version {request.version}; this daemon speaks "
                f"{wire.VERSION}. Install the client of the same release.",
                "wrong-version",
            )
        self.name = request.name[: wire.TEXT_MAX]
        self.open, self._resumed = True, False

    def end(self) -> None:
        """The client closed its end.

        Raises:
            RemoteMistake: `half-a-frame`, when it stopped in the middle of one.
        """
        _whole(self._frames)


class ClientSession:
    """The client's end of one connection."""

    __slots__ = ("_frames", "daemon")

    def __init__(self) -> None:
        self._frames = Unframer(REPLY_BYTES_MAX)
        #: The daemon's version, once it said Welcome.
        self.daemon = ""

    def hello(self, name: str) -> bytes:
        """The bytes that open the conversation."""
        return encode(wire.Hello(wire.VERSION, name))

    def receive(self, data: bytes) -> list[wire.Reply]:
        """Take bytes from the daemon.

        Returns:
            The replies that are complete now, without the Welcome.

        Raises:
            RemoteMistake: when the daemon said Failed about the whole
                conversation, or does not speak this protocol.
        """
        replies = []
        for payload in self._frames.feed(data):
            try:
                reply = _reply(payload)
            except _NO_MESSAGE as why:
                raise _undecodable(payload, why) from None
            if type(reply) is wire.Failed and reply.id is None:
                raise RemoteMistake(f"the daemon hung up: {reply.message}", reply.code)
            if type(reply) is wire.Welcome:
                # said again by one that was restarted
                self.daemon = reply.daemon
            elif not self.daemon:
                raise RemoteMistake("the daemon said no Welcome.", "out-of-turn")
            else:
                replies.append(reply)
        return replies

    def end(self) -> None:
        """The daemon closed its end.

        Raises:
            RemoteMistake: `half-a-frame`, when it stopped in the middle of one.
        """
        _whole(self._frames)


def _undecodable(payload: bytes, why: Exception) -> RemoteMistake:
    return RemoteMistake(
        f"a frame of {len(payload)} bytes is no message of version {wire.VERSION}: "
        f"{why}.",
        "not-msgpack",
    )


def _whole(frames: Unframer) -> None:
    if frames.half:
        raise RemoteMistake(
            f"the connection ended {frames.half} bytes into a frame.", "half-a-frame"
        )
