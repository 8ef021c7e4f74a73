"""Who mounts: this process, or the mounter, a small service that does it for us.

The service of the machine has a mount namespace of its own and may not mount, so that
a mistake in it can do less.  What it needs mounted it has done: HOLDINGPEN_MOUNTER in
its environment names the socket of `mounter.py`, which calls the same functions of
scratch.py and hugefile.py in the namespace that everybody sees.  Without that name, in
a private pen, a daemon started by hand, a test, they are done here.

One connection is one request, a datagram, with at most one descriptor; and one answer:

    -> {"type":"Make","directory":"/run/holdingpen.scratch/a/17","uid":1000,"gid":100}
       and the image
    <- {"type":"Done","number":3}            its loop device
    <- {"type":"Failed","said":"cannot make a file system for ...","number":28}

Both are JSON; an unknown field is an error, since both ends are of one version.  Who
connects is root, or he is refused.

**The mounter may die in between.**  Whatever can be done twice is asked twice.  A file
system cannot: what may be there of it is cleared, and it has failed.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

import msgspec

from holdingpen.errors import Unavailable

#: The environment variable that names its socket.
VARIABLE: Final = "HOLDINGPEN_MOUNTER"

#: The units.
SOCKET_UNIT: Final = "holdingpen-mounter.socket"
SERVICE_UNIT: Final = "holdingpen-mounter.service"

#: Bytes of a request, and of an answer: `Cleared` names some places.
MESSAGE_MAX: Final = 16 * 1024

#: How long an answer may take: longer than mkfs may, and systemd needs 0.2 s to start
#: the mounter.
ANSWER_S: Final = 40.0

#: What mends it, in messages.
_MEND: Final = (
    f"systemctl restart {SOCKET_UNIT}; journalctl -u {SERVICE_UNIT} says more."
)


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """What both directions have in common."""


class Make(_Message, frozen=True):
    """Make a file system of the image that comes along, and mount it: scratch.make."""

    directory: str
    uid: int
    gid: int


class Leave(_Message, frozen=True):
    """Take that mount away: scratch.leave."""

    directory: str
    #: Of its loop device.
    number: int


class Clear(_Message, frozen=True):
    """Take away whatever was made of the image that comes along: scratch.clear."""


class Remove(_Message, frozen=True):
    """Remove a place to mount at: scratch.remove_directory."""

    directory: str


class Huge(_Message, frozen=True):
    """Mount a tmpfs of huge pages and pass it: hugefile.mount_here."""


class Give(_Message, frozen=True):
    """Make the empty directory that comes along a user's: `give`."""

    uid: int
    gid: int


class Look(_Message, frozen=True):
    """Say why no file system can be made: scratch.why_not."""


Request = Make | Leave | Clear | Remove | Huge | Give | Look

#: Those that come with a descriptor.
WITH_DESCRIPTOR: Final = (Make, Clear, Give)


class Done(_Message, frozen=True, omit_defaults=True):
    """It was done."""

    #: Of `Make`: of the loop device.
    number: int = 0
    #: Of `Clear`: where it was mounted.
    places: list[str] = []
    #: Of `Huge`: whether its files can never be swapped out.
    noswap: bool = False
    #: Of `Look`: empty: it can.
    why: str = ""


class Failed(_Message, frozen=True, omit_defaults=True):
    """It was not done."""

    said: str
    #: errno(3), where there is one.
    number: int = 0


Answer = Done | Failed


def socket_path() -> str:
    """Where the mounter listens that does it for us; empty: we do it here."""
    return os.environ.get(VARIABLE, "")


def make(image: int, directory: Path, uid: int, gid: int) -> int:
    """Have a file system made: see `scratch.make`.

    Returns:
        The number of its loop device.

    Raises:
        Unavailable: when that fails; nothing is mounted then.
    """
    request = Make(str(directory), uid, gid)
    try:
        answer, _ = _ask(request, image)
    except ConnectionError as error:
        # killed in the middle of it: what it had done by then is undone by the next
        clear(image)
        remove_directory(directory)
        raise _lost(request, error) from None
    return _done(answer).number


def leave(directory: Path, number: int) -> None:
    """Have a mount taken away: see `scratch.leave`.

    Raises:
        Unavailable: when nobody could be asked: ask again later.
    """
    _done(_ask_twice(Leave(str(directory), number))[0])


def clear(image: int) -> list[str]:
    """Have taken away whatever was made of `image`: see `scratch.clear`.

    Returns:
        Where it was mounted; nothing where nobody could be asked.  Then it still is,
        and the image is in use, which must be looked at anyway.
    """
    try:
        return _done(_ask_twice(Clear(), image)[0]).places
    except Unavailable:
        return []


def remove_directory(directory: Path) -> None:
    """Have a place to mount at removed: see `scratch.remove_directory`.

    Raises:
        Unavailable: when nobody could be asked.
    """
    _done(_ask_twice(Remove(str(directory)))[0])


def mount_huge() -> tuple[int, bool]:
    """Have a tmpfs of huge pages mounted: see `hugefile.mount_here`.

    Raises:
        OSError: when it cannot be had; its strerror says why.
    """
    try:
        answer, mount = _ask_twice(Huge())
    except Unavailable as error:
        raise OSError(None, str(error).rstrip(".")) from None
    if isinstance(answer, Failed):
        raise OSError(answer.number, answer.said)
    if mount < 0:
        raise OSError(None, f"{SERVICE_UNIT} sent no descriptor")
    return mount, answer.noswap


def give(name: str, uid: int, gid: int, above: int) -> None:
    """Make a new directory that of `uid` and `gid`, here or by the mounter.

    Args:
        name: of the directory, which is ours, empty, and for nobody else.
        uid: whose it is from then on.
        gid: the same.
        above: the open directory that it is in.

    Raises:
        OSError: when that cannot be, or nobody could be asked.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=above)
    try:
        if not socket_path():
            os.chown(fd, uid, gid)
            return
        answer, _ = _ask_twice(Give(uid, gid), fd)
    except Unavailable as error:
        raise OSError(None, str(error).rstrip(".")) from None
    finally:
        os.close(fd)
    if isinstance(answer, Failed):
        raise OSError(answer.number, answer.said)


def why_not() -> str:
    """Why no file system can be made by it, in one sentence; empty: it can."""
    if is_apart() and not is_told(Path(socket_path()).parent):
        return (
            "What is mounted outside of this daemon's mount namespace is not seen in "
            "it, and it would keep what is unmounted: mount --make-rshared /, and "
            "start it again."
        )
    try:
        return look(socket_path())
    except Unavailable as error:
        return str(error)


def look(place: str) -> str:
    """What the mounter who listens at `place` says why it cannot; empty: it can.

    Raises:
        Unavailable: when nobody could be asked.
    """
    return _done(_ask_twice(Look(), place=place)[0]).why


def is_apart() -> bool:
    """Whether this process has a mount namespace of its own."""
    try:
        return not Path("/proc/self/ns/mnt").samefile("/proc/1/ns/mnt")
    except OSError:
        return False


def is_told(directory: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether a mount namespace of its own gets what others mount below `directory`.

    Raises:
        OSError: when `mountinfo` cannot be read.
    """
    told, longest = True, -1
    for line in mountinfo.read_text(errors="replace").splitlines():
        # 36 35 98:0 /root /mount/point options master:1 - ext4 /dev/root options
        words = line.partition(" - ")[0].split(" ")
        place = Path(words[4])
        if directory.is_relative_to(place) and len(place.parts) >= longest:
            longest = len(place.parts)
            told = any(word.startswith("master:") for word in words[6:])
    return told


def _done(answer: Answer) -> Done:
    if isinstance(answer, Failed):
        raise Unavailable(answer.said)
    return answer


def _ask_twice(
    request: Request, passed: int | None = None, place: str = ""
) -> tuple[Answer, int]:
    """For what can be done twice: the first time it may have died on it."""
    try:
        return _ask(request, passed, place)
    except ConnectionError:
        pass
    try:
        return _ask(request, passed, place)
    except ConnectionError as error:
        raise _lost(request, error) from None


def _lost(request: Request, error: ConnectionError) -> Unavailable:
    what = type(request).__name__
    said = error.strerror or "it hung up"
    return Unavailable(f"{SERVICE_UNIT} did not answer {what}: {said}. {_MEND}")


def _ask(request: Request, passed: int | None, place: str = "") -> tuple[Answer, int]:
    """Ask once, at `place` or where the environment says.

    Returns:
        The answer, and the descriptor that came along; -1: none.

    Raises:
        Unavailable: when nobody is there, or what he says makes no sense.
        ConnectionError: when he ended before he had answered.
    """
    place = place or socket_path()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as conn:
        conn.settimeout(ANSWER_S)
        try:
            conn.connect(place)
        except OSError as error:
            why = error.strerror or str(error)
            raise Unavailable(
                f"nobody mounts for this daemon at {place}: {why}. {_MEND}"
            ) from None
        try:
            fds = [] if passed is None else [passed]
            socket.send_fds(conn, [msgspec.json.encode(request)], fds)
            data, came, _flags, _ = socket.recv_fds(conn, MESSAGE_MAX, 1)
        except TimeoutError:
            raise Unavailable(
                f"{SERVICE_UNIT} did not answer in {ANSWER_S:g} s. {_MEND}"
            ) from None
    if not data:
        raise ConnectionResetError
    try:
        answer = msgspec.json.decode(data, type=Answer)
    except msgspec.DecodeError as error:
        for fd in came:
            os.close(fd)
        raise Unavailable(
            f"{SERVICE_UNIT} answered nonsense: {error}. {_MEND}"
        ) from None
    for fd in came:
        os.set_inheritable(fd, False)
    return answer, came[0] if came else -1
