"""The life of a daemon process: root, start, signals, an orderly end. Knows nothing of what the daemon does."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from typing import Protocol

from upmt_nf.linux import service_manager
from upmt_nf.model.errors import FacilityError

MAKE_WAY = signal.SIGUSR1
"""Ends a daemon that another one replaces at once: a restart, an upgrade."""


class Daemon(Protocol):
    """What `run_daemon` needs of a daemon."""

    async def start(self) -> None:
        """Take the control socket and put the kernel's state in place."""

    async def run(self) -> None:
        """Work until `ask_to_stop`, then put everything back."""

    def ask_to_stop(self) -> None:
        """End `run` soon; safe to call twice."""

    def write_down(self) -> None:
        """Save what is kept in memory for the next daemon; nothing follows."""


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
        loop.add_signal_handler(number, _stop, daemon)
    reload = getattr(daemon, "ask_to_reload", None)
    # Without anything to read again SIGHUP must not end a daemon whose terminal goes away.
    loop.add_signal_handler(signal.SIGHUP, reload or (lambda: None))
    await daemon.start()
    loop.add_signal_handler(MAKE_WAY, _make_way, daemon)
    spare_what_stays()
    service_manager.tell("READY=1")
    _keep_alive(loop)
    await daemon.run()


def spare_what_stays() -> None:
    """Leave what there is, and what each whole collection will have left, out of every later one.

    With 100,000 hosts it would hold packets up for half a second. What is frozen still ends with its last reference,
    and nothing that is kept for a host or a flow has references in a circle.
    """
    gc.collect()
    gc.freeze()
    gc.callbacks.append(_freeze)


def _freeze(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


def _stop(daemon: Daemon) -> None:
    service_manager.tell("STOPPING=1")
    daemon.ask_to_stop()


def _make_way(daemon: Daemon) -> None:
    """End where we stand, as if killed: what is in the kernel stays for the next daemon, and packets go on meanwhile.

    By the signal itself, so that whoever watches us sees that this was no orderly end and starts the next one.
    """
    service_manager.tell("STOPPING=1")
    try:
        daemon.write_down()
    finally:
        signal.signal(MAKE_WAY, signal.SIG_DFL)
        signal.raise_signal(MAKE_WAY)


def _keep_alive(loop: asyncio.AbstractEventLoop) -> None:
    """A sign of life from inside the loop: a daemon that hangs gives none, and is started anew."""
    interval = service_manager.watchdog_interval()
    if interval is not None:
        service_manager.tell("WATCHDOG=1")
        loop.call_later(interval, _keep_alive, loop)
