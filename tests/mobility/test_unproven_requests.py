"""What strangers ask of an anchor that wants proofs: nothing of it is kept, no answer is larger than its request."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upmt_nf.config.values import AddressPool
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.anchor_commands import SendSip, SendTunnelSignal
from upmt_nf.mobility.anchor_events import SipDatagramReceived, TunnelSignalReceived
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.mobility.source_limits import SourceRates
from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.digest import REALM, DigestClient, DigestServer, Ticket, secret_hash
from upmt_nf.signaling.keys import KeyPair
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import AssociationRequest, HandoverRequest
from upmt_nf.signaling.sip.build import message, register
from upmt_nf.signaling.sip.message import Request
from upmt_nf.signaling.sip.parser import parse

ANCHOR = ip_address("45.0.0.1")
SIGNALLING = Endpoint(ANCHOR, 5060)
STRANGER = Endpoint(ip_address("198.51.100.9"), 5060)
HOST, SECRET = "boat7@fleet.example", "correct horse"
NO_LIMITS = SourceRates(1e9, 1e9, 1e9, 1e9)

BARE_REGISTER = (
    b"REGISTER sip:45.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nTo: <sip:a>\r\nFrom: <sip:a>;tag=1\r\n"
    b"Call-ID: 1\r\nCSeq: 1 REGISTER\r\n\r\n"
)
USUAL_REGISTERS = (
    # As the usual tools write them.
    "REGISTER sip:45.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.9:5060;branch=z9hG4bK-3081-1-0\r\n"
    "From: <sip:boat7@fleet.example>;tag=3081SIPpTag001\r\nTo: <sip:boat7@fleet.example>\r\n"
    "Call-ID: 1-3081@198.51.100.9\r\nCSeq: 1 REGISTER\r\nContact: sip:boat7@198.51.100.9:5060\r\n"
    "Max-Forwards: 70\r\nSubject: Performance Test\r\nExpires: 3600\r\nContent-Length: 0\r\n\r\n",
    "REGISTER sip:45.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.9:39463;branch=z9hG4bK.7f0a1c33;rport;alias\r\n"
    "From: sip:boat7@45.0.0.1;tag=2bf4d1a6\r\nTo: sip:boat7@45.0.0.1\r\nCall-ID: 737464742@198.51.100.9\r\n"
    "CSeq: 1 REGISTER\r\nContact: sip:boat7@198.51.100.9:39463\r\nContent-Length: 0\r\nMax-Forwards: 70\r\n"
    "User-Agent: sipsak 0.9.8.1\r\nExpires: 15\r\n\r\n",
)


def guarded(rates: SourceRates = NO_LIMITS) -> Anchor:
    users = {HOST: secret_hash(HOST, REALM, SECRET)}
    numbers = itertools.count()
    guard = DigestServer(REALM, b"k" * 32, users.get, lambda: next(numbers).to_bytes(8, "big"))
    pool = AddressPool(ip_address("10.99.0.1"), ip_address("10.99.0.50"))
    return Anchor(AnchorSettings(ANCHOR, pool, rates=rates), Paft(), Random(1), guard=guard)


def with_branch(request: Request, branch: str = "z9hG4bK77ef4c2312983.1") -> bytes:
    (name, via), *rest = request.headers
    return bytes(replace(request, headers=((name, f"{via};branch={branch}"), *rest)))


def a_register(**more: Any) -> Request:
    return register(
        anchor=SIGNALLING,
        local=Endpoint(STRANGER.address, 5060),
        identity=HOST,
        call_id="0123456789abcdef",
        cseq=more.pop("cseq", 1),
        tag="0123456789abcdef",
        expires=3600,
        body=encode(AssociationRequest(3600, None, KeyPair().public)),
        **more,
    )


def a_message() -> Request:
    return message(
        anchor=SIGNALLING,
        local=Endpoint(ip_address("10.99.0.1"), 5060),
        identity=HOST,
        call_id="0123456789abcdef",
        cseq=2,
        tag="0123456789abcdef",
        body=encode(HandoverRequest("0" * 32, ())),
    )


def proven(host: DigestClient, anchor: Anchor, request: Request, now: float) -> tuple[bytes, Ticket]:
    """The request with the proof for the anchor's own challenge."""
    (challenge,) = answers(anchor, with_branch(request, "z9hG4bKfirst"), now)
    response = parse(challenge)
    assert not isinstance(response, Request)
    assert host.take_challenge(response, None) is None
    signed, ticket = host.sign(request)
    assert ticket is not None
    return with_branch(signed, f"z9hG4bK{ticket.count}"), ticket


def unproven_requests(anchor: Anchor) -> dict[str, bytes]:
    """One of each kind that can be sent without knowing a secret."""
    plain = with_branch(a_register())
    forged, _ = proven(DigestClient(HOST, "guessed", lambda: "c" * 16), anchor, a_register(), 0.0)
    unknown, _ = proven(DigestClient("nobody@x", SECRET, lambda: "c" * 16), anchor, a_register(), 0.0)
    return {
        "no proof": plain,
        "wrong secret": forged,
        "unknown user": unknown,
        "nonce of another": forged.replace(b'nonce="', b'nonce="AAAA', 1),
        "another URI": forged.replace(b'uri="sip:', b'uri="sip:x', 1),
        "no count": forged.replace(b", nc=00000001", b""),
        "malformed proof": forged.replace(b'realm="upmt"', b'realm="upmt'),
        "weaker algorithm": forged.replace(b"SHA-256", b"MD5"),
        "message outside": with_branch(a_message()),
        "another method": plain.replace(b"REGISTER", b"OPTIONS"),
        "invite": plain.replace(b"REGISTER", b"INVITE"),
        "acknowledgement": plain.replace(b"REGISTER", b"ACK"),
        "another version": plain.replace(b" SIP/2.0\r\n", b" SIP/7.0\r\n", 1),
        "bad header": plain.replace(b"Max-Forwards: 70", b"Max-Forwards: many"),
        "bad request line": plain.replace(b" SIP/2.0\r\n", b"\r\n", 1),
        "two sequences": plain.replace(b"Expires:", b"CSeq: 7 REGISTER\r\nExpires:"),
        "too large": plain + bytes(9000),
        "bare": BARE_REGISTER,
        "bare and wrong": BARE_REGISTER.replace(b"SIP/2.0", b"SIP/3.0", 1),
        "bare with another method": BARE_REGISTER.replace(b"REGISTER", b"X"),
        "answer to nothing": b"SIP/2.0 200 OK\r\n" + plain.partition(b"\r\n")[2],
        "garbage": b"\xff" * 500,
        "keepalive": b"\r\n\r\n",
        "nothing": b"",
    } | {f"usual {number}": text.encode() for number, text in enumerate(USUAL_REGISTERS)}


def answers(anchor: Anchor, data: bytes, now: float) -> list[bytes]:
    commands = anchor.handle(SipDatagramReceived(STRANGER, data), now)
    return [command.data for command in commands if isinstance(command, SendSip)]


def answers_inside(anchor: Anchor, data: bytes, now: float) -> list[bytes]:
    inner = Endpoint(ip_address("10.99.0.1"), 5060)
    commands = anchor.handle(TunnelSignalReceived(None, STRANGER, inner, 5060, data), now)
    return [command.payload for command in commands if isinstance(command, SendTunnelSignal)]


def entries(thing: object, seen: set[int] | None = None) -> int:
    """How many entries all containers have that can be reached from an object of ours, counters apart."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, Counters | Counter | str | bytes | Random | type):
        return 0
    seen.add(id(thing))
    inside: list[object] = []
    if isinstance(thing, dict):
        inside = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        inside = list(thing)
    elif type(thing).__module__.startswith("upmt_nf"):
        names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        attributes = [getattr(thing, name) for name in names if hasattr(thing, name)]
        return sum(entries(value, seen) for value in [*attributes, *getattr(thing, "__dict__", {}).values()])
    return len(inside) + sum(entries(value, seen) for value in inside)


KINDS = list(unproven_requests(guarded()))


def test_entries_are_seen_wherever_a_request_could_leave_some() -> None:
    """The measure itself: one host that proves itself does leave something."""
    anchor = guarded()
    before = entries(anchor)
    data, _ = proven(DigestClient(HOST, SECRET, lambda: "c" * 16), anchor, a_register(), 0.0)
    assert entries(anchor) == before, "a challenge leaves nothing"
    (answer,) = answers(anchor, data, 1.0)
    assert answer.startswith(b"SIP/2.0 200 ")
    assert entries(anchor) > before + 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [answers, answers_inside], ids=["outside", "inside"])
def test_an_unproven_request_leaves_nothing_and_its_answer_is_no_larger(kind: str, way: Any) -> None:
    anchor = guarded()
    data = unproven_requests(anchor)[kind]
    anchor.handle(SipDatagramReceived(STRANGER, b"\r\n\r\n"), 0.0)
    before = entries(anchor)
    for number in range(50):
        request = data.replace(b"z9hG4bK", b"z9hG4bK%02d" % number)
        sent = way(anchor, request, 0.0)
        assert len(sent) <= 1
        assert sum(map(len, sent)) <= len(request)
    assert entries(anchor) == before
    timeout = anchor.next_timeout()
    assert timeout == 5.0, "the sweep only: there is nothing of it to wait for"
    assert not anchor.associations


@pytest.mark.parametrize(
    "data",
    [with_branch(a_register()), *(text.encode() for text in USUAL_REGISTERS)],
    ids=["ours", "sipp", "sipsak"],
)
def test_a_register_of_real_size_is_challenged(data: bytes) -> None:
    (answer,) = answers(guarded(), data, 0.0)
    assert answer.startswith(b"SIP/2.0 401 ")
    assert b"WWW-Authenticate: Digest" in answer
    assert len(answer) <= len(data)
    assert parse(answer).header("to") is not None


def test_what_is_too_small_to_answer_is_counted() -> None:
    anchor = guarded()
    assert answers(anchor, BARE_REGISTER, 0.0) == []
    assert anchor.counters["sip_too_small_to_answer"] == 1


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damaged_request_is_answered_with_more_than_it_has(data: st.DataObject) -> None:
    anchor = guarded()
    whole = data.draw(st.sampled_from(list(unproven_requests(anchor).values())))
    lines = whole.split(b"\r\n")
    kept = data.draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines)))
    damaged = b"\r\n".join(line for line, keep in zip(lines, kept, strict=True) if keep)
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))] + data.draw(
        st.sampled_from([b"", b"\r\n\r\n"])
    )
    for way in (answers, answers_inside):
        assert sum(map(len, way(anchor, damaged, 0.0))) <= len(damaged)


def test_a_transaction_table_that_is_full_says_so_in_no_more_bytes_than_it_heard() -> None:
    anchor = guarded()
    anchor._endpoint._max = 0
    for data in (with_branch(a_register()), *(text.encode() for text in USUAL_REGISTERS)):
        (answer,) = answers(anchor, data, 0.0)
        assert answer.startswith(b"SIP/2.0 503 ")
        assert len(answer) <= len(data)


def test_a_flood_of_strangers_is_parsed_up_to_its_limit_only() -> None:
    anchor = guarded(SourceRates(strangers=100, source=10))
    data = with_branch(a_register())
    sent = 0
    for number in range(5000):
        source = Endpoint(ip_address(f"198.{number % 1000 >> 2}.{number & 3}.7"), 5060)
        sent += len(anchor.handle(SipDatagramReceived(source, data), 1.0))
    assert sent == 100
    assert anchor.counters["challenged"] == 100
    assert anchor.counters["strangers_over_limit"] == 4900


def test_a_host_refreshes_from_anywhere_in_the_middle_of_a_flood() -> None:
    anchor = guarded(SourceRates(strangers=100, source=10))
    host = DigestClient(HOST, SECRET, partial(next, map(str, itertools.count())))
    data, _ = proven(host, anchor, a_register(), 0.0)
    assert answers(anchor, data, 0.0)[0].startswith(b"SIP/2.0 200 ")
    for number in range(2000):
        source = Endpoint(ip_address(f"198.{number % 1000 >> 2}.{number & 3}.7"), 5060)
        anchor.handle(SipDatagramReceived(source, with_branch(a_register())), 10.0)
    for number, address in enumerate(("203.0.113.1", "192.0.2.8", "2001:db8::7"), start=2):
        signed, _ = host.sign(a_register(cseq=number))
        event = SipDatagramReceived(
            Endpoint(ip_address(address), 1024), with_branch(signed, f"z9hG4bKr{number}")
        )
        (answer,) = (c.data for c in anchor.handle(event, 10.0) if isinstance(c, SendSip))
        assert answer.startswith(b"SIP/2.0 200 "), answer
