"""Messages -> compact JSON, and long lists of flows cut so that each message fits its datagram."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from upmt_nf.model.flow import PROTOCOL_NAMES, FlowKey, application_meant, is_stand_in
from upmt_nf.model.names import MAX_APPLICATION_ID
from upmt_nf.signaling.messages import (
    VERSION,
    AnchorNotice,
    AssociationRequest,
    AssociationResponse,
    FlowCount,
    FlowCountsRequest,
    FlowCountsResponse,
    FlowSelector,
    HandoverPair,
    HandoverRequest,
    HandoverResponse,
    HandoverResult,
    IptablesMatch,
    NoticeAnswer,
    TunnelSetupRequest,
    TunnelSetupResponse,
    UpmtMessage,
)

_COMPACT = json.JSONEncoder(separators=(",", ":"))


def encode(message: UpmtMessage) -> bytes:
    """A message as compact JSON."""
    return _COMPACT.encode(_document(message)).encode()


def split_pairs(pairs: Iterable[HandoverPair], max_bytes: int) -> Iterator[tuple[HandoverPair, ...]]:
    """Pairs in groups whose JSON stays under `max_bytes`, long lists of flows cut in several; nothing is left out."""
    group: list[HandoverPair] = []
    room = max_bytes
    for pair in pairs:
        rest = pair.match if isinstance(pair.match, tuple) else ()
        # Each with the comma behind it.
        bare = _size(_pair(replace(pair, match=()) if rest else pair)) + 1
        costs = [_size(_flow(flow)) + 1 for flow in rest]
        while True:
            taken, used = _fitting(costs, room - bare) if rest else (0, 0)
            if group and (bare + used > room or (rest and not taken)):
                yield tuple(group)
                group, room = [], max_bytes
                continue
            if rest:
                taken = max(taken, 1)
                group.append(replace(pair, match=rest[:taken]))
                rest, costs = rest[taken:], costs[taken:]
            else:
                group.append(pair)
            room -= bare + used
            if not rest:
                break
    if group:
        yield tuple(group)


def _fitting(costs: list[int], room: int) -> tuple[int, int]:
    """How many of the first fit, and what they cost."""
    used = 0
    for taken, cost in enumerate(costs):
        if used + cost > room:
            return taken, used
        used += cost
    return len(costs), used


def _size(value: object) -> int:
    return len(_COMPACT.encode(value))


def flows_in_groups(flows: tuple[FlowKey, ...], max_bytes: int) -> list[tuple[FlowKey, ...]]:
    """Flows in groups, each for a request of its own in which it takes `max_bytes`, or is one flow alone."""
    groups = split_pairs((HandoverPair(flows),), max_bytes)
    return [pair.match for group in groups for pair in group if isinstance(pair.match, tuple)]


def pair_size(pair: HandoverPair) -> int:
    """Bytes that a pair takes in a body, the comma before it included."""
    return _size(_pair(pair)) + 1


def packed_size(flow: FlowKey) -> int:
    """Bytes that one more flow takes in a packed list, at most."""
    if is_stand_in(flow.packed()):
        return len(str(flow.source_port)) + 1
    return (len(flow.source.packed) + 5) // 3 * 4


PACKED_APPLICATIONS = len(',"applications":[]')
"""Bytes that the first application takes beside its number."""


# --- writing ---


def _document(message: UpmtMessage) -> dict[str, Any]:
    match message:
        case AssociationRequest():
            found: dict[str, Any] = {"mType": "AssociationRequest", "expires": message.expires}
            if message.virtual_address is not None:
                found["VIpAddr"] = str(message.virtual_address)
            if message.key is not None:
                found["key"] = message.key.hex()
        case AssociationResponse():
            found = {
                "mType": "AssociationResponse",
                "VIpAddr": str(message.virtual_address),
                "association": message.association,
                "expires": message.expires,
            }
            if message.key is not None:
                found["key"] = message.key.hex()
        case TunnelSetupRequest():
            found = {
                "mType": "TunnelSetupRequest",
                "association": message.association,
                "VIpAddr": str(message.virtual_address),
            }
            if message.network is not None:
                found["network"] = message.network
            if message.format != "plain":
                found["format"] = message.format
            if message.mtu:
                found["mtu"] = message.mtu
            if message.avoid:
                found["avoid"] = list(message.avoid)
            if message.handover:
                found["pairs"] = [_pair(pair) for pair in message.handover]
        case TunnelSetupResponse():
            found = {
                "mType": "TunnelSetupResponse",
                "tunnelID": str(message.tunnel_id),
                "yourAddress": str(message.your_address),
                "yourPort": message.your_port,
            }
            if message.format != "plain":
                found["format"] = message.format
            if message.key_id or message.salt is not None:
                found["keyID"] = message.key_id
            if message.salt is not None:
                found["salt"] = message.salt.hex()
            if message.knows_applications:
                found["applications"] = True
            if message.copies:
                found["copies"] = True
            if message.reads_packed:
                found["packed"] = True
            if message.results:
                found["results"] = [_result(result) for result in message.results]
        case HandoverRequest():
            found = {"mType": "HandoverRequest", "association": message.association}
            if len(message.pairs) == 1:
                found |= _pair(message.pairs[0])
            else:
                found["pairs"] = [_pair(pair) for pair in message.pairs]
        case HandoverResponse():
            found = {"mType": "HandoverResponse", "results": [_result(result) for result in message.results]}
        case AnchorNotice():
            found = {
                "mType": "AnchorNotice",
                "kind": message.kind,
                "reason": message.reason,
                "association": message.association,
            }
            if message.tunnel_id is not None:
                found["tunnelID"] = str(message.tunnel_id)
        case NoticeAnswer():
            found = {"mType": "NoticeAnswer"}
        case FlowCountsRequest():
            found = {
                "mType": "FlowCountsRequest",
                "association": message.association,
                "flows": [_flow(flow) for flow in message.flows],
            }
            if message.takes_readings:
                found["takesReadings"] = True
        case FlowCountsResponse():
            found = {
                "mType": "FlowCountsResponse",
                "counts": [None if count is None else _count(count) for count in message.counts],
            }
    return found | {"version": VERSION}


def _count(count: FlowCount) -> list[int]:
    found = [count.received, count.sent, count.late, count.gap_ms]
    return [*found, 1] if count.is_reading else found


def _pair(pair: HandoverPair) -> dict[str, Any]:
    is_packed = pair.is_packed and isinstance(pair.match, tuple) and len(pair.match) > 0
    found: dict[str, Any] = {"match": _packed(pair.match) if is_packed else _selector(pair.match)}
    if pair.tunnels:
        found["tunnelID"] = [str(tunnel) for tunnel in pair.tunnels]
    if pair.application:
        found["application"] = pair.application
    return found


def _selector(match: FlowSelector) -> dict[str, Any]:
    match match:
        case IptablesMatch():
            return {"syntax": "IPtables", "match": match.text}
        case tuple():
            return {"syntax": "flows", "match": [_flow(flow) for flow in match]}
        case _:
            return {"syntax": "any"}


def _packed(flows: FlowSelector) -> dict[str, Any]:
    """Flows of one source: applications by their numbers, the others as the packet path keys them, but the source."""
    assert isinstance(flows, tuple), "only flows are packed"
    applications: list[int] = []
    packed = b""
    for key in (flow.packed() for flow in flows):
        if is_stand_in(key) and (number := application_meant(key)) <= MAX_APPLICATION_ID:
            applications.append(number)
        else:
            packed += key[:1] + key[1 + (len(key) - 5) // 2 :]
    found = {"syntax": "packed", "source": str(flows[0].source), "match": b64encode(packed).decode()}
    return found | ({"applications": applications} if applications else {})


def _flow(flow: FlowKey) -> list[str | int]:
    protocol: str | int = PROTOCOL_NAMES.get(flow.protocol, flow.protocol)
    return [protocol, str(flow.source), flow.source_port, str(flow.destination), flow.destination_port]


def _result(result: HandoverResult) -> dict[str, Any]:
    found: dict[str, Any] = {"accepted": result.accepted, "flows": result.flows}
    if result.tunnel_id is not None:
        found["tunnelID"] = str(result.tunnel_id)
    if result.reason is not None:
        found["reason"] = result.reason
    return found
