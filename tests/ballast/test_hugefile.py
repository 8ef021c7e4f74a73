from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdingpen.ballast import hugefile


def mount_or_skip(mounter: str) -> tuple[int, bool]:
    mounted: tuple[int, bool]
    try:
        mounted = getattr(hugefile, mounter)()
    except OSError as error:
        pytest.skip(f"refused here: {error.strerror}")
    return mounted


def children() -> str:
    return Path("/proc/thread-self/children").read_text()


@pytest.mark.parametrize("mounter", ["mount_here", "mount_by_helper"])
def test_its_files_are_empty_nameless_private_and_huge(mounter: str) -> None:
    mount, _noswap = mount_or_skip(mounter)
    files = [hugefile.open_file(mount) for _ in range(3)]
    os.close(mount)
    try:
        assert len({os.fstat(fd).st_ino for fd in files}) == 3
        for found in map(os.fstat, files):
            assert (found.st_size, found.st_nlink, found.st_blksize) == (0, 0, 2**21)
            assert (found.st_mode & 0o777, found.st_uid) == (0o600, os.geteuid())
    finally:
        for fd in files:
            os.close(fd)


@pytest.mark.parametrize("mounter", ["mount_here", "mount_by_helper"])
def test_nothing_of_it_is_inherited(mounter: str) -> None:
    mount, _noswap = mount_or_skip(mounter)
    fd = hugefile.open_file(mount)
    try:
        assert not os.get_inheritable(mount)
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)
        os.close(mount)


@pytest.mark.parametrize("mounter", ["mount_here", "mount_by_helper"])
def test_the_mount_is_to_be_seen_nowhere(mounter: str) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    mount, _noswap = mount_or_skip(mounter)
    try:
        assert Path("/proc/self/mountinfo").read_text() == before
    finally:
        os.close(mount)


def test_an_unprivileged_mount_can_be_swapped() -> None:
    """The kernel refuses noswap in a user namespace."""
    mount, noswap = mount_or_skip("mount_by_helper")
    os.close(mount)
    assert not noswap


def test_the_helper_leaves_no_child_and_no_descriptor() -> None:
    def ours() -> tuple[str, list[Path]]:
        return children(), sorted(Path("/proc/self/fd").iterdir())

    before = ours()
    mount, _noswap = mount_or_skip("mount_by_helper")
    os.close(mount)
    assert ours() == before


def helper_is(
    monkeypatch: pytest.MonkeyPatch, path: Path, program: str, timeout_s: float = 5.0
) -> None:
    path.write_text(program)
    monkeypatch.setattr(hugefile, "HELPER", str(path))
    monkeypatch.setattr(hugefile, "HELPER_TIMEOUT_S", timeout_s)


def test_a_helper_that_hangs_is_killed_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    helper_is(monkeypatch, tmp_path / "h.py", "import time; time.sleep(99)", 0.05)
    before = children()
    with pytest.raises(TimeoutError, match=r"killed after 0\.05 s"):
        hugefile.mount_by_helper()
    assert children() == before


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit('unshare: not today')", "unshare: not today"),
        ("import sys; sys.exit(3)", "helper ended with 3"),
        ("", "helper ended with 0"),
        ("1/0", "ZeroDivisionError: division by zero"),
        ("import os; os.kill(os.getpid(), 9)", "helper ended with -9"),
    ],
)
def test_a_helper_that_fails_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, said: str
) -> None:
    helper_is(monkeypatch, tmp_path / "h.py", program)
    with pytest.raises(OSError, match=r".") as caught:
        hugefile.mount_by_helper()
    assert caught.value.strerror == said


def test_without_an_interpreter_there_is_no_helper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An embedded Python does not know its own program."""
    monkeypatch.setattr(sys, "executable", None)
    with pytest.raises(OSError, match=r"."):
        hugefile.mount_by_helper()


def test_a_double_refusal_gives_both_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(why: str) -> tuple[int, bool]:
        raise OSError(errno.EPERM, why)

    monkeypatch.setattr(hugefile, "mount_here", lambda: refuse("fsopen: no"))
    monkeypatch.setattr(hugefile, "mount_by_helper", lambda: refuse("unshare: no"))
    with pytest.raises(OSError, match=r"fsopen: no; in a user namespace too: unshare"):
        hugefile.open_mount()


@pytest.mark.real
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_where_user_namespaces_are_forbidden_the_helper_says_so() -> None:
    """Inside a namespace that allows no further one."""
    program = (
        "import sys; sys.path.insert(0, '.')\n"
        "from holdingpen.ballast import hugefile\n"
        "try: hugefile.mount_by_helper()\n"
        "except OSError as error: print(error.strerror)\n"
    )
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    wrap = ["unshare", "-Ur", "sh", "-c", forbid, "sh"]
    done = subprocess.run(
        [*wrap, sys.executable, "-c", program],
        cwd=Path(hugefile.__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30,
    )
    if done.returncode:
        pytest.skip(f"cannot forbid them here: {done.stderr.strip()}")
    assert done.stdout == "unshare: No space left on device\n"
