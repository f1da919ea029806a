"""All that table II and section VII of the paper allow in tunnel setup and handover requests, at the anchor."""

import json
from ipaddress import ip_address
from typing import Any

import pytest
from anchor_site import CARE_OF, SECOND, STRANGER, Site, Speaker, read_answer
from hypothesis import given, settings
from hypothesis import strategies as st
from mobility_terminal import ANCHOR

from upmt_nf.datapath.anchor_forwarder import AnchorForwarder
from upmt_nf.datapath.packet import build_udp
from upmt_nf.datapath.reach import Reach
from upmt_nf.mobility.anchor_events import SipDatagramReceived
from upmt_nf.mobility.answer_size import LONGEST
from upmt_nf.mobility.events import TimeoutReached
from upmt_nf.mobility.source_limits import SourceRates
from upmt_nf.model.flow import Endpoint, FlowKey
from upmt_nf.model.identity import TunnelId
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import (
    ANY,
    FlowSelector,
    HandoverPair,
    HandoverRequest,
    HandoverResponse,
    HandoverResult,
    IptablesMatch,
    TunnelSetupRequest,
    TunnelSetupResponse,
)

Both = tuple[Site, Speaker, TunnelId, TunnelId]


@pytest.fixture
def both() -> Both:
    """A site, a host with two tunnels, and the tunnels' ids."""
    return with_tunnels()


def with_tunnels(**anchor: Any) -> Both:
    site = Site(**anchor)
    host = Speaker(site)
    host.associate()
    return site, host, TunnelId(host.set_up(CARE_OF)), TunnelId(host.set_up(SECOND))


def heard(site: Site, host: Speaker, flow: FlowKey, by: Endpoint = CARE_OF) -> FlowKey:
    """An uplink packet of a flow came by a tunnel."""
    tunnel = next(tunnel for tunnel in site.paft.tunnels.values() if tunnel.remote == by)
    site.paft.learn(flow.packed(), tunnel, site.now).last_seen = site.now
    return flow


def move(
    host: Speaker, match: FlowSelector, *tunnels: Any, by: Endpoint = SECOND, token: str | None = None
) -> HandoverResult:
    """What one pair is answered."""
    body = HandoverRequest(host.token if token is None else token, (HandoverPair(match, tunnels),))
    answer = host.ask(body, by)
    assert isinstance(answer, HandoverResponse), answer
    (result,) = answer.results
    return result


# --- which tunnel ---


def test_a_tunnel_that_is_left_out_is_the_one_that_the_message_came_by(both: Both) -> None:
    site, host, first, second = both
    flow = heard(site, host, host.flow())
    assert move(host, (flow,)) == HandoverResult(True, second, 1)
    assert site.network_of(flow) == SECOND
    assert move(host, (flow,), by=CARE_OF) == HandoverResult(True, first, 1)
    assert site.network_of(flow) == CARE_OF


def test_a_tunnel_that_is_given_need_not_be_the_one_that_the_message_came_by(both: Both) -> None:
    site, host, first, second = both
    flow = heard(site, host, host.flow())
    assert move(host, (flow,), second, by=CARE_OF) == HandoverResult(True, second, 1)
    assert site.network_of(flow) == SECOND
    assert move(host, (flow,), first, by=SECOND) == HandoverResult(True, first, 1)
    assert site.network_of(flow) == CARE_OF


def test_the_first_tunnel_of_a_list_that_exists_is_taken_and_any_is_where_the_message_came_by(
    both: Both,
) -> None:
    site, host, first, second = both
    flow = heard(site, host, host.flow())
    assert move(host, (flow,), TunnelId(13673865), ANY) == HandoverResult(True, second, 1)
    assert move(host, (flow,), first, ANY) == HandoverResult(True, first, 1)
    assert move(host, (flow,), TunnelId(13673865), TunnelId(13673866), second).tunnel_id == second
    assert move(host, (flow,), ANY, by=CARE_OF).tunnel_id == first
    assert not move(host, (flow,), TunnelId(13673865)).accepted
    assert site.network_of(flow) == CARE_OF


# --- which flows ---


def test_a_match_is_a_flow_a_list_an_iptables_match_or_any(both: Both) -> None:
    site, host, _, second = both
    web = [heard(site, host, FlowKey.parse(f"tcp:{host.address}:{port}>86.0.0.1:80")) for port in (1, 2, 3)]
    voice = heard(site, host, FlowKey.parse(f"udp:{host.address}:4>86.0.0.2:5004"))
    flow = ["tcp", host.address, 1, "86.0.0.1", 80]

    def ask(match: Any) -> Any:
        document = {"mType": "HandoverRequest", "association": host.token, "match": match, "tunnelID": "any"}
        return read_answer(host.send(json.dumps(document).encode(), SECOND)).results[0]

    assert ask({"syntax": "flow", "match": flow}) == HandoverResult(True, second, 1)
    assert [site.network_of(one) for one in (*web, voice)] == [SECOND, CARE_OF, CARE_OF, CARE_OF]
    assert ask({"syntax": "flows", "match": [flow, [6, host.address, 2, "86.0.0.1", 80]]}).flows == 2
    assert [site.network_of(one) for one in (*web, voice)] == [SECOND, SECOND, CARE_OF, CARE_OF]
    assert (
        ask({"syntax": "IPtables", "match": "-p tcp -destination 86.0.0.1 -destination-port 80"}).flows == 3
    )
    assert [site.network_of(one) for one in (*web, voice)] == [SECOND, SECOND, SECOND, CARE_OF]
    assert ask("any").flows == 4
    assert site.network_of(voice) == SECOND


def test_a_flow_that_the_anchor_has_not_heard_of_is_known_from_then_on(both: Both) -> None:
    site, host, _, _ = both
    assert move(host, (host.flow(),)).accepted
    assert site.network_of(host.flow()) == SECOND


@pytest.mark.parametrize("match", [ANY, IptablesMatch("-p tcp"), "named"])
def test_idle_and_downlink_only_flows_move_too(both: Both, match: Any) -> None:
    site, host, _, _ = both
    idle, downlink = heard(site, host, host.flow(1)), heard(site, host, host.flow(2))
    for _ in range(60):
        site.now += 100
        site.paft.flows[downlink.packed()].last_seen = site.now
        for tunnel in site.paft.tunnels.values():
            tunnel.heard = site.now
        site.take(TimeoutReached())
        host.associate()
    selector = (idle, downlink) if match == "named" else match
    assert move(host, selector).flows == 2
    # No packet came by the new tunnel, and none needs to.
    assert site.network_of(idle) == site.network_of(downlink) == SECOND


def test_ten_thousand_flows_move_by_one_any(both: Both) -> None:
    site, host, _, second = both
    flows = [heard(site, host, host.flow(port)) for port in range(20_000, 30_000)]
    assert move(host, ANY) == HandoverResult(True, second, 10_000)
    assert {site.network_of(flow) for flow in flows} == {SECOND}


# --- several pairs ---


def test_a_refusal_says_which_pair_and_why_and_the_others_hold(both: Both) -> None:
    site, host, first, second = both
    flows = [heard(site, host, host.flow(port)) for port in (1, 2, 3)]
    foreign = FlowKey.parse("tcp:10.99.0.9:1>86.0.0.1:80")
    pairs = (
        HandoverPair((flows[0],)),
        HandoverPair((flows[1],), (TunnelId(13673865),)),
        HandoverPair((foreign,)),
        HandoverPair(IptablesMatch("-j ACCEPT")),
        HandoverPair((flows[2],), (second,)),
        HandoverPair((flows[0],), (first,)),
    )
    answer = host.ask(HandoverRequest(host.token, pairs), SECOND)
    assert [result.accepted for result in answer.results] == [True, False, False, False, True, True]
    assert [result.reason for result in answer.results] == [
        None,
        "none of these tunnels is yours",
        f"{foreign} is not a flow of {host.address}",
        "the match has an unknown option '-j'",
        None,
        None,
    ]
    assert [site.network_of(flow) for flow in flows] == [CARE_OF, CARE_OF, SECOND]
    assert site.network_of(foreign) is None


def test_an_answer_has_room_for_all_its_results_or_refuses_before_anything_is_moved() -> None:
    site, host, _, _ = with_tunnels()
    flow = heard(site, host, host.flow())
    most = None
    for count in range(1, 40):
        site.sizes.clear()
        pairs = tuple(
            HandoverPair((FlowKey.parse(f"tcp:10.99.0.9:{n}>86.0.0.1:80"),)) for n in range(count - 1)
        )
        answer = host.ask(HandoverRequest(host.token, (*pairs, HandoverPair((flow,)))), SECOND)
        assert max(size for _, size in site.sizes) <= LONGEST
        if isinstance(answer, int):
            most = count - 1
            break
        assert [result.accepted for result in answer.results] == [False] * (count - 1) + [True]
        assert all("tcp" in (result.reason or "") for result in answer.results[: min(6, count - 1)])
    assert most is not None
    assert most >= 8
    host.ask(HandoverRequest(host.token, tuple(HandoverPair((flow,), ()) for _ in range(most + 1))), CARE_OF)
    assert site.network_of(flow) == SECOND


@given(count=st.integers(1, 12), reasons=st.text(max_size=40))
@settings(deadline=None, max_examples=40)
def test_no_answer_is_larger_than_a_packet(count: int, reasons: str) -> None:
    _, host, _, _ = with_tunnels()
    pairs = tuple(HandoverPair(IptablesMatch(reasons)) for _ in range(count))
    request = TunnelSetupRequest(host.token, ip_address(host.address), "third", pairs)
    host.site.sizes.clear()
    host.ask(request, STRANGER)
    assert max(size for _, size in host.site.sizes) <= LONGEST


# --- set-up ---


def test_explicit_setup_and_handover_in_one_message(both: Both) -> None:
    site, host, _, _ = both
    flows = [heard(site, host, host.flow(port)) for port in (1, 2)]
    third = Endpoint(ip_address("203.0.2.1"), 40000)
    pairs = (HandoverPair((flows[0],)), HandoverPair((flows[1],), (TunnelId(99),)))
    answer = host.ask(TunnelSetupRequest(host.token, ip_address(host.address), "third", pairs), third)
    assert isinstance(answer, TunnelSetupResponse)
    assert (answer.your_address, answer.your_port) == (third.address, third.port)
    assert [result.accepted for result in answer.results] == [True, False]
    assert answer.results[0].tunnel_id == answer.tunnel_id
    assert [site.network_of(flow) for flow in flows] == [third, CARE_OF]


def test_a_proven_handover_request_in_the_papers_form_sets_its_tunnel_up_opportunistically(
    both: Both,
) -> None:
    site, host, _, _ = both
    flow = heard(site, host, host.flow())
    third = Endpoint(ip_address("203.0.2.1"), 40000)
    host.content_type = "application/text"
    body = b'{"mType":"HandoverRequest","match":{"syntax":"IPtables","match":"-p tcp"},"tunnelID":["13673865","any"]}'
    (result,) = read_answer(host.send(body, third)).results
    assert result.accepted
    assert site.paft.tunnels[result.tunnel_id].remote == third
    assert site.network_of(flow) == third
    assert move(host, ANY, by=third, token="").tunnel_id == result.tunnel_id
    assert len(site.paft.tunnels) == 3


def test_nobody_else_sets_a_tunnel_up_like_that(both: Both) -> None:
    site, host, _, _ = both
    flow = heard(site, host, host.flow())
    body = HandoverRequest("", (HandoverPair((flow,)),))
    impostor = Speaker(site, "mh@upmt", secret="guessed")
    other = Speaker(site, "other@upmt")
    other.associate()
    for stranger, expected in ((impostor, 403), (other, 403)):
        stranger.address = host.address
        assert stranger.ask(body, STRANGER) == expected
    # With a token a host agrees on a format: it is to set up in so many words.
    assert host.ask(HandoverRequest(host.token, body.pairs), STRANGER) == 481
    assert host.ask(HandoverRequest("0" * 32, body.pairs), STRANGER) == 481
    assert {tunnel.remote for tunnel in site.paft.tunnels.values()} == {CARE_OF, SECOND}
    assert site.network_of(flow) == CARE_OF


def test_where_nobody_is_asked_for_proof_no_endpoint_is_believed_for_a_handover_request() -> None:
    site, host, _, _ = with_tunnels(is_guarded=False)
    assert host.ask(HandoverRequest("", (HandoverPair(ANY),)), STRANGER) == 481
    assert len(site.paft.tunnels) == 2


def test_an_anchor_without_plain_tunnels_sets_none_up_opportunistically() -> None:
    site = Site(formats=("sealed",))
    host = Speaker(site)
    host.associate()
    assert host.ask(HandoverRequest("", (HandoverPair(ANY),)), STRANGER) == 403
    assert site.paft.tunnels == {}


def test_a_data_packet_alone_sets_up_no_tunnel_and_moves_no_endpoint(both: Both) -> None:
    site, host, _, _ = both
    forwarder = AnchorForwarder(site.paft, ANCHOR, Reach())
    correspondent = ip_address("86.0.0.1")
    inner = build_udp(ip_address(host.address), 2000, correspondent, 3000, b"mine")
    for source, port, counted in (
        (STRANGER.address, 9, "unknown_tunnel"),
        (SECOND.address, SECOND.port + 1, "unknown_tunnel"),
    ):
        before = forwarder.counters.as_dict().get(counted, 0)
        verdict = forwarder.uplink(build_udp(source, port, ANCHOR, 1800, inner), site.now)
        assert verdict.deliver is None
        assert verdict.signal is None
        assert forwarder.counters.as_dict()[counted] == before + 1
    assert {tunnel.remote for tunnel in site.paft.tunnels.values()} == {CARE_OF, SECOND}
    assert site.paft.flows == {}
    arrived = forwarder.uplink(build_udp(SECOND.address, SECOND.port, ANCHOR, 1800, inner), site.now)
    assert arrived.deliver == inner
    assert site.network_of(FlowKey.parse(f"udp:{host.address}:2000>86.0.0.1:3000")) == SECOND


# --- where tunnels may end ---


def asks_to_end_at(host: Speaker, end: Endpoint) -> tuple[int, bytes]:
    """One proven setup request that seems to come from there, without the answer to it: who forges gets none."""
    body = TunnelSetupRequest(host.token, ip_address(host.address), "net9")
    request = host._message(encode(body), next(host._numbers))
    response, _ = host._exchange(request, end, end)
    return response.status, (response.header("www-authenticate") or "").encode()


def test_no_host_has_its_traffic_sent_to_an_end_that_does_not_hear_it() -> None:
    site, host, _, _ = with_tunnels()
    before = site.anchor.counters["challenged_there"]
    for _ in range(3):
        status, challenge = asks_to_end_at(host, STRANGER)
        assert status == 401
        assert b"stale=true" in challenge
        assert STRANGER not in {tunnel.remote for tunnel in site.paft.tunnels.values()}
    assert site.anchor.counters["challenged_there"] == before + 3
    assert host.set_up(STRANGER) in site.paft.tunnels, "who hears the challenge may have a tunnel there"


def test_a_host_sets_up_a_tunnel_from_a_new_address_in_the_middle_of_a_flood() -> None:
    """The answer to the challenge there is no stranger's: found when 1 of 5 movers gave up after 6 s of a flood."""
    site, host, _, _ = with_tunnels(rates=SourceRates(strangers=50, source=1000))
    body = TunnelSetupRequest(host.token, ip_address(host.address), "net9")
    flood = [Endpoint(ip_address(f"192.0.2.{number}"), 5060) for number in range(1, 101)]
    for source in flood:
        site.take(SipDatagramReceived(source, b"OPTIONS sip:a SIP/2.0\r\n\r\n"))
    assert site.anchor.counters["strangers_over_limit"] >= 50
    assert isinstance(host.ask(body, STRANGER), TunnelSetupResponse)


def test_another_port_of_a_proven_address_needs_no_further_challenge() -> None:
    """A NAT that rebinds costs no round trip more."""
    site, host, _, _ = with_tunnels()
    assert host.set_up(STRANGER)
    rebound = Endpoint(CARE_OF.address, CARE_OF.port + 1)
    assert asks_to_end_at(host, rebound)[0] == 200
    assert rebound in {tunnel.remote for tunnel in site.paft.tunnels.values()}


def test_a_handover_request_in_the_papers_form_is_challenged_where_it_comes_from() -> None:
    site, host, _, _ = with_tunnels()
    before = site.anchor.counters["challenged_there"]
    body = encode(HandoverRequest("", (HandoverPair(ANY),)))
    response, _ = host._exchange(host._message(body, next(host._numbers)), STRANGER, STRANGER)
    assert response.status == 401
    assert move(host, ANY, by=STRANGER, token="").accepted
    assert site.anchor.counters["challenged_there"] == before + 2
