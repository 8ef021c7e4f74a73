"""Hand-over: how what is held back reaches the one it was held for, and how sure.

A client says what he wishes (`as-is`, `program`, `steps`, `descriptor`); the
administrator and the machine say by which *method* each wish is met; the method says
what is promised.

    method     what happens to the ballast                      promise
    free       freed before the grant                           best-effort
    paced      freed as fast as the program grows, no faster    bounded (8 MiB)
    steps      freed when the program says that it is ready     bounded (4 MiB)
    group      in one control group with the program, which     exact
               gets it page by page from the kernel
    pieces     passed to the program as open files              exact
    file       the same, on a disk                              exact
    image      a file system of the lease's own                 exact
    directory  as `paced`, on a disk                            bounded (64 MiB)
    pool       the kernel keeps it apart: huge pages            exact

What others take of a paced lease is made good out of a reserve that is held beside the
books, so the program gets all it was promised for as long as that lasts; after that it
may lack those 8 MiB, and the rest stays held.

Only what was held back, or is prepared whole before the grant, can be promised: if a
lease is bigger than the ballast was, all of it is best-effort.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from holdingpen.amounts import format_amount
from holdingpen.core.facts import Ask
from holdingpen.core.leases import Lease

EXACT: Final = "exact"
BOUNDED: Final = "bounded"
BEST_EFFORT: Final = "best-effort"
NONE: Final = "none"

#: What a client does with it who says nothing.
AS_IS: Final = "as-is"

#: The table's free, of which nothing is kept.
FREE: Final = "free"

MIB = 2**20


class Method(Struct, frozen=True):
    """One way of handing over."""

    promise: str
    #: When bounded: bytes others may take at most.
    bound: int = 0
    #: Whether something must be prepared even if no ballast is there.
    always: bool = False
    #: Whether all of it is there before the grant, ballast or not.
    whole: bool = False
    #: Whether a part can be given back.
    shrinks: bool = True
    #: Whether the daemon must know the client's process.
    needs_pid: bool = False


#: The methods by which ballast stays kept when the lease is granted.
METHODS: Final[Mapping[str, Method]] = {
    "paced": Method(BOUNDED, 8 * MIB, needs_pid=True),
    "steps": Method(BOUNDED, 4 * MIB, always=True),
    "group": Method(EXACT, shrinks=False, needs_pid=True),
    "pieces": Method(EXACT, always=True, shrinks=False),
    "file": Method(EXACT, always=True, whole=True, shrinks=False),
    "image": Method(EXACT, always=True, whole=True, shrinks=False),
    "directory": Method(BOUNDED, 64 * MIB, always=True),
}
_FREE: Final = Method(BEST_EFFORT)
_POOL: Final = Method(EXACT, whole=True)


class Choice(Struct, frozen=True):
    """What the shell chose for one wish on one resource."""

    method: str
    #: One sentence on why it is nothing surer; empty when it is exact.
    why: str = ""
    #: Bytes others may take at most here; 0: as the method says.
    bound: int = 0
    #: What is promised here; empty: what the method does.
    promise: str = ""


#: Resource to wish to choice.
Choices = Mapping[str, Mapping[str, Choice]]


class Assurance(Struct, frozen=True):
    """What a lease was promised, for all of its resources: the least of them."""

    promise: str = NONE
    bound: int = 0
    why: str = ""


_NOTHING: Final = Assurance()
_UNHELD: Final = Assurance(BEST_EFFORT, 0, "nothing was held back")


def unfit(ask: Ask, choices: Choices) -> tuple[str, str] | None:
    """Why a wish cannot be met: a code and a message; None: all can."""
    for name, wish in ask.wishes.items():
        if name not in ask.amounts or wish in (AS_IS, "program"):
            continue
        if wish not in choices.get(name, {}):
            return "bad-request", (
                f"{name} cannot be handed over as {wish!r} here. Ask for it without "
                "that, or see [ram] handover and the [disk.NAME] tables."
            )
    return None


def choose(ask: Ask, drawn: dict[str, int], choices: Choices) -> dict[str, str]:
    """Method for each resource of which something stays kept.

    Args:
        ask: the request; its wishes fit.
        drawn: resource to ballast it draws; grows by those to be prepared, at 0.
        choices: what the shell chose.
    """
    how = {}
    for name in ask.amounts:
        if name not in choices:
            continue
        choice = _choice(ask, name, choices)
        method = METHODS.get(choice.method)
        if method is None or (method.needs_pid and not ask.who.pid):
            continue
        if method.always:
            drawn.setdefault(name, 0)
        if name in drawn:
            how[name] = choice.method
    return how


def _choice(ask: Ask, name: str, choices: Choices) -> Choice:
    """How `ask` is met; a wish that `name` knows no answer to is the usual one."""
    return choices[name].get(ask.wishes.get(name, AS_IS), choices[name][AS_IS])


def assurance(lease: Lease, choices: Choices) -> Assurance:
    """What `lease` is promised."""
    if lease.reservation:
        # what it holds is held for whoever draws on it, and nobody had it handed over
        return _NOTHING
    least = _NOTHING
    for name, amount in lease.amounts.items():
        if name not in choices:
            continue
        there = lease.drawn.get(name, 0)
        choice = _choice(lease.ask, name, choices)
        method = _method(lease, name, choice)
        if choice.promise:
            found = Assurance(choice.promise, 0, choice.why)
        elif not method.whole and there < amount:
            found = _UNHELD
            if there:
                why = f"only {format_amount(name, there)} of the {name} was held back"
                found = Assurance(BEST_EFFORT, 0, why)
        else:
            why = "" if method.promise == EXACT else choice.why
            why = lease.fallen.get(name, why)
            bound = (choice.bound or method.bound) if method.bound else 0
            found = Assurance(method.promise, bound, why)
        if least is _NOTHING or _is_less(found, least):
            least = found
    return least


def _is_less(one: Assurance, other: Assurance) -> bool:
    if one.promise != other.promise:
        return _ORDER.index(one.promise) > _ORDER.index(other.promise)
    return one.bound > other.bound


_ORDER: Final = (NONE, EXACT, BOUNDED, BEST_EFFORT)


def _method(lease: Lease, name: str, choice: Choice) -> Method:
    if choice.method == "pool":
        return _POOL
    return METHODS.get(lease.how.get(name, FREE), _FREE)
