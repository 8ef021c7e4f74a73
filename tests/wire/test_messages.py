"""The bytes of each message, as version 1 speaks them.

A failure here means that clients of another release are no longer understood: raise
`messages.VERSION` and add the new bytes, or undo the change.  Each file has two
lines: the message with every field told, and the shortest that may be said.
"""

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from holdingpen.wire import messages as wire
from holdingpen.wire.framing import REQUEST_BYTES_MAX
from holdingpen.wire.session import encode

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"
MESSAGES = get_args(wire.Request) + get_args(wire.Reply)
GIB = 2**30

BOOKS = wire.Books(64 * GIB, 40 * GIB, 4 * GIB, 16 * GIB, 3 * GIB, GIB, 8 * GIB)
LEASE = wire.LeaseInfo(
    17, "waiting", 1000, 4242, {"ram": 8 * GIB}, 1763635330.25, 1763635331.5,
    1763635400.0, -3, 1763638930.25, "matlab -nodesktop", "whisper", "naïve", True,
    "best-effort", {"ram": 8 * GIB}, {"ram": 7 * GIB}, 2, [16], 1763635999.0,
    "waits for 8.0 GiB ram", "ordered", 0, 8 * 2**20, "no control groups",
    {"disk.scratch": "/run/holdingpen/scratch/17"}, {"ram": GIB}, {"ram": 2**20},
    "reservation", 1763635330.5, 9, 50, 0, 16, 1763635340.5, 18, True, 1763635350.5,
    {"ram": 2**19},
)  # fmt: skip
USAGE = wire.Usage(
    1000, {"ram": 8.5 * GIB}, {"ram": 0.25}, 3, 2, 1, 1.5, 2.5, 4
)  # fmt: skip
SHORT_LEASE = wire.LeaseInfo(17, "live", 1000, 0, {}, 1763635330.25)

#: Of each, one with no field left at its default, and the shortest.
SAMPLES = [
    (wire.Hello(1, "gatekeeper"), wire.Hello(1)),
    (
        wire.Acquire(
            1, {"ram": 8 * GIB, "cpu": 2}, -3, 3600.0, 0.5, True, "whisper", "naïve",
            "matlab -nodesktop", {"ram": "program"}, 9,
        ),
        wire.Acquire(1),
    ),
    (
        wire.Reserve(
            1, {"ram": 8 * GIB}, 3600.0, [1763635330.25, 1763721730.25], -3, 0.5,
            "whisper", "naïve", 1000, 50,
        ),
        wire.Reserve(1, {"ram": GIB}, 60.0),
    ),
    (wire.Extend(2, 17, 1800.5), wire.Extend(2, 17, 60.0)),
    (wire.Release(2, 17), wire.Release(2, 17)),
    (wire.Shrink(3, 17, {"ram": 2 * GIB}), wire.Shrink(3, 17, {})),
    (wire.Fetch(4, 17, "ram", 250), wire.Fetch(4, 17, "ram")),
    (wire.HandOver(5, 17, "ram", 2**22), wire.HandOver(5, 17, "ram", 2**22)),
    (wire.GetStatus(3, 500), wire.GetStatus(3)),
    (wire.GetStory(4, 17), wire.GetStory(4, 17)),
    (wire.GetReport(4, 1763635330.25), wire.GetReport(4, 0.0)),
    (wire.SetCapacity(5, "ram", 60 * GIB), wire.SetCapacity(5, "ram")),
    (wire.Seat(5, 1000, True), wire.Seat(5, 1000, False)),
    (wire.Drain(6, True, "new disks"), wire.Drain(6, False)),
    (wire.Watch(7), wire.Watch(7)),
    (wire.Welcome(1, "0.1.0"), wire.Welcome(1, "0.1.0")),
    (
        wire.Granted(
            1, 17, {"ram": 8 * GIB}, "bounded", 8 * 2**20, "no control groups",
            {"disk.scratch": "/run/holdingpen/scratch/17"},
        ),
        wire.Granted(1, 17, {}),
    ),
    (
        wire.Waiting(1, 17, 2, "waits for 8.0 GiB ram", [16], 1763635999.0),
        wire.Waiting(1, 17, 2, "waits for the others"),
    ),
    (
        wire.Refused(1, "conflict", "no.", 1763635330.25),
        wire.Refused(1, "not-now", "no."),
    ),
    (
        wire.Reserved(1, [17, 18], {"ram": GIB}, 1763635330.25, 1763638930.25),
        wire.Reserved(1, [17], {}, 1763635330.25, 1763638930.25),
    ),
    (
        wire.Extended(2, 17, 1763638930.25),
        wire.Extended(2, 17, 1763638930.25),
    ),
    (wire.Released(2, 17), wire.Released(2, 17)),
    (wire.Shrunk(3, 17, {"ram": 6 * GIB}), wire.Shrunk(0, 17, {})),
    (
        wire.Fetched(4, 17, "ram", [GIB, GIB], "best-effort", True),
        wire.Fetched(4, 17, "ram", []),
    ),
    (wire.Reclaim(17, True), wire.Reclaim(17, False)),
    (wire.Ended(17, "ordered"), wire.Ended(17, "ordered")),
    (wire.Done(5), wire.Done(5)),
    (wire.Failed("out-of-turn", "no.", 8), wire.Failed("out-of-turn", "no.")),
    (
        wire.Status(
            3, "0.1.0", 1763635000.0, "/run/holdingpen.socket", 1763635330.25,
            {"ram": BOOKS}, [LEASE], 1, True, "new disks",
            [wire.ForeignUser("ram", 4243, 1001, "firefox", GIB)], ["no room"], [1000],
        ),
        wire.Status(3, "0.1.0", 1763635000.0, "", 1763635330.25, {}),
    ),
    (wire.Story(4, LEASE), wire.Story(4, SHORT_LEASE)),
    (
        wire.Report(4, 1763635330.25, 1763638930.25, [USAGE], USAGE),
        wire.Report(4, 1763635330.25, 1763638930.25, [], wire.Usage(None)),
    ),
    (
        wire.Happened(1763635330.25, "granted", {"amounts": {"ram": GIB}}, 17),
        wire.Happened(1763635330.25, "opened"),
    ),
]  # fmt: skip
EACH = pytest.mark.parametrize(
    ("full", "short"), SAMPLES, ids=[type(full).__name__ for full, _ in SAMPLES]
)


def golden(message):
    """The two frames kept for a kind of message."""
    path = GOLDEN / f"{type(message).__name__.lower()}.hex"
    return [bytes.fromhex(line) for line in path.read_text().splitlines()]


def test_every_message_has_its_golden_bytes():
    assert [type(full) for full, _ in SAMPLES] == list(MESSAGES)
    names = {kind.__name__.lower() for kind in MESSAGES}
    assert {path.stem for path in GOLDEN.iterdir()} == names


@EACH
def test_the_samples_tell_every_field(full, short):
    """Else a change of it would not be seen."""
    for name, default in zip(
        full.__struct_fields__[::-1], full.__struct_defaults__[::-1], strict=False
    ):
        assert getattr(full, name) != default
        if type(default) in (int, str, bool, float, type(None)):
            assert getattr(short, name) == default


@EACH
def test_a_message_is_said_as_ever(full, short):
    assert [encode(full).hex(), encode(short).hex()] == [x.hex() for x in golden(full)]


@EACH
def test_golden_bytes_are_understood_as_ever(full, short):
    kind = wire.Request if isinstance(full, get_args(wire.Request)) else wire.Reply
    decode = msgspec.msgpack.Decoder(kind).decode
    assert [decode(frame[4:]) for frame in golden(full)] == [full, short]


def test_each_message_has_its_own_tag():
    tags = [kind.__struct_config__.tag for kind in MESSAGES]
    assert len(set(tags)) == len(tags)


def test_the_longest_legal_request_fits_a_frame():
    """64 resources with long names, and 4 KiB of four-byte letters."""
    amounts = {"x" * 60 + f"{n:03}": 2**63 - 1 for n in range(wire.AMOUNTS_MAX)}
    text, command = "😀" * wire.TEXT_MAX, "😀" * wire.COMMAND_MAX
    full = wire.Acquire(2**63, amounts, 0, 1e9, 1e9, True, text, text, command)
    assert len(encode(full)) < 24 * 1024 + 4 < REQUEST_BYTES_MAX
