"""Whatever is asked in whatever order, the purses are what the kernel says."""

from __future__ import annotations

import os
from functools import partial

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from holdingpen.ballast import Piece
from holdingpen.ballast.files import HUGE, MEMFD
from holdingpen.ballast.ram import UNIT, RamBallast
from holdingpen.errors import Refusal

from .conftest import open_kind

#: Nothing is taken beyond: 48 MiB.
MOST = 24 * UNIT

leases = st.integers(1, 3)
amounts = st.integers(0, 20).map(lambda units: units * UNIT)
users = st.integers(0, 1)
yeses = st.sampled_from((0, 1, 2, 99))


class Purses(RuleBasedStateMachine):
    """A ballast, and a model of it in three numbers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        ballast = open_kind(kind)
        assert isinstance(ballast, RamBallast)
        self.ballast = ballast
        self.held = 0
        self.kept: dict[int, int] = {}
        #: Lease to what it was lent and still has open.
        self.lent: dict[int, list[Piece]] = {}
        self.lent_size: dict[int, int] = {}

    def teardown(self) -> None:
        for lease in [*self.lent]:
            self.end(lease)
        self.ballast.close()

    def guard(self, yeses: int):
        answers = iter([True] * yeses)
        return lambda step: self.occupied() + step <= MOST and next(answers, False)

    def occupied(self) -> int:
        return self.ballast.held + sum(self.ballast.kept.values())

    @rule(amount=amounts, yeses=yeses)
    def take(self, amount, yeses):
        before = self.occupied()
        taken = self.ballast.take(amount, self.guard(yeses))
        assert taken <= amount
        assert taken == amount or yeses < 99 or before + amount > MOST
        self.held += taken

    @rule(amount=amounts)
    def drop(self, amount):
        dropped = self.ballast.drop(amount)
        assert dropped == min(amount, self.held)
        self.held -= dropped

    @rule(lease=leases, amount=amounts)
    def keep(self, lease, amount):
        kept = self.ballast.keep(lease, amount)
        assert kept == min(amount, self.held)
        self.held -= kept
        self.kept[lease] = self.kept.get(lease, 0) + kept

    @rule(lease=leases, amount=amounts)
    def give(self, lease, amount):
        given = self.ballast.give(lease, amount)
        assert given == min(amount, self.kept.get(lease, 0))
        self.kept[lease] = self.kept.get(lease, 0) - given

    @rule(lease=leases, amount=amounts, yeses=yeses, user=users)
    def lend(self, lease, amount, yeses, user):
        kept, lent = self.kept.get(lease, 0), self.lent_size.get(lease, 0)
        missing = max(0, amount - lent)
        try:
            pieces = self.ballast.lend(lease, amount, self.guard(yeses), user)
        except Refusal:
            assert missing > kept
            return
        self.lent.setdefault(lease, []).extend(pieces)
        assert sum(piece.size for piece in pieces) == max(amount, lent)
        for piece in pieces:
            assert os.pread(piece.fd, 8, 0) in (b"lease %02d" % lease, bytes(8))
            os.pwrite(piece.fd, b"lease %02d" % lease, 0)
        self.kept[lease] = max(0, kept - missing)
        self.lent_size[lease] = max(amount, lent)

    @rule(lease=leases)
    def end(self, lease):
        for piece in self.lent.pop(lease, []):
            os.close(piece.fd)

    @rule(lease=leases)
    def back(self, lease):
        came = self.ballast.back(lease)
        if self.lent.get(lease):
            assert came is None
            return
        assert came == self.kept.pop(lease, 0) + self.lent_size.pop(lease, 0)
        self.held += came

    @rule(lease=leases, amount=amounts)
    def back_in_part(self, lease, amount):
        came = self.ballast.back(lease, amount)
        assert came == min(amount, self.kept.get(lease, 0))
        self.kept[lease] = self.kept.get(lease, 0) - came
        self.held += came

    @invariant()
    def the_purses_are_what_the_kernel_says(self):
        in_pool = sum(piece.occupied for piece in self.ballast._pool)
        lent = {
            lease: sum(piece.occupied for piece in pieces)
            for lease, pieces in self.ballast._lent.items()
        }
        assert lent == {x: n for x, n in self.lent_size.items() if n}
        assert in_pool == self.ballast._pool.size == self.held + sum(self.kept.values())
        assert self.ballast.held == self.held
        kept = {x: self.kept.get(x, 0) + lent.get(x, 0) for x in {*self.kept, *lent}}
        assert self.ballast.kept == {x: n for x, n in kept.items() if n}

    @invariant()
    def no_file_is_longer_than_what_is_in_it(self):
        for piece in self.ballast._pool:
            assert 0 < piece.size == piece.occupied


@pytest.mark.slow
@pytest.mark.parametrize("kind", [HUGE, MEMFD])
def test_the_purses_balance_whatever_is_asked(kind: str) -> None:
    run_state_machine_as_test(partial(Purses, kind))
