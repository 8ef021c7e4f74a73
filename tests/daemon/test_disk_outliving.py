"""Leases with a disk outlive the daemon, with what they have there.

The whole daemon, twice, on the file system that tests run on.  With images, and with a
real systemd: tests/systemd/test_disk_outliving.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdingpen.ballast import scratch
from holdingpen.core import effects as do
from holdingpen.daemon.settings import Disk
from holdingpen.devices.filesystem import FileSystem
from holdingpen.wire import messages as wire

MIB = 2**20
HELD = 128 * MIB


@pytest.fixture
def store():
    """What systemd has: name to descriptor."""
    kept: dict[str, int] = {}
    yield kept
    for fd in kept.values():
        os.close(fd)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The disk; there are no file systems of one's own on it."""
    path = tmp_path / "disk"
    path.mkdir()
    if why := FileSystem(path).why:
        pytest.skip(why)
    monkeypatch.setattr(scratch, "why_not", lambda: "Only directories here.")
    return path


class Site:
    """Daemons with the same disk and the same store, one after the other."""

    def __init__(self, start, path: Path, store: dict[str, int] | None) -> None:
        self._start, self._store = start, store
        self._settings = {"disks": {"a": Disk(str(path), HELD)}}
        self.pen = None

    async def begin(self, meanwhile=None):
        """The daemon dies, if there is one, and the next starts."""
        streams = []
        if self.pen is not None:
            streams, self.pen._streams = self.pen._streams, []
            await self.pen.stop()
        if meanwhile is not None:
            meanwhile()
        self.pen = await self._start(store=self._store, **self._settings)
        self.pen._streams += streams
        return self.pen

    @property
    def ledger(self):
        return self.pen.books.resources["disk.a"]

    @property
    def ballast(self):
        return self.pen.daemon._hands["disk.a"].ballast

    async def until_held(self, amount: int) -> None:
        await self.pen.until(lambda: self.ledger.held == amount)
        assert self.ballast.held == amount


@pytest.fixture
async def site(start, path, store):
    site = Site(start, path, store)
    await site.begin()
    await site.until_held(HELD)
    return site


def names(path: Path, directory: str) -> list[str]:
    return sorted(x.name for x in (path / directory).iterdir())


async def granted(client, wish: str = "as-is") -> wire.Granted:
    reply = await client.ask(
        wire.Acquire, amounts={"disk": 96 * MIB}, wishes={"disk": wish}
    )
    assert isinstance(reply, wire.Granted), reply
    return reply


async def test_ballast_is_held_from_the_first_moment(site):
    await site.begin()
    assert (site.ledger.held, site.ledger.taking, site.ballast.held) == (HELD, 0, HELD)


async def test_a_directory_goes_on_for_its_lease_and_is_removed_at_its_end(site, path):
    client = await site.pen.client()
    place = Path((await granted(client)).places["disk.a"])
    (place / "file").write_text("data")
    for _daemon in range(2):
        await site.begin()
        assert (site.ledger.held, site.ballast.held) == (32 * MIB, 32 * MIB)
        assert (place / "file").read_text() == "data"
        story = await client.ask(wire.GetStory, lease=1)
        assert story.lease.handover == "bounded"
        assert "restarted" not in story.lease.handover_why
    await client.ask(wire.Release, lease=1)
    await site.until_held(HELD)
    assert names(path, ".holdingpen-leases") == []


async def test_a_file_goes_on_for_its_lease(site, path):
    client = await site.pen.client()
    await granted(client, "descriptor")
    file = path / ".holdingpen" / "file-1"
    with file.open("r+b") as mine:
        mine.write(b"mine")
    await site.begin()
    assert site.ballast.kept == {1: 96 * MIB}
    assert file.read_bytes()[:4] == b"mine"
    await client.ask(wire.Release, lease=1)
    await site.until_held(HELD)
    assert not file.exists()


async def test_a_file_that_is_gone_is_said_and_its_lease_goes_on(site, path):
    client = await site.pen.client()
    await granted(client, "descriptor")
    await site.begin((path / ".holdingpen" / "file-1").unlink)
    story = await client.ask(wire.GetStory, lease=1)
    assert story.lease.handover == "best-effort"
    assert site.ballast.held == site.ledger.held == 32 * MIB
    await client.ask(wire.Release, lease=1)
    await site.until_held(HELD)


async def test_what_a_client_had_that_went_meanwhile_is_taken_back(site, store, path):
    client = await site.pen.client()
    await granted(client, "descriptor")

    def leave() -> None:
        client.stream.socket.close()
        # systemd throws out whose other end hung up
        os.close(store.pop("c1"))

    await site.begin(leave)
    await site.until_held(HELD)
    assert site.pen.books.leases == {}
    assert not (path / ".holdingpen" / "file-1").exists()


async def test_what_its_client_still_uses_after_the_end_is_waited_for(site, path):
    client = await site.pen.client()
    await granted(client, "descriptor")
    with (path / ".holdingpen" / "file-1").open("rb"):
        await client.ask(wire.Release, lease=1)
        await site.begin()
        assert site.ledger.held == site.ballast.held == 32 * MIB
        assert site.ballast.back(1) is None
    site.pen.daemon._performer.perform(do.TakeBack("disk.a", 1))
    await site.until_held(HELD)


async def test_without_a_store_everything_ends_with_the_daemon(start, path):
    site = Site(start, path, None)
    await site.begin()
    await site.until_held(HELD)
    await granted(await site.pen.client())

    def nothing_is_left() -> None:
        assert [*path.iterdir()] == []

    await site.begin(nothing_is_left)
    await site.until_held(HELD)


@pytest.mark.parametrize("wish", ["as-is", "descriptor"])
async def test_what_was_being_made_ready_is_made_ready_by_the_next(site, path, wish):
    """Its client hears of its grant, and of its place, only then."""
    client = await site.pen.client()
    # it dies before the hand has begun
    site.pen.daemon._performer.perform = lambda effect: None
    number = await client.send(
        wire.Acquire, amounts={"disk": 96 * MIB}, wishes={"disk": wish}
    )
    await site.pen.until(lambda: site.pen.books.leases)
    await site.begin()
    told = await client.answer(number)
    assert isinstance(told, wire.Granted)
    assert bool(told.places) == (wish == "as-is")
    assert (site.ledger.held, site.ballast.held) == (32 * MIB, 32 * MIB)
    await client.ask(wire.Release, lease=1)
    await site.until_held(HELD)
