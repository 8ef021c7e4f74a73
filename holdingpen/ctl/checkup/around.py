"""Verdicts on disks, programs and libraries, and on what dead daemons left."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, NamedTuple

from holdingpen.amounts import format_size
from holdingpen.ctl.checkup.findings import Finding, Orders, hint, ok, wrong

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Disk(NamedTuple):
    """One [disk.NAME] table and what is there."""

    name: str
    path: str
    #: Bytes, as configured.
    hold: int = 0
    keep: int = 0
    #: Whether it is a directory.
    there: bool = True
    #: What /etc/fstab would mount there and is not; empty: nothing.
    unmounted: str = ""
    kind: str = "ext4"
    #: Why preallocation is no reservation on it; empty: it is one.
    why: str = ""
    #: Bytes that users may have in all, and now.
    total: int = 2**40
    available: int = 2**40
    #: Ballast of the daemon now.
    held: int = 0
    #: Whether mkfs.ext4 and loop devices are there.
    mkfs: bool = True
    loop: bool = True
    #: Whether the daemon may mount at all.
    mounts: bool = True
    #: The setting of the unit that keeps the daemon from it; empty: none does.
    shut: str = ""


#: What `ProtectSystem=` of systemd.exec(5) makes read-only, and what ProtectHome= does.
_SYSTEM: Final = {
    "yes": ("/usr", "/boot", "/efi"),
    "full": ("/usr", "/boot", "/efi", "/etc"),
    "strict": ("/",),
}
_HOMES: Final = ("/home", "/root", "/run/user")
_TMP: Final = ("/tmp", "/var/tmp")  # noqa: S108 (nothing is written there)


def shut(path: str, unit: Mapping[str, str]) -> str:
    """The setting that keeps a daemon from writing below `path`; empty: none does.

    Args:
        path: absolute, without links.
        unit: properties of its unit, as systemctl shows them.
    """
    place = PurePath(path)
    opened = f"{unit.get('ReadWritePaths', '')} {unit.get('BindPaths', '')}".split()
    if _is_below(place, [word.lstrip("-+").partition(":")[0] for word in opened]):
        return ""
    if unit.get("PrivateTmp", "no") != "no" and _is_below(place, _TMP):
        return f"PrivateTmp={unit['PrivateTmp']}"
    if unit.get("ProtectHome", "no") != "no" and _is_below(place, _HOMES):
        return f"ProtectHome={unit['ProtectHome']}"
    system = unit.get("ProtectSystem", "no")
    if _is_below(place, _SYSTEM.get(system, ())):
        return f"ProtectSystem={system}"
    return ""


def _is_below(place: PurePath, above: Iterable[str]) -> bool:
    return any(place.is_relative_to(one) for one in above)


def judge_disk(disk: Disk, orders: Orders) -> list[Finding]:
    """Whether what the table says can be had."""
    word = f"[disk.{disk.name}]"
    if disk.unmounted:
        text = f"{word}: nothing is mounted at {disk.unmounted}, and /etc/fstab says so"
        return [wrong("disk.mounted", text, f"mount {disk.unmounted}")]
    if not disk.there:
        text = f"{word}: there is no directory {disk.path}: the daemon does not start"
        return [wrong("disk.path", text, f"mkdir -p {disk.path}")]
    if disk.shut:
        text = f"{word}: the daemon may not write to {disk.path}: its unit has "
        # what lies in a private /tmp must come from outside
        key = "BindPaths" if disk.shut.startswith("PrivateTmp") else "ReadWritePaths"
        mend = orders.unit(f"[Service] {key}={disk.path}")
        return [wrong("disk.shut", f"{text}{disk.shut}", mend)]
    said = [_promise(disk, word), *_space(disk, word, orders)]
    if disk.hold and disk.mounts:
        if not disk.mkfs:
            text = f"{word}: no file systems for leases: mkfs.ext4 is not installed"
            said.append(wrong("disk.mkfs", text, "apt install e2fsprogs"))
        if not disk.loop:
            text = f"{word}: no file systems for leases: there are no loop devices"
            said.append(wrong("disk.loop", text, "modprobe loop"))
    return said


def _promise(disk: Disk, word: str) -> Finding:
    if disk.why and disk.hold:
        mend = f'{word} path = "...", a directory on ext4 or xfs'
        return hint("disk.promise", f"{word}: {disk.why}", mend)
    if disk.why:
        return ok("disk.promise", f"{word}: {disk.path} is on {disk.kind}")
    text = f"{word}: {disk.path} is on {disk.kind}, which keeps what it preallocated"
    return ok("disk.promise", text)


def _space(disk: Disk, word: str, orders: Orders) -> list[Finding]:
    total, hold, keep = disk.total, disk.hold, disk.keep
    words = f"hold {format_size(hold)} and keep {format_size(keep)}"
    if hold + keep > total:
        text = f"{word}: {words} are more than the {format_size(total)} there are"
        mend = f"lower {word} hold or keep, then {orders.restart}"
        return [wrong("disk.hold", text, mend)]
    missing = hold - disk.held
    if missing > 0 and missing + keep > disk.available:
        text = f"{word}: {format_size(missing)} to be held are lacking, "
        text += f"{format_size(disk.available)} are available"
        return [hint("disk.room", text, f"du -xhd1 {disk.path} | sort -h")]
    return [ok("disk.hold", f"{word}: {words} of {format_size(total)}")]


class Program(NamedTuple):
    """One of our commands."""

    name: str
    #: Where PATH has it; empty: nowhere.
    path: str
    #: Whether our interpreter runs it; None: that cannot be told.
    ours: bool | None = True
    #: Whether it is among our own commands.
    installed: bool = True


def judge_program(program: Program, here: str) -> Finding:
    """Whether a command is found, and of this installation.

    Args:
        program: what PATH has.
        here: the directory of our own commands.
    """
    check, name = f"programs.{program.name}", program.name
    if not program.path:
        text = f"{name} is not on your PATH"
        path = f"export PATH={here}:$PATH"
        return wrong(check, text, path if program.installed else "pip install .")
    if program.ours is None:
        text = f"{program.path} is none of our scripts, or cannot be read"
        return hint(check, text, f"type -a {name}")
    if not program.ours:
        text = f"{program.path} is of another installation; this one is in {here}"
        return wrong(check, text, f"type -a {name}; export PATH={here}:$PATH")
    return ok(check, f"{program.path} is of this installation")


class Library(NamedTuple):
    """What this installation needs, and has."""

    name: str
    #: The least version; empty: any.
    least: str
    #: None: it is not installed.
    found: str | None


_NEEDED: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*\(?\s*(?:>=\s*([0-9.]+))?")


def needed(requirements: Sequence[str]) -> list[tuple[str, str]]:
    """Name and least version of what a package must have (PEP 508); no extras."""
    ours = (line for line in requirements if "extra ==" not in line)
    found = (_NEEDED.match(line) for line in ours)
    return [(match[1], match[2] or "") for match in found if match]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in re.findall(r"\d+", version)[:4])


def judge_libraries(
    python: str, least: str, libraries: Sequence[Library]
) -> list[Finding]:
    """Whether the Python that runs this has what it needs."""
    if not least and not libraries:
        text = f"Python {python}; what this source tree needs is not recorded"
        return [hint("programs.libraries", text, "pip install -e .")]
    said = []
    if least and _numbers(python) < _numbers(least):
        text = f"Python {python} is too old: {least} is the least"
        said.append(wrong("programs.python", text, f"apt install python{least}"))
    for name, version, found in libraries:
        wanted = f"{name}>={version}" if version else name
        if found is None:
            text = f"{name} is not installed"
        elif _numbers(found) < _numbers(version):
            text = f"{name} {found} is too old: {version} is the least"
        else:
            continue
        said.append(wrong("programs.libraries", text, f"pip install '{wanted}'"))
    if said:
        return said
    text = f"Python {python} and {len(libraries)} libraries are as this version needs"
    return [ok("programs.libraries", text)]


class Leftovers(NamedTuple):
    """What may be left of daemons that were killed."""

    #: Where file systems of leases are mounted, and of which lease.
    mounts: tuple[tuple[str, int], ...] = ()
    #: Loop devices, and the file each is of; those that are mounted nowhere.
    loops: tuple[tuple[str, str], ...] = ()
    #: Files and directories in /run that nobody uses; a start makes new ones.
    files: tuple[str, ...] = ()


def judge_leftovers(
    left: Leftovers, running: bool, leases: frozenset[int], orders: Orders
) -> list[Finding]:
    """What is nobody's any more.

    Args:
        left: what there is.
        running: whether a daemon answers; its leases have what is theirs.
        leases: those that live.
        orders: the commands here.
    """
    start = f"{orders.start}  # which clears it"
    said = []
    for place, lease in left.mounts:
        if running and lease not in leases:
            text = f"{place} is mounted, and lease {lease} is over"
            said.append(wrong("leftovers.mounts", text, f"umount {place}"))
        elif not running:
            text = f"{place} of lease {lease} is still mounted"
            said.append(hint("leftovers.mounts", text, start))
    for device, file in left.loops:
        text = f"{device} is of {file}, and mounted nowhere here"
        said.append(hint("leftovers.loops", text, f"losetup -d {device}"))
    if left.files:
        text = f"files of a daemon that was killed: {', '.join(left.files)}"
        said.append(hint("leftovers.files", text, start))
    return said or [ok("leftovers", "dead daemons left nothing")]
