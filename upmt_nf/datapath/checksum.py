"""The Internet checksum (RFC 1071), fast enough for every packet.

A buffer taken as one number modulo 0xffff *is* its 16-bit one's complement sum, because 2**16 is 1 modulo 0xffff.
"""

from __future__ import annotations

_QUARTERED_FROM = 512
"""Bytes from which four numbers of a quarter each are faster than one long one."""


def ones_sum(data: bytes) -> int:
    """The 16-bit one's complement sum of `data`, padded with a zero byte to even length.

    A sum that is not zero but divisible by 0xffff comes out as 0xffff, as RFC 1071's loop would give it.
    """
    if len(data) & 1:
        data = data + b"\0"
    size = len(data)
    number_of = int.from_bytes
    if size < _QUARTERED_FROM:
        number = number_of(data, "big")
    else:
        quarter = size >> 2 & ~1
        number = (
            number_of(data[:quarter], "big")
            + number_of(data[quarter : 2 * quarter], "big")
            + number_of(data[2 * quarter : 3 * quarter], "big")
            + number_of(data[3 * quarter :], "big")
        )
    return number % 0xFFFF or (0xFFFF if number else 0)


def checksum(data: bytes) -> int:
    """What belongs into the checksum field of `data`, whose field is zero."""
    return 0xFFFF - ones_sum(data)


def transport_checksum(source: bytes, destination: bytes, protocol: int, segment: bytes) -> int:
    """The checksum of a UDP, TCP or ICMPv6 segment with its pseudo header (RFC 768, 8200 section 8.1).

    Zero when the segment already carries its right checksum.
    """
    length = len(segment)
    if len(source) == 4:
        pseudo = source + destination + bytes((0, protocol)) + length.to_bytes(2, "big")
    else:
        pseudo = source + destination + length.to_bytes(4, "big") + bytes((0, 0, 0, protocol))
    return checksum(pseudo + segment)
