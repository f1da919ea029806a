"""The anchor's half of a handover's receipt: what it got and sent of some flows, as it stands when it is asked.

The question travels behind the packets that the host counted, the answer behind those that the anchor counted:
where a path keeps the order, what one end sent and the other did not get is lost. So a flow is not told of when the
question came by another tunnel than the flow's own. Where the kernel forwards, packets go on while the agent reads:
such a count is said to be a reading, for hosts that know what to make of it.
"""

from __future__ import annotations

from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.model.flow import FlowKey, IPAddress
from upmt_nf.signaling.messages import FlowCount, FlowCountsRequest, FlowCountsResponse


def counts_of(
    paft: Paft, owner: IPAddress, asked: FlowCountsRequest, came_by: Tunnel, most: int
) -> FlowCountsResponse:
    """The first `most` of the flows. Those that are not the owner's are unknown to it."""
    counts = (_count(paft, owner, flow, came_by) for flow in asked.flows[:most])
    return FlowCountsResponse(
        tuple(
            None if count is None or (count.is_reading and not asked.takes_readings) else count
            for count in counts
        )
    )


def _count(paft: Paft, owner: IPAddress, flow: FlowKey, came_by: Tunnel) -> FlowCount | None:
    entry = paft.flows.get(flow.packed()) if flow.source == owner else None
    if entry is None:
        return None
    # First: the kernel may have learnt another tunnel for it.
    seen = paft.mirror.look_at(entry) if paft.mirror is not None else None
    if paft.tunnel_of(entry) is not came_by:
        return None
    arrivals = entry.arrivals
    late, gap = (arrivals.late, arrivals.gap) if arrivals is not None else (0, 0.0)
    if seen is not None:
        late, gap = late + seen.late, seen.gap
    return FlowCount(entry.packets_out, entry.packets_in, late, round(1000 * gap), seen is not None)
