"""A host that speaks the JSON of the authors' later implementation, at an anchor that asks for proof."""

import itertools
import json
from dataclasses import replace
from ipaddress import ip_address
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from message_strategies import JSON_VALUES
from mobility_terminal import ANCHOR
from wire_schema import complaints

from upmt_nf.config.values import AddressPool
from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.anchor_commands import LeaseGranted, SendSip, SendTunnelSignal
from upmt_nf.mobility.anchor_events import AnchorEvent, SipDatagramReceived, TunnelSignalReceived
from upmt_nf.mobility.events import StopAsked, TimeoutReached
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.model.flow import Endpoint, FlowKey
from upmt_nf.model.names import SIGNALLING_PORT
from upmt_nf.signaling.digest import REALM, DigestClient, DigestServer, secret_hash
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import HandoverPair, HandoverRequest
from upmt_nf.signaling.sip.build import message
from upmt_nf.signaling.sip.message import Request, Response
from upmt_nf.signaling.sip.parser import parse

SECRETS = {"mh@upmt": "a secret", "other@upmt": "another secret"}
CARE_OF = Endpoint(ip_address("203.0.0.1"), 40000)
SECOND = Endpoint(ip_address("203.0.1.1"), 40000)
STRANGER = Endpoint(ip_address("198.51.100.9"), 5060)


BRANCHES = itertools.count()


class Site:
    """An anchor alone, and what is said to it."""

    def __init__(self, *, is_guarded: bool = True, **anchor: Any) -> None:
        self.now = 1000.0
        self.paft = Paft()
        pool = AddressPool(ip_address("10.99.0.1"), ip_address("10.99.0.9"))
        numbers = itertools.count()
        guard = DigestServer(
            REALM,
            bytes(32),
            lambda identity: secret_hash(identity, REALM, SECRETS[identity]) if identity in SECRETS else None,
            lambda: next(numbers).to_bytes(8),
        )
        settings = AnchorSettings(address=ANCHOR, pool=pool, **anchor)
        self.anchor = Anchor(settings, self.paft, Random(5), guard=guard if is_guarded else None)
        self.granted: list[LeaseGranted] = []

    def take(self, event: AnchorEvent) -> list[bytes]:
        """The datagrams that it answers with."""
        commands = self.anchor.handle(event, self.now)
        self.granted += [command for command in commands if isinstance(command, LeaseGranted)]
        return [
            command.data if isinstance(command, SendSip) else command.payload
            for command in commands
            if isinstance(command, SendSip | SendTunnelSignal)
        ]

    def network_of(self, flow: FlowKey) -> Endpoint | None:
        entry = self.paft.flows.get(flow.packed())
        tunnel = self.paft.tunnel_of(entry) if entry is not None else None
        return tunnel.remote if tunnel is not None else None


class AuthorsHost:
    """Speaks the dialect: every request with a Call-ID of its own and a CSeq of 1."""

    def __init__(self, site: Site, identity: str = "mh@upmt", secret: str | None = None) -> None:
        self.site = site
        self.identity = identity
        self.address = "0.0.0.0"
        self._numbers = itertools.count(1)
        self._digest = DigestClient(identity, secret or SECRETS[identity], lambda: f"c{next(self._numbers)}")

    def ask(self, *signals: Any, by: Endpoint | None = None, outer: Endpoint = CARE_OF) -> Response:
        """The final answer; `by` is the tunnel's outer endpoint, None: outside the tunnels."""
        return self.send(json.dumps(list(signals)).encode(), by, outer)

    def send(self, body: bytes, by: Endpoint | None = None, outer: Endpoint = CARE_OF) -> Response:
        response, ticket = self._exchange(body, by, outer)
        if response.status == 401:
            assert self._digest.take_challenge(response, ticket) is None
            response, ticket = self._exchange(body, by, outer)
        if response.status == 200 and ticket is not None:
            assert self._digest.proves_itself(ticket, response)
        return response

    def _exchange(self, body: bytes, by: Endpoint | None, outer: Endpoint) -> tuple[Response, Any]:
        signed, ticket = self._digest.sign(self._request(body, next(self._numbers)))
        inner = Endpoint(ip_address(self.address), SIGNALLING_PORT)
        event: AnchorEvent = SipDatagramReceived(outer, bytes(signed))
        if by is not None:
            tunnel = self.site.paft.tunnel_from(packed_endpoint(by), inner.address.packed)
            event = TunnelSignalReceived(tunnel, by, inner, SIGNALLING_PORT, bytes(signed))
        (data,) = self.site.take(event)
        response = parse(data)
        assert isinstance(response, Response)
        return response, ticket

    def _request(self, body: bytes, number: int) -> Request:
        request = message(
            anchor=Endpoint(ANCHOR, SIGNALLING_PORT),
            local=Endpoint(ip_address(self.address), SIGNALLING_PORT),
            identity=self.identity,
            call_id=f"call-{self.identity}-{number}",
            cseq=1,
            tag="t",
            body=body,
        )
        (name, via), *rest = request.headers
        branch = f"{via};branch=z9hG4bK{next(BRANCHES)}"
        kept = tuple(header for header in rest if header[0] != "Content-Type")
        headers = ((name, branch), *kept, ("Content-Type", "application/text"), ("Subject", "UPMT"))
        return replace(request, headers=headers)

    def signal(self, kind: str, **content: Any) -> dict[str, Any]:
        return {"MType": kind, "MContent": {"sipId": f"sip:{self.identity}"} | content}

    def answers(self, *signals: Any, by: Endpoint | None = None) -> list[dict[str, Any]]:
        """The contents of the answers, which are as many as the signals."""
        response = self.ask(*signals, by=by)
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

    def flow(self, port: int = 2000) -> FlowKey:
        return FlowKey.parse(f"tcp:{self.address}:{port}>86.0.0.1:3000")

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
    assert impostor.ask(impostor.signal("AssociationReq"), outer=STRANGER).status == 403
    request = impostor.signal("TunnelSetupReq", vipa=host.address)
    assert impostor.ask(request, by=STRANGER).status == 403
    assert [tunnel.remote for tunnel in site.paft.tunnels.values()] == [CARE_OF]


def test_nobody_speaks_for_another_host() -> None:
    site = Site()
    host = associated(site)
    host.set_up(CARE_OF)
    thief = associated(site, "other@upmt")
    own, thief.address = thief.address, host.address
    assert thief.ask(thief.signal("TunnelSetupReq", vipa=host.address), by=STRANGER).status == 403
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
