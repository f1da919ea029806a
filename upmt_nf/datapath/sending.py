"""The last step of a packet on its way out, the same at both ends: into a tunnel that may be too narrow for it.

Knows no flows: what is sent where was decided before.
"""

from __future__ import annotations

from collections.abc import Sequence

from upmt_nf.datapath.copies import NUMBER_SIZE, Numbering
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.ecn import outer_tos
from upmt_nf.datapath.fragment import split
from upmt_nf.datapath.icmp import ADMINISTRATIVELY_PROHIBITED, ErrorBudget, packet_too_big, refusal
from upmt_nf.datapath.offload import Offload
from upmt_nf.datapath.packet import may_fragment, source_of, tos_of
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.reset import reset_of
from upmt_nf.datapath.segmentation import segment
from upmt_nf.datapath.verdict import DROPPED_OUT, Outbound
from upmt_nf.model.flow import IPAddress

_IPV6_MINIMUM = 1280


class Sender:
    """Sends by tunnels, and answers as `source` where that cannot be done."""

    def __init__(self, source: IPAddress, counters: Counters, budget: ErrorBudget) -> None:
        self._source = source
        self._counters = counters
        self._budget = budget
        self._identification = 0

    def send(self, packet: bytes, tunnel: Tunnel, now: float) -> Outbound:
        """A whole packet by a tunnel: as it is, or in fragments, or not, with an error for its sender."""
        size = len(packet)
        tunnel.used = now
        if size <= tunnel.mtu:
            tunnel.packets_out += 1
            tunnel.bytes_out += size
            tos = packet[1] if packet[0] >> 4 == 4 else tos_of(packet)
            return Outbound(tunnel, (tunnel.format.encode(tunnel, packet),), outer_tos(tos) & tunnel.tos_mask)
        return self._send_large(packet, tunnel, now)

    def send_all(self, packet: bytes, offload: Offload, tunnel: Tunnel, now: float) -> tuple[Outbound, int]:
        """The packets that a large one stands for, by a tunnel, in one go; and how many they are."""
        try:
            packets, size = segment(packet, offload)
        except ValueError:
            self._counters.add("cut_short")
            return DROPPED_OUT, 0
        count = -(-len(packets) // size)
        if min(size, len(packets)) > tunnel.mtu:
            return self._send_all_large(packets, size, tunnel, now), count
        tunnel.packets_out += count
        tunnel.bytes_out += len(packets)
        tos = packet[1] if packet[0] >> 4 == 4 else tos_of(packet)
        payloads, size = tunnel.format.encode_all(tunnel, packets, size)
        return Outbound(tunnel, (payloads,), outer_tos(tos) & tunnel.tos_mask, None, size), count

    def send_copies(
        self,
        packet: bytes,
        tunnels: Sequence[Tunnel],
        numbering: Numbering,
        now: float,
        offload: Offload | None,
    ) -> tuple[Outbound, int]:
        """A packet, or those that a large one stands for, numbered, by each of these tunnels; and how many they are."""
        if offload is None:
            packets, size = packet, len(packet)
        else:
            try:
                packets, size = segment(packet, offload)
            except ValueError:
                self._counters.add("cut_short")
                return DROPPED_OUT, 0
        count = -(-len(packets) // size)
        mtu = min(tunnel.mtu for tunnel in tunnels) - NUMBER_SIZE
        pieces: list[bytes] = []
        for at in range(0, len(packets), size):
            each = packets[at : at + size]
            if len(each) <= mtu:
                pieces.append(numbering.head() + each)
                continue
            fragments, refusal = self._fitted(each, mtu, now)
            if not fragments:
                return refusal, count
            pieces += [numbering.head() + fragment for fragment in fragments]
        tos = outer_tos(packet[1] if packet[0] >> 4 == 4 else tos_of(packet))
        verdict: Outbound | None = None
        for tunnel in reversed(tunnels):
            tunnel.used = now
            tunnel.packets_out += count
            tunnel.bytes_out += len(packets)
            encode = tunnel.format.encode
            encoded = [encode(tunnel, piece) for piece in pieces]
            verdict = Outbound(tunnel, encoded, tos & tunnel.tos_mask, copy=verdict)
        self._counters.add("copies_sent", count * (len(tunnels) - 1))
        assert verdict is not None, "there is a tunnel"
        return verdict, count

    def _send_all_large(self, packets: bytes, size: int, tunnel: Tunnel, now: float) -> Outbound:
        """Packets that were made for a wider tunnel: one error is enough for all, else each in fragments."""
        pieces: list[bytes] = []
        verdict = DROPPED_OUT
        for at in range(0, len(packets), size):
            verdict = self.send(packets[at : at + size], tunnel, now)
            if verdict.tunnel is None:
                return verdict
            pieces += verdict.payloads
        return verdict._replace(payloads=pieces)

    def refuse(self, packet: bytes, codes: dict[int, tuple[int, int]], now: float) -> bytes | None:
        """An error about a packet (`codes` from `icmp`), if one may be sent and the budget allows it."""
        return refusal(packet, codes, self._source) if self._budget.allows(source_of(packet), now) else None

    def turn_away(self, packet: bytes, now: float) -> bytes | None:
        """What tells its sender for good that a packet may not go: a reset, or that it was filtered."""
        reset = reset_of(packet)
        if reset is None:
            # Unlike others, a connected UDP socket hears of this one.
            return self.refuse(packet, ADMINISTRATIVELY_PROHIBITED, now)
        return reset if self._budget.allows(source_of(packet), now) else None

    def _send_large(self, packet: bytes, tunnel: Tunnel, now: float) -> Outbound:
        fragments, refusal = self._fitted(packet, tunnel.mtu, now)
        if not fragments:
            return refusal
        tunnel.packets_out += 1
        tunnel.bytes_out += len(packet)
        encode = tunnel.format.encode
        tos = outer_tos(tos_of(packet)) & tunnel.tos_mask
        return Outbound(tunnel, [encode(tunnel, piece) for piece in fragments], tos)

    def _fitted(self, packet: bytes, mtu: int, now: float) -> tuple[Sequence[bytes], Outbound]:
        """The fragments of a packet that is too large; or none, and what its sender is told."""
        # An IPv6 host need not heed an MTU below 1280: there the tunnel, as a link, splits (RFC 8200 section 5).
        if may_fragment(packet) or (packet[0] >> 4 == 6 and len(packet) <= _IPV6_MINIMUM):
            self._identification = (self._identification + 1) & 0xFFFFFFFF
            try:
                fragments = split(packet, mtu, identification=self._identification)
            except ValueError:
                self._counters.add("too_big")
                return (), DROPPED_OUT
            self._counters.add("fragmented")
            return fragments, DROPPED_OUT
        self._counters.add("too_big")
        is_allowed = self._budget.allows(source_of(packet), now)
        error = packet_too_big(packet, mtu, self._source) if is_allowed else None
        return (), Outbound(None, (), 0, error)
