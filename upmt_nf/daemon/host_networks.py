"""The mobile host's access networks as they come and go: sockets, routes and ports follow what the kernel tells.

Carrier loss leaves sockets and routes in place, so that coming back costs nothing; a lost address or interface
takes them away. Decides nothing about applications.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from upmt_nf.config.mobile_host import MobileHostConfig, NetworkSection
from upmt_nf.daemon.host_kernel import HostKernel
from upmt_nf.daemon.tunnel_sockets import TunnelSockets
from upmt_nf.linux.link_monitor import InterfaceState
from upmt_nf.linux.tunnel_socket import SignallingSocket
from upmt_nf.mobility.host_events import NetworkAppeared, NetworkVanished
from upmt_nf.mobility.traffic import OwnTraffic
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import NetworkName
from upmt_nf.model.names import outer_mark
from upmt_nf.routing.plan import NetworkRouting

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Present:
    """A network with sockets: what they are bound to, and how it is routed."""

    interface_index: int
    routing: NetworkRouting
    signalling: SignallingSocket
    port: int


class FurtherEnd(NamedTuple):
    """Our end of a tunnel to another anchor than the usual one: the access interface, our port, the anchor's end."""

    interface: str
    port: int
    anchor: Endpoint


class HostNetworks:
    """All configured access networks. `heard` gets SIP of our anchors that comes outside the tunnels."""

    def __init__(
        self,
        config: MobileHostConfig,
        kernel: HostKernel,
        sockets: TunnelSockets,
        heard: Callable[[NetworkName, bytes, IPAddress], None],
        own: OwnTraffic,
    ) -> None:
        self._kernel = kernel
        self._sockets = sockets
        self._further: dict[IPAddress, TunnelSockets] = {}
        self._heard = heard
        self._own = own
        self._loop = asyncio.get_running_loop()
        self._addresses = kernel.addresses
        self._by_interface = {
            section.interface: (index, section) for index, section in enumerate(config.network, start=1)
        }
        self._present: dict[NetworkName, _Present] = {}
        self._anchor_ports: dict[NetworkName, int] = {}
        """Of networks whose tunnels do not go to the first port of the anchor in use."""
        self.virtual_address: IPAddress | None = None
        self.ports_before: Mapping[int, int] = {}
        """Of an earlier daemon's tunnels, by the index of the interface: the same again, if the kernel is to choose."""

    @property
    def interfaces(self) -> list[str]:
        """The interfaces to watch."""
        return list(self._by_interface)

    @property
    def ports(self) -> dict[str, tuple[int, int]]:
        """Access interface -> local port of its tunnel, and the anchor's; of those with the first address's version."""
        interface_of = {section.name: name for name, (_, section) in self._by_interface.items()}
        return {
            interface_of[network]: (present.port, self._sockets.remote_of(network).port)
            for network, present in self._present.items()
            if present.routing.address.version == self._kernel.anchor.address.version
        }

    @property
    def further_ports(self) -> tuple[FurtherEnd, ...]:
        """The same of the tunnels to other anchors than the usual one."""
        return tuple(
            FurtherEnd(present.routing.interface, local.port, sockets.remote_of(network))
            for sockets in self._further.values()
            for network, present in self._present.items()
            if (local := sockets.local_of(network)) is not None
            and local.address.version == self._kernel.anchor.address.version
        )

    def add_anchor(self, sockets: TunnelSockets) -> None:
        """Tunnels go to another anchor, too, from now on: by every network that is there or comes."""
        self._further[sockets.anchor.address] = sockets
        for network, present in self._present.items():
            self._open_further(network, present.routing)
        self.apply_routing()

    def remove_anchor(self, anchor: IPAddress) -> None:
        """They do no more."""
        self._further.pop(anchor).close_all()
        self.apply_routing()

    def _open_further(self, network: NetworkName, routing: NetworkRouting) -> None:
        for sockets in self._further.values():
            if sockets.local_of(network) is None:
                try:
                    sockets.open(network, routing.index, routing.interface, routing.address.ip, 0)
                except UpmtError as reason:
                    log.warning("network %s, anchor %s: %s", network, sockets.anchor.address, reason)

    def update(self, state: InterfaceState) -> NetworkAppeared | NetworkVanished:
        """An interface is like this now: bring its sockets into line and say what it means."""
        index, section = self._by_interface[state.interface]
        network = NetworkName(section.name)
        versions = self._kernel.outer_versions
        address = next(
            (each for version in versions for each in state.addresses if each.version == version), None
        )
        if state.index == 0:
            return self._forget(network, f"there is no interface {state.interface}")
        if address is None:
            known = " or ".join(f"IPv{version}" for version in versions)
            return self._forget(network, f"{state.interface} has no {known} address")
        if not state.is_running:
            return NetworkVanished(network, f"{state.interface} has no carrier")
        is_meant = section.gateway is not None and section.gateway.version == address.version
        gateway = section.gateway if is_meant else state.gateway(address.version)
        ipv6 = next((each for each in state.addresses if each.version == 6), None)
        routing = NetworkRouting(index, state.interface, address, gateway)
        if ipv6 is not None and 6 in versions:
            routing = replace(routing, ipv6=ipv6, ipv6_gateway=state.gateway(6))
        try:
            self._bind(network, section, routing, state.index)
        except UpmtError as reason:
            log.warning("network %s: %s", network, reason)
            return self._forget(network, str(reason))
        return NetworkAppeared(
            network,
            state.interface,
            address.ip,
            gateway,
            state.mtu,
            address.network,
            ipv6.ip if ipv6 is not None else None,
        )

    def _bind(self, network: NetworkName, section: NetworkSection, routing: NetworkRouting, at: int) -> None:
        """Sockets before routes: packets that a route lets out must find their socket's answer port taken."""
        known = self._present.get(network)
        if known is not None and (known.interface_index, known.routing.address) == (at, routing.address):
            known.routing = routing
        else:
            self._close(network)
            care_of, mark = routing.address.ip, outer_mark(routing.index)
            self._own.goes_over(network, care_of.version)
            signalling = SignallingSocket(section.interface, care_of, 0, mark)
            self._present[network] = _Present(at, routing, signalling, 0)
            self._loop.add_reader(signalling.fileno(), self._read, network, signalling)
        self.apply_routing()
        present = self._present[network]
        if self._sockets.local_of(network) is None:
            port = section.tunnel_port or self.ports_before.get(at, 0)
            present.port = self._sockets.open(
                network,
                routing.index,
                section.interface,
                routing.address.ip,
                port,
                self._anchor_ports.get(network, 0),
            )
        self._open_further(network, routing)

    def rebind(self, network: NetworkName, anchor_port: int) -> None:
        """A new source port for a network's tunnel, to that port of the anchor; the old one if the kernel refuses."""
        present = self._present.get(network)
        if present is None:
            return
        routing = present.routing
        try:
            present.port = self._sockets.open(
                network, routing.index, routing.interface, routing.address.ip, 0, anchor_port
            )
            self._anchor_ports[network] = anchor_port
        except UpmtError as reason:
            log.warning("network %s keeps its tunnel port: %s", network, reason)

    def use_anchor(self) -> None:
        """Another anchor is in use: all tunnels go to its first port."""
        self._anchor_ports.clear()

    def apply_routing(self) -> None:
        """Bring policy routing into line with what is there. Raises KernelError."""
        self._kernel.route(self.virtual_address, self.routings, further_anchors=tuple(self._further))

    def place_of(self, network: NetworkName) -> tuple[int, int] | None:
        """The index of a network's interface and its number among the networks, while it is there."""
        present = self._present.get(network)
        return (present.interface_index, present.routing.index) if present is not None else None

    def routing_of(self, network: NetworkName) -> NetworkRouting | None:
        """How a network is routed, if it is there."""
        present = self._present.get(network)
        return present.routing if present is not None else None

    @property
    def routings(self) -> list[NetworkRouting]:
        """How the networks that are there are routed."""
        return [present.routing for present in self._present.values()]

    def send_sip(self, network: NetworkName, destination: Endpoint, data: bytes) -> None:
        """Send SIP outside the tunnels; retransmission takes care of what the kernel refuses."""
        if (present := self._present.get(network)) is not None:
            self._own.sent(network, len(data))
            version = present.routing.address.version
            present.signalling.send_to(data, self._addresses.at(destination, version))

    def close(self) -> None:
        """Close every socket."""
        for network in list(self._present):
            self._close(network)

    def _forget(self, network: NetworkName, reason: str) -> NetworkVanished:
        if self._close(network):
            try:
                self.apply_routing()
            except UpmtError as refusal:
                log.warning("network %s: %s", network, refusal)
        return NetworkVanished(network, reason)

    def _close(self, network: NetworkName) -> bool:
        present = self._present.pop(network, None)
        if present is None:
            return False
        self._loop.remove_reader(present.signalling.fileno())
        present.signalling.close()
        for sockets in (self._sockets, *self._further.values()):
            sockets.close(network)
        return True

    def _read(self, network: NetworkName, signalling: SignallingSocket) -> None:
        for data, source in signalling.receive():
            self._own.received(network, len(data))
            if (anchor := self._addresses.known_as(source.address)) is not None:
                self._heard(network, data, anchor)
