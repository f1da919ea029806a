"""The JSON bodies: what is written is read, nothing else is, and nothing raises but PeerError."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from message_strategies import JSON_VALUES, MESSAGES, ONE_OF_EACH, mutate

from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import FlowKey
from upmt_nf.model.identity import TunnelId
from upmt_nf.signaling.authors_json import AuthorsBody
from upmt_nf.signaling.iptables_match import parse_match
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import (
    ANY,
    MAX_BODY,
    AnchorNotice,
    AssociationRequest,
    AssociationResponse,
    FlowCountsRequest,
    FlowCountsResponse,
    HandoverPair,
    HandoverRequest,
    HandoverResponse,
    IptablesMatch,
    NoticeAnswer,
    TunnelSetupRequest,
    TunnelSetupResponse,
    UpmtMessage,
)


def document_of(message: UpmtMessage) -> dict[str, Any]:
    document = json.loads(encode(message))
    assert isinstance(document, dict)
    return document


def refused(document: object) -> str:
    """Why the document is refused."""
    with pytest.raises(PeerError) as caught:
        decode(json.dumps(document).encode())
    return str(caught.value)


def read_if_right(body: bytes) -> UpmtMessage | AuthorsBody | None:
    """What a body says, if anything; what was read must be writable and read the same again."""
    try:
        message = decode(body)
    except PeerError:
        return None
    assert isinstance(message, AuthorsBody) or decode(encode(message)) == message
    return message


@given(MESSAGES)
def test_what_is_written_is_read(message: UpmtMessage) -> None:
    body = encode(message)
    assert decode(body) == message
    assert json.loads(body)["mType"] == type(message).__name__
    assert json.loads(body)["version"] == 1


@given(JSON_VALUES)
def test_no_json_raises_anything_but_a_peer_error(value: Any) -> None:
    read_if_right(json.dumps(value).encode())


@given(st.sampled_from(ONE_OF_EACH), st.data())
@settings(max_examples=150)
def test_no_mutated_document_raises_anything_but_a_peer_error(
    message: UpmtMessage, data: st.DataObject
) -> None:
    document = document_of(message)
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(document, data)
    read_if_right(json.dumps(document).encode())


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff\xfe{\x00}\x00")
def test_no_bytes_raise_anything_but_a_peer_error(body: bytes) -> None:
    read_if_right(body)


@given(st.sampled_from(ONE_OF_EACH), st.integers(0, 400), st.integers(0, 20), st.binary(max_size=8))
def test_no_mutated_bytes_raise_anything_but_a_peer_error(
    message: UpmtMessage, place: int, length: int, other: bytes
) -> None:
    body = encode(message)
    place %= len(body)
    read_if_right(body[:place] + other + body[place + length :])


def test_the_papers_figure_9_is_read() -> None:
    body = b"""{"mType":"HandoverRequest",
        "match":{"syntax":"IPtables", "match":"-p tcp -destination 160.80.81.1 -destination-port 80"},
        "tunnelID":["13673865","any"]}"""
    message = decode(body)
    match = IptablesMatch("-p tcp -destination 160.80.81.1 -destination-port 80")
    assert message == HandoverRequest("", (HandoverPair(match, (TunnelId(13673865), ANY)),))
    assert parse_match(match.text).matches(FlowKey.parse("tcp:1.2.3.4:2000>160.80.81.1:80"))


def test_one_pair_is_written_as_in_figure_9() -> None:
    match = IptablesMatch("-p tcp")
    document = document_of(HandoverRequest("token", (HandoverPair(match, (TunnelId(5), ANY)),)))
    assert document == {
        "mType": "HandoverRequest",
        "association": "token",
        "match": {"syntax": "IPtables", "match": "-p tcp"},
        "tunnelID": ["5", "any"],
        "version": 1,
    }


@pytest.mark.parametrize(
    ("written", "expected"),
    [("any", (ANY,)), (5, (TunnelId(5),)), ("5", (TunnelId(5),)), ([5, "any"], (TunnelId(5), ANY)), ([], ())],
)
def test_tunnels_may_be_one_or_many_as_text_or_number(written: Any, expected: tuple[Any, ...]) -> None:
    body = json.dumps({"mType": "HandoverRequest", "match": "any", "tunnelID": written}).encode()
    assert decode(body) == HandoverRequest("", (HandoverPair(ANY, expected),))


def test_an_unknown_key_is_passed_over() -> None:
    assert decode(b'{"mType": "NoticeAnswer", "later": [1, 2, {"more": true}]}') == NoticeAnswer()


REQUIRED = {
    AssociationRequest: ("mType", "expires"),
    AssociationResponse: ("mType", "VIpAddr", "association", "expires"),
    TunnelSetupRequest: ("mType", "association", "VIpAddr"),
    TunnelSetupResponse: ("mType", "tunnelID", "yourAddress", "yourPort"),
    HandoverRequest: ("mType", "match"),
    HandoverResponse: ("mType",),
    AnchorNotice: ("mType", "kind"),
    NoticeAnswer: ("mType",),
    FlowCountsRequest: ("mType", "association", "flows"),
    FlowCountsResponse: ("mType", "counts"),
}
TOGETHER = ("format", "salt")
"""Optional, but the one asks for the other."""


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda message: type(message).__name__)
def test_what_is_required_is_missed_by_name(message: UpmtMessage) -> None:
    whole = document_of(message)
    for key in whole:
        rest = {other: value for other, value in whole.items() if other != key}
        if key in REQUIRED[type(message)]:
            assert refused(rest) == f"{key!r} is missing"
        elif key in TOGETHER and "format" in whole and "salt" in whole:
            assert refused(rest) == "'salt' goes with a protected format, and with no other"
        else:
            decode(json.dumps(rest).encode())


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda message: type(message).__name__)
def test_every_key_with_a_wrong_type_is_refused_by_name(message: UpmtMessage) -> None:
    whole = document_of(message)
    wrongs: tuple[Any, ...] = (None, True, 1.5, -1, {"a": 1}, [[]])
    # Inside a list or an object, it is the inner name that is told.
    inner = {"pairs": "a pair", "results": "a result", "match": "syntax"}
    inner |= {"flows": "a flow", "counts": "a count"}
    for key in whole:
        for wrong in wrongs:
            if wrong is True and whole[key] is True:
                continue
            reason = refused(whole | {key: wrong})
            assert key in reason or inner[key] in reason


PAIR = {"match": {"syntax": "flows", "match": [["udp", "1.2.3.4", 1, "5.6.7.8", 2]]}}
SETUP = {"mType": "TunnelSetupRequest", "association": "t"}


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ([], "not a JSON object"),
        ("text", "not a JSON object"),
        ({"mType": "Hello"}, "no message 'Hello'"),
        ({"mType": "NoticeAnswer", "version": 2}, "version 2 is not 1"),
        ({"mType": "NoticeAnswer", "version": 0}, "version 0 is not 1"),
        ({"mType": "NoticeAnswer", "version": "1"}, "'version'"),
        ({"mType": "NoticeAnswer", "version": True}, "'version'"),
        ({"mType": "NoticeAnswer", "version": 1.0}, "'version'"),
        ({"mType": "x" * 1025}, "'mType' is not a short text"),
        (SETUP | {"VIpAddr": "1.2.3.256"}, "'VIpAddr' is not an address"),
        (SETUP | {"VIpAddr": 16909060}, "'VIpAddr' is not an address"),
        (SETUP | {"VIpAddr": "fe80::1%eth0"}, "'VIpAddr' is not an address"),
        (SETUP | {"VIpAddr": "2001:db8::1%x\ny"}, "'VIpAddr' is not an address"),
        (SETUP | {"VIpAddr": "1.2.3.4", "pairs": PAIR}, "'pairs' is not a list"),
        (SETUP | {"VIpAddr": "1.2.3.4", "pairs": ["any"]}, "a pair is not an object"),
        ({"mType": "HandoverRequest", "match": "all"}, "'match' is not an object"),
        ({"mType": "HandoverRequest", "match": {"syntax": "BPF"}}, "no match syntax 'BPF'"),
        ({"mType": "HandoverRequest", "match": {"syntax": "flows"}}, "'match' is missing"),
        ({"mType": "HandoverRequest", "match": {"syntax": "IPtables", "match": []}}, "'match'"),
        ({"mType": "HandoverRequest", "match": {"syntax": "flows", "match": "x"}}, "'match' is not a list"),
        ({"mType": "HandoverRequest", "match": "any", "tunnelID": ["1"] * 17}, "more than 16"),
        ({"mType": "HandoverResponse", "results": [{}]}, "'accepted' is missing"),
        ({"mType": "HandoverResponse", "results": [{"accepted": 1}]}, "'accepted' is neither"),
        ({"mType": "HandoverResponse", "results": [{"accepted": True, "flows": 2**32}]}, "'flows'"),
    ],
)
def test_wrong_documents_are_refused_with_the_reason(document: object, word: str) -> None:
    assert word in refused(document)


@pytest.mark.parametrize(
    "tunnel",
    [0, -1, 2**32, "0", "-1", "4294967296", "", "+5", "5 ", "0x5", "\u0665", 5.0, True, None, "ANY", ["5"]],
)
def test_wrong_tunnel_ids_are_refused(tunnel: Any) -> None:
    for tunnels in ([tunnel], ["any", tunnel]):
        assert "tunnelID" in refused({"mType": "HandoverRequest", "match": "any", "tunnelID": tunnels})


WRONG_PARTS_OF_A_FLOW: dict[int, tuple[Any, ...]] = {
    0: ("xyz", 256, -1, None, True, "17"),
    1: ("1.2.3", 5, "::1", ""),
    2: (65536, -1, "5", 1.0, False),
    3: ("::1", "fe80::1%e", None),
    4: (65536, None),
}


@pytest.mark.parametrize(
    ("place", "wrong"),
    [(place, wrong) for place, wrongs in WRONG_PARTS_OF_A_FLOW.items() for wrong in wrongs],
)
def test_wrong_flows_are_refused(place: int, wrong: Any) -> None:
    flow: list[Any] = ["udp", "1.2.3.4", 1, "5.6.7.8", 2]
    document = {"mType": "HandoverRequest", "match": {"syntax": "flows", "match": [flow]}}
    decode(json.dumps(document).encode())
    flow[place] = wrong
    refused(document)


@pytest.mark.parametrize("flow", [[], ["udp"] * 6, ["udp", "1.2.3.4", 1, "5.6.7.8"], "udp", None, {}])
def test_flows_have_five_parts(flow: Any) -> None:
    document = {"mType": "HandoverRequest", "match": {"syntax": "flows", "match": [flow]}}
    assert "a flow is" in refused(document)


@pytest.mark.parametrize(
    "body",
    [
        b'{"mType":"NoticeAnswer","mType":"NoticeAnswer"}',
        b'{"mType":"NoticeAnswer","x":{"a":1,"a":1}}',
        b'{"mType":"NoticeAnswer","x":NaN}',
        b'{"mType":"NoticeAnswer","x":-Infinity}',
        b'{"mType":"NoticeAnswer","version":1e999}',
        b'{"mType":"NoticeAnswer","x":' + b"1" * 5000 + b"}",
        b'{"mType":"NoticeAnswer"} more',
        b'{"mType":"NoticeAnswer",}',
        b'{"mType":"Notice\xffAnswer"}',
        b"[" * 8000,
        b'{"mType":' * 800,
        b'{"mType":"NoticeAnswer","x":' + b"[" * 3000 + b"]" * 3000 + b"}",
    ],
)
def test_wrong_json_is_refused(body: bytes) -> None:
    assert len(body) <= MAX_BODY
    with pytest.raises(PeerError):
        decode(body)


def test_a_large_body_is_refused_unread() -> None:
    body = b'{"mType":"NoticeAnswer"}'
    assert decode(body.ljust(MAX_BODY)) == NoticeAnswer()
    with pytest.raises(PeerError, match="larger than 8192"):
        decode(body.ljust(MAX_BODY + 1))


@pytest.mark.parametrize("text", ["\ud800", "net0\x1b[2J", "net0\nINFO all is well", "\u2028"])
def test_text_that_cannot_be_shown_is_refused(text: str) -> None:
    document = json.dumps(
        {"mType": "TunnelSetupRequest", "association": "t", "VIpAddr": "1.2.3.4", "network": text}
    )
    with pytest.raises(PeerError, match="'network' is not a short text"):
        decode(document.encode())


@pytest.mark.parametrize("more", [{"format": "sealed"}, {"format": "plain", "salt": "73" * 16}])
def test_an_answer_with_a_protected_format_has_a_salt_and_no_other_has(more: dict[str, str]) -> None:
    document = {"mType": "TunnelSetupResponse", "tunnelID": "7", "yourAddress": "1.2.3.4", "yourPort": 4000}
    with pytest.raises(PeerError, match="'salt' goes with a protected format"):
        decode(json.dumps(document | more).encode())
