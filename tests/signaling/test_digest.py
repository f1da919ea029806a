"""Digest with SHA-256, both ends: proofs, replays, downgrades."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.digest import (
    NONCE_LIFETIME,
    REALM,
    DigestClient,
    DigestServer,
    Ticket,
    Unproven,
    parse_digest,
    secret_hash,
)
from upmt_nf.signaling.sip.build import register, response_to
from upmt_nf.signaling.sip.message import Request, Response
from upmt_nf.signaling.sip.parser import parse

HOST, SECRET = "boat7@fleet.example", "correct horse"
USERS = {
    HOST: secret_hash(HOST, REALM, SECRET),
    "other@fleet.example": secret_hash("other@fleet.example", REALM, "x"),
}


def server(**options: Any) -> DigestServer:
    numbers = itertools.count()
    return DigestServer(REALM, b"k" * 32, USERS.get, lambda: next(numbers).to_bytes(8, "big"), **options)


def client(secret: str = SECRET, identity: str = HOST) -> DigestClient:
    numbers = itertools.count()
    return DigestClient(identity, secret, lambda: f"c{next(numbers)}")


def request(body: bytes = b'{"expires":60}', method: str = "REGISTER") -> Request:
    made = register(
        anchor=endpoint("45.0.0.1", 5060),
        local=endpoint("192.168.100.25", 5060),
        identity=HOST,
        call_id="abc",
        cseq=1,
        tag="t",
        expires=60,
        body=body,
    )
    return replace(made, method=method)


def endpoint(address: str, port: int) -> Endpoint:
    return Endpoint(ip_address(address), port)


def answered(asked: Request, unproven: Unproven) -> Response:
    return response_to(asked, unproven.status, tag="x", headers=unproven.headers, reason=unproven.reason)


def challenged(host: DigestClient, anchor: DigestServer, now: float = 100.0) -> None:
    challenge = anchor.check(request(), now)
    assert isinstance(challenge, Unproven)
    assert challenge.status == 401
    assert host.take_challenge(answered(request(), challenge), None) is None


def signed(host: DigestClient, asked: Request) -> tuple[Request, Ticket]:
    proven, ticket = host.sign(asked)
    assert ticket is not None
    return proven, ticket


def test_the_example_of_rfc_7616_section_3_9_1() -> None:
    known = hashlib.sha256(b"Mufasa:http-auth@example.org:Circle of Life").hexdigest()
    assert secret_hash("Mufasa", "http-auth@example.org", "Circle of Life") == known
    ticket = Ticket(
        "Mufasa",
        known,
        "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        "00000001",
        "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
        "auth",
        "/dir/index.html",
    )
    assert ticket.proof("GET", b"") == "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"


def test_both_ends_prove_themselves_and_the_next_request_needs_no_challenge() -> None:
    host, anchor = client(), server()
    assert host.sign(request())[1] is None
    challenged(host, anchor)
    for number in range(5):
        proven, ticket = signed(host, request())
        wired = parse(bytes(proven))
        assert isinstance(wired, Request)
        found = anchor.check(wired, 101.0 + number)
        assert isinstance(found, Ticket)
        assert found.identity == HOST
        body = b'{"mType":"AssociationResponse"}'
        yes = response_to(wired, 200, tag="x", headers=(anchor.info(found, body, 101.0),), body=body)
        assert host.proves_itself(ticket, yes)


def test_a_replay_is_stale_and_counts_out_of_order_are_fine() -> None:
    host, anchor = client(), server()
    challenged(host, anchor)
    requests = [signed(host, request())[0] for _ in range(6)]
    for number in (3, 0, 5, 1, 2, 4):
        assert isinstance(anchor.check(requests[number], 101.0), Ticket)
    for again in requests:
        refused = anchor.check(again, 102.0)
        assert isinstance(refused, Unproven)
        assert "stale=true" in refused.headers[0][1]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=300))
def test_no_count_is_ever_accepted_twice(counts: list[int]) -> None:
    host, anchor = client(), server()
    challenged(host, anchor)
    requests: dict[int, Request] = {}
    for number in range(1, 401):
        requests[number] = signed(host, request())[0]
    used: set[int] = set()
    for count in counts:
        accepted = isinstance(anchor.check(requests[count], 101.0), Ticket)
        assert not (accepted and count in used)
        assert accepted or count in used or count <= max(used) - 256
        if accepted:
            used.add(count)


def test_a_changed_body_method_or_uri_is_no_proof() -> None:
    host, anchor = client(), server()
    challenged(host, anchor)
    spoilers: tuple[Callable[[Request], Request], ...] = (
        lambda good: replace(good, body=b'{"expires":61}'),
        lambda good: replace(good, method="MESSAGE"),
        lambda good: replace(good, uri="sip:45.0.0.2:5060"),
    )
    for spoil in spoilers:
        refused = anchor.check(spoil(signed(host, request())[0]), 101.0)
        assert isinstance(refused, Unproven)
        assert refused.status in (400, 403)


@pytest.mark.parametrize(("identity", "secret"), [(HOST, "wrong"), ("nobody@fleet.example", SECRET)])
def test_a_wrong_secret_and_an_unknown_identity_are_told_the_same(identity: str, secret: str) -> None:
    host, anchor = client(secret, identity), server()
    challenged(host, anchor)
    refused = anchor.check(signed(host, request())[0], 101.0)
    assert refused == Unproven(403, "Forbidden")


def test_an_old_nonce_a_foreign_one_and_one_of_another_key_are_stale() -> None:
    host, anchor = client(), server()
    challenged(host, anchor)
    late = anchor.check(signed(host, request())[0], 101.0 + NONCE_LIFETIME)
    assert isinstance(late, Unproven)
    assert "stale=true" in late.headers[0][1]
    restarted = DigestServer(REALM, b"n" * 32, USERS.get, lambda: bytes(8))
    proven, ticket = signed(host, request())
    refused = restarted.check(proven, 101.0)
    assert isinstance(refused, Unproven)
    assert host.take_challenge(answered(request(), refused), ticket) is None
    assert isinstance(restarted.check(signed(host, request())[0], 102.0), Ticket)


def test_an_aging_nonce_is_replaced_without_a_challenge() -> None:
    host, anchor = client(), server()
    challenged(host, anchor)
    now = 100.0
    for _ in range(20):
        now += NONCE_LIFETIME * 0.8
        proven, ticket = signed(host, request())
        found = anchor.check(proven, now)
        assert isinstance(found, Ticket)
        yes = response_to(proven, 200, tag="x", headers=(anchor.info(found, b"", now),))
        assert host.proves_itself(ticket, yes)


def test_forgotten_nonces_are_stale_and_never_fresh_again() -> None:
    anchor = server(max_nonces=4)
    hosts = [client() for _ in range(8)]
    for number, host in enumerate(hosts):
        challenged(host, anchor, 100.0 + number)
    proofs = [signed(host, request())[0] for host in hosts]
    accepted = [isinstance(anchor.check(proof, 110.0), Ticket) for proof in proofs]
    assert all(accepted)
    assert not any(isinstance(anchor.check(proof, 111.0), Ticket) for proof in proofs)


def test_many_nonces_of_one_host_cost_another_nothing() -> None:
    host, anchor, busy = client(), server(max_nonces=2), client("x", "other@fleet.example")
    challenged(host, anchor)
    proofs = [signed(host, request())[0] for _ in range(2)]
    assert isinstance(anchor.check(proofs[0], 101.0), Ticket)
    for number in range(100):
        challenged(busy, anchor, 102.0 + number)
        assert isinstance(anchor.check(signed(busy, request())[0], 300.0), Ticket)
    assert isinstance(anchor.check(proofs[1], 301.0), Ticket)
    assert sum(len(uses.counts) for uses in anchor._uses.values()) == 3


def test_a_late_first_use_of_an_old_nonce_counts_once() -> None:
    anchor, hosts = server(max_nonces=2), [client() for _ in range(3)]
    for number, host in enumerate(hosts):
        challenged(host, anchor, 100.0 + number)
    for host in (hosts[1], hosts[2], hosts[0]):
        proof = signed(host, request())[0]
        assert isinstance(anchor.check(proof, 110.0), Ticket)
        assert isinstance(anchor.check(proof, 110.0), Unproven)


@pytest.mark.parametrize("where", ["response", "username", "cnonce", "realm", "nonce", "uri", "qop", "nc"])
def test_bytes_that_are_no_utf_8_prove_nothing_and_break_nothing(where: str) -> None:
    host, anchor = client(), server()
    challenged(host, anchor)
    (name, via), *others = signed(host, request())[0].headers
    proven = bytes(replace(request(), headers=((name, f"{via};branch=z9hG4bK1"), *others)))
    broken = proven.replace(b" " + where.encode() + b"=", b" " + where.encode() + b'="\xff\xfe", x=')
    assert broken != proven
    asked = parse(broken)
    assert isinstance(asked, Request)
    assert isinstance(anchor.check(asked, 101.0), Unproven)


def test_an_answer_whose_proof_is_no_utf_8_proves_nothing() -> None:
    host, anchor = client(), server()
    challenged(host, anchor)
    proven, ticket = signed(host, request())
    info = f'qop=auth-int, rspauth="\udcff", cnonce="{ticket.client_nonce}", nc={ticket.count}'
    answer = response_to(proven, 200, tag="x", headers=(("Authentication-Info", info),))
    assert not host.proves_itself(ticket, answer)


def test_the_anchor_must_prove_itself() -> None:
    host, anchor = client(), server()
    challenged(host, anchor)
    proven, ticket = signed(host, request())
    found = anchor.check(proven, 101.0)
    assert isinstance(found, Ticket)
    info = anchor.info(found, b"body", 101.0)
    good = response_to(proven, 200, tag="x", headers=(info,), body=b"body")
    assert host.proves_itself(ticket, good)
    assert not host.proves_itself(ticket, replace(good, body=b"Body"))
    assert not host.proves_itself(ticket, response_to(proven, 200, tag="x", body=b"body"))
    impostor = DigestServer(REALM, b"k" * 32, lambda _: secret_hash(HOST, REALM, "guess"), lambda: bytes(8))
    forged = impostor.info(replace(found, hash=secret_hash(HOST, REALM, "guess")), b"body", 101.0)
    assert not host.proves_itself(ticket, replace(good, headers=(forged,)))
    other = signed(host, request())[1]
    assert not host.proves_itself(other, good)


@pytest.mark.parametrize(
    "challenge",
    [
        'Digest realm="upmt", nonce="abc", algorithm=MD5, qop="auth-int"',
        'Digest realm="upmt", nonce="abc", qop="auth-int"',
        'Digest realm="upmt", nonce="abc", algorithm=SHA-256',
        'Digest realm="upmt", nonce="abc", algorithm=SHA-256, qop="auth"',
        'Digest realm="upmt", algorithm=SHA-256, qop="auth-int"',
        'Digest realm="up\\"mt", nonce="abc", algorithm=SHA-256, qop="auth-int"',
        "Basic realm=x",
        "",
    ],
)
def test_a_downgrade_is_refused(challenge: str) -> None:
    host = client()
    answer = response_to(request(), 401, tag="x", headers=(("WWW-Authenticate", challenge),))
    assert host.take_challenge(answer, None) is not None
    assert host.sign(request())[1] is None


def test_the_host_does_not_try_a_wrong_secret_again_and_again() -> None:
    host, anchor = client("wrong"), server()
    challenged(host, anchor)
    _, ticket = signed(host, request())
    again = answered(request(), anchor.challenge(101.0))
    assert host.take_challenge(again, ticket) == "the anchor does not accept our secret"


@given(st.text(max_size=300))
def test_any_header_parses_or_is_a_peer_error(text: str) -> None:
    try:
        parse_digest("Digest " + text)
    except PeerError:
        return


@given(st.binary(max_size=200), st.text(max_size=100))
def test_no_request_makes_the_server_raise(body: bytes, header: str) -> None:
    asked = replace(request(body), headers=(*request().headers, ("Authorization", "Digest " + header)))
    assert isinstance(server().check(asked, 100.0), Unproven)


def test_a_hostile_header_takes_linear_time() -> None:
    for hostile in ('a="' + "\\\\" * 1000, "a=" * 1000, " " * 2000, 'a="b",' * 400):
        began = time.perf_counter()
        with contextlib.suppress(PeerError):
            parse_digest("Digest " + hostile)
        assert time.perf_counter() - began < 0.2


def test_a_count_that_jumps_costs_nothing_and_only_its_own_identity() -> None:
    """A nonce is in the open: another host that uses it must not use up its owner's counts."""
    anchor, host, other = server(), client(), client("x", "other@fleet.example")
    challenge = anchor.check(request(), 1.0)
    assert isinstance(challenge, Unproven)
    answer = response_to(request(), 401, tag="t", headers=challenge.headers)
    assert host.take_challenge(answer, None) is None
    assert other.take_challenge(answer, None) is None
    assert isinstance(anchor.check(host.sign(request())[0], 1.0), Ticket)
    other._count = 2**32 - 2
    began = time.process_time()
    assert isinstance(anchor.check(other.sign(request())[0], 1.0), Ticket)
    assert time.process_time() - began < 0.05, "nothing is shifted by four thousand million bits"
    assert isinstance(anchor.check(host.sign(request())[0], 1.0), Ticket)


@pytest.mark.parametrize("header", ["To", "Call-ID", "CSeq", "Expires"])
def test_headers_that_the_anchor_acts_on_are_under_our_proof(header: str) -> None:
    anchor, host = server(), client()
    challenge = anchor.check(request(), 1.0)
    assert isinstance(challenge, Unproven)
    host.take_challenge(response_to(request(), 401, tag="t", headers=challenge.headers), None)
    signed, _ = host.sign(request())
    changed = tuple((name, value + "0" if name == header else value) for name, value in signed.headers)
    refused = anchor.check(replace(signed, headers=changed), 1.0)
    assert isinstance(refused, Unproven)
    assert refused.status == 403
    assert isinstance(anchor.check(signed, 1.0), Ticket)
