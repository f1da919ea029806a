"""One address in the place of another, in a whole packet and in what an ICMP error of it quotes.

Ports stay, as the two addresses stand for each other one to one. Sums are corrected, never made anew (RFC 1624), so a
packet that was damaged stays so.
"""

from __future__ import annotations

from contextlib import suppress

from upmt_nf.datapath.checksum import ones_sum
from upmt_nf.datapath.packet import ipv6_transport
from upmt_nf.model.flow import ICMP, ICMPV6, TCP, UDP, FlowBytes

_DCCP, _UDP_LITE = 33, 136
_SUM_AT = {TCP: 16, UDP: 6, _DCCP: 6, _UDP_LITE: 6, ICMPV6: 2}
"""Where the sum that covers the addresses stands in the transport header (RFC 9293, 768, 4340, 3828, 4443)."""
_ICMP_ERRORS = frozenset((3, 4, 5, 11, 12))
_ICMPV6_LAST_ERROR = 127
_QUOTED_FROM = 8


def readdressed(packet: bytes, old: bytes, new: bytes, *, is_unfinished: bool = False) -> bytes:
    """The packet with `new` wherever `old` is its source or destination; both packed, of the packet's family.

    `is_unfinished`: the transport header's sum is that of the pseudo header alone (`offload.Offload`). A packet that
    is cut short comes back as far as it goes. Never raises.
    """
    data = bytearray(packet)
    with suppress(IndexError):
        _readdress(data, 0, old, new, is_unfinished=is_unfinished)
    return bytes(data)


def readdressed_key(key: FlowBytes, new: bytes) -> FlowBytes:
    """The flow with another source."""
    return key[:1] + new + key[1 + len(new) :]


def _readdress(data: bytearray, at: int, old: bytes, new: bytes, *, is_unfinished: bool = False) -> None:
    """The packet that begins at `at`."""
    is_ipv4, size = data[at] >> 4 == 4, len(old)
    first = at + (12 if is_ipv4 else 8)
    if (size == 4) is not is_ipv4 or len(data) < first + 2 * size:
        return
    places = [place for place in (first, first + size) if data[place : place + size] == old]
    for place in places:
        data[place : place + size] = new
    if not places:
        return
    change = len(places) * (ones_sum(new) - ones_sum(old))
    if is_ipv4:
        _correct(data, at + 10, change)
        if (data[at + 6] & 0x1F) << 8 | data[at + 7]:
            return
        protocol, start = data[at + 9], at + (data[at] & 15) * 4
    else:
        protocol, start = ipv6_transport(bytes(data[at:]))
        start += at
    quoted = start + _QUOTED_FROM
    is_error = (protocol == ICMP and data[start] in _ICMP_ERRORS) or (
        protocol == ICMPV6 and data[start] <= _ICMPV6_LAST_ERROR
    )
    if is_error and len(data) > quoted:
        before = ones_sum(bytes(data[quoted:]))
        _readdress(data, quoted, old, new)
        inside = ones_sum(bytes(data[quoted:])) - before
        _correct(data, start + 2, inside + (change if protocol == ICMPV6 else 0))
        return
    field = _SUM_AT.get(protocol)
    if field is None or start + field + 2 > len(data):
        return
    if is_unfinished:
        present = data[start + field] << 8 | data[start + field + 1]
        data[start + field : start + field + 2] = ((present + change) % 0xFFFF).to_bytes(2, "big")
    elif protocol != UDP or data[start + field] or data[start + field + 1]:
        _correct(data, start + field, change)


def _correct(data: bytearray, at: int, change: int) -> None:
    """What a sum covers has grown by `change`. It never becomes zero, which in UDP means that there is none."""
    present = data[at] << 8 | data[at + 1]
    data[at : at + 2] = (0xFFFF - (0xFFFF - present + change) % 0xFFFF).to_bytes(2, "big")
