"""Fragments: splitting a packet by MTU (RFC 791 section 3.2) and putting fragments together, within bounds.

Inner fragments are put together before they go on, because conntrack has already made its own pass by then.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from upmt_nf.datapath.checksum import checksum
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.packet import destination_of, ipv6_transport, source_of

_MORE = 0x2000
_LONGEST = 65535


def split(packet: bytes, mtu: int) -> list[bytes]:
    """An IPv4 packet as fragments of at most `mtu` bytes. Raises ValueError when it may not be split or `mtu` < 68."""
    if len(packet) <= mtu:
        return [packet]
    if packet[0] >> 4 != 4 or packet[6] & 0x40:
        raise ValueError("the packet may not be fragmented")
    if mtu < 68:
        raise ValueError(f"no link has an MTU of {mtu} (RFC 791)")
    size = (packet[0] & 15) * 4
    field_ = packet[6] << 8 | packet[7]
    start, more_follow = field_ & 0x1FFF, bool(field_ & _MORE)
    body = packet[size:]
    first_header, other_header = packet[:size], packet[:20] + _copied_options(packet[20:size])
    fragments: list[bytes] = []
    done = 0
    while done < len(body):
        header = bytearray(other_header if fragments or start else first_header)
        room = (mtu - len(header)) & ~7
        piece = body[done : done + room]
        last = done + len(piece) == len(body)
        header[0] = 0x40 | len(header) // 4
        header[2:4] = (len(header) + len(piece)).to_bytes(2, "big")
        header[6:8] = (start + done // 8 | (0 if last and not more_follow else _MORE)).to_bytes(2, "big")
        header[10:12] = b"\0\0"
        header[10:12] = checksum(bytes(header)).to_bytes(2, "big")
        fragments.append(bytes(header) + piece)
        done += len(piece)
    return fragments


def _copied_options(options: bytes) -> bytes:
    """The options with the copied flag (RFC 791 section 3.1), padded to four bytes."""
    kept = b""
    place = 0
    while place < len(options):
        kind = options[place]
        if kind == 0:
            break
        if kind == 1:
            place += 1
            continue
        length = options[place + 1] if place + 1 < len(options) else 0
        if length < 2 or place + length > len(options):
            break
        if kind & 0x80:
            kept += options[place : place + length]
        place += length
    return kept + bytes(-len(kept) % 4)


@dataclass(slots=True)
class _Whole:
    """A packet on its way to being whole."""

    began: float
    pieces: dict[int, bytes] = field(default_factory=dict)
    header: bytes = b""
    end: int | None = None
    size: int = 0


class Reassembler:
    """Puts fragments together. Overlaps void the packet (RFC 5722), time and memory are bounded."""

    def __init__(
        self, counters: Counters, *, timeout: float = 30.0, max_packets: int = 256, max_bytes: int = 4 << 20
    ) -> None:
        self._counters = counters
        self._timeout = timeout
        self._max_packets = max_packets
        self._max_bytes = max_bytes
        self._bytes = 0
        self._waiting: dict[bytes, _Whole] = {}

    def add(self, packet: bytes, now: float) -> bytes | None:
        """Take one fragment; the whole packet when it was the last one missing. `now` in seconds."""
        self._expire(now)
        parsed = _parts(packet)
        if parsed is None:
            self._counters.add("bad_fragment")
            return None
        key, header, offset, more, piece = parsed
        end = offset + len(piece)
        if not piece or (more and len(piece) % 8) or end > _LONGEST - len(header):
            self._counters.add("bad_fragment")
            return None
        whole = self._waiting.get(key)
        if whole is None:
            self._make_room(len(piece))
            whole = self._waiting[key] = _Whole(began=now)
        if self._overlaps(whole, offset, end) or (not more and whole.end not in (None, end)):
            self._forget(key)
            self._counters.add("overlapping_fragment")
            return None
        whole.pieces[offset] = piece
        whole.size += len(piece)
        self._bytes += len(piece)
        if offset == 0:
            whole.header = header
        if not more:
            whole.end = end
        if whole.end is None or whole.size != whole.end or not whole.header:
            return None
        self._forget(key)
        return _joined(whole.header, b"".join(whole.pieces[place] for place in sorted(whole.pieces)))

    @staticmethod
    def _overlaps(whole: _Whole, offset: int, end: int) -> bool:
        if whole.end is not None and end > whole.end:
            return True
        return any(offset < place + len(piece) and place < end for place, piece in whole.pieces.items())

    def _make_room(self, size: int) -> None:
        while self._waiting and (
            len(self._waiting) >= self._max_packets or self._bytes + size > self._max_bytes
        ):
            self._forget(next(iter(self._waiting)))
            self._counters.add("reassembly_full")

    def _expire(self, now: float) -> None:
        while self._waiting:
            key = next(iter(self._waiting))
            if now - self._waiting[key].began < self._timeout:
                return
            self._forget(key)
            self._counters.add("reassembly_timeout")

    def _forget(self, key: bytes) -> None:
        self._bytes -= self._waiting.pop(key).size


def _parts(packet: bytes) -> tuple[bytes, bytes, int, bool, bytes] | None:
    """Key, header for the whole, offset in bytes, whether more follow, the piece."""
    try:
        if packet[0] >> 4 == 4:
            size = (packet[0] & 15) * 4
            field_ = packet[6] << 8 | packet[7]
            key = packet[4:6] + packet[9:10] + packet[12:20]
            return key, packet[:size], (field_ & 0x1FFF) * 8, bool(field_ & _MORE), packet[size:]
        protocol, start = ipv6_transport(packet)
        if protocol != 44:
            return None
        field_ = packet[start + 2] << 8 | packet[start + 3]
        key = packet[start + 4 : start + 8] + source_of(packet) + destination_of(packet)
        header = bytearray(packet[:start])
        # The header before the fragment header now names what the fragment header named.
        place = 6 if start == 40 else _last_extension(packet, start)
        header[place] = packet[start]
        return key, bytes(header), field_ & 0xFFF8, bool(field_ & 1), packet[start + 8 :]
    except IndexError:
        return None


def _last_extension(packet: bytes, start: int) -> int:
    place = 40
    while (following := place + (packet[place + 1] + 1) * 8) < start:
        place = following
    return place


def _joined(header: bytes, body: bytes) -> bytes:
    head = bytearray(header)
    if head[0] >> 4 == 6:
        head[4:6] = (len(head) - 40 + len(body)).to_bytes(2, "big")
        return bytes(head) + body
    head[2:4] = (len(head) + len(body)).to_bytes(2, "big")
    head[6:8] = b"\0\0"
    head[10:12] = b"\0\0"
    head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
    return bytes(head) + body
