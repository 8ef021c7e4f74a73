"""holdingpenctl doctor: what is wrong with this installation, and what mends it."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from holdingpen.places import system_socket

if TYPE_CHECKING:
    from holdingpen.ctl.checkup.findings import Finding, Orders
    from holdingpen.ctl.checkup.service import Answer
    from holdingpen.ctl.checkup.units import Process, Units
    from holdingpen.daemon.settings import Settings

_EPILOG = """\
Looks at the daemon, its socket, configuration and state, at systemd, memory,
disks, clock, limits and programs, and at what dead daemons left.  It changes
nothing.  Each line is 'ok', 'hint' (no fault, but it could be better), 'WRONG',
or '?' (not checked: root sees more).  Under it is what mends it: a command, or
a line for the configuration.

JSON (version 1): one object with "wrong", "hints" and "unchecked", how many of
each, and "findings": each with "check" (a stable name), "verdict" (ok, hint,
wrong or unchecked), "text" and "mend".

exit status: 0 nothing is wrong; 1 something is.

examples:
  holdingpenctl doctor
  sudo holdingpenctl doctor
  holdingpenctl doctor --json | jq '.findings[] | select(.verdict == "wrong")'
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Teach the command line the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="what is wrong with this installation, and what mends it",
        description="Say what is wrong with this installation, and what mends it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object, version 1"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look at everything, and tell."""
    from json import dumps

    from holdingpen.ctl import terminal
    from holdingpen.ctl.checkup import findings
    from holdingpen.errors import EXIT_NO

    try:
        found = look(args.socket)
    except ImportError as why:
        found = _crippled(why)
    if os.geteuid() == 0:
        found = findings.seen_by_root(found)
    if args.json:
        terminal.say([dumps(findings.as_json(found))])
    else:
        terminal.say(findings.lines(found, terminal.view()))
    return EXIT_NO if findings.count(found, findings.WRONG) else 0


def _crippled(why: ImportError) -> list[Finding]:
    """What is to be said where not even this program can run."""
    from holdingpen.ctl.checkup import around, findings, survey

    found = around.judge_libraries(*survey.libraries())
    if findings.count(found, findings.WRONG):
        return found
    text = f"nothing else can be looked at: {why}"
    return [findings.wrong("programs.libraries", text, "pip install .")]


def look(socket: str | None) -> list[Finding]:
    """Look at everything.

    Args:
        socket: as `--socket` says; None: the daemon that answers first, or the
            machine's own.
    """
    import holdingpen
    from holdingpen.ctl.checkup import around, ask, examine, service, survey, units

    answer = ask.ask_daemon(socket)
    systemd = ask.ask_systemd(private=answer.private)
    answer = _with_pid(answer, systemd)
    running = bool(answer.version)
    orders = units.orders(systemd, answer.pid, answer.place)
    if _is_elsewhere(answer, systemd):
        # the machine's own units are for another daemon
        systemd = systemd._replace(service={}, socket={}, private=True)
    told = ask.command_line(answer.pid)
    daemon = examine.process(answer.pid)
    uid = daemon.uid if daemon else answer.uid or 0
    config, settings = examine.config(told, uid)
    # what is no good, or hidden, is judged by nothing that was written in it
    known = config.error == ""
    state = examine.state(told, settings, uid)
    door = examine.door(
        answer.place,
        settings,
        by_daemon=running and known and not systemd.has_socket,
        private=answer.private,
    )
    found = service.judge_daemon(answer, holdingpen.__version__, orders)
    if door is not None:
        found += service.judge_socket(door, examine.me(), orders)
    found += service.judge_config(config)
    found += service.judge_state(state, running, orders)
    found += units.judge_units(systemd, daemon)
    if daemon is not None:
        held = any(disk.hold for disk in settings.disks.values())
        found += units.judge_process(daemon, answer.private)
        refusal = _mounter(daemon)
        found += units.judge_mounts(daemon, systemd, held, refusal)
    found += _machine(answer, settings, daemon, orders, known)
    if known:
        may = not answer.private
        unit = systemd.service
        for disk in survey.disks(settings, answer.held, unit, mounts=may):
            found += around.judge_disk(disk, orders)
    found += _clock_and_limits(answer, state.path, settings, daemon, systemd, orders)
    programs, here = survey.programs()
    found += [around.judge_program(program, here) for program in programs]
    found += around.judge_libraries(*survey.libraries())
    listened = answer.code != "unavailable" or systemd.socket_listens
    left = survey.leftovers(answer.place, listened=listened)
    return found + around.judge_leftovers(left, running, answer.leases, orders)


def _mounter(daemon: Process) -> str:
    """Why nobody mounts for the daemon; empty: somebody does, or only root may ask."""
    from holdingpen.ctl.checkup import ask

    if os.geteuid() != 0 or not daemon.mounter or not os.path.lexists(daemon.mounter):
        return ""
    return ask.ask_mounter(daemon.mounter)


def _machine(
    answer: Answer,
    settings: Settings,
    daemon: Process | None,
    orders: Orders,
    known: bool,
) -> list[Finding]:
    from holdingpen.ctl.checkup import machine, survey

    memory = survey.memory(settings, answer.pid, answer.held.get("ram", 0))
    found = machine.judge_amounts(memory, settings, orders) if known else []
    found += machine.judge_swap(memory, daemon, orders)
    found += machine.judge_exact(memory, settings, daemon, orders, answer.private)
    return found + machine.judge_kernel(memory, settings)


def _clock_and_limits(
    answer: Answer,
    state: str,
    settings: Settings,
    daemon: Process | None,
    systemd: Units,
    orders: Orders,
) -> list[Finding]:
    from pathlib import Path

    from holdingpen.ctl.checkup import machine, survey

    started_s = None if daemon is None else daemon.started_s
    clock = survey.clock(Path(state, "journal"), answer.since, started_s)
    store_max = int(systemd.service.get("FileDescriptorStoreMax") or 0)
    found = machine.judge_clock(clock)
    return found + machine.judge_limits(daemon, settings, orders, store_max)


def _with_pid(answer: Answer, systemd: Units) -> Answer:
    """The daemon's own process, where systemd listens for it or we may not ask it."""
    main = systemd.main_pid
    by_systemd = answer.pid == 1
    shut_out = answer.code == "not-permitted" and answer.place == system_socket()
    if main > 0 and (by_systemd or shut_out):
        return answer._replace(pid=main)
    return answer


def _is_elsewhere(answer: Answer, systemd: Units) -> bool:
    """Whether it is a daemon at a place of its own, beside the machine's."""
    own = answer.place != system_socket() and answer.pid != systemd.main_pid
    return own and not answer.private
