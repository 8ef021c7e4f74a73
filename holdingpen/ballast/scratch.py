"""A file system of a lease's own, on blocks that were set apart for it.

    preallocated file -> mkfs.ext4 -> loop device -> mounted at DIRECTORY

The outer disk may be full to the last block: what is written here has its place.
Needs root, loop devices and mkfs.ext4 (e2fsprogs), 30 ms, and loses little:

    image       1 GiB    10 GiB    50 GiB
    mkfs        4 ms     4 ms      6 ms
    usable      97.6 %   99.1 %    99.2 %     with 32,768 files for each GiB

The rest are inodes (0.8 %) and what ext4 keeps for its own extents (2 %, but 16 MiB at
most), without which written data could be lost when it is full.  A lease of S bytes
has an image of S bytes, so a bit less than S can be written, and `usable_bytes` says
how much.

**The image must not lose blocks.**  Discard, on its way through the loop device,
punches holes into it: by mkfs, by fstrim, by fallocate(2) on the device (measured: an
image of 256 MiB kept 18).  So mkfs gets `nodiscard`, the device gets
discard_max_bytes = 0, with which it refuses, and ext4 does not zero blocks by holes
(extent_max_zeroout_kb = 0; inode tables stay as they are, since they read as zeros).

**Nobody sees old data.**  The image is preallocated and unwritten, and so reads as
zeros: fallocate(2).  What ext4 shows its users are blocks they wrote.

**It goes by itself.**  The device has autoclear: with the last user it is gone.  A
mount that is in use when its lease is over is detached (MNT_DETACH): nobody new gets
in, and when the last user leaves, the kernel takes mount and device away, whether
this daemon lives or not.  Until then the file is in use, which `BlockFile.is_used`
sees.

**Where it is seen.**  In the mount namespace of who mounts, and in those that get its
mounts.  A unit with PrivateTmp=, ProtectSystem= or the like has a namespace of its
own, which gets what is mounted for everybody, and from which nobody gets anything.
There the mounter does what is said here, for everybody: see mounting.py.  Without one
`why_not` says so.

Direct I/O: else all that is written would be cached twice (measured: 300 to 1400
MiB/s with it, 180 to 500 without).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from holdingpen.ballast import mounting
from holdingpen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How long mkfs may take.  It needs 10 ms; a disk under load may make it wait.
MKFS_TIMEOUT_S: Final = 30.0

#: Less than this is no file system: mkfs.ext4 wants 60 blocks and its tables.
SIZE_MIN: Final = 2 * 1024 * 1024

#: Bytes of space for each file there can be.
BYTES_PER_FILE: Final = 32 * 1024

#: Processes that are named when a scratch is busy.
KEEPERS_MAX: Final = 3

_MKFS = "mkfs.ext4"
_SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"
_CONTROL = Path("/dev/loop-control")
_MAJOR = 7

# include/uapi/linux/loop.h
_CLR_FD, _GET_STATUS64, _CONFIGURE, _GET_FREE = 0x4C01, 0x4C05, 0x4C0A, 0x4C82
_AUTOCLEAR, _DIRECT_IO = 4, 16
_INFO = struct.Struct("=5Q4I64s64s32s2Q")

_NOSUID_NODEV = 2 | 4
_DETACH, _NOFOLLOW = 2, 8

_libc = ctypes.CDLL(None, use_errno=True)


class Scratch(NamedTuple):
    """One that is mounted."""

    #: Where.
    directory: Path
    #: The number of its loop device.
    number: int

    @property
    def device(self) -> int:
        """st_dev of every file in it."""
        return os.makedev(_MAJOR, self.number)


def why_not() -> str:
    """Why none can be made here, in one sentence; empty: it can."""
    if mounting.socket_path():
        return mounting.why_not()
    if os.geteuid() != 0:
        return "A private file system can only be made by root."
    if not _CONTROL.exists():
        return "There are no loop devices here: /dev/loop-control is missing."
    if shutil.which(_MKFS, path=_SBIN) is None:
        return "mkfs.ext4 is not installed: apt install e2fsprogs."
    if mounting.is_apart():
        return (
            "This daemon has a mount namespace of its own, so nobody would see what "
            "it mounts: leave PrivateTmp=, ProtectSystem= and the like out of its "
            f"unit, or set Environment={mounting.VARIABLE}= as the one that is shipped."
        )
    return ""


def make(image: int, directory: Path, uid: int, gid: int) -> Scratch:
    """Make a file system of the file `image` and mount it at `directory`.

    Args:
        image: descriptor of a preallocated file that reads as zeros.
        directory: a name that is free, or an empty directory; those above are made.
        uid: whose it is from then on: mode 0700.
        gid: the same.

    Raises:
        Unavailable: when that fails; nothing is mounted then, and no device used.
    """
    if mounting.socket_path():
        return Scratch(directory, mounting.make(image, directory, uid, gid))
    size = os.fstat(image).st_size
    if size < SIZE_MIN:
        raise _failed(directory, f"{size} bytes are too few, {SIZE_MIN} the least")
    try:
        _make_file_system(image, uid, gid)
        number, device = attach(image)
    except (OSError, subprocess.SubprocessError) as error:
        raise _failed(directory, _said(error)) from None
    try:
        _protect(f"/sys/block/loop{number}/queue/discard_max_bytes")
        _make_reachable(directory.parent)
        directory.mkdir(0o700, exist_ok=True)
        _mount(number, directory)
    except OSError as error:
        remove_directory(directory)
        raise _failed(directory, _said(error)) from None
    finally:
        # without a mount this is the last user, and the device is free again
        os.close(device)
    made = Scratch(directory, number)
    try:
        _protect(f"/sys/fs/ext4/loop{number}/extent_max_zeroout_kb")
        (directory / "lost+found").rmdir()
        directory.chmod(0o700)
    except OSError as error:
        leave(made)
        raise _failed(directory, _said(error)) from None
    return made


def _make_reachable(directory: Path) -> None:
    """Make it, and those above it that lack, whatever the umask is."""
    for one in (*reversed(directory.parents), directory):
        if not one.exists():
            one.mkdir()
            one.chmod(0o755)


def _failed(directory: Path, why: str) -> Unavailable:
    return Unavailable(f"cannot make a file system for {directory}: {why}.")


def _said(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1].rstrip(".") if lines else f"{_MKFS} ended {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{_MKFS} took longer than {MKFS_TIMEOUT_S:g} s"
    assert isinstance(error, OSError)
    return error.strerror or str(error)


def _make_file_system(image: int, uid: int, gid: int) -> None:
    program = shutil.which(_MKFS, path=_SBIN)
    if program is None:
        raise FileNotFoundError(errno.ENOENT, f"{_MKFS} is not installed")
    # no journal: nobody wants it back after a crash; -F: it is no block device
    words = ["-q", "-F", "-m", "0", "-b", "4096", "-i", str(BYTES_PER_FILE)]
    extended = f"nodiscard,lazy_itable_init=1,root_owner={uid}:{gid}"
    words += ["-O", "^has_journal,^resize_inode", "-E", extended]
    subprocess.run(  # noqa: S603 (our own words)
        [program, *words, f"/proc/self/fd/{image}"],
        pass_fds=[image],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=MKFS_TIMEOUT_S,
        check=True,
    )


def attach(image: int) -> tuple[int, int]:
    """Put a loop device on the file `image`.

    Returns:
        Its number, and a descriptor of it: when that is closed and nothing is
        mounted, the device is free again.

    Raises:
        OSError: when there is none, or the kernel (before 5.8) cannot.
    """
    # a descriptor of its own, so that ours stays the only one when it lets go
    backing = os.open(f"/proc/self/fd/{image}", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _attempt in range(8):
            number, device = _free_device()
            try:
                fcntl.ioctl(device, _CONFIGURE, request(backing))
            except OSError as error:
                os.close(device)
                # somebody else was given the same one
                if error.errno != errno.EBUSY:
                    raise
            else:
                return number, device
    finally:
        os.close(backing)
    raise OSError(errno.EBUSY, "every free loop device was taken by others")


def _free_device() -> tuple[int, int]:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, _GET_FREE)
    finally:
        os.close(control)
    return number, os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)


def request(backing: int) -> bytes:
    """struct loop_config for the file `backing`."""
    info = _INFO.pack(*(0,) * 8, _AUTOCLEAR | _DIRECT_IO, *(b"",) * 3, 0, 0)
    return struct.pack("=2I", backing, 0) + info + bytes(64)


def _protect(attribute: str) -> None:
    try:
        with open(attribute, "w") as file:  # noqa: PTH123 (not to be created)
            file.write("0")
    except OSError as error:
        raise OSError(error.errno, f"{attribute}: {error.strerror}") from None


def _mount(number: int, directory: Path) -> None:
    source, target = f"/dev/loop{number}".encode(), os.fsencode(directory)
    flags = ctypes.c_ulong(_NOSUID_NODEV)
    if _libc.mount(source, target, b"ext4", flags, b"noinit_itable") < 0:
        raise OSError(ctypes.get_errno(), f"mount: {os.strerror(ctypes.get_errno())}")


def usable_bytes(scratch: Scratch) -> int:
    """Bytes that may still be written in it."""
    now = os.statvfs(scratch.directory)
    return now.f_bavail * now.f_frsize


def leave(scratch: Scratch) -> None:
    """Take the mount away, or, if it is in use, let nobody new in.

    Whether its image is still in use is seen from the image: `BlockFile.is_used`.

    Raises:
        Unavailable: when it must be done by the mounter, and nobody could be asked.
    """
    if mounting.socket_path():
        mounting.leave(scratch.directory, scratch.number)
        return
    try:
        device = os.open(f"/dev/loop{scratch.number}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        device = -1
    if _unmount(scratch.directory) and device >= 0:
        _restore_discard(scratch.number)
    if device >= 0:
        os.close(device)
    remove_directory(scratch.directory)


def _unmount(directory: Path) -> bool:
    """Unmount it, at once or when its last user leaves; false: then."""
    target = os.fsencode(directory)
    if _libc.umount2(target, _NOFOLLOW) == 0:
        return True
    if ctypes.get_errno() == errno.EBUSY:
        _libc.umount2(target, _NOFOLLOW | _DETACH)
    return False


def _restore_discard(number: int) -> None:
    # the limit outlives the attachment, and the next one is somebody else's
    queue = Path(f"/sys/block/loop{number}/queue")
    try:
        most = (queue / "discard_max_hw_bytes").read_text()
        (queue / "discard_max_bytes").write_text(most)
    except OSError:
        pass


def remove_directory(directory: Path) -> None:
    """Remove a place to mount at; what is mounted there is detached.

    Where that cannot be, it stays; the number of a lease never comes again.
    """
    if directory.is_mount():
        if mounting.socket_path():
            with contextlib.suppress(Unavailable):
                mounting.remove_directory(directory)
            return
        _unmount(directory)
    with contextlib.suppress(OSError):
        directory.rmdir()


def keepers(device: int, proc: Path = Path("/proc")) -> list[str]:
    """Who uses files whose st_dev is `device`: `vim (4242)`, `KEEPERS_MAX` at most.

    By working directory, root, open files, program or mapping.
    """
    found: list[str] = []
    pids = (entry.name for entry in proc.iterdir() if entry.name.isdecimal())
    for pid in sorted(pids, key=int):
        if len(found) == KEEPERS_MAX:
            break
        if _keeps(proc / pid, device):
            try:
                name = (proc / pid / "comm").read_text(errors="replace").strip()
            except OSError:
                continue
            printable = "".join(c if c.isprintable() else "?" for c in name)
            found.append(f"{printable} ({pid})")
    return found


def _keeps(process: Path, device: int) -> bool:
    try:
        links = [process / word for word in ("cwd", "root", "exe")]
        links += (process / "fd").iterdir()
    except OSError:
        return False
    for link in links:
        try:
            if link.stat().st_dev == device:
                return True
        except OSError:
            continue
    try:
        maps = (process / "maps").read_bytes()
    except OSError:
        return False
    # 7f0c1a000000-7f0c1a001000 rw-s 00000000 07:03 12   /scratch/a
    return f" {os.major(device):02x}:{os.minor(device):02x} ".encode() in maps


def clear(image: int) -> list[Path]:
    """Unmount and detach whatever was made of the file `image` before our time.

    Returns:
        Where it was mounted.
    """
    if mounting.socket_path():
        return [Path(place) for place in mounting.clear(image)]
    cleared: list[Path] = []
    for number in _devices_on(image):
        for directory in _mounts(os.makedev(_MAJOR, number)):
            leave(Scratch(directory, number))
            cleared.append(directory)
        _detach(number)
    return cleared


def find(image: int, directory: Path) -> Scratch | None:
    """What was made of the file `image` before our time, to be had at `directory`.

    Returns:
        It, mounted or not (`is_mounted`); None: no device is on that file.
    """
    numbers = _devices_on(image)
    return next((Scratch(directory, number) for number in numbers), None)


def is_mounted(scratch: Scratch) -> bool:
    """Whether it is where it should be."""
    return scratch.directory in _mounts(scratch.device)


def _devices_on(image: int) -> Iterator[int]:
    """The numbers of the loop devices that are on the file `image`."""
    file = os.fstat(image)
    for entry in Path("/sys/block").glob("loop[0-9]*"):
        if (entry / "loop").is_dir() and _is_on(entry.name, file):
            yield int(entry.name.removeprefix("loop"))


def _is_on(name: str, file: os.stat_result) -> bool:
    try:
        fd = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        info = _INFO.unpack(fcntl.ioctl(fd, _GET_STATUS64, bytes(_INFO.size)))
    except OSError:
        return False
    finally:
        os.close(fd)
    return bool(info[:2] == (file.st_dev, file.st_ino))


def _mounts(device: int) -> list[Path]:
    sought = f"{os.major(device)}:{os.minor(device)}"
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        words = line.split(" ")
        if words[2] == sought:
            # proc_pid_mountinfo(5): a space is written \040
            plain = words[4].encode("latin-1", "replace").decode("unicode_escape")
            found.append(Path(plain))
    return found


def _detach(number: int) -> None:
    # one without autoclear, or that nobody had mounted yet
    try:
        fd = os.open(f"/dev/loop{number}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.ioctl(fd, _CLR_FD)
    except OSError:
        pass
    finally:
        os.close(fd)
