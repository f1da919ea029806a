"""UDP sockets that leave by one access network: the tunnel's, and the one for SIP outside the tunnels.

Bound to the interface and the care-of address and marked, so that policy routing sends them by their own network
and they can never be tunnelled again. The outer packet is never fragmented (DF).
"""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address

from upmt_nf.model.errors import KernelError, UpmtError
from upmt_nf.model.flow import Endpoint, IPAddress

_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_MTU = 10, 2, 14
_IPV6_MTU_DISCOVER, _IPV6_MTU = 23, 24
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SEND_BUFFER = 8 << 20
_RECEIVE_BUFFER = 8 << 20
_BATCH = 64

_IGNORED = frozenset((errno.ECONNREFUSED, errno.EPERM, errno.EPROTO, errno.EHOSTUNREACH))
"""What an ICMP error on the way or a filter of the host makes of a send: the packet is gone, the path may be well."""
_FULL = frozenset((errno.EAGAIN, errno.ENOBUFS))


class PathTooSmall(UpmtError):
    """A packet is larger than the path takes; `mtu` is the largest outer packet in bytes."""

    def __init__(self, mtu: int) -> None:
        super().__init__(f"the path takes packets of {mtu} bytes at most")
        self.mtu = mtu


class PathLost(UpmtError):
    """The kernel cannot send by this network: the address, route or interface is gone."""


class TunnelSocket:
    """One end of a tunnel. Receiving is done by netfilter's queue: this socket holds the port and sends.

    `interface` None and `mark` 0 are for the anchor, whose one socket serves all tunnels with `send_to`.
    Raises KernelError when the address or port cannot be bound.
    """

    def __init__(
        self, interface: str | None, address: IPAddress, port: int, mark: int, remote: Endpoint | None
    ) -> None:
        self.dropped = 0
        self._from = f"{address} on {interface}"
        self._version = address.version
        self._tos = 0
        self._socket = _bound_socket(interface, address, port, mark)
        _send_whole(self._socket, self._version)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
        # Nothing is ever read here: what the queue does not take must not pile up.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        if remote is not None:
            try:
                self.turn_to(remote)
            except KernelError:
                self._socket.close()
                raise
        self.local = _local(self._socket)

    def turn_to(self, remote: Endpoint) -> None:
        """Send to this remote end from now on, from the same port. Raises KernelError when there is no way to it."""
        try:
            self._socket.connect((str(remote.address), remote.port))
        except OSError as reason:
            raise KernelError(f"no way from {self._from} to {remote}: {reason.strerror}") from reason

    def send(self, payload: bytes, tos: int) -> None:
        """Send to the remote end. Raises PathTooSmall and PathLost; what merely gets lost is counted in `dropped`."""
        if tos != self._tos:
            self._set_tos(tos)
        try:
            self._socket.send(payload)
        except OSError as reason:
            self._failed(reason)

    def send_to(self, payload: bytes, remote: Endpoint, tos: int) -> None:
        """Send to any remote end, otherwise like `send`."""
        if tos != self._tos:
            self._set_tos(tos)
        try:
            self._socket.sendto(payload, (str(remote.address), remote.port))
        except OSError as reason:
            self._failed(reason)

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()

    def _set_tos(self, tos: int) -> None:
        if self._version == 4:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
        self._tos = tos

    def _failed(self, reason: OSError) -> None:
        self.dropped += 1
        if reason.errno in _FULL or reason.errno in _IGNORED:
            return
        if reason.errno == errno.EMSGSIZE:
            raise PathTooSmall(self._path_mtu()) from reason
        raise PathLost(reason.strerror or str(reason)) from reason

    def _path_mtu(self) -> int:
        """What the kernel has learnt of the path (RFC 1191); the smallest legal MTU when it cannot say."""
        try:
            if self._version == 4:
                return self._socket.getsockopt(socket.IPPROTO_IP, _IP_MTU)
            return self._socket.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
        except OSError:
            return 1280


class SignallingSocket:
    """SIP outside the tunnels. `interface` None and `mark` 0 are for the anchor."""

    def __init__(self, interface: str | None, address: IPAddress, port: int, mark: int) -> None:
        self._socket = _bound_socket(interface, address, port, mark)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self.local = _local(self._socket)

    def fileno(self) -> int:
        """Readable when datagrams wait."""
        return self._socket.fileno()

    def receive(self) -> list[tuple[bytes, Endpoint]]:
        """At most one batch of waiting datagrams, each with where it came from."""
        found: list[tuple[bytes, Endpoint]] = []
        for _ in range(_BATCH):
            try:
                data, source = self._socket.recvfrom(65536)
            except BlockingIOError:
                break
            except OSError:
                # An ICMP error about something that we sent earlier: retransmission takes care of it.
                continue
            found.append((data, Endpoint(ip_address(source[0].partition("%")[0]), source[1])))
        return found

    def send_to(self, data: bytes, remote: Endpoint) -> bool:
        """Send one datagram; False when the kernel would not, as when the network is just gone."""
        try:
            self._socket.sendto(data, (str(remote.address), remote.port))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()


def _bound_socket(interface: str | None, address: IPAddress, port: int, mark: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if interface is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        if mark:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        made.setblocking(False)
        made.bind((str(address), port))
    except OSError as reason:
        made.close()
        where = f" on {interface}" if interface else ""
        raise KernelError(f"cannot bind UDP {Endpoint(address, port)}{where}: {reason.strerror}") from reason
    return made


def _send_whole(made: socket.socket, version: int) -> None:
    if version == 4:
        made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IP_PMTUDISC_DO)


def _local(made: socket.socket) -> Endpoint:
    name = made.getsockname()
    return Endpoint(ip_address(name[0].partition("%")[0]), name[1])
