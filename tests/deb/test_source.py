"""What debian/ says agrees with the rest of the source."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import holdingpen

ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "debian"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONTROL = (DEBIAN / "control").read_text()


def names(field: str) -> set[str]:
    """The packages of a field of the binary package."""
    binary = CONTROL.partition("\nPackage: ")[2]
    value = re.search(rf"^{field}:((?:.*\n)(?: .*\n)*)", binary, re.MULTILINE)
    assert value is not None
    return {word.split()[0] for word in value[1].split(",")}


def packaged(requirements: list[str]) -> set[str]:
    bare = [
        re.split(r"[>=<\[ ]", line)[0].removeprefix("python-") for line in requirements
    ]
    return {"python3-" + name for name in bare}


def test_the_changelog_begins_with_this_version():
    first = (DEBIAN / "changelog").read_text().partition("\n")[0]
    assert first.startswith(f"holdingpen ({holdingpen.__version__}) ")
    assert PROJECT["version"] == holdingpen.__version__


def test_it_depends_on_what_the_project_depends_on():
    python = {name for name in names("Depends") if name.startswith("python3-")}
    assert python == packaged(PROJECT["dependencies"])


def test_it_suggests_what_is_optional():
    optional = PROJECT["optional-dependencies"]
    # Debian's name for nvidia-ml-py is that of its module
    assert names("Suggests") == {*packaged(optional["timetable"]), "python3-pynvml"}


def test_every_unit_goes_where_systemd_looks(tmp_path):
    subprocess.run([DEBIAN / "install-units", tmp_path], cwd=ROOT, check=True)
    found = {str(x.relative_to(tmp_path)) for x in tmp_path.rglob("*") if x.is_file()}
    units = ROOT / "systemd"
    expected = {
        f"usr/lib/systemd/system/{path.name}"
        for path in units.iterdir()
        if path.suffix in (".service", ".socket", ".slice")
    }
    expected |= {f"usr/lib/systemd/user/{x.name}" for x in (units / "user").iterdir()}
    for kind in ("sysusers", "tmpfiles"):
        if (units / f"holdingpen.{kind}").exists():
            expected.add(f"usr/lib/{kind}.d/holdingpen.conf")
    assert found == expected


def test_the_slice_is_never_restarted():
    """It has the programs of leases in it, which a restart would end."""
    called = re.findall(
        r"^\tdh_installsystemd (.*)$", (DEBIAN / "rules").read_text(), re.MULTILINE
    )
    assert called == ["holdingpen.service holdingpen.socket holdingpen-mounter.socket"]
