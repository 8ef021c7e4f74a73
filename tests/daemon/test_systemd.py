"""What systemd says in the environment, and what it is told; sd_notify(3)."""

from __future__ import annotations

import array
import os
import socket
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from holdingpen.daemon import systemd as module
from holdingpen.daemon.systemd import (
    ERROR,
    NAME_BYTES_MAX,
    Systemd,
    line,
    to_journal,
)
from holdingpen.errors import LocalMistake, Unavailable


@pytest.fixture
def path(tmp_path):
    return tmp_path / "notify"


@pytest.fixture
def there(path):
    """The datagram socket of whoever started us."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(str(path))
        there.settimeout(5)
        yield there


@pytest.fixture
def make(path):
    """Makes a Systemd of an environment; closed afterwards."""
    made = []

    def make(**environ):
        made.append(Systemd({"NOTIFY_SOCKET": str(path), **environ}))
        return made[-1]

    yield make
    for systemd in made:
        systemd.close()


def hear(there):
    """One message, and the descriptors that came with it."""
    words, rights, *_ = there.recvmsg(1000, 1000)
    fds = array.array("i")
    for _, _, data in rights:
        fds.frombytes(data)
    return words.decode(), list(fds)


def stat(fd):
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def open_here():
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.fixture
def handed(monkeypatch):
    """Hands descriptors over: `handed(3, ...)` says which number is the first.

    systemd's are 3 and so on; pytest has those in use.
    """
    fds = []

    def handed(names, *made):
        first = 700
        for number, fd in enumerate(made, first):
            os.dup2(fd, number)
            os.close(fd)
            fds.append(number)
        monkeypatch.setattr(module, "FIRST_FD", first)
        return {
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDS": str(len(made)),
            "LISTEN_FDNAMES": names,
        }

    yield handed
    for fd in fds:
        with suppress(OSError):
            os.close(fd)


@pytest.fixture
def listening(tmp_path):
    def listening(name="pen"):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(tmp_path / name))
            made.listen()
            return made.detach()

    return listening


class TestSaid:
    def test_ready_comes_with_a_line_for_systemctl_status(self, there, make):
        make().ready("serving /run/x")
        assert hear(there) == ("READY=1\nSTATUS=serving /run/x", [])

    def test_reloading_comes_with_the_moment_it_began(self, there, make):
        """systemd refuses RELOADING=1 of Type=notify-reload without it."""
        make().reloading()
        word, moment = hear(there)[0].split("\n")
        assert word == "RELOADING=1"
        assert int(moment.removeprefix("MONOTONIC_USEC=")) > 0

    def test_stopping_and_another_status(self, there, make):
        systemd = make()
        systemd.status("17 leases")
        systemd.stopping()
        assert hear(there) == ("STATUS=17 leases", [])
        assert hear(there) == ("STOPPING=1", [])

    def test_an_abstract_address(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
            there.bind(f"\0holdingpen-{os.getpid()}")
            there.settimeout(5)
            systemd = Systemd({"NOTIFY_SOCKET": f"@holdingpen-{os.getpid()}"})
            with closing(systemd):
                systemd.ready("x")
            assert hear(there) == ("READY=1\nSTATUS=x", [])

    def test_outside_systemd_nothing_is_said_and_nothing_kept(self):
        with closing(Systemd({"FDSTORE": "100"})) as systemd:
            systemd.ready("serving /run/x")
            systemd.stopping()
            systemd.alive()
            systemd.keep("c1", 0)
            systemd.forget("c1")
            assert systemd.barrier()
            assert (systemd.can_keep, systemd.watchdog_s) == (False, None)
            assert (systemd.listening(), systemd.stored()) == (None, {})

    def test_whoever_started_us_may_be_gone(self, there, make):
        systemd = make(FDSTORE="9")
        there.close()
        systemd.ready("serving /run/x")
        with pytest.raises(Unavailable, match="FDSTORE=1 FDNAME=c1.*refused"):
            systemd.keep("c1", 0)


class TestWatchdog:
    @pytest.mark.parametrize(
        ("environ", "seconds"),
        [
            ({}, None),
            ({"WATCHDOG_USEC": "30000000"}, 30.0),
            ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
            ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
            ({"WATCHDOG_USEC": "0"}, None),
        ],
    )
    def test_who_waits_for_signs_of_life(self, make, environ, seconds):
        assert make(**environ).watchdog_s == seconds

    def test_a_sign_of_life_is_for_who_waits_for_it(self, there, make):
        make().alive()
        make(WATCHDOG_USEC="1000000").alive()
        assert hear(there) == ("WATCHDOG=1", [])
        there.setblocking(False)
        with pytest.raises(BlockingIOError):
            there.recv(1000)


class TestKept:
    def test_a_descriptor_goes_with_its_name(self, there, make):
        fd = os.memfd_create("ballast")
        make(FDSTORE="9").keep("ballast-0", fd)
        words, fds = hear(there)
        assert words == "FDSTORE=1\nFDNAME=ballast-0"
        assert [stat(fd)] == [stat(x) for x in fds]
        for each in (fd, *fds):
            os.close(each)

    def test_a_pipe_is_kept_until_it_is_forgotten(self, make, there):
        """Its other end says how it ended, and must be heard."""
        make(FDSTORE="9").keep("g1said", there.fileno(), poll=False)
        words, (got,) = hear(there)
        os.close(got)
        assert words == "FDSTORE=1\nFDNAME=g1said\nFDPOLL=0"

    def test_more_than_it_takes_is_said_until_it_is_less(self, make, there):
        systemd = make(FDSTORE="2")
        for name in ("a", "b", "b", "c"):
            systemd.keep(name, there.fileno())
        assert "3 descriptors" in systemd.trouble
        assert "FileDescriptorStoreMax=" in systemd.trouble
        systemd.forget("b")
        assert systemd.trouble == ""

    def test_a_name_is_forgotten(self, there, make):
        make(FDSTORE="9").forget("c17")
        assert hear(there) == ("FDSTOREREMOVE=1\nFDNAME=c17", [])

    def test_without_a_store_nothing_is_sent(self, there, make):
        systemd = make()
        systemd.keep("c1", 0)
        systemd.forget("c1")
        systemd.ready("x")
        assert hear(there)[0].startswith("READY=1")

    @pytest.mark.parametrize("name", ["", "a b", "a:b", "a\n", "\u00e9", "x" * 31])
    def test_names_that_systemd_or_the_environment_cannot_take(self, make, name):
        with pytest.raises(LocalMistake, match="cannot be the name"):
            make(FDSTORE="9").keep(name, 0)

    def test_all_names_of_a_full_store_go_into_one_variable(self):
        """MAX_ARG_STRLEN of execve(2) counts the variable's name and the zero byte."""
        names = ":".join(["x" * NAME_BYTES_MAX] * 7680)
        assert len(f"LISTEN_FDNAMES={names}\0") <= 32 * 4096

    def test_a_barrier_is_through_when_its_other_end_is_closed(self, there, make):
        reader = make().begin_barrier()
        words, fds = hear(there)
        assert (words, len(fds)) == ("BARRIER=1", 1)
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        os.close(fds[0])
        assert os.read(reader, 1) == b""
        os.close(reader)

    def test_a_barrier_that_comes_through(self, there, make):
        def work_off():
            for fd in hear(there)[1]:
                os.close(fd)

        worker = threading.Thread(target=work_off)
        worker.start()
        assert make().barrier()
        worker.join()

    def test_a_barrier_that_does_not(self, there, make):
        assert not make().barrier(timeout_s=0.001)

    def test_a_barrier_for_nobody_leaves_no_descriptor(self, make):
        systemd, before = make(), open_here()
        with pytest.raises(Unavailable, match="BARRIER=1"):
            systemd.barrier()
        assert open_here() == before


class TestFull:
    """systemd does not read: its socket takes no more."""

    @pytest.fixture
    def full(self, there, make, monkeypatch):
        monkeypatch.setattr(module, "SEND_TIMEOUT_S", 0.01)
        systemd = make(FDSTORE="9", WATCHDOG_USEC="1000000")
        with suppress(BlockingIOError), closing(socket.socket(1, 2)) as other:
            other.setblocking(False)
            while True:
                other.sendto(b"X=1", str(systemd._address))
        return systemd

    def test_a_promise_is_not_made(self, full):
        with pytest.raises(Unavailable, match="cannot tell systemd 'FDSTORE=1"):
            full.keep("c1", 0)
        with pytest.raises(Unavailable, match="Is systemd stopped"):
            full.forget("c1")
        with pytest.raises(Unavailable, match="BARRIER=1"):
            full.barrier()

    def test_what_informs_is_left_out(self, full, there):
        full.ready("x")
        full.alive()
        heard = []
        there.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                heard.append(there.recv(1000))
        assert set(heard) == {b"X=1"}

    def test_it_goes_when_there_is_room_again(self, full, there, monkeypatch):
        there.recv(1000)
        full.keep("c1", 0)


class TestHandedOver:
    def test_the_listening_socket_and_what_was_kept(self, make, handed, listening):
        client, other = socket.socketpair()
        memfd = os.memfd_create("ballast")
        expected = stat(memfd)
        environ = handed("c1:pen:ballast-0", client.detach(), listening(), memfd)
        systemd = make(**environ)
        stored, listener = systemd.stored(), systemd.listening()
        assert listener is not None
        with listener, other:
            assert listener.getsockname().endswith("/pen")
            assert not listener.getblocking()
            assert list(stored) == ["c1", "ballast-0"]
            assert expected == stat(stored["ballast-0"])
            assert not any(os.get_inheritable(fd) for fd in stored.values())
            assert not listener.get_inheritable()
        for fd in stored.values():
            os.close(fd)

    def test_they_are_had_once(self, make, handed, listening):
        systemd = make(**handed("pen:x", listening(), os.memfd_create("x")))
        systemd.listening().close()
        os.close(systemd.stored()["x"])
        assert (systemd.listening(), systemd.stored()) == (None, {})

    def test_nobody_is_told_twice(self, make, handed, listening):
        """A helper must not think that all this is for it."""
        environ = handed("pen", listening())
        environ |= {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "FDSTORE": "9"}
        environ |= {"NOTIFY_SOCKET": "/run/x", "LISTEN_PIDFDID": "1", "HOME": "/"}
        with closing(Systemd(environ)):
            assert environ == {"HOME": "/"}

    def test_what_is_for_another_process_is_not_touched(self, make):
        systemd = make(LISTEN_PID="1", LISTEN_FDS="3", LISTEN_FDNAMES="a")
        assert (systemd.listening(), systemd.stored()) == (None, {})

    def test_a_connected_socket_is_no_listener_whatever_its_name(self, make, handed):
        one, other = socket.socketpair()
        with other:
            systemd = make(**handed("pen", one.detach()))
            assert systemd.listening() is None
            os.close(systemd.stored()["pen"])

    def test_without_names(self, make, handed, listening):
        environ = handed("", listening())
        with make(**environ).listening() as listener:
            assert listener.getsockname().endswith("/pen")

    def test_the_second_of_a_name_is_closed_and_said(self, make, handed):
        environ = handed("x:x", os.memfd_create("x"), os.memfd_create("x"))
        systemd = make(**environ)
        assert systemd.notes == ["two kept descriptors are called x: closed one"]
        stored = systemd.stored()
        assert list(stored) == ["x"]
        # select(2) takes none above 1023, and there may be thousands of these
        assert stored["x"] >= 1024
        for fd in (700, 701):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        os.close(stored["x"])

    def test_what_nobody_asked_for_is_closed(self, make, handed, listening):
        make(**handed("pen:x", listening(), os.memfd_create("x"))).close()
        for fd in (700, 701):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)

    def test_one_socket_is_served(self, make, handed, listening):
        environ = handed("pen:pan", listening("pen"), listening("pan"))
        with pytest.raises(LocalMistake, match=r"two listening .* 700 and 701 \(pan\)"):
            make(**environ)


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"NOTIFY_SOCKET": "vsock:2:1"}, "NOTIFY_SOCKET is 'vsock:2:1'; expected"),
        ({"NOTIFY_SOCKET": "@"}, "NOTIFY_SOCKET is '@'; expected"),
        ({"NOTIFY_SOCKET": "/" + "x" * 107}, "has 108 bytes"),
        ({"WATCHDOG_USEC": "soon"}, "WATCHDOG_USEC is 'soon'; expected a whole"),
        ({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "-1"}, "WATCHDOG_PID is '-1'"),
        ({"FDSTORE": "9" * 5000}, "FDSTORE is '999"),
        ({"LISTEN_PID": "x", "LISTEN_FDS": "1"}, "LISTEN_PID is 'x'"),
        ({"LISTEN_PID": "us", "LISTEN_FDS": "\u0662"}, "LISTEN_FDS is '\u0662'"),
        ({"LISTEN_PID": "us", "LISTEN_FDS": "1000000"}, "number .* cannot be used"),
        (
            {"LISTEN_PID": "us", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"},
            "1 descriptors and LISTEN_FDNAMES has 2 names",
        ),
    ],
)
def test_an_environment_that_is_not_systemd_s(environ, why, monkeypatch):
    # nothing of this process is to be touched
    monkeypatch.setattr(module, "FIRST_FD", 60_000)
    if environ.get("LISTEN_PID") == "us":
        environ = {**environ, "LISTEN_PID": str(os.getpid())}
    with pytest.raises(LocalMistake, match=why):
        Systemd(environ)


def test_the_journal_gets_a_priority_for_each_line():
    assert line("one\ntwo", ERROR, journal=True) == "<3>one\n<3>two"


def test_everybody_else_gets_a_name_for_each_line():
    assert line("one\ntwo", ERROR, journal=False) == "holdingpen: one\nholdingpen: two"


@pytest.mark.parametrize(
    ("stream", "goes"),
    [("{0}:{1}", True), ("{0}:1", False), ("", False), (None, False)],
)
def test_whether_it_goes_to_the_journal(stream, goes):
    """A child may have its standard error redirected, and still the variable."""
    reader, writer = os.pipe()
    environ = {} if stream is None else {"JOURNAL_STREAM": stream.format(*stat(writer))}
    assert to_journal(environ, writer) is goes
    os.close(reader)
    os.close(writer)
