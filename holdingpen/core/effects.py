"""What the shell must do: the effects the core hands out, in the imperative.

A `Tell…` for a connection that is already gone is dropped in silence.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct


class TellGranted(Struct, frozen=True, gc=False):
    """Say: it is yours."""

    conn: int
    number: int
    lease: int
    #: Resource to bytes or units.
    amounts: dict[str, int]
    #: exact, bounded, best-effort, or none when no memory was asked for.
    handover: str


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


class TellReleased(Struct, frozen=True, gc=False):
    """Answer a release."""

    conn: int
    number: int
    lease: int


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


class TakeBallast(Struct, frozen=True, gc=False):
    """Occupy `amount` more bytes if the machine bears it; answer BallastTaken."""

    resource: str
    amount: int


class Measure(Struct, frozen=True, gc=False):
    """Measure the machine; answer with Measured.

    `fresh`: look up anew what the leases' processes use, which takes some ms.
    """

    resource: str
    fresh: bool = True


class Note(Struct, frozen=True, gc=False):
    """Tell the administrator: one line in the daemon's log."""

    text: str


Effect: TypeAlias = (
    TellGranted
    | TellWaiting
    | TellRefused
    | TellReleased
    | TellShrunk
    | TellEnded
    | TellDone
    | DropBallast
    | TakeBallast
    | Measure
    | Note
)
