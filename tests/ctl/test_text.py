"""Text in columns: harmless, never wider than allowed."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.ctl.text import (
    WIDTH_MIN,
    Column,
    clean,
    columns,
    cut,
    fold,
    table,
)

CLEAN = [
    ("matlab", "matlab"),
    ("Größe 論文", "Größe 論文"),
    ("red\x1b[31m", "red?[31m"),
    ("csi\x9b31m", "csi?31m"),
    ("bell\x07del\x7f", "bell?del?"),
    ("two\nlines\tand\rmore", "two lines and more"),
    ("para\u2029graph\x85next", "para graph next"),
    ("turn\u202eround\u2066", "turn?round?"),
    ("zero\u200bwidth\ufeff", "zero?width?"),
    ("\ue000private", "?private"),
]


@pytest.mark.parametrize(("text", "harmless"), CLEAN)
def test_text_of_others_prints_letters_and_gives_no_orders(text, harmless):
    assert clean(text) == harmless


@given(st.text())
def test_nothing_clean_controls_a_terminal(text):
    assert not {"Cc", "Cf", "Zl", "Zp"} & set(map(unicodedata.category, clean(text)))


@given(st.text())
def test_cleaning_keeps_the_number_of_letters(text):
    assert len(clean(text)) == len(text)


COLUMNS = [
    ("", 0),
    ("abc", 3),
    ("論文", 4),
    ("e\u0301", 1),
    ("🦊", 2),
    ("❤\ufe0f", 2),
    ("ｱ", 1),
    ("한", 2),
]


@pytest.mark.parametrize(("text", "wide"), COLUMNS)
def test_a_letter_takes_the_columns_a_terminal_gives_it(text, wide):
    assert columns(text) == wide


CUTS = [
    ("matlab", 6, "matlab"),
    ("matlab", 5, "matl…"),
    ("matlab", 1, "…"),
    ("matlab", 0, ""),
    ("論文論文", 8, "論文論文"),
    ("論文論文", 7, "論文論…"),
    ("論文論文", 6, "論文…"),
    ("e\u0301e\u0301e\u0301", 2, "e\u0301…"),
]


@pytest.mark.parametrize(("text", "width", "short"), CUTS)
def test_a_long_text_ends_with_an_ellipsis(text, width, short):
    assert cut(text, width) == short


@given(st.text(), st.integers(0, 30))
def test_a_cut_text_fits(text, width):
    assert columns(cut(text, width)) <= width


FOLDS = [
    ("one two three four five six", 20, ["one two three four", "  five six"]),
    ("one two", None, ["one two"]),
    ("", 20, [""]),
    ("x" * 45, 20, ["x" * 20, "  " + "x" * 18, "  " + "x" * 7]),
    ("see " + "x" * 30, 20, ["see", "  " + "x" * 18, "  " + "x" * 12]),
]


@pytest.mark.parametrize(("text", "width", "lines"), FOLDS)
def test_a_paragraph_is_broken_between_words(text, width, lines):
    assert fold(text, width, 2) == lines


@given(st.text(), st.integers(WIDTH_MIN, 60), st.integers(0, 80))
def test_folded_lines_fit_and_lose_no_letter(text, width, indent):
    lines = fold(text, width, indent)
    assert all(columns(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


LAYOUT = [
    Column("ID", right=True),
    Column("ENDS", right=True, spare=True),
    Column("NOTE", spare=True),
    Column("COMMAND", least=4),
]


def test_numbers_stand_at_the_right_and_text_at_the_left():
    rows = [["7", "1h", "x", "ls"], ["12", "", "", "matlab"]]
    assert table(LAYOUT, rows, 80) == [
        "ID  ENDS  NOTE  COMMAND",
        " 7    1h  x     ls",
        "12              matlab",
    ]


def test_a_column_in_which_nothing_stands_is_left_out():
    assert table(LAYOUT, [["7", "", "", "ls"]], 80) == ["ID  COMMAND", " 7  ls"]


def test_where_room_is_short_the_widest_column_is_cut():
    rows = [["7", "1h", "x", "python train.py"]]
    assert table(LAYOUT, rows, 23)[1] == " 7    1h  x     python…"


def test_where_room_is_shorter_the_spare_columns_go_the_last_first():
    rows = [["7", "1h", "x", "python train.py"]]
    assert table(LAYOUT, rows, 18) == ["ID  ENDS  COMMAND", " 7    1h  python …"]
    assert table(LAYOUT, rows, 10) == ["ID  COMMA…", " 7  pytho…"]


def test_without_a_terminal_nothing_is_cut():
    rows = [["7", "", "", "x" * 5000]]
    assert table(LAYOUT, rows, None)[1] == " 7  " + "x" * 5000


@given(
    st.lists(st.tuples(*[st.text().map(clean)] * 4), min_size=1), st.integers(1, 100)
)
def test_no_line_of_a_table_is_wider_than_the_terminal(rows, width):
    assert all(columns(line) <= width for line in table(LAYOUT, rows, width))
