"""Words to systemd (sd_notify(3)): ready, stopping, alive. Nothing happens where nobody listens."""

from __future__ import annotations

import contextlib
import os
import socket


def tell(words: str) -> bool:
    """Send `READY=1` and the like; False when there is nobody to tell."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        manager.sendto(words.encode(), address)
        return True
    return False


def watchdog_interval() -> float | None:
    """Seconds between two signs of life that the manager wants, half of its patience; None: it does not watch."""
    patience, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not patience.isdigit() or int(patience) == 0 or pid != str(os.getpid()):
        return None
    return int(patience) / 2_000_000
