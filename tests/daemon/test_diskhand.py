"""The hand of a disk, on whatever file system the tests run."""

from __future__ import annotations

import fcntl
import os
from contextlib import closing
from pathlib import Path

import pytest

from holdingpen.core import effects as do
from holdingpen.core.facts import Ask, Moment, Who
from holdingpen.core.leases import Lease
from holdingpen.daemon.diskhand import DiskHand
from holdingpen.daemon.settings import Disk, Settings
from holdingpen.devices.filesystem import FileSystem
from holdingpen.errors import Unavailable

MIB = 2**20
NOW = Moment(7.0, 1007.0)
WHO = Who(os.geteuid(), os.getegid(), os.getpid())


def always(step: int) -> bool:
    return True


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "disk").mkdir()
    return Settings(disks={"a": Disk(str(tmp_path / "disk"), 64 * MIB)})


@pytest.fixture
def hand(settings: Settings, tmp_path: Path):
    with closing(DiskHand("a", settings, tmp_path / "mounts")) as hand:
        if hand._filesystem.why:
            pytest.skip(hand._filesystem.why)
        hand.ballast.take(64 * MIB, always)
        yield hand


def prepare(hand: DiskHand, how: str, amount: int = 16 * MIB) -> str:
    return hand.prepare(do.Prepare("disk.a", amount, 5, how, amount, WHO)).place


def test_a_file_is_lent_and_comes_back(hand):
    assert prepare(hand, "file") == ""
    (piece,) = hand.lend(5, 16 * MIB, 1000)
    os.pwrite(piece.fd, b"mine", 0)
    assert hand.take_back(5, None) is None
    (said,) = hand.troubles(Settings(disks={"a": Disk("/x")}))
    assert said.startswith("disk.a: what lease 5 had is not back: ")
    os.close(piece.fd)
    assert hand.take_back(5, None) == 16 * MIB
    assert hand.troubles(Settings(disks={"a": Disk("/x")})) == []
    assert (hand.ballast.held, hand.ballast.kept) == (64 * MIB, {})


def test_a_directory_is_freed_as_it_fills_and_is_gone_afterwards(hand):
    place = Path(prepare(hand, "directory", 64 * MIB))
    assert hand.ballast.kept.get(5, 0) == 64 * MIB - hand.ballast.step
    (place / "x").write_bytes(b"x" * 8 * MIB)
    hand._look(5)
    assert hand.used()[5] >= 8 * MIB
    assert hand.take_back(5, None) is not None
    assert (place.exists(), hand.used(), hand.stolen) == (False, {}, {})


def test_what_others_took_is_counted_at_its_most(hand, monkeypatch):
    prepare(hand, "directory")
    for stolen in (3, 7, 5):
        seen = type("Seen", (), {"used": 1, "stolen": stolen})
        monkeypatch.setattr(hand.ballast, "pace", lambda lease, seen=seen: seen)
        hand._look(5)
    assert hand.stolen == {5: 7}


def test_a_part_of_a_directory_comes_back(hand):
    prepare(hand, "directory", 64 * MIB)
    kept = hand.ballast.kept.get(5, 0)
    assert hand.take_back(5, 16 * MIB) == min(16 * MIB, kept)


def test_it_takes_no_more_than_the_others_are_left(hand, settings):
    there = hand._filesystem.available()
    hand.configure(Settings(disks={"a": Disk("/x", 0, there - MIB)}))
    assert not hand.may_take(64 * MIB)
    hand.configure(Settings(disks={"a": Disk("/x")}))
    assert hand.may_take(MIB)


def test_wishes_are_met_as_well_as_this_machine_can(hand, settings):
    wishes = hand.wishes(settings)
    assert wishes["descriptor"].method == "file"
    image_why = hand.ballast.image_why
    expected = ("directory", image_why) if image_why else ("image", "")
    assert (wishes["as-is"].method, wishes["as-is"].why) == expected


def test_where_blocks_cannot_be_reserved_nothing_is_promised(hand, settings):
    hand._filesystem = FileSystem(Path(settings.disks["a"].path), kind="btrfs")
    for choice in hand.wishes(settings).values():
        assert choice.promise == "best-effort"
        assert "btrfs" in choice.why
    assert "btrfs" in hand.troubles(settings)[0]


def test_ballast_of_before_is_available_until_it_is_taken_again(settings, tmp_path):
    mounts = tmp_path / "mounts"
    first = DiskHand("a", settings, mounts)
    if first._filesystem.why:
        first.close()
        pytest.skip("no reservation on this file system")
    first.ballast.take(64 * MIB, always)
    # it is killed: nothing is given back
    fcntl.flock(first.ballast._grounds.ours, fcntl.LOCK_UN)
    with closing(DiskHand("a", settings, mounts)) as second:
        assert second.adopt(0, {}, frozenset())[:2] == (0, frozenset())
        assert second.ballast.found == 64 * MIB
        before = second.available()
        assert second.ballast.take(64 * MIB, always) == 64 * MIB
        assert before - second.available() == 64 * MIB


def test_what_breaks_the_pacing_is_told(hand, monkeypatch):
    heard = []
    hand.broken = heard.append

    def fail(lease):
        raise OSError("the disk is gone")

    monkeypatch.setattr(hand.ballast, "pace", fail)
    prepare(hand, "directory")
    for thread in [hand._thread]:
        thread.join(10)
    assert [str(why) for why in heard] == ["the disk is gone"]


def test_a_directory_that_is_not_there_is_told(tmp_path):
    settings = Settings(disks={"a": Disk(str(tmp_path / "none"))})
    with pytest.raises(Unavailable, match="Make the directory"):
        DiskHand("a", settings, tmp_path / "mounts")


# The next daemon.


@pytest.fixture
def reopen(hand, settings, tmp_path):
    """The daemon of `hand` ends, and the hand of the next one is opened."""
    opened = []

    def reopen(**options: bool) -> DiskHand:
        (opened or [hand])[-1].ballast.leave()
        opened.append(DiskHand("a", settings, tmp_path / "mounts", **options))
        return opened[-1]

    yield reopen
    for one in opened:
        one.close()


def lease(
    how: str,
    size: int = 16 * MIB,
    drawn: int = 16 * MIB,
    dropping: tuple[str, ...] = (),
) -> Lease:
    """Lease 5, as the books have it."""
    known = Lease(5, Ask(1, 1, WHO, {"disk.a": size}), {}, "live", NOW)
    known.amounts, known.drawn = {"disk.a": size}, {"disk.a": size}
    known.how, known.dropping = {"disk.a": how}, [*dropping]
    return known


@pytest.mark.parametrize("how", ["file", "directory"])
def test_a_lease_goes_on_with_what_it_has(hand, reopen, how):
    size = 64 * MIB if how == "directory" else 16 * MIB
    place = prepare(hand, how, size)
    held, kept = hand.ballast.held, hand.kept
    hand = reopen()
    found = hand.adopt(held, {5: lease(how, size)}, frozenset())
    assert found[:2] == (held, {5})
    assert (hand.ballast.held, hand.kept, hand.notes) == (held, kept, [])
    assert (5 in hand.used()) == bool(place)
    assert hand.take_back(5, None) == sum(kept.values())


def test_the_directory_of_a_lease_that_goes_on_is_paced(hand, settings, tmp_path):
    hand.ballast.step = 8 * MIB
    place = Path(prepare(hand, "directory", 64 * MIB))
    hand.ballast.leave()
    with closing(DiskHand("a", settings, tmp_path / "mounts")) as second:
        second.ballast.step = 8 * MIB
        second.adopt(0, {5: lease("directory", 64 * MIB)}, frozenset())
        assert second.kept == {5: 56 * MIB}
        (place / "x").write_bytes(b"x" * 16 * MIB)
        # until both are so: what is seen is told after it was freed
        while second.kept[5] > 40 * MIB or second.used()[5] < 16 * MIB:
            pass


@pytest.mark.parametrize("how", ["file", "directory"])
def test_what_was_being_made_ready_is_made_ready_anew(hand, reopen, how):
    """Its client was told nothing yet."""
    prepare(hand, how)
    held = 48 * MIB
    hand = reopen()
    promised = lease(how, dropping=("disk.a",))
    assert hand.adopt(held, {5: promised}, frozenset())[:2] == (held, frozenset())
    assert len(hand.notes) == 1
    hand.ballast.take(64 * MIB - hand.ballast.held, always)
    prepare(hand, how)
    assert (hand.ballast.held, *hand.kept) == (held, *([5] if how == "file" else []))


def test_a_lease_of_other_things_is_no_heir(hand, reopen):
    hand = reopen()
    other = lease("paced")
    other.how, other.amounts, other.drawn = {"ram": "paced"}, {"ram": MIB}, {"ram": MIB}
    assert hand.adopt(64 * MIB, {5: other}, frozenset())[:2] == (64 * MIB, frozenset())


def test_what_a_lease_had_that_is_over_is_taken_back(hand, reopen):
    prepare(hand, "file")
    (piece,) = hand.lend(5, 16 * MIB, 1000)
    hand = reopen()
    assert hand.adopt(48 * MIB, {}, frozenset({5}))[:2] == (48 * MIB, frozenset())
    assert hand.take_back(5, None) is None
    os.close(piece.fd)
    assert hand.take_back(5, None) == 16 * MIB
    assert hand.ballast.held == 64 * MIB


def test_closed_it_gives_everything_back_unless_it_is_to_last(hand, reopen, settings):
    path = Path(settings.disks["a"].path)
    lasting = reopen(lasting=True)
    lasting.adopt(64 * MIB, {}, frozenset())
    lasting.close()
    assert sum(x.stat().st_size for x in path.glob(".holdingpen/*")) == 64 * MIB
    last = reopen()
    last.adopt(64 * MIB, {}, frozenset())
    last.close()
    assert [*path.iterdir()] == []
