"""The disk of a lease: a file whose blocks were held back for it."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from holdingpen.amounts import format_size
from holdingpen.errors import RemoteMistake

if TYPE_CHECKING:
    from holdingpen.client.pieces import Pieces


class LeaseFile(io.BufferedRandom):
    """The disk that was held back for a lease: `lease.file()`.

        >>> import holdingpen
        >>> with holdingpen.lease(disk="1G", file=True) as lease:
        ...     file = lease.file()
        ...     file.write(b"hello")
        ...     file.seek(0)
        ...     file.read(5), file.size >= 2**30
        5
        0
        (b'hello', True)

    It is an ordinary open file without a name, to be read and written, that has its
    blocks already: writing its first `size` bytes cannot fail for lack of room.  What
    is written beyond them grows it like any file, without a promise.  It begins as
    zeros, and what it holds is gone when the lease is over.

    Leaving the lease's block closes it.  A program that is to write it too takes it
    by its descriptor: `subprocess.Popen(words, pass_fds=[file.fileno()])`.
    """

    #: Bytes that are the lease's, from the beginning.
    size: int

    def __init__(self, pieces: Pieces, amount: int) -> None:
        """Open it over the only piece; programs call `lease.file()` instead.

        Raises:
            RemoteMistake: when there are more pieces, or it has less than `amount`.
        """
        if len(pieces.fds) != 1 or pieces.sizes[0] < amount:
            raise RemoteMistake(
                f"the daemon passed {len(pieces.fds)} files with "
                f"{format_size(sum(pieces.sizes))} in all; it should be one with "
                f"{format_size(amount)}.",
                "out-of-turn",
            )
        # The piece stays the other's to close.
        super().__init__(io.FileIO(os.dup(pieces.fds[0]), "r+"))
        self.size = pieces.sizes[0]
        pieces.close()
