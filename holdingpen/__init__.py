"""Holding Pen: one daemon owns what a machine has; an open connection is a lease.

Whatever the daemon holds back it hands over at once, so that the program that asked
really gets it.

The map.  Six floors, and imports only go down (import-linter keeps it):

    5 doors    gatekeeper.*      holdingpen.ctl.*      holdingpen.daemon.run
    4 rooms    holdingpen.client.*         holdingpen.daemon.*   (trio lives here)
    3 hands    journal.store, files, history    devices.*    ballast.*
    2 memory   journal.record    journal.replay    journal.report
    1 mind     core.*            tongue   wire.*
    0 words    amounts  durations  errors  places

The mind is pure: events in, facts and effects out, no clock, no IO.  A day of
queueing runs in milliseconds there, and every rule is tested there.

The laws.

1. One mutator.  Only `core.books.Books.apply(fact)` changes state, live and in replay.
2. Record before promise.  The keeper judges a batch, writes its facts as one record,
   and only then performs effects.  If it cannot write, it ends.
3. Durable is what can outlive the kernel.  Facts about connection leases are written;
   reservations and what an administrator ordered are also synced, before anybody is
   told "done".
4. The end of a connection is one event, `Gone`, however it ended.
5. A dead process's memory takes time: it is *settling* until measured free; what does
   not come back is *foreign*.
6. The core never waits and never reads a clock.
7. Identity comes from the kernel, never from a message.
8. The daemon outlives memory exhaustion: it allocates nothing on the way to freeing
   ballast, and its ballast is not in its RSS.

One acquire.  gatekeeper.options -> gatekeeper.conversation -> socket ->
daemon.connections -> wire.session -> daemon.translate -> `Asked` -> daemon.keeper ->
core.pen: fits: `Granted`; fits once ballast goes: `Promised` and `DropBallast`; else
`Joined`, the line.  Facts -> journal.store; then the effects: daemon.performer -> a
hand (daemon.ramhand, daemon.diskhand) in a thread -> ballast -> `BallastDropped` ->
`Granted` -> bytes.  gatekeeper leaves the descriptor open and becomes the program.

One hand-over.  What is held back must belong to nobody at no moment, so it is not just
freed.  core.handover has the methods and what each promises; core.pen says `Prepare`
instead of `DropBallast`; the hand keeps the ballast for the lease and paces it, fills a
control group, makes a file system, or waits for `Fetch`.  When the lease is over
`TakeBack` has what is left: `BallastBack`.

One reservation: a lease without a connection (core.reserving).  `Reserve` -> `Asked` or
`BookAsked` -> `Reserved`, now or from the line, or `Booked` for a date, around which
core.calendar plans.  What it has is an allotment, `ram@17`: a ledger of its own with
ballast of its own, on which leases inside draw by the same law.  Its date comes,
`Ended`: all of it is the machine's again.

One restart.  systemd keeps connections (`c17`), the files of the ballast and who has
what of them (`b`, `b3`), the pipes of control groups' helpers (`g17told`); disks keep
what lies on them.  The next daemon replays the journal and asks connections and hands
to `adopt` what goes on; `Started` says what they found, and core.starting puts the
books right: the rest is `Lost`, or `Ended`.

One closed connection.  EOF -> `Gone` -> `Ended`; its memory goes leased -> settling;
`Measure` -> devices.host in a thread -> `Measured` -> settling -> free by what was
really seen; the line is served, and `TakeBallast` has what is left.
"""

__version__ = "0.1.0"

# gatekeeper comes through here on its 7 ms way: nothing may be imported.  What Python
# programs call is fetched when it is first named.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdingpen.client.asking import Asking, lease, status, try_lease
    from holdingpen.client.awaited import AsyncLease
    from holdingpen.client.file import LeaseFile
    from holdingpen.client.lease import Lease
    from holdingpen.client.memory import LeaseMemory
    from holdingpen.errors import (
        BadWord,
        HoldingPenError,
        LocalMistake,
        Refusal,
        RemoteMistake,
        Unavailable,
    )
    from holdingpen.wire.messages import Books, LeaseInfo, Status, Waiting

__all__ = [
    "Asking",
    "AsyncLease",
    "BadWord",
    "Books",
    "HoldingPenError",
    "Lease",
    "LeaseFile",
    "LeaseInfo",
    "LeaseMemory",
    "LocalMistake",
    "Refusal",
    "RemoteMistake",
    "Status",
    "Unavailable",
    "Waiting",
    "lease",
    "status",
    "try_lease",
]

_WHERE = {
    "Asking": "client.asking",
    "lease": "client.asking",
    "status": "client.asking",
    "try_lease": "client.asking",
    "AsyncLease": "client.awaited",
    "Lease": "client.lease",
    "LeaseFile": "client.file",
    "LeaseMemory": "client.memory",
    "BadWord": "errors",
    "HoldingPenError": "errors",
    "LocalMistake": "errors",
    "Refusal": "errors",
    "RemoteMistake": "errors",
    "Unavailable": "errors",
    "Books": "wire.messages",
    "LeaseInfo": "wire.messages",
    "Status": "wire.messages",
    "Waiting": "wire.messages",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'holdingpen' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"holdingpen.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
