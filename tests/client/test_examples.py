"""What the documentation shows is what happens."""

import doctest
import inspect

import pytest

import holdingpen
from holdingpen.client import asking, awaited, file, memory
from holdingpen.client import lease as blocking_lease

MODULES = (asking, awaited, blocking_lease, file, memory)
FINDER = doctest.DocTestFinder(exclude_empty=True)
EXAMPLES = [
    example for module in MODULES for example in FINDER.find(module) if example.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_shows_what_happens(example, granting):
    said = []
    example.globs = {}
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert "".join(said) == ""


def test_there_are_examples_of_every_way_in():
    documented = {example.name.rpartition(".")[2] for example in EXAMPLES}
    assert documented == {
        "lease", "try_lease", "status", "Lease", "AsyncLease",
        "memory", "LeaseMemory", "asarray", "file", "LeaseFile",
    }  # fmt: skip


def test_trying_takes_what_a_lease_takes_but_for_waiting():
    takes = inspect.signature(holdingpen.lease).parameters.keys()
    tries = inspect.signature(holdingpen.try_lease).parameters.keys()
    assert takes - tries == {"wait", "on_waiting"}
    assert tries <= takes
