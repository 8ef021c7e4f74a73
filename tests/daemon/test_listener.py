"""The socket: where it appears, for whom it is open, who comes in."""

from __future__ import annotations

import grp
import os
import pwd
import resource
import socket
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from holdingpen.daemon import listener as listener_module
from holdingpen.daemon.listener import (
    GROUPS_FIRST,
    SPARE_DESCRIPTORS,
    Taken,
    groups_of,
    open_listener,
    peer,
    peer_groups,
    raise_descriptor_limit,
)
from holdingpen.errors import BadSettings, LocalMistake, Unavailable

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give it away")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def mode_of(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def left_behind(path):
    """The socket of a daemon that was killed."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    return path


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_the_mode_asked_for(path, mode):
    with closing(open_listener(path, mode, None)):
        assert mode == mode_of(path)


@pytest.mark.root
@ROOT_ONLY
def test_the_socket_belongs_to_the_group_asked_for(path):
    group = next(x for x in grp.getgrall() if x.gr_gid != os.getegid())
    with closing(open_listener(path, 0o660, group.gr_name)):
        assert group.gr_gid == path.stat().st_gid


def test_until_its_group_is_set_the_socket_lets_nobody_in(path, monkeypatch):
    """It was world-writable for an instant, and somebody else was first."""
    modes = []
    monkeypatch.setattr(
        listener_module.os, "chown", lambda *_: modes.append(mode_of(path))
    )
    group = grp.getgrgid(os.getegid()).gr_name
    with closing(open_listener(path, 0o666, group)):
        assert modes == [0]
        assert mode_of(path) == 0o666


def test_the_umask_is_as_before(path):
    before = os.umask(0o027)
    try:
        with closing(open_listener(path, 0o600, None)):
            assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_a_socket_left_behind_is_replaced(left_behind):
    with (
        closing(open_listener(left_behind, 0o600, None)),
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(str(left_behind))


def test_a_daemon_that_answers_is_left_alone(path):
    with closing(open_listener(path, 0o600, None)) as first:
        with pytest.raises(Taken) as refused:
            open_listener(path, 0o600, None)
        assert refused.value.exit_status == 75
        assert str(path) in str(refused.value)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            first.setblocking(True)
            # the second daemon's question, and then the client
            first.accept()[0].close()
            first.accept()[0].close()


def test_a_file_in_the_way_is_not_removed(path):
    path.write_text("precious")
    with pytest.raises(Unavailable, match="in the way and no socket"):
        open_listener(path, 0o600, None)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("where", ["missing/s", "file/s"])
def test_a_directory_that_is_none_is_said(tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"cannot bind .* directory") as refused:
        open_listener(tmp_path / where, 0o600, None)
    assert not isinstance(refused.value, Taken)


def test_a_path_too_long_for_a_socket_is_said(tmp_path):
    with pytest.raises(LocalMistake, match="107 bytes"):
        open_listener(tmp_path / ("x" * 108), 0o600, None)


def test_an_unknown_group_is_said(path):
    with pytest.raises(BadSettings, match="there is no group 'nobody-knows'"):
        open_listener(path, 0o600, "nobody-knows")
    assert not path.exists()


def test_a_group_that_may_not_be_given_is_said(path, monkeypatch):
    def chown(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(listener_module.os, "chown", chown)
    group = grp.getgrgid(os.getegid()).gr_name
    with pytest.raises(Unavailable, match=r"Operation not permitted.*\[daemon\]"):
        open_listener(path, 0o660, group)


def test_after_a_failure_no_descriptor_is_left(path):
    before = descriptors()
    with pytest.raises(BadSettings):
        open_listener(path, 0o600, "nobody-knows")
    assert descriptors() == before


def test_who_is_at_the_other_end_is_what_the_kernel_says():
    one, other = socket.socketpair()
    with one, other:
        who = peer(one)
    assert (os.geteuid(), os.getegid(), os.getpid()) == (who.uid, who.gid, who.pid)


def test_the_groups_at_the_other_end_are_what_the_kernel_says():
    one, other = socket.socketpair()
    with one, other:
        assert {os.getegid(), *os.getgroups()} == peer_groups(one)


#: Connects, drops its groups, and stays until the other end is closed.
CLIENT = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    os.setgroups([])
    os.setegid(0)
    client.recv(1)
"""


@pytest.mark.real
@pytest.mark.root
@ROOT_ONLY
@pytest.mark.parametrize(
    "count", [0, 1, GROUPS_FIRST, GROUPS_FIRST + 1, 256, 257, 65_536]
)
def test_the_groups_are_those_the_client_had_when_it_connected(path, count):
    groups = list(range(100_000, 100_000 + count))
    words = [sys.executable, "-I", "-S", "-c", CLIENT, str(path)]
    with closing(open_listener(path, 0o666, None)) as listener:
        listener.settimeout(30)
        with subprocess.Popen(words, group=4711, extra_groups=groups) as child:
            with listener.accept()[0] as client:
                found, who = peer_groups(client), peer(client)
            assert child.wait() == 0
    assert found == {4711, *groups}
    assert (who.gid, who.pid) == (4711, child.pid)


def test_where_the_kernel_knows_no_such_option_the_own_group_is_told(monkeypatch):
    monkeypatch.setattr(listener_module, "SO_PEERGROUPS", 30_000)
    one, other = socket.socketpair()
    with one, other:
        assert peer_groups(one) == {os.getegid()}


def test_a_socket_without_another_end_tells_no_other_groups():
    with socket.socket(socket.AF_UNIX) as unconnected:
        assert peer_groups(unconnected) == {peer(unconnected).gid}


@pytest.mark.parametrize("name", ["root", "daemon"])
def test_the_groups_of_a_user_are_those_of_the_user_database(name):
    user = pwd.getpwnam(name)
    members = {x.gr_gid for x in grp.getgrall() if name in x.gr_mem}
    assert groups_of(user.pw_uid) == {user.pw_gid, *members}


def test_a_user_nobody_knows_has_no_groups():
    known = {user.pw_uid for user in pwd.getpwall()}
    unknown = next(uid for uid in range(3_000_000, 4_000_000) if uid not in known)
    assert groups_of(unknown) == frozenset()


def test_the_limit_on_descriptors_is_raised_as_far_as_allowed():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        fit = raise_descriptor_limit()
        assert (before[1], before[1]) == resource.getrlimit(resource.RLIMIT_NOFILE)
        assert min(before[1], 2**20) - SPARE_DESCRIPTORS == fit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
