"""Admission: what a newcomer may ask, what he lacks, and why he cannot start now."""

from __future__ import annotations

from collections.abc import Mapping

from holdingpen.amounts import format_amount, format_amounts
from holdingpen.core.books import Books
from holdingpen.core.decisions import STEPS_MAX, drained
from holdingpen.core.effects import TellRefused
from holdingpen.core.facts import MACHINE, Ask
from holdingpen.core.leases import LIVE, Lease
from holdingpen.core.resources import Ledger
from holdingpen.core.rights import Rules


def share(rules: Rules, ledgers: Mapping[str, Ledger]) -> dict[str, int]:
    """What a request without amounts gets: the share, no more than there is."""
    return {
        name: min(amount, ledgers[name].capacity)
        for name, amount in rules.share.items()
        if name in ledgers and ledgers[name].capacity
    }


def too_many(
    ask: Ask, users: Mapping[int, list[int]], rules: Rules
) -> tuple[str, str] | None:
    """Whether this user has all that one user may have: code and message."""
    held, waiting = users.get(ask.who.uid, (0, 0))
    if held >= rules.leases_per_user_max:
        much, key = f"{held} leases", "leases_per_user_max"
    elif waiting >= rules.waiting_per_user_max:
        much, key = f"{waiting} places in the line", "waiting_per_user_max"
    else:
        return None
    return "limit", (
        f"you have {much}, the most one user may have. Give some back, or ask "
        f"the administrator to raise [line] {key}."
    )


def soon(priority: int, needs: Mapping[str, int], books: Books) -> bool:
    """Whether it only lacks what is on its way, so that a moment will do."""
    if books.drain is not None:
        return False
    return not lacking(priority, needs, books, in_a_moment=True)


def lacking(
    priority: int, needs: Mapping[str, int], books: Books, in_a_moment: bool = False
) -> list[str]:
    """What a newcomer will stand in the line for, now or once all is back."""
    found = []
    for name, need in needs.items():
        ledger = books.resources[name]
        there = ledger.room + (ledger.transit if in_a_moment else 0)
        ahead = books.line.ahead(name, priority, STEPS_MAX)
        if ahead is None or ahead + need > there:
            found.append(name)
    return found


def not_to_shrink(lease: Lease, less: Mapping[str, int]) -> tuple[str, str] | None:
    """Why `less` cannot be given back of `lease`: a code and a message; None: it can.

    Every resource of a lease stays in it; only its end gives all of one back.
    """
    if lease.state != LIVE:
        return "bad-amount", (
            f"lease {lease.id} is {lease.state}, not live: there is nothing to give "
            "back yet. Release it, and ask for less."
        )
    if not less:
        return "bad-amount", f"give something of lease {lease.id} back, or release it."
    for name, amount in less.items():
        held = lease.amounts.get(name, 0)
        if name == MACHINE or not held:
            return "bad-amount", (
                f"lease {lease.id} cannot give {name!r} back; it can give back of: "
                f"{', '.join(sorted(lease.amounts.keys() - {MACHINE})) or 'nothing'}."
            )
        if not 0 < amount < held:
            return "bad-amount", (
                f"lease {lease.id} holds {format_amount(name, held)} {name}; give back "
                f"more than 0 and less than that, not {format_amount(name, amount)}. "
                "To give all back, release it instead."
            )
    return None


def not_now(ask: Ask, needs: Mapping[str, int], books: Books) -> TellRefused:
    """The refusal for who will not wait, with what is there."""
    words = []
    for name, need in needs.items():
        ledger = books.resources[name]
        if name == MACHINE:
            if need > ledger.room:
                words.append("others hold leases" if need > 1 else "it is taken")
        elif need > ledger.room:
            there = format_amount(name, ledger.room)
            words.append(f"{there} of {name} are there")
    why = " and ".join(words) or f"{len(books.line)} wait ahead"
    if books.drain is not None:
        why = drained(books.drain)
    message = (
        f"asked {format_amounts(ask.amounts)}; {why}. "
        "Wait in the line (without --nonblock), or ask for less."
    )
    return TellRefused(ask.conn, ask.number, "not-now", message)
