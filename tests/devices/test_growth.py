from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from holdingpen.devices import growth
from holdingpen.devices.growth import Growth, short_bytes
from holdingpen.errors import Unavailable

MIB = 2**20
_FORKED = 0x40

#: A program that does as told on stdin, line by line, and says "done".
OBEDIENT = """
import mmap, os, sys, threading
kept = []
def grow(mib):
    kept.append(bytearray(mib << 20))
def share(mib):
    kept.append(mmap.mmap(-1, mib << 20))
    for at in range(0, mib << 20, 4096):
        kept[-1][at] = 1
def fork(then):
    pid = os.fork()
    if not pid:
        then and then()
        print("done", flush=True)
        os.close(ours)
        os.read(end, 1)
        os._exit(0)
    kept.append(pid)
def in_thread(do):
    did = threading.Event()
    def work():
        do()
        did.set()
        threading.Event().wait()
    threading.Thread(target=work, daemon=True).start()
    did.wait()
end, ours = os.pipe()
print("done", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class FakeTree:
    """Files as /proc shows them; amounts are MiB."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        #: pid to its children.
        self._children: dict[int, list[int]] = {}

    def process(self, pid: int, parent: int = 1, groups: int = 0) -> None:
        self._children[pid] = []
        (self.proc / f"{pid}/task/{pid}").mkdir(parents=True)
        self.uses(pid, 0, parent=parent, groups=groups)
        self.image(pid, forked=False)
        (self.proc / f"{pid}/task/{pid}/children").write_text("")
        if parent in self._children:
            self._children[parent].append(pid)
            listed = "".join(f"{child} " for child in self._children[parent])
            (self.proc / f"{parent}/task/{parent}/children").write_text(listed)

    def uses(
        self,
        pid: int,
        anon: int,
        shmem: int = 0,
        file: int = 0,
        parent: int = 1,
        groups: int = 0,
    ) -> None:
        (self.proc / f"{pid}/status").write_text(
            f"Name:\tprogram\nPPid:\t{parent}\nGroups:\t{'4294967294 ' * groups}\n"
            f"VmRSS:\t{(anon + shmem + file) << 10} kB\nRssAnon:\t{anon << 10} kB\n"
            f"RssFile:\t{file << 10} kB\nRssShmem:\t{shmem << 10} kB\n"
        )

    def image(self, pid: int, *, forked: bool) -> None:
        flags = 0x400000 | (_FORKED if forked else 0)
        (self.proc / f"{pid}/stat").write_text(
            f"{pid} (a) Z (b) S 1 1 1 0 -1 {flags} 7"
        )


@pytest.fixture
def tree(tmp_path: Path) -> FakeTree:
    return FakeTree(tmp_path)


@pytest.fixture
def grown(tree: FakeTree) -> Iterator[Growth]:
    # a clock that leaps looks for new members each time
    times = iter(range(0, 10**6, 10))
    with closing(Growth(tree.proc, lambda: next(times))) as growth:
        yield growth


def test_private_and_shared_memory_count_and_file_cache_does_not(
    tree: FakeTree, grown: Growth
) -> None:
    tree.process(10)
    tree.uses(10, anon=5, shmem=3, file=100)
    assert grown.of(10) == 8 * MIB


def test_what_it_used_when_first_asked_about_counts(
    tree: FakeTree, grown: Growth
) -> None:
    tree.process(10)
    tree.uses(10, anon=5)
    assert grown.of(10) == 5 * MIB
    tree.uses(10, anon=7)
    assert grown.of(10) == 7 * MIB


def test_children_and_theirs_count(tree: FakeTree, grown: Growth) -> None:
    for pid, parent in ((10, 1), (11, 10), (12, 11), (13, 10), (20, 1)):
        tree.process(pid, parent)
        tree.uses(pid, anon=pid, parent=parent)
    assert grown.of(10) == (10 + 11 + 12 + 13) * MIB


def test_a_child_begun_later_is_found(tree: FakeTree, grown: Growth) -> None:
    tree.process(10)
    assert grown.of(10) == 0
    tree.process(11, parent=10)
    tree.uses(11, anon=4, parent=10)
    assert grown.of(10) == 4 * MIB


def test_shared_memory_counts_once(tree: FakeTree, grown: Growth) -> None:
    tree.process(10)
    tree.uses(10, anon=1, shmem=64)
    for pid in (11, 12):
        tree.process(pid, parent=10)
        tree.uses(pid, anon=1, shmem=60, parent=10)
    assert grown.of(10) == 67 * MIB


def test_a_lease_within_a_lease_counts_for_itself(
    tree: FakeTree, grown: Growth
) -> None:
    tree.process(10)
    tree.uses(10, anon=1)
    for pid, parent in ((11, 10), (12, 11)):
        tree.process(pid, parent)
        tree.uses(pid, anon=20, parent=parent)
    grown.of(11)
    assert grown.of(10) == MIB
    assert grown.of(11) == 40 * MIB


def test_a_member_that_becomes_a_lease_counts_there_from_then_on(
    tree: FakeTree, grown: Growth
) -> None:
    tree.process(10)
    tree.uses(10, anon=1)
    tree.process(11, 10)
    tree.uses(11, anon=20, parent=10)
    assert grown.of(10) == 21 * MIB
    assert grown.of(11) == 20 * MIB
    assert grown.of(10) == MIB


@pytest.mark.parametrize(
    ("parents", "at_fork", "later", "counted"),
    [
        pytest.param(100, 100, 100, 100, id="all of it is its parent's"),
        pytest.param(100, 100, 130, 130, id="what it gains counts"),
        pytest.param(10, 90, 90, 90, id="no more than its parent has is taken off"),
        pytest.param(100, 100, 40, 100, id="what it gives up is no debt"),
    ],
)
def test_a_forked_process_counts_for_what_it_gained(
    tree: FakeTree, grown: Growth, parents: int, at_fork: int, later: int, counted: int
) -> None:
    tree.process(10)
    tree.uses(10, anon=parents)
    tree.process(11, 10)
    tree.image(11, forked=True)
    tree.uses(11, anon=at_fork, parent=10)
    grown.of(10)
    tree.uses(11, anon=later, parent=10)
    assert grown.of(10) == counted * MIB


def test_a_forked_process_that_shrank_and_grows_again_counts_for_that(
    tree: FakeTree, grown: Growth
) -> None:
    tree.process(10)
    tree.uses(10, anon=100)
    tree.process(11, 10)
    tree.image(11, forked=True)
    for anon, counted in ((100, 100), (40, 100), (60, 120)):
        tree.uses(11, anon=anon, parent=10)
        assert grown.of(10) == counted * MIB


def test_a_process_that_becomes_another_program_counts_whole(
    tree: FakeTree, grown: Growth
) -> None:
    tree.process(10)
    tree.uses(10, anon=100)
    tree.process(11, 10)
    tree.image(11, forked=True)
    tree.uses(11, anon=100, parent=10)
    assert grown.of(10) == 100 * MIB
    tree.image(11, forked=False)
    tree.uses(11, anon=100, parent=10)
    assert grown.of(10) == 200 * MIB


def test_a_pid_that_is_somebody_elses_child_by_now_is_left_out(
    tree: FakeTree, grown: Growth
) -> None:
    tree.process(10)
    tree.process(11, parent=10)
    tree.uses(11, anon=50, parent=1)
    assert grown.of(10) == 0


@pytest.mark.parametrize("lost", ["11/status", "11/stat", "11/task/11/children"])
def test_files_that_vanish_while_looked_at_are_no_error(
    tree: FakeTree, grown: Growth, lost: str
) -> None:
    tree.process(10)
    tree.uses(10, anon=5)
    tree.process(11, parent=10)
    (tree.proc / lost).unlink()
    assert grown.of(10) == 5 * MIB


def test_a_kernel_that_lists_no_children_shows_the_first_process(
    tree: FakeTree, grown: Growth
) -> None:
    tree.process(10)
    tree.uses(10, anon=5)
    (tree.proc / "10/task/10/children").unlink()
    assert grown.of(10) == 5 * MIB


def test_a_member_of_very_many_groups_is_read_to_the_end(
    tree: FakeTree, grown: Growth
) -> None:
    tree.process(10)
    tree.uses(10, anon=5, groups=20000)
    assert grown.of(10) == 5 * MIB


def test_a_tree_has_a_limit(
    tree: FakeTree, grown: Growth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "MEMBERS_MAX", 3)
    tree.process(10)
    for pid in (11, 12, 13):
        tree.process(pid, parent=10)
        tree.uses(pid, anon=1, parent=10)
    assert grown.of(10) == 2 * MIB


def test_new_members_are_not_looked_for_each_time(tree: FakeTree) -> None:
    now_s = 0.0
    tree.process(10)
    with closing(Growth(tree.proc, lambda: now_s)) as growth:
        assert growth.of(10) == 0
        growth._trees[10].scan_at_s = 0.02
        tree.process(11, parent=10)
        tree.uses(11, anon=1, parent=10)
        assert growth.of(10) == 0
        now_s = 0.02
        assert growth.of(10) == MIB


@pytest.mark.parametrize("pid", [0, -1])
def test_a_pid_that_is_not_known_here_cannot_be_asked_about(
    grown: Growth, pid: int
) -> None:
    with pytest.raises(Unavailable, match="pid namespace"):
        grown.of(pid)


def test_a_process_that_is_hidden_cannot_be_asked_about(grown: Growth) -> None:
    """It runs, as a signal would find, but this /proc does not show it."""
    with pytest.raises(Unavailable, match="hidepid"):
        grown.of(os.getpid())


def test_a_process_that_may_not_be_read_cannot_be_asked_about(
    tree: FakeTree, grown: Growth
) -> None:
    tree.process(10)
    (tree.proc / "10/status").unlink()
    (tree.proc / "10/status").symlink_to("status")
    with pytest.raises(Unavailable, match="10/status: Too many levels"):
        grown.of(10)


def test_asked_again_after_a_no_it_looks_again(tree: FakeTree, grown: Growth) -> None:
    pid = os.getpid()
    with pytest.raises(Unavailable):
        grown.of(pid)
    tree.process(pid)
    tree.uses(pid, anon=1)
    assert grown.of(pid) == MIB


@pytest.mark.parametrize(
    ("release", "cpus", "mib"),
    [
        ("6.1.0-18-amd64", 64, 0),
        ("6.2.0", 2, 0.25),
        ("6.12.48+deb13-amd64", 2, 0.25),
        ("6.12.48+deb13-amd64", 64, 32),
        ("6.15-rc1", 16, 2),
        ("6.16.0", 64, 0),
        ("7.0", 64, 0),
        ("strange", 64, 32),
    ],
)
def test_how_much_a_figure_may_fall_short(release: str, cpus: int, mib: float) -> None:
    assert short_bytes(release, cpus) == mib * MIB


def test_of_this_machine_it_is_known_too() -> None:
    assert short_bytes() >= 0


class Obedient:
    """A real process that grows, forks and shares when told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", OBEDIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.heard()

    def do(self, line: str, times: int = 1) -> None:
        """Have it do that; `times`: how many say that they have done it."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        for _ in range(times):
            self.heard()

    def heard(self) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline() == "done\n"

    def end(self) -> None:
        self.process.kill()
        # those it forked end when the pipe they read does
        self.process.communicate()


@pytest.fixture
def obedient() -> Iterator[Obedient]:
    one = Obedient()
    yield one
    one.end()


@pytest.fixture
def real() -> Iterator[Growth]:
    times = iter(range(0, 10**6, 10))
    with closing(Growth(clock=lambda: next(times))) as growth:
        yield growth


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.real
@pytest.mark.parametrize("do", ["grow(32)", "share(32)", "in_thread(lambda: grow(32))"])
def test_what_a_real_program_gains_is_seen(
    obedient: Obedient, real: Growth, do: str
) -> None:
    before = real.of(obedient.pid)
    obedient.do(do)
    assert 31 * MIB <= real.of(obedient.pid) - before <= 36 * MIB


@pytest.mark.real
@pytest.mark.parametrize(
    "begin", ["fork(lambda: grow(32))", "in_thread(lambda: fork(lambda: grow(32)))"]
)
def test_what_real_children_gain_is_seen_and_what_they_inherit_is_not(
    obedient: Obedient, real: Growth, begin: str
) -> None:
    """A thread's children are on a list of its own."""
    obedient.do("grow(48)")
    before = real.of(obedient.pid)
    obedient.do(begin, times=2)
    gained = real.of(obedient.pid) - before
    assert 31 * MIB <= gained <= 36 * MIB
    obedient.do("fork(None)", times=2)
    assert real.of(obedient.pid) - before - gained < 4 * MIB


@pytest.mark.real
def test_children_count_on_when_their_parent_has_ended(
    obedient: Obedient, real: Growth
) -> None:
    obedient.do("fork(lambda: grow(32))", times=2)
    real.of(obedient.pid)
    # the pipe that keeps the child is kept by us too
    ours = os.open(f"/proc/{obedient.pid}/fd/4", os.O_WRONLY)
    obedient.process.kill()
    obedient.process.wait()
    left = real.of(obedient.pid)
    os.close(ours)
    assert left > 31 * MIB


@pytest.mark.real
@pytest.mark.parametrize("waited_for", [False, True])
def test_a_real_process_that_ended_uses_nothing(
    obedient: Obedient, real: Growth, waited_for: bool
) -> None:
    assert real.of(obedient.pid) > MIB
    os.kill(obedient.pid, signal.SIGKILL)
    os.waitid(os.P_PID, obedient.pid, os.WEXITED | os.WNOWAIT)
    if waited_for:
        obedient.end()
    assert real.of(obedient.pid) == 0
    assert len(real._trees[obedient.pid].members) == (0 if waited_for else 1)


@pytest.mark.real
def test_one_that_ended_before_it_was_asked_about_uses_nothing(real: Growth) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    assert real.of(ended.pid) == 0


@pytest.mark.real
def test_forgetting_leaves_no_file_open(obedient: Obedient) -> None:
    before = open_files()
    growth = Growth()
    growth.of(obedient.pid)
    assert open_files() == before + 1
    growth.forget(obedient.pid)
    growth.forget(obedient.pid)
    assert open_files() == before
    growth.of(obedient.pid)
    growth.close()
    assert open_files() == before
