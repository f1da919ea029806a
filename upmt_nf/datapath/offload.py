"""What the kernel left undone on a packet, and what it may still do: the meaning of virtio's network header.

A packet from a local socket may come with half a checksum, and one of up to 64 kB stands for many (VIRTIO 1.2
section 5.1.6). Layout: `linux.tun_device`.
"""

from __future__ import annotations

from typing import NamedTuple

from upmt_nf.datapath.checksum import ones_sum
from upmt_nf.datapath.packet import ipv6_transport
from upmt_nf.model.flow import TCP, UDP

TCP_FIELD = 16
"""Where the sum stands in TCP's header."""
_FIELDS = {TCP: TCP_FIELD, UDP: 6}
"""The same by protocol."""


class Offload(NamedTuple):
    """`segment` is the payload bytes of each packet that a large TCP packet stands for, 0 for a packet by itself.

    The checksum of everything from `start` on belongs at `start + field`; there stands the pseudo header's sum.
    """

    start: int
    field: int
    segment: int = 0


def transport_start(packet: bytes) -> tuple[int, int]:
    """The transport protocol of a whole packet, and where its header begins.

    Raises IndexError when an IPv6 packet ends in its extension headers.
    """
    if packet[0] >> 4 == 4:
        return packet[9], (packet[0] & 15) * 4
    return ipv6_transport(packet)


def finished(packet: bytes, offload: Offload) -> bytes:
    """The packet with its checksum in full; as it is when the field lies outside of it."""
    at = offload.start + offload.field
    if at + 2 > len(packet):
        return packet
    # The field holds the pseudo header's sum already, so the sum over everything is right.
    total = 0xFFFF - ones_sum(packet[offload.start :])
    if total == 0 and _is_udp(packet):
        total = 0xFFFF
    return packet[:at] + total.to_bytes(2, "big") + packet[at + 2 :]


def left_undone(packet: bytes) -> Offload | None:
    """What is left to do on a whole packet that never saw a network card: its field has the pseudo header's sum alone.

    The far end's kernel may send such by a tunnel where all links to us are virtual. None for any other packet, and for
    fragments. One in 65,536 right packets looks like that, too: then the sum that is made of it is the one that it has.
    """
    try:
        protocol, start = transport_start(packet)
        field = _FIELDS.get(protocol)
        if field is None or (packet[0] >> 4 == 4 and (packet[6] & 0x3F or packet[7])):
            return None
        present = packet[start + field] << 8 | packet[start + field + 1]
    except IndexError:
        return None
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    length = len(packet) - start
    pseudo = ones_sum(addresses + length.to_bytes(4, "big") + bytes((0, protocol)))
    return Offload(start, field) if present and present % 0xFFFF == pseudo % 0xFFFF else None


def _is_udp(packet: bytes) -> bool:
    try:
        return transport_start(packet)[0] == UDP
    except IndexError:
        return False


def pseudo_sum(packet: bytes, length: int) -> int:
    """The one's complement sum of a TCP packet's pseudo header; `length` is of the TCP header and its data."""
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return ones_sum(addresses + length.to_bytes(4, "big") + bytes((0, TCP)))
