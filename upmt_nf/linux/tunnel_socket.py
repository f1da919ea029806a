"""UDP sockets that leave by one access network: the tunnel's, and the one for SIP outside the tunnels.

Tunnel sockets send and take many datagrams in one go where the kernel can (UDP_SEGMENT, UDP_GRO: udp(7)).

Bound to the interface and the care-of address and marked, so that policy routing sends them by their own network
and they can never be tunnelled again. The outer packet is never fragmented (DF).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from upmt_nf.datapath.outer import EndpointBytes
from upmt_nf.model.errors import KernelError, UpmtError
from upmt_nf.model.flow import Endpoint, IPAddress

_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT, _IP_PMTUDISC_DO, _IP_PMTUDISC_PROBE, _IP_MTU = 10, 0, 2, 3, 14
_SO_NO_CHECK = 11
_IPV6_MTU_DISCOVER, _IPV6_MTU = 23, 24
_IP_RECVTOS, _IPV6_RECVTCLASS = 13, 66
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SEND_BUFFER = 8 << 20
_RECEIVE_BUFFER = 8 << 20
_BATCH, _LOOKED_AT = 64, 1024
_UDP_SEGMENT, _UDP_GRO = 103, 104
_MOST_SEGMENTS = 64
"""UDP_MAX_SEGMENTS of the kernels up to 6.8."""
_LARGEST_SEND = 65000
_TOS_AND_SIZE = socket.CMSG_SPACE(4) * 3

_IGNORED = frozenset((errno.ECONNREFUSED, errno.EPERM, errno.EPROTO, errno.EHOSTUNREACH))
"""What an ICMP error on the way or a filter of the host makes of a send: the packet is gone, the path may be well."""
_PATIENCE = 4
"""Sends of one packet. An ICMP error, which anybody may forge, fails the next send, whatever that was; a path that is
lost fails all of them."""
_FULL = frozenset((errno.EAGAIN, errno.ENOBUFS))
_NO_SEGMENTS = frozenset((errno.EIO, errno.EINVAL, errno.EOPNOTSUPP))

SocketAddress = tuple[str, int]
"""As the socket module writes the end of a datagram's way; for IPv6 two more numbers may follow."""


class PathTooSmall(UpmtError):
    """A packet is larger than the path takes; `mtu` is the largest outer packet in bytes."""

    def __init__(self, mtu: int) -> None:
        super().__init__(f"the path takes packets of {mtu} bytes at most")
        self.mtu = mtu


class PathLost(UpmtError):
    """The kernel cannot send by this network: the address, route or interface is gone."""


class Arrival(NamedTuple):
    """Datagrams that arrived together from one end, joined: of `size` bytes each, the last maybe shorter."""

    data: bytes
    size: int
    tos: int
    remote: SocketAddress


class TunnelSocket:
    """One end of a tunnel.

    `interface` None and `mark` 0 are for the anchor, whose one socket serves all tunnels and names the remote end
    in each `send`. `takes`: whether datagrams will be read from it; else netfilter's queue takes them before.
    `merges`: whether the kernel may join datagrams that arrive together, which the fast plane's programs cannot part.
    Raises KernelError when the address or port cannot be bound.
    """

    def __init__(
        self,
        interface: str | None,
        address: IPAddress,
        port: int,
        mark: int,
        remote: Endpoint | None,
        *,
        takes: bool = False,
        merges: bool = True,
    ) -> None:
        self.dropped = 0
        self.narrowed_to: int | None = None
        """The path MTU, when the network said that it is smaller than what was sent. Whoever reads it takes it away."""
        self._merges = merges
        self._segments = True
        self._from = f"{address} on {interface}"
        self._version = address.version
        self._tos = 0
        self._socket = _bound_socket(interface, address, port, mark)
        # The anchor learns nothing from ICMP: forged by anybody, it would stop all that is larger for minutes.
        _send_whole(self._socket, self._version, learns=remote is not None)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
        if takes:
            self._take()
        else:
            # Nothing is ever read here: what the queue does not take must not pile up.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        if remote is not None:
            try:
                self.turn_to(remote)
            except KernelError:
                self._socket.close()
                raise
        self.local = _local(self._socket)

    def fileno(self) -> int:
        """Readable when datagrams wait."""
        return self._socket.fileno()

    def turn_to(self, remote: Endpoint) -> None:
        """Send to this remote end from now on, from the same port. Raises KernelError when there is no way to it."""
        try:
            self._socket.connect((str(remote.address), remote.port))
        except OSError as reason:
            raise KernelError(f"no way from {self._from} to {remote}: {reason.strerror}") from reason

    def send(self, payload: bytes, tos: int, size: int = 0, remote: SocketAddress | None = None) -> None:
        """Send to the remote end, or to another: one datagram, or with `size` as many as `payload` has of that size.

        Raises PathTooSmall and PathLost; what merely gets lost is counted in `dropped`.
        """
        if tos != self._tos:
            self._set_tos(tos)
        if size == 0 or size >= len(payload):
            self._send(payload, (), 1, remote)
            return
        most = min(_MOST_SEGMENTS, _LARGEST_SEND // size) if self._segments else 1
        view = memoryview(payload)
        ancillary = ((socket.IPPROTO_UDP, _UDP_SEGMENT, size.to_bytes(2, sys.byteorder)),)
        for at in range(0, len(payload), most * size):
            part = view[at : at + most * size]
            self._send(part, ancillary if len(part) > size else (), -(-len(part) // size), remote)

    def _send(
        self,
        payload: bytes | memoryview,
        ancillary: tuple[tuple[int, int, bytes], ...],
        count: int,
        remote: SocketAddress | None,
    ) -> None:
        reason = self._put(payload, ancillary, remote)
        # What failed may be an earlier packet's error: the kernel tells it once and takes the packet then.
        for _ in range(_PATIENCE - 1):
            if reason is None or reason.errno in _FULL:
                break
            reason = self._put(payload, ancillary, remote)
        if reason is None:
            return
        if ancillary and reason.errno in _NO_SEGMENTS:
            # Too large for the path, which one of them will tell; or this interface or kernel cannot.
            size, dropped = int.from_bytes(ancillary[0][2], sys.byteorder), self.dropped
            for at in range(0, len(payload), size):
                self._send(payload[at : at + size], (), 1, remote)
            self._segments = self.dropped != dropped
            return
        self._failed(reason, count)

    def _put(
        self,
        payload: bytes | memoryview,
        ancillary: tuple[tuple[int, int, bytes], ...],
        remote: SocketAddress | None,
    ) -> OSError | None:
        try:
            if ancillary:
                self._socket.sendmsg((payload,), ancillary, 0, *(() if remote is None else (remote,)))
            elif remote is None:
                self._socket.send(payload)
            else:
                self._socket.sendto(payload, remote)
        except OSError as reason:
            return reason
        return None

    def send_bare(
        self, payload: bytes, tos: int, remote: SocketAddress, *, has_checksum: bool = True
    ) -> None:
        """Send what tries a network's filters: in fragments where it is too large (no DF), maybe with no UDP checksum.

        What the kernel refuses is as good as lost on the way.
        """
        if tos != self._tos:
            self._set_tos(tos)
        with whole_or_not(self._socket, self._version, has_checksum=has_checksum):
            if self._put(payload, (), remote) is not None:
                self.dropped += 1

    def receive(self) -> Iterator[Arrival]:
        """At most one batch of what waits; `is_drained` says then whether that was all."""
        buffer, view = self._buffer, self._view
        self.is_drained = False
        for _ in range(_BATCH):
            try:
                size, ancillary, _, remote = self._socket.recvmsg_into((buffer,), _TOS_AND_SIZE)
            except BlockingIOError:
                self.is_drained = True
                return
            except OSError as reason:
                # An ICMP error about something that was sent earlier: the probes find out whether the path is dead.
                if reason.errno == errno.EMSGSIZE:
                    self.narrowed_to = self._path_mtu()
                continue
            each, tos = size, 0
            for level, kind, value in ancillary:
                if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
                    each = int.from_bytes(value[:4], sys.byteorder)
                elif kind in (socket.IP_TOS, socket.IPV6_TCLASS):
                    tos = int.from_bytes(value, sys.byteorder) & 0xFF
            yield Arrival(bytes(view[:size]), each, tos, remote)

    def _take(self) -> None:
        self._buffer = bytearray(1 << 16)
        self._view = memoryview(self._buffer)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        if self._version == 4:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVTCLASS, 1)
        if self._merges:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()

    def _set_tos(self, tos: int) -> None:
        if self._version == 4:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
        self._tos = tos

    def _failed(self, reason: OSError, count: int) -> None:
        self.dropped += count
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

    def receive(
        self, is_hopeless: Callable[[EndpointBytes, bytes], bool] = lambda _, __: False
    ) -> list[tuple[bytes, Endpoint]]:
        """At most one batch of waiting datagrams, each with where it came from.

        Those that `is_hopeless` are left out; many are read at a time, as those that are not wait behind them.
        """
        found: list[tuple[bytes, Endpoint]] = []
        for _ in range(_LOOKED_AT):
            try:
                data, source = self._socket.recvfrom(65536)
            except BlockingIOError:
                break
            except OSError:
                # An ICMP error about something that we sent earlier: retransmission takes care of it.
                continue
            address = address_in(source[0])
            if is_hopeless(address.packed + source[1].to_bytes(2, "big"), data):
                continue
            found.append((data, Endpoint(address, source[1])))
            if len(found) == _BATCH:
                break
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


@lru_cache(1024)
def address_in(text: str) -> IPAddress:
    """An address as the socket names it; a zone is the interface's, which the socket knows."""
    return ip_address(text.partition("%")[0])


def datagram_socket(interface: str, address: IPAddress, mark: int) -> socket.socket:
    """A UDP socket that leaves by one access network, from a port of the kernel's choice. Raises KernelError."""
    return _bound_socket(interface, address, 0, mark)


def stream_socket(interface: str, address: IPAddress, mark: int) -> socket.socket:
    """A TCP socket that leaves by one access network, not connected yet. Raises KernelError."""
    return _bound_socket(interface, address, 0, mark, socket.SOCK_STREAM)


def _bound_socket(
    interface: str | None,
    address: IPAddress,
    port: int,
    mark: int,
    kind: socket.SocketKind = socket.SOCK_DGRAM,
) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    made = socket.socket(family, kind)
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
        name = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
        raise KernelError(
            f"cannot bind {name} {Endpoint(address, port)}{where}: {reason.strerror}"
        ) from reason
    return made


def _send_whole(made: socket.socket, version: int, *, learns: bool) -> None:
    """Never fragment; heed what the kernel has learnt of the path, or only the interface's own MTU."""
    mode = _IP_PMTUDISC_DO if learns else _IP_PMTUDISC_PROBE
    if version == 4:
        made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, mode)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, mode)


@contextlib.contextmanager
def whole_or_not(used: socket.socket, version: int, *, has_checksum: bool) -> Iterator[None]:
    """Within it a socket sends what is too large in fragments, and over IPv4 without a UDP checksum if so wanted."""
    level, option = (
        (socket.IPPROTO_IP, _IP_MTU_DISCOVER) if version == 4 else (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)
    )
    before = used.getsockopt(level, option)
    used.setsockopt(level, option, _IP_PMTUDISC_DONT)
    if not has_checksum:
        used.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
    try:
        yield
    finally:
        used.setsockopt(level, option, before)
        if not has_checksum:
            used.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 0)


def _local(made: socket.socket) -> Endpoint:
    name = made.getsockname()
    return Endpoint(address_in(name[0]), name[1])
