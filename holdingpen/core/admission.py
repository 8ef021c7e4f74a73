"""Admission: what a newcomer may ask, what he lacks, and why he cannot start now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import structs

from holdingpen.amounts import AMOUNT_MAX, format_amount, format_amounts
from holdingpen.core import decisions
from holdingpen.core.books import Books
from holdingpen.core.decisions import STEPS_MAX, drained
from holdingpen.core.effects import TellRefused
from holdingpen.core.events import FetchAsked, StepAsked
from holdingpen.core.facts import MACHINE, Ask
from holdingpen.core.handover import METHODS
from holdingpen.core.leases import LIVE, Lease, needs_of
from holdingpen.core.resources import DISK, Ledger
from holdingpen.core.rights import Rules, is_operator


def completed(ask: Ask, groups: frozenset[int], rules: Rules, books: Books) -> Ask:
    """The ask with what goes without saying.

    The share, which disk is meant, the priority of who sits at the machine, and the
    reservation it draws on.
    """
    ledgers = books.resources
    if not ask.amounts:
        ask = structs.replace(ask, amounts=share(rules, ledgers))
    elif DISK in ask.amounts:
        disk = meant(DISK, ledgers)
        if disk not in ask.amounts:
            names = {DISK: disk}
            amounts = {names.get(n, n): x for n, x in ask.amounts.items()}
            wishes = {names.get(n, n): x for n, x in ask.wishes.items()}
            ask = structs.replace(ask, amounts=amounts, wishes=wishes)
    if ask.who.uid in books.seated:
        priority = max(ask.priority, rules.seat_priority)
        ask = structs.replace(ask, priority=priority, seated=True)
    if ask.inside < 0 or ask.lasts_s is not None:
        return structs.replace(ask, inside=0) if ask.inside else ask
    if not ask.inside and books.reservations:
        inside = _home(ask, groups, books)
        return structs.replace(ask, inside=inside) if inside else ask
    return ask


def _home(ask: Ask, groups: frozenset[int], books: Books) -> int:
    """Which of his reservations a request draws on that names none; 0: none.

    One that has something of what is asked for, and enough of that; the first that
    has it to spare now.  If none has, but the machine has, it draws on none of them.
    """
    first = 0
    for lease in (books.reservations[x] for x in sorted(books.reservations)):
        if not belongs(lease, ask, groups) or not _is_for(lease, ask):
            continue
        inside = structs.replace(ask, inside=lease.id)
        if misfit(inside, books) is not None:
            continue
        if _has_room(inside, books):
            return lease.id
        first = first or lease.id
    return 0 if first and _has_room(ask, books) else first


def _is_for(reservation: Lease, ask: Ask) -> bool:
    """Whether it has something of what is asked for; who has it all has everything."""
    has = reservation.ask.amounts
    return MACHINE in has or not ask.amounts.keys().isdisjoint(has)


def _has_room(ask: Ask, books: Books) -> bool:
    needs = needs_of(ask, books.ledgers)
    return all(need <= books.ledgers[key].room for key, need in needs.items())


def misfit(ask: Ask, books: Books) -> tuple[str, str] | None:
    """Why a request can never be granted: a code and a message; None: it can."""
    problem = decisions.misfit(ask.amounts, books.resources)
    if problem is not None or not ask.inside:
        return problem
    reservation = books.reservations.get(ask.inside)
    if reservation is None:
        return _no_reservation(ask.inside, books)
    for name, amount in ask.amounts.items():
        has = reservation.amounts.get(name)
        if has is not None and amount > has and name != MACHINE:
            return "never-fits", (
                f"asked {format_amount(name, amount)} {name} inside reservation "
                f"{ask.inside}, which has {format_amount(name, has)}. Ask for less, or "
                "outside of it (--in none)."
            )
    if MACHINE in ask.amounts and MACHINE not in reservation.amounts:
        return "never-fits", (
            f"asked for the whole machine inside reservation {ask.inside}, which has "
            "only a part of it. Ask outside of it (--in none)."
        )
    return None


def _no_reservation(number: int, books: Books) -> tuple[str, str]:
    lease = books.leases.get(number)
    if lease is None or not lease.reservation:
        return "no-such-lease", (
            f"there is no reservation {number} now. `holdingpenctl status` shows those "
            "there are."
        )
    return "not-now", (
        f"reservation {number} has not begun. Ask when it has, or outside of it "
        "(--in none)."
    )


def not_inside(
    ask: Ask, groups: frozenset[int], books: Books, rules: Rules
) -> tuple[str, str] | None:
    """Why a request may not draw on the reservation it names; None: it may."""
    reservation = books.reservations.get(ask.inside)
    if reservation is None or belongs(reservation, ask, groups):
        return None
    if is_operator(ask.who, rules, groups):
        return None
    return "not-permitted", (
        f"reservation {ask.inside} belongs to user {reservation.ask.who.uid}. Ask "
        "without --in."
    )


def belongs(reservation: Lease, ask: Ask, groups: frozenset[int]) -> bool:
    """Whether a request may draw on a reservation."""
    owner = reservation.ask
    if ask.who.uid == owner.who.uid:
        return True
    return owner.gid is not None and owner.gid in (ask.who.gid, *groups)


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
    ask: Ask, users: Mapping[int, list[int]], rules: Rules, more: int = 1
) -> tuple[str, str] | None:
    """Whether this user has all that one user may have: code and message.

    Args:
        ask: his request.
        users: what each user has.
        rules: how much that may be.
        more: how many places he asks for.
    """
    held, waiting = users.get(ask.who.uid, (0, 0))
    if held >= rules.leases_per_user_max:
        much, key = f"{held} leases", "leases_per_user_max"
    elif waiting + more > rules.waiting_per_user_max:
        much, key = f"{waiting} places in the line", "waiting_per_user_max"
    else:
        return None
    return "limit", (
        f"you have {much}, the most one user may have. Give some back, or ask "
        f"the administrator to raise [line] {key}."
    )


def soon(rank: float, needs: Mapping[str, int], books: Books) -> bool:
    """Whether it only lacks what is on its way, so that a moment will do."""
    if books.drain is not None:
        return False
    return not lacking(rank, needs, books, in_a_moment=True)


def lacking(
    rank: float, needs: Mapping[str, int], books: Books, in_a_moment: bool = False
) -> list[str]:
    """What a newcomer will stand in the line for, now or once all is back."""
    found = []
    for name, need in needs.items():
        ledger = books.ledgers[name]
        there = ledger.room + (ledger.transit if in_a_moment else 0)
        ahead = books.line.ahead(name, rank, STEPS_MAX)
        if ahead is None or ahead + need > there:
            found.append(name)
    return found


def not_to_shrink(lease: Lease, less: Mapping[str, int]) -> tuple[str, str] | None:
    """Why `less` cannot be given back of `lease`: a code and a message; None: it can.

    Every resource of a lease stays in it; only its end gives all of one back.
    """
    if lease.reservation:
        return "bad-amount", (
            f"reservation {lease.id} keeps what it has until its end. Release it, and "
            "reserve less."
        )
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


def not_now(
    ask: Ask,
    needs: Mapping[str, int],
    books: Books,
    ahead: str = "",
    free_wall_s: float | None = None,
    alone: str = "",
) -> TellRefused:
    """The refusal for who will not wait, or has waited enough, with what is there.

    Args:
        ask: the request.
        needs: what it books.
        books: the books.
        ahead: the reservations that are in its way; empty: none are.
        free_wall_s: when they are no more.
        alone: who has the whole machine; empty: nobody.
    """
    words = [ahead.rstrip(".")] if ahead else []
    for key, need in needs.items():
        ledger = books.ledgers[key]
        name = ledger.resource
        if name == MACHINE:
            if need > ledger.room:
                words.append(
                    "others hold leases" if need > 1 else alone or "it is taken"
                )
        elif need > ledger.room:
            there = format_amount(name, ledger.room)
            words.append(f"{there} of {name} are there")
    why = " and ".join(words) or f"{len(books.line)} wait ahead"
    if books.drain is not None:
        why = drained(books.drain)
    how = "Wait longer" if ask.wait_s else "Wait in the line (without --nonblock)"
    message = f"asked {format_amounts(ask.amounts)}; {why}. {how}, or ask for less."
    return TellRefused(ask.conn, ask.number, "not-now", message, free_wall_s)
