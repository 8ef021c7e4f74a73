"""The blocking driver: in and out, threads, and whatever interrupts it."""

import os
import select
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import holdingpen
from holdingpen.client import dialogue, held
from holdingpen.client import lease as lease_module
from holdingpen.errors import LocalMistake, Refusal, RemoteMistake, Unavailable
from holdingpen.wire import messages as wire

GIB = 2**30
CLIENT = str(Path(held.__file__).parent)


@pytest.fixture
def pool():
    with ThreadPoolExecutor() as pool:
        yield pool


# In and out.


def test_a_block_holds_what_was_granted_and_gives_it_back(granting):
    with holdingpen.lease(ram="8G") as lease:
        assert (lease.id, lease.amounts) == (17, {"ram": 8 * GIB})
        assert (lease.handover, lease.ended) == ("best-effort", None)
        assert lease.granted > 1.6e9
    assert (lease.ended, lease.fileno()) == ("released", -1)
    kinds = [type(request) for request in granting.heard]
    assert kinds == [wire.Hello, wire.Acquire, wire.Release]
    assert granting.left.wait(5)


def test_everything_said_reaches_the_daemon(granting):
    asking = holdingpen.lease(
        ram="8G", cpu=2, exclusive=True, resources={"licence": "3"}, priority=5,
        time="1h30m", wait=90, reclaimable=True, label="whisper", reason="paper",
    )  # fmt: skip
    with asking:
        ask = granting.heard[1]
    assert ask.amounts == {"ram": 8 * GIB, "cpu": 2, "licence": 3, "machine": 1}
    assert (ask.priority, ask.length_s, ask.wait_s) == (5, 5400.0, 90.0)
    assert (ask.reclaimable, ask.label, ask.reason) == (True, "whisper", "paper")
    assert Path(sys.orig_argv[0]).name in ask.command


def test_without_amounts_the_configured_share_is_asked_for(granting):
    with holdingpen.lease():
        assert granting.heard[1].amounts == {}


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [(None, None), (0, 0.0), (False, 0.0), (2.5, 2.5), ("2m", 120.0)],
)
def test_a_wait_is_seconds_or_a_word(granting, wait, seconds):
    with holdingpen.lease(wait=wait):
        assert granting.heard[1].wait_s == seconds


@pytest.mark.parametrize(
    "words",
    [
        {"ram": "8 apples"}, {"ram": 8.5}, {"cpu": True}, {"time": "90"}, {"time": 0},
        {"time": -1}, {"wait": True}, {"wait": -1}, {"wait": float("nan")},
        {"wait": "soon"}, {"resources": {"ram": "x"}},
    ],
)  # fmt: skip
def test_a_word_that_is_none_is_said_to_be_so_before_anything_is_asked(words):
    with pytest.raises(holdingpen.BadWord):
        holdingpen.lease(**words)


def test_news_from_the_line_are_passed_on(granting):
    news = []
    with holdingpen.lease(ram=1, on_waiting=news.append):
        assert news == [wire.Waiting(1, 17, 1, "is about to start")]


def test_a_block_may_be_entered_again_but_not_while_it_is_held(granting):
    asking = holdingpen.lease(ram=1)
    with asking:
        with pytest.raises(LocalMistake, match="is held already"), asking:
            pass
        assert granting.heard[-1] == granting.heard[1]
    with asking as lease:
        assert lease.id == 17


def test_releasing_twice_or_inside_the_block_is_nothing_special(granting):
    with holdingpen.lease(ram=1) as lease:
        lease.release()
        lease.release()
    assert granting.heard.count(wire.Release(2, 17)) == 1


def test_an_exception_gives_it_back_and_passes(granting):
    with pytest.raises(KeyError), holdingpen.lease(ram=1):
        raise KeyError
    assert granting.left.wait(5)
    assert type(granting.heard[-1]) is wire.Release


def refusing(code):
    """A daemon's answer to every Acquire."""
    return lambda ask: (
        [wire.Refused(1, code, "too much.")] if type(ask) is wire.Acquire else []
    )


def test_a_refusal_has_the_daemons_words_and_code(serve):
    no = serve(refusing("never-fits"))
    with pytest.raises(Refusal, match=r"too much\.") as caught:
        holdingpen.lease(ram=1, socket=no.path).__enter__()
    assert caught.value.code == "never-fits"
    assert no.left.wait(5)


def test_trying_gives_a_lease_or_none(granting, serve):
    lease = holdingpen.try_lease(ram="8G")
    assert granting.heard[1].wait_s == 0.0
    with lease:
        assert lease.amounts == {"ram": 8 * GIB}
    full = serve(refusing("not-now"))
    assert holdingpen.try_lease(ram=1, socket=full.path) is None


def test_trying_what_can_never_be_is_refused(serve):
    no = serve(refusing("never-fits"))
    with pytest.raises(Refusal):
        holdingpen.try_lease(ram=1, socket=no.path)


def test_without_a_daemon_it_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match="no daemon listens"):
        holdingpen.lease(socket=str(tmp_path / "none")).__enter__()


def test_a_daemon_that_hangs_up_is_unavailable(serve):
    rude = serve(lambda ask: [None] if type(ask) is wire.Acquire else [])
    with pytest.raises(Unavailable, match="hung up"):
        holdingpen.lease(socket=rude.path).__enter__()


def test_its_last_words_are_heard_though_it_is_gone_before_we_speak(monkeypatch):
    here, there = socket.socketpair()
    there.sendall(held.encode(wire.Failed("limit", "too many connections.")))
    there.close()
    monkeypatch.setattr(lease_module, "dial", lambda path: (here, "/x"))
    with pytest.raises(RemoteMistake, match="too many connections"):
        holdingpen.lease().__enter__()
    assert here.fileno() == -1


def test_a_silent_daemon_is_asked_again_and_given_up(serve, monkeypatch):
    monkeypatch.setattr(dialogue, "RESEND_S", 0.01)
    silent = serve(lambda ask: [None][: not ask])
    with pytest.raises(Unavailable, match="has not answered 5 times"):
        holdingpen.lease(ram=1, socket=silent.path).__enter__()
    assert silent.left.wait(5)
    assert silent.heard[1:] == [silent.heard[1]] * dialogue.SENDS_MAX


def test_a_lease_is_given_back_though_the_daemon_answers_no_more(serve, monkeypatch):
    monkeypatch.setattr(dialogue, "RESEND_S", 0.01)
    grant = lambda ask: [wire.Granted(1, 17, {})][: type(ask) is wire.Acquire]  # noqa: E731
    silent = serve(grant)
    with holdingpen.lease(socket=silent.path):
        pass
    assert silent.left.wait(5)


# While it is held.


def test_a_part_is_given_back(granting):
    with holdingpen.lease(ram="8G") as lease:
        lease.shrink(ram="2G")
        assert lease.amounts == {"ram": 6 * GIB}
    assert granting.heard[2] == wire.Shrink(2, 17, {"ram": 2 * GIB})


def test_it_is_seen_to_be_asked_back(granting):
    with holdingpen.lease(reclaimable=True) as lease:
        assert not lease.reclaim_requested
        assert not lease.wait_reclaim(timeout=0.001)
        granting.say(wire.Reclaim(17, True))
        assert lease.wait_reclaim()
        assert lease.reclaim_requested
        granting.say(wire.Reclaim(17, False))
        select.select([lease], [], [], 5)
        assert not lease.reclaim_requested


def test_waiting_to_be_asked_back_ends_with_the_lease(granting):
    with holdingpen.lease() as lease:
        granting.say(wire.Ended(17, "ordered"))
        assert lease.wait_reclaim()
        assert lease.ended == "ordered"
        with pytest.raises(Refusal, match="lease 17 is over"):
            lease.shrink(ram=1)


def test_status_is_typed(granting):
    status = holdingpen.status()
    assert isinstance(status, holdingpen.Status)
    assert status.resources["ram"].capacity == 16 * GIB
    assert status.leases[0].state == "live"


def test_the_descriptor_is_not_inherited(granting):
    with holdingpen.lease() as lease:
        assert not os.get_inheritable(lease.fileno())


def test_a_lease_says_what_it_is(granting):
    with holdingpen.lease(ram=1) as lease:
        assert repr(lease) == "<Lease 17 {'ram': 1} live>"
    assert repr(lease) == "<Lease 17 {'ram': 1} released>"


# Threads.


def test_one_thread_waits_while_another_gives_a_part_back(granting, pool):
    """Either may read what is meant for the other."""
    with holdingpen.lease(ram="8G") as lease:
        waits = [pool.submit(lease.wait_reclaim) for _ in range(2)]
        for part in range(1, 20):
            lease.shrink(ram=part)
            assert lease.amounts == {"ram": 8 * GIB - part}
        granting.say(wire.Reclaim(17, True))
        assert [wait.result(5) for wait in waits] == [True, True]


def test_a_release_ends_the_waits_of_other_threads(granting, pool):
    with holdingpen.lease() as lease:
        wait = pool.submit(lease.wait_reclaim)
    assert wait.result(5)


def test_leaving_by_an_exception_ends_them_too(granting, pool):
    waits = []

    def interrupted():
        with holdingpen.lease() as lease:
            waits.append(pool.submit(lease.wait_reclaim))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    (wait,) = waits
    assert wait.result(5)


def test_many_threads_give_parts_back_at_once(granting, pool):
    with holdingpen.lease(ram="8G") as lease:
        parts = [pool.submit(lease.shrink, ram=1) for _ in range(50)]
        for part in parts:
            part.result(5)
    numbers = [ask.id for ask in granting.heard if type(ask) is wire.Shrink]
    assert sorted(numbers) == list(range(2, 52))


# Interruptions.


class Interrupted:
    """Raises KeyboardInterrupt at the `nth` line of the client that is run."""

    def __init__(self, nth):
        self.before = sys.gettrace()
        self.nth = nth
        self.seen = 0

    def __call__(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(CLIENT) or _deleting(frame):
            return None
        return self.line

    def line(self, frame, event, arg):
        if event == "line" and frame.f_code.co_name != "__exit__":
            self.seen += 1
            if self.seen == self.nth:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.line

    def __enter__(self):
        sys.settrace(self)

    def __exit__(self, *why):
        # coverage counts lines in the same way
        sys.settrace(self.before)


def _deleting(frame):
    while frame is not None and frame.f_code.co_filename.startswith(CLIENT):
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def hold():
    asking = holdingpen.lease(
        ram="8G", disk="1G", memory=True, file=True, on_waiting=str
    )
    with asking as lease:
        lease.memory()
        lease.file()
        lease.shrink(ram="2G")
        lease.wait_reclaim(timeout=0)


def test_files_that_come_after_ctrl_c_are_closed(
    serve, parcel, piece, pieces_open, monkeypatch
):
    """The lease goes on, and may fetch again."""
    fetches = []

    def grant(ask):
        if type(ask) is wire.Acquire:
            return [wire.Granted(1, 17, ask.amounts)]
        if type(ask) is wire.Shrink:
            return [wire.Shrunk(ask.id, 17, {"ram": 1})]
        if type(ask) is wire.Fetch:
            fetches.append(ask.id)
        return [
            parcel(wire.Fetched(number, 17, "ram", [4096]), [piece(4096, b"x")])
            for number in fetches
            if len(fetches) == 2
        ]

    def interrupted(self, longest_s):
        monkeypatch.undo()
        raise KeyboardInterrupt

    daemon = serve(grant)
    with holdingpen.lease(ram=4096, memory=True, socket=daemon.path) as lease:
        monkeypatch.setattr(lease_module.Lease, "_poll", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lease.memory()
        memory = lease.memory()
        assert (memory[0], fetches) == (ord("x"), [2, 3])
        memory.close()
        # the daemon has closed its own when it answers this
        lease.shrink(ram=1)
        assert pieces_open() == 0
        lease.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_ctrl_c_at_any_line_leaves_no_connection_behind(granting, pieces_open):
    """Lines are where Python looks for signals.

    Not those of `__exit__`: when Ctrl-C comes just before it, Python runs none of it.
    Nor those of `__del__`: it lets no exception out.
    This daemon serves one client after the other, so whoever comes next is served
    only when the interrupted one has let go; its frames are still alive then.
    """
    for nth in range(1, 2000):
        interrupted = Interrupted(nth)
        try:
            with interrupted:
                hold()
        except KeyboardInterrupt:
            holdingpen.status()
        else:
            break
        assert pieces_open() == 0
    assert 100 < interrupted.seen < nth
