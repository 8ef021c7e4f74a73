"""A real systemd as PID 1, on a throw-away copy of this machine.

It lives in fresh namespaces (pid, mount, uts, ipc, cgroup, net) on an overlay of the
running machine's own file system, so nothing has to be installed, and is there in
0.4 s.  Everything written inside is gone with it.  What differs from a machine:

    control groups  version 2 without controllers, where the real machine's controllers
                    are those of version 1: Memory*= and Tasks*= have no effect
    /proc/sys       read-only
    /dev            no disks, no loop devices

`boot.sh` is what runs inside until systemd does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

#: What is tested is the checkout that this file is in, whatever is installed.
CHECKOUT = Path(__file__).parents[2]
UNITS = CHECKOUT / "systemd"

#: Longest wait for something that takes a second on a quiet machine.
PATIENCE_S = 30.0

_NAMESPACES = ("--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net")
_SYSTEMD = "/lib/systemd/systemd"
_NEEDED = ("unshare", "nsenter", "setpriv", "pivot_root", "systemctl")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def why_not() -> str:
    """Why none can be booted here; empty: it can."""
    if os.geteuid() != 0:
        return "only root can boot a systemd"
    for program in _NEEDED:
        if shutil.which(program, path=_PATH) is None:
            return f"{program} is not installed"
    if not Path(_SYSTEMD).exists():
        return "systemd is not installed"
    words = ["unshare", *_NAMESPACES, "--fork", "mount", "--make-rprivate", "/"]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


def until(there: Callable[[], object], what: str) -> None:
    """Wait until `there` gives something true.

    Raises:
        AssertionError: when it never does.
    """
    end_s = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < end_s, f"never: {what}"
        time.sleep(0.01)


class Machine:
    """One that was booted, with the project's units and programs installed."""

    def __init__(self, root: str = "/", daemon: str = "-m holdingpen") -> None:
        """Boot it.

        Args:
            root: the file system to boot, this machine's own or a tree.
            daemon: the words for Python that are /usr/bin/holdingpen.

        Raises:
            AssertionError: when systemd does not come up; with what it said.
        """
        self.home = Path(tempfile.mkdtemp(prefix="boot-"))
        #: Seen inside under this very path.
        self.shared = self.home / "shared"
        self.shared.mkdir()
        scratch = self.home / "scratch"
        scratch.mkdir()
        self.console = self.home / "console"
        self.console.touch()
        self._groups = _make_groups(f"holdingpen-{self.home.name}")
        enter = "".join(
            f"echo $$ >{path}/inner/cgroup.procs; " for path in self._groups
        )
        self._shown = {str(CHECKOUT), sys.prefix, sys.base_prefix, str(self.shared)}
        boot = [str(Path(__file__).with_name("boot.sh")), root, str(scratch)]
        words = ["sh", "-c", f'{enter} exec "$@"', "sh"]
        words += ["setpriv", "--pdeathsig", "KILL", "unshare", *_NAMESPACES]
        words += ["--fork", "--kill-child=KILL", "bash", *boot, str(self.console)]
        words += sorted(path for path in self._shown if path != "/usr")
        with self.console.open("ab") as console:
            self._unshare = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={"PATH": _PATH},
            )
        try:
            self._first = self._find_first()
            until(self._is_up, f"booted: {self.console.read_text(errors='replace')}")
            self._install(daemon)
        except BaseException:
            self.close()
            raise

    def _find_first(self) -> int:
        """The number that PID 1 has outside, once it is systemd."""
        number = self._unshare.pid
        children = Path(f"/proc/{number}/task/{number}/children")

        def found() -> bool:
            assert self._unshare.poll() is None, self.console.read_text()
            with contextlib.suppress(OSError, IndexError):
                child = children.read_text().split()[0]
                return Path(f"/proc/{child}/comm").read_text() == "systemd\n"
            return False

        until(found, "systemd starts")
        return int(children.read_text().split()[0])

    def _is_up(self) -> bool:
        said = self.try_("systemctl", "is-system-running").stdout.strip()
        return said in ("running", "degraded")

    def _install(self, daemon: str) -> None:
        """Put units and programs where a package would, for all users."""
        # as systemd itself does where it is in no container
        self.run("mount", "--make-rshared", "/")
        words = f"PYTHONPATH={CHECKOUT} PYTHONDONTWRITEBYTECODE=1 exec {sys.executable}"
        for name, program in (
            ("holdingpen", daemon),
            ("gatekeeper", "-m gatekeeper"),
            ("holdingpenctl", "-m holdingpen.ctl"),
            ("mounter-of-test", "-m holdingpen.ballast.mounter"),
        ):
            self.write(
                f"/usr/bin/{name}", f'#!/bin/sh\n{words} {program} "$@"\n', mode="755"
            )
        # directories of the copy; those that are shown are the real ones
        above = {str(x) for path in self._shown for x in Path(path).parents}
        self.run("chmod", "a+x", *(x for x in sorted(above) if not self._is_shown(x)))
        system = "/usr/lib/systemd/system"
        # its own Python knows nothing of this checkout
        run = "/usr/bin/mounter-of-test /run/holdingpen.scratch"
        self.write(
            f"{system}/holdingpen-mounter.service.d/test.conf",
            f"[Service]\nExecStart=\nExecStart={run}\n",
        )
        for source, target in (
            (UNITS / "holdingpen.service", system),
            (UNITS / "holdingpen.socket", system),
            (UNITS / "holdingpen.slice", system),
            (UNITS / "holdingpen-mounter.service", system),
            (UNITS / "holdingpen-mounter.socket", system),
            (UNITS / "user" / "holdingpen.service", "/usr/lib/systemd/user"),
            (UNITS / "user" / "holdingpen.socket", "/usr/lib/systemd/user"),
            (UNITS / "holdingpen.sysusers", "/usr/lib/sysusers.d/holdingpen.conf"),
        ):
            self.run("cp", str(source), target)
        self.run("systemd-sysusers", "holdingpen.conf")
        # Wanted by something, as when enabled: else systemd 257 forgets the units, and
        # what they keep, when both are stopped.
        wants = "/run/systemd/system/boot-test.target.wants"
        self.run("mkdir", wants)
        for name in ("holdingpen.service", "holdingpen.socket"):
            self.run("ln", "-s", f"{system}/{name}", wants)
        self.run("systemctl", "daemon-reload")

    def _is_shown(self, path: str) -> bool:
        return any(Path(path).is_relative_to(shown) for shown in self._shown)

    # What is done inside.

    def inside(self, *words: str) -> list[str]:
        """The words that run `words` inside."""
        enter = ["nsenter", "-t", str(self._first), "-m", "-p", "-u", "-i", "-C", "-n"]
        plain = ["env", "-i", "HOME=/root", "LANG=C.UTF-8", f"PATH={_PATH}"]
        return [*enter, "-r", "-w", "--", *plain, "SYSTEMD_PAGER=", *words]

    def try_(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run something inside, whatever comes of it."""
        return subprocess.run(
            self.inside(*words),
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S * 2,
        )

    def run(self, *words: str, given: str = "") -> str:
        """Run something inside that must succeed; returns what it said."""
        ended = self.try_(*words, given=given)
        assert ended.returncode == 0, (
            words,
            ended.stdout,
            ended.stderr,
            self.journal(),
        )
        return ended.stdout

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file inside, and the directories above it."""
        self.run("mkdir", "-p", str(Path(path).parent))
        self.run("sh", "-c", f"cat >{path} && chmod {mode} {path}", given=text)

    def outside(self, path: str) -> str:
        """The path that a file inside has outside."""
        return f"/proc/{self._first}/root{path}"

    def version(self) -> int:
        """That of its systemd: 252."""
        return int(self.run("systemctl", "--version").split()[1].partition("~")[0])

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def journal(self, *words: str) -> str:
        """What is in the journal; words as for journalctl."""
        self.try_("journalctl", "--sync")
        return self.try_("journalctl", "--no-pager", "-o", "cat", *words).stdout

    def close(self) -> None:
        """Kill all that runs inside; nothing is left."""
        self._unshare.send_signal(signal.SIGKILL)
        self._unshare.wait()
        for path in self._groups:
            until(lambda path=path: _removed(path), f"{path} is empty")
        shutil.rmtree(self.home, ignore_errors=True)


def _make_groups(name: str) -> list[Path]:
    """Control groups that systemd will see as the root of all."""
    made = []
    for tree in ("systemd", "unified", "."):
        above = Path("/sys/fs/cgroup", tree)
        if (above / "cgroup.procs").exists():
            (above / name / "inner").mkdir(parents=True)
            made.append(above / name)
    return made


def _removed(group: Path) -> bool:
    for directory, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(directory).rmdir()
    return not group.exists()
