"""Start, reload, time, end; and the command line."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest
import trio

from holdingpen.ballast.disk import DiskBallast, open_disk_ballast
from holdingpen.daemon import run
from holdingpen.daemon.connections import Connections
from holdingpen.daemon.daemon import first_error
from holdingpen.devices.filesystem import FileSystem
from holdingpen.errors import Damage, Unavailable
from holdingpen.wire import messages as wire

MIB = 2**20
GIB = 2**30


# Start.


async def test_the_socket_is_there_with_its_mode_when_ready_is_said(start):
    pen = await start(mode=0o640)
    assert pen.told.words == ["ready"]
    assert stat.S_IMODE(pen.daemon.socket.stat().st_mode) == 0o640


async def test_a_second_daemon_on_the_same_socket_is_refused(start):
    pen = await start()
    with pytest.raises(Unavailable, match="another daemon serves") as refused:
        await start(state="other")
    assert refused.value.exit_status == 75
    assert isinstance(await (await pen.client()).acquire(cpu=1), wire.Granted)


async def test_a_second_daemon_on_the_same_state_is_refused(start):
    pen = await start()
    with pytest.raises(Unavailable) as refused:
        await start(name="t")
    assert (refused.value.code, refused.value.exit_status) == ("locked", 75)
    assert isinstance(await (await pen.client()).acquire(cpu=1), wire.Granted)


async def test_a_damaged_journal_stops_the_start_before_anybody_is_let_in(
    start, tmp_path
):
    await (await start()).stop()
    journal = tmp_path / "state" / "journal"
    journal.write_bytes(b"no journal" + journal.read_bytes()[10:])
    with pytest.raises(Damage):
        await start()
    assert not (tmp_path / "s").exists()


async def test_after_the_end_the_socket_is_gone(start):
    pen = await start()
    await pen.stop()
    assert not pen.daemon.socket.exists()


# Signals.


async def test_sigterm_ends_it(start):
    pen = await start()
    signal.raise_signal(signal.SIGTERM)
    await pen.over.wait()
    assert pen.told.words == ["ready", "stopping"]
    assert pen.failure is None


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "x.toml"
    path.write_text('[ram]\ncapacity = "16G"\nkeep = "0"\n')
    return path


async def reload(pen) -> None:
    said = len(pen.told.words)
    signal.raise_signal(signal.SIGHUP)
    while len(pen.told.words) < said + 2:
        await trio.lowlevel.checkpoint()
    assert pen.told.words[said:] == ["reloading", "ready"]


async def test_reload_applies_a_good_configuration(start, config):
    pen = await start(config=config)
    client = await pen.client()
    await client.acquire(ram=3 * GIB)
    config.write_text(
        '[daemon]\nhello_within = "3s"\n[ram]\ncapacity = "4G"\nkeep = "0"\n'
        'hold = "512M"\nshare = "1M"\n[resources]\nlicence = 3\n'
        "[line]\nleases_per_user_max = 3\n"
    )
    await reload(pen)
    assert (await client.acquire()).amounts == {"ram": MIB}
    assert isinstance(await client.acquire(licence=3), wire.Granted)
    assert (await client.acquire(cpu=1)).code == "limit"
    books = await client.books("ram")
    assert (books.capacity, books.hold) == (4 * GIB, 512 * MIB)
    assert pen.daemon.connections.limits.hello_within_s == 3.0


@pytest.mark.parametrize("bad", ["[ram]\nhodl = 1\n", "[ram]\ncapacity = -1\n", "\xff"])
async def test_reload_of_a_bad_configuration_changes_nothing(start, config, bad, capfd):
    pen = await start(config=config)
    before = pen.daemon._settings, pen.daemon.keeper.pen.rules
    config.write_bytes(bad.encode("latin-1"))
    await reload(pen)
    assert before == (pen.daemon._settings, pen.daemon.keeper.pen.rules)
    said = capfd.readouterr().err
    assert str(config) in said
    assert "The configuration in force stays." in said
    # and who did not look into the log sees it until it is mended
    client = await pen.client()
    (trouble,) = (await client.ask(wire.GetStatus)).troubles
    assert trouble.startswith("the configuration in force is older")
    config.write_text("")
    await reload(pen)
    assert (await client.ask(wire.GetStatus)).troubles == []


async def test_a_resource_taken_out_on_reload_lends_nothing_new(start, config):
    config.write_text("[resources]\nlicence = 3\n")
    pen = await start(config=config, resources={"licence": 3})
    client = await pen.client()
    await client.acquire(licence=2)
    config.write_text("")
    await reload(pen)
    assert (await client.acquire(licence=1)).code == "never-fits"
    assert list(pen.books.leases) == [1]


# Time.


async def test_who_says_no_hello_in_time_is_hung_up_on(start, clock):
    pen = await start(hello_within_s=5.0)
    silent, polite = await pen.connect(), await pen.client()
    await pen.until(lambda: len(pen.daemon.connections) == 2)
    clock.jump(5.1)
    assert b"no Hello within 5 s" in await silent.receive_some()
    assert await silent.receive_some() == b""
    assert isinstance(await polite.acquire(cpu=1), wire.Granted)


async def test_it_ends_when_idle_for_long_enough(start, clock, capfd):
    pen = await start(idle_s=60.0)
    clock.jump(59.0)
    await trio.testing.wait_all_tasks_blocked()
    assert not pen.over.is_set()
    clock.jump(2.0)
    await pen.over.wait()
    assert pen.failure is None
    assert not pen.daemon.socket.exists()
    assert "idle for 61 s" in capfd.readouterr().err


async def test_while_somebody_is_connected_it_is_not_idle(start, clock):
    pen = await start(idle_s=60.0)
    client = await pen.client()
    clock.jump(1000.0)
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(await client.acquire(cpu=1), wire.Granted)
    await client.close()
    await pen.until(lambda: not len(pen.daemon.connections))
    clock.jump(59.0)
    await trio.testing.wait_all_tasks_blocked()
    assert not pen.over.is_set()
    clock.jump(2.0)
    await pen.over.wait()


async def test_who_comes_in_at_the_last_moment_is_served(start, clock):
    pen = await start(idle_s=60.0)
    clock.jump(61.0)
    client = await pen.client()
    assert isinstance(await client.acquire(cpu=1), wire.Granted)
    assert not pen.over.is_set()


async def test_who_comes_in_as_it_ends_is_served_and_so_are_those_after(
    start, clock, monkeypatch, new_caller
):
    """The socket was gone then, while that one ran for days."""
    pen = await start(idle_s=60.0)
    count = Connections.__len__

    def count_and_come(connections):
        found = count(connections)
        monkeypatch.undo()
        new_caller(pen.daemon.socket).say(wire.Hello(wire.VERSION))
        return found

    monkeypatch.setattr(Connections, "__len__", count_and_come)
    clock.jump(61.0)
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(await (await pen.client()).acquire(cpu=1), wire.Granted)


async def test_a_watcher_hears_the_line_move(start):
    pen = await start()
    watcher, client = await pen.client(), await pen.client()
    assert isinstance(await watcher.ask(wire.Watch), wire.Done)
    await client.acquire(cpu=8)
    await client.acquire(cpu=8)
    await client.ask(wire.Release, lease=1)
    told = []
    while len(told) < 4:
        happened = await watcher.next()
        if happened.what != "seen":
            told.append((happened.what, happened.lease))
    assert told == [("granted", 1), ("joined", 2), ("ended", 1), ("granted", 2)]


async def test_verbose_logs_every_fact(start, capfd):
    pen = await start()
    pen.daemon._options = pen.daemon._options._replace(verbose=True)
    client = await pen.client()
    await client.ask(wire.Acquire, amounts={"cpu": 1}, label="a\nb")
    (line,) = capfd.readouterr().err.splitlines()[-1:]
    assert line.startswith("holdingpen: granted 1 ")
    assert r"a\nb" in line


def test_the_first_error_of_a_nursery_is_what_it_ended_with():
    one, two = ValueError("one"), ValueError("two")
    inner = ExceptionGroup("", [one, two])
    assert one is first_error(ExceptionGroup("", [inner, two]))


def test_check_config_says_good(config, capsys):
    assert run.main(["--check-config", "--config", str(config)]) == 0
    assert f"{config}: good\n" == capsys.readouterr().out


def with_disks(config: Path, *disks: Path) -> list[str]:
    """The words that give back what is held on `disks`."""
    tables = [f'[disk.d{n}]\npath = "{disk}"\n' for n, disk in enumerate(disks)]
    config.write_text(f'[daemon]\nsocket = "{config.parent}/s"\n' + "".join(tables))
    return ["--give-back", "--config", str(config)]


def hold(disk: Path, mounts: Path) -> DiskBallast:
    disk.mkdir()
    ballast = open_disk_ballast(disk, 8 * MIB, FileSystem(disk), mounts)
    ballast.adopt()
    ballast.take(8 * MIB, lambda step: True)
    ballast.prepare_directory(5, MIB, os.geteuid(), os.getegid())
    return ballast


def test_what_a_stopped_daemon_holds_is_given_back(config, tmp_path, capsys):
    disks = [tmp_path / "one", tmp_path / "two"]
    for disk in disks:
        hold(disk, tmp_path / "s.scratch" / "d0").leave()
    words = with_disks(config, *disks)
    assert run.main(words) == 0
    assert [[*disk.iterdir()] for disk in disks] == [[], []]
    said = capsys.readouterr().out
    assert ".holdingpen-leases/5: removed." in said
    assert f"[disk.d1]: nothing is held in {disks[1]}\n" in said
    # and there is nothing to do any more
    assert run.main(words) == 0


def test_what_a_running_daemon_holds_is_not_given_back(config, tmp_path, capsys):
    """Nor what is on a disk that is not there; others are given back all the same."""
    busy, gone, other = (tmp_path / name for name in ("busy", "gone", "other"))
    daemon = hold(busy, tmp_path / "s.scratch" / "d0")
    hold(other, tmp_path / "s.scratch" / "d2").leave()
    assert run.main(with_disks(config, busy, gone, other)) == 69
    errors = capsys.readouterr().err
    assert "another daemon does so" in errors
    assert str(gone) in errors
    assert daemon._pool.size == 8 * MIB
    assert [*other.iterdir()] == []
    daemon.close()


def test_check_config_says_what_is_wrong(config, capsys):
    config.write_text("[ram]\nhodl = 1\n")
    assert run.main(["--check-config", "--config", str(config)]) == 65
    said = capsys.readouterr().err
    assert said.startswith(f"holdingpen: {config}, line 2: unknown key 'hodl'")
