"""From the command line to the kernel and back, with nothing faked."""

import os
import signal
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_cmd_runs_under_a_lease_and_its_status_is_gatekeepers(served):
    script = "echo $HOLDINGPEN_LEASE; exit 7"
    assert served.run("--ram", "16M", "sh", "-c", script) == (7, "1\n", "")


def test_without_options_cmd_gets_the_share(served):
    holder = served.gatekeeper("sh", "-c", "echo on; read x")
    assert holder.stdout.readline() == "on\n"
    with served.connect() as conn:
        (lease,) = conn.status().leases
    assert lease.amounts == {"ram": 32 * 2**20}
    assert lease.pid == holder.pid


def test_kill_9_ends_the_lease(served):
    holder = served.gatekeeper(
        "--res", "licence=1", "sh", "-c", "echo on; exec sleep 99"
    )
    assert holder.stdout.readline() == "on\n"
    assert served.run("--res", "licence=1", "--nonblock", "true")[0] == 75
    holder.kill()
    served.wait_for("licence", 1)


def test_a_grandchild_that_outlives_cmd_keeps_the_lease(served):
    """A program that puts itself into the background is still the holder."""
    script = "sleep 99 >&- 2>&- & echo $!"
    status, out, _ = served.run("--res", "licence=1", "sh", "-c", script)
    grandchild = int(out)
    assert status == 0
    assert served.run("--res", "licence=1", "--nonblock", "true")[0] == 75
    os.kill(grandchild, signal.SIGKILL)
    served.wait_for("licence", 1)


def test_cmd_that_closes_the_descriptor_ends_its_lease(served):
    script = 'eval "exec $HOLDINGPEN_FD>&-"; echo on; read x'
    holder = served.gatekeeper("--res", "licence=1", "bash", "-c", script)
    assert holder.stdout.readline() == "on\n"
    served.wait_for("licence", 1)
    assert holder.poll() is None


def test_the_line_is_served_when_the_holder_ends(served):
    first = served.gatekeeper("--res", "licence=1", "sh", "-c", "echo on; read x")
    assert first.stdout.readline() == "on\n"
    second = served.gatekeeper("--res", "licence=1", "echo", "mine")
    assert "1st in line" in second.stderr.readline()
    first.stdin.close()
    assert second.stdout.read() == "mine\n"
    assert second.wait() == 0


def test_ctrl_c_in_the_line_leaves_nothing_behind(served):
    first = served.gatekeeper("--res", "licence=1", "sh", "-c", "echo on; read x")
    assert first.stdout.readline() == "on\n"
    second = served.gatekeeper("--res", "licence=1", "echo", "mine")
    assert "1st in line" in second.stderr.readline()
    second.send_signal(signal.SIGINT)
    assert second.wait() == -signal.SIGINT
    first.stdin.close()
    served.wait_for("licence", 1)
    with served.connect() as conn:
        assert conn.status().leases == []


def test_exclusive_waits_for_the_others_and_keeps_them_out(served):
    other = served.gatekeeper("--cpu", "1", "sh", "-c", "echo on; read x")
    assert other.stdout.readline() == "on\n"
    alone = served.gatekeeper("--exclusive", "sh", "-c", "echo on; read x")
    assert "1st in line" in alone.stderr.readline()
    other.stdin.close()
    assert alone.stdout.readline() == "on\n"
    assert served.run("--cpu", "1", "--nonblock", "true")[0] == 75


def test_more_than_there_is_is_refused_with_the_numbers(served):
    status, _, err = served.run("--res", "licence=2", "true")
    assert status == 125
    assert "asked 2 licence; this pen can lend 1." in err


def test_start_makes_a_private_pen_and_two_at_once_share_it(pen):
    both = [pen.gatekeeper("--start", "--cpu", "1", "echo", name) for name in "ab"]
    assert [process.communicate(timeout=60)[0] for process in both] == ["a\n", "b\n"]
    with pen.connect() as conn:
        assert conn.status().resources["cpu"].leased == 0


def test_without_a_daemon_cmd_runs_with_a_warning_or_not_at_all(pen):
    status, out, err = pen.run("echo", "bare")
    assert (status, out) == (0, "bare\n")
    assert "without a lease" in err
    assert pen.run("--require", "echo", "bare")[:2] == (69, "")


def test_a_killed_daemon_forgets_leases_but_never_their_ids(served):
    assert served.run("sh", "-c", "echo $HOLDINGPEN_LEASE")[1] == "1\n"
    holder = served.gatekeeper("--res", "licence=1", "sh", "-c", "echo on; read x")
    assert holder.stdout.readline() == "on\n"
    with served.connect() as conn:
        conn.set_capacity("slot", 7)
    served.daemon.kill()
    served.daemon.communicate()
    served.serve()
    assert holder.poll() is None
    assert served.run("sh", "-c", "echo $HOLDINGPEN_LEASE")[1] == "3\n"
    with served.connect() as conn:
        status = conn.status()
        assert conn.story(2).why_ended == "daemon-restarted"
    assert status.leases == []
    assert status.resources["slot"].capacity == 7


def test_sigterm_ends_the_daemon_and_its_socket(served):
    served.daemon.terminate()
    assert served.daemon.wait() == 0
    assert not Path(served.socket).exists()
