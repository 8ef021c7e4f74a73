"""gatekeeper as CMD's parent: for --timeout, --reclaimable, --reclaim-signal, --stay.

It must feel as if CMD ran bare, so CMD stays in our process group, where the
terminal's signals reach it directly, and we do four things:

    a signal sent to us alone       goes on to CMD
    CMD stops                       we stop in the same way, so the shell sees it
    CMD ends by itself              we end with its status
    CMD is killed by a signal       we die by that signal, without a second core

Theory of operation.  All signals are blocked in us and taken one by one with
sigwaitinfo(2), which says who sent them: what the terminal sent to the whole process
group has reached CMD already (si_code SI_KERNEL), what a process sent (SI_USER) may
have been meant for us alone.  Kill(2) to the whole group cannot be told from kill(2)
to us, so CMD gets such a signal twice; most often the kernel makes one of the two.
CMD is started with the mask and the dispositions that we were started with.

The connection is watched by a thread (watch.py), which prints lines and wakes us when
the lease is asked back.  The signal for CMD is sent from here: only who reaps CMD
knows that its pid is not somebody else's by now.
"""

from __future__ import annotations

import _thread
import os
import resource
import signal
from functools import partial
from time import monotonic

from gatekeeper import command
from gatekeeper.watch import watch
from gatekeeper.words import say
from holdingpen.errors import (
    EXIT_GATEKEEPER,
    EXIT_TIMED_OUT,
    LocalMistake,
    Unavailable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from gatekeeper.conversation import Conversation
    from gatekeeper.options import Options

#: Between SIGINT and SIGKILL when `--timeout` is reached: the promise of the manual.
GRACE_S = 30.0

#: By this the watching thread says to us that the lease is asked back.  It is sent to
#: the thread and not to the process, so it does not merge with one from outside.
_ASKED_BACK = signal.SIGURG

#: si_code of what the kernel itself sends (asm-generic/siginfo.h).
_SI_KERNEL = 0x80
#: What a terminal sends to its foreground process group (termios(3), tty_ioctl(4)).
_OF_TERMINAL = frozenset(
    {
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGWINCH,
        signal.SIGHUP,
    }
)
_ALL = signal.valid_signals()


def stay(
    options: Options,
    found: str,
    talk: Conversation | None,
    variables: dict[bytes, bytes],
    grace_s: float = GRACE_S,
) -> int:
    """Run CMD as a child and wait for its end.

    Args:
        options: the command, `timeout_s`, `reclaim_signal`, `quiet` and `prefault`
            count here.
        found: the file to execute, as `command.find` says.
        talk: the connection; CMD inherits it.  None: there is no daemon.
        variables: what CMD finds because of its lease; empty without one.
        grace_s: seconds between SIGINT and SIGKILL.

    Returns:
        CMD's exit status; 124 when the time was over; 126 or 127 when it could not be
        executed.  Does not return when CMD is killed by a signal.

    Raises:
        Unavailable: `no-process`, when the system makes no new process.
    """
    descriptor = None if talk is None else talk.bequeath()
    # with an inherited SIG_IGN the kernel would keep CMD's status to itself
    of_children = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, _ALL)
    try:
        child = os.fork()
    except OSError as why:
        error = Unavailable(f"no new process: {why.strerror}.", "no-process")
        error.exit_status = EXIT_GATEKEEPER
        raise error from None
    if child == 0:
        command.surround(variables, descriptor)
        signal.signal(signal.SIGCHLD, of_children)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _become(options.command, found)
    # with --prefault CMD itself reads the answers: we would take them from it
    if talk is not None and not options.prefault:
        lease = variables[b"HOLDINGPEN_LEASE"].decode()
        wake = partial(signal.pthread_kill, _thread.get_ident(), _ASKED_BACK)
        _thread.start_new_thread(watch, (talk, options, lease, wake))
    vigil = _Vigil(child, options.timeout_s, grace_s, options.reclaim_signal)
    return vigil.until_the_end()


def _become(words: list[str], found: str) -> NoReturn:
    try:
        command.become(words, found)
    except LocalMistake as why:
        say(str(why))
        os._exit(why.exit_status)
    finally:
        # nothing of the child may ever run the parent's code
        os._exit(EXIT_GATEKEEPER)


class _Vigil:
    """Waits for the end of one child and passes signals on meanwhile."""

    def __init__(
        self,
        child: int,
        timeout_s: float | None,
        grace_s: float,
        reclaim_signal: int = 0,
    ) -> None:
        self._child = child
        #: What the child is sent when the lease is asked back.
        self._reclaim_signal = reclaim_signal
        self._grace_s = grace_s
        #: When to send the next signal (monotonic clock); None: never.
        self._deadline_s = None if timeout_s is None else monotonic() + timeout_s
        #: Whether SIGINT was sent because the time was over.
        self._timed_out = False

    def until_the_end(self) -> int:
        while True:
            if self._deadline_s is None:
                info = signal.sigwaitinfo(_ALL)
            else:
                left_s = max(0.0, self._deadline_s - monotonic())
                timely = signal.sigtimedwait(_ALL, left_s)
                if timely is None:
                    self._time_is_up()
                    continue
                info = timely
            if info.si_signo == signal.SIGCHLD:
                status = self._reap()
                if status is not None:
                    return self._end_like(status)
            elif info.si_signo == _ASKED_BACK and info.si_pid == os.getpid():
                _send(self._child, self._reclaim_signal)
            elif self._meant_for_us(info):
                _send(self._child, info.si_signo)

    def _meant_for_us(self, info: signal.struct_siginfo) -> bool:
        if info.si_code == _SI_KERNEL and info.si_signo in _OF_TERMINAL:
            # a hangup goes to the leader of the session alone
            leads = os.getsid(0) == os.getpid()
            return info.si_signo == signal.SIGHUP and leads
        # CMD that signals its whole group has it already; a write of ours to a closed
        # stderr is no signal for CMD
        return info.si_pid not in (self._child, os.getpid())

    def _reap(self) -> int | None:
        """The child's wait status when it has ended; stops us when it has stopped."""
        stopped_by = 0
        flags = os.WNOHANG | os.WUNTRACED | os.WCONTINUED
        while True:
            pid, status = os.waitpid(self._child, flags)
            if pid == 0:
                break
            if os.WIFSTOPPED(status):
                stopped_by = os.WSTOPSIG(status)
            elif os.WIFCONTINUED(status):
                stopped_by = 0
            else:
                return status
        if stopped_by:
            _stop_by(stopped_by)
        return None

    def _time_is_up(self) -> None:
        """SIGINT to CMD and its family; and SIGKILL when that did not help."""
        family = _family(self._child)
        signum = signal.SIGKILL if self._timed_out else signal.SIGINT
        for pid in family:
            _send(pid, signum)
        for pid in family:
            # a stopped process cannot end
            _send(pid, signal.SIGCONT)
        self._deadline_s = None if self._timed_out else monotonic() + self._grace_s
        self._timed_out = True

    def _end_like(self, status: int) -> int:
        if self._timed_out:
            return EXIT_TIMED_OUT
        if os.WIFSIGNALED(status):
            _die_by(os.WTERMSIG(status))
        return os.waitstatus_to_exitcode(status)


def _send(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        # it is gone, or it became somebody else (sudo): as if it had been run bare
        return


def _stop_by(signum: int) -> None:
    """Stop as CMD did; returns once somebody lets us go on."""
    if signum != signal.SIGSTOP:
        signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
    signal.pthread_sigmask(signal.SIG_BLOCK, {signum})


def _die_by(signum: int) -> NoReturn:
    # a limit of 1 byte, and not 0, also keeps the core from a pipe (core(5))
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    soft = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    if signum != signal.SIGKILL:
        signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
    # what a shell makes of a death by signal
    os._exit(128 + signum)


def _family(root: int) -> list[int]:
    """`root` and its descendants in our process group, parents first.

    Not the whole group: it is the caller's, too (a pipeline, a script).  Not those
    that left the group: they were detached on purpose.
    """
    children: dict[int, list[int]] = {}
    group = os.getpgrp()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            parent, its_group = _parent_and_group(name)
            if its_group == group:
                children.setdefault(parent, []).append(int(name))
    family = [root]
    for pid in family:
        family.extend(children.get(pid, ()))
    return family


def _parent_and_group(pid: str) -> tuple[int, int]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # the name in brackets may hold anything, brackets too (proc(5))
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0, 0
    return int(fields[1]), int(fields[2])
