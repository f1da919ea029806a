"""Policy routing: reads what is ours (our protocol number), applies the difference to what is wanted."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from upmt_nf.linux.journal import Journal, RoutingChanged
from upmt_nf.linux.off_loop import off_loop
from upmt_nf.linux.route_dump import FAMILIES, IPV6_METRIC, SCOPE_LINK, UNICAST, our_routes
from upmt_nf.model.errors import KernelError
from upmt_nf.model.names import MARK_MASK, ROUTE_PROTOCOL
from upmt_nf.routing.difference import Change, difference
from upmt_nf.routing.plan import TABLE_MAIN, Kind, RouteSpec, Routing, RuleSpec

log = logging.getLogger(__name__)

_UNREACHABLE = 7
_IFF_UP = 1
_SCOPE_UNIVERSE = 0
_FR_ACT_TO_TBL, _FR_ACT_GOTO, _FR_ACT_NOP = 1, 2, 3
_NO_PROGRAMS: Mapping[str, int] = {}
_GONE = frozenset((errno.ESRCH, errno.ENOENT, errno.ENODEV))


@off_loop
def apply(
    wanted: Routing, journal: Journal, *, removes: bool = True, programs: Mapping[str, int] = _NO_PROGRAMS
) -> list[Change]:
    """Make our part of policy routing as wanted; gives what was changed. Without `removes` nothing goes yet.

    `programs` are the descriptors of those that routes name.
    What the kernel refuses does not keep the rest from being done: it is named in a KernelError at the end.
    """
    journal.note(RoutingChanged())
    refused: list[str] = []
    with IPRoute() as kernel:
        changes = [change for change in difference(wanted, present(kernel)) if removes or change.is_addition]
        for change in changes:
            try:
                _perform(kernel, change, programs)
            except KernelError as reason:
                refused.append(str(reason))
    if refused:
        raise KernelError("; ".join(refused))
    return changes


@off_loop
def drift(wanted: Routing) -> list[Change]:
    """What others changed of ours. A route whose interface is down or gone is missing for good reason."""
    with IPRoute() as kernel:
        ready = {link.get_attr("IFLA_IFNAME") for link in kernel.get_links() if link["flags"] & _IFF_UP}
        return [
            change
            for change in difference(wanted, present(kernel))
            if not (isinstance(change.what, RouteSpec) and change.what.interface not in (None, *ready))
        ]


@off_loop
def routing_in_place() -> list[str]:
    """Our routes and rules as they are, one `ip` command a line."""
    with IPRoute() as kernel:
        return str(present(kernel)).splitlines()


def present(kernel: IPRoute) -> Routing:
    """Our routes and rules as they are."""
    names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in kernel.get_links()}
    routes: list[RouteSpec] = []
    rules: list[RuleSpec] = []
    for version, family in FAMILIES.items():
        routes += our_routes(version, names)
        rules += [
            _rule_of(message, version)
            for message in kernel.get_rules(family=family)
            if message.get_attr("FRA_PROTOCOL") == ROUTE_PROTOCOL
        ]
    return Routing(tuple(routes), tuple(rules))


def _rule_of(message: Any, version: int) -> RuleSpec:
    source, destination = message.get_attr("FRA_SRC"), message.get_attr("FRA_DST")
    suppress = message.get_attr("FRA_SUPPRESS_PREFIXLEN")
    users, ports = message.get_attr("FRA_UID_RANGE"), message.get_attr("FRA_DPORT_RANGE")
    leads_on = message["action"] == _FR_ACT_TO_TBL
    return RuleSpec(
        priority=message.get_attr("FRA_PRIORITY") or 0,
        version=version,
        table=(message.get_attr("FRA_TABLE") or message["table"]) if leads_on else TABLE_MAIN,
        uid=_first_of(users),
        protocol=message.get_attr("FRA_IP_PROTO") or None,
        port=_first_of(ports),
        is_local=message.get_attr("FRA_IIFNAME") == "lo",
        goto=message.get_attr("FRA_GOTO") if message["action"] == _FR_ACT_GOTO else None,
        is_nop=message["action"] == _FR_ACT_NOP,
        mark=message.get_attr("FRA_FWMARK"),
        source=ip_network(f"{source}/{message['src_len']}") if source else None,
        destination=ip_network(f"{destination}/{message['dst_len']}") if destination else None,
        suppress_prefixlength=suppress if suppress is not None and suppress < 2**31 else None,
    )


def _first_of(span: Any) -> int | None:
    """The lower end of `start:end`; ours have one number at both."""
    return int(str(span).partition(":")[0]) if span else None


def _perform(kernel: IPRoute, change: Change, programs: Mapping[str, int]) -> None:
    log.debug("%s", change)
    try:
        match change.what:
            case RouteSpec():
                # `replace`: a route that differs from one in its place takes its place in one step.
                kernel.route(
                    "replace" if change.is_addition else "del",
                    **_route_request(kernel, change.what, programs if change.is_addition else {}),
                )
            case RuleSpec():
                kernel.rule("add" if change.is_addition else "del", **_rule_request(change.what))
    except NetlinkError as reason:
        if change.is_addition and reason.code == errno.EEXIST:
            return
        if not change.is_addition and reason.code in _GONE:
            return
        raise KernelError(f"{change}: {reason}") from reason


def _route_request(kernel: IPRoute, route: RouteSpec, programs: Mapping[str, int]) -> dict[str, Any]:
    request: dict[str, Any] = {
        "family": FAMILIES[route.destination.version],
        "dst": str(route.destination),
        "table": route.table,
        "proto": ROUTE_PROTOCOL,
        "type": UNICAST if route.kind is Kind.UNICAST else _UNREACHABLE,
    }
    if route.destination.version == 4:
        request["scope"] = SCOPE_LINK if route.is_link_scope else _SCOPE_UNIVERSE
    if route.interface is not None:
        found = list(kernel.link_lookup(ifname=route.interface))
        if not found:
            raise KernelError(f"ip route add {route}: there is no interface {route.interface}")
        request["oif"] = found[0]
    if route.gateway is not None:
        request["gateway"] = str(route.gateway)
    if route.source is not None:
        request["prefsrc"] = str(route.source)
    if route.metric or route.destination.version == 6:
        request["priority"] = route.metric or IPV6_METRIC
    if route.program in programs:
        seen = {"fd": programs[route.program], "name": route.program}
        request["encap"] = {"type": "bpf", "out": seen}
    return request


def _rule_request(rule: RuleSpec) -> dict[str, Any]:
    request: dict[str, Any] = {
        "family": FAMILIES[rule.version],
        "priority": rule.priority,
        "protocol": ROUTE_PROTOCOL,
    }
    if rule.is_nop:
        request |= {"action": _FR_ACT_NOP}
    elif rule.goto is not None:
        request |= {"action": _FR_ACT_GOTO, "FRA_GOTO": rule.goto}
    else:
        request |= {"action": _FR_ACT_TO_TBL, "table": rule.table}
    if rule.is_local:
        request["iifname"] = "lo"
    if rule.uid is not None:
        request["FRA_UID_RANGE"] = f"{rule.uid}:{rule.uid}"
    if rule.protocol is not None:
        request["FRA_IP_PROTO"] = rule.protocol
    if rule.port is not None:
        request["FRA_DPORT_RANGE"] = f"{rule.port}:{rule.port}"
    if rule.mark is not None:
        request["fwmark"], request["fwmask"] = rule.mark, MARK_MASK
    if rule.source is not None:
        request["src"], request["src_len"] = str(rule.source.network_address), rule.source.prefixlen
    if rule.destination is not None:
        request["dst"], request["dst_len"] = str(rule.destination.network_address), rule.destination.prefixlen
    if rule.suppress_prefixlength is not None:
        request["FRA_SUPPRESS_PREFIXLEN"] = rule.suppress_prefixlength
    return request
