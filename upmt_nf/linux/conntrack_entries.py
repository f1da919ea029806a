"""Single entries of the connection table, taken out or changed by their tuple, never more than that (ctnetlink)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from upmt_nf.linux.netlink import REQUEST, attribute, message
from upmt_nf.model.flow import FlowBytes, FlowKey

_NETLINK_NETFILTER = 12
_CHANGE, _DELETE = 1 << 8, 1 << 8 | 2
"""NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_NEW, which without NLM_F_CREATE changes what is there, or
IPCTNL_MSG_CT_DELETE (linux/netfilter/nfnetlink_conntrack.h)."""
_NESTED = 1 << 15
_TUPLE_ORIG, _TUPLE_IP, _TUPLE_PROTO = 1, 1, 2
_PROTOCOL_INFO, _OF_TCP, _FLAGS_ORIGINAL, _FLAGS_REPLY = 4, 1, 4, 5
_BE_LIBERAL = 8
"""IP_CT_TCP_FLAG_BE_LIBERAL (linux/netfilter/nf_conntrack_tcp.h)."""
_PROTO_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_AT_ONCE = 64


class Conntrack:
    """One netlink socket in the network namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.setblocking(False)

    def forget(self, keys: Iterable[FlowBytes]) -> None:
        """Take out the entries that these flows began. Those that are not there are not missed."""
        self._send([delete_message(FlowKey.unpacked(key)) for key in keys])

    def be_liberal(self, keys: Iterable[FlowBytes]) -> None:
        """Judge the segments of these TCP flows by their windows no more (`nf_conntrack_tcp_be_liberal`, for a few).

        Those that are not there are not missed.
        """
        self._send([liberal_message(FlowKey.unpacked(key)) for key in keys])

    def _send(self, messages: list[bytes]) -> None:
        for start in range(0, len(messages), _AT_ONCE):
            try:
                self._socket.send(b"".join(messages[start : start + _AT_ONCE]))
                while self._socket.recv(1 << 16):
                    # The kernel's errors: there was no such entry.
                    pass
            except OSError:
                continue

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def delete_message(flow: FlowKey) -> bytes:
    """The netlink message that takes out the entry of a TCP or UDP flow, seen from who began it."""
    return _message(_DELETE, flow)


def liberal_message(flow: FlowKey) -> bytes:
    """The netlink message that makes the kernel liberal with a TCP flow, seen from either end."""
    flags = bytes((_BE_LIBERAL, _BE_LIBERAL))  # struct nf_ct_tcp_flags: these, of these
    inside = attribute(_FLAGS_ORIGINAL, flags) + attribute(_FLAGS_REPLY, flags)
    of_tcp = attribute(_OF_TCP | _NESTED, inside)
    return _message(_CHANGE, flow, attribute(_PROTOCOL_INFO | _NESTED, of_tcp))


def _message(kind: int, flow: FlowKey, more: bytes = b"") -> bytes:
    first, second = (1, 2) if flow.source.version == 4 else (3, 4)
    addresses = attribute(first, flow.source.packed) + attribute(second, flow.destination.packed)
    protocol = (
        attribute(_PROTO_NUMBER, bytes((flow.protocol,)))
        + attribute(_SOURCE_PORT, flow.source_port.to_bytes(2, "big"))
        + attribute(_DESTINATION_PORT, flow.destination_port.to_bytes(2, "big"))
    )
    inside = attribute(_TUPLE_IP | _NESTED, addresses) + attribute(_TUPLE_PROTO | _NESTED, protocol)
    family = socket.AF_INET if flow.source.version == 4 else socket.AF_INET6
    body = struct.pack("!BBH", family, 0, 0) + attribute(_TUPLE_ORIG | _NESTED, inside) + more
    return message(kind, REQUEST, body, sequence=0)
