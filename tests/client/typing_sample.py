"""What type checkers make of the public names; run through mypy by test_typing.py."""

from pathlib import Path
from typing import assert_type

import holdingpen


def blocking() -> None:
    with holdingpen.lease(ram="8G", cpu=2, wait="5m", time=3600) as lease:
        assert_type(lease, holdingpen.Lease)
        assert_type(lease.id, int)
        assert_type(lease.amounts, dict[str, int])
        assert_type(lease.handover, str)
        assert_type(lease.granted, float)
        assert_type(lease.ended, str | None)
        assert_type(lease.reclaim_requested, bool)
        assert_type(lease.wait_reclaim(timeout=1.5), bool)
        assert_type(lease.fileno(), int)
        lease.shrink(ram="2G")
        lease.release()


def fetching() -> None:
    asking = holdingpen.lease(ram="8G", disk="1G:scratch", memory=True, file=True)
    with asking as lease:
        assert_type(lease.bound, int)
        assert_type(lease.handover_why, str)
        assert_type(lease.scratch, Path | None)
        with lease.memory() as memory:
            assert_type(memory, holdingpen.LeaseMemory)
            assert_type(memory.buffer, memoryview)
            assert_type(memory.fds, tuple[int, ...])
            assert_type(memory.handover, str)
            assert_type(len(memory), int)
            memory.asarray("f4", shape=(2, 3))[0, 0] = 1.5
        assert_type(lease.file(), holdingpen.LeaseFile)
        assert_type(lease.file().size, int)


def told(news: holdingpen.Waiting) -> None:
    assert_type(news.place, int)
    assert_type(news.expected, float | None)


def trying() -> None:
    maybe = holdingpen.try_lease(resources={"licence": 1})
    assert_type(maybe, holdingpen.Lease | None)
    assert_type(holdingpen.lease(on_waiting=told), holdingpen.Asking)


async def asynchronous() -> None:
    async with holdingpen.lease(ram=2**30) as lease:
        assert_type(lease, holdingpen.AsyncLease)
        assert_type(await lease.wait_reclaim(), bool)
        assert_type(await lease.memory(), holdingpen.LeaseMemory)
        assert_type(await lease.file(), holdingpen.LeaseFile)
        await lease.shrink(ram="512M")
        await lease.release()


def looking() -> None:
    status = holdingpen.status(socket="/run/holdingpen.socket")
    assert_type(status, holdingpen.Status)
    assert_type(status.resources, dict[str, holdingpen.Books])
    assert_type(status.leases, list[holdingpen.LeaseInfo])


def refused() -> None:
    try:
        blocking()
    except holdingpen.Refusal as no:
        assert_type(no.code, str)
    except (holdingpen.Unavailable, holdingpen.BadWord):
        raise
