"""What `upmt anchor run --config FILE` reads."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, IPvAnyAddress, model_validator

from upmt_nf.config.checked import Complaint, Section, checked
from upmt_nf.config.forwards import (
    AnchorSite,
    ForwardSection,
    StaticNatSection,
    first_objections,
    forward_of,
)
from upmt_nf.config.values import (
    MAX_FURTHER_PORTS,
    AddressPool,
    InterfaceName,
    Peers,
    Pool,
    Port,
    Ports,
    Seconds,
    check_ipv6_address,
    check_tunnel_ports,
    matching_blocks,
)
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.forward import Forward, StaticNat
from upmt_nf.model.names import SIGNALLING_PORT, TUNNEL_PORT

Rate = Annotated[float, Field(ge=1, allow_inf_nan=False)]


def _check_nat(value: Any) -> Any:
    if isinstance(value, str) and value in ("full-cone", "endpoint-independent"):
        raise ValueError(
            f"{value!r} is not to be had: Linux has no netfilter target for endpoint-independent filtering; "
            'take "port-restricted" and [[anchor.forward]], or "static"'
        )
    return value


Nat = Annotated[Literal["port-restricted", "static"], BeforeValidator(_check_nat)]


class AnchorSection(Section):
    """`[anchor]`: one anchor node."""

    address: IPvAnyAddress
    """The public address that tunnels, signalling and translated flows use."""
    ipv6_address: IPv6Address | None = None
    """Where tunnels and signalling are taken from access networks that have no IPv4."""
    interface: InterfaceName
    """The interface towards the Internet."""
    pool: Pool
    """The virtual addresses that may be leased."""
    tunnel_port: Port = TUNNEL_PORT
    further_tunnel_ports: Annotated[tuple[Port, ...], Field(max_length=MAX_FURTHER_PORTS)] = ()
    """UDP ports that take tunnels as well, for hosts whose access networks let only some pass."""
    signalling_port: Port = SIGNALLING_PORT
    portal_check_port: Port | None = None
    """TCP port at which hosts' questions for captive portals are answered (HTTP, 204); none when left out."""
    lease_time: Annotated[int, Field(ge=10, le=604800)] = 3600
    """Seconds that an association lives without a refresh, unless the host asks for less."""
    minimum_lease_time: Annotated[int, Field(ge=1, le=604800)] = 10
    tunnel_timeout: Seconds = 300.0
    """Seconds without a packet after which a tunnel is forgotten."""
    users: str | None = None
    """File of `upmt anchor user`; with it every host must prove who it is. Without it everybody is let in."""
    digest_algorithms: Annotated[tuple[Literal["SHA-256", "MD5"], ...], Field(min_length=1)] = ("SHA-256",)
    """How hosts may prove who they are. MD5 is broken: only to test with SIP programs that know nothing else."""
    leases: str = "/var/lib/upmt/leases.sqlite"
    """File that remembers which host had which virtual address."""
    protection: Annotated[tuple[Literal["plain", "cookie", "sealed"], ...], Field(min_length=1)] = (
        "plain",
        "cookie",
        "sealed",
    )
    """Tunnel formats that hosts may choose; leave `plain` out to insist on protection."""
    nat_ports: Ports | None = None
    """Source ports of translated TCP and UDP flows; the kernel's own choice when left out."""
    nat: Nat = "port-restricted"
    """How hosts appear: all as the anchor, answers only (RFC 4787), or each as an address of `external_pool`."""
    external_pool: Pool | None = None
    """With `nat = "static"`: the external addresses; the n-th is that of the pool's n-th virtual address."""
    forward: tuple[ForwardSection, ...] = ()
    static_nat: tuple[StaticNatSection, ...] = ()
    datapath: Literal["auto", "agent", "fast"] = "auto"
    shortcut: Literal["auto", True, False] = "auto"
    """With the fast plane: translate and forward UDP flows that conntrack knows past netfilter's rules; `auto`: while
    these are ours alone."""
    virtual_interface: Literal["auto", "tun", "dummy", "ifb"] = "auto"
    """What `upmt0` is made of; `auto` takes the best that the kernel has."""
    refuse_private: bool = True
    """Do not forward to private networks (RFC 1918, RFC 4193) behind the anchor, nor from there."""
    refuse_public: bool = False
    """Do not forward to the Internet either: only to what `allow` names."""
    allow: tuple[Peers, ...] = ()
    """Correspondents that the two keys above do not refuse."""
    deny: tuple[Peers, ...] = ()
    """Correspondents that are always refused."""
    between_hosts: bool = False
    """Forward between the hosts of this anchor."""
    stranger_rate: Rate = 1000.0
    """Datagrams of signalling a second that are heard from all who have no association together."""
    source_rate: Rate = 20.0
    """The same from one address (/32, /64); five times as many from one network (/24, /48)."""
    host_rate: Rate = 400.0
    """Datagrams of signalling a second that are heard from one association."""
    max_associations: Annotated[int, Field(ge=1)] = 65536
    max_flows: Annotated[int, Field(ge=16)] = 1_000_000

    @model_validator(mode="after")
    def _fits_itself(self) -> AnchorSection:
        check_ipv6_address(self.address, self.ipv6_address)
        if self.tunnel_port == self.signalling_port:
            raise ValueError("tunnel_port and signalling_port are the same")
        check_tunnel_ports(self.tunnel_ports, self.signalling_port)
        if self.minimum_lease_time > self.lease_time:
            raise ValueError("minimum_lease_time is longer than lease_time")
        return self

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """Where it is reached, at most one an IP version; that which it is known by first."""
        return self.address, *([self.ipv6_address] if self.ipv6_address is not None else [])

    @property
    def tunnel_ports(self) -> tuple[int, ...]:
        """All of them, the first first."""
        return self.tunnel_port, *self.further_tunnel_ports

    def site(self) -> AnchorSite:
        """What forwards and static NATs must fit."""
        tunnels = ((port, "its tunnels") for port in self.tunnel_ports)
        own = (*tunnels, (self.signalling_port, "its signalling"))
        return AnchorSite(self.address, own, self.pool, self.external_pool)

    def openings(self) -> tuple[Forward | StaticNat, ...]:
        """The configured forwards and static NATs. Raises ValueError for ports that do not fit each other."""
        forwards = (_forward(section, self) for section in self.forward)
        return *forwards, *(StaticNat(section.external, section.host) for section in self.static_nat)


def _forward(section: ForwardSection, anchor: AnchorSection) -> Forward:
    external = section.external or anchor.address
    return forward_of(section.protocol, external, section.port, section.host, section.host_port)


class AnchorConfig(Section):
    """The whole file."""

    anchor: AnchorSection


def read_anchor_config(text: str, file: str) -> AnchorConfig:
    """Check an anchor's configuration. Raises ConfigError with file, line, key and reason."""
    return checked(AnchorConfig, text, file, _contradictions)


def _contradictions(config: AnchorConfig) -> Iterable[Complaint]:
    anchor = config.anchor
    if (anchor.nat == "static") != (anchor.external_pool is not None):
        yield ("anchor", "nat"), 'nat = "static" and external_pool go together'
    elif anchor.external_pool is not None:
        yield from _external_pool_contradictions(anchor, anchor.external_pool)
    misfits = list(_misfits(anchor))
    yield from misfits
    if not misfits:
        for what, place, reason in first_objections(anchor.openings(), anchor.site()):
            key = "forward" if isinstance(what, Forward) else "static_nat"
            yield ("anchor", key, place), reason


def _misfits(anchor: AnchorSection) -> Iterable[Complaint]:
    for place, section in enumerate(anchor.forward):
        try:
            _forward(section, anchor)
        except ValueError as reason:
            yield ("anchor", "forward", place, "host_port"), str(reason)


def _external_pool_contradictions(anchor: AnchorSection, external: AddressPool) -> Iterable[Complaint]:
    place = ("anchor", "external_pool")
    if anchor.address in external:
        yield place, f"{anchor.address} is the anchor's own address, which the tunnels need"
    if external.first in anchor.pool or anchor.pool.first in external:
        yield place, "overlaps with pool"
    try:
        matching_blocks(anchor.pool, external)
    except ValueError as reason:
        yield place, str(reason)
