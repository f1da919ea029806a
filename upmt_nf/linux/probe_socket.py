"""A UDP socket that tries an access network's NAT and filters: any traffic class, in fragments, without a checksum."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple

from upmt_nf.linux.tunnel_socket import address_in, datagram_socket, whole_or_not
from upmt_nf.model.flow import Endpoint, IPAddress

_IP_RECVTOS, _IPV6_RECVTCLASS = 13, 66
_MOST, _BATCH = 2048, 64
"""Bytes of a datagram, and datagrams read at a time."""


class ProbeArrival(NamedTuple):
    """A datagram, its traffic class (DSCP and ECN), and where it came from."""

    data: bytes
    tos: int
    remote: Endpoint


class ProbeSocket:
    """Bound to one access network, on a port of the kernel's choice. Raises KernelError when it cannot be bound."""

    def __init__(self, interface: str, address: IPAddress, mark: int) -> None:
        self.version = address.version
        self._socket = datagram_socket(interface, address, mark)
        if self.version == 4:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVTCLASS, 1)

    def fileno(self) -> int:
        """Readable when datagrams wait."""
        return self._socket.fileno()

    def send(self, data: bytes, remote: Endpoint, tos: int = 0, *, has_checksum: bool = True) -> None:
        """Send one datagram; what the kernel refuses is as good as lost on the way."""
        if self.version == 4:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
        with (
            whole_or_not(self._socket, self.version, has_checksum=has_checksum),
            contextlib.suppress(OSError),
        ):
            self._socket.sendto(data, (str(remote.address), remote.port))

    def receive(self) -> Iterator[ProbeArrival]:
        """At most one batch of what waits; what is larger than any probe is cut."""
        for _ in range(_BATCH):
            try:
                data, ancillary, _, source = self._socket.recvmsg(_MOST, socket.CMSG_SPACE(4))
            except BlockingIOError:
                return
            except OSError:
                # An ICMP error about something that was sent: it is as good as lost.
                continue
            tos = next((int.from_bytes(value, sys.byteorder) & 0xFF for _, _, value in ancillary), 0)
            yield ProbeArrival(data, tos, Endpoint(address_in(source[0]), source[1]))

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()
