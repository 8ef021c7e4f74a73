"""Where sockets, state and configuration lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdingpen import places
from holdingpen.errors import Unavailable

_UID = os.geteuid()


@pytest.fixture(autouse=True)
def _bare(monkeypatch):
    for name in (
        "HOLDINGPEN_SOCKET",
        "XDG_RUNTIME_DIR",
        "XDG_STATE_HOME",
        "XDG_CONFIG_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ada")


@pytest.fixture
def shared(monkeypatch, tmp_path: Path) -> Path:
    """No session: lstat of /run/user and /tmp is answered from `tmp_path`."""
    real = os.lstat
    moved = {
        f"/run/user/{_UID}": tmp_path / "run",
        f"/tmp/holdingpen-{_UID}": tmp_path / "shared",
    }
    monkeypatch.setattr(
        "holdingpen.places.posix.lstat", lambda path: real(moved.get(path, path))
    )
    return tmp_path / "shared"


def test_a_session_s_runtime_directory_has_the_user_s_socket(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7/")
    assert places.user_socket() == "/run/user/7/holdingpen.socket"


def test_without_the_variable_the_directory_is_taken_when_it_is_ours(shared: Path):
    (shared.parent / "run").mkdir()
    assert places.user_socket() == f"/run/user/{_UID}/holdingpen.socket"


@pytest.mark.usefixtures("shared")
def test_without_a_session_it_is_a_directory_of_our_own_in_tmp():
    assert places.user_socket() == f"/tmp/holdingpen-{_UID}/holdingpen.socket"


def test_a_relative_runtime_directory_is_ignored(monkeypatch, shared: Path):
    shared.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "here")
    assert places.user_socket() == f"/tmp/holdingpen-{_UID}/holdingpen.socket"


def test_a_directory_open_to_others_is_not_trusted(shared: Path):
    shared.mkdir()
    shared.chmod(0o701)
    with pytest.raises(Unavailable, match="is not trusted.* mode 0700"):
        places.user_socket()


def test_a_link_is_not_trusted(shared: Path):
    shared.symlink_to(shared.parent)
    with pytest.raises(Unavailable, match="is not trusted"):
        places.user_socket()


@pytest.mark.root
@pytest.mark.skipif(_UID != 0, reason="only root can give a directory away")
def test_a_stranger_s_directory_is_not_trusted_and_he_is_named(shared: Path):
    shared.mkdir(mode=0o700)
    os.chown(shared, 4711, -1)
    with pytest.raises(Unavailable, match="belongs to uid 4711"):
        places.user_socket()


def test_a_stranger_s_directory_keeps_nobody_from_the_system_s_daemon(
    shared: Path, monkeypatch
):
    shared.symlink_to(shared.parent)
    with pytest.raises(Unavailable):
        places.candidates()
    monkeypatch.setattr("holdingpen.places.system_socket", lambda: str(shared))
    assert places.candidates() == [str(shared)]


def test_the_directory_is_made_for_us_alone(monkeypatch, tmp_path: Path):
    made = []
    monkeypatch.setattr(
        "holdingpen.places.user_socket", lambda: f"/tmp/holdingpen-{_UID}/x"
    )
    monkeypatch.setattr("holdingpen.places.posix.mkdir", lambda *how: made.append(how))
    places.make_user_directory()
    assert made == [(f"/tmp/holdingpen-{_UID}", 0o700)]


def test_a_session_s_directory_is_not_made(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "session"))
    places.make_user_directory()
    assert not (tmp_path / "session").exists()


def test_the_system_s_daemon_comes_before_the_user_s(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/r")
    expected = ["/run/holdingpen.socket", "/r/holdingpen.socket"]
    assert expected == places.candidates()


def test_a_named_socket_is_the_only_one(monkeypatch):
    monkeypatch.setenv("HOLDINGPEN_SOCKET", "/a")
    assert places.candidates() == ["/a"]
    assert places.candidates("/b") == ["/b"]


def test_an_empty_variable_names_nothing(monkeypatch):
    monkeypatch.setenv("HOLDINGPEN_SOCKET", "")
    assert places.named_socket(None) is None


def test_state_and_configuration_follow_the_base_directories(monkeypatch):
    assert places.user_state() == "/home/ada/.local/state/holdingpen"
    assert places.user_config() == "/home/ada/.config/holdingpen.toml"
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c")
    assert places.user_state() == "/s/holdingpen"
    assert places.user_config() == "/c/holdingpen.toml"


def test_without_home_it_is_what_the_system_says(monkeypatch):
    monkeypatch.delenv("HOME")
    assert places.user_state().endswith("/.local/state/holdingpen")


def test_a_user_without_any_home_is_told(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("holdingpen.places.posix.geteuid", lambda: 4711 * 10**5)
    with pytest.raises(Unavailable, match="set HOME"):
        places.user_state()
