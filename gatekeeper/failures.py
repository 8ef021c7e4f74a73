"""What is said, and how gatekeeper ends, when CMD does not start under a lease.

Imported when something has failed.
"""

from __future__ import annotations

import sys
from time import time

from gatekeeper import conversation
from gatekeeper.words import date, moment, say, why_ended
from holdingpen.errors import (
    EXIT_GATEKEEPER,
    EXIT_NO_DAEMON,
    EXIT_NOT_NOW,
    EXIT_NOT_PERMITTED,
    HoldingPenError,
    LocalMistake,
    Refusal,
    RemoteMistake,
    Unavailable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatekeeper.conversation import Conversation
    from gatekeeper.options import Options

_NAME_SHOWN_MAX = 60


def explain(why: Exception) -> int:
    """Say why CMD was not started; returns the exit status (interface.md)."""
    match why:
        case Refusal():
            say(str(why))
            known = why.exit_status in (EXIT_NOT_NOW, EXIT_NOT_PERMITTED)
            return why.exit_status if known else EXIT_GATEKEEPER
        case LocalMistake(code="not-found" | "cannot-execute") | Unavailable():
            say(str(why))
            return why.exit_status
        case LocalMistake():
            say(f"{why} See `gatekeeper --help`.")
        case HoldingPenError():
            say(f"{str(why).rstrip('.')}; nothing was started.")
        case OSError():
            say(f"the system refused: {why.strerror}; nothing was started.")
        case _:
            # a fault of ours must not look like CMD's exit status 1
            sys.excepthook(type(why), why, why.__traceback__)
    return EXIT_GATEKEEPER


def start_or_do_without(options: Options, why: Exception) -> Conversation | None:
    """No daemon answered: start one with `--start`, otherwise warn.

    Returns:
        The private daemon; None when CMD is to run without a lease.

    Raises:
        Unavailable: with `--require`, and the exit status in it.
        Exception: `why` itself, when it says something else.
    """
    if not isinstance(why, Unavailable):
        raise why
    if options.start:
        from gatekeeper import private

        try:
            return private.start(options.socket)
        except Unavailable as failed:
            why = failed
    reason = str(why).rstrip(".")
    if not reason.startswith("no daemon"):
        reason = f"no daemon: {reason}"
    if options.require:
        denied = why.code == "socket-denied"
        raise _ending(
            Unavailable(f"{reason}; nothing was started.", why.code),
            EXIT_NOT_PERMITTED if denied else EXIT_NO_DAEMON,
        )
    if not options.quiet:
        name = conversation.command_line(options.command[:1], _NAME_SHOWN_MAX)
        say(f"{reason}; running {name} without a lease.")
    return None


def another(
    options: Options, talk: conversation.Conversation, why: Exception
) -> conversation.Conversation | None:
    """The next daemon, where the last one ended before it can have heard us.

    Under systemd its socket is there all the time.
    """
    gone = isinstance(why, Unavailable) and why.code == "daemon-gone"
    if not gone or talk.placed:
        return None
    talk.close()
    try:
        return conversation.reach(options.socket)
    except HoldingPenError:
        return None


def left_alone(options: Options, why: Exception) -> Exception:
    """The error to end with when asking or waiting failed by `why`."""
    if not isinstance(why, Unavailable):
        return why
    return _ending(
        Unavailable(f"{why}; nothing was started. Try again.", why.code),
        EXIT_NO_DAEMON if options.require else EXIT_GATEKEEPER,
    )


def verdict(message: dict[object, object]) -> HoldingPenError:
    """The error that a Refused, Ended or Failed of the daemon means.

    Raises:
        RemoteMistake: when a field of it is missing.
    """
    kind = message.get("t")
    if kind == "ended":
        why = why_ended(conversation.text(message, "why"))
        taken = f"the place in the line was taken away: {why}; nothing was started."
        return Refusal(taken, "ended")
    said = conversation.text(message, "message")
    code = conversation.text(message, "code")
    if kind == "refused":
        return Refusal(_with_time(said, message), code)
    return RemoteMistake(f"the daemon hung up: {said}", code)


def _with_time(said: str, refused: dict[object, object]) -> str:
    """What was said, and when it would fit if that is known and still to come."""
    free_at = date(refused.get("free_at"))
    if free_at is None or free_at < time():
        return said
    return f"{said.rstrip('. ')}. It would fit from {moment(free_at)}."


def _ending(error: Unavailable, status: int) -> Unavailable:
    error.exit_status = status
    return error
