"""Which networks NetworkManager says are metered, where the configuration leaves it to it (`metered = "auto"`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from upmt_nf.config.mobile_host import NetworkSection
from upmt_nf.linux.network_manager import watch_metered
from upmt_nf.mobility.host_events import NetworkMetered
from upmt_nf.model.identity import NetworkName


class Metering:
    """`heard` gets what is new; what nobody knows is not metered."""

    def __init__(self, sections: Iterable[NetworkSection], heard: Callable[[NetworkMetered], None]) -> None:
        self._names = {each.interface: NetworkName(each.name) for each in sections if each.metered == "auto"}
        self._heard = heard
        self._task: asyncio.Task[None] | None = None
        if self._names:
            self._task = asyncio.get_running_loop().create_task(watch_metered(self._names, self._hear))

    def close(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()

    def _hear(self, interface: str, is_metered: bool | None) -> None:
        self._heard(NetworkMetered(self._names[interface], bool(is_metered)))
