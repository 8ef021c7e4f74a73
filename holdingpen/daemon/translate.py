"""Between the tongue and the mind: wire messages to core events, effects to replies.

The only file that knows both vocabularies.  What a client may say is limited here,
so that the core sees only numbers that make sense and texts of bounded length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias, assert_never

from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core import facts as fact
from holdingpen.core import handover
from holdingpen.core.books import Books
from holdingpen.core.facts import MACHINE, Ask, Fact, Moment, Who
from holdingpen.core.leases import WAITING, Lease, allotment
from holdingpen.core.pen import Pen
from holdingpen.core.resources import Ledger
from holdingpen.core.standings import Standing, standings
from holdingpen.durations import DURATION_MAX_S
from holdingpen.errors import Refusal
from holdingpen.wire import messages as wire

OfLease: TypeAlias = (
    fact.Joined
    | fact.Promised
    | fact.Granted
    | fact.Shrunk
    | fact.Ended
    | fact.Booked
    | fact.Due
    | fact.Reserved
    | fact.Extended
    | fact.AskedBack
)

#: The kernel's word for no group.
NO_GID = 2**32 - 1
#: Priorities beyond this make no difference to people.
PRIORITY_MAX = 1_000_000
#: Leases on one page of status: about 150 KiB, under 2 ms; and characters of text,
#: which clients choose, before a page ends earlier.
PAGE = 500
PAGE_TEXT = 256 * 1024

Tell: TypeAlias = (
    do.TellGranted
    | do.TellWaiting
    | do.TellRefused
    | do.TellReserved
    | do.TellExtended
    | do.TellReclaim
    | do.TellReleased
    | do.TellShrunk
    | do.TellEnded
    | do.TellDone
)


def asked(
    at: Moment,
    conn: int,
    who: Who,
    request: wire.Acquire,
    groups: frozenset[int] = ev.NO_GROUPS,
) -> ev.Asked:
    """A request for a lease, as an event.

    Raises:
        Refusal: `bad-amount` or `bad-request`, when a number or text makes no sense.
    """
    problem = _problem(request)
    if not problem and len(request.wishes) > wire.AMOUNTS_MAX:
        problem = f"{len(request.wishes)} wishes; at most {wire.AMOUNTS_MAX} at once."
    for wish in () if problem else request.wishes.values():
        if wish not in wire.WISHES:
            problem = (
                f"there is no wish {wish[:40]!r}; there are {', '.join(wire.WISHES)}."
            )
    if not problem and len(request.command) > wire.COMMAND_MAX:
        problem = _too_long("command", request.command, wire.COMMAND_MAX)
    if problem:
        raise Refusal(problem, "bad-request")
    ask = Ask(
        conn,
        request.id,
        who,
        request.amounts,
        request.priority,
        request.length_s,
        request.wait_s,
        request.reclaimable,
        request.label,
        request.reason,
        request.command,
        request.wishes,
        request.inside,
    )
    return ev.Asked(at, ask, groups)


def reserve_asked(
    at: Moment,
    conn: int,
    who: Who,
    request: wire.Reserve,
    groups: frozenset[int] = ev.NO_GROUPS,
    groups_of: Callable[[int], frozenset[int]] = lambda uid: ev.NO_GROUPS,
) -> ev.Asked | ev.BookAsked:
    """A request for reservations, as an event.

    Args:
        at: now.
        conn: the connection's number.
        who: who asks, as the kernel says.
        request: what he asks.
        groups: those of who asks.
        groups_of: finds those of another user.

    Raises:
        Refusal: `bad-request`, when a number or text makes no sense.
    """
    problem = _problem(request)
    if not problem and not request.amounts:
        problem = "reserve something: amounts is empty."
    if not problem and request.length_s <= 0:
        problem = f"a reservation of {request.length_s} s: longer than 0 s."
    if not problem and len(request.starts) > wire.STARTS_MAX:
        most = wire.STARTS_MAX
        problem = f"{len(request.starts)} times; at most {most} in one request."
    far_s = at.wall_s + DURATION_MAX_S
    if not problem and not all(0 <= starts_s <= far_s for starts_s in request.starts):
        problem = "a begin that is no time, or a hundred years ahead."
    if not problem and not 0 <= (request.gid or 0) < 2**32:
        problem = f"gid {request.gid} is no group."
    if not problem and not 0 <= (request.uid or 0) < 2**32:
        problem = f"uid {request.uid} is no user."
    if problem:
        raise Refusal(problem, "bad-request")
    whose, by, his = who, None, groups
    if request.uid is not None and request.uid != who.uid:
        whose, by = Who(request.uid, NO_GID, 0), who
        his = groups_of(request.uid)
    ask = Ask(
        conn,
        request.id,
        whose,
        request.amounts,
        request.priority,
        request.length_s,
        request.wait_s,
        label=request.label,
        reason=request.reason,
        lasts_s=request.length_s,
        gid=request.gid,
        by_uid=None if by is None else by.uid,
    )
    by_groups = groups if by is not None else ev.NO_GROUPS
    if request.starts:
        starts = tuple(request.starts)
        return ev.BookAsked(at, ask, starts, his, by, by_groups)
    return ev.Asked(at, ask, his, by, by_groups)


def extend_asked(
    at: Moment,
    conn: int,
    who: Who,
    request: wire.Extend,
    groups: frozenset[int] = ev.NO_GROUPS,
) -> ev.ExtendAsked:
    """A request to extend a reservation, as an event.

    Raises:
        Refusal: `bad-request`, when the number makes no sense.
    """
    if not 0 < request.by_s <= DURATION_MAX_S:
        raise Refusal(
            f"by {request.by_s} s: more than 0 s, up to a hundred years.", "bad-request"
        )
    lease, by_s = request.lease, request.by_s
    return ev.ExtendAsked(at, conn, request.id, who, lease, by_s, groups)


def _problem(request: wire.Acquire | wire.Reserve) -> str:
    if not 0 < request.id < 2**63:
        return f"request id {request.id}: number requests 1, 2, 3, ..."
    if len(request.amounts) > wire.AMOUNTS_MAX:
        return f"{len(request.amounts)} resources; at most {wire.AMOUNTS_MAX} at once."
    if abs(request.priority) > PRIORITY_MAX:
        return f"priority {request.priority}: at most {PRIORITY_MAX} either way."
    if not 0 <= (request.length_s or 0) <= DURATION_MAX_S:
        return f"length of {request.length_s} s: from 0 s to a hundred years."
    if not 0 <= (request.wait_s or 0) <= DURATION_MAX_S:
        return f"wait of {request.wait_s} s: from 0 s to a hundred years."
    if len(request.label) > wire.TEXT_MAX:
        return _too_long("label", request.label, wire.TEXT_MAX)
    if len(request.reason) > wire.TEXT_MAX:
        return _too_long("reason", request.reason, wire.TEXT_MAX)
    return ""


def _too_long(what: str, text: str, most: int) -> str:
    return f"a {what} of {len(text)} characters; at most {most}."


def reply(effect: Tell) -> wire.Reply:
    """What to say to the client."""
    match effect:
        case do.TellGranted():
            return wire.Granted(
                effect.number,
                effect.lease,
                effect.amounts,
                effect.handover,
                effect.bound,
                effect.why,
                effect.places,
            )
        case do.TellReleased():
            return wire.Released(effect.number, effect.lease)
        case do.TellShrunk():
            return wire.Shrunk(effect.number, effect.lease, effect.amounts)
        case do.TellWaiting():
            return wire.Waiting(
                effect.number,
                effect.lease,
                effect.place,
                effect.reason,
                effect.waits_for,
                effect.expected_wall_s,
            )
        case do.TellRefused():
            free_s = effect.free_wall_s
            return wire.Refused(effect.number, effect.code, effect.message, free_s)
        case do.TellReserved():
            return wire.Reserved(
                effect.number,
                effect.leases,
                effect.amounts,
                effect.starts_wall_s,
                effect.until_wall_s,
            )
        case do.TellExtended():
            return wire.Extended(effect.number, effect.lease, effect.until_wall_s)
        case do.TellReclaim():
            return wire.Reclaim(effect.lease, effect.on)
        case do.TellEnded():
            return wire.Ended(effect.lease, effect.why)
        case do.TellDone():
            return wire.Done(effect.number)
        case _:
            assert_never(effect)


class Surroundings(NamedTuple):
    """What status tells beside the books."""

    version: str
    since_wall_s: float
    socket: str
    #: Lease to bytes its processes used when last looked at.
    used: dict[int, int]
    foreign: list[wire.ForeignUser]
    troubles: list[str]
    #: Resource to lease to bytes that are kept for it, and that others took of what
    #: was freed for it.
    kept: Mapping[str, Mapping[int, int]] = {}
    stolen: Mapping[str, Mapping[int, int]] = {}
    #: The same, of what was made good.
    made_good: Mapping[str, Mapping[int, int]] = {}


def status(
    pen: Pen, at: Moment, request: wire.GetStatus, around: Surroundings
) -> wire.Status:
    """One page of status."""
    books = pen.books
    page: list[Lease] = []
    more = False
    text = 0
    for lease in books.leases.values():
        if lease.id > request.after:
            if len(page) == PAGE or text > PAGE_TEXT:
                more = True
                break
            page.append(lease)
            ask = lease.ask
            text += len(ask.command) + len(ask.label) + len(ask.reason)
    waiting = [lease.id for lease in page if lease.state == WAITING]
    how = standings(books, at, waiting, pen.name_of, soonest=pen.plan(at))
    return wire.Status(
        request.id,
        around.version,
        around.since_wall_s,
        around.socket,
        at.wall_s,
        {name: _books(ledger) for name, ledger in books.resources.items()},
        [_info(pen, at, lease, how.get(lease.id), around) for lease in page],
        len(books.line),
        more,
        books.drain,
        around.foreign,
        around.troubles,
        sorted(books.seated),
    )


def story(
    pen: Pen, at: Moment, request: wire.GetStory, around: Surroundings
) -> wire.Story | wire.Refused:
    """The story of one lease, if it is still known."""
    books = pen.books
    number = request.lease
    lease = books.leases.get(number) or books.ended.get(number)
    if lease is None:
        never = number > books.last_lease or number < 1
        what = "was never given" if never else "ended too long ago to be remembered"
        return wire.Refused(request.id, "no-such-lease", f"lease {number} {what}.")
    waits = lease.state == WAITING
    how = None
    if waits:
        plan = pen.plan(at)
        standing = standings(books, at, [number], pen.name_of, soonest=plan)
        how = standing.get(number)
    return wire.Story(request.id, _info(pen, at, lease, how, around))


def _books(ledger: Ledger) -> wire.Books:
    if ledger.name == MACHINE:
        # People know one machine, not 2**40 shares of it.
        return wire.Books(1, int(not ledger.leased), 0, int(not ledger.room), 0, 0)
    return wire.Books(
        ledger.capacity,
        ledger.free,
        ledger.held,
        ledger.leased,
        ledger.transit,
        ledger.foreign,
        ledger.hold,
    )


def _info(
    pen: Pen, at: Moment, lease: Lease, how: Standing | None, around: Surroundings
) -> wire.LeaseInfo:
    ask = lease.ask
    sure = handover.assurance(lease, pen.rules.handover)
    kept = _of_one(around.kept, lease.id)
    if lease.reservation:
        kept = _own(pen.books, lease)
    expires = lease.until_wall_s
    if not lease.reservation and lease.granted is not None and ask.length_s is not None:
        expires = lease.granted.wall_s + ask.length_s
    ram = around.used.get(lease.id)
    return wire.LeaseInfo(
        id=lease.id,
        state=lease.state,
        uid=ask.who.uid,
        pid=ask.who.pid,
        amounts=lease.amounts,
        asked=lease.asked.wall_s,
        granted=lease.granted.wall_s if lease.granted else 0.0,
        ended=lease.by_its_date(lease.ended).wall_s if lease.ended else 0.0,
        priority=ask.priority,
        expires=expires,
        command=ask.command,
        label=ask.label,
        reason=ask.reason,
        reclaimable=ask.reclaimable,
        handover=sure.promise,
        drawn=lease.drawn,
        used={} if ram is None else {"ram": ram},
        place=how.place if how else 0,
        waits_for=how.waits_for if how else lease.waited_for,
        expected=how.expected_wall_s if how else None,
        waits_why=how.reason if how else "",
        why_ended=lease.why,
        ended_by=lease.by_uid,
        bound=sure.bound,
        handover_why=sure.why,
        places=lease.places,
        kept=kept,
        stolen=_of_one(around.stolen, lease.id),
        kind="reservation" if lease.reservation else "connection",
        starts=lease.begins_wall_s,
        inside=ask.inside,
        gid=ask.gid,
        made_by=ask.by_uid,
        series=lease.series,
        asked_back=lease.asked_back.wall_s if lease.asked_back else 0.0,
        asked_back_for=lease.needed_by,
        unyielding=pen.reclaiming.unyielding(lease, at),
        idle_since=_idle_since(pen, at, lease),
        made_good=_of_one(around.made_good, lease.id),
    )


def _own(books: Books, lease: Lease) -> dict[str, int]:
    """What a reservation has of the ballast, for those who will draw on it."""
    own = {}
    for name in lease.amounts:
        part = books.ledgers.get(allotment(name, lease.id))
        if part is not None and part.held:
            own[name] = part.held
    return own


def _idle_since(pen: Pen, at: Moment, lease: Lease) -> float:
    if lease.unused is None or not pen.reserving.is_idle(lease, at):
        return 0.0
    return at.wall_of(lease.unused.boot_s)


def _of_one(found: Mapping[str, Mapping[int, int]], lease: int) -> dict[str, int]:
    return {name: x[lease] for name, x in found.items() if lease in x}


def happened(what: Fact, at: Moment, books: Books) -> wire.Happened | None:
    """One fact as watchers are told it; None: it says nothing to people."""
    match what:
        case (
            fact.Joined()
            | fact.Promised()
            | fact.Granted()
            | fact.Shrunk()
            | fact.Ended()
        ):
            told = _of_lease(what, books)
            word = type(what).__name__.lower()
            return wire.Happened(what.at.wall_s, word, told, what.lease)
        case fact.Opened():
            return wire.Happened(at.wall_s, "opened", {"boot_id": what.boot_id})
        case fact.Booked() | fact.Reserved() | fact.Extended() | fact.Due():
            told = _of_lease(what, books)
            word = type(what).__name__.lower()
            return wire.Happened(what.at.wall_s, word, told, what.lease)
        case fact.AskedBack():
            told = _of_lease(what, books)
            word = "askedback" if what.needed_by else "withdrawn"
            if what.needed_by:
                told["needed_by"] = what.needed_by
            return wire.Happened(what.at.wall_s, word, told, what.lease)
        case fact.Seated():
            told = {"uid": what.uid, "on": what.on, "by_uid": what.by_uid}
            return wire.Happened(at.wall_s, "seated", told)
        case fact.DrainSet():
            return wire.Happened(
                at.wall_s, "drained", {"reason": what.reason, "by_uid": what.by_uid}
            )
        case fact.CapacitySet():
            return wire.Happened(
                at.wall_s,
                "set",
                {
                    "resource": what.resource,
                    "capacity": what.capacity,
                    "by_uid": what.by_uid,
                },
            )
        case fact.Taken() | fact.Shed():
            word = type(what).__name__.lower()
            told = {"resource": what.resource, "amount": what.amount}
            return wire.Happened(at.wall_s, word, told)
        case fact.Seen():
            told = {
                "resource": what.resource,
                "settling": what.settling,
                "foreign": what.foreign,
            }
            return wire.Happened(at.wall_s, "seen", told)
        case _:
            return None


def _of_lease(what: OfLease, books: Books) -> dict[str, object]:
    lease = books.leases.get(what.lease) or books.ended.get(what.lease)
    if lease is None:
        return {}
    ask = lease.ask
    told: dict[str, object] = {"uid": ask.who.uid, "amounts": lease.amounts}
    if ask.label or ask.command:
        told["command"] = ask.label or ask.command
    if isinstance(what, fact.Booked):
        told["starts"] = what.starts_wall_s
    if isinstance(what, fact.Booked | fact.Reserved | fact.Extended):
        told["until"] = what.until_wall_s
    if ask.inside:
        told["inside"] = ask.inside
    if type(what) is fact.Shrunk:
        told["given"] = what.amounts
    if isinstance(what, fact.Promised | fact.Reserved):
        told["drawn"] = what.drawn
    if type(what) is fact.Ended:
        told["why"] = what.why
        if what.by_uid is not None:
            told["by_uid"] = what.by_uid
    return told
