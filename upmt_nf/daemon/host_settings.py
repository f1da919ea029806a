"""The configuration and what is remembered -> what the mobile host's machine is told at its start. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from upmt_nf.config.mobile_host import MobileHostConfig
from upmt_nf.mobility.binding_time import BindingTime
from upmt_nf.mobility.settings import AnchorPeer, HostSettings
from upmt_nf.model.identity import NetworkName, TerminalId
from upmt_nf.policy.budget import Ledger
from upmt_nf.policy.policy import Policy


def host_settings(
    config: MobileHostConfig,
    secrets: Sequence[str | None],
    binding_times: Mapping[str, BindingTime],
    default_policy: Policy | tuple[str, ...],
    ledger: Ledger,
) -> HostSettings:
    """`secrets`: shared with each anchor, in the order of the file."""
    host = config.mobile_host
    first, *further = (
        AnchorPeer(
            anchor.address,
            TerminalId(config.identity_at(anchor)),
            anchor.tunnel_port,
            anchor.signalling_port,
            secret,
            anchor.further_tunnel_ports,
            anchor.ipv6_address,
        )
        for anchor, secret in zip(config.anchors, secrets, strict=True)
    )
    return HostSettings(
        identity=first.identity,
        anchor=first.address,
        networks=tuple(NetworkName(section.name) for section in config.network),
        tunnel_port=first.tunnel_port,
        signalling_port=first.signalling_port,
        keepalive_interval=host.keepalive_interval,
        rekey_after=host.rekey_after,
        rekey_after_packets=host.rekey_after_packets,
        idle_after=host.idle_after,
        keepalive_idle=host.keepalive_idle,
        keepalive_longest=host.keepalive_longest,
        probe_binding_time=host.probe_binding_time,
        search_path_mtu=host.search_path_mtu,
        probe_filters=host.probe_filters,
        checks_portals=host.portal_check is not None,
        binding_times=binding_times,
        return_after=host.return_after,
        lifetime=host.lease_time,
        default_policy=default_policy,
        facts=config.facts(),
        signalling=config.signalling.networks,
        ledger=ledger,
        secret=first.secret,
        further_tunnel_ports=first.further_tunnel_ports,
        anchor_ipv6=first.ipv6_address,
        further_anchors=tuple(further),
        protection={NetworkName(section.name): section.protection for section in config.network},
    )
