"""gatekeeper as CMD's parent: it must feel as if CMD ran bare."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gatekeeper import parent
from holdingpen.wire import messages as wire

#: Says `ready`, counts each signal it gets, and ends on SIGQUIT or on its stdin.
COUNTER = r"""
import os, signal, sys
seen = []
def say(*words):
    # a handler may come in the middle of a print
    os.write(1, (" ".join(map(str, words)) + "\n").encode())
def count(signum, frame):
    seen.append(signum)
    say(signal.Signals(signum).name, seen.count(signum))
    if signum == signal.SIGWINCH:
        say("now", os.get_terminal_size(0).columns)
    if signum == signal.SIGQUIT:
        sys.exit(len(seen))
for signum in (1, 2, 3, 10, 15, 18, 28, 34):
    signal.signal(signum, count)
say("ready")
while True:
    signal.pause()
"""
_COUNTER = [sys.executable, "-c", COUNTER]

#: The promise of 30 s cut short: gatekeeper --timeout without a daemon.
_IMPATIENT = (
    "import sys; sys.path[:0] = [{root!r}]; from gatekeeper import parent; "
    "from gatekeeper.options import parse; "
    "sys.exit(parent.stay(parse(sys.argv[1:]), '/bin/sh', None, {{}}, grace_s=0.2))"
)


def test_the_descriptor_is_the_command_s_too(daemon, start):
    program = start("--stay", "sh", "-c", "echo $HOLDINGPEN_LEASE $HOLDINGPEN_FD; cat")
    client = daemon.grants()
    lease, descriptor = program.line().split()
    assert lease == "17"
    assert int(descriptor) >= 10
    assert client.silent()
    assert program.end().status == 0
    assert client.left()


def test_a_lease_may_be_called_reclaimable(daemon, start):
    program = start("--reclaimable", "true")
    client = daemon.grants()
    assert client.acquire.reclaimable
    assert program.end().status == 0


@pytest.mark.parametrize(("name", "status"), [("/etc", 126), ("/no/such", 127)])
def test_what_cannot_be_executed_has_its_status(daemon, start, name, status):
    assert start("--stay", name).end().status == status
    assert daemon.unvisited()


def test_an_interpreter_that_is_missing_is_told_by_the_child(
    daemon, start, tmp_path: Path
):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    program = start("--stay", str(script))
    daemon.grants()
    ended = program.end()
    assert ended.status == 127
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_command_killed_by_a_signal_makes_us_die_of_it(
    daemon, start, tmp_path: Path, signum
):
    program = start("--stay", "sh", "-c", f"ulimit -c 0; kill -{int(signum)} $$")
    daemon.grants()
    assert program.end().status == -signum


def test_a_command_s_core_is_not_followed_by_ours(daemon, start, tmp_path: Path):
    limit = resource.getrlimit(resource.RLIMIT_CORE)[1]
    program = start(
        *("--stay", "sh", "-c", "ulimit -c 0; kill -QUIT $$"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (limit, limit)),
    )
    daemon.grants()
    assert program.end().status == -signal.SIGQUIT
    assert not list(tmp_path.glob("core*"))


@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGUSR1,
        signal.SIGWINCH,
        signal.SIGRTMIN,
    ],
)
def test_a_signal_sent_to_us_alone_goes_on_to_the_command(daemon, start, signum):
    program = start("--stay", *_COUNTER)
    daemon.grants()
    assert program.line() == "ready\n"
    program.signal(signum)
    assert program.line() == f"{signal.Signals(signum).name} 1\n"


_KERNEL, _USER = 0x80, 0


@pytest.mark.parametrize(
    ("signum", "code", "sender", "expected"),
    [
        (signal.SIGINT, _KERNEL, 0, False),
        (signal.SIGTSTP, _KERNEL, 0, False),
        (signal.SIGWINCH, _KERNEL, 0, False),
        (signal.SIGINT, _USER, 1, True),
        (signal.SIGTERM, _USER, 1, True),
        # an alarm set before exec comes to us, and the command waits for it
        (signal.SIGALRM, _KERNEL, 0, True),
        (signal.SIGTERM, _USER, 4711, False),
        (signal.SIGPIPE, _USER, os.getpid(), False),
    ],
)
def test_what_the_command_has_already_is_not_sent_again(signum, code, sender, expected):
    """That it got it twice cannot be seen from outside: the kernel merges them."""
    info = signal.struct_siginfo((signum, code, 0, sender, 0, 0, 0))
    assert parent._Vigil(4711, None, 0)._meant_for_us(info) is expected


@pytest.mark.parametrize(("leads", "expected"), [(True, True), (False, False)])
def test_a_hangup_goes_on_when_it_came_to_the_leader_alone(
    monkeypatch, leads, expected
):
    monkeypatch.setattr("os.getsid", lambda _: os.getpid() if leads else 1)
    info = signal.struct_siginfo((signal.SIGHUP, _KERNEL, 0, 0, 0, 0, 0))
    assert parent._Vigil(4711, None, 0)._meant_for_us(info) is expected


@pytest.mark.parametrize("detached", [False, True])
def test_the_family_is_those_who_did_not_leave_the_group(detached):
    words = ["sh", "-c", "sleep 100 & echo $!; wait"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, process_group=0 if detached else None
    ) as child:
        grandchild = int(child.stdout.readline())
        family = parent._family(os.getpid())
        os.kill(grandchild, signal.SIGKILL)
    assert family[0] == os.getpid()
    assert (child.pid in family, grandchild in family) == (not detached,) * 2


def test_a_command_that_signals_its_group_gets_it_once(daemon, start):
    words = [sys.executable, "-c", COUNTER.replace("while", "os.kill(0, 10)\nwhile")]
    program = start("--stay", *words, start_new_session=True)
    daemon.grants()
    assert program.line() == "ready\n"
    assert program.line() == "SIGUSR1 1\n"
    program.signal(signal.SIGTERM)
    assert program.line() == "SIGTERM 1\n"


def _wait_until_stopped(process):
    """Its status once it has stopped; a death if it has not after 10 s."""
    late = threading.Timer(10, process.kill)
    late.start()
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
    finally:
        late.cancel()
    return status


def test_stop_and_continue_reach_the_command_and_show_in_us(daemon, start):
    # SIGTSTP stops nobody in an orphaned group, such as ours under setsid(1)
    program = start("--stay", *_COUNTER, process_group=0)
    daemon.grants()
    assert program.line() == "ready\n"
    program.signal(signal.SIGTSTP)
    status = _wait_until_stopped(program.process)
    assert os.WIFSTOPPED(status)
    assert os.WSTOPSIG(status) == signal.SIGTSTP
    program.signal(signal.SIGCONT)
    assert program.line().startswith("SIGCONT")
    program.signal(signal.SIGTERM)
    assert program.line() == "SIGTERM 1\n"


def test_timeout_interrupts_the_command(daemon, start):
    program = start("--timeout", "0.1s", "sleep", "100")
    daemon.grants()
    assert program.end().status == 124


def test_a_command_that_ends_in_time_keeps_its_status(daemon, start):
    program = start("--timeout", "1h", "sh", "-c", "exit 7")
    daemon.grants()
    assert program.end().status == 7


def test_timeout_works_without_a_daemon(start):
    assert start("--quiet", "--timeout", "0.1s", "sleep", "100").end().status == 124


def test_timeout_reaches_what_the_command_started(start):
    """A shell waits for its child before it minds its own interrupt."""
    program = start("--quiet", "--timeout", "0.1s", "sh", "-c", "sleep 100; echo on")
    assert program.end().out == ""


@pytest.mark.slow
def test_timeout_spares_the_others_in_the_caller_s_group(
    start, gatekeeper_words, tmp_path: Path
):
    """gatekeeper in a script: the script and its other jobs are in the same group."""
    script = (
        'sleep 100 & "$@" --quiet --timeout 0.1s sleep 100; echo $?; '
        "kill -0 $! && echo alive; kill $!"
    )
    program = start("--quiet", "sh", "-c", script, "sh", *gatekeeper_words)
    assert program.end().out == "124\nalive\n"


@pytest.mark.slow
def test_a_command_that_ignores_the_interrupt_is_killed(start, gatekeeper_words):
    root = str(Path(__file__).parents[2])
    python = [sys.executable, "-c", _IMPATIENT.format(root=root)]
    # ignored from the very beginning: a trap of its own might come too late
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
    words = ["--timeout", "0.1s", "sh", "-c", "exec sleep 100"]
    program = start("--quiet", *ignoring, *python, *words)
    assert program.end().status == 124


def test_a_lease_ended_by_somebody_else_is_told_and_the_command_goes_on(daemon, start):
    program = start("--stay", "cat")
    client = daemon.grants()
    client.say(wire.Ended(17, "ordered"))
    assert program.line("err") == (
        "gatekeeper: lease 17 was ended: its owner or an operator ordered it; "
        "cat goes on.\n"
    )
    assert program.end().status == 0


def test_a_lease_asked_back_ends_the_command_by_the_signal(daemon, start):
    program = start("--reclaim-signal", "TERM", "sleep", "100")
    client = daemon.grants()
    assert client.acquire.reclaimable
    client.say(wire.Reclaim(17, True))
    ended = program.end()
    assert ended.status == -signal.SIGTERM
    assert (
        ended.err == "gatekeeper: lease 17 is asked back: sending SIGTERM to sleep.\n"
    )
    assert client.left()


def test_a_command_that_saves_its_state_when_asked_keeps_its_status(daemon, start):
    words = [
        "sh",
        "-c",
        "trap 'echo saved; exit 7' USR1; echo on; while read x; do :; done",
    ]
    program = start("--quiet", "--reclaim-signal", "USR1", *words)
    client = daemon.grants()
    assert program.line() == "on\n"
    client.say(wire.Reclaim(17, True))
    assert program.line() == "saved\n"
    ended = program.end()
    assert (ended.status, ended.err) == (7, "")


def test_the_signal_is_sent_once_and_again_after_it_was_withdrawn(daemon, start):
    """A daemon that started anew says again what it said."""
    program = start("--reclaim-signal", "USR1", *_COUNTER)
    client = daemon.grants()
    assert program.line() == "ready\n"
    client.say(*[wire.Reclaim(17, True)] * 3)
    assert program.line() == "SIGUSR1 1\n"
    client.say(wire.Reclaim(17, False), wire.Reclaim(17, True))
    assert program.line() == "SIGUSR1 2\n"
    program.signal(signal.SIGQUIT)
    assert program.line() == "SIGQUIT 1\n"
    assert program.end().status == 3


def test_without_the_signal_the_command_is_left_alone(daemon, start):
    program = start("--reclaimable", *_COUNTER)
    client = daemon.grants()
    assert program.line() == "ready\n"
    client.say(wire.Reclaim(17, True))
    assert program.line("err").startswith("gatekeeper: lease 17 is asked back; ")
    program.signal(signal.SIGQUIT)
    assert program.line() == "SIGQUIT 1\n"
    assert program.end().status == 1


def test_a_signal_of_the_kind_we_wake_by_goes_on_to_the_command(daemon, start):
    count = COUNTER.replace("34):", "34, 23):")
    program = start("--reclaim-signal", "USR1", sys.executable, "-c", count)
    daemon.grants()
    assert program.line() == "ready\n"
    program.signal(signal.SIGURG)
    assert program.line() == "SIGURG 1\n"


def test_a_command_that_is_out_of_reach_is_left_alone(monkeypatch):
    """It became somebody else by sudo, or is gone."""
    for failure in (PermissionError, ProcessLookupError):

        def fail(*_: object, failure: type[OSError] = failure) -> None:
            raise failure

        monkeypatch.setattr("os.kill", fail)
        parent._send(4711, signal.SIGTERM)


def test_the_loss_of_the_daemon_is_told_and_the_command_goes_on(daemon, start):
    program = start("--stay", "cat")
    daemon.grants().hang_up()
    assert program.line("err") == (
        "gatekeeper: the daemon is gone: it closed the connection; "
        "cat goes on, without a lease.\n"
    )
    assert program.end().status == 0


# On a terminal, under a shell with job control.


@pytest.fixture
def shell(daemon, terminal, gatekeeper_words, tmp_path: Path):
    """An interactive bash, in which `./gk` is gatekeeper and `./counter` counts."""
    if not Path("/bin/bash").exists():
        pytest.skip("needs bash for its job control")
    for name, words in (("gk", '-I -S -c "$BOOT" "$@"'), ("counter", "counter.py")):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec "$PYTHON" {words}\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "counter.py").write_text(COUNTER)
    return terminal("/bin/bash", "--norc", "--noprofile", "-i")


def test_ctrl_c_reaches_the_command_once(daemon, shell):
    shell.type("./gk --stay ./counter\n")
    daemon.grants()
    shell.until("ready")
    for n in (1, 2, 3):
        shell.type("\x03")
        shell.until(f"SIGINT {n}")
    shell.type("\x1c")
    shell.until("SIGQUIT 1")
    shell.type("echo status $?\n")
    shell.until("status 4")


@pytest.mark.parametrize("mode", ["", "--stay"])
def test_ctrl_c_is_the_death_that_the_shell_expects(daemon, shell, mode):
    shell.type(f"./gk {mode} sh -c 'echo ready; exec sleep 100'\n")
    daemon.grants()
    shell.until("ready\r\n")
    shell.type("\x03")
    shell.type("echo status $?\n")
    shell.until("status 130")


@pytest.mark.parametrize("mode", ["", "--stay"])
def test_ctrl_z_stops_the_job_and_fg_continues_it(daemon, shell, mode):
    shell.type(f"./gk {mode} ./counter\n")
    client = daemon.grants()
    shell.until("ready")
    shell.type("\x1a")
    shell.until("Stopped")
    shell.type("fg\n")
    shell.until("SIGCONT 1")
    assert client.silent()
    shell.type("\x03")
    shell.until("SIGINT 1")


def test_a_stopped_job_is_resumed_in_the_background_and_back(daemon, shell):
    shell.type("./gk --stay cat\n")
    daemon.grants()
    shell.type("a\n")
    shell.until("a\r\na")
    shell.type("\x1a")
    shell.until("Stopped")
    # cat reads from the terminal, so in the background it is stopped at once
    shell.type("bg; while jobs -r | grep -q .; do :; done; echo all''stopped\n")
    shell.until("allstopped")
    shell.type("fg\n")
    shell.until("./gk --stay cat\r\n")
    shell.type("b\n")
    shell.until("b\r\nb")


def test_a_new_window_size_reaches_the_command(daemon, shell):
    shell.type("./gk --stay ./counter\n")
    daemon.grants()
    shell.until("ready")
    shell.resize(40, 133)
    shell.until("now 133")
