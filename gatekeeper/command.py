"""CMD: where it is, what it finds around itself, and becoming it.

The rules are those of execvp(3), which env(1) uses, cut in two: `find` before
anything is asked for, `become` after.  In between the file may have changed: when
what was found cannot be executed after all, `become` tries everything once more.
"""

import _signal  # type: ignore[import-not-found]  # typeshed knows only signal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from holdingpen.errors import LocalMistake

_TYPE_BITS = 0o170000
_REGULAR = 0o100000

#: What PEP 538 puts into LC_CTYPE when the locale is "C".
_COERCED = (b"C.UTF-8", b"C.utf8", b"UTF-8")


def paths(name: str) -> list[str]:
    """The files that execvp(3) tries for `name`, in order.

    With a slash in it, `name` is the file.  An empty element of PATH is the current
    directory; without PATH it is what the system says (`getconf PATH`).
    """
    if "/" in name:
        return [name]
    if not name:
        return []
    encoded = posix.environ.get(b"PATH")
    if encoded is None:
        search = posix.confstr("CS_PATH") or ""
    else:
        search = encoded.decode(sys.getfilesystemencoding(), "surrogateescape")
    return [f"{place}/{name}" if place else name for place in search.split(":")]


def find(name: str) -> str:
    """Make sure that CMD can be executed, as far as one can tell beforehand.

    Returns:
        The file that execvp(3) would execute.

    Raises:
        LocalMistake: `not-found` or `cannot-execute`, with its exit status, when
            execvp(3) would fail.
    """
    return _first(name, _look)


def become(words: list[str], found: str) -> "NoReturn":
    """Execute the command `words`; a script without `#!` goes to /bin/sh.

    Args:
        words: the command and its arguments.
        found: what `find` returned.  When it cannot be executed after all, the other
            places are tried, too.

    Raises:
        LocalMistake: as `find`, when the system will not.
    """

    def attempt(path: str) -> str:
        _exec(path, words)
        return path

    try:
        _exec(found, words)
    except OSError:
        _first(words[0], attempt)
    raise AssertionError("exec returned")


def _first(name: str, attempt: "Callable[[str], str]") -> str:
    """Try the paths in turn as execvp(3) does: which failure counts, which goes on."""
    denied = None
    failure: OSError = FileNotFoundError()
    for path in paths(name):
        try:
            return attempt(path)
        except PermissionError as why:
            denied = why
        except (FileNotFoundError, NotADirectoryError) as why:
            failure = why
        except OSError as why:
            from errno import ENODEV, ESTALE, ETIMEDOUT

            # a dead network file system in PATH must not hide what comes after it
            if why.errno not in (ENODEV, ESTALE, ETIMEDOUT):
                raise _cannot_execute(name, why) from None
            failure = why
    raise _cannot_execute(name, denied or failure)


def _cannot_execute(name: str, why: OSError) -> "LocalMistake":
    # errors are imported when there is one
    from holdingpen.errors import EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, LocalMistake

    if isinstance(why, FileNotFoundError):
        where = "" if "/" in name else " in PATH"
        message = f"{name!r} was not found{where}; nothing was started."
        error = LocalMistake(message, "not-found")
        error.exit_status = EXIT_NOT_FOUND
    else:
        message = f"{name!r} cannot be executed: {why.strerror}."
        error = LocalMistake(message, "cannot-execute")
        error.exit_status = EXIT_CANNOT_EXECUTE
    return error


def _look(path: str) -> str:
    # access() alone calls a directory executable
    regular = posix.stat(path).st_mode & _TYPE_BITS == _REGULAR
    if not regular or not posix.access(path, posix.X_OK, effective_ids=True):
        raise _denied()
    return path


def _denied() -> PermissionError:
    from errno import EACCES

    return PermissionError(EACCES, posix.strerror(EACCES))


def _exec(path: str, words: list[str]) -> None:
    try:
        posix.execv(path, words)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        raise
    except OSError as why:
        from errno import ENOEXEC

        if why.errno != ENOEXEC:
            raise
        posix.execv("/bin/sh", ["/bin/sh", path, *words[1:]])


def surround(variables: dict[bytes, bytes], descriptor: int | None) -> None:
    """Make CMD's surroundings those that a bare shell would give it, and its lease.

    Signals that Python ignores become default again (an inherited SIG_IGN for these
    two is lost: Python does not say what it found).  The variable that Python adds
    goes.  With a lease come `variables` and HOLDINGPEN_FD, in place of those of a
    gatekeeper around us.

    The changes go to the C environment, which execv hands over byte for byte:
    duplicates, words without `=`, and the order stay as they were.

    Args:
        variables: what CMD finds because of its lease; empty without one.
        descriptor: of the connection that holds the lease; None without one.
    """
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
    _undo_locale_coercion()
    for name, value in variables.items():
        posix.putenv(name, value)
    if descriptor is not None:
        posix.putenv(b"HOLDINGPEN_FD", b"%d" % descriptor)
    if b"HOLDINGPEN_PREFAULT" in variables:
        # for this process alone: exec keeps the number, and children have others
        posix.putenv(b"HOLDINGPEN_PREFAULT_PID", b"%d" % posix.getpid())


def _undo_locale_coercion() -> None:
    if posix.environ.get(b"LC_CTYPE") not in _COERCED:
        return
    # what we were started with: setenv(3) leaves this memory alone (proc(5))
    for word in _read(b"/proc/self/environ").split(b"\0"):
        name, _, value = word.partition(b"=")
        if name == b"LC_CTYPE":
            posix.putenv(name, value)
            return
    posix.unsetenv(b"LC_CTYPE")


def _read(path: bytes) -> bytes:
    pieces = []
    try:
        file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return b""
    while piece := posix.read(file, 65536):
        pieces.append(piece)
    posix.close(file)
    return b"".join(pieces)
