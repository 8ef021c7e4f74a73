"""However a stream was cut, the payloads are the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.errors import RemoteMistake
from holdingpen.wire.framing import Unframer, frame


def test_a_frame_is_the_length_and_the_payload():
    """The worked example of the document."""
    assert frame(b"hi") == bytes.fromhex("00 00 00 02 68 69")


def test_an_empty_payload_is_a_frame():
    assert Unframer(9).feed(frame(b"")) == [b""]


STREAM = frame(b"one") + frame(b"") + frame(b"three")
PAYLOADS = [b"one", b"", b"three"]


@pytest.mark.parametrize("first", range(len(STREAM) + 1))
def test_two_cuts_anywhere_change_nothing(first):
    for second in range(first, len(STREAM) + 1):
        unframer = Unframer(5)
        got = []
        for piece in (STREAM[:first], STREAM[first:second], STREAM[second:]):
            got += unframer.feed(piece)
        assert got == PAYLOADS
        assert unframer.half == 0


def test_bytes_may_come_one_by_one():
    unframer = Unframer(5)
    got = [payload for byte in STREAM for payload in unframer.feed(bytes([byte]))]
    assert got == PAYLOADS


@pytest.mark.parametrize("cut", range(1, 9))
def test_half_a_frame_is_held(cut):
    unframer = Unframer(5)
    assert unframer.feed(frame(b"hello")[:cut]) == []
    assert unframer.half == cut


def test_the_longest_payload_is_let_in():
    assert Unframer(5).feed(frame(b"hello")) == [b"hello"]


def test_a_longer_one_is_refused_before_it_is_waited_for():
    unframer = Unframer(5)
    with pytest.raises(RemoteMistake) as caught:
        unframer.feed(frame(b"longer")[:4])
    assert caught.value.code == "too-long"
    assert str(caught.value) == (
        "a frame of 6 bytes was announced; the longest accepted is 5. "
        "Is this the Holding Pen protocol?"
    )


@given(st.lists(st.binary(max_size=40)))
def test_any_bytes_are_payloads_or_too_long(pieces):
    """What is held stays bounded, whoever sends."""
    unframer = Unframer(16)
    for piece in pieces:
        try:
            payloads = unframer.feed(piece)
        except RemoteMistake:
            break
        assert all(len(payload) <= 16 for payload in payloads)
        assert unframer.half < 16 + 4
    assert unframer.half < 16 + 4


@given(st.lists(st.binary(max_size=9)), st.data())
def test_payloads_survive_any_cuts(payloads, data):
    stream = b"".join(map(frame, payloads))
    cuts = data.draw(st.lists(st.integers(0, len(stream))).map(sorted))
    unframer, got = Unframer(9), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += unframer.feed(stream[start:stop])
    assert (got, unframer.half) == (payloads, 0)
