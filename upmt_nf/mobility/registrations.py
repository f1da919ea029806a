"""REGISTER at the anchor: what a host asks for, and how its lease or the refusal is written (design section 5).

Reading and writing only; who may have what is `leases.py`'s, what follows from it the anchor's.
"""

from __future__ import annotations

from ipaddress import ip_address

from upmt_nf.mobility.host_signalling import TOKEN_HEADER
from upmt_nf.mobility.leases import Lease, LeaseAsked, LeaseKeys, LeaseRefused
from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.identity import TerminalId
from upmt_nf.signaling.keys import KeyPair
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import AssociationRequest, AssociationResponse
from upmt_nf.signaling.sip.contacts import lifetime_asked, read_contacts
from upmt_nf.signaling.sip.fields import parse_address, parse_cseq
from upmt_nf.signaling.sip.message import Header, Request

_LONGEST_IDENTITY = 256


def read_registration(request: Request, usual_lifetime: int) -> LeaseAsked:
    """What a REGISTER asks for; `usual_lifetime` (seconds) when it does not say. Raises ValueError."""
    identity = parse_address(request.header("to") or "").record
    if len(identity) > _LONGEST_IDENTITY or not identity.isprintable():
        raise ValueError("the identity is too long or not printable")
    cseq, _ = parse_cseq(request.header("cseq") or "")
    expires = lifetime_asked(request) or str(usual_lifetime)
    if not (expires.isascii() and expires.isdigit()):
        raise ValueError("Expires is not a number")
    wanted = request.header("vipaddr")
    return LeaseAsked(
        identity=TerminalId(identity),
        call_id=request.header("call-id") or "",
        cseq=cseq,
        expires=min(int(expires[:10]), 2**32 - 1),
        wanted=_address_in(wanted) if wanted else None,
        key=_compare(request, expires, wanted) if request.body else None,
        contacts=read_contacts(request),
    )


def _compare(request: Request, expires: str, wanted: str | None) -> bytes | None:
    """The body, which a proof covers, must say what the headers say; gives its key. Raises ValueError."""
    try:
        body = decode(request.body)
    except PeerError as reason:
        raise ValueError(str(reason)) from reason
    if not isinstance(body, AssociationRequest):
        raise ValueError("the body is no association request")
    address = None if wanted is None else _address_in(wanted)
    if (body.expires, body.virtual_address) != (int(expires[:10]), address):
        raise ValueError("headers and body contradict each other")
    return body.key


def _address_in(text: str) -> IPAddress:
    """Raises ValueError. With a zone, one address would have many names, and so many owners."""
    if "%" in text:
        raise ValueError("VIpAddr has a zone")
    return ip_address(text.strip())


def agree(lease: Lease, key: bytes) -> None:
    """Keys for an association, once for each key of the host. Raises PeerError."""
    if lease.keys is None or lease.keys.theirs != key:
        pair = KeyPair()
        lease.keys = LeaseKeys(key, pair.public, pair.agree(key, is_host=False))


def grant(lease: Lease, now: float) -> tuple[tuple[Header, ...], bytes]:
    """Headers and body of the success; `now` in seconds."""
    expires = max(1, round(lease.expires_at - now))
    headers: tuple[Header, ...] = (
        *lease.contacts.headers(now),
        ("VIpAddr", str(lease.address)),
        ("Expires", str(expires)),
        (TOKEN_HEADER, lease.token),
    )
    key = lease.keys.ours if lease.keys is not None else None
    return headers, encode(AssociationResponse(lease.address, lease.token, expires, key))


def refusal_headers(refused: LeaseRefused) -> tuple[Header, ...]:
    """What a refusal says beside its status: how long to ask for, or when to ask again."""
    headers: list[Header] = []
    if refused.least_lifetime is not None:
        headers.append(("Min-Expires", str(refused.least_lifetime)))
    if refused.retry_after is not None:
        headers.append(("Retry-After", str(refused.retry_after)))
    return tuple(headers)
