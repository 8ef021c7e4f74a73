"""The units under a real systemd, with a daemon that does what systemd.py is for."""

from __future__ import annotations

import re
import signal

import pytest

pytestmark = [pytest.mark.real, pytest.mark.root, pytest.mark.slow]

SERVICE = "holdingpen.service"


class TestStart:
    def test_the_first_client_starts_the_daemon(self, pen):
        assert pen.show("ActiveState") == "inactive"
        assert pen.connect().ask()[:2] == ["c1", "0"]
        assert pen.show("ActiveState") == "active"

    def test_the_socket_is_the_group_s(self, pen):
        found = pen.machine.run("stat", "-c", "%A %U %G", "/run/holdingpen.socket")
        assert found.split() == ["srw-rw----", "root", "holdingpen"]

    def test_start_returns_when_it_is_ready(self, pen):
        pen.systemctl("start", SERVICE)
        assert pen.show("StatusText") == "daemon 0, 0 clients"

    def test_the_service_brings_its_socket(self, pen):
        pen.systemctl("stop", "holdingpen.socket")
        assert pen.show("ActiveState") == "inactive"
        pen.systemctl("start", SERVICE)
        assert pen.connect().ask()[1] == "0"

    def test_it_is_in_its_slice(self, pen):
        pen.systemctl("start", SERVICE)
        assert pen.show("ControlGroup") == f"/holdingpen.slice/{SERVICE}"

    def test_it_has_mounts_of_its_own_and_gets_the_machine_s(self, pen):
        pid = pen.connect().ask()[2]
        spaces = ["readlink", f"/proc/{pid}/ns/mnt", "/proc/1/ns/mnt"]
        assert len(set(pen.machine.run(*spaces).split())) == 2
        pen.machine.run("mkdir", "/run/late")
        pen.machine.run("mount", "-t", "tmpfs", "late", "/run/late")
        seen = pen.machine.run("cat", f"/proc/{pid}/mountinfo")
        pen.machine.run("umount", "/run/late")
        assert " /run/late " in seen
        assert " /run/late " not in pen.machine.run("cat", f"/proc/{pid}/mountinfo")

    def test_helpers_are_not_told_what_is_for_it(self, pen):
        """FDSTORE is gone from its environment; the others go the same way."""
        assert pen.connect().ask()[3] == "None"


class TestReload:
    def test_systemd_knows_of_it(self, pen, until):
        pid = pen.connect().ask()[2]
        pen.systemctl("reload", SERVICE)
        until(lambda: "read again" in pen.show("StatusText"), "reloaded")
        assert pen.connect().ask()[2] == pid


class TestSeen:
    def test_systemctl_status_has_its_line(self, pen):
        pen.connect().ask()
        pen.systemctl("reload", SERVICE)
        assert "daemon 0, 1 clients, read again" in pen.machine.run(
            "systemctl", "status", SERVICE
        )

    def test_the_journal_has_its_words_with_their_priorities(self, pen, until):
        pid = pen.connect().ask()[2]
        of_it = [f"_PID={pid}", "SYSLOG_IDENTIFIER=holdingpen"]

        def said(priority):
            return pen.machine.journal("-p", priority, *of_it).splitlines()

        until(lambda: "for information" in said("info..info"), "said")
        assert said("err..err") == ["an error", "of two lines"]
        assert said("warning..warning") == ["a warning"]


class TestKept:
    def test_a_killed_daemon_s_clients_see_a_pause(self, pen):
        clients = [pen.connect() for _ in range(20)]
        before = [x.ask() for x in clients]
        pen.kill()
        after = [x.ask() for x in clients]
        assert [x[0] for x in before] == [x[0] for x in after]
        assert {x[1] for x in after} == {"1"}
        assert pen.show("NRestarts") == "1"
        assert pen.kept() == 21

    def test_no_race_between_an_answer_and_a_kill(self, pen):
        """Connect, be answered, and the daemon is dead at once.

        More often than service and socket may start by default: 5 times in 10 s.
        """
        clients = []
        for round_ in range(8):
            clients.append(pen.connect())
            assert clients[-1].ask()[:2] == [f"c{round_ + 1}", str(round_)]
            pen.kill()
        for number, client in enumerate(clients, 1):
            assert client.ask()[:2] == [f"c{number}", "8"]

    @pytest.mark.parametrize(
        "words",
        [
            ("restart", SERVICE),
            ("restart", SERVICE, "holdingpen.socket"),
            ("restart", "holdingpen.socket"),
            ("daemon-reexec",),
        ],
        ids=" ".join,
    )
    def test_what_an_upgrade_does(self, pen, words):
        client = pen.connect()
        client.ask()
        pen.systemctl(*words)
        pen.systemctl("try-restart", SERVICE)
        name, before, *_ = client.ask()
        assert (name, int(before) >= 1) == ("c1", True)
        assert pen.connect().ask()[0] == "c2"

    def test_stop_and_start(self, pen):
        if pen.machine.version() < 254:
            pytest.skip("FileDescriptorStorePreserve= came with systemd 254")
        client = pen.connect()
        client.ask()
        pen.systemctl("stop", SERVICE, "holdingpen.socket")
        assert pen.kept() == 2
        pen.systemctl("start", SERVICE)
        assert client.ask()[:2] == ["c1", "1"]

    def test_who_leaves_is_forgotten(self, pen, until):
        client, other = pen.connect(), pen.connect()
        client.ask()
        other.ask()
        assert pen.kept() == 3
        client.socket.shutdown(2)
        until(lambda: pen.kept() == 2, "forgotten")
        assert other.ask()[0] == "c2"

    def test_a_forgotten_connection_reads_its_end(self, pen):
        """Without shutdown(2) systemd's duplicate would keep it open."""
        client = pen.connect()
        client.ask()
        client.socket.shutdown(1)
        assert client.socket.recv(1) == b""

    def test_who_leaves_while_there_is_no_daemon_is_not_handed_back(self, pen, until):
        client, other = pen.connect(), pen.connect()
        client.ask()
        pid = int(other.ask()[2])
        pen.machine.run("kill", "-STOP", str(pid))
        client.socket.close()
        until(lambda: pen.kept() == 2, "systemd threw it out")
        pen.kill()
        assert other.ask()[:2] == ["c2", "1"]
        assert pen.show("StatusText") == "daemon 1, 1 clients"

    def test_a_file_is_kept_once_under_its_first_name(self, pen):
        client = pen.connect()
        client.ask()
        assert client.ask("twice other") == ["kept"]
        assert pen.kept() == 2
        pen.kill()
        assert client.ask()[:2] == ["c1", "1"]


class TestWatchdog:
    @pytest.fixture
    def hasty(self, pen):
        path = f"/run/systemd/system/{SERVICE}.d/hasty.conf"
        pen.machine.write(path, "[Service]\nWatchdogSec=500ms\n")
        pen.systemctl("daemon-reload")
        yield pen
        pen.machine.run("rm", path)
        pen.systemctl("daemon-reload")

    def test_signs_of_life_keep_it_alive(self, hasty, until):
        client = hasty.connect()
        first = client.ask()
        for _ in range(6):
            before = hasty.show("WatchdogTimestampMonotonic")
            heard = lambda: hasty.show("WatchdogTimestampMonotonic") != before  # noqa: E731, B023
            until(heard, "a sign of life")
        assert client.ask() == first

    def test_a_stopped_daemon_is_replaced_and_its_clients_go_on(self, hasty):
        client = hasty.connect()
        pid = client.ask()[2]
        hasty.kill(signal.SIGSTOP.name)
        name, before, new, _ = client.ask()
        assert (name, before) == ("c1", "1")
        assert new != pid

    def test_the_journal_says_where_a_hanging_daemon_was(self, hasty, until):
        client = hasty.connect()
        pid = client.ask()[2]
        client.socket.sendall(b"hang")
        until(lambda: hasty.show("NRestarts") == "1", "replaced")
        said = hasty.machine.journal(f"_PID={pid}")
        assert re.search(r"Fatal Python error: Aborted.*in serve", said, re.DOTALL)
        assert client.ask()[:2] == ["c1", "1"]


class TestUser:
    """systemd --user, and the units for it."""

    @pytest.fixture
    def user(self, booted):
        if booted.try_("id", "ada").returncode:
            booted.run("useradd", "--create-home", "ada")
        uid = booted.run("id", "-u", "ada").strip()
        booted.run("systemctl", "start", f"user@{uid}.service")
        yield lambda *words: booted.run(
            "setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups", "env",
            "HOME=/home/ada", f"XDG_RUNTIME_DIR=/run/user/{uid}", *words,
        )  # fmt: skip
        booted.run("systemctl", "stop", f"user@{uid}.service")

    def test_his_own_pen_comes_when_asked_and_keeps_its_clients(self, booted, user):
        user("systemctl", "--user", "start", "holdingpen.socket")
        uid = user("id", "-u").strip()
        script = (
            "import os, signal, socket, sys\n"
            "client = socket.socket(socket.AF_UNIX)\n"
            f"client.connect('/run/user/{uid}/holdingpen.socket')\n"
            "for _ in range(3):\n"
            "    client.sendall(b'who')\n"
            "    said = client.recv(1000).split()\n"
            "    print(said[0].decode(), said[1].decode())\n"
            "    os.kill(int(said[2]), signal.SIGKILL)\n"
        )
        said = user("python3", "-c", script)
        assert said.splitlines() == ["c1 0", "c1 1", "c1 2"]
