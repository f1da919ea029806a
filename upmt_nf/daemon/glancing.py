"""The timer of the looks at what passes the tunnels: as often as the machine wants them, which idles while they do.

More often for a second after a link has changed, while something passes: the kernel may tell that late of a carrier
that is lost next (net/core/link_watch.c), so only looking finds it within a packet or two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from upmt_nf.daemon.wake_up import WakeUp
from upmt_nf.mobility.glances import BUSY_LOOK
from upmt_nf.mobility.host_associations import HostAssociations
from upmt_nf.mobility.host_commands import HostCommand

TOLD_LATE = 1.1
"""Seconds after a change of a link in which the kernel may keep the next one to itself, and a little more."""
HURRIED_LOOK = 0.002


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
        self._hurried_until = 0.0
        self._wake_up = WakeUp(loop, self._ring)
        self._wake_up.at(machine.next_glance(loop.time()))

    def links_changed(self) -> None:
        """The kernel has told of a link, or should have."""
        self._hurried_until = self._loop.time() + TOLD_LATE

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
            self._wake_up.at(self._next(self._loop.time()))

    def _next(self, now: float) -> float:
        due = self._machine.next_glance(now)
        is_busy = due - now < 2 * BUSY_LOOK
        return min(due, now + HURRIED_LOOK) if is_busy and now < self._hurried_until else due
