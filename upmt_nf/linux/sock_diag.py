"""Flow -> local socket, asked of the kernel by sock_diag: its inode and owner (linux/inet_diag.h).

Own small binding: one request and one answer of fixed layout, a tenth of the time of a general library, and it is on
the way of every first packet.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass, field, replace

from upmt_nf.linux.netlink import asked
from upmt_nf.model.flow import ICMP, ICMPV6, TCP, UDP, FlowKey

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=BBBBI")
_SOCKET_ID = struct.Struct("!HH16s16s")
_SOCKET_ID_TAIL = struct.Struct("=III")
_MESSAGE_TAIL = struct.Struct("=IIIII")
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class SocketFacts:
    """A local socket: its inode (0 when it has none any more), its owner and its cookie (0: not known).

    `is_certain` is False when other sockets could have sent the packet as well.
    """

    inode: int
    uid: int
    cookie: int = field(default=0, compare=False)
    is_certain: bool = field(default=True, compare=False)


class SockDiag:
    """One netlink socket in the network namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG)
        self._socket.settimeout(0.5)
        self._sequence = 0

    def find(self, flow: FlowKey) -> SocketFacts | None:
        """The local socket of an outbound flow, or None. Connected sockets first, then by local port."""
        if flow.protocol in (TCP, UDP):
            return self._exact(flow) or self._by_port(flow)
        return self._newest(flow)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _exact(self, flow: FlowKey) -> SocketFacts | None:
        """One question for one socket. UDP is looked up as for a packet that arrives, so the ends are exchanged."""
        source, destination = _padded(flow.source.packed), _padded(flow.destination.packed)
        if flow.protocol == UDP:
            ports = (flow.destination_port, flow.source_port, destination, source)
        else:
            ports = (flow.source_port, flow.destination_port, source, destination)
        identity = _SOCKET_ID.pack(*ports) + _SOCKET_ID_TAIL.pack(0, _NO_COOKIE, _NO_COOKIE)
        for answer in self._ask(flow, flow.protocol, identity, is_dump=False):
            return answer[1]
        return None

    def _by_port(self, flow: FlowKey) -> SocketFacts | None:
        """Unconnected sockets: the one bound to this local port, preferring one bound to the address."""
        # The kernel tells of the sockets of this port only: of a thousand others each would cost time.
        identity = _SOCKET_ID.pack(flow.source_port, 0, bytes(16), bytes(16)) + _SOCKET_ID_TAIL.pack(
            0, _NO_COOKIE, _NO_COOKIE
        )
        own = _padded(flow.source.packed)
        found = [
            (address, facts)
            for (port, address), facts in self._ask(flow, flow.protocol, identity, is_dump=True)
            if port == flow.source_port and address in (bytes(16), own)
        ]
        # `max` gives the first of equals.
        return max(found, key=lambda each: each[0] == own)[1] if found else None

    @staticmethod
    def _newest(flow: FlowKey) -> SocketFacts | None:
        """Protocols without ports: the newest socket that could have sent it, as a new flow has a new socket.

        One of the very protocol before those that may write any header. Read from /proc, because few kernels are
        built with the diag module for raw sockets.
        """
        suffix = "" if flow.source.version == 4 else "6"
        if flow.protocol in (ICMP, ICMPV6):
            # Ping sockets have the identifier as their port.
            for identifier, uid, inode in _listed(f"/proc/net/icmp{suffix}"):
                if identifier == flow.source_port:
                    return SocketFacts(inode, uid)
        raw = _listed(f"/proc/net/raw{suffix}")
        for protocol in (flow.protocol, socket.IPPROTO_RAW):
            found = [SocketFacts(inode, uid) for number, uid, inode in raw if number == protocol]
            if found:
                newest = max(found, key=lambda facts: facts.inode)
                return newest if len(found) == 1 else replace(newest, is_certain=False)
        return None

    def _ask(
        self, flow: FlowKey, protocol: int, identity: bytes, *, is_dump: bool
    ) -> list[tuple[tuple[int, bytes], SocketFacts]]:
        """Local port and address of each socket that the kernel tells of, and the socket."""
        family = socket.AF_INET if flow.source.version == 4 else socket.AF_INET6
        self._sequence += 1
        body = _REQUEST.pack(family, protocol, 0, 0, _ALL_STATES) + identity
        found: list[tuple[tuple[int, bytes], SocketFacts]] = []
        with contextlib.suppress(OSError):
            for kind, told in asked(
                self._socket, _SOCK_DIAG_BY_FAMILY, body, is_dump=is_dump, sequence=self._sequence
            ):
                if kind == _SOCK_DIAG_BY_FAMILY:
                    # inet_diag_msg: family, state, timer, retransmissions (4), socket id (48), then five words.
                    port, _, source, _ = _SOCKET_ID.unpack_from(told, 4)
                    _, low, high = _SOCKET_ID_TAIL.unpack_from(told, 40)
                    _, _, _, uid, inode = _MESSAGE_TAIL.unpack_from(told, 52)
                    found.append(((port, source), SocketFacts(inode, uid, high << 32 | low)))
        return found


def _listed(path: str) -> list[tuple[int, int, int]]:
    """Local port (of raw sockets the protocol), uid and inode of each line of /proc/net/raw and its like."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            lines = [line.split() for line in file.readlines()[1:]]
        return [(int(line[1].rpartition(":")[2], 16), int(line[7]), int(line[9])) for line in lines]
    except (OSError, IndexError, ValueError):
        return []


def _padded(address: bytes) -> bytes:
    return address + bytes(16 - len(address))
