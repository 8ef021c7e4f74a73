"""What the shell must do: the effects the core hands out, in the imperative.

A `Tell…` for a connection that is already gone is dropped in silence.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from holdingpen.core.facts import Who


class TellGranted(Struct, frozen=True, gc=False):
    """Say: it is yours."""

    conn: int
    number: int
    lease: int
    #: Resource to bytes or units.
    amounts: dict[str, int]
    #: exact, bounded, best-effort, or none when nothing of that kind was asked for.
    handover: str
    #: When bounded: bytes others may take at most.
    bound: int = 0
    #: Why it is not exact.
    why: str = ""
    #: Resource to the directory it may write in.
    places: dict[str, str] = {}


class TellWaiting(Struct, frozen=True, gc=False):
    """Say: you stand in the line, here, for this reason."""

    conn: int
    number: int
    lease: int
    #: 1 is first.
    place: int
    #: One sentence for people.
    reason: str
    #: The first few leases whose end would help.
    waits_for: list[int]
    #: Seconds since 1970 when it will start as far as is known; None: unknown.
    expected_wall_s: float | None


class TellRefused(Struct, frozen=True, gc=False):
    """Say: no.  `code` is one of `errors.Refusal`."""

    conn: int
    number: int
    code: str
    message: str
    #: When it would fit between what is reserved; None: unknown.
    free_wall_s: float | None = None


class TellReserved(Struct, frozen=True, gc=False):
    """Say, once it is on the disk: it is yours."""

    conn: int
    number: int
    leases: list[int]
    amounts: dict[str, int]
    #: Of the first of them.
    starts_wall_s: float
    until_wall_s: float


class TellExtended(Struct, frozen=True, gc=False):
    """Say, once it is on the disk: it ends later."""

    conn: int
    number: int
    lease: int
    until_wall_s: float


class TellReclaim(Struct, frozen=True, gc=False):
    """Say to a holder: somebody needs it; or: he does no more."""

    conn: int
    lease: int
    on: bool


class TellReleased(Struct, frozen=True, gc=False):
    """Answer a release; of a reservation (`durable`) once that is on the disk."""

    conn: int
    number: int
    lease: int
    durable: bool = False


class TellShrunk(Struct, frozen=True, gc=False):
    """Answer a shrink; with number 0 tell the holder what somebody else did."""

    conn: int
    number: int
    lease: int
    #: What is left: resource to bytes or units.
    amounts: dict[str, int]


class TellEnded(Struct, frozen=True, gc=False):
    """Say to a holder who did not ask for it: your lease is over."""

    conn: int
    lease: int
    why: str


class TellDone(Struct, frozen=True, gc=False):
    """Answer an order: done, and where it must be, on disk."""

    conn: int
    number: int


class DropBallast(Struct, frozen=True, gc=False):
    """Give `amount` bytes of ballast to the system; answer with BallastDropped.

    `lease` 0: for nobody, and no answer is waited for.
    """

    resource: str
    amount: int
    lease: int


class Prepare(Struct, frozen=True, gc=False):
    """Set `amount` bytes of ballast apart for a lease, to be handed over as `how`.

    Answer with BallastDropped when it may be granted.
    """

    resource: str
    #: A multiple of the resource's unit; maybe 0.
    amount: int
    lease: int
    #: One of handover.METHODS.
    how: str
    #: Bytes the lease holds in all, `amount` or more or, by rounding, less.
    need: int
    who: Who


class TakeBack(Struct, frozen=True, gc=False):
    """Make what is kept for a lease ballast again; answer with BallastBack.

    The lease is over, or (`amount`) has become smaller by so much.
    """

    resource: str
    lease: int
    amount: int | None = None


class Lend(Struct, frozen=True, gc=False):
    """Pass what is kept for a lease to its client as open files, from `first` on."""

    conn: int
    number: int
    lease: int
    resource: str
    #: Bytes the lease holds.
    amount: int
    #: To whom it is passed.
    uid: int
    first: int = 0
    #: Whether all of it was ballast before.
    exact: bool = True


class GiveStep(Struct, frozen=True, gc=False):
    """Free `amount` bytes of what is kept for a lease, and tell its client Done."""

    conn: int
    number: int
    lease: int
    resource: str
    amount: int


class TakeBallast(Struct, frozen=True, gc=False):
    """Occupy `amount` more bytes if the machine bears it; answer BallastTaken.

    `ledger` only comes back with the answer: for whom it is, as the core counts.
    """

    resource: str
    amount: int
    ledger: str = ""


class Measure(Struct, frozen=True, gc=False):
    """Measure the machine; answer with Measured.

    `fresh`: look up anew what the leases' processes use, which takes some ms.
    """

    resource: str
    fresh: bool = True


class TellUser(Struct, frozen=True, gc=False):
    """Tell a user who need not be connected: one line on his terminals."""

    uid: int
    text: str


class Note(Struct, frozen=True, gc=False):
    """Tell the administrator: one line in the daemon's log."""

    text: str


Effect: TypeAlias = (
    TellGranted
    | TellWaiting
    | TellRefused
    | TellReserved
    | TellExtended
    | TellReclaim
    | TellReleased
    | TellShrunk
    | TellEnded
    | TellDone
    | DropBallast
    | Prepare
    | TakeBack
    | Lend
    | GiveStep
    | TakeBallast
    | Measure
    | TellUser
    | Note
)
