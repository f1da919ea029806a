"""The types that both configurations share: names, pools of addresses, ranges of ports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network, summarize_address_range
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator

from upmt_nf.model.flow import PROTOCOL_NUMBERS, IPAddress

Network = IPv4Network | IPv6Network

_MAX_BLOCKS = 64
"""Rules that a translation of a whole pool may take, each way."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,31}")


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a name: 1 to 32 letters, digits, '_', '.', '-', beginning with a letter or digit"
        )
    return value


def _check_interface(value: str) -> str:
    if not re.fullmatch(r"[^\s/:]{1,15}", value) or value in (".", ".."):
        raise ValueError(f"{value!r} is not an interface name: 1 to 15 characters without space, '/' or ':'")
    return value


Name = Annotated[str, AfterValidator(_check_name)]
InterfaceName = Annotated[str, AfterValidator(_check_interface)]
MAX_FURTHER_PORTS = 7
"""Tunnel ports of an anchor beside the first."""
Port = Annotated[int, Field(ge=1, le=65535)]


def check_tunnel_ports(ports: Sequence[int], signalling_port: int) -> None:
    """All of an anchor's, the first first. Raises ValueError."""
    if len({*ports, signalling_port}) <= len(ports):
        raise ValueError(
            "further_tunnel_ports: each differs from tunnel_port, signalling_port and the others"
        )


def check_ipv6_address(address: IPAddress, further: IPv6Address | None) -> None:
    """An anchor's second address, for access networks without IPv4. Raises ValueError."""
    if further is None:
        return
    if address.version == 6:
        raise ValueError("ipv6_address: address is one already")
    if further.is_multicast or further.is_unspecified or further.is_link_local or further.is_loopback:
        raise ValueError(f"ipv6_address: {further} is no address that others can reach")


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class AddressPool:
    """Virtual addresses from `first` to `last`, both included."""

    first: IPAddress
    last: IPAddress

    def __contains__(self, address: IPAddress) -> bool:
        return address.version == self.first.version and int(self.first) <= int(address) <= int(self.last)

    def __len__(self) -> int:
        return int(self.last) - int(self.first) + 1

    def __iter__(self) -> Iterator[IPAddress]:
        for number in range(int(self.first), int(self.last) + 1):
            yield type(self.first)(number)

    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The pool as the fewest networks, for routes and rules."""
        return tuple(summarize_address_range(self.first, self.last))

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def _read_pool(value: Any) -> AddressPool:
    if isinstance(value, AddressPool):
        return value
    if not isinstance(value, str):
        raise ValueError("a pool is written 10.99.0.0/24 or 10.99.0.10-10.99.0.99")
    if "-" in value:
        low, _, high = value.partition("-")
        first, last = ip_address(low.strip()), ip_address(high.strip())
        if first.version != last.version or int(first) > int(last):
            raise ValueError(f"{value!r} does not run from a lower to a higher address of one family")
        return AddressPool(first, last)
    network = ip_network(value.strip())
    if network.num_addresses < 4:
        return AddressPool(network[0], network[-1])
    return AddressPool(network[1], network[-2])


Pool = Annotated[AddressPool, PlainValidator(_read_pool)]


def matching_blocks(pool: AddressPool, external: AddressPool) -> tuple[tuple[Network, Network], ...]:
    """The fewest networks, inside and outside, that map the pool's n-th address to the external pool's n-th.

    Raises ValueError when there are not enough external ones, or when so many pieces would be needed that the two
    ranges should rather begin at the same place of a network.
    """
    if pool.first.version != external.first.version:
        raise ValueError(f"{external} is of another family than the pool {pool}")
    if len(external) < len(pool):
        raise ValueError(f"{external} has {len(external)} addresses for the {len(pool)} of the pool")
    bits = pool.first.max_prefixlen
    inside, outside, left = int(pool.first), int(external.first), len(pool)
    blocks: list[tuple[Network, Network]] = []
    while left:
        size = 1
        while size * 2 <= left and not (inside | outside) & (size * 2 - 1):
            size *= 2
        length = bits - size.bit_length() + 1
        family = type(pool.first)
        blocks.append((ip_network((family(inside), length)), ip_network((family(outside), length))))
        if len(blocks) > _MAX_BLOCKS:
            raise ValueError(
                f"{external} and the pool {pool} do not lie alike: begin both at the same place of a network"
            )
        inside, outside, left = inside + size, outside + size, left - size
    return tuple(blocks)


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports from `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def _read_ports(value: Any) -> PortRange:
    if isinstance(value, PortRange):
        return value
    if not isinstance(value, str):
        raise ValueError("a range of ports is written 40000-60999")
    matched = re.fullmatch(r"\s*(\d{1,5})\s*-\s*(\d{1,5})\s*", value)
    if not matched or not 1 <= int(matched[1]) <= int(matched[2]) <= 65535:
        raise ValueError(f"{value!r} is not a range of ports such as 40000-60999")
    return PortRange(int(matched[1]), int(matched[2]))


Ports = Annotated[PortRange, PlainValidator(_read_ports)]


@dataclass(frozen=True, slots=True)
class Correspondents:
    """A network, there one port or all, of one protocol (by number) or all."""

    network: IPv4Network | IPv6Network
    port: int | None = None
    protocol: int | None = None


_CORRESPONDENTS = re.compile(
    r"(?:\[([^\]]+)\]|([^:\[\]]+|[^\[\]]*:[^\[\]]*:[^\[\]]*))(?::(\d{1,5})(?:/([a-z]{3,4}))?)?"
)


def _read_correspondents(value: Any) -> Correspondents:
    if isinstance(value, Correspondents):
        return value
    form = (
        "correspondents are written 192.0.2.0/24, 192.0.2.7:443, 192.0.2.7:443/tcp or [2001:db8::/32]:443/tcp"
    )
    matched = _CORRESPONDENTS.fullmatch(value.strip()) if isinstance(value, str) else None
    if matched is None:
        raise ValueError(f"{value!r}: {form}")
    try:
        network = ip_network((matched[1] or matched[2]).strip())
    except ValueError as reason:
        raise ValueError(f"{value!r}: {reason}") from reason
    port = int(matched[3]) if matched[3] else None
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"{value!r}: there is no port {port}")
    protocol = PROTOCOL_NUMBERS.get(matched[4]) if matched[4] else None
    if matched[4] and matched[4] not in ("tcp", "udp", "sctp"):
        raise ValueError(f"{value!r}: ports are of tcp, udp or sctp, not of {matched[4]}")
    return Correspondents(network, port, protocol)


Peers = Annotated[Correspondents, PlainValidator(_read_correspondents)]
