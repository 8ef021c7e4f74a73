"""Finding the daemon: the first place where one listens, or why there is none."""

from __future__ import annotations

import os
import socket

from holdingpen import places
from holdingpen.errors import Unavailable


def dial(path: str | None, *, wait: bool = True) -> tuple[socket.socket, str]:
    """Connect to the daemon.

    Args:
        path: the socket; None: look at the places of `places.candidates` in order
            and take the first where somebody listens.
        wait: whether to block while more clients knock than the daemon lets in.

    Returns:
        The connected socket, which no program started from here inherits, and its
        place.

    Raises:
        BlockingIOError: only without `wait`: knock again in a moment.
        Unavailable: when nobody listens at any of them; the message names each
            with its reason.  Code `not-permitted`: this user may not open the
            socket of one, and the places after it were not tried.
    """
    tried = []
    for place in places.candidates(path):
        try:
            return _connected(place, wait), place
        except BlockingIOError:
            raise
        except PermissionError:
            raise _locked_out(place) from None
        except OSError as why:
            tried.append(f"{place} ({reason(why)})")
    if places.named_socket(path):
        advice = (
            "Is --socket or $HOLDINGPEN_SOCKET right? 'holdingpen --socket PATH' "
            "starts a daemon there."
        )
    else:
        advice = (
            "Start it with 'systemctl start holdingpen.socket', or one of your own "
            "with 'holdingpen --user'."
        )
    raise Unavailable(f"no daemon listens; tried {', '.join(tried)}. {advice}")


def _connected(place: str, wait: bool) -> socket.socket:
    sock = None
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Never with a timeout: a connect to a unix socket whose backlog is full would
        # fail with EAGAIN instead of waiting (unix(7)).
        sock.setblocking(wait)
        sock.connect(place)
        return sock
    except BaseException:
        if sock is not None:
            sock.close()
        raise


def _locked_out(place: str) -> Unavailable:
    import grp

    try:
        group = grp.getgrgid(os.stat(place).st_gid).gr_name  # noqa: PTH116
        whose = f"; it is for group {group}"
    except (OSError, KeyError):
        whose = ""
    return Unavailable(
        f"you may not open the daemon's socket {place}{whose}. Ask the administrator "
        "for access and log in again, or name another daemon's with --socket.",
        "not-permitted",
    )


def reason(why: OSError) -> str:
    """What an OSError says, in small letters."""
    # a path that is too long for a socket has no errno
    return (why.strerror or str(why)).lower()
