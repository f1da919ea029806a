"""TCP packets as the kernel gives them, for tests."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from upmt_nf.datapath.checksum import transport_checksum
from upmt_nf.datapath.offload import Offload, pseudo_sum
from upmt_nf.datapath.packet import destination_of, ip_packet, source_of
from upmt_nf.model.flow import TCP, IPAddress

ENDS = {
    4: (ip_address("1.2.3.4"), ip_address("86.0.0.1")),
    6: (ip_address("2001:db8::4"), ip_address("2001:db8:86::1")),
}
"""The virtual address and a correspondent, by IP version."""


def start_of(packet: bytes) -> int:
    """Where TCP begins, in a packet without options or extension headers."""
    return 20 if packet[0] >> 4 == 4 else 40


def tcp(
    payload: bytes,
    version: int = 4,
    *,
    sequence: int = 1000,
    flags: int = 0x10,
    options: bytes = b"",
    ends: tuple[IPAddress, IPAddress] | None = None,
    window: int = 500,
    ports: tuple[int, int] = (40000, 443),
) -> bytes:
    """A whole TCP packet with right checksums."""
    source, destination = ends or ENDS[version]
    head = struct.pack("!HHIIBBHHH", *ports, sequence, 77, (20 + len(options)) // 4 << 4, flags, window, 0, 0)
    segment = head + options + payload
    total = transport_checksum(source.packed, destination.packed, TCP, segment)
    segment = segment[:16] + total.to_bytes(2, "big") + segment[18:]
    return ip_packet(source, destination, TCP, segment)


def large(
    payload: bytes,
    each: int,
    version: int = 4,
    *,
    sequence: int = 1000,
    flags: int = 0x10,
    options: bytes = b"",
) -> tuple[bytes, Offload]:
    """A packet that stands for many of `each` bytes of payload, with the pseudo header's sum for a checksum."""
    packet = tcp(payload, version, sequence=sequence, flags=flags, options=options)
    start = start_of(packet)
    half_done = pseudo_sum(packet, len(packet) - start).to_bytes(2, "big")
    return packet[: start + 16] + half_done + packet[start + 18 :], Offload(start, 16, each)


def is_right(packet: bytes) -> bool:
    """Whether a packet's TCP checksum is right."""
    segment = packet[start_of(packet) :]
    return transport_checksum(source_of(packet), destination_of(packet), TCP, segment) == 0
