"""What the verbs that reserve have in common: how much, for whom, and a refusal."""

from __future__ import annotations

import argparse
import re
from typing import NamedTuple

from holdingpen.amounts import AMOUNT_MAX, parse_amount
from holdingpen.ctl.export import MACHINE
from holdingpen.durations import parse_duration
from holdingpen.errors import BadWord, LocalMistake, Refusal

#: The largest uid and gid: (uid_t) -1 is none (chown(2)).
_ID_MAX = 2**32 - 2


class People(NamedTuple):
    """For whom a reservation is."""

    #: None: for oneself.
    uid: int | None
    #: None: for nobody else.
    gid: int | None


def lease_id(text: str) -> int:
    """The number of a lease, as argparse reads a word."""
    if text.isascii() and text.isdigit() and len(text) < 20:
        number = int(text)
        if 0 < number <= AMOUNT_MAX:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is no number of a lease, such as 17")


def take_negative(parser: argparse.ArgumentParser) -> None:
    """Have `-30s` be a word of a verb, and not an option that there is not.

    Else argparse says that the word is missing.  Python 3.14 reads it so by itself.
    """
    parser._negative_number_matcher = re.compile(r"-\.?\d")  # noqa: SLF001


def duration(text: str) -> float:
    """Seconds in a duration of the command line.

    Raises:
        BadWord: when it is none.
    """
    if text.lstrip().startswith("-"):
        raise BadWord(f"duration {text!r}: it must be more than 0, such as 30m.")
    return parse_duration(text)


def add_amounts(parser: argparse.ArgumentParser) -> None:
    """Teach a verb the options that say what is to be reserved."""
    what = parser.add_argument_group("what")
    what.add_argument("--ram", metavar="SIZE", help="memory, such as 8G")
    what.add_argument("--cpu", metavar="N", help="CPUs")
    what.add_argument(
        "--disk",
        metavar="SIZE[:NAME]",
        action="append",
        default=[],
        help="disk space, such as 50G or 50G:scratch; may be given again",
    )
    what.add_argument(
        "--res",
        metavar="NAME=AMOUNT",
        action="append",
        default=[],
        help="anything else, such as licence=1; may be given again",
    )
    what.add_argument("--machine", action="store_true", help="the whole machine, alone")


def add_people(parser: argparse.ArgumentParser) -> None:
    """Teach a verb the options that say for whom it is."""
    who = parser.add_argument_group("for whom")
    who.add_argument(
        "--for", dest="user", metavar="USER", help="for this user (operators only)"
    )
    who.add_argument("--group", metavar="GROUP", help="its members may draw on it, too")


def read_amounts(args: argparse.Namespace) -> dict[str, int]:
    """The amounts that were asked for: resource to bytes or units.

    Raises:
        BadWord: when one is no amount.
        LocalMistake: when there is none, one is 0, or one is named twice.
    """
    words = [("ram", args.ram), ("cpu", args.cpu)]
    words += [_disk(word) for word in args.disk]
    words += [_named(word) for word in args.res]
    amounts: dict[str, int] = {}
    for name, word in words:
        if word is None:
            continue
        if name in amounts:
            raise LocalMistake(f"{name} is given twice: give it once.")
        amounts[name] = parse_amount(name, word)
        if amounts[name] == 0:
            raise LocalMistake(f"{name}: nothing of it need not be reserved.")
    if args.machine:
        amounts[MACHINE] = 1
    if not amounts:
        raise LocalMistake(
            "how much? Say what to reserve with --ram, --cpu, --disk, --res or "
            "--machine (all of it)."
        )
    return amounts


def _disk(word: str) -> tuple[str, str]:
    size, colon, name = word.partition(":")
    if colon and not name:
        raise BadWord(f"--disk {word!r}: write the name of a disk after the colon.")
    return f"disk.{name}" if colon else "disk", size


def _named(word: str) -> tuple[str, str]:
    name, equals, amount = word.partition("=")
    if not equals or not name:
        raise BadWord(f"--res {word!r} is not understood: write licence=1.")
    if name == MACHINE:
        raise LocalMistake("--res machine: write --machine for the whole machine.")
    return name, amount


def user_id(name: str) -> int:
    """The uid of a user, who may be given by his number.

    Raises:
        LocalMistake: when there is no such user.
    """
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return _number(name, "user")


def group_id(name: str) -> int:
    """The gid of a group, which may be given by its number.

    Raises:
        LocalMistake: when there is no such group.
    """
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return _number(name, "group")


def _number(name: str, what: str) -> int:
    if name.isascii() and name.isdigit() and len(name) <= 10 and int(name) <= _ID_MAX:
        return int(name)
    raise LocalMistake(f"there is no {what} {name!r} on this machine.")


def read_people(args: argparse.Namespace) -> People:
    """For whom it is.

    Raises:
        LocalMistake: when there is no such user or group.
    """
    return People(
        None if args.user is None else user_id(args.user),
        None if args.group is None else group_id(args.group),
    )


def must_be_short(what: str, text: str) -> str:
    """A text that others will see, as long as the protocol takes it.

    Raises:
        LocalMistake: when it is too long.
    """
    from holdingpen.wire.messages import TEXT_MAX

    # words of a command line need not be text
    text = text.encode("utf-8", "replace").decode()
    if len(text) > TEXT_MAX:
        raise LocalMistake(
            f"a {what} of {len(text)} characters is too long: at most {TEXT_MAX} are "
            "shown to others."
        )
    return text


def with_alternative(
    refusal: Refusal, more: str = "", several: bool = False
) -> Refusal:
    """The same refusal with the next time that is free, where the daemon knows one.

    Args:
        refusal: of a request to reserve, or to extend.
        more: what else is to be said.
        several: the request was for several dates.  Then the daemon speaks of the
            first that clashes alone: it looked at no other.
    """
    from holdingpen.ctl import terminal

    text = str(refusal)
    if refusal.free_at is not None:
        free = terminal.begin_words(refusal.free_at, terminal.now_s())
        what = "The first that clashes" if several else "It"
        text = f"{text.rstrip('.')}. {what} would fit from {free}."
    told = Refusal(f"{text} {more}".rstrip(), refusal.code)
    told.free_at = refusal.free_at
    return told
