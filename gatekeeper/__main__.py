"""The command gatekeeper, from its words to CMD: ask, wait, become CMD.

`python -m gatekeeper` is the same.
"""

import _signal  # type: ignore[import-not-found]  # typeshed knows only signal
import posix
import sys

from gatekeeper import command, conversation
from gatekeeper.options import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatekeeper.conversation import Conversation
    from gatekeeper.options import Options

_STDOUT = 1

#: A daemon that was killed between reading and answering will not answer: so ask
#: again after this many seconds, so many times.  The same id is never granted twice.
ASK_AGAIN_S = 5.0
ASK_AGAIN_MAX = 3
#: How often another daemon is asked when one ends before it has heard us: each was
#: killed within the millisecond.
ASK_ANEW_MAX = 3
#: The live line is drawn anew, so that the time waited is seen to pass.
TICK_S = 1.0


def main() -> int:
    """Run gatekeeper with the words of `sys.argv`; returns its exit status.

    The statuses that CMD does not explain are those of the manual page: 69, 75, 77,
    and 124 to 127.
    """
    # Ctrl-C is the death by SIGINT that a shell expects, not a traceback.  A SIGINT
    # that was ignored (`nohup`, `&` in a script) stays ignored: for CMD, too.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        options = parse(sys.argv[1:])
        if options.help or options.version:
            return _show(options)
        return run(options)
    except Exception as why:
        from gatekeeper.failures import explain

        return explain(why)


def _show(options: "Options") -> int:
    if options.help:
        from gatekeeper.helptext import HELP

        text = HELP
    else:
        from holdingpen import __version__

        text = f"gatekeeper {__version__}\n"
    posix.write(_STDOUT, text.encode())
    return 0


def run(options: "Options") -> int:
    """Run CMD under a lease.

    Returns:
        CMD's exit status, when gatekeeper had to stay as its parent; otherwise it has
        become CMD and does not return.

    Raises:
        HoldingPenError: when CMD was not started; failures.py says what it means.
    """
    found = command.find(options.command[0])
    if options.prefault and not options.quiet:
        from gatekeeper.handover import doubt

        doubt(found)
    talk = _reach(options)
    variables: dict[bytes, bytes] = {}
    if talk is not None:
        talk, granted = stand_in_line(talk, options)
        variables = _variables(options, granted)
    if options.parent:
        from gatekeeper import parent

        return parent.stay(options, found, talk, variables)
    command.surround(variables, None if talk is None else talk.bequeath())
    return command.become(options.command, found)


def _reach(options: "Options") -> "Conversation | None":
    """The daemon, or None when there is none and CMD runs all the same."""
    try:
        return conversation.reach(options.socket)
    except Exception as why:
        from gatekeeper.failures import start_or_do_without

        return start_or_do_without(options, why)


def stand_in_line(
    talk: "Conversation", options: "Options"
) -> "tuple[Conversation, dict[object, object]]":
    """Ask, and wait until it is granted.

    Who had no word of a lease when the daemon ended was not heard, and asks its next.

    Returns:
        The conversation, which may be another one, and the Granted.

    Raises:
        Refusal: when the daemon says no, or it is not `--exact`.
        RemoteMistake: when it does not speak the protocol.
        Unavailable: `daemon-gone`; its `exit_status` is 69 with `--require`, else 125.
    """
    anew = ASK_ANEW_MAX
    while True:
        try:
            talk.say(conversation.opening(options))
            granted, told = _wait(talk, options)
            break
        except Exception as why:
            from gatekeeper.failures import another, left_alone

            anew -= 1
            next_one = another(options, talk, why) if anew >= 0 else None
            if next_one is None:
                raise left_alone(options, why) from None
            talk = next_one
    if told or options.verbose or options.exact:
        from gatekeeper import handover

        handover.judge(options, granted, told)
    return talk, granted


def _wait(
    talk: "Conversation", options: "Options"
) -> tuple[dict[object, object], bool]:
    """The Granted, and whether somebody was told of a wait for it."""
    view = None
    timeout_s: float | None = ASK_AGAIN_S
    asked = 1
    try:
        while True:
            message = talk.hear(timeout_s)
            if message is None:
                if view is not None:
                    view.tick()
                elif asked <= ASK_AGAIN_MAX:
                    asked += 1
                    talk.say(conversation.request(options))
                continue
            if message.get("t") == "waiting":
                talk.placed = True
                if view is None and not options.quiet:
                    from gatekeeper.waiting import View

                    view = View()
                if view is not None:
                    view.tell(message)
                timeout_s = TICK_S if view is not None and view.live else None
                continue
            if _decided(message):
                return message, view is not None
    finally:
        if view is not None:
            view.close()


def _decided(message: dict[object, object]) -> bool:
    """Whether this is the Granted; False when it decides nothing."""
    kind = message.get("t")
    if kind == "granted":
        conversation.number(message, "lease")
        return True
    if kind in ("refused", "ended", "failed"):
        from gatekeeper.failures import verdict

        raise verdict(message)
    # Welcome, and whatever later daemons say besides
    return False


def _variables(options: "Options", granted: dict[object, object]) -> dict[bytes, bytes]:
    """What CMD finds in its environment because of its lease."""
    sure = conversation.text({"handover": "none", **granted}, "handover")
    variables = {
        b"HOLDINGPEN_LEASE": b"%d" % conversation.number(granted, "lease"),
        b"HOLDINGPEN_HANDOVER": sure.encode(),
    }
    if options.prefault or options.hugepages or "places" in granted:
        from gatekeeper import handover

        variables.update(handover.variables(options, granted))
    return variables


if __name__ == "__main__":
    sys.exit(main())
