"""Several algorithms, challenges and proofs: which one counts (RFC 3261 section 22, RFC 7616, RFC 8760)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.digest import (
    ALGORITHM,
    MD5,
    REALM,
    DigestClient,
    DigestServer,
    Ticket,
    Unproven,
    parse_digest,
    secret_hash,
)
from upmt_nf.signaling.sip.build import register, response_to
from upmt_nf.signaling.sip.message import Header, Request, Response

HOST, SECRET = "boat7@fleet.example", "correct horse"
GOOD = f'Digest realm="{REALM}", nonce="abc", algorithm=SHA-256, qop="auth-int,auth"'
WEAK = f'Digest realm="{REALM}", nonce="abc", algorithm=MD5, qop="auth-int,auth"'


def finder(algorithm: str) -> Callable[[str], str | None]:
    return {HOST: secret_hash(HOST, REALM, SECRET, algorithm)}.get


def server(*algorithms: str) -> DigestServer:
    numbers = itertools.count()
    return DigestServer(
        REALM,
        b"k" * 32,
        finder(ALGORITHM),
        lambda: next(numbers).to_bytes(8, "big"),
        algorithms=algorithms,
        md5_hash_of=finder(MD5),
    )


def client(secret: str = SECRET, qop: str = "auth-int") -> DigestClient:
    numbers = itertools.count()
    return DigestClient(HOST, secret, lambda: f"c{next(numbers)}", qop=qop)


def request(*headers: Header) -> Request:
    end = Endpoint(ip_address("45.0.0.1"), 5060)
    made = register(
        anchor=end, local=end, identity=HOST, call_id="c", cseq=1, tag="t", expires=60, body=b"{}"
    )
    return replace(made, headers=(*made.headers, *headers))


def challenge_of(anchor: DigestServer, asked: Request | None = None) -> Unproven:
    found = anchor.check(asked or request(), 100.0)
    assert isinstance(found, Unproven)
    return found


def challenged(*values: str) -> Response:
    return response_to(
        request(), 401, tag="x", headers=tuple(("WWW-Authenticate", value) for value in values)
    )


def proof(anchor: DigestServer, algorithm: str) -> str:
    """What another client would answer to the anchor's challenge in this algorithm."""
    offers = [parse_digest(value) for _, value in challenge_of(anchor).headers]
    nonce = offers[0]["nonce"]
    known = secret_hash(HOST, REALM, SECRET, algorithm)
    ticket = Ticket(HOST, known, nonce, "00000001", "x", "auth", request().uri, algorithm)
    return (
        f'Digest username="{HOST}", realm="{REALM}", nonce="{nonce}", uri="{ticket.uri}", algorithm={algorithm}, '
        f'response="{ticket.proof("REGISTER", b"")}", qop=auth, nc=00000001, cnonce="x"'
    )


def test_the_example_of_rfc_7616_in_md5() -> None:
    known = hashlib.md5(b"Mufasa:http-auth@example.org:Circle of Life").hexdigest()
    ticket = Ticket(
        "Mufasa", known, "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "00000001",
        "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", "auth", "/dir/index.html", MD5,
    )  # fmt: skip
    assert ticket.proof("GET", b"") == "8ca523f5e9506fed4657c9700eebdbec"


@pytest.mark.parametrize(
    ("algorithms", "offered"),
    [((ALGORITHM,), [ALGORITHM]), ((MD5,), [MD5]), ((MD5, ALGORITHM), [ALGORITHM, MD5])],
)
def test_the_strongest_is_offered_first_and_only_what_is_offered_is_taken(
    algorithms: tuple[str, ...], offered: list[str]
) -> None:
    anchor = server(*algorithms)
    offers = [parse_digest(value) for _, value in challenge_of(anchor).headers]
    assert [offer["algorithm"] for offer in offers] == offered
    for algorithm in (ALGORITHM, MD5):
        found = anchor.check(request(("Authorization", proof(anchor, algorithm))), 101.0)
        assert isinstance(found, Ticket) == (algorithm in offered)
        if isinstance(found, Ticket):
            assert found.algorithm == algorithm
            length = len(parse_digest("Digest " + anchor.info(found, b"", 101.0)[1])["rspauth"])
            assert length == {ALGORITHM: 64, MD5: 32}[algorithm]


def test_a_proof_that_names_no_algorithm_is_md5() -> None:
    """RFC 7616 section 3.4."""
    anchor = server(MD5)
    given = proof(anchor, MD5).replace(" algorithm=MD5,", "")
    assert isinstance(anchor.check(request(("Authorization", given)), 101.0), Ticket)
    given = proof(server(ALGORITHM), MD5).replace(" algorithm=MD5,", "")
    assert challenge_of(server(ALGORITHM), request(("Authorization", given))).status == 401


def test_credentials_for_others_do_not_hide_ours() -> None:
    """RFC 3261 section 22.3: one for each realm; RFC 4475 section 3.3.7: other schemes."""
    anchor = server(ALGORITHM)
    others = ("NoOneKnows opaque=here", 'Digest realm="elsewhere", nonce="x"', proof(anchor, MD5))
    given = [("Authorization", value) for value in (*others, proof(anchor, ALGORITHM))]
    assert isinstance(anchor.check(request(*given), 101.0), Ticket)
    assert challenge_of(anchor, request(*given[:-1])).status == 401
    assert challenge_of(anchor, request(("Authorization", "Digest realm=,="))).status == 400


@pytest.mark.parametrize(
    "values",
    [(GOOD,), (GOOD, WEAK), (WEAK, GOOD), ("Newer realm=x y", GOOD), (GOOD.replace("abc", "abd"), GOOD)],
)
def test_the_host_takes_the_first_challenge_that_is_good_enough(values: tuple[str, ...]) -> None:
    host = client()
    assert host.take_challenge(challenged(*values), None) is None
    signed, ticket = host.sign(request())
    assert ticket is not None
    assert ticket.nonce == parse_digest(next(value for value in values if "SHA-256" in value))["nonce"]
    assert "algorithm=SHA-256" in (signed.header("authorization") or "")


def test_the_host_takes_nothing_weaker() -> None:
    assert client().take_challenge(challenged(WEAK, WEAK), None) == (
        "the anchor offers no Digest with SHA-256 and auth-int"
    )


def test_a_registrar_without_auth_int_is_for_a_client_that_says_so() -> None:
    plain = GOOD.replace("auth-int,", "")
    assert client().take_challenge(challenged(plain), None) is not None
    host = client(qop="auth")
    assert host.take_challenge(challenged(plain), None) is None
    assert "qop=auth," in (host.sign(request())[0].header("authorization") or "")


def test_two_requests_at_once_with_a_wrong_secret_are_both_told_so() -> None:
    """As by two networks: the second challenge's nonce has replaced the first one's meanwhile."""
    host, anchor = client("wrong"), server(ALGORITHM)
    tickets = []
    for _ in range(2):
        assert host.take_challenge(challenged(challenge_of(anchor).headers[0][1]), None) is None
        tickets.append(host.sign(request())[1])
    for ticket in tickets:
        refusal = challenged(challenge_of(anchor).headers[0][1])
        assert host.take_challenge(refusal, ticket) == "the anchor does not accept our secret"


def test_another_realm_is_no_refusal_of_the_secret() -> None:
    host = client()
    assert host.take_challenge(challenged(GOOD), None) is None
    _, ticket = host.sign(request())
    assert host.take_challenge(challenged(GOOD.replace(REALM, "other")), ticket) is None
    assert 'realm="other"' in (host.sign(request())[0].header("authorization") or "")
