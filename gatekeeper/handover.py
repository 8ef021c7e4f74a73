"""What was granted beside the lease itself: how surely, where, and by which variables.

Imported when somebody is to be told, or when CMD needs more than the lease's number.
"""

from __future__ import annotations

import posix
import sys

from gatekeeper.conversation import number, text
from gatekeeper.words import say
from holdingpen.amounts import format_amount, format_size
from holdingpen.errors import Refusal, RemoteMistake

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from gatekeeper.options import Options

    T = TypeVar("T")

#: The kernel reads no more of a script's first line (execve(2)); the rest is for the
#: second line, where pip puts an interpreter's long path.
_HEAD_BYTES = 512

_TUNABLE = b"glibc.malloc.hugetlb"


def judge(options: Options, granted: dict[object, object], told: bool) -> None:
    """Say what was granted, and see whether it is sure enough.

    Args:
        options: `exact`, `verbose` and `quiet` count here.
        granted: the daemon's Granted.
        told: whether a wait for it was told, so that its end is worth a line.

    Raises:
        Refusal: `not-now`, with `--exact` when it is anything less.
        RemoteMistake: when a field is not what it should be.
    """
    if options.exact and _sure(granted) != "exact":
        lease = number(granted, "lease")
        held = sureness(granted) or "without any promise (nothing is held back of it)"
        raise Refusal(
            f"lease {lease} was granted {held}; --exact wants all of it exact, so it "
            "was given back and nothing was started. Leave --exact out to run all "
            "the same.",
            "not-now",
        )
    if options.verbose or (told and _sure(granted) != "none"):
        say(sentence(granted))


def sentence(granted: dict[object, object]) -> str:
    """A Granted in one line: `lease 17: 8.0 GiB ram, bounded (8.0 MiB): why`.

    Raises:
        RemoteMistake: when a field is not what it should be.
    """
    directories = places(granted)
    parts = []
    for name, amount in _mapping(granted, "amounts", int).items():
        where = f" in {directories[name]}" if name in directories else ""
        counted = "the whole" if name == "machine" else format_amount(name, amount)
        parts.append(f"{counted} {name}{where}")
    parts.append(sureness(granted))
    return f"lease {number(granted, 'lease')}: {', '.join(filter(None, parts))}"


def sureness(granted: dict[object, object]) -> str:
    """How sure it is: `exact`, `bounded (8.0 MiB): why`; empty when nothing is held.

    Raises:
        RemoteMistake: when a field is not what it should be.
    """
    sure = _sure(granted)
    if sure == "none":
        return ""
    if sure == "bounded":
        sure = f"bounded ({format_size(number({'bound': 0, **granted}, 'bound'))})"
    why = text({"why": "", **granted}, "why").rstrip(". ")
    return f"{sure}: {why}" if why else sure


def _sure(granted: dict[object, object]) -> str:
    return text({"handover": "none", **granted}, "handover")


def places(granted: dict[object, object]) -> dict[str, str]:
    """Disk to the directory that is the lease's own.

    Raises:
        RemoteMistake: when it is anything else.
    """
    return _mapping(granted, "places", str)


def _mapping(granted: dict[object, object], key: str, kind: type[T]) -> dict[str, T]:
    found = granted.get(key, {})
    if isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(value, kind)
        for name, value in found.items()
    ):
        return found
    raise RemoteMistake(f"the daemon granted no usable {key!r}.", "not-msgpack")


def variables(options: Options, granted: dict[object, object]) -> dict[bytes, bytes]:
    """What CMD finds in its environment for what was granted.

    Raises:
        RemoteMistake: when a field of `granted` is not what it should be.
    """
    found = _scratches(list(options.amounts), places(granted))
    if options.hugepages:
        found[b"GLIBC_TUNABLES"] = tunables(posix.environ.get(b"GLIBC_TUNABLES", b""))
    amount = _mapping(granted, "amounts", int).get("ram", 0)
    if options.prefault and amount > 0:
        found[b"HOLDINGPEN_PREFAULT"] = b"%d" % amount
        found[b"PYTHONPATH"] = _before(posix.environ.get(b"PYTHONPATH", b""))
    return found


def _scratches(asked: list[str], directories: dict[str, str]) -> dict[bytes, bytes]:
    """HOLDINGPEN_SCRATCH and, for each disk with a name, HOLDINGPEN_SCRATCH_NAME."""
    # a disk asked for without its name is granted by its name
    unasked = [name for name in directories if name not in asked]
    order = [name for name in asked if name in directories]
    first = next((name for name in asked if name.partition(".")[0] == "disk"), "")
    order = order + unasked if first in directories else unasked + order
    found: dict[bytes, bytes] = {}
    for name in order:
        directory = directories[name].encode()
        found.setdefault(b"HOLDINGPEN_SCRATCH", directory)
        _, dot, disk = name.partition(".")
        if dot:
            suffix = disk.upper().replace("-", "_").encode()
            found.setdefault(b"HOLDINGPEN_SCRATCH_" + suffix, directory)
    return found


def tunables(before: bytes) -> bytes:
    """GLIBC_TUNABLES that has malloc take huge pages of the pool, and else as before.

    Source: the GNU C Library manual, Memory Allocation Tunables (glibc 2.35).
    """
    kept = [
        word
        for word in before.split(b":")
        if word and word.partition(b"=")[0] != _TUNABLE
    ]
    return b":".join([*kept, _TUNABLE + b"=2"])


def _before(python_path: bytes) -> bytes:
    """PYTHONPATH with the directory of our sitecustomize put first."""
    hook = f"{__file__.rpartition('/')[0]}/prefault/hook"
    if not hook.startswith("/"):
        hook = f"{posix.getcwd()}/{hook}"
    encoded = hook.encode(sys.getfilesystemencoding(), "surrogateescape")
    return b":".join(filter(None, [encoded, python_path]))


def doubt(found: str) -> None:
    """Say so when the file `found` is no Python program, which --prefault is for."""
    if not pythonic(found):
        name = found.rpartition("/")[2]
        say(
            f"--prefault is for Python programs, and {name} does not look like one: "
            "unless it becomes one, what is held for it stays held."
        )


def pythonic(path: str) -> bool:
    """Whether `path` is a Python interpreter or a script for one, by its looks."""
    if path.rpartition("/")[2].startswith("python"):
        return True
    try:
        file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return False
    head = posix.read(file, _HEAD_BYTES)
    posix.close(file)
    return head.startswith(b"#!") and b"python" in b"".join(head.splitlines()[:2])
