"""holdingpenctl completion: what a shell runs to complete our three commands.

The functions lie in holdingpen/ctl/shell, each in its own language, with a place for
the words.  Those of holdingpenctl are read off its parser when this runs; those of
gatekeeper and the daemon stand below, for neither command may be imported here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

#: Where the functions are for, and their file.
FUNCTIONS = {
    "bash": "completion.bash",
    "zsh": "completion.zsh",
    "fish": "completion.fish",
}

#: The line of such a file where the words belong.
PLACE = "@WORDS@\n"

_EPILOG = """\
Put one of these into the file, or install the text where the shell looks for it:

  ~/.bashrc                     eval "$(holdingpenctl completion bash)"
  ~/.zshrc, after compinit      eval "$(holdingpenctl completion zsh)"
  ~/.config/fish/config.fish    holdingpenctl completion fish | source

After 'gatekeeper [OPTIONS]' the program's own completion takes over.
The Debian package installs all three.
"""


class Word(NamedTuple):
    """One option."""

    names: tuple[str, ...]
    #: What its value is, as the manual calls it; empty: it has none.
    takes: str
    told: str
    #: The values there are; empty: any.
    choices: tuple[str, ...] = ()


class Level(NamedTuple):
    """What may follow a command or a verb."""

    #: The words so far, such as `holdingpenctl journal`.
    path: str
    options: tuple[Word, ...]
    #: Verb to its one line of help; empty: none.
    verbs: dict[str, str] = {}
    #: The other words that may stand there.
    arguments: tuple[Word, ...] = ()


def _words(*lines: tuple[str, str, str]) -> tuple[Word, ...]:
    return tuple(Word(tuple(x[0].split()), x[1], x[2]) for x in lines)


_HELP = ("--help", "", "say how it is used")
_VERSION = ("--version", "", "show the version")
_SOCKET = ("--socket", "PATH", "the daemon's socket")

GATEKEEPER = Level(
    "gatekeeper",
    _words(
        ("--ram", "SIZE", "memory, such as 8G"),
        ("--cpu", "N", "processors"),
        ("--disk", "SIZE[:NAME]", "room on a disk"),
        ("--res", "NAME=AMOUNT", "any other resource"),
        ("--exclusive", "", "the whole machine until CMD ends"),
        ("--in", "ID", "draw on this reservation, or none"),
        ("--nonblock", "", "do not wait"),
        ("--wait", "DURATION", "wait so long at most"),
        ("--priority", "N", "higher goes first"),
        ("--time", "DURATION", "expected length"),
        ("--label", "TEXT", "a name for the lease"),
        ("--reason", "TEXT", "what it is for"),
        ("--quiet", "", "say nothing while waiting"),
        ("-v --verbose", "", "say what was granted"),
        ("--exact", "", "only if nobody can take any of it meanwhile"),
        ("--prefault", "", "Python has all of it before it starts"),
        ("--hugepages", "", "out of the pool of huge pages"),
        ("--timeout", "DURATION", "end CMD after so long"),
        ("--reclaimable", "", "CMD may be asked to give it back"),
        ("--reclaim-signal", "SIG", "send CMD this when it is asked back"),
        ("--stay", "", "stay as the parent of CMD"),
        ("--require", "", "no daemon: do not run CMD"),
        ("--start", "", "no daemon: start a private one"),
        _SOCKET,
        _HELP,
        _VERSION,
    ),
)

DAEMON = Level(
    "holdingpen",
    _words(
        ("--config", "FILE", "the configuration"),
        ("--socket", "PATH", "where to listen"),
        ("--state", "DIR", "where the journal is"),
        ("--user", "", "a private pen of this user"),
        ("--exit-idle", "DUR", "end after so long without connections"),
        ("--check-config", "", "read the configuration and end"),
        ("--give-back", "", "free what is still held on the disks, and end"),
        ("-v --verbose", "", "log every fact"),
        ("-h --help", "", "say how it is used"),
        _VERSION,
    ),
)

#: What can be completed, by the name of the value; of all else nothing is known.
KINDS = {
    "PATH": "file",
    "FILE": "file",
    "FILE.ics": "file",
    "DIR": "directory",
    "USER": "user",
    "GROUP": "group",
    "SIG": "signal",
}


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Teach the command line the verb."""
    parser = verbs.add_parser(
        "completion",
        help="for your shell: complete the words of our commands",
        description="Print what a shell runs to complete the words of gatekeeper,\n"
        "holdingpenctl and holdingpen.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "shell", metavar="SHELL", choices=FUNCTIONS, help="bash, zsh or fish"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the functions."""
    sys.stdout.write(functions(args.shell))
    return 0


def functions(shell: str) -> str:
    """The text for one of FUNCTIONS."""
    # main imports this file
    from holdingpen.ctl.main import make_parser

    levels = [GATEKEEPER, DAEMON, *parser_levels(make_parser(), "holdingpenctl")]
    text = (Path(__file__).parent / "shell" / FUNCTIONS[shell]).read_text("ascii")
    before, _, after = text.partition(PLACE)
    return before + "".join(f"{line}\n" for line in _TABLES[shell](levels)) + after


def parser_levels(parser: argparse.ArgumentParser, path: str) -> Iterator[Level]:
    """What may follow each verb of a parser, from the outside in."""
    options: list[Word] = []
    arguments: list[Word] = []
    verbs: dict[str, str] = {}
    inner = []
    # argparse has no other way to be asked
    for action in parser._actions:  # noqa: SLF001
        # "0 or 1" is completed as if there were none
        takes = "" if action.nargs in (0, "?") else str(action.metavar or "")
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            verbs = {x.dest: x.help or "" for x in action._choices_actions}  # noqa: SLF001
            inner = list(action.choices.items())
            continue
        choices = tuple(action.choices or ())
        if choices and not takes:
            takes = action.dest.upper()
        told = (action.help or "").replace("%%", "%")
        word = Word(tuple(action.option_strings), takes, told, choices)
        (options if word.names else arguments).append(word)
    yield Level(path, tuple(options), verbs, tuple(arguments))
    for verb, below in inner:
        yield from parser_levels(below, f"{path} {verb}")


def _kind(word: Word) -> str:
    """What a shell is to offer as the value, in one word or several."""
    return " ".join(word.choices) or KINDS.get(word.takes, "nothing")


def _bash(levels: list[Level]) -> Iterator[str]:
    for level in levels:
        options = " ".join(name for word in level.options for name in word.names)
        kinds = dict.fromkeys(map(_kind, level.arguments))
        yield f"        {_quoted(level.path)})"
        yield f"            options={_quoted(options)}"
        yield f"            verbs={_quoted(' '.join(level.verbs))}"
        yield f"            others={_quoted(' '.join(kinds))}"
        yield "            case $2 in"
        for word in level.options:
            if word.takes:
                kind = _quoted(_kind(word))
                yield f"                {'|'.join(word.names)}) kind={kind} ;;"
        yield "            esac"
        yield "            ;;"


#: What zsh calls the kinds.
_ZSH = {
    "file": "_files",
    "directory": "_directories",
    "user": "_users",
    "group": "_groups",
    "signal": "_signals -s",
    "nothing": " ",
}


def _zsh(levels: list[Level]) -> Iterator[str]:
    for level in levels:
        yield f"        {_quoted(level.path)})"
        yield "            specs=("
        for word in level.options:
            for name in word.names:
                equals = "=" if word.takes and name.startswith("--") else ""
                spec = f"{name}{equals}[{_escaped(word.told)}]{_action(word)}"
                yield f"                {_quoted(spec)}"
        for word in level.arguments:
            yield f"                {_quoted('*' + _action(word))}"
        yield "            )"
        yield "            verbs=("
        for verb, told in level.verbs.items():
            yield f"                {_quoted(f'{verb}:{told}')}"
        yield "            )"
        yield "            ;;"


def _action(word: Word) -> str:
    if not word.takes:
        return ""
    kind = _kind(word)
    offered = f"({kind})" if word.choices else _ZSH[kind]
    return f":{_escaped(word.takes)}:{offered}"


def _escaped(text: str) -> str:
    for special in "\\[]:":
        text = text.replace(special, f"\\{special}")
    return text


#: How fish finds the kinds.
_FISH = {
    "file": "-rF",
    "directory": "-x -a '(__fish_complete_directories)'",
    "user": "-x -a '(__fish_complete_users)'",
    "group": "-x -a '(__fish_complete_groups)'",
    "signal": "-x -a '(__holdingpen_signals)'",
    "nothing": "-x",
}


def _fish(levels: list[Level]) -> Iterator[str]:
    taking = {
        name
        for level in levels
        for word in level.options
        if word.takes
        for name in word.names
    }
    yield f"set -g __holdingpen_taking {' '.join(sorted(taking))}"
    yield f"set -g __holdingpen_paths {' '.join(_quoted(x.path) for x in levels)}"
    for level in levels:
        command = level.path.partition(" ")[0]
        start = f"complete -c {command} -n '__holdingpen_at {level.path}'"
        for word in level.options:
            names = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                for name in word.names
            )
            offered = f" {_offered(word)}" if word.takes else ""
            yield f"{start} {names}{offered} -d {_quoted(word.told)}"
        for verb, told in level.verbs.items():
            yield f"{start} -a {verb} -d {_quoted(told)}"
        for kind in dict.fromkeys(_offered(word) for word in level.arguments):
            yield f"{start} {kind.replace('-rF', '-F').replace('-x', '-f')}"


def _offered(word: Word) -> str:
    return f"-x -a {_quoted(_kind(word))}" if word.choices else _FISH[_kind(word)]


def _quoted(text: str) -> str:
    # all three shells read '...' so, and '\'' within it
    return "'" + text.replace("'", "'\\''") + "'"


_TABLES: dict[str, Callable[[list[Level]], Iterator[str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
