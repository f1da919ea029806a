"""A large TCP packet of the kernel's -> the packets that it stands for, as they are to be on the wire.

As the kernel's own segmentation does it: ascending IP identifications and sequence numbers; PSH and FIN on the
last only, CWR on the first only (RFC 3168 section 6.1.2); checksums in full. All packets stand one behind the other
in one buffer, all of one size but the last, which may be shorter: the form in which UDP_SEGMENT takes them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from upmt_nf.datapath.checksum import checksum, ones_sum
from upmt_nf.datapath.offload import TCP_FIELD, Offload, pseudo_sum
from upmt_nf.datapath.packet import with_length

_FLAGS, _LAST_ONLY, _FIRST_ONLY = 13, 0x09, 0x80


def header_size(packet: bytes, offload: Offload) -> int:
    """Bytes of the headers, IP and TCP, that each packet will begin with."""
    return offload.start + (packet[offload.start + 12] >> 4) * 4


def segment(packet: bytes, offload: Offload) -> tuple[bytes, int]:
    """The packets that a large one stands for, joined, and the size of each. `offload.segment` is not 0.

    Raises ValueError when the headers do not fit the packet.
    """
    start, each = offload.start, offload.segment
    if len(packet) < start + 20 or offload.field != TCP_FIELD:
        raise ValueError("no TCP packet")
    head = header_size(packet, offload)
    payload = len(packet) - head
    if head < start + 20 or payload <= 0:
        raise ValueError("no TCP payload")
    whole, rest = divmod(payload, each)
    if (head + each) & 1:
        numbers = range(whole + (rest > 0))
        return b"".join(_packet(packet, start, head, each, number) for number in numbers), head + each
    parts = []
    if whole:
        parts.append(_equal_packets(packet, start, head, each, whole, is_last=rest == 0))
    if rest:
        parts.append(_packet(packet, start, head, each, whole))
    return b"".join(parts), head + each


def _equal_packets(packet: bytes, start: int, head: int, each: int, count: int, *, is_last: bool) -> bytes:
    """The first `count` packets, which are full, all at once. Their size is even."""
    size = head + each
    is_ipv4 = packet[0] >> 4 == 4
    first = bytearray(with_length(packet[:head], size))
    flags = first[start + _FLAGS]
    first[start + _FLAGS] = flags & ~(_LAST_ONLY | _FIRST_ONLY)
    # In the checksum's field: what makes a sum over the whole row one over pseudo header, header and data. The sum
    # of a right IPv4 header is nothing, that of an IPv6 header is taken off.
    pseudo = pseudo_sum(packet, size - start)
    if not is_ipv4:
        pseudo = (pseudo + 0xFFFF - ones_sum(bytes(first[:start]))) % 0xFFFF
    first[start + 16 : start + 18] = pseudo.to_bytes(2, "big")
    rows = np.empty((count, size), np.uint8)
    rows[:, :head] = np.frombuffer(first, np.uint8)
    rows[:, head:] = np.frombuffer(packet, np.uint8, each * count, head).reshape(count, each)
    numbers = np.arange(count, dtype=np.uint32)
    sequence = np.uint32(int.from_bytes(packet[start + 4 : start + 8], "big"))
    rows[:, start + 4 : start + 8] = _big_endian(numbers * np.uint32(each) + sequence, ">u4")
    if flags & _FIRST_ONLY:
        rows[0, start + _FLAGS] |= _FIRST_ONLY
    if is_last:
        rows[-1, start + _FLAGS] |= flags & _LAST_ONLY
    if is_ipv4:
        identifications = numbers + np.uint32(int.from_bytes(packet[4:6], "big")) & np.uint32(0xFFFF)
        rows[:, 4:6] = _big_endian(identifications, ">u2")
        others = np.uint32(ones_sum(bytes(first[:4] + first[6:10] + first[12:start])))
        rows[:, 10:12] = _big_endian(np.uint32(0xFFFF) - folded(identifications + others), ">u2")
    words = rows.view(np.uint16)
    sums: NDArray[np.uint32] = words.sum(axis=1, dtype=np.uint32)
    words[:, (start + 16) // 2] = np.uint32(0xFFFF) - folded(sums)
    return rows.tobytes()


def _packet(packet: bytes, start: int, head: int, each: int, number: int) -> bytes:
    """One of the packets, by itself."""
    offset = each * number
    payload = packet[head + offset : head + offset + each]
    made = bytearray(with_length(packet[:head], head + len(payload)) + payload)
    if number:
        made[start + _FLAGS] &= ~_FIRST_ONLY & 0xFF
    if head + offset + each < len(packet):
        made[start + _FLAGS] &= ~_LAST_ONLY & 0xFF
    sequence = int.from_bytes(packet[start + 4 : start + 8], "big") + offset
    made[start + 4 : start + 8] = (sequence & 0xFFFFFFFF).to_bytes(4, "big")
    if packet[0] >> 4 == 4:
        identification = int.from_bytes(packet[4:6], "big") + number
        made[4:6] = (identification & 0xFFFF).to_bytes(2, "big")
        made[10:12] = b"\0\0"
        made[10:12] = checksum(bytes(made[:start])).to_bytes(2, "big")
    made[start + 16 : start + 18] = pseudo_sum(packet, len(made) - start).to_bytes(2, "big")
    made[start + 16 : start + 18] = checksum(bytes(made[start:])).to_bytes(2, "big")
    return bytes(made)


def folded(sums: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Sums of 16-bit words with their carries added in (RFC 1071): 16 bits each."""
    sums = (sums & np.uint32(0xFFFF)) + (sums >> np.uint32(16))
    return (sums & np.uint32(0xFFFF)) + (sums >> np.uint32(16))


def _big_endian(numbers: NDArray[np.uint32], kind: str) -> NDArray[np.uint8]:
    """The bytes of each number, a row each."""
    return numbers.astype(kind).view(np.uint8).reshape(len(numbers), -1)
