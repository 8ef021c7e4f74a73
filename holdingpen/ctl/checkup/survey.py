"""The facts of what is around a pen: memory, clock, disks, programs, leftovers."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdingpen.ctl.checkup import around
from holdingpen.ctl.checkup.examine import group_of
from holdingpen.ctl.checkup.machine import Clock, Memory
from holdingpen.errors import HoldingPenError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdingpen.daemon.settings import Settings

#: Our commands; the first is the one that everybody needs.
PROGRAMS: Final = ("gatekeeper", "holdingpen", "holdingpenctl")

_SBIN: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
#: The control group of the service.
_UNIT_GROUP: Final = "/holdingpen.slice/holdingpen.service"
_ZONES: Final = "/usr/share/zoneinfo/"

# adjtimex(2): asks only; the status bit and the answer that mean "not synchronised"
_ASK, _UNSYNC, _TIME_ERROR = 0, 0x40, 5


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path, default: int) -> int:
    text = _text(path)
    return int(text) if text.isdigit() else default


def memory(
    settings: Settings, pid: int, held_bytes: int, root: Path = Path("/")
) -> Memory:
    """The machine's memory and what the kernel does with it.

    Args:
        settings: what the administrator decided.
        pid: the daemon's; 0: unknown.
        held_bytes: what it holds.
        root: where /proc and /sys are.
    """
    vm = root / "proc/sys/vm"
    figures = dict(
        re.findall(r"^(\w+):\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    )
    kib = {name: int(value) * 1024 for name, value in figures.items()}
    huge = _text(root / "sys/kernel/mm/transparent_hugepage/shmem_enabled")
    chosen = re.search(r"\[(\w+)\]", huge)
    fraction = _number(vm / "percpu_pagelist_high_fraction", -1)
    version, why = _exact(pid)
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    return Memory(
        kib.get("MemTotal", 0),
        kib.get("MemAvailable", 0),
        _keep_bytes(settings),
        held_bytes,
        kib.get("SwapTotal", 0),
        _number(vm / "swappiness", 60),
        chosen[1] if chosen else "",
        bool(_text(root / "proc/pressure/memory")),
        _number(vm / "overcommit_memory", 0),
        (int(release[1]), int(release[2])) if release else (0, 0),
        None if fraction < 0 else fraction,
        version,
        why,
    )


def _keep_bytes(settings: Settings) -> int:
    from holdingpen.devices.host import Host

    try:
        from holdingpen.daemon.lending import keep_bytes

        return keep_bytes(settings, Host())
    except (ImportError, OSError):
        # a library is missing, which is said elsewhere
        return settings.ram_keep or 0


def _exact(pid: int) -> tuple[int, str | None]:
    """Version of the groups; why memory cannot be handed over exactly by `pid`."""
    from holdingpen.ballast.samegroup import why_not
    from holdingpen.devices.cgroup import find_groups

    groups = find_groups("memory", Path("/proc"), Path("/sys/fs/cgroup"))
    if groups.version != 2 or not groups.paths:
        return groups.version, why_not(groups.version, groups.paths)
    if os.geteuid() != 0:
        return groups.version, None
    own = group_of(Path(f"/proc/{pid}")) if pid else None
    # without a daemon: where its unit would have it
    below = Path((own or _UNIT_GROUP).strip("/"))
    # of that group, seen from the same top
    top = groups.paths[-1]
    paths = [top / below, *(top / parent for parent in below.parents)]
    return groups.version, why_not(groups.version, paths)


class _Timex(ctypes.Structure):
    # struct timex of adjtimex(2), as far as it matters, and room for the rest
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def synchronised() -> bool | None:
    """Whether the kernel's clock is kept right; None: it does not tell."""
    asked = _Timex(modes=_ASK)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked))
    if state < 0:
        return None
    return bool(state != _TIME_ERROR and not asked.status & _UNSYNC)


def clock(
    journal: Path, since_s: float, started_s: float | None, root: Path = Path("/")
) -> Clock:
    """The clocks.

    Args:
        journal: was written by the daemon at some time.
        since_s: when the daemon started, as it says itself; 0: unknown.
        started_s: the same, as the kernel says now; None: unknown.
        root: where /etc is.
    """
    try:
        written_s = journal.stat().st_mtime
    except OSError:
        written_s = 0.0
    stepped_s = started_s - since_s if since_s and started_s is not None else None
    zone, known = _zone(root)
    return Clock(time.time(), written_s, stepped_s, synchronised(), zone, known)


def _zone(root: Path) -> tuple[str, bool]:
    """The name of the zone, and whether the system knows it."""
    wanted = os.environ.get("TZ", "").lstrip(":")
    if wanted:
        # a name with figures in it is a rule of its own: "CET-1CEST"
        known = bool(re.search(r"\d", wanted)) or Path(_ZONES, wanted).exists()
        return wanted, known
    local = root / "etc/localtime"
    try:
        place = str(local.readlink())
    except OSError:
        return ("the file /etc/localtime" if local.exists() else ""), True
    return place.rpartition("zoneinfo/")[2], local.exists()


def disks(
    settings: Settings,
    held: Mapping[str, int],
    unit: Mapping[str, str],
    *,
    mounts: bool,
) -> list[around.Disk]:
    """What there is at each [disk.NAME].

    Args:
        settings: what the administrator decided.
        held: resource to ballast of the daemon in bytes.
        unit: what systemctl shows of the daemon's unit.
        mounts: whether the daemon may mount.
    """
    from holdingpen.devices.filesystem import FileSystem

    mkfs = shutil.which("mkfs.ext4", path=_SBIN) is not None
    loop = Path("/dev/loop-control").exists()
    found = []
    for name, disk in settings.disks.items():
        one = around.Disk(
            name,
            disk.path,
            disk.hold,
            disk.keep,
            unmounted=unmounted(disk.path),
            held=held.get(f"disk.{name}", 0),
            mkfs=mkfs,
            loop=loop,
            shut=around.shut(os.path.realpath(disk.path), unit),
            mounts=mounts,
        )
        try:
            filesystem = FileSystem(Path(disk.path))
        except HoldingPenError:
            # a user may not get there; to him it looks as if it were not there
            there = Path(disk.path).is_dir()
            found.append(one._replace(there=there, kind="unknown"))
            continue
        found.append(
            one._replace(
                kind=filesystem.kind,
                why=filesystem.why,
                total=filesystem.total(),
                available=filesystem.available(),
            )
        )
    return found


def unmounted(path: str, fstab: Path = Path("/etc/fstab")) -> str:
    """Where /etc/fstab would mount something on the way to `path`, and nothing is."""
    for line in _text(fstab).splitlines():
        words = line.split()
        if len(words) < 3 or words[0].startswith("#") or words[1] in ("none", "/"):
            continue
        if Path(path).is_relative_to(words[1]) and not os.path.ismount(words[1]):
            return words[1]
    return ""


def programs(search: str | None = None) -> tuple[list[around.Program], str]:
    """Our commands on PATH, and the directory of this installation's own."""
    here = str(Path(sys.executable).parent)
    found = []
    for name in PROGRAMS:
        path = shutil.which(name, path=search) or ""
        if path or name == PROGRAMS[0]:
            there = Path(here, name).exists()
            found.append(around.Program(name, path, _ours(path, here), there))
    return found, here


def _ours(path: str, here: str) -> bool | None:
    """Whether the interpreter that runs us runs this script, too."""
    try:
        with open(path, "rb") as script:  # noqa: PTH123 (128 bytes of it)
            line = script.read(128).partition(b"\n")[0].decode()
    except (OSError, UnicodeDecodeError):
        return None
    if not line.startswith("#!") or "python" not in line:
        return None
    interpreter = line[2:].split()[0]
    if interpreter.endswith("/env"):
        interpreter = shutil.which(line.split()[-1]) or ""
    return str(Path(interpreter).parent) == here


def libraries() -> tuple[str, str, list[around.Library]]:
    """The version of Python, the least one, and what is needed besides."""
    python = platform.python_version()
    try:
        ours = importlib.metadata.distribution("holdingpen")
    except importlib.metadata.PackageNotFoundError:
        return python, "", []
    least = ours.metadata.json.get("requires_python", "")
    least = str(least).removeprefix(">=")
    found = []
    for name, version in around.needed(ours.requires or []):
        try:
            there: str | None = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            there = None
        found.append(around.Library(name, version, there))
    return python, least, found


def leftovers(
    socket: str, *, listened: bool, root: Path = Path("/")
) -> around.Leftovers:
    """What may be left of daemons at this socket.

    Args:
        socket: where they listened.
        listened: whether anybody listens there; its files are then in use.
        root: where /proc and /sys are.
    """
    base = socket.removesuffix(".socket")
    inside = f"{base}.scratch/"
    mounts, mounted = [], set()
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        place = left.split()[4]
        mounted.add(right.split()[1] if len(right.split()) > 1 else "")
        lease = place.rpartition("/")[2]
        if place.startswith(inside) and lease.isdigit():
            mounts.append((place, int(lease)))
    loops = []
    for backing in sorted((root / "sys/block").glob("loop*/loop/backing_file")):
        device, file = f"/dev/{backing.parts[-3]}", _text(backing)
        if "/.holdingpen/" in file and device not in mounted:
            loops.append((device, file))
    files = []
    if not listened:
        names = (socket, f"{socket}.ending", f"{base}.reserved", f"{base}.scratch")
        files = [name for name in names if os.path.lexists(name)]
    return around.Leftovers(tuple(mounts), tuple(loops), tuple(files))
