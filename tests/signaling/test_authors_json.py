"""The dialect of the authors' later implementation: read into our messages, answered in its own words."""

import json
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from message_strategies import JSON_VALUES, mutate
from wire_schema import complaints

from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import FlowKey
from upmt_nf.model.identity import TunnelId
from upmt_nf.signaling.authors_json import (
    AnchorList,
    AnchorListRequest,
    Associated,
    AuthorsBody,
    Done,
    KeepAlive,
    Refused,
    Unsupported,
    write_answers,
)
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.messages import (
    MAX_BODY,
    AssociationRequest,
    HandoverPair,
    HandoverRequest,
    HandoverResult,
    TunnelSetupRequest,
    TunnelSetupResponse,
)

VIPA = "1.2.3.4"
SOCKET = {"proto": "tcp", "vipa": VIPA, "srcPort": 2000, "dstIp": "86.0.0.1", "dstPort": 3000}
FLOW = FlowKey.parse("tcp:1.2.3.4:2000>86.0.0.1:3000")
CONTENTS: dict[str, dict[str, Any]] = {
    "AssociationReq": {"vipa": VIPA},
    "TunnelSetupReq": {"vipa": VIPA, "sipSignalingPort": 5060},
    "HandoverReq": {"vipa": VIPA, "tunnelId": 7, "socket": SOCKET},
    "KeepAlive": {"tunnelId": 7, "lastDelay": 12, "EWMA_delay": 12.5, "EWMA_loss": 0.0, "numberRetry": 1},
    "ANListReq": {},
    "SetHandoverModeReq": {"staticRule": "x"},
    "BrokerRegistrationReq": {"freeSlots": 4},
}


def signal(kind: str, **changed: Any) -> dict[str, Any]:
    return {"MType": kind, "MContent": {"sipId": "sip:mh@upmt"} | CONTENTS[kind] | changed}


def read(*signals: Any) -> AuthorsBody:
    body = decode(json.dumps(list(signals)).encode())
    assert isinstance(body, AuthorsBody)
    return body


def written(body: AuthorsBody, *answers: Done) -> list[dict[str, Any]]:
    found = json.loads(write_answers(body, answers))
    assert complaints("authors", found) == []
    assert isinstance(found, list)
    return found


def test_each_request_becomes_ours() -> None:
    body = read(*map(signal, CONTENTS))
    assert [signal.kind for signal in body.signals] == list(CONTENTS)
    assert {signal.identity for signal in body.signals} == {"mh@upmt"}
    *understood, mode, broker = (signal.asked for signal in body.signals)
    assert understood == [
        AssociationRequest(3600, ip_address(VIPA)),
        TunnelSetupRequest("", ip_address(VIPA)),
        HandoverRequest("", (HandoverPair((FLOW,), (TunnelId(7),)),)),
        KeepAlive(tuple(CONTENTS["KeepAlive"].items())),
        AnchorListRequest(),
    ]
    assert isinstance(mode, Unsupported)
    assert isinstance(broker, Unsupported)


@pytest.mark.parametrize("vipa", [None, "", "0.0.0.0", "::"])
def test_the_first_association_has_no_address_yet(vipa: str | None) -> None:
    (found,) = read(signal("AssociationReq", vipa=vipa)).signals
    assert found.asked == AssociationRequest(3600)


def test_minus_one_and_nothing_are_the_tunnel_that_the_message_came_by() -> None:
    without = signal("HandoverReq")
    del without["MContent"]["tunnelId"]
    for request in (signal("HandoverReq", tunnelId=-1), without):
        (found,) = read(request).signals
        assert found.asked == HandoverRequest("", (HandoverPair((FLOW,)),))


def test_one_signal_may_stand_alone() -> None:
    assert decode(json.dumps(signal("ANListReq")).encode()) == read(signal("ANListReq"))


def test_answers_have_the_length_and_the_order_of_the_requests() -> None:
    body = read(*map(signal, CONTENTS))
    found = written(
        body,
        Associated(ip_address(VIPA), 1800),
        TunnelSetupResponse(TunnelId(9), ip_address("160.80.100.1"), 33000),
        HandoverResult(True, TunnelId(7), 1),
        KeepAlive(tuple(CONTENTS["KeepAlive"].items())),
        AnchorList((ip_address("45.0.0.1"),)),
        Refused("no modes"),
        Refused("no broker"),
    )
    assert [item["MType"] for item in found] == [
        "AssociationResp", "TunnelSetupResp", "HandoverResp", "KeepAlive", "ANListResp",
        "SetHandoverModeResp", "BrokerRegistrationResp",
    ]  # fmt: skip
    contents = [item["MContent"] for item in found]
    assert all(content.pop("sipId") == "mh@upmt" for content in contents)
    assert contents == [
        {"vipa": VIPA, "tsa": 1800, "associationSuccess": True},
        {"serverTunnelID": 9, "yourAddress": "160.80.100.1", "yourPort": 33000},
        {"vipa": VIPA, "tunnelId": 7, "socket": SOCKET, "handoverSuccess": True},
        CONTENTS["KeepAlive"],
        {"anList": ["45.0.0.1"], "broker": False},
        {"success": False, "reason": "no modes"},
        {"success": False, "reason": "no broker"},
    ]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("AssociationReq", {"associationSuccess": False, "reason": "no"}),
        ("TunnelSetupReq", {"serverTunnelID": -1, "reason": "no"}),
        (
            "HandoverReq",
            {"vipa": VIPA, "tunnelId": -1, "socket": SOCKET, "handoverSuccess": False, "reason": "no"},
        ),
    ],
)
def test_a_refusal_has_the_form_of_its_answer(kind: str, expected: dict[str, Any]) -> None:
    (found,) = written(read(signal(kind)), Refused("no"))
    assert found["MContent"] == {"sipId": "mh@upmt"} | expected


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"MType": 5, "MContent": {}}, "'MType'"),
        ({"MType": "HandoverReq"}, "'MContent'"),
        ({"MType": "HandoverReq", "MContent": []}, "'MContent'"),
        ({"MType": "Hello", "MContent": {"sipId": "x"}}, "no request 'Hello'"),
        ({"MType": "HandoverResp", "MContent": {"sipId": "x"}}, "no request 'HandoverResp'"),
        (signal("ANListReq", sipId=None), "'sipId'"),
        (signal("ANListReq", sipId="sip:"), "'sipId'"),
        (signal("ANListReq", sipId="a b"), "'sipId'"),
        (signal("ANListReq", sipId="a\nb"), "'sipId'"),
        (signal("ANListReq", sipId="x" * 257), "'sipId'"),
        (signal("AssociationReq", vipa="fe80::1%eth0"), "'vipa'"),
        (signal("TunnelSetupReq", vipa=None), "'vipa'"),
        (signal("TunnelSetupReq", sipSignalingPort=65536), "'sipSignalingPort'"),
        (signal("HandoverReq", tunnelId=0), "'tunnelId'"),
        (signal("HandoverReq", tunnelId=-2), "'tunnelId'"),
        (signal("HandoverReq", tunnelId=2**32), "'tunnelId'"),
        (signal("HandoverReq", tunnelId="7"), "'tunnelId'"),
        (signal("HandoverReq", tunnelId=True), "'tunnelId'"),
        (signal("HandoverReq", vipa="1.2.3.5"), "another 'vipa'"),
        (signal("HandoverReq", socket=None), "'socket'"),
        (signal("HandoverReq", socket=SOCKET | {"proto": "xyz"}), "'proto'"),
        (signal("HandoverReq", socket=SOCKET | {"srcPort": 65536}), "'srcPort'"),
        (signal("HandoverReq", socket=SOCKET | {"dstIp": "::1"}), "two families"),
        (signal("HandoverReq", socket=SOCKET | {"dstPort": "80"}), "'dstPort'"),
        (signal("KeepAlive", lastDelay="fast"), "'lastDelay'"),
        (signal("KeepAlive", lastDelay=2**63), "'lastDelay'"),
        (signal("KeepAlive", numberRetry=True), "'numberRetry'"),
    ],
)
def test_wrong_signals_are_refused_with_the_reason(wrong: Any, word: str) -> None:
    for body in (wrong, [wrong], [signal("ANListReq"), wrong]):
        with pytest.raises(PeerError, match=word):
            decode(json.dumps(body).encode())


def test_a_body_holds_at_most_64_signals() -> None:
    small = {"MType": "ANListReq", "MContent": {"sipId": "x"}}
    assert len(read(*[small] * 64).signals) == 64
    with pytest.raises(PeerError, match="more than 64"):
        read(*[small] * 65)


def answered_whatever_it_says(body: bytes) -> None:
    """Read it, and if that is possible, answer it in every way that fits."""
    try:
        message = decode(body)
    except PeerError:
        return
    if isinstance(message, AuthorsBody):
        written(message, *(Refused("no") for _ in message.signals))
        for found in message.signals:
            if isinstance(found.asked, KeepAlive):
                written(AuthorsBody((found,)), found.asked)
            if isinstance(found.asked, HandoverRequest):
                written(AuthorsBody((found,)), HandoverResult(True, TunnelId(7), 1))


@given(st.lists(st.sampled_from(sorted(CONTENTS)), min_size=1, max_size=4), st.data())
@settings(max_examples=300)
def test_no_mutated_signals_raise_anything_but_a_peer_error(kinds: list[str], data: st.DataObject) -> None:
    document = json.loads(json.dumps([signal(kind) for kind in kinds]))
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(document, data)
    answered_whatever_it_says(json.dumps(document).encode())


@given(st.dictionaries(st.sampled_from(["MType", "MContent", "sipId"]), JSON_VALUES), st.booleans())
def test_no_json_with_mtype_raises_anything_but_a_peer_error(value: dict[str, Any], is_many: bool) -> None:
    whole = {"MType": "KeepAlive"} | value
    answered_whatever_it_says(json.dumps([whole] if is_many else whole).encode())


@given(st.integers(0, MAX_BODY), st.binary(max_size=30))
@example(0, b"[" * 30)
def test_no_mutated_bytes_raise_anything_but_a_peer_error(place: int, other: bytes) -> None:
    body = json.dumps([signal(kind) for kind in CONTENTS]).encode()
    place %= len(body)
    answered_whatever_it_says(body[:place] + other + body[place + len(other) :])


@pytest.mark.parametrize(
    "body",
    [
        b'[{"MType":"KeepAlive","MContent":{"sipId":"x","more":' + b"[" * 3900 + b"]" * 3900 + b"}}]",
        b'[{"MType":"KeepAlive","MContent":{"sipId":"x","lastDelay":1e999}}]',
        b'[{"MType":"KeepAlive","MContent":{"sipId":"x","lastDelay":' + b"9" * 4000 + b"}}]",
        b'[{"MType":"KeepAlive","MContent":{"sipId":"\\ud800"}}]',
        b'[{"MType":"ANListReq","MType":"ANListReq"}]',
    ],
)
def test_what_only_an_attacker_sends(body: bytes) -> None:
    assert len(body) <= MAX_BODY
    answered_whatever_it_says(body)
