"""The mobile host's decision on each packet: which tunnel out, what to make of what comes in.

The Tunnel Forwarding Agent of the paper (section VI) without its sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple

from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.ecn import decapsulated, outer_tos
from upmt_nf.datapath.fragment import Reassembler, split
from upmt_nf.datapath.icmp import NETWORK_UNREACHABLE, packet_too_big, unreachable
from upmt_nf.datapath.outer import EndpointBytes, packed_endpoint, parse_outer
from upmt_nf.datapath.packet import (
    destination_of,
    flow_of,
    is_fragment,
    is_to_one_host,
    is_whole,
    may_fragment,
    parse_udp,
    reverse,
    source_of,
    tos_of,
)
from upmt_nf.datapath.paft import FlowEntry, Paft, Tunnel
from upmt_nf.datapath.verdict import DROPPED_IN, DROPPED_OUT, Inbound, Outbound, TunnelSignal
from upmt_nf.model.flow import UDP, Endpoint, FlowBytes, IPAddress
from upmt_nf.model.identity import ApplicationId, NetworkName
from upmt_nf.model.names import MEASUREMENT_PORT, SIGNALLING_PORT


class Classified(NamedTuple):
    """Whose flow it is."""

    application_id: ApplicationId
    pid: int
    command: str


class Path(NamedTuple):
    """One access network's way to the anchor, which is there before its tunnel has an id."""

    network: NetworkName
    remote: EndpointBytes


class HostForwarder:
    """Decides for the packets of one virtual address.

    `classify` is asked once a flow, with its key and the packet's fwmark.
    """

    def __init__(
        self,
        paft: Paft,
        virtual_address: IPAddress,
        anchor: IPAddress,
        classify: Callable[[FlowBytes, int], Classified],
        signalling_port: int = SIGNALLING_PORT,
    ) -> None:
        self._paft = paft
        self._own = virtual_address
        self._own_packed = virtual_address.packed
        self._anchor_packed = anchor.packed
        self._classify = classify
        self._signal_ports = frozenset((signalling_port, MEASUREMENT_PORT))
        self._paths: dict[EndpointBytes, Path] = {}
        self._tunnels: dict[NetworkName, Tunnel] = {}
        self.counters = Counters()
        self._outgoing = Reassembler(self.counters)
        self._incoming = Reassembler(self.counters)

    def open_path(self, network: NetworkName, local: Endpoint, anchor: Endpoint) -> None:
        """Packets from `anchor` to `local` are this network's."""
        self.close_path(network)
        self._paths[packed_endpoint(local)] = Path(network, packed_endpoint(anchor))

    def close_path(self, network: NetworkName) -> None:
        """Nothing more is taken from this network."""
        for local, path in list(self._paths.items()):
            if path.network == network:
                del self._paths[local]

    def outbound(self, packet: bytes, mark: int, now: float) -> Outbound:
        """A packet on its way out through the virtual interface. `now` in seconds."""
        key = flow_of(packet)
        entry = self._paft.flows.get(key) if key is not None else None
        if entry is None or is_fragment(packet):
            whole, entry = self._first_packet(packet, key, mark, now)
            if entry is None:
                return DROPPED_OUT
            packet = whole
        size = len(packet)
        entry.packets_out += 1
        entry.bytes_out += size
        entry.last_seen = now
        tunnel = entry.pinned or self._paft.applications.get(entry.application_id)
        if tunnel is None:
            self.counters.add("no_network")
            return Outbound(None, (), 0, unreachable(packet, NETWORK_UNREACHABLE, self._own))
        tunnel.packets_out += 1
        tunnel.bytes_out += size
        if size > tunnel.mtu:
            return self._too_large(packet, tunnel)
        return Outbound(tunnel, (packet,), outer_tos(tos_of(packet)))

    def _first_packet(
        self, packet: bytes, key: FlowBytes | None, mark: int, now: float
    ) -> tuple[bytes, FlowEntry | None]:
        """The slow path: what PAFT does not know, and fragments."""
        if not is_whole(packet):
            self.counters.add("not_ip")
            return packet, None
        if source_of(packet) != self._own_packed:
            self.counters.add("foreign_source")
            return packet, None
        if not is_to_one_host(packet):
            self.counters.add("not_unicast")
            return packet, None
        if is_fragment(packet):
            whole = self._outgoing.add(packet, now)
            if whole is None:
                return packet, None
            packet, key = whole, flow_of(whole)
        if key is None:
            self.counters.add("cut_short")
            return packet, None
        entry = self._paft.flows.get(key)
        if entry is None:
            classified = self._classify(key, mark)
            entry = self._paft.insert(key, classified.application_id, now, classified.pid, classified.command)
        return packet, entry

    def _too_large(self, packet: bytes, tunnel: Tunnel) -> Outbound:
        if may_fragment(packet):
            self.counters.add("fragmented")
            return Outbound(tunnel, split(packet, tunnel.mtu), outer_tos(tos_of(packet)))
        self.counters.add("too_big")
        return Outbound(None, (), 0, packet_too_big(packet, tunnel.mtu, self._own))

    def inbound(self, outer_packet: bytes, now: float) -> Inbound:
        """A packet that arrived at the port of one of our tunnels. `now` in seconds."""
        outer = parse_outer(outer_packet)
        if outer is None:
            return self._drop("malformed_outer")
        path = self._paths.get(outer.local)
        if path is None or path.remote != outer.remote:
            return self._drop("unknown_tunnel")
        inner: bytes | None = outer.payload
        if inner is None or not is_whole(inner):
            return self._drop("malformed_inner")
        inner = decapsulated(inner, outer.tos)
        if inner is None:
            return self._drop("congestion_unheard")
        if destination_of(inner) != self._own_packed:
            return self._drop("foreign_destination")
        tunnel = self._tunnel_of(path.network)
        if tunnel is not None:
            tunnel.packets_in += 1
            tunnel.bytes_in += len(inner)
            tunnel.heard = now
        if is_fragment(inner):
            inner = self._incoming.add(inner, now)
            if inner is None:
                return DROPPED_IN
        if source_of(inner) == self._anchor_packed and (signal := self._signal_in(inner, path, tunnel)):
            return Inbound(signal=signal)
        key = flow_of(inner)
        entry = self._paft.flows.get(reverse(key)) if key is not None else None
        if entry is not None:
            entry.packets_in += 1
            entry.bytes_in += len(inner)
            entry.last_seen = now
        return Inbound(deliver=inner)

    def _signal_in(self, inner: bytes, path: Path, tunnel: Tunnel | None) -> TunnelSignal | None:
        if inner[9 if inner[0] >> 4 == 4 else 6] != UDP:
            return None
        datagram = parse_udp(inner)
        if datagram is None or datagram.destination.port not in self._signal_ports:
            return None
        remote = Endpoint(ip_address(path.remote[:-2]), int.from_bytes(path.remote[-2:], "big"))
        return TunnelSignal(
            path.network, tunnel, remote, datagram.source, datagram.destination.port, datagram.payload
        )

    def use_tunnel(self, network: NetworkName, tunnel: Tunnel | None) -> None:
        """The tunnel that a network's path carries now, for its counters."""
        if tunnel is None:
            self._tunnels.pop(network, None)
        else:
            self._tunnels[network] = tunnel

    def _tunnel_of(self, network: NetworkName) -> Tunnel | None:
        return self._tunnels.get(network)

    def _drop(self, reason: str) -> Inbound:
        self.counters.add(reason)
        return DROPPED_IN
