"""What the kernel packs into a netlink datagram: messages, and the attributes in them (linux/netlink.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_ATTRIBUTE = struct.Struct("=HH")


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message. Never raises: a body may be shorter than its type says."""
    place = 0
    while place + HEADER.size <= len(data):
        length, kind, *_ = HEADER.unpack_from(data, place)
        yield kind, data[place + HEADER.size : place + length]
        place += max(length + 3 & ~3, HEADER.size)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute. Never raises."""
    place = 0
    while place + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, place)
        yield kind, data[place + _ATTRIBUTE.size : place + length]
        place += max(length + 3 & ~3, _ATTRIBUTE.size)
