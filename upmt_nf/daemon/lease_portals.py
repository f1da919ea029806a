"""What each network's DHCP lease says of a captive portal.

Files are read when somebody looks; NetworkManager is asked when told to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from upmt_nf.config.mobile_host import NetworkSection
from upmt_nf.linux import dhcp_leases, network_manager
from upmt_nf.mobility.portal_checks import NOT_SAID, LeasePortal
from upmt_nf.model.errors import PeerError
from upmt_nf.model.identity import NetworkName
from upmt_nf.signaling.captive_portal_uri import checked_uri


class LeasePortals:
    """`index_of` gives the number of a network's interface while the network is there."""

    def __init__(
        self, sections: Iterable[NetworkSection], index_of: Callable[[NetworkName], int | None]
    ) -> None:
        self._interfaces = {NetworkName(each.name): each.interface for each in sections}
        self._index_of = index_of
        self._on_the_bus: dict[NetworkName, tuple[int, LeasePortal]] = {}
        """As of the last time that it was asked, and of which interface."""

    def said(self, network: NetworkName) -> LeasePortal:
        """What is known now; nothing of a network that is not there."""
        if (index := self._index_of(network)) is None:
            return NOT_SAID
        try:
            found = dhcp_leases.captive_portal(self._interfaces[network], index)
        except PeerError as reason:
            return LeasePortal(reason=str(reason))
        if found is not None:
            return LeasePortal(*found)
        asked, on_the_bus = self._on_the_bus.get(network, (0, NOT_SAID))
        return on_the_bus if asked == index else NOT_SAID

    async def ask(self, network: NetworkName) -> None:
        """Ask NetworkManager, where it is there."""
        index = self._index_of(network)
        if index is None:
            return
        uri = await network_manager.captive_portal(self._interfaces[network])
        said = NOT_SAID
        if uri is not None:
            try:
                said = LeasePortal(checked_uri(uri), "NetworkManager")
            except PeerError as reason:
                said = LeasePortal(reason=f"NetworkManager: {reason}")
        self._on_the_bus[network] = index, said
