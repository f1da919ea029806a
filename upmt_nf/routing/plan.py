"""What a mobile host or an anchor wants of policy routing: one immutable value each (names: `model/names.py`).

prio 4600  fwmark 0x1000+N  -> table 7000+N   outer packets, by their own network
prio 4620  fwmark 0x1fff    -> main           left alone
prio 4640  to ANCHOR        -> main           no loops
prio 4660  from CARE-OF     -> table 7000+N   bound to a care-of address: by that network
prio 4680  main, suppress_prefixlength 0      the local LAN
prio 4700  everything else  -> table 7000     the virtual interface, source = virtual address
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network

from upmt_nf.model.flow import IPAddress
from upmt_nf.model.names import (
    MARK_MASK,
    MARK_NATIVE,
    PRIORITY_ANCHOR,
    PRIORITY_CARE_OF,
    PRIORITY_LOCAL,
    PRIORITY_NATIVE,
    PRIORITY_OUTER,
    PRIORITY_VIRTUAL,
    ROUTE_PROTOCOL,
    TABLE_VIRTUAL,
    VIRTUAL_INTERFACE,
    network_table,
    outer_mark,
)

IPNetwork = IPv4Network | IPv6Network
IPInterface = IPv4Interface | IPv6Interface

TABLE_MAIN = 254
_LAST_RESORT = 65535
"""Metric of the route that stops what has no other way."""


class Kind(Enum):
    """What a route does with a packet."""

    UNICAST = "unicast"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One route of ours."""

    destination: IPNetwork
    table: int
    kind: Kind = Kind.UNICAST
    interface: str | None = None
    gateway: IPAddress | None = None
    source: IPAddress | None = None
    metric: int = 0
    is_link_scope: bool = False

    def __str__(self) -> str:
        """As `ip route add` takes it."""
        words = ["default" if self.destination.prefixlen == 0 else str(self.destination)]
        if self.kind is not Kind.UNICAST:
            words.insert(0, self.kind.value)
        if self.gateway is not None:
            words += ["via", str(self.gateway)]
        if self.interface is not None:
            words += ["dev", self.interface]
        if self.is_link_scope:
            words += ["scope", "link"]
        if self.source is not None:
            words += ["src", str(self.source)]
        if self.metric:
            words += ["metric", str(self.metric)]
        return " ".join(
            [
                *(["-6"] if self.destination.version == 6 else []),
                *words,
                "table",
                str(self.table),
                "proto",
                str(ROUTE_PROTOCOL),
            ]
        )


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """One policy rule of ours."""

    priority: int
    version: int
    table: int = TABLE_MAIN
    mark: int | None = None
    source: IPNetwork | None = None
    destination: IPNetwork | None = None
    suppress_prefixlength: int | None = None

    def __str__(self) -> str:
        """As `ip rule add` takes it."""
        words = ["-6"] if self.version == 6 else []
        words += ["pref", str(self.priority)]
        words += ["from", str(self.source) if self.source is not None else "all"]
        if self.destination is not None:
            words += ["to", str(self.destination)]
        if self.mark is not None:
            words += ["fwmark", f"{self.mark:#x}/{MARK_MASK:#x}"]
        words += ["lookup", "main" if self.table == TABLE_MAIN else str(self.table)]
        if self.suppress_prefixlength is not None:
            words += ["suppress_prefixlength", str(self.suppress_prefixlength)]
        return " ".join([*words, "protocol", str(ROUTE_PROTOCOL)])


@dataclass(frozen=True, slots=True)
class Routing:
    """All that one role wants of policy routing."""

    routes: tuple[RouteSpec, ...] = ()
    rules: tuple[RuleSpec, ...] = ()

    def __str__(self) -> str:
        """One `ip` command a line."""
        return "\n".join(
            [
                *(f"ip route add {route}" for route in self.routes),
                *(f"ip rule add {rule}" for rule in self.rules),
            ]
        )


@dataclass(frozen=True, slots=True)
class NetworkRouting:
    """What routing must know of one access network that is there. `index` from 1 as configured."""

    index: int
    interface: str
    address: IPInterface
    gateway: IPAddress | None


def host_routing(
    virtual_address: IPAddress | None, networks: Iterable[NetworkRouting], anchor: IPAddress
) -> Routing:
    """What a mobile host wants. Without a virtual address nothing is sent to the virtual interface."""
    version = anchor.version
    everywhere = ip_network("0.0.0.0/0" if version == 4 else "::/0")
    routes: list[RouteSpec] = []
    rules: list[RuleSpec] = []
    for network in networks:
        table = network_table(network.index)
        own = network.address.ip
        routes.append(
            RouteSpec(
                network.address.network, table, interface=network.interface, source=own, is_link_scope=True
            )
        )
        routes.append(
            RouteSpec(
                everywhere,
                table,
                interface=network.interface,
                gateway=network.gateway,
                source=own,
                is_link_scope=network.gateway is None,
            )
        )
        routes.append(RouteSpec(everywhere, table, Kind.UNREACHABLE, metric=_LAST_RESORT))
        rules.append(RuleSpec(PRIORITY_OUTER, version, table, mark=outer_mark(network.index)))
        rules.append(RuleSpec(PRIORITY_CARE_OF, version, table, source=ip_network(own)))
    rules.append(RuleSpec(PRIORITY_NATIVE, version, mark=MARK_NATIVE))
    rules.append(RuleSpec(PRIORITY_ANCHOR, version, destination=ip_network(anchor)))
    if virtual_address is not None:
        routes.append(
            RouteSpec(
                everywhere,
                TABLE_VIRTUAL,
                interface=VIRTUAL_INTERFACE,
                source=virtual_address,
                is_link_scope=True,
            )
        )
        rules.append(RuleSpec(PRIORITY_LOCAL, version, suppress_prefixlength=0))
        rules.append(RuleSpec(PRIORITY_VIRTUAL, version, TABLE_VIRTUAL))
    return Routing(tuple(routes), tuple(sorted(rules, key=lambda rule: (rule.priority, rule.table))))


def anchor_routing(pool: Iterable[IPNetwork]) -> Routing:
    """What an anchor wants: its pool leads to the virtual interface."""
    return Routing(
        routes=tuple(
            RouteSpec(network, TABLE_MAIN, interface=VIRTUAL_INTERFACE, is_link_scope=True)
            for network in pool
        )
    )
