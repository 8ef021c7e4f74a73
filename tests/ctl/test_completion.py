"""The words that the shells offer are the words there are, tried in the shells."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gatekeeper.options import FLAGS, SHORT, VALUES
from holdingpen.ctl import completion
from holdingpen.ctl.completion import DAEMON, FUNCTIONS, GATEKEEPER, parser_levels
from holdingpen.ctl.main import main, make_parser
from holdingpen.daemon import options

#: Whatever should come within this has been lost.
PATIENCE_S = 30.0

# what is known of the commands


def names(level: completion.Level, takes: bool) -> set[str]:
    return {
        name
        for word in level.options
        if bool(word.takes) is takes
        for name in word.names
    }


def test_all_options_of_gatekeeper_are_known():
    assert names(GATEKEEPER, takes=True) == set(VALUES)
    assert names(GATEKEEPER, takes=False) == {*FLAGS, *SHORT}


def test_all_options_of_the_daemon_are_known(capsys):
    with pytest.raises(SystemExit):
        options.parse(["--help"])
    listed = capsys.readouterr().out.partition("options:")[2]
    heads = re.findall(r"^  (-.+?)(?:  |$)", listed, re.MULTILINE)
    words = [word.split() for head in heads for word in head.split(", ")]
    assert names(DAEMON, takes=True) == {x[0] for x in words if len(x) == 2}
    assert names(DAEMON, takes=False) == {x[0] for x in words if len(x) == 1}


def test_the_words_of_holdingpenctl_are_those_of_its_parser():
    levels = {x.path: x for x in parser_levels(make_parser(), "holdingpenctl")}
    assert {"status", "reserve", "journal"} <= set(levels["holdingpenctl"].verbs)
    assert set(levels["holdingpenctl journal"].verbs) == {"check", "dump", "repair"}
    assert "--state" in names(levels["holdingpenctl journal dump"], takes=True)
    assert "--json" in names(levels["holdingpenctl journal dump"], takes=False)


def test_a_value_that_may_be_left_out_is_not_waited_for():
    levels = {x.path: x for x in parser_levels(make_parser(), "holdingpenctl")}
    assert "--watch" in names(levels["holdingpenctl status"], takes=False)


def test_choices_are_offered_as_they_are():
    parser = argparse.ArgumentParser(prog="x", add_help=False)
    parser.add_argument("--colour", choices=["red", "blue"], help="50%% more")
    (level,) = parser_levels(parser, "x")
    assert level.options == (
        completion.Word(("--colour",), "COLOUR", "50% more", ("red", "blue")),
    )


# the verb


@pytest.mark.parametrize("shell", FUNCTIONS)
def test_the_verb_prints_the_functions(shell, capsys):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert out == completion.functions(shell)
    assert completion.PLACE not in out
    assert "Holding Pen: complete the words" in out


@pytest.mark.parametrize("words", [["completion"], ["completion", "tcsh"]])
def test_a_shell_that_is_not_known_is_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert capsys.readouterr().out == ""


# in the shells

BASH = """\
source functions
set -f
COMP_WORDS=($1)
[[ $1 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
# the builtin wants a completion that readline asked for
compopt() { :; }
_holdingpen
printf '%s\\n' "${COMPREPLY[@]}"
"""

FISH = (
    "source functions; complete --do-complete=$argv[1] | string replace -r '\\t.*' ''"
)

#: zsh completes only at a prompt: so one is opened, and what it adds is noted down.
ZSH = """\
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'source zshrc'
zpty -r -m shell line '*ready*' || exit 1
zpty -w -n shell "$1"$'\\t'
zpty -r -m shell line '*finished*' || exit 1
while read -r word; do print -r -- $word; done <offered
"""

ZSHRC = """\
PROMPT=
autoload -Uz compinit
compinit -D -u
source functions
bindkey '^I' complete-word
compadd() {
    local -a hits
    case " ${(j: :)@[1,(i)(-|--)]}" in
        *' -'[^-\\ ]#[OAD]*) builtin compadd "$@"; return ;;
    esac
    builtin compadd -A hits "$@"
    print -rl -- $hits >>offered
    builtin compadd "$@"
}
finished() { print finished; }
comppostfuncs=(finished)
: >offered
print ready
"""

SCRIPTS = {
    "bash": ["bash", "--noprofile", "--norc", "-c", BASH, "bash"],
    "zsh": ["zsh", "-f", "-c", ZSH, "zsh"],
    "fish": ["fish", "--no-config", "-c", FISH],
}


class Asked:
    """A shell in a directory of its own, which completes lines."""

    def __init__(self, shell: str, root: Path) -> None:
        self.shell, self.root = shell, root
        (root / "functions").write_text(completion.functions(shell))
        (root / "zshrc").write_text(ZSHRC)
        (root / "here").mkdir()
        (root / "here.toml").touch()
        # without it fish starts to read all manual pages, in the background
        (root / ".local/share/fish/generated_completions").mkdir(parents=True)

    def offers(self, line: str) -> set[str]:
        """What may stand where the line ends."""
        ended = subprocess.run(
            [*SCRIPTS[self.shell], line],
            env={"PATH": os.environ["PATH"], "HOME": str(self.root), "TERM": "xterm"},
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert ended.stderr == ""
        return set(ended.stdout.split())


@pytest.fixture(params=SCRIPTS)
def asked(request, tmp_path) -> Asked:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return Asked(request.param, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("gatekeeper --recl", {"--reclaimable", "--reclaim-signal"}),
        ("gatekeeper --ram 8G --hug", {"--hugepages"}),
        ("gatekeeper --ram=8G --hug", {"--hugepages"}),
        ("gatekeeper --ram ", set()),
        ("gatekeeper --socket her", {"here", "here.toml"}),
        ("gatekeeper -- --reclaimab", set()),
        ("holdingpenctl jour", {"journal"}),
        ("holdingpenctl --socket status jour", {"journal"}),
        ("holdingpenctl journal ", {"check", "dump", "repair"}),
        ("holdingpenctl journal dump --js", {"--json"}),
        ("holdingpenctl prompt ", {"bash", "fish", "login", "zsh"}),
        ("holdingpenctl status --color ", {"always", "auto", "never"}),
        ("holdingpenctl grant daemo", {"daemon"}),
        ("holdingpenctl reserve --group daemo", {"daemon"}),
        ("holdingpen --che", {"--check-config"}),
        ("holdingpen --config here.", {"here.toml"}),
        ("holdingpen --state her", {"here"}),
    ],
)
def test_what_is_offered(asked, line, offered):
    # zsh shows a directory without, fish with the slash
    assert {x.rstrip("/") for x in asked.offers(line)} == offered


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", ["gatekeeper cho", "gatekeeper --ram 8G cho", "gatekeeper --stay -- cho"]
)
def test_gatekeeper_offers_commands(asked, line):
    assert "chown" in asked.offers(line)


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "--ram 8G ", "--disk=4G ", "--stay -- "])
def test_after_gatekeepers_options_comes_the_programs_own_completion(asked, before):
    if asked.shell == "bash":
        # what the package bash-completion has, as far as it is needed here
        functions = asked.root / "functions"
        functions.write_text(functions.read_text() + BASH_COMPLETION)
    line = f"gatekeeper {before}holdingpenctl jour"
    assert asked.offers(line) == {"journal"}


BASH_COMPLETION = """
_comp_command_offset() {
    COMP_WORDS=("${COMP_WORDS[@]:$1}")
    COMP_CWORD=$((COMP_CWORD - $1))
    _holdingpen
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("shell", SCRIPTS)
def test_what_is_printed_is_well_formed(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = tmp_path / "functions"
    path.write_text(completion.functions(shell))
    ended = subprocess.run([shell, "-n", path], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
