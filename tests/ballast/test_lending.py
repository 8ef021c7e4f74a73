"""Lending real files to real processes, and what may have become of them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdingpen.ballast import Piece, ram
from holdingpen.ballast.files import MEMFD
from holdingpen.ballast.lent import in_use
from holdingpen.ballast.pieces import PieceFile
from holdingpen.ballast.ram import STEP, UNIT, RamBallast
from holdingpen.errors import Refusal

from .conftest import PIECE

PAGE = mmap.PAGESIZE


def always(step: int) -> bool:
    return True


def never(step: int) -> bool:
    return False


def lend(ballast: RamBallast, amount: int, lease: int = 1, user: int = 0) -> Piece:
    """Lend `amount` bytes that fit into one file, and take nothing that is held."""
    (piece,) = ballast.lend(lease, amount, always, user)
    return piece


def punch(fd: int, start: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    span = ctypes.c_int64(start), ctypes.c_int64(size)
    assert libc.fallocate64(fd, 1 | 2, *span) == 0


def files(ballast: RamBallast) -> int:
    return ballast._pool.count


def our_files() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@contextlib.contextmanager
def running(program: str, *fds: int) -> Iterator[subprocess.Popen[str]]:
    """A child that has `fds` and has said its first line."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program, *map(str, fds)],
        pass_fds=fds,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        yield child
        child.communicate()


MAPPER = """
import mmap, os, sys
fd = int(sys.argv[1])
memory = mmap.mmap(fd, 2 << 20)
memory[:4] = b"mine"
os.close(fd)
print("ready", flush=True)
sys.stdin.read()
"""

GRANDPARENT = """
import os, sys
fd = int(sys.argv[1])
held, wait = os.pipe()
if os.fork():
    os._exit(0)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.real
@pytest.mark.parametrize("program", [MAPPER, GRANDPARENT])
def test_what_a_program_or_its_child_uses_comes_back_when_the_last_ended(
    real_ballast: RamBallast, program: str
) -> None:
    piece = lend(real_ballast, UNIT)
    with running(program, piece.fd):
        os.close(piece.fd)
        assert real_ballast.back(1) is None
        assert (real_ballast.held, real_ballast.kept) == (0, {1: UNIT})
    assert real_ballast.back(1) == UNIT


@pytest.mark.real
def test_what_a_killed_program_had_is_held_all_the_time(
    real_ballast: RamBallast,
) -> None:
    piece = lend(real_ballast, 4 * UNIT)
    with running(MAPPER, piece.fd) as child:
        os.close(piece.fd)
        child.kill()
    assert real_ballast.kept == {1: 4 * UNIT}
    assert real_ballast.back(1) == 4 * UNIT


def test_a_descriptor_on_its_way_is_a_use(real_ballast: RamBallast) -> None:
    """Sent, not received yet, and closed by the sender."""
    piece = lend(real_ballast, UNIT)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [piece.fd])
        os.close(piece.fd)
        assert real_ballast.back(1) is None
    assert real_ballast.back(1) == UNIT


def test_reading_is_a_use(real_ballast: RamBallast) -> None:
    piece = lend(real_ballast, UNIT)
    reader = os.open(f"/proc/self/fd/{piece.fd}", os.O_RDONLY)
    os.close(piece.fd)
    assert real_ballast.back(1) is None
    os.close(reader)
    assert real_ballast.back(1) == UNIT


def test_who_was_lent_it_once_cannot_open_it_again(real_ballast: RamBallast) -> None:
    """Not another user: O_PATH is no use that the kernel counts."""
    piece = lend(real_ballast, UNIT)
    found = os.fstat(piece.fd)
    os.close(piece.fd)
    assert found.st_mode & 0o777 == 0o600
    assert found.st_uid == os.geteuid()


# What clients do to their files.


def is_sealed(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)


def test_a_memfd_is_sealed_and_tmpfs_has_no_seals(real_ballast: RamBallast) -> None:
    piece = lend(real_ballast, UNIT)
    assert is_sealed(piece.fd) == (real_ballast.kind == MEMFD)
    os.close(piece.fd)


@pytest.mark.parametrize(
    ("length", "units"), [(0, 0), (PAGE, 0), (UNIT, 1), (2 * UNIT - 1, 1)]
)
def test_what_a_client_cut_off_is_not_there(
    real_ballast: RamBallast, length: int, units: int
) -> None:
    piece = lend(real_ballast, 3 * UNIT)
    if is_sealed(piece.fd):
        with pytest.raises(PermissionError):
            os.ftruncate(piece.fd, length)
        units = 3
    else:
        os.ftruncate(piece.fd, length)
        assert real_ballast.kept[1] <= length + PAGE + UNIT
    os.close(piece.fd)
    assert real_ballast.back(1) == units * UNIT
    assert real_ballast.held == units * UNIT
    assert real_ballast.drop(STEP) == units * UNIT


def test_what_a_client_added_is_freed(real_ballast: RamBallast) -> None:
    """Beyond the end, where its length does not tell."""
    piece = lend(real_ballast, UNIT)
    if not is_sealed(piece.fd):
        os.posix_fallocate(piece.fd, 0, 2 * UNIT)
        libc = ctypes.CDLL(None)
        span = ctypes.c_int64(2 * UNIT), ctypes.c_int64(UNIT)
        assert libc.fallocate64(piece.fd, 1, *span) == 0
        assert real_ballast.kept == {1: 3 * UNIT}
    os.close(piece.fd)
    assert real_ballast.back(1) == UNIT
    assert real_ballast.held == UNIT


def with_holes(ballast: RamBallast) -> None:
    """Have 4 units of which a client has freed the third, and one page."""
    piece = lend(ballast, 4 * UNIT)
    os.pwrite(piece.fd, b"x" * PAGE, 4 * UNIT - PAGE)
    punch(piece.fd, 2 * UNIT, UNIT)
    punch(piece.fd, PAGE, PAGE)
    assert ballast.kept == {1: 3 * UNIT - PAGE}
    os.close(piece.fd)
    assert ballast.back(1) == 3 * UNIT - PAGE


def test_what_a_client_punched_counts_for_what_is_left(
    real_ballast: RamBallast,
) -> None:
    with_holes(real_ballast)
    assert (real_ballast.held, real_ballast.kept) == (3 * UNIT - PAGE, {})


def test_what_has_holes_is_not_kept_or_lent_before_it_is_filled(
    real_ballast: RamBallast,
) -> None:
    with_holes(real_ballast)
    assert real_ballast.keep(2, UNIT) == 0
    assert real_ballast.take(UNIT, always) == PAGE
    assert real_ballast.take(STEP, always) == STEP
    assert real_ballast.keep(2, STEP) == STEP
    assert (real_ballast.held, real_ballast.kept) == (3 * UNIT, {2: STEP})


def test_holes_are_filled_step_by_step_with_leave(real_ballast: RamBallast) -> None:
    with_holes(real_ballast)
    assert real_ballast.take(4 * UNIT, never) == 0
    assert real_ballast.take(UNIT, always) == PAGE
    answers = iter([True] * 3)
    assert real_ballast.take(UNIT, lambda step: next(answers, False)) == UNIT
    assert real_ballast.held == 4 * UNIT
    assert real_ballast.drop(UNIT) == UNIT


def test_holes_stay_when_the_system_has_no_more(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_holes(real_ballast)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", fail(errno.ENOMEM))
        assert real_ballast.take(4 * UNIT, always) == 0
        patch.setattr(os, "posix_fallocate", fail(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            real_ballast.take(4 * UNIT, always)
    assert real_ballast.held == 3 * UNIT - PAGE


def test_a_drop_takes_what_has_holes_last_and_whole(real_ballast: RamBallast) -> None:
    """A file with holes cannot be cut by the byte."""
    real_ballast.take(UNIT, always)
    with_holes(real_ballast)
    assert real_ballast.drop(UNIT) == UNIT
    assert real_ballast.drop(1) == 3 * UNIT - PAGE
    assert (real_ballast.held, files(real_ballast)) == (0, 0)


def test_what_cannot_be_wiped_is_freed(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = lend(real_ballast, UNIT)
    os.pwrite(piece.fd, b"secret", 0)
    os.close(piece.fd)
    monkeypatch.setattr(os, "pwrite", fail(errno.ENOMEM))
    assert real_ballast.back(1) == 0
    assert (real_ballast.held, real_ballast.kept) == (0, {})


def fail(number: int) -> Callable[..., int]:
    def failing(*args: object, **kwargs: object) -> int:
        raise OSError(number, os.strerror(number))

    return failing


def test_what_is_never_touched_is_never_wiped(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel zeroes it for whoever looks first: that is its matter."""
    piece = lend(real_ballast, 4 * UNIT)
    with mmap.mmap(piece.fd, 4 * UNIT) as memory:
        memory[2 * UNIT] = 1
    os.close(piece.fd)
    wiped: list[int] = []
    pwrite = os.pwrite

    def noting(fd: int, zeros: bytes, start: int) -> int:
        wiped.append(len(zeros))
        return pwrite(fd, zeros, start)

    monkeypatch.setattr(os, "pwrite", noting)
    assert real_ballast.back(1) == 4 * UNIT
    assert 0 < sum(wiped) <= UNIT


# Between users.


def test_another_user_gets_pages_that_nobody_had(real_ballast: RamBallast) -> None:
    """Who moved a page into a pipe sees what is written into it for ever."""
    piece = lend(real_ballast, UNIT, lease=1, user=1000)
    os.pwrite(piece.fd, b"x" * PAGE, 0)
    reading, writing = os.pipe()
    assert os.splice(piece.fd, writing, 4, offset_src=0) == 4
    os.close(piece.fd)
    assert real_ballast.back(1) == UNIT
    real_ballast.keep(2, UNIT)
    next_piece = lend(real_ballast, UNIT, lease=2, user=1001)
    os.pwrite(next_piece.fd, b"secret", 0)
    assert os.read(reading, 4) != b"secr"
    assert (real_ballast.held, real_ballast.kept) == (0, {2: UNIT})
    for fd in (next_piece.fd, reading, writing):
        os.close(fd)


@pytest.mark.parametrize("may", [always, never])
def test_the_same_user_gets_the_same_pages_another_others(
    real_ballast: RamBallast, may: Callable[[int], bool]
) -> None:
    def inode(user: int) -> int:
        real_ballast.keep(1, UNIT)
        (piece,) = real_ballast.lend(1, UNIT, may, user)
        number = os.fstat(piece.fd).st_ino
        os.close(piece.fd)
        assert real_ballast.back(1) == UNIT
        return number

    real_ballast.take(UNIT, always)
    first = inode(1000)
    assert inode(1000) == first
    second = inode(1001)
    assert second != first
    assert real_ballast.held == UNIT


# Damage.


def test_without_descriptors_it_is_refused_and_nothing_has_changed(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_ballast.take(3 * PIECE, always)
    real_ballast.keep(1, 2 * PIECE)
    real_open, left = os.open, iter([True])

    def opens(path: str, *args: int, **kwargs: int) -> int:
        if str(path).startswith("/proc") and not next(left, False):
            raise OSError(errno.EMFILE, "Too many open files")
        return real_open(path, *args, **kwargs)

    before = our_files()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opens)
        with pytest.raises(Refusal, match="Too many open files") as refused:
            real_ballast.lend(1, 2 * PIECE, always)
    assert refused.value.code == "not-now"
    assert our_files() == before
    assert (real_ballast.held, real_ballast.kept) == (PIECE, {1: 2 * PIECE})
    for piece in real_ballast.lend(1, 2 * PIECE, never):
        os.close(piece.fd)


def test_where_uses_cannot_be_told_nothing_is_lent(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `echo 0 > /proc/sys/fs/leases-enable`."""
    monkeypatch.setattr(fcntl, "fcntl", fail(errno.EINVAL))
    with pytest.raises(Refusal, match="Invalid argument"):
        real_ballast.lend(1, UNIT, always)
    assert (real_ballast.held, real_ballast.kept) == (0, {})


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE])
def test_when_the_system_has_no_more_it_is_refused(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real_ballast.take(UNIT, always)
    real_ballast.keep(1, UNIT)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", fail(number))
        with pytest.raises(Refusal, match="2.0 MiB of it cannot be had"):
            real_ballast.lend(1, 2 * UNIT, always)
    assert (real_ballast.held, real_ballast.kept) == (0, {1: UNIT})


def test_any_other_failure_is_raised_and_changes_nothing(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", fail(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            real_ballast.lend(1, UNIT, always)
    assert (real_ballast.kept, files(real_ballast)) == ({}, 0)


def test_too_many_files_are_not_kept(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ram, "FILES_MAX", 3)
    for lease in range(5):
        os.close(lend(real_ballast, UNIT, lease).fd)
    assert sum(real_ballast.back(lease) or 0 for lease in range(5)) == 3 * UNIT
    assert (files(real_ballast), real_ballast.held) == (3, 3 * UNIT)


def test_asking_for_the_use_ends_nobody(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens the file just then makes the kernel signal us: SIGIO would end us."""
    real_ballast.take(UNIT, always)
    (piece,) = real_ballast._pool
    real_fcntl, opened = fcntl.fcntl, []

    def looked_at(fd: int, command: int, word: int) -> int:
        result: int = real_fcntl(fd, command, word)
        if word == fcntl.F_WRLCK:
            with contextlib.suppress(BlockingIOError):
                os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
            opened.append(fd)
        return result

    got: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _frame: got.append(number))
    monkeypatch.setattr(fcntl, "fcntl", looked_at)
    try:
        assert not in_use(piece.fd)
    finally:
        signal.signal(signal.SIGIO, before)
    assert (got, opened) == ([], [piece.fd])


# Several threads.


class Gate:
    """Holds whoever passes, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.open.wait(20)


@contextlib.contextmanager
def wiping(
    ballast: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[int | None]]:
    """Lend 2 units to lease 1, and be amid the wiping of them."""
    os.close(lend(ballast, 2 * UNIT).fd)
    gate, came, wipe = Gate(), [], PieceFile.wipe

    def slow_wipe(piece: PieceFile) -> None:
        gate.wait()
        wipe(piece)

    monkeypatch.setattr(PieceFile, "wipe", slow_wipe)
    thread = threading.Thread(target=lambda: came.append(ballast.back(1)))
    thread.start()
    assert gate.reached.wait(20)
    try:
        yield came
    finally:
        gate.open.set()
        thread.join()


def test_nobody_waits_for_the_wiping(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_ballast.take(5 * UNIT, always)
    with wiping(real_ballast, monkeypatch) as came:
        assert real_ballast.drop(UNIT) == UNIT
        assert real_ballast.keep(2, UNIT) == UNIT
        assert real_ballast.take(UNIT, always) == UNIT
        assert (real_ballast.held, real_ballast.kept) == (
            4 * UNIT,
            {1: 2 * UNIT, 2: UNIT},
        )
        assert real_ballast.back(1) is None
        with pytest.raises(Refusal, match="another call"):
            real_ballast.lend(1, UNIT, always)
        os.close(lend(real_ballast, UNIT, lease=2).fd)
    assert came == [2 * UNIT]
    assert (real_ballast.held, real_ballast.kept) == (6 * UNIT, {2: UNIT})


def test_closed_amid_the_wiping_it_holds_nothing(
    real_ballast: RamBallast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor is not closed before: another file could have its number."""
    before = len(our_files())
    with wiping(real_ballast, monkeypatch) as came:
        real_ballast.close()
    assert came == [0]
    assert (real_ballast.held, real_ballast.kept) == (0, {})
    assert len(our_files()) <= before


@pytest.mark.parametrize("kept", [0, UNIT])
def test_closed_amid_the_lending_it_refuses(
    real_ballast: RamBallast, kept: int
) -> None:
    def closing(step: int) -> bool:
        real_ballast.close()
        return True

    real_ballast.take(STEP, always)
    real_ballast.keep(1, kept)
    with pytest.raises(Refusal):
        real_ballast.lend(1, 2 * STEP, closing)
    assert (real_ballast.held, real_ballast.kept) == (0, {})


def test_a_drop_amid_the_lending_leaves_what_is_lent(
    real_ballast: RamBallast,
) -> None:
    """The guard is where other threads come in."""
    real_ballast.take(2 * STEP, always)
    real_ballast.keep(1, UNIT)
    pieces = real_ballast.lend(
        1, 2 * STEP, lambda step: real_ballast.drop(5 * UNIT) >= 0
    )
    assert sum(piece.size for piece in pieces) == 2 * STEP
    assert real_ballast.kept == {1: 2 * STEP}
    assert real_ballast.held == 0
    for piece in pieces:
        os.close(piece.fd)


def test_what_is_given_amid_the_lending_is_taken_anew(
    real_ballast: RamBallast,
) -> None:
    """The pacer frees the last of it while the client fetches."""
    real_ballast.take(PIECE, always)
    real_ballast.keep(1, 4 * UNIT)
    pieces = real_ballast.lend(
        1, 2 * UNIT, lambda step: real_ballast.give(1, STEP) >= 0
    )
    assert [piece.size for piece in pieces] == [2 * UNIT]
    assert (real_ballast.held, real_ballast.kept) == (PIECE - 4 * UNIT, {1: 2 * UNIT})
    os.close(pieces[0].fd)


@pytest.mark.slow
def test_threads_at_once_lose_nothing(real_ballast: RamBallast) -> None:
    """Each keeps its own account; at the end all of them agree with the kernel."""
    accounts: list[int] = []

    def work(lease: int) -> None:
        account = 0
        for turn in range(40):
            account += real_ballast.take((turn % 3) * UNIT, always)
            real_ballast.keep(lease, UNIT)
            before = real_ballast.kept.get(lease, 0)
            pieces = real_ballast.lend(lease, (turn % 5) * UNIT, always)
            account += max(0, sum(piece.size for piece in pieces) - before)
            for piece in pieces:
                os.close(piece.fd)
            account -= real_ballast.give(lease, UNIT)
            assert real_ballast.back(lease) is not None
            account -= real_ballast.drop(UNIT)
        accounts.append(account)

    threads = [threading.Thread(target=work, args=(lease,)) for lease in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(accounts) == 4
    assert (real_ballast.held, real_ballast.kept) == (sum(accounts), {})
    assert real_ballast.drop(sum(accounts)) == sum(accounts)
    assert files(real_ballast) == 0
