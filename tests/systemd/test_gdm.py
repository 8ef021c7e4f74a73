"""The real gdm, as Debian 13 has it, with our hooks: who logs in at its screen.

It needs gdm3 and xvfb, on this machine or in the tree that HOLDINGPEN_TEST_ROOT names:

    debootstrap --variant=minbase trixie DIR
    packages="systemd-sysv libpam-systemd dbus-user-session gdm3 xvfb"
    chroot DIR apt-get install --no-install-recommends $packages
    HOLDINGPEN_TEST_ROOT=DIR python -m pytest tests/systemd/test_gdm.py

Of gdm nothing is replaced: it logs ada in by itself, as AutomaticLogin= says.  Her
screen is Xvfb, under the name of Xorg, as there is no graphics card; and gdm waits 10 s
for one each time.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location(
    "machine", Path(__file__).with_name("machine.py")
)
assert _spec is not None
assert _spec.loader is not None
booting: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(booting)

pytestmark = [pytest.mark.real, pytest.mark.root, pytest.mark.slow]

ROOT = os.environ.get("HOLDINGPEN_TEST_ROOT", "/")
NEEDED = ("usr/sbin/gdm3", "usr/libexec/gdm-x-session", "usr/bin/Xvfb")
HOOKS = booting.CHECKOUT / "systemd" / "gdm"
INSTALLED = "/usr/share/holdingpen/gdm"

CONFIGURED = """\
[daemon]
WaylandEnable=false
AutomaticLoginEnable=true
AutomaticLogin=ada
[debug]
Enable=true
"""

#: Xvfb knows two of the options that gdm gives Xorg.
XORG = """\
#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
    -displayfd) fd=$2 ;;
    -auth) auth=$2 ;;
    esac
    shift
done
exec Xvfb -displayfd "$fd" -auth "$auth"
"""

OFFERED = """\
[Desktop Entry]
Type=Application
Name=Tiny
Exec=/usr/bin/tiny-session
"""

#: The first thing she does is to look.
SESSION = """\
#!/bin/sh
timeout 1 holdingpenctl status --json >/tmp/seen 2>&1
echo $$ >/tmp/session
exec sleep infinity
"""

#: Who sits at the machine is what the hooks say.
WITHOUT_LOGIND = "[console]\nlogind = false\n"


class Screen:
    """A machine with gdm on its only seat."""

    def __init__(self) -> None:
        self.machine = booting.Machine(ROOT)
        run, write = self.machine.run, self.machine.write
        # no consoles to switch between: gdm would want /dev/tty0
        run("mount", "-t", "tmpfs", "tmpfs", "/sys/class/tty")
        run("useradd", "--create-home", "ada")
        run("sh", "-c", "rm -rf /usr/share/xsessions /usr/bin/X /usr/bin/Xorg")
        write("/usr/share/xsessions/tiny.desktop", OFFERED)
        write("/usr/bin/tiny-session", SESSION, mode="755")
        for name in ("X", "Xorg"):
            write(f"/usr/bin/{name}", XORG, mode="755")
        write("/etc/gdm3/daemon.conf", CONFIGURED)
        units = ("systemd-logind.service", "systemd-user-sessions.service")
        run("systemctl", "start", "holdingpen.socket", *units)

    def call_hooks(self, *, installed: bool = True) -> None:
        """Do what they say in their heads: call them from the site's scripts."""
        for name, site in (("pre", "PreSession"), ("post", "PostSession")):
            hook = HOOKS / f"holdingpen-{name}session"
            if installed:
                self.machine.run("install", "-D", "-t", INSTALLED, str(hook))
            said = hook.read_text().splitlines()
            call = [x.removeprefix("#     ") for x in said if x.startswith("#     ")]
            path = f"/etc/gdm3/{site}/Default"
            lines = self.machine.run("cat", path).splitlines()
            at = lines.index("exit 0") if "exit 0" in lines else len(lines)
            text = "\n".join([*lines[:at], *call, *lines[at:], ""])
            self.machine.write(path, text, mode="755")

    def log_in(self) -> None:
        """Have gdm do it, and wait for her program."""
        self.machine.run("systemctl", "start", "gdm.service")
        self.until(lambda: self.read("/tmp/session"), "she is logged in")

    def log_out(self) -> None:
        self.machine.run("sh", "-c", "kill $(cat /tmp/session)")

    def read(self, path: str) -> str:
        return str(self.machine.try_("cat", path).stdout)

    def seated(self) -> list[str]:
        return users(self.machine.run("holdingpenctl", "status", "--json"))

    def until(self, there: Callable[[], object], what: str) -> None:
        try:
            booting.until(there, what)
        except AssertionError as error:
            raise AssertionError(self.machine.journal()[-8000:]) from error


def users(status: str) -> list[str]:
    return [x["user"] for x in json.loads(status)["seated"]]


def why_not() -> str:
    """Why gdm cannot be started; empty: it can."""
    missing = [x for x in NEEDED if not Path(ROOT, x).exists()]
    return f"no {missing[0]} below {ROOT}" if missing else str(booting.why_not())


@pytest.fixture
def screen() -> Iterator[Screen]:
    if why := why_not():
        pytest.skip(why)
    screen = Screen()
    yield screen
    screen.machine.close()


def test_she_sits_here_before_her_session_begins_until_it_ends(screen):
    screen.machine.write("/etc/holdingpen.toml", WITHOUT_LOGIND)
    screen.call_hooks()
    screen.log_in()
    assert users(screen.read("/tmp/seen")) == ["ada"]
    assert screen.seated() == ["ada"]
    screen.log_out()
    screen.until(lambda: screen.seated() == [], "nobody sits here")


def test_without_hooks_it_is_known_from_logind(screen):
    screen.log_in()
    screen.until(lambda: screen.seated() == ["ada"], "she sits here")
    screen.log_out()
    screen.until(lambda: screen.seated() == [], "nobody sits here")


def test_when_gdms_worker_is_killed_her_seat_ends_with_her_session(screen):
    """PostSession is not run then."""
    screen.machine.write("/etc/holdingpen.toml", WITHOUT_LOGIND)
    screen.call_hooks()
    hook = f"{INSTALLED}/holdingpen-postsession"
    screen.machine.write(hook, "#!/bin/sh\n: >/tmp/after\n", "755")
    screen.log_in()
    assert screen.seated() == ["ada"]
    words = ("show-seat", "--value", "--property=Sessions", "seat0")
    (session,) = screen.machine.run("loginctl", *words).split()
    killed = ("--signal=KILL", "--kill-whom=leader", session)
    screen.machine.run("loginctl", "kill-session", *killed)
    screen.until(lambda: screen.seated() == [], "nobody sits here")
    assert screen.machine.try_("test", "-e", "/tmp/after").returncode


def test_a_daemon_that_does_not_answer_stops_no_login(screen):
    screen.machine.write("/etc/holdingpen.toml", WITHOUT_LOGIND)
    screen.call_hooks()
    screen.machine.run("systemctl", "start", "holdingpen.service")
    stop = ("kill", "--signal=STOP", "--kill-whom=main", "holdingpen.service")
    screen.machine.run("systemctl", *stop)
    screen.log_in()


def test_when_the_hooks_are_removed_logins_go_on(screen):
    """The site's scripts are conffiles, and still call them."""
    screen.call_hooks(installed=False)
    screen.log_in()
