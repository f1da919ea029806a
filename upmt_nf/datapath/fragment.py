"""Fragments: splitting a packet by MTU (RFC 791 section 3.2, 8200 section 4.5) and putting them together, bounded.

Inner fragments are put together before they go on: conntrack's own reassembly runs before a tunnel packet is
opened, and without ports there is no flow.
"""

from __future__ import annotations

from bisect import bisect_right

from upmt_nf.datapath.checksum import checksum
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.packet import destination_of, ipv6_transport, source_of

_MORE = 0x2000
_LONGEST = 65535
_FRAGMENT_HEADER = 44
_CE, _NOT_ECT = 3, 0
_BYTES_A_PIECE = 128
"""What a fragment costs in memory beyond its own bytes, roughly: many tiny ones must not slip under the bound."""


def split(packet: bytes, mtu: int, *, identification: int = 0) -> list[bytes]:
    """A whole packet as fragments of at most `mtu` bytes.

    `identification` goes into IPv6 fragment headers and must differ from packet to packet; IPv4 packets have one
    of their own. Raises ValueError when the packet must not be split (DF), when `mtu` < 68, or when the headers
    alone do not fit.
    """
    if len(packet) <= mtu:
        return [packet]
    if mtu < 68:
        raise ValueError(f"no link has an MTU of {mtu} (RFC 791)")
    if packet[0] >> 4 == 6:
        return _split_ipv6(packet, mtu, identification)
    if packet[6] & 0x40:
        raise ValueError("the packet may not be fragmented")
    size = (packet[0] & 15) * 4
    field = packet[6] << 8 | packet[7]
    start, more_follow = field & 0x1FFF, bool(field & _MORE)
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


def _split_ipv6(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    """Behind the extension headers a fragment header is put in; a tunnel's link may have less than 1,280 bytes."""
    try:
        protocol, start = ipv6_transport(packet)
    except IndexError:
        protocol, start = packet[6], 40
    if protocol == _FRAGMENT_HEADER:
        raise ValueError("the packet is a fragment already")
    room = (mtu - start - 8) & ~7
    if room <= 0 or start > len(packet):
        raise ValueError(f"the headers alone do not fit into {mtu} bytes")
    header = bytearray(packet[:start])
    header[_place_of_next_header(packet, start)] = _FRAGMENT_HEADER
    body = packet[start:]
    fragments: list[bytes] = []
    for done in range(0, len(body), room):
        piece = body[done : done + room]
        header[4:6] = (start - 40 + 8 + len(piece)).to_bytes(2, "big")
        offset = done | (done + room < len(body))
        inserted = bytes((protocol, 0)) + offset.to_bytes(2, "big") + identification.to_bytes(4, "big")
        fragments.append(bytes(header) + inserted + piece)
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


class _Whole:
    """A packet on its way to being whole. Pieces do not overlap; `starts` is sorted."""

    __slots__ = ("began", "charged", "congestion", "end", "header", "pieces", "size", "starts", "void")

    def __init__(self, began: float) -> None:
        self.began = began
        self.starts: list[int] = []
        self.pieces: dict[int, bytes] = {}
        self.header = b""
        self.end: int | None = None
        self.size = self.charged = 0
        self.congestion: set[int] = set()
        self.void = False

    def fits(self, offset: int, end: int, more: bool) -> bool:
        """Whether a piece goes between those that are there and agrees with them about where the packet ends."""
        if self.end is not None and (end > self.end or (not more and end != self.end)):
            return False
        place = bisect_right(self.starts, offset)
        if place and self.starts[place - 1] + len(self.pieces[self.starts[place - 1]]) > offset:
            return False
        return place == len(self.starts) or (more and end <= self.starts[place])

    def put(self, offset: int, piece: bytes, more: bool) -> None:
        """Take a piece that fits."""
        self.starts.insert(bisect_right(self.starts, offset), offset)
        self.pieces[offset] = piece
        self.size += len(piece)
        if not more:
            self.end = offset + len(piece)


class Reassembler:
    """Puts fragments together. Time and memory are bounded; `len()` is the number of unfinished packets.

    A fragment that comes twice is harmless. Overlaps void the whole packet and what still comes of it (RFC 5722).
    """

    def __init__(
        self, counters: Counters, *, timeout: float = 30.0, max_packets: int = 256, max_bytes: int = 4 << 20
    ) -> None:
        self._counters = counters
        self._timeout = timeout
        self._max_packets = max_packets
        self._max_bytes = max_bytes
        self._bytes = 0
        self._waiting: dict[bytes, _Whole] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def held(self) -> int:
        """Bytes that the unfinished packets cost."""
        return self._bytes

    def add(self, packet: bytes, now: float) -> bytes | None:
        """Take one fragment; the whole packet when it was the last one missing. `now` in seconds. Never raises."""
        self.expire(now)
        parsed = _parts(packet)
        if parsed is None:
            self._counters.add("bad_fragment")
            return None
        key, header, offset, more, congestion, piece = parsed
        end = offset + len(piece)
        if not piece or (more and len(piece) % 8) or end > _LONGEST - len(header):
            self._counters.add("bad_fragment")
            return None
        cost = len(piece) + _BYTES_A_PIECE
        whole = self._waiting.get(key)
        if whole is None:
            self._make_room(cost, 1)
            whole = self._waiting[key] = _Whole(now)
        elif whole.void or whole.pieces.get(offset) == piece:
            self._counters.add("surplus_fragment")
            return None
        elif not whole.fits(offset, end, more):
            self._void(whole)
            return None
        else:
            self._make_room(cost, 0)
            if key not in self._waiting:
                # It was the oldest, and larger than everything else together.
                return None
        whole.put(offset, piece, more)
        whole.congestion.add(congestion)
        whole.charged += cost
        self._bytes += cost
        if offset == 0:
            whole.header = header
        if whole.end is None or whole.size != whole.end:
            return None
        self._forget(key)
        return self._joined(whole)

    def _joined(self, whole: _Whole) -> bytes | None:
        """Congestion marked on one fragment is congestion of the packet (RFC 3168 section 5.3)."""
        if _CE in whole.congestion and _NOT_ECT in whole.congestion:
            self._counters.add("bad_fragment")
            return None
        head = bytearray(whole.header)
        body = b"".join([whole.pieces[start] for start in whole.starts])
        if head[0] >> 4 == 6:
            head[4:6] = (len(head) - 40 + len(body)).to_bytes(2, "big")
            if _CE in whole.congestion:
                head[1] |= _CE << 4
            return bytes(head) + body
        head[2:4] = (len(head) + len(body)).to_bytes(2, "big")
        head[6:8] = head[10:12] = b"\0\0"
        if _CE in whole.congestion:
            head[1] |= _CE
        head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
        return bytes(head) + body

    def _void(self, whole: _Whole) -> None:
        """Keep the name of the packet only, so that its other fragments do not begin a new one."""
        self._bytes -= whole.charged
        whole.charged = 0
        whole.pieces.clear()
        whole.starts.clear()
        whole.void = True
        self._counters.add("overlapping_fragment")

    def _make_room(self, cost: int, packets: int) -> None:
        while self._waiting and (
            len(self._waiting) + packets > self._max_packets or self._bytes + cost > self._max_bytes
        ):
            self._forget(next(iter(self._waiting)))
            self._counters.add("reassembly_full")

    def expire(self, now: float) -> None:
        """Let go of what has waited too long."""
        while self._waiting:
            key = next(iter(self._waiting))
            if now - self._waiting[key].began < self._timeout:
                return
            self._forget(key)
            self._counters.add("reassembly_timeout")

    def _forget(self, key: bytes) -> None:
        self._bytes -= self._waiting.pop(key).charged


def _parts(packet: bytes) -> tuple[bytes, bytes, int, bool, int, bytes] | None:
    """Key, header for the whole, offset in bytes, whether more follow, ECN field, the piece."""
    try:
        if packet[0] >> 4 == 4:
            size = (packet[0] & 15) * 4
            field = packet[6] << 8 | packet[7]
            key = packet[4:6] + packet[9:10] + packet[12:20]
            more = bool(field & _MORE)
            if size < 20:
                return None
            return key, packet[:size], (field & 0x1FFF) * 8, more, packet[1] & 3, packet[size:]
        protocol, start = ipv6_transport(packet)
        if protocol != _FRAGMENT_HEADER:
            return None
        field = packet[start + 2] << 8 | packet[start + 3]
        key = packet[start + 4 : start + 8] + source_of(packet) + destination_of(packet)
        header = bytearray(packet[:start])
        # The header before the fragment header now names what the fragment header named.
        header[_place_of_next_header(packet, start)] = packet[start]
        piece = packet[start + 8 :]
        return key, bytes(header), field & 0xFFF8, bool(field & 1), packet[1] >> 4 & 3, piece
    except IndexError:
        return None


def _place_of_next_header(packet: bytes, start: int) -> int:
    """Where the header before `start` names the one at `start`."""
    if start == 40:
        return 6
    place = 40
    while (following := place + (packet[place + 1] + 1) * 8) < start:
        place = following
    return place
