"""Lease groups in a make-believe /sys/fs/cgroup, with real helpers in them."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from holdingpen.ballast import lazyholder, leasegroup, samegroup
from holdingpen.ballast.samegroup import MARGIN, SameGroup, why_not
from holdingpen.errors import Refusal, Unavailable

MIB = 2**20
AMOUNT = 6 * MIB
#: What the make-believe kernel says is in every group.
CURRENT = 7 * MIB
PATIENCE_S = 20


def make_group(path, **files):
    path.mkdir(exist_ok=True)
    contents = {"cgroup_controllers": "cpu memory", "cgroup_procs": ""}
    contents |= {"cgroup_subtree_control": "", "memory_min": "0"}
    for name, content in (contents | files).items():
        if content is not None:
            (path / name.replace("_", ".", 1)).write_text(content)
    return path


def make_paths(tmp_path, own=None, above=None):
    """The root of all groups, a slice in it, and the daemon's service in that."""
    root = make_group(tmp_path / "cgroup", memory_min=None)
    upper = make_group(root / "pen.slice", **(above or {}))
    service = make_group(upper / "pen.service", **(own or {}))
    return [service, upper, root]


def first(path):
    """What a kernel's file would say: the last thing written to it."""
    return path.read_text().split("\n")[0]


class FakeGroup(leasegroup.LeaseGroup):
    def make(self):
        super().make()
        for name, content in {
            "memory.current": f"{CURRENT}",
            "memory.events": "low 0\nhigh 0\nmax 0\n",
            "memory.high": "max",
            "memory.min": "0",
            "memory.swap.max": "max",
            "cgroup.procs": "",
        }.items():
            (self.path / name).write_text(f"{content}\n")


def fake_group(path):
    """One that is there already."""
    group = FakeGroup(path, AMOUNT)
    group.make()
    return path


class Played:
    """A SameGroup and what it says and does."""

    def __init__(self, paths):
        self.over = []
        self._told = threading.Event()
        self.given = []
        self.same = SameGroup.open(2, paths, self._on_over)
        self.same.begin({}, {})
        self.service = paths[0]

    def _on_over(self, lease, how):
        self.over.append((lease, how))
        self._told.set()

    def give(self, amount):
        self.given.append(amount)
        return amount

    def prepared(self, lease=1, amount=AMOUNT):
        self.same.prepare(lease, amount, self.give)
        return self.same._leases[lease]

    def wait_over(self):
        assert self._told.wait(PATIENCE_S)
        return self.over

    def nothing_left(self):
        return not list(self.service.glob("lease-*")) and not self.same._leases


@pytest.fixture(autouse=True)
def linux(monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="6.12.107"))


@pytest.fixture
def played(tmp_path, monkeypatch):
    def removed(path):
        # a real group goes with its files, once nobody is in it
        if first(path / "cgroup.procs") == "stays":
            return False
        shutil.rmtree(path)
        return True

    monkeypatch.setattr(samegroup, "LeaseGroup", FakeGroup)
    monkeypatch.setattr(samegroup, "_removed", removed)
    played = Played(make_paths(tmp_path))
    yield played
    played.same.close()


@pytest.mark.parametrize(
    ("version", "own", "above", "word"),
    [
        (0, {}, {}, "no control groups"),
        (1, {}, {}, "version 1"),
        (2, {"cgroup_controllers": "cpu"}, {}, "Delegate=yes"),
        (2, {"cgroup_subtree_control": None}, {}, "may not be made"),
        (2, {"memory_min": None}, {}, "is 0 and may not be set"),
        (2, {}, {"memory_min": None}, "pen.slice/memory.min is 0"),
        (2, {}, {}, ""),
    ],
)
def test_why_it_cannot_be(tmp_path, version, own, above, word):
    why = why_not(version, make_paths(tmp_path, own, above))
    assert why.startswith(word) if not word else word in why
    assert bool(why) == bool(word)


def test_in_a_container_it_cannot_be_known(tmp_path):
    service, upper, _root = make_paths(tmp_path)
    assert "container" in why_not(2, [service, upper])


def test_open_says_why_not(tmp_path):
    with pytest.raises(Unavailable, match="version 1"):
        SameGroup.open(1, make_paths(tmp_path))


def test_open_says_what_the_system_refused(tmp_path, monkeypatch):
    def refuse(path, value):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(samegroup, "write_to", refuse)
    with pytest.raises(Unavailable, match="busy.*paced"):
        SameGroup.open(2, make_paths(tmp_path))


def test_the_daemon_moves_into_a_group_of_its_own(tmp_path):
    paths = make_paths(tmp_path, own={"cgroup_procs": "4242\n"})
    make_group(paths[0] / "daemon")
    SameGroup.open(2, paths)
    assert first(paths[0] / "daemon/cgroup.procs") == "4242"
    assert first(paths[0] / "cgroup.subtree_control") == "+memory"


def test_a_daemon_that_is_in_it_already_stays(tmp_path):
    """systemd's DelegateSubgroup= puts it there."""
    service, *above = make_paths(tmp_path)
    inside = make_group(service / "daemon", cgroup_procs="4242\n")
    SameGroup.open(2, [inside, service, *above])
    assert first(service / "cgroup.subtree_control") == "+memory"
    assert not (inside / "daemon").exists()


def test_under_the_root_of_all_groups_the_leases_have_their_own(tmp_path):
    root = make_group(tmp_path / "cgroup", memory_min=None)
    make_group(root / "holdingpen")
    assert why_not(2, [root]) == ""
    SameGroup.open(2, [root])
    assert first(root / "holdingpen/cgroup.subtree_control") == "+memory"


def test_in_a_slice_of_its_own_they_lie_beside_the_service(tmp_path):
    """A restart of the service empties its own group, or fails while it cannot."""
    root = make_group(tmp_path / "cgroup", memory_min=None)
    upper = make_group(root / "holdingpen.slice", memory_min="500")
    service = make_group(upper / "holdingpen.service", cgroup_procs="4242\n")
    make_group(upper / "leases")
    assert why_not(2, [service, upper, root]) == ""
    SameGroup.open(2, [service, upper, root])
    assert first(upper / "leases/cgroup.subtree_control") == "+memory"
    assert first(upper / "memory.min") == "500"
    assert not (service / "daemon").exists()


def test_the_group_for_the_leases_is_made(tmp_path, monkeypatch):
    root = make_group(tmp_path / "cgroup", memory_min=None)
    make = Path.mkdir

    def mkdir(path):
        monkeypatch.setattr(Path, "mkdir", make)
        make_group(path)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    SameGroup.open(2, [root])
    assert first(root / "cgroup.subtree_control") == "+memory"
    assert first(root / "holdingpen/cgroup.subtree_control") == "+memory"


def test_what_a_killed_daemon_left_is_cleared(tmp_path):
    paths = make_paths(tmp_path, {"memory_min": "900"}, {"memory_min": "1000"})
    left = fake_group(paths[0] / "lease-7")
    (left / "memory.high").write_text("800\n")
    (left / "memory.min").write_text("900\n")
    same = SameGroup.open(2, paths)
    assert same.begin({}, {}) == frozenset()
    assert (first(left / "memory.high"), first(left / "memory.min")) == ("max", "0")
    # the slice keeps the part that was not the leases'
    assert [first(path / "memory.min") for path in paths[:2]] == ["0", "100"]
    assert same.sweep() == 1
    shutil.rmtree(left)
    assert same.sweep() == 0


def test_an_old_kernel_must_not_have_more_than_the_sum(tmp_path, monkeypatch):
    paths = make_paths(tmp_path, above={"memory_min": str(2**30)})
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="6.1.0-50-amd64"))
    with pytest.raises(Unavailable, match=r"pen.slice.* 1.0 GiB.*Linux 6.1"):
        SameGroup.open(2, paths)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="6.12.107"))
    SameGroup.open(2, paths)


def test_what_is_filled_was_given_and_is_protected(played):
    group = played.prepared()
    assert (group.filled, sum(played.given)) == (AMOUNT, AMOUNT)
    assert first(group.path / "memory.min") == str(CURRENT)
    assert first(group.path / "memory.high") == "max"
    assert first(group.path / "memory.swap.max") == "0"
    rss = Path(f"/proc/{group._helper.pid}/status").read_text()
    assert int(rss.split("RssAnon:")[1].split()[0]) * 1024 >= AMOUNT


def test_the_groups_above_cover_the_sum_of_all(played):
    played.prepared(1)
    played.prepared(2)
    above = [played.service, played.service.parent]
    assert [first(path / "memory.min") for path in above] == [str(2 * CURRENT)] * 2
    played.same.end(1)
    assert [first(path / "memory.min") for path in above] == [str(CURRENT)] * 2


def test_a_ballast_that_ends_too_early_undoes_all(played):
    gifts = iter([4 * MIB, 0])
    with pytest.raises(Refusal, match=r"6.0 MiB .*lease 3.*4.0 MiB.*no more") as no:
        played.same.prepare(3, AMOUNT, lambda step: next(gifts))
    assert no.value.code == "not-now"
    assert played.nothing_left()
    assert first(played.service / "memory.min") == "0"


def test_what_others_take_is_asked_for_again(played, monkeypatch):
    """Nothing to be seen of what was given: it is given up after a while."""
    monkeypatch.setattr(samegroup, "_MEMINFO", Path("/nonexistent"))
    monkeypatch.setattr(FakeGroup, "fill", lambda self, amount, floor: 0)
    with pytest.raises(Refusal, match="others have the rest"):
        played.prepared()
    assert 64 * MIB <= sum(played.given) <= 80 * MIB
    assert played.nothing_left()


def test_a_helper_that_dies_early_undoes_all(played):
    def give(step):
        if group := played.same._leases[1]._helper:
            group.kill()
            group.wait()
        return step

    with pytest.raises(Unavailable, match="lease-1 has ended with -9|Broken pipe"):
        played.same.prepare(1, 64 * MIB, give)
    assert played.nothing_left()


def test_a_helper_that_cannot_start_undoes_all(played, monkeypatch):
    monkeypatch.setattr(leasegroup, "HELPER", "/nonexistent")
    with pytest.raises(Unavailable, match="lease-1 has ended with 2"):
        played.prepared()
    assert played.nothing_left()


def test_a_group_that_cannot_be_made_is_unavailable(played):
    (played.service / "lease-1").mkdir()
    (played.service / "lease-1/daemon").mkdir()
    with pytest.raises(Unavailable, match="cannot make a control group for lease 1"):
        played.prepared()


def test_the_program_is_moved_and_the_group_limited(played):
    group = played.prepared(amount=128 * MIB)
    played.same.hand_over(1, 4242)
    assert first(group.path / "cgroup.procs") == "4242"
    assert first(group.path / "memory.high") == str(CURRENT + MARGIN)
    # pages that a processor still keeps back to be marked count as taken
    assert played.same.handed(1) < MIB


def test_a_helper_that_is_killed_slows_nobody_down(played):
    group = played.prepared()
    played.same.hand_over(1, 4242)
    group._helper.kill()
    assert played.wait_over() == [(1, "died")]
    assert first(group.path / "memory.high") == "max"
    assert first(group.path / "memory.min") == str(AMOUNT)


def test_what_is_used_up_slows_nobody_down(played):
    amount = lazyholder.SPENT
    group = played.prepared(amount=amount)
    played.same.hand_over(1, 4242)
    assert played.wait_over() == [(1, "spent")]
    assert played.same.handed(1) == amount
    assert first(group.path / "memory.high") == "max"
    assert first(group.path / "memory.swap.max") == "max"
    assert first(group.path / "memory.min") == str(amount)


def test_a_lease_that_ends_leaves_nothing(played):
    group = played.prepared()
    played.same.hand_over(1, 4242)
    played.same.end(1)
    assert group._helper.poll() == lazyholder.EXIT_TOLD
    assert played.nothing_left()
    assert played.over == []
    played.same.end(1)


def test_a_group_with_processes_is_removed_later(played):
    group = played.prepared()
    (group.path / "cgroup.procs").write_text("stays\n")
    played.same.end(1)
    assert first(group.path / "memory.high") == "max"
    assert played.same.sweep() == 1
    (group.path / "cgroup.procs").write_text("\n")
    assert played.same.sweep() == 0


@pytest.mark.parametrize(
    ("error", "expected", "code"),
    [(ProcessLookupError, Refusal, "ended"), (OSError, Unavailable, "unavailable")],
)
def test_a_process_that_cannot_be_moved_undoes_all(
    played, monkeypatch, error, expected, code
):
    played.prepared()
    write = samegroup.write_to

    def refuse(path, value):
        if value == 4242:
            raise error
        write(path, value)

    monkeypatch.setattr(samegroup, "write_to", refuse)
    with pytest.raises(expected, match="lease 1.*process 4242") as no:
        played.same.hand_over(1, 4242)
    assert no.value.code == code
    assert played.nothing_left()


def test_a_helper_that_dies_before_undoes_all(played):
    group = played.prepared()
    group._helper.kill()
    group._helper.wait()
    with pytest.raises(Unavailable):
        played.same.hand_over(1, 4242)
    assert played.nothing_left()


def test_a_lease_that_is_over_is_handed_nothing(played):
    with pytest.raises(Refusal, match="lease 9 has ended"):
        played.same.hand_over(9, 4242)
    assert played.same.handed(9) == 0


def test_groups_above_that_may_not_be_set_must_cover_it_already(played, monkeypatch):
    write = samegroup.write_to

    def refuse(path, value):
        if path == played.service.parent / "memory.min":
            raise PermissionError(13, "Permission denied")
        write(path, value)

    monkeypatch.setattr(samegroup, "write_to", refuse)
    with pytest.raises(Unavailable, match=r"pen.slice/memory.min covers 0 B.*7.0 MiB"):
        played.prepared()
    played.same._above[played.service.parent] = 2**30
    played.prepared(2)


# The helper by itself.


class Helper:
    def __init__(self, path, amount=AMOUNT):
        self.group = fake_group(path)
        (self.group / "memory.high").write_text("8000000\n")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", lazyholder.__file__),
                *(str(self.group), str(amount), "0"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.hears() == "ready"

    def hears(self):
        assert select.select([self.process.stdout], [], [], PATIENCE_S)[0]
        return self.process.stdout.readline().strip()

    def ends(self):
        status = self.process.wait(PATIENCE_S)
        return status, first(self.group / "memory.high")

    def close(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def helper(tmp_path):
    with contextlib.closing(Helper(tmp_path / "lease-1")) as helper:
        yield helper


def tell(helper, *lines):
    said = []
    for line in lines:
        print(line, file=helper.process.stdin, flush=True)
        said.append(helper.hears())
    return said


def test_the_helper_touches_no_more_than_it_has(helper):
    said = tell(helper, f"touch {4 * MIB} 0", f"touch {4 * MIB} 0")
    assert said == [f"touched {4 * MIB}", f"touched {2 * MIB}"]


def test_the_helper_leaves_what_it_is_told_to_leave(helper):
    assert tell(helper, f"touch {MIB} {2**50}") == ["touched 0"]


@pytest.mark.parametrize("lines", [[], [f"touch {AMOUNT} 0", "free"]])
@pytest.mark.parametrize("end", ["eof", "term"])
def test_however_the_helper_ends_the_limit_is_lifted(helper, lines, end):
    tell(helper, *lines)
    if end == "eof":
        helper.process.stdin.close()
        helper.process.stdin = None
    else:
        helper.process.send_signal(signal.SIGTERM)
    assert helper.ends() == (lazyholder.EXIT_TOLD, "max")


def test_the_limit_is_lifted_when_the_helper_fails(helper):
    print("nonsense", file=helper.process.stdin, flush=True)
    assert helper.ends() == (1, "max")
    assert "Traceback" in helper.process.stderr.read()


class FakeHeld:
    """Memory whose marked pages are taken when a test says so."""

    def __init__(self, touched):
        self.touched = touched
        self.marked = 0
        self.taken = 0

    def lazy(self):
        return self.marked - self.taken

    def mark(self, amount):
        self.marked += min(amount, self.touched - self.marked)


class FakeSeen:
    """A group as the helper sees it."""

    events = 0
    is_above = False

    def high_events(self):
        self.events += 1
        return self.events

    def above(self):
        return self.is_above


def test_no_more_than_a_window_is_marked(capfd):
    window = lazyholder.WINDOW
    held = FakeHeld(2 * window)
    feeding = lazyholder.Feeding(held, FakeSeen())
    assert feeding.look() is None
    assert held.marked == window
    held.taken = window // 2 - 1
    assert feeding.look() is None
    assert held.marked == window
    held.taken = window // 2 + 1
    assert feeding.look() is None
    assert held.marked == held.taken + window
    held.taken = 2 * window - lazyholder.SPENT
    # the last of it is marked at this look and found taken at the next
    assert feeding.look() is None
    assert feeding.look() == lazyholder.EXIT_SPENT
    assert capfd.readouterr().out.splitlines()[-1] == f"given {held.taken}"


@pytest.mark.parametrize(
    ("is_above", "taken", "status"),
    [(True, 0, lazyholder.EXIT_STUCK), (False, 0, None), (True, MIB, None)],
)
def test_who_is_slowed_down_and_gets_nothing_is_let_go(
    monkeypatch, is_above, taken, status
):
    """Linux 6.1 does not reclaim a group whose memory.min is too large."""
    now = 100.0
    monkeypatch.setattr(lazyholder.time, "monotonic", lambda: now)
    held, seen = FakeHeld(AMOUNT), FakeSeen()
    seen.is_above = is_above
    feeding = lazyholder.Feeding(held, seen)
    assert feeding.look() is None
    assert feeding.look() is None
    now += lazyholder.STUCK_S + 0.1
    held.taken += taken
    assert feeding.look() == status


# From one daemon to the next.


class Store:
    """A descriptor store."""

    def __init__(self):
        self.kept = {}

    def keep(self, name, fd, poll=True):
        # a pipe whose helper has ended says how
        assert not poll
        self.kept[name] = os.dup(fd)

    def forget(self, name):
        if name in self.kept:
            os.close(self.kept.pop(name))

    def handed(self):
        return {name: os.dup(fd) for name, fd in self.kept.items()}


@pytest.fixture
def child():
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child
        child.kill()


@pytest.fixture
def kept(played, child):
    """A lease whose program is fed, and whose daemon does nothing any more."""
    played.same._store = played.store = Store()
    # its threads are as dead as it will be
    played.same._follow = lambda lease, group: None
    group = played.prepared()
    played.same.hand_over(1, child.pid)
    played.helper = group._helper
    yield played
    hush(played)
    played.helper.kill()
    played.helper.wait()
    for name in list(played.store.kept):
        played.store.forget(name)
    played.same._store = None


class Next(Played):
    """The next daemon's."""

    def __init__(self, last, going_on):
        self.over, self._told = [], threading.Event()
        self.service = last.service
        paths = [last.service, *last.service.parents[:2]]
        self.store = last.store
        self.same = SameGroup.open(2, paths, self._on_over, last.store)
        self.fed = self.same.begin(last.store.handed(), going_on)


def hush(last):
    """The last daemon is dead: its ends of the pipes are closed."""
    for group in last.same._leases.values():
        for fd in group.pipes:
            os.close(fd)
    last.same._leases.clear()


def test_what_is_kept_is_the_ends_of_its_pipes(kept):
    assert set(kept.store.kept) == {"g1told", "g1said"}


def test_a_helper_feeds_on_without_its_daemon(kept):
    hush(kept)
    later = Next(kept, {1: AMOUNT})
    assert later.fed == {1}
    assert kept.helper.poll() is None
    assert later.same.handed(1) <= AMOUNT
    group = kept.service / "lease-1"
    # it is covered as before
    assert first(kept.service / "memory.min") == first(group / "memory.min")
    assert first(group / "memory.high") == str(CURRENT + MARGIN)
    later.same.end(1)
    assert kept.store.kept == {}
    assert kept.helper.wait(PATIENCE_S) == lazyholder.EXIT_TOLD
    assert later.nothing_left()


def test_it_says_again_what_it_has_given(kept):
    hush(kept)
    later = Next(kept, {1: AMOUNT})
    group = later.same._leases[1]
    group.given = -1
    os.write(group.pipes.told, b"tell\n")
    while group.given < 0:
        assert kept.helper.poll() is None


def test_one_of_a_lease_that_is_over_is_ended(kept):
    hush(kept)
    later = Next(kept, {})
    assert later.fed == frozenset()
    assert kept.store.kept == {}
    assert kept.helper.wait(PATIENCE_S) == lazyholder.EXIT_TOLD
    assert later.nothing_left()


def test_one_that_died_meanwhile_is_said_and_slows_nobody_down(kept):
    hush(kept)
    kept.helper.kill()
    kept.helper.wait()
    later = Next(kept, {1: AMOUNT})
    assert later.wait_over() == [(1, "died")]
    assert first(kept.service / "lease-1/memory.high") == "max"
    later.same.end(1)


@pytest.mark.parametrize("how", ["spent", "stuck"])
def test_how_one_ended_meanwhile_is_known(kept, how):
    hush(kept)
    kept.helper.kill()
    kept.helper.wait()
    # what it would have said at its end
    said, helper_s = os.pipe()
    os.write(helper_s, f"given {MIB}\n{how}\n".encode())
    os.close(helper_s)
    kept.store.forget("g1said")
    kept.store.kept["g1said"] = said
    later = Next(kept, {1: AMOUNT})
    assert later.wait_over() == [(1, how)]
    assert later.same.handed(1) == (AMOUNT if how == "spent" else MIB)
    later.same.end(1)


@pytest.mark.parametrize("lost", ["g1told", "g1said"])
def test_one_of_which_an_end_was_not_kept_is_ended(kept, lost):
    hush(kept)
    kept.store.forget(lost)
    later = Next(kept, {1: AMOUNT})
    assert later.fed == frozenset()
    assert later.nothing_left()


def test_a_daemon_that_ends_in_order_leaves_them(kept):
    kept.same.close()
    assert kept.helper.poll() is None
    assert set(kept.store.kept) == {"g1told", "g1said"}


def test_a_store_that_does_not_listen_costs_only_the_next_one(played, child):
    class Deaf(Store):
        def keep(self, name, fd, poll=True):
            raise Unavailable("nobody listens.")

        forget = keep

    played.same._store = Deaf()
    played.same._store.forget = lambda name: None
    played.prepared()
    played.same.hand_over(1, child.pid)
    played.same.end(1)
    assert played.nothing_left()
