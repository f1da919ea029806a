"""The anchor's decision on each packet: what may come in by a tunnel, which tunnel leads back.

Believes an inner packet only inside a tunnel that was set up, and only from its owner's virtual address.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.ecn import decapsulated, outer_tos
from upmt_nf.datapath.fragment import Reassembler, split
from upmt_nf.datapath.icmp import (
    ADMINISTRATIVELY_PROHIBITED,
    NETWORK_UNREACHABLE,
    packet_too_big,
    unreachable,
)
from upmt_nf.datapath.outer import Outer, parse_outer
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
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.verdict import DROPPED_IN, DROPPED_OUT, Inbound, Outbound, TunnelSignal
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import NetworkName, TunnelId
from upmt_nf.model.names import MEASUREMENT_PORT, SIGNALLING_PORT

IPNetwork = IPv4Network | IPv6Network

NEVER_FORWARDED = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3",
        "::1/128",
        "fe80::/10",
        "ff00::/8",
    )
)
PRIVATE_NETWORKS = tuple(
    ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
_REMEMBERED_DESTINATIONS = 65536


class AnchorForwarder:
    """Decides for all hosts of one anchor. `refused` are destinations that no host may reach (its own pool, ...)."""

    def __init__(
        self,
        paft: Paft,
        address: IPAddress,
        refused: Iterable[IPNetwork],
        signalling_port: int = SIGNALLING_PORT,
    ) -> None:
        self._paft = paft
        self._address = address
        self._address_packed = address.packed
        self._signalling_port = signalling_port
        self._refused = (*NEVER_FORWARDED, *refused)
        self._judged: dict[bytes, bool] = {}
        self._latest: dict[bytes, TunnelId] = {}
        self.counters = Counters()
        self._uplink = Reassembler(self.counters, max_packets=4096, max_bytes=64 << 20)
        self._downlink = Reassembler(self.counters, max_packets=4096, max_bytes=64 << 20)

    def uplink(self, outer_packet: bytes, now: float) -> Inbound:
        """A packet that arrived at the tunnel port. `now` in seconds."""
        outer = parse_outer(outer_packet)
        if outer is None:
            return self._drop("malformed_outer")
        inner: bytes | None = outer.payload
        if inner is None or not is_whole(inner):
            return self._drop("malformed_inner")
        tunnel = self._paft.tunnels_by_remote.get(outer.remote)
        if tunnel is None:
            return self._stranger(outer, inner)
        if source_of(inner) != tunnel.owner_packed:
            return self._drop("forged_source")
        inner = decapsulated(inner, outer.tos)
        if inner is None:
            return self._drop("congestion_unheard")
        tunnel.packets_in += 1
        tunnel.bytes_in += len(inner)
        tunnel.heard = now
        self._latest[tunnel.owner_packed] = tunnel.id
        if is_fragment(inner):
            inner = self._uplink.add(inner, now)
            if inner is None:
                return DROPPED_IN
        destination = destination_of(inner)
        if destination == self._address_packed:
            return self._to_ourselves(outer, inner, tunnel)
        if self._is_refused(destination):
            self.counters.add("refused_destination")
            error = unreachable(inner, ADMINISTRATIVELY_PROHIBITED, self._address)
            return Inbound(answer=Outbound(tunnel, (error,), 0)) if error else DROPPED_IN
        key = flow_of(inner)
        if key is None:
            return self._drop("cut_short")
        entry = self._paft.learn(key, tunnel, now)
        entry.packets_out += 1
        entry.bytes_out += len(inner)
        entry.last_seen = now
        return Inbound(deliver=inner)

    def _stranger(self, outer: Outer, inner: bytes) -> Inbound:
        """From an endpoint without a tunnel only a request to set one up is heard."""
        datagram = parse_udp(inner) if destination_of(inner) == self._address_packed else None
        if datagram is None or datagram.destination.port != self._signalling_port:
            return self._drop("unknown_tunnel")
        return Inbound(
            signal=TunnelSignal(
                NetworkName(""),
                None,
                _endpoint(outer.remote),
                datagram.source,
                datagram.destination.port,
                datagram.payload,
            )
        )

    def _to_ourselves(self, outer: Outer, inner: bytes, tunnel: Tunnel) -> Inbound:
        """The anchor is reached inside a tunnel for signalling and measurement only: anything else would be a loop."""
        datagram = parse_udp(inner)
        if datagram is None or datagram.destination.port not in (self._signalling_port, MEASUREMENT_PORT):
            return self._drop("to_the_anchor")
        return Inbound(
            signal=TunnelSignal(
                tunnel.network,
                tunnel,
                _endpoint(outer.remote),
                datagram.source,
                datagram.destination.port,
                datagram.payload,
            )
        )

    def _is_refused(self, destination: bytes) -> bool:
        verdict = self._judged.get(destination)
        if verdict is None:
            if len(self._judged) >= _REMEMBERED_DESTINATIONS:
                self._judged.clear()
            address = ip_address(destination)
            verdict = any(
                address.version == network.version and address in network for network in self._refused
            )
            self._judged[destination] = verdict
        return verdict

    def downlink(self, packet: bytes, now: float) -> Outbound:
        """A packet for a virtual address, on its way out through the virtual interface. `now` in seconds."""
        if is_fragment(packet):
            whole = self._downlink.add(packet, now)
            if whole is None:
                return DROPPED_OUT
            packet = whole
        key = flow_of(packet)
        if key is None or not is_to_one_host(packet):
            self.counters.add("not_ip")
            return DROPPED_OUT
        entry = self._paft.flows.get(reverse(key))
        tunnel = entry.pinned if entry is not None else None
        if tunnel is None:
            # Aged, or its tunnel is gone: the tunnel that the host used last is the best guess.
            latest = self._latest.get(destination_of(packet))
            tunnel = self._paft.tunnels.get(latest) if latest is not None else None
            if tunnel is None or tunnel.owner_packed != destination_of(packet):
                self.counters.add("no_tunnel")
                return Outbound(None, (), 0, unreachable(packet, NETWORK_UNREACHABLE, self._address))
            self.counters.add("guessed_tunnel")
        size = len(packet)
        if entry is not None:
            entry.packets_in += 1
            entry.bytes_in += size
            entry.last_seen = now
        tunnel.packets_out += 1
        tunnel.bytes_out += size
        if size <= tunnel.mtu:
            return Outbound(tunnel, (packet,), outer_tos(tos_of(packet)))
        if may_fragment(packet):
            self.counters.add("fragmented")
            return Outbound(tunnel, split(packet, tunnel.mtu), outer_tos(tos_of(packet)))
        self.counters.add("too_big")
        return Outbound(None, (), 0, packet_too_big(packet, tunnel.mtu, self._address))

    def forget_owner(self, owner: IPAddress) -> None:
        """The lease of this virtual address ended."""
        self._latest.pop(owner.packed, None)

    def _drop(self, reason: str) -> Inbound:
        self.counters.add(reason)
        return DROPPED_IN


def _endpoint(packed: bytes) -> Endpoint:
    return Endpoint(ip_address(packed[:-2]), int.from_bytes(packed[-2:], "big"))
