"""A daemon kept alive where no service manager does it: started again when it fails, killed when it hangs.

It speaks to the daemon as systemd would (sd_notify(3)), so the daemon does not know the difference.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from time import monotonic, sleep
from types import FrameType

from upmt_nf.daemon.lifetime import MAKE_WAY
from upmt_nf.model.errors import UsageError

log = logging.getLogger(__name__)

START_PATIENCE = 60.0
"""Seconds that a daemon may take until it is ready."""
PAUSE = 1.0
"""Seconds between its end and its next start."""
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, MAKE_WAY)
_GOES_ON = (signal.SIGHUP, MAKE_WAY)


def keep(command: Sequence[str], patience: float, pause: float = PAUSE) -> int:
    """Run `command` in the foreground until it ends well or is asked to end; gives its exit code.

    When it is silent for `patience` seconds it is killed. One that was never ready is not started again: it has said
    what is wrong. Raises UsageError where a service manager does all this already.
    """
    if "NOTIFY_SOCKET" in os.environ:
        raise UsageError("a service manager has started this: let it watch (WatchdogSec), without --watchdog")
    return _Keeper(command, patience, pause).run()


class _Keeper:
    def __init__(self, command: Sequence[str], patience: float, pause: float) -> None:
        self._command, self._patience, self._pause = command, patience, pause
        self._child: subprocess.Popen[bytes] | None = None
        self._is_ending = self._was_ready = False

    def run(self) -> int:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as words, self._signals_passed_on():
            words.bind("")
            address = words.getsockname().decode()
            environment = os.environ | {
                "NOTIFY_SOCKET": address.replace("\0", "@"),
                "WATCHDOG_USEC": str(int(self._patience * 1e6)),
            }
            while True:
                code = self._live(words, environment)
                if code == 0 or self._is_ending or not self._was_ready:
                    return code if code >= 0 else 128 - code
                log.warning("the daemon ended (%d) and is started again", code)
                if code != -MAKE_WAY:
                    sleep(self._pause)

    def _live(self, words: socket.socket, environment: dict[str, str]) -> int:
        """One life of the daemon; gives its exit code, negative for a signal."""
        child = self._child = subprocess.Popen(self._command, env=environment)
        deadline, is_watched = monotonic() + START_PATIENCE, True
        while (code := child.poll()) is None:
            # A child's end wakes nobody up here, so look now and then.
            if select.select([words], [], [], min(0.2, self._patience / 4))[0]:
                said = words.recv(1000).split(b"\n")
                self._was_ready |= b"READY=1" in said
                is_watched &= b"STOPPING=1" not in said
                deadline = monotonic() + (self._patience if self._was_ready else START_PATIENCE)
            elif is_watched and monotonic() > deadline:
                log.warning("the daemon gave no sign of life for %g s and is killed", self._patience)
                child.kill()
        return code

    @contextlib.contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._pass_on) for number in _PASSED_ON}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self._is_ending |= number not in _GOES_ON
        if self._child is not None:
            self._child.send_signal(number)
