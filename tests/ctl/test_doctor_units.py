"""Verdicts on what systemd does for the daemon."""

import pytest

from holdingpen.ctl.checkup.findings import OK, Orders
from holdingpen.ctl.checkup.units import (
    Process,
    Units,
    judge_mounts,
    judge_process,
    judge_units,
    orders,
)

SERVICE = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "UnitFileState": "enabled",
    "NeedDaemonReload": "no",
    "Result": "success",
    "NRestarts": "0",
    "MainPID": "500",
    "FileDescriptorStoreMax": "7680",
    "NFileDescriptorStore": "3",
    "FileDescriptorStorePreserve": "yes",
    "LimitNOFILE": "16384",
    "WatchdogUSec": "30s",
    "Slice": "holdingpen.slice",
    "StartLimitIntervalUSec": "0",
}
SOCKET = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"}
GOOD = Units(service=SERVICE, socket=SOCKET)
DAEMON = Process(500, 0)


def service(**changed):
    return GOOD._replace(service=SERVICE | changed)


def socket(**changed):
    return GOOD._replace(socket=SOCKET | changed)


def complaints(found):
    return [f"{one.check} {one.verdict}" for one in found if one.verdict != "ok"]


CASES = [
    (GOOD, []),
    (GOOD._replace(booted=False), ["systemd.booted hint"]),
    (GOOD._replace(answered=False), ["systemd.booted wrong"]),
    (Units(service={"LoadState": "not-found"}), ["systemd.unit wrong"]),
    (Units(private=True), ["systemd.unit hint"]),
    (service(LoadState="masked"), ["systemd.unit wrong"]),
    (service(LoadState="bad-setting"), ["systemd.unit wrong"]),
    (socket(LoadState="masked"), ["systemd.unit wrong"]),
    (service(NeedDaemonReload="yes"), ["systemd.reread wrong"]),
    (service(UnitFileState="disabled"), []),
    (socket(UnitFileState="disabled"), []),
    (service(MainPID="7"), ["systemd.active wrong"]),
    (service(NRestarts="2"), ["systemd.restarts hint"]),
    (socket(ActiveState="inactive"), ["systemd.socket wrong"]),
    (socket(LoadState="not-found"), ["systemd.socket hint"]),
    (service(FileDescriptorStoreMax="0"), ["systemd.store wrong"]),
    (service(LimitNOFILE="4224"), ["systemd.store wrong"]),
    (service(LimitNOFILE="infinity"), []),
    (service(FileDescriptorStorePreserve="no"), ["systemd.preserve hint"]),
    (GOOD._replace(version=252), ["systemd.preserve hint"]),
    (service(WatchdogUSec="0"), ["systemd.watchdog hint"]),
    (service(WatchdogUSec="infinity"), ["systemd.watchdog hint"]),
    (service(Slice="system.slice"), ["systemd.slice wrong"]),
    (service(StartLimitIntervalUSec="10s"), ["systemd.restarts hint"]),
]


@pytest.mark.parametrize(("units", "expected"), CASES)
def test_what_systemd_should_do_for_the_daemon(units, expected):
    assert complaints(judge_units(units, DAEMON)) == expected


STOPPED = [
    ("failed", "failed", "inactive", ["active wrong", "socket wrong"]),
    ("inactive", "dead", "active", []),
    ("inactive", "dead", "inactive", ["active wrong", "socket wrong"]),
    ("activating", "auto-restart", "active", ["active wrong"]),
    ("activating", "start", "active", []),
]


@pytest.mark.parametrize(("state", "sub", "door", "expected"), STOPPED)
def test_a_service_that_does_not_run(state, sub, door, expected):
    units = Units(
        service=SERVICE | {"ActiveState": state, "SubState": sub, "MainPID": "0"},
        socket=SOCKET | {"ActiveState": door},
    )
    assert complaints(judge_units(units, None)) == [f"systemd.{x}" for x in expected]


def test_a_service_that_ends_again_and_again_is_not_called_active():
    """systemd shows such a one as activating, most of the time."""
    units = service(ActiveState="activating", SubState="start", NRestarts="7")
    (found,) = [x for x in judge_units(units, None) if x.check == "systemd.active"]
    assert found.text.endswith("as soon as it starts: 7 times so far")


def test_a_watchdog_is_not_judged_before_the_service_runs():
    """Until then systemd 252 shows that of a unit with WatchdogSec=30 as 0."""
    units = service(ActiveState="inactive", WatchdogUSec="0", MainPID="0")
    assert complaints(judge_units(units, None)) == []


def test_nothing_that_starts_it_with_the_machine_is_a_fault():
    units = Units(
        service=SERVICE | {"UnitFileState": "disabled"},
        socket=SOCKET | {"UnitFileState": "disabled"},
    )
    (found,) = [x for x in judge_units(units, DAEMON) if x.verdict == "wrong"]
    assert found.mend == "systemctl enable holdingpen.socket"


def test_a_daemon_started_by_hand_is_ended_by_its_number():
    (found,) = [x for x in judge_units(service(MainPID="0"), DAEMON) if x.mend]
    assert found.text.startswith("process 500 was started by hand")
    assert found.mend == "kill 500 && systemctl restart holdingpen.service"


def test_whoever_has_systemd_listen_is_not_beside_it():
    """The kernel names process 1 as who listens."""
    assert complaints(judge_units(GOOD, DAEMON._replace(pid=1))) == []


PROCESSES = [
    (DAEMON, []),
    (DAEMON._replace(oom_score_adj=-1000), []),
    (DAEMON._replace(oom_score_adj=0), ["oom wrong"]),
    (DAEMON._replace(oom_score_adj=None), ["oom unchecked"]),
]


@pytest.mark.parametrize(("daemon", "expected"), PROCESSES)
def test_how_the_kernel_should_treat_the_daemon(daemon, expected):
    found = judge_process(daemon, private=False)
    assert complaints(found) == [f"systemd.{x}" for x in expected]


def test_nothing_of_that_is_asked_of_a_private_daemon():
    assert judge_process(DAEMON._replace(oom_score_adj=0), private=True) == []


APART = DAEMON._replace(own_mounts=True, mounter="/run/holdingpen-mounter.socket")
MOUNTER = GOOD._replace(mounter=SOCKET)
THEN = " && systemctl restart holdingpen.service"
MOUNTS = [
    (DAEMON, GOOD, "everybody sees the file systems it mounts", ""),
    (APART, MOUNTER, "mounts for it, where everybody sees it", ""),
    (
        APART._replace(mounter=""),
        MOUNTER,
        "nobody mounts for it",
        "systemctl edit holdingpen.service  # [Service] "
        "Environment=HOLDINGPEN_MOUNTER=/run/holdingpen-mounter.socket",
    ),
    (
        APART._replace(told=False),
        MOUNTER,
        "is not seen in its mount namespace",
        f"mount --make-rshared /{THEN}",
    ),
    (
        APART,
        GOOD,
        "there is no holdingpen-mounter.socket",
        "cp systemd/holdingpen-mounter.* /etc/systemd/system/; "
        "systemctl daemon-reload; "
        f"systemctl enable --now holdingpen-mounter.socket{THEN}",
    ),
    (
        APART,
        GOOD._replace(mounter=SOCKET | {"LoadState": "masked"}),
        "holdingpen-mounter.socket is masked: no part of a disk for leases",
        "systemctl unmask holdingpen-mounter.socket; "
        f"systemctl start holdingpen-mounter.socket{THEN}",
    ),
    (
        APART,
        GOOD._replace(mounter=SOCKET | {"ActiveState": "failed"}),
        "holdingpen-mounter.socket is failed: no part of a disk for leases",
        f"systemctl start holdingpen-mounter.socket{THEN}",
    ),
]


@pytest.mark.parametrize(("daemon", "units", "text", "mend"), MOUNTS)
def test_who_mounts_for_leases_and_what_mends_it(daemon, units, text, mend):
    (found,) = judge_mounts(daemon, units, True, "")
    assert text in found.text
    assert found.mend == mend
    assert (found.verdict == OK) is (mend == "")


def test_a_mounter_that_does_not_answer_is_quoted():
    (found,) = judge_mounts(APART, MOUNTER, True, "It did not answer in 40 s.")
    assert found.text.startswith("It did not answer in 40 s: no part of a disk")
    assert found.mend == "journalctl -u holdingpen-mounter.service -n 30"


UNSEEN = [
    DAEMON._replace(own_mounts=None),
    APART._replace(mounter=None),
    APART._replace(told=None),
]


@pytest.mark.parametrize("daemon", UNSEEN)
def test_where_it_mounts_is_root_s_to_see(daemon):
    assert complaints(judge_mounts(daemon, MOUNTER, True, "")) == [
        "systemd.mounts unchecked"
    ]
    assert judge_mounts(daemon, MOUNTER, False, "") == []


def test_without_disks_it_is_a_hint_that_nobody_would_mount():
    found = judge_mounts(APART._replace(mounter=""), MOUNTER, False, "")
    assert complaints(found) == ["systemd.mounts hint"]


def test_a_private_daemon_mounts_nothing():
    assert judge_mounts(APART, GOOD._replace(private=True), True, "") == []


PLACE = "/run/holdingpen.socket"


def test_what_is_to_be_done_is_done_by_systemd_where_it_has_the_unit():
    assert orders(GOOD, 500, PLACE).start == "systemctl start holdingpen.socket"
    assert orders(socket(LoadState="not-found"), 500, PLACE) == Orders()
    user = orders(GOOD._replace(private=True), 500, "/run/user/5/holdingpen.socket")
    assert user.reload == "systemctl --user reload holdingpen.service"


def test_and_by_hand_where_it_has_not():
    hand = orders(Units(booted=False), 500, PLACE)
    assert hand.restart == "kill 500 && holdingpen"
    assert hand.reload == "kill -HUP 500"
    assert "a unit of systemd" in hand.unit("LimitNOFILE=9")
    assert orders(Units(private=True), 0, "/x").reload == "holdingpen --user"


def test_a_daemon_at_a_place_of_its_own_is_not_the_units():
    """But the unit's may be there, when its configuration says so."""
    assert orders(GOOD, 7, "/s").restart == "kill 7 && holdingpen --socket /s"
    assert orders(GOOD, 0, "/s").start == "holdingpen --socket /s"
    assert orders(GOOD, 500, "/s").restart.startswith("systemctl restart")
