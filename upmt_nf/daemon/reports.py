"""State -> the JSON of the reading commands. The keys are stable: other programs rely on them (docs/commands.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from upmt_nf.classify.reasons import Decider, Mechanism, Reason
from upmt_nf.daemon.applications import Application
from upmt_nf.daemon.network_trial import trial_report
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.mobility.host_commands import Receipt
from upmt_nf.mobility.host_status import ApplicationStatus, AssociationStatus, NetworkStatus
from upmt_nf.mobility.portal_checks import LeasePortal
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import ApplicationId, ApplicationName


def association_report(status: AssociationStatus, now: float) -> dict[str, Any]:
    """`association` of `status`."""
    return {
        "state": status.state,
        "anchor": str(status.anchor),
        "virtual_address": str(status.virtual_address) if status.virtual_address else None,
        "expires_in_s": round(status.expires_at - now, 1) if status.expires_at is not None else None,
        "failure": status.failure,
        "anchors": [
            {
                "address": str(anchor.address),
                "state": anchor.state,
                "reason": anchor.reason,
                "in_use": anchor.is_used,
                "applications": list(anchor.applications),
                "virtual_address": str(anchor.virtual_address) if anchor.virtual_address else None,
            }
            for anchor in status.anchors
        ],
    }


def network_report(status: NetworkStatus, interface: str, cost: float, lease: LeasePortal) -> dict[str, Any]:
    """One of `networks`."""
    return {
        "name": status.name,
        "interface": interface,
        "care_of_address": str(status.care_of_address) if status.care_of_address else None,
        "gateway": str(status.gateway) if status.gateway else None,
        "state": status.state,
        "reason": status.reason or None,
        "tunnel_id": status.tunnel_id,
        **measurement_report(status),
        "binding_time_s": _rounded(status.binding_time, 1),
        "keepalive_s": _rounded(status.keepalive, 2),
        "cost": cost,
        "metered": status.is_metered,
        "mtu": status.mtu or None,
        "trial": trial_report(status, lease),
    }


def measurement_report(status: NetworkStatus | None) -> dict[str, Any]:
    """What the probes tell of a path; at the anchor, which sends none, nothing."""
    return {
        "rtt_ms": _rounded(status.rtt_ms, 3) if status else None,
        "loss": _rounded(status.loss, 4) if status else None,
        "loss_up": _rounded(status.loss_up, 4) if status else None,
        "loss_down": _rounded(status.loss_down, 4) if status else None,
        "delay_variation_ms": {
            "up": _rounded(status.variation_up_ms, 3) if status else None,
            "down": _rounded(status.variation_down_ms, 3) if status else None,
        },
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def application_report(status: ApplicationStatus, flows: int, known: Application) -> dict[str, Any]:
    """One of `applications`."""
    return {
        "name": status.name,
        "network": None if known.is_native else status.network,
        "policy": ["native"] if known.is_native else list(status.policy),
        "policy_name": status.policy_name,
        "locked": status.locked,
        "copies_on": status.copies_on,
        "on_no_network": known.on_no_network,
        "anchor": str(status.anchor) if status.anchor is not None else None,
        "resolver": None if known.resolver is None else list(known.resolver) or "system",
        "is_left_alone": known.goes_native,
        "flows": flows,
        "match": list(known.conditions),
    }


def tunnel_report(
    tunnel: Tunnel,
    local: Endpoint | None,
    state: str,
    reflexive: Endpoint | None,
    status: NetworkStatus | None,
) -> dict[str, Any]:
    """One of `tunnels`; `status` is its network's at the mobile host."""
    return {
        "tunnel_id": tunnel.id,
        "network": tunnel.network or None,
        "virtual_address": str(tunnel.owner),
        "local": str(local) if local else None,
        "reflexive": str(reflexive) if reflexive else None,
        "remote": str(tunnel.remote),
        "anchor": str(tunnel.remote.address) if tunnel.network else None,
        "state": state,
        "mtu": tunnel.mtu,
        "packets_in": tunnel.packets_in,
        "bytes_in": tunnel.bytes_in,
        "packets_out": tunnel.packets_out,
        "bytes_out": tunnel.bytes_out,
        **measurement_report(status),
    }


def flow_report(
    entry: FlowEntry,
    carried: FlowEntry,
    paft: Paft,
    name_of: Callable[[ApplicationId], ApplicationName | None],
) -> dict[str, Any]:
    """One of `flows`. Packets and bytes are those of both directions together.

    `carried`: its entry in `paft`, that of the association which it goes by; `entry` itself in the usual one.
    """
    flow, tunnel = entry.flow, paft.tunnel_of(carried)
    return {
        "protocol": flow.protocol_name,
        "source": str(flow.source),
        "source_port": flow.source_port,
        "destination": str(flow.destination),
        "destination_port": flow.destination_port,
        "application": name_of(entry.application_id),
        "pid": entry.pid or None,
        "command": entry.command or None,
        "network": tunnel.network or None if tunnel is not None else None,
        "tunnel_id": tunnel.id if tunnel is not None else None,
        "copies_by": [other.id for other in _copies_of(carried, paft) if other is not tunnel],
        "packets": carried.packets_in + carried.packets_out,
        "bytes": carried.bytes_in + carried.bytes_out,
    }


def _copies_of(entry: FlowEntry, paft: Paft) -> Iterable[Tunnel]:
    """The tunnels that a redundant flow goes by as well: the host's application says so, at the anchor its packets."""
    if entry.copies is not None:
        return entry.copies
    return paft.doubles.get(entry.application_id, ()) if entry.pinned is None else ()


def classification_report(entry: FlowEntry, mechanism: Mechanism) -> dict[str, Any]:
    """How a flow was told from others; a part of one of `flows`."""
    reason = entry.why if isinstance(entry.why, Reason) else Reason(Decider.AGENT)
    return {
        "mechanism": mechanism.value,
        "decided_by": reason.decider.value,
        "found_by": reason.found_by.value if reason.found_by is not None else None,
        "is_guess": reason.is_guess,
    }


def receipt_report(receipt: Receipt) -> dict[str, Any]:
    """The answer to `handover`."""
    return {
        "application": receipt.application,
        "from": receipt.source,
        "to": receipt.target,
        "mode": receipt.mode.value,
        "flows": receipt.flows,
        "signalling_ms": round(receipt.signalling_ms, 3),
    }
