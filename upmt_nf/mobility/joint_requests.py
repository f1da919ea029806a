"""What several handovers want to tell the anchor at one moment, in as few requests as there is room for.

When a network falls, all its applications move by one exchange. Each handover keeps its own request, answer and
receipt: nothing of it is split or lost here. Knows neither SIP nor PAFT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from upmt_nf.mobility.handover import FlowRequest
from upmt_nf.model.flow import FlowKey
from upmt_nf.model.identity import NetworkName
from upmt_nf.signaling.flow_room import FlowRoom


@dataclass(frozen=True, slots=True)
class JointRequest:
    """Requests of one network that go in one message, and `flows`, all that they name."""

    network: NetworkName
    requests: tuple[FlowRequest, ...]
    flows: tuple[FlowKey, ...]


def joined(requests: Iterable[FlowRequest], room: Callable[[NetworkName], FlowRoom]) -> list[JointRequest]:
    """Those of the same network together, as many as one message has room for, in their order."""
    found: list[JointRequest] = []
    filling: dict[NetworkName, int] = {}
    """Which of `found` more may go into."""
    for request in requests:
        network = request.handover.target
        place = None if request.is_alone else filling.get(network)
        if place is not None:
            flows = tuple(dict.fromkeys((*found[place].flows, *request.flows)))
            if room(network).holds(flows):
                found[place] = JointRequest(network, (*found[place].requests, request), flows)
                continue
        if not request.is_alone:
            filling[network] = len(found)
        found.append(JointRequest(network, (request,), request.flows))
    return found
