"""Who may do what.  Identity is what the kernel said of the connection.

Part of the law in model.md 12 and 15: the owner of a lease and the operators may
end it; only operators change the machine; how much one user may hold and how many
places he may take in the line is limited, so that nobody can shut the others out.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from holdingpen.core.facts import Who
from holdingpen.core.handover import AS_IS, FREE, Choice


class Rules(Struct, frozen=True):
    """What the administrator decided; judging reads it, facts never depend on it."""

    #: Users who may order about others' leases and the machine.
    operators: frozenset[int] = frozenset({0})
    #: What a request without amounts gets: resource to bytes or units.
    share: dict[str, int] = {}
    #: Leases (granted or promised) one user may hold at once.
    leases_per_user_max: int = 20_000
    #: Places one user may have in the line at once.
    waiting_per_user_max: int = 20_000
    #: Whether a request with a known length may pass those it cannot delay.
    backfill: bool = True
    #: Resource to wish to how that is met; ram is freed unless it is said here.
    handover: Mapping[str, Mapping[str, Choice]] = field(
        default_factory=lambda: {"ram": {AS_IS: Choice(FREE)}}
    )
    #: Resources whose ballast is given up when programs wait for memory.
    yields: frozenset[str] = frozenset()


def is_operator(who: Who, rules: Rules) -> bool:
    """Whether `who` may order about others' leases and the machine."""
    return who.uid in rules.operators


def may_end(who: Who, owner_uid: int, rules: Rules) -> bool:
    """Whether `who` may end a lease of `owner_uid`."""
    return who.uid == owner_uid or is_operator(who, rules)
