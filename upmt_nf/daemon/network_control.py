"""The mobile host's commands about what it measured on the control socket: tests, history, usage, events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from upmt_nf.daemon.control_server import Handler
from upmt_nf.daemon.network_trial import network_trial
from upmt_nf.mobility.host_events import NetworkTestAsked
from upmt_nf.model.errors import UsageError
from upmt_nf.model.identity import NetworkName

if TYPE_CHECKING:
    from upmt_nf.daemon.host_daemon import HostDaemon

READING = frozenset(("network-history", "usage", "events"))
"""What any user may ask."""
_MOST_AT_ONCE = 1000
_LONGEST = 400 * 86400.0
_PATIENCE = 12.0
"""Seconds; ports take two at most, the search of a narrow path some more."""


class NetworkControl:
    """The handlers. Each takes the request's arguments and the caller's pid."""

    def __init__(self, daemon: HostDaemon) -> None:
        self._daemon = daemon

    def commands(self) -> dict[str, Handler]:
        """Handlers by name."""
        return {
            "network-test": self.try_network,
            "network-history": self.history,
            "usage": self.usage,
            "events": self.events,
        }

    async def try_network(self, arguments: Mapping[str, Any], _: int) -> dict[str, Any]:
        """Find out what a network lets through, as far as that can be, and say what is known of its way to the anchor.

        Some packets of 40 octets to each tunnel port of the anchor.
        """
        network, daemon = self._network(arguments), self._daemon
        asked_at = daemon.now()
        daemon.take(NetworkTestAsked(network))
        await daemon.lease_portals.ask(network)
        while daemon.now() < asked_at + _PATIENCE and daemon.machine.is_testing(network):
            await asyncio.sleep(0.02)
        return network_trial(daemon.machine.networks[network], daemon.lease_portals.said(network))

    async def history(self, arguments: Mapping[str, Any], _: int) -> list[dict[str, Any]]:
        """What a network was like, oldest first."""
        network, seconds = self._network(arguments), arguments.get("seconds", 3600.0)
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds <= _LONGEST:
            raise UsageError("a history goes back more than nothing and at most 400 days")
        return self._daemon.measurements.history(network, seconds)

    async def usage(self, _: Mapping[str, Any], __: int) -> list[dict[str, Any]]:
        """What every network carried and cost, by day and month."""
        return self._daemon.measurements.usage()

    async def events(self, arguments: Mapping[str, Any], _: int) -> list[dict[str, Any]]:
        """What has changed last, oldest first."""
        after, most = arguments.get("after", 0), arguments.get("most", 100)
        for value in (after, most):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
                raise UsageError("events takes two whole numbers: after, most")
        return self._daemon.events.events(after, min(most, _MOST_AT_ONCE))

    def _network(self, arguments: Mapping[str, Any]) -> NetworkName:
        networks, name = self._daemon.machine.networks, arguments.get("network")
        if not isinstance(name, str) or name not in networks:
            raise UsageError(f"there is no network {name!r}; there are {', '.join(networks)}")
        return NetworkName(name)
