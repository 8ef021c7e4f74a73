"""The small msgpack, held against msgspec's."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatekeeper import msgpack
from gatekeeper.msgpack import DEPTH_MAX, decode, encode
from holdingpen.errors import RemoteMistake

_leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(),
)
_value = st.recursive(
    _leaf, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
_EDGES = [
    edge + step
    for edge in (0, 32, 128, 2**8, 2**15, 2**16, 2**31, 2**32, 2**63 - 2)
    for step in (-1, 0, 1)
]


@settings(deadline=None)
@given(_value)
def test_it_writes_what_msgspec_writes_and_reads_it_back(value):
    packed = msgspec.msgpack.encode(value)
    assert packed == encode(value)
    assert value == decode(packed)


@pytest.mark.parametrize("number", [*_EDGES, *(-n for n in _EDGES), 2**64 - 1])
def test_every_size_of_number(number):
    assert msgspec.msgpack.encode(number) == encode(number)
    assert number == decode(encode(number))


@pytest.mark.parametrize("size", [0, 15, 16, 31, 32, 255, 256, 65535, 65536])
def test_every_size_of_text_list_and_map(size):
    for value in ("x" * size, [None] * size, dict.fromkeys(range(size))):
        assert msgspec.msgpack.encode(value) == encode(value)
        assert value == decode(encode(value))


def test_not_a_number_is_read_as_such():
    found = decode(msgspec.msgpack.encode(float("nan")))
    assert found != found


@settings(deadline=None)
@given(_value, st.data())
def test_what_is_cut_is_called_broken(value, data):
    packed = encode(value)
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(RemoteMistake):
        decode(packed[:cut])


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_a_value_or_called_broken(data):
    with contextlib.suppress(RemoteMistake):
        decode(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xc0\xc0", "1 bytes follow"),
        (b"\xa1\xff", "not UTF-8"),
        (b"\x81\x90\xc0", "a list or a map"),
        (b"\xc1", "0xc1 at 0"),
        (b"\xc4\x01x", "0xc4 at 0"),
        (b"\xdd\xff\xff\xff\xff", "4294967295 more were announced"),
        (b"\xdf\xff\xff\xff\xff", "8589934590 more were announced"),
        (b"\xdb\xff\xff\xff\xff", "4294967295 more were announced"),
        (b"\x91" * (DEPTH_MAX + 1) + b"\xc0", "nests deeper"),
        (b"", "cut at 0"),
    ],
)
def test_the_mistake_says_what_is_wrong(data, said):
    with pytest.raises(RemoteMistake, match=said):
        decode(data)


def test_nesting_up_to_the_limit_is_read():
    assert decode(b"\x91" * DEPTH_MAX + b"\xc0")


def test_what_has_no_form_is_not_written():
    with pytest.raises(TypeError):
        encode(b"bytes")


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_numbers_beyond_64_bits_are_not_written(number):
    with pytest.raises(OverflowError):
        encode(number)


def test_a_length_beyond_32_bits_is_no_msgpack():
    with pytest.raises(OverflowError, match="4294967296"):
        msgpack._put_head(bytearray(), 2**32, 0xA0, 32, {0xD9: 1, 0xDB: 4})
