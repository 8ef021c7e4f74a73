"""Admission: what a newcomer may ask, what he lacks, and why he cannot start now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import structs

from holdingpen.amounts import AMOUNT_MAX, format_amount, format_amounts
from holdingpen.core.books import Books
from holdingpen.core.decisions import STEPS_MAX, drained
from holdingpen.core.effects import TellRefused
from holdingpen.core.events import FetchAsked, StepAsked
from holdingpen.core.facts import MACHINE, Ask
from holdingpen.core.handover import METHODS
from holdingpen.core.leases import LIVE, Lease
from holdingpen.core.resources import DISK, Ledger
from holdingpen.core.rights import Rules


def completed(ask: Ask, rules: Rules, ledgers: Mapping[str, Ledger]) -> Ask:
    """The ask with what goes without saying: the share, and which disk is meant."""
    if not ask.amounts:
        return structs.replace(ask, amounts=share(rules, ledgers))
    if DISK not in ask.amounts:
        return ask
    disk = meant(DISK, ledgers)
    if disk in ask.amounts:
        return ask
    names = {DISK: disk}
    amounts = {names.get(n, n): x for n, x in ask.amounts.items()}
    wishes = {names.get(n, n): x for n, x in ask.wishes.items()}
    return structs.replace(ask, amounts=amounts, wishes=wishes)


def meant(name: str, names: Iterable[str]) -> str:
    """Which of `names` is meant: `disk` is the only disk there is."""
    if name != DISK:
        return name
    disks = [one for one in names if one.partition(".")[0] == DISK]
    return disks[0] if len(disks) == 1 else name


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
        method = METHODS.get(lease.how.get(name, ""))
        if method is not None and not method.shrinks:
            return "bad-amount", (
                f"lease {lease.id} holds its {name} in one piece and cannot give a "
                "part of it back. Release it, and ask for less."
            )
        if not 0 < amount < held:
            return "bad-amount", (
                f"lease {lease.id} holds {format_amount(name, held)} {name}; give back "
                f"more than 0 and less than that, not {format_amount(name, amount)}. "
                "To give all back, release it instead."
            )
    return None


def not_to_fetch(lease: Lease | None, event: FetchAsked) -> tuple[str, str] | None:
    """Why its client cannot have the files of this lease; None: it can."""
    if lease is None or lease.ask.conn != event.conn or lease.state != LIVE:
        return "no-such-lease", (
            f"lease {event.lease} is no live lease of this connection: fetch what it "
            "holds over the connection that asked for it, once it is granted."
        )
    if lease.how.get(event.resource) not in ("pieces", "file"):
        return "bad-request", (
            f"{event.resource} of lease {lease.id} is not kept as files: ask for it "
            "with the wish `descriptor` (memory=True or file=True in Python)."
        )
    if event.first < 0:
        return "bad-request", f"there is no file {event.first}; the first is 0."
    return None


def not_to_step(lease: Lease | None, event: StepAsked) -> tuple[str, str] | None:
    """Why nothing of this lease can be freed step by step; None: it can."""
    if lease is None or lease.ask.conn != event.conn or lease.state != LIVE:
        return (
            "no-such-lease",
            f"lease {event.lease} is no live one of this connection.",
        )
    if lease.how.get(event.resource) != "steps":
        return "bad-request", (
            f"{event.resource} of lease {lease.id} is not freed in steps: ask for it "
            "with the wish `steps` (gatekeeper --prefault)."
        )
    if not 0 < event.amount <= AMOUNT_MAX:
        return "bad-amount", f"a step of {event.amount} bytes makes no sense."
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
