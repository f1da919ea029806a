"""What a mobile host or an anchor wants of policy routing: one immutable value each (names: `model/names.py`).

prio 4600  fwmark 0x1000+N  -> table 7000+N   outer packets, by their own network
prio 4620  fwmark 0x1fff    -> 4710           left alone; main where nothing is steered
prio 4640  to ANCHOR        -> main           no loops; a rule for each anchor that tunnels go to
prio 4644  fwmark GUARDED, main, suppress_prefixlength 0
prio 4648  fwmark GUARDED   -> table 7000     a kill switch: by the tunnels or not at all
prio 4660  from CARE-OF     -> table 7000+N   bound to a care-of address: by that network
prio 4670  to multicast     -> 4710           stays on the link
prio 4680  main, suppress_prefixlength 0      the local LAN, bridges of containers and virtual machines
prio 4682  uid, destination -> 4710 or 7000   what is known of applications when a source address is chosen
prio 4700  everything else  -> table 7000     the virtual interface, source = virtual address; else unreachable
prio 4710  nop                                left alone goes on here

The other address family, which the tunnels do not carry, gets the same rules: there table 7000 is unreachable only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network

from upmt_nf.model.errors import UsageError
from upmt_nf.model.flow import PROTOCOL_NAMES, TCP, UDP, IPAddress
from upmt_nf.model.names import (
    MARK_MASK,
    MARK_NATIVE,
    MARK_TUNNELLED,
    MAX_STEPS,
    PRIORITY_ANCHOR,
    PRIORITY_BEYOND,
    PRIORITY_CARE_OF,
    PRIORITY_GUARDED,
    PRIORITY_GUARDED_LOCAL,
    PRIORITY_LOCAL,
    PRIORITY_MARKED_SOCKETS,
    PRIORITY_MULTICAST,
    PRIORITY_NATIVE,
    PRIORITY_OUTER,
    PRIORITY_STEPS,
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
    program: str = ""
    """The name of an eBPF program that sees each packet which leaves by it (lwtunnel)."""

    def __str__(self) -> str:
        """As `ip route add` takes it."""
        words = ["default" if self.destination.prefixlen == 0 else str(self.destination)]
        if self.kind is not Kind.UNICAST:
            words.insert(0, self.kind.value)
        if self.program:
            words += ["encap", "bpf", "out", self.program]
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
    uid: int | None = None
    protocol: int | None = None
    port: int | None = None
    """Of the destination."""
    is_local: bool = False
    """Only what this host sends itself (`iif lo`), nothing that it forwards for containers or virtual machines."""
    goto: int | None = None
    """In place of a table: go on with the rule of this priority."""
    is_nop: bool = False
    """Does nothing: somewhere for others to go to."""

    def __str__(self) -> str:
        """As `ip rule add` takes it."""
        words = ["-6"] if self.version == 6 else []
        words += ["pref", str(self.priority)]
        words += ["from", str(self.source) if self.source is not None else "all"]
        if self.destination is not None:
            words += ["to", str(self.destination)]
        if self.mark is not None:
            words += ["fwmark", f"{self.mark:#x}/{MARK_MASK:#x}"]
        if self.is_local:
            words += ["iif", "lo"]
        if self.uid is not None:
            words += ["uidrange", f"{self.uid}-{self.uid}"]
        if self.protocol is not None:
            words += ["ipproto", PROTOCOL_NAMES.get(self.protocol, str(self.protocol))]
        if self.port is not None:
            words += ["dport", str(self.port)]
        if self.is_nop:
            words += ["nop"]
        elif self.goto is not None:
            words += ["goto", str(self.goto)]
        else:
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
    ipv6: IPInterface | None = None
    """Its IPv6 address, by which the anchor may be asked as well."""
    ipv6_gateway: IPAddress | None = None

    @property
    def ways(self) -> tuple[tuple[IPInterface, IPAddress | None], ...]:
        """Address and gateway of each IP version; the care-of address first."""
        first = self.address, self.gateway
        if self.ipv6 is None or self.ipv6 == self.address:
            return (first,)
        return first, (self.ipv6, self.ipv6_gateway)

    def next_hop(self, destination: IPAddress) -> IPAddress:
        """Who is asked first to carry a packet to `destination`, by the table that `host_routing` makes of this."""
        if self.gateway is None or destination in self.address.network:
            return destination
        return self.gateway


@dataclass(frozen=True, slots=True)
class Step:
    """What is known of an application before it has sent anything: its user, where it wants to; None is no condition.

    With `is_guarded` it holds also while there is no virtual address.
    """

    is_native: bool
    uid: int | None = None
    destination: IPNetwork | None = None
    port: int | None = None
    is_guarded: bool = False


@dataclass(frozen=True, slots=True)
class Steering:
    """What goes by the tunnels and what does not. Marks are those of applications; the order of `steps` counts."""

    is_default_native: bool = False
    guarded_marks: tuple[int, ...] = ()
    """Applications that leave by the tunnels or not at all, with or without a virtual address."""
    tunnelled_marks: tuple[int, ...] = ()
    """Where the rest is native: what is not."""
    steps: tuple[Step, ...] = ()
    is_rest_guarded: bool = False
    """What no application claims is guarded as well."""
    marks_sockets: bool = False
    """Sockets may carry MARK_TUNNELLED from their creation."""

    @property
    def guards(self) -> bool:
        """Whether anything is held without a virtual address."""
        return bool(self.guarded_marks) or self.is_rest_guarded or any(step.is_guarded for step in self.steps)


TUNNEL_ALL = Steering()
"""The paper's way: everything by the tunnels."""
_MULTICAST = {
    4: (ip_network("224.0.0.0/4"), ip_network("255.255.255.255/32")),
    6: (ip_network("ff00::/8"),),
}
_EVERYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


def host_routing(
    virtual_address: IPAddress | None,
    networks: Iterable[NetworkRouting],
    anchor: IPAddress,
    steering: Steering = TUNNEL_ALL,
    *,
    further: Iterable[IPAddress] = (),
    has_other_family: bool = False,
    program: str = "",
) -> Routing:
    """What a mobile host wants. Without a virtual address nothing is sent to the virtual interface.

    `program`: what looks at the packets that are sent there (`RouteSpec.program`). `further`: addresses of the anchor
    in the other family, for access networks that have only that, and of other anchors that tunnels go to.

    `has_other_family`: the kernel has the family that the tunnels do not carry, too. What would go by the tunnels is
    unreachable in it, so that programs take the one that works, and nothing goes past the tunnels. Raises UsageError
    when the steps need more rules than there is room for.
    """
    version = anchor.version
    everywhere = _EVERYWHERE[version]
    routes: list[RouteSpec] = []
    rules: list[RuleSpec] = []
    for network in networks:
        table, mark = network_table(network.index), outer_mark(network.index)
        for address, gateway in network.ways:
            own, family = address.ip, address.version
            routes += [
                RouteSpec(
                    address.network, table, interface=network.interface, source=own, is_link_scope=True
                ),
                RouteSpec(
                    _EVERYWHERE[family],
                    table,
                    interface=network.interface,
                    gateway=gateway,
                    source=own,
                    is_link_scope=gateway is None,
                ),
                RouteSpec(_EVERYWHERE[family], table, Kind.UNREACHABLE, metric=_LAST_RESORT),
            ]
            rules.append(RuleSpec(PRIORITY_OUTER, family, table, mark=mark))
        care_of = network.address.ip
        rules.append(RuleSpec(PRIORITY_CARE_OF, care_of.version, table, source=ip_network(care_of)))
    is_steering = virtual_address is not None or bool(steering.guards)
    rules.append(_native_rule(version, is_steering=is_steering))
    rules += [
        RuleSpec(PRIORITY_ANCHOR, address.version, destination=ip_network(address))
        for address in (anchor, *further)
    ]
    if virtual_address is not None:
        routes.append(
            RouteSpec(
                everywhere,
                TABLE_VIRTUAL,
                interface=VIRTUAL_INTERFACE,
                source=virtual_address,
                is_link_scope=True,
                program=program,
            )
        )
    if is_steering:
        for family in (4, 6) if has_other_family else (version,):
            # Whatever becomes of the interface and of the daemon: what was led here never goes on to main.
            routes.append(
                RouteSpec(_EVERYWHERE[family], TABLE_VIRTUAL, Kind.UNREACHABLE, metric=_LAST_RESORT)
            )
            rules += _steering_rules(family, steering, virtual_address is not None)
            if family != version:
                rules.append(_native_rule(family, is_steering=True))
    return Routing(
        tuple(routes), tuple(sorted(rules, key=lambda rule: (rule.version, rule.priority, rule.table)))
    )


def _native_rule(version: int, *, is_steering: bool) -> RuleSpec:
    """What is left alone goes on behind our rules, where others may have theirs (a tailnet's, a VPN's)."""
    return RuleSpec(PRIORITY_NATIVE, version, mark=MARK_NATIVE, goto=PRIORITY_BEYOND if is_steering else None)


def _steering_rules(version: int, steering: Steering, is_up: bool) -> list[RuleSpec]:
    """Who is sent to table 7000, in one family; only the guarded while there is no virtual address."""
    rules: list[RuleSpec] = []
    for mark in steering.guarded_marks:
        rules.append(RuleSpec(PRIORITY_GUARDED_LOCAL, version, mark=mark, suppress_prefixlength=0))
        rules.append(RuleSpec(PRIORITY_GUARDED, version, TABLE_VIRTUAL, mark=mark))
    rules += [
        RuleSpec(PRIORITY_MULTICAST, version, destination=network, goto=PRIORITY_BEYOND)
        for network in _MULTICAST[version]
    ]
    rules.append(RuleSpec(PRIORITY_LOCAL, version, suppress_prefixlength=0))
    if steering.marks_sockets and is_up:
        rules.append(RuleSpec(PRIORITY_MARKED_SOCKETS, version, TABLE_VIRTUAL, mark=MARK_TUNNELLED))
    rules += _step_rules(version, steering, is_up)
    is_rest_held = is_up or steering.is_rest_guarded
    if is_rest_held and not steering.is_default_native:
        rules.append(RuleSpec(PRIORITY_VIRTUAL, version, TABLE_VIRTUAL, is_local=True))
    elif is_up:
        rules += [
            RuleSpec(PRIORITY_VIRTUAL, version, TABLE_VIRTUAL, mark=mark) for mark in steering.tunnelled_marks
        ]
    rules.append(RuleSpec(PRIORITY_BEYOND, version, is_nop=True))
    return rules


def _step_rules(version: int, steering: Steering, is_up: bool) -> list[RuleSpec]:
    """The steps as far as they differ from what comes after them; a change of way takes the next priority."""
    steps = [
        step
        for step in steering.steps
        if (step.destination is None or step.destination.version == version)
        and (is_up or step.is_native or step.is_guarded)
    ]
    is_rest_native = steering.is_default_native or not (is_up or steering.is_rest_guarded)
    while steps and steps[-1].is_native == is_rest_native:
        steps.pop()
    rules: list[RuleSpec] = []
    place, way = 0, steps[0].is_native if steps else False
    for step in steps:
        if step.is_native != way:
            place, way = place + 1, step.is_native
        if place >= MAX_STEPS:
            raise UsageError(
                f"the application rules change between native and tunnelled more than {MAX_STEPS - 1} times: "
                "put those of one kind together"
            )
        for protocol in (None,) if step.port is None else (TCP, UDP):
            rules.append(
                RuleSpec(
                    PRIORITY_STEPS + place,
                    version,
                    TABLE_MAIN if step.is_native else TABLE_VIRTUAL,
                    destination=step.destination,
                    uid=step.uid,
                    protocol=protocol,
                    port=step.port,
                    is_local=True,
                    goto=PRIORITY_BEYOND if step.is_native else None,
                )
            )
    return list(dict.fromkeys(rules))


def anchor_routing(pool: Iterable[IPNetwork]) -> Routing:
    """What an anchor wants: its pool leads to the virtual interface."""
    return Routing(
        routes=tuple(
            RouteSpec(network, TABLE_MAIN, interface=VIRTUAL_INTERFACE, is_link_scope=True)
            for network in pool
        )
    )
