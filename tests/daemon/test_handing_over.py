"""What goes wrong between the making ready of a lease and its end."""

from __future__ import annotations

import math
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest
import trio

from holdingpen.ballast import scratch
from holdingpen.ballast.disk import open_disk_ballast
from holdingpen.core import effects as do
from holdingpen.core import events as ev
from holdingpen.core.facts import Moment, Who
from holdingpen.daemon.diskhand import DiskHand
from holdingpen.daemon.lending import ram_wishes
from holdingpen.daemon.performer import Performer
from holdingpen.daemon.ramhand import RamHand, open_groups
from holdingpen.daemon.settings import Disk, Settings
from holdingpen.devices.filesystem import FileSystem
from holdingpen.devices.scripted import ScriptedBallast, ScriptedHost
from holdingpen.errors import BadSettings, Refusal, Unavailable

MIB = 2**20
NOW = Moment(7.0, 1007.0)
WHO = Who(os.geteuid(), os.getegid(), os.getpid())
PATIENCE_S = 20.0


def always(step: int) -> bool:
    return True


class Scene:
    """A performer with a hand of ram, and the events it reported."""

    def __init__(self) -> None:
        host = ScriptedHost()
        self.ballast = ScriptedBallast(host)
        self.hand = RamHand(self.ballast, host, Settings(ram_keep=0))
        send, self._receive = trio.open_memory_channel[ev.Event](math.inf)
        self.performer = Performer(
            {"ram": self.hand}, host, lambda: NOW, send.send_nowait, lambda *_: None
        )

    async def event(self) -> ev.Event:
        return await self._receive.receive()

    def close(self) -> None:
        self.performer.close()
        self.hand.close()


@pytest.fixture
async def scene():
    with closing(Scene()) as scene:
        yield scene


async def test_what_the_last_daemon_had_by_a_table_that_is_gone_is_nothing(scene):
    for effect in (do.Measure("disk.gone"), do.TakeBack("disk.gone", 17)):
        scene.performer.perform(effect)
    assert await scene.event() == ev.BallastBack(NOW, 17, "disk.gone", 0)


async def test_what_cannot_be_taken_back_for_another_reason_is_asked_for_again(
    scene, nursery, autojump_clock
):
    answers = [Unavailable("no memory.min"), OSError(5, "error"), None, 3 * MIB]

    def take_back(lease: int, amount: int | None) -> int | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    scene.hand.take_back = take_back
    nursery.start_soon(scene.performer.chase)
    scene.performer.perform(do.TakeBack("ram", 17))
    assert await scene.event() == ev.BallastBack(NOW, 17, "ram", 3 * MIB)
    assert not answers
    nursery.cancel_scope.cancel()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.mkdir()
    if FileSystem(path).why:
        pytest.skip(FileSystem(path).why)
    return path


def test_who_cannot_have_a_file_system_gets_a_directory(disk, tmp_path):
    settings = Settings(disks={"a": Disk(str(disk), 64 * MIB)})
    with closing(DiskHand("a", settings, tmp_path / "mounts")) as hand:
        hand.ballast.take(64 * MIB, always)
        hand.ballast.image_why = "There are no loop devices."
        what = do.Prepare("disk.a", 16 * MIB, 5, "image", 16 * MIB, WHO)
        place, how, why = hand.prepare(what)
        assert Path(place).stat().st_uid == WHO.uid
        assert (how, why) == ("directory", "There are no loop devices.")
        hand._look(5)
        assert 5 in hand.used()
        assert hand.take_back(5, None) == 0
        assert (Path(place).exists(), hand.ballast.kept) == (False, {})


def test_closing_waits_for_what_is_being_made_ready_and_takes_it_away(disk, tmp_path):
    ballast = open_disk_ballast(disk, 64 * MIB, FileSystem(disk), tmp_path / "mounts")
    asked, go_on = threading.Event(), threading.Event()
    refused = []

    def may(step: int) -> bool:
        asked.set()
        return go_on.wait(PATIENCE_S)

    def prepare() -> None:
        try:
            ballast.prepare_file(5, 8 * MIB, may)
        except Refusal as why:
            refused.append(why.code)

    preparing = threading.Thread(target=prepare)
    closing_it = threading.Thread(target=ballast.close)
    preparing.start()
    assert asked.wait(PATIENCE_S)
    closing_it.start()
    while not ballast._closed:
        pass
    assert closing_it.is_alive()
    go_on.set()
    for thread in (preparing, closing_it):
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert refused == ["not-now"]
    assert [*disk.iterdir()] == []


@pytest.mark.parametrize("way", ["file", "image", "directory", "lend", "back"])
def test_who_closed_begins_nothing_more(disk, tmp_path, way):
    ballast = open_disk_ballast(disk, 64 * MIB, FileSystem(disk), tmp_path / "mounts")
    ballast.image_why = ""
    ballast.close()
    begin = {
        "file": lambda: ballast.prepare_file(5, MIB),
        "image": lambda: ballast.prepare_image(5, MIB, WHO.uid, WHO.gid),
        "directory": lambda: ballast.prepare_directory(5, MIB, WHO.uid, WHO.gid),
        "lend": lambda: ballast.lend(5, MIB, always),
        "back": lambda: ballast.back(5),
    }
    with pytest.raises(Refusal, match="the daemon is ending"):
        begin[way]()
    assert [*disk.iterdir()] == []


def test_everybody_can_reach_where_file_systems_are_mounted(tmp_path):
    before = os.umask(0o077)
    try:
        scratch._make_reachable(tmp_path / "pen.scratch" / "a")
    finally:
        os.umask(before)
    for made in (tmp_path / "pen.scratch", tmp_path / "pen.scratch" / "a"):
        assert made.stat().st_mode & 0o777 == 0o755


def test_what_was_there_before_keeps_its_mode(tmp_path):
    (tmp_path / "private").mkdir(0o700)
    scratch._make_reachable(tmp_path / "private" / "a")
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("hold", [0, 64 * MIB])
def test_why_exact_is_refused_is_said_in_whole_sentences(hold):
    settings = Settings(ram_hold=hold, ram_handover="paced")
    groups = open_groups(settings)
    assert "restart it" in groups.why_not
    wanted = Settings(ram_hold=hold, ram_handover="exact")
    with pytest.raises(BadSettings) as said:
        ram_wishes(wanted, groups.why_not)
    assert ".." not in str(said.value)
    assert " restart it. Write " in str(said.value)


async def test_status_says_how_long_ago_ballast_was_given_up(start, clock, host):
    # nothing is taken
    host.pressure_percent = 50.0
    pen = await start(host, ram_hold=64 * MIB, ram_policy="yield")
    daemon = pen.daemon
    await pen.until(lambda: not pen.books.resources["ram"].taking)
    assert not daemon._given_up()
    usual = daemon._clock

    def later() -> Moment:
        # as really: trio's clock begins somewhere
        moment = usual()
        return Moment(moment.boot_s + 5000.0, moment.wall_s)

    daemon._clock = later
    daemon._pressed()
    clock.jump(7.0)
    (trouble,) = daemon._given_up()
    assert trouble.startswith("64.0 MiB of the ballast are given up: ")
    assert " 7s ago" in trouble
