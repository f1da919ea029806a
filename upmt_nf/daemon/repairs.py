"""Keeps rules and routes as they are wanted: notices what others did to them, and puts it back, never in a fight."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from upmt_nf.daemon.wake_up import WakeUp
from upmt_nf.linux.tampering import RoutingMonitor, Shape, shape_of_tables
from upmt_nf.model.errors import UpmtError
from upmt_nf.routing.repair import RepairSchedule

log = logging.getLogger(__name__)

_GLANCE = 1.0
"""Seconds between two looks at the shape of the tables: iptables tells nobody when it changes."""
_MOST_SAID = 5


class Repairs:
    """`look` gives what differs in words, `repair` puts it right; `done` counts the repairs.

    `glanced` is told the shape of the tables at once and every second.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        look: Callable[[], list[str]],
        repair: Callable[[], object],
        glanced: Callable[[Shape], object] = lambda _: None,
    ) -> None:
        self._loop = loop
        self._look = look
        self._repair = repair
        self._glanced = glanced
        self._monitor = RoutingMonitor()
        self._schedule = RepairSchedule(loop.time())
        self._wake_up = WakeUp(loop, self._check)
        self._shape = _shape()
        self._glance: asyncio.TimerHandle | None = None
        self.done = 0
        loop.add_reader(self._monitor.fileno(), self._hear)
        self._take_a_glance()

    def note_own_change(self) -> None:
        """We have just changed the tables ourselves."""
        self._shape = _shape()

    def close(self) -> None:
        """Look no more."""
        self._loop.remove_reader(self._monitor.fileno())
        self._monitor.close()
        self._wake_up.cancel()
        if self._glance is not None:
            self._glance.cancel()

    def _hear(self) -> None:
        if self._monitor.drain():
            self._disturb()

    def _take_a_glance(self) -> None:
        if (shape := _shape()) != self._shape:
            self._shape = shape
            self._disturb()
        self._glance = self._loop.call_later(_GLANCE, self._take_a_glance)
        self._glanced(shape)

    def _disturb(self) -> None:
        self._schedule.disturb(self._loop.time())
        self._wake_up.at(self._schedule.next_look())

    def _check(self) -> None:
        has_repaired = False
        try:
            if drift := self._look():
                has_repaired = True
                for said in drift[:_MOST_SAID]:
                    log.warning("put back what others changed: %s", said)
                if len(drift) > _MOST_SAID:
                    log.warning("put back %d more", len(drift) - _MOST_SAID)
                self._repair()
                self.done += 1
        except UpmtError as reason:
            log.warning("what others changed could not be put back: %s", reason)
        self._schedule.looked(self._loop.time(), has_repaired=has_repaired)
        if has_repaired and self._schedule.pause > 1:
            log.warning("somebody goes on changing our rules: no repair for %g s now", self._schedule.pause)
        self.note_own_change()
        self._wake_up.at(self._schedule.next_look())


def _shape() -> Shape:
    return shape_of_tables(4) + shape_of_tables(6)
