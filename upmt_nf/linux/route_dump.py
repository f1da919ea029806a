"""Our routes as the kernel has them, and only ours: a full routing table of others costs next to nothing.

Own small binding: the kernel is asked for the routes of our protocol number only (NETLINK_GET_STRICT_CHK, Linux 4.20).
An older one tells all, of which the rest is skipped undecoded (linux/rtnetlink.h).
"""

from __future__ import annotations

import contextlib
import socket
import struct
from ipaddress import ip_address, ip_network

from upmt_nf.linux.netlink import asked, attributes
from upmt_nf.model.errors import KernelError
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.names import ROUTE_PROTOCOL
from upmt_nf.routing.plan import Kind, RouteSpec

_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12
_ROUTE = struct.Struct("=BBBBBBBBI")
"""Family, lengths of destination and source, TOS, table, protocol, scope, type, flags."""
_NUMBER = struct.Struct("=I")
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _TABLE = 1, 4, 5, 6, 7, 15
_ENCAP = 22
_LWT_BPF_OUT, _PROGRAM_NAME = 2, 2
_KIND_BITS = 0x3FFF
UNICAST = 1
SCOPE_LINK = 253
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
IPV6_METRIC = 1024
"""What the kernel makes of an IPv6 route's metric 0 (IP6_RT_PRIO_USER)."""


def our_routes(version: int, interfaces: dict[int, str]) -> list[RouteSpec]:
    """Ours of one address family. `interfaces`: names by index. Raises KernelError."""
    wanted = _ROUTE.pack(FAMILIES[version], 0, 0, 0, 0, ROUTE_PROTOCOL, 0, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as kernel:
            with contextlib.suppress(OSError):
                kernel.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
            kernel.settimeout(10.0)
            return [
                _route_of(body, version, interfaces)
                for kind, body in asked(kernel, _RTM_GETROUTE, wanted, is_dump=True)
                if kind == _RTM_NEWROUTE and body[5] == ROUTE_PROTOCOL
            ]
    except OSError as reason:
        raise KernelError(f"the routes of IPv{version} cannot be read: {reason}") from reason


def _route_of(body: bytes, version: int, interfaces: dict[int, str]) -> RouteSpec:
    _, length, _, _, table, _, scope, kind_number, _ = _ROUTE.unpack_from(body)
    found = dict(attributes(body[_ROUTE.size :]))
    kind = Kind.UNICAST if kind_number == UNICAST else Kind.UNREACHABLE
    gateway = _address(found.get(_GATEWAY))
    metric = _number(found.get(_PRIORITY))
    everywhere = bytes(4 if version == 4 else 16)
    return RouteSpec(
        destination=ip_network((found.get(_DST, everywhere), length)),
        table=_number(found.get(_TABLE)) or table,
        kind=kind,
        interface=interfaces.get(_number(found.get(_OIF))) if kind is Kind.UNICAST else None,
        gateway=gateway,
        source=_address(found.get(_PREFSRC)),
        metric=0 if version == 6 and metric == IPV6_METRIC else metric,
        is_link_scope=kind is Kind.UNICAST and (scope == SCOPE_LINK if version == 4 else gateway is None),
        program=_program_in(found.get(_ENCAP, b"")),
    )


def _program_in(encapsulation: bytes) -> str:
    """The name of the program that sees what leaves by a route (linux/lwtunnel.h); nothing when there is none."""
    for kind, value in attributes(encapsulation):
        if kind & _KIND_BITS == _LWT_BPF_OUT:
            return dict(attributes(value)).get(_PROGRAM_NAME, b"").rstrip(b"\0").decode(errors="replace")
    return ""


def _address(value: bytes | None) -> IPAddress | None:
    return ip_address(value) if value is not None else None


def _number(value: bytes | None) -> int:
    return int(_NUMBER.unpack(value)[0]) if value is not None else 0
