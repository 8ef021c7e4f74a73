"""The command line of the daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdingpen import __version__
from holdingpen.daemon.options import Options, parse, socket_path, state_path


def test_without_options_it_is_the_daemon_of_the_machine():
    options, task = parse([])
    defaults = Options(Path("/etc/holdingpen.toml"), None, None, False, None, False)
    assert (defaults, "serve") == (options, task)


def test_all_options(tmp_path):
    config = tmp_path / "holdingpen.toml"
    config.touch()
    words = f"--config {config} --socket /s --state /t --user --exit-idle 1h -v"
    expected = Options(config, "/s", "/t", True, 3600.0, True)
    assert (expected, "serve") == parse(words.split())
    assert (expected, "check") == parse([*words.split(), "--check-config"])
    assert (expected, "give back") == parse([*words.split(), "--give-back"])


def test_a_private_pen_has_its_own_configuration(monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/ada/.config")
    options, _ = parse(["--user"])
    assert Path("/home/ada/.config/holdingpen.toml") == options.config


@pytest.mark.parametrize(
    "words", [["--exit-idle", "60"], ["--exit-idle", "never"], ["--what"], ["x"]]
)
def test_wrong_usage_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        parse(words)
    assert end.value.code == 2
    assert words[-1] in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        parse(["--version"])
    assert end.value.code == 0
    assert f"holdingpen {__version__}\n" == capsys.readouterr().out


def test_a_configuration_that_was_named_must_be_there(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        parse(["--config", str(tmp_path / "none.toml")])
    assert end.value.code == 2
    assert "no file" in capsys.readouterr().err


def test_the_machines_daemon_has_the_systems_places():
    options, _ = parse([])
    assert socket_path(options) == "/run/holdingpen.socket"
    assert state_path(options) == "/var/lib/holdingpen"


def test_private_pens_at_different_sockets_have_different_journals(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/home/ada/.local/state")
    states = {
        state_path(parse(words.split())[0])
        for words in ("--user", "--user --socket /a/b", "--user --socket /a/c")
    }
    assert len(states) == 3
    assert all(x.startswith("/home/ada/.local/state/holdingpen") for x in states)
