"""JSON bodies: a message or a PeerError; what was read is written and read again as the same."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import TCP, UDP, FlowKey
from upmt_nf.model.identity import TunnelId
from upmt_nf.signaling.authors_json import AuthorsBody, Refused, write_answers
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import (
    ANY,
    AnchorNotice,
    AssociationRequest,
    AssociationResponse,
    FlowCount,
    FlowCountsRequest,
    FlowCountsResponse,
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


def check(data: bytes) -> None:
    try:
        message = decode(data)
    except PeerError as reason:
        assert len(str(reason)) < 400
        return
    if isinstance(message, AuthorsBody):
        answers = [Refused("not today")] * len(message.signals)
        assert len(json.loads(write_answers(message, answers))) == len(answers)
        return
    written = encode(message)
    # An address may grow from `::` to nothing longer; a short `any` or a lone tunnel gets its brackets.
    assert len(written) <= 8 * len(data) + 400
    if len(written) <= 8192:
        assert decode(written) == message


def seeds() -> list[bytes]:
    host, six = ip_address("1.2.3.4"), ip_address("2001:db8::4")
    voice = FlowKey(UDP, host, 2000, ip_address("86.0.0.1"), 3000)
    web = FlowKey(TCP, six, 2001, ip_address("2001:db8::1"), 443)
    pairs = (
        HandoverPair((voice, web), (TunnelId(7), ANY)),
        HandoverPair(ANY),
        HandoverPair(IptablesMatch("-p tcp -destination 160.80.81.1 -destination-port 80"), (ANY,)),
    )
    results = (HandoverResult(True, TunnelId(7), 3), HandoverResult(False, reason="no such tunnel"))
    messages: tuple[UpmtMessage, ...] = (
        AssociationRequest(3600, host, b"k" * 32),
        AssociationRequest(0),
        AssociationResponse(six, "token", 3600, b"k" * 32),
        TunnelSetupRequest("token", host, "net0", pairs, "sealed"),
        TunnelSetupResponse(TunnelId(7), host, 4000, results, "sealed", 3, b"s" * 16),
        HandoverRequest("token", pairs),
        HandoverRequest("", pairs[:1]),
        HandoverResponse(results),
        AnchorNotice("going-down", "stopped"),
        NoticeAnswer(),
        FlowCountsRequest("t", ()),
        FlowCountsResponse((FlowCount(3, 2, 1, 0), None)),
    )
    return [encode(message) for message in messages] + [_in_the_authors_words()]


def _in_the_authors_words() -> bytes:
    socket = {"proto": "udp", "vipa": "1.2.3.4", "srcPort": 2000, "dstIp": "86.0.0.1", "dstPort": 3000}
    contents: dict[str, dict[str, Any]] = {
        "AssociationReq": {"vipa": "1.2.3.4"},
        "TunnelSetupReq": {"vipa": "1.2.3.4", "sipSignalingPort": 5060},
        "HandoverReq": {"vipa": "1.2.3.4", "tunnelId": 7, "socket": socket},
        "KeepAlive": {"tunnelId": 7, "lastDelay": 12, "EWMA_delay": 12.5, "EWMA_loss": 0.0, "numberRetry": 1},
        "ANListReq": {},
    }
    signals = [
        {"MType": kind, "MContent": {"sipId": "sip:mh@upmt"} | content} for kind, content in contents.items()
    ]
    return json.dumps(signals).encode()
