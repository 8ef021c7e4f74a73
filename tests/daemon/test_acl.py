"""Who sits at the machine is let in at the socket, and nobody else's rights change."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.daemon import acl
from holdingpen.daemon.acl import (
    GROUP,
    MASK,
    NAMED_GROUP,
    OTHERS,
    OWNER,
    USER,
    Doorway,
    Entry,
    let_in,
    rights,
    take_out,
)

ADA, BOB = 1001, 1002


def plain(mode: int) -> list[Entry]:
    tags = (OWNER, GROUP, OTHERS)
    return [Entry(tag, mode >> n & 7) for tag, n in zip(tags, (6, 3, 0), strict=True)]


def entries_of(text: str) -> list[Entry]:
    """`u:1001:rw g::- m::rw`, as setfacl(1) has it, with numbers."""
    tags = {"u": (OWNER, USER), "g": (GROUP, NAMED_GROUP), "m": (MASK,), "o": (OTHERS,)}
    found = []
    for word in text.split():
        kind, name, letters = word.split(":")
        tag = tags[kind][bool(name)]
        number = sum({"r": 4, "w": 2, "x": 1}[x] for x in letters.strip("-"))
        found.append(Entry(tag, number, int(name) if name else 0xFFFFFFFF))
    return found


LISTS = [
    # mode 0660, then 0600: the group gets nothing by the mask
    ("u::rw g::rw o::-", "u::rw u:1001:rw g::rw m::rw o::-"),
    ("u::rw g::- o::-", "u::rw u:1001:rw g::- m::rw o::-"),
    # somebody else's entries stay, and sorted
    (
        "u::rw u:1002:r g::rw g:50:rw m::rw o::-",
        "u::rw u:1001:rw u:1002:r g::rw g:50:rw m::rw o::-",
    ),
    # what the mask took from the others stays taken when it is widened
    (
        "u::rw u:1002:rw g::rw g:50:rw m::r o::-",
        "u::rw u:1001:rw u:1002:r g::r g:50:r m::rw o::-",
    ),
    # chmod 0600 set the mask of a list that let her in
    (
        "u::rw u:1001:rw g::rw m::- o::-",
        "u::rw u:1001:rw g::- m::rw o::-",
    ),
]


@pytest.mark.parametrize(("before", "after"), LISTS)
def test_a_user_is_let_in(before, after):
    assert let_in(entries_of(before), ADA) == entries_of(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("u::rw u:1001:rw g::rw m::rw o::-", "u::rw g::rw o::-"),
        ("u::rw u:1001:rw g::- m::rw o::-", "u::rw g::- o::-"),
        (
            "u::rw u:1001:rw u:1002:r g::- m::rw o::-",
            "u::rw u:1002:r g::- m::r o::-",
        ),
        ("u::rw g::- g:50:w m::w o::-", "u::rw g::- g:50:w m::w o::-"),
        # the mask goes with the last, and with it what it took
        ("u::rw u:1001:rw g::rw m::r o::-", "u::rw g::r o::-"),
        ("u::rw g::rw o::r", "u::rw g::rw o::r"),
    ],
)
def test_a_user_is_taken_out(before, after):
    assert take_out(entries_of(before), ADA) == entries_of(after)


numbers = st.integers(0, 7)
lists = st.builds(
    lambda mode, users, groups, mask: sorted(
        [
            *plain(mode),
            *(Entry(USER, rights, uid) for uid, rights in users.items()),
            *(Entry(NAMED_GROUP, rights, gid) for gid, rights in groups.items()),
            *([Entry(MASK, mask)] if users or groups else []),
        ],
        key=lambda x: (x.tag, x.id),
    ),
    st.integers(0, 0o777),
    st.dictionaries(st.integers(1000, 1004), numbers, max_size=3),
    st.dictionaries(st.integers(50, 52), numbers, max_size=3),
    numbers,
)


def effective(entries: list[Entry]) -> dict[tuple[int, int], int]:
    mask = next((x.rights for x in entries if x.tag == MASK), 7)
    return {
        (x.tag, x.id): x.rights if x.tag in (OWNER, OTHERS) else x.rights & mask
        for x in entries
        if x.tag != MASK and (x.tag, x.id) != (USER, ADA)
    }


@given(lists)
def test_nobody_elses_rights_change(entries):
    inside = let_in(entries, ADA)
    assert rights(inside, ADA) == 6
    assert effective(inside) == effective(entries)
    outside = take_out(inside, ADA)
    assert rights(outside, ADA) is None
    assert effective(outside) == effective(entries)


# On file systems.


def kind_of(path: Path) -> str:
    words = ["stat", "-f", "-c", "%T", str(path)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout[:-1]


@pytest.fixture(params=["ext2/ext3", "tmpfs"])
def place(request, tmp_path) -> Iterator[Path]:
    """A directory on that file system."""
    for parent in (tmp_path, Path("/dev/shm"), Path("/var/tmp"), Path("/run")):
        if os.access(parent, os.W_OK) and kind_of(parent) == request.param:
            with tempfile.TemporaryDirectory(dir=parent) as home:
                yield Path(home)
            return
    pytest.skip(f"no directory on {request.param} to write in")


def bind(path: Path, mode: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    path.chmod(mode)
    return listener


@pytest.fixture
def door(place) -> Iterator[Path]:
    """A socket with mode 0660."""
    path = place / "x.socket"
    with bind(path, 0o660):
        yield path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_bytes_are_those_of_the_worked_example(door):
    Doorway(door).admit({1000})
    found = os.getxattr(door, "system.posix_acl_access")
    lines = re.findall(r"^    ((?:[0-9a-f]{4,8} )+) ", acl.__doc__, re.MULTILINE)
    written = "".join(lines).replace(" ", "")
    assert written == found.hex()


@pytest.mark.parametrize("mode", [0o660, 0o600, 0o640, 0o606])
def test_at_logout_the_socket_is_as_it_was(door, mode):
    door.chmod(mode)
    doorway = Doorway(door)
    doorway.admit({ADA})
    assert rights(acl.read(door), ADA) == 6
    doorway.admit({ADA, BOB})
    assert {rights(acl.read(door), uid) for uid in (ADA, BOB)} == {6}
    doorway.admit({BOB})
    assert rights(acl.read(door), ADA) is None
    doorway.admit(set())
    assert doorway.trouble is None
    assert os.listxattr(door) == []
    assert mode_of(door) == mode


def test_a_socket_open_to_all_gets_no_list(door):
    door.chmod(0o666)
    Doorway(door).admit({ADA})
    assert os.listxattr(door) == []


def test_when_it_is_opened_to_all_the_entry_goes(door):
    doorway = Doorway(door)
    doorway.admit({ADA})
    door.chmod(0o666)
    doorway.admit({ADA})
    assert os.listxattr(door) == []
    assert mode_of(door) == 0o666


def test_what_was_taken_away_is_put_back(door):
    doorway = Doorway(door)
    doorway.admit({ADA})
    acl.write(door, plain(0o660))
    assert rights(acl.read(door), ADA) is None
    doorway.admit({ADA})
    assert rights(acl.read(door), ADA) == 6


def test_what_was_taken_away_before_its_time_is_not_missed(door):
    doorway = Doorway(door)
    doorway.admit({ADA})
    acl.write(door, plain(0o640))
    doorway.admit(set())
    assert doorway.trouble is None
    assert mode_of(door) == 0o640


def test_while_nobody_sits_here_the_socket_is_not_even_looked_at(place):
    doorway = Doorway(place / "none")
    doorway.admit(set())
    assert doorway.trouble is None
    doorway.admit({ADA})
    assert doorway.trouble is not None


def test_a_socket_made_anew_gets_the_entry_again(door):
    """As `systemctl restart holdingpen.socket` does."""
    doorway = Doorway(door)
    doorway.admit({ADA})
    door.unlink()
    doorway.admit({ADA})
    assert "No such file or directory" in doorway.trouble
    with bind(door, 0o660):
        doorway.admit({ADA})
    assert doorway.trouble is None
    assert rights(acl.read(door), ADA) == 6


@pytest.mark.parametrize("given", [0, 4, 6])
def test_an_entry_that_the_administrator_made_stands(door, given):
    made = sorted([*plain(0o660), Entry(USER, given, ADA), Entry(MASK, 6)])
    acl.write(door, made)
    doorway = Doorway(door)
    doorway.admit({ADA, BOB})
    doorway.admit(set())
    assert acl.read(door) == made


def test_who_left_while_no_daemon_ran_is_taken_out(door):
    """The socket is systemd's and outlives a daemon that was killed."""
    Doorway(door).admit({ADA, BOB})
    Doorway(door, known={ADA, BOB}).admit({BOB})
    assert (rights(acl.read(door), ADA), rights(acl.read(door), BOB)) == (None, 6)


def test_nothing_is_touched_when_nothing_is_to_be_done(door):
    doorway = Doorway(door)
    doorway.admit({ADA})
    before = door.stat().st_ctime_ns
    doorway.admit({ADA})
    assert before == door.stat().st_ctime_ns


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EOPNOTSUPP, "keeps no access lists"),
        (errno.EPERM, "CAP_FOWNER"),
        (errno.EROFS, "see to the socket"),
    ],
)
@pytest.mark.parametrize("call", ["getxattr", "setxattr"])
def test_a_failing_call_is_said_and_tried_again(
    door, monkeypatch, call, number, advice
):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    doorway = Doorway(door)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        doorway.admit({ADA})
        assert advice in doorway.trouble
        assert f"{door} ({os.strerror(number)})" in doorway.trouble
    doorway.admit({ADA})
    assert doorway.trouble is None
    assert rights(acl.read(door), ADA) == 6
    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        doorway.admit(set())
        assert advice in doorway.trouble
    doorway.admit(set())
    assert os.listxattr(door) == []


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to be somebody else")


def connects(path: Path, uid: int) -> bool:
    """Whether this user, in no group, can connect."""
    pid = os.fork()
    if not pid:
        status = 2
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
            status = 0
        except PermissionError:
            status = 1
        finally:
            os._exit(status)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert ended in (0, 1)
    return ended == 0


@pytest.mark.real
@pytest.mark.root
def test_the_kernel_lets_in_who_sits_here_and_nobody_else():
    needs_root()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as home:
        Path(home).chmod(0o755)
        path = Path(home, "x.socket")
        with bind(path, 0o660):
            doorway = Doorway(path)
            seen = []
            for uids in ({}, {ADA}, {ADA, BOB}, {BOB}, {}):
                doorway.admit(uids)
                seen.append((connects(path, ADA), connects(path, BOB)))
    assert seen == [
        (False, False),
        (True, False),
        (True, True),
        (False, True),
        (False, False),
    ]


@pytest.mark.real
@pytest.mark.root
def test_a_file_system_without_lists_says_so(tmp_path):
    needs_root()
    words = ["mount", "-t", "ramfs", "ramfs", str(tmp_path)]
    mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"ramfs cannot be mounted: {mounted.stderr}")
    try:
        with bind(tmp_path / "x.socket", 0o660):
            doorway = Doorway(tmp_path / "x.socket")
            doorway.admit({ADA})
            assert "keeps no access lists" in doorway.trouble
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
