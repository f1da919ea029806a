"""What the placement wants the anchor to know about flows: sent by the mobile host's signalling, and the answers."""

from __future__ import annotations

from collections.abc import Mapping

from upmt_nf.mobility.association import HostAssociation
from upmt_nf.mobility.host_answers import Refusal, read_counts, read_handover
from upmt_nf.mobility.host_signalling import Counting, HostSignalling, Moving, Naming
from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.joint_requests import joined
from upmt_nf.mobility.running_handovers import RunningHandovers
from upmt_nf.model.identity import NetworkName
from upmt_nf.signaling.sip.message import Response


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
        running.cancelled.clear()
        ended = signalling.cancel(
            lambda purpose: isinstance(purpose, Moving) and not dropped.isdisjoint(purpose.requests)
        )
        # What went together with it is still wanted, but not as it stood there: it may be sent under another number.
        going_on = (purpose.requests for purpose in ended if isinstance(purpose, Moving))
        running.ask_again((request for each in going_on for request in each if request not in dropped), now)
    token, address = association.token, association.virtual_address
    requests, running.requests = running.requests, []
    counts, running.tallies.requests = running.tallies.requests, []
    names, running.naming.requests = running.naming.requests, []
    if token is not None and address is not None:
        for count in counts:
            signalling.count(token, address, count, tunnels[count.network].mtu, now)
        for request in joined(requests, running.room):
            signalling.move(token, address, request, running.room(request.network), now)
        for name in names:
            signalling.name(token, address, name, running.room(name.network), now)


def hear_flow_answer(
    running: RunningHandovers,
    purpose: Moving | Counting | Naming,
    response: Response | None,
    tunnels: Mapping[NetworkName, HostTunnel],
    now: float,
) -> str | None:
    """Pass on what the anchor says to one of them (None: nothing, in time); gives why our association is no more."""
    match purpose:
        case Counting(network, count):
            running.tallies.answer(count, read_counts(response), tunnels[network].rtt or 0.0, now)
        case Naming(_, names):
            answer = read_handover(response) if response is not None else None
            is_refused = isinstance(answer, Refusal)
            running.naming.answer(names, answer is not None and not is_refused, is_refused, now)
        case Moving(_, requests) if response is None:
            running.give_up(requests, now)
        case Moving(_, requests):
            assert response is not None
            answer = read_handover(response)
            if not isinstance(answer, Refusal):
                running.confirm(requests, sum(result.flows for result in answer), now)
                return None
            running.refuse(requests, answer.reason, now)
            return answer.reason if answer.is_disowned else None
    return None
