"""The configuration: what is accepted, and what is said of what is not."""

from __future__ import annotations

import grp
import pwd

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from holdingpen.amounts import AMOUNT_MAX
from holdingpen.core.rights import Allow
from holdingpen.daemon.settings import (
    ALLOW_KEYS,
    KEYS,
    NO_ID,
    Disk,
    People,
    Settings,
    parse_settings,
    read_settings,
    read_settings_at_start,
)
from holdingpen.errors import BadSettings

GIB = 2**30

#: Users and groups that every Debian system has (base-passwd).
ROOT, DAEMON = pwd.getpwnam("root").pw_uid, pwd.getpwnam("daemon").pw_uid
ADM, SYS = grp.getgrnam("adm").gr_gid, grp.getgrnam("sys").gr_gid

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
    ("daemon", 'operators = "daemon"', "operators", People(frozenset({DAEMON}))),
    (
        "daemon",
        'operators = ["daemon", "@adm", "root", "@sys"]',
        "operators",
        People(frozenset({DAEMON, ROOT}), frozenset({ADM, SYS})),
    ),
    ("daemon", "operators = []", "operators", People()),
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
    ("line", 'ageing = "30m"', "ageing_s", 1800.0),
    ("line", 'ageing = "off"', "ageing_s", None),
    ("line", 'reclaim_grace = "2m"', "reclaim_grace_s", 120.0),
    ("line", "reclaim_end = true", "reclaim_ends", True),
    ("line", 'idle_after = "30m"', "idle_after_s", 1800.0),
    ("line", 'idle_after = "off"', "idle_after_s", None),
    ("line", "idle_end = true", "idle_ends", True),
    ("line", 'assume = "2h"', "assume_s", 7200.0),
    ("line", 'ready_before = "10m"', "ready_before_s", 600.0),
    ("console", "priority = 7", "seat_priority", 7),
    ("console", "priority = -7", "seat_priority", -7),
    ("console", "logind = false", "console_logind", False),
    ("console", 'after_logout = "end"', "console_after_logout", "end"),
    ("history", 'keep = "4w"', "history_keep_s", 28 * 86400.0),
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
    ("daemon", "operators = 5", "users and @groups"),
    ("daemon", 'operators = ["daemon", 5]', "users and @groups"),
    ("daemon", 'operators = ["nobody-knows"]', "users and @groups"),
    ("daemon", 'operators = ["@nobody-knows"]', "users and @groups"),
    ("daemon", 'operators = "@"', "users and @groups"),
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
    ("line", "ageing = 3600", 'a duration such as "1h", or "off"'),
    ("line", 'ageing = "0s"', 'a duration such as "1h", or "off"'),
    ("line", 'reclaim_grace = "off"', 'a duration such as "10s"'),
    ("line", 'reclaim_end = "no"', "true or false"),
    ("line", "idle_after = false", 'a duration such as "1h", or "off"'),
    ("line", "idle_end = 0", "true or false"),
    ("line", 'assume = "an hour"', 'a duration such as "10s"'),
    ("line", 'ready_before = "5"', 'a duration such as "10s"'),
    ("console", 'priority = "7"', "a whole number, higher goes first"),
    ("console", "priority = true", "a whole number, higher goes first"),
    ("console", "priority = 1000001", "a whole number, higher goes first"),
    ("console", "priority = -1000001", "a whole number, higher goes first"),
    ("console", 'logind = "no"', "true or false"),
    ("console", "after_logout = true", "keep or end"),
    ("console", 'after_logout = "kill"', "keep or end"),
    ("history", "keep = 400", 'a duration such as "400d"'),
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
    tables = (*KEYS, "resources", "disk.NAME", "[allow]")
    assert all(f"[{table}]" in message for table in tables)


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


def test_names_with_dots_and_missing_keys_have_the_line_of_their_table():
    assert mistake('\n[disk."a.b"]\npath="/x"').startswith("x.toml, line 2: 'a.b'")
    assert mistake("\n\ndisk = { a = { hold = 1 } }").startswith("x.toml, line 3: ")


def test_the_line_is_that_of_the_table_not_of_its_namesake():
    text = "[cpu]\ncapacity = 3\n[ram]\ncapacity = false\n"
    assert mistake(text).startswith("x.toml, line 4: capacity")


#: One rule, and what it becomes.
RULES = [
    ("", Allow("(everybody)")),
    ('user = "daemon"', Allow('(user = "daemon")', frozenset({DAEMON}))),
    (
        'group = ["adm", "sys"]',
        Allow('(group = ["adm", "sys"])', gids=frozenset({ADM, SYS})),
    ),
    (
        'user = ["daemon"]\ngroup = "adm"',
        Allow(
            '(user = "daemon"; group = "adm")', frozenset({DAEMON}), frozenset({ADM})
        ),
    ),
    (
        'max = { ram = "16G", gpu = 1, machine = 0, cpu = "2", vram = 4096 }',
        Allow(
            "(everybody)",
            most={"ram": 16 * GIB, "gpu": 1, "machine": 0, "cpu": 2, "vram": 4096},
        ),
    ),
    ("max = { machine = 1 }", Allow("(everybody)", most={"machine": 1})),
    ("max = {}", Allow("(everybody)")),
    ("max.ram = 5\nmax.cpu = 1", Allow("(everybody)", most={"ram": 5, "cpu": 1})),
    ('[allow.max]\n"ram" = 5', Allow("(everybody)", most={"ram": 5})),
    ('time_max = "8h"', Allow("(everybody)", time_max_s=8 * 3600.0)),
    ("priority_max = -3", Allow("(everybody)", priority_max=-3)),
    ("reserve = false", Allow("(everybody)", reserve=False)),
    ('end = "any"', Allow("(everybody)", end="any")),
]


def test_every_key_of_a_rule_is_tried_here():
    for cases in (RULES, BAD_RULES):
        text = "\n".join(case[0] for case in cases)
        assert all(f"{key} = " in text for key in ALLOW_KEYS)


@pytest.mark.parametrize(("lines", "rule"), RULES)
def test_a_rule_says_for_whom_and_what_he_may(lines, rule):
    found = parse_settings(f"[[allow]]\n{lines}\n", "x.toml").allow
    assert found == (structs.replace(rule, name=f"[[allow]] rule 1 {rule.name}"),)


def test_rules_are_counted_from_1_in_their_order():
    text = '[[allow]]\nuser="daemon"\n[[allow]]\n[ram]\n[[allow]]\nuser = "root"'
    assert [rule.name for rule in parse_settings(text, "x.toml").allow] == [
        '[[allow]] rule 1 (user = "daemon")',
        "[[allow]] rule 2 (everybody)",
        '[[allow]] rule 3 (user = "root")',
    ]


def test_a_rule_for_many_is_called_by_the_first_few():
    names = [entry.pw_name for entry in pwd.getpwall()[:4]]
    text = f"[[allow]]\nuser = {names}"
    (rule,) = parse_settings(text.replace("'", '"'), "x.toml").allow
    shown = ", ".join(f'"{name}"' for name in names[:3])
    assert rule.name == f"[[allow]] rule 1 (user = [{shown}, ...])"
    assert len(rule.uids) == 4


def test_a_rule_may_limit_what_the_other_tables_define():
    rule = (
        '[[allow]]\nmax = { "disk.a" = "1K", licence = 2, disk = "4K" }\n'
        '[[allow]]\nmax.disk.b = "2K"\n'
    )
    tables = '[disk.a]\npath = "/a"\n[disk.b]\npath = "/b"\n[resources]\nlicence = 3'
    for text in (rule + tables, tables + "\n" + rule):
        first, second = parse_settings(text, "x.toml").allow
        assert first.most == {"disk.a": 1024, "licence": 2, "disk": 4096}
        assert second.most == {"disk.b": 2048}


#: A line of a rule, and what is said.
BAD_RULES = [
    (
        'user = "nobody-knows"',
        "user = 'nobody-knows' is not accepted (there is no user",
    ),
    ('user = ["daemon", "nobody-knows"]', "(there is no user 'nobody-knows')"),
    ('user = "@adm"', "(there is no user '@adm'); write the name of a user, or a list"),
    ("user = 0", "write the name of a user"),
    ("user = []", "(nobody is named, and a rule for nobody is none)"),
    ('group = "nobody-knows"', "(there is no group 'nobody-knows')"),
    ("group = []", "write the name of a group"),
    ('group = [""]', "write the name of a group"),
    ("max = 5", "(not a table); write a table such as { ram ="),
    ('max = { rma = "16G" }', "max names the unknown resource 'rma'; there are cpu, "),
    ("max = { licence = 1 }", "max names the unknown resource 'licence'"),
    ('max = { disk.b = "1G" }', "max names the unknown resource 'disk.b'"),
    ('max = { ram = "16 gigs" }', "max.ram = '16 gigs' is not accepted ("),
    ("max = { ram = -1 }", 'write a size such as "8G".'),
    ("max = { ram = 1.5 }", 'write a size such as "8G".'),
    ('max = { gpu = "1G" }', "write a whole number."),
    ("max = { gpu = true }", "write a whole number."),
    ("max = { machine = 2 }", "(there is one machine); write 0 or 1."),
    ('max.ram = "much"', "max.ram = 'much'"),
    ("max.disk.deep.er = 1", "max names the unknown resource 'disk.deep'"),
    ("time_max = 8", 'write a duration such as "8h".'),
    ('priority_max = "high"', "write a whole number, higher goes first."),
    ('reserve = "yes"', "write true or false."),
    ('end = "all"', 'write "own" or "any".'),
    ("ned = 1", "unknown key 'ned' in [[allow]]; there are user, group, max, "),
]


@pytest.mark.parametrize(("line", "said"), BAD_RULES)
def test_a_bad_rule_names_file_line_key_and_the_accepted_form(line, said):
    before = "[[allow]]\nmax.ram = 1\n# end\n[cpu]\n[[allow]]\n"
    message = mistake(f"{before}{line}\n[[allow]]\nreserve = true\n")
    assert message.startswith("x.toml, line 6: ")
    assert said in message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[[allow]]\n[allow.max]\nram = 1\n[[allow]]\n[allow.max]\nram = false", 6),
        ("[[allow]]\n[[allow]]\n[allow.max]\n[ram]\n[allow.max.disk]\nx = 1", 6),
        ("[[ allow ]] # one\n[[ 'allow' ]]\n'max' . ram = 'x'", 3),
        ("\nallow = [{}, {user = 5}]", 2),
        ("\nallow = [\n  {},\n  {user = 5},\n]", 2),
    ],
)
def test_the_line_of_a_rule_is_found_in_other_spellings(text, line):
    assert mistake(text).startswith(f"x.toml, line {line}: ")


@pytest.mark.parametrize(
    "text", ["[allow]\nreserve = true", "allow = 5", "allow = [5]", "[allow.max]"]
)
def test_rules_not_written_as_rules_are_told_how_to_be(text):
    message = mistake(f"\n{text}\n")
    assert message.startswith("x.toml, line 2: write a table [[allow]]")


def test_no_toml_says_where():
    message = mistake("[ram]\nhold = 8G\n")
    assert message.startswith("x.toml: this is no TOML")
    assert "line 2" in message


def test_names_are_looked_up_whenever_the_file_is_read(tmp_path, monkeypatch):
    """The group was made after the rule, and a reload was all it took."""
    path = tmp_path / "x.toml"
    path.write_text('[[allow]]\ngroup = "new-group"\n')
    with pytest.raises(BadSettings, match="there is no group 'new-group'"):
        read_settings(path)
    monkeypatch.setattr(grp, "getgrnam", lambda _: grp.getgrgid(ADM))
    assert read_settings(path).allow[0].gids == {ADM}


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


@given(st.sampled_from(list(ALLOW_KEYS)), VALUES)
def test_any_value_in_a_rule_is_settings_or_a_mistake_on_its_line(word, value):
    try:
        parse_settings(f"[[allow]]\n[[allow]]\n{word} = {toml(value)}\n", "x.toml")
    except BadSettings as why:
        assert str(why).startswith("x.toml, line 3: ")  # noqa: PT017


@given(st.text(alphabet='[]{}="\n.#alowmx8G-_ ,', max_size=60))
def test_any_text_behind_a_rule_is_settings_or_a_mistake(text):
    try:
        parse_settings(f"[[allow]]\n{text}", "x.toml")
    except BadSettings as why:
        assert str(why).startswith("x.toml")  # noqa: PT017


def test_a_user_who_was_deleted_does_not_keep_the_daemon_from_starting(tmp_path):
    path = tmp_path / "holdingpen.toml"
    path.write_text('[[allow]]\nuser = ["nosuchuser", "root"]\npriority_max = 3\n')
    with pytest.raises(BadSettings, match="nosuchuser"):
        read_settings(path)
    settings, (note,) = read_settings_at_start(path)
    assert settings.allow[0].uids == {0, NO_ID}
    assert "nosuchuser" in note
