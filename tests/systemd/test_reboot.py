"""A machine that is booted anew: what was to outlive that is there, and no more.

The second machine has the first one's /var/lib/holdingpen, and a boot_id of its own.
"""

from __future__ import annotations

import importlib.util
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from holdingpen.client.blocking import connect


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"rebooted_{name}", Path(__file__).with_name(f"{name}.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


machine = _load("machine")
Worker = _load("worker").Worker

pytestmark = [pytest.mark.real, pytest.mark.root, pytest.mark.slow]

STATE = "/var/lib/holdingpen"
HELD = 2**26
CONFIG = """\
[ram]
capacity = "1G"
hold = "64M"
keep = 0
[resources]
seat = 10
"""


class Boot:
    """The service in a machine that has just been booted."""

    def __init__(self, state: Path) -> None:
        self.machine = machine.Machine()
        shared = self.machine.shared
        (shared / "boot_id").write_text(f"{uuid.uuid4()}\n")
        real = "/proc/sys/kernel/random/boot_id"
        self.machine.run("mount", "--bind", str(shared / "boot_id"), real)
        self.machine.write("/etc/holdingpen.toml", CONFIG)
        if state.exists():
            shutil.copytree(state, shared / "state")
            self.machine.run("cp", "-a", str(shared / "state"), STATE)
        self.machine.run("systemctl", "start", "holdingpen.service")
        self.path = self.machine.outside("/run/holdingpen.socket")

    def halt(self, state: Path) -> None:
        """Cut its power, and keep its disk."""
        shutil.copytree(self.machine.outside(STATE), state)
        self.machine.close()


@pytest.fixture
def boots(tmp_path: Path) -> Iterator[list[Boot]]:
    if why := machine.why_not():
        pytest.skip(why)
    boots: list[Boot] = []
    yield boots
    for boot in boots:
        boot.machine.close()


def test_reservations_and_orders_are_there_and_leases_are_over(boots, tmp_path):
    boots.append(Boot(tmp_path / "state"))
    worker = Worker(boots[0].path, {"seat": 1})
    with connect(boots[0].path) as conn:
        # what is reserved is then a part of it
        machine.until(lambda: conn.status().resources["ram"].held == HELD, "it is held")
        (now,) = conn.reserve({"ram": 2**24, "seat": 2}, 7200.0).leases
        conn.set_capacity("seat", 8)
        conn.drain("the disks are changed")
        kept = {now: conn.extend(now, 60.0).expires}
    machine.until(lambda: worker.granted, "it has a lease")
    boots[0].halt(tmp_path / "state")
    worker.stop()

    boots.append(Boot(tmp_path / "state"))
    with connect(boots[1].path) as conn:
        status = conn.status()
        assert {x.id: x.expires for x in status.leases} == kept
        assert status.resources["seat"].capacity == 8
        assert status.drain == "the disks are changed"
        assert conn.story(worker.lease).why_ended == "daemon-restarted"
        conn.undrain()
        # what is reserved is held by itself, and the rest beside it
        rest = HELD - 2**24
        machine.until(lambda: conn.status().resources["ram"].held == rest, "it is held")
