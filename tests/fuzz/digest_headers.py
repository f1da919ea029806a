"""Digest headers: nobody proves anything without the secret, at either end, and nothing raises.

The first byte chooses the header; `{nonce}` in the text becomes a nonce that the anchor made, so that a search gets
behind the first check.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.digest import (
    REALM,
    DigestClient,
    DigestServer,
    Ticket,
    Unproven,
    parse_digest,
    secret_hash,
)
from upmt_nf.signaling.sip.build import register
from upmt_nf.signaling.sip.message import Response

IDENTITY = "boat7@fleet.example"
_USERS = {IDENTITY: secret_hash(IDENTITY, REALM, "correct horse")}
_ANCHOR = Endpoint(ip_address("45.0.0.1"), 5060)
_REQUEST = register(
    anchor=_ANCHOR,
    local=Endpoint(ip_address("192.168.100.25"), 5060),
    identity=IDENTITY,
    call_id="abc",
    cseq=1,
    tag="t",
    expires=60,
    body=b"{}",
)


def check(data: bytes) -> None:
    server = DigestServer(REALM, b"k" * 32, _USERS.get, lambda: b"12345678")
    nonce = _nonce(server)
    text = data[1:].decode("utf-8", "surrogateescape").replace("{nonce}", nonce)
    _read(text)
    match data[0] % 3 if data else 0:
        case 0:
            proof = server.check(
                replace(_REQUEST, headers=(*_REQUEST.headers, ("Authorization", text))), 100.0
            )
            assert isinstance(proof, Unproven)
            assert proof.status in (400, 401, 403)
        case 1:
            client = _client()
            refused = client.take_challenge(_answer(401, "WWW-Authenticate", text), None)
            request, ticket = client.sign(_REQUEST)
            assert (refused is None) == (ticket is not None)
            assert len(bytes(request)) < len(bytes(_REQUEST)) + 3 * len(text) + 600
            if ticket is not None:
                _read(dict(request.headers)["Authorization"])
        case _:
            client = _client()
            client.take_challenge(_answer(401, *server.challenge(100.0).headers[0]), None)
            _, ticket = client.sign(_REQUEST)
            assert isinstance(ticket, Ticket)
            assert not client.proves_itself(ticket, _answer(200, "Authentication-Info", text))


def _read(text: str) -> None:
    try:
        found = parse_digest(text)
    except PeerError as reason:
        assert len(str(reason)) < 200
        return
    assert sum(len(name) + len(value) for name, value in found.items()) <= len(text)


def _nonce(server: DigestServer) -> str:
    return parse_digest(server.challenge(100.0).headers[0][1])["nonce"]


def _client() -> DigestClient:
    return DigestClient(IDENTITY, "correct horse", lambda: "cnonce")


def _answer(status: int, name: str, text: str) -> Response:
    return Response(((name, text),), status=status, reason="x")


def seeds() -> list[bytes]:
    proof = (
        f'Digest username="{IDENTITY}", realm="upmt", nonce="{{nonce}}", uri="{_REQUEST.uri}", '
        f'response="{"0" * 64}", algorithm=SHA-256, cnonce="c", qop=auth-int, nc=00000001'
    )
    challenge = 'Digest realm="upmt", qop="auth-int,auth", algorithm=SHA-256, nonce="{nonce}", stale=true'
    info = f'qop=auth-int, rspauth="{"0" * 64}", cnonce="cnonce", nc=00000001, nextnonce="{{nonce}}"'
    return [
        b"\0" + proof.encode(),
        b"\0" + proof.replace("auth-int", "auth").encode(),
        b"\1" + challenge.encode(),
        b'\1Digest realm="a\\"b", nonce="x", qop="auth-int", algorithm="SHA-256"',
        b"\2" + info.encode(),
    ]
