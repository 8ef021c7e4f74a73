"""The bytes of each fact, as version 1 writes them.

A failure here means that journals on people's disks are read differently: raise
`record.VERSION` and add the new bytes, or undo the change.  Each file has the head
of the record in its first line and the payload in its second.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from holdingpen.core import facts
from holdingpen.core.facts import Ask, Fact, Moment, Who
from holdingpen.journal import record

GOLDEN = Path(__file__).parents[1] / "golden" / "journal"

AT = Moment(12.5, 1763635330.25)
ASK = Ask(
    conn=5,
    number=2,
    who=Who(1000, 1001, 4242),
    amounts={"ram": 8 * 2**30, "cpu": 2},
    priority=-3,
    length_s=3600.0,
    wait_s=0.5,
    reclaimable=True,
    label="whisper",
    reason="naïve",
    command="matlab -nodesktop",
    wishes={"ram": "descriptor"},
    inside=9,
    lasts_s=3600.0,
    gid=50,
    by_uid=0,
    seated=True,
)
#: One of each, no field left at its default.
SAMPLES: list[Fact] = [
    facts.Opened(AT, "0b5cb4a4-8f5c-4a7e-9d0e-3b1c1f2a9e77"),
    facts.Counted(17, 5),
    facts.ResourceSet("ram", 64 * 2**30, 8 * 2**30, 2**21, True),
    facts.CapacitySet("ram", None, 1000),
    facts.DrainSet("new kernel", 1000),
    facts.Joined(17, AT, ASK, [16]),
    facts.Promised(17, {"ram": 2**31}, AT, ASK, {"ram": "pieces"}),
    facts.Granted(17, AT, ASK),
    facts.Ended(17, AT, "released", 1000),
    facts.Left(5),
    facts.Taking("ram", 2**31),
    facts.Taken("ram", 2**31, 2**30, 13.5),
    facts.Shed("ram", 2**30),
    facts.Seen("ram", 2**20, 2**21, 14.5),
    facts.Dropped(17, "disk.scratch", "/run/x/17", "directory", "no loop device"),
    facts.Heard(5, 2),
    facts.Shrunk(17, AT, 5, 3, {"ram": 2**31}, {"ram": 2**30}),
    facts.Recovered(17, "ram", 2**30, True),
    facts.Owed(17, "ram", 2**30),
    facts.Booked(17, AT, ASK, 1763635330.5, 1763638930.5, 16),
    facts.Due(17, AT),
    facts.Reserved(17, AT, 1763638930.5, {"ram": 2**31}, ASK),
    facts.Extended(17, AT, 1763638930.5, 1000, 5, 3),
    facts.Deferred(17, 15.5),
    facts.AskedBack(17, AT, 18),
    facts.AgeingSet(3600.0),
    facts.Seated(1000, True, 0, "c2"),
    facts.Unused(17, AT),
    facts.Lost(17, "ram", "the daemon was restarted"),
]


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name.lower()}.hex").read_text())


def test_every_fact_has_its_golden_bytes() -> None:
    kinds = {kind.__name__.lower() for kind in get_args(Fact)}
    assert {path.stem for path in GOLDEN.iterdir()} == kinds | {"opening"}
    assert {type(fact) for fact in SAMPLES} == set(get_args(Fact))


@pytest.mark.parametrize("fact", SAMPLES, ids=lambda fact: type(fact).__name__)
def test_a_fact_is_written_as_ever(fact: Fact) -> None:
    written, _ = record.pack([fact], 0x01020304, 4096)
    assert written.hex() == golden(type(fact).__name__).hex()


@pytest.mark.parametrize("fact", SAMPLES, ids=lambda fact: type(fact).__name__)
def test_golden_bytes_are_read_as_the_fact(fact: Fact) -> None:
    data = golden(type(fact).__name__)
    assert list(record.batches(data, len(data))) == [(0, [fact])]


def test_the_opening_is_written_as_ever() -> None:
    boot_id = "0b5cb4a4-8f5c-4a7e-9d0e-3b1c1f2a9e77"
    assert record.pack_opening(boot_id, 0, 0)[0].hex() == golden("opening").hex()
