from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdingpen.journal
from holdingpen.core.facts import Ended, Fact, Granted, Left, Moment
from holdingpen.journal import record
from holdingpen.journal.record import BATCH, End, Opening, Undecodable, scan

if TYPE_CHECKING:
    from types import SimpleNamespace

Batches = list[list[Fact]]


@pytest.fixture
def data(tool: SimpleNamespace, batches: Batches) -> bytes:
    return tool.write(batches)


@pytest.fixture
def stops(data: bytes) -> list[int]:
    """Where each record of `data` ends, the opening first."""
    return [one.stop for one in record.verifiable(data)]


def hand_made(magic: bytes, payload: bytes, link: int = 0) -> bytes:
    """A whole record of anything."""
    linked = record._LINKED.pack(link, len(payload), 0)
    crc = record.crc32(payload, record.crc32(linked, record._SEEDS[magic]))
    return magic + crc.to_bytes(4, "big") + linked + payload


def spoil(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]


def test_the_worked_example_of_the_document_is_what_is_written() -> None:
    text = (holdingpen.journal.__doc__ or "").partition("**Worked example.**")[2]
    example = text.partition("\n\n")[2].partition("**Two checks.**")[0]
    worked = "".join(line.strip().partition("  ")[0] for line in example.splitlines())
    opening, link = record.pack_opening("b", 0, 0)
    batch, _ = record.pack([Ended(7, Moment(2.0, 1.0), "gone")], link, 0)
    assert opening + batch == bytes.fromhex(worked)


def test_batches_come_back_as_they_were_decided(
    tool: SimpleNamespace, batches: Batches, data: bytes
) -> None:
    assert tool.believed(data) == batches


def test_a_scan_tells_where_and_how_to_go_on(
    tool: SimpleNamespace, batches: Batches, data: bytes
) -> None:
    found = scan(data, tool.NOW)
    more, _ = record.pack([Left(3)], found.link, 0)
    assert found.good_until == len(data)
    assert found.records == 4
    assert found.boot_id == tool.THEN
    assert found.version == record.VERSION
    assert tool.believed(data + more) == [*batches, [Left(3)]]


def test_zeros_after_the_last_record_are_a_clean_end(
    tool: SimpleNamespace, data: bytes
) -> None:
    found = scan(data + bytes(5000), tool.NOW)
    assert (End.CLEAN, len(data)) == (found.end, found.good_until)


def test_a_journal_cut_anywhere_is_a_whole_number_of_batches(
    tool: SimpleNamespace, batches: Batches, data: bytes, stops: list[int]
) -> None:
    """A kill -9 or a power cut in the middle of the last write."""
    for length in range(stops[0], len(data)):
        whole = sum(stop <= length for stop in stops)
        found = scan(data[:length], tool.THEN)
        assert tool.believed(data[:length]) == batches[: whole - 1]
        assert found.end is (End.CLEAN if length in stops else End.TORN)


def test_a_journal_without_its_opening_is_damaged(
    tool: SimpleNamespace, data: bytes, stops: list[int]
) -> None:
    """Opening makes the beginning atomically, so nothing of ours lacks it."""
    headless = [data[:length] for length in range(stops[0])]
    others = [bytes(100), b"no journal at all" * 9, record.pack([Left(1)], 0, 0)[0]]
    for bad in [*headless, *others, data[stops[0] :]]:
        found = scan(bad, tool.NOW)
        assert (found.end, found.good_until) == (End.DAMAGED, 0)
        assert "begins with an opening record" in found.what


@pytest.mark.parametrize("boot_id", ["boot-1", "boot-2", ""])
def test_no_flipped_bit_makes_a_wrong_fact(
    tool: SimpleNamespace, batches: Batches, boot_id: str
) -> None:
    for data in (tool.write(batches), tool.write_synced(batches)):
        for place in range(len(data)):
            for bit in range(8):
                flipped = bytes([data[place] ^ 1 << bit])
                bad = data[:place] + flipped + data[place + 1 :]
                good = tool.believed(bad, boot_id)
                assert good == batches[: len(good)]
                assert scan(bad, boot_id).end in (End.TORN, End.DAMAGED)


def test_a_bad_record_that_was_on_the_disk_is_damage(
    tool: SimpleNamespace, batches: Batches, stops: list[int]
) -> None:
    """A later record says that it was synced: nothing may have lost it."""
    found = scan(spoil(tool.write_synced(batches), stops[1] + 30), tool.NOW)
    assert (End.DAMAGED, stops[1], 2, 1) == (
        found.end,
        found.good_until,
        found.records,
        found.later,
    )
    assert "the checksum of the record is wrong" in found.what
    assert f"on the disk up to byte {stops[2]}" in found.what


def test_a_bad_record_within_the_same_boot_is_damage(
    tool: SimpleNamespace, data: bytes, stops: list[int]
) -> None:
    """Only the daemon ended; the kernel had all that it wrote."""
    found = scan(spoil(data, stops[1] + 30), tool.THEN)
    assert End.DAMAGED is found.end
    assert "no power was lost" in found.what


def test_a_page_lost_by_a_power_cut_before_a_sync_ends_the_journal(
    tool: SimpleNamespace, data: bytes, stops: list[int]
) -> None:
    lost = data[: stops[0]] + bytes(stops[1] - stops[0]) + data[stops[1] :]
    found = scan(lost, tool.NOW)
    assert (End.TORN, stops[0], 2) == (found.end, found.good_until, found.later)


def test_an_unknown_boot_is_another_boot(
    tool: SimpleNamespace, batches: Batches
) -> None:
    data, link = record.pack_opening("", 0, 0)
    for facts in batches:
        more, link = record.pack(facts, link, 0)
        data += more
    assert scan(spoil(data, -40 % len(data)), "").end is End.TORN


def test_the_last_boot_is_known_even_beyond_what_is_lost(
    tool: SimpleNamespace, data: bytes, stops: list[int]
) -> None:
    link = scan(data, "").link
    again, _ = record.pack_opening(tool.NOW, link, 0)
    found = scan(spoil(data, stops[1] + 30) + again, tool.NOW)
    assert (found.boot_id, found.end) == (tool.NOW, End.DAMAGED)


def test_a_missing_record_is_seen_by_the_link(
    tool: SimpleNamespace, batches: Batches, data: bytes, stops: list[int]
) -> None:
    """Every record is whole; the chain is not."""
    gap = data[: stops[1]] + data[stops[2] :]
    found = scan(gap, tool.THEN)
    assert tool.believed(gap) == batches[:1]
    assert End.DAMAGED is found.end
    assert "follows another one" in found.what


def test_a_record_written_twice_counts_once(
    tool: SimpleNamespace, batches: Batches, data: bytes, stops: list[int]
) -> None:
    assert tool.believed(data + data[stops[2] :]) == batches


@pytest.mark.parametrize(
    ("tail", "what"),
    [
        (b"short", "5 bytes are left, too few"),
        (b"x" * 99, "no record begins there"),
        (BATCH + bytes(8) + b"\0\0\1\0" + b"x" * 20, "280 bytes begins where 36"),
    ],
)
def test_what_is_wrong_at_a_torn_end_is_said(
    tool: SimpleNamespace, data: bytes, tail: bytes, what: str
) -> None:
    found = scan(data + tail, tool.THEN)
    assert found.end is End.TORN
    assert what in found.what


def test_a_newer_version_is_named_with_ours(tool: SimpleNamespace, data: bytes) -> None:
    newer = hand_made(
        record.OPENING,
        msgspec.msgpack.encode([record.VERSION + 1, "boot", "a new field"]),
        scan(data, "").link,
    )
    found = scan(data + newer, tool.NOW)
    assert (End.FOREIGN, len(data)) == (found.end, found.good_until)
    assert f"version {record.VERSION + 1} of the format" in found.what
    assert f"knows versions up to {record.VERSION}" in found.what


def test_an_older_version_is_read(
    tool: SimpleNamespace,
    batches: Batches,
    data: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(record, "VERSION", record.VERSION + 1)
    assert scan(data, tool.NOW).end is End.CLEAN
    assert tool.believed(data) == batches


def test_an_opening_of_an_unreadable_version_is_not_ours(tool: SimpleNamespace) -> None:
    found = scan(hand_made(record.OPENING, b"\xc0"), tool.NOW)
    assert found.end is End.FOREIGN
    assert "version unknown" in found.what


@pytest.mark.parametrize("payload", [b"\xc0", b"\x91\x92\x63\x01", b"\x91\x91\x0a"])
def test_a_whole_record_of_unknown_facts_is_damage(
    tool: SimpleNamespace, data: bytes, payload: bytes
) -> None:
    """Its checksum is right, so we did not lose it: we do not know it."""
    bad = data + hand_made(BATCH, payload, scan(data, "").link)
    with pytest.raises(Undecodable, match="did a newer Holding Pen write it") as caught:
        tool.believed(bad)
    assert len(data) == caught.value.offset
    with pytest.raises(Undecodable):
        record.contents(bad, list(record.verifiable(bad))[-1])


def test_a_field_added_by_a_newer_release_at_the_end_is_ignored(
    tool: SimpleNamespace, data: bytes
) -> None:
    longer = msgspec.msgpack.encode([[10, 7, "a new field"]])
    more = hand_made(BATCH, longer, scan(data, "").link)
    assert tool.believed(data + more)[-1] == [Left(7)]


def test_whole_records_are_found_on_both_sides_of_damage(
    batches: Batches, data: bytes, stops: list[int]
) -> None:
    bad = spoil(data, stops[1] + 30)
    found = [record.contents(bad, one) for one in record.verifiable(bad)]
    assert found == [Opening(record.VERSION, "boot-1"), batches[0], batches[2]]


def test_the_first_bytes_of_a_record_are_not_one(data: bytes) -> None:
    assert list(record.verifiable(data[:3] + b"?" * 40 + data[:10])) == []


@given(junk=st.binary(max_size=400))
def test_no_bytes_are_too_strange_to_judge(tool: SimpleNamespace, junk: bytes) -> None:
    found = scan(junk, tool.NOW)
    assert found.end is End.DAMAGED
    assert tool.believed(junk) == []


@given(data=st.data())
def test_a_mutilated_journal_yields_only_what_was_written(
    tool: SimpleNamespace, batches: Batches, data: st.DataObject
) -> None:
    """Pieces of a journal cut out, repeated, overwritten: a prefix or nothing."""
    whole = tool.write_synced(batches * 3)
    place = st.integers(0, len(whole))
    for _ in range(data.draw(st.integers(1, 3))):
        start, stop, there = sorted(data.draw(st.tuples(place, place, place)))
        junk = data.draw(st.binary(max_size=8) | st.just(whole[start:stop]))
        whole = whole[:start] + junk + whole[there:]
    good = tool.believed(whole, data.draw(st.sampled_from([tool.THEN, tool.NOW])))
    assert good == (batches * 4)[: len(good)]


@given(data=st.data())
def test_a_power_cut_loses_nothing_that_was_synced(
    tool: SimpleNamespace, batches: Batches, data: st.DataObject
) -> None:
    """Of what was not synced any page may be lost; the next boot always starts."""
    written, link = record.pack_opening(tool.THEN, 0, 0)
    synced = len(written)
    sure = 0
    for count, facts in enumerate(batches * 3, 1):
        more, link = record.pack(facts, link, synced)
        written += more
        if data.draw(st.booleans(), label="sync now"):
            synced, sure = len(written), count
    left = bytearray(written + bytes(100))
    for page in range(synced // 32, len(written) // 32 + 1):
        if data.draw(st.booleans(), label="page lost"):
            start, stop = max(page * 32, synced), max(page * 32 + 32, synced)
            left[start:stop] = bytes(stop - start)
    found = scan(bytes(left), tool.NOW)
    good = tool.believed(bytes(left))
    assert found.end in (End.CLEAN, End.TORN)
    assert good == (batches * 3)[: len(good)]
    assert len(good) >= sure


def test_the_facts_of_one_record_are_kept_together(
    tool: SimpleNamespace, batches: Batches
) -> None:
    many: list[Fact] = [Granted(n, Moment(1.0, 1.0)) for n in range(1000)]
    data = tool.write([*batches, many])
    assert tool.believed(data[:-1]) == batches
    assert tool.believed(data) == [*batches, many]
