"""The configuration: what is accepted, and what is said of what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.amounts import AMOUNT_MAX
from holdingpen.daemon.settings import (
    KEYS,
    Disk,
    Settings,
    parse_settings,
    read_settings,
)
from holdingpen.errors import BadSettings

GIB = 2**30

#: Table and key, as written, and what it becomes.
GOOD = [
    ("daemon", 'socket = "/run/x"', "socket", "/run/x"),
    ("daemon", 'mode = "0666"', "mode", 0o666),
    ("daemon", 'mode = "600"', "mode", 0o600),
    ("daemon", 'group = "teaching"', "group", "teaching"),
    ("daemon", 'state = "/var/x"', "state", "/var/x"),
    ("daemon", "connections_max = 5", "connections_max", 5),
    ("daemon", "connections_per_user_max = 5", "connections_per_user_max", 5),
    ("daemon", 'hello_within = "1m30s"', "hello_within_s", 90.0),
    ("ram", 'keep = "2G"', "ram_keep", 2 * GIB),
    ("ram", 'capacity = "60GB"', "ram_capacity", 60 * 10**9),
    ("ram", 'hold = "0"', "ram_hold", 0),
    ("ram", "hold = 4096", "ram_hold", 4096),
    ("ram", 'share = "4GiB"', "ram_share", 4 * GIB),
    ("ram", 'handover = "paced"', "ram_handover", "paced"),
    ("ram", 'policy = "yield"', "ram_policy", "yield"),
    ("cpu", "capacity = 3", "cpu_capacity", 3),
    ("cpu", 'capacity = "3"', "cpu_capacity", 3),
    ("line", "backfill = false", "backfill", False),
    ("line", "leases_per_user_max = 7", "leases_per_user_max", 7),
    ("line", "waiting_per_user_max = 7", "waiting_per_user_max", 7),
    ("resources", "licence = 3", "resources", {"licence": 3}),
    ("resources", "a-b_c = 0", "resources", {"a-b_c": 0}),
    ("disk.a", 'path = "/x"', "disks", {"a": Disk("/x")}),
    ("disk", 'a = {path = "/x", hold = "1K"}', "disks", {"a": Disk("/x", 1024)}),
    ("disk.a-1", 'keep = "1G"\npath = "/x"', "disks", {"a-1": Disk("/x", 0, GIB)}),
]

#: Table and key, as written, and the accepted form that is named.
BAD = [
    ("daemon", 'socket = "run/x"', "an absolute path such as"),
    ("daemon", 'socket = ""', "an absolute path such as"),
    ("daemon", 'socket = "/run/\\u0000x"', "an absolute path such as"),
    ("daemon", "socket = 5", "an absolute path such as"),
    ("daemon", "mode = 0o660", 'such as "0660"'),
    ("daemon", 'mode = "0888"', 'such as "0660"'),
    ("daemon", 'mode = "rw"', 'such as "0660"'),
    ("daemon", 'mode = "4755"', 'such as "0660"'),
    ("daemon", 'group = ""', "the name of a group"),
    ("daemon", "state = true", "an absolute path of a directory"),
    ("daemon", "connections_max = 0", "a whole number"),
    ("daemon", "connections_max = -1", "a whole number"),
    ("daemon", "connections_max = 1.5", "a whole number"),
    ("daemon", 'connections_max = "many"', "a whole number"),
    ("daemon", "connections_per_user_max = false", "a whole number"),
    ("daemon", "hello_within = 10", 'a duration such as "10s"'),
    ("daemon", 'hello_within = "10"', 'a duration such as "10s"'),
    ("daemon", 'hello_within = "0s"', 'a duration such as "10s"'),
    ("ram", 'keep = "-2G"', 'a size such as "8G"'),
    ("ram", "capacity = -1", 'a size such as "8G"'),
    ("ram", 'hold = "8 gigs"', 'a size such as "8G"'),
    ("ram", "hold = 1e9", 'a size such as "8G"'),
    ("ram", f"hold = {AMOUNT_MAX + 1}", 'a size such as "8G"'),
    ("ram", 'share = "9E"', 'a size such as "8G"'),
    ("ram", "share = [1]", 'a size such as "8G"'),
    ("ram", 'handover = "fast"', "auto or exact or paced or free"),
    ("ram", "handover = true", "auto or exact or paced or free"),
    ("ram", 'policy = ""', "defend or yield"),
    ("cpu", 'capacity = "8G"', "a whole number"),
    ("disk.a", 'path = "scratch"', "the absolute path of a directory"),
    ("disk.a", 'hold = "much"', 'a size such as "8G"'),
    ("line", 'backfill = "yes"', "true or false"),
    ("line", "backfill = 1", "true or false"),
    ("line", "leases_per_user_max = 0", "a whole number"),
    ("line", "waiting_per_user_max = 2026-11-20", "a whole number"),
    ("resources", "licence = -3", "a whole number"),
    ("resources", 'licence = "3G"', "a whole number"),
]


def mistake(text: str) -> str:
    with pytest.raises(BadSettings) as refused:
        parse_settings(text, "x.toml")
    return str(refused.value)


def test_an_empty_file_and_none_at_all_are_the_defaults(tmp_path):
    assert Settings() == parse_settings("", "x.toml")
    assert Settings() == read_settings(tmp_path / "none.toml")


@pytest.mark.parametrize(("table", "line", "field", "value"), GOOD)
def test_what_is_accepted(table, line, field, value):
    settings = parse_settings(f"[{table}]\n{line}\n", "x.toml")
    assert value == getattr(settings, field)


def test_every_key_is_tried_above():
    keys = {(table, key) for table, keys in KEYS.items() for key in keys}
    for cases in (GOOD, BAD):
        tried = {(case[0], case[1].partition(" ")[0]) for case in cases}
        assert keys <= tried


@pytest.mark.parametrize(("table", "line", "accepted"), BAD)
def test_a_bad_value_names_file_line_key_and_the_accepted_form(table, line, accepted):
    message = mistake(f"# first\n[{table}]\n# third\n{line}\n")
    key = line.partition(" ")[0]
    assert message.startswith(f"x.toml, line 4: {key} = ")
    assert accepted in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n[disk.a]\nhodl = 1\n", "x.toml, line 3: unknown key 'hodl' in [disk.a]"),
        ('[disk.a]\npath="/x"\n[disk.b]\nhold = 1', "x.toml, line 3: [disk.b] lacks"),
        ('\n[disk]\npath = "/x"', "x.toml, line 3: write [disk.NAME], not 'path'"),
        ('\n[disk."a b"]\npath = "/x"', "x.toml, line 2: 'a b' cannot name a disk"),
        ("\ndisk = 5", "x.toml, line 2: write a table [disk.NAME]"),
    ],
)
def test_a_disk_that_makes_no_sense_is_told_how_to_be_written(text, said):
    assert mistake(text).startswith(said)


@pytest.mark.parametrize("table", KEYS)
def test_an_unknown_key_names_file_line_and_the_keys_there_are(table):
    message = mistake(f"\n[{table}]\nhodl = 1\n")
    assert message.startswith(f"x.toml, line 3: unknown key 'hodl' in [{table}]")
    assert all(key in message for key in KEYS[table])


def test_an_unknown_table_names_file_line_and_the_tables_there_are():
    message = mistake("[ram]\n[rams]\n")
    assert message.startswith("x.toml, line 2: unknown table [rams]")
    assert all(f"[{table}]" in message for table in (*KEYS, "resources"))


@pytest.mark.parametrize("table", [*KEYS, "resources"])
def test_a_table_that_is_none_is_told_to_be_one(table):
    message = mistake(f"\n{table} = 5\n")
    assert message.startswith(f"x.toml, line 2: [{table}] is a table")


@pytest.mark.parametrize(
    "name",
    ["ram", "cpu", "gpu", "disk", "vram", "hugepages", "machine", '"a b"', '""', '"ä"'],
)
def test_a_resource_may_not_be_called_so(name):
    message = mistake(f"[resources]\n\n{name} = 1\n")
    bare = name.strip('"')
    assert message.startswith(f"x.toml, line 3: {bare!r} cannot name")


def test_a_resource_may_not_have_a_name_of_many_letters():
    assert "at most 64" in mistake(f"[resources]\n{'x' * 65} = 1")
    parse_settings(f"[resources]\n{'x' * 64} = 1", "x.toml")


@pytest.mark.parametrize(
    "text",
    [
        'ram.hold = "x"',
        'ram = {hold = "x"}',
        'ram . "hold" = "x"',
    ],
)
def test_the_line_is_found_in_other_spellings(text):
    assert mistake(f"# a comment\n{text}\n").startswith("x.toml, line 2: hold")


@pytest.mark.parametrize(
    "head", ["[ram]  # how much", "[ ram ]", '["ram"]', "[ram]#[cpu]"]
)
def test_the_line_is_found_under_any_spelling_of_the_head(head):
    assert mistake(f'{head}\n"hold" = "x"\n').startswith("x.toml, line 2: hold")


def test_the_line_is_that_of_the_table_not_of_its_namesake():
    text = "[cpu]\ncapacity = 3\n[ram]\ncapacity = false\n"
    assert mistake(text).startswith("x.toml, line 4: capacity")


def test_no_toml_says_where():
    message = mistake("[ram]\nhold = 8G\n")
    assert message.startswith("x.toml: this is no TOML")
    assert "line 2" in message


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(BadSettings, match="cannot read the configuration .*directory"):
        read_settings(tmp_path)


def test_a_file_that_is_no_text_is_said(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadSettings, match="cannot read the configuration"):
        read_settings(path)


def test_bad_settings_exit_with_65():
    assert BadSettings("").exit_status == 65


VALUES = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(max_size=20),
    st.sampled_from(["8G", "10s", "/x", "0660", "-1", "9" * 50, "1e5", "5d"]),
)


def toml(value: object) -> str:
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(x):08x}" for x in value) + '"'
    return str(value).lower()


@given(st.sampled_from([(t, k) for t, ks in KEYS.items() for k in ks]), VALUES)
def test_any_value_is_settings_or_a_mistake_on_its_line(key, value):
    table, word = key
    text = f"[{table}]\n{word} = {toml(value)}\n"
    try:
        parse_settings(text, "x.toml")
    except BadSettings as why:
        assert str(why).startswith("x.toml, line 2: ")  # noqa: PT017


@given(st.text(alphabet='[]{}="\n.#ramhold8G-_ ,', max_size=60))
def test_any_text_is_settings_or_a_mistake(text):
    try:
        parse_settings(text, "x.toml")
    except BadSettings as why:
        assert str(why).startswith("x.toml")  # noqa: PT017
