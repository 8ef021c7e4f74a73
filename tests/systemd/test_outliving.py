"""The real daemon under a real systemd: what survives kill -9, a hang, a restart.

    python tests/systemd/test_outliving.py [ROUNDS [CLIENTS]]

prints how many leases were lost and doubled, and the longest pause of a client;

    python tests/systemd/test_outliving.py --restore [LEASES]

how long it takes to keep so many, and until the next daemon has all of them.
"""

from __future__ import annotations

import importlib.util
import random
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import trio

import holdingpen
from holdingpen.client.blocking import connect
from holdingpen.client.finding import dial
from holdingpen.wire import messages as wire
from holdingpen.wire.session import ClientSession, encode


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"booted_{name}", Path(__file__).with_name(f"{name}.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


machine = _load("machine")
Worker = _load("worker").Worker

pytestmark = [pytest.mark.real, pytest.mark.root, pytest.mark.slow]

SOCKET = "/run/holdingpen.socket"
SERVICE = "holdingpen.service"
CONFIG = """\
[ram]
capacity = "1G"
hold = "192M"
keep = 0
handover = "paced"
[resources]
seat = 40
licence = 1000
ticket = 10000
"""


MIB = 2**20
#: What is held when all is.
HELD = 192 * MIB


class Pen:
    """The service in its machine."""

    def __init__(self) -> None:
        self.machine = machine.Machine()
        self.machine.write("/etc/holdingpen.toml", CONFIG)
        self.machine.run("systemctl", "start", "holdingpen.socket")
        self.path = self.machine.outside(SOCKET)

    def kill(self, signal: str = "KILL") -> None:
        """Kill the daemon, which may be starting."""
        machine.until(lambda: self.machine.show(SERVICE, "MainPID") != "0", "started")
        words = [f"--signal={signal}", "--kill-whom=main", SERVICE]
        self.machine.run("systemctl", "kill", *words)

    def status(self) -> wire.Status:
        with connect(self.path) as conn:
            return conn.status()

    def ram(self) -> wire.Books:
        return self.status().resources["ram"]

    def close(self) -> None:
        self.machine.close()


@pytest.fixture(scope="module")
def pen():
    if why := machine.why_not():
        pytest.skip(why)
    one = Pen()
    yield one
    one.close()


def outlive(pen: Pen, rounds: int, clients: int) -> dict:
    """Kill the daemon again and again under load; what came of it.

    It is killed when it has answered everybody once more, a moment later: at most as
    long as that took, so that it is killed at anything it does.
    """
    dice = random.Random(1)
    with connect(pen.path) as conn:
        reserved = conn.reserve({"licence": 100}, 3600.0)
        booked = conn.reserve({"licence": 100}, 3600.0, starts=[time.time() + 7200])
    workers = [
        Worker(pen.path, {"seat": 1, "licence": 1} if n % 3 else {"seat": 1})
        for n in range(clients)
    ]
    machine.until(lambda: all(x.lease for x in workers), "all have a lease or a place")
    before = {x.lease for x in workers}
    outages_s = []
    for _ in range(rounds):
        began_s = time.monotonic()
        pen.kill()
        then = [len(x.answered) for x in workers]
        machine.until(
            lambda then=then: all(
                x.failure or len(x.answered) > n + 1
                for x, n in zip(workers, then, strict=True)
            ),
            "everybody is answered",
        )
        outages_s.append(time.monotonic() - began_s)
        time.sleep(dice.uniform(0.0, outages_s[-1]))
    machine.until(lambda: len(pen.status().leases) >= clients, "it serves again")
    there = {x.id: x for x in pen.status().leases}
    for worker in workers:
        worker.stop()
    expected = before | set(reserved.leases) | set(booked.leases)
    pauses = sorted(x.pause_s for x in workers)
    found = {
        "rounds": rounds,
        "clients": clients,
        "lost": len(expected - there.keys()),
        "doubled": len(there.keys() - expected) + sum(x.doubled for x in workers),
        "errors": [str(x.failure) for x in workers if x.failure],
        "answers": sum(len(x.answered) for x in workers),
        "worst_pause_ms": round(pauses[-1] * 1000),
        "median_worst_ms": round(pauses[len(pauses) // 2] * 1000),
    }
    with connect(pen.path) as conn:
        for lease in (*reserved.leases, *booked.leases):
            conn.release(lease)
    return found


def restore(pen: Pen, count: int) -> dict:
    """Kill a daemon that has `count` leases; how long until all are back."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    began_s = time.monotonic()
    clients = []
    for _ in range(count):
        sock, _ = dial(pen.path)
        session = ClientSession()
        ask = wire.Acquire(1, {"ticket": 1})
        sock.sendall(session.hello("one of many") + encode(ask))
        heard: list[wire.Reply] = []
        while not any(isinstance(x, wire.Granted) for x in heard):
            heard += session.receive(sock.recv(65536))
        clients.append((sock, heard[-1].lease))
    kept_s = time.monotonic() - began_s
    began_s = time.monotonic()
    pen.kill()
    there = {x.id for x in pen.status().leases}
    back_s = time.monotonic() - began_s
    mine = {lease for _sock, lease in clients}
    for sock, _lease in clients:
        sock.close()
    machine.until(lambda: not pen.status().leases, "all are gone")
    return {
        "leases": count,
        "lost": len(mine - there),
        "doubled": len(there - mine),
        "kept_s": round(kept_s, 1),
        "back_s": round(back_s, 2),
    }


def test_more_leases_than_select_has_descriptors_are_restored(pen):
    found = restore(pen, 1100)
    assert (found["lost"], found["doubled"]) == (0, 0)


def test_no_lease_is_lost_or_doubled_when_the_daemon_is_killed(pen):
    found = outlive(pen, rounds=10, clients=50)
    assert (found["lost"], found["doubled"], found["errors"]) == (0, 0, [])
    machine.until(lambda: not pen.status().leases, "all are gone with their clients")


@pytest.fixture
def slow_to_return(pen):
    """A pen whose next daemon comes after a second: so long there is none."""
    path = f"/run/systemd/system/{SERVICE}.d/slow.conf"
    pen.machine.write(path, "[Service]\nRestartSec=1s\n")
    pen.machine.run("systemctl", "daemon-reload")
    machine.until(lambda: pen.ram().held == HELD, "all is held")
    yield pen
    pen.machine.run("rm", path)
    pen.machine.run("systemctl", "daemon-reload")


def shared_bytes() -> int:
    """Memory of files in RAM, of this whole machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    words = dict(line.split(":") for line in lines)
    return int(words["Shmem"].split()[0]) * 1024


def test_ballast_is_held_while_there_is_no_daemon(slow_to_return):
    """And what was kept for a lease, and the files that one was lent, are theirs."""
    pen = slow_to_return
    program = "import time; print('on', flush=True); input()"
    words = ["gatekeeper", "--ram", "64M", sys.executable, "-c", program]
    with (
        holdingpen.lease(ram="64M", memory=True, socket=pen.path) as lease,
        subprocess.Popen(
            pen.machine.inside(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as paced,
    ):
        memory = lease.memory()
        memory[:6] = b"secret"
        assert paced.stdout.readline() == b"on\n"
        machine.until(lambda: pen.ram().held == HELD - 128 * MIB, "both have theirs")
        before = {x.id: (x.handover, x.kept) for x in pen.status().leases}
        there = shared_bytes()
        pen.kill()
        machine.until(
            lambda: pen.machine.show(SERVICE, "SubState") == "auto-restart", "none"
        )
        assert shared_bytes() > there - 16 * MIB
        status = pen.status()
        ram = status.resources["ram"]
        assert (ram.held, ram.hold) == (HELD - 128 * MIB, HELD)
        after = {x.id: (x.handover, x.kept) for x in status.leases}
        (own,) = [x for x in status.leases if x.id == lease.id]
        assert (own.handover, own.kept) == ("exact", {"ram": 64 * MIB})
        assert {x: kept[0] for x, kept in before.items()} == {
            x: kept[0] for x, kept in after.items()
        }
        assert memory[:6] == b"secret"
        paced.communicate(b"\n", timeout=machine.PATIENCE_S)
        assert paced.returncode == 0
    del memory
    machine.until(lambda: pen.ram().held == HELD, "all is held again")


def test_python_s_clients_see_a_pause_at_most(pen):
    """Blocking and under trio, with a lease and in the line."""

    async def with_trio(holder):
        async with trio.open_nursery() as nursery:

            async def wait():
                all_of_them = holdingpen.lease(resources={"seat": 40}, socket=pen.path)
                async with all_of_them as lease:
                    await lease.shrink(seat=39)
                    assert lease.amounts == {"seat": 1}

            nursery.start_soon(wait)
            waits = lambda: any(x.place for x in pen.status().leases)  # noqa: E731
            await trio.to_thread.run_sync(machine.until, waits, "it waits")
            pen.kill()
            holder.shrink(seat=2)
            assert holder.amounts == {"seat": 1}
            pen.kill()
            holder.release()

    with holdingpen.lease(resources={"seat": 3}, socket=pen.path) as lease:
        pen.kill()
        trio.run(with_trio, lease)
    machine.until(lambda: not pen.status().leases, "all are given back")


def test_a_restart_of_service_and_socket_together_loses_nothing(pen):
    worker = Worker(pen.path, {"seat": 1})
    machine.until(lambda: worker.granted, "granted")
    pen.machine.run("systemctl", "restart", "holdingpen.socket", SERVICE)
    pen.machine.run("systemctl", "daemon-reexec")
    pen.machine.run("systemctl", "restart", SERVICE)
    assert [x.id for x in pen.status().leases] == [worker.lease]
    worker.stop()
    assert worker.failure is None


def test_who_goes_while_there_is_no_daemon_is_gone(pen):
    worker = Worker(pen.path, {"seat": 1})
    machine.until(lambda: worker.granted, "granted")
    pen.kill()
    # a thread of ours still reads from it
    worker._socket.shutdown(socket.SHUT_RDWR)
    worker.stop()
    machine.until(lambda: not pen.status().leases, "gone")


@pytest.fixture
def hasty(pen):
    """A watchdog that does not wait for half a minute."""
    path = f"/run/systemd/system/{SERVICE}.d/hasty.conf"
    pen.machine.write(path, "[Service]\nWatchdogSec=2s\n")
    pen.machine.run("systemctl", "daemon-reload")
    pen.machine.run("systemctl", "restart", SERVICE)
    yield pen
    pen.machine.run("rm", path)
    pen.machine.run("systemctl", "daemon-reload")


def test_a_daemon_that_hangs_is_replaced_and_leases_go_on(hasty):
    worker = Worker(hasty.path, {"seat": 1})
    machine.until(lambda: worker.granted, "granted")
    before = hasty.machine.show(SERVICE, "MainPID")
    hasty.kill("STOP")
    machine.until(
        lambda: hasty.machine.show(SERVICE, "MainPID") not in ("0", before), "replaced"
    )
    assert [x.id for x in hasty.status().leases] == [worker.lease]
    worker.stop()
    assert worker.failure is None


def test_a_reload_keeps_leases_and_the_daemon(pen):
    worker = Worker(pen.path, {"seat": 1})
    machine.until(lambda: worker.granted, "granted")
    before = pen.machine.show(SERVICE, "MainPID")
    pen.machine.run("systemctl", "reload", SERVICE)
    assert pen.machine.show(SERVICE, "MainPID") == before
    assert [x.id for x in pen.status().leases] == [worker.lease]
    worker.stop()
    assert worker.failure is None


def test_restarts_under_load_lose_nothing(pen):
    workers = [Worker(pen.path, {"seat": 1}) for _ in range(20)]
    machine.until(lambda: all(x.granted for x in workers), "granted")
    for _ in range(3):
        pen.machine.run("systemctl", "restart", SERVICE)
    assert {x.id for x in pen.status().leases} == {x.lease for x in workers}
    for worker in workers:
        worker.stop()
    assert [x.failure for x in workers if x.failure] == []


@pytest.mark.parametrize("options", [[], ["--stay"]], ids=["plain", "--stay"])
def test_a_program_runs_on_and_its_lease_ends_with_it(pen, options):
    words = ["gatekeeper", *options, "--res", "seat=1", "sh", "-c", "echo on; read x"]
    with subprocess.Popen(
        pen.machine.inside(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout.readline() == b"on\n"
        (lease,) = pen.status().leases
        pen.kill()
        assert [x.id for x in pen.status().leases] == [lease.id]
        assert program.poll() is None
        program.communicate(b"\n", timeout=machine.PATIENCE_S)
        assert program.returncode == 0
    machine.until(lambda: not pen.status().leases, "gone with its program")


def test_a_waiting_gatekeeper_is_granted_by_the_next_daemon(pen):
    with connect(pen.path) as holder:
        lease = holder.acquire({"seat": 40}).lease
        words = pen.machine.inside("gatekeeper", "--res", "seat=1", "echo", "mine")
        with subprocess.Popen(words, stdout=subprocess.PIPE) as waiter:
            machine.until(lambda: len(pen.status().leases) == 2, "it waits")
            pen.kill()
            holder.release(lease)
            out, _ = waiter.communicate(timeout=machine.PATIENCE_S)
        assert (waiter.returncode, out) == (0, b"mine\n")


if __name__ == "__main__":
    words = sys.argv[1:]
    measure, usual = outlive, [100, 50]
    if words[:1] == ["--restore"]:
        measure, usual = restore, [4000]
        del words[0]
    service = Pen()
    try:
        print(measure(service, *(map(int, words) if words else usual)))
    finally:
        service.close()
