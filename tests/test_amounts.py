"""Sizes and counts as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.amounts import (
    AMOUNT_MAX,
    format_amount,
    format_amounts,
    format_size,
    is_bytes,
    parse_amount,
    parse_count,
    parse_size,
)
from holdingpen.errors import BadWord

K, M, G, T = 2**10, 2**20, 2**30, 2**40


@pytest.mark.parametrize(
    ("word", "size"),
    [
        ("0", 0),
        ("1048576", M),
        ("17B", 17),
        ("512M", 512 * M),
        ("4G", 4 * G),
        ("4GiB", 4 * G),
        ("4GB", 4 * 10**9),
        ("1.5T", 3 * T // 2),
        ("1.5TB", 15 * 10**11),
        ("4g", 4 * G),
        ("4gib", 4 * G),
        ("1k", K),
        ("1kb", 1000),
        ("2P", 2 * 2**50),
        ("7E", 7 * 2**60),
        (" 8 G ", 8 * G),
        ("0.0001K", 0),
        ("0.999999999999999999", 0),
        ("1.9999B", 1),
        ("00012", 12),
        (str(AMOUNT_MAX), AMOUNT_MAX),
        ("7.9999999999999999999E", AMOUNT_MAX),
        ("8191.999999999999999999999999P", AMOUNT_MAX),
    ],
)
def test_a_size_is_read(word, size):
    assert parse_size(word) == size


def test_a_fraction_is_exact_where_floats_are_not():
    """As a float it would be 9007199254740994."""
    assert parse_size("9.007199254740993PB") == 9007199254740993


@pytest.mark.parametrize(
    "word",
    [
        "", " ", "G", ".", ".5G", "5.G", "1.2.3G", "-1", "+1", "-4G", "1e3", "1e3G",
        "0x10", "1_000", "1,5G", "4 G B", "4X", "4Ki", "4KiBB", "4BB", "4BiB", "4iB",
        "4GK", "4bits", "nan", "inf", "٤G", "\uff14G", "²", "4G4", "8E", "9" * 41,
        "1" + "." + "0" * 41, str(AMOUNT_MAX + 1), "4\x00G",
    ],
)  # fmt: skip
def test_what_is_no_size_is_refused(word):
    with pytest.raises(BadWord):
        parse_size(word)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "many",
            "size 'many' is not understood: write 512M, 4G or 1.5T "
            "(powers of 1024), 4GB (10^9), or plain bytes.",
        ),
        ("4GG", "size '4GG' has the unknown unit 'GG': write 512M"),
        ("9E", "size '9E' is more than any machine has: write 512M"),
    ],
)
def test_the_message_says_what_to_write(word, message):
    with pytest.raises(BadWord) as caught:
        parse_size(word)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("word", "count"), [("0", 0), ("3", 3), (" 7 ", 7), (str(AMOUNT_MAX), AMOUNT_MAX)]
)
def test_a_count_is_read(word, count):
    assert parse_count(word) == count


@pytest.mark.parametrize(
    "word", ["", "1.0", "-1", "3G", "one", "٣", "9" * 41, str(AMOUNT_MAX + 1)]
)
def test_what_is_no_count_is_refused(word):
    with pytest.raises(BadWord, match="^count "):
        parse_count(word)


@pytest.mark.parametrize(
    ("resource", "bytes_"),
    [
        ("ram", True), ("disk", True), ("disk.scratch", True), ("vram", True),
        ("cpu", False), ("gpu", False), ("machine", False), ("ramdisk", False),
    ],
)  # fmt: skip
def test_memory_and_disk_are_counted_in_bytes(resource, bytes_):
    assert is_bytes(resource) == bytes_
    assert parse_amount(resource, "2") == 2
    assert format_amount(resource, 2) == ("2 B" if bytes_ else "2")


def test_a_count_has_no_unit():
    assert parse_amount("ram", "2K") == 2048
    with pytest.raises(BadWord):
        parse_amount("cpu", "2K")


@pytest.mark.parametrize(
    ("size", "word"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (M - 1, "1.0 MiB"),
        (M - 60, "1023.9 KiB"),
        (8 * G, "8.0 GiB"),
        (AMOUNT_MAX, "8.0 EiB"),
        (2**75, "32768.0 EiB"),
        (-5, "-5 B"),
        (-3 * G // 2, "-1.5 GiB"),
    ],
)
def test_a_size_is_printed_in_its_largest_unit(size, word):
    assert format_size(size) == word


def test_several_amounts_are_one_line():
    assert format_amounts({"ram": 8 * G, "cpu": 2}) == "8.0 GiB ram, 2 cpu"
    assert format_amounts({}) == "nothing"


@given(st.text() | st.from_regex(r"[0-9.]{0,50}[KMGTPEIBkmgtpeib ]{0,4}"))
def test_any_text_is_a_size_or_a_bad_word(text):
    for parse in (parse_size, parse_count):
        try:
            assert 0 <= parse(text) <= AMOUNT_MAX
        except BadWord:
            continue


@given(st.integers(0, AMOUNT_MAX))
def test_plain_bytes_are_read_as_they_are(size):
    assert parse_size(str(size)) == parse_count(str(size)) == size


@given(
    st.decimals(0, 7, places=20, allow_nan=False), st.sampled_from("KMGTPE"),
    st.booleans(),
)  # fmt: skip
def test_sizes_are_exact_and_rounded_down(number, unit, decimal):
    power = "KMGTPE".index(unit) + 1
    scale = 1000**power if decimal else 1024**power
    word = f"{number:f}{unit}{'B' if decimal else ''}"
    over, under = number.as_integer_ratio()
    assert parse_size(word) == over * scale // under


@given(st.integers(0, 2**62))
def test_what_is_printed_can_be_read_and_is_nearly_the_same(size):
    """One decimal of at least one unit: 5 % at most."""
    again = parse_size(format_size(size))
    assert abs(again - size) <= size * 0.05
