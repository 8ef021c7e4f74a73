"""The Python interface against a real daemon: processes, forks, a container."""

import asyncio
import os
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio

import holdingpen

pytestmark = [pytest.mark.real, pytest.mark.slow]

MIB = 2**20
PATIENCE_S = 30.0
SOURCE = str(Path(holdingpen.__file__).parents[1])


@pytest.fixture
def pen(pen, monkeypatch):
    monkeypatch.setenv("HOLDINGPEN_SOCKET", pen.socket)
    return pen


def python(pen, program, before=()):
    """Run a program in a process of its own to its end; what it printed."""
    words = [*before, sys.executable, "-c", textwrap.dedent(program)]
    run = subprocess.run(
        words,
        env=pen.env | {"PYTHONPATH": os.pathsep.join([SOURCE, *sys.path])},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (run.stderr, run.returncode) == ("", 0)
    return run.stdout.split()


def licences():
    """How many of the one licence are leased."""
    return holdingpen.status().resources["licence"].leased


def test_a_lease_is_in_the_books_while_the_block_lasts(served):
    with holdingpen.lease(ram="16M", resources={"licence": 1}, label="x") as lease:
        (info,) = holdingpen.status().leases
        assert (info.id, info.state, info.label) == (lease.id, "live", "x")
        assert info.amounts == lease.amounts == {"ram": 16 * MIB, "licence": 1}
        assert lease.handover == info.handover
    assert holdingpen.status().leases == []


def test_without_amounts_it_is_the_share(served):
    with holdingpen.lease() as lease:
        assert lease.amounts == {"ram": 32 * MIB}


def test_one_gets_it_and_the_other_waits_for_it(served):
    news = []
    with ThreadPoolExecutor() as pool:
        first = holdingpen.try_lease(resources={"licence": 1})
        assert holdingpen.try_lease(resources={"licence": 1}) is None

        def second():
            asking = holdingpen.lease(
                resources={"licence": 1},
                on_waiting=lambda told: (news.append(told), first.release()),
            )
            with asking as lease:
                return lease.id

        assert pool.submit(second).result(PATIENCE_S) > first.id
    assert news[0].waits_for == [first.id]
    assert licences() == 0


def test_a_wait_that_is_over_is_a_refusal(served):
    with (
        holdingpen.lease(resources={"licence": 1}),
        pytest.raises(holdingpen.Refusal) as caught,
        holdingpen.lease(resources={"licence": 1}, wait=0.01),
    ):
        pass
    assert caught.value.code == "not-now"


def test_what_can_never_be_is_refused_at_once(served):
    with pytest.raises(holdingpen.Refusal) as caught, holdingpen.lease(ram="1P"):
        pass
    assert caught.value.code == "never-fits"


def test_a_part_is_given_back_and_the_books_know(served):
    with holdingpen.lease(ram="48M", resources={"slot": 9}) as lease:
        lease.shrink(ram="16M", slot=4)
        (info,) = holdingpen.status().leases
        assert info.amounts == lease.amounts == {"ram": 32 * MIB, "slot": 5}
        with pytest.raises(holdingpen.Refusal, match="release it instead"):
            lease.shrink(ram="32M")


def test_an_owner_takes_a_part_or_all_and_the_holder_hears_of_it(served):
    with holdingpen.lease(resources={"licence": 1}) as lease:
        with served.connect() as other:
            other.release(lease.id)
        assert lease.wait_reclaim(PATIENCE_S)
        assert lease.ended == "ordered"


def test_it_is_over_when_the_daemon_is(served):
    with holdingpen.lease() as lease:
        served.daemon.kill()
        assert lease.wait_reclaim(PATIENCE_S)
        assert lease.ended == "hung-up"


def test_both_loops(served):
    async def main():
        async with holdingpen.lease(ram="48M") as lease:
            await lease.shrink(ram="16M")
            assert not await lease.wait_reclaim(timeout=0.001)
            return lease.amounts

    assert trio.run(main) == asyncio.run(main()) == {"ram": 32 * MIB}
    assert holdingpen.status().leases == []


def test_a_hundred_tasks_take_turns_while_a_hundred_others_give_up(served):
    held = []

    async def take_a_turn():
        async with holdingpen.lease(resources={"slot": 60}):
            held.append(1)
            await trio.lowlevel.checkpoint()
            assert held == [1]
            held.pop()

    async def give_up():
        with trio.move_on_after(0.01):
            async with holdingpen.lease(resources={"slot": 100}):
                await trio.sleep(0.02)

    async def main():
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(take_a_turn)
                nursery.start_soon(give_up)

    trio.run(main)
    assert holdingpen.status().leases == []


# Forks and other programs.


def forked(pen, child, parent):
    """Run `child` in a child of a process that holds a lease, `parent` in that."""
    program = f"""if True:
        import os, sys, holdingpen
        lease = holdingpen.try_lease(resources={{"licence": 1}})
        leased = lambda: holdingpen.status().resources["licence"].leased
        until, go = os.pipe()
        if os.fork() == 0:
            os.close(go)
            os.read(until, 1)
            exec({textwrap.dedent(child)!r})
            sys.stdout.flush()
            os._exit(0)
        exec({textwrap.dedent(parent)!r})
    """
    return python(pen, program)


def test_a_child_holds_it_until_both_are_gone(served):
    said = forked(
        served,
        child="print(leased(), flush=True); lease.close(); print(leased())",
        parent="lease.close(); os.close(go); os.wait(); print('over')",
    )
    assert said == ["1", "0", "over"]


def test_a_child_may_end_it_for_both(served):
    said = forked(
        served,
        child="lease.release()",
        parent="os.close(go); os.wait(); print(lease.wait_reclaim(), lease.ended)",
    )
    assert said == ["True", "released"]


def test_a_child_that_leaves_the_block_leaves_it_to_its_parent(served):
    said = forked(
        served,
        child="""
            with lease:
                pass
        """,
        parent="os.close(go); os.wait(); print(lease.ended, leased())",
    )
    assert said == ["None", "1"]


@pytest.mark.parametrize(
    "what", ["shrink(ram=1)", "wait_reclaim()", "ended", "reclaim_requested"]
)
def test_a_child_may_not_read_its_parents_replies(served, what):
    said = forked(
        served,
        child=f"""
            try:
                lease.{what}
            except holdingpen.LocalMistake as mistake:
                print("close()" in str(mistake))
        """,
        parent="os.close(go); os.wait()",
    )
    assert said == ["True"]


def test_a_program_holds_it_only_if_it_is_given_the_descriptor(served):
    for given, leased in ((False, 0), (True, 1)):
        lease = holdingpen.try_lease(resources={"licence": 1})
        cat = subprocess.Popen(
            ["cat"],
            stdin=subprocess.PIPE,
            pass_fds=[lease.fileno()] if given else [],
        )
        lease.close()
        assert licences() == leased
        cat.communicate()
        assert licences() == 0


# A container: other users, other processes, nothing but the socket.

#: Mounts the socket, alone, over the directory that it is in.
ALONE = """
cd "$0" && mkdir box && mount -t tmpfs none box && touch box/only.socket &&
mount --bind holdingpen.socket box/only.socket && mount --rbind box "$0" &&
cd / && exec "$@"
"""


def can_contain():
    if not shutil.which("unshare"):
        return False
    words = ["unshare", "-Urmpf", "--mount-proc", "true"]
    return subprocess.run(words, capture_output=True).returncode == 0


@pytest.mark.skipif(
    not can_contain(), reason="may not make user, mount and pid namespaces here"
)
def test_in_a_container_the_socket_is_enough(served):
    home = str(served.home)
    program = f"""
        import os, holdingpen
        assert os.listdir({home!r}) == ["only.socket"]
        os.environ["HOLDINGPEN_SOCKET"] = {home + "/only.socket"!r}
        with holdingpen.lease(ram="16M", resources={{"licence": 1}}) as lease:
            lease.shrink(ram="8M")
            (info,) = holdingpen.status().leases
            print(info.amounts["ram"], info.uid, info.pid == os.getpid())
            print(os.getuid(), os.getpid())
    """
    contained = ["unshare", "-Urmpf", "--mount-proc", "sh", "-c", ALONE, home]
    amount, uid, same_pid, uid_inside, pid_inside = python(served, program, contained)
    assert (int(amount), int(uid)) == (8 * MIB, os.getuid())
    assert (same_pid, uid_inside, int(pid_inside) < 10) == ("False", "0", True)
