"""A small virtual machine: cgroup v2, PSI, swap, and an OOM killer of its own.

    python tests/real/vm/run.py -- CMD [ARG...]
    python tests/real/vm/run.py --kernel 6.12 --swap 512 -- python -m pytest ...

CMD runs as root on a Debian kernel under qemu, without hardware virtualisation, in
the current directory: the guest sees the host's files as they are.  What it writes
goes to a layer in its memory and is gone at the end; only what it prints comes back,
and its exit status.  From a test:

    vm = load tests/real/vm/run.py, see tests/real/test_samegroup.py
    if why := vm.why_not("6.1"):
        pytest.skip(why)
    said = vm.run_in_vm("cat /proc/meminfo", kernel="6.1", memory_mb=900)

A boot and a halt take 6 s on a quiet machine, importing trio in it 4 s: everything is
some 20 times slower, so amounts mean something there and durations do not.  There is no
systemd, no network but `lo`, and no disk; `disk_mb` adds an empty one, /dev/scratch.

Needs qemu-system-x86_64 (Debian: qemu-system-x86) and apt, whose ordinary archive
the kernel comes from, once: 80 to 120 MB, of which 14 are kept in
$HOLDINGPEN_VM_CACHE, else in the directory for temporary files.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Kernel to the Debian release that has it.
KERNELS = {"6.1": "bookworm", "6.12": "trixie"}

ARCHIVE = "http://deb.debian.org/debian"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TOOLS = ("qemu-system-x86_64", "apt-get", "apt-cache", "dpkg-deb")

#: What the guest needs that Debian builds as modules; each brings what it depends on.
MODULES = ("virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "overlay", "zram", "ext4")

#: In the initramfs, beside what is copied there.
DIRECTORIES = ("bin", "proc", "sys", "dev", "root", "host", "layer", "modules")

CHECKOUT = Path(__file__).parents[3]
GUEST_INIT = Path(__file__).with_name("guest-init.sh")


class VmError(Exception):
    """The machine cannot be had, or what ran in it failed; the message says all."""


class Ended(NamedTuple):
    """What came of a run."""

    #: The command's exit status; None when the machine died before it.
    status: int | None
    #: What it printed, both streams; empty when that was not captured.
    said: str
    #: What the kernel said.
    console: str


def run_in_vm(
    script: str,
    *,
    kernel: str = "6.1",
    memory_mb: int = 900,
    timeout_s: float = 120,
    swap_mb: int = 0,
    disk_mb: int = 0,
) -> str:
    """Run a bash script in a virtual machine, as root; return what it printed.

    Raises:
        VmError: when the machine cannot be had, the script fails, or time is over.
    """
    machine = Machine(kernel, memory_mb, swap_mb, disk_mb)
    ended = machine.run(script, timeout_s)
    if ended.status != 0:
        raise VmError(
            f"the script ended with {ended.status} on Linux {kernel}; it said\n"
            f"{ended.said}\nand the kernel's last words were\n{ended.console[-4000:]}"
        )
    return ended.said


def why_not(kernel: str) -> str:
    """One sentence on why there is no machine with this kernel; empty: there is."""
    try:
        boot_files(kernel)
    except VmError as error:
        return str(error)
    return ""


class Machine:
    """A machine that can be run, from its boot on, any number of times."""

    def __init__(
        self, kernel: str, memory_mb: int = 900, swap_mb: int = 0, disk_mb: int = 0
    ) -> None:
        self._boot = boot_files(kernel)
        self._memory_mb = memory_mb
        self._disks = {"swap": swap_mb, "scratch": disk_mb}

    def run(self, script: str, timeout_s: float, *, capture: bool = True) -> Ended:
        """Boot, run `script` with bash in this directory, and halt.

        With `capture` false it prints as it goes, to our own standard output.

        Raises:
            VmError: when it takes longer than `timeout_s`.
        """
        with tempfile.TemporaryDirectory(prefix="holdingpen-vm-") as name:
            here = Path(name)
            (here / "script").write_text(_prologue() + script + "\n")
            try:
                done = subprocess.run(
                    [*self._qemu(here)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if capture else None,
                    stderr=subprocess.PIPE,
                    timeout=timeout_s,
                )
            except subprocess.TimeoutExpired as late:
                said = (late.stdout or b"").decode(errors="replace")
                raise VmError(
                    f"not done after {timeout_s:g} s; it said\n{said}\nand the "
                    f"kernel's last words were\n{_read(here / 'console')[-4000:]}"
                ) from late
            if done.returncode:
                raise VmError(f"qemu: {done.stderr.decode(errors='replace')}")
            words = _read(here / "status").split()
            return Ended(
                int(words[0]) if words else None,
                (done.stdout or b"").decode(errors="replace"),
                _read(here / "console"),
            )

    def _qemu(self, here: Path) -> Iterator[str]:
        kernel, initramfs = self._boot
        # the kernel unpacks one archive after the other, if it begins at a word
        init = _cpio({"init": GUEST_INIT.read_bytes()})
        (here / "initramfs").write_bytes(init + initramfs.read_bytes())
        # thread=multi: the guest's kernel panics now and then
        yield from ("qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", "max")
        yield from (
            "-smp",
            "2",
            "-m",
            str(self._memory_mb),
            "-nodefaults",
            "-no-reboot",
        )
        yield from ("-display", "none", "-serial", f"file:{here / 'console'}")
        yield from ("-serial", "stdio", "-serial", f"file:{here / 'status'}")
        yield from ("-virtfs", "local,path=/,mount_tag=host,security_model=none,"
                    "readonly=on,multidevs=remap")  # fmt: skip
        for serial, size_mb in self._disks.items():
            if size_mb:
                with (here / serial).open("wb") as image:
                    image.truncate(size_mb * 2**20)
                drive = f"file={here / serial},format=raw,cache=unsafe,if=none"
                yield from ("-drive", f"{drive},id={serial}")
                yield from ("-device", f"virtio-blk,drive={serial},serial={serial}")
        yield from ("-kernel", str(kernel), "-initrd", str(here / "initramfs"))
        yield "-append"
        yield (
            f"console=ttyS0 quiet panic=-1 psi=1 rdinit=/init "
            f"holdingpen.script={here / 'script'}"
        )


def _prologue() -> str:
    """Lines that give the guest this process's way to find programs and modules."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    lines = [
        f"export PATH={shlex.quote(path)} HOME=/root LANG=C.UTF-8 TERM=dumb",
        f"cd {shlex.quote(str(Path.cwd()))}",
    ]
    modules = f"{CHECKOUT}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")
    lines.append(f"export PYTHONPATH={shlex.quote(modules)}")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def boot_files(kernel: str) -> tuple[Path, Path]:
    """The kernel and its tools' initramfs, fetched and built the first time.

    Raises:
        VmError: when a tool is missing, or the kernel cannot be had.
    """
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise VmError(f"a virtual machine needs {', '.join(missing)}")
    if not os.path.lexists("/bin/bash"):
        raise VmError("a virtual machine shares the host's files: it needs /bin/bash")
    cache = _cache()
    # other modules are another initramfs
    place = cache / f"{kernel}-{zlib.crc32(' '.join(MODULES).encode()):08x}"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=cache) as name:
            _build(kernel, Path(name))
            with contextlib.suppress(FileExistsError):
                (Path(name) / "boot").rename(place)
    return place / "vmlinuz", place / "initramfs"


def _cache() -> Path:
    named = os.environ.get("HOLDINGPEN_VM_CACHE")
    default = Path(tempfile.gettempdir()) / f"holdingpen-vm-{os.getuid()}"
    cache = Path(named) if named else default
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    if cache.stat().st_uid != os.getuid():
        raise VmError(f"{cache} belongs to somebody else; set HOLDINGPEN_VM_CACHE")
    return cache


def _build(kernel: str, work: Path) -> None:
    apt = _apt(KERNELS[kernel], work)
    depends = _called([*apt("apt-cache"), "show", "linux-image-amd64"])
    package = re.search(r"^Depends: (linux-image-\S+)", depends, re.MULTILINE)
    if package is None:
        raise VmError(f"{ARCHIVE} {KERNELS[kernel]} has no linux-image-amd64")
    for name in (package[1], "busybox-static"):
        _called([*apt("apt-get"), "download", name], cwd=work)
    for deb in work.glob("*.deb"):
        _called(["dpkg-deb", "-x", str(deb), str(work / "tree")])
    boot = work / "boot"
    boot.mkdir()
    (vmlinuz,) = (work / "tree").glob("boot/vmlinuz-*")
    shutil.copy(vmlinuz, boot / "vmlinuz")
    modules = _modules(work / "tree")
    files = {
        "bin/busybox": next((work / "tree").rglob("bin/busybox")).read_bytes(),
        "modules/order": "".join(f"{name}\n" for name in modules).encode(),
        **{f"modules/{name}": content for name, content in modules.items()},
    }
    (boot / "initramfs").write_bytes(gzip.compress(_cpio(files), 1))


def _apt(release: str, work: Path):
    """apt's programs, looking at one release and keeping their files in `work`."""
    if not KEYS.exists():
        raise VmError(f"cannot fetch a kernel: no {KEYS} (debian-archive-keyring)")
    (work / "lists/partial").mkdir(parents=True)
    (work / "cache/archives/partial").mkdir(parents=True)
    (work / "sources").write_text(f"deb [signed-by={KEYS}] {ARCHIVE} {release} main\n")
    options = {
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Dir::Cache": work / "cache",
        "Dir::Etc::SourceList": work / "sources",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": work / "lists",
    }
    words = [
        word for key, value in options.items() for word in ("-o", f"{key}={value}")
    ]

    def program(name: str) -> list[str]:
        return [name, "-q", *words]

    _called([*program("apt-get"), "update", "--error-on=any"])
    return program


def _called(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip() or "no word").splitlines()[-1]
        raise VmError(f"cannot fetch a kernel: {command[0]} {command[-1]}: {last}")
    return done.stdout


def _modules(tree: Path) -> dict[str, bytes]:
    """The modules, uncompressed, each after those it depends on."""
    # there is no modules.dep in the package: it is made when that is installed
    stored = {_module_name(path): path for path in tree.rglob("*.ko*")}
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        path = stored.get(name)
        # one that is not there is built in
        if path is None or f"{name}.ko" in found:
            return
        content = path.read_bytes()
        if path.suffix == ".xz":
            content = lzma.decompress(content)
        if depends := re.search(rb"\0depends=([^\0]+)", content):
            for other in depends[1].decode().split(","):
                add(other.replace("-", "_"))
        found[f"{name}.ko"] = content

    for module in MODULES:
        add(module)
    return found


def _module_name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _cpio(files: dict[str, bytes]) -> bytes:
    """An archive as the kernel unpacks it: initramfs-buffer-format.rst, "newc"."""
    entries = [(name, 0o040755, b"") for name in DIRECTORIES]
    entries += [(name, 0o100755, content) for name, content in files.items()]
    entries.append(("TRAILER!!!", 0, b""))
    archive = bytearray()
    for number, (name, mode, content) in enumerate(entries, 1):
        # ino, mode, uid, gid, links, time, size, four device numbers, name, checksum
        head = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        archive += b"070701" + b"".join(b"%08x" % field for field in head)
        archive += name.encode() + b"\0"
        archive += b"\0" * (-len(archive) % 4)
        archive += content
        archive += b"\0" * (-len(archive) % 4)
    return bytes(archive)


def main() -> int:
    """The command line, as in the first lines of this file."""
    parser = argparse.ArgumentParser(description="Run CMD in a small virtual machine.")
    parser.add_argument("--kernel", choices=KERNELS, default="6.1")
    parser.add_argument("--memory", type=int, default=900, metavar="MB")
    parser.add_argument("--swap", type=int, default=0, metavar="MB")
    parser.add_argument("--disk", type=int, default=0, metavar="MB")
    parser.add_argument("--timeout", type=float, default=600, metavar="S")
    parser.add_argument("--console", action="store_true", help="show kernel messages")
    parser.add_argument("cmd", nargs="+", metavar="CMD")
    args = parser.parse_args()
    try:
        machine = Machine(args.kernel, args.memory, args.swap, args.disk)
        ended = machine.run(shlex.join(args.cmd), args.timeout, capture=False)
    except VmError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 125
    if args.console or ended.status is None:
        print(ended.console, file=sys.stderr)
    return 125 if ended.status is None else ended.status


if __name__ == "__main__":
    sys.exit(main())
