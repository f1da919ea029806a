"""Where a request came from, as its answers say it; CANCEL; answers that are not for us."""

from __future__ import annotations

import itertools
from ipaddress import ip_address

import pytest

from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.sip.build import message, response_to
from upmt_nf.signaling.sip.endpoint import SipEndpoint
from upmt_nf.signaling.sip.fields import parse_address, parse_via
from upmt_nf.signaling.sip.message import Response
from upmt_nf.signaling.sip.parser import parse
from upmt_nf.signaling.sip.transactions import RequestReceived, ResponseReceived

ANCHOR = Endpoint(ip_address("45.0.0.1"), 5060)
HOST = Endpoint(ip_address("192.168.100.25"), 5060)
NAT = Endpoint(ip_address("160.80.100.1"), 33000)
TEMPLATE = (
    "{method} sip:45.0.0.1 SIP/2.0\r\nMax-Forwards: 70\r\n{via}\r\nVia: SIP/2.0/UDP other;branch=z9hG4bKo;rport\r\n"
    "To: <sip:a@b>\r\nFrom: <sip:a@b>;tag=x\r\nCall-ID: c\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
)
VIA = "Via: SIP/2.0/UDP 192.168.100.25;branch=z9hG4bK1"


def server() -> SipEndpoint[Endpoint]:
    numbers = itertools.count()
    return SipEndpoint(token=lambda: f"t{next(numbers)}", source_of=lambda source: source)


def bytes_of(method: str = "MESSAGE", via: str = VIA) -> bytes:
    return TEMPLATE.format(method=method, via=via).encode()


def answers(sip: SipEndpoint[Endpoint], data: bytes, status: int = 200) -> list[Response]:
    """What is said to a datagram, when every request is answered at once."""
    sip.receive_datagram(data, NAT, 0.0)
    for event in sip.events():
        if isinstance(event, RequestReceived):
            sip.respond(event.transaction, response_to(event.request, status, tag="t"), 0.0)
    found = [parse(answer) for answer, flow in sip.datagrams_to_send() if flow == NAT]
    assert all(isinstance(answer, Response) for answer in found)
    return [answer for answer in found if isinstance(answer, Response)]


@pytest.mark.parametrize(
    ("parameters", "port"),
    [
        ("", None),
        (";rport", "33000"),
        (";RPORT ;alias", "33000"),
        (";rport=;received=6.6.6.6", "33000"),
        (";rport=5;received=6.6.6.6", "33000"),
    ],
)
@pytest.mark.parametrize("status", [200, 401, 403])
def test_every_answer_says_where_the_request_came_from(
    parameters: str, port: str | None, status: int
) -> None:
    (answer,) = answers(server(), bytes_of(via=VIA + parameters), status)
    top, other = (parse_via(value) for value in answer.all("via"))
    assert top.parameters["received"] == "160.80.100.1"
    assert top.parameters.get("rport") == port
    assert top.branch == "z9hG4bK1"
    assert other.parameters == {"branch": "z9hG4bKo", "rport": None}


def test_so_do_the_answers_that_the_endpoint_gives_itself() -> None:
    sip = SipEndpoint[Endpoint](token=lambda: "t", source_of=lambda source: source, max_transactions=0)
    for data in (bytes_of(), bytes_of("CANCEL"), bytes_of().replace(b"CSeq: 1", b"CSeq: x")):
        sip.receive_datagram(data, NAT, 0.0)
        ((answer, _),) = sip.datagrams_to_send()
        assert b"branch=z9hG4bK1;received=160.80.100.1" in answer


def test_a_repeated_request_is_known_though_its_via_was_written_on() -> None:
    """Also one of RFC 2543, which is told by its Via as it came."""
    for via in (VIA + ";rport", "Via: SIP/2.0/UDP 192.168.100.25"):
        sip = server()
        first, again = (answers(sip, bytes_of(via=via)) for _ in range(2))
        assert first == again
        assert sip.counters["request_again"] == 1


def test_a_cancel_finds_its_request_or_says_that_there_is_none() -> None:
    """RFC 3261 section 9.2; what is no INVITE is not given up."""
    sip = server()
    assert [answer.status for answer in answers(sip, bytes_of("CANCEL"))] == [481]
    assert [answer.status for answer in answers(sip, bytes_of())] == [200]
    assert [answer.status for answer in answers(sip, bytes_of("CANCEL"))] == [200]
    assert sip.events() == []


def test_an_answer_with_several_vias_is_for_somebody_else() -> None:
    """RFC 3261 section 8.1.3.3."""
    for spoiler in (
        b"\r\nVia: SIP/2.0/UDP other;branch=z9hG4bKo\r\n",
        b", SIP/2.0/UDP other;branch=z9hG4bKo\r\n",
    ):
        host = server()
        asked = message(anchor=ANCHOR, local=HOST, identity="a@b", call_id="c", cseq=1, tag="x", body=b"{}")
        host.send_request(asked, ANCHOR, 0.0)
        ((data, _),) = host.datagrams_to_send()
        (answer,) = answers(server(), data)
        first, end, rest = bytes(answer).partition(b"received=160.80.100.1\r\n")
        assert end
        host.receive_datagram(first + end[:-2] + spoiler + rest, ANCHOR, 0.1)
        assert not [event for event in host.events() if isinstance(event, ResponseReceived)]
        host.receive_datagram(bytes(answer), ANCHOR, 0.2)
        assert [event for event in host.events() if isinstance(event, ResponseReceived)]


@pytest.mark.parametrize(
    ("uri", "record"),
    [
        ("sip:user;par=u%40example.net@example.com;x=y", "user;par=u%40example.net@example.com"),
        ("sip:%75se%72@example.com", "user@example.com"),
        ("sip:null-%00-null@example.com", "null-%00-null@example.com"),
        ("sip:a%2540b@example.com?subject=x", "a%2540b@example.com"),
        ("sip:example.com;lr", "example.com"),
    ],
)
def test_an_address_of_record_is_canonical(uri: str, record: str) -> None:
    """RFC 3261 section 10.3 step 5: no parameters, nothing escaped that need not be."""
    assert parse_address(f"<{uri}>").record == record
