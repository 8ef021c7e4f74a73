from __future__ import annotations

import pytest

from holdingpen.ballast.pool import PIECE_MIN, piece_size

GIB = 2**30


@pytest.mark.parametrize(
    ("total", "size"),
    [
        (0, PIECE_MIN),
        (1, PIECE_MIN),
        (8 * GIB, PIECE_MIN),
        (8 * GIB + 1, 2 * PIECE_MIN),
        (24 * GIB, 256 * 2**20),
        (64 * GIB, 512 * 2**20),
        (1024 * GIB, 8 * GIB),
    ],
)
def test_a_full_file_is_such_that_128_hold_the_machine(total: int, size: int) -> None:
    assert piece_size(total) == size
    assert size * 128 >= total
