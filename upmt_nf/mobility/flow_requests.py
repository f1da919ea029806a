"""What the placement wants the anchor to know about flows, put into words and sent by the mobile host's signalling."""

from __future__ import annotations

from collections.abc import Mapping

from upmt_nf.mobility.association import HostAssociation
from upmt_nf.mobility.host_signalling import HostSignalling, Moving
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.running_handovers import RunningHandovers
from upmt_nf.model.identity import NetworkName


def send_flow_requests(
    running: RunningHandovers,
    signalling: HostSignalling,
    association: HostAssociation,
    tunnels: Mapping[NetworkName, HostTunnel],
    now: float,
) -> None:
    """Take moves, counts and names, and give up what is not wanted any more."""
    if running.cancelled:
        dropped = set(running.cancelled)
        signalling.cancel(lambda purpose: isinstance(purpose, Moving) and purpose.request in dropped)
        running.cancelled.clear()
    token, address = association.token, association.virtual_address
    requests, running.requests = running.requests, []
    counts, running.tallies.requests = running.tallies.requests, []
    names, running.naming.requests = running.naming.requests, []
    if token is not None and address is not None:
        for count in counts:
            signalling.count(token, address, count, tunnels[count.network].mtu, now)
        for request in requests:
            signalling.move(request.handover.target, token, address, request, now)
        for name in names:
            signalling.name(token, address, name, now)
