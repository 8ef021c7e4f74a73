"""Every error Holding Pen raises on purpose.

Each has a stable `code`, which travels in the protocol and may be tested by
scripts, an `exit_status` for the command that meets it, and a message that says
what was being done, to what, the numbers, and what to do next.

    HoldingPenError
        Refusal        we said no: the request was understood and is not granted
        LocalMistake   you misused us: a word, an option, a configuration key
        RemoteMistake  the other end broke the protocol
        Damage         the journal is not what we wrote
        Unavailable    something we need is not there: the daemon, a device, space

This file is on gatekeeper's way and imports nothing.
"""

# Exit statuses.  65 to 77 are those of sysexits.h; 124 to 127 those of env(1) and
# timeout(1).
EXIT_NO = 1
EXIT_USAGE = 2
EXIT_BAD_DATA = 65
EXIT_NO_DAEMON = 69
EXIT_NOT_NOW = 75
EXIT_NOT_PERMITTED = 77
EXIT_TIMED_OUT = 124
EXIT_GATEKEEPER = 125
EXIT_CANNOT_EXECUTE = 126
EXIT_NOT_FOUND = 127


class HoldingPenError(Exception):
    """What all errors below have in common."""

    #: A short stable word: `not-now`.
    code: str = "error"
    #: What a command that ends because of this exits with.
    exit_status: int = EXIT_NO

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class Refusal(HoldingPenError):
    """The daemon said no.

    Codes: `never-fits` (more than there is), `not-now` (`--nonblock`, or the wait
    is over), `conflict` (others have reserved it for then), `not-permitted`,
    `unknown-resource`, `bad-amount`, `bad-request` (a number or text that makes no
    sense), `limit` (too many leases or waiters of one user), `no-such-lease`,
    `stale-request`, `cannot-record` (the journal has no room), `ended` (the lease was
    over when something was wanted of it).
    """

    code = "refused"
    #: Seconds since 1970 when it would fit between what is reserved; None: unknown.
    free_at: float | None = None

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, code)
        if code in ("not-now", "conflict", "limit", "cannot-record"):
            self.exit_status = EXIT_NOT_NOW
        elif code == "not-permitted":
            self.exit_status = EXIT_NOT_PERMITTED


class LocalMistake(HoldingPenError):
    """The caller misused Holding Pen: wrong usage."""

    code = "usage"
    exit_status = EXIT_USAGE


class BadWord(LocalMistake, ValueError):
    """A size, count or duration that is not one."""

    code = "bad-word"


class BadSettings(LocalMistake):
    """A configuration that names an unknown key or gives a bad value."""

    code = "bad-settings"
    exit_status = EXIT_BAD_DATA


class RemoteMistake(HoldingPenError):
    """The other end of a connection broke the protocol.

    Codes: `too-long`, `not-msgpack`, `wrong-version`, `out-of-turn`,
    `half-a-frame`, `too-slow` (replies pile up unread), `limit` (connections).
    """

    code = "protocol"
    exit_status = EXIT_BAD_DATA


class Damage(HoldingPenError):
    """The journal holds bytes that were not written by us, or not in this order."""

    code = "damaged"
    exit_status = EXIT_BAD_DATA


class Unavailable(HoldingPenError):
    """Something needed is not there: the daemon, a device, memory, disk space."""

    code = "unavailable"
    exit_status = EXIT_NO_DAEMON


class BrokenInvariant(HoldingPenError):
    """The books do not balance: a fault of ours.  The daemon ends and replays."""

    code = "broken-invariant"
    exit_status = EXIT_GATEKEEPER
