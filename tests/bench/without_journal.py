"""A daemon whose journal forgets everything: what the journal costs is the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from holdingpen.core.facts import Fact
from holdingpen.daemon import daemon, run


class Discard:
    """What the daemon and the keeper want of a journal, doing nothing."""

    trouble = None
    reserve_ok = True
    wants_rotation = False
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, state_dir: Path, boot_id: str) -> Discard:
        return cls()

    def batches(self) -> Iterator[list[Fact]]:
        return iter(())

    def append(self, facts: list[Fact]) -> None:
        pass

    def sync(self) -> None:
        pass

    def owe(self, leases: int) -> None:
        pass

    def try_extend(self) -> bool:
        return True

    def rotate(self, batches: Iterable[list[Fact]]) -> None:
        pass

    def close(self) -> None:
        pass


if __name__ == "__main__":
    daemon.Store = Discard
    sys.exit(run.main())
