"""The life of a daemon process: root, start, signals, an orderly end. Knows nothing of what the daemon does."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from typing import Protocol

from upmt_nf.model.errors import FacilityError


class Daemon(Protocol):
    """What `run_daemon` needs of a daemon."""

    async def start(self) -> None:
        """Take the control socket and put the kernel's state in place."""

    async def run(self) -> None:
        """Work until `ask_to_stop`, then put everything back."""

    def ask_to_stop(self) -> None:
        """End `run` soon; safe to call twice."""


def run_daemon(daemon: Daemon) -> None:
    """Run `daemon` in the foreground until SIGTERM or SIGINT. Raises FacilityError without root."""
    if os.geteuid() != 0:
        raise FacilityError("a UPMT daemon changes routes and rules: run it as root")
    with asyncio.Runner(loop_factory=SleeplessLoop) as runner:
        runner.run(_live(daemon))


class SleeplessLoop(asyncio.SelectorEventLoop):
    """Goes by a clock that counts the time that the machine is suspended: leases and nonces end meanwhile."""

    def time(self) -> float:
        """CLOCK_BOOTTIME, seconds."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


async def _live(daemon: Daemon) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.ask_to_stop)
    await daemon.start()
    # What start-up made stays: leave it out of every later collection, which would hold up packets.
    gc.collect()
    gc.freeze()
    await daemon.run()
