"""Holds every packet of NFQUEUE 0 back for a while, in order: `python -m upmt_nf.lab.delay_line FILE`.

The second word of FILE is the delay in seconds; SIGHUP has it read again.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from netfilterqueue import COPY_PACKET, NetfilterQueue

_QUEUE = 0
_LENGTH = 65535
_HEAD = 64
"""Bytes of each packet that are copied here: a packet without any cannot be kept for later."""


def hold(file: Path) -> None:
    """Run until the process is ended."""
    waiting: deque[tuple[float, Any]] = deque()
    delay = _read(file)

    def read_again(*_: object) -> None:
        nonlocal delay
        delay = _read(file)

    signal.signal(signal.SIGHUP, read_again)

    def keep(packet: Any) -> None:
        packet.retain()
        # A shorter delay makes no packet overtake another.
        last = waiting[-1][0] if waiting else 0.0
        waiting.append((max(last, time.monotonic() + delay), packet))

    queue = NetfilterQueue()
    queue.bind(_QUEUE, keep, _LENGTH, COPY_PACKET, _HEAD, 16 << 20)
    print("ready", flush=True)
    with socket.socket(fileno=queue.get_fd()) as arrivals, contextlib.ExitStack() as at_the_end:
        # What is held when a network gets another shape goes on, and is not lost.
        at_the_end.callback(lambda: [packet.accept() for _, packet in waiting])
        while True:
            left = waiting[0][0] - time.monotonic() if waiting else None
            arrivals.settimeout(None if left is None else max(1e-6, left))
            with contextlib.suppress(TimeoutError, BlockingIOError):
                _take(queue, arrivals)
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                waiting.popleft()[1].accept()


def _read(file: Path) -> float:
    return float(file.read_text(encoding="utf-8").split()[1])


class _Once:
    """Gives the binding one message and then says that there is no other."""

    def __init__(self, message: bytes) -> None:
        self._message: bytes | None = message

    def recv(self, _: int) -> bytes:
        """The message, once."""
        message, self._message = self._message, None
        if message is None:
            # With its number: the binding looks at it.
            raise BlockingIOError(errno.EWOULDBLOCK, "no other message")
        return message


def _take(queue: Any, arrivals: socket.socket) -> None:
    queue.run_socket(_Once(arrivals.recv(65536)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    hold(Path(sys.argv[1]))
