"""What a shell shows while somebody has the whole machine, tried in the shells.

A shell that is not installed is skipped.  /run/holdingpen.reserved may be there where
the tests run, so the snippets are given another /run.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from holdingpen.ctl import prompt
from holdingpen.daemon.flag import flag_path

LINE = "ada has the whole machine until 16:00 (exam)"
UNNAMED = "somebody has the whole machine"
#: Whatever should come within this has been lost.
PATIENCE_S = 20.0
#: What people could write as a reason to have it run, or read as a prompt.
TRAPS = (
    "$(touch owned) `touch owned` ${X:=owned} %D{%H} %n%1v \\u\\w \\033[2J ! $'\\n' *"
)

#: A red `!`, colours off in whatever way, a space.
MARK = re.compile(r"\x1b\[31m!(?:\x1b\[(?:0?|39)m|\x1b\(B|\x0f)+ (?=ready)")


@dataclass
class Shell:
    """How one shell is started, told its prompt, and spoken to."""

    name: str
    #: Started to run the words after it.
    once: list[str]
    #: Started for a person; its rc file is in the directory $ZDOTDIR or $HOME.
    interactive: list[str]
    rc: str
    #: Makes the snippet look once, without a prompt.
    look: str
    #: A prompt that shows `ready`, the exit status and `>`.
    own_prompt: str
    #: Runs the snippet in the file `snippet`.
    use: str = 'eval "$(cat snippet)"'


#: The ways in which the shells differ.
SHELLS = {
    "bash": Shell(
        "bash",
        ["bash", "--noprofile", "--norc", "-c"],
        ["bash", "--noprofile", "--rcfile", "rc.bash", "-i"],
        "rc.bash",
        "_holdingpen_precmd",
        "PS1='ready $?> '",
    ),
    "zsh": Shell(
        "zsh",
        ["zsh", "-f", "-c"],
        ["zsh", "-d", "-i"],
        ".zshrc",
        "_holdingpen_precmd",
        "PROMPT='ready %?> '",
    ),
    "fish": Shell(
        "fish",
        ["fish", "--no-config", "-c"],
        ["fish"],
        ".config/fish/config.fish",
        "__holdingpen_look",
        "function fish_prompt; echo -n \"ready $status> \"; end; set fish_greeting ''",
        "cat snippet | source",
    ),
}


def installed(*names: str) -> list[object]:
    """Each as a parameter, skipped where it is not installed."""
    return [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                shutil.which(name) is None, reason=f"{name} is not installed"
            ),
        )
        for name in names
    ]


needs_bash = pytest.mark.skipif(
    shutil.which("bash") is None, reason="bash is not installed"
)
needs_fish = pytest.mark.skipif(
    shutil.which("fish") is None, reason="fish is not installed"
)
each_shell = pytest.mark.parametrize("shell", installed("bash", "zsh", "fish"))


class Place:
    """A directory with a /run, a user's runtime directory, and a socket named."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = root / "a $(touch owned) place" / "pen.socket"
        self.system = root / "run" / "holdingpen.reserved"
        self.users = root / "user's run" / "holdingpen.reserved"
        for path in (self.socket, self.system, self.users):
            path.parent.mkdir()
        # without it fish starts to read all manual pages, in the background
        (root / ".local/share/fish/generated_completions").mkdir(parents=True)
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "ZDOTDIR": str(root),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "HOLDINGPEN_SOCKET": str(self.socket),
            "XDG_RUNTIME_DIR": str(self.users.parent),
        }

    @property
    def flag(self) -> Path:
        return flag_path(self.socket)

    def snippet(self, name: str) -> Path:
        """The snippet in a file `snippet`, with a /run of ours."""
        text = prompt.snippet(name)
        assert "/run/holdingpen.reserved" in text
        path = self.root / "snippet"
        path.write_text(text.replace("/run/holdingpen.reserved", str(self.system)))
        return path

    def run(self, shell: Shell, script: str) -> str:
        """What `script` prints after the snippet was run, without a terminal."""
        self.snippet(shell.name)
        ended = subprocess.run(
            [*shell.once, f"{shell.use}\n{script}"],
            env=self.env,
            cwd=self.root,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert ended.stderr == b""
        return ended.stdout.decode()

    def alert(self, shell: Shell) -> str:
        """What HOLDINGPEN_ALERT is at a prompt."""
        return self.run(shell, f"{shell.look}; printf '%s' \"$HOLDINGPEN_ALERT\"")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class Terminal:
    """A program in a session of its own, on a pseudo-terminal."""

    def __init__(self, words: list[str], place: Place) -> None:
        self._ours, theirs = pty.openpty()
        # setsid(1) of util-linux: subprocess cannot make it the controlling terminal
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *words],
            env=place.env,
            cwd=place.root,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._unread = ""

    def until(self, pattern: str) -> str:
        """What is written, up to and with the first match of the pattern."""
        return self._read(re.compile(pattern, re.DOTALL))

    def rest(self) -> str:
        """What is written until it ends."""
        return self._read(None)

    def _read(self, pattern: re.Pattern[str] | None) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = pattern and pattern.search(self._unread)
            if found:
                text = self._unread[: found.end()]
                self._unread = self._unread[found.end() :]
                return text
            left_s = deadline - time.monotonic()
            ready = select.select([self._ours], [], [], max(0, left_s))[0]
            assert ready, f"{pattern} did not come, but {self._unread!r}"
            try:
                data = os.read(self._ours, 65536).decode()
            except OSError:
                # that is how a terminal says that nobody has its other end
                assert pattern is None, f"it ended after {self._unread!r}"
                return self._unread
            if re.search(r"\x1b\[0?c", data):
                # fish 4 asks what kind of terminal this is, and waits for the answer
                os.write(self._ours, b"\x1b[?62;c")
            self._unread += data

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def does(self, line: str) -> str:
        """Type a line; what comes after it, with the whole next prompt."""
        # the words as typed are not the words as printed
        self.type(f"printf 'be%s\\n' gin; {line}\r")
        self.until("begin")
        return self.until(r"ready \d+> ")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)


Start = Callable[..., Terminal]


@pytest.fixture
def start(place: Place) -> Iterator[Start]:
    """Start a shell for a person: with the lines of an rc file, at its first prompt."""
    started = []

    def start(shell: Shell, rc: str = "", before: list[str] | None = None) -> Terminal:
        place.snippet(shell.name)
        path = place.root / shell.rc
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rc or f"{shell.own_prompt}\n{shell.use}\n")
        started.append(Terminal([*(before or []), *shell.interactive], place))
        started[-1].until(r"ready \d+> ")
        return started[-1]

    yield start
    for terminal in started:
        terminal.close()


# the verb


def ctl(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="holdingpenctl")
    prompt.add_parser(parser.add_subparsers())
    args = parser.parse_args(words)
    status: int = args.run(args)
    return status


@pytest.mark.parametrize("shell", prompt.SNIPPETS)
def test_the_verb_prints_the_snippet(shell, capsys):
    assert ctl("prompt", shell) == 0
    out = capsys.readouterr().out
    assert out == prompt.snippet(shell)
    assert out.startswith("# Holding Pen: ")
    assert out.endswith("\n")


@pytest.mark.parametrize("words", [["prompt"], ["prompt", "tcsh"]])
def test_a_shell_that_is_not_known_is_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as end:
        ctl(*words)
    assert end.value.code == 2
    assert capsys.readouterr().out == ""


def test_the_help_says_where_each_goes(capsys):
    with pytest.raises(SystemExit):
        ctl("prompt", "--help")
    out = capsys.readouterr().out
    assert 'eval "$(holdingpenctl prompt bash)"' in out
    assert 'eval "$(holdingpenctl prompt zsh)"' in out
    assert "holdingpenctl prompt fish | source" in out
    assert "${HOLDINGPEN_ALERT//\\%/%%}" in out
    assert "printf '%s\\n'" in out


# where the file is, and what is made of it


@each_shell
def test_while_there_is_no_file_the_variable_is_empty(place, shell):
    place.env["HOLDINGPEN_ALERT"] = "left over"
    assert place.alert(SHELLS[shell]) == ""


@each_shell
@pytest.mark.parametrize("name", ["pen.socket", "pen", "pen.socket.socket", ".socket"])
def test_the_shells_know_the_same_name_as_the_daemon(place, shell, name):
    socket = place.socket.with_name(name)
    place.env["HOLDINGPEN_SOCKET"] = str(socket)
    flag_path(socket).write_text(f"{LINE}\n")
    assert place.alert(SHELLS[shell]) == LINE


@each_shell
def test_the_first_of_three_places_counts(place, shell):
    shell = SHELLS[shell]
    place.users.write_text("third\n")
    assert place.alert(shell) == "third"
    place.system.write_text("second\n")
    assert place.alert(shell) == "second"
    place.flag.write_text("first\n")
    assert place.alert(shell) == "first"
    place.env["HOLDINGPEN_SOCKET"] = ""
    assert place.alert(shell) == "second"
    place.system.unlink()
    del place.env["HOLDINGPEN_SOCKET"]
    assert place.alert(shell) == "third"


@each_shell
@pytest.mark.parametrize("value", ["", None])
def test_a_variable_that_is_empty_names_no_file(place, shell, value):
    """Else `.reserved` in whatever directory the user is in would count."""
    for name in ("HOLDINGPEN_SOCKET", "XDG_RUNTIME_DIR"):
        place.env.pop(name)
        if value is not None:
            place.env[name] = value
    (place.root / ".reserved").write_text(f"{LINE}\n")
    (place.root / "holdingpen.reserved").write_text(f"{LINE}\n")
    assert place.alert(SHELLS[shell]) == ""


@each_shell
@pytest.mark.parametrize(
    ("content", "alert"),
    [
        (f"{LINE}\n", LINE),
        (LINE, LINE),
        (f"{TRAPS}\n", TRAPS),
        (f"  {LINE}\\\nmore\n", f"  {LINE}\\"),
        ("", UNNAMED),
        ("\n", UNNAMED),
        ("a\x1b[2Jb\tc\x07\r\n", "a?[2Jb?c??"),
        ("Pr\u00fcfung\n", "Pr\u00fcfung"),
        ("x" * 5000, "x" * 200),
        ("-n\n", "-n"),
    ],
)
def test_the_line_is_taken_as_it_is_and_nothing_in_it_runs(
    place, shell, content, alert
):
    place.flag.write_text(content, newline="")
    assert place.alert(SHELLS[shell]) == alert
    assert not list(place.root.rglob("owned"))


@each_shell
def test_what_is_no_file_is_no_flag(place, shell):
    """A named pipe would have the prompt wait for ever."""
    os.mkfifo(place.flag)
    place.system.mkdir()
    assert place.alert(SHELLS[shell]) == ""


@each_shell
def test_a_file_one_may_not_read_is_a_flag_all_the_same(place, shell):
    shell = SHELLS[shell]
    if os.geteuid() == 0:
        # root without the rights that let it read everything
        rights = "--bounding-set=-dac_override,-dac_read_search"
        shell = replace(shell, once=["setpriv", rights, *shell.once])
    place.flag.write_text(LINE)
    place.flag.chmod(0)
    assert place.alert(shell) == UNNAMED


# the prompt


@each_shell
def test_the_mark_comes_and_goes_with_the_file(place, start, shell):
    terminal = start(SHELLS[shell])
    shown = terminal.does("true")
    assert not MARK.search(shown)
    place.flag.write_text(f"{LINE} {TRAPS}\n")
    for _ in range(2):
        shown = terminal.does("true")
        assert len(MARK.findall(shown)) == 1
    assert f"[{LINE} {TRAPS}]" in terminal.does("printf '[%s]' \"$HOLDINGPEN_ALERT\"")
    place.flag.unlink()
    shown = terminal.does("true")
    assert not MARK.search(shown)
    assert not list(place.root.rglob("owned"))


@each_shell
def test_to_run_it_twice_changes_nothing(place, start, shell):
    shell = SHELLS[shell]
    place.flag.write_text(f"{LINE}\n")
    terminal = start(shell, f"{shell.own_prompt}\n{shell.use}\n{shell.use}\n")
    terminal.does(shell.use)
    assert len(MARK.findall(terminal.does("true"))) == 1
    if shell.name == "bash":
        shown = terminal.does("printf '[%s]' \"${PROMPT_COMMAND[*]}\"")
        assert shown.count("_holdingpen_precmd") == 1


@each_shell
def test_the_exit_status_is_there_for_the_users_prompt(place, start, shell):
    terminal = start(SHELLS[shell])
    for _ in range(2):
        assert terminal.does("false").endswith("ready 1> ")
        assert terminal.does("true").endswith("ready 0> ")
        place.flag.write_text(f"{LINE}\n")


@pytest.mark.parametrize("shell", installed("bash", "zsh"))
def test_a_shell_that_is_strict_lives_on(place, start, shell):
    """With `set -eu`, and $? not 0: a precmd that fails would end the shell."""
    shell = SHELLS[shell]
    del place.env["XDG_RUNTIME_DIR"]
    terminal = start(shell, f"set -eu\n{shell.own_prompt}\n{shell.use}\n")
    assert terminal.does("! true").endswith("ready 1> ")
    place.flag.write_text(LINE)
    shown = terminal.does("! true")
    assert shown.endswith("ready 1> ")
    assert MARK.search(shown)
    for _ in range(2):
        script = f"set -eu; {shell.use}; {shell.look}; printf ok"
        assert place.run(shell, script) == "ok"
        place.env.pop("HOLDINGPEN_SOCKET", None)


@pytest.mark.slow
@each_shell
def test_a_prompt_starts_no_process(place, start, shell, tmp_path):
    """strace counts; a subshell afterwards shows that it would have seen one."""
    log = tmp_path / "log"
    calls = "umask,?clone,?clone3,?fork,?vfork,execve,?execveat"
    strace = ["strace", "-f", "-qq", "-e", f"trace={calls}", "-o", str(log)]
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if subprocess.run([*strace, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    terminal = start(SHELLS[shell], before=strace)
    terminal.does("umask 0123")
    terminal.does("true")
    place.flag.write_text(f"{LINE} {TRAPS}\n")
    assert MARK.search(terminal.does("true"))
    terminal.does("false")
    place.flag.unlink()
    terminal.does("true")
    terminal.does("umask 0132")
    # a command that is no builtin
    terminal.does("env true")
    _, begun, quiet = log.read_text().partition(" umask(0123)")
    quiet, ended, after = quiet.partition(" umask(0132)")
    assert begun
    assert ended
    started = re.compile(r" (?:clone3?|v?fork|execve|execveat)\((?!.*CLONE_THREAD)")
    assert started.findall(quiet) == []
    assert started.findall(after) != []


BASH_HOOKS = {
    "none": "unset PROMPT_COMMAND",
    "empty": "PROMPT_COMMAND=",
    "a command": "PROMPT_COMMAND=mine",
    "a semicolon at the end": "PROMPT_COMMAND='mine; '",
    "a comment at the end": "PROMPT_COMMAND='mine # my own'",
    "an array": "PROMPT_COMMAND=('mine' 'true')",
    "an array of one": "PROMPT_COMMAND=(mine)",
    "an empty array": "PROMPT_COMMAND=()",
    "exported": "export PROMPT_COMMAND=mine",
}


@needs_bash
@pytest.mark.parametrize("hooks", BASH_HOOKS.values(), ids=BASH_HOOKS)
def test_bash_keeps_the_users_prompt_command(place, start, hooks):
    shell = SHELLS["bash"]
    mine = 'mine() { echo "mine $?"; }'
    place.flag.write_text(f"{LINE}\n")
    terminal = start(shell, f"{shell.own_prompt}\n{mine}\n{hooks}\n{shell.use}\n")
    shown = terminal.does("(exit 3)")
    assert MARK.search(shown)
    assert shown.endswith("ready 3> ")
    assert shown.count("mine 3") == ("mine" in hooks)


@pytest.mark.parametrize(
    ("shell", "after"),
    [
        ("bash", "PROMPT_COMMAND=\"$PROMPT_COMMAND; echo 'mine '\\$?\""),
        ("zsh", "mine() { echo mine $? }; precmd_functions+=(mine)"),
    ],
)
def test_who_comes_later_sees_the_exit_status_too(place, start, shell, after):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    shell = SHELLS[shell]
    terminal = start(shell, f"{shell.own_prompt}\n{shell.use}\n{after}\n")
    assert "mine 3\r\n" in terminal.does("(exit 3)")


@pytest.mark.parametrize(("shell", "variable"), [("bash", "PS1"), ("zsh", "PROMPT")])
def test_a_prompt_put_around_the_mark_does_not_keep_it(place, start, shell, variable):
    """As Python's venv does it: `PS1="(venv) $PS1"`, while the mark is on."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    shell = SHELLS[shell]
    place.flag.write_text(f"{LINE}\n")
    terminal = start(shell)
    shown = terminal.does(f'{variable}="(venv) ${variable}"')
    assert shown.count("\x1b[31m!") == 1
    place.flag.unlink()
    assert "\x1b[31m!" not in terminal.does("true")
    shown = terminal.does(f"printf '[%s]' \"${variable}\"")
    own = re.findall(r"'(.*)'", shell.own_prompt)[0]
    assert f"[(venv) {own}]" in shown


@pytest.mark.parametrize(
    ("shell", "before"),
    [
        ("bash", "set -o posix"),
        ("zsh", "setopt prompt_bang"),
        ("zsh", "setopt prompt_subst ksh_arrays sh_word_split extended_glob"),
        ("zsh", "setopt warn_create_global no_unset err_return"),
    ],
)
def test_options_that_read_a_prompt_differently_change_nothing(
    place, start, shell, before
):
    """In two of them a bare ! is the number of the command."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    shell = SHELLS[shell]
    terminal = start(shell, f"{before}\n{shell.own_prompt}\n{shell.use}\n")
    place.flag.write_text(f"{TRAPS}\n")
    shown = terminal.does("true")
    assert len(MARK.findall(shown)) == 1
    assert f"[{TRAPS}]" in terminal.does("printf '[%s]' \"$HOLDINGPEN_ALERT\"")
    place.flag.unlink()
    assert not MARK.search(terminal.does("true"))


@needs_bash
def test_bash_counts_no_columns_for_the_colours(place, start):
    r"""What \001 and \002 enclose, readline takes to be of no width."""
    place.flag.write_text(LINE)
    terminal = start(SHELLS["bash"])
    shown = terminal.does("printf '[%q]' \"${PS1@P}\"")
    assert r"[$'\001\E[31m\002!\001\E[0m\002 ready 0> " in shown


@needs_bash
def test_a_terminal_without_colours_gets_none(place):
    place.flag.write_text(LINE)
    place.env["TERM"] = "dumb"
    script = 'PS1=mine; _holdingpen_precmd; printf %s "${PS1@P}"'
    assert place.run(SHELLS["bash"], script) == "! mine"


@needs_fish
def test_fish_keeps_the_users_pipestatus_and_lines(place, start):
    own = (
        "set fish_greeting ''\nfunction fish_prompt\n"
        "    echo \"[$pipestatus]\"\n    echo -n 'ready 0> '\nend"
    )
    shell = SHELLS["fish"]
    place.flag.write_text(f"{LINE}\n")
    terminal = start(shell, f"{own}\n{shell.use}\n")
    shown = terminal.does("false | true")
    assert re.search(r"\x1b\[31m![^\n]* \[1 0\][^\n]*\nready 0> ", shown)


@needs_fish
def test_fish_keeps_empty_lines_at_the_end_of_a_prompt(place):
    shell = SHELLS["fish"]
    own = "function fish_prompt; printf 'a\\n\\n'; end"
    assert place.run(shell, f"{own}\n{shell.use}\nfish_prompt") == "a\n\n"


@needs_fish
def test_fish_wraps_a_prompt_that_was_made_anew(place, start):
    """A theme chosen later takes the place of ours; to run the snippet again helps."""
    shell = SHELLS["fish"]
    place.flag.write_text(f"{LINE}\n")
    terminal = start(shell)
    again = "function fish_prompt; echo -n 'ready 7> '; end"
    assert not MARK.search(terminal.does(again))
    shown = terminal.does(shell.use)
    assert len(MARK.findall(shown)) == 1
    assert shown.endswith("ready 7> ")


# logins


LOGIN_SHELLS = {
    "dash": ["dash"],
    "bash": ["bash", "--noprofile", "--norc"],
    "zsh": ["zsh", "-f"],
    "busybox": ["busybox", "sh"],
}
each_login = pytest.mark.parametrize("shell", installed(*LOGIN_SHELLS))


@pytest.fixture
def login(place: Place) -> Iterator[Callable[..., str]]:
    """What a shell writes to a terminal when it reads login.sh, and then says `in`."""
    started = []

    def login(shell: str, flags: str = "-i", before: str = ":", then: str = "") -> str:
        path = place.snippet("login")
        # interactive shells of busybox greet
        script = f"echo at; {before}; . '{path}'; echo \"in $?{then}\""
        words = [*LOGIN_SHELLS[shell], *flags.split(), "-c", script]
        started.append(Terminal(words, place))
        return started[-1].rest().replace("\r", "").partition("at\n")[2]

    yield login
    for terminal in started:
        terminal.close()


@each_login
def test_who_logs_in_is_told(place, login, shell):
    place.flag.write_text(f"{LINE}\n")
    said = f"{LINE}.\n'holdingpenctl confirm' says more.\nin 0\n"
    assert login(shell) == said


@each_login
def test_who_logs_in_is_told_nothing_where_nobody_has_the_machine(login, shell):
    assert login(shell) == "in 0\n"


@each_login
def test_where_nobody_looks_nothing_is_said(place, login, shell):
    """Scripts and copies (`ssh host command`) read /etc/profile too."""
    place.flag.write_text(f"{LINE}\n")
    assert login(shell, flags="") == "in 0\n"
    aside = f"exec >'{place.root}/aside'"
    assert login(shell, before=aside) == ""
    assert (place.root / "aside").read_text() == "in 0\n"


@each_login
@pytest.mark.parametrize("flagged", [False, True])
def test_a_strict_login_goes_on_and_finds_no_names_left(place, login, shell, flagged):
    del place.env["XDG_RUNTIME_DIR"]
    if flagged:
        place.flag.write_text(LINE)
    left = " ${_holdingpen_file-}${_holdingpen_line-}."
    assert login(shell, before="set -eu", then=left).endswith("in 0 .\n")


@each_login
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{TRAPS}\n", f"{TRAPS}."),
        ("-n %s\\\n", "-n %s\\."),
        ("", f"{UNNAMED}."),
        ("a\x1b[2Jb\n", f"{UNNAMED}."),
    ],
)
def test_what_is_said_at_login_is_the_line_and_nothing_runs(
    place, login, shell, content, said
):
    place.flag.write_text(content)
    assert login(shell).startswith(f"{said}\n")
    assert not list(place.root.rglob("owned"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("dash") is None, reason="dash is not installed")
def test_a_login_starts_no_process(place, login, tmp_path, monkeypatch):
    log = tmp_path / "log"
    calls = "?clone,?clone3,?fork,?vfork,execve,?execveat"
    strace = ["strace", "-f", "-qq", "-e", f"trace={calls}", "-o", str(log)]
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if subprocess.run([*strace, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    monkeypatch.setitem(LOGIN_SHELLS, "dash", [*strace, "dash"])
    place.flag.write_text(f"{LINE}\n")
    assert LINE in login("dash")
    # dash itself
    assert len(re.findall(r" (?:clone3?|v?fork|execve)\(", log.read_text())) == 1
