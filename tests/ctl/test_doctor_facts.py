"""What is looked at, on this machine and in trees that look like one."""

import os
import socket
import stat
import sys
import time
from pathlib import Path

import pytest

from holdingpen.ctl.checkup import ask, examine, survey
from holdingpen.ctl.checkup.ask import Daemon
from holdingpen.daemon.settings import Disk, Settings
from holdingpen.journal.store import Store


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# What others say.


LINES = [
    ("python3 /usr/bin/holdingpen", Daemon()),
    ("holdingpen --user", Daemon(user=True)),
    (
        "python3 -m holdingpen --config c.toml --state=/st -v",
        Daemon(config="/srv/c.toml", state="/st"),
    ),
    ("holdingpen --socket s --exit-idle 5s", Daemon(socket="/srv/s")),
    # somebody else's program: an option that ours has, without its value
    ("other --config", Daemon()),
]


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_where_a_daemon_has_its_things_is_read_from_its_command_line(
    tmp_path, line, expected
):
    write(tmp_path / "7/cmdline", line.replace(" ", "\0") + "\0")
    (tmp_path / "7/cwd").symlink_to("/srv")
    assert ask.command_line(7, tmp_path) == expected


def test_of_a_process_that_is_gone_nothing_is_known(tmp_path):
    assert ask.command_line(7, tmp_path) == Daemon()
    assert examine.process(7, tmp_path) is None


SYSTEMCTL = """\
#!/bin/sh
case "$*" in
*holdingpen.service) echo LoadState=loaded; echo MainPID=7 ;;
*holdingpen.socket) echo LoadState=not-found ;;
*holdingpen-mounter.socket) echo LoadState=masked ;;
*--user*) exit 1 ;;
*) echo "Version=257 (257.9-1)" ;;
esac
"""


@pytest.fixture
def systemctl(tmp_path):
    program = write(tmp_path / "systemctl", SYSTEMCTL)
    program.chmod(0o755)
    return str(program)


def test_systemctl_is_asked_for_all_units(systemctl, tmp_path):
    units = ask.ask_systemd(private=False, booted=tmp_path, systemctl=systemctl)
    assert (units.booted, units.answered, units.version) == (True, True, 257)
    assert units.service == {"LoadState": "loaded", "MainPID": "7"}
    assert (units.installed, units.has_socket) == (True, False)
    assert units.mounter == {"LoadState": "masked"}


def test_who_would_mount_and_is_not_there_is_named(tmp_path):
    place = str(tmp_path / "gone")
    assert f"daemon at {place}: No such file" in ask.ask_mounter(place)


def test_a_user_without_a_systemd_of_his_own(systemctl, tmp_path):
    units = ask.ask_systemd(private=True, booted=tmp_path, systemctl=systemctl)
    assert (units.booted, units.answered) == (True, False)


def test_a_systemctl_that_hangs_is_not_waited_for(tmp_path):
    program = write(tmp_path / "systemctl", "#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    units = ask.ask_systemd(
        private=False, answer_s=0.01, booted=tmp_path, systemctl=str(program)
    )
    assert units.answered is False


def test_without_systemd_nobody_is_asked(tmp_path):
    gone = tmp_path / "gone"
    assert not ask.ask_systemd(private=False, booted=gone, systemctl="false").booted


# A pen's own things.


def test_i_am_in_my_own_group():
    me = examine.me()
    assert me.uid == os.geteuid()
    assert os.getegid() in me.groups


def test_the_socket_is_seen_with_its_mode_and_whether_it_opens(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        path.chmod(0o660)
        door = examine.door(str(path), Settings(mode=0o600), by_daemon=True)
    assert door is not None
    assert (door.mode, door.wanted_mode, door.is_socket) == (0o660, 0o600, True)
    assert door.may_open
    assert examine.door(str(tmp_path / "gone"), Settings(), by_daemon=True) is None


CONFIGS = [
    ('[ram]\nhold = "1G"\n', ""),
    ("[ram\n", "this is no TOML"),
    ("[ram]\nhald = 1\n", "hald"),
    ('[daemon]\noperators = ["nobody-such"]\n', "no user 'nobody-such'"),
    ('[daemon]\ngroup = "nobody-such"\n', "no group 'nobody-such'"),
]


@pytest.mark.parametrize(("text", "words"), CONFIGS)
def test_the_configuration_is_read_as_the_daemon_reads_it(tmp_path, text, words):
    path = write(tmp_path / "c.toml", text)
    config, settings = examine.config(Daemon(config=str(path)), 0)
    assert words in (config.error or "")
    assert bool(config.error) == bool(words)
    assert (settings.ram_hold == 2**30) == (not words)


def test_without_a_configuration_file_there_are_the_defaults(tmp_path):
    gone = Daemon(config=str(tmp_path / "gone.toml"))
    config, settings = examine.config(gone, 0)
    assert (config.there, settings) == (False, Settings())


def test_the_state_directory_of_a_daemon(tmp_path):
    Store.open(tmp_path / "st", "boot").close()
    write(tmp_path / "st/journal.broken", "")
    write(tmp_path / "st/history.sqlite.broken-1", "")
    state = examine.state(Daemon(state=str(tmp_path / "st")), Settings(), 0)
    assert (state.there, state.mode, state.journal) == (True, 0o700, "clean")
    assert state.broken == ("history.sqlite.broken-1", "journal.broken")
    assert state.free_bytes > 0
    assert state.kind != ""


def cut(journal: Path) -> None:
    # its allocated tail is zeros; half a record is a torn one
    data = journal.read_bytes().rstrip(b"\0")
    journal.write_bytes(data + data[: len(data) // 2][:7])


def spoil(journal: Path) -> None:
    data = bytearray(journal.read_bytes())
    data[0] ^= 0xFF
    journal.write_bytes(bytes(data))


DAMAGES = [
    (cut, {"torn"}),
    (spoil, {"damaged", "unknown", "torn"}),
    (Path.unlink, {"none"}),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGES)
def test_a_journal_is_judged_by_its_bytes(tmp_path, damage, expected):
    Store.open(tmp_path, "boot").close()
    damage(tmp_path / "journal")
    state = examine.state(Daemon(state=str(tmp_path)), Settings(), 0)
    assert state.journal in expected
    assert (state.journal_says == "") == (state.journal == "none")


def test_without_a_state_directory(tmp_path):
    gone = examine.state(Daemon(), Settings(state=str(tmp_path / "gone")), 0)
    assert gone.there is False


def test_where_the_state_of_a_private_pen_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    own = examine.state(Daemon(user=True), Settings(), 0)
    named = examine.state(Daemon(user=True, socket="/a/s"), Settings(), 0)
    assert own.path == f"{tmp_path}/holdingpen"
    assert named.path == f"{tmp_path}/holdingpen/a-s"


LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 524288               files
Max locked memory         unlimited            unlimited            bytes
"""


def process_tree(proc: Path) -> Path:
    """A daemon, process 7, which is in a slice that never swaps."""
    write(proc / "7/status", "Name:\tx\nUid:\t0\t5\t0\t0\nCapEff:\t0000000000004000\n")
    write(proc / "7/oom_score_adj", "-900\n")
    write(proc / "7/limits", LIMITS)
    write(proc / "7/cgroup", "1:name=systemd:/x\n0::/pen.slice/pen.service\n")
    fields = " ".join(str(number) for number in range(3, 40))
    write(proc / "7/stat", f"7 (a) b) {fields}")
    write(proc / "7/environ", "A=b\0HOLDINGPEN_MOUNTER=/run/m\0")
    write(proc / "7/mountinfo", "1 0 8:1 / / rw shared:2 master:1 - ext4 /dev/a rw\n")
    for number, ns in (("7", "mnt:[1]"), ("1", "mnt:[2]")):
        (proc / number / "ns").mkdir(parents=True)
        (proc / number / "ns/mnt").symlink_to(ns)
    return proc


def test_a_process_is_read_from_proc(tmp_path):
    found = examine.process(7, process_tree(tmp_path))
    assert found is not None
    assert (found.pid, found.uid, found.oom_score_adj) == (7, 5, -900)
    assert (found.nofile, found.memlock_bytes) == (524288, 2**64)
    assert (found.may_lock, found.own_mounts) == (True, True)
    assert (found.mounter, found.told) == ("/run/m", True)


def test_a_daemon_without_a_mounter_has_none(tmp_path):
    write(process_tree(tmp_path) / "7/environ", "A=b\0")
    found = examine.process(7, tmp_path)
    assert found is not None
    assert found.mounter == ""


def test_a_process_started_when_the_kernel_says(tmp_path):
    found = examine.process(7, process_tree(tmp_path))
    assert found is not None
    assert found.started_s is not None
    since_boot_s = 22 / os.sysconf("SC_CLK_TCK")
    booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert abs(found.started_s - booted_s - since_boot_s) < 5


def test_of_a_process_that_hides_itself_nothing_is_guessed(tmp_path):
    write(tmp_path / "7/status", "Uid:\t0\t0\t0\t0\n")
    found = examine.process(7, tmp_path)
    assert found is not None
    assert (found.oom_score_adj, found.own_mounts, found.nofile) == (None, None, None)
    assert (found.swap_max, found.started_s, found.may_lock) == (None, None, None)
    assert (found.mounter, found.told) == (None, None)


SWAPS = [("max", "max", "max"), ("0", "max", "0"), ("max", "0", "0"), ("", "", None)]


@pytest.mark.parametrize(("own", "above", "expected"), SWAPS)
def test_a_limit_on_swap_counts_from_the_slice_too(tmp_path, own, above, expected):
    process_tree(tmp_path)
    group = tmp_path / "cg/pen.slice"
    write(group / "memory.swap.max", above)
    write(group / "pen.service/memory.swap.max", own)
    assert examine.swap_max(tmp_path / "7", tmp_path / "cg") == expected


# What is around it.


def test_memory_is_read_from_proc_and_sys(tmp_path):
    write(tmp_path / "proc/meminfo", "MemTotal: 8 kB\nMemAvailable: 4 kB\n")
    vm = tmp_path / "proc/sys/vm"
    write(vm / "swappiness", "10\n")
    write(vm / "overcommit_memory", "2\n")
    write(vm / "percpu_pagelist_high_fraction", "0\n")
    huge = "sys/kernel/mm/transparent_hugepage/shmem_enabled"
    write(tmp_path / huge, "always within_size advise never [deny] force\n")
    found = survey.memory(Settings(ram_keep=5), 0, 7, tmp_path)
    assert (found.total_bytes, found.available_bytes) == (8192, 4096)
    assert (found.keep_bytes, found.held_bytes, found.swap_bytes) == (5, 7, 0)
    assert (found.swappiness, found.overcommit, found.list_fraction) == (10, 2, 0)
    assert (found.huge, found.pressure) == ("deny", False)


def test_memory_of_this_machine():
    found = survey.memory(Settings(), os.getpid(), 0)
    assert found.total_bytes > found.available_bytes > 0
    assert found.keep_bytes > 0
    assert found.kernel > (4, 0)
    assert found.groups_version in (0, 1, 2)


def test_the_clock_is_behind_a_journal_written_later(tmp_path):
    journal = write(tmp_path / "journal", "")
    os.utime(journal, (4e9, 4e9))
    found = survey.clock(journal, 100.0, 160.0)
    assert (found.written_s, found.stepped_s) == (4e9, 60.0)
    assert abs(found.wall_s - time.time()) < 60
    assert survey.clock(tmp_path / "gone", 0.0, 160.0).stepped_s is None


def test_the_kernel_tells_whether_its_clock_is_kept_right():
    assert survey.synchronised() in (True, False, None)


ZONES = [
    ("Europe/Berlin", None, ("Europe/Berlin", True)),
    ("Mars/Base", None, ("Mars/Base", False)),
    ("CET-1CEST", None, ("CET-1CEST", True)),
    ("", None, ("", True)),
    ("", "/usr/share/zoneinfo/Mars/Base", ("Mars/Base", False)),
    ("", "/usr/share/zoneinfo/Europe/Berlin", ("Europe/Berlin", True)),
]


@pytest.mark.parametrize(("variable", "link", "expected"), ZONES)
def test_the_time_zone(tmp_path, monkeypatch, variable, link, expected):
    if (
        "Berlin" in variable + (link or "")
        and not Path("/usr/share/zoneinfo/Europe/Berlin").exists()
    ):
        pytest.skip("needs tzdata")
    monkeypatch.setenv("TZ", variable)
    (tmp_path / "etc").mkdir()
    if link:
        (tmp_path / "etc/localtime").symlink_to(link)
    found = survey.clock(tmp_path, 0.0, None, tmp_path)
    assert (found.zone, found.zone_known) == expected


def test_disks_are_looked_at_with_what_they_promise(tmp_path):
    settings = Settings(
        disks={"a": Disk(str(tmp_path), 5, 6), "b": Disk(str(tmp_path / "gone"))}
    )
    unit = {"ProtectSystem": "strict", "ReadWritePaths": str(tmp_path / "gone")}
    there, gone = survey.disks(settings, {"disk.a": 3}, unit, mounts=True)
    assert (there.shut, gone.shut) == ("ProtectSystem=strict", "")
    assert (there.name, there.hold, there.keep, there.held) == ("a", 5, 6, 3)
    assert there.there
    assert there.total >= there.available > 0
    assert not gone.there


FSTAB = """\
# /dev/sdb1 /commented ext4
/dev/sda1 / ext4 defaults 0 1
/dev/sda2 none swap sw 0 0
/dev/sdc1 {tmp}/scratch ext4 defaults 0 2
proc /proc proc defaults 0 0
"""


def test_what_fstab_would_mount_and_is_not(tmp_path):
    (tmp_path / "scratch").mkdir()
    fstab = write(tmp_path / "fstab", FSTAB.format(tmp=tmp_path))
    scratch = str(tmp_path / "scratch")
    assert survey.unmounted(f"{scratch}/deep", fstab) == scratch
    assert survey.unmounted(f"{scratch}2", fstab) == ""
    assert survey.unmounted("/proc/x", fstab) == ""
    assert survey.unmounted("/commented", fstab) == ""


HERE = Path(sys.executable).parent
SCRIPTS = [
    (f"#!{HERE}/python3\n", True),
    (f"#! {HERE}/python3 -I\n", True),
    ("#!/elsewhere/bin/python3\n", False),
    ("#!/bin/sh\n", None),
    ("#!/usr/bin/env no-such-python\n", False),
    ("\x7fELF", None),
]


@pytest.mark.parametrize(("text", "expected"), SCRIPTS)
def test_a_command_is_ours_when_our_python_runs_it(tmp_path, text, expected):
    write(tmp_path / "gatekeeper", text).chmod(0o755)
    (found,), here = survey.programs(str(tmp_path))
    assert (found.name, found.ours, here) == ("gatekeeper", expected, str(HERE))


def test_a_command_that_is_not_there_is_told_only_of_gatekeeper(tmp_path):
    (found,), _ = survey.programs(str(tmp_path))
    assert (found.name, found.path) == ("gatekeeper", "")


def test_what_this_installation_needs_is_there():
    python, _, libraries = survey.libraries()
    assert python.startswith("3.")
    assert all(library.found for library in libraries)


MOUNTS = """\
20 1 8:1 / / rw - ext4 /dev/sda1 rw
30 20 7:0 / /run/pen.scratch/a/17 rw - ext4 /dev/loop3 rw
31 20 7:0 / /run/pen.scratch/a rw - tmpfs none rw
32 20 7:0 / /elsewhere/18 rw - ext4 /dev/loop9 rw
"""


def test_what_dead_daemons_left_is_found(tmp_path):
    write(tmp_path / "proc/self/mountinfo", MOUNTS)
    for number, file in ((3, "image-17"), (4, "image-18"), (5, "other")):
        where = "/a/.holdingpen/" if file != "other" else "/b/"
        backing = tmp_path / f"sys/block/loop{number}/loop/backing_file"
        write(backing, f"{where}{file}\n")
    found = survey.leftovers("/run/pen.socket", listened=True, root=tmp_path)
    assert found.mounts == (("/run/pen.scratch/a/17", 17),)
    assert found.loops == (("/dev/loop4", "/a/.holdingpen/image-18"),)


def test_files_beside_a_socket_are_left_when_nobody_listens(tmp_path):
    path = f"{tmp_path}/pen.socket"
    write(Path(path), "")
    write(tmp_path / "pen.reserved", "")
    left = survey.leftovers(path, listened=False).files
    assert left == (path, f"{tmp_path}/pen.reserved")
    assert survey.leftovers(path, listened=True).files == ()


def test_nothing_is_changed_by_looking(tmp_path):
    Store.open(tmp_path, "boot").close()
    journal = tmp_path / "journal"
    before = (journal.read_bytes(), stat.S_IMODE(tmp_path.stat().st_mode))
    examine.state(Daemon(state=str(tmp_path)), Settings(), 0)
    assert before == (journal.read_bytes(), stat.S_IMODE(tmp_path.stat().st_mode))
    assert {x.name for x in tmp_path.iterdir()} == {"journal", "lock"}
