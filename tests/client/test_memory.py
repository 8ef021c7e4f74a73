"""The memory of a lease: one buffer over several files, never pulled away."""

import contextlib
import copy
import ctypes
import gc
import mmap
import multiprocessing
import operator
import os
import pickle
import resource
import subprocess
import sys
from multiprocessing import resource_sharer
from pathlib import Path

import numpy as np
import pytest

import holdingpen
from holdingpen.client import memory as memory_module
from holdingpen.client.memory import LeaseMemory
from holdingpen.client.pieces import Pieces
from holdingpen.errors import LocalMistake, RemoteMistake, Unavailable

MIB = 2**20
PAGE = mmap.PAGESIZE
HUGE = 2 * 2**20


@pytest.fixture
def build(piece):
    """`build(length, *sizes)`: memory of pieces that begin with 1, 2, 3, ..."""

    def make(length, *sizes):
        fds = [piece(size, bytes([at])) for at, size in enumerate(sizes, 1)]
        return LeaseMemory(Pieces(fds, list(sizes), "exact"), length)

    return make


@pytest.fixture
def memory(build):
    memory = build(4 * PAGE, PAGE, 2 * PAGE, PAGE)
    yield memory
    gc.collect()
    memory.close()


# What it is.


@pytest.mark.parametrize(
    ("length", "sizes"),
    [
        (1, [1]), (PAGE, [PAGE]), (PAGE + 1, [PAGE, PAGE]), (100, [2 * PAGE, PAGE]),
        (3 * PAGE, [PAGE] * 3), (2 * PAGE + 5, [PAGE, PAGE, 5]),
        (PAGE, [PAGE, PAGE]),
    ],
)  # fmt: skip
def test_it_has_exactly_the_leased_bytes_whatever_the_pieces_have(build, length, sizes):
    with build(length, *sizes) as memory:
        assert (len(memory), memory.buffer.nbytes) == (length, length)
        memory[length - 1] = 7
        assert memory[-1] == 7


def test_the_pieces_stand_side_by_side_in_order(memory):
    assert [memory[at * PAGE] for at in range(4)] == [1, 2, 0, 3]
    memory[PAGE - 1 : PAGE + 1] = b"xy"
    assert [os.pread(fd, 1, 0) for fd in memory.fds] == [b"\1", b"y", b"\3"]


@pytest.mark.parametrize("length", [8 * HUGE, 8 * HUGE + 1, 32 * HUGE - PAGE])
def test_it_lies_where_huge_pages_can_be_huge(build, length):
    """Elsewhere each page of 4 KiB costs a fault of its own."""
    kept = [build(length, length) for _ in range(5)]
    assert [memory._address % HUGE for memory in kept] == [0] * 5


def test_where_no_such_place_is_to_be_had_it_lies_elsewhere(build, monkeypatch):
    @contextlib.contextmanager
    def no_hole(length):
        yield 0

    monkeypatch.setattr(memory_module, "_hole", no_hole)
    before = address_space()
    with build(HUGE, HUGE) as memory:
        assert (memory[0], address_space() - before) == (1, 0)
        memory[HUGE - 1] = 1
    assert address_space() == before


def test_looking_for_a_place_leaves_no_address_space_taken(build):
    memory = build(HUGE + 1, HUGE, PAGE)
    memory.close()
    del memory
    before = Path("/proc/self/statm").read_text().split()[0]
    for _ in range(20):
        build(HUGE + 1, HUGE, PAGE).close()
    assert Path("/proc/self/statm").read_text().split()[0] == before


def test_the_buffer_is_a_writable_view_of_bytes(memory):
    view = memory.buffer
    assert (view.format, view.readonly, view.nbytes) == ("B", False, 4 * PAGE)
    view[1:3] = b"xy"
    assert memory[:3] == b"\1xy"


def test_it_is_a_buffer_itself(memory):
    assert bytes(memoryview(memory)[:2]) == b"\1\0"
    assert np.frombuffer(memory, "u1", 1)[0] == 1


def test_it_says_what_it_is(memory):
    assert (repr(memory), memory.handover) == ("<LeaseMemory 16.0 KiB exact>", "exact")
    memory.close()
    assert repr(memory) == "<LeaseMemory closed>"


def test_it_cannot_be_resized(memory):
    with pytest.raises(LocalMistake, match=f"has {4 * PAGE} bytes and cannot have 1"):
        memory.resize(1)


# Arrays.


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("f8", None, (PAGE // 2,)), ("u1", None, (4 * PAGE,)),
        ("f4", 7, (7,)), ("i2", (2, 3), (2, 3)), ("f8", (PAGE // 2,), (PAGE // 2,)),
        ("f8", (), ()), ("f8", (0, 5), (0, 5)), ("S3", None, (4 * PAGE // 3,)),
    ],
)  # fmt: skip
def test_an_array_begins_where_the_memory_does(memory, dtype, shape, expected):
    array = memory.asarray(dtype, shape)
    assert (array.dtype, array.shape) == (np.dtype(dtype), expected)
    assert array.__array_interface__["data"] == (memory._address, False)


def test_what_is_written_to_an_array_is_in_the_pages(memory):
    memory.asarray("u1")[2 * PAGE] = 9
    assert os.pread(memory.fds[1], 1, PAGE) == b"\t"


@pytest.mark.parametrize("shape", [4 * PAGE + 1, (2, 2 * PAGE + 1), -1, (2, -1)])
def test_an_array_that_does_not_fit_is_refused(memory, shape):
    with pytest.raises(LocalMistake, match=f"room for {4 * PAGE} of uint8"):
        memory.asarray("u1", shape)


def test_without_numpy_it_says_what_is_missing(memory, monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(Unavailable, match="needs numpy"):
        memory.asarray()


# Its end.


def held_by_a_view(memory):
    return memoryview(memory)[1:2]


def held_by_its_buffer(memory):
    return memory.buffer[1:2]


def held_by_an_array(memory):
    return memory.asarray("u1", (2, 2)).T[1:]


def held_by_an_array_of_a_buffer(memory):
    return np.frombuffer(memory, "u1")


def held_by_an_array_that_keeps_no_view(memory):
    return np.ndarray(2, "u1", buffer=memory.buffer)


def held_by_ctypes(memory):
    return ctypes.c_char.from_buffer(memory)


@pytest.mark.parametrize(
    "hold",
    [
        held_by_a_view, held_by_its_buffer, held_by_an_array,
        held_by_an_array_of_a_buffer, held_by_an_array_that_keeps_no_view,
        held_by_ctypes,
    ],
)  # fmt: skip
def test_it_cannot_be_closed_under_what_is_made_of_it(memory, hold):
    held = hold(memory)
    with pytest.raises(BufferError):
        memory.close()
    assert (memory[0], len(memory.fds)) == (1, 3)
    del held
    memory.close()
    memory.close()
    assert memory.closed


def test_what_holds_only_the_object_meets_zeros_after_the_end(build):
    memory = build(2 * PAGE, PAGE, PAGE)
    array = np.ndarray(2 * PAGE, "u1", buffer=memory)
    memory.close()
    assert array.sum() == 0
    array[:] = 1
    with pytest.raises(ValueError, match="closed"):
        memory[0]


def test_the_zeros_stay_to_the_very_end_of_the_program():
    """Functions of atexit run last in, first out: the first one last of all."""
    program = """if True:
        import atexit, ctypes, os
        atexit.register(lambda: print(ctypes.string_at(memory._address, 1)))
        from holdingpen.client.memory import LeaseMemory
        from holdingpen.client.pieces import Pieces
        fd = os.memfd_create("piece")
        os.write(fd, b"x")
        memory = LeaseMemory(Pieces([fd], [1], "exact"), 1)
        memory.close()
    """
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "b'\\x00'\n", "")


def test_an_array_keeps_the_pages_though_all_else_is_forgotten(build, pieces_open):
    array = build(2 * PAGE, PAGE, PAGE).asarray("u1")
    gc.collect()
    array[PAGE + 1] = 5
    assert (array[0], array[PAGE]) == (1, 2)
    assert pieces_open() > 0
    del array
    assert pieces_open() == 0


@pytest.mark.parametrize("way", ["close", "forget", "with"])
def test_nothing_is_left_of_it(build, pieces_open, way):
    maps = address_space()
    memory = build(3 * PAGE, PAGE, PAGE, PAGE)
    assert pieces_open() == 6
    if way == "close":
        memory.close()
    elif way == "with":
        with memory:
            pass
    assert way == "forget" or memory.fds == ()
    del memory
    assert pieces_open() == 0
    assert address_space() == maps


def address_space():
    gc.collect()
    return Path("/proc/self/maps").read_text().count("holdingpen-range")


# Pieces that cannot be.


@pytest.mark.parametrize(
    ("length", "sizes", "words"),
    [
        (PAGE + 1, [PAGE], f"passed {PAGE} bytes for a lease of {PAGE + 1}"),
        (0, [PAGE], "for a lease of 0"),
        (PAGE, [], "passed 0 bytes"),
        (2 * PAGE, [PAGE, 1, PAGE], "no multiple"),
        (PAGE, [PAGE, 0], "as one of 0"),
    ],
)
def test_pieces_that_make_no_such_memory_are_the_daemons_mistake(
    build, pieces_open, length, sizes, words
):
    with pytest.raises(RemoteMistake, match=words):
        build(length, *sizes)
    assert pieces_open() == 0


def test_a_file_shorter_than_announced_is_found_before_it_kills(piece):
    """Touching what a file does not have is SIGBUS."""
    pieces = Pieces([piece(PAGE)], [2 * PAGE], "exact")
    with pytest.raises(RemoteMistake, match=f"a file of {PAGE} bytes as one of"):
        LeaseMemory(pieces, 2 * PAGE)


def test_a_system_that_maps_no_more_is_unavailable_with_the_numbers(piece, pieces_open):
    size = 2**40
    pieces = Pieces([piece(size)], [size], "exact")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**39, limits[1]))
    try:
        with pytest.raises(Unavailable, match=r"1\.0 TiB .* cannot allocate memory"):
            LeaseMemory(pieces, size)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    del pieces
    assert pieces_open() == 0


def test_a_piece_that_cannot_be_mapped_is_unavailable_too(piece, tmp_path, pieces_open):
    """A pipe has no pages; nor has what the daemon opened for reading only."""
    path = tmp_path / "read-only"
    path.write_bytes(bytes(PAGE))
    fds = [piece(PAGE), os.open(path, os.O_RDONLY)]
    with pytest.raises(Unavailable, match=r"8\.0 KiB .* permission denied"):
        LeaseMemory(Pieces(fds, [PAGE, PAGE], "exact"), 2 * PAGE)
    assert pieces_open() == 0


# Other processes.


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_what_a_worker_writes_is_seen_here(memory, method):
    start = multiprocessing.get_context(method)
    worker = start.Process(target=operator.setitem, args=(memory, 3 * PAGE, 42))
    worker.start()
    worker.join()
    assert (worker.exitcode, memory[3 * PAGE]) == (0, 42)


def test_it_goes_through_a_pipe_of_multiprocessing(memory, pieces_open):
    here, there = multiprocessing.Pipe()
    before = pieces_open()
    try:
        here.send(memory)
        with there.recv() as other:
            other[PAGE] = 42
            assert (memory[PAGE], len(other)) == (42, len(memory))
            assert (other.handover, len(other.fds)) == ("exact", 3)
    finally:
        resource_sharer.stop(5)
        here.close()
        there.close()
    assert pieces_open() == before


def test_once_closed_it_cannot_be_sent(memory):
    memory.close()
    here, there = multiprocessing.Pipe()
    with here, there, pytest.raises(LocalMistake, match="closed and cannot be sent"):
        here.send(memory)


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_not_copied_by_accident(memory, way):
    with pytest.raises(LocalMistake, match="through multiprocessing"):
        way(memory)


def test_it_is_a_public_name():
    assert holdingpen.LeaseMemory is LeaseMemory


def test_populating_maps_every_page_and_survives_the_end(build, untouched):
    memory = build(4 * MIB, 4 * MIB)
    untouched(memory)
    status = Path("/proc/self/status").read_text()
    assert int(status.partition("RssShmem:")[2].split()[0]) >= 4096
    memory.close()
    untouched(memory)
