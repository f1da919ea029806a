"""The timer of the looks at what passes the tunnels: as often as the machine wants them, which idles while they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from upmt_nf.daemon.wake_up import WakeUp
from upmt_nf.mobility.host_associations import HostAssociations
from upmt_nf.mobility.host_commands import HostCommand


class Glancing:
    """Calls `machine.glance`; `count` brings the counters up to date before, `perform` does what is wanted then."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        machine: HostAssociations,
        count: Callable[[], None],
        perform: Callable[[list[HostCommand]], None],
    ) -> None:
        self._loop = loop
        self._machine = machine
        self._count = count
        self._perform = perform
        self._wake_up = WakeUp(loop, self._ring)
        self._wake_up.at(machine.next_glance(loop.time()))

    def stop(self) -> None:
        """No more looks."""
        self._wake_up.cancel()

    def _ring(self) -> None:
        self._count()
        now = self._loop.time()
        try:
            if commands := self._machine.glance(now):
                self._perform(commands)
        finally:
            self._wake_up.at(self._machine.next_glance(self._loop.time()))
