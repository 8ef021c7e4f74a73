"""Verdicts on disks, programs and libraries, and on what dead daemons left."""

import pytest

from holdingpen.ctl.checkup.around import (
    Disk,
    Leftovers,
    Library,
    Program,
    judge_disk,
    judge_leftovers,
    judge_libraries,
    judge_program,
    needed,
    shut,
)
from holdingpen.ctl.checkup.findings import Orders

ORDERS = Orders()
GIB = 2**30
DISK = Disk("scratch", "/scratch", hold=50 * GIB)


def complaints(found):
    return [f"{one.check} {one.verdict}" for one in found if one.verdict != "ok"]


DISKS = [
    (DISK, []),
    (DISK._replace(there=False), ["path wrong"]),
    (DISK._replace(unmounted="/scratch"), ["mounted wrong"]),
    (DISK._replace(kind="nfs", why="No."), ["promise hint"]),
    (DISK._replace(kind="nfs", why="No.", hold=0), []),
    (DISK._replace(total=40 * GIB), ["hold wrong"]),
    (DISK._replace(total=60 * GIB, keep=11 * GIB), ["hold wrong"]),
    (DISK._replace(available=10 * GIB), ["room hint"]),
    (DISK._replace(available=10 * GIB, held=45 * GIB), []),
    (DISK._replace(mkfs=False), ["mkfs wrong"]),
    (DISK._replace(loop=False), ["loop wrong"]),
    (DISK._replace(mkfs=False, loop=False, mounts=False), []),
    (DISK._replace(mkfs=False, loop=False, hold=0), []),
]


@pytest.mark.parametrize(("disk", "expected"), DISKS)
def test_what_a_disk_table_says_should_be_had(disk, expected):
    assert complaints(judge_disk(disk, ORDERS)) == [f"disk.{x}" for x in expected]


#: What the unit that is shipped has.
SHIPPED = {
    "ProtectSystem": "full",
    "ProtectHome": "read-only",
    "PrivateTmp": "no",
    "ReadWritePaths": "-/opt +/home/a",
    "BindPaths": "/srv/b:/tmp/b:rbind",
}
SHUT = [
    ("/scratch", {}, ""),
    ("/var/tmp", {}, ""),
    ("/srv/disk", {}, ""),
    ("/home", {}, "ProtectHome=read-only"),
    ("/home/b/c", {}, "ProtectHome=read-only"),
    ("/root", {}, "ProtectHome=read-only"),
    ("/homes", {}, ""),
    ("/home/a/c", {}, ""),
    ("/etc/disk", {}, "ProtectSystem=full"),
    ("/etc/disk", {"ProtectSystem": "yes"}, ""),
    ("/usr", {"ProtectSystem": "yes"}, "ProtectSystem=yes"),
    ("/scratch", {"ProtectSystem": "strict"}, "ProtectSystem=strict"),
    ("/opt/a", {"ProtectSystem": "strict"}, ""),
    ("/var/tmp/a", {"PrivateTmp": "yes"}, "PrivateTmp=yes"),
    ("/home", {"ProtectHome": "no"}, ""),
]


@pytest.mark.parametrize(("path", "changed", "expected"), SHUT)
def test_what_in_a_unit_shuts_a_path_off(path, changed, expected):
    assert shut(path, SHIPPED | changed) == expected


def test_of_a_daemon_without_a_unit_nothing_is_shut_off():
    assert shut("/home", {}) == ""


MENDS = [("ProtectHome=yes", "ReadWritePaths"), ("PrivateTmp=yes", "BindPaths")]


@pytest.mark.parametrize(("setting", "key"), MENDS)
def test_what_opens_it_is_said(setting, key):
    (found,) = judge_disk(DISK._replace(path="/home/a", shut=setting), ORDERS)
    assert (found.check, found.verdict) == ("disk.shut", "wrong")
    assert found.text.endswith(f"may not write to /home/a: its unit has {setting}")
    edit = "systemctl edit holdingpen.service"
    assert found.mend == f"{edit}  # [Service] {key}=/home/a"


PROGRAMS = [
    (Program("gatekeeper", "/us/gatekeeper"), "ok", ""),
    (Program("gatekeeper", ""), "wrong", "export PATH=/us:$PATH"),
    (Program("gatekeeper", "", installed=False), "wrong", "pip install ."),
    (Program("gatekeeper", "/bin/gatekeeper", None), "hint", "type -a gatekeeper"),
    (
        Program("gatekeeper", "/bin/gatekeeper", ours=False),
        "wrong",
        "type -a gatekeeper; export PATH=/us:$PATH",
    ),
]


@pytest.mark.parametrize(("program", "verdict", "mend"), PROGRAMS)
def test_the_commands_on_the_path_should_be_ours(program, verdict, mend):
    found = judge_program(program, "/us")
    assert (found.verdict, found.mend) == (verdict, mend)


def test_requirements_are_read_without_those_of_extras():
    lines = [
        "trio>=0.22",
        "msgspec (>=0.18)",
        "python-dateutil",
        "icalendar>=4; extra == 'timetable'",
    ]
    assert needed(lines) == [
        ("trio", "0.22"),
        ("msgspec", "0.18"),
        ("python-dateutil", ""),
    ]


LIBRARIES = [
    ("3.11.2", "3.11", [Library("trio", "0.22", "0.22.2")], []),
    ("3.11.2", "3.11", [Library("trio", "0.22", "0.100")], []),
    ("3.9.1", "3.11", [Library("trio", "", "1")], ["python wrong"]),
    ("3.11.2", "3.11", [Library("trio", "0.22", None)], ["libraries wrong"]),
    ("3.11.2", "3.11", [Library("trio", "0.22", "0.9")], ["libraries wrong"]),
    ("3.11.2", "", [], ["libraries hint"]),
]


@pytest.mark.parametrize(("python", "least", "libraries", "expected"), LIBRARIES)
def test_python_should_have_what_is_needed(python, least, libraries, expected):
    found = judge_libraries(python, least, libraries)
    assert complaints(found) == [f"programs.{x}" for x in expected]


PLACE = "/run/holdingpen.scratch/a/17"
LEFT = [
    (Leftovers(), True, []),
    (Leftovers(mounts=((PLACE, 17),)), True, []),
    (Leftovers(mounts=((PLACE, 18),)), True, ["mounts wrong"]),
    (Leftovers(mounts=((PLACE, 17),)), False, ["mounts hint"]),
    (Leftovers(loops=(("/dev/loop3", "/a/image-1"),)), True, ["loops hint"]),
    (Leftovers(files=("/run/holdingpen.socket",)), False, ["files hint"]),
]


@pytest.mark.parametrize(("left", "running", "expected"), LEFT)
def test_what_dead_daemons_left(left, running, expected):
    found = judge_leftovers(left, running, frozenset({17}), ORDERS)
    assert complaints(found) == [f"leftovers.{x}" for x in expected]
