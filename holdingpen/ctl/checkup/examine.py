"""The facts of a pen's own things: socket, configuration, state, process."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdingpen import places
from holdingpen.ballast.mounting import VARIABLE, is_told
from holdingpen.ctl import terminal
from holdingpen.ctl.checkup.service import Config, Door, Person, State
from holdingpen.ctl.checkup.units import Process
from holdingpen.errors import BadSettings

if TYPE_CHECKING:
    from holdingpen.ctl.checkup.ask import Daemon
    from holdingpen.daemon.settings import Settings

SYSTEM_CONFIG: Final = "/etc/holdingpen.toml"
SYSTEM_STATE: Final = "/var/lib/holdingpen"

#: A journal that is bigger is not read here: `holdingpenctl journal check` does it.
READ_MAX: Final = 256 * 2**20

#: CAP_IPC_LOCK of capabilities(7).
_IPC_LOCK: Final = 14
_INFINITE: Final = 2**64


def me() -> Person:
    """Who runs this program."""
    uid = os.geteuid()
    groups = frozenset({os.getegid(), *os.getgroups()})
    try:
        known = pwd.getpwuid(uid)
    except KeyError:
        return Person(uid, str(uid), groups, groups)
    listed = os.getgrouplist(known.pw_name, known.pw_gid)
    return Person(uid, known.pw_name, groups, frozenset(listed))


def door(
    path: str, settings: Settings, *, by_daemon: bool, private: bool = False
) -> Door | None:
    """The socket; None when there is none, or it cannot be seen."""
    try:
        found = os.stat(path)  # noqa: PTH116 (a text, as the others take it)
        may_open = os.access(path, os.W_OK, effective_ids=True)
    except OSError:
        return None
    return Door(
        path,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        terminal.user_name(found.st_uid),
        terminal.group_name(found.st_gid),
        stat.S_ISSOCK(found.st_mode),
        may_open,
        by_daemon,
        settings.mode,
        settings.group,
        private,
    )


def config(daemon: Daemon, daemon_uid: int) -> tuple[Config, Settings]:
    """The configuration file, and what it says: the defaults where it is no good."""
    from holdingpen.daemon.settings import Settings, read_settings

    own = daemon.config or (places.user_config() if daemon.user else SYSTEM_CONFIG)
    path = Path(own)
    try:
        found = path.stat()
    except FileNotFoundError:
        return Config(own, there=False, private=daemon.user), Settings()
    except OSError:
        return Config(own, there=True, error=None, private=daemon.user), Settings()
    error: str | None = ""
    settings = Settings()
    if not os.access(path, os.R_OK, effective_ids=True):
        error = None
    else:
        try:
            settings = read_settings(path)
            _group_there(settings, own)
        except BadSettings as why:
            error = str(why)
    mode = stat.S_IMODE(found.st_mode)
    told = Config(own, True, error, mode, found.st_uid, daemon_uid, daemon.user)
    return told, settings


def _group_there(settings: Settings, path: str) -> None:
    """The one name that is looked up only when the socket is made."""
    if settings.group is None:
        return
    try:
        grp.getgrnam(settings.group)
    except KeyError:
        raise BadSettings(
            f"{path}: [daemon] group: there is no group {settings.group!r}: "
            f"addgroup --system {settings.group}"
        ) from None


def state(daemon: Daemon, settings: Settings, daemon_uid: int) -> State:
    """The state directory and what is in it."""
    from holdingpen.devices.filesystem import FileSystem
    from holdingpen.errors import Unavailable

    path = Path(daemon.state or settings.state or _default_state(daemon))
    try:
        found = path.stat()
    except FileNotFoundError:
        return State(str(path), there=False)
    except OSError:
        return State(str(path), there=None)
    try:
        names = sorted(entry.name for entry in path.iterdir())
        filesystem = FileSystem(path)
    except (OSError, Unavailable):
        return State(str(path), there=None)
    journal, says = _journal(path / "journal")
    return State(
        str(path),
        True,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        daemon_uid,
        filesystem.kind,
        filesystem.available(),
        journal,
        says,
        tuple(name for name in names if ".broken" in name),
    )


def _default_state(daemon: Daemon) -> str:
    if not daemon.user:
        return SYSTEM_STATE
    if daemon.socket is None:
        return places.user_state()
    # as the daemon names it: each private pen has a journal of its own
    return f"{places.user_state()}/{daemon.socket.strip('/').replace('/', '-')}"


def _journal(path: Path) -> tuple[str, str]:
    from holdingpen.journal import record

    boot_id = _word(Path("/proc/sys/kernel/random/boot_id"))
    found = None
    # a daemon may be in the middle of a write: then look once more
    for _ in range(2):
        try:
            if path.stat().st_size > READ_MAX:
                return "unseen", ""
            data = path.read_bytes()
        except FileNotFoundError:
            return "none", ""
        except OSError:
            return "unseen", ""
        found = record.scan(data, boot_id)
        if found.end is record.End.CLEAN:
            return "clean", ""
    assert found is not None
    ends = {record.End.TORN: "torn", record.End.DAMAGED: "damaged"}
    says = f"byte {found.good_until}, record {found.records}: {found.what}"
    return ends.get(found.end, "unknown"), says


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def process(pid: int, proc: Path = Path("/proc")) -> Process | None:
    """A process, as far as it may be looked at; None: there is none."""
    here = proc / str(pid)
    status = _word(here / "status")
    uid = re.search(r"^Uid:\s+\d+\s+(\d+)", status, re.MULTILINE)
    if not pid or uid is None:
        return None
    score = _word(here / "oom_score_adj")
    caps = re.search(r"^CapEff:\s+([0-9a-f]+)", status, re.MULTILINE)
    limits = _word(here / "limits")
    return Process(
        pid,
        int(uid[1]),
        int(score) if score else None,
        _own_mounts(here, proc),
        _limit(limits, "Max open files"),
        _limit(limits, "Max locked memory"),
        bool(int(caps[1], 16) >> _IPC_LOCK & 1) if caps else None,
        swap_max(here),
        _started_s(here),
        _mounter(here),
        _told(here),
    )


def _own_mounts(here: Path, proc: Path) -> bool | None:
    try:
        return (here / "ns/mnt").readlink() != (proc / "1/ns/mnt").readlink()
    except OSError:
        return None


def _mounter(here: Path) -> str | None:
    """Where its mounter listens, as its environment says; empty: it has none."""
    try:
        words = (here / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    prefix = f"{VARIABLE}=".encode()
    found = [word for word in words if word.startswith(prefix)]
    return os.fsdecode(found[0].removeprefix(prefix)) if found else ""


def _told(here: Path) -> bool | None:
    try:
        return is_told(Path(places.system_socket()).parent, here / "mountinfo")
    except OSError:
        return None


def _limit(limits: str, name: str) -> int | None:
    """The hard limit, up to which the daemon raises its own."""
    found = re.search(rf"^{name}\s+\S+\s+(\d+|unlimited)", limits, re.MULTILINE)
    if found is None:
        return None
    return int(found[1]) if found[1].isdigit() else _INFINITE


def group_of(here: Path) -> str | None:
    """The group of cgroup v2 that a process is in; None: there is none."""
    found = re.search(r"^0::(/.*)$", _word(here / "cgroup"), re.MULTILINE)
    return found[1] if found else None


def swap_max(here: Path, cgroup: Path = Path("/sys/fs/cgroup")) -> str | None:
    """The least of its group and of those above it, as far as it matters: "0"."""
    group = group_of(here)
    if group is None:
        return None
    own = Path(group.strip("/"))
    words = [_word(cgroup / x / "memory.swap.max") for x in (own, *own.parents)]
    return "0" if "0" in words else words[0] or None


def _started_s(here: Path) -> float | None:
    """When it started, in seconds since 1970 as the wall clock goes now."""
    fields = _word(here / "stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return None
    # proc_pid_stat(5): the 22nd of all, in ticks of CLOCK_BOOTTIME
    after_boot_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + after_boot_s
