"""However many requests come, from whomever: what is kept for them has a bound."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from ipaddress import ip_address
from random import Random

import pytest
from anchor_site import CARE_OF, SECOND, Site, Speaker

from upmt_nf.config.values import AddressPool
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.anchor import OUTSIDE, Anchor
from upmt_nf.mobility.anchor_commands import SendSip
from upmt_nf.mobility.anchor_events import LeaseRevoked, SipDatagramReceived
from upmt_nf.mobility.events import TimeoutReached
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.mobility.source_limits import SourceRates
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import TerminalId
from upmt_nf.signaling.digest import REALM, DigestClient, DigestServer, secret_hash
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import AssociationRequest, HandoverPair, HandoverRequest
from upmt_nf.signaling.sip import message as sip_message
from upmt_nf.signaling.sip.build import register
from upmt_nf.signaling.sip.endpoint import SipEndpoint
from upmt_nf.signaling.sip.message import Request, Response
from upmt_nf.signaling.sip.parser import parse
from upmt_nf.signaling.sip.transactions import RequestReceived

ANCHOR = Endpoint(ip_address("45.0.0.1"), 5060)
HOST = Endpoint(ip_address("192.168.100.25"), 5060)
MOST = 20_000
STRANGERS = (
    "REGISTER sip:a SIP/2.0\r\nVia: SIP/2.0/UDP b;branch=z9hG4bK{0}\r\nTo: <sip:c>\r\nFrom: <sip:c>;tag=d\r\n"
    "Call-ID: {0}\r\nCSeq: 1 REGISTER\r\nX-{0}: {0}\r\n\r\n"
)


@pytest.mark.slow
def test_a_million_requests_leave_no_more_than_the_newest_behind() -> None:
    """At 20,000/s: half are strangers, who are answered and forgotten; copies and rubbish are among them."""
    numbers = itertools.count()
    sip: SipEndpoint[str] = SipEndpoint(
        token=lambda: f"{next(numbers)}", timers=lambda _: OUTSIDE, max_transactions=MOST
    )
    answer = Response((), status=200, reason="OK")
    statuses = {True: 0, False: 0}
    for number in range(1_000_000):
        now = number / 20_000
        data = STRANGERS.format(number).encode()
        sip.receive_datagram(data if number % 50 else data[:-30], "net0", now)
        for event in sip.events():
            if isinstance(event, RequestReceived):
                is_stranger = number % 2 == 0
                statuses[is_stranger] += 1
                sip.respond(event.transaction, answer, now, and_forget=is_stranger)
        sip.datagrams_to_send()
        if number % 1000 == 0:
            sip.handle_timeout(now)
            assert len(sip._servers) <= MOST
            assert len(sip._due) == len(sip._clients) == 0
    # Answers are kept for five seconds at least: what does not fit is told to come again.
    assert statuses[True] + statuses[False] + sip.counters["too_many_transactions"] == 980_000
    assert sip.counters["refused"] == 20_000
    assert statuses[False] > 9 * MOST
    assert sip.counters["too_many_transactions"] > 0
    assert len(sip_message._KNOWN) <= 512
    sip.handle_timeout(1000.0)
    assert sip.next_timeout() is None


def register_of(number: int, turn: int, expires: int) -> Request:
    made = register(
        anchor=ANCHOR,
        local=HOST,
        identity=f"h{number}@upmt",
        call_id=f"call{turn // 10}",
        cseq=turn,
        tag="t",
        expires=expires,
        body=encode(AssociationRequest(expires)),
    )
    (name, via), *others = made.headers
    return Request(
        ((name, f"{via};branch=z9hG4bK{number}-{turn}"), *others),
        method="REGISTER",
        uri=made.uri,
        body=made.body,
    )


@pytest.mark.parametrize("stays", [True, False])
def test_an_anchor_with_proofs_stops_growing(stays: bool) -> None:
    """Fifty hosts that are challenged again and again, and restart, or leave and come back, with other branches."""
    users = {f"h{number}@upmt": secret_hash(f"h{number}@upmt", REALM, "s") for number in range(50)}
    random = Random(1)
    guard = DigestServer(REALM, b"k" * 32, users.get, lambda: random.randbytes(8))
    pool = AddressPool(ip_address("10.0.0.1"), ip_address("10.0.0.99"))
    settings = AnchorSettings(ANCHOR.address, pool, rates=SourceRates(1000.0, 1000.0, 1000.0))
    machine, now = Anchor(settings, Paft(), Random(2), guard=guard), 100.0

    def told(request: Request) -> Response:
        (answer,) = (
            command
            for command in machine.handle(SipDatagramReceived(HOST, bytes(request)), now)
            if isinstance(command, SendSip)
        )
        response = parse(answer.data)
        assert isinstance(response, Response)
        return response

    def work(first: int, turns: int) -> int:
        nonlocal now
        for turn in range(first, first + turns):
            for number in range(50):
                now += 0.05
                expires = 3600 if stays or turn % 2 else 0
                client = DigestClient(f"h{number}@upmt", "s", lambda: "c")
                request = register_of(number, 10 * turn + 1, expires)
                assert client.take_challenge(told(request), None) is None
                proven, ticket = client.sign(register_of(number, 10 * turn + 2, expires))
                answer = told(proven)
                assert answer.status == 200
                assert ticket is not None
                assert client.proves_itself(ticket, answer)
            machine.handle(TimeoutReached(), now)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = work(1, 30)
        after = work(31, 30)
    finally:
        tracemalloc.stop()
    assert after - before < 50_000, f"{after - before} bytes more after 3,000 more requests"
    assert sum(len(uses.counts) for uses in guard._uses.values()) == 50 * 8


def test_what_is_kept_for_a_host_or_a_flow_has_no_references_in_a_circle() -> None:
    """The daemons leave what has lived long out of collections: it must end with its last reference."""
    site = Site()
    speakers: list[Speaker] = []

    def come_and_go() -> None:
        speaker = Speaker(site)
        speakers.append(speaker)
        speaker.associate()
        speaker.set_up(CARE_OF)
        speaker.set_up(SECOND)
        assert speaker.ask(HandoverRequest(speaker.token, (HandoverPair((speaker.flow(),)),)), CARE_OF)
        site.take(LeaseRevoked(TerminalId(speaker.identity)))
        site.now += 400.0
        for _ in range(20):
            site.take(TimeoutReached())
            site.now += 40.0

    come_and_go()
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            come_and_go()
        assert gc.collect() == 0
    finally:
        gc.enable()
