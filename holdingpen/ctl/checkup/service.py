"""Verdicts on the daemon, its socket, its configuration and its state directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from holdingpen.amounts import format_size
from holdingpen.ctl.checkup.findings import (
    Finding,
    Orders,
    hint,
    ok,
    unchecked,
    wrong,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Room the journal needs to go on: twice the size at which it is written anew.
ROOM_BYTES: Final = 32 * 2**20

_OTHERS_WRITE: Final = 0o022


#: The code of a daemon that listens and does not answer, or hangs up.
SILENT: Final = "silent"


class Answer(NamedTuple):
    """Who answers, if anybody does."""

    #: The socket: where somebody answers, or the first where nobody does.
    place: str
    #: The daemon's version; empty: nobody answers.
    version: str = ""
    #: Why nobody does: the client's code and its words.
    code: str = ""
    why: str = ""
    #: Of the daemon; 0: unknown.
    pid: int = 0
    #: Who runs it; None: unknown.
    uid: int | None = None
    #: Whether it is somebody's own, and not the machine's.
    private: bool = False
    #: Start, seconds since 1970.
    since: float = 0.0
    #: What it complains about itself.
    troubles: tuple[str, ...] = ()
    #: Resource to ballast in bytes.
    held: Mapping[str, int] = {}
    #: Leases that live.
    leases: frozenset[int] = frozenset()


def judge_daemon(answer: Answer, ours: str, orders: Orders) -> list[Finding]:
    """Whether a daemon answers, and one of our version.

    Args:
        answer: what it said.
        ours: the version of this program.
        orders: the commands here.
    """
    check, place = "daemon.answers", answer.place
    if answer.code == "not-permitted":
        # the socket's verdict says who may
        return [unchecked(check, f"the daemon at {place}")]
    if answer.code in (SILENT, "wrong-version"):
        what = check if answer.code == SILENT else "daemon.version"
        return [wrong(what, answer.why, orders.restart)]
    if not answer.version:
        # the client's advice comes after the first sentence; ours is what mends it
        why = answer.why.partition(". ")[0]
        return [wrong(check, why or f"nobody answers at {place}", orders.start)]
    process = f", process {answer.pid}" if answer.pid else ""
    whose = "a private daemon" if answer.private else "the daemon"
    text = f"{whose} answers at {place}{process}"
    said = [ok(check, text)]
    if answer.version == ours:
        said.append(ok("daemon.version", f"it is version {ours}, as this program"))
    else:
        text = f"it is version {answer.version}, and this program is {ours}"
        said.append(wrong("daemon.version", text, orders.restart))
    status = f"holdingpenctl --socket {place} status"
    said += [
        wrong("daemon.trouble", f"the daemon says: {text}", status)
        for text in answer.troubles
    ]
    return said


class Person(NamedTuple):
    """Who runs this program."""

    uid: int
    name: str
    #: Of this process.
    groups: frozenset[int]
    #: Of the user, as the user database says today.
    known_groups: frozenset[int]


class Door(NamedTuple):
    """The socket, as it lies there."""

    path: str
    #: Permission bits.
    mode: int
    uid: int
    gid: int
    #: Their names.
    owner: str
    group: str
    #: Whether it is a socket at all.
    is_socket: bool
    #: What the kernel says: whether this process may connect.
    may_open: bool
    #: Whether the daemon made it, by the configuration.
    by_daemon: bool
    #: What the configuration says; None: the daemon's own group.
    wanted_mode: int = 0o660
    wanted_group: str | None = None
    #: Whether the daemon is somebody's own, who lets nobody else in.
    private: bool = False


def rule(door: Door, me: Person, groups: frozenset[int]) -> str:
    """By which rule this user may open it, if he were in `groups`; empty: none.

    The first that names him counts, as in path_resolution(7).
    """
    if me.uid == 0:
        return "as root"
    if me.uid == door.uid:
        return "as its owner" if door.mode & 0o200 else ""
    if door.gid in groups:
        return f"as a member of {door.group}" if door.mode & 0o020 else ""
    return "as everybody may" if door.mode & 0o002 else ""


def judge_socket(door: Door, me: Person, orders: Orders) -> list[Finding]:
    """Whose the socket is, and whether this user may open it."""
    if not door.is_socket:
        text = f"{door.path} is in the way and no socket"
        return [wrong("socket.kind", text, f"mv {door.path} {door.path}.old")]
    kind = f"{door.path}: mode {door.mode:04o}, {door.owner}:{door.group}"
    said = []
    if door.by_daemon and door.mode != door.wanted_mode:
        text = f"{kind}; the configuration says mode {door.wanted_mode:04o}"
        said.append(wrong("socket.mode", text, orders.restart))
    elif door.by_daemon and door.wanted_group not in (None, door.group):
        text = f"{kind}; the configuration says group {door.wanted_group}"
        said.append(wrong("socket.mode", text, orders.restart))
    else:
        said.append(ok("socket.mode", kind))
    root_only = door.gid == 0 and door.mode & 0o022 == 0o020
    if me.uid == 0 and root_only and not door.private:
        text = "only root may open it: its group is root"
        said.append(hint("socket.group", text, '[daemon] group = "holdingpen"'))
    return [*said, _access(door, me)]


def _access(door: Door, me: Person) -> Finding:
    check = "socket.access"
    if door.may_open:
        by = rule(door, me, me.groups) or "by an entry of its access list"
        return ok(check, f"{me.name} may open it {by}")
    later = rule(door, me, me.known_groups)
    if later and not rule(door, me, me.groups):
        text = f"{me.name} joined {door.group} after this login: log in again"
        return wrong(check, text, f"newgrp {door.group}")
    if rule(door, me, me.groups):
        text = f"{me.name} may open it, but not get there: a directory above is closed"
        return wrong(check, text, f"namei -l {door.path}")
    text = f"{me.name} may not open it"
    if door.mode & 0o020 and door.gid != 0:
        text += f": not a member of {door.group}; after that, log in again"
        return wrong(check, text, f"sudo usermod -aG {door.group} {me.name}")
    text += f": it is for {door.owner} alone, as long as [daemon] group names nobody"
    return wrong(check, text, f"ls -l {door.path}; grep -n group /etc/holdingpen.toml")


class Config(NamedTuple):
    """The configuration file."""

    path: str
    there: bool
    #: None: it may not be looked at.
    error: str | None = ""
    mode: int = 0o644
    uid: int = 0
    #: Who may own it, besides root.
    daemon_uid: int = 0
    private: bool = False


def judge_config(config: Config) -> list[Finding]:
    """Whether the daemon could read it, and nobody else can change it."""
    check, path = "config.good", config.path
    if not config.there:
        return [ok(check, f"there is no {path}: every key has its default")]
    if config.error is None:
        return [unchecked(check, path)]
    user = " --user" if config.private else ""
    test = f"holdingpen{user} --config {path} --check-config"
    said = []
    if config.error:
        said.append(wrong(check, config.error, f"sensible-editor {path} && {test}"))
    else:
        said.append(ok(check, f"{path} can be read"))
    if config.mode & _OTHERS_WRITE or config.uid not in (0, config.daemon_uid):
        text = f"{path}: mode {config.mode:04o}, uid {config.uid}: others may change it"
        mend = f"chown {config.daemon_uid} {path}; chmod go-w {path}"
        said.append(wrong("config.owner", text, mend))
    return said


class State(NamedTuple):
    """The directory of the journal."""

    path: str
    #: None: it may not be looked at.
    there: bool | None = True
    mode: int = 0o700
    uid: int = 0
    #: Who runs the daemon.
    daemon_uid: int = 0
    #: Of the file system.
    kind: str = "ext4"
    free_bytes: int = 2**40
    #: clean, torn, damaged, unknown, none, or unseen.
    journal: str = "clean"
    #: What there is to say to that.
    journal_says: str = ""
    #: Names of what was cut from a journal, and of histories set aside.
    broken: tuple[str, ...] = ()


def judge_state(state: State, running: bool, orders: Orders) -> list[Finding]:
    """Whether the state directory is fit to keep what was promised."""
    path = state.path
    if state.there is None:
        return [unchecked("state.directory", f"the state directory {path}")]
    if not state.there:
        if not running:
            return [
                hint("state.directory", f"there is no {path} yet: a start makes it")
            ]
        text = f"{path} is gone, and the daemon writes its journal there"
        return [wrong("state.directory", text, orders.restart)]
    said = []
    if state.uid not in (0, state.daemon_uid) or state.mode & _OTHERS_WRITE:
        text = f"{path}: mode {state.mode:04o}, uid {state.uid}: others may change it"
        mend = f"chown {state.daemon_uid} {path}; chmod 0700 {path}"
        said.append(wrong("state.directory", text, mend))
    elif state.uid != state.daemon_uid and state.daemon_uid != 0:
        text = f"{path} is root's, and the daemon runs as uid {state.daemon_uid}"
        mend = f"chown -R {state.daemon_uid} {path}"
        said.append(wrong("state.directory", text, mend))
    else:
        said.append(ok("state.directory", f"{path}: mode {state.mode:04o}"))
    return [*said, _kept(state), _room(state), *_journal(state)]


#: File systems that are empty after a reboot.
_FORGETFUL: Final = {"tmpfs", "ramfs"}
_REMOTE: Final = {"nfs", "nfs4", "cifs", "9p", "ceph"}


def _kept(state: State) -> Finding:
    check = "state.filesystem"
    advice = '[daemon] state = "/var/lib/holdingpen"'
    if state.kind in _FORGETFUL:
        text = f"{state.path} is on {state.kind}: reservations are gone after a reboot"
        return wrong(check, text, advice)
    if state.kind in _REMOTE or state.kind.startswith("fuse"):
        text = f"{state.path} is on {state.kind}: what is synced and locked, others say"
        return hint(check, text, advice)
    return ok(check, f"it is on {state.kind}")


def _room(state: State) -> Finding:
    free = format_size(state.free_bytes)
    if state.free_bytes >= ROOM_BYTES:
        return ok("state.room", f"{free} are free there")
    least = format_size(ROOM_BYTES)
    text = f"only {free} are free for the journal, which needs {least}"
    return wrong("state.room", text, f"du -xhd1 {state.path}/.. | sort -h")


def _journal(state: State) -> list[Finding]:
    check, where = "state.journal", f"--state {state.path}"
    says = state.journal_says
    match state.journal:
        case "clean":
            said = [ok(check, "the journal is whole")]
        case "none":
            said = [ok(check, "there is no journal yet")]
        case "torn":
            text = f"the journal's end was not written completely: {says}"
            said = [hint(check, text, f"holdingpenctl journal check {where}")]
        case "damaged":
            mend = f"holdingpenctl journal repair {where}"
            said = [wrong(check, f"the journal is damaged: {says}", mend)]
        case "unseen":
            said = [unchecked(check, "the journal")]
        case _:
            text = f"a newer version wrote the journal: {says}"
            said = [wrong(check, text, f"holdingpenctl journal check {where}")]
    if state.broken:
        names = ", ".join(state.broken)
        text = f"damaged files were set aside: {names}. Look, and then remove them"
        files = " ".join(f"{state.path}/{name}" for name in state.broken)
        said.append(hint("state.broken", text, f"rm {files}"))
    return said
