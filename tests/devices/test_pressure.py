from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from holdingpen.devices import pressure
from holdingpen.devices.pressure import PressureTrigger, open_pressure_trigger

REAL = Path("/proc/pressure/memory")
PATIENCE_MS = 30_000

V1 = "36 25 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V2 = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def rings(trigger: PressureTrigger, within_ms: int = PATIENCE_MS) -> bool:
    poll = select.poll()
    poll.register(trigger.fileno(), select.POLLIN)
    return bool(poll.poll(within_ms))


def open_fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - it lists itself last


@pytest.fixture
def opened(machine) -> Iterator[Callable[..., PressureTrigger]]:
    """Opens triggers on the fake machine, and closes them."""
    triggers = []

    def open_one(**how: float) -> PressureTrigger:
        triggers.append(open_pressure_trigger(machine.proc, machine.cgroup, **how))
        return triggers[-1]

    yield open_one
    for trigger in triggers:
        trigger.close()


def refuse(monkeypatch: pytest.MonkeyPatch, refused: dict[bytes, int]) -> list[bytes]:
    """Have writes end with errno by their last word; returns all that was written."""
    written: list[bytes] = []

    def write(fd: int, data: bytes) -> int:
        written.append(data)
        number = refused.get(data.split()[-1].rstrip(b"\0"))
        if number:
            raise OSError(number, os.strerror(number))
        return len(data)

    monkeypatch.setattr(os, "write", write)
    return written


def test_the_machine_is_watched(machine, opened) -> None:
    machine.pressure(0)
    trigger = opened()
    path = machine.proc / "pressure/memory"
    assert trigger.watched == {str(path): 0.5}
    assert trigger.why == ""
    assert path.read_bytes().startswith(b"some 50000 500000\0")


def test_a_quiet_bell_does_not_ring(machine, opened) -> None:
    machine.pressure(0)
    trigger = opened()
    assert not rings(trigger, within_ms=0)
    assert not trigger.clear()


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        ({}, [b"some 50000 500000\0"]),
        (
            {b"500000": errno.EINVAL},
            [b"some 50000 500000\0", b"some 200000 2000000\0"],
        ),
    ],
)
def test_a_window_that_is_refused_is_followed_by_a_longer_one(
    machine, opened, monkeypatch, refused, expected
) -> None:
    """Without CAP_SYS_RESOURCE the kernel takes multiples of 2 s only."""
    machine.pressure(0)
    written = refuse(monkeypatch, refused)
    trigger = opened()
    assert written == expected
    assert list(trigger.watched.values()) == [0.5 if not refused else 2.0]


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ({b"500000": errno.EINVAL, b"2000000": errno.EINVAL}, "Invalid argument"),
        ({b"500000": errno.EOPNOTSUPP}, "Operation not supported"),
        ({b"500000": errno.EBUSY}, "Device or resource busy"),
    ],
)
def test_a_kernel_that_says_no_leaves_a_bell_that_never_rings(
    machine, opened, monkeypatch, refused, message
) -> None:
    machine.pressure(0)
    refuse(monkeypatch, refused)
    before = open_fds()
    trigger = opened()
    assert trigger.watched == {}
    assert message in trigger.why
    assert "psi=1" in trigger.why
    assert not rings(trigger, within_ms=0)
    trigger.close()
    assert open_fds() == before


def test_a_kernel_without_pressure_leaves_a_bell_that_never_rings(
    machine, opened
) -> None:
    trigger = opened()
    assert trigger.watched == {}
    assert f"{machine.proc}/pressure/memory: No such file" in trigger.why
    assert not rings(trigger, within_ms=0)


@pytest.mark.parametrize(
    ("share", "words"), [(1.0, "some 500000 "), (0.1, "some 50000 "), (0, "some 1 ")]
)
def test_the_share_becomes_a_stall_in_the_window(machine, opened, share, words) -> None:
    machine.pressure(0)
    opened(share=share)
    assert (machine.proc / "pressure/memory").read_text().startswith(words)


def test_each_group_with_a_limit_is_watched_too(machine, opened, pressure_text) -> None:
    """Members of a group can be at their end on an idle machine."""
    machine.pressure(0)
    machine.groups("0::/a/b\n", V2)
    for path, limit in (("a/b", "max"), ("a", str(2**30))):
        machine.group(
            path,
            memory_max=limit,
            memory_high="max",
            memory_current="0",
            memory_stat="inactive_file 0\n",
            memory_pressure=pressure_text(0),
        )
    trigger = opened()
    group = str(machine.cgroup / "a/memory.pressure")
    assert set(trigger.watched) == {str(machine.proc / "pressure/memory"), group}


def test_a_limit_of_version_1_cannot_be_watched_and_is_named(machine, opened) -> None:
    machine.pressure(0)
    machine.groups("4:memory:/a\n", V1)
    machine.group(
        "memory/a",
        memory_limit_in_bytes=str(2**30),
        memory_usage_in_bytes="0",
        memory_stat="total_inactive_file 0\n",
    )
    trigger = opened()
    assert list(trigger.watched) == [str(machine.proc / "pressure/memory")]
    assert f"{machine.cgroup}/memory/a is one of control groups version 1" in (
        trigger.why
    )


@pytest.fixture
def urgent() -> Iterator[tuple[int, socket.socket]]:
    """A descriptor to be owned by a trigger, and what makes POLLPRI of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with far:
        yield near.detach(), far


def test_news_rings_the_bell(urgent) -> None:
    fd, far = urgent
    trigger = PressureTrigger({"somewhere": (fd, 2.0)})
    assert not rings(trigger, within_ms=0)
    far.send(b"!", socket.MSG_OOB)
    assert rings(trigger)
    assert trigger.clear()
    trigger.close()


async def test_trio_can_wait_for_it(urgent) -> None:
    fd, far = urgent
    trigger = PressureTrigger({"somewhere": (fd, 2.0)})
    far.send(b"!", socket.MSG_OOB)
    with trio.fail_after(30):
        await trio.lowlevel.wait_readable(trigger.fileno())
    trigger.close()


def test_what_goes_away_rings_once_and_is_forgotten(urgent) -> None:
    """A removed group may have been removed because it ran out of memory."""
    fd, far = urgent
    reader, writer = os.pipe()
    trigger = PressureTrigger({"gone": (writer, 2.0), "stays": (fd, 2.0)})
    os.close(reader)
    assert rings(trigger)
    assert trigger.clear()
    assert not rings(trigger, within_ms=0)
    assert trigger.watched == {"stays": 2.0}
    assert trigger.why == "gone is watched no more: its group was removed."
    far.send(b"!", socket.MSG_OOB)
    assert rings(trigger)
    trigger.close()


def test_a_closed_trigger_leaves_no_descriptor_and_no_thread(machine) -> None:
    machine.pressure(0)
    before = open_fds()
    trigger = open_pressure_trigger(machine.proc, machine.cgroup)
    trigger.close()
    trigger.close()
    assert open_fds() == before
    assert trigger.fileno() == -1
    assert not trigger._ear.is_alive()


# With the real kernel.


def needs_triggers() -> None:
    try:
        os.close(pressure._ask(REAL, 1.0)[0])
    except OSError as no:
        pytest.skip(f"no trigger can be set at {REAL}: {no}")


@pytest.mark.real
def test_the_real_machine_is_watched_and_an_idle_one_does_not_ring() -> None:
    needs_triggers()
    trigger = open_pressure_trigger(share=1.0)
    assert str(REAL) in trigger.watched
    assert not rings(trigger, within_ms=0)
    trigger.close()


@pytest.mark.real
def test_two_may_watch_the_same_file() -> None:
    needs_triggers()
    first, second = (open_pressure_trigger(share=1.0) for _ in range(2))
    assert first.watched == second.watched
    first.close()
    second.close()


@pytest.mark.real
@pytest.mark.root
def test_a_real_group_that_is_removed_rings() -> None:
    needs_triggers()
    version2 = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
    roots = [path for path in version2 if (path / "cgroup.controllers").exists()]
    if not roots or os.geteuid() != 0:
        pytest.skip("needs root and a cgroup v2 hierarchy to make a group in")
    group = roots[0] / f"hp-test-pressure-{os.getpid()}"
    group.mkdir()
    try:
        path = group / "memory.pressure"
        trigger = PressureTrigger({str(path): pressure._ask(path, 1.0)})
        assert not rings(trigger, within_ms=0)
    finally:
        group.rmdir()
    assert rings(trigger)
    assert trigger.watched == {}
    trigger.close()


#: Reads 32 MiB of a file through 8 MiB of memory, for ever.
CHURN = """
import mmap, os, sys
group, path = sys.argv[1:]
open(group + "/cgroup.procs", "w").write("0")
fd = os.open(path, os.O_RDWR | os.O_CREAT)
for _ in range(32):
    os.write(fd, bytes(2**20))
pages = mmap.mmap(fd, 2**25, prot=mmap.PROT_READ)
pages.madvise(mmap.MADV_RANDOM)
while True:
    for place in range(0, 2**25, 4096):
        pages[place]
"""


@pytest.mark.real
@pytest.mark.root
@pytest.mark.slow
def test_real_stalls_ring_it_even_while_nobody_waits(tmp_path) -> None:
    """Stalls inside a small version 1 group count for the machine, and harm nobody."""
    needs_triggers()
    memory = Path("/sys/fs/cgroup/memory")
    if os.geteuid() != 0 or not os.access(memory / "cgroup.procs", os.W_OK):
        pytest.skip("needs root and a v1 memory hierarchy to make a group in")
    if subprocess.run(["findmnt", "-nt", "tmpfs", "-T", tmp_path], check=False,
                      capture_output=True).returncode == 0:  # fmt: skip
        pytest.skip(f"{tmp_path} is in memory itself: its pages cannot be reclaimed")
    group = memory / f"hp-test-pressure-{os.getpid()}"
    group.mkdir()
    trigger = open_pressure_trigger(share=0.001)
    words = [sys.executable, "-c", CHURN, str(group), str(tmp_path / "file")]
    process = None
    try:
        (group / "memory.limit_in_bytes").write_text(str(16 * 2**20))
        process = subprocess.Popen(words)
        assert rings(trigger)
        process.send_signal(signal.SIGSTOP)
        assert trigger.clear()
    finally:
        trigger.close()
        if process:
            process.kill()
            process.wait()
        group.rmdir()
