"""The mobile host's commands about single networks on the control socket: tests, history, what was used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from upmt_nf.daemon.control_server import Handler
from upmt_nf.daemon.network_trial import network_trial
from upmt_nf.model.errors import UsageError
from upmt_nf.model.identity import NetworkName

if TYPE_CHECKING:
    from upmt_nf.daemon.host_daemon import HostDaemon

READING = frozenset(("network-test", "network-history", "usage"))
"""What any user may ask."""
_LONGEST = 400 * 86400.0


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
        }

    async def try_network(self, arguments: Mapping[str, Any], _: int) -> dict[str, Any]:
        """What is known of a network's way to the anchor."""
        return network_trial(self._daemon.machine.networks[self._network(arguments)])

    async def history(self, arguments: Mapping[str, Any], _: int) -> list[dict[str, Any]]:
        """What a network was like, oldest first."""
        network, seconds = self._network(arguments), arguments.get("seconds", 3600.0)
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds <= _LONGEST:
            raise UsageError("a history goes back more than nothing and at most 400 days")
        return self._daemon.measurements.history(network, seconds)

    async def usage(self, _: Mapping[str, Any], __: int) -> list[dict[str, Any]]:
        """What every network carried and cost, by day and month."""
        return self._daemon.measurements.usage()

    def _network(self, arguments: Mapping[str, Any]) -> NetworkName:
        networks, name = self._daemon.machine.networks, arguments.get("network")
        if not isinstance(name, str) or name not in networks:
            raise UsageError(f"there is no network {name!r}; there are {', '.join(networks)}")
        return NetworkName(name)
