"""The flag file: its words, when it is there, and that it is nobody's way in."""

from __future__ import annotations

import errno
import os
import stat
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.daemon.flag import CHARACTERS_MAX, Flag, flag_path, words

LINE = "ada has the whole machine until 16:00 (exam)"


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOW = at("2026-11-20 14:30")


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    """Local time is UTC; a test may choose another with `TZ`."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "pen.reserved"


@pytest.fixture
def flag(path) -> Flag:
    return Flag(path)


def no_room(*args, **more):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def left(path: Path) -> list[str]:
    """The names in the directory."""
    return sorted(os.listdir(path.parent))  # noqa: PTH208


@pytest.mark.parametrize(
    ("socket", "flag"),
    [
        ("/run/holdingpen.socket", "/run/holdingpen.reserved"),
        ("/run/user/1000/holdingpen.socket", "/run/user/1000/holdingpen.reserved"),
        ("/tmp/pen", "/tmp/pen.reserved"),
        ("/tmp/pen.socket.d/pen", "/tmp/pen.socket.d/pen.reserved"),
        ("/tmp/a.socket.socket", "/tmp/a.socket.reserved"),
    ],
)
def test_the_flag_is_beside_the_socket(socket, flag):
    assert flag_path(socket) == flag_path(Path(socket)) == Path(flag)


@pytest.mark.parametrize(
    ("until", "reason", "said"),
    [
        (at("2026-11-20 16:00"), "exam", LINE),
        (at("2026-11-20 16:00"), "", "ada has the whole machine until 16:00"),
        (None, "exam", "ada has the whole machine (exam)"),
        (None, "", "ada has the whole machine"),
        (None, " \t ", "ada has the whole machine"),
        (
            at("2026-11-21 09:05"),
            "exam",
            "ada has the whole machine until 2026-11-21 09:05 (exam)",
        ),
        # the same day of another month
        (
            at("2026-12-20 16:00"),
            "",
            "ada has the whole machine until 2026-12-20 16:00",
        ),
        # what was computed from a duration is never exact
        (at("2026-11-20 16:00") - 0.01, "exam", LINE),
        (at("2026-11-20 16:00") + 25, "exam", LINE),
        (
            at("2026-11-20 23:59:45"),
            "",
            "ada has the whole machine until 2026-11-21 00:00",
        ),
        # it has just ended
        (NOW - 60, "", "ada has the whole machine until 14:29"),
        (float("inf"), "exam", "ada has the whole machine (exam)"),
        (float("nan"), "exam", "ada has the whole machine (exam)"),
        (1e18, "exam", "ada has the whole machine (exam)"),
        (None, "two\nlines\r\n", "ada has the whole machine (two lines)"),
        (None, "\x1b[31mred\x07\x9b", "ada has the whole machine (?[31mred??)"),
        (None, "\u202egnp\u200b", "ada has the whole machine (?gnp?)"),
        (None, "\udcff", "ada has the whole machine (?)"),
        (None, "Pr\u00fcfung", "ada has the whole machine (Pr\u00fcfung)"),
        (
            None,
            "$(reboot) `id` %D{%H}",
            "ada has the whole machine ($(reboot) `id` %D{%H})",
        ),
    ],
)
def test_the_line_says_who_until_when_and_why(until, reason, said):
    assert words("ada", until, NOW, reason) == said


def test_times_are_local(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    assert "until 17:00" in words("ada", at("2026-11-20 16:00"), NOW, "")
    # 23:30 in London is the next day in Berlin
    assert "2026-11-21 00:30" in words("ada", at("2026-11-20 23:30"), NOW, "")


def test_a_long_reason_is_cut_inside_its_parentheses():
    said = words("ada", None, NOW, "x" * 500)
    assert len(said) == CHARACTERS_MAX
    assert said.endswith("xxx...)")


@given(
    st.text(max_size=300),
    st.none() | st.floats(),
    st.floats(0, 4e9),
    st.text(max_size=300),
)
def test_whatever_the_names_the_line_is_one_harmless_line(user, until, now, reason):
    said = words(user, until, now, reason)
    assert len(said) <= CHARACTERS_MAX
    assert said.isprintable()


def test_the_file_is_there_exactly_while_there_is_something_to_say(flag, path):
    flag.show(None)
    assert left(path) == []
    flag.show(LINE)
    assert path.read_text() == LINE + "\n"
    flag.show("bob has the whole machine")
    assert path.read_text() == "bob has the whole machine\n"
    assert left(path) == ["pen.reserved"]
    flag.show(None)
    assert left(path) == []
    assert flag.trouble is None


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_everybody_may_read_it_and_nobody_write_it_whatever_the_umask(
    flag, path, umask
):
    before = os.umask(umask)
    try:
        flag.show(LINE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_what_has_not_changed_is_not_written_again(flag, path):
    flag.show(LINE)
    written = path.stat().st_ino, path.stat().st_mtime_ns
    flag.show(LINE)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == written


def test_a_reader_sees_the_old_line_or_the_new_one(flag, path):
    """A new file takes the place of the old; who has that open reads it to the end."""
    flag.show(LINE)
    with path.open() as reader:
        flag.show("bob has the whole machine")
        assert reader.read() == LINE + "\n"


@pytest.mark.parametrize("text", [None, LINE])
def test_what_a_dead_daemon_left_is_gone_with_the_first_word(flag, path, text):
    path.write_text("carl has the whole machine\n")
    (path.parent / ".pen.reserved.new").write_text("carl has")
    flag.show(text)
    assert path.exists() == (text is not None)
    if text is not None:
        assert path.read_text() == text + "\n"
        assert left(path) == ["pen.reserved"]


def test_a_daemon_that_ended_says_nothing(flag, path):
    flag.show(LINE)
    flag.close()
    assert left(path) == []
    flag.close()
    assert flag.trouble is None


def test_the_file_has_one_line_of_200_characters_at_most_whatever_is_said(flag, path):
    flag.show("a\nb\x1b[2J" + "x" * 500)
    text = path.read_text()
    assert text.startswith("a b?[2Jxxx")
    assert len(text) == CHARACTERS_MAX + 1


@pytest.mark.parametrize("name", ["pen.reserved", ".pen.reserved.new"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_in_its_place_is_not_followed(flag, path, tmp_path, name, dangling):
    """In a directory others may write: the file a link names must stay as it is."""
    target = tmp_path / "precious"
    if not dangling:
        target.write_text("precious")
    (tmp_path / name).symlink_to(target)
    flag.show(LINE)
    assert flag.trouble is None
    assert not path.is_symlink()
    assert path.read_text() == LINE + "\n"
    assert (target.read_text() if target.exists() else None) == (
        None if dangling else "precious"
    )


def test_a_file_planted_while_we_look_away_is_not_written_to(
    flag, path, tmp_path, monkeypatch
):
    """Whoever is quick enough to plant another name for a file gains nothing."""
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / ".pen.reserved.new").hardlink_to(target)
    # planted again as soon as it is removed
    monkeypatch.setattr(os, "unlink", lambda *args, **more: None)
    flag.show(LINE)
    assert flag.trouble is not None
    assert target.read_text() == "precious"


def test_removing_removes_a_link_and_not_what_it_names(flag, path, tmp_path):
    target = tmp_path / "precious"
    target.write_text("precious")
    path.symlink_to(target)
    flag.show(None)
    assert left(path) == ["precious"]


@pytest.mark.parametrize("name", ["pen.reserved", ".pen.reserved.new"])
def test_a_directory_in_its_place_is_trouble_and_left_alone(flag, path, name):
    (path.parent / name).mkdir()
    flag.show(LINE)
    assert flag.trouble is not None
    assert flag.trouble.startswith(f"cannot write {path}: Is a directory. ")
    assert left(path) == [name]


def test_trouble_is_over_when_the_next_word_can_be_written(tmp_path):
    directory = tmp_path / "run"
    flag = Flag(directory / "pen.reserved")
    flag.show(LINE)
    assert flag.trouble == (
        f"cannot write {directory}/pen.reserved: No such file or directory. Prompts "
        "and logins do not show whether somebody has the whole machine; see to the "
        "directory."
    )
    directory.mkdir()
    flag.show(LINE)
    assert flag.trouble is None
    assert (directory / "pen.reserved").read_text() == LINE + "\n"


def test_where_there_is_no_directory_nothing_needs_removing(tmp_path):
    flag = Flag(tmp_path / "run" / "pen.reserved")
    flag.close()
    assert flag.trouble is None


def test_what_cannot_be_removed_is_trouble(flag, path):
    path.mkdir()
    flag.show(None)
    assert flag.trouble is not None
    assert flag.trouble.startswith(f"cannot remove {path}: Is a directory. ")


@pytest.mark.parametrize("call", ["open", "fdopen", "fchmod", "rename", "unlink"])
def test_whatever_call_fails_it_is_trouble_and_no_part_is_seen(
    flag, path, monkeypatch, call
):
    """A disk that is full, a directory made read-only under us: the old line stays."""
    flag.show(LINE)

    with monkeypatch.context() as damaged:
        damaged.setattr(os, call, no_room)
        flag.show("bob has the whole machine")
    assert flag.trouble is not None
    assert "No space left on device" in flag.trouble
    assert path.read_text() == LINE + "\n"
    assert left(path) == ["pen.reserved"]
    # the same words again: it is tried again
    flag.show("bob has the whole machine")
    assert path.read_text() == "bob has the whole machine\n"
    assert flag.trouble is None


def test_after_trouble_what_the_file_says_is_not_taken_as_known(
    flag, path, monkeypatch
):
    """Somebody saw to the trouble by hand, and the same words are said again."""
    flag.show(LINE)
    with monkeypatch.context() as damaged:
        damaged.setattr(os, "unlink", no_room)
        flag.show(None)
    assert flag.trouble is not None
    path.unlink()
    flag.show(LINE)
    assert path.read_text() == LINE + "\n"


def test_no_descriptor_stays_open(flag, path):
    before = left(Path("/proc/self/fd/x"))
    flag.show(LINE)
    flag.show(None)
    path.mkdir()
    flag.show(LINE)
    flag.show(None)
    assert len(left(Path("/proc/self/fd/x"))) == len(before)
