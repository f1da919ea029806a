"""One timer for a sans-IO machine: fires when the machine says it wants to be woken, never earlier."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class WakeUp:
    """Calls `ring` at the time last given to `at` (the loop's clock, seconds)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None
        self._when: float | None = None

    def at(self, when: float | None) -> None:
        """Ring at `when`, or not at all. Calling it again with the same time costs nothing."""
        if when == self._when:
            return
        self.cancel()
        self._when = when
        if when is not None:
            self._handle = self._loop.call_at(when, self._fire)

    def cancel(self) -> None:
        """Do not ring."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None
        self._when = None

    def _fire(self) -> None:
        self._handle = None
        self._when = None
        self._ring()
