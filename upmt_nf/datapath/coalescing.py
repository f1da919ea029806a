"""Packets that came together -> runs that one large TCP packet can stand for: the kernel's GRO, done by us.

Only what segmentation would give back byte for byte is merged (but for the identification of IPv4 packets that must
not be fragmented, which means nothing: RFC 6864 section 4), and only packets whose checksums are right: the kernel
makes new ones, which must not hide damage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from upmt_nf.datapath.checksum import ones_sum
from upmt_nf.datapath.offload import TCP_FIELD, Offload, pseudo_sum
from upmt_nf.datapath.packet import is_whole, with_length
from upmt_nf.model.flow import TCP

_ACK, _PSH = 0x10, 0x08
_LARGEST = 65535
_DONT_FRAGMENT = 0x40


def _columns(start: int, *varying: range) -> NDArray[np.bool_]:
    columns = np.zeros(start + 60, np.bool_)
    for some in varying:
        columns[some.start : some.stop] = True
    return columns


_VARYING = {
    start: _columns(
        start,
        # Identification and the header's checksum; sequence number, flags (looked at apart) and checksum of TCP.
        *((range(4, 6), range(10, 12)) if start == 20 else ()),
        range(start + 4, start + 8),
        range(start + 13, start + 14),
        range(start + 16, start + 18),
    )
    for start in (20, 40)
}
"""By the length of the IP header: the columns in which packets of a run may differ."""


class Run(NamedTuple):
    """`packets` packets, one behind the other in `data`, each of `size` bytes but the last, which may be shorter."""

    first: bytes
    packets: int
    size: int
    data: bytes


def runs(data: bytes, size: int) -> Iterator[Run]:
    """Packets of `size` bytes each, the last maybe shorter, taken apart into runs; a run may be one packet."""
    at = 0
    while at < len(data):
        first = data[at : at + size]
        count = _run_length(data, at, size, first)
        yield Run(first, count, size, data[at : at + count * size] if count > 1 else first)
        at += count * size


def merge(run: Run, first: bytes) -> tuple[bytes, Offload]:
    """One large packet for a run, with the headers of `first`, which is the run's first as it is to be now."""
    start = 20 if first[0] >> 4 == 4 else 40
    head = start + (first[start + 12] >> 4) * 4
    each = run.size - head
    pieces = [run.data[at + head : at + run.size] for at in range(0, len(run.data), run.size)]
    total = head + sum(map(len, pieces))
    last = (run.packets - 1) * run.size
    headers = bytearray(with_length(first[:head], total))
    headers[start + 13] |= run.data[last + start + 13] & _PSH
    field = start + TCP_FIELD
    headers[field : field + 2] = pseudo_sum(first, total - start).to_bytes(2, "big")
    return b"".join((bytes(headers), *pieces)), Offload(start, TCP_FIELD, each)


def _run_length(data: bytes, at: int, size: int, first: bytes) -> int:
    """How many packets from `at` on can be one; at least 1."""
    head = _mergeable_head(first)
    if head is None or size & 1 or at + size >= len(data):
        return 1
    start = 20 if first[0] >> 4 == 4 else 40
    whole = min((len(data) - at) // size, (_LARGEST - head) // (size - head))
    count = _equal_run(data, at, size, start, head, whole)
    after = at + count * size
    rest = data[after : after + size]
    ended = count and data[after - size + start + 13] & _PSH
    if count and count == whole and not ended and head < len(rest) < size:
        taken = head + count * (size - head) + len(rest) - head
        if taken <= _LARGEST and _continues(first, rest, start, head, count * (size - head)):
            count += 1
    return max(1, count)


def _mergeable_head(packet: bytes) -> int | None:
    """The headers' size of a TCP packet with data and nothing special; None for all others."""
    size = len(packet)
    if size > 40 and packet[0] == 0x45 and packet[9] == TCP:
        if packet[6] & 0x3F or packet[7]:
            return None
        start = 20
    elif size > 60 and packet[0] >> 4 == 6 and packet[6] == TCP:
        start = 40
    else:
        return None
    head = start + (packet[start + 12] >> 4) * 4
    plain = packet[start + 13] & ~_PSH == _ACK and not packet[start + 12] & 0x0F
    return head if plain and start + 20 <= head < size else None


def _equal_run(data: bytes, at: int, size: int, start: int, head: int, whole: int) -> int:
    """How many of `whole` packets of full size continue the first; 0 when the first itself is damaged."""
    rows = np.frombuffer(data, np.uint8, whole * size, at).reshape(whole, size)
    good = ((rows[:, :head] == rows[0, :head]) | _VARYING[start][:head]).all(axis=1)
    sequences = np.ascontiguousarray(rows[:, start + 4 : start + 8]).view(">u4")[:, 0]
    expected = sequences[0] + np.arange(whole, dtype=np.uint32) * np.uint32(size - head)
    good &= sequences == expected
    flags = rows[:, start + 13] & ~np.uint8(_PSH)
    good &= flags == _ACK
    good[1:] &= rows[:-1, start + 13] == _ACK
    # A right IPv4 header sums up to nothing, so a whole row does with its pseudo header; IPv6 has no header sum.
    words = np.frombuffer(data, np.uint16, whole * size // 2, at).reshape(whole, size // 2)
    pseudo = pseudo_sum(data[at : at + start], size - start)
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    if start == 20:
        good &= words[:, :10].sum(axis=1, dtype=np.uint32) % np.uint32(0xFFFF) == 0
        if not data[at + 6] & _DONT_FRAGMENT:
            identifications = np.ascontiguousarray(rows[:, 4:6]).view(">u2")[:, 0]
            good &= identifications == identifications[0] + np.arange(whole, dtype=np.uint16)
    else:
        pseudo = (pseudo + 0xFFFF - ones_sum(data[at : at + start])) % 0xFFFF
        length = 40 + int.from_bytes(data[at + 4 : at + 6], "big")
    if length != size:
        return 0
    native = np.uint32(int.from_bytes(pseudo.to_bytes(2, "big"), sys.byteorder))
    sums: NDArray[np.uint32] = words.sum(axis=1, dtype=np.uint32)
    good &= (sums + native) % np.uint32(0xFFFF) == 0
    return int(good.argmin()) if not good.all() else whole


def _continues(first: bytes, packet: bytes, start: int, head: int, offset: int) -> bool:
    """Whether a shorter packet is the last of a run that began with `first`, `offset` bytes of payload before."""
    if not is_whole(packet) or _mergeable_head(packet) != head:
        return False
    sequence = int.from_bytes(first[start + 4 : start + 8], "big") + offset
    if int.from_bytes(packet[start + 4 : start + 8], "big") != sequence & 0xFFFFFFFF:
        return False
    if start == 20 and not packet[6] & _DONT_FRAGMENT:
        return False
    if (ones_sum(packet[start:]) + pseudo_sum(packet, len(packet) - start)) % 0xFFFF:
        return False
    masked = _masked(packet, start, head)
    return masked == _masked(first, start, head)


def _masked(packet: bytes, start: int, head: int) -> bytes:
    """The headers without what may differ within a run: lengths, identification, sums, sequence, PSH."""
    ip = packet[:2] + packet[6:10] + packet[12:20] if start == 20 else packet[:4] + packet[6:40]
    tcp = packet[start : start + 4] + packet[start + 8 : start + 13] + packet[start + 14 : start + 16]
    return ip + tcp + packet[start + 18 : head]
