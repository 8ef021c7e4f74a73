"""The command line of the daemon."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from holdingpen import __version__, places
from holdingpen.durations import parse_duration
from holdingpen.errors import EXIT_USAGE, HoldingPenError

#: What is to be done.
Task = Literal["serve", "check", "give back"]


class Options(NamedTuple):
    """What the command line says; None: as configured."""

    config: Path
    socket: str | None
    state: str | None
    user: bool
    exit_idle_s: float | None
    verbose: bool


def parse(argv: Sequence[str] | None) -> tuple[Options, Task]:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="holdingpen",
        description="Own what this machine has, and lend it: the daemon. "
        "Runs in the foreground and logs to standard error.",
        epilog="SIGHUP reads the configuration again; a bad one changes nothing. "
        "SIGTERM ends; leases end with it, unless systemd keeps them for the next one. "
        "Exit status: 0 ended as asked, 2 wrong usage, 65 bad configuration or damaged "
        "journal, 69 something needed is not there, 75 another daemon serves the "
        "socket or owns the journal.",
    )
    add = parser.add_argument
    add("--config", metavar="FILE", type=Path, help="default /etc/holdingpen.toml; "
        "with --user ~/.config/holdingpen.toml")  # fmt: skip
    add("--socket", metavar="PATH", help="default /run/holdingpen.socket; "
        "with --user $XDG_RUNTIME_DIR/holdingpen.socket")  # fmt: skip
    add("--state", metavar="DIR", help="the journal's directory; default "
        "/var/lib/holdingpen; with --user ~/.local/state/holdingpen")  # fmt: skip
    add("--user", action="store_true", help="a private pen of this user")
    add("--exit-idle", metavar="DUR", help="end after so long without connections")
    add("--check-config", dest="task", action="store_const", const="check",
        default="serve", help="read the configuration and end")  # fmt: skip
    add("--give-back", dest="task", action="store_const", const="give back",
        help="free what a daemon that was stopped still holds on the configured disks, "
        "and end")  # fmt: skip
    add("-v", "--verbose", action="store_true", help="log every fact")
    add("--version", action="version", version=f"holdingpen {__version__}")
    words = parser.parse_args(argv)
    try:
        idle_s = parse_duration(words.exit_idle) if words.exit_idle else None
    except HoldingPenError as why:
        parser.exit(EXIT_USAGE, f"holdingpen: --exit-idle: {why}\n")
    if words.config is not None and not words.config.is_file():
        parser.exit(EXIT_USAGE, f"holdingpen: --config: no file {words.config}.\n")
    default = places.user_config() if words.user else "/etc/holdingpen.toml"
    return (
        Options(
            words.config or Path(default),
            words.socket,
            words.state,
            words.user,
            idle_s,
            words.verbose,
        ),
        words.task,
    )


def socket_path(options: Options) -> str:
    """Where the socket is, when neither command line nor configuration says."""
    return places.user_socket() if options.user else places.system_socket()


def state_path(options: Options) -> str:
    """The directory of the journal, when neither of them says."""
    if not options.user:
        return "/var/lib/holdingpen"
    if not options.socket:
        return places.user_state()
    # Several private pens may run at once, each with a journal of its own.
    name = options.socket.strip("/").replace("/", "-")
    return f"{places.user_state()}/{name}"
