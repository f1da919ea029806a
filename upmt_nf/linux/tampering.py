"""Signs that somebody changed rules: netlink tells of routes and policy rules, iptables' tables are asked in passing.

Only signs: what they mean shows when what is there is compared with what is wanted.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from upmt_nf.linux.netfilter import loaded_tables
from upmt_nf.model.names import ROUTE_PROTOCOL

_GROUPS = 0x40 | 0x80 | 0x400 | 0x40000
"""RTMGRP_IPV4_ROUTE, IPV4_RULE, IPV6_ROUTE and RTNLGRP_IPV6_RULE as a bit."""
_HEADER, _PROTOCOL = 16, 21
"""Bytes of struct nlmsghdr, and where rtm_protocol stands behind it."""
_ROUTE_MESSAGES, _RULE_MESSAGES = (24, 25), (32, 33)
"""RTM_NEWROUTE, RTM_DELROUTE; RTM_NEWRULE, RTM_DELRULE."""
_GET_INFO = 64
"""IPT_SO_GET_INFO, and IP6T_SO_GET_INFO alike."""
_INFO_BYTES = 84
"""struct ipt_getinfo: name[32], valid_hooks, hook_entry[5], underflow[5], num_entries, size."""
_LEVELS = {4: (socket.AF_INET, socket.IPPROTO_IP), 6: (socket.AF_INET6, socket.IPPROTO_IPV6)}

Shape = tuple[tuple[int, str, bytes], ...]


class RoutingMonitor:
    """Readable when a route or a policy rule was changed, by us or by others."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, _GROUPS))
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Read what was said; whether any of it may be about ours. A lost message (ENOBUFS) may."""
        is_sign = False
        while True:
            try:
                is_sign |= concerns_us(self._socket.recv(1 << 16))
            except BlockingIOError:
                return is_sign
            except OSError as reason:
                if reason.errno != errno.ENOBUFS:
                    raise
                is_sign = True

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def concerns_us(messages: bytes) -> bool:
    """Whether rtnetlink messages tell of a policy rule, or of a route with our protocol number.

    A router's table of a million foreign routes may change all the time: that is not looked at.
    """
    at = 0
    while at + _HEADER <= len(messages):
        size, kind = struct.unpack_from("=IH", messages, at)
        if kind in _RULE_MESSAGES:
            return True
        if kind in _ROUTE_MESSAGES and messages[at + _PROTOCOL : at + _PROTOCOL + 1] == bytes(
            (ROUTE_PROTOCOL,)
        ):
            return True
        if size < _HEADER:
            return False
        at += (size + 3) & ~3
    return False


def shape_of_tables(version: int) -> Shape:
    """Number of rules and bytes of each loaded table, in microseconds. A change that keeps both goes unseen here.

    Others are not asked: that would load them.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    family, level = _LEVELS[version]
    found: list[tuple[int, str, bytes]] = []
    try:
        asking = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except OSError:
        return ()
    with asking:
        for table in loaded_tables(version):
            buffer = ctypes.create_string_buffer(struct.pack("32s52x", table.encode()), _INFO_BYTES)
            size = ctypes.c_uint(_INFO_BYTES)
            if libc.getsockopt(asking.fileno(), level, _GET_INFO, buffer, ctypes.byref(size)) == 0:
                found.append((version, table, buffer.raw[32:]))
    return tuple(found)
