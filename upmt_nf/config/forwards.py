"""`[[anchor.forward]]` and `[[anchor.static_nat]]`, and what may stand beside what: for the file and for commands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import IPvAnyAddress, PlainValidator

from upmt_nf.config.checked import Section
from upmt_nf.config.mobile_host import check_identity
from upmt_nf.config.values import AddressPool
from upmt_nf.model.flow import TCP, UDP, IPAddress
from upmt_nf.model.forward import Forward, HostRef, PortSpan, StaticNat
from upmt_nf.model.identity import TerminalId

MAX_OPENINGS = 256
"""Forwards and static NATs of one anchor: netfilter tries them one after the other, and is rewritten as a whole."""

_PROTOCOLS = {"tcp": TCP, "udp": UDP}


def read_protocol(value: Any) -> int:
    """`tcp` or `udp`. Raises ValueError."""
    name = value.lower() if isinstance(value, str) else value
    if name not in _PROTOCOLS:
        raise ValueError(f"{value!r} is no protocol that can be forwarded: tcp or udp")
    return _PROTOCOLS[name]


def read_ports(value: Any) -> PortSpan:
    """A port, or a range written 8000-8010. Raises ValueError."""
    if isinstance(value, PortSpan):
        return value
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    matched = re.fullmatch(r"([0-9]{1,9})(?:[-:]([0-9]{1,9}))?", text) if isinstance(text, str) else None
    if matched is None:
        raise ValueError(f"{value!r} is neither a port nor a range such as 8000-8010")
    first, last = int(matched[1]), int(matched[2] or matched[1])
    if not 1 <= first <= 65535 or last > 65535:
        raise ValueError(f"{value!r}: ports are 1 to 65535")
    if first > last:
        raise ValueError(f"{value!r} does not run from a lower to a higher port")
    return PortSpan(first, last)


def read_host(value: Any) -> HostRef:
    """A virtual address or an identity. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("a host is an identity such as van7@fleet.example, or a virtual address")
    try:
        return ip_address(value)
    except ValueError:
        return TerminalId(check_identity(value))


def forward_of(
    protocol: int, external: IPAddress, ports: PortSpan, host: HostRef, host_ports: PortSpan | None
) -> Forward:
    """A forward; `host_ports` None: the same ports; one port: as many from there on. Raises ValueError."""
    if host_ports is None:
        host_ports = ports
    elif len(host_ports) == 1:
        host_ports = PortSpan(host_ports.first, host_ports.first + len(ports) - 1)
    if len(host_ports) != len(ports):
        raise ValueError(f"{ports} are {len(ports)} ports, but {host_ports} are {len(host_ports)}")
    if host_ports.last > 65535:
        raise ValueError(f"{len(ports)} ports from {host_ports.first} on do not end before 65536")
    return Forward(protocol, external, ports, host, host_ports)


Protocol = Annotated[int, PlainValidator(read_protocol)]
ForwardedPorts = Annotated[PortSpan, PlainValidator(read_ports)]
Host = Annotated[HostRef, PlainValidator(read_host)]


class ForwardSection(Section):
    """`[[anchor.forward]]`: ports of the anchor that lead to a host."""

    protocol: Protocol
    port: ForwardedPorts
    """A port, or a range such as "8000-8010"."""
    host: Host
    """The host's identity, or a virtual address."""
    host_port: ForwardedPorts | None = None
    """The port there, of a range the first one; the same when left out."""
    external: IPvAnyAddress | None = None
    """The external address; the anchor's own when left out."""


class StaticNatSection(Section):
    """`[[anchor.static_nat]]`: an external address that is one host's alone."""

    external: IPvAnyAddress
    host: Host


@dataclass(frozen=True, slots=True)
class AnchorSite:
    """What forwards must fit: the anchor's address, its UDP ports with their use, its pool, its external pool."""

    address: IPAddress
    own_ports: tuple[tuple[int, str], ...]
    pool: AddressPool
    external_pool: AddressPool | None = None


def objection(
    what: Forward | StaticNat, others: Iterable[Forward | StaticNat], site: AnchorSite
) -> str | None:
    """Why this cannot stand beside the others; None when it can."""
    reason = _objection_to_addresses(what, site)
    if reason is None and isinstance(what, Forward):
        reason = _own_port(what, site)
    return reason or next((said for other in others if (said := _clash(what, other))), None)


def first_objections(
    wanted: Sequence[Forward | StaticNat], site: AnchorSite
) -> Iterable[tuple[Forward | StaticNat, int, str]]:
    """Each that contradicts the site or one before it, with its place among those of its kind, from 0."""
    places: dict[type, int] = {}
    for number, what in enumerate(wanted):
        place = places.get(type(what), 0)
        places[type(what)] = place + 1
        reason = objection(what, wanted[:number], site)
        if number >= MAX_OPENINGS:
            reason = f"there are more than {MAX_OPENINGS} forwards and static NATs"
        if reason is not None:
            yield what, place, reason


def _objection_to_addresses(what: Forward | StaticNat, site: AnchorSite) -> str | None:
    external, host = what.external, what.host
    if external.version != site.pool.first.version:
        return f"{external} is of another family than the pool {site.pool}"
    if external in site.pool:
        return f"{external} is a virtual address, not an external one"
    if external.is_unspecified or external.is_multicast or external.is_loopback or external.is_link_local:
        return f"{external} is no address that can be reached from outside"
    if not isinstance(host, str) and (host not in site.pool or host == site.address):
        return f"{host} is no virtual address of the pool {site.pool}"
    if isinstance(what, StaticNat) and external == site.address:
        return f"{external} is the anchor's own address, which the tunnels need"
    if isinstance(what, StaticNat) and site.external_pool is not None and external in site.external_pool:
        return f"{external} is in external_pool"
    return None


def _own_port(forward: Forward, site: AnchorSite) -> str | None:
    if forward.protocol != UDP or forward.external != site.address:
        return None
    for port, use in site.own_ports:
        if forward.ports.overlaps(PortSpan(port, port)):
            return f"udp {port} is the anchor's own: {use}"
    return None


def _clash(what: Forward | StaticNat, other: Forward | StaticNat) -> str | None:
    match what, other:
        case Forward(), Forward() if what.overlaps(other):
            return f"{other.outside} leads to {other.host} {other.host_ports} already"
        case StaticNat(), StaticNat() if what.external == other.external:
            return f"{what.external} is the address of {other.host} already"
        case StaticNat(), StaticNat() if what.host == other.host:
            return f"{what.host} has the external address {other.external} already"
    return None
