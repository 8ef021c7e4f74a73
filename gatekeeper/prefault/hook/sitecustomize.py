"""What Python runs first in a program started by `gatekeeper --prefault`.

The directory of this file is first in PYTHONPATH then, and site imports the first
sitecustomize it finds.  This one takes itself out of the program's sight, has the
memory taken, and makes room for the program's own sitecustomize, if there is one.

It may be any Python that finds this file, in any environment: so what is imported is
the standard library, and our own packages by their place beside this file, for as
long as it takes.
"""

import importlib
import importlib.util
import os
import sys

_HERE = os.path.dirname(__file__)
_OURS = ("gatekeeper", "holdingpen")


def _disappear() -> None:
    """Leave the path and the environment as they would be without us."""
    sys.path[:] = [place for place in sys.path if place != _HERE]
    sys.path_importer_cache.pop(_HERE, None)
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    rest = [place for place in places if place != _HERE]
    if rest:
        os.environ["PYTHONPATH"] = os.pathsep.join(rest)
    else:
        os.environ.pop("PYTHONPATH", None)


def _take() -> None:
    amount = os.environ.pop("HOLDINGPEN_PREFAULT", "")
    meant_for = os.environ.pop("HOLDINGPEN_PREFAULT_PID", "")
    if meant_for != str(os.getpid()):
        # a child of CMD, which is no Python program
        return
    if sys.version_info < (3, 11):  # noqa: UP036 (it is CMD's Python, not ours)
        raise RuntimeError("it needs Python 3.11 or later")
    descriptor, lease = os.environ["HOLDINGPEN_FD"], os.environ["HOLDINGPEN_LEASE"]
    theirs = _set_aside()
    try:
        for name in _OURS:
            _borrow(name)
        prefault = importlib.import_module("gatekeeper.prefault")
        prefault.fill(int(descriptor), int(lease), int(amount))
    finally:
        _set_aside()
        sys.modules.update(theirs)


def _set_aside() -> dict:  # type: ignore[type-arg]  # no older Python reads more
    """Take what has our names out of the program's modules."""
    names = [name for name in sys.modules if name.partition(".")[0] in _OURS]
    return {name: sys.modules.pop(name) for name in names}


def _borrow(name: str) -> None:
    """Import a package of ours by its place, whatever the path says."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(_HERE)))
    place = os.path.join(root, name)
    spec = importlib.util.spec_from_file_location(
        name,
        os.path.join(place, "__init__.py"),
        submodule_search_locations=[place],
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


def _say(why: Exception) -> None:
    line = "gatekeeper: --prefault failed ({}: {}); the program goes on.\n"
    try:
        os.write(2, line.format(type(why).__name__, why).encode(errors="replace"))
    except OSError:
        return


try:
    _disappear()
    _take()
except Exception as why:
    _say(why)

# The program's own, or the error by which site knows that there is none: what stands
# under our name in sys.modules after this is what the import gives.
del sys.modules[__name__]
importlib.import_module("sitecustomize")
