"""The anchor's answers to measurement packets: constant work, no SIP, one counter a tunnel (RFC 8762 section 4.3).

The counter is what lets a host tell on which way a probe or its answer was lost.
"""

from __future__ import annotations

from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.model.errors import PeerError
from upmt_nf.signaling.stamp import PACKET_SIZE, reflect


class Reflector:
    """Answers for all tunnels of an anchor; `counters` has what it did not answer."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def answer(self, tunnel: Tunnel | None, packet: bytes, now: float) -> bytes | None:
        """The answer to a packet that came by `tunnel`, or None. The plane puts in when it really leaves."""
        if tunnel is None:
            self._counters.add("measurement_without_tunnel")
            return None
        try:
            # The forwarder noted when it had the packet in its hands, before it was opened.
            is_padded = len(packet) > PACKET_SIZE
            number = None if is_padded else tunnel.reflected
            answer = reflect(packet, received_at=tunnel.heard, sent_at=now, sequence=number)
        except PeerError:
            self._counters.add("malformed_measurement")
            return None
        if not is_padded:
            # Those that try how large a packet may be are expected to get lost.
            tunnel.reflected = (tunnel.reflected + 1) & 0xFFFFFFFF
        return answer
