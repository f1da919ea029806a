"""Sockets that were closed for good, as sock_diag tells it: whoever has their port next is somebody else.

The kernel tells of IPv4 and IPv6 TCP and UDP, in the network namespace in which this is made (linux/sock_diag.h).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from upmt_nf.linux.netlink import attributes
from upmt_nf.model.errors import FacilityError

_NETLINK_SOCK_DIAG = 4
_GROUPS = 0b1111
_SOCK_DIAG_BY_FAMILY = 20
_END = struct.Struct("=IH10xB3x2s2s16x16s4xII")
"""struct nlmsghdr, then of struct inet_diag_msg family, ports, destination and both halves of the cookie."""
_ATTRIBUTES_AT = 16 + 72
_INET_DIAG_PROTOCOL = 10
_PROTOCOL_FIRST = struct.pack("=HH", 5, _INET_DIAG_PROTOCOL)
_UNSPECIFIED, _MAPPED = (bytes(4), bytes(16)), bytes(10) + b"\xff\xff"
_SO_RCVBUFFORCE, _BUFFER = 33, 8 << 20
_MOST = 512


class EndedSocket(NamedTuple):
    """A closed socket. `destination`: packed, 4 or 16 bytes; none when it was not connected.

    Thousands may be closed within a second, of which most are of no interest: no objects are made for their sake.
    """

    protocol: int
    source_port: int
    destination: bytes
    destination_port: int
    cookie: int = 0


class SocketEnds:
    """The ends of sockets from now on. Raises FacilityError where the kernel does not tell."""

    def __init__(self) -> None:
        self.lost = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG)
        try:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            self._socket.bind((0, _GROUPS))
        except OSError as reason:
            self._socket.close()
            raise FacilityError(f"the kernel tells nothing of closed sockets: {reason.strerror}") from reason
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """Readable when sockets were closed."""
        return self._socket.fileno()

    def read(self) -> Iterator[EndedSocket]:
        """Those closed since the last call, some hundred at most."""
        for _ in range(_MOST):
            try:
                data = self._socket.recv(1 << 13)
            except BlockingIOError:
                return
            except OSError as reason:
                if reason.errno != errno.ENOBUFS:
                    return
                self.lost += 1
                continue
            if (ended := parse_end(data)) is not None:
                yield ended

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


def parse_end(data: bytes) -> EndedSocket | None:
    """One message of the kernel; None when it is something else."""
    if len(data) < _ATTRIBUTES_AT:
        return None
    length, kind, family, source, port, destination, low, high = _END.unpack_from(data)
    if kind != _SOCK_DIAG_BY_FAMILY or length > len(data) or source == b"\0\0":
        return None
    if data.startswith(_PROTOCOL_FIRST, _ATTRIBUTES_AT) and length > _ATTRIBUTES_AT + len(_PROTOCOL_FIRST):
        protocol: int | None = data[_ATTRIBUTES_AT + len(_PROTOCOL_FIRST)]
    else:
        protocol = _protocol_in(data[_ATTRIBUTES_AT:length])
    if protocol is None:
        return None
    if family == socket.AF_INET:
        destination = destination[:4]
    elif destination.startswith(_MAPPED):
        destination = destination[12:]
    source_port, cookie = source[0] << 8 | source[1], high << 32 | low
    if destination in _UNSPECIFIED or port == b"\0\0":
        return EndedSocket(protocol, source_port, b"", 0, cookie)
    return EndedSocket(protocol, source_port, destination, port[0] << 8 | port[1], cookie)


def _protocol_in(data: bytes) -> int | None:
    found = (value[0] for kind, value in attributes(data) if kind == _INET_DIAG_PROTOCOL and value)
    return next(found, None)
