"""SIP datagrams into an endpoint and an anchor: nothing raises, answers and memory are bounded, writing is stable.

The input is a list of datagrams: two bytes of length before each, whose highest bit says that it comes inside a tunnel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from random import Random

from upmt_nf.config.values import AddressPool
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.anchor_commands import SendSip, SendTunnelSignal
from upmt_nf.mobility.anchor_events import SipDatagramReceived, TunnelSignalReceived
from upmt_nf.mobility.events import TimeoutReached
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import AssociationRequest, TunnelSetupRequest
from upmt_nf.signaling.sip.build import message, register, response_to
from upmt_nf.signaling.sip.endpoint import SipEndpoint
from upmt_nf.signaling.sip.message import Request
from upmt_nf.signaling.sip.parser import SipParseError, parse
from upmt_nf.signaling.sip.transactions import RequestReceived, ResponseReceived

_ANCHOR = Endpoint(ip_address("45.0.0.1"), 5060)
_HOST = Endpoint(ip_address("192.168.100.25"), 5060)
_INNER = Endpoint(ip_address("10.99.0.1"), 5060)
_SETTINGS = AnchorSettings(
    address=_ANCHOR.address, pool=AddressPool(_INNER.address, ip_address("10.99.0.3")), max_associations=2
)
_ADDED = 400
"""Bytes that an answer may have beyond its request: what it echoes, a tag, received, a reason, the lease."""


def check(data: bytes) -> None:
    machine = Anchor(_SETTINGS, Paft(), Random(1))
    for number, (inside, datagram) in enumerate(itertools.islice(datagrams(data), 16)):
        _read(datagram)
        _exchange(datagram)
        _tell(machine, inside, datagram, 100.0 + number)
    assert len(machine.associations) <= 2
    machine.handle(TimeoutReached(), 10_000.0)
    assert not machine.associations


def _read(datagram: bytes) -> None:
    """What is read, written and read again is the same."""
    try:
        first = parse(datagram)
    except SipParseError as reason:
        assert 400 <= reason.status < 600
        if reason.partial is not None:
            bytes(response_to(reason.partial, reason.status, tag="t", source=_HOST))
        return
    written = bytes(first)
    assert len(written) <= 2 * len(datagram) + 64
    if len(written) <= 8192:
        again = parse(written)
        assert bytes(again) == written
        assert (again.body, type(again)) == (first.body, type(first))
        if isinstance(first, Request):
            parse(bytes(response_to(first, 200, tag="t", source=_HOST)))


def _exchange(datagram: bytes) -> None:
    """An endpoint with a request of its own: one datagram makes at most one event and one answer."""
    tokens = itertools.count()
    sip: SipEndpoint[str] = SipEndpoint(token=lambda: f"token{next(tokens)}")
    sip.send_request(_register(), "net0", 1.0)
    (sent, _) = sip.datagrams_to_send()[0]
    for _ in range(2):
        sip.receive_datagram(datagram, "net1", 1.0)
        events = sip.events()
        assert len(events) <= 1
        for event in events:
            if isinstance(event, RequestReceived):
                sip.respond(event.transaction, response_to(event.request, 200, tag="t"), 1.0)
            elif isinstance(event, ResponseReceived):
                assert event.request.method == "REGISTER"
        answers = sip.datagrams_to_send()
        assert len(answers) <= 1
        assert all(flow == "net1" and len(answer) < 2 * len(datagram) + _ADDED for answer, flow in answers)
    assert sip.next_timeout() is not None
    sip.handle_timeout(100.0)
    assert sip.next_timeout() is None
    assert sent.startswith(b"REGISTER ")


def _tell(machine: Anchor, inside: bool, datagram: bytes, now: float) -> None:
    event = (
        TunnelSignalReceived(None, _HOST, _INNER, 5060, datagram)
        if inside
        else SipDatagramReceived(_HOST, datagram)
    )
    answers = [
        command for command in machine.handle(event, now) if isinstance(command, SendSip | SendTunnelSignal)
    ]
    assert len(answers) <= 1
    for answer in answers:
        data = answer.data if isinstance(answer, SendSip) else answer.payload
        assert len(data) < 2 * len(datagram) + 2 * _ADDED


def datagrams(data: bytes) -> Iterator[tuple[bool, bytes]]:
    place = 0
    while place < len(data):
        head = int.from_bytes(data[place : place + 2], "big")
        size = head & 0x7FFF
        yield bool(head & 0x8000), data[place + 2 : place + 2 + size]
        place += 2 + size


def _register(expires: int = 3600) -> Request:
    body = encode(AssociationRequest(expires, _INNER.address))
    return register(
        anchor=_ANCHOR,
        local=_HOST,
        identity="boat7@fleet.example",
        call_id="abc",
        cseq=1,
        tag="t",
        expires=expires,
        virtual_address=str(_INNER.address),
        body=body,
    )


def seeds() -> list[bytes]:
    setup = message(
        anchor=_ANCHOR,
        local=_INNER,
        identity="boat7@fleet.example",
        call_id="abc",
        cseq=2,
        tag="t",
        body=encode(TunnelSetupRequest("token", _INNER.address, "net0")),
    )
    torture = sorted((Path(__file__).parents[1] / "signaling" / "rfc4475").glob("*.dat"))
    answer = (
        b"SIP/2.0 200 OK\r\nv: SIP/2.0/UDP 192.168.100.25:5060;branch=z9hG4bKtoken0\r\nf: <sip:a>;tag=t\r\n"
    )
    answer += b"t: <sip:a>;tag=x\r\ni: abc\r\nCSeq: 1 REGISTER\r\n\r\n"
    found = [
        _joined((0, bytes(_register())), (0x8000, bytes(setup)), (0, bytes(_register(0)))),
        _joined((0, bytes(_register())), (0, bytes(_register()).replace(b"CSeq: 1", b"CSeq: 2"))),
        _joined((0, answer)),
    ]
    return found + [_joined((0, path.read_bytes())) for path in torture if path.stat().st_size < 1450]


def _joined(*parts: tuple[int, bytes]) -> bytes:
    return b"".join((flag | len(datagram)).to_bytes(2, "big") + datagram for flag, datagram in parts)
