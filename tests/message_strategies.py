"""Hypothesis strategies: UPMT's messages, and JSON that nearly is one."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from hypothesis import strategies as st

from upmt_nf.model.flow import FlowKey, named_flows_of
from upmt_nf.model.identity import TunnelId
from upmt_nf.signaling.messages import (
    ANY,
    DROPPED,
    MOST_COUNTED,
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

TEXTS = st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), max_size=60)
PORTS = st.integers(0, 65535)
NUMBERS = st.integers(0, 2**32 - 1)
TUNNEL_IDS = st.integers(1, 2**32 - 1).map(TunnelId)
ADDRESSES = st.ip_addresses()
PUBLIC_KEYS = st.binary(min_size=32, max_size=32)


@st.composite
def flows(draw: st.DrawFn) -> FlowKey:
    addresses = st.ip_addresses(v=draw(st.sampled_from((4, 6))))
    return FlowKey(draw(st.integers(0, 255)), draw(addresses), draw(PORTS), draw(addresses), draw(PORTS))


def pairs_with(match_texts: st.SearchStrategy[str], most_flows: int) -> st.SearchStrategy[HandoverPair]:
    selectors = (
        st.lists(flows(), max_size=most_flows).map(tuple)
        | st.just(ANY)
        | st.builds(IptablesMatch, match_texts)
    )
    tunnels = st.lists(TUNNEL_IDS | st.just(ANY), max_size=16).map(tuple)
    return st.builds(HandoverPair, selectors, tunnels, st.integers(0, 4095))


@st.composite
def packed_flows(draw: st.DrawFn, most: int) -> tuple[FlowKey, ...]:
    """Of one source, in the order in which a packed list has them: applications first."""
    addresses = st.ip_addresses(v=draw(st.sampled_from((4, 6))))
    source = draw(addresses)
    applications = draw(st.lists(st.integers(0, 4095), max_size=most))
    single = st.builds(FlowKey, st.integers(1, 255), st.just(source), PORTS, addresses, PORTS)
    rest = draw(st.lists(single, min_size=0 if applications else 1, max_size=most))
    return (*(named_flows_of(source, number) for number in applications), *rest)


PACKED = st.builds(HandoverPair, packed_flows(5), application=st.integers(0, 4095), is_packed=st.just(True))
PAIRS = st.lists(pairs_with(TEXTS, 5) | PACKED, max_size=4).map(tuple)
COUNTS = st.builds(FlowCount, *4 * (st.integers(0, 2**53 - 1),), st.booleans())
RESULTS = st.lists(
    st.builds(HandoverResult, st.booleans(), st.none() | TUNNEL_IDS, NUMBERS, st.none() | TEXTS),
    max_size=5,
).map(tuple)
AVOIDED = st.sets(st.sampled_from(DROPPED)).map(lambda some: tuple(each for each in DROPPED if each in some))
MESSAGES: st.SearchStrategy[UpmtMessage] = st.one_of(
    st.builds(AssociationRequest, NUMBERS, st.none() | ADDRESSES, st.none() | PUBLIC_KEYS),
    st.builds(AssociationResponse, ADDRESSES, TEXTS, NUMBERS, st.none() | PUBLIC_KEYS),
    st.builds(TunnelSetupRequest, TEXTS, ADDRESSES, st.none() | TEXTS, PAIRS, TEXTS, PORTS, AVOIDED),
    st.builds(TunnelSetupResponse, TUNNEL_IDS, ADDRESSES, PORTS, RESULTS),
    st.builds(
        TunnelSetupResponse,
        TUNNEL_IDS,
        ADDRESSES,
        PORTS,
        RESULTS,
        TEXTS.filter(lambda format: format != "plain"),
        st.integers(0, 255),
        st.binary(min_size=16, max_size=16),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(HandoverRequest, TEXTS, PAIRS),
    st.builds(HandoverResponse, RESULTS),
    st.builds(AnchorNotice, TEXTS, TEXTS, TEXTS, st.none() | TUNNEL_IDS),
    st.just(NoticeAnswer()),
    st.builds(FlowCountsRequest, TEXTS, st.lists(flows(), max_size=MOST_COUNTED).map(tuple), st.booleans()),
    st.builds(FlowCountsResponse, st.lists(st.none() | COUNTS, max_size=MOST_COUNTED).map(tuple)),
)
JSON_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
    st.sampled_from(
        ["any", "flows", "IPtables", "HandoverRequest", "udp", "1.2.3.4", "::1", "fe80::1%eth0", 1, -1]
    ),
)
KEYS = TEXTS | st.sampled_from(
    [
        "mType",
        "version",
        "association",
        "VIpAddr",
        "network",
        "format",
        "pairs",
        "match",
        "syntax",
        "tunnelID",
        "results",
        "accepted",
        "flows",
        "reason",
        "kind",
        "yourAddress",
        "yourPort",
        "expires",
        "key",
        "keyID",
        "salt",
    ]
)
JSON_VALUES = st.recursive(
    JSON_LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
FLOW = FlowKey.parse("udp:1.2.3.4:2000>86.0.0.1:3000")
ONE_OF_EACH: tuple[UpmtMessage, ...] = (
    AssociationRequest(3600, ip_address("1.2.3.4"), bytes(range(32))),
    AssociationResponse(ip_address("1.2.3.4"), "token", 3600, bytes(range(32))),
    TunnelSetupRequest("token", ip_address("1.2.3.4"), "net0", (HandoverPair((FLOW,)), HandoverPair(ANY))),
    TunnelSetupRequest("token", ip_address("1.2.3.4"), "net0", mtu=1372, avoid=("dscp",)),
    TunnelSetupResponse(
        TunnelId(7),
        ip_address("2001:db8::1"),
        40000,
        (HandoverResult(True, TunnelId(7), 1),),
        "sealed",
        9,
        bytes(16),
        True,
    ),
    HandoverRequest("token", (HandoverPair((FLOW,), (TunnelId(7), ANY)),)),
    HandoverRequest("token", (HandoverPair((named_flows_of(FLOW.source, 5), FLOW), is_packed=True),)),
    HandoverResponse((HandoverResult(False, None, 0, "no such tunnel"),)),
    AnchorNotice("tunnel-unheard", "silent for 7 s", "token", TunnelId(7)),
    NoticeAnswer(),
    FlowCountsRequest("token", (FlowKey(17, ip_address("1.2.3.4"), 2000, ip_address("86.0.0.1"), 3000),)),
    FlowCountsResponse((FlowCount(1000, 998, 0, 35), FlowCount(7, 7, 0, 20, True), None)),
)


def mutate(document: Any, data: st.DataObject) -> None:
    """Put some other value somewhere into the document, or take something out."""
    while True:
        places = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not places:
            return
        place = data.draw(st.sampled_from(places))
        inner = document[place]
        if not isinstance(inner, dict | list) or data.draw(st.booleans()):
            break
        document = inner
    if data.draw(st.booleans()):
        document[place] = data.draw(JSON_VALUES)
    else:
        del document[place]
