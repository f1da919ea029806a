"""What the kernel left undone on a packet, and what it may still do: the meaning of virtio's network header.

A packet from a local socket may come with half a checksum, and one of up to 64 kB stands for many (VIRTIO 1.2
section 5.1.6). Layout: `linux.tun_device`.
"""

from __future__ import annotations

from typing import NamedTuple

from upmt_nf.datapath.checksum import ones_sum
from upmt_nf.datapath.packet import ipv6_transport
from upmt_nf.model.flow import TCP, UDP


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


def _is_udp(packet: bytes) -> bool:
    try:
        return transport_start(packet)[0] == UDP
    except IndexError:
        return False


def pseudo_sum(packet: bytes, length: int) -> int:
    """The one's complement sum of a TCP packet's pseudo header; `length` is of the TCP header and its data."""
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return ones_sum(addresses + length.to_bytes(4, "big") + bytes((0, TCP)))
