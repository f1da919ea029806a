"""IPv4 and IPv6 packets as bytes: flow keys for PAFT, whole UDP packets, single header fields.

Functions, not objects: these run once for every packet. Knows nothing of tunnels.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

from upmt_nf.datapath.checksum import checksum, ones_sum, transport_checksum
from upmt_nf.model.flow import ICMP, ICMPV6, PORTED, UDP, Endpoint, FlowBytes, IPAddress

_ICMP_QUERIES = frozenset((0, 8, 13, 14, 15, 16, 17, 18))
_ICMPV6_QUERIES = frozenset((128, 129))
"""Questions and answers of which each conversation has an identifier: both ports of its flow (as conntrack does)."""
_ICMP_ERRORS = frozenset((3, 4, 5, 11, 12))
_ICMPV6_LAST_ERROR = 127
_EXTENSIONS = frozenset((0, 43, 60, 135))
"""IPv6 extension headers that may stand before the transport header; 44 is the fragment header."""
_FRAGMENT_HEADER = 44
_NO_PORTS = b"\0\0\0\0"


def is_whole(packet: bytes) -> bool:
    """Whether `packet` is one IP packet whose length fields fit the buffer exactly and whose header sum is right."""
    size = len(packet)
    if size < 20:
        return False
    if packet[0] == 0x45:
        return (packet[2] << 8 | packet[3]) == size and int.from_bytes(packet[:20], "big") % 0xFFFF == 0
    match packet[0] >> 4:
        case 4:
            header = (packet[0] & 15) * 4
            return (
                20 <= header <= size
                and (packet[2] << 8 | packet[3]) == size
                and ones_sum(packet[:header]) == 0xFFFF
            )
        case 6:
            return size >= 40 and 40 + (packet[4] << 8 | packet[5]) == size
        case _:
            return False


def flow_of(packet: bytes, *, look_into_errors: bool = True) -> FlowBytes | None:
    """The flow of a packet in its own direction; None when it is no IP packet or cut short. Never raises.

    An ICMP error belongs to the flow of the packet that it quotes, so its key is the quoted flow reversed: the
    direction in which the error itself travels. The error that a mobile host sends about a packet of its
    correspondent thus has the very key of the flow; and `reverse` of a key turns any packet for the virtual
    address, errors included, into the flow that it answers. The quoted addresses are the sender's claim: compare
    the key's source with the packet's where that matters. A later fragment has no ports: reassemble before.
    """
    try:
        if packet[0] >> 4 == 4:
            start = (packet[0] & 15) * 4
            protocol = packet[9]
            if start < 20 or len(packet) < start:
                return None
            if packet[7] or packet[6] & 0x1F:
                return packet[9:10] + packet[12:20] + _NO_PORTS
            if protocol in PORTED:
                key = packet[9:10] + packet[12:20] + packet[start : start + 4]
                return key if len(key) == 13 else None
            if protocol == ICMP:
                kind = packet[start]
                if kind in _ICMP_QUERIES:
                    identifier = packet[start + 4 : start + 6]
                    key = packet[9:10] + packet[12:20] + identifier + identifier
                    return key if len(key) == 13 else None
                if look_into_errors and kind in _ICMP_ERRORS:
                    return _quoted_flow(packet, start + 8)
            return packet[9:10] + packet[12:20] + _NO_PORTS
        if packet[0] >> 4 == 6 and len(packet) >= 40:
            return _flow_of_ipv6(packet, look_into_errors)
    except IndexError:
        pass
    return None


def _flow_of_ipv6(packet: bytes, look_into_errors: bool) -> FlowBytes | None:
    protocol, start = ipv6_transport(packet)
    if protocol == _FRAGMENT_HEADER:
        protocol, later = packet[start], (packet[start + 2] << 8 | packet[start + 3]) & 0xFFF8
        start += 8
        if later:
            return bytes((protocol,)) + packet[8:40] + _NO_PORTS
    if protocol in PORTED:
        ports = packet[start : start + 4]
        return bytes((protocol,)) + packet[8:40] + ports if len(ports) == 4 else None
    if protocol == ICMPV6:
        kind = packet[start]
        if kind in _ICMPV6_QUERIES:
            identifier = packet[start + 4 : start + 6]
            return (
                bytes((protocol,)) + packet[8:40] + identifier + identifier if len(identifier) == 2 else None
            )
        if look_into_errors and kind <= _ICMPV6_LAST_ERROR:
            return _quoted_flow(packet, start + 8)
    return bytes((protocol,)) + packet[8:40] + _NO_PORTS


def _quoted_flow(packet: bytes, start: int) -> FlowBytes | None:
    """The flow of the packet that an ICMP error quotes from `start`, reversed. Errors in errors are not followed."""
    quoted = packet[start:]
    if not quoted or quoted[0] >> 4 != packet[0] >> 4:
        return None
    key = flow_of(quoted, look_into_errors=False)
    return reverse(key) if key is not None else None


def is_icmp_error(packet: bytes) -> bool:
    """Whether a packet is an ICMP or ICMPv6 error, the kind that quotes another packet."""
    try:
        if packet[0] >> 4 == 4:
            return packet[9] == ICMP and packet[(packet[0] & 15) * 4] in _ICMP_ERRORS
        protocol, start = ipv6_transport(packet)
        return protocol == ICMPV6 and packet[start] <= _ICMPV6_LAST_ERROR
    except IndexError:
        return False


def ipv6_transport(packet: bytes) -> tuple[int, int]:
    """Protocol and offset of an IPv6 packet's transport header, behind at most eight extension headers.

    Stops at a fragment header (44). Raises IndexError when the packet is cut short.
    """
    protocol, start = packet[6], 40
    for _ in range(8):
        if protocol not in _EXTENSIONS:
            break
        protocol, start = packet[start], start + (packet[start + 1] + 1) * 8
    return protocol, start


def reverse(key: FlowBytes) -> FlowBytes:
    """The same flow seen from the other end."""
    if len(key) == 13:
        return key[:1] + key[5:9] + key[1:5] + key[11:13] + key[9:11]
    return key[:1] + key[17:33] + key[1:17] + key[35:37] + key[33:35]


def source_of(packet: bytes) -> bytes:
    """The packed source address."""
    return packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]


def destination_of(packet: bytes) -> bytes:
    """The packed destination address."""
    return packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]


def dscp_of(packet: bytes) -> int:
    """The DSCP of a whole packet (RFC 2474): six bits."""
    return packet[1] >> 2 if packet[0] >> 4 == 4 else (packet[0] & 0x0F) << 2 | packet[1] >> 6


def is_tcp_opening(packet: bytes) -> bool:
    """Whether a TCP packet opens a connection: SYN without ACK (RFC 9293). Never raises."""
    start = (packet[0] & 0x0F) * 4 if packet[0] >> 4 == 4 else 40
    return len(packet) > start + 13 and packet[start + 13] & 0x12 == 0x02


def is_fragment(packet: bytes) -> bool:
    """Whether the packet is a part of a larger one. Never raises."""
    try:
        if packet[0] >> 4 == 4:
            return bool(packet[7] or packet[6] & 0x3F)
        return ipv6_transport(packet)[0] == _FRAGMENT_HEADER
    except IndexError:
        return False


def may_fragment(packet: bytes) -> bool:
    """Whether a router may split the packet: IPv4 without DF."""
    return packet[0] >> 4 == 4 and not packet[6] & 0x40


def tos_of(packet: bytes) -> int:
    """DSCP and ECN: the type-of-service byte, the traffic class of IPv6."""
    if packet[0] >> 4 == 4:
        return packet[1]
    return (packet[0] & 15) << 4 | packet[1] >> 4


def with_tos(packet: bytes, tos: int) -> bytes:
    """The packet with another type-of-service byte and a right header checksum."""
    if packet[0] >> 4 == 6:
        return bytes((0x60 | tos >> 4, (tos & 15) << 4 | packet[1] & 15)) + packet[2:]
    size = (packet[0] & 15) * 4
    header = bytearray(packet[:size])
    header[1] = tos
    header[10:12] = b"\0\0"
    header[10:12] = checksum(bytes(header)).to_bytes(2, "big")
    return bytes(header) + packet[size:]


def with_length(packet: bytes, size: int) -> bytes:
    """The packet, or only its headers, with the length field of one of `size` bytes and a right header checksum."""
    if packet[0] >> 4 == 6:
        return packet[:4] + (size - 40).to_bytes(2, "big") + packet[6:]
    header = (packet[0] & 15) * 4
    made = packet[:2] + size.to_bytes(2, "big") + packet[4:10] + b"\0\0" + packet[12:header]
    return made[:10] + checksum(made).to_bytes(2, "big") + made[12:] + packet[header:]


def is_to_one_host(packet: bytes) -> bool:
    """Whether the destination is a unicast address (not multicast, limited broadcast or unspecified)."""
    destination = destination_of(packet)
    if len(destination) == 4:
        return 0 < destination[0] < 224
    return destination[0] != 0xFF and any(destination)


class UdpDatagram(NamedTuple):
    """A UDP datagram with both of its ends."""

    source: Endpoint
    destination: Endpoint
    payload: bytes


def build_udp(
    source: IPAddress,
    source_port: int,
    destination: IPAddress,
    destination_port: int,
    payload: bytes,
    *,
    tos: int = 0,
    ttl: int = 64,
) -> bytes:
    """A whole IP packet with one UDP datagram and right checksums. Raises ValueError beyond 65,535 bytes."""
    length = 8 + len(payload)
    if length > 65535 - 20:
        raise ValueError(f"{len(payload)} bytes do not fit into a UDP datagram")
    ports = source_port.to_bytes(2, "big") + destination_port.to_bytes(2, "big") + length.to_bytes(2, "big")
    sum_ = transport_checksum(source.packed, destination.packed, UDP, ports + b"\0\0" + payload) or 0xFFFF
    segment = ports + sum_.to_bytes(2, "big") + payload
    return ip_packet(source, destination, UDP, segment, tos=tos, ttl=ttl)


def ip_packet(
    source: IPAddress, destination: IPAddress, protocol: int, segment: bytes, *, tos: int = 0, ttl: int = 64
) -> bytes:
    """A whole IP packet around `segment`; IPv4 with DF, so its identification may be zero (RFC 6864)."""
    if source.version == 6:
        start = (0x60000000 | tos << 20).to_bytes(4, "big")
        header = start + len(segment).to_bytes(2, "big") + bytes((protocol, ttl))
        return header + source.packed + destination.packed + segment
    head = (
        bytes((0x45, tos)) + (20 + len(segment)).to_bytes(2, "big") + b"\0\0\x40\0" + bytes((ttl, protocol))
    )
    addresses = source.packed + destination.packed
    return head + checksum(head + b"\0\0" + addresses).to_bytes(2, "big") + addresses + segment


def parse_udp(packet: bytes) -> UdpDatagram | None:
    """The UDP datagram of a whole, unfragmented packet; None when it is something else or damaged."""
    if not is_whole(packet) or is_fragment(packet):
        return None
    try:
        protocol, start = (packet[9], (packet[0] & 15) * 4) if packet[0] >> 4 == 4 else ipv6_transport(packet)
    except IndexError:
        return None
    segment = packet[start:]
    if protocol != UDP or len(segment) < 8 or (segment[4] << 8 | segment[5]) != len(segment):
        return None
    source, destination = source_of(packet), destination_of(packet)
    # Without a checksum: allowed over IPv4 only (RFC 768, 8200 section 8.1).
    if segment[6:8] == b"\0\0":
        if len(source) != 4:
            return None
    elif transport_checksum(source, destination, UDP, segment) != 0:
        return None
    return UdpDatagram(
        Endpoint(ip_address(source), segment[0] << 8 | segment[1]),
        Endpoint(ip_address(destination), segment[2] << 8 | segment[3]),
        segment[8:],
    )
