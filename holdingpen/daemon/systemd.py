"""What systemd is told: that the daemon is ready, reloads, stops.

Outside systemd (no NOTIFY_SOCKET) nothing is said.  A private pen started by
`gatekeeper --start` is waited for in the same way.  See sd_notify(3).
"""

from __future__ import annotations

import time

from sdnotify import SystemdNotifier


class Systemd:
    """Notifications to whoever started the daemon."""

    def __init__(self) -> None:
        self._notifier = SystemdNotifier()

    def ready(self, status: str) -> None:
        """The socket is open; `status` is one line for `systemctl status`."""
        self._notifier.notify(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow."""
        stamp = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={stamp}")

    def stopping(self) -> None:
        """The daemon is about to end."""
        self._notifier.notify("STOPPING=1")
