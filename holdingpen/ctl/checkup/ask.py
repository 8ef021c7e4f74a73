"""What others say of a pen: the daemon, and systemctl; neither is waited for long."""

from __future__ import annotations

import argparse
import os
import re
import socket
import struct
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from holdingpen import places
from holdingpen.ballast import mounting
from holdingpen.ballast.mounting import SOCKET_UNIT
from holdingpen.client.blocking import Connection
from holdingpen.client.finding import dial
from holdingpen.ctl.checkup.service import SILENT, Answer
from holdingpen.ctl.checkup.units import SERVICE, SOCKET, Units
from holdingpen.errors import HoldingPenError, Unavailable
from holdingpen.wire import messages as wire

#: How long anybody may take to answer.  The daemon needs a millisecond, systemctl 10;
#: on a machine that is short of memory it may take seconds.
ANSWER_S: Final = 5.0

_UCRED: Final = struct.Struct("iII")

_SHOWN: Final = (
    "LoadState ActiveState SubState UnitFileState NeedDaemonReload Result "
    "NRestarts MainPID "
    "FileDescriptorStoreMax NFileDescriptorStore FileDescriptorStorePreserve "
    "LimitNOFILE WatchdogUSec Slice StartLimitIntervalUSec "
    "ProtectSystem ProtectHome PrivateTmp ReadWritePaths BindPaths"
)


class Daemon(NamedTuple):
    """Where a daemon has its things, as its command line says."""

    socket: str | None = None
    config: str | None = None
    state: str | None = None
    user: bool = False


def ask_daemon(path: str | None, answer_s: float = ANSWER_S) -> Answer:
    """Ask who answers at the socket, or at the first place where somebody does.

    Args:
        path: as `--socket` says.
        answer_s: how long it may take.
    """
    first = places.named_socket(path) or places.system_socket()
    try:
        # without waiting: a daemon that hangs may have more knocking than it lets in
        sock, place = dial(path, wait=False)
    except BlockingIOError:
        return Answer(first, code=SILENT, why=f"the daemon at {first} lets nobody in")
    except HoldingPenError as why:
        return Answer(first, code=why.code, why=str(why))
    sock.setblocking(True)
    pid, uid = _peer(sock.fileno())
    try:
        with Connection(sock, place, "holdingpenctl", answer_s=answer_s) as conn:
            status = conn.status()
    except HoldingPenError as why:
        code = SILENT if why.code == Unavailable.code else why.code
        private = command_line(pid).user
        return Answer(place, "", code, str(why), pid, uid, private)
    return Answer(
        place,
        status.daemon,
        pid=pid,
        uid=uid,
        private=command_line(pid).user,
        since=status.since,
        troubles=tuple(status.troubles),
        held=_held(status),
        leases=frozenset(lease.id for lease in status.leases),
    )


def _held(status: wire.Status) -> dict[str, int]:
    return {name: books.held for name, books in status.resources.items()}


def _peer(fd: int) -> tuple[int, int]:
    """Who listens: process and user, as the kernel says; 0 for another namespace's."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        said = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(said)
    return pid, uid


def ask_mounter(place: str) -> str:
    """Why nobody answers who would mount for the daemon; empty: somebody does."""
    try:
        mounting.look(place)
    except Unavailable as why:
        return str(why)
    return ""


def command_line(pid: int, proc: Path = Path("/proc")) -> Daemon:
    """What the command line of a daemon says; nothing, if it cannot be read."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False
    )
    for option in ("--socket", "--config", "--state"):
        parser.add_argument(option)
    parser.add_argument("--user", action="store_true")
    here = proc / str(pid)
    try:
        cwd = str((here / "cwd").readlink())
    except OSError:
        cwd = "/"
    try:
        words = (here / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        found, _ = parser.parse_known_args([os.fsdecode(word) for word in words[1:]])
    except (OSError, argparse.ArgumentError):
        return Daemon()
    where = {
        name: None if word is None else str(Path(cwd, word))
        for name, word in vars(found).items()
        if name != "user"
    }
    return Daemon(**where, user=found.user)


def ask_systemd(
    *,
    private: bool,
    answer_s: float = ANSWER_S,
    booted: Path = Path("/run/systemd/system"),
    systemctl: str = "systemctl",
) -> Units:
    """Ask systemctl about our units.

    Args:
        private: whether to ask the user's own systemd.
        answer_s: how long each answer may take.
        booted: is there when systemd is process 1: sd_booted(3).
        systemctl: the command.
    """
    if not booted.is_dir():
        return Units(booted=False, private=private)
    words = [systemctl, *(["--user"] if private else []), "show"]
    manager = _show([*words, "--property=Version"], answer_s)
    if manager is None:
        return Units(answered=False, private=private)
    wanted = f"--property={','.join(_SHOWN.split())}"
    service = _show([*words, wanted, SERVICE], answer_s)
    door = _show([*words, wanted, SOCKET], answer_s)
    # a user's daemon has none
    mounter = {} if private else _show([*words, wanted, SOCKET_UNIT], answer_s)
    number = re.search(r"\d+", manager.get("Version", ""))
    return Units(
        version=int(number[0]) if number else 0,
        answered=None not in (service, door, mounter),
        service=service or {},
        socket=door or {},
        mounter=mounter or {},
        private=private,
    )


def _show(words: list[str], answer_s: float) -> dict[str, str] | None:
    """What systemctl prints, as properties; None: nothing, or not in time."""
    try:
        done = subprocess.run(  # noqa: S603 (our own words)
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=answer_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {name: value for name, _, value in pairs}
