"""What is held comes as open files: in any order, twice, in parts, or not at all.

Each claim holds for the blocking driver, under trio and under asyncio, and none
leaves a descriptor behind.
"""

import asyncio
import fcntl
import mmap
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import trio

import holdingpen
from holdingpen.client import dialogue
from holdingpen.errors import LocalMistake, Refusal, RemoteMistake, Unavailable
from holdingpen.wire import messages as wire
from holdingpen.wire.session import encode

PAGE = mmap.PAGESIZE
MANY = 253 + 7


def blocking(asking, what):
    with asking as lease:
        return getattr(lease, what)(), lease


async def awaiting(asking, what):
    async with asking as lease:
        return await getattr(lease, what)(), lease


DRIVERS = {
    "blocking": blocking,
    "trio": lambda *words: trio.run(awaiting, *words),
    "asyncio": lambda *words: asyncio.run(awaiting(*words)),
}


@pytest.fixture(params=DRIVERS.values(), ids=DRIVERS)
def driver(request):
    return request.param


@pytest.fixture
def fetch(serve, driver, pieces_open):
    """`fetch(answer)`: what comes of memory() when Fetch is answered so."""

    def run(answer, what="memory", **words):
        daemon = serve(granting_and(answer))
        words = words or {"ram": 2 * PAGE, "memory": True}
        try:
            got, _ = driver(holdingpen.lease(socket=daemon.path, **words), what)
            assert got.closed
        finally:
            assert daemon.left.wait(5)
        return daemon

    yield run
    assert pieces_open() == 0


def granting_and(answer):
    """A daemon's answers: yes to Acquire and Release, and `answer(fetch)`."""

    def reply(request):
        match request:
            case wire.Acquire(id, amounts):
                return [wire.Granted(id, 17, amounts, "exact")]
            case wire.Release(id, lease):
                return [wire.Released(id, lease)]
            case wire.Fetch():
                return answer(request)
        return []

    return reply


@pytest.fixture
def two(parcel, piece):
    """`two(fetch)`: two pages in two pieces, the right answer."""

    def make(fetch, cuts=()):
        fetched = wire.Fetched(fetch.id, fetch.lease, fetch.resource, [PAGE, PAGE])
        return parcel(fetched, [piece(PAGE, b"a"), piece(PAGE, b"b")], cuts)

    return make


# In order and out of order.


def test_what_is_wished_is_fetched(fetch, two):
    daemon = fetch(lambda ask: [two(ask)])
    assert daemon.heard[1].wishes == {"ram": "descriptor"}
    assert daemon.heard[2] == wire.Fetch(2, 17, "ram", 0)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 20])
def test_files_come_with_the_first_byte_and_the_rest_may_come_later(fetch, two, cut):
    fetch(lambda ask: [two(ask, (cut, cut + 1))])


def test_other_news_may_stand_before_and_behind_it(fetch, two):
    before = encode(wire.Reclaim(17, True)) + encode(wire.Shrunk(0, 17, {"ram": PAGE}))
    fetch(lambda ask: [before, two(ask), wire.Reclaim(17, False)])


@pytest.mark.parametrize("answers", [1, 2, 3])
def test_an_answer_that_comes_again_is_dropped(fetch, two, monkeypatch, answers):
    """A request is sent again when the answer is late; then both are answered."""
    monkeypatch.setattr(dialogue, "RESEND_S", 0.01)
    asked = []

    def late(ask):
        asked.append(ask)
        return [two(ask) for _ in range(answers)] if len(asked) == 2 else []

    fetch(late)
    assert asked[:2] == [asked[0]] * 2


def test_many_files_come_in_several_answers(fetch, parcel, piece):
    def page(ask):
        count = min(wire.FILES_MAX, MANY - ask.first)
        more = ask.first + count < MANY
        handover = "exact" if ask.first else "best-effort"
        sizes = [PAGE] * count
        fetched = wire.Fetched(ask.id, 17, "ram", sizes, handover, more)
        return [parcel(fetched, [piece(PAGE) for _ in sizes])]

    daemon = fetch(page, ram=MANY * PAGE, memory=True)
    firsts = [ask.first for ask in daemon.heard if type(ask) is wire.Fetch]
    assert firsts == [0, wire.FILES_MAX]


# No, and worse.


def refused(ask):
    return [wire.Refused(ask.id, "not-now", "nothing to be found.")]


def test_a_refusal_is_raised(fetch):
    with pytest.raises(Refusal, match=r"nothing to be found\."):
        fetch(refused)


def test_a_refusal_of_the_rest_is_raised_and_the_first_part_closed(fetch, two):
    def part(ask):
        if ask.first:
            return refused(ask)
        some = two(ask)
        fetched = wire.Fetched(ask.id, 17, "ram", [PAGE, PAGE], "exact", True)
        return [some._replace(message=fetched)]

    with pytest.raises(Refusal):
        fetch(part, ram=4 * PAGE, memory=True)


@pytest.mark.parametrize("cut", [1, 4, 20])
def test_a_daemon_that_hangs_up_in_the_middle_is_unavailable(fetch, two, cut):
    def half(ask):
        whole = two(ask)
        return [whole._replace(message=encode(whole.message)[:cut]), None]

    with pytest.raises(RemoteMistake, match="into a frame"):
        fetch(half)


def test_a_daemon_that_hangs_up_is_unavailable(fetch):
    with pytest.raises(Unavailable, match="hung up"):
        fetch(lambda ask: [None])


@pytest.mark.parametrize("came", [0, 1, 3])
def test_more_or_fewer_files_than_announced_are_refused(fetch, parcel, piece, came):
    def wrong(ask):
        fetched = wire.Fetched(ask.id, 17, "ram", [PAGE, PAGE])
        fds = [piece(PAGE) for _ in range(came)]
        return [parcel(fetched, fds) if fds else fetched]

    with pytest.raises(Unavailable, match=f"{came} of the 2 files of lease 17"):
        fetch(wrong)


@pytest.mark.parametrize("room", [0, 1])
def test_a_program_that_may_open_no_more_files_is_told_so(fetch, two, room):
    """The kernel closes what does not fit."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def cramped(ask):
        answer = two(ask)
        # out of the way: their numbers get free once they are sent
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 500) for fd in answer.fds]
        free = [os.dup(0) for _ in range(room + 1 + len(high))]
        for fd in [*answer.fds, *free]:
            os.close(fd)
        numbers = sorted([*answer.fds, *free])
        answer = answer._replace(fds=high)
        resource.setrlimit(resource.RLIMIT_NOFILE, (numbers[room], limits[1]))
        return [answer]

    try:
        with pytest.raises(Unavailable, match=f"{room} of the 2 files.*ulimit -n"):
            fetch(cramped)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (lambda ask: wire.Fetched(ask.id, 17, "ram", []), "Fetched and no files"),
        (
            lambda ask: wire.Fetched(ask.id, 17, "ram", [], more=True),
            "Fetched and no files",
        ),
        (lambda ask: wire.Shrunk(ask.id, 17, {"ram": 1}), "Shrunk and no files"),
    ],
)
def test_another_answer_is_the_daemons_mistake(fetch, message, words):
    with pytest.raises(RemoteMistake, match=words):
        fetch(lambda ask: [message(ask)])


def test_pieces_too_small_are_the_daemons_mistake(fetch, two):
    with pytest.raises(RemoteMistake, match="for a lease of"):
        fetch(lambda ask: [two(ask)], ram=3 * PAGE, memory=True)


def test_a_silent_daemon_is_given_up(fetch, monkeypatch):
    monkeypatch.setattr(dialogue, "RESEND_S", 0.01)
    with pytest.raises(Unavailable, match="has not answered 5 times"):
        fetch(lambda ask: [])


def test_files_nobody_asked_for_are_closed(fetch, two):
    def unasked(ask):
        stray = ask.__class__(99, ask.lease, ask.resource)
        return [two(stray), two(stray), two(ask), two(stray)]

    fetch(unasked)


# Asking for it.


@pytest.mark.parametrize(
    ("words", "amounts", "wishes"),
    [
        ({}, {}, {}),
        ({"memory": True}, {}, {"ram": "descriptor"}),
        ({"ram": 1, "memory": True}, {"ram": 1}, {"ram": "descriptor"}),
        ({"ram": 1, "disk": "2K"}, {"ram": 1, "disk": 2048}, {}),
        ({"disk": "2K:x"}, {"disk.x": 2048}, {}),
        ({"disk": 5, "file": True}, {"disk": 5}, {"disk": "descriptor"}),
        ({"disk": "5:x", "file": True}, {"disk.x": 5}, {"disk.x": "descriptor"}),
        (
            {"resources": {"disk.y": "1K"}, "file": True},
            {"disk.y": 1024},
            {"disk.y": "descriptor"},
        ),
    ],
)
def test_a_request_says_what_is_to_come_as_files(granting, words, amounts, wishes):
    with holdingpen.lease(**words):
        assert (granting.heard[1].amounts, granting.heard[1].wishes) == (
            amounts,
            wishes,
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"cpu": 2, "memory": True}, "memory=True: say how much"),
        ({"exclusive": True, "file": True}, "file=True: say how much"),
        ({"file": True}, "this names 0"),
        ({"disk": "1G", "resources": {"disk.x": 1}, "file": True}, "this names 2"),
        ({"disk": "1G:"}, "name of a disk after the colon"),
        ({"disk": "1 apple"}, "not understood"),
        ({"disk": True}, "write a whole number"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_before_anything_is_asked(words, said):
    with pytest.raises(LocalMistake, match=said):
        holdingpen.lease(**words)


@pytest.mark.parametrize(
    ("what", "words"), [("memory", {"ram": 1}), ("file", {"disk": "1G"})]
)
def test_what_was_not_wished_is_freed_and_cannot_be_fetched(
    granting, driver, what, words
):
    with pytest.raises(LocalMistake, match=f"asked for without {what}=True"):
        driver(holdingpen.lease(**words), what)


def test_trying_may_wish_too(granting):
    with holdingpen.try_lease(ram=PAGE, memory=True) as lease:
        assert len(lease.memory()) == PAGE


def test_a_lease_knows_how_sure_it_is_and_where_it_may_write(serve):
    granted = wire.Granted(
        1, 17, {"disk": 5}, "bounded", 64, "no root.", {"disk": "/scratch/17"}
    )
    sure = serve(lambda ask: [granted][: type(ask) is wire.Acquire])
    with holdingpen.lease(disk=5, socket=sure.path) as lease:
        assert (lease.handover, lease.bound) == ("bounded", 64)
        assert lease.handover_why == "no root."
        assert str(lease.scratch) == "/scratch/17"
        lease.close()


def test_a_lease_without_a_directory_has_none(granting):
    with holdingpen.lease(ram=1) as lease:
        assert (lease.scratch, lease.bound, lease.handover_why) == (None, 0, "")


# While it is held.


def test_it_is_the_same_until_it_is_closed(granting, pieces_open):
    with holdingpen.lease(ram=PAGE, memory=True) as lease:
        memory = lease.memory()
        assert lease.memory() is memory
        memory.close()
        again = lease.memory()
        assert (again is memory, again.closed) == (False, False)
    assert again.closed
    assert sum(type(ask) is wire.Fetch for ask in granting.heard) == 2
    assert pieces_open() == 0


def test_threads_and_tasks_get_the_same(granting, pieces_open):
    with (
        ThreadPoolExecutor() as pool,
        holdingpen.lease(ram=PAGE, memory=True) as lease,
    ):
        gets = [pool.submit(lease.memory) for _ in range(20)]
        assert len({id(get.result(5)) for get in gets}) == 1

    async def main():
        async with holdingpen.lease(ram=PAGE, memory=True) as lease:
            got = await asyncio.gather(*(lease.memory() for _ in range(20)))
            assert len(set(map(id, got))) == 1

    asyncio.run(main())
    del gets
    assert pieces_open() == 0


def test_it_can_be_read_after_the_release(granting):
    with holdingpen.lease(ram=PAGE, memory=True) as lease:
        memory = lease.memory()
        memory[0] = 7
        lease.release()
        assert memory[0] == 7
    assert memory.closed


@pytest.mark.parametrize("failed", [False, True])
def test_leaving_the_block_while_an_array_exists_warns_and_gives_the_rest_back(
    granting, pieces_open, failed
):
    def leave():
        with holdingpen.lease(ram=PAGE, disk=1, memory=True, file=True) as lease:
            files.append(lease.file())
            arrays.append(lease.memory().asarray("u1"))
            if failed:
                raise KeyError

    arrays, files = [], []
    said = "lease 17 is over while its ram is still in use"
    with pytest.warns(ResourceWarning, match=said) as warned, suppress(KeyError):
        leave()
    assert warned[0].filename == __file__
    assert granting.left.wait(5)
    assert type(granting.heard[-1]) is wire.Release
    arrays[0][0] = 1
    assert files[0].closed
    arrays.clear()
    assert pieces_open() == 0


def test_after_the_end_it_cannot_be_fetched(granting):
    with holdingpen.lease(ram=1, memory=True) as lease:
        granting.say(wire.Ended(17, "ordered"))
        assert lease.wait_reclaim()
        with pytest.raises(Refusal, match="lease 17 is over"):
            lease.memory()


def test_a_child_has_what_its_parent_fetched_and_fetches_nothing(granting):
    with holdingpen.lease(ram=PAGE, memory=True) as lease:
        memory = lease.memory()
        child = os.fork()
        if child == 0:
            try:
                lease.memory()
            except LocalMistake:
                memory[0] = 42
            os._exit(0)
        os.waitpid(child, 0)
        assert memory[0] == 42


# Files.


def test_a_file_has_its_room_and_is_written_and_read(granting, pieces_open):
    with holdingpen.lease(disk="1G", file=True) as lease:
        file = lease.file()
        assert lease.file() is file
        assert (file.write(b"hello"), file.seek(1), file.read(4)) == (5, 1, b"ello")
        assert file.size >= 2**30
        assert not os.get_inheritable(file.fileno())
    assert file.closed
    assert pieces_open() == 0


@pytest.mark.parametrize(("sizes", "disk"), [([1, 1], 1), ([5], 6)])
def test_a_file_in_parts_or_too_small_is_the_daemons_mistake(
    fetch, parcel, piece, sizes, disk
):
    def wrong(ask):
        fetched = wire.Fetched(ask.id, 17, "disk", sizes)
        return [parcel(fetched, [piece(size) for size in sizes])]

    with pytest.raises(RemoteMistake, match="it should be one with"):
        fetch(wrong, "file", disk=disk, file=True)


def test_descriptors_that_come_are_closed_on_exec(granting):
    with holdingpen.lease(ram=PAGE, memory=True) as lease:
        assert not any(map(os.get_inheritable, lease.memory().fds))
