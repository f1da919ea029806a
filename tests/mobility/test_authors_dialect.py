"""A host that speaks the JSON of the authors' later implementation, at an anchor that asks for proof."""

import json
from typing import Any

import pytest
from anchor_site import CARE_OF, SECOND, STRANGER, Site, Speaker
from hypothesis import given
from hypothesis import strategies as st
from message_strategies import JSON_VALUES
from mobility_terminal import ANCHOR
from wire_schema import complaints

from upmt_nf.mobility.events import StopAsked, TimeoutReached
from upmt_nf.model.flow import Endpoint, FlowKey
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import HandoverPair, HandoverRequest
from upmt_nf.signaling.sip.message import Response


class AuthorsHost(Speaker):
    """Speaks the dialect: every request with a Call-ID of its own and a CSeq of 1."""

    content_type = "application/text"
    has_call_ids_for_all = True

    def ask_all(self, *signals: Any, by: Endpoint | None = None, outer: Endpoint = CARE_OF) -> Response:
        """The final answer; `by` is the tunnel's outer endpoint, None: outside the tunnels."""
        return self.send(json.dumps(list(signals)).encode(), by, outer)

    def signal(self, kind: str, **content: Any) -> dict[str, Any]:
        return {"MType": kind, "MContent": {"sipId": f"sip:{self.identity}"} | content}

    def answers(self, *signals: Any, by: Endpoint | None = None) -> list[dict[str, Any]]:
        """The contents of the answers, which are as many as the signals."""
        response = self.ask_all(*signals, by=by)
        assert response.status == 200, response.reason
        assert response.header("content-type") == "application/text"
        found = json.loads(response.body)
        assert complaints("authors", found) == []
        assert len(found) == len(signals)
        return [item["MContent"] for item in found]

    def associate(self) -> str:
        (answer,) = self.answers(self.signal("AssociationReq", vipa=self.address))
        assert answer["associationSuccess"] is True
        assert answer["tsa"] == 1800
        self.address = answer["vipa"]
        return self.address

    def set_up(self, by: Endpoint) -> int:
        (answer,) = self.answers(
            self.signal("TunnelSetupReq", vipa=self.address, sipSignalingPort=5060), by=by
        )
        assert (answer["yourAddress"], answer["yourPort"]) == (str(by.address), by.port)
        number = answer["serverTunnelID"]
        assert 0 < number < 2**31
        return int(number)

    def handover(self, flow: FlowKey, **content: Any) -> dict[str, Any]:
        socket = {
            "proto": "tcp",
            "vipa": str(flow.source),
            "srcPort": flow.source_port,
            "dstIp": str(flow.destination),
            "dstPort": flow.destination_port,
        }
        return self.signal("HandoverReq", vipa=str(flow.source), socket=socket, **content)


def associated(site: Site, identity: str = "mh@upmt") -> AuthorsHost:
    host = AuthorsHost(site, identity)
    host.associate()
    return host


def test_from_association_to_handover() -> None:
    site = Site()
    host = AuthorsHost(site)
    address = host.associate()
    assert [str(granted.address) for granted in site.granted] == [address]
    first, second = host.set_up(CARE_OF), host.set_up(SECOND)
    assert first != second
    flows = [host.flow(port) for port in (2000, 2001, 2002)]
    answers = host.answers(
        host.handover(flows[0], tunnelId=second),
        host.handover(flows[1], tunnelId=-1),
        host.handover(flows[2]),
        by=CARE_OF,
    )
    assert [(answer["handoverSuccess"], answer["tunnelId"]) for answer in answers] == [
        (True, second),
        (True, first),
        (True, first),
    ]
    assert [site.network_of(flow) for flow in flows] == [SECOND, CARE_OF, CARE_OF]
    host.answers(host.handover(flows[0], tunnelId=first), by=SECOND)
    assert site.network_of(flows[0]) == CARE_OF


def test_setup_and_handover_in_one_message() -> None:
    site = Site()
    host = associated(site)
    host.set_up(CARE_OF)
    flow = host.flow()
    setup = host.signal("TunnelSetupReq", vipa=host.address, sipSignalingPort=5060)
    tunnel, moved = host.answers(setup, host.handover(flow, tunnelId=-1), by=SECOND)
    assert moved["handoverSuccess"] is True
    assert moved["tunnelId"] == tunnel["serverTunnelID"]
    assert site.network_of(flow) == SECOND


def test_one_that_is_refused_leaves_the_others_standing() -> None:
    site = Site()
    host = associated(site)
    first = host.set_up(CARE_OF)
    other = associated(site, "other@upmt")
    foreign = other.set_up(SECOND)
    answers = host.answers(
        host.handover(host.flow(2000), tunnelId=foreign),
        host.handover(other.flow(2000), tunnelId=first),
        host.signal("SetHandoverModeReq", staticRule="x"),
        other.signal("KeepAlive"),
        host.handover(host.flow(2001), tunnelId=first),
        by=CARE_OF,
    )
    assert ["reason" in answer for answer in answers] == [True, True, True, True, False]
    assert site.network_of(host.flow(2000)) is None
    assert site.network_of(other.flow(2000)) is None
    assert site.network_of(host.flow(2001)) == CARE_OF


def test_another_association_keeps_the_address_and_the_tunnels() -> None:
    site = Site()
    host = associated(site)
    address, first = host.address, host.set_up(CARE_OF)
    site.now += 100
    assert host.associate() == address
    assert [tunnel.id for tunnel in site.paft.tunnels.values()] == [first]


def test_keepalives_keep_the_lease_of_hosts_that_never_refresh() -> None:
    site = Site(lifetime=60)
    host = associated(site)
    number = host.set_up(CARE_OF)
    for _ in range(20):
        site.now += 10
        site.take(TimeoutReached())
        (answer,) = host.answers(host.signal("KeepAlive", tunnelId=number, lastDelay=7), by=CARE_OF)
        assert answer == {"sipId": "mh@upmt", "tunnelId": number, "lastDelay": 7}
    assert len(site.anchor.associations) == 1
    site.now += 61
    site.take(TimeoutReached())
    assert site.anchor.associations == []
    (answer,) = host.answers(host.signal("KeepAlive", tunnelId=number), by=CARE_OF)
    assert answer["reason"] == "no such association"


def test_without_proof_nothing_is_done() -> None:
    site = Site()
    host = associated(site)
    host.set_up(CARE_OF)
    impostor = AuthorsHost(site, "mh@upmt", secret="guessed")
    impostor.address = host.address
    assert impostor.ask_all(impostor.signal("AssociationReq"), outer=STRANGER).status == 403
    request = impostor.signal("TunnelSetupReq", vipa=host.address)
    assert impostor.ask_all(request, by=STRANGER).status == 403
    assert [tunnel.remote for tunnel in site.paft.tunnels.values()] == [CARE_OF]


def test_nobody_speaks_for_another_host() -> None:
    site = Site()
    host = associated(site)
    host.set_up(CARE_OF)
    thief = associated(site, "other@upmt")
    own, thief.address = thief.address, host.address
    assert thief.ask_all(thief.signal("TunnelSetupReq", vipa=host.address), by=STRANGER).status == 403
    thief.address = own
    as_host = host.signal("TunnelSetupReq", vipa=host.address)
    for_host = thief.signal("TunnelSetupReq", vipa=host.address)
    for answer in thief.answers(as_host, for_host, by=STRANGER):
        assert answer["serverTunnelID"] == -1
    (answer,) = thief.answers(host.signal("AssociationReq", vipa=host.address))
    assert answer["associationSuccess"] is False
    assert [tunnel.remote for tunnel in site.paft.tunnels.values()] == [CARE_OF]


def test_each_request_has_its_place() -> None:
    site = Site()
    host = associated(site)
    (answer,) = host.answers(host.signal("AssociationReq", vipa=host.address), by=CARE_OF)
    assert "outside" in answer["reason"]
    outside = (
        host.signal("TunnelSetupReq", vipa=host.address),
        host.handover(host.flow()),
        host.signal("KeepAlive"),
    )
    for answer in host.answers(*outside):
        assert "inside" in answer["reason"]
    assert site.paft.tunnels == {}
    ours = encode(HandoverRequest("", (HandoverPair((host.flow(),)),)))
    assert host.send(ours).status == 403
    assert host.send(b"hello").status == 403
    assert host.send(b'[{"MType":"AssociationReq"}]').status == 400


def test_an_anchor_that_asks_nobody_for_proof_moves_no_endpoint_in_this_dialect() -> None:
    site = Site(is_guarded=False)
    host = associated(site)
    (answer,) = host.answers(host.signal("TunnelSetupReq", vipa=host.address), by=CARE_OF)
    assert answer["serverTunnelID"] == -1
    assert "proof" in answer["reason"]
    assert site.paft.tunnels == {}


def test_what_the_anchor_cannot_give_is_refused_with_the_reason() -> None:
    site = Site(formats=("sealed",), max_associations=1)
    host = associated(site)
    (answer,) = host.answers(host.signal("TunnelSetupReq", vipa=host.address), by=CARE_OF)
    assert answer["reason"] == "tunnels here are sealed"
    other = AuthorsHost(site, "other@upmt")
    (answer,) = other.answers(other.signal("AssociationReq"))
    assert answer["reason"] == "the anchor has all the hosts that it takes"


def test_an_anchor_that_goes_down_takes_nobody() -> None:
    site = Site()
    host = associated(site)
    host.set_up(CARE_OF)
    site.take(StopAsked())
    (answer,) = host.answers(host.signal("AssociationReq", vipa=host.address))
    assert answer["reason"] == "the anchor is going down"


def test_the_anchor_lists_itself() -> None:
    host = associated(Site())
    for by in (None, CARE_OF):
        (answer,) = host.answers(host.signal("ANListReq"), by=by)
        assert answer["anList"] == [str(ANCHOR)]


@pytest.mark.parametrize("by", [None, CARE_OF])
@given(value=st.lists(st.dictionaries(st.sampled_from(["MContent", "sipId"]), JSON_VALUES), max_size=3))
def test_hostile_signals_get_an_answer(by: Endpoint | None, value: list[Any]) -> None:
    host = associated(Site())
    body = json.dumps([{"MType": "HandoverReq"} | item for item in value]).encode()
    assert host.send(body, by).status in (200, 400, 403)
