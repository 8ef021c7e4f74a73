"""What is held back reaches the one it was held for, or who took it is known.

What must hold, and nothing timed; the figures are thief_table.py's.
"""

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "thief_table", Path(__file__).with_name("thief_table.py")
)
assert _spec is not None
assert _spec.loader is not None
table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(table)

pytestmark = [pytest.mark.real, pytest.mark.slow]

MIB = table.MIB
#: The thieves take in steps of 1 MiB, and the pen frees a little of its own meanwhile.
SLACK = 2 * MIB

WAYS = {one.name: one for one in table.HAND_OVERS}
THIEVES = {one.name: one for one in table.THIEVES}


@pytest.fixture(scope="module")
def program():
    """The thief, compiled."""
    if why := table.cannot_run():
        pytest.skip(why)
    with table.compiled() as path:
        yield path


def outcome(program, way: str, thief: str, give_up_s: float):
    if why := table.missing(WAYS[way]) or table.refused(THIEVES[thief]):
        pytest.skip(why)
    one = table.try_out(program, WAYS[way], THIEVES[thief], give_up_s)
    assert one.note == ""
    return one


@pytest.mark.parametrize("thief", ["polite", "greedy"])
def test_what_is_freed_before_the_grant_goes_to_the_thief(program, thief):
    """So it was in 2011, and so the thieves here are real."""
    one = outcome(program, "free", thief, give_up_s=2.0)
    assert one.gained >= 0.8 * table.HOLD
    assert one.took_s is None
    assert one.got < 0.5 * one.wanted


def test_page_cache_takes_it_and_gives_it_back(program):
    one = outcome(program, "free", "churn", give_up_s=30.0)
    assert one.took_s is not None


@pytest.mark.parametrize("way", ["paced", "exact", "memory"])
def test_nobody_takes_more_than_was_promised(program, way):
    """The client gets everything, though a thief takes whatever it sees free."""
    one = outcome(program, way, "polite", give_up_s=30.0)
    assert one.got == one.wanted
    assert one.gained <= WAYS[way].bound + SLACK


@pytest.mark.parametrize("thief", ["greedy", "steady"])
def test_the_held_pages_themselves_cannot_be_taken(program, thief):
    """A thief that gets each freed page gets none, because none is freed."""
    one = outcome(program, "memory", thief, give_up_s=2.0)
    assert one.gained <= SLACK


def test_what_is_paced_loses_a_step_to_the_keenest_and_keeps_the_rest(program):
    """Who gets each freed page gets the first step, and no other is freed."""
    one = outcome(program, "paced", "greedy", give_up_s=2.0)
    assert one.gained <= WAYS["paced"].bound + one.used + SLACK


@pytest.mark.parametrize("way", ["free", "memory"])
def test_without_a_thief_a_client_gets_everything(program, way):
    if why := table.missing(WAYS[way]):
        pytest.skip(why)
    one = table.try_out(program, WAYS[way], None, give_up_s=30.0)
    assert one.note == ""
    assert one.got == one.wanted
    # the kernel may count resident sets to a few pages for each CPU
    assert one.rss >= 0.95 * one.wanted


def test_nothing_is_left_behind(program, monkeypatch):
    """Not by Ctrl-C either."""
    scenes = []

    def interrupted(scene, give_up_s):
        scenes.append(scene)
        raise KeyboardInterrupt

    monkeypatch.setitem(table.try_out.__globals__, "_watch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        table.try_out(program, WAYS["free"], THIEVES["polite"])
    (scene,) = scenes
    assert not scene.machine.cgroup.exists()
    assert not scene.machine.home.exists()
    assert all(one.returncode is not None for one in scene.machine.processes)
