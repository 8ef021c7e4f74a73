"""What a Python program may write when it asks for a lease, made into a request."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from holdingpen.amounts import parse_amount
from holdingpen.durations import parse_duration
from holdingpen.errors import BadWord, LocalMistake
from holdingpen.wire import messages as wire

#: Bytes or units, or words for them: `8 * 2**30`, `"8G"`; `2`, `"2"`.
Amount: TypeAlias = int | str
#: Seconds, or a word for them: `90`, `"1h30m"`.
Duration: TypeAlias = float | str
#: Called with each news from the line.
OnWaiting: TypeAlias = Callable[[wire.Waiting], object]

#: The number of the only request for a lease on its connection.
ASK_ID = 1

#: The protocol's number for no reservation.
OUTSIDE = -1

#: The wish for open files, one of `wire.WISHES`.
DESCRIPTOR = "descriptor"


class Terms(NamedTuple):
    """What is asked for, where, and who is told about the line."""

    ask: wire.Acquire
    #: The daemon's socket; None: as places.py finds it.
    socket: str | None
    on_waiting: OnWaiting | None


def read_amounts(amounts: Mapping[str, Amount | None]) -> dict[str, int]:
    """Make bytes and units of amounts as people write them; None: not named.

    Raises:
        BadWord: when one is no amount.
    """
    return {
        name: _amount(name, amount)
        for name, amount in amounts.items()
        if amount is not None
    }


def _amount(name: str, amount: Amount) -> int:
    if isinstance(amount, str):
        return parse_amount(name, amount)
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise BadWord(f'{name}={amount!r}: write a whole number, or a word like "8G".')
    return amount


def read_disk(disk: Amount | None) -> dict[str, Amount | None]:
    """Make a resource and its amount of a disk share: `"50G"`, `"50G:scratch"`."""
    if not isinstance(disk, str):
        return {"disk": disk}
    size, colon, name = disk.partition(":")
    if colon and not name:
        raise BadWord(f"disk={disk!r}: write the name of a disk after the colon.")
    return {f"disk.{name}" if colon else "disk": size}


def read_wishes(
    amounts: Mapping[str, int], *, memory: bool, file: bool
) -> dict[str, str]:
    """Say what is to come as open files.

    Raises:
        LocalMistake: when no amount, or more than one, is asked for of that.
    """
    wishes = {}
    if memory:
        # without any amount it is for the share, which is of memory
        if amounts and "ram" not in amounts:
            raise LocalMistake('memory=True: say how much of it, such as ram="8G".')
        wishes["ram"] = DESCRIPTOR
    if file:
        disks = [name for name in amounts if _kind(name) == "disk"]
        if len(disks) != 1:
            raise LocalMistake(
                f'file=True: say how much of one disk, such as disk="50G"; this names '
                f"{len(disks)}."
            )
        wishes[disks[0]] = DESCRIPTOR
    return wishes


def wished(ask: wire.Acquire, kind: str) -> str | None:
    """The resource of this kind that is to come as open files; None: there is none."""
    for name, wish in ask.wishes.items():
        if wish == DESCRIPTOR and _kind(name) == kind:
            return name
    return None


def _kind(resource: str) -> str:
    return resource.partition(".")[0]


def read_length(length: Duration | None) -> float | None:
    """Make seconds of an expected length; None: it is not known.

    Raises:
        BadWord: when it is no duration, or none over 0.
    """
    if length is None:
        return None
    seconds = _seconds("time", length)
    if seconds <= 0:
        raise BadWord(f"time={length!r}: an expected length is more than 0.")
    return seconds


def read_wait(wait: Duration | None) -> float | None:
    """Make seconds of the longest wait; None: for ever; 0 or False: not at all.

    Raises:
        BadWord: when it is no duration.
    """
    return 0.0 if wait is False else None if wait is None else _seconds("wait", wait)


def read_inside(inside: int | None) -> int:
    """Make the protocol's number of a reservation; None: the daemon chooses; 0: none.

    Raises:
        BadWord: when it is no number of one.
    """
    if inside is None:
        return 0
    if isinstance(inside, bool) or not isinstance(inside, int) or inside < 0:
        raise BadWord(f"inside={inside!r}: write the number of a reservation, or 0.")
    return inside or OUTSIDE


def _seconds(name: str, duration: Duration) -> float:
    if isinstance(duration, str):
        return parse_duration(duration)
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        raise BadWord(f'{name}={duration!r}: write seconds, or a word like "1h30m".')
    if not duration >= 0:
        raise BadWord(f"{name}={duration!r}: seconds are 0 or more.")
    return float(duration)


def command_line() -> str:
    """How this program was started, as far as the protocol takes it."""
    line = shlex.join(sys.orig_argv)[: wire.COMMAND_MAX]
    # a file name need not be text
    return line.encode("utf-8", "replace").decode()
