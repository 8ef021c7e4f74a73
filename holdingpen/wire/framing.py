"""Frames: where one message ends and the next begins.

A frame is a 4-byte big-endian length and that many bytes of payload.  A frame of
length 0 is legal here and refused by the decoder.  The frame of b"hi":

    00 00 00 02 68 69
"""

from __future__ import annotations

from holdingpen.errors import RemoteMistake

#: Longest payload the daemon reads.  The largest legal Acquire (64 resources, 4 KiB
#: of command in 4-byte characters) is under 24 KiB.
REQUEST_BYTES_MAX = 64 * 1024
#: Longest payload a client reads: a page of status is under 1 MiB.
REPLY_BYTES_MAX = 16 * 1024 * 1024


def frame(payload: bytes) -> bytes:
    """Put the length before `payload`."""
    return len(payload).to_bytes(4, "big") + payload


def complete(data: bytes) -> int:
    """How many bytes of `data`, from its begin on, are whole frames."""
    start, end = 0, len(data)
    while end - start >= 4:
        size = int.from_bytes(data[start : start + 4], "big")
        if start + 4 + size > end:
            break
        start += 4 + size
    return start


class Unframer:
    """Cuts a stream of bytes into payloads, however the stream was cut before."""

    __slots__ = ("_rest", "limit")

    def __init__(self, limit: int) -> None:
        """Make an unframer that refuses payloads longer than `limit` bytes."""
        self.limit = limit
        #: The beginning of a frame whose end has not come: under limit + 4 bytes.
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream.

        Returns:
            The payloads that are complete now, in order; maybe none.

        Raises:
            RemoteMistake: `too-long`, as soon as a length says so, before its
                payload is waited for; the payloads before it are lost with it.
        """
        if self._rest:
            data = self._rest + data
        elif int.from_bytes(data[:4], "big") == len(data) - 4 <= self.limit:
            # nearly always: one whole frame
            return [data[4:]]
        payloads = []
        start, end = 0, len(data)
        while end - start >= 4:
            size = int.from_bytes(data[start : start + 4], "big")
            if size > self.limit:
                raise RemoteMistake(
                    f"a frame of {size} bytes was announced; the longest accepted "
                    f"is {self.limit}. Is this the Holding Pen protocol?",
                    "too-long",
                )
            stop = start + 4 + size
            if stop > end:
                break
            payloads.append(data[start + 4 : stop])
            start = stop
        self._rest = data[start:] if start else data
        return payloads

    @property
    def half(self) -> int:
        """How many bytes of an unfinished frame are held; at EOF it must be 0."""
        return len(self._rest)
