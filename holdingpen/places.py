"""Where things lie: the sockets, the state and the configuration of a user.

The one place with the rule by which clients and daemons find each other.  It is on
gatekeeper's way and imports nothing that costs time: posix instead of os.
"""

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdingpen.errors import Unavailable

#: The name of the system's socket and, in another directory, of a user's.
_SOCKET = "holdingpen.socket"

_TYPE_BITS = 0o170000
_DIRECTORY = 0o040000
_OTHERS = 0o077


def system_socket() -> str:
    """The socket of the machine's own daemon; `/var/run` is the same place."""
    return f"/run/{_SOCKET}"


def user_socket() -> str:
    """The socket of the private daemon of whoever we are (the effective uid).

    It is in `$XDG_RUNTIME_DIR`; without that in `/run/user/UID`, which must be ours;
    without that in `/tmp/holdingpen-UID`, which may not exist yet.

    Raises:
        Unavailable: `not-ours`, when `/tmp/holdingpen-UID` is no directory of ours
            with mode 0700.  Anybody may create that name first, and a daemon there
            would learn what we run and could let us wait for ever.
    """
    runtime = _absolute("XDG_RUNTIME_DIR")
    if runtime:
        return f"{runtime}/{_SOCKET}"
    uid = posix.geteuid()
    if _owner_and_mode(f"/run/user/{uid}")[:2] == (uid, True):
        return f"/run/user/{uid}/{_SOCKET}"
    shared = f"/tmp/holdingpen-{uid}"  # noqa: S108 (its owner and mode are checked)
    owner, is_directory, others = _owner_and_mode(shared)
    if owner is not None and (owner != uid or not is_directory or others):
        raise _unavailable(
            f"{shared} is not trusted: it must be a directory of uid {uid} with mode "
            f"0700{'' if owner == uid else f', and it belongs to uid {owner}'}. "
            "Set XDG_RUNTIME_DIR to a directory of your own.",
            "not-ours",
        )
    return f"{shared}/{_SOCKET}"


def make_user_directory() -> None:
    """Create the directory of `user_socket`, when it is the one in /tmp.

    The others are made by whoever made the session.  Raises what `user_socket`
    raises, and OSError when /tmp cannot be written.
    """
    directory = user_socket().rpartition("/")[0]
    if directory.startswith("/tmp/holdingpen-"):  # noqa: S108 (checked again below)
        try:
            posix.mkdir(directory, 0o700)
        except FileExistsError:
            user_socket()


def user_state() -> str:
    """The directory for what a user's daemon must keep: the journal and its log.

    Raises:
        Unavailable: `no-home`, when neither `$XDG_STATE_HOME` nor a home is known.
    """
    return f"{_absolute('XDG_STATE_HOME') or _home() + '/.local/state'}/holdingpen"


def user_config() -> str:
    """The configuration file of a user's daemon; it need not exist.

    Raises:
        Unavailable: `no-home`, when neither `$XDG_CONFIG_HOME` nor a home is known.
    """
    return f"{_absolute('XDG_CONFIG_HOME') or _home() + '/.config'}/holdingpen.toml"


def named_socket(explicit: str | None) -> str | None:
    """The socket somebody named: `explicit` (`--socket`), else `$HOLDINGPEN_SOCKET`.

    An empty variable counts as unset.  None: nobody named one.
    """
    return explicit or _variable("HOLDINGPEN_SOCKET") or None


def candidates(explicit: str | None = None) -> list[str]:
    """The sockets at which a client looks for a daemon, in this order.

    A socket that somebody named is the only one; else the system's, then the user's.
    A client goes on to the next where there is no socket or nobody listens.

    Raises:
        Unavailable: as `user_socket`, unless there is a system socket: a stranger's
            directory in /tmp must not keep anybody from the machine's own daemon.
    """
    named = named_socket(explicit)
    if named:
        return [named]
    system = system_socket()
    try:
        return [system, user_socket()]
    except Exception:
        if posix.access(system, posix.F_OK):
            return [system]
        raise


def _owner_and_mode(path: str) -> tuple[int | None, bool, bool]:
    """Owner, whether it is a directory, whether others may do anything in it."""
    try:
        found = posix.lstat(path)
    except OSError:
        return None, False, False
    is_directory = found.st_mode & _TYPE_BITS == _DIRECTORY
    return found.st_uid, is_directory, bool(found.st_mode & _OTHERS)


def _home() -> str:
    home = _absolute("HOME")
    if home:
        return home
    # costs time, and hardly anybody comes here
    import pwd

    try:
        return pwd.getpwuid(posix.geteuid()).pw_dir
    except KeyError:
        raise _unavailable(
            f"uid {posix.geteuid()} has no home directory: set HOME.", "no-home"
        ) from None


def _absolute(name: str) -> str:
    # the XDG base directory specification: a relative path is to be ignored
    path = _variable(name)
    return path.rstrip("/") if path.startswith("/") else ""


def _variable(name: str) -> str:
    # posix.environ is what we were started with.  A program that has imported os
    # changes os.environ, and means it.
    os = sys.modules.get("os")
    if os is not None:
        return str(os.environ.get(name, ""))
    encoding = sys.getfilesystemencoding()
    value = posix.environ.get(name.encode(), b"")
    return value.decode(encoding, "surrogateescape")


def _unavailable(message: str, code: str) -> "Unavailable":
    # errors are imported when there is one
    from holdingpen.errors import Unavailable

    return Unavailable(message, code)
