"""holdingpenctl journal check, dump and repair: the journal, without the daemon."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from msgspec import Struct

    from holdingpen.core.facts import Fact
    from holdingpen.journal.record import Opening, Scan, Undecodable

_SYSTEM_STATE = Path("/var/lib/holdingpen")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

#: The version of what `dump --json` prints.
_JSON_VERSION = 1

_EPILOG = """\
The journal is the file 'journal' in the state directory.  After a crash or a power
cut its end may be torn; the daemon cuts that off by itself and keeps it beside the
journal.  When something in the middle is not what was written, the daemon does not
start: 'check' says where and what, 'dump' shows what can still be read, and
'repair' cuts the journal at the damage.
"""

_CHECK_EPILOG = """\
Changes nothing and needs only the permission to read.  A daemon may run meanwhile.

exit status: 0 clean; 1 torn or damaged (what a start would do is said); 65 there is
no journal, it cannot be read, or a newer version wrote it; 77 not permitted.

examples:
  holdingpenctl journal check
  holdingpenctl journal check --state ~/.local/state/holdingpen
"""

_DUMP_EPILOG = """\
Each line has the offset of the record (what was decided together has the same), the
fact and its fields.  Fields that say nothing special are left out.  Damage has a
line of its own, and what can be verified after it follows.

JSON: one object a line with "version", "offset" and either "fact" and "fields",
"opening", or "problem".  Amounts are bytes or units, times seconds.

exit status: 0 done; 1 something could not be verified; 65 there is no journal, or it
cannot be read; 77 not permitted.

examples:
  holdingpenctl journal dump | tail
  holdingpenctl journal dump --json | jq 'select(.fact == "CapacitySet")'
"""

_REPAIR_EPILOG = """\
Cuts the journal at the first place that cannot be believed.  What is cut is kept as
'journal.broken' (then 'journal.broken.1', ...) in the same directory.  Facts after
the cut are forgotten: leases and orders in them are unknown to the next start.  A
journal without a good beginning is put aside whole, and the next start begins anew.

exit status: 0 done, or nothing to repair; 65 there is no journal, or a newer version
wrote it; 75 a daemon is running; 77 not permitted.

examples:
  holdingpenctl journal check
  holdingpenctl journal repair
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Teach the command line the verb."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser(
        "journal",
        help="check, show or repair the daemon's journal",
        description="Look at the journal of the daemon, which need not run.",
        epilog=_EPILOG,
        formatter_class=raw,
    )
    parts = parser.add_subparsers(
        title="what to do", metavar="WHAT", required=True, prog="holdingpenctl journal"
    )

    check = parts.add_parser(
        "check",
        help="say whether the journal is whole",
        description="Say whether the journal is whole, and what a start would do.",
        epilog=_CHECK_EPILOG,
        formatter_class=raw,
    )
    check.set_defaults(run=run_check)

    dump = parts.add_parser(
        "dump",
        help="print every fact, one a line",
        description="Print every fact in the journal, one a line.",
        epilog=_DUMP_EPILOG,
        formatter_class=raw,
    )
    dump.add_argument(
        "--json", action="store_true", help="one JSON object a line, version 1"
    )
    dump.set_defaults(run=run_dump)

    repair = parts.add_parser(
        "repair",
        help="cut a damaged journal where the damage begins",
        description="Cut a damaged journal where the damage begins; keep the rest.",
        epilog=_REPAIR_EPILOG,
        formatter_class=raw,
    )
    repair.set_defaults(run=run_repair)

    for part in (check, dump, repair):
        part.add_argument(
            "--state",
            metavar="DIR",
            type=Path,
            help=f"the state directory; else {_SYSTEM_STATE} if it is there, else "
            "that of your own daemon",
        )


def _state_dir(args: argparse.Namespace) -> Path:
    from holdingpen import places

    if args.state is not None:
        return Path(args.state)
    return _SYSTEM_STATE if _SYSTEM_STATE.is_dir() else Path(places.user_state())


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _read(path: Path) -> bytes:
    from holdingpen.errors import EXIT_BAD_DATA, EXIT_NOT_PERMITTED, Unavailable
    from holdingpen.journal import files

    try:
        return files.read(path)
    except FileNotFoundError:
        raise _no_journal(path) from None
    except Unavailable as why:
        if why.exit_status != EXIT_NOT_PERMITTED:
            why.exit_status = EXIT_BAD_DATA
        raise


def _no_journal(path: Path) -> Exception:
    from holdingpen.errors import EXIT_BAD_DATA, Unavailable

    error = Unavailable(
        f"there is no journal {path}: no daemon has run with this state directory. "
        "Choose another with --state.",
        "no-journal",
    )
    error.exit_status = EXIT_BAD_DATA
    return error


def run_check(args: argparse.Namespace) -> int:
    """Say whether the journal is whole."""
    from holdingpen.ctl import terminal
    from holdingpen.errors import EXIT_BAD_DATA, EXIT_NO
    from holdingpen.journal import files, record

    path, boot_id = _state_dir(args) / "journal", _boot_id()
    data = _read(path)
    found = record.scan(data, boot_id)
    if found.end is not record.End.CLEAN:
        # a daemon may have been in the middle of a write: look once more
        data = _read(path)
        found = record.scan(data, boot_id)
    n_facts, undecodable = _count(data, found)
    lines = _summary(path, found, n_facts, len(data), boot_id)
    if undecodable:
        terminal.say([*lines, files.explain_undecodable(path, undecodable)])
        return EXIT_NO
    verdict = files.explain(path, found)
    match found.end:
        case record.End.CLEAN:
            terminal.say([*lines, "clean"])
            return 0
        case record.End.TORN:
            cuts = "The next start cuts it there and keeps the rest as journal.broken."
            terminal.say([*lines, f"torn: {verdict} {cuts}"])
            return EXIT_NO
        case record.End.DAMAGED:
            terminal.say([*lines, f"damaged: {verdict} The daemon does not start."])
            return EXIT_NO
        case record.End.FOREIGN:
            terminal.say([*lines, f"unknown: {verdict} The daemon does not start."])
            return EXIT_BAD_DATA


def _count(data: bytes, found: Scan) -> tuple[int, Undecodable | None]:
    from holdingpen.journal import record

    count = 0
    try:
        for _, facts in record.batches(data, found.good_until):
            count += len(facts)
    except record.Undecodable as why:
        return count, why
    return count, None


def _summary(
    path: Path, found: Scan, n_facts: int, n_bytes: int, boot_id: str
) -> list[str]:
    same = "this boot" if found.boot_id == boot_id else "an earlier boot"
    opened = f"last opened in boot {found.boot_id} ({same})" if found.boot_id else ""
    return [
        f"{path}: {found.records} records, {n_facts} facts, {found.good_until} bytes "
        f"of {n_bytes}; format {found.version}",
        *([opened] if opened else []),
    ]


def run_dump(args: argparse.Namespace) -> int:
    """Print every fact that can be verified."""
    from holdingpen.ctl import export
    from holdingpen.errors import EXIT_NO

    exit_status = 0
    for offset, what in _everything(_read(_state_dir(args) / "journal")):
        if isinstance(what, str):
            exit_status = EXIT_NO
        if args.json:
            head = {"version": _JSON_VERSION, "offset": offset}
            print(export.json_line(head | _json(what)))
        else:
            print(f"{offset:>10}  {_text(what)}")
    return exit_status


def _everything(data: bytes) -> Iterator[tuple[int, Fact | Opening | str]]:
    """Every fact and opening with its offset; a str is a problem in words."""
    from holdingpen.journal import record

    end = link = 0
    for one in record.verifiable(data):
        if one.offset > end:
            yield end, f"{one.offset - end} bytes that are no whole record"
        elif one.link != link:
            yield end, "what was before the next record is missing"
        end, link = one.stop, one.crc
        try:
            what = record.contents(data, one)
        except record.Undecodable as why:
            yield one.offset, str(why)
            continue
        if isinstance(what, list):
            yield from ((one.offset, fact) for fact in what)
        else:
            yield one.offset, what
    rest = data[end:].rstrip(b"\0")
    if rest or not end:
        yield end, f"{len(rest)} bytes that are no whole record"


def _json(what: Fact | Opening | str) -> dict[str, object]:
    from holdingpen.journal.record import Opening

    if isinstance(what, str):
        return {"problem": what}
    if isinstance(what, Opening):
        return {"opening": _named(what)}
    return {"fact": type(what).__name__, "fields": _named(what)}


def _named(value: object) -> object:
    from msgspec import Struct

    if isinstance(value, Struct):
        names = value.__struct_fields__
        return {name: _named(getattr(value, name)) for name in names}
    return value


def _text(what: Fact | Opening | str) -> str:
    from holdingpen.journal.record import Opening

    if isinstance(what, str):
        return f"PROBLEM      {what}"
    name = "(opened)" if isinstance(what, Opening) else type(what).__name__
    return f"{name:<11}  {_fields(what)}".rstrip()


def _fields(value: Struct) -> str:
    from msgspec.structs import fields

    words = []
    for field in fields(value):
        part = getattr(value, field.name)
        if part != field.default and part not in ([], {}):
            words.append(f"{field.name}={_word(part)}")
    return " ".join(words)


def _word(value: object) -> str:
    from msgspec import Struct

    from holdingpen.core.facts import Moment
    from holdingpen.ctl import terminal

    if isinstance(value, Moment):
        return f"({terminal.date(value.wall_s)}, {value.boot_s:.3f} s after boot)"
    # repr leaves nothing in a text of others that a terminal would obey
    return f"({_fields(value)})" if isinstance(value, Struct) else repr(value)


def run_repair(args: argparse.Namespace) -> int:
    """Cut the journal where the damage begins."""
    from holdingpen.ctl import terminal
    from holdingpen.journal import files

    state_dir = _state_dir(args)
    try:
        terminal.say([files.repair(state_dir, _boot_id())])
    except FileNotFoundError:
        raise _no_journal(state_dir / "journal") from None
    return 0
