"""ICMP errors that a tunnel's end sends, as a router would (RFC 792, 1812 section 4.3, 4443)."""

from __future__ import annotations

from ipaddress import ip_address

from upmt_nf.datapath.buckets import Bucket, BucketTable
from upmt_nf.datapath.checksum import checksum, transport_checksum
from upmt_nf.datapath.packet import (
    ip_packet,
    ipv6_transport,
    is_to_one_host,
    source_of,
)
from upmt_nf.model.flow import ICMP, ICMPV6, IPAddress

_QUERIES = frozenset((0, 8, 9, 10, 13, 14, 15, 16, 17, 18))
_ICMPV6_LAST_ERROR, _ICMPV6_REDIRECT = 127, 137

ADMINISTRATIVELY_PROHIBITED = {4: (3, 13), 6: (1, 1)}
NETWORK_UNREACHABLE = {4: (3, 0), 6: (1, 0)}
TIME_EXCEEDED = {4: (11, 0), 6: (3, 0)}
"""In transit."""


class ErrorBudget:
    """At most so many errors a second to one destination, and ten times as many to all (RFC 1812 section 4.3.2.8).

    Bursts may be as large as a second's errors. `salt` as in `BucketTable`.
    """

    def __init__(self, per_second: float = 100.0, salt: bytes = b"") -> None:
        self._all = Bucket(10 * per_second, 10 * per_second)
        self._destinations = BucketTable(per_second, per_second, salt, bits=12)

    def allows(self, destination: bytes, now: float) -> bool:
        """Whether one more error may be sent; if so it is taken off the budget. `now` in seconds."""
        place = self._destinations.place(destination)
        if not (self._all.has(now) and self._destinations.has(place, now)):
            return False
        self._all.take(now)
        self._destinations.take(place, now)
        return True


def packet_too_big(original: bytes, mtu: int, source: IPAddress) -> bytes | None:
    """`fragmentation needed` (RFC 1191) or `packet too big` (RFC 4443) with the MTU; None where none may be sent."""
    if original[0] >> 4 == 4:
        return _error(original, 3, 4, mtu & 0xFFFF, source)
    return _error(original, 2, 0, max(mtu, 1280), source)


def refusal(original: bytes, codes: dict[int, tuple[int, int]], source: IPAddress) -> bytes | None:
    """An error without parameters; `codes` is one of this module's constants. None where no error may be sent."""
    kind, code = codes[original[0] >> 4]
    return _error(original, kind, code, 0, source)


def may_be_answered(packet: bytes) -> bool:
    """RFC 1812 section 4.3.2.7: never about an ICMP error, a later fragment, or what was not sent to one host."""
    if not is_to_one_host(packet):
        return False
    try:
        if packet[0] >> 4 == 4:
            if (packet[6] << 8 | packet[7]) & 0x1FFF or packet[12] >= 224 or packet[12] == 0:
                return False
            return packet[9] != ICMP or packet[(packet[0] & 15) * 4] in _QUERIES
        protocol, start = ipv6_transport(packet)
        if packet[8] == 0xFF or not any(packet[8:24]):
            return False
        return protocol != ICMPV6 or (
            packet[start] > _ICMPV6_LAST_ERROR and packet[start] != _ICMPV6_REDIRECT
        )
    except IndexError:
        return False


def _error(original: bytes, kind: int, code: int, rest: int, source: IPAddress) -> bytes | None:
    if not may_be_answered(original):
        return None
    destination = ip_address(source_of(original))
    if source.version != destination.version:
        return None
    quoted = original[: 576 - 28] if destination.version == 4 else original[: 1280 - 48]
    body = bytes((kind, code, 0, 0)) + rest.to_bytes(4, "big") + quoted
    if destination.version == 4:
        sum_, protocol = checksum(body), ICMP
    else:
        sum_, protocol = transport_checksum(source.packed, destination.packed, ICMPV6, body), ICMPV6
    return ip_packet(source, destination, protocol, body[:2] + sum_.to_bytes(2, "big") + body[4:], tos=0xC0)
