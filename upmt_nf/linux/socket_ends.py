"""Sockets that were closed for good, as sock_diag tells it: whoever has their port next is somebody else.

The kernel tells of IPv4 and IPv6 TCP and UDP, in the network namespace in which this is made (linux/sock_diag.h).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

from upmt_nf.linux.netlink import HEADER, attributes
from upmt_nf.model.errors import FacilityError
from upmt_nf.model.flow import IPAddress

_NETLINK_SOCK_DIAG = 4
_GROUPS = 0b1111
_SOCK_DIAG_BY_FAMILY = 20
_SOCKET_ID = struct.Struct("!HH16s16s")
_COOKIE = struct.Struct("=III")
"""Interface, then both halves."""
_ATTRIBUTES_AT = 16 + 72
_INET_DIAG_PROTOCOL = 10
_SO_RCVBUFFORCE, _BUFFER = 33, 8 << 20
_MOST = 512


class EndedSocket(NamedTuple):
    """A closed socket. `destination` None: it was not connected."""

    protocol: int
    source_port: int
    destination: IPAddress | None
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
    length, kind, *_ = HEADER.unpack_from(data)
    if kind != _SOCK_DIAG_BY_FAMILY or length > len(data):
        return None
    protocol = _protocol_in(data[_ATTRIBUTES_AT:length])
    source_port, destination_port, _, packed = _SOCKET_ID.unpack_from(data, 20)
    if protocol is None or source_port == 0:
        return None
    destination = ip_address(packed[:4] if data[16] == socket.AF_INET else packed)
    if destination.version == 6 and destination.ipv4_mapped is not None:
        destination = destination.ipv4_mapped
    _, low, high = _COOKIE.unpack_from(data, 56)
    if destination.is_unspecified or not destination_port:
        return EndedSocket(protocol, source_port, None, 0, high << 32 | low)
    return EndedSocket(protocol, source_port, destination, destination_port, high << 32 | low)


def _protocol_in(data: bytes) -> int | None:
    found = (value[0] for kind, value in attributes(data) if kind == _INET_DIAG_PROTOCOL and value)
    return next(found, None)
