"""One record <-> bytes, and what can be believed of a whole journal's bytes.

Pure: bytes in, facts and judgments out.  The format is described, with worked
bytes, in the docstring of the package.

`scan` walks the chain of records by checksum alone and judges where it ends;
`batches` decodes what was found good, one record at a time, so that a journal of a
million facts never stands in memory as a million objects.  `verifiable` is the slow
and patient one: it finds every whole record anywhere, past damage too.
"""

from __future__ import annotations

from enum import Enum
from struct import Struct as Layout
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec

from holdingpen.core.facts import Fact
from holdingpen.errors import Damage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: The version of the format and of the facts in it; every opening states it.  All
#: versions from 1 on are read.
VERSION: Final = 1

#: A record of facts, and a record that says who opened the journal.  0xc1 is the
#: one byte that msgpack never uses as a type and UTF-8 never uses at all.
BATCH: Final = b"\xc1HPj"
OPENING: Final = b"\xc1HPo"
_MAGIC: Final = BATCH[:3]

#: magic, crc | link, length of the payload, synced_to
_HEAD: Final = Layout(">4sIIIQ")
_LINKED: Final = Layout(">IIQ")
#: Bytes before the payload of each record.
HEAD_BYTES: Final = _HEAD.size
#: Where the bytes that the crc covers go on after the magic.
_SUMMED: Final = 8
#: What the crc is after the magic.
_SEEDS: Final = {BATCH: crc32(BATCH), OPENING: crc32(OPENING)}
_BATCH_SEED: Final = _SEEDS[BATCH]

_encode: Final = msgspec.msgpack.Encoder().encode


class Opening(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A daemon opened the journal.  A newer version may add fields at the end."""

    #: The `VERSION` of the program that wrote from here on.
    version: int
    #: /proc/sys/kernel/random/boot_id, or empty when that was not known.
    boot_id: str


_decode_facts: Final = msgspec.msgpack.Decoder(list[Fact]).decode
_decode_opening: Final = msgspec.msgpack.Decoder(Opening).decode


class End(Enum):
    """How the good part of a journal ends, and so what opening it does."""

    #: Nothing but zeros follows: preallocated space.  Go on writing there.
    CLEAN = "clean"
    #: The last write was not finished, or a power cut lost pages that nobody had
    #: been promised.  Cut there, keep what was cut, go on.
    TORN = "torn"
    #: Something that was there is not what was written.  Stop, and let a person
    #: decide.
    DAMAGED = "damaged"
    #: Written by a version that this program does not know.  Stop, change nothing.
    FOREIGN = "foreign"


class Scan(msgspec.Struct, frozen=True):
    """What can be believed of a journal."""

    #: Bytes from the start that are good; where the next record goes.
    good_until: int
    #: The crc of the last good record, 0 without one.
    link: int
    #: Good records, openings counted.
    records: int
    #: The boot of the last opening anywhere in the file; empty: unknown.
    boot_id: str
    #: The version of the last opening read, 0 without one.
    version: int
    end: End
    #: What is wrong at `good_until`, as the rest of a sentence; empty when clean.
    what: str = ""
    #: Whole records found after `good_until`.
    later: int = 0


class Record(msgspec.Struct, frozen=True, gc=False):
    """Where one whole record lies, and what its head says."""

    offset: int
    #: Offset of the byte after it.
    stop: int
    #: `BATCH` or `OPENING`.
    magic: bytes
    crc: int
    #: The crc of the record before it.
    link: int
    #: Bytes of the file that were on the disk for certain when it was written.
    synced_to: int


class Undecodable(Damage):
    """A record is whole, yet its payload is not what this version writes."""

    def __init__(self, record: Record, why: Exception) -> None:
        super().__init__(
            f"the record at byte {record.offset} is whole, but cannot be read "
            f"({why}): did a newer Holding Pen write it?"
        )
        #: Where the good part of the journal ends because of this.
        self.offset = record.offset


def pack(facts: Sequence[Fact], link: int, synced_to: int) -> tuple[bytes, int]:
    """Make one record of what was decided together.

    Args:
        facts: at least one.
        link: the crc of the record before it in the file.
        synced_to: bytes of the file known to be on the disk by now.

    Returns:
        The record, and its crc, which is the link of the next.
    """
    payload = _encode(facts)
    linked = _LINKED.pack(link, len(payload), synced_to)
    crc = crc32(payload, crc32(linked, _BATCH_SEED))
    return BATCH + crc.to_bytes(4, "big") + linked + payload, crc


def pack_opening(boot_id: str, link: int, synced_to: int) -> tuple[bytes, int]:
    """Make the record that begins a file, or that a daemon adds when it opens one.

    Args and Returns: as `pack`; `link` and `synced_to` are 0 at the beginning.
    """
    payload = _encode(Opening(VERSION, boot_id))
    linked = _LINKED.pack(link, len(payload), synced_to)
    crc = crc32(payload, crc32(linked, _SEEDS[OPENING]))
    return OPENING + crc.to_bytes(4, "big") + linked + payload, crc


def scan(data: bytes, boot_id: str) -> Scan:
    """Walk the records from the start and judge where the good part ends.

    Payloads of facts are not decoded here: see `batches`.

    Args:
        data: the whole file.
        boot_id: the machine's present boot; empty when unknown.  Within one boot
            the kernel cannot have lost what was written.
    """
    view, size, head = memoryview(data), len(data), _HEAD.unpack_from
    offset = link = records = 0
    last = Opening(0, "")
    while offset + HEAD_BYTES <= size:
        magic, crc, before, length, _ = head(data, offset)
        stop = offset + HEAD_BYTES + length
        seed = _SEEDS.get(magic)
        if seed is None or before != link or stop > size:
            break
        if crc32(view[offset + _SUMMED : stop], seed) != crc:
            break
        if magic == OPENING:
            last = _opening(view[offset + HEAD_BYTES : stop])
            if not 1 <= last.version <= VERSION:
                return _foreign(offset, link, records, last)
        elif not offset:
            break
        offset, link, records = stop, crc, records + 1
    good = Scan(offset, link, records, last.boot_id, last.version, End.CLEAN)
    return _judge(data, good, boot_id)


def _opening(payload: memoryview) -> Opening:
    try:
        return _decode_opening(payload)
    except msgspec.DecodeError:
        return Opening(0, "")


def _foreign(offset: int, link: int, records: int, last: Opening) -> Scan:
    what = (
        f"from there on it is written in version {last.version or 'unknown'} of the "
        f"format, and this program knows versions up to {VERSION}"
    )
    boot_id, version = last.boot_id, last.version
    return Scan(offset, link, records, boot_id, version, End.FOREIGN, what)


def _judge(data: bytes, good: Scan, boot_id: str) -> Scan:
    offset = good.good_until
    if not offset:
        what = "a journal begins with an opening record, and this file does not"
        return msgspec.structs.replace(good, end=End.DAMAGED, what=what)
    if not data[offset:].lstrip(b"\0"):
        return good
    later, synced_to, last_boot = 0, 0, good.boot_id
    for record in verifiable(data, offset):
        later += 1
        synced_to = max(synced_to, record.synced_to)
        if record.magic == OPENING:
            last_boot = _opening(_payload(data, record)).boot_id
    what = _what(data, offset, good.link)
    end = End.TORN
    if later and synced_to > offset:
        what += f", though it was on the disk up to byte {synced_to}"
        end = End.DAMAGED
    elif later and boot_id and boot_id == last_boot:
        what += ", and no power was lost since it was written"
        end = End.DAMAGED
    return msgspec.structs.replace(
        good, boot_id=last_boot, end=end, what=what, later=later
    )


def _what(data: bytes, offset: int, link: int) -> str:
    rest = len(data) - offset
    if rest < HEAD_BYTES:
        return f"{rest} bytes are left, too few for a record"
    magic, _, before, length, _ = _HEAD.unpack_from(data, offset)
    if magic not in _SEEDS:
        return "no record begins there"
    if HEAD_BYTES + length > rest:
        return f"a record of {HEAD_BYTES + length} bytes begins where {rest} are left"
    if _record(data, offset) is None:
        return "the checksum of the record is wrong"
    return f"the record follows another one ({before:08x}) than it should ({link:08x})"


def batches(data: bytes, until: int) -> Iterator[tuple[int, list[Fact]]]:
    """Decode the facts of all good records, one record at a time.

    Args:
        data: the whole file.
        until: `good_until` of its scan.

    Yields:
        The offset of each record and what was decided together in it.

    Raises:
        Undecodable: at a record whose checksum is right and whose payload is none.
    """
    view, head = memoryview(data), _HEAD.unpack_from
    offset = 0
    while offset < until:
        magic, crc, link, length, synced_to = head(data, offset)
        stop = offset + HEAD_BYTES + length
        if magic == BATCH:
            try:
                facts = _decode_facts(view[offset + HEAD_BYTES : stop])
            except (msgspec.DecodeError, UnicodeDecodeError) as why:
                record = Record(offset, stop, magic, crc, link, synced_to)
                raise Undecodable(record, why) from None
            yield offset, facts
        offset = stop


def verifiable(data: bytes, start: int = 0) -> Iterator[Record]:
    """Find every whole record from `start` on, whatever lies between them."""
    offset = data.find(_MAGIC, start)
    while offset >= 0:
        record = _record(data, offset)
        if record is not None:
            yield record
        offset = data.find(_MAGIC, record.stop if record else offset + 1)


def contents(data: bytes, record: Record) -> Opening | list[Fact]:
    """Decode one record that `verifiable` found.

    Raises:
        Undecodable: when its payload is none of this version's.
    """
    decode = _decode_opening if record.magic == OPENING else _decode_facts
    try:
        return decode(_payload(data, record))
    except (msgspec.DecodeError, UnicodeDecodeError) as why:
        raise Undecodable(record, why) from None


def _payload(data: bytes, record: Record) -> memoryview:
    return memoryview(data)[record.offset + HEAD_BYTES : record.stop]


def _record(data: bytes, offset: int) -> Record | None:
    if offset + HEAD_BYTES > len(data):
        return None
    magic, crc, link, length, synced_to = _HEAD.unpack_from(data, offset)
    stop = offset + HEAD_BYTES + length
    seed = _SEEDS.get(magic)
    if seed is None or stop > len(data):
        return None
    if crc32(memoryview(data)[offset + _SUMMED : stop], seed) != crc:
        return None
    return Record(offset, stop, magic, crc, link, synced_to)
