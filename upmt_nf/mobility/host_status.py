"""The mobile host's state as values to show; nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass

from upmt_nf.mobility.advisor import PLAIN_LIST, Advisor
from upmt_nf.mobility.applications import Application
from upmt_nf.mobility.filter_trial import FilterResult
from upmt_nf.mobility.host_anchors import HostAnchors
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.network_test import TestResult
from upmt_nf.mobility.portal_checks import Portal
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import ApplicationId, ApplicationName, NetworkName, TunnelId


@dataclass(frozen=True, slots=True)
class AnchorStatus:
    """One of the configured anchors; `state` is a value of AssociationState, `reason` why there is no association."""

    address: IPAddress
    state: str
    reason: str | None
    is_used: bool
    virtual_address: IPAddress | None
    """Leased by it now, or the last time."""
    applications: tuple[ApplicationName, ...] = ()
    """Those that go by it whichever one the others use."""


@dataclass(frozen=True, slots=True)
class AssociationStatus:
    """`state` is a value of AssociationState; `expires_at` in the clock of `now`."""

    state: str
    anchor: IPAddress
    virtual_address: IPAddress | None
    expires_at: float | None
    failure: str | None
    """Why there is no association, when there is none."""
    anchors: tuple[AnchorStatus, ...]
    """All of them, in the order in which they are asked."""


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """`state` is a value of TunnelState; `mtu` the largest inner packet (bytes); losses from 0 to 1.

    What is measured is None until there is a figure; `loss` is both ways together.
    """

    name: NetworkName
    index: int
    interface: str | None
    care_of_address: IPAddress | None
    gateway: IPAddress | None
    state: str
    reason: str
    tunnel_id: TunnelId | None
    reflexive: Endpoint | None
    rtt_ms: float | None
    loss: float
    mtu: int
    loss_up: float | None = None
    loss_down: float | None = None
    variation_up_ms: float | None = None
    variation_down_ms: float | None = None
    binding_time: float | None = None
    """The longest silence that the NAT on the way is known to forgive, seconds."""
    keepalive: float = 0.0
    """Between two keepalives while the tunnel is idle, seconds."""
    anchor_port: int = 0
    """Which of the anchor's tunnel ports it goes to; 0: the first."""
    test: TestResult | None = None
    """What its last test has found."""
    path_mtu: int | None = None
    """The largest inner packet that is known to pass both ways, bytes."""
    portal: Portal | None = None
    """What was found by HTTP while it had no tunnel."""
    filters: FilterResult | None = None
    """What its filters do to unusual packets."""
    ipv6: IPAddress | None = None
    """Its global IPv6 address."""
    is_metered: bool = False
    """Somebody pays by the byte."""
    is_sip_changed: bool | None = None
    """Somebody on the way writes other things into the host's SIP."""
    limit: float | None = None
    """What it was seen to carry at most a moment ago, when it was full, bit/s."""


@dataclass(frozen=True, slots=True)
class ApplicationStatus:
    """`policy`: networks, best first, `any` for all others; `network`: where it is now."""

    name: ApplicationName
    id: ApplicationId
    policy: tuple[str, ...]
    network: NetworkName | None
    is_moving: bool
    policy_name: str | None = None
    """Of the policy that decides; None: it goes by its list of networks."""
    locked: NetworkName | None = None
    """A person wants it there and nowhere else."""
    copies_on: NetworkName | None = None
    """The network by which its packets go as well."""
    anchor: IPAddress | None = None
    """The one that it goes by whichever the others use."""


def association_status(anchors: HostAnchors) -> AssociationStatus:
    """The association now."""
    association = anchors.used.association
    return AssociationStatus(
        association.state.value,
        anchors.used.address,
        association.virtual_address,
        association.expires_at,
        association.failure,
        tuple(
            AnchorStatus(
                anchor.address,
                anchor.state,
                anchor.association.failure,
                anchor is anchors.used,
                anchor.association.virtual_address,
            )
            for anchor in anchors.all
        ),
    )


def network_status(
    tunnel: HostTunnel,
    binding_time: float | None = None,
    test: TestResult | None = None,
    path_mtu: int | None = None,
    portal: Portal | None = None,
    filters: FilterResult | None = None,
    *,
    is_metered: bool = False,
    limit: float | None = None,
    is_sip_changed: bool | None = None,
) -> NetworkStatus:
    """A network and its tunnel now."""
    loss_up, loss_down = tunnel.measured.losses
    return NetworkStatus(
        name=tunnel.network,
        index=tunnel.index,
        interface=tunnel.interface,
        care_of_address=tunnel.care_of_address,
        gateway=tunnel.gateway,
        state=tunnel.state.value,
        reason=tunnel.reason,
        tunnel_id=tunnel.tunnel.id if tunnel.tunnel is not None else None,
        reflexive=tunnel.reflexive,
        rtt_ms=_milliseconds(tunnel.rtt),
        loss=round(tunnel.loss, 4),
        mtu=tunnel.mtu,
        loss_up=loss_up,
        loss_down=loss_down,
        variation_up_ms=_milliseconds(tunnel.measured.up.value),
        variation_down_ms=_milliseconds(tunnel.measured.down.value),
        binding_time=binding_time,
        keepalive=tunnel.resting.keepalive,
        anchor_port=tunnel.anchor_port,
        test=test,
        path_mtu=path_mtu,
        portal=portal,
        filters=filters,
        ipv6=tunnel.ipv6,
        is_metered=is_metered,
        limit=limit,
        is_sip_changed=is_sip_changed,
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def application_status(application: Application, advisor: Advisor) -> ApplicationStatus:
    """An application now."""
    policy = advisor.policy_of(application.name)
    return ApplicationStatus(
        application.name,
        application.id,
        application.policy,
        application.network,
        application.handover is not None,
        policy.name if policy is not None and policy.name != PLAIN_LIST else None,
        advisor.lock_of(application.name),
        application.copies_on,
    )
