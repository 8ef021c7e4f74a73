"""Who may do what.  Identity is what the kernel said of the connection.

Part of the law in model.md 12 and 15: the owner of a lease and the operators may
end it; only operators change the machine; how much one user may hold and how many
places he may take in the line is limited, so that nobody can shut the others out.

What a user may ask for is his allowance.  An operator's has no limits.  Without any
[[allow]] rule nobody's has; else the first rule that names the user is his, and whom
none names may ask only when he sits at the machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from msgspec import Struct, field

from holdingpen.amounts import format_amount
from holdingpen.core.facts import MACHINE, Ask, Who
from holdingpen.core.handover import AS_IS, FREE, Choice
from holdingpen.durations import format_duration

OWN: Final = "own"
ANY: Final = "any"


class Allow(Struct, frozen=True):
    """One [[allow]] rule: for whom, and what he may."""

    #: How a refusal calls it: `[[allow]] rule 2 (group = "teaching")`.
    name: str
    #: Of these users or groups; both empty: everybody.
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    #: Resource to bytes or units he may hold at once; unnamed: no limit of his own.
    #: `disk` counts all disks together; `machine` is 0 when he may never have it all.
    most: dict[str, int] = {}
    #: Longest reservation, and longest length a request may state, in seconds.
    time_max_s: float | None = None
    priority_max: int | None = None
    #: Whether he may reserve.
    reserve: bool = True
    #: Whose leases he may end: own or any.
    end: str = OWN


#: Who needs no rule, and how he is called.
OPERATOR: Final = Allow("an operator", end=ANY)
SEATED: Final = Allow("who sits at the machine")
ANYBODY: Final = Allow("everybody, as there is no [[allow]] rule")

NOBODY: Final[frozenset[int]] = frozenset()
#: What is held at all is taken to be held so long, in seconds, whatever was said.
LENGTH_MIN_S: Final = 1.0


class Rules(Struct, frozen=True):
    """What the administrator decided; judging reads it, facts never depend on it."""

    #: Users and groups who may order about others' leases and the machine.
    operators: frozenset[int] = frozenset({0})
    operator_groups: frozenset[int] = frozenset()
    #: The first that names the user counts; none at all: everybody may ask.
    allow: tuple[Allow, ...] = ()
    #: The priority of who sits at the machine, at least.
    seat_priority: int = 100
    #: Whether what he asked for there is ended when he has logged out.
    seat_ends: bool = False
    #: What a request without amounts gets: resource to bytes or units.
    share: dict[str, int] = {}
    #: Leases (granted or promised) one user may hold at once.
    leases_per_user_max: int = 20_000
    #: Places one user may have in the line at once.
    waiting_per_user_max: int = 20_000
    #: Whether a request with a known length may pass those it cannot delay.
    backfill: bool = True
    #: Seconds in the line that count as one priority; None: waiting counts nothing.
    ageing_s: float | None = None
    #: Who was asked back has so many seconds; then he is shown, and if `reclaim_ends`
    #: his lease is ended.
    reclaim_grace_s: float = 60.0
    reclaim_ends: bool = False
    #: A reservation that nothing draws on for so many seconds is shown as idle, and if
    #: `idle_ends` it is ended; None: never.
    idle_after_s: float | None = None
    idle_ends: bool = False
    #: How long a request without a stated length is taken to last, in seconds, when
    #: reservations ahead are planned around.
    assume_s: float = 3600.0
    #: So many seconds before its begin a reservation gathers what it needs.
    ready_before_s: float = 300.0
    #: Resource to wish to how that is met; ram is freed unless it is said here.
    handover: Mapping[str, Mapping[str, Choice]] = field(
        default_factory=lambda: {"ram": {AS_IS: Choice(FREE)}}
    )
    #: Resources whose ballast is given up when programs wait for memory.
    yields: frozenset[str] = frozenset()

    def expected_s(self, ask: Ask) -> float:
        """How long a request is taken to last, in seconds: as long as it said."""
        length_s = self.assume_s if ask.length_s is None else ask.length_s
        return max(length_s, LENGTH_MIN_S)


def is_operator(who: Who, rules: Rules, groups: AbstractSet[int] = NOBODY) -> bool:
    """Whether `who` may order about others' leases and the machine.

    Args:
        who: as the kernel says.
        rules: what the administrator decided.
        groups: those of `who` besides his own gid.
    """
    return who.uid in rules.operators or _in_any(who, groups, rules.operator_groups)


def may_end(
    who: Who, owner_uid: int, rules: Rules, groups: AbstractSet[int] = NOBODY
) -> bool:
    """Whether `who` may end a lease of `owner_uid`.

    Args:
        who: as the kernel says.
        owner_uid: whose lease it is.
        rules: what the administrator decided.
        groups: those of `who` besides his own gid.
    """
    if who.uid == owner_uid or is_operator(who, rules, groups):
        return True
    rule = _rule(who, groups, rules)
    return rule is not None and rule.end == ANY


def allowance(
    who: Who, groups: AbstractSet[int], seated: bool, rules: Rules
) -> Allow | None:
    """What `who` may ask for; None: nothing.

    Args:
        who: as the kernel says.
        groups: those of `who` besides his own gid.
        seated: whether he sits at the machine; a rule that names him counts first.
        rules: what the administrator decided.
    """
    if is_operator(who, rules, groups):
        return OPERATOR
    if not rules.allow:
        return ANYBODY
    rule = _rule(who, groups, rules)
    return SEATED if rule is None and seated else rule


def not_allowed(
    ask: Ask,
    allow: Allow | None,
    held: Mapping[str, int],
    length_s: float | None = None,
    reservation: bool = False,
) -> tuple[str, str] | None:
    """Why the allowance does not cover a request: a code and a message; None: it does.

    Args:
        ask: the request, complete, with the priority its client gave it.
        allow: see `allowance`.
        held: resource to bytes or units this user holds and waits for already.
        length_s: how long it is to last, in seconds; None: unknown, or, of a
            reservation, without an end.
        reservation: whether it is for a reservation.

    Returns:
        The code is `not-permitted` for what he may never have, and `limit` for what
        is too much only together with what he has.
    """
    if allow is None:
        return "not-permitted", (
            f"no [[allow]] rule names you (user {ask.who.uid}) or a group of yours, so "
            "you may ask for nothing here. Ask the administrator for a rule."
        )
    if reservation and not allow.reserve:
        return "not-permitted", (
            f"{allow.name} does not let you reserve. Ask for a lease that ends with "
            "your program (gatekeeper), or ask the administrator for reserve = true."
        )
    if allow.priority_max is not None and ask.priority > allow.priority_max:
        return "not-permitted", (
            f"asked priority {ask.priority}; {allow.name} lets you have "
            f"{allow.priority_max} at most. Ask with --priority {allow.priority_max}, "
            "or ask the administrator to raise its priority_max."
        )
    if length_s is not None or reservation:
        problem = too_long(length_s, allow)
        if problem is not None:
            return problem
    return _too_much(ask.amounts, allow) or _too_much_together(ask, allow, held)


def too_long(length_s: float | None, allow: Allow) -> tuple[str, str] | None:
    """Why nothing may last so long: a code and a message; None: it may.

    Args:
        length_s: in seconds, from first to last; None: without an end.
        allow: see `allowance`.
    """
    if allow.time_max_s is None:
        return None
    if length_s is None:
        asked = "asked for a time without an end"
    elif length_s > allow.time_max_s:
        # both may look the same when rounded, but not what is between them
        over = format_duration(math.ceil(length_s - allow.time_max_s))
        asked = f"asked for {format_duration(length_s)}, {over} too long"
    else:
        return None
    return "not-permitted", (
        f"{asked}; {allow.name} lets you have {format_duration(allow.time_max_s)} at "
        "most. Ask for less time, or ask the administrator to raise its time_max."
    )


def _too_much(amounts: Mapping[str, int], allow: Allow) -> tuple[str, str] | None:
    for name, most in allow.most.items():
        asked = _sum(name, amounts)
        if asked <= most:
            continue
        if name == MACHINE:
            return "not-permitted", (
                f"{allow.name} does not let you have the machine to yourself. Ask for "
                "a part of it, or ask the administrator to raise its max.machine."
            )
        over = format_amount(name, asked - most)
        return "not-permitted", (
            f"asked {format_amount(name, asked)} {name}, {over} too much; {allow.name} "
            f"lets you have {format_amount(name, most)} at once. Ask for less, or ask "
            f"the administrator to raise its max.{name}."
        )
    return None


def _too_much_together(
    ask: Ask, allow: Allow, held: Mapping[str, int]
) -> tuple[str, str] | None:
    for name, most in allow.most.items():
        asked, has = _sum(name, ask.amounts), _sum(name, held)
        # the whole machine is had one after the other in any case
        if name == MACHINE or not asked or asked + has <= most:
            continue
        over = format_amount(name, asked + has - most)
        return "limit", (
            f"asked {format_amount(name, asked)} {name}; you hold or wait for "
            f"{format_amount(name, has)} already, and {allow.name} lets you have "
            f"{format_amount(name, most)} at once: {over} too much. Give some back or "
            f"ask for less, or ask the administrator to raise its max.{name}."
        )
    return None


def _sum(limited: str, amounts: Mapping[str, int]) -> int:
    """What counts against the limit `limited`: for `disk` every `disk.NAME`."""
    names = (name for name in amounts if limited in (name, name.partition(".")[0]))
    return sum(amounts[name] for name in names)


def _rule(who: Who, groups: AbstractSet[int], rules: Rules) -> Allow | None:
    """The first rule that names him, or everybody."""
    for rule in rules.allow:
        everybody = not rule.uids and not rule.gids
        if everybody or who.uid in rule.uids or _in_any(who, groups, rule.gids):
            return rule
    return None


def _in_any(who: Who, groups: AbstractSet[int], gids: AbstractSet[int]) -> bool:
    return who.gid in gids or not gids.isdisjoint(groups)
