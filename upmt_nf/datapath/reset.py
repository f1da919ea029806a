"""TCP resets to the sender of a segment that may go nowhere: an ICMP error does not end a running connection."""

from __future__ import annotations

from ipaddress import ip_address

from upmt_nf.datapath.checksum import transport_checksum
from upmt_nf.datapath.packet import destination_of, ip_packet, ipv6_transport, source_of
from upmt_nf.model.flow import TCP

_SYN, _RST, _ACK = 0x02, 0x04, 0x10


def reset_of(packet: bytes) -> bytes | None:
    """What ends the connection of a segment at its sender (RFC 9293 section 3.10.7.1).

    None for what is no segment of a running connection: an opening is refused by ICMP, a reset is never answered.
    """
    try:
        protocol, start = (packet[9], (packet[0] & 15) * 4) if packet[0] >> 4 == 4 else ipv6_transport(packet)
        flags = packet[start + 13]
    except IndexError:
        return None
    if protocol != TCP or flags & (_SYN | _RST) or not flags & _ACK:
        return None
    ports = packet[start + 2 : start + 4] + packet[start : start + 2]
    sequence = packet[start + 8 : start + 12]
    segment = ports + sequence + bytes(4) + bytes((0x50, _RST)) + bytes(6)
    source, destination = destination_of(packet), source_of(packet)
    sum_ = transport_checksum(source, destination, TCP, segment)
    segment = segment[:16] + sum_.to_bytes(2, "big") + segment[18:]
    return ip_packet(ip_address(source), ip_address(destination), TCP, segment)
