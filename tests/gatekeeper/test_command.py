"""Where CMD is, and what it finds around itself."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from gatekeeper.command import find, paths
from holdingpen.errors import LocalMistake


def _file(path: Path, mode: int = 0o755, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def search(monkeypatch):
    """Set PATH as we were started with it."""

    def search(value: str | None) -> None:
        environ = {} if value is None else {b"PATH": value.encode()}
        monkeypatch.setattr("gatekeeper.command.posix.environ", environ)

    return search


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("/a:/b", "x", ["/a/x", "/b/x"]),
        ("/a::/b", "x", ["/a/x", "x", "/b/x"]),
        ("", "x", ["x"]),
        ("/a", "./x", ["./x"]),
        ("/a", "", []),
        (None, "x", ["/bin/x", "/usr/bin/x"]),
    ],
)
def test_the_places_are_those_of_execvp(search, path, name, expected):
    search(path)
    assert expected == paths(name)


def test_what_can_be_executed_is_found(search, tmp_path: Path):
    search(f"/none:{tmp_path}")
    _file(tmp_path / "tool")
    find("tool")


def test_an_empty_element_of_path_is_the_current_directory(
    search, tmp_path: Path, monkeypatch
):
    search("/none:")
    monkeypatch.chdir(tmp_path)
    _file(tmp_path / "tool")
    find("tool")


def test_a_file_that_may_not_be_executed_hides_nothing_behind_it(
    search, tmp_path: Path
):
    search(f"{tmp_path}/a:{tmp_path}/b")
    _file(tmp_path / "a" / "tool", 0o644)
    _file(tmp_path / "b" / "tool")
    find("tool")


def test_a_directory_of_that_name_hides_nothing_behind_it(search, tmp_path: Path):
    search(f"{tmp_path}/a:{tmp_path}/b")
    (tmp_path / "a" / "tool").mkdir(parents=True)
    _file(tmp_path / "b" / "tool")
    find("tool")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("tool", "/none"),
        ("tool", "DIR/plain"),
        ("tool", None),
        ("DIR/none", "/none"),
        ("DIR/plain", "/none"),
        ("DIR/dir", "/none"),
        ("DIR/plain/x", "/none"),
        ("DIR/loop", "/none"),
        ("plain", "DIR"),
        ("dir", "DIR"),
        ("", "DIR"),
        ("x" * 300, "DIR"),
    ],
)
def test_statuses_are_those_of_env(search, tmp_path: Path, name, path):
    """Held against env(1) itself, 126 or 127."""
    _file(tmp_path / "plain", 0o644)
    (tmp_path / "dir").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    name = name.replace("DIR", str(tmp_path))
    path = path and path.replace("DIR", str(tmp_path))
    search(path)
    surroundings = {} if path is None else {"PATH": path}
    words = ["/usr/bin/env", "--", name]
    env = subprocess.run(words, env=surroundings, capture_output=True, check=False)
    with pytest.raises(LocalMistake) as caught:
        find(name)
    assert env.returncode == caught.value.exit_status
    assert repr(name) in str(caught.value)


def test_looking_asks_nobody_for_anything(daemon, start):
    ended = start("no-such-tool").end()
    assert ended.status == 127
    assert ended.err == (
        "gatekeeper: 'no-such-tool' was not found in PATH; nothing was started.\n"
    )
    assert daemon.unvisited()


def test_a_script_without_a_first_line_is_run_by_sh(daemon, start, tmp_path: Path):
    script = _file(tmp_path / "script", text='echo "$0" "$1" "$2"\n')
    program = start(str(script), "a b", "c")
    daemon.grants()
    assert program.end().out == f"{script} a b c\n"


def test_a_script_whose_interpreter_is_missing_is_not_found(
    daemon, start, tmp_path: Path
):
    script = _file(tmp_path / "script", text="#!/no/such/interpreter\n")
    program = start(str(script))
    client = daemon.grants()
    assert program.end().status == 127
    assert client.left()


def test_arguments_pass_byte_for_byte(daemon, start):
    odd = bytes(range(1, 256))
    program = start("printf", "%s", odd)
    daemon.grants()
    out, _ = program.process.communicate()
    assert odd == out


def _environment(daemon, start, surroundings) -> list[bytes]:
    surroundings["HOLDINGPEN_SOCKET"] = daemon.path
    program = start("cat", "/proc/self/environ", env=surroundings)
    daemon.grants()
    out, _ = program.process.communicate()
    return out.split(b"\0")[:-1]


def test_the_environment_gains_the_lease_and_nothing_else(daemon, start):
    before = {"PATH": "/bin:/usr/bin", "ODD": b"\xff\x01", "LC_ALL": "C.UTF-8"}
    found = _environment(daemon, start, before)
    assert found[:3] == [b"PATH=/bin:/usr/bin", b"ODD=\xff\x01", b"LC_ALL=C.UTF-8"]
    assert found[4] == b"HOLDINGPEN_LEASE=17"
    assert found[5] == b"HOLDINGPEN_HANDOVER=none"
    assert found[6].startswith(b"HOLDINGPEN_FD=")
    assert len(found) == 7


@pytest.mark.parametrize(
    "given",
    [{}, {"LC_CTYPE": "C"}, {"LC_CTYPE": "C.UTF-8"}, {"LANG": "C"}],
)
def test_what_python_does_to_the_locale_is_undone(daemon, start, given):
    found = _environment(daemon, start, {"PATH": "/bin:/usr/bin", **given})
    kept = [word for word in found if word.startswith((b"LC_CTYPE", b"LANG"))]
    assert kept == [f"{name}={value}".encode() for name, value in given.items()]


def test_a_lease_inside_a_lease_has_its_own(daemon, start, surroundings):
    outer = {"HOLDINGPEN_LEASE": "3", "HOLDINGPEN_FD": "11", **surroundings}
    found = _environment(daemon, start, outer)
    assert b"HOLDINGPEN_LEASE=17" in found
    assert b"HOLDINGPEN_LEASE=3" not in found


def test_the_descriptor_named_is_the_connection(daemon, start):
    program = start("sh", "-c", "stat -Lc %f /proc/self/fd/$HOLDINGPEN_FD; read x")
    client = daemon.grants()
    assert stat.S_ISSOCK(int(program.line(), 16))
    assert client.silent()
    program.process.communicate(b"\n")
    assert client.left()


def test_the_command_is_the_same_process(daemon, start):
    program = start("sh", "-c", "echo $$")
    daemon.grants()
    assert program.end().out == f"{program.process.pid}\n"


def _signals(program) -> dict[str, int]:
    out = program.end().out
    fields = dict(line.split(":\t") for line in out.splitlines())
    return {name: int(mask, 16) for name, mask in fields.items()}


@pytest.mark.parametrize("mode", [[], ["--stay"]])
def test_no_signal_is_ignored_or_blocked_that_was_not_before(daemon, start, mode):
    program = start(*mode, "grep", "^Sig[BI]", "/proc/self/status")
    daemon.grants()
    assert _signals(program) == {"SigBlk": 0, "SigIgn": 0}


@pytest.mark.parametrize("mode", [[], ["--stay"]])
def test_an_ignored_signal_stays_ignored(daemon, start, mode):
    """nohup(1) around gatekeeper."""
    words = ["grep", "^SigIgn", "/proc/self/status"]
    import signal

    def ignore() -> None:
        for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGCHLD):
            signal.signal(signum, signal.SIG_IGN)

    program = start(*mode, *words, preexec_fn=ignore)
    daemon.grants()
    assert _signals(program) == {"SigIgn": 1 << 0 | 1 << 1 | 1 << 16}


def test_a_closed_stderr_is_not_mistaken_for_the_connection(daemon, start):
    program = start("true", stderr=None, preexec_fn=lambda: os.close(2))
    client = daemon.grants()
    assert program.end().status == 0
    assert client.left()
