"""Netlink: what is asked and answered, datagrams as messages, messages as attributes (linux/netlink.h)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

REQUEST, DUMP = 0x1, 0x300
"""NLM_F_REQUEST and NLM_F_DUMP."""
_ERROR, _DONE = 2, 3
"""NLMSG_ERROR and NLMSG_DONE."""
HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_ATTRIBUTE = struct.Struct("=HH")
_CODE = struct.Struct("=i")
_LARGEST = 1 << 17


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message. Never raises: a body may be shorter than its type says."""
    for kind, _, body in _numbered(data):
        yield kind, body


def _numbered(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The same with the sequence number in the middle."""
    place = 0
    while place + HEADER.size <= len(data):
        length, kind, _, sequence, _ = HEADER.unpack_from(data, place)
        yield kind, sequence, data[place + HEADER.size : place + length]
        place += max(length + 3 & ~3, HEADER.size)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute. Never raises."""
    place = 0
    while place + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, place)
        yield kind, data[place + _ATTRIBUTE.size : place + length]
        place += max(length + 3 & ~3, _ATTRIBUTE.size)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, filled up to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, flags: int, body: bytes, sequence: int = 1) -> bytes:
    """One message, as it is sent."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def asked(
    kernel: socket.socket, kind: int, body: bytes, *, is_dump: bool = False, sequence: int = 1
) -> Iterator[tuple[int, bytes]]:
    """Ask, and give type and body of each message of the answer: one datagram's, or a dump's until it is done.

    Raises OSError for what the kernel refuses, and when it says nothing for the socket's time limit.
    """
    kernel.send(message(kind, REQUEST | (DUMP if is_dump else 0), body, sequence))
    has_answered = False
    while is_dump or not has_answered:
        for answer, number, content in _numbered(kernel.recv(_LARGEST)):
            if number != sequence:
                # Late: of a question that was given up.
                continue
            has_answered = True
            if answer == _DONE:
                return
            if answer == _ERROR:
                code = -_CODE.unpack_from(content)[0] if len(content) >= _CODE.size else 0
                raise OSError(code, os.strerror(code))
            yield answer, content
