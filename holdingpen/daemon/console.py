"""The console: who sits at the machine, from login to logout.

Two things give a user the seat, and he has it while one of them holds:

    logind          as long as it says so (holdingpen/devices/logind.py)
    holdingpenctl   from `grant` to `revoke` or the next boot.  A grant that was made
                    from inside a login session of that very user, as gdm's PreSession
                    does, ends with this session: nobody may come to revoke it

So what is told to the core each time is the whole truth: all whom logind sees here, all
who are logged in here, and those sessions with which a grant ends that are over.  What
a dead daemon had in its journal is put right by the first look, before anybody is
served.

Who switches to another user, or to the greeter, leaves the seat and is still logged in:
what he asked for is not touched, whatever `[console] after_logout` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import trio

from holdingpen.devices.logind import LogindLike

#: It is looked at least so often, in seconds, though nothing was heard; a look takes
#: 0.1 ms.  A logind that was started late is found then.  Its monitors hang on
#: directories, and when these are made anew no monitor says so.
AGAIN_S: Final = 10.0


class Seen(NamedTuple):
    """What is told of the console."""

    #: Whom logind sees at the machine: one user or none.
    seated: frozenset[int]
    #: Whom it has logged in there, in front or in the background.
    logged_in: frozenset[int]
    #: Users and sessions of theirs with which a grant ends, and which are over.
    over: frozenset[tuple[int, str]] = frozenset()


class Console:
    """Looks who sits at the machine."""

    def __init__(
        self,
        open_logind: Callable[[], LogindLike],
        bound: Callable[[], Iterable[tuple[int, str]]],
        report: Callable[[Seen], None],
    ) -> None:
        """Make it; nothing is seen before `configure`.

        Args:
            open_logind: watches logind; it never fails.
            bound: users and sessions of theirs with which a grant ends.
            report: told at the first look, and when something changed.
        """
        self._open_logind = open_logind
        self._bound = bound
        self._report = report
        self._logind = open_logind()
        self._on = False
        #: What was reported last; None: nothing yet.
        self._seen: Seen | None = None

    @property
    def why(self) -> str:
        """Why nobody is ever seen to sit here, and what to do; empty: they are."""
        return self._logind.why if self._on else ""

    def configure(self, on: bool) -> None:
        """Have logind say who sits here, or not, and look at once.

        Grants end with their sessions in both cases.
        """
        self._on = on
        self.look()

    def look(self) -> None:
        """Look, and report what changed."""
        logind = self._logind
        seen = Seen(frozenset(), frozenset())
        if self._on:
            seen = Seen(logind.seated(), logind.logged_in())
        over = frozenset(x for x in self._bound() if logind.is_over(x[1], x[0]))
        if seen != self._seen or over:
            self._seen = seen
            self._report(seen._replace(over=over))

    def session_of(self, pid: int, uid: int) -> str:
        """The session with which a grant to `uid` ends that process `pid` asks for.

        Empty: with none.
        """
        return self._logind.session_of(pid, uid)

    async def watch(self) -> None:
        """Look whenever something changed, for ever."""
        while True:
            self._logind.clear()
            self.look()
            fd = self._logind.fileno()
            if fd < 0:
                await trio.sleep(AGAIN_S)
                self._logind = self._open_logind()
                continue
            with trio.move_on_after(AGAIN_S):
                await trio.lowlevel.wait_readable(fd)

    def close(self) -> None:
        """Watch nothing any more."""
        self._logind.close()
