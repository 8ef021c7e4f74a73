"""holdingpenctl prompt: what a shell runs to show that somebody has the machine.

What is printed reads the daemon's flag file (holdingpen/daemon/flag.py) and starts no
process; the snippets lie in holdingpen/ctl/shell, each in its own language.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

#: Where a snippet is for, and its file.
SNIPPETS = {
    "bash": "prompt.bash",
    "zsh": "prompt.zsh",
    "fish": "prompt.fish",
    "login": "login.sh",
}

_EPILOG = """\
Put one of these at the end of the file, after what makes your prompt:

  ~/.bashrc, /etc/bash.bashrc   eval "$(holdingpenctl prompt bash)"
  ~/.zshrc, /etc/zsh/zshrc      eval "$(holdingpenctl prompt zsh)"
  ~/.config/fish/config.fish    holdingpenctl prompt fish | source

While somebody has the whole machine there is a red ! before the prompt, and
the variable HOLDINGPEN_ALERT says who, until when and why; else it is empty.
Other users choose its words: print it with printf '%s\\n' "$HOLDINGPEN_ALERT"
(some echos obey \\), never eval it; in a zsh prompt ${HOLDINGPEN_ALERT//\\%/%%}.

'login' is for all users and says the same once, when they log in.  A prompt
costs no process; a new shell costs one, or none with the text in a file.

examples:
  holdingpenctl prompt login > /etc/profile.d/holdingpen.sh
  holdingpenctl prompt bash > ~/.holdingpen.bash   # and in ~/.bashrc:
  . ~/.holdingpen.bash
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Teach the command line the verb."""
    parser = verbs.add_parser(
        "prompt",
        help="for your shell: a mark while somebody has the whole machine",
        description="Print what a shell runs to mark the prompt, or to tell who logs "
        "in,\nwhile somebody has the whole machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "shell", metavar="SHELL", choices=SNIPPETS, help="bash, zsh, fish or login"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the snippet."""
    sys.stdout.write(snippet(args.shell))
    return 0


def snippet(shell: str) -> str:
    """The text for one of SNIPPETS."""
    # importlib.resources would add 8 ms to the start of each shell
    return (Path(__file__).parent / "shell" / SNIPPETS[shell]).read_text("ascii")
