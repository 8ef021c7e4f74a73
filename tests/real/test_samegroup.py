"""The same-group hand-over, in a machine with cgroup v2 that others fill."""

import importlib.util
import json
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "vm_run", Path(__file__).with_name("vm") / "run.py"
)
assert _spec is not None
assert _spec.loader is not None
vm = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(vm)

pytestmark = [pytest.mark.real, pytest.mark.slow]

SCENE = Path(__file__).with_name("vm") / "same_group.py"
#: MiB the lease has, and its program takes.
AMOUNT, CLIENT = 300, 308
#: MiB by which the page cache of a full machine comes and goes: 3 to 7 measured.
COMES_AND_GOES = 16


@pytest.fixture(params=list(vm.KERNELS))
def kernel(request):
    """Linux 6.1 spreads what is too much of memory.min over all groups."""
    if why := vm.why_not(request.param):
        pytest.skip(why)
    return request.param


def play(kernel, *scenes, disk_mb=0):
    """Play scenes in one machine; what came of each."""
    script = "\n".join(f"python {SCENE} {scene}" for scene in scenes)
    said = vm.run_in_vm(script, kernel=kernel, timeout_s=400, disk_mb=disk_mb)
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    ("scene", "disk_mb"),
    [("polite beside", 0), ("greedy whole", 0), ("churn whole", 1500)],
)
def test_the_program_gets_all_and_the_thief_nothing(kernel, scene, disk_mb):
    """Whether he takes what he sees free, never stops, or fills the page cache."""
    (out,) = play(kernel, scene, disk_mb=disk_mb)
    assert out["over"] == [[1, "spent"]], out
    assert (out["client"], out["handed"]) == (CLIENT, AMOUNT), out
    # per-processor counters are up to 1 MiB late
    assert out["lowest"] >= out["current"] - 1, out
    if "greedy" not in scene:
        most = COMES_AND_GOES if "churn" in scene else 0
        assert out["thief_gained"] <= most, out
        assert out["thief_alive"], out
    assert (out["high_after"], out["min_after"]) == ("max", AMOUNT), out
    assert (out["left"], out["left_later"], out["min_above_after"]) == (1, 0, 0), out


def test_it_goes_on_without_its_daemon_and_under_the_next(kernel):
    (out,) = play(kernel, "polite heir")
    assert (out["fed"], out["over"]) == ([1], [[1, "spent"]]), out
    assert (out["client"], out["handed"]) == (CLIENT, AMOUNT), out
    assert out["lowest"] >= AMOUNT, out
    assert out["thief_gained"] <= COMES_AND_GOES, out
    assert (out["high_after"], out["min_after"]) == ("max", AMOUNT), out
    assert (out["left_later"], out["min_above_after"]) == (0, 0), out


def test_without_a_lease_there_is_no_group(kernel):
    """What durations are compared with, in a machine whose clock says little."""
    (bare,) = play(kernel, "none bare")
    assert (bare["client"], bare["groups"]) == (CLIENT, []), bare
    assert bare["took_s"] > 0


def test_nobody_is_slowed_down_for_ever(kernel):
    """Not when the program is gone, nor when the helper or the daemon is killed."""
    gone, killed, orphan = play(kernel, "none gone", "none killed", "none orphan")
    assert gone["groups"] == []
    assert "has ended" in gone["refused"]
    assert (killed["over"], killed["high_after"]) == ([[1, "died"]], "max"), killed
    assert (killed["client"], orphan["client"]) == (CLIENT, CLIENT)
    assert orphan["high_after"] == "max"
    assert (orphan["min_left"] > AMOUNT, orphan["min_above_after"]) == (True, 0)
    assert (orphan["left"], orphan["left_later"]) == (1, 0), orphan
