"""The configuration: TOML to frozen `Settings`; each default with its reason.

An unknown key or a bad value names the file, the line, the key and what is accepted.
A key that is not in the file has the default below; an empty file is legal.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

from holdingpen.amounts import AMOUNT_MAX, BYTES, parse_count, parse_size
from holdingpen.core.facts import MACHINE
from holdingpen.core.rights import Rules
from holdingpen.durations import parse_duration
from holdingpen.errors import BadSettings, BadWord

GIB = 2**30


class Disk(Struct, frozen=True):
    """One [disk.NAME] table."""

    #: An existing directory.
    path: str = ""
    #: Ballast in bytes.
    hold: int = 0
    #: Bytes never lent, which others may use.
    keep: int = 0


class Settings(Struct, frozen=True):
    """What the administrator decided.  None: the machine decides (see `run`)."""

    #: Where the socket is; None: the system's or, with --user, the user's place.
    socket: str | None = None
    #: Who may connect: the owner and `group`.
    mode: int = 0o660
    group: str | None = None
    #: The directory of the journal; None: as for the socket.
    state: str | None = None
    #: Connections in all; None: what the limit on descriptors allows.
    connections_max: int | None = None
    #: Connections of one user; None: half of all, so that no user shuts others out.
    connections_per_user_max: int | None = None
    #: A client that has said no Hello after so many seconds is hung up on.
    hello_within_s: float = 10.0

    #: Bytes never lent; None: a sixteenth of the machine, 512 MiB at least and
    #: 4 GiB at most: what a system without its users' programs needs.
    ram_keep: int | None = None
    #: Bytes lent in all; None: what the machine has less `keep`.
    ram_capacity: int | None = None
    #: Ballast in bytes; 0, because a package that takes memory unasked is a nuisance.
    ram_hold: int = 0
    #: What `gatekeeper CMD` without options gets: what a desktop program needs.
    ram_share: int = 1 * GIB
    #: How ballast reaches a program: auto, exact, paced, free; see `lending.choices`.
    ram_handover: str = "auto"
    #: What is done when programs wait for memory: `defend` keeps the ballast, because
    #: that is what it is for; `yield` gives it up before the OOM killer acts.
    ram_policy: str = "defend"
    #: Directories of which space is lent, by name.
    disks: dict[str, Disk] = {}
    #: CPUs lent in all; None: those this process may use.
    cpu_capacity: int | None = None
    #: Any other names and how many there are.
    resources: dict[str, int] = {}

    #: Whether a request of known length may pass those it cannot delay.
    backfill: bool = True
    leases_per_user_max: int = Rules().leases_per_user_max
    waiting_per_user_max: int = Rules().waiting_per_user_max


class Key(NamedTuple):
    """How one key is read."""

    field: str
    read: Callable[[Any], object]
    accepted: str


def _size(value: object) -> int:
    if isinstance(value, str):
        return parse_size(value)
    return _count(value)


def _count(value: object) -> int:
    if isinstance(value, str):
        return parse_count(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadWord("not a whole number")
    if not 0 <= value <= AMOUNT_MAX:
        raise BadWord("out of range")
    return value


def _positive(value: object) -> int:
    count = _count(value)
    if not count:
        raise BadWord("must be more than 0")
    return count


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadWord("not a text")
    return value


def _path(value: object) -> str:
    path = _text(value)
    if not path.startswith("/"):
        raise BadWord("not an absolute path")
    return path


def _mode(value: object) -> int:
    text = _text(value)
    if len(text) not in (3, 4) or set(text) - set("01234567") or int(text, 8) > 0o777:
        raise BadWord("not a mode")
    return int(text, 8)


def _duration(value: object) -> float:
    return parse_duration(_text(value))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadWord("not true or false")
    return value


def _one_of(*words: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        text = _text(value)
        if text not in words:
            raise BadWord("not one of them")
        return text

    return read


HANDOVERS = ("auto", "exact", "paced", "free")
POLICIES = ("defend", "yield")

_SIZE = 'a size such as "8G"'
_COUNT = "a whole number"

#: Table, key, and how it is read.
KEYS: dict[str, dict[str, Key]] = {
    "daemon": {
        "socket": Key("socket", _path, 'an absolute path such as "/run/x.socket"'),
        "mode": Key("mode", _mode, 'an octal mode as text, such as "0660"'),
        "group": Key("group", _text, 'the name of a group, such as "holdingpen"'),
        "state": Key("state", _path, "an absolute path of a directory"),
        "connections_max": Key("connections_max", _positive, _COUNT),
        "connections_per_user_max": Key("connections_per_user_max", _positive, _COUNT),
        "hello_within": Key("hello_within_s", _duration, 'a duration such as "10s"'),
    },
    "ram": {
        "keep": Key("ram_keep", _size, _SIZE),
        "capacity": Key("ram_capacity", _size, _SIZE),
        "hold": Key("ram_hold", _size, _SIZE),
        "share": Key("ram_share", _size, _SIZE),
        "handover": Key("ram_handover", _one_of(*HANDOVERS), " or ".join(HANDOVERS)),
        "policy": Key("ram_policy", _one_of(*POLICIES), " or ".join(POLICIES)),
    },
    "cpu": {"capacity": Key("cpu_capacity", _count, _COUNT)},
    "line": {
        "backfill": Key("backfill", _flag, "true or false"),
        "leases_per_user_max": Key("leases_per_user_max", _positive, _COUNT),
        "waiting_per_user_max": Key("waiting_per_user_max", _positive, _COUNT),
    },
}

#: The keys of a [disk.NAME] table.
DISK_KEYS: dict[str, Key] = {
    "path": Key("path", _path, "the absolute path of a directory"),
    "hold": Key("hold", _size, _SIZE),
    "keep": Key("keep", _size, _SIZE),
}

#: Names that [resources] may not define: they have tables, or a meaning, of their own.
TAKEN_NAMES = BYTES | {"cpu", "gpu", MACHINE}


def read_settings(path: Path) -> Settings:
    """Read the configuration file.

    Args:
        path: a file that is not there counts as empty.

    Raises:
        BadSettings: when it cannot be read, is no TOML, or has an unknown key or a
            bad value; the message names file, line, key and the accepted form.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as why:
        raise BadSettings(f"cannot read the configuration {path}: {why}.") from None
    return parse_settings(text, str(path))


def parse_settings(text: str, name: str) -> Settings:
    """Read a configuration; `name` is what its messages call it.

    Raises:
        BadSettings: as `read_settings`.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as why:
        raise BadSettings(f"{name}: this is no TOML: {why}.") from None
    found: dict[str, object] = {}
    for table, content in tree.items():
        if table == "resources":
            found["resources"] = _resources(content, text, name)
            continue
        if table == "disk":
            found["disks"] = _disks(content, text, name)
            continue
        keys = KEYS.get(table)
        where = _where(text, name, table, None)
        if keys is None:
            known = ", ".join(f"[{x}]" for x in (*KEYS, "disk.NAME", "resources"))
            raise BadSettings(f"{where}: unknown table [{table}]; there are {known}.")
        if not isinstance(content, Mapping):
            known = ", ".join(keys)
            raise BadSettings(f"{where}: [{table}] is a table with the keys {known}.")
        found.update(_table(content, keys, text, name, table))
    return Settings(**found)  # type: ignore[arg-type]


def _table(
    content: Mapping[str, object],
    keys: dict[str, Key],
    text: str,
    name: str,
    table: str,
) -> dict[str, object]:
    found = {}
    for word, value in content.items():
        where = _where(text, name, table, word)
        if word not in keys:
            known = ", ".join(keys)
            raise BadSettings(
                f"{where}: unknown key {word!r} in [{table}]; there are {known}."
            )
        found[keys[word].field] = _read(keys[word], value, f"{where}: {word}")
    return found


def _read(key: Key, value: object, where: str) -> object:
    try:
        return key.read(value)
    except BadWord as why:
        message = f"{where} = {value!r} is not accepted ({why}); write {key.accepted}."
        raise BadSettings(message) from None


def _disks(content: object, text: str, name: str) -> dict[str, Disk]:
    where = _where(text, name, "disk", None)
    if not isinstance(content, Mapping):
        raise BadSettings(f"{where}: write a table [disk.NAME] for each directory.")
    found = {}
    for word, keys in content.items():
        table = f"disk.{word}"
        where = _where(text, name, table, None)
        if not isinstance(keys, Mapping):
            where = _where(text, name, "disk", word)
            raise BadSettings(f"{where}: write [disk.NAME], not {word!r} in [disk].")
        if not _is_plain(word):
            raise BadSettings(
                f"{where}: {word!r} cannot name a disk: use letters, digits, _ and -, "
                "at most 64."
            )
        found[word] = Disk(**_table(keys, DISK_KEYS, text, name, table))  # type: ignore[arg-type]
        if not found[word].path:
            raise BadSettings(f"{where}: [{table}] lacks path: write the directory's.")
    return found


def _is_plain(word: str) -> bool:
    bare = word.replace("_", "").replace("-", "")
    return word.isascii() and bare.isalnum() and len(word) <= 64


def _resources(content: object, text: str, name: str) -> dict[str, int]:
    if not isinstance(content, Mapping):
        where = _where(text, name, "resources", None)
        raise BadSettings(f"{where}: [resources] is a table: name = how many.")
    found = {}
    for word, value in content.items():
        where = _where(text, name, "resources", word)
        if not _is_plain(word) or word in TAKEN_NAMES:
            taken = ", ".join(sorted(TAKEN_NAMES))
            raise BadSettings(
                f"{where}: {word!r} cannot name a resource: use letters, digits, _ "
                f"and -, at most 64, and none of {taken}."
            )
        key = Key(word, _count, _COUNT)
        found[word] = int(_read(key, value, f"{where}: {word}"))  # type: ignore[call-overload]
    return found


def _where(text: str, name: str, table: str, word: str | None) -> str:
    """`FILE, line N` of a table or key, as well as a look at the lines can tell."""
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare.startswith("["):
            head = bare.partition("]")[0].strip("[ ")
            parts = [part.strip("\"' ") for part in head.split(".")]
            current = ".".join(parts[:2]) if parts[0] == "disk" else parts[0]
            if word is None and current == table:
                return f"{name}, line {number}"
        left, equals, _ = bare.replace('"', "").replace("'", "").partition("=")
        mine = current == table and left.strip() == word
        dotted = not current and left.partition(".")[0].strip() == table
        if equals and (mine or dotted):
            return f"{name}, line {number}"
    return name
