"""The anchor's half of a handover's receipt: what it got and sent of some flows, as it stands when it is asked.

The question travels behind the packets that the host counted, the answer behind those that the anchor counted:
where a path keeps the order, what one end sent and the other did not get is lost. So a flow is not told of when the
question came by another tunnel than the flow's own, nor where the kernel forwards, whose counts come late.
"""

from __future__ import annotations

from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.model.flow import FlowKey, IPAddress
from upmt_nf.signaling.messages import FlowCount, FlowCountsResponse


def counts_of(
    paft: Paft, owner: IPAddress, flows: tuple[FlowKey, ...], came_by: Tunnel, most: int
) -> FlowCountsResponse:
    """The first `most` of the flows. Those that are not the owner's are unknown to it."""
    return FlowCountsResponse(tuple(_count(paft, owner, flow, came_by) for flow in flows[:most]))


def _count(paft: Paft, owner: IPAddress, flow: FlowKey, came_by: Tunnel) -> FlowCount | None:
    entry = paft.flows.get(flow.packed()) if flow.source == owner else None
    if entry is None or paft.tunnel_of(entry) is not came_by or paft.mirror is not None:
        return None
    arrivals = entry.arrivals
    late, gap = (arrivals.late, round(1000 * arrivals.gap)) if arrivals is not None else (0, 0)
    return FlowCount(entry.packets_out, entry.packets_in, late, gap)
