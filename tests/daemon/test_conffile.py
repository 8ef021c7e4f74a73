"""The configuration that the package installs names every key, with its default."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import fields

from holdingpen.core.rights import Allow
from holdingpen.daemon.settings import (
    ALLOW_KEYS,
    DISK_KEYS,
    KEYS,
    Disk,
    Settings,
    parse_settings,
)

CONFFILE = Path(__file__).parents[2] / "debian" / "holdingpen.toml"
TEXT = CONFFILE.read_text("ascii")

#: A line that is a key or the head of a table, once its # is gone.
SETTING = re.compile(r"^#(\w+ = |\[)", re.MULTILINE)
#: What every key says when it is made to count.
COUNTING = SETTING.sub(r"\1", TEXT)

WORDS = tomllib.loads(COUNTING)
ALL = parse_settings(COUNTING, "holdingpen.toml")


def examples(table: str) -> set[str]:
    """The keys of a table whose value is an example and no default."""
    body = COUNTING.partition(f"\n{table}\n")[2]
    found = set()
    for line in body.splitlines():
        if line.startswith("["):
            break
        if line.endswith("  # example"):
            found.add(line.partition(" ")[0])
    return found


def defaults(made: object) -> dict[str, object]:
    return {field.name: getattr(made, field.name) for field in fields(made)}


def test_as_installed_it_changes_nothing():
    assert parse_settings(TEXT, "holdingpen.toml") == Settings()


def test_each_table_is_there():
    assert set(WORDS) == {*KEYS, "disk", "resources", "allow"}


@pytest.mark.parametrize("table", KEYS)
def test_each_key_is_there(table):
    assert list(WORDS[table]) == list(KEYS[table])


def test_each_key_of_a_disk_is_there():
    assert list(WORDS["disk"]["scratch"]) == list(DISK_KEYS)


def test_each_key_of_a_rule_is_there():
    assert list(WORDS["allow"][0]) == list(ALLOW_KEYS)


@pytest.mark.parametrize(
    ("table", "key"), [(table, key) for table, keys in KEYS.items() for key in keys]
)
def test_each_value_is_the_default_unless_the_machine_decides(table, key):
    field = KEYS[table][key].field
    default = getattr(Settings(), field)
    if key in examples(f"[{table}]"):
        assert default in (None, Settings().operators)
    else:
        assert getattr(ALL, field) == default


@pytest.mark.parametrize("key", DISK_KEYS)
def test_each_value_of_a_disk_is_the_default(key):
    if key in examples("[disk.scratch]"):
        assert key == "path"
    else:
        assert getattr(ALL.disks["scratch"], key) == defaults(Disk())[key]


@pytest.mark.parametrize("key", ALLOW_KEYS)
def test_each_value_of_a_rule_is_the_default_unless_that_is_no_limit(key):
    (rule,) = ALL.allow
    if key in ("user", "group"):
        assert rule.uids
        assert rule.gids
    elif key in examples("[[allow]]"):
        assert defaults(Allow("a rule"))[ALLOW_KEYS[key].field] in (None, {})
    else:
        field = ALLOW_KEYS[key].field
        assert getattr(rule, field) == defaults(Allow("a rule"))[field]
