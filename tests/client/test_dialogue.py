"""One lease's conversation, played without a socket and without a clock."""

import weakref
from math import inf

import pytest

from holdingpen.client.dialogue import RESEND_S, SENDS_MAX, Dialogue
from holdingpen.errors import Refusal, RemoteMistake, Unavailable
from holdingpen.wire import messages as wire
from holdingpen.wire.session import ServerSession, encode

GIB = 2**30
ASK = wire.Acquire(1, {"ram": 8 * GIB})
GRANTED = wire.Granted(1, 17, {"ram": 8 * GIB}, "best-effort")
WAITING = wire.Waiting(1, 17, 2, "waits for 8.0 GiB ram", [16])


class Play:
    """A dialogue and the daemon's session, joined."""

    def __init__(self):
        self.client = Dialogue(ASK, "test")
        self.daemon = ServerSession()

    def heard(self, data):
        """What the daemon makes of these bytes."""
        return self.daemon.receive(data)

    def say(self, *replies):
        self.client.receive(b"".join(map(encode, replies)))


@pytest.fixture
def asking():
    play = Play()
    opening = play.client.opening("/run/x", 0.0)
    assert play.heard(opening) == [wire.Hello(wire.VERSION, "test"), ASK]
    play.say(wire.Welcome(wire.VERSION, "0.1.0"))
    return play


@pytest.fixture
def live(asking):
    asking.say(GRANTED)
    assert asking.client.answer(1) == GRANTED
    return asking


# The way in.


def test_a_grant_says_what_is_ours(asking):
    assert asking.client.answer(1) is None
    asking.say(GRANTED)
    client = asking.client
    assert client.answer(1) == GRANTED
    assert (client.state, client.lease, client.ended) == ("live", 17, None)
    assert (client.amounts, client.handover) == ({"ram": 8 * GIB}, "best-effort")
    assert client.due_s == inf


def test_an_answer_is_given_once(live):
    assert live.client.answer(1) is None


def test_bytes_may_come_one_by_one(asking):
    for byte in encode(WAITING) + encode(GRANTED):
        asking.client.receive(bytes([byte]))
    assert asking.client.state == "live"


def test_news_from_the_line_are_kept_in_order(asking):
    nearer = wire.Waiting(1, 17, 1, "is about to start")
    asking.say(WAITING, nearer)
    assert (asking.client.state, asking.client.lease) == ("waiting", 17)
    assert asking.client.news == [WAITING, nearer]


@pytest.mark.parametrize("before", [[], [WAITING]])
def test_a_no_is_raised_and_ends_it(asking, before):
    asking.say(*before, wire.Refused(1, "not-now", "no."))
    with pytest.raises(Refusal, match=r"no\.") as caught:
        asking.client.answer(1)
    assert (caught.value.code, asking.client.ended) == ("not-now", "refused")


def test_an_end_in_the_line_is_raised(asking):
    asking.say(WAITING, wire.Ended(17, "ordered"))
    with pytest.raises(Refusal, match="lease 17 is over: its owner or an") as caught:
        asking.client.answer(1)
    assert caught.value.code == "ended"


def test_a_failure_of_the_request_is_raised(asking):
    asking.say(wire.Failed("out-of-turn", "no.", 1))
    with pytest.raises(RemoteMistake, match=r"no\."):
        asking.client.answer(1)


# Sent again.


def test_a_request_without_an_answer_is_sent_again_with_its_number(asking):
    assert asking.client.due_s == RESEND_S
    assert asking.client.overdue(RESEND_S - 0.1) == b""
    assert asking.heard(asking.client.overdue(RESEND_S)) == [ASK]
    assert asking.client.due_s == 2 * RESEND_S


def test_a_daemon_that_never_answers_is_given_up(asking):
    sent = [asking.client.overdue(n * RESEND_S) for n in range(1, SENDS_MAX + 1)]
    assert [bool(data) for data in sent] == [True] * (SENDS_MAX - 1) + [False]
    with pytest.raises(Unavailable, match=r"/run/x has not answered 5 times in 30 s"):
        asking.client.answer(1)


def test_who_stands_in_the_line_asks_no_more(asking):
    asking.say(WAITING)
    assert asking.client.due_s == inf


def test_what_is_answered_twice_counts_once(live):
    live.say(GRANTED, WAITING, wire.Refused(1, "stale-request", "over."))
    assert (live.client.state, live.client.news) == ("live", [])


# What is said of a lease.


def test_a_part_given_back_leaves_the_rest(live):
    number, data = live.client.shrink({"ram": 2 * GIB}, 0.0)
    assert live.heard(data) == [wire.Shrink(2, 17, {"ram": 2 * GIB})]
    live.say(wire.Shrunk(2, 17, {"ram": 6 * GIB}))
    assert live.client.answer(number) == wire.Shrunk(2, 17, {"ram": 6 * GIB})
    assert live.client.amounts == {"ram": 6 * GIB}


def test_what_somebody_else_takes_off_it_is_known(live):
    live.say(wire.Shrunk(0, 17, {"ram": GIB}))
    assert live.client.amounts == {"ram": GIB}


def test_a_part_that_may_not_be_given_back_is_refused_and_nothing_ends(live):
    number, _ = live.client.shrink({"ram": 9 * GIB}, 0.0)
    live.say(wire.Refused(number, "bad-amount", "no."))
    with pytest.raises(Refusal, match=r"no\."):
        live.client.answer(number)
    assert (live.client.state, live.client.amounts) == ("live", {"ram": 8 * GIB})


def test_it_is_asked_back_and_the_request_withdrawn(live):
    live.say(wire.Reclaim(17, True))
    assert live.client.asked_back
    live.say(wire.Reclaim(17, False))
    assert not live.client.asked_back


def test_a_release_is_answered(live):
    _, data = live.client.release(0.0)
    assert live.heard(data) == [wire.Release(2, 17)]
    live.say(wire.Released(2, 17))
    assert (live.client.state, live.client.ended) == ("over", "released")


def test_a_release_by_who_shares_it_is_an_end_too(live):
    live.say(wire.Released(2**62, 17))
    assert live.client.ended == "released"


def test_other_answers_are_for_others(live):
    """A copy of the connection in another process may ask what it likes."""
    live.say(wire.Done(9), wire.Happened(1.0, "granted"), wire.Refused(9, "x", "y"))
    assert live.client.state == "live"


# Files.


class Some:
    """What stands for open files here."""

    def __init__(self, count):
        self.fds = [*range(count)]


@pytest.fixture
def fetching(live):
    """One who asked for ram, under number 2."""
    assert live.heard(live.client.fetch("ram", 0, 0.0)[1]) == [wire.Fetch(2, 17, "ram")]
    return live


def fetched(number, count):
    return encode(wire.Fetched(number, 17, "ram", [GIB] * count))


def test_files_are_given_with_their_message(fetching):
    files = Some(2)
    fetching.client.receive(fetched(2, 2), files)
    message, given = fetching.client.answer(2)
    assert (message.sizes, given) == ([GIB, GIB], files)


def test_files_come_before_the_rest_of_their_message(fetching):
    files, data = Some(1), fetched(2, 1)
    fetching.client.receive(data[:1], files)
    assert fetching.client.answer(2) is None
    fetching.client.receive(data[1:])
    assert fetching.client.answer(2).files is files


def test_each_message_has_its_own_files(fetching):
    client = fetching.client
    number, _ = client.fetch("disk", 0, 0.0)
    late, first, second = Some(1), Some(1), Some(2)
    client.receive(fetched(99, 1)[:5], late)
    client.receive(fetched(99, 1)[5:] + fetched(2, 1), first)
    client.receive(fetched(number, 2), second)
    assert (client.answer(2).files, client.answer(number).files) == (first, second)


@pytest.mark.parametrize("came", [Some(0), Some(1), Some(3), None])
def test_files_that_are_lacking_are_said_to_be(fetching, came):
    fetching.client.receive(fetched(2, 2), came)
    with pytest.raises(Unavailable, match="of the 2 files of lease 17 arrived"):
        fetching.client.answer(2)


def test_an_answer_nobody_waits_for_any_more_is_dropped_with_its_files(fetching):
    files = Some(1)
    gone = weakref.ref(files)
    fetching.client.forget(2)
    fetching.client.receive(fetched(2, 1), files)
    del files
    assert (gone(), fetching.client.answer(2)) == (None, None)


@pytest.mark.parametrize("end", [b"", encode(wire.Ended(17, "ordered"))])
@pytest.mark.parametrize("bytes_short", [0, 1])
def test_the_end_drops_files_that_nobody_has_taken(fetching, end, bytes_short):
    files, data = Some(1), fetched(2, 1)
    gone = weakref.ref(files)
    fetching.client.receive(data[: len(data) - bytes_short], files)
    del files
    assert gone() is not None
    fetching.client.receive(data[len(data) - bytes_short :] if end else b"")
    fetching.client.receive(end)
    assert gone() is None
    with pytest.raises((Refusal, Unavailable, RemoteMistake)):
        fetching.client.answer(2)


def test_a_grant_says_how_sure_it_is_and_why(asking):
    places = {"disk": "/scratch/17"}
    asking.say(wire.Granted(1, 17, {"ram": 1}, "bounded", 64, "no root.", places))
    client = asking.client
    assert (client.handover, client.bound) == ("bounded", 64)
    assert (client.handover_why, client.places) == ("no root.", places)


# The end.


@pytest.mark.parametrize("why", ["ordered", "daemon-restarted"])
def test_an_end_by_others_is_told_with_its_word(live, why):
    live.say(wire.Ended(17, why))
    assert live.client.ended == why
    number, data = live.client.shrink({"ram": 1}, 0.0)
    assert (data, live.client.release(0.0)) == (b"", (3, b""))
    with pytest.raises(Refusal, match="lease 17 is over"):
        live.client.answer(number)


def test_who_waits_for_an_answer_when_the_daemon_hangs_up_is_told(live):
    number, _ = live.client.shrink({"ram": 1}, 0.0)
    live.client.receive(b"")
    assert live.client.ended == "hung-up"
    with pytest.raises(Unavailable, match=r"daemon at /run/x hung up; lease 17 is"):
        live.client.answer(number)


def test_the_first_end_counts(live):
    live.say(wire.Ended(17, "ordered"))
    live.client.lost("broken pipe")
    live.client.closed()
    assert live.client.ended == "ordered"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\0\0\0\1\xc1", "not-msgpack"),
        (encode(wire.Failed("too-slow", "read faster.")), "too-slow"),
    ],
)
def test_a_broken_protocol_is_the_end(asking, data, code):
    asking.client.receive(data)
    with pytest.raises(RemoteMistake) as caught:
        asking.client.answer(1)
    assert (caught.value.code, asking.client.ended) == (code, "hung-up")


def test_half_a_message_at_the_end_is_a_mistake_of_the_daemon(asking):
    asking.client.receive(encode(GRANTED)[:-1])
    asking.client.receive(b"")
    with pytest.raises(RemoteMistake, match="bytes into a frame"):
        asking.client.answer(1)
