"""Both ends of having things mounted, joined, with mounting itself left out.

What is really mounted is in tests/systemd/test_mounter.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from holdingpen.ballast import files, hugefile, mounter, mounting, scratch
from holdingpen.ballast.mounter import Mounter
from holdingpen.ballast.scratch import Scratch
from holdingpen.errors import Unavailable

MIB = 2**20

SEQPACKET = (socket.AF_UNIX, socket.SOCK_SEQPACKET)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root is answered")


def listen(path: Path) -> socket.socket:
    listener = socket.socket(*SEQPACKET)
    listener.bind(str(path))
    listener.listen()
    return listener


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the mounter should be; nobody is there yet."""
    monkeypatch.setenv(mounting.VARIABLE, str(tmp_path / "socket"))
    return tmp_path / "socket"


@pytest.fixture
def image() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * MIB)
        yield file.fileno()


def answering(
    place: Path, answers: list[Callable[[socket.socket], None]]
) -> threading.Thread:
    """Somebody who lets in as many as there are `answers`, one after the other."""
    listener = listen(place)

    def serve() -> None:
        with listener:
            for answer in answers:
                conn, _ = listener.accept()
                with conn:
                    answer(conn)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def hang_up(conn: socket.socket) -> None:
    conn.recv(mounting.MESSAGE_MAX)


def saying(answer: mounting.Answer | bytes) -> Callable[[socket.socket], None]:
    data = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)

    def say(conn: socket.socket) -> None:
        _, fds, _, _ = socket.recv_fds(conn, mounting.MESSAGE_MAX, 2)
        for fd in fds:
            os.close(fd)
        conn.send(data)

    return say


# The asking side.


def test_without_its_socket_in_the_environment_all_is_done_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(mounting.VARIABLE, raising=False)
    assert mounting.socket_path() == ""


def test_where_nobody_is_it_is_said_and_what_mends_it(place: Path, image: int) -> None:
    with pytest.raises(Unavailable) as caught:
        scratch.make(image, Path("/x/7"), 0, 0)
    assert str(caught.value) == (
        f"nobody mounts for this daemon at {place}: No such file or directory. "
        "systemctl restart holdingpen-mounter.socket; "
        "journalctl -u holdingpen-mounter.service says more."
    )


def test_what_nobody_can_be_asked_for_is_not_done(place: Path, image: int) -> None:
    with pytest.raises(Unavailable, match="nobody mounts"):
        scratch.leave(Scratch(Path("/x/7"), 3))
    # who looks whether the image is in use sees that it still is
    assert scratch.clear(image) == []
    assert "nobody mounts" in scratch.why_not()


def test_memory_is_held_by_smaller_pages_then(place: Path) -> None:
    source = files.open_files()
    assert (source.kind, source.why[-1]) == (files.MEMFD, ".")
    assert source.why.startswith("No huge pages: nobody mounts for this daemon")
    assert not source.why.endswith("..")
    source.close()


class TestKilled:
    """The mounter ends before it has answered."""

    def test_what_can_be_done_twice_is_asked_twice(self, place: Path) -> None:
        thread = answering(place, [hang_up, saying(mounting.Done())])
        scratch.leave(Scratch(Path("/x/7"), 3))
        thread.join()

    def test_twice_and_no_more(self, place: Path) -> None:
        thread = answering(place, [hang_up, hang_up])
        with pytest.raises(Unavailable, match="did not answer Leave: it hung up"):
            scratch.leave(Scratch(Path("/x/7"), 3))
        thread.join()

    def test_what_was_begun_of_a_file_system_is_undone(
        self, place: Path, image: int
    ) -> None:
        asked = []

        def note(conn: socket.socket) -> None:
            data, fds, _, _ = socket.recv_fds(conn, mounting.MESSAGE_MAX, 2)
            asked.append(type(msgspec.json.decode(data, type=mounting.Request)))
            for fd in fds:
                os.close(fd)
            if len(asked) > 1:
                conn.send(msgspec.json.encode(mounting.Done()))

        thread = answering(place, [note, note, note])
        with pytest.raises(Unavailable, match="did not answer Make: it hung up"):
            scratch.make(image, Path("/x/7"), 0, 0)
        thread.join()
        assert asked == [mounting.Make, mounting.Clear, mounting.Remove]


NONSENSE = [b"{", b"null", b'{"type":"Done","number":"x"}', b'{"type":"Done","a":1}']


@pytest.mark.parametrize("answer", NONSENSE)
def test_an_answer_that_makes_no_sense_is_an_error(place: Path, answer: bytes) -> None:
    thread = answering(place, [saying(answer)])
    with pytest.raises(Unavailable, match="answered nonsense"):
        scratch.leave(Scratch(Path("/x/7"), 3))
    thread.join()


def test_a_mounter_that_hangs_is_given_up(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounting, "ANSWER_S", 0.02)
    with listen(place), pytest.raises(Unavailable, match=r"did not answer in 0\.02 s"):
        scratch.leave(Scratch(Path("/x/7"), 3))


def test_no_descriptor_where_one_was_promised_is_an_error(place: Path) -> None:
    thread = answering(place, [saying(mounting.Done())])
    with pytest.raises(OSError, match=r".") as caught:
        mounting.mount_huge()
    thread.join()
    assert caught.value.strerror == "holdingpen-mounter.service sent no descriptor"


def test_here_a_directory_is_given_by_the_system_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(mounting.VARIABLE, raising=False)
    (tmp_path / "link").symlink_to(tmp_path)
    above = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "7").mkdir(0o700)
    mounting.give("7", os.geteuid(), os.getegid(), above)
    with pytest.raises(NotADirectoryError):
        mounting.give("link", os.geteuid(), os.getegid(), above)
    os.close(above)


# man 5 proc_pid_mountinfo
MOUNTINFO = """\
22 1 8:1 / / rw shared:1 master:1 - ext4 /dev/sda1 rw
23 22 0:5 / /run rw {run} - tmpfs tmpfs rw
24 23 0:6 / /run/user/5 rw - tmpfs tmpfs rw
25 22 8:2 / /home rw - ext4 /dev/sda2 rw
"""


@pytest.mark.parametrize(
    ("run", "told"),
    [("shared:31 master:12", True), ("master:12", True), ("shared:3", False)],
)
def test_whether_mounts_of_others_are_seen_is_told_by_the_nearest(
    tmp_path: Path, run: str, told: bool
) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(MOUNTINFO.format(run=run))
    assert mounting.is_told(Path("/run"), mountinfo) is told
    assert mounting.is_told(Path("/srv"), mountinfo) is True


def test_where_they_are_not_it_is_said(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container whose mounts are private."""
    monkeypatch.setattr(mounting, "is_apart", lambda: True)
    monkeypatch.setattr(mounting, "is_told", lambda directory: False)
    assert "mount --make-rshared /" in scratch.why_not()


# The answering side.


class Spy:
    """Stands in for what really mounts, and says what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[object] = []
        self.failure: Exception | None = None
        for name in ("make", "leave", "clear", "remove_directory", "why_not"):
            monkeypatch.setattr(mounter.scratch, name, self._part(name))
        monkeypatch.setattr(mounter.hugefile, "mount_here", self._part("mount_here"))

    def _part(self, name: str) -> Callable[..., object]:
        def part(*words: object) -> object:
            # a descriptor is another number on each side
            self.asked.append((name, *(x for x in words if not is_open(x))))
            if self.failure:
                raise self.failure
            return {
                "make": Scratch(Path("/x"), 5),
                "clear": [Path("/a b"), Path("/c")],
                "why_not": "It rains.",
            }.get(name) or (os.open("/", os.O_RDONLY), True)

        return part


def is_open(word: object) -> bool:
    return isinstance(word, int) and 2 < word < 1000


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


@pytest.fixture
def root(place: Path) -> Iterator[Path]:
    """The directory of a mounter that serves, in a thread of its own."""
    root = place.parent / "scratch"
    listener = listen(place)
    thread = threading.Thread(target=Mounter(root).serve, args=(listener, 0.05))
    thread.start()
    yield root
    thread.join()
    listener.close()


@pytest.mark.real
@pytest.mark.root
@needs_root
class TestServed:
    def test_a_file_system_is_made(self, spy: Spy, root: Path, image: int) -> None:
        assert mounting.make(image, root / "a" / "7", 1000, 1001) == 5
        assert spy.asked == [("make", root / "a" / "7", 1000, 1001)]

    def test_a_file_system_is_left(self, spy: Spy, root: Path) -> None:
        mounting.leave(root / "a" / "7", 2)
        assert spy.asked == [("leave", Scratch(root / "a" / "7", 2))]

    def test_an_image_is_cleared(self, spy: Spy, root: Path, image: int) -> None:
        assert mounting.clear(image) == ["/a b", "/c"]

    def test_a_place_is_removed(self, spy: Spy, root: Path) -> None:
        mounting.remove_directory(root / "a" / "7")
        assert spy.asked == [("remove_directory", root / "a" / "7")]

    def test_a_tmpfs_is_passed(self, spy: Spy, root: Path) -> None:
        mount, noswap = mounting.mount_huge()
        assert (os.fstat(mount).st_ino, noswap) == (Path("/").stat().st_ino, True)
        assert not os.get_inheritable(mount)
        os.close(mount)

    def test_it_says_why_it_cannot(self, spy: Spy, root: Path) -> None:
        assert mounting.why_not() == "It rains."

    def test_a_directory_is_given(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "7").mkdir(0o700)
        above = os.open(tmp_path, os.O_RDONLY)
        mounting.give("7", 1000, 1001, above)
        os.close(above)
        found = (tmp_path / "7").stat()
        assert (found.st_uid, found.st_gid) == (1000, 1001)
        assert stat.S_IMODE(found.st_mode) == 0o700

    def test_failures_come_back_as_they_were(
        self, spy: Spy, root: Path, image: int
    ) -> None:
        spy.failure = Unavailable("cannot make a file system for x: no luck.")
        with pytest.raises(Unavailable, match=r"^cannot make .* no luck\.$"):
            mounting.make(image, root / "a" / "7", 0, 0)
        spy.failure = OSError(errno.EPERM, "fsopen: not today")
        with pytest.raises(PermissionError) as caught:
            mounting.mount_huge()
        assert caught.value.strerror == "fsopen: not today"

    def test_nothing_stays_open(self, spy: Spy, root: Path, image: int) -> None:
        def count() -> int:
            return len(list(Path("/proc/self/fd").iterdir()))

        mounting.clear(image)
        before = count()
        for _ in range(5):
            mounting.clear(image)
            with contextlib.suppress(Unavailable):
                mounting.make(image, root / "no-number", 0, 0)
            os.close(mounting.mount_huge()[0])
        mounting.why_not()
        assert count() <= before + 1


def ask_plainly(place: Path, data: bytes, *fds: int) -> mounting.Answer | None:
    """What is answered to `data`; None: it hung up."""
    with socket.socket(*SEQPACKET) as conn:
        conn.settimeout(10.0)
        conn.connect(str(place))
        socket.send_fds(conn, [data], list(fds))
        answer = conn.recv(mounting.MESSAGE_MAX)
    if not answer:
        return None
    decoded: mounting.Answer = msgspec.json.decode(answer, type=mounting.Answer)
    return decoded


MAKE = '{{"type":"Make","directory":"{}","uid":0,"gid":0}}'
BAD = [
    ("{", 0, "makes no sense"),
    ("[" * 10_000, 0, "makes no sense"),
    ("{}", 0, "makes no sense"),
    ('{"type":"Format"}', 0, "makes no sense"),
    ('{"type":"Huge","size":1}', 0, "makes no sense"),
    ('{"type":"Leave","directory":7,"number":1}', 0, "makes no sense"),
    ('{"type":"Leave","directory":"ROOT/a/7","number":-1}', 0, "no loop device -1"),
    ('{"type":"Leave","directory":"ROOT/a/7","number":1048576}', 0, "no loop device"),
    ('{"type":"Leave","directory":"/etc","number":1}', 0, "/etc is not a place"),
    ('{"type":"Remove","directory":"ROOT"}', 0, "is not a place"),
    ('{"type":"Remove","directory":"ROOT/a"}', 0, "is not a place"),
    ('{"type":"Remove","directory":"ROOT/../7"}', 0, "is not a place"),
    ('{"type":"Remove","directory":"ROOT/a/../7"}', 0, "is not a place"),
    ('{"type":"Remove","directory":"ROOT/a/7\\n"}', 0, "is not a place"),
    ('{"type":"Remove","directory":"ROOT/link/7"}', 0, "link is a link"),
    ('{"type":"Huge"}', 1, "Huge comes with 0 descriptors, not 1"),
    ('{"type":"Clear"}', 0, "Clear comes with 1 descriptors, not 0"),
    ('{"type":"Clear"}', 2, "Clear comes with 1 descriptors, not 2"),
    ('{"type":"Clear"}', 3, "too many descriptors"),
    (" " * mounting.MESSAGE_MAX + "{}", 0, "too long"),
    ('{"type":"Make","directory":"ROOT/a/7","uid":-1,"gid":0}', 1, "no user or group"),
    (
        '{"type":"Make","directory":"ROOT/a/7","uid":0,"gid":4294967295}',
        1,
        "no user or group",
    ),
]


@pytest.mark.real
@pytest.mark.root
@needs_root
class TestDamage:
    @pytest.mark.parametrize(("words", "fds", "said"), BAD)
    def test_a_bad_request_is_refused_and_the_next_one_served(
        self,
        spy: Spy,
        root: Path,
        place: Path,
        image: int,
        words: str,
        fds: int,
        said: str,
    ) -> None:
        root.mkdir()
        (root / "link").symlink_to("/etc")
        data = words.replace("ROOT", str(root)).encode()
        answer = ask_plainly(place, data, *[image] * fds)
        assert isinstance(answer, mounting.Failed)
        assert said in answer.said
        assert answer.number == errno.EPERM
        assert spy.asked == []
        assert mounting.why_not() == "It rains."

    def test_who_says_nothing_is_let_go(
        self, spy: Spy, root: Path, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mounter, "REQUEST_S", 0.02)
        with socket.socket(*SEQPACKET) as conn:
            conn.connect(str(place))
            assert conn.recv(100) == b""
        assert mounting.why_not() == "It rains."

    def test_who_hangs_up_harms_nobody(self, spy: Spy, root: Path, place: Path) -> None:
        for data in (b"", b'{"type":"Look"}'):
            with socket.socket(*SEQPACKET) as conn:
                conn.connect(str(place))
                if data:
                    conn.send(data)
        assert mounting.why_not() == "It rains."

    def test_more_may_come_than_are_served_at_once(
        self, spy: Spy, root: Path, place: Path
    ) -> None:
        with contextlib.ExitStack() as waiting:
            for _ in range(2 * mounter.THREADS_MAX):
                conn = socket.socket(*SEQPACKET)
                waiting.enter_context(conn).connect(str(place))
        assert mounting.why_not() == "It rains."

    @pytest.mark.parametrize("kind", ["directory", "read only", "a user's", "device"])
    def test_what_is_no_image_of_root_s_is_not_touched(
        self, spy: Spy, root: Path, tmp_path: Path, kind: str
    ) -> None:
        path, flags = tmp_path / "image", os.O_RDWR
        path.write_bytes(bytes(MIB))
        if kind == "directory":
            path, flags = tmp_path, os.O_RDONLY
        elif kind == "read only":
            flags = os.O_RDONLY
        elif kind == "a user's":
            os.chown(path, 1000, 1000)
        else:
            path = Path("/dev/null")
        fd = os.open(path, flags)
        with pytest.raises(Unavailable, match="what came is no file of root's"):
            mounting.make(fd, root / "a" / "7", 0, 0)
        os.close(fd)
        assert spy.asked == []

    @pytest.mark.parametrize("kind", ["full", "open to others", "a user's"])
    def test_what_is_no_new_directory_is_given_to_nobody(
        self, spy: Spy, root: Path, tmp_path: Path, kind: str
    ) -> None:
        new = tmp_path / "7"
        new.mkdir(0o700)
        if kind == "full":
            (new / "file").touch()
        elif kind == "open to others":
            new.chmod(0o711)
        else:
            os.chown(new, 1000, 1000)
        before = new.stat().st_uid
        above = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(PermissionError, match="no empty directory of root's"):
            mounting.give("7", 1001, 1001, above)
        os.close(above)
        assert new.stat().st_uid == before


def test_nobody_but_root_is_served(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the word of the kernel, whatever the mode of the socket is."""
    fake = mounter._UCRED.pack(4242, 1000, 1000)

    class Conn(socket.socket):
        def getsockopt(self, *words: int) -> bytes:  # type: ignore[override]
            return fake

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.send(b'{"type":"Huge"}')
        Mounter(tmp_path).answer(Conn(fileno=theirs.detach()))
        answer = msgspec.json.decode(ours.recv(1000), type=mounting.Answer)
    said = "process 4242 of uid 1000 asks, and only root may."
    assert answer == mounting.Failed(said, errno.EPERM)


def test_a_fault_of_ours_ends_it_and_is_seen(
    spy: Spy, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(mounter: Mounter, conn: socket.socket) -> None:
        conn.close()
        raise ZeroDivisionError

    monkeypatch.setattr(Mounter, "answer", break_down)
    with listen(place) as listener, socket.socket(*SEQPACKET) as conn:
        conn.connect(str(place))
        with pytest.raises(ZeroDivisionError):
            Mounter(tmp_path).serve(listener, 0.02)


def test_it_ends_when_nobody_comes(place: Path, tmp_path: Path) -> None:
    with listen(place) as listener:
        Mounter(tmp_path).serve(listener, 0.01)


@pytest.mark.parametrize(
    ("words", "fds", "said"),
    [([], "1", "usage: "), (["here"], "1", "usage: "), (["/x"], "2", "no socket: ")],
)
def test_started_in_another_way_it_says_so(
    words: list[str],
    fds: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LISTEN_FDS", fds)
    assert mounter.main(words) == 2
    assert capsys.readouterr().err.startswith(said)


def test_huge_pages_come_by_the_mounter(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounting, "mount_huge", hugefile.open_mount)
    monkeypatch.setattr(hugefile, "open_mount", lambda: pytest.fail("not here"))
    files.open_files().close()
