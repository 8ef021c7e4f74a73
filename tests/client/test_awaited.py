"""The asynchronous driver, under trio and under asyncio, cancelled everywhere."""

import asyncio
import socket
import types

import pytest
import trio

import holdingpen
from holdingpen.client import awaited, dialogue
from holdingpen.errors import LocalMistake, Refusal, Unavailable
from holdingpen.wire import messages as wire

GIB = 2**30


class Trio:
    """What the tests need of trio."""

    sleep = staticmethod(trio.sleep)

    def run(self, main, *args):
        return trio.run(main, *args)

    async def together(self, *mains):
        async with trio.open_nursery() as nursery:
            for main in mains:
                nursery.start_soon(main)

    def run_cancelling(self, main, nth):
        """Run `main`, cancelled when it waits for the nth time; whether it was."""

        async def cancelled():
            with trio.CancelScope() as scope:
                await counted(main(), nth, scope.cancel)
            return scope.cancelled_caught

        return trio.run(cancelled)

    async def give_up(self, coro, nth):
        """Await `coro`, cancelled when it waits for the nth time."""
        with trio.CancelScope() as scope:
            await counted(coro, nth, scope.cancel)
        assert scope.cancelled_caught


class Asyncio:
    """What the tests need of asyncio."""

    sleep = staticmethod(asyncio.sleep)

    def run(self, main, *args):
        return asyncio.run(main(*args))

    async def together(self, *mains):
        await asyncio.gather(*(main() for main in mains))

    def run_cancelling(self, main, nth):
        """Run `main`, cancelled when it waits for the nth time; whether it was."""

        async def cancelled():
            task = asyncio.current_task()
            await counted(main(), nth, task.cancel)

        try:
            asyncio.run(cancelled())
        except asyncio.CancelledError:
            return True
        return False

    async def give_up(self, coro, nth):
        """Await `coro`, cancelled when it waits for the nth time."""
        task = asyncio.current_task()
        with pytest.raises(asyncio.CancelledError):
            await counted(coro, nth, task.cancel)
        task.uncancel()


@types.coroutine
def counted(coro, nth, strike):
    """Run `coro`, and call `strike` just before it waits for the nth time."""
    step, argument, waits = coro.send, None, 0
    while True:
        try:
            trap = step(argument)
        except StopIteration as done:
            return done.value
        waits += 1
        if waits == nth:
            strike()
        try:
            step, argument = coro.send, (yield trap)
        except BaseException as error:
            step, argument = coro.throw, error


@pytest.fixture(params=[Trio, Asyncio])
def loop(request):
    return request.param()


def test_a_block_holds_what_was_granted_and_gives_it_back(loop, granting):
    async def main():
        async with holdingpen.lease(ram="8G") as lease:
            assert (lease.id, lease.amounts) == (17, {"ram": 8 * GIB})
            assert (lease.ended, lease.granted > 1.6e9) == (None, True)
        assert (lease.ended, lease.fileno()) == ("released", -1)

    loop.run(main)
    kinds = [type(request) for request in granting.heard]
    assert kinds == [wire.Hello, wire.Acquire, wire.Release]


def test_news_a_part_given_back_and_being_asked_back(loop, granting):
    async def main():
        news = []
        asking = holdingpen.lease(ram="8G", reclaimable=True, on_waiting=news.append)
        async with asking as lease:
            assert [one.place for one in news] == [1]
            await lease.shrink(ram="2G")
            assert lease.amounts == {"ram": 6 * GIB}
            assert not await lease.wait_reclaim(timeout=0.001)
            assert not lease.reclaim_requested
            granting.say(wire.Reclaim(17, True))
            assert await lease.wait_reclaim()
            assert lease.reclaim_requested
            assert await lease.wait_reclaim()

    loop.run(main)


def test_one_task_waits_while_another_gives_a_part_back(loop, granting):
    """Either may read what is meant for the other."""

    async def main():
        async with holdingpen.lease(ram="8G") as lease:

            async def wait():
                assert await lease.wait_reclaim()

            async def shrink():
                for part in range(1, 20):
                    await lease.shrink(ram=part)
                    assert lease.amounts == {"ram": 8 * GIB - part}
                granting.say(wire.Reclaim(17, True))

            await loop.together(wait, wait, shrink, wait)

    loop.run(main)


@pytest.mark.parametrize("way", ["release", "close"])
def test_a_release_ends_the_waits_of_other_tasks(loop, granting, way):
    async def main():
        async with holdingpen.lease() as lease:

            async def wait():
                assert await lease.wait_reclaim()

            async def give_back():
                await loop.sleep(0)
                if way == "release":
                    await lease.release()
                else:
                    lease.close()

            await loop.together(wait, wait, give_back)
            assert lease.fileno() == -1

    loop.run(main)


def test_an_exception_gives_it_back_and_passes(loop, granting):
    async def main():
        async with holdingpen.lease():
            raise KeyError

    with pytest.raises(KeyError):
        loop.run(main)
    assert granting.left.wait(5)
    assert type(granting.heard[-1]) is wire.Release


def test_a_refusal_has_the_daemons_words(loop, serve):
    refused = wire.Refused(1, "not-now", "no.")
    no = serve(lambda ask: [refused] if type(ask) is wire.Acquire else [])

    async def main():
        async with holdingpen.lease(ram=1, wait=0, socket=no.path):
            pass

    with pytest.raises(Refusal, match=r"no\."):
        loop.run(main)


def test_without_a_daemon_it_is_unavailable(loop, tmp_path):
    async def main():
        async with holdingpen.lease(socket=str(tmp_path / "none")):
            pass

    with pytest.raises(Unavailable, match="no daemon listens"):
        loop.run(main)


def test_a_silent_daemon_is_asked_again_and_given_up(loop, serve, monkeypatch):
    monkeypatch.setattr(dialogue, "RESEND_S", 0.01)
    silent = serve()

    async def main():
        async with holdingpen.lease(ram=1, socket=silent.path):
            pass

    with pytest.raises(Unavailable, match="has not answered 5 times"):
        loop.run(main)
    assert silent.left.wait(5)
    assert silent.heard[1:] == [silent.heard[1]] * dialogue.SENDS_MAX


def test_a_daemon_with_too_many_at_its_door_is_knocked_at_again(
    loop, tmp_path, monkeypatch
):
    """A connect that may not wait says EAGAIN then, and there is nothing to wait on."""
    path = str(tmp_path / "busy")
    knocks = []

    async def sleep(self, seconds):
        knocks.append(seconds)
        if len(knocks) == 3:
            raise KeyError

    async def main():
        monkeypatch.setattr(type(awaited_loop()), "sleep", sleep)
        async with holdingpen.lease(socket=path):
            pass

    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as one:
        busy.bind(path)
        busy.listen(0)
        one.connect(path)
        with pytest.raises(KeyError):
            loop.run(main)
    assert knocks == [awaited._KNOCK_AGAIN_S] * 3


def awaited_loop():
    from holdingpen.client.asking import _running_loop

    return _running_loop()


def test_the_block_may_not_be_entered_twice_at_once(loop, granting):
    async def main():
        asking = holdingpen.lease(ram=1)
        async with asking:
            with pytest.raises(LocalMistake, match="is held already"):
                await asking.__aenter__()
        async with asking as lease:
            assert lease.id == 17

    loop.run(main)


def test_without_a_loop_it_says_what_is_missing():
    with pytest.raises(LocalMistake, match="needs trio or asyncio"):
        holdingpen.lease().__aenter__().send(None)


def test_a_cancellation_at_any_wait_leaves_no_connection_behind(
    loop, granting, pieces_open
):
    """This daemon serves one after the other: the next is served once it is over."""

    async def main():
        asking = holdingpen.lease(
            ram="8G", disk="1G", memory=True, file=True, reclaimable=True
        )
        async with asking as lease:
            memory = await lease.memory()
            memory[0] = 1
            assert await lease.memory() is memory
            await lease.file()
            await lease.shrink(ram="2G")
            granting.say(wire.Reclaim(17, True))
            assert await lease.wait_reclaim()

    assert not loop.run_cancelling(main, 0)
    nth = 1
    while loop.run_cancelling(main, nth):
        holdingpen.status()
        assert pieces_open() == 0
        nth += 1
    assert 10 < nth < 50


def test_files_that_come_after_a_cancellation_are_closed(
    loop, serve, parcel, piece, pieces_open
):
    """The lease goes on, and may fetch again."""
    fetches = []

    def grant(ask):
        match ask:
            case wire.Acquire(id, amounts):
                return [wire.Granted(id, 17, amounts)]
            case wire.Release(id):
                return [wire.Released(id, 17)]
            case wire.Shrink(id):
                return [wire.Shrunk(id, 17, {"ram": 1})]
            case wire.Fetch():
                fetches.append(ask)
        return [
            parcel(wire.Fetched(fetch.id, 17, "ram", [4096]), [piece(4096, b"x")])
            for fetch in fetches
            if len(fetches) == 2
        ]

    daemon = serve(grant)

    async def main():
        async with holdingpen.lease(ram=4096, memory=True, socket=daemon.path) as lease:
            await loop.give_up(lease.memory(), 2)
            memory = await lease.memory()
            assert memory[0] == ord("x")
            memory.close()
            # the daemon has closed its own when it answers this
            await lease.shrink(ram=1)
            assert pieces_open() == 0

    loop.run(main)
    assert [fetch.id for fetch in fetches] == [2, 3]


def test_a_cancellation_while_waiting_in_the_line_leaves_it(loop, serve):
    waiting = wire.Waiting(1, 17, 1, "waits for 8.0 GiB ram")
    daemon = serve(lambda ask: [waiting] if type(ask) is wire.Acquire else [])

    async def main():
        async with holdingpen.lease(ram="8G", socket=daemon.path):
            raise AssertionError

    for nth in (1, 2, 3):
        daemon.left.clear()
        assert loop.run_cancelling(main, nth)
        assert nth < 2 or daemon.left.wait(5)


def test_a_cancelled_release_gives_it_back_all_the_same(loop, serve):
    """A daemon that does not answer cannot hold up who was cancelled."""
    granted = wire.Granted(1, 17, {})
    daemon = serve(lambda ask: [granted] if type(ask) is wire.Acquire else [])

    async def main():
        async with holdingpen.lease(socket=daemon.path):
            pass

    nth = 1
    while wire.Release not in map(type, daemon.heard):
        daemon.left.clear()
        assert loop.run_cancelling(main, nth)
        assert nth == 1 or daemon.left.wait(5)
        nth += 1
    assert nth > 2
