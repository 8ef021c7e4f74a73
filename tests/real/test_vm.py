"""The virtual machine that other tests run in."""

import importlib.util
import shutil
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "vm_run", Path(__file__).with_name("vm") / "run.py"
)
assert _spec is not None
assert _spec.loader is not None
vm = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(vm)

SCRIPT = """
echo swap $(awk 'END {{ print $2 }}' /proc/swaps)
echo disk $(blockdev --getsize64 /dev/scratch)
echo groups $(cat /sys/fs/cgroup/cgroup.controllers)
python -c "import holdingpen; print('file', holdingpen.__file__)"
echo written >{path}; cat {path}
exit 7
"""


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("kernel", vm.KERNELS)
def test_a_script_runs_and_leaves_nothing(kernel, tmp_path):
    if why := vm.why_not(kernel):
        pytest.skip(why)
    path = tmp_path / "file"
    machine = vm.Machine(kernel, memory_mb=600, swap_mb=64, disk_mb=8)
    status, said, console = machine.run(SCRIPT.format(path=path), timeout_s=120)
    found = dict(line.partition(" ")[::2] for line in said.splitlines())
    assert status == 7, console
    assert found["disk"] == str(8 * 2**20)
    assert found["swap"].startswith("partition")
    assert {"memory", "cpu"} <= set(found["groups"].split())
    assert Path(found["file"]).parts[-2:] == ("holdingpen", "__init__.py")
    assert "written" in found
    assert not path.exists()


def test_without_the_tools_it_says_which_are_missing(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    assert "qemu-system-x86_64" in vm.why_not("6.1")


def test_a_cache_of_somebody_elses_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("HOLDINGPEN_VM_CACHE", str(tmp_path))
    monkeypatch.setattr(vm.os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    assert "belongs to somebody else" in vm.why_not("6.1")
