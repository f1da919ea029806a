"""The anchor's decision on each packet: what may come in by a tunnel, which tunnel leads back.

Believes an inner packet only inside a tunnel that was set up, and only from its owner's virtual address.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.ecn import decapsulated
from upmt_nf.datapath.formats import NAT_KEEPALIVE, PLAIN, decode, is_binding_probe, is_plain
from upmt_nf.datapath.fragment import Reassembler
from upmt_nf.datapath.icmp import ADMINISTRATIVELY_PROHIBITED, NETWORK_UNREACHABLE, TIME_EXCEEDED, ErrorBudget
from upmt_nf.datapath.outer import Outer, packed_endpoint, parse_outer, unpacked_endpoint
from upmt_nf.datapath.packet import (
    build_udp,
    destination_of,
    flow_of,
    is_fragment,
    is_icmp_error,
    is_to_one_host,
    is_whole,
    parse_udp,
    reverse,
    source_of,
)
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.protected import tunnel_hint
from upmt_nf.datapath.sending import Sender
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
        "::/127",
        "::ffff:0:0/96",
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
        self._sender = Sender(address, self.counters, ErrorBudget())
        self._uplink = Reassembler(self.counters, max_packets=4096, max_bytes=64 << 20)
        self._downlink = Reassembler(self.counters, max_packets=4096, max_bytes=64 << 20)

    def uplink(self, outer_packet: bytes, now: float) -> Inbound:
        """A packet that arrived at the tunnel port. `now` in seconds. Never raises."""
        outer = parse_outer(outer_packet)
        if outer is None:
            return self._drop("malformed_outer")
        payload = outer.payload
        tunnels = self._paft.tunnels_by_remote.get(outer.remote)
        tunnel = None
        if tunnels is not None and len(payload) >= 20:
            if is_plain(payload):
                source = source_of(payload)
                for known in tunnels:
                    if known.owner_packed == source and known.format is PLAIN:
                        tunnel = known
                        break
            else:
                tunnel = _protected_tunnel(tunnels, payload)
                if tunnel is None:
                    return self._drop("unknown_tunnel")
        inner = decode(tunnel, payload)
        if inner is None:
            if tunnel is None and is_binding_probe(payload):
                return Inbound(probe=(unpacked_endpoint(outer.remote), payload))
            if payload == NAT_KEEPALIVE:
                return DROPPED_IN
            return self._drop("malformed_inner")
        if tunnel is None:
            return self._stranger(outer, inner, "unknown_tunnel" if tunnels is None else "forged_source")
        if tunnel.format is not PLAIN and source_of(inner) != tunnel.owner_packed:
            return self._drop("forged_source")
        if outer.tos & 3:
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
            return self._to_ourselves(inner, tunnel)
        if self._is_refused(destination):
            self.counters.add("refused_destination")
            return self._refuse(inner, ADMINISTRATIVELY_PROHIBITED, tunnel, now)
        if (inner[8] if len(destination) == 4 else inner[7]) <= 1:
            # The kernel would answer, but cannot hand us its answer about a flow that conntrack does not know yet.
            self.counters.add("time_exceeded")
            return self._refuse(inner, TIME_EXCEEDED, tunnel, now)
        key = flow_of(inner)
        if key is None:
            return self._drop("cut_short")
        if is_icmp_error(inner):
            return self._error_from_host(inner, key, tunnel, now)
        entry = self._paft.learn(key, tunnel, now)
        entry.packets_out += 1
        entry.bytes_out += len(inner)
        entry.last_seen = now
        return Inbound(deliver=inner)

    def _refuse(self, inner: bytes, codes: dict[int, tuple[int, int]], tunnel: Tunnel, now: float) -> Inbound:
        error = self._sender.refuse(inner, codes, now)
        return Inbound(answer=self._sender.send(error, tunnel, now)) if error else DROPPED_IN

    def _error_from_host(self, inner: bytes, key: bytes, tunnel: Tunnel, now: float) -> Inbound:
        """An ICMP error quotes what it likes: it is forwarded for a flow of its sender's own, and teaches nothing."""
        if (key[1:5] if len(key) == 13 else key[1:17]) != tunnel.owner_packed:
            return self._drop("unfounded_error")
        if (entry := self._paft.flows.get(key)) is not None:
            entry.packets_out += 1
            entry.bytes_out += len(inner)
        return Inbound(deliver=inner)

    def signal(self, remote: Endpoint, destination: Endpoint, port: int, payload: bytes) -> bytes:
        """The outer payload of a datagram of ours to a host, from our inner address and `port`.

        Measurement goes in the tunnel's own format. SIP, which proves itself, is always plain: it is what formats
        are agreed by.
        """
        packet = build_udp(self._address, port, destination.address, destination.port, payload)
        if port == MEASUREMENT_PORT:
            tunnel = self._paft.tunnel_from(packed_endpoint(remote), destination.address.packed)
            if tunnel is not None:
                return tunnel.format.encode(tunnel, packet)
        return packet

    def _stranger(self, outer: Outer, inner: bytes, reason: str) -> Inbound:
        """From an endpoint that has no tunnel for this source only signalling is heard, which must prove itself."""
        datagram = parse_udp(inner) if destination_of(inner) == self._address_packed else None
        if datagram is None or datagram.destination.port != self._signalling_port:
            return self._drop(reason)
        return Inbound(
            signal=TunnelSignal(
                NetworkName(""),
                None,
                unpacked_endpoint(outer.remote),
                datagram.source,
                datagram.destination.port,
                datagram.payload,
            )
        )

    def _to_ourselves(self, inner: bytes, tunnel: Tunnel) -> Inbound:
        """The anchor is reached inside a tunnel for signalling and measurement only: anything else would be a loop."""
        datagram = parse_udp(inner)
        if datagram is None or datagram.destination.port not in (self._signalling_port, MEASUREMENT_PORT):
            return self._drop("to_the_anchor")
        return Inbound(
            signal=TunnelSignal(
                tunnel.network,
                tunnel,
                tunnel.remote,
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
        """A packet for a virtual address, on its way out through the virtual interface. Never raises."""
        if is_fragment(packet):
            whole = self._downlink.add(packet, now) if is_whole(packet) else None
            if whole is None:
                return DROPPED_OUT
            packet = whole
        key = flow_of(packet)
        if key is None or not is_to_one_host(packet):
            self.counters.add("not_ip")
            return DROPPED_OUT
        if packet[0] == 0x45 and (packet[2] << 8 | packet[3]) != len(packet):
            self.counters.add("cut_short")
            return DROPPED_OUT
        entry = self._paft.flows.get(reverse(key))
        tunnel = entry.pinned if entry is not None else None
        destination = destination_of(packet)
        if tunnel is None or tunnel.owner_packed != destination:
            # Aged, or its tunnel is gone, or an error that quotes another host's flow: the tunnel that the
            # packet's host used last is the best guess.
            latest = self._latest.get(destination)
            tunnel = self._paft.tunnels.get(latest) if latest is not None else None
            if tunnel is None or tunnel.owner_packed != destination:
                self.counters.add("no_tunnel")
                return Outbound(None, (), 0, self._sender.refuse(packet, NETWORK_UNREACHABLE, now))
            self.counters.add("guessed_tunnel")
        if entry is not None:
            entry.packets_in += 1
            entry.bytes_in += len(packet)
            entry.last_seen = now
        return self._sender.send(packet, tunnel, now)

    def forget_owner(self, owner: IPAddress) -> None:
        """The lease of this virtual address ended."""
        self._latest.pop(owner.packed, None)

    def _drop(self, reason: str) -> Inbound:
        self.counters.add(reason)
        return DROPPED_IN


def _protected_tunnel(tunnels: Iterable[Tunnel], payload: bytes) -> Tunnel | None:
    """The tunnel that a protected payload names; its format then checks whether it is so."""
    hint = tunnel_hint(payload)
    if hint is not None:
        number, mask = hint
        for known in tunnels:
            if known.id & mask == number:
                return known
    return None
