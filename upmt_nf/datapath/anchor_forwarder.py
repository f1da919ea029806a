"""The anchor's decision on each packet: what may come in by a tunnel, which tunnel leads back.

Believes an inner packet only inside a tunnel that was set up, and only from its owner's virtual address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from upmt_nf.datapath.bursts import finished_by_us, let_in, merged, opened, parted
from upmt_nf.datapath.copies import NUMBER_SIZE, FirstCopies, Numbering, is_carried, number_of
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.ecn import decapsulated
from upmt_nf.datapath.fair_reassembler import FairReassembler
from upmt_nf.datapath.formats import NAT_KEEPALIVE, PLAIN, decode, is_binding_probe, is_plain, is_registration
from upmt_nf.datapath.icmp import ADMINISTRATIVELY_PROHIBITED, NETWORK_UNREACHABLE, TIME_EXCEEDED, ErrorBudget
from upmt_nf.datapath.offload import Offload, finished
from upmt_nf.datapath.outer import (
    OVERHEAD,
    EndpointBytes,
    claimed_remote,
    packed_endpoint,
    parse_outer,
    unpacked_endpoint,
)
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
from upmt_nf.datapath.reach import Reach
from upmt_nf.datapath.sending import Sender
from upmt_nf.datapath.verdict import DROPPED_IN, DROPPED_OUT, Inbound, Outbound, TunnelSignal
from upmt_nf.model.flow import PORTED, UDP, Endpoint, FlowBytes, IPAddress, owner_of
from upmt_nf.model.identity import NetworkName, TunnelId
from upmt_nf.model.names import MEASUREMENT_PORT, SIGNALLING_PORT

_UDP = bytes((UDP,))


class AnchorForwarder:
    """Decides for all hosts of one anchor. `reach` says whom they may talk with.

    `hears` says, by the outer endpoint and the bytes, whether signalling from outside every tunnel is worth a look.
    `salt` as in `BucketTable`, `run` as in `Numbering`.
    """

    def __init__(
        self,
        paft: Paft,
        address: IPAddress,
        reach: Reach,
        signalling_port: int = SIGNALLING_PORT,
        *,
        hears: Callable[[EndpointBytes, bytes, float], bool] = lambda _, __, ___: True,
        salt: bytes = b"",
        run: int = 0,
    ) -> None:
        self._paft = paft
        self._address = address
        self._address_packed = address.packed
        self._signalling_port = signalling_port
        self._reach = reach
        self._hears = hears
        self._latest: dict[bytes, TunnelId] = {}
        self._run = run
        self._numberings: dict[bytes, Numbering] = {}
        self._first_copies: dict[bytes, FirstCopies] = {}
        self.counters = Counters()
        self._sender = Sender(address, self.counters, ErrorBudget(salt=salt))
        self._uplink = FairReassembler(self.counters)
        self._downlink = FairReassembler(self.counters)

    def uplink(self, outer_packet: bytes, now: float) -> Inbound:
        """A packet that arrived at the tunnel port. `now` in seconds. Never raises."""
        claimed = claimed_remote(outer_packet)
        if claimed is not None and claimed not in self._paft.tunnels_by_remote:
            # Nobody's tunnel: dropped before anything is summed up or copied, unless it may be a host's first word.
            if not (self._is_to_our_signalling(outer_packet) or _holds_no_packet(outer_packet)):
                return self._drop("unknown_tunnel")
            if not self._hears(claimed, outer_packet, now):
                return DROPPED_IN
        outer = parse_outer(outer_packet)
        if outer is None:
            return self._drop("malformed_outer")
        return finished_by_us(self._arrived(outer.remote, outer.tos, outer.payload, now))

    def arrived(
        self, remote: EndpointBytes, tos: int, data: bytes, size: int, now: float
    ) -> Iterator[Inbound]:
        """Payloads that arrived together from one endpoint, joined: of `size` bytes each, the last maybe shorter.

        Never raises.
        """
        tunnel = self._tunnel_at(remote, data) if size < len(data) else None
        if tunnel is None:
            for payload in parted(data, size):
                yield self._arrived(remote, tos, payload, now)
            return
        for run in opened(tunnel, data, size, self.counters):
            inner = run.first
            if run.packets == 1 and not is_whole(inner):
                if tunnel.format is PLAIN:
                    # Counted as what it is when it comes alone: what is not even an IP packet belongs to no tunnel.
                    yield self._arrived(remote, tos, inner, now)
                elif is_carried(inner):
                    yield self._accept(remote, tunnel, tos, inner, now, 1, len(inner))
                else:
                    yield self._drop("malformed_inner")
            elif source_of(inner) != tunnel.owner_packed:
                # Two hosts behind one NAT may share an endpoint one after the other: each packet for itself.
                for packet in parted(run.data, run.size):
                    yield self._arrived(remote, tos, packet, now)
            else:
                verdict = self._accept(remote, tunnel, tos, inner, now, run.packets, len(run.data))
                yield merged(verdict, run)

    def _tunnel_at(self, remote: EndpointBytes, payload: bytes) -> Tunnel | None:
        """The tunnel that a payload from there claims, in the format that was agreed for it."""
        tunnels = self._paft.tunnels_by_remote.get(remote)
        if tunnels is None or len(payload) < 20:
            return None
        if number_of(payload) is not None and len(payload) >= NUMBER_SIZE + 20:
            payload = payload[NUMBER_SIZE:]
        if not is_plain(payload):
            return _protected_tunnel(tunnels, payload)
        source = source_of(payload)
        for known in tunnels:
            if known.owner_packed == source and known.format is PLAIN:
                return known
        return None

    def _arrived(self, remote: EndpointBytes, tos: int, payload: bytes, now: float) -> Inbound:
        tunnel = self._tunnel_at(remote, payload)
        if tunnel is None and (is_binding_probe(payload) or is_registration(payload)):
            return Inbound(probe=(unpacked_endpoint(remote), payload, tos))
        if tunnel is None and len(payload) >= 20 and not is_plain(payload):
            return self._drop("unknown_tunnel")
        inner = decode(tunnel, payload)
        if inner is None:
            if payload == NAT_KEEPALIVE:
                return DROPPED_IN
            return self._drop("malformed_inner")
        if tunnel is None:
            is_known = remote in self._paft.tunnels_by_remote
            return self._stranger(remote, inner, "forged_source" if is_known else "unknown_tunnel", now)
        return self._accept(remote, tunnel, tos, inner, now, 1, len(inner))

    def _accept(
        self,
        remote: EndpointBytes,
        tunnel: Tunnel,
        tos: int,
        inner: bytes,
        now: float,
        packets: int,
        size: int,
    ) -> Inbound:
        """An inner packet, maybe numbered, which may stand for more of its kind: `packets` of `size` bytes in all."""
        if (number := number_of(inner)) is not None:
            inner = inner[NUMBER_SIZE:]
            size = len(inner)
        if tunnel.format is not PLAIN and source_of(inner) != tunnel.owner_packed:
            return self._drop("forged_source", packets)
        if tos & 3:
            changed = decapsulated(inner, tos)
            if changed is None:
                return self._drop("congestion_unheard", packets)
            inner = changed
        tunnel.packets_in += packets
        tunnel.bytes_in += size
        self._paft.hear(tunnel, now)
        self._latest[tunnel.owner_packed] = tunnel.id
        is_overtaken: bool | None = None
        if number is not None:
            memory = self._first_copies.setdefault(tunnel.owner_packed, FirstCopies())
            is_first, is_overtaken = memory.take(number)
            if not is_first:
                self.counters.add("copies_dropped")
                self._learn_from_copy(inner, tunnel, now)
                return DROPPED_IN
        if is_fragment(inner):
            whole = self._uplink.add(tunnel.owner_packed, inner, now)
            if whole is None:
                return DROPPED_IN
            inner = whole
        destination = destination_of(inner)
        if destination == self._address_packed:
            return self._to_ourselves(inner, tunnel)
        key = flow_of(inner)
        if key is None:
            return self._drop("cut_short", packets)
        is_error = is_icmp_error(inner)
        entry = self._paft.flows.get(key)
        if entry is None or is_error or not entry.is_permitted:
            # A flow in PAFT need not be one that was judged: hosts name flows in their handover requests, too.
            refusal = self._reach.refusal(destination, key[0], 0 if is_error else _peer_port(key))
            if refusal is not None:
                self.counters.add(f"refused_{refusal}", packets)
                return self._refuse(inner, ADMINISTRATIVELY_PROHIBITED, tunnel, now)
        if (inner[8] if len(destination) == 4 else inner[7]) <= 1:
            # The kernel would answer, but cannot hand us its answer about a flow that conntrack does not know yet.
            self.counters.add("time_exceeded", packets)
            return self._refuse(inner, TIME_EXCEEDED, tunnel, now)
        if is_error:
            return self._error_from_host(inner, key, tunnel, now)
        entry = (self._paft.learn if number is None else self._paft.learn_copy)(key, tunnel, now)
        if not entry.is_permitted:
            entry.is_permitted = True
            self._paft.changed(entry)
        entry.packets_out += packets
        entry.bytes_out += size
        entry.last_seen = now
        if entry.arrivals is not None:
            entry.arrivals.take(tunnel, packets, now, is_overtaken=is_overtaken)
        return let_in(inner, tunnel.mtu)

    def _learn_from_copy(self, inner: bytes, tunnel: Tunnel, now: float) -> None:
        """A packet that came before says no more than where answers shall go as well."""
        key = flow_of(inner) if not is_fragment(inner) and not is_icmp_error(inner) else None
        if key is not None and (entry := self._paft.flows.get(key)) is not None and entry.is_permitted:
            self._paft.learn_copy(key, tunnel, now)

    def _refuse(self, inner: bytes, codes: dict[int, tuple[int, int]], tunnel: Tunnel, now: float) -> Inbound:
        error = self._sender.refuse(inner, codes, now)
        return Inbound(answer=self._sender.send(error, tunnel, now)) if error else DROPPED_IN

    def _error_from_host(self, inner: bytes, key: bytes, tunnel: Tunnel, now: float) -> Inbound:
        """An ICMP error quotes what it likes: it is forwarded for a flow of its sender's own, and teaches nothing."""
        if owner_of(key) != tunnel.owner_packed:
            return self._drop("unfounded_error")
        if (entry := self._paft.flows.get(key)) is not None:
            entry.packets_out += 1
            entry.bytes_out += len(inner)
        return Inbound(deliver=inner)

    def permits(self, key: FlowBytes) -> bool:
        """Whether a host may have this flow; `key` is the host's."""
        address = key[5:9] if len(key) == 13 else key[17:33]
        return self._reach.refusal(address, key[0], _peer_port(key)) is None

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

    def _is_to_our_signalling(self, packet: bytes) -> bool:
        """Whether an outer packet, unchecked, holds a plain one to our signalling port."""
        start = OVERHEAD[4 if packet[0] == 0x45 else 6]
        match packet[start] >> 4 if len(packet) > start else 0:
            case 4:
                protocol, place = packet[start + 9 : start + 10], start + (packet[start] & 15) * 4 + 2
                destination = packet[start + 16 : start + 20]
            case 6:
                # Our hosts put no extension headers before their signalling.
                protocol, place = packet[start + 6 : start + 7], start + 42
                destination = packet[start + 24 : start + 40]
            case _:
                return False
        port = int.from_bytes(packet[place : place + 2], "big")
        return destination == self._address_packed and protocol == _UDP and port == self._signalling_port

    def _stranger(self, remote: EndpointBytes, inner: bytes, reason: str, now: float) -> Inbound:
        """From an endpoint that has no tunnel for this source only signalling is heard, which must prove itself."""
        if destination_of(inner) != self._address_packed:
            return self._drop(reason)
        if not self._hears(remote, inner, now):
            return DROPPED_IN
        datagram = parse_udp(inner)
        if datagram is None or datagram.destination.port != self._signalling_port:
            return self._drop(reason)
        return Inbound(
            signal=TunnelSignal(
                NetworkName(""),
                None,
                unpacked_endpoint(remote),
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

    def downlink(self, packet: bytes, now: float, offload: Offload | None = None) -> Outbound:
        """A packet for a virtual address, on its way out through the virtual interface. Never raises."""
        if offload is not None and not offload.segment:
            packet, offload = finished(packet, offload), None
        if is_fragment(packet):
            whole = self._downlink.add(destination_of(packet), packet, now) if is_whole(packet) else None
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
        tunnel = self._paft.tunnel_of(entry) if entry is not None else None
        destination = destination_of(packet)
        if tunnel is None or tunnel.owner_packed != destination:
            # Never seen: where the host wants what others begin. Aged, or its tunnel is gone, or an error that quotes
            # another host's flow: the tunnel that the packet's host used last is the best guess.
            tunnel = self._paft.newcomers.get(destination) if entry is None else None
            if tunnel is None:
                latest = self._latest.get(destination)
                tunnel = self._paft.tunnels.get(latest) if latest is not None else None
                if tunnel is None or tunnel.owner_packed != destination:
                    self.counters.add("no_tunnel")
                    return Outbound(None, (), 0, self._sender.refuse(packet, NETWORK_UNREACHABLE, now))
                self.counters.add("guessed_tunnel")
        if entry is None or not entry.is_permitted:
            peer = 0 if is_icmp_error(packet) else _peer_port(reverse(key))
            refusal = self._reach.refusal(source_of(packet), key[0], peer)
            if refusal not in (None, "anchor"):
                self.counters.add(f"kept_out_{refusal}")
                return DROPPED_OUT
        if entry is not None and entry.copies and tunnel is entry.pinned:
            others = [other for other in entry.copies if other is not tunnel]
            numbering = self._numbering_of(destination)
            verdict, count = self._sender.send_copies(packet, (tunnel, *others), numbering, now, offload)
        elif offload is None:
            verdict, count = self._sender.send(packet, tunnel, now), 1
        else:
            verdict, count = self._sender.send_all(packet, offload, tunnel, now)
        if entry is not None:
            entry.packets_in += count
            entry.bytes_in += len(packet)
            entry.last_seen = now
        return verdict

    def _numbering_of(self, owner: bytes) -> Numbering:
        """The count of what one host is sent twice; each begins a run of its own, as hosts may remember the last."""
        found = self._numberings.get(owner)
        if found is None:
            self._run += 1
            found = self._numberings[owner] = Numbering(self._run)
        return found

    def forget_owner(self, owner: IPAddress) -> None:
        """The lease of this virtual address ended."""
        for table in (self._latest, self._numberings, self._first_copies):
            table.pop(owner.packed, None)

    def _drop(self, reason: str, packets: int = 1) -> Inbound:
        self.counters.add(reason, packets)
        return DROPPED_IN


def _protected_tunnel(tunnels: Iterable[Tunnel], payload: bytes) -> Tunnel | None:
    """The tunnel that a protected payload names; its format then checks whether it is so."""
    hint = tunnel_hint(payload)
    if hint is not None:
        number, mask = hint
        fitting = [known for known in tunnels if known.id & mask == number]
        if len(fitting) > 1:
            # A cookie tells 16 bits of the id only, and a NAT or a forger may give two hosts one end: the secret tells.
            fitting = [known for known in fitting if known.format.decode(known, payload) is not None]
        return fitting[0] if fitting else None
    return None


def _holds_no_packet(packet: bytes) -> bool:
    """Whether an outer packet, unchecked, has a payload that looks like a binding probe or SIP."""
    payload = packet[OVERHEAD[4 if packet[0] == 0x45 else 6] :]
    return is_binding_probe(payload) or is_registration(payload)


def _peer_port(key: FlowBytes) -> int:
    """The correspondent's port in a host's flow; 0 for a protocol without ports."""
    return int.from_bytes(key[-2:], "big") if key[0] in PORTED else 0
