"""The outer IP and UDP headers of a tunnel packet, as netfilter gives it: one whole IP packet."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

from upmt_nf.datapath.checksum import ones_sum, transport_checksum
from upmt_nf.datapath.packet import tos_of
from upmt_nf.model.flow import UDP, Endpoint

OVERHEAD = {4: 28, 6: 48}
"""Bytes of an outer IP header and a UDP header, by IP version."""

EndpointBytes = bytes
"""Packed address and port (2 bytes): 6 bytes for IPv4, 18 for IPv6."""


class Outer(NamedTuple):
    """A tunnel packet taken apart."""

    remote: EndpointBytes
    local: EndpointBytes
    tos: int
    payload: bytes


def packed_endpoint(endpoint: Endpoint) -> EndpointBytes:
    """An endpoint as the packet path keys it."""
    return endpoint.address.packed + endpoint.port.to_bytes(2, "big")


def unpacked_endpoint(packed: EndpointBytes) -> Endpoint:
    """The inverse of `packed_endpoint`."""
    return Endpoint(ip_address(packed[:-2]), int.from_bytes(packed[-2:], "big"))


def claimed_remote(packet: bytes) -> EndpointBytes | None:
    """Where a tunnel packet says that it is from, unchecked; None where that takes `parse_outer` to know."""
    if len(packet) >= 28 and packet[0] == 0x45:
        return packet[12:16] + packet[20:22]
    if len(packet) >= 48 and packet[0] >> 4 == 6:
        return packet[8:24] + packet[40:42]
    return None


def parse_outer(packet: bytes) -> Outer | None:
    """Take a tunnel packet apart; None when it is no whole UDP packet or its checksum is wrong. Never raises.

    The kernel has verified the IPv4 header, so lengths and the UDP checksum are left. Addresses and segment stand
    side by side in both headers, so one slice sums up pseudo header and datagram.
    """
    size = len(packet)
    if size >= 28 and packet[0] == 0x45 and packet[9] == UDP:
        length = packet[24] << 8 | packet[25]
        if (packet[2] << 8 | packet[3]) != size or length != size - 20 or packet[6] & 0x3F or packet[7]:
            return None
        if packet[26:28] != b"\0\0" and (ones_sum(packet[12:]) + UDP + length) % 0xFFFF:
            return None
        return Outer(packet[12:16] + packet[20:22], packet[16:20] + packet[22:24], packet[1], packet[28:])
    if size >= 48 and packet[0] >> 4 == 6 and packet[6] == UDP:
        if 40 + (packet[4] << 8 | packet[5]) != size or (packet[44] << 8 | packet[45]) != size - 40:
            return None
        if packet[46:48] == b"\0\0" or transport_checksum(packet[8:24], packet[24:40], UDP, packet[40:]):
            return None
        return Outer(packet[8:24] + packet[40:42], packet[24:40] + packet[42:44], tos_of(packet), packet[48:])
    if size >= 32 and 0x45 < packet[0] < 0x50:
        return _without_options(packet)
    return None


def _without_options(packet: bytes) -> Outer | None:
    """The same for an IPv4 header with options, which a network on the way may have added."""
    header = (packet[0] & 15) * 4
    if (packet[2] << 8 | packet[3]) != len(packet) or len(packet) < header + 8:
        return None
    total = len(packet) - header + 20
    return parse_outer(b"\x45" + packet[1:2] + total.to_bytes(2, "big") + packet[4:20] + packet[header:])
