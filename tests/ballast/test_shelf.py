"""What is held outlives the process that held it, and nobody's files are mixed up.

A process that ends is one that calls nothing more: the next ballast has duplicates of
what the store kept, as systemd hands them over.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdingpen.ballast import hugefile, shelf
from holdingpen.ballast.files import HUGE, MEMFD, Files, HugeFiles, MemFiles
from holdingpen.ballast.ram import STEP, UNIT, RamBallast
from holdingpen.ballast.shelf import INITIAL, Label, Purses, Shelf
from holdingpen.errors import Refusal, Unavailable

from .conftest import PIECE


def always(step: int) -> bool:
    return True


class Store:
    """A descriptor store, as systemd has it."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}
        self.deaf = False

    def keep(self, name: str, fd: int) -> None:
        if self.deaf:
            raise Unavailable("nobody listens.")
        assert name not in self.kept
        self.kept[name] = os.dup(fd)

    def forget(self, name: str) -> None:
        if self.deaf:
            raise Unavailable("nobody listens.")
        if name in self.kept:
            os.close(self.kept.pop(name))

    def handed(self) -> dict[str, int]:
        return {name: os.dup(fd) for name, fd in self.kept.items()}


class Lives:
    """One ballast after the other, each with what the last one left."""

    def __init__(self, kind: str) -> None:
        self.store = Store()
        self._kind = kind
        self.ballasts: list[RamBallast] = []

    def _files(self) -> Files:
        if self._kind == MEMFD:
            return MemFiles("Asked for by a test.")
        try:
            mount, noswap = hugefile.open_mount()
        except OSError as error:
            pytest.skip(f"no huge pages here: {error.strerror}")
        return HugeFiles(mount, noswap=noswap)

    def next(self) -> RamBallast:
        on = Shelf(self.store, self.store.handed())
        self.ballasts.append(RamBallast(self._files(), PIECE, on))
        return self.ballasts[-1]


@pytest.fixture(params=[HUGE, MEMFD])
def lives(request: pytest.FixtureRequest) -> Iterator[Lives]:
    lives = Lives(request.param)
    yield lives
    for ballast in lives.ballasts:
        ballast.close()
    for name in list(lives.store.kept):
        lives.store.forget(name)


def test_the_first_inherits_nothing_and_the_second_that_nothing(lives):
    assert not lives.next().inherited
    second = lives.next()
    assert (second.inherited, second.held, second.kept) == (True, 0, {})


def test_what_was_held_and_kept_is_held_and_kept(lives):
    first = lives.next()
    first.take(3 * PIECE, always)
    first.keep(7, 2 * UNIT)
    first.keep(0, UNIT)
    first.give(7, UNIT)
    first.drop(PIECE)
    second = lives.next()
    assert second.inherited
    assert second.kept == {7: UNIT, 0: UNIT}
    assert second.held == first.held == 2 * PIECE - 3 * UNIT


def test_who_ends_in_order_leaves_it_too(lives):
    first = lives.next()
    first.take(PIECE, always)
    first.keep(3, PIECE)
    (piece,) = first.lend(3, PIECE, always)
    os.close(piece.fd)
    first.close()
    first.close()
    second = lives.next()
    assert (second.held, second.kept) == (0, {3: PIECE})


def test_it_can_be_dropped_given_and_closed_as_ever(lives):
    lives.next().take(2 * PIECE, always)
    second = lives.next()
    second.keep(4, PIECE)
    assert second.drop(PIECE) == PIECE
    assert second.give(4, PIECE) == PIECE
    assert second.held == 0
    # only the table is left: a file that is empty is kept nowhere
    assert set(lives.store.kept) == {INITIAL}


def test_it_grows_on_and_no_number_is_used_again(lives):
    first = lives.next()
    first.take(PIECE + UNIT, always)
    second = lives.next()
    second.take(PIECE, always)
    third = lives.next()
    assert third.held == 2 * PIECE + UNIT
    assert set(lives.store.kept) == {INITIAL, "b1", "b2", "b3"}


def test_what_was_lent_is_lent_and_comes_back_wiped(lives):
    first = lives.next()
    first.take(PIECE, always)
    first.keep(9, PIECE)
    (piece,) = first.lend(9, PIECE, always, user=1000)
    os.pwrite(piece.fd, b"secret", UNIT)
    second = lives.next()
    first.close()
    assert second.kept == {9: PIECE}
    # asked again, it is the same file
    (again,) = second.lend(9, PIECE, always, user=1000)
    assert os.path.sameopenfile(piece.fd, again.fd)
    os.close(again.fd)
    assert second.back(9) is None
    os.close(piece.fd)
    assert second.back(9) == PIECE
    second.keep(10, PIECE)
    (other,) = second.lend(10, PIECE, always, user=1000)
    assert os.pread(other.fd, 6, UNIT) == bytes(6)
    os.close(other.fd)


@pytest.mark.parametrize("user", [0, 1000])
def test_a_file_that_one_user_had_is_never_lent_to_another(lives, user):
    first = lives.next()
    first.take(PIECE, always)
    first.keep(1, PIECE)
    (piece,) = first.lend(1, PIECE, always, user=user)
    os.close(piece.fd)
    assert first.back(1) == PIECE
    second = lives.next()
    before = [os.fstat(fd) for fd in lives.store.kept.values()]
    second.keep(2, PIECE)
    (other,) = second.lend(2, PIECE, always, user=user + 1)
    lent = os.fstat(other.fd)
    assert not any(os.path.samestat(lent, one) for one in before)
    os.close(other.fd)
    assert second.held == 0


def test_what_a_client_cut_or_punched_meanwhile_is_not_counted(lives):
    first = lives.next()
    first.take(PIECE, always)
    first.keep(1, PIECE)
    (piece,) = first.lend(1, PIECE, always)
    os.posix_fallocate(piece.fd, 0, PIECE)
    second = lives.next()
    try:
        os.ftruncate(piece.fd, UNIT)
        left = UNIT
    except PermissionError:
        # a memfd is sealed
        left = PIECE
    os.close(piece.fd)
    assert second.back(1) == left
    assert second.held == left


def test_a_file_that_grew_when_its_process_was_killed_is_no_more_than_it_has(lives):
    first = lives.next()
    first.take(PIECE, always)
    # a step that was cut short: longer than what is occupied
    os.ftruncate(lives.store.kept["b1"], 2 * PIECE)
    second = lives.next()
    assert second.held == PIECE
    second.take(PIECE, always)
    assert second.held == 2 * PIECE


def test_more_kept_than_there_is_is_the_reserve_s_loss_first(lives):
    first = lives.next()
    first.take(4 * UNIT, always)
    first.keep(0, 2 * UNIT)
    first.keep(1, 2 * UNIT)
    # killed after it had cut and before it could say so, were it the other way round
    os.ftruncate(lives.store.kept["b1"], 3 * UNIT)
    assert lives.next().kept == {1: 2 * UNIT, 0: UNIT}


class TestDamage:
    def purses(self, store: Store) -> Shelf:
        found = Shelf(store, store.handed())
        found.close()
        for left in found.left:
            os.close(left.fd)
        return found

    def test_of_two_halves_the_last_whole_one_counts(self):
        store = Store()
        one = Shelf(store, {})
        for amount in (1, 2, 3):
            one.write(Purses({7: amount}))
        assert self.purses(store).purses == Purses({7: 3})
        # turn 3 is in the second half
        os.pwrite(store.kept[INITIAL], b"?", shelf._HALF_BYTES + shelf._HEAD.size)
        assert self.purses(store).purses == Purses({7: 2})
        os.pwrite(store.kept[INITIAL], b"?", shelf._HEAD.size)
        assert self.purses(store).purses is None
        one.close()

    def test_a_table_nobody_can_read_frees_everything(self):
        store = Store()
        on = Shelf(store, {})
        first = RamBallast(MemFiles("Asked for by a test."), PIECE, on)
        first.take(2 * PIECE, always)
        os.ftruncate(store.kept[INITIAL], 0)
        nobody = Shelf(store, store.handed())
        assert (nobody.purses, nobody.left) == (None, [])
        assert set(store.kept) == {INITIAL}
        second = RamBallast(MemFiles("Asked for by a test."), PIECE, nobody)
        assert (second.inherited, second.held) == (False, 0)
        # and is written anew
        second.keep(1, UNIT)
        assert self.purses(store).purses == Purses({})
        first.close()
        second.close()

    @pytest.mark.parametrize("said", [b"\x93", b"\x92\x01\x02", b""])
    def test_words_that_are_no_purses_are_no_table(self, said):
        store = Store()
        one = Shelf(store, {})
        head = shelf._HEAD.pack(1, len(said), shelf.zlib.crc32(said))
        os.pwrite(store.kept[INITIAL], head + said, shelf._HALF_BYTES)
        assert self.purses(store).purses is None
        one.close()

    def test_names_that_are_none_of_ours_are_closed_and_forgotten(self):
        store = Store()
        first = Shelf(store, {})
        first.write(Purses())
        store.keep("bx", first._table)
        assert self.purses(store).left == []
        assert set(store.kept) == {INITIAL}
        first.close()

    def test_too_much_to_say_leaves_what_was_said(self):
        store = Store()
        one = Shelf(store, {})
        one.write(Purses({7: 1}))
        one.write(Purses(dict.fromkeys(range(150_000), 1 << 40)))
        assert self.purses(store).purses == Purses({7: 1})
        one.close()

    def test_a_store_that_does_not_listen_does_no_harm(self):
        store = Store()
        store.deaf = True
        ballast = RamBallast(MemFiles("Asked for by a test."), PIECE, Shelf(store, {}))
        assert ballast.take(2 * PIECE, always) == 2 * PIECE
        assert ballast.drop(2 * PIECE) == 2 * PIECE
        assert store.kept == {}
        ballast.close()


def test_labels_say_whose_a_file_was_and_is(lives):
    first = lives.next()
    first.take(2 * PIECE, always)
    (one,) = first.lend(1, PIECE, always, user=5)
    (two,) = first.lend(2, PIECE, always, user=6)
    os.close(one.fd)
    first.back(1)
    found = Shelf(lives.store, lives.store.handed())
    assert found.purses is not None
    assert sorted(found.purses.labels.values(), key=repr) == [
        Label(5, None),
        Label(6, 2),
    ]
    found.close()
    for left in found.left:
        os.close(left.fd)
    os.close(two.fd)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_was_done_the_next_one_has_what_the_last_one_had(lives, seed):
    """Killed after any call; what is lent and in use stays lent."""
    dice = random.Random(seed)
    ballast = lives.next()
    clients: dict[int, list[int]] = {}
    for _ in range(40):
        lease, amount = dice.randrange(4), dice.randrange(1, 6) * UNIT
        match dice.choice(["take", "drop", "keep", "give", "part", "back", "lend"]):
            case "take" if ballast.held + sum(ballast.kept.values()) < 4 * STEP:
                ballast.take(amount, always)
            case "drop":
                ballast.drop(amount)
            case "keep":
                ballast.keep(lease, amount)
            case "give":
                ballast.give(lease, amount)
            case "part":
                ballast.back(lease, amount)
            case "back":
                for fd in clients.pop(lease, []):
                    os.close(fd)
                assert ballast.back(lease) is not None
            case "lend" if lease and ballast.kept.get(lease, 0) < 2 * STEP:
                try:
                    lent = ballast.lend(lease, amount, always, user=dice.randrange(2))
                except Refusal:
                    continue
                clients.setdefault(lease, []).extend(piece.fd for piece in lent)
        if dice.random() < 0.2:
            had = ballast.held, ballast.kept
            ballast = lives.next()
            assert (ballast.held, ballast.kept) == had
    for fd in (fd for fds in clients.values() for fd in fds):
        os.close(fd)


def test_a_store_that_was_deaf_has_nothing_for_the_next_one(lives):
    first = lives.next()
    lives.store.deaf = True
    first.take(PIECE, always)
    lives.store.deaf = False
    assert first.held == PIECE
    second = lives.next()
    assert second.held == 0


def test_all_descriptors_are_closed_with_the_ballast(lives):
    lives.next().take(PIECE, always)
    before = list(Path("/proc/self/fd").iterdir())
    lives.next().close()
    assert list(Path("/proc/self/fd").iterdir()) == before
