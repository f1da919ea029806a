"""What the mobile host's daemon has the kernel and the resolver tell it, so that classification stays right.

Nothing is watched before there is a rule that needs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from upmt_nf.daemon.destination_names import DestinationNames
from upmt_nf.daemon.flow_ends import FlowEnds
from upmt_nf.model.flow import IPAddress

if TYPE_CHECKING:
    from upmt_nf.daemon.host_daemon import HostDaemon

log = logging.getLogger(__name__)


class HostWatch:
    """Processes, closed sockets, names of destinations."""

    def __init__(self, daemon: HostDaemon) -> None:
        self._daemon = daemon
        self._loop = asyncio.get_running_loop()
        self._handles: list[int] = []
        self._has_processes = self._has_ends = False
        self.ends = FlowEnds(daemon.paft)
        self.names = DestinationNames(
            lambda: daemon.applications.destination_names, self._take_addresses, daemon.now
        )

    def fit_rules(self) -> None:
        """Watch what the rules of now need."""
        applications = self._daemon.applications
        if applications.needs_lookup and not self._has_processes:
            self._has_processes = True
            events = applications.watch_processes(self._daemon.kernel.cgroup_hierarchy())
            if events is not None:
                self._read(events.fileno(), applications.owners.catch_up)
        if applications.rules and not self._has_ends:
            # Before the first rule all flows are alike, whoever has a port next.
            self._has_ends = True
            ends = self.ends.watch()
            if ends is not None:
                self._read(ends.fileno(), self._take_ends)
                applications.owners.cookie_of_ended = self.ends.cookie_of
        self.names.keep_fresh()

    def close(self) -> None:
        """Watch no more; take what is in the kernel out of it."""
        for handle in self._handles:
            self._loop.remove_reader(handle)
        self._handles.clear()
        self.names.close()
        self.ends.close()
        self._daemon.applications.close()

    def _read(self, handle: int, take: Callable[[], None]) -> None:
        self._loop.add_reader(handle, take)
        self._handles.append(handle)

    def _take_ends(self) -> None:
        self.ends.take(self._daemon.forwarder, self._daemon.networks.virtual_address)

    def _take_addresses(self, name: str, addresses: tuple[IPAddress, ...]) -> None:
        if self._daemon.applications.set_addresses(name, addresses):
            log.info("%s is %s", name, ", ".join(map(str, addresses)) or "nowhere")
            self._daemon.update_rules()
