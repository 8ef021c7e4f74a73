"""Verdicts on what systemd does for the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from holdingpen.ballast.mounting import SERVICE_UNIT, SOCKET_UNIT, VARIABLE
from holdingpen.ctl.checkup.findings import (
    Finding,
    Orders,
    hint,
    ok,
    unchecked,
    wrong,
)
from holdingpen.places import system_socket

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICE, SOCKET, SLICE = "holdingpen.service", "holdingpen.socket", "holdingpen.slice"

#: The first systemd that keeps descriptors over stop and start
#: (FileDescriptorStorePreserve= of systemd.service(5)).
PRESERVES: Final = 254

#: What the unit sets: the last but one to be killed when memory runs out.
OOM_SCORE: Final = -900

#: Unit file states with which something starts the unit.
_STARTED: Final = {"enabled", "enabled-runtime", "alias", "static", "indirect"}
_STARTED_TOO: Final = {"generated", "linked", "linked-runtime", "transient"}
_NOBODY: Final = {"", "0", "infinity", "18446744073709551615"}


class Units(NamedTuple):
    """What systemctl shows."""

    #: Whether systemd is what this machine was booted with.
    booted: bool = True
    #: 0: unknown.
    version: int = 257
    #: Whether systemctl answered at all, and in time.
    answered: bool = True
    #: Property to value, of each unit.
    service: Mapping[str, str] = {}
    socket: Mapping[str, str] = {}
    mounter: Mapping[str, str] = {}
    #: Whether they are those of the user's own systemd.
    private: bool = False

    @property
    def systemctl(self) -> str:
        """The command to give orders with."""
        return "systemctl --user" if self.private else "systemctl"

    @property
    def installed(self) -> bool:
        """Whether there is a service."""
        return self.service.get("LoadState", "not-found") != "not-found"

    @property
    def socket_listens(self) -> bool:
        """Whether systemd listens for the daemon."""
        return self.socket.get("ActiveState") == "active"

    @property
    def main_pid(self) -> int:
        """The service's process; -1: there is none."""
        return int(self.service.get("MainPID") or 0) or -1

    @property
    def has_socket(self) -> bool:
        """Whether there is a socket unit."""
        return self.socket.get("LoadState", "not-found") != "not-found"


class Process(NamedTuple):
    """The daemon's process, as /proc shows it.  None: it may not be looked at."""

    pid: int
    uid: int
    oom_score_adj: int | None = OOM_SCORE
    #: Whether it has a mount namespace of its own.
    own_mounts: bool | None = False
    #: The hard RLIMIT_NOFILE, and RLIMIT_MEMLOCK in bytes; infinite: 2**64.
    nofile: int | None = 524288
    memlock_bytes: int | None = 8 * 2**20
    #: Whether RLIMIT_MEMLOCK does not count for it (CAP_IPC_LOCK).
    may_lock: bool | None = True
    #: memory.swap.max of its control group; None: no such file.
    swap_max: str | None = "0"
    #: Seconds since 1970 when it started, as the clock goes now.
    started_s: float | None = None
    #: The socket of who mounts for it, in its environment; empty: nobody does.
    mounter: str | None = ""
    #: Whether it sees what is mounted for it in a namespace that is not its own.
    told: bool | None = True


def judge_units(units: Units, daemon: Process | None) -> list[Finding]:
    """Whether systemd starts the daemon, keeps it, and keeps what it must.

    Args:
        units: what systemctl shows.
        daemon: the process that answers; None: nobody does, or it is not known.
    """
    check = "systemd.booted"
    if not units.booted:
        text = "this machine was not booted with systemd: nothing starts the daemon"
        return [
            hint(check, text, "" if daemon else orders(units, 0, system_socket()).start)
        ]
    if not units.answered:
        text = "systemctl does not answer"
        return [wrong(check, text, f"{units.systemctl} status")]
    said = [ok(check, f"systemd {units.version or '(unknown version)'}")]
    if not units.installed:
        return [*said, _not_installed(units)]
    said += [*_loaded(units), *_enabled(units), *_running(units, daemon)]
    return [*said, *_socket(units), *_store(units), *_care(units)]


def _not_installed(units: Units) -> Finding:
    if units.private:
        return hint("systemd.unit", "this daemon has no unit: nothing restarts it")
    text = f"there is no {SERVICE}: nothing starts the daemon with the machine"
    mend = f"cp systemd/holdingpen.* /etc/systemd/system/; {units.systemctl} enable "
    return wrong("systemd.unit", text, f"{mend}--now {SERVICE}")


def _loaded(units: Units) -> list[Finding]:
    check, ctl = "systemd.unit", units.systemctl
    said = []
    for name, unit in ((SERVICE, units.service), (SOCKET, units.socket)):
        state = unit.get("LoadState", "not-found")
        if state == "masked":
            text = f"{name} is masked: nothing can start it"
            said.append(wrong(check, text, f"{ctl} unmask {name}"))
        elif state not in ("loaded", "not-found"):
            text = f"{name} cannot be loaded: {state}"
            said.append(wrong(check, text, f"systemd-analyze verify {name}"))
        elif unit.get("NeedDaemonReload") == "yes":
            text = f"{name} has changed on the disk since systemd read it"
            mend = f"{ctl} daemon-reload && {ctl} restart {SERVICE}"
            said.append(wrong("systemd.reread", text, mend))
    return said or [ok(check, f"{SERVICE} is installed")]


def _enabled(units: Units) -> list[Finding]:
    states = {units.service.get("UnitFileState", ""), units.socket.get("UnitFileState")}
    if states & (_STARTED | _STARTED_TOO):
        return [ok("systemd.enabled", "it is started with the machine")]
    text = "nothing starts it with the machine"
    unit = SOCKET if units.has_socket else SERVICE
    return [wrong("systemd.enabled", text, f"{units.systemctl} enable {unit}")]


def _running(units: Units, daemon: Process | None) -> list[Finding]:
    check, ctl, unit = "systemd.active", units.systemctl, units.service
    state = unit.get("ActiveState", "")
    main = units.main_pid
    if daemon and daemon.pid not in (main, 1):
        text = f"process {daemon.pid} was started by hand, beside {SERVICE}"
        return [wrong(check, text, f"kill {daemon.pid} && {ctl} restart {SERVICE}")]
    restarts = int(unit.get("NRestarts") or 0)
    said = []
    if state == "failed":
        text = f"{SERVICE} has failed: {unit.get('Result') or 'nobody knows why'}"
        said.append(wrong(check, text, f"journalctl -u {SERVICE} -n 30"))
    elif unit.get("SubState") == "auto-restart" or (state == "activating" and restarts):
        text = f"{SERVICE} ends as soon as it starts: {restarts} times so far"
        return [wrong(check, text, f"journalctl -u {SERVICE} -n 30")]
    elif state in ("active", "activating", "reloading"):
        said.append(ok(check, f"{SERVICE} is {state}, process {main}"))
    elif units.socket_listens:
        said.append(ok(check, f"{SOCKET} waits for the first client"))
    else:
        text = f"{SERVICE} is {state or 'in no known state'}"
        said.append(wrong(check, text, f"{ctl} start {SERVICE}"))
    if restarts:
        text = f"systemd had to restart it {restarts} times"
        said.append(hint("systemd.restarts", text, f"journalctl -u {SERVICE} -b"))
    return said


def _socket(units: Units) -> list[Finding]:
    check, ctl = "systemd.socket", units.systemctl
    if not units.has_socket:
        text = f"there is no {SOCKET}: during a restart clients find nobody"
        return [hint(check, text, "cp systemd/holdingpen.socket /etc/systemd/system/")]
    if units.socket_listens:
        return [ok(check, f"{SOCKET} listens: a client waits out a restart")]
    text = f"{SOCKET} is {units.socket.get('ActiveState')}: it listens for nobody"
    mend = f"{ctl} stop {SERVICE}; {ctl} enable --now {SOCKET}; {ctl} start {SERVICE}"
    return [wrong(check, text, mend)]


def _store(units: Units) -> list[Finding]:
    check, unit = "systemd.store", units.service
    most = int(unit.get("FileDescriptorStoreMax") or 0)
    mend = f"{units.systemctl} edit {SERVICE}"
    if not most:
        text = "a restart ends all leases: there is no FileDescriptorStoreMax="
        return [wrong(check, text, f"{mend}  # [Service] FileDescriptorStoreMax=16384")]
    limit = unit.get("LimitNOFILE", "")
    if limit.isdigit() and int(limit) not in (0, 2**64 - 1) and int(limit) <= most:
        text = f"FileDescriptorStoreMax={most} is not below LimitNOFILE={limit}"
        return [wrong(check, text, f"{mend}  # [Service] LimitNOFILE=524288")]
    kept = unit.get("NFileDescriptorStore", "0")
    said = [ok(check, f"leases outlive a restart: {kept} of {most} descriptors kept")]
    if 0 < units.version < PRESERVES:
        text = (
            f"stop and start end leases with systemd {units.version}; restart does not"
        )
        said.append(hint("systemd.preserve", text))
    elif unit.get("FileDescriptorStorePreserve", "no") == "no":
        text = "stop and start end leases: FileDescriptorStorePreserve=yes is not set"
        mend += "  # [Service] FileDescriptorStorePreserve=yes"
        said.append(hint("systemd.preserve", text, mend))
    return said


def _care(units: Units) -> list[Finding]:
    unit, edit = units.service, f"{units.systemctl} edit {SERVICE}  # [Service] "
    said = []
    if unit.get("ActiveState") != "active":
        # until then systemd shows a watchdog of 0
        pass
    elif unit.get("WatchdogUSec", "0") in _NOBODY:
        text = "nobody notices when the daemon hangs: WatchdogSec= is not set"
        said.append(hint("systemd.watchdog", text, f"{edit}WatchdogSec=30s"))
    else:
        text = f"a daemon that hangs is restarted after {unit['WatchdogUSec']}"
        said.append(ok("systemd.watchdog", text))
    if units.private:
        return said
    if unit.get("Slice") != SLICE:
        text = (
            f"it is in {unit.get('Slice') or 'no slice'}: a restart meets leases there"
        )
        said.append(wrong("systemd.slice", text, f"{edit}Slice={SLICE}"))
    else:
        said.append(ok("systemd.slice", f"it has {SLICE} to itself"))
    if unit.get("StartLimitIntervalUSec", "0") not in _NOBODY:
        text = "restarts in a row end with systemd giving up: StartLimitIntervalSec="
        mend = f"{units.systemctl} edit {SERVICE}  # [Unit] StartLimitIntervalSec=0"
        said.append(hint("systemd.restarts", text, mend))
    return said


def orders(units: Units, pid: int, place: str) -> Orders:
    """The commands that set things right here.

    Args:
        units: what systemctl shows.
        pid: the daemon's; 0: unknown.
        place: its socket.
    """
    ctl = units.systemctl
    ours = units.private or place == system_socket() or pid == units.main_pid
    if units.booted and units.installed and ours:
        first = SOCKET if units.has_socket else SERVICE
        return Orders(
            f"{ctl} start {first}",
            f"{ctl} restart {SERVICE}",
            f"{ctl} reload {SERVICE}",
            f"{ctl} edit {SERVICE}",
        )
    start = "holdingpen --user" if units.private else "holdingpen"
    if not units.private and place != system_socket():
        start = f"holdingpen --socket {place}"
    if not pid:
        return Orders(start, start, start, "")
    return Orders(start, f"kill {pid} && {start}", f"kill -HUP {pid}", "")


def judge_process(daemon: Process, private: bool) -> list[Finding]:
    """Whether the kernel treats the daemon as its unit means it to.

    Args:
        daemon: its process.
        private: whether it is somebody's own, who may set none of this.
    """
    if private:
        return []
    check, score = "systemd.oom", daemon.oom_score_adj
    if score is None:
        return [unchecked(check, "the daemon's oom_score_adj")]
    if score > OOM_SCORE:
        text = f"when memory runs out it is killed early: oom_score_adj is {score}"
        return [wrong(check, text, f"choom -n {OOM_SCORE} -p {daemon.pid}")]
    return [ok(check, f"others are killed before it: oom_score_adj {score}")]


def judge_mounts(
    daemon: Process, units: Units, disks_held: bool, refusal: str
) -> list[Finding]:
    """Whether what is mounted for leases is seen by everybody.

    Args:
        daemon: its process.
        units: what systemctl shows.
        disks_held: whether file systems of leases are to be mounted.
        refusal: why the mounter does not answer; empty: it does, or was not asked.
    """
    if units.private:
        return []
    check = "systemd.mounts"
    if daemon.own_mounts is None or daemon.mounter is None or daemon.told is None:
        what = "the daemon's mount namespace"
        return [unchecked(check, what)] if disks_held else []
    if not daemon.own_mounts:
        return [ok(check, "everybody sees the file systems it mounts")]
    ctl, then = units.systemctl, f"{units.systemctl} restart {SERVICE}"
    if not daemon.mounter:
        text = "it has a mount namespace of its own, and nobody mounts for it: "
        mend = f"{ctl} edit {SERVICE}  # [Service] "
        mend += f"Environment={VARIABLE}=/run/{SOCKET_UNIT}"
        found = wrong if disks_held else hint
        return [found(check, f"{text}nobody sees what it mounts", mend)]
    if not daemon.told:
        text = "what is mounted for it is not seen in its mount namespace"
        return [wrong(check, text, f"mount --make-rshared / && {then}")]
    less = "no part of a disk for leases, no huge pages for ballast"
    state = units.mounter.get("LoadState", "not-found")
    if state == "not-found":
        text = f"there is no {SOCKET_UNIT}: {less}"
        mend = "cp systemd/holdingpen-mounter.* /etc/systemd/system/; "
        mend += f"{ctl} daemon-reload; {ctl} enable --now {SOCKET_UNIT} && {then}"
        return [wrong(check, text, mend)]
    if state == "masked":
        text = f"{SOCKET_UNIT} is masked: {less}"
        mend = f"{ctl} unmask {SOCKET_UNIT}; {ctl} start {SOCKET_UNIT} && {then}"
        return [wrong(check, text, mend)]
    if units.mounter.get("ActiveState") != "active":
        text = f"{SOCKET_UNIT} is {units.mounter.get('ActiveState')}: {less}"
        return [wrong(check, text, f"{ctl} start {SOCKET_UNIT} && {then}")]
    if refusal:
        mend = f"journalctl -u {SERVICE_UNIT} -n 30"
        return [wrong(check, f"{refusal.rstrip('.')}: {less}", mend)]
    return [ok(check, f"{SERVICE_UNIT} mounts for it, where everybody sees it")]
