"""Access interfaces as they come and go: carrier, addresses, default routes, told by netlink at once."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from upmt_nf.linux import netlink
from upmt_nf.linux.off_loop import off_loop
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.names import MAX_NETWORKS, TABLE_VIRTUAL

log = logging.getLogger(__name__)

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE."""
_IFF_UP, _IFF_RUNNING, _IFF_LOWER_UP = 0x1, 0x40, 0x10000
_RUNNING = _IFF_UP | _IFF_RUNNING | _IFF_LOWER_UP
_LINK = struct.Struct("=4xiI4x")
"""struct ifinfomsg: index, flags."""
_NEW_LINK, _DELETE_LINK = 16, 17
_SIOCETHTOOL, _ETHTOOL_GLINK = 0x8946, 0x0A
_UNIVERSE = 0
_TEMPORARY, _DEPRECATED = 0x01, 0x20
_UNUSABLE = 0x40 | 0x08
"""IFA_F_TENTATIVE and IFA_F_DADFAILED of IPv6: nothing can be bound to it, and the kernel tells when it can."""
_WORSE = _DEPRECATED | _TEMPORARY
"""IPv6 addresses that will not be there for long come last; 0x01 is IFA_F_SECONDARY of IPv4, last as well."""
_TABLE_MAIN = 254
_BUFFER = 1 << 16


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """One interface. `is_running`: administratively up and with carrier; `addresses`: of global scope only."""

    interface: str
    index: int = 0
    """The kernel's number; 0: there is no such interface. One that was deleted and made again has another."""
    is_running: bool = False
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    gateways: tuple[IPAddress, ...] = ()
    """Next hops of the interface's own default routes, best metric first, at most one a family."""
    mtu: int = 0

    def address(self, version: int) -> IPAddress | None:
        """The first address of an IP version."""
        return next((each.ip for each in self.addresses if each.version == version), None)

    def gateway(self, version: int) -> IPAddress | None:
        """The default route's next hop of an IP version."""
        return next((each for each in self.gateways if each.version == version), None)


class LinkMonitor:
    """Watches some interfaces by name, also such that do not exist yet."""

    @off_loop
    def __init__(self, interfaces: list[str]) -> None:
        self._states: dict[str, InterfaceState | None] = dict.fromkeys(interfaces)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind((0, _GROUPS))
        self._socket.setblocking(False)
        self._questions = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._route = IPRoute()

    def fileno(self) -> int:
        """Readable when something changed somewhere."""
        return self._socket.fileno()

    def carriers_lost(self) -> list[InterfaceState]:
        """Take what the kernel has told; gives at once the watched interfaces that lost their carrier.

        Reading everything afresh takes milliseconds, in which applications would go on sending into nothing. `compare`
        is to follow: it has the last word.
        """
        lost: list[InterfaceState] = []
        while True:
            try:
                messages = self._socket.recv(_BUFFER)
            except BlockingIOError:
                break
            except OSError as reason:
                if reason.errno != errno.ENOBUFS:
                    raise
                continue
            if not messages:
                break
            lost += self._without_carrier(messages)
        return lost

    def carriers_gone(self) -> list[InterfaceState]:
        """Ask whether watched interfaces have lost their carrier; gives those that have, once. Takes microseconds.

        The kernel tells of a carrier at once only when it has not told of any for a second (net/core/link_watch.c).
        """
        gone: list[InterfaceState] = []
        for name, state in self._states.items():
            if state is not None and state.is_running and not self._has_carrier(name):
                self._states[name] = state = replace(state, is_running=False)
                gone.append(state)
        return gone

    def _has_carrier(self, name: str) -> bool:
        """As ETHTOOL_GLINK says; where it says nothing, what netlink told last stands."""
        answer = bytearray(struct.pack("=II", _ETHTOOL_GLINK, 1))
        place = (ctypes.c_char * len(answer)).from_buffer(answer)
        request = struct.pack("16sP16x", name.encode(), ctypes.addressof(place))
        try:
            fcntl.ioctl(self._questions, _SIOCETHTOOL, request)
        except OSError:
            return True
        return bool(struct.unpack("=II", answer)[1])

    def _without_carrier(self, messages: bytes) -> Iterator[InterfaceState]:
        for kind, body in netlink.messages(messages):
            if kind not in (_NEW_LINK, _DELETE_LINK) or len(body) < _LINK.size:
                continue
            index, flags = _LINK.unpack_from(body)
            is_running = kind == _NEW_LINK and flags & _RUNNING == _RUNNING
            for name, state in self._states.items():
                if state is not None and state.index == index and state.is_running and not is_running:
                    self._states[name] = state = replace(state, is_running=False)
                    yield state

    def read(self) -> list[InterfaceState]:
        """The watched interfaces that changed since the last call.

        What the messages say is not used, only that there are some: the state is read afresh, so a lost message
        (ENOBUFS) or one out of order does no harm.
        """
        lost = {state.interface: state for state in self.carriers_lost()}
        return list((lost | {state.interface: state for state in self.compare()}).values())

    @off_loop
    def compare(self) -> list[InterfaceState]:
        """Read all watched interfaces and give those that differ from the last time; the first time all of them."""
        changed = []
        for name, old in self._states.items():
            new = self._observe(name)
            if new != old:
                self._states[name] = new
                changed.append(new)
        return changed

    @off_loop
    def close(self) -> None:
        """Stop watching."""
        self._socket.close()
        self._questions.close()
        self._route.close()

    def _observe(self, name: str) -> InterfaceState:
        with contextlib.suppress(NetlinkError):
            found = list(self._route.link("get", ifname=name))
            if found:
                return self._state_of(name, found[0])
        return InterfaceState(name)

    def _state_of(self, name: str, link: Any) -> InterfaceState:
        index, flags = link["index"], link["flags"]
        messages = [
            message
            for message in self._route.get_addr(index=index)
            if message["scope"] == _UNIVERSE and not _flags_of(message) & _UNUSABLE
        ]
        addresses = tuple(
            ip_interface(
                f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"
            )
            for message in sorted(messages, key=lambda message: _flags_of(message) & _WORSE)
        )
        return InterfaceState(
            interface=name,
            index=index,
            is_running=flags & _RUNNING == _RUNNING,
            addresses=addresses,
            gateways=self._gateways(index),
            mtu=link.get_attr("IFLA_MTU") or 0,
        )

    def _gateways(self, index: int) -> tuple[IPAddress, ...]:
        best: dict[int, tuple[int, IPAddress]] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            for route in self._route.get_default_routes(family=family):
                table = route.get_attr("RTA_TABLE") or route["table"]
                gateway, output = route.get_attr("RTA_GATEWAY"), route.get_attr("RTA_OIF")
                if (
                    gateway is None
                    or output != index
                    or TABLE_VIRTUAL <= table <= TABLE_VIRTUAL + MAX_NETWORKS
                ):
                    continue
                address = ip_address(gateway)
                candidate = (route.get_attr("RTA_PRIORITY") or 0, address)
                if address.version not in best or candidate[0] < best[address.version][0]:
                    best[address.version] = candidate
        return tuple(address for _, address in best.values())


def _flags_of(message: Any) -> int:
    """Of an address: of struct ifaddrmsg, or all of them where the kernel tells more than eight."""
    flags: int = message.get_attr("IFA_FLAGS") or message["flags"]
    return flags


@off_loop
def interface_mtu(name: str) -> int | None:
    """The MTU of an interface in bytes; None when there is no such interface."""
    with IPRoute() as route:
        for index in route.link_lookup(ifname=name):
            mtu: int = route.link("get", index=index)[0].get_attr("IFLA_MTU")
            return mtu
    return None


@off_loop
def local_addresses() -> list[IPAddress]:
    """Every address of this network namespace, loopback included."""
    with IPRoute() as kernel:
        found = [
            address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS") for address in kernel.get_addr()
        ]
    return [ip_address(address) for address in found if address]


@off_loop
def interfaces_with_default_route() -> list[str]:
    """Interfaces that somebody else's default route leads to, the best metric first."""
    found: dict[str, None] = {}
    with IPRoute() as kernel:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in kernel.get_links()}
        routes = list(kernel.get_default_routes(family=socket.AF_INET, table=_TABLE_MAIN))
        for route in sorted(routes, key=lambda route: route.get_attr("RTA_PRIORITY") or 0):
            if (name := names.get(route.get_attr("RTA_OIF"))) is not None:
                found[name] = None
    return list(found)
