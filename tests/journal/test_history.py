"""The history of ended leases, and everything that can happen to its file."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from holdingpen.errors import EXIT_NOT_PERMITTED, Damage, Unavailable
from holdingpen.journal import history as module
from holdingpen.journal.history import (
    CONNECTION,
    RESERVATION,
    Given,
    History,
    Record,
)
from holdingpen.journal.report import report

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
ALWAYS = float("-inf"), float("inf")


def ended(lease: int, **fields: object) -> Record:
    """A lease that was asked at 10 * its id, waited 1 s and was held for 5."""
    usual = Record(
        id=lease,
        uid=1000,
        kind=CONNECTION,
        amounts={"ram": 2**30, "cpu": 2},
        priority=0,
        label="",
        reason="",
        command="matlab -batch study",
        asked_wall_s=10.0 * lease,
        granted_wall_s=10.0 * lease + 1,
        ended_wall_s=10.0 * lease + 6,
        why="gone",
        by_uid=None,
        inside=0,
        handover="exact",
        held_s=5.0,
        waited_s=1.0,
    )
    return structs.replace(usual, **fields)


#: As different from each other as records can be.
ALL_SORTS = [
    ended(1),
    ended(2, granted_wall_s=None, held_s=0.0, why="wait-over", waited_s=6.0),
    ended(
        3,
        uid=4_294_967_294,
        kind=RESERVATION,
        amounts={"disk.scratch": 2**63 - 1},
        priority=-5,
        label="\N{GREEK SMALL LETTER LAMDA} a\0b",
        reason='"two"\nlines',
        why="ordered",
        by_uid=0,
        held_s=0.1 + 0.2,
    ),
    ended(
        4,
        inside=3,
        given_back=[Given(1.5, {"ram": 2**20}), Given(2.5, {"cpu": 1})],
        beside=["cpu"],
    ),
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def history(directory: Path) -> Iterator[History]:
    with closing(History.open(directory)) as history:
        yield history


def everything(history: History) -> list[Record]:
    return sorted(history.between(*ALWAYS), key=lambda one: one.id)


def fill(directory: Path, records: list[Record]) -> Path:
    """A closed history; the path of its file."""
    with closing(History.open(directory)) as history:
        history.add(records)
    return directory / "history.sqlite"


def crashed(history: History, elsewhere: Path) -> Path:
    """A copy of what lies on the disk while `history` is open; the directory."""
    elsewhere.mkdir()
    for path in history.path.parent.glob("history.sqlite*"):
        shutil.copy(path, elsewhere)
    return elsewhere


# What is kept.


def test_what_was_added_is_there_word_for_word(
    history: History, directory: Path
) -> None:
    history.add(ALL_SORTS)
    assert everything(history) == ALL_SORTS
    history.close()
    with closing(History.open(directory)) as later:
        assert everything(later) == ALL_SORTS
        assert later.notes == []


def test_one_is_found_by_its_id(history: History) -> None:
    history.add(ALL_SORTS)
    assert [history.find(one.id) for one in ALL_SORTS] == ALL_SORTS
    assert history.find(5) is None


def test_an_id_that_is_there_stays_as_it_is(history: History) -> None:
    """After a crash the daemon adds again what it cannot be sure of."""
    history.add([ended(1, why="gone"), ended(1, why="released")])
    history.add([ended(1, why="ordered"), ended(2)])
    assert everything(history) == [ended(1, why="gone"), ended(2)]


def test_nothing_is_added_of_nothing(history: History) -> None:
    history.add([])
    assert everything(history) == []


def test_a_kill_loses_nothing_that_was_added(directory: Path) -> None:
    killed = (
        "import os, sys; from pathlib import Path; "
        "from holdingpen.journal.history import History; "
        "from tests_records import records; "
        "history = History.open(Path(sys.argv[1])); "
        "[history.add([one]) for one in records]; os.kill(os.getpid(), 9)"
    )
    (directory / "tests_records.py").write_text(
        "import msgspec\nfrom holdingpen.journal.history import Record\n"
        f"records = msgspec.json.decode({module._encode(ALL_SORTS)!r}, "
        "type=list[Record])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", killed, directory],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(directory), *sys.path])},
        check=False,
    )
    assert done.returncode == -9
    with closing(History.open(directory)) as history:
        assert everything(history) == ALL_SORTS


def test_any_thread_may_use_it_as_long_as_it_is_one_at_a_time(
    history: History,
) -> None:
    """A pool gives each call to whichever thread is idle."""
    other = threading.Thread(target=history.add, args=([ended(1)],))
    other.start()
    other.join()
    assert everything(history) == [ended(1)]


def test_it_may_be_written_while_it_is_read(history: History) -> None:
    history.add(map(ended, range(100)))
    reading = history.between(*ALWAYS)
    first = next(reading)
    history.add([ended(1000)])
    assert {first.id, *(one.id for one in reading)} >= set(range(100))
    assert history.find(1000) is not None


def test_a_reading_that_is_given_up_halfway_harms_nothing(history: History) -> None:
    history.add(map(ended, range(100)))
    reading = history.between(*ALWAYS)
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    history.add([ended(1000)])
    assert history.forget(500.0) == 50


def test_its_files_are_for_its_owner_only(history: History, directory: Path) -> None:
    history.add([ended(1)])
    modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert modes == {"history.sqlite": 0o600, "history.sqlite-wal": 0o600}


def test_at_rest_it_is_one_file(directory: Path) -> None:
    fill(directory, ALL_SORTS)
    assert [path.name for path in directory.iterdir()] == ["history.sqlite"]


def test_it_may_be_closed_twice_and_a_later_call_opens_it(history: History) -> None:
    history.add([ended(1)])
    history.close()
    history.close()
    assert history.find(1) == ended(1)


# What lies between two dates: lease 10 was asked at 100, and held from 101 to 106.

WINDOWS = [
    (0, 100, False),
    (0, 100.5, True),
    (100, 101, True),
    (103, 104, True),
    (106, 200, True),  # held for no time in it, and not asked in it: no harm
    (107, 200, False),
]


@pytest.mark.parametrize(("since", "until", "there"), WINDOWS)
def test_a_date_meets_what_was_asked_or_held_then(
    history: History, since: float, until: float, there: bool
) -> None:
    history.add([ended(10)])
    assert [one.id for one in history.between(since, until)] == [10] * there


@pytest.mark.parametrize(
    ("since", "until"), [(2_800, 2_900), (6_300, 6_400), (10_000, 10_001)]
)
def test_a_set_clock_hides_no_lease(
    history: History, since: float, until: float
) -> None:
    """Asked at 10,000 and held for 3,600 s, while the clock was set 7,200 s back."""
    stepped = ended(
        1,
        asked_wall_s=10_000.0,
        granted_wall_s=10_000.0,
        ended_wall_s=6_400.0,
        held_s=3_600.0,
    )
    history.add([stepped])
    assert list(history.between(since, until)) == [stepped]


def test_a_report_of_a_window_needs_no_more_than_what_is_between(
    history: History,
) -> None:
    lasting = [
        ended(n, ended_wall_s=10.0 * n + 1 + n % 7, held_s=float(n % 7))
        for n in range(30)
    ]
    history.add(lasting)
    for since in range(0, 310, 3):
        for until in (since + 1.0, since + 25.0):
            part = report(history.between(since, until), since, until)
            assert part == report(lasting, since, until)


def test_looking_for_dates_does_not_read_all_there_is(history: History) -> None:
    """The last week of some years: by the index."""
    assert history._db is not None
    for statement, values in ((module._BETWEEN, (1, 2)), (module._FORGET, (1,))):
        plan = history._db.execute(f"EXPLAIN QUERY PLAN {statement}", values)
        assert [row[3].partition(" (")[0] for row in plan] == [
            "SEARCH lease USING INDEX lease_last"
        ]


def test_what_ended_before_a_date_is_forgotten(history: History) -> None:
    history.add(map(ended, range(1, 6)))
    assert history.forget(36.0) == 2  # the third ended just then
    assert everything(history) == [ended(3), ended(4), ended(5)]
    assert history.forget(36.0) == 0


# Versions.


def test_a_newer_version_is_left_alone(directory: Path) -> None:
    path = fill(directory, ALL_SORTS)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(Damage, match="newer version: 99, and this program knows 1"):
        History.open(directory)
    assert path.read_bytes() == before
    assert [one.name for one in directory.iterdir()] == ["history.sqlite"]


def test_an_older_version_is_brought_up_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(directory, [ended(1, label="a"), ended(2, label="b")])
    step = "UPDATE lease SET label = label || '!' WHERE id = 1;"
    monkeypatch.setattr(module, "_STEPS", (*module._STEPS, step))
    for _ in range(2):
        with closing(History.open(directory)) as history:
            assert everything(history) == [ended(1, label="a!"), ended(2, label="b")]


def test_an_upgrade_that_fails_changes_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(directory, [ended(1, label="a")])
    step = "UPDATE lease SET label = 'b'; SELECT no_such_thing;"
    with monkeypatch.context() as patch:
        patch.setattr(module, "_STEPS", (*module._STEPS, step))
        with pytest.raises(Unavailable, match="no_such_thing"):
            History.open(directory)
    with closing(History.open(directory)) as history:
        assert everything(history) == [ended(1, label="a")]


# Damage.


def set_aside(directory: Path, content: bytes, number: int = 1) -> None:
    """Assert that a start keeps `content` beside, says so, and begins anew."""
    beside = directory / f"history.sqlite.broken-{number}"
    with closing(History.open(directory)) as history:
        assert [str(beside) in note for note in history.notes] == [True]
        assert everything(history) == []
        history.add([ended(7)])
    assert beside.read_bytes() == content
    with closing(History.open(directory)) as history:
        assert (everything(history), history.notes) == ([ended(7)], [])


@pytest.mark.slow
def test_a_file_cut_short_anywhere_is_set_aside(tmp_path: Path) -> None:
    whole = fill(tmp_path, [ended(n) for n in range(300)]).read_bytes()
    assert len(whole) > 8 * 4096
    lengths = {2, 15, 16, 50, 99, 100, 101, 512, 4095, len(whole) - 4097}
    for length in sorted(lengths | set(range(1024, len(whole) - 4096, 1024))):
        directory = tmp_path / str(length)
        directory.mkdir()
        (directory / "history.sqlite").write_bytes(whole[:length])
        set_aside(directory, whole[:length])


def test_an_empty_file_is_a_history_that_was_just_begun(directory: Path) -> None:
    """What a power cut leaves of a new one: there is nothing to keep."""
    (directory / "history.sqlite").touch()
    with closing(History.open(directory)) as history:
        history.add([ended(1)])
        assert (everything(history), history.notes) == ([ended(1)], [])


@pytest.mark.parametrize(
    "garbage",
    [b"\0" * 4096, b"\xff" * 10_000, b"SQLite format 3\0" + b"x" * 5000, b"history\n"],
    ids=["zeros", "ones", "a good beginning", "text"],
)
def test_garbage_is_set_aside(directory: Path, garbage: bytes) -> None:
    (directory / "history.sqlite").write_bytes(garbage)
    set_aside(directory, garbage)


@pytest.mark.slow
def test_a_spoilt_page_is_never_fatal(tmp_path: Path) -> None:
    """Zeros where a page was, as disks have it; free pages may be zeros."""
    records = [ended(n) for n in range(300)]
    whole = fill(tmp_path, records).read_bytes()
    for offset in range(0, len(whole), 4096):
        directory = tmp_path / str(offset)
        directory.mkdir()
        spoilt = whole[:offset] + bytes(4096) + whole[offset + 4096 :]
        (directory / "history.sqlite").write_bytes(spoilt)
        set_aside(directory, spoilt)


@pytest.mark.slow
def test_a_spoilt_byte_anywhere_is_never_fatal(tmp_path: Path) -> None:
    """SQLite has no checksums: what cannot be seen may give a wrong record."""
    whole = fill(tmp_path, [ended(n) for n in range(40)]).read_bytes()
    path, started = tmp_path / "history.sqlite", 0
    for offset in range(0, len(whole), 97):
        spoilt = bytearray(whole)
        spoilt[offset] ^= 0xFF
        path.write_bytes(spoilt)
        try:
            history = History.open(tmp_path)
        except Damage:
            assert 60 <= offset < 64  # the version's place
            continue
        with closing(history):
            with suppress(Unavailable):  # damage that only reading finds is told once
                everything(history)
            everything(history)
            history.add([ended(1000)])
            assert history.find(1000) == ended(1000)
        started += 1
    assert started > 100


def test_each_broken_file_is_kept(directory: Path) -> None:
    for number in (1, 2, 3):
        content = b"garbage %d" % number
        (directory / "history.sqlite").write_bytes(content)
        set_aside(directory, content, number)


def test_what_belongs_to_a_broken_file_goes_aside_with_it(directory: Path) -> None:
    """Beside the new file it would be taken for that one's."""
    (directory / "history.sqlite").write_bytes(b"garbage, and more of it")
    (directory / "history.sqlite-shm").write_bytes(b"more")
    set_aside(directory, b"garbage, and more of it")
    assert sorted(path.name for path in directory.iterdir()) == [
        "history.sqlite",
        "history.sqlite.broken-1",
        "history.sqlite.broken-1-shm",
    ]


def test_the_log_of_a_broken_file_is_not_taken_for_the_new_one_s(
    tmp_path: Path,
) -> None:
    with closing(History.open(tmp_path)) as history:
        history.add([ended(1)])
        copy = crashed(history, tmp_path / "copy")
    log = (copy / "history.sqlite-wal").read_bytes()
    (copy / "history.sqlite").write_bytes(b"garbage, and more of it")
    (copy / "history.sqlite-wal").write_bytes(b"x" + log[1:])
    with closing(History.open(copy)) as history:
        assert (everything(history), len(history.notes)) == ([], 1)


@pytest.mark.parametrize(
    "statements",
    [
        "CREATE TABLE lease (id)",
        "CREATE TABLE addresses (name)",
        "CREATE TABLE lease (id, uid); PRAGMA user_version = 1",
        "PRAGMA user_version = 1",
        "PRAGMA user_version = -1",
        "CREATE VIEW lease AS SELECT no_such_thing(); PRAGMA user_version = 1",
    ],
)
def test_the_database_of_another_program_is_set_aside(
    directory: Path, statements: str
) -> None:
    path = directory / "history.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(statements)
    with closing(History.open(directory)) as history:
        assert len(history.notes) == 1
        history.add([ended(1)])
        assert everything(history) == [ended(1)]
    assert path.with_name("history.sqlite.broken-1").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        "amounts = '{'",
        """amounts = '{"ram": "much"}'""",
        "given_back = '7'",
        "beside = ''",
        "label = CAST(x'ff' AS TEXT)",
    ],
)
def test_damage_that_only_reading_finds_is_told_once(
    directory: Path, spoil: str
) -> None:
    path = fill(directory, [ended(1), ended(2)])
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"UPDATE lease SET {spoil} WHERE id = 2")
        db.commit()
    with closing(History.open(directory)) as history:
        assert history.find(1) == ended(1)
        with pytest.raises(Unavailable, match=r"broken-1, .* Try again") as caught:
            list(history.between(*ALWAYS))
        assert [note in str(caught.value) for note in history.notes] == [True]
        assert everything(history) == []
        history.add([ended(3)])
        assert everything(history) == [ended(3)]


def test_a_file_that_is_spoilt_while_it_is_open_fails_one_call(
    tmp_path: Path,
) -> None:
    fill(tmp_path, [ended(n) for n in range(300)])
    with closing(History.open(tmp_path)) as history:
        with history.path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xee" * (history.path.stat().st_size - 4096))
        assert history._db is not None
        history._db.execute("PRAGMA shrink_memory")  # what it still knew by heart
        with pytest.raises(Unavailable, match="damaged"):
            history.add([ended(1000)])
        history.add([ended(1000)])
        assert everything(history) == [ended(1000)]
        assert len(history.notes) == 1


def test_a_fault_of_ours_is_no_damage(history: History) -> None:
    """It must be seen, and cost nobody his history."""
    history.add([ended(1)])
    with pytest.raises(sqlite3.IntegrityError):
        history.add([ended(2), ended(3, uid=None)])
    assert (everything(history), history.notes) == ([ended(1)], [])


# Losing power.


@pytest.mark.slow
def test_a_power_cut_takes_the_last_batches_and_nothing_else(tmp_path: Path) -> None:
    """The log, cut at any length: nothing was synced but the order is kept."""
    batches = [[ended(10 * n), ended(10 * n + 1)] for n in range(1, 13)]
    with closing(History.open(tmp_path)) as history:
        for batch in batches:
            history.add(batch)
        copy = crashed(history, tmp_path / "copy")
    log = (copy / "history.sqlite-wal").read_bytes()
    file = (copy / "history.sqlite").read_bytes()
    seen = set()
    for length in [0, 1, 31, 32, *range(33, len(log), 1531), len(log)]:
        for path in copy.iterdir():
            path.unlink()
        (copy / "history.sqlite").write_bytes(file)
        (copy / "history.sqlite-wal").write_bytes(log[:length])
        with closing(History.open(copy)) as history:
            there = everything(history)
            assert history.notes == []
        assert there == [one for batch in batches for one in batch][: len(there)]
        assert len(there) % 2 == 0
        seen.add(len(there))
    assert seen == set(range(0, 25, 2))


# Calls that fail.


@contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond `n_bytes`: a disk that is full there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_on_a_full_disk_all_of_a_batch_is_kept_or_nothing(tmp_path: Path) -> None:
    """Wherever the room ends; and when there is room again it goes on."""
    before, batch = [ended(1), ended(2)], [ended(n) for n in range(3, 100)]
    outcomes = set()
    for number, limit in enumerate(range(0, 120_000, 6_000)):
        directory = tmp_path / str(number)
        directory.mkdir()
        fill(directory, before)
        with closing(History.open(directory)) as history:
            kept = False
            with file_size_limit(limit), suppress(Unavailable):
                history.add(batch)
                kept = True
            assert everything(history) == before + batch * kept
            history.add(batch)
            assert everything(history) == before + batch
            assert history.notes == []
        outcomes.add(kept)
    assert outcomes == {True, False}


def test_a_write_that_fails_says_which_and_what_to_do(history: History) -> None:
    with (
        file_size_limit(100),
        pytest.raises(Unavailable, match=r"writing .*history\.sqlite failed: .*again"),
    ):
        history.add([ended(1)])


def test_a_disk_that_is_full_at_the_start_is_tried_again(directory: Path) -> None:
    with (
        file_size_limit(100),
        pytest.raises(Unavailable, match=r"opening the history .*history\.sqlite"),
    ):
        History.open(directory)
    with closing(History.open(directory)) as history:
        history.add([ended(1)])
        assert (everything(history), history.notes) == ([ended(1)], [])


FULL_TMPFS = """
import sys
from contextlib import closing
from pathlib import Path
import msgspec
from holdingpen.errors import Unavailable
from holdingpen.journal.history import History, Record

one = msgspec.json.decode(sys.argv[2], type=Record)
where = Path(sys.argv[1])
stuffing = where / "stuffing"
with closing(History.open(where)) as history:
    history.add([one])
    with stuffing.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    batch = [msgspec.structs.replace(one, id=n) for n in range(2, 2000)]
    for _ in range(2):
        try:
            history.add(batch)
        except Unavailable as why:
            assert "is full. Free space on that file system" in str(why), why
        else:
            raise AssertionError("it was not full")
        assert list(history.between(0, 1e9)) == [one]
    stuffing.unlink()
    history.add(batch)
    assert len(list(history.between(0, 1e9))) == 1999 and not history.notes
print("all kept")
"""


@pytest.mark.real
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs: needs root")
def test_a_really_full_file_system_keeps_what_was_there(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -c "$3" "$1" "$4"'
    program = [sys.executable, FULL_TMPFS, module._encode(ended(1)).decode()]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", tmp_path, *program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.stdout) == ("", "all kept\n")


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A directory with a history in which nothing may be changed by us."""
    directory = Path(tempfile.mkdtemp(prefix="holdingpen-history-"))
    fill(directory, [ended(1)])
    root = os.geteuid() == 0
    for path in (directory, directory / "history.sqlite"):
        if root:
            os.chown(path, NOBODY, NOBODY)
        path.chmod(0o500 if path.is_dir() else 0o400)
    if root:  # whom no mode stops
        os.seteuid(NOBODY)
    yield directory
    if root:
        os.seteuid(0)
    directory.chmod(0o700)
    shutil.rmtree(directory)


def test_a_read_only_directory_stops_nothing_but_the_history(read_only: Path) -> None:
    content = (read_only / "history.sqlite").read_bytes()
    with pytest.raises(Unavailable, match="history.sqlite failed"):
        History.open(read_only)
    assert (read_only / "history.sqlite").read_bytes() == content
    assert [path.name for path in read_only.iterdir()] == ["history.sqlite"]


def test_in_a_read_only_directory_none_can_be_made(read_only: Path) -> None:
    read_only.chmod(0o700)
    (read_only / "history.sqlite").unlink()
    read_only.chmod(0o500)
    with pytest.raises(Unavailable, match=r"making .* Permission denied") as caught:
        History.open(read_only)
    assert caught.value.exit_status == EXIT_NOT_PERMITTED


def test_damage_that_cannot_be_set_aside_is_told(read_only: Path) -> None:
    read_only.chmod(0o700)
    (read_only / "history.sqlite").chmod(0o600)
    (read_only / "history.sqlite").write_bytes(b"garbage, and more of it")
    read_only.chmod(0o500)
    with pytest.raises(Unavailable, match=r"setting the damaged history aside"):
        History.open(read_only)


def test_a_directory_that_becomes_read_only_fails_an_add_that_comes_again(
    read_only: Path,
) -> None:
    """It was opened before, then closed by some failure."""
    read_only.chmod(0o700)
    (read_only / "history.sqlite").chmod(0o600)
    with closing(History.open(read_only)) as history:
        history.close()
        read_only.chmod(0o500)
        with pytest.raises(Unavailable):
            history.add([ended(2)])
        read_only.chmod(0o700)
        history.add([ended(2)])
        assert everything(history) == [ended(1), ended(2)]


def test_no_directory_no_history(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="making .* No such file"):
        History.open(tmp_path / "nowhere")


@pytest.mark.parametrize("lock", ["BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_history_that_somebody_looks_into_cannot_be_opened_yet(
    directory: Path, lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCKED_S", 0.0)
    path = fill(directory, [ended(1)])
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(lock)
        db.execute("SELECT * FROM lease").fetchone()
        with pytest.raises(Unavailable, match="has it locked") as caught:
            History.open(directory)
    assert caught.value.code == "locked"
    with closing(History.open(directory)) as history:
        assert (everything(history), history.notes) == ([ended(1)], [])


def test_while_it_is_open_nobody_can_lock_it(history: History) -> None:
    history.add([ended(1)])
    looking = (
        "import sqlite3, sys; sqlite3.connect(sys.argv[1], 0).execute(sys.argv[2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", looking, history.path, "SELECT * FROM lease"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "database is locked" in done.stderr
    history.add([ended(2)])
    assert everything(history) == [ended(1), ended(2)]


# Size.


@pytest.mark.slow
def test_a_hundred_thousand_leases_are_kept_and_counted(history: History) -> None:
    """Some years of a busy machine; none of it lies in memory all together."""
    history.add(ended(n, uid=1000 + n % 50) for n in range(100_000))
    found = report(history.between(*ALWAYS), *ALWAYS)
    assert found.total.leases == 100_000
    assert found.total.used == {"cpu": 1e6, "ram": 5e5 * 2**30}
    assert [user.uid for user in found.users] == list(range(1000, 1050))
    assert history.forget(500_000.0) == 50_000
    history.close()
    assert report(history.between(*ALWAYS), *ALWAYS).total.leases == 50_000
