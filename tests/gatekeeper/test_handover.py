"""How surely CMD gets it, where it lies, and what CMD is told of that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gatekeeper.handover import judge, pythonic, sentence, tunables, variables
from gatekeeper.msgpack import encode
from gatekeeper.options import parse
from holdingpen.errors import Refusal, RemoteMistake
from holdingpen.wire import messages as wire

_RAM = {"t": "granted", "id": 1, "lease": 17, "amounts": {"ram": 2**30}}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "lease 17: 1.0 GiB ram"),
        ({"handover": "exact"}, "lease 17: 1.0 GiB ram, exact"),
        (
            {"handover": "bounded", "bound": 8 * 2**20, "why": "no cgroups."},
            "lease 17: 1.0 GiB ram, bounded (8.0 MiB): no cgroups",
        ),
        ({"handover": "bounded"}, "lease 17: 1.0 GiB ram, bounded (0 B)"),
        (
            {"handover": "best-effort", "why": "nothing was held back"},
            "lease 17: 1.0 GiB ram, best-effort: nothing was held back",
        ),
        (
            {"amounts": {"cpu": 2, "disk.a": 2**20}, "places": {"disk.a": "/a/17"}},
            "lease 17: 2 cpu, 1.0 MiB disk.a in /a/17",
        ),
        ({"amounts": {"hugepages": 2**21}}, "lease 17: 2.0 MiB hugepages"),
        ({"amounts": {"machine": 1}}, "lease 17: the whole machine"),
    ],
)
def test_what_was_granted_in_one_line(more, expected):
    assert expected == sentence({**_RAM, **more})


@pytest.mark.parametrize(
    "broken",
    [
        {"amounts": [1]},
        {"amounts": {"ram": "1G"}},
        {"amounts": {1: 1}},
        {"places": {"disk": 1}},
        {"places": "/a"},
        {"handover": 1},
        {"handover": "bounded", "bound": "8M"},
        {"handover": "exact", "why": None},
        {"lease": -1},
    ],
)
def test_a_grant_that_is_none_is_called_broken(broken):
    with pytest.raises(RemoteMistake):
        sentence({**_RAM, **broken})


@pytest.mark.parametrize(
    ("sure", "said"),
    [
        ("bounded", "granted bounded (0 B): because; --exact"),
        ("best-effort", "granted best-effort: because; --exact"),
        ("none", "granted without any promise"),
        ("of-tomorrow", "granted of-tomorrow: because; --exact"),
    ],
)
def test_less_than_exact_is_refused_by_exact(sure, said):
    granted = {**_RAM, "handover": sure, "why": "because"}
    with pytest.raises(Refusal) as caught:
        judge(parse(["--exact", "true"]), granted, False)
    assert said in str(caught.value)
    assert caught.value.exit_status == 75


def _told(capfd, words: str, sure: str, told: bool) -> str:
    judge(parse([*words.split(), "true"]), {**_RAM, "handover": sure}, told)
    return capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "sure", "told", "expected"),
    [
        ("", "bounded", False, ""),
        ("", "exact", True, "gatekeeper: lease 17: 1.0 GiB ram, exact\n"),
        ("", "none", True, ""),
        ("-v", "exact", False, "gatekeeper: lease 17: 1.0 GiB ram, exact\n"),
        ("-v", "none", False, "gatekeeper: lease 17: 1.0 GiB ram\n"),
        ("--exact", "exact", False, ""),
    ],
)
def test_it_is_told_after_a_wait_or_when_asked_for(capfd, words, sure, told, expected):
    assert expected == _told(capfd, words, sure, told)


@pytest.mark.parametrize(
    ("words", "places", "expected"),
    [
        ("--disk 1G", {"disk": "/a"}, {"": "/a"}),
        ("--disk 1G:a", {"disk.a": "/a"}, {"": "/a", "_A": "/a"}),
        # asked for without its name, granted by its name
        ("--disk 1G", {"disk.a": "/a"}, {"": "/a", "_A": "/a"}),
        (
            "--disk 1G:b --disk 1G:a",
            {"disk.a": "/a", "disk.b": "/b"},
            {"": "/b", "_A": "/a", "_B": "/b"},
        ),
        (
            "--disk 1G --disk 1G:b",
            {"disk.b": "/b", "disk.c": "/c"},
            {"": "/c", "_B": "/b", "_C": "/c"},
        ),
        (
            "--disk 1G:b --disk 1G",
            {"disk.a": "/a", "disk.b": "/b"},
            {"": "/b", "_A": "/a", "_B": "/b"},
        ),
        (
            "--disk 1G:a-b_1",
            {"disk.a-b_1": "/\u00e9"},
            {"": "/\u00e9", "_A_B_1": "/\u00e9"},
        ),
        ("--ram 1G", {}, {}),
    ],
)
def test_the_directory_is_found_in_the_environment(words, places, expected):
    granted = {"places": places} if places else {}
    found = variables(parse([*words.split(), "true"]), granted)
    assert found == {
        f"HOLDINGPEN_SCRATCH{name}".encode(): place.encode()
        for name, place in expected.items()
    }


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (b"", b"glibc.malloc.hugetlb=2"),
        (b"glibc.malloc.hugetlb=1", b"glibc.malloc.hugetlb=2"),
        (
            b"glibc.malloc.check=1:glibc.malloc.hugetlb=0:glibc.rtld.nns=8",
            b"glibc.malloc.check=1:glibc.rtld.nns=8:glibc.malloc.hugetlb=2",
        ),
    ],
)
def test_other_tunables_are_kept(before, expected):
    assert expected == tunables(before)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("python3.13", "\x7fELF", True),
        ("tool", "#!/usr/bin/env python3\nx", True),
        ("tool", "#!/bin/sh\n'''exec' /a/bin/python \"$0\"\n", True),
        ("tool", "#!/bin/sh\ntrue\npython x\n", False),
        ("tool", "\x7fELF python", False),
        ("tool", "", False),
    ],
)
def test_a_python_program_is_known_by_its_looks(tmp_path: Path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert expected == pythonic(str(tmp_path / name))


def test_what_cannot_be_read_does_not_look_like_python(tmp_path: Path):
    assert not pythonic(str(tmp_path / "none"))


# The program.


def _environment(program) -> dict[str, str]:
    out = program.end().out
    return dict(line.split("=", 1) for line in out.split("\0")[:-1])


def _show(start, *words: str, **more):
    return start(*words, "cat", "/proc/self/environ", **more)


@pytest.mark.parametrize("mode", [[], ["--stay"]])
@pytest.mark.parametrize("sure", ["exact", "bounded", "best-effort", "none"])
def test_the_program_can_see_how_sure_it_is(daemon, start, mode, sure):
    program = _show(start, *mode)
    daemon.grants(wire.Granted(1, 17, {"ram": 2**30}, sure))
    assert _environment(program)["HOLDINGPEN_HANDOVER"] == sure


@pytest.mark.parametrize("mode", [[], ["--stay"]])
def test_the_program_finds_its_directory(daemon, start, surroundings, mode):
    surroundings["TMPDIR"] = "/var/tmp"
    program = _show(start, *mode, "--disk", "1G:fast")
    client = daemon.greets()
    assert client.acquire.amounts == {"disk.fast": 2**30}
    amounts = {"disk.fast": 2**30}
    client.say(wire.Granted(1, 17, amounts, "exact", places={"disk.fast": "/a/17"}))
    found = _environment(program)
    assert found["HOLDINGPEN_SCRATCH"] == "/a/17"
    assert found["HOLDINGPEN_SCRATCH_FAST"] == "/a/17"
    assert found["TMPDIR"] == "/var/tmp"


def test_huge_pages_are_asked_for_and_used(daemon, start, surroundings):
    surroundings["GLIBC_TUNABLES"] = "glibc.malloc.check=0"
    # not /proc/self/environ, where glibc writes when it reads the tunables
    program = start("--ram=2M", "--hugepages", "sh", "-c", "echo $GLIBC_TUNABLES")
    client = daemon.greets()
    assert client.acquire.amounts == {"hugepages": 2**21}
    client.say(wire.Granted(1, 17, {"hugepages": 2**21}, "exact"))
    assert program.end().out == "glibc.malloc.check=0:glibc.malloc.hugetlb=2\n"


def test_no_pool_is_told_in_the_daemon_s_words(daemon, start):
    program = start("--ram", "2M", "--hugepages", "echo", "started")
    client = daemon.greets()
    client.say(wire.Refused(1, "unknown-resource", "there is no pool."))
    ended = program.end()
    assert (ended.status, ended.out) == (125, "")
    assert ended.err == "gatekeeper: there is no pool.\n"


@pytest.mark.parametrize("mode", [[], ["--stay"]])
def test_exact_or_nothing(daemon, start, mode):
    program = start(*mode, "--exact", "echo", "started")
    amounts = {"ram": 2**30}
    why = "no control groups here"
    client = daemon.grants(wire.Granted(1, 17, amounts, "bounded", 2**23, why))
    ended = program.end()
    assert (ended.status, ended.out) == (75, "")
    assert ended.err.startswith(
        "gatekeeper: lease 17 was granted bounded (8.0 MiB): no control groups here; "
    )
    assert client.left()


def test_exact_runs_when_it_is(daemon, start):
    program = start("--exact", "echo", "started")
    daemon.grants(wire.Granted(1, 17, {"ram": 2**30}, "exact"))
    ended = program.end()
    assert (ended.status, ended.out, ended.err) == (0, "started\n", "")


def test_exact_does_not_run_without_a_daemon(start):
    assert start("--exact", "true").end().status == 69


@pytest.mark.parametrize(("words", "expected"), [([], 2), (["--quiet"], 0)])
def test_after_a_wait_it_is_told_what_came_of_it(daemon, start, words, expected):
    program = start(*words, "true")
    client = daemon.greets()
    client.say(wire.Waiting(1, 17, 2, "why"))
    client.say(wire.Granted(1, 17, {"ram": 2**30}, "exact"))
    lines = program.end().err.splitlines()
    assert len(lines) == expected
    assert lines[1:] == ["gatekeeper: lease 17: 1.0 GiB ram, exact"][: len(lines[1:])]


def test_without_a_wait_nothing_is_told(daemon, start):
    program = start("true")
    daemon.grants(wire.Granted(1, 17, {"ram": 2**30}, "bounded", 2**23))
    assert program.end().err == ""


def test_verbose_tells_it_always(daemon, start):
    program = start("-v", "true")
    daemon.grants(wire.Granted(1, 17, {"ram": 2**30}, "bounded", 2**23, "because."))
    told = "gatekeeper: lease 17: 1.0 GiB ram, bounded (8.0 MiB): because\n"
    assert program.end().err == told


def test_a_reason_cannot_drive_the_terminal(daemon, start):
    program = start("-v", "true")
    daemon.grants(wire.Granted(1, 17, {}, "exact", why="\x1b[2J"))
    assert "\x1b" not in program.end().err


def test_a_broken_grant_starts_nothing(daemon, start):
    program = start("echo", "started")
    payload = encode({"t": "granted", "id": 1, "lease": 17, "handover": True})
    daemon.greets().say_bytes(len(payload).to_bytes(4, "big") + payload)
    ended = program.end()
    assert (ended.status, ended.out) == (125, "")
    assert "lacks a usable 'handover'; nothing was started" in ended.err


def test_the_directory_of_the_environment_is_a_directory_still(
    daemon, start, tmp_path: Path
):
    """A relative path to the package, as with PYTHONPATH=. python -m gatekeeper."""
    root = Path(__file__).parents[2]
    boot = (
        f"import sys; sys.path[:0] = [{os.path.relpath(root, tmp_path)!r}]; "
        "from gatekeeper.__main__ import main; sys.exit(main())"
    )
    program = start("--prefault", "sh", "-c", "cd /; ls $PYTHONPATH", boot=boot)
    daemon.grants()
    assert "sitecustomize.py\n" in program.end().out
