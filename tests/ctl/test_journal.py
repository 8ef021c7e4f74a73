from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from holdingpen.core.facts import Ask, CapacitySet, Ended, Fact, Joined, Moment, Who
from holdingpen.ctl import journal
from holdingpen.ctl.main import main
from holdingpen.errors import EXIT_BAD_DATA, EXIT_NO, EXIT_NOT_NOW, EXIT_NOT_PERMITTED
from holdingpen.journal import record
from holdingpen.journal.store import Store

AT = Moment(12.5, 1763635330.25)
ASK = Ask(5, 2, Who(1000, 1001, 4242), {"ram": 2**33}, command="mat\x1b[2Jlab")
BATCHES: list[list[Fact]] = [
    [Joined(17, AT, ASK), CapacitySet("ram", None, 0)],
    [Ended(17, AT, "gone")],
]

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The journal of a daemon that ended."""
    with closing(Store.open(tmp_path, "boot-1")) as store:
        for facts in BATCHES:
            store.append(facts)
    return tmp_path / "journal"


@pytest.fixture
def run(path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `holdingpenctl journal WORD...` on it: exit status and lines."""

    def run(*words: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        exit_status = main(["journal", *words, "--state", str(path.parent)])
        said = capsys.readouterr()
        return exit_status, (said.out + said.err).splitlines()

    return run


@pytest.fixture
def present_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file that says which boot this is: the one after boot-1."""
    file = tmp_path / "boot_id"
    file.write_text("boot-2\n")
    monkeypatch.setattr(journal, "_BOOT_ID", file)
    return file


def spoil(path: Path, record_number: int) -> int:
    """Change the last byte of a record and tell where the record begins."""
    data = bytearray(path.read_bytes())
    spoilt = list(record.verifiable(bytes(data)))[record_number]
    data[spoilt.stop - 1] ^= 1
    path.write_bytes(data)
    return spoilt.offset


def test_a_clean_journal_is_counted(path: Path, run: Run, present_boot: Path) -> None:
    exit_status, lines = run("check")
    assert exit_status == 0
    assert lines[0].startswith(f"{path}: 3 records, 3 facts, ")
    assert lines[1:] == ["last opened in boot boot-1 (an earlier boot)", "clean"]


def test_the_present_boot_is_recognised(run: Run, present_boot: Path) -> None:
    present_boot.write_text("boot-1\n")
    assert "last opened in boot boot-1 (this boot)" in run("check")[1]


def test_a_torn_end_is_no_damage(path: Path, run: Run, present_boot: Path) -> None:
    offset = spoil(path, 2)
    exit_status, lines = run("check")
    assert exit_status == EXIT_NO
    assert lines[-1].startswith("torn: ")
    assert f"byte {offset}, record 2" in lines[-1]
    assert "The next start cuts it there" in lines[-1]


def test_damage_is_explained_with_what_to_do(
    path: Path, run: Run, present_boot: Path
) -> None:
    present_boot.write_text("boot-1\n")
    offset = spoil(path, 1)
    exit_status, lines = run("check")
    assert exit_status == EXIT_NO
    assert lines[-1].startswith("damaged: ")
    assert f"byte {offset}, record 1: the checksum" in lines[-1]
    assert f"holdingpenctl journal repair --state {path.parent}" in lines[-1]
    assert lines[-1].endswith("The daemon does not start.")


def test_a_record_that_cannot_be_decoded_is_damage(
    path: Path, run: Run, present_boot: Path
) -> None:
    with closing(Store.open(path.parent, "boot-2")) as store:
        store.append([[99, "a fact of a newer release"]])
    exit_status, lines = run("check")
    assert exit_status == EXIT_NO
    assert "did a newer Holding Pen write it" in lines[-1]
    exit_status, lines = run("dump")
    assert exit_status == EXIT_NO
    assert "PROBLEM" in lines[-1]


def test_a_journal_of_a_newer_version_is_unreadable(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "VERSION", 0)
    exit_status, lines = run("check")
    assert exit_status == EXIT_BAD_DATA
    assert (
        "version 1 of the format, and this program knows versions up to 0" in lines[-1]
    )


@pytest.mark.parametrize("word", ["check", "dump", "repair"])
def test_no_journal_is_bad_data(path: Path, run: Run, word: str) -> None:
    path.unlink()
    exit_status, lines = run(word)
    assert exit_status == EXIT_BAD_DATA
    assert lines == [
        f"holdingpenctl: there is no journal {path}: no daemon has run with this "
        "state directory. Choose another with --state."
    ]


@pytest.mark.parametrize("word", ["check", "dump"])
def test_a_journal_that_cannot_be_read_is_bad_data(
    path: Path, run: Run, word: str
) -> None:
    path.unlink()
    path.mkdir()
    exit_status, lines = run(word)
    assert exit_status == EXIT_BAD_DATA
    assert "Is a directory" in lines[-1]


def test_a_journal_of_others_is_not_permitted(
    path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", deny)
    exit_status, lines = run("check")
    assert exit_status == EXIT_NOT_PERMITTED
    assert "Run this as root" in lines[-1]


@pytest.mark.parametrize("word", ["check", "dump"])
def test_looking_changes_nothing_and_needs_no_lock(
    path: Path, run: Run, word: str
) -> None:
    path.with_name("lock").unlink()
    before = path.read_bytes()
    exit_status, _ = run(word)
    assert exit_status == 0
    assert path.read_bytes() == before
    assert not path.with_name("lock").exists()


def test_a_dump_has_one_fact_a_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdingpen.ctl.terminal.date", lambda wall_s: "NOON")
    at = "at=(NOON, 12.500 s after boot)"
    exit_status, lines = run("dump")
    assert exit_status == 0
    assert [line.split(maxsplit=1)[1] for line in lines] == [
        "(opened)     version=1 boot_id='boot-1'",
        f"Joined       lease=17 {at} ask=(conn=5 number=2 who=(uid=1000 gid=1001 "
        "pid=4242) amounts={'ram': 8589934592} command='mat\\x1b[2Jlab')",
        "CapacitySet  resource='ram' capacity=None by_uid=0",
        f"Ended        lease=17 {at} why='gone'",
    ]


def test_what_was_decided_together_has_one_offset(run: Run) -> None:
    offsets = [int(line.split()[0]) for line in run("dump")[1]]
    assert offsets[0] == 0
    assert offsets[1] == offsets[2] < offsets[3]


def test_a_dump_goes_on_after_damage(path: Path, run: Run) -> None:
    offset = spoil(path, 1)
    exit_status, lines = run("dump")
    assert exit_status == EXIT_NO
    assert [line.split()[1] for line in lines] == ["(opened)", "PROBLEM", "Ended"]
    assert lines[1].split()[0] == str(offset)


def test_a_dump_shows_a_missing_record(path: Path, run: Run) -> None:
    data = path.read_bytes()
    gone = list(record.verifiable(data))[1]
    path.write_bytes(data[: gone.offset] + data[gone.stop :])
    exit_status, lines = run("dump")
    assert exit_status == EXIT_NO
    assert lines[1].endswith("what was before the next record is missing")


def test_a_dump_shows_what_is_left_at_a_torn_end(path: Path, run: Run) -> None:
    spoil(path, 2)
    exit_status, lines = run("dump")
    assert exit_status == EXIT_NO
    assert lines[-1].endswith("bytes that are no whole record")


def test_a_dump_in_json_names_every_field(run: Run) -> None:
    exit_status, lines = run("dump", "--json")
    opening, joined, capacity, _ = map(json.loads, lines)
    assert exit_status == 0
    assert opening["opening"] == {"version": 1, "boot_id": "boot-1"}
    assert joined["fields"]["at"] == {"boot_s": 12.5, "wall_s": 1763635330.25}
    assert joined["fields"]["ask"]["who"]["uid"] == 1000
    assert capacity == {
        "version": 1,
        "offset": joined["offset"],
        "fact": "CapacitySet",
        "fields": {"resource": "ram", "capacity": None, "by_uid": 0},
    }


def test_a_dump_in_json_names_a_problem(path: Path, run: Run) -> None:
    offset = spoil(path, 1)
    problem = json.loads(run("dump", "--json")[1][1])
    assert (problem["version"], problem["offset"]) == (1, offset)
    assert "no whole record" in problem["problem"]


def test_repair_makes_a_damaged_journal_clean(path: Path, run: Run) -> None:
    offset = spoil(path, 1)
    exit_status, lines = run("repair")
    assert exit_status == 0
    assert f"was cut at byte {offset}" in lines[0]
    assert run("check")[0] == 0
    assert [line.split()[1] for line in run("dump")[1]] == ["(opened)"]


def test_repair_is_refused_while_a_daemon_runs(path: Path, run: Run) -> None:
    with closing(Store.open(path.parent, "boot-2")):
        spoil(path, 2)
        before = path.read_bytes()
        exit_status, lines = run("repair")
    assert exit_status == EXIT_NOT_NOW
    assert f"process {os.getpid()}" in lines[-1]
    assert path.read_bytes() == before


def test_the_system_state_comes_before_the_users_own(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(journal, "_SYSTEM_STATE", path.parent)
    assert main(["journal", "check"]) == 0
    assert str(path) in capsys.readouterr().out

    monkeypatch.setattr(journal, "_SYSTEM_STATE", tmp_path / "nothing")
    monkeypatch.setenv("XDG_STATE_HOME", "/nowhere")
    assert main(["journal", "check"]) == EXIT_BAD_DATA
    assert "/nowhere/holdingpen/journal" in capsys.readouterr().err


def test_a_machine_without_boot_ids_has_no_boot(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(journal, "_BOOT_ID", tmp_path / "nothing")
    assert run("check")[0] == 0


@pytest.mark.parametrize("word", ["check", "dump", "repair"])
def test_each_part_explains_itself(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["journal", word, "--help"])
    said = capsys.readouterr().out
    for part in ("--state DIR", "exit status:", "examples:"):
        assert part in said
