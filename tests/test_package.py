"""The package itself: cheap to import, and everything it names is there."""

import subprocess
import sys

import pytest

import holdingpen

HEAVY = ("msgspec", "trio", "asyncio", "socket", "typing", "importlib.metadata")


def loaded(program):
    """Which of the heavy modules a program has imported at its end."""
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; {program}; "
        f"print(*(name for name in {HEAVY} if name in sys.modules))"
    )
    words = [sys.executable, "-I", "-S", "-c", program]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_it_costs_nothing():
    """gatekeeper comes through it on its 7 ms way."""
    assert loaded("import holdingpen, holdingpen.amounts") == set()


@pytest.mark.slow
def test_only_who_runs_trio_or_asyncio_has_it_imported():
    assert not {"trio", "asyncio"} & loaded("import holdingpen; holdingpen.lease")


@pytest.mark.parametrize("name", holdingpen.__all__)
def test_what_it_names_is_there(name):
    assert getattr(holdingpen, name).__name__ == name


def test_it_lists_what_it_will_fetch():
    assert set(holdingpen.__all__) <= set(dir(holdingpen))
    assert set(holdingpen.__all__) == set(holdingpen._WHERE)


def test_what_it_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'leese'"):
        holdingpen.leese  # noqa: B018
