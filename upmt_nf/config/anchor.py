"""What `upmt anchor run --config FILE` reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, IPvAnyAddress, model_validator

from upmt_nf.config.checked import Section, checked
from upmt_nf.config.values import InterfaceName, Peers, Pool, Port, Ports, Seconds
from upmt_nf.model.names import SIGNALLING_PORT, TUNNEL_PORT

Rate = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class AnchorSection(Section):
    """`[anchor]`: one anchor node."""

    address: IPvAnyAddress
    """The public address that tunnels, signalling and translated flows use."""
    interface: InterfaceName
    """The interface towards the Internet."""
    pool: Pool
    """The virtual addresses that may be leased."""
    tunnel_port: Port = TUNNEL_PORT
    signalling_port: Port = SIGNALLING_PORT
    lease_time: Annotated[int, Field(ge=10, le=604800)] = 3600
    """Seconds that an association lives without a refresh, unless the host asks for less."""
    minimum_lease_time: Annotated[int, Field(ge=1, le=604800)] = 10
    tunnel_timeout: Seconds = 300.0
    """Seconds without a packet after which a tunnel is forgotten."""
    users: str | None = None
    """File of `upmt anchor user`; with it every host must prove who it is. Without it everybody is let in."""
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
    datapath: Literal["auto", "agent", "fast"] = "auto"
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
    host_rate: Rate = 100.0
    """Datagrams of signalling a second that are heard from one association."""
    max_associations: Annotated[int, Field(ge=1)] = 65536
    max_flows: Annotated[int, Field(ge=16)] = 1_000_000

    @model_validator(mode="after")
    def _ports_differ(self) -> AnchorSection:
        if self.tunnel_port == self.signalling_port:
            raise ValueError("tunnel_port and signalling_port are the same")
        if self.minimum_lease_time > self.lease_time:
            raise ValueError("minimum_lease_time is longer than lease_time")
        return self


class AnchorConfig(Section):
    """The whole file."""

    anchor: AnchorSection


def read_anchor_config(text: str, file: str) -> AnchorConfig:
    """Check an anchor's configuration. Raises ConfigError with file, line, key and reason."""
    return checked(AnchorConfig, text, file)
