"""The socket: where it appears, for whom it is open, who comes in."""

from __future__ import annotations

import grp
import os
import resource
import socket
import stat
from contextlib import closing
from pathlib import Path

import pytest

from holdingpen.daemon import listener as listener_module
from holdingpen.daemon.listener import (
    SPARE_DESCRIPTORS,
    Taken,
    open_listener,
    peer,
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


def test_the_limit_on_descriptors_is_raised_as_far_as_allowed():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        fit = raise_descriptor_limit()
        assert (before[1], before[1]) == resource.getrlimit(resource.RLIMIT_NOFILE)
        assert min(before[1], 2**20) - SPARE_DESCRIPTORS == fit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
