"""What Python programs call: `holdingpen.lease`, `try_lease` and `status`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from holdingpen.client.blocking import connect
from holdingpen.client.lease import Lease
from holdingpen.client.terms import (
    ASK_ID,
    Amount,
    Duration,
    OnWaiting,
    Terms,
    command_line,
    read_amounts,
    read_disk,
    read_inside,
    read_length,
    read_wait,
    read_wishes,
)
from holdingpen.errors import LocalMistake, Refusal
from holdingpen.wire import messages as wire

if TYPE_CHECKING:
    from types import TracebackType

    from holdingpen.client.awaited import AsyncLease, Loop


class Asking:
    """A request for a lease, made when a `with` or `async with` block is entered.

    After the block it may be used again.
    """

    def __init__(self, terms: Terms) -> None:
        """Remember what to ask for; programs call `holdingpen.lease` instead."""
        self._terms = terms
        self._held: Lease | None = None
        self._awaited: AsyncLease | None = None

    def __enter__(self) -> Lease:
        """Ask, and wait for the grant.

        Raises:
            Refusal: the daemon says no: `not-now`, `never-fits`, `not-permitted`...
            Unavailable: there is no daemon, or it ended.
            RemoteMistake: who listens does not speak this protocol.
        """
        self._must_be_new()
        self._held = lease = Lease(self._terms)
        try:
            lease.acquire()
            return lease
        except BaseException:
            self._held = None
            lease.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        lease, self._held = self._held, None
        assert lease is not None  # it was entered
        try:
            lease.__exit__(kind, error, trace)
        finally:
            # once more, should Ctrl-C have come in there
            lease.close()

    async def __aenter__(self) -> AsyncLease:
        """Ask, and wait for the grant; raises what `__enter__` raises."""
        self._must_be_new()
        # costs time, and blocking programs never come here
        from holdingpen.client.awaited import AsyncLease

        self._awaited = lease = AsyncLease(self._terms, _running_loop())
        try:
            await lease.acquire()
            return lease
        except BaseException:
            self._awaited = None
            lease.close()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        lease, self._awaited = self._awaited, None
        assert lease is not None  # it was entered
        try:
            await lease.leave(failed=kind is not None)
        finally:
            lease.close()

    def _must_be_new(self) -> None:
        if self._held is not None or self._awaited is not None:
            raise LocalMistake(
                "this holdingpen.lease(...) is held already; write another one for "
                "another lease."
            )


def _running_loop() -> Loop:
    """The loop that runs us.

    Raises:
        LocalMistake: when neither trio nor asyncio does.
    """
    trio_lowlevel = sys.modules.get("trio.lowlevel")
    if trio_lowlevel is not None:
        try:
            trio_lowlevel.current_task()
        except RuntimeError:
            pass
        else:
            from holdingpen.client.on_trio import OnTrio

            return OnTrio()
    from holdingpen.client.on_asyncio import OnAsyncio

    try:
        return OnAsyncio()
    except RuntimeError:
        raise LocalMistake(
            "'async with holdingpen.lease(...)' needs trio or asyncio to run it; "
            "neither does."
        ) from None


def lease(
    *,
    ram: Amount | None = None,
    cpu: Amount | None = None,
    disk: Amount | None = None,
    exclusive: bool = False,
    memory: bool = False,
    file: bool = False,
    resources: Mapping[str, Amount] | None = None,
    priority: int = 0,
    time: Duration | None = None,
    wait: Duration | None = None,
    reclaimable: bool = False,
    inside: int | None = None,
    label: str = "",
    reason: str = "",
    socket: str | None = None,
    on_waiting: OnWaiting | None = None,
) -> Asking:
    """Ask for a lease: `with holdingpen.lease(ram="8G") as lease: ...`.

        >>> import holdingpen
        >>> with holdingpen.lease(ram="8G", cpu=2, label="whisper") as lease:
        ...     print(lease.id, lease.amounts)
        17 {'ram': 8589934592, 'cpu': 2}

    Entering the block waits for the lease; leaving it, by an exception too, gives it
    back.  `async with` does the same under trio and asyncio.  A cancellation or Ctrl-C
    at any moment leaves nothing behind.

    Without an amount and without `exclusive` it is for the share that the
    administrator configured.

    Args:
        ram: memory, in bytes or as a word: `8 * 2**30`, `"8G"`.
        cpu: how many CPUs.
        disk: room on a disk, in bytes or as a word, and which disk, where there are
            several: `"50G"`, `"50G:scratch"`.  `lease.scratch` is the directory.
        exclusive: the whole machine: nobody else holds a lease meanwhile.
        memory: whether the memory is to come as the very pages that are held, by
            `lease.memory()`.  Otherwise what is held is freed for the program to
            occupy, which others may be quicker to do: see `lease.handover`.
        file: whether the disk is to come as a file, by `lease.file()`.
        resources: other resources by name: `{"licence": 1}`.
        priority: higher goes first.
        time: expected length, in seconds or as a word (`"1h30m"`); lets it pass
            others in the line.  Nothing happens when it is over.
        wait: longest wait, in seconds or as a word; None: for ever; 0 or False:
            not at all.
        reclaimable: whether it will be given back when asked for; see
            `Lease.wait_reclaim`.
        inside: the reservation to draw on; None: one of one's own where it fits, else
            none; 0: none.
        label: a few words for those who look at status.
        reason: why, for the same people.
        socket: the daemon's socket; None: where gatekeeper looks too.
        on_waiting: called with each news from the line, a `holdingpen.Waiting`.

    Raises:
        BadWord: when an amount or a duration is none.
        LocalMistake: `memory` or `file` without an amount for it.
    """
    named = {"ram": ram, "cpu": cpu, **read_disk(disk), **(resources or {})}
    amounts = read_amounts(named)
    if exclusive:
        amounts["machine"] = 1
    wishes = read_wishes(amounts, memory=memory, file=file)
    ask = wire.Acquire(
        id=ASK_ID,
        amounts=amounts,
        priority=priority,
        length_s=read_length(time),
        wait_s=read_wait(wait),
        reclaimable=reclaimable,
        label=label,
        reason=reason,
        command=command_line(),
        wishes=wishes,
        inside=read_inside(inside),
    )
    return Asking(Terms(ask, socket, on_waiting))


def try_lease(
    *,
    ram: Amount | None = None,
    cpu: Amount | None = None,
    disk: Amount | None = None,
    exclusive: bool = False,
    memory: bool = False,
    file: bool = False,
    resources: Mapping[str, Amount] | None = None,
    priority: int = 0,
    time: Duration | None = None,
    reclaimable: bool = False,
    inside: int | None = None,
    label: str = "",
    reason: str = "",
    socket: str | None = None,
) -> Lease | None:
    """Get a lease at once, or None.

        >>> import holdingpen
        >>> lease = holdingpen.try_lease(ram="8G")
        >>> if lease:
        ...     with lease:
        ...         print(lease.amounts)
        {'ram': 8589934592}

    Give it back with `release`, or use it in a `with` block.  Arguments are those of
    `holdingpen.lease`.

    Raises:
        Refusal: when waiting would not help: `never-fits`, `not-permitted`...
        BadWord: when an amount or a duration is none.
        LocalMistake: `memory` or `file` without an amount for it.
        Unavailable: there is no daemon, or it ended.
    """
    asking = lease(
        ram=ram,
        cpu=cpu,
        disk=disk,
        exclusive=exclusive,
        memory=memory,
        file=file,
        resources=resources,
        priority=priority,
        time=time,
        wait=0,
        reclaimable=reclaimable,
        inside=inside,
        label=label,
        reason=reason,
        socket=socket,
    )
    try:
        return asking.__enter__()
    except Refusal as no:
        if no.code == "not-now":
            return None
        raise


def status(socket: str | None = None) -> wire.Status:
    """How things stand: resources, leases, the line.

        >>> import holdingpen
        >>> now = holdingpen.status()
        >>> now.resources["ram"].free
        17179869184
        >>> [lease.id for lease in now.leases if lease.state == "live"]
        [17]

    Args:
        socket: the daemon's socket; None: where gatekeeper looks too.

    Raises:
        Unavailable: there is no daemon, or it ended.
    """
    with connect(socket) as connection:
        return connection.status()
