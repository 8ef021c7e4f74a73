"""`holdingpen`: what it is told to do, and what it has in hand when it begins."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import trio

from holdingpen.ballast import samegroup, shelf
from holdingpen.ballast.ram import open_ram_ballast
from holdingpen.ballast.shelf import Shelf
from holdingpen.core.resources import DISK
from holdingpen.daemon.daemon import Daemon, where
from holdingpen.daemon.diskhand import DiskHand
from holdingpen.daemon.hands import Hand
from holdingpen.daemon.options import Options, parse
from holdingpen.daemon.ramhand import RamHand, open_groups
from holdingpen.daemon.settings import (
    Settings,
    read_settings,
    read_settings_at_start,
)
from holdingpen.daemon.systemd import ERROR, WARNING, Systemd, log
from holdingpen.devices import HostLike
from holdingpen.devices.host import Host
from holdingpen.errors import HoldingPenError


def open_hands(
    settings: Settings,
    host: HostLike,
    socket: Path,
    systemd: Systemd,
    *,
    private: bool,
) -> dict[str, Hand]:
    """The hands of all resources that can be held back here.

    File systems of leases are mounted beside the socket, which clients can reach.

    Raises:
        HoldingPenError: when one cannot be had, or not as is demanded.
    """
    store = systemd if systemd.can_keep else None
    left = systemd.stored(samegroup.INITIAL)
    groups = None if private else open_groups(settings, store, left)
    there = Shelf(store, systemd.stored(shelf.INITIAL)) if store else None
    ballast = open_ram_ballast(there)
    ram = RamHand(ballast, host, settings, groups, inherited=ballast.inherited)
    ram.wishes(settings)
    hands: dict[str, Hand] = {"ram": ram}
    for word in settings.disks:
        # where connections are kept leases go on, and so must what they have
        lasting = systemd.can_keep
        hands[f"{DISK}.{word}"] = open_disk(word, settings, socket, lasting=lasting)
    return hands


def open_disk(
    word: str, settings: Settings, socket: Path, *, lasting: bool = False
) -> DiskHand:
    """The hand of the disk `word`, whose file systems are mounted beside the socket.

    Raises:
        HoldingPenError: when the disk cannot be had.
    """
    scratch = socket.with_name(f"{socket.name.removesuffix('.socket')}.scratch")
    return DiskHand(word, settings, scratch / word, lasting=lasting)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; returns its exit status."""
    try:
        options, task = parse(argv)
        if task == "check":
            read_settings(options.config)
            print(f"{options.config}: good")
        elif task == "give back":
            return give_back(read_settings(options.config), options)
        else:
            with closing(Systemd()) as systemd:
                _serve(options, systemd)
    except HoldingPenError as why:
        log(str(why), ERROR)
        return why.exit_status
    return 0


def give_back(settings: Settings, options: Options) -> int:
    """Free what a daemon that has ended still holds on the disks.

    Returns:
        The exit status: that of the last disk with which it was not possible.
    """
    status = 0
    for word, disk in settings.disks.items():
        try:
            with closing(open_disk(word, settings, where(settings, options))) as hand:
                hand.adopt(0, {}, frozenset())
                for note in hand.notes:
                    print(note)
        except HoldingPenError as why:
            log(str(why), ERROR)
            status = why.exit_status
        else:
            print(f"[disk.{word}]: nothing is held in {disk.path}")
    return status


def _serve(options: Options, systemd: Systemd) -> None:
    settings, notes = read_settings_at_start(options.config)
    for note in (*systemd.notes, *notes):
        log(note, WARNING)
    host = Host()
    socket = where(settings, options)
    hands = open_hands(settings, host, socket, systemd, private=options.user)
    trio.run(_main, settings, options, host, hands, systemd)


async def _main(
    settings: Settings,
    options: Options,
    host: Host,
    hands: dict[str, Hand],
    systemd: Systemd,
) -> None:
    # The pacer must get its turn in time: 5 ms are 40 MiB of a fast program.
    sys.setswitchinterval(0.001)
    daemon = Daemon(settings, options, host, hands, systemd=systemd)
    # What was replayed lives long: keep the collector from walking it.
    gc.collect()
    gc.freeze()
    try:
        await daemon.run()
    finally:
        daemon.close()
