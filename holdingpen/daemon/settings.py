"""The configuration: TOML to frozen `Settings`; each default with its reason.

An unknown key or a bad value names the file, the line, the key and what is accepted.
A key that is not in the file has the default below; an empty file is legal.
Names of users and groups are looked up when the file is read.
"""

from __future__ import annotations

import grp
import pwd
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

from holdingpen.amounts import (
    AMOUNT_MAX,
    BYTES,
    is_bytes,
    parse_amount,
    parse_count,
    parse_size,
)
from holdingpen.core.facts import MACHINE
from holdingpen.core.resources import DISK
from holdingpen.core.rights import ANY, OWN, Allow, Rules
from holdingpen.daemon.translate import PRIORITY_MAX
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


class People(Struct, frozen=True):
    """Some users, and the members of some groups."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()


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
    #: Who may order about others' leases, besides root and whoever runs the daemon.
    operators: People = People()

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
    #: Seconds in the line that count as one priority, so that nobody starves behind
    #: those who ask with more; None: waiting counts nothing, and priorities mean what
    #: they say.  With an hour who sits at the machine stays ahead for four days.
    ageing_s: float | None = None
    #: Who was asked back has so long: what it takes to save one's work.
    reclaim_grace_s: float = Rules().reclaim_grace_s
    #: Whether his lease is ended then; else he is shown, as nobody's work is lost by
    #: a rule that nobody made.
    reclaim_ends: bool = False
    #: A reservation that nothing uses for so long is shown as idle; None: never, as
    #: only its owner knows whether he comes back.
    idle_after_s: float | None = None
    #: Whether it is ended then.
    idle_ends: bool = False
    #: A request that does not say how long it takes is taken to last so long when
    #: reservations are planned around it: an hour, as one sitting at a program.
    assume_s: float = Rules().assume_s
    #: So long before its begin a reservation gathers what it needs: time to ask back
    #: what others hold (a minute), and to take ballast at 1 GiB a second.
    ready_before_s: float = Rules().ready_before_s
    #: The priority of who sits at the machine, at least: far above the 0 of those who
    #: ask for none, and far below what an operator may give.
    seat_priority: int = Rules().seat_priority
    #: Whether logind says who sits at the machine; None: in a system's daemon it does,
    #: in a private pen it does not, as there nobody has to be told apart.
    console_logind: bool | None = None
    #: What becomes of what he asked for while he sat here: `keep` lets it run, as a
    #: long computation is often started before one goes home; `end` ends it.
    console_after_logout: str = "keep"
    #: What each may ask for; the first rule that names him counts, none: no limits.
    allow: tuple[Allow, ...] = ()
    #: How long ended leases are kept for reports: a year, and a month to report it.
    history_keep_s: float = 400 * 86400.0


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


def _duration_or_off(value: object) -> float | None:
    return None if value == "off" else _duration(value)


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


def _priority(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadWord("not a whole number")
    if abs(value) > PRIORITY_MAX:
        raise BadWord(f"at most {PRIORITY_MAX} either way")
    return value


def _amount(resource: str, value: object) -> int:
    amount = _count(parse_amount(resource, value) if isinstance(value, str) else value)
    if resource == MACHINE and amount > 1:
        raise BadWord("there is one machine")
    return amount


def _names(value: object) -> list[str]:
    names = value if isinstance(value, list) else [value]
    return [_text(name) for name in names]


#: The kernel's word for no user and no group: nobody ever has it.
NO_ID = 2**32 - 1
#: Where names that nobody has are collected; None: they are an error.
_unknown: ContextVar[list[str] | None] = ContextVar("unknown", default=None)


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return _nobody(f"there is no user {name!r}")


def _gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return _nobody(f"there is no group {name!r}")


def _nobody(problem: str) -> int:
    unknown = _unknown.get()
    if unknown is None:
        raise BadWord(problem)
    unknown.append(problem)
    return NO_ID


def _ids(look_up: Callable[[str], int]) -> Callable[[object], dict[str, int]]:
    def read(value: object) -> dict[str, int]:
        found = {name: look_up(name) for name in _names(value)}
        if not found:
            raise BadWord("nobody is named, and a rule for nobody is none")
        return found

    return read


def _people(value: object) -> People:
    names = _names(value)
    return People(
        frozenset(_uid(name) for name in names if not name.startswith("@")),
        frozenset(_gid(name[1:]) for name in names if name.startswith("@")),
    )


def _plain_table(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise BadWord("not a table")
    return value


HANDOVERS = ("auto", "exact", "paced", "free")
POLICIES = ("defend", "yield")
AFTER_LOGOUT = ("keep", "end")

_SIZE = 'a size such as "8G"'
_COUNT = "a whole number"
_FLAG = "true or false"
_DURATION = 'a duration such as "10s"'
_OR_OFF = 'a duration such as "1h", or "off"'
_PRIORITY = "a whole number, higher goes first"

#: Table, key, and how it is read.
KEYS: dict[str, dict[str, Key]] = {
    "daemon": {
        "socket": Key("socket", _path, 'an absolute path such as "/run/x.socket"'),
        "mode": Key("mode", _mode, 'an octal mode as text, such as "0660"'),
        "group": Key("group", _text, 'the name of a group, such as "holdingpen"'),
        "state": Key("state", _path, "an absolute path of a directory"),
        "connections_max": Key("connections_max", _positive, _COUNT),
        "connections_per_user_max": Key("connections_per_user_max", _positive, _COUNT),
        "hello_within": Key("hello_within_s", _duration, _DURATION),
        "operators": Key(
            "operators", _people, 'users and @groups, such as ["ada", "@admins"]'
        ),
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
        "backfill": Key("backfill", _flag, _FLAG),
        "leases_per_user_max": Key("leases_per_user_max", _positive, _COUNT),
        "waiting_per_user_max": Key("waiting_per_user_max", _positive, _COUNT),
        "ageing": Key("ageing_s", _duration_or_off, _OR_OFF),
        "reclaim_grace": Key("reclaim_grace_s", _duration, _DURATION),
        "reclaim_end": Key("reclaim_ends", _flag, _FLAG),
        "idle_after": Key("idle_after_s", _duration_or_off, _OR_OFF),
        "idle_end": Key("idle_ends", _flag, _FLAG),
        "assume": Key("assume_s", _duration, _DURATION),
        "ready_before": Key("ready_before_s", _duration, _DURATION),
    },
    "console": {
        "priority": Key("seat_priority", _priority, _PRIORITY),
        "logind": Key("console_logind", _flag, _FLAG),
        "after_logout": Key(
            "console_after_logout", _one_of(*AFTER_LOGOUT), " or ".join(AFTER_LOGOUT)
        ),
    },
    "history": {"keep": Key("history_keep_s", _duration, 'a duration such as "400d"')},
}

#: The keys of a [disk.NAME] table.
DISK_KEYS: dict[str, Key] = {
    "path": Key("path", _path, "the absolute path of a directory"),
    "hold": Key("hold", _size, _SIZE),
    "keep": Key("keep", _size, _SIZE),
}

#: The keys of each [[allow]] table.
ALLOW_KEYS: dict[str, Key] = {
    "user": Key("user", _ids(_uid), "the name of a user, or a list of such names"),
    "group": Key("group", _ids(_gid), "the name of a group, or a list of such names"),
    "max": Key("most", _plain_table, 'a table such as { ram = "16G", gpu = 1 }'),
    "time_max": Key("time_max_s", _duration, 'a duration such as "8h"'),
    "priority_max": Key("priority_max", _priority, _PRIORITY),
    "reserve": Key("reserve", _flag, _FLAG),
    "end": Key("end", _one_of(OWN, ANY), f'"{OWN}" or "{ANY}"'),
}

#: So many users or groups are named when a rule is called by its name.
NAMES_TOLD = 3

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


def read_settings_at_start(path: Path) -> tuple[Settings, list[str]]:
    """Read it where a name that nobody has any more must not keep it from starting.

    Returns:
        The settings, in which a name that nobody has means nobody; and what is to be
        said about that.

    Raises:
        BadSettings: as `read_settings`, for everything else.
    """
    unknown: list[str] = []
    token = _unknown.set(unknown)
    try:
        return read_settings(path), [
            f"{path}: {x}; it counts for nobody." for x in unknown
        ]
    finally:
        _unknown.reset(token)


def parse_settings(text: str, name: str) -> Settings:
    """Read a configuration; `name` is what its messages call it.

    Raises:
        BadSettings: as `read_settings`.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as why:
        raise BadSettings(f"{name}: this is no TOML: {why}.") from None
    source = Source(text, name)
    rules = tree.pop("allow", [])
    found: dict[str, object] = {}
    for table, content in tree.items():
        if table == "resources":
            found["resources"] = _resources(content, source)
            continue
        if table == DISK:
            found["disks"] = _disks(content, source)
            continue
        keys = KEYS.get(table)
        where = source.where(table)
        if keys is None:
            tables = (*KEYS, "disk.NAME", "resources", "[allow]")
            known = ", ".join(f"[{x}]" for x in tables)
            raise BadSettings(f"{where}: unknown table [{table}]; there are {known}.")
        if not isinstance(content, Mapping):
            known = ", ".join(keys)
            raise BadSettings(f"{where}: [{table}] is a table with the keys {known}.")
        found.update(_table(content, keys, source, f"[{table}]", (table,)))
    settings = Settings(**found)  # type: ignore[arg-type]
    # last, because a rule may name what the other tables define
    found["allow"] = _rules(rules, settings, source)
    return Settings(**found)  # type: ignore[arg-type]


class Source(NamedTuple):
    """The text of a configuration, to say where in it something is."""

    text: str
    name: str

    def where(self, *path: str) -> str:
        """`FILE, line N` of a table or key, as well as a look at the lines can tell.

        Args:
            path: tables and key from the outside in; in [[allow]] the second is the
                number of the rule, from 0.  What has no line of its own is where the
                table around it is.
        """
        # a name may have a dot in it
        sought = ".".join(path).split(".")
        best, line = 0, ""
        for number, here in self._heads():
            near = min(len(here), len(sought))
            if near > best and here[:near] == sought[:near]:
                best, line = near, f", line {number}"
        return self.name + line

    def _heads(self) -> Iterator[tuple[int, list[str]]]:
        """Each line that opens a table or sets a key: its number and path."""
        table: list[str] = []
        rules = -1
        for number, line in enumerate(self.text.splitlines(), 1):
            bare = line.strip()
            if bare.startswith("["):
                table = _parts(bare.partition("]")[0].strip("[ "))
                rules += bare.startswith("[[")
                if rules >= 0 and table[0] == "allow":
                    table.insert(1, str(rules))
                yield number, table
                continue
            left, equals, _ = bare.partition("=")
            if equals:
                yield number, table + _parts(left)


def _parts(dotted: str) -> list[str]:
    return [part.strip("\"' ") for part in dotted.split(".")]


def _table(
    content: Mapping[str, object],
    keys: dict[str, Key],
    source: Source,
    title: str,
    path: tuple[str, ...],
) -> dict[str, Any]:
    found = {}
    for word, value in content.items():
        where = source.where(*path, word)
        if word not in keys:
            known = ", ".join(keys)
            raise BadSettings(
                f"{where}: unknown key {word!r} in {title}; there are {known}."
            )
        found[keys[word].field] = _read(keys[word], value, f"{where}: {word}")
    return found


def _read(key: Key, value: object, where: str) -> object:
    try:
        return key.read(value)
    except BadWord as why:
        message = f"{where} = {value!r} is not accepted ({why}); write {key.accepted}."
        raise BadSettings(message) from None


def _disks(content: object, source: Source) -> dict[str, Disk]:
    where = source.where(DISK)
    if not isinstance(content, Mapping):
        raise BadSettings(f"{where}: write a table [disk.NAME] for each directory.")
    found = {}
    for word, keys in content.items():
        where = source.where(DISK, word)
        if not isinstance(keys, Mapping):
            raise BadSettings(f"{where}: write [disk.NAME], not {word!r} in [disk].")
        if not _is_plain(word):
            raise BadSettings(
                f"{where}: {word!r} cannot name a disk: use letters, digits, _ and -, "
                "at most 64."
            )
        title = f"[disk.{word}]"
        found[word] = Disk(**_table(keys, DISK_KEYS, source, title, (DISK, word)))
        if not found[word].path:
            raise BadSettings(f"{where}: {title} lacks path: write the directory's.")
    return found


def _is_plain(word: str) -> bool:
    bare = word.replace("_", "").replace("-", "")
    return word.isascii() and bare.isalnum() and len(word) <= 64


def _resources(content: object, source: Source) -> dict[str, int]:
    if not isinstance(content, Mapping):
        where = source.where("resources")
        raise BadSettings(f"{where}: [resources] is a table: name = how many.")
    found = {}
    for word, value in content.items():
        where = source.where("resources", word)
        if not _is_plain(word) or word in TAKEN_NAMES:
            taken = ", ".join(sorted(TAKEN_NAMES))
            raise BadSettings(
                f"{where}: {word!r} cannot name a resource: use letters, digits, _ "
                f"and -, at most 64, and none of {taken}."
            )
        key = Key(word, _count, _COUNT)
        found[word] = int(_read(key, value, f"{where}: {word}"))  # type: ignore[call-overload]
    return found


def _rules(content: object, settings: Settings, source: Source) -> tuple[Allow, ...]:
    if not isinstance(content, list) or not all(
        isinstance(x, Mapping) for x in content
    ):
        raise BadSettings(
            f"{source.where('allow')}: write a table [[allow]], in two brackets, for "
            "each rule."
        )
    disks = {f"{DISK}.{word}" for word in settings.disks}
    resources = TAKEN_NAMES | disks | settings.resources.keys()
    found = []
    for index, rule in enumerate(content):
        path = ("allow", str(index))
        read = _table(rule, ALLOW_KEYS, source, "[[allow]]", path)
        users, groups = read.pop("user", {}), read.pop("group", {})
        whom = [_told(*x) for x in (("user", users), ("group", groups)) if x[1]]
        name = f"[[allow]] rule {index + 1} ({'; '.join(whom) or 'everybody'})"
        read["most"] = _most(read.get("most", {}), resources, source, path)
        uids, gids = frozenset(users.values()), frozenset(groups.values())
        found.append(Allow(name, uids, gids, **read))
    return tuple(found)


def _told(key: str, names: Collection[str]) -> str:
    words = [f'"{name}"' for name in names]
    if len(words) > NAMES_TOLD:
        words[NAMES_TOLD:] = ["..."]
    return f"{key} = {words[0] if len(words) == 1 else '[' + ', '.join(words) + ']'}"


def _most(
    content: Mapping[str, object],
    resources: Collection[str],
    source: Source,
    path: tuple[str, ...],
) -> dict[str, int]:
    found = {}
    for word, value in content.items():
        if word == DISK and isinstance(value, Mapping):
            # so TOML reads `disk.scratch = "50G"`
            disks = {f"{DISK}.{name}": much for name, much in value.items()}
            found.update(_most(disks, resources, source, path))
            continue
        where = source.where(*path, "max", word)
        if word not in resources:
            known = ", ".join(sorted(resources))
            raise BadSettings(
                f"{where}: max names the unknown resource {word!r}; there are {known}."
            )
        accepted = "0 or 1" if word == MACHINE else _SIZE if is_bytes(word) else _COUNT
        key = Key(word, partial(_amount, word), accepted)
        found[word] = int(_read(key, value, f"{where}: max.{word}"))  # type: ignore[call-overload]
    return found
