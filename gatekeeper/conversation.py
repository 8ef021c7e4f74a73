"""The connection that is the lease, and what is said on it.

Frames and messages are those of holdingpen/wire/messages.py: a 4-byte big-endian
length, then a msgpack map whose key `t` names the message.  Fields with their
default values are left out by both sides.
"""

import _socket
import posix

from gatekeeper import msgpack
from holdingpen import places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from gatekeeper.options import Options
    from holdingpen.errors import RemoteMistake, Unavailable

VERSION = 1
#: Our only request on this connection.
REQUEST_ID = 1
COMMAND_MAX = 4096
#: Longest reply read.  Those we get are under 10 KiB; the rest is for later fields.
REPLY_BYTES_MAX = 1024 * 1024

#: The connection goes to the first free number from here: shells and scripts use
#: 3 to 9 for their own redirections.
DESCRIPTOR_MIN = 10
_DESCRIPTOR_END = 1024

#: What no shell gives a meaning to.
_PLAIN = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789%+,-./:=@_"
)


class Conversation:
    """One connection to the daemon."""

    __slots__ = ("_rest", "_socket", "placed")

    def __init__(self, connected: _socket.socket) -> None:
        self._socket = connected
        #: Whether the daemon was heard to have a lease or a place for us.
        self.placed = False
        #: The beginning of one frame whose end has not come.
        self._rest = b""

    def say(self, data: bytes) -> None:
        """Send frames.

        Raises:
            Unavailable: `daemon-gone`.
        """
        try:
            self._socket.settimeout(None)
            self._socket.sendall(data)
        except OSError as why:
            raise _gone(f"{why.strerror}") from None

    def hear(self, timeout_s: float | None) -> dict[object, object] | None:
        """Wait for the next message, at most `timeout_s`; None when none came.

        Raises:
            RemoteMistake: when what comes is no message.
            Unavailable: `daemon-gone`, when the connection ended.
        """
        while lacking := self._lacking():
            try:
                self._socket.settimeout(timeout_s)
                # no byte more: what comes later may be meant for CMD (--prefault)
                data = self._socket.recv(lacking)
            except (TimeoutError, BlockingIOError):
                return None
            except OSError as why:
                raise _gone(f"{why.strerror}") from None
            if not data:
                raise _gone("it closed the connection")
            self._rest += data
        payload, self._rest = self._rest[4:], b""
        message = msgpack.decode(payload)
        if not isinstance(message, dict):
            raise _broken("the daemon sent no message but a bare value.")
        return message

    def close(self) -> None:
        """Give back what was granted or waited for, unless CMD has a copy."""
        self._socket.close()

    def _lacking(self) -> int:
        """How many bytes the frame lacks, as far as is known."""
        if len(self._rest) < 4:
            return 4 - len(self._rest)
        size = int.from_bytes(self._rest[:4], "big")
        if size > REPLY_BYTES_MAX:
            raise _broken(
                f"the daemon announced a message of {size} bytes; the longest accepted "
                f"is {REPLY_BYTES_MAX}. Is that socket Holding Pen's?",
                "too-long",
            )
        return 4 + size - len(self._rest)

    def bequeath(self) -> int:
        """Let the connection outlive exec; returns its descriptor."""
        # O_NONBLOCK belongs to the connection itself, which CMD shares
        self._socket.settimeout(None)
        descriptor = self._socket.fileno()
        posix.set_inheritable(descriptor, True)
        return descriptor


def connect(paths: list[str]) -> Conversation:
    """Connect to the first of `paths` where a daemon listens.

    Raises:
        Unavailable: when nobody answers: `socket-denied` if there was a socket that we
            may not open, else `no-daemon`.
        HoldingPenError: `no-descriptor`, when too many are open.
    """
    denied = ""
    for path in paths:
        connected = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            connected.connect(path)
            return Conversation(_moved_up(connected))
        except PermissionError:
            denied = denied or path
        except OSError:
            # no socket, nobody behind it, a path longer than the kernel takes
            pass
        finally:
            connected.close()
    if denied:
        raise _unavailable(
            f"no daemon for us: {denied} exists, and we may not open it",
            "socket-denied",
        )
    raise _unavailable(f"no daemon at {' or '.join(paths)}", "no-daemon")


def reach(explicit: str | None) -> Conversation:
    """Connect to the daemon where the rule of places.py finds it.

    Raises:
        Unavailable: as `connect` and `places.candidates`.
    """
    return connect(places.candidates(explicit))


def _moved_up(connected: _socket.socket) -> _socket.socket:
    """Move the connection out of the way of stdio and of shell redirections.

    Also when we were started with a closed stderr: then it is descriptor 2 itself.
    """
    for number in range(DESCRIPTOR_MIN, _DESCRIPTOR_END):
        try:
            posix.get_inheritable(number)
        except OSError:
            try:
                posix.dup2(connected.fileno(), number, False)
            except OSError:
                break
            return _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, number)
    from holdingpen.errors import HoldingPenError

    raise HoldingPenError(
        f"no free descriptor from {DESCRIPTOR_MIN} on: raise the limit (ulimit -n).",
        "no-descriptor",
    )


def opening(options: "Options") -> bytes:
    """Hello and the request for one write: nobody need wait for the Welcome."""
    hello = {"t": "hello", "version": VERSION, "name": "gatekeeper"}
    return _frame(hello) + request(options)


def request(options: "Options") -> bytes:
    """The Acquire alone; said again it is answered, and not carried out twice."""
    acquire: dict[str, object] = {"t": "acquire", "id": REQUEST_ID}
    if options.amounts:
        acquire["amounts"] = options.amounts
    if options.priority:
        acquire["priority"] = options.priority
    if options.length_s is not None:
        acquire["length_s"] = options.length_s
    if options.wait_s is not None:
        acquire["wait_s"] = options.wait_s
    if options.reclaimable:
        acquire["reclaimable"] = True
    if options.label:
        acquire["label"] = encodable(options.label)
    if options.reason:
        acquire["reason"] = encodable(options.reason)
    if options.command:
        acquire["command"] = command_line(options.command, COMMAND_MAX)
    if wishes := options.wishes:
        acquire["wishes"] = wishes
    if options.inside:
        acquire["inside"] = options.inside
    return _frame(acquire)


def step(number: int, lease: int, resource: str, amount: int) -> bytes:
    """The HandOver that frees `amount` bytes kept for `lease`, to be occupied at once.

    Args:
        number: the request's own, above `REQUEST_ID` and growing.
        lease: its id.
        resource: `ram`, asked with the wish `steps`.
        amount: bytes, > 0.
    """
    order = {"t": "hand-over", "id": number, "lease": lease}
    return _frame({**order, "resource": resource, "amount": amount})


def _frame(message: dict[str, object]) -> bytes:
    payload = msgpack.encode(message)
    return len(payload).to_bytes(4, "big") + payload


def _gone(how: str) -> "Unavailable":
    return _unavailable(f"the daemon is gone: {how}", "daemon-gone")


# Errors are imported when there is one.


def _unavailable(message: str, code: str) -> "Unavailable":
    from holdingpen.errors import Unavailable

    return Unavailable(message, code)


def _broken(message: str, code: str = "not-msgpack") -> "RemoteMistake":
    from holdingpen.errors import RemoteMistake

    return RemoteMistake(message, code)


def text(message: dict[object, object], key: str) -> str:
    """A field that must be text.

    Raises:
        RemoteMistake: when it is missing or something else.
    """
    value = message.get(key)
    if not isinstance(value, str):
        raise _misshapen(message, key)
    return value


def number(message: dict[object, object], key: str) -> int:
    """A field that must be a whole number, 0 or more.

    Raises:
        RemoteMistake: when it is missing or something else.
    """
    value = message.get(key)
    if not isinstance(value, int) or value < 0:
        raise _misshapen(message, key)
    return value


def _misshapen(message: dict[object, object], key: str) -> "RemoteMistake":
    return _broken(f"the daemon's message {message.get('t')!r} lacks a usable {key!r}.")


def command_line(words: "Iterable[str]", length_max: int) -> str:
    """Join words as one would type them in a shell, for people to read.

    Undecodable bytes (lone surrogates) become `?`, for the protocol speaks UTF-8.
    What is longer than `length_max` characters is cut.
    """
    line = ""
    for word in words:
        line += (" " if line else "") + _quoted(word[:length_max])
        if len(line) >= length_max:
            break
    return encodable(line[:length_max])


def encodable(text: str) -> str:
    """The same text with `?` for each undecodable byte (lone surrogate)."""
    return text.encode("utf-8", "replace").decode()


def _quoted(word: str) -> str:
    if word and _PLAIN.issuperset(word):
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"
