"""The main job, with real memory in a real memory cgroup."""

import importlib.util
import signal
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "main_job", Path(__file__).with_name("main_job.py")
)
assert _spec is not None
assert _spec.loader is not None
main_job = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(main_job)


def _no_cgroup() -> str:
    try:
        main_job.Machine(main_job.MACHINE, "").end()
    except OSError as why:
        return f"no memory cgroup can be made here: {why}"
    return ""


@pytest.mark.real
@pytest.mark.slow
def test_a_program_gets_its_memory_on_a_full_machine(capsys):
    """MATLAB starts in front of the class although the machine is full."""
    if why := _no_cgroup():
        pytest.skip(why)
    with capsys.disabled():
        outcome = main_job.main_job()

    assert outcome.bare == -signal.SIGKILL
    assert outcome.leased == 0
    assert outcome.said == "numpy filled 200 MiB"
    assert outcome.held_before == main_job.HOLD
    assert outcome.held_after >= main_job.HOLD - 32 * main_job.MIB
