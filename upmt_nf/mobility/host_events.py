"""What can happen to a mobile host, in the past tense. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from upmt_nf.mobility.binding_trial import ProbeFlow
from upmt_nf.mobility.events import StopAsked, TimeoutReached
from upmt_nf.mobility.portal_checks import Portal
from upmt_nf.model.flow import FlowKey, IPAddress
from upmt_nf.model.identity import ApplicationId, ApplicationName, NetworkName
from upmt_nf.policy.network import NetworkFacts
from upmt_nf.policy.policy import Policy


@dataclass(frozen=True, slots=True)
class NetworkAppeared:
    """An access network has carrier and a care-of address; again with other values when they changed.

    `mtu` is the interface's, in bytes.
    """

    network: NetworkName
    interface: str
    care_of_address: IPAddress
    gateway: IPAddress | None
    mtu: int
    prefix: IPv4Network | IPv6Network | None = None
    """Of the care-of address; with the gateway it tells places apart."""
    ipv6: IPAddress | None = None
    """Its global IPv6 address, whether it is the care-of address or not."""


@dataclass(frozen=True, slots=True)
class NetworkVanished:
    """Carrier, interface or address is gone."""

    network: NetworkName
    reason: str


@dataclass(frozen=True, slots=True)
class PathFailed:
    """The kernel refuses to send on a network's tunnel socket though the network is there."""

    network: NetworkName
    reason: str


@dataclass(frozen=True, slots=True)
class PathNarrowed:
    """The path to the anchor takes outer packets of `mtu` bytes only."""

    network: NetworkName
    mtu: int


@dataclass(frozen=True, slots=True)
class SipDatagramReceived:
    """SIP outside the tunnels, on that network's signalling socket, from an anchor's address (None: the one in use)."""

    network: NetworkName
    data: bytes
    anchor: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class BindingAnswerReceived:
    """Something came from a tunnel port of the anchor (0: the one in use) to a port that was opened for `flow`.

    To those that try filters it may come from elsewhere. `tos` is its traffic class.
    """

    network: NetworkName
    flow: ProbeFlow
    data: bytes
    anchor_port: int = 0
    tos: int = 0


@dataclass(frozen=True, slots=True)
class PortalChecked:
    """What came of `CheckPortal`."""

    network: NetworkName
    portal: Portal


@dataclass(frozen=True, slots=True)
class NetworkMetered:
    """Somebody pays for a network by the byte, or nobody does any more."""

    network: NetworkName
    is_metered: bool


@dataclass(frozen=True, slots=True)
class NetworkTestAsked:
    """An administrator wants to know what a network lets through."""

    network: NetworkName


@dataclass(frozen=True, slots=True)
class TunnelSignalReceived:
    """UDP payload from the anchor's inner address inside that network's tunnel; port 5060 is SIP, 862 STAMP."""

    network: NetworkName
    port: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ApplicationDefined:
    """An application exists, with a policy or networks, best first (`any`: all others). Again: the new policy."""

    name: ApplicationName
    id: ApplicationId
    policy: Policy | tuple[str, ...] | None = None
    """None: the default policy."""
    anchor: IPAddress | None = None
    """The one that it goes by; None: whichever the host uses."""


@dataclass(frozen=True, slots=True)
class ApplicationAssigned:
    """An administrator gave an application another policy."""

    name: ApplicationName
    policy: Policy | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ApplicationLocked:
    """An administrator wants an application on one network and nowhere else; None: its policy decides again."""

    name: ApplicationName
    network: NetworkName | None


@dataclass(frozen=True, slots=True)
class ClockRead:
    """What to add to `now` to have seconds since 1970-01-01 00:00 local time, for policies with hours and days."""

    offset: float


@dataclass(frozen=True, slots=True)
class NetworksRedescribed:
    """The administrator says other things of the networks (costs, trust, budgets, ...); all of them are told."""

    facts: tuple[NetworkFacts, ...]


@dataclass(frozen=True, slots=True)
class HandoverAsked:
    """An administrator wants an application or one flow on another network; `token` comes back in the answer."""

    token: int
    what: ApplicationName | FlowKey
    target: NetworkName


@dataclass(frozen=True, slots=True)
class FlowsAdopted:
    """Running flows that were another application's belong to this one now: the anchor should know their tunnel."""

    application: ApplicationName
    flows: tuple[FlowKey, ...]


@dataclass(frozen=True, slots=True)
class HeardByAnchor:
    """This happened to a tunnel of an association beside the usual one, that with `anchor`."""

    anchor: IPAddress
    what: HostEvent


HostEvent = (
    NetworkAppeared
    | NetworksRedescribed
    | NetworkVanished
    | PathFailed
    | PathNarrowed
    | SipDatagramReceived
    | BindingAnswerReceived
    | NetworkMetered
    | NetworkTestAsked
    | PortalChecked
    | TunnelSignalReceived
    | ApplicationDefined
    | ApplicationAssigned
    | ApplicationLocked
    | ClockRead
    | HandoverAsked
    | FlowsAdopted
    | HeardByAnchor
    | StopAsked
    | TimeoutReached
)
