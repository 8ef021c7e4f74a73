"""Debian 13 in a directory: one tree to build the package in, one to install it in.

They are made of a tree that debootstrap made, which is never changed:

    HOLDINGPEN_DEBIAN=make python -m pytest tests/deb      debootstrap is run first
    HOLDINGPEN_DEBIAN=DIR python -m pytest tests/deb       this is the tree

A mirror of Debian must be in reach.  It takes two minutes and 2 GB below $TMPDIR; all
is gone at the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
VARIABLE = "HOLDINGPEN_DEBIAN"
MIRROR = "http://deb.debian.org/debian"

#: What a machine has that is booted.
BOOTED = ["systemd", "systemd-sysv", "libpam-systemd", "dbus", "python3", "procps"]
#: What the package and its tests want besides; it lies ready in the machine, which
#: has no network.
WANTED = [
    "python3-dateutil",
    "python3-msgspec",
    "python3-psutil",
    "python3-sortedcontainers",
    "python3-trio",
    "e2fsprogs",
    "bash-completion",
]
BUILDING = ["build-essential", "fakeroot", "lintian", "mandoc", "groff", "autopkgtest"]

#: The version an upgrade is to.
NEXT_VERSION = "999"

#: Nothing is started in a tree that is not booted.
_NO_SERVICES = "#!/bin/sh\nexit 101\n"
#: What only a checkout has.
_NOT_COPIED = (".git", ".*_cache", ".hypothesis", ".venv", ".coverage*", "__pycache__")

#: Longest wait for a mirror.
PATIENCE_S = 900


def why_not() -> str:
    """Why nothing can be built here; empty: it can."""
    given = os.environ.get(VARIABLE, "")
    if not given:
        return f"{VARIABLE} names no Debian 13 (see tests/deb/trees.py)"
    if os.geteuid() != 0:
        return "only root can change its root directory"
    if given == "make":
        found = shutil.which("debootstrap")
        return "" if found else "debootstrap is not installed"
    return "" if Path(given, "usr/bin/apt-get").exists() else f"no Debian in {given}"


class Trees:
    """The two trees, and the packages that were built."""

    def __init__(self) -> None:
        """Make them; this takes a minute."""
        self.home = Path(tempfile.mkdtemp(prefix="holdingpen-deb-"))
        self.installing = self.home / "installing"
        self.building = self.home / "building"
        #: What lintian said and its status, by version.
        self.lintian: dict[str, tuple[int, str]] = {}
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        given = os.environ[VARIABLE]
        if given == "make":
            words = ["debootstrap", "--variant=minbase", "trixie"]
            _run([*words, str(self.installing), MIRROR])
        else:
            _run(["cp", "-a", given, str(self.installing)])
        for name in ("resolv.conf", "hosts"):
            shutil.copy(f"/etc/{name}", self.installing / "etc" / name)
        policy = self.installing / "usr/sbin/policy-rc.d"
        policy.write_text(_NO_SERVICES)
        policy.chmod(0o755)
        self.inside(self.installing, "apt-get", "update")
        self._install(self.installing, *BOOTED)
        _run(["cp", "-a", str(self.installing), str(self.building)])
        self._install(self.installing, "--download-only", *WANTED)
        source = self.building / "src/holdingpen"
        ignored = shutil.ignore_patterns(*_NOT_COPIED)
        shutil.copytree(CHECKOUT, source, ignore=ignored, symlinks=True)
        self._install(self.building, *BUILDING)
        self.inside(self.building, *_APT, "build-dep", "-y", "/src/holdingpen")
        # both are booted from now on
        for tree in (self.installing, self.building):
            (tree / "usr/sbin/policy-rc.d").unlink()

    def _install(self, tree: Path, *words: str) -> None:
        self.inside(tree, *_APT, "install", "-y", *words)

    def inside(self, tree: Path, *words: str) -> str:
        """Run something in a tree that must succeed; returns what it said."""
        script = 'mount -t proc proc "$0/proc" && exec chroot "$0" env -u TMPDIR "$@"'
        return _run(["unshare", "--mount", "sh", "-c", script, str(tree), *words])

    def build(self, version: str = "", *, check: bool = True) -> Path:
        """Build the package as it is, or as another version.

        Args:
            version: empty: that of debian/changelog.
            check: whether its tests are run and lintian is asked.
        """
        if version:
            changelog = self.building / "src/holdingpen/debian/changelog"
            first, _, rest = changelog.read_text().partition("\n")
            before, _, after = first.partition("(")
            after = after.partition(")")[2]
            changelog.write_text(f"{before}({version}){after}\n{rest}")
        for old in (self.building / "src").glob("holdingpen_*"):
            old.unlink()
        options = "" if check else "nocheck"
        build = f"cd /src/holdingpen && DEB_BUILD_OPTIONS={options} "
        self.inside(
            self.building, "sh", "-c", build + "dpkg-buildpackage -us -uc -b 2>&1"
        )
        if check:
            lint = "lintian -EvI --pedantic --allow-root /src/*.changes 2>&1; echo $?"
            said = self.inside(self.building, "sh", "-c", lint)
            said, _, status = said.rstrip().rpartition("\n")
            self.lintian[version] = int(status or said), said
        (made,) = (self.building / "src").glob("holdingpen_*.deb")
        return made.rename(self.home / made.name)

    def close(self) -> None:
        """Remove both."""
        shutil.rmtree(self.home, ignore_errors=True)


_APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--no-install-recommends")


def _run(words: list[str]) -> str:
    ended = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert ended.returncode == 0, (words, ended.stdout[-4000:], ended.stderr[-4000:])
    return ended.stdout
