"""The Debian package in a clean Debian 13: built, installed, upgraded, purged.

How to run it, and what it costs: trees.py.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from holdingpen.client.blocking import connect

_HERE = Path(__file__).parent


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


trees = _load("trees", _HERE / "trees.py")
machine = _load("booted", _HERE.parent / "systemd" / "machine.py")
worker = _load("worker", _HERE.parent / "systemd" / "worker.py")

pytestmark = [pytest.mark.real, pytest.mark.slow]

#: apt as it is used inside, where there is no network.
APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y")
UNITS = ("holdingpen.socket", "holdingpen.service", "holdingpen-mounter.socket")
#: What a machine writes of itself while it runs.
OWN = ("/proc", "/sys", "/run", "/tmp", "/dev", "/var/cache", "/var/log", "/var/tmp")
#: logind's, and no package's.
LINGER = "/var/lib/systemd/linger"

#: What piuparts does with it, besides to install and purge it.
PIUPARTS = ("--install-remove-install", "--install-purge-install")
#: In a tree that is given, whose apt knows only the package of before.
GIVEN = ("-e", "/base", "-d", "trixie", "--keep-sources-list", "--bindmount=/before")


class Bare(machine.Machine):
    """A machine on which nothing of ours is installed."""

    def _install(self, daemon: str) -> None:
        pass

    def apt(self, *words: str) -> str:
        return self.run(*APT, *words)

    def install(self, deb: Path) -> str:
        shutil.copy(deb, self.shared)
        where = str(self.shared / deb.name)
        return self.apt("install", "--no-install-recommends", where)

    def states(self) -> list[str]:
        return self.try_("systemctl", "is-active", *UNITS).stdout.split()

    def listed(self) -> str:
        return self.run("holdingpenctl", "list")

    def hold(self, label: str) -> None:
        """Have a program run under a lease."""
        words = ["gatekeeper", "--require", "--ram", "16M", "--label", label]
        unit = f"--unit={label}"
        self.run("systemd-run", "--quiet", unit, *words, "sleep", "infinity")
        machine.until(lambda: "sleep infinity" in self.listed(), "it has a lease")

    def files(self) -> set[str]:
        skipped = " -o ".join(f"-path {path}" for path in (*OWN, str(self.home)))
        # what was shown of the machine around is no file of this one
        found = self.run("sh", "-c", f"find / -xdev \\( {skipped} \\) -prune -o -print")
        return set(found.splitlines()) - {LINGER}


@pytest.fixture(scope="module")
def made() -> Iterator[trees.Trees]:
    if why := trees.why_not() or machine.why_not():
        pytest.skip(why)
    both = trees.Trees()
    yield both
    both.close()


@pytest.fixture(scope="module")
def deb(made) -> Path:
    return made.build()


@pytest.fixture(scope="module")
def later(made, deb) -> Path:
    """The same with a higher version."""
    return made.build(trees.NEXT_VERSION, check=False)


@pytest.fixture
def bare(made) -> Iterator[Bare]:
    one = Bare(str(made.installing))
    yield one
    one.close()


@pytest.fixture
def installed(bare, deb) -> Bare:
    bare.install(deb)
    return bare


# what is built


def test_lintian_has_nothing_to_say(made, deb):
    status, said = made.lintian[""]
    assert (status, [x for x in said.splitlines() if x[:2] != "N:"]) == (0, [])


@pytest.mark.parametrize(
    "page",
    [
        "holdingpen.8",
        "gatekeeper.1",
        "holdingpenctl.1",
        "holdingpen.toml.5",
        "holdingpen-protocol.7",
    ],
)
def test_it_has_the_manual_page(made, deb, page):
    listed = made.inside(made.building, "dpkg-deb", "-c", _inside(made, deb))
    assert f"/usr/share/man/man{page[-1]}/{page}.gz" in listed


def test_every_file_in_etc_is_a_conffile(made, deb):
    listed = made.inside(made.building, "dpkg-deb", "-c", _inside(made, deb))
    names = [line.split()[5][1:] for line in listed.splitlines()]
    said = made.inside(made.building, "dpkg-deb", "-I", _inside(made, deb), "conffiles")
    in_etc = [x for x in names if x.startswith("/etc/") and not x.endswith("/")]
    assert sorted(said.split()) == sorted(in_etc)
    assert "/etc/holdingpen.toml" in in_etc


def _inside(made, deb: Path) -> str:
    shutil.copy(deb, made.building / "tmp")
    return f"/tmp/{deb.name}"


# what is installed


def test_installed_it_runs_and_will_at_boot(installed):
    assert installed.states() == ["active"] * 3
    assert installed.run("systemctl", "is-enabled", *UNITS).split() == ["enabled"] * 3
    assert "Nobody holds a lease" in installed.run("holdingpenctl", "status")
    installed.run("gatekeeper", "--require", "true")


def test_a_daemon_started_by_hand_is_found(installed):
    installed.run("systemctl", "stop", *UNITS)
    installed.run("systemd-run", "--quiet", "--unit=byhand", "holdingpen")
    there = lambda: installed.try_("holdingpenctl", "list").returncode == 0  # noqa: E731
    machine.until(there, "the daemon answers")
    assert "Nobody holds a lease" in installed.run("holdingpenctl", "status")


def test_gatekeeper_starts_without_site_packages_and_finds_its_own(installed):
    first = installed.run("head", "-n", "1", "/usr/bin/gatekeeper")
    assert first == "#!/usr/bin/python3 -IS\n"
    installed.write("/tmp/mine/gatekeeper.py", "raise SystemExit('not ours')\n")
    # it is for CMD, and must reach it
    words = ["env", "PYTHONPATH=/tmp/mine", "gatekeeper", "--require", "env"]
    assert "PYTHONPATH=/tmp/mine" in installed.run(*words)


def test_without_a_daemon_gatekeeper_starts_a_private_one(installed):
    installed.run("systemctl", "stop", *UNITS)
    words = ["env", "XDG_RUNTIME_DIR=/tmp/mine", "gatekeeper", "--start", "env"]
    installed.run("mkdir", "-m", "700", "/tmp/mine")
    assert "HOLDINGPEN_LEASE=" in installed.run(*words)


BASH = """\
source /usr/share/bash-completion/bash_completion
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_comp_load "${COMP_WORDS[0]}"
compopt() { :; }
_holdingpen
printf '%s\\n' "${COMPREPLY[@]}"
"""


OFFERED = {
    "gatekeeper --recl": ["--reclaim-signal", "--reclaimable"],
    "gatekeeper --ram 8G -- holdingpenctl jour": ["journal"],
    "gatekeeper --stay holdingpen --che": ["--check-config"],
    "holdingpenctl jour": ["journal"],
}


def test_bash_completes(installed):
    installed.apt("install", "bash-completion")
    bash = ["bash", "--norc", "-O", "extglob", "-c", BASH, "bash"]
    found = {line: sorted(installed.run(*bash, line).split()) for line in OFFERED}
    assert found == OFFERED


# what becomes of it


def test_an_upgrade_loses_no_lease_and_no_reservation(installed, later):
    words = ["reserve", "--ram", "64M", "-d", "1h", "-r", "kept", "--short"]
    number = installed.run("holdingpenctl", *words).strip()
    installed.hold("held")
    before = installed.listed()
    said = installed.install(later)
    assert installed.states() == ["active"] * 3, said
    assert trees.NEXT_VERSION in installed.run("dpkg", "-s", "holdingpen")
    after = installed.listed()
    assert [x.split()[0] for x in after.splitlines()] == [
        x.split()[0] for x in before.splitlines()
    ]
    assert installed.run("systemctl", "is-active", "held").strip() == "active"
    assert number in after
    installed.run("gatekeeper", "--require", "true")


def test_an_upgrade_under_load_is_a_pause(installed, later):
    """For who has a lease, who waits and who keeps asking: 20 clients."""
    path = installed.outside("/run/holdingpen.socket")
    workers = [worker.Worker(path, {"ram": worker.MIB}) for _ in range(15)]
    machine.until(lambda: all(x.granted for x in workers), "they have a lease")
    workers += [worker.Worker(path, {"machine": 1}) for _ in range(5)]
    machine.until(lambda: all(x.lease for x in workers), "and these a place")
    before = {x.lease for x in workers}
    installed.install(later)
    then = [len(x.answered) for x in workers]
    machine.until(
        lambda: all(len(x.answered) > n for x, n in zip(workers, then, strict=True)),
        "everybody is answered",
    )
    with connect(path) as conn:
        assert {x.id for x in conn.status().leases} == before
    for one in workers:
        one.stop()
    assert [x.failure for x in workers if x.failure] == []
    assert sum(x.doubled for x in workers) == 0


def test_stopped_and_started_again_it_has_all_leases(installed):
    """Since systemd 254, which keeps descriptors even then."""
    path = installed.outside("/run/holdingpen.socket")
    one = worker.Worker(path, {"ram": worker.MIB})
    machine.until(lambda: one.granted, "it has a lease")
    installed.run("systemctl", "stop", "holdingpen.service")
    answered = len(one.answered)
    installed.run("systemctl", "start", "holdingpen.service")
    machine.until(lambda: len(one.answered) > answered + 1, "it is answered")
    assert [int(x.split()[0]) for x in installed.listed().splitlines()[1:]] == [
        one.lease
    ]
    one.stop()
    assert one.failure is None


def test_stopped_it_holds_on_until_its_store_is_cleaned(installed):
    installed.write("/etc/holdingpen.toml", '[ram]\nhold = "64M"\nkeep = 0\n')
    installed.run("systemctl", "reload", "holdingpen.service")
    installed.hold("held")
    installed.run("systemctl", "stop", "holdingpen.service")
    # a connection, what its lease still has of the ballast, and who has what of it
    assert int(installed.show("holdingpen.service", "NFileDescriptorStore")) >= 3
    installed.run("systemctl", "clean", "--what=fdstore", "holdingpen.service")
    assert installed.show("holdingpen.service", "NFileDescriptorStore") == "0"
    installed.run("systemctl", "start", "holdingpen.service")
    assert "sleep infinity" not in installed.listed()
    assert installed.run("systemctl", "is-active", "held").strip() == "active"


def test_an_upgrade_keeps_what_was_configured(installed, later):
    installed.write("/etc/holdingpen.toml", '[ram]\nshare = "2G"\n')
    installed.install(later)
    assert installed.run("cat", "/etc/holdingpen.toml") == '[ram]\nshare = "2G"\n'


def test_a_program_under_a_lease_outlives_the_removal(installed):
    installed.hold("held")
    installed.apt("remove", "holdingpen")
    assert installed.run("systemctl", "is-active", "held").strip() == "active"


def test_removed_it_leaves_configuration_and_journal(installed):
    installed.apt("remove", "holdingpen")
    assert installed.states() == ["inactive"] * 3
    assert installed.show("holdingpen.service", "NFileDescriptorStore") == "0"
    left = {x for x in installed.files() if "holdingpen" in x or "gatekeeper" in x}
    assert {"/etc/holdingpen.toml", "/var/lib/holdingpen/journal"} <= left
    assert not {x for x in left if x.startswith("/usr/")}
    assert installed.try_("test", "-e", "/run/holdingpen.socket").returncode == 1


def test_purged_it_leaves_nothing(bare, deb):
    before, groups = bare.files(), bare.run("getent", "group")
    bare.install(deb)
    bare.hold("held")
    bare.apt("purge", "--autoremove", "holdingpen")
    bare.run("systemctl", "stop", "held")
    assert bare.files() == before
    assert bare.run("getent", "group") == groups
    # the slice stays until the machine is booted anew: it could have programs in it
    units = bare.run("systemctl", "list-units", "--all", "--plain", "--no-legend")
    known = {line.split()[0] for line in units.splitlines() if "holdingpen" in line}
    assert known <= {"holdingpen.slice"}


def test_piuparts_has_nothing_to_say(made, deb, later):
    """Installed, removed, purged and installed again, and upgraded.

    Its mirror is a directory, so it takes half a minute and no network.
    """
    base, before = made.building / "base", made.building / "before"
    subprocess.run(["cp", "-a", str(made.installing), str(base)], check=True)
    words = ("install", "--no-install-recommends")
    made.inside(base, *APT, *words, *trees.WANTED)
    made.inside(made.building, *APT, *words, "piuparts")
    before.mkdir()
    shutil.copy(deb, before)
    made.inside(
        made.building, "sh", "-c", "cd /before && dpkg-scanpackages . >Packages"
    )
    shutil.rmtree(base / "etc/apt/sources.list.d", ignore_errors=True)
    sources = base / "etc/apt/sources.list"
    sources.write_text("deb [trusted=yes] file:/before ./\n")
    words = ("piuparts", *GIVEN, *PIUPARTS, "--skip-minimize", "--no-eatmydata")
    said = made.inside(made.building, *words, _inside(made, later))
    assert "PASS: Installation and purging test" in said
    assert "PASS: Installation, upgrade and purging tests" in said


def test_the_packages_own_test_passes(made, deb):
    """autopkgtest, in the tree where its dependencies are."""
    one = Bare(str(made.building))
    try:
        shutil.copy(deb, one.shared)
        # this machine is the container, which autopkgtest cannot know
        words = ["autopkgtest", "--ignore-restrictions=isolation-container"]
        words += ["--no-built-binaries", str(one.shared / deb.name), "/src/holdingpen/"]
        assert "PASS" in one.run(*words, "--", "null")
    finally:
        one.close()
