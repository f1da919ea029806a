"""What the two ends are told once, at their start: who and where they are, and their patience in seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field, replace
from typing import Protocol

from upmt_nf.mobility.binding_time import BindingTime
from upmt_nf.mobility.source_limits import SourceRates
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import NetworkName, TerminalId
from upmt_nf.model.names import SIGNALLING_PORT, TUNNEL_PORT
from upmt_nf.policy.budget import Ledger
from upmt_nf.policy.network import NetworkFacts
from upmt_nf.policy.policy import Policy


class AddressPool(Sized, Iterable[IPAddress], Protocol):
    """Virtual addresses that may be leased, in the order in which they are given out (`config.values.AddressPool`)."""

    def __contains__(self, address: IPAddress, /) -> bool: ...
    def __iter__(self) -> Iterator[IPAddress]: ...


@dataclass(frozen=True, slots=True)
class AnchorPeer:
    """An anchor as a mobile host knows it: where it is, and who the host is towards it."""

    address: IPAddress
    identity: TerminalId
    tunnel_port: int = TUNNEL_PORT
    signalling_port: int = SIGNALLING_PORT
    secret: str | None = field(default=None, repr=False)
    further_tunnel_ports: tuple[int, ...] = ()
    ipv6_address: IPAddress | None = None
    """Where it is reached by networks that have no other family."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """The mobile host's. Times in seconds."""

    identity: TerminalId
    anchor: IPAddress
    networks: tuple[NetworkName, ...]
    """All networks that are configured, best first. A network's index is its place here, from 1."""
    tunnel_port: int = TUNNEL_PORT
    signalling_port: int = SIGNALLING_PORT
    keepalive_interval: float = 5.0
    """Between two probes of a tunnel in use. A black hole is found within three of them."""
    rekey_after: float = 3600.0
    """How long a protected tunnel's keys are used (less up to a tenth, so that hosts do not renew in step)."""
    rekey_after_packets: int = 1 << 32
    """How many packets a protected tunnel's keys are used for, each way."""
    idle_after: float = 60.0
    """Silence after which a tunnel is idle: it gets keepalives only as often as the NAT on the way needs them."""
    keepalive_idle: float = 28.0
    """Between two keepalives of an idle tunnel as long as the NAT's binding time is not known."""
    keepalive_longest: float = 120.0
    """Between two keepalives of an idle tunnel at most, however long the binding time is."""
    search_path_mtu: bool = False
    """Whether to find out how large a packet each path takes when its tunnel opens."""
    probe_filters: bool = False
    """Whether to find out what unusual packets each path drops when its tunnel opens."""
    checks_portals: bool = False
    """Whether somebody can be asked by HTTP about a network without a tunnel."""
    probe_binding_time: bool = True
    """Whether to find binding times out."""
    binding_times: Mapping[str, BindingTime] = field(default_factory=dict)
    """What was found out earlier, by place."""
    return_after: float = 30.0
    """How long a preferred network must have been up again before applications return to it."""
    lifetime: int = 3600
    """Of the association, as asked of the anchor."""
    default_policy: Policy | tuple[str, ...] = ("any",)
    """Of applications without one of their own; or networks, best first, where `any` stands for all others."""
    facts: tuple[NetworkFacts, ...] = ()
    """What policies may know of the networks; nothing where it says nothing."""
    signalling: tuple[str, ...] = ("any",)
    """Networks for what is said to anchors outside the tunnels, best first."""
    ledger: Ledger | None = None
    """What was spent of budgets before."""
    setup_backoff: float = 10.0
    """The longest pause between two attempts to set a tunnel up."""
    leave_patience: float = 2.0
    """How long a stopping host waits for the anchor's goodbye."""
    protection: Mapping[NetworkName, str] = field(default_factory=dict)
    """Tunnel format by network; `plain` where it says nothing. Others need a secret."""
    secret: str | None = field(default=None, repr=False)
    """Shared with the anchor. With it both ends must prove that they know it; without, neither does."""
    further_tunnel_ports: tuple[int, ...] = ()
    """Of the anchor, in the order in which they are tried where the first one is not let through."""
    anchor_ipv6: IPAddress | None = None
    """Where the anchor is reached by networks that have no other family."""
    further_anchors: tuple[AnchorPeer, ...] = ()
    """Asked in this order when the first anchor does not answer."""

    def for_each_anchor(self) -> tuple[HostSettings, ...]:
        """The settings towards each anchor alone, in the order in which they are asked."""
        others = (
            replace(
                self,
                identity=peer.identity,
                anchor=peer.address,
                tunnel_port=peer.tunnel_port,
                signalling_port=peer.signalling_port,
                secret=peer.secret,
                further_tunnel_ports=peer.further_tunnel_ports,
                anchor_ipv6=peer.ipv6_address,
                further_anchors=(),
            )
            for peer in self.further_anchors
        )
        return (replace(self, further_anchors=()), *others)

    @property
    def anchor_signalling(self) -> Endpoint:
        """Where SIP goes, outside the tunnels and inside alike."""
        return Endpoint(self.anchor, self.signalling_port)

    def reached_at(self, care_of: IPAddress | None) -> IPAddress:
        """The anchor's address for packets from this one."""
        is_other = care_of is not None and care_of.version != self.anchor.version
        return self.anchor_ipv6 if is_other and self.anchor_ipv6 is not None else self.anchor

    @property
    def tunnel_ports(self) -> tuple[int, ...]:
        """All of the anchor's, the first first."""
        return self.tunnel_port, *self.further_tunnel_ports

    @property
    def anchor_tunnels(self) -> Endpoint:
        """The anchor's end of every tunnel, unless its network lets another port pass only."""
        return Endpoint(self.anchor, self.tunnel_port)


@dataclass(frozen=True, slots=True)
class AnchorSettings:
    """The anchor's. Times in seconds."""

    address: IPAddress
    pool: AddressPool
    tunnel_port: int = TUNNEL_PORT
    signalling_port: int = SIGNALLING_PORT
    lifetime: int = 3600
    """The longest an association lives without a refresh, and what a host gets that asks for nothing."""
    minimum_lifetime: int = 10
    tunnel_timeout: float = 300.0
    """Silence after which a tunnel is forgotten."""
    max_associations: int = 65536
    max_tunnels: int = 16
    """Per association."""
    outer_mtu: int = 1500
    """Largest outer packet that the anchor's own interface takes."""
    formats: tuple[str, ...] = ("plain", "cookie", "sealed")
    """Tunnel formats that hosts may choose."""
    unheard_after: float = 6.0
    """Silence after which a host is told of a tunnel that packets for it go to, if another tunnel of it lives."""
    rates: SourceRates = field(default_factory=SourceRates)
    """How much signalling is heard, and of whom."""
    notice_patience: float = 1.0
    """How long a stopping anchor waits for the answers to its notices."""
