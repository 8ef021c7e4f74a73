"""What the daemon says while CMD runs: its lease is asked back, or is over.

Runs in a thread of the parent (parent.py), the only one who reads the connection then.
"""

from __future__ import annotations

import signal

from gatekeeper.conversation import command_line, text
from gatekeeper.words import say, why_ended
from holdingpen.errors import HoldingPenError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gatekeeper.conversation import Conversation
    from gatekeeper.options import Options

_NAME_SHOWN_MAX = 60


def watch(
    talk: Conversation, options: Options, lease: str, wake: Callable[[], object]
) -> None:
    """Say in one line each what happens to the lease, until it is over.

    A request to give it back that the daemon only repeats is none: it counts again
    when it was withdrawn in between.

    Args:
        talk: the connection.
        options: the command, `reclaim_signal` and `quiet` count here.
        lease: its id.
        wake: called when CMD is to be sent `reclaim_signal`.
    """
    name = command_line(options.command[:1], _NAME_SHOWN_MAX)
    asked_back = False
    try:
        while True:
            message = talk.hear(None) or {}
            kind = message.get("t")
            if kind == "ended":
                why = why_ended(text(message, "why"))
                _tell(options, f"lease {lease} was ended: {why}; {name} goes on.")
                return
            if kind != "reclaim" or (message.get("on") is True) == asked_back:
                continue
            asked_back = not asked_back
            _tell(options, f"lease {lease} {_news(options, asked_back, name)}")
            if asked_back and options.reclaim_signal:
                wake()
    except HoldingPenError as why:
        _tell(options, f"{str(why).rstrip('.')}; {name} goes on, without a lease.")


def _tell(options: Options, news: str) -> None:
    if not options.quiet:
        say(news)


def _news(options: Options, asked_back: bool, name: str) -> str:
    if not asked_back:
        return "is not asked back any more."
    if options.reclaim_signal:
        sent = _signal_name(options.reclaim_signal)
        return f"is asked back: sending {sent} to {name}."
    return f"is asked back; {name} is not told (no --reclaim-signal)."


def _signal_name(number: int) -> str:
    # most real-time signals have no name
    known = number in set(signal.Signals)
    return signal.Signals(number).name if known else f"signal {number}"
