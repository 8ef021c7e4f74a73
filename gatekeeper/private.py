"""A private daemon, for --start: no daemon answers, so start one of one's own.

It ends when nobody has needed it for a minute.  It must not become a child of CMD,
which would find a stranger among its children: so a helper process starts it, waits
until it is ready (sd_notify(3)) or has failed, and ends; the helper's exit status is
the answer.
"""

from __future__ import annotations

import os
import select
import signal
import site
import socket
import subprocess
import sys
from time import monotonic, sleep

import holdingpen
from gatekeeper.conversation import Conversation, connect
from holdingpen import places
from holdingpen.errors import EXIT_NOT_NOW, EXIT_TIMED_OUT, Unavailable

#: From start to ready; a daemon with much ballast to take says READY before.
READY_S = 20.0
EXIT_IDLE = "1m"
LOG_BYTES_MAX = 1024 * 1024
#: Between attempts while the daemon that won the race opens its socket.
_RETRY_S = 0.05

_NO_HELPER_STATUS = 70

#: What belongs to us and not to the daemon: our own service manager's words, and the
#: lease we may be running under.
_NOT_INHERITED = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "HOLDINGPEN_FD",
    "HOLDINGPEN_LEASE",
)


def start(explicit: str | None) -> Conversation:
    """Start a private daemon, or find the one that another has just started.

    Args:
        explicit: what `--socket` said; the daemon is given that, or
            `$HOLDINGPEN_SOCKET`, to listen at.

    Raises:
        Unavailable: `no-start`, when it did not come up; the message names its log.
            Also what places.py raises.
    """
    deadline_s = monotonic() + READY_S
    named = places.named_socket(explicit)
    path = os.path.abspath(named) if named else places.user_socket()
    if not named:
        places.make_user_directory()
    log = log_path()
    status = _started_by_helper(arguments(path if named else None), log)
    if status not in (0, EXIT_NOT_NOW):
        how = f"it ended with status {status}"
        if status == EXIT_TIMED_OUT:
            how = f"it was not ready in {READY_S:.0f} s"
        raise Unavailable(
            f"no daemon, and a private one could not be started: {how}, see {log}.",
            "no-start",
        )
    while True:
        try:
            return connect([path])
        except Unavailable as why:
            # status 75: another was quicker, and may not listen yet
            if why.code == "socket-denied" or monotonic() > deadline_s:
                raise
            sleep(_RETRY_S)


def arguments(socket_path: str | None) -> list[str]:
    """The command line of the private daemon.

    `-P` keeps the current directory from being searched for modules.
    """
    words = [sys.executable, "-P", "-m", "holdingpen"]
    words += ["--user", "--exit-idle", EXIT_IDLE]
    return [*words, "--socket", socket_path] if socket_path else words


def environment(notify: str) -> dict[str, str]:
    """Our environment, such that the daemon finds holdingpen where we found it."""
    surroundings = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_INHERITED
        # what we were told to ignore (-I), the daemon ignores, too
        and not (sys.flags.isolated and name.startswith("PYTHON"))
    }
    surroundings["NOTIFY_SOCKET"] = notify
    root = os.path.dirname(os.path.dirname(os.path.abspath(holdingpen.__file__)))
    searched = []
    if root not in site.getsitepackages():
        searched.append(root)
    if surroundings.get("PYTHONPATH"):
        searched.append(surroundings["PYTHONPATH"])
    if searched:
        surroundings["PYTHONPATH"] = os.pathsep.join(searched)
    return surroundings


def log_path() -> str:
    """Where the private daemon's stderr goes; makes the directory, mode 0700.

    Raises:
        Unavailable: `no-start`, when it cannot be made; also what places.py raises.
    """
    state = places.user_state()
    try:
        os.makedirs(state, mode=0o700, exist_ok=True)
    except OSError as why:
        raise Unavailable(
            f"no daemon, and no place for a private one: {state}: {why.strerror}.",
            "no-start",
        ) from None
    return f"{state}/private.log"


def _started_by_helper(words: list[str], log: str) -> int:
    helper = os.fork()
    if helper == 0:
        status = _NO_HELPER_STATUS
        try:
            status = _bring_up(words, log)
        except OSError as why:
            with open(log, "a") as file:
                file.write(f"gatekeeper: {words[0]} could not be started: {why}\n")
        finally:
            os._exit(status)
    _, status = os.waitpid(helper, 0)
    return os.waitstatus_to_exitcode(status)


def _bring_up(words: list[str], log: str) -> int:
    """Start the daemon; 0: it is ready; 124: not in time; else how it ended."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        return _run_until_ready(words, log, notify)


def _run_until_ready(words: list[str], log: str, notify: socket.socket) -> int:
    # an empty address lets the kernel choose an abstract one (unix(7), autobind)
    notify.bind("")
    notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    address = notify.getsockname().decode().replace("\0", "@", 1)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    output = os.open(log, flags, 0o600)
    if os.fstat(output).st_size > LOG_BYTES_MAX:
        os.ftruncate(output, 0)
    daemon = subprocess.Popen(  # noqa: S603 (our own interpreter and words)
        words,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd="/",
        env=environment(address),
        start_new_session=True,
        # safe here: this process has one thread
        preexec_fn=_forget_signals,
    )
    return _ready_or_ended(daemon, notify)


def _ready_or_ended(daemon: subprocess.Popen[bytes], notify: socket.socket) -> int:
    deadline_s = monotonic() + READY_S
    ended = os.pidfd_open(daemon.pid)
    waited_for = select.poll()
    waited_for.register(notify, select.POLLIN)
    waited_for.register(ended, select.POLLIN)
    while (left_s := deadline_s - monotonic()) > 0:
        for descriptor, _ in waited_for.poll(left_s * 1000):
            if descriptor == ended:
                # an end without READY is a failure, even with status 0
                return abs(daemon.wait()) or _NO_HELPER_STATUS
            if _says_ready(notify):
                return 0
    return EXIT_TIMED_OUT


def _says_ready(notify: socket.socket) -> bool:
    data, ancillary, _, _ = notify.recvmsg(4096, socket.CMSG_SPACE(12))
    # anybody may send to an abstract address: count only what our own uid says
    uids = [
        int.from_bytes(credentials[4:8], sys.byteorder)
        for level, kind, credentials in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
    ]
    return uids == [os.geteuid()] and b"READY=1" in data.split(b"\n")


def _forget_signals() -> None:
    """Give the daemon the dispositions and the mask of a fresh session."""
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
