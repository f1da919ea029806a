"""`upmt0`, the interface that applications are routed to: a tun, or the nearest thing that the kernel has.

With a tun the agent reads what leaves by it and lets packets arrive by it. At a dummy's far side is nothing: there
netfilter hands what leaves by it to the agent, and what the agent lets go on ends there. Probes, chooses, says why.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from pyroute2 import NDB, IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from upmt_nf.linux import sysctl
from upmt_nf.linux.journal import InterfaceMade, Journal
from upmt_nf.linux.off_loop import off_loop
from upmt_nf.model.errors import FacilityError, KernelError
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.names import VIRTUAL_INTERFACE

log = logging.getLogger(__name__)

KINDS = ("tun", "dummy", "ifb")
"""In order of preference. Packets come out of a tun whole and with what the kernel left to do on them, up to 64 kB at
once. An ifb drops what it is given, like a dummy."""

_QUEUE_LENGTH = 4096
"""Packets that wait for the agent while it does something else."""
_LARGEST_FOR_AGENT, _LARGEST = 59000, 65536
"""Packets of the local TCP. For the agent so large that their segments with their outer headers still fit one call of
its; else the kernel's default, which leaves room for the outer headers of one packet."""


def interface_kinds(wanted: str) -> tuple[str, ...]:
    """What to try, in order, for `virtual_interface = wanted`."""
    return KINDS if wanted == "auto" else (wanted,)


def likely_kind(wanted: str) -> str:
    """What the interface is made of, or would be if it were made now."""
    with IPRoute() as route:
        for index in route.link_lookup(ifname=VIRTUAL_INTERFACE):
            info = route.link("get", index=index)[0].get_attr("IFLA_LINKINFO")
            return str(info.get_attr("IFLA_INFO_KIND")) if info else ""
    if wanted == "auto":
        return "tun" if Path("/dev/net/tun").exists() else "dummy"
    return wanted


def add_interface(route: IPRoute, name: str, kind: str) -> None:
    """Make an interface of one of KINDS. Raises NetlinkError or OSError when the kernel has no such."""
    log.debug("ip link add %s type %s", name, kind)
    # A tun is made by its device, which the library does under another name.
    options: dict[str, Any] = {"kind": "tuntap", "mode": "tun"} if kind == "tun" else {"kind": kind}
    route.link("add", ifname=name, **options)


class VirtualInterface:
    """`upmt0`. `kind` is what it is made of, `why` the reason for the choice."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.name = VIRTUAL_INTERFACE
        self.kind = ""
        self.why = ""

    @off_loop
    def make(self, mtu: int, kinds: tuple[str, ...] = KINDS) -> None:
        """Create it and bring it up; one that is there already is adopted unless the kernel has a better kind.

        Raises FacilityError when the kernel has none of `kinds`.
        """
        self._journal.note(InterfaceMade(self.name))
        with IPRoute() as route:
            if not self._adopt(route, kinds):
                self._create(route, kinds)
            if self.kind == "tun" and (index := self._index(route)) is not None:
                log.debug("ip link set %s txqueuelen %d", self.name, _QUEUE_LENGTH)
                route.link("set", index=index, txqlen=_QUEUE_LENGTH)
        # No link-local address of its own: nobody is at the other side. The parameter goes with the interface.
        with contextlib.suppress(KernelError):
            sysctl.restore(f"net/ipv6/conf/{self.name}/addr_gen_mode", "1")
        # NDB makes MTU and state one transaction that is rolled back as a whole when the kernel refuses a part.
        with NDB(log="off") as ndb, ndb.interfaces[self.name] as interface:
            interface.set("mtu", mtu).set("state", "up")
        log.info("virtual interface %s is a %s: %s", self.name, self.kind, self.why)

    @off_loop
    def set_addresses(self, addresses: tuple[IPAddress, ...]) -> None:
        """Let it have exactly these addresses, each alone in its network. Additions before removals."""
        with IPRoute() as route:
            index = self._index(route)
            if index is None:
                return
            wanted = {str(address): address for address in addresses}
            present = {
                (message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")): message["prefixlen"]
                for message in route.get_addr(index=index)
                if message["scope"] == 0
            }
            for text, address in wanted.items():
                if text not in present:
                    log.debug("ip address add %s dev %s", text, self.name)
                    route.addr("add", index=index, address=text, prefixlen=address.max_prefixlen)
            for text, length in present.items():
                if text not in wanted:
                    log.debug("ip address del %s dev %s", text, self.name)
                    with contextlib.suppress(NetlinkError):
                        route.addr("del", index=index, address=text, prefixlen=length)

    @off_loop
    def set_mtu(self, mtu: int) -> None:
        """The largest packet that applications may send through it."""
        with IPRoute() as route:
            index = self._index(route)
            if index is not None:
                log.debug("ip link set %s mtu %d", self.name, mtu)
                route.link("set", index=index, mtu=mtu)

    @off_loop
    def limit_packets(self, *, for_agent: bool) -> None:
        """Let the local TCP make packets that the agent can send on at once, or whatever it likes.

        A kernel that cannot is well, too.
        """
        size = _LARGEST_FOR_AGENT if for_agent else _LARGEST
        with IPRoute() as route:
            if (index := self._index(route)) is not None:
                log.debug("ip link set %s gso_max_size %d", self.name, size)
                with contextlib.suppress(NetlinkError):
                    route.link("set", index=index, IFLA_GSO_MAX_SIZE=size)

    def _adopt(self, route: IPRoute, kinds: tuple[str, ...]) -> bool:
        found = self._index(route)
        if found is None:
            return False
        info = route.link("get", index=found)[0].get_attr("IFLA_LINKINFO")
        self.kind = info.get_attr("IFLA_INFO_KIND") if info else "interface of unknown kind"
        self.why = "it was there already"
        better = kinds[: kinds.index(self.kind)] if self.kind in kinds else kinds
        if not any(self._can_make(route, kind) for kind in better):
            return True
        log.debug("ip link del %s: it is a %s", self.name, self.kind)
        route.link("del", index=found)
        return False

    def _can_make(self, route: IPRoute, kind: str) -> bool:
        trial = f"{self.name}-trial"
        self._journal.note(InterfaceMade(trial))
        try:
            add_interface(route, trial, kind)
        except (NetlinkError, OSError):
            return False
        for index in route.link_lookup(ifname=trial):
            route.link("del", index=index)
        return True

    def _create(self, route: IPRoute, kinds: tuple[str, ...]) -> None:
        missing: list[str] = []
        for kind in kinds:
            try:
                add_interface(route, self.name, kind)
            except (NetlinkError, OSError) as reason:
                missing.append(f"{kind}: {getattr(reason, 'args', reason)}")
                continue
            self.kind = kind
            self.why = (
                "the kernel has it" if not missing else f"the kernel lacks {', '.join(kinds[: len(missing)])}"
            )
            return
        raise FacilityError(f"no virtual interface can be made ({'; '.join(missing)})")

    def _index(self, route: IPRoute) -> int | None:
        found = list(route.link_lookup(ifname=self.name))
        return found[0] if found else None


@off_loop
def remove_interface(name: str) -> bool:
    """Remove an interface; False when it is not there."""
    with IPRoute() as route:
        for index in route.link_lookup(ifname=name):
            with contextlib.suppress(NetlinkError):
                log.debug("ip link del %s", name)
                route.link("del", index=index)
                return True
    return False
