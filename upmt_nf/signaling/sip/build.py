"""The messages of the paper's figure 9, as valid SIP.

As printed there, To and From lack a scheme and Via ends in `;`: we send valid SIP and accept both.
"""

from __future__ import annotations

from collections.abc import Sequence

from upmt_nf.model.flow import Endpoint
from upmt_nf.signaling.sip.fields import parse_address, parse_via
from upmt_nf.signaling.sip.message import Header, Request, Response, canonical

PRODUCT = "UPMT-NF"
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    423: "Interval Too Brief",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    500: "Server Internal Error",
    503: "Service Unavailable",
    505: "Version Not Supported",
    513: "Message Too Large",
}


def register(
    *,
    anchor: Endpoint,
    local: Endpoint,
    identity: str,
    call_id: str,
    cseq: int,
    tag: str,
    expires: int,
    virtual_address: str | None = None,
    body: bytes = b"",
    others: Sequence[Endpoint] = (),
    gone: Sequence[Endpoint] = (),
) -> Request:
    """M1, the association request; `expires` 0 de-associates. The Via's branch is added on sending.

    Contacts are `local`, the `others` by which the host can be reached as well, and those `gone` since it said so.
    """
    user = identity.partition("@")[0]
    headers: list[Header] = [
        ("Via", f"SIP/2.0/UDP {local};rport;TID={identity}"),
        ("Max-Forwards", "70"),
        ("To", f"<sip:{identity}>"),
        ("From", f"<sip:{identity}>;tag={tag}"),
        ("Call-ID", call_id),
        ("CSeq", f"{cseq} REGISTER"),
        *(("Contact", f"<sip:{user}@{contact}>") for contact in (local, *others)),
        *(("Contact", f"<sip:{user}@{contact}>;expires=0") for contact in gone),
        ("Expires", str(expires)),
        ("User-Agent", PRODUCT),
    ]
    if virtual_address is not None:
        headers.append(("VIpAddr", virtual_address))
    if body:
        headers.append(("Content-Type", "application/json"))
    return Request(tuple(headers), method="REGISTER", uri=f"sip:{anchor}", body=body)


def message(
    *, anchor: Endpoint, local: Endpoint, identity: str, call_id: str, cseq: int, tag: str, body: bytes
) -> Request:
    """M3: a MESSAGE (RFC 3428) that carries a JSON body."""
    headers: tuple[Header, ...] = (
        ("Via", f"SIP/2.0/UDP {local};rport;TID={identity}"),
        ("Max-Forwards", "70"),
        ("To", f"<sip:{anchor}>"),
        ("From", f"<sip:{identity}>;tag={tag}"),
        ("Call-ID", call_id),
        ("CSeq", f"{cseq} MESSAGE"),
        ("Content-Type", "application/json"),
        ("User-Agent", PRODUCT),
    )
    return Request(headers, method="MESSAGE", uri=f"sip:{anchor}", body=body)


_ECHOED = frozenset(("via", "from", "to", "call-id", "cseq"))


def response_to(
    request: Request,
    status: int,
    *,
    tag: str,
    source: Endpoint | None = None,
    headers: tuple[Header, ...] = (),
    body: bytes = b"",
    reason: str | None = None,
    content_type: str = "application/json",
) -> Response:
    """An answer that echoes what RFC 3261 section 8.2.6 asks for, the header lines as they came.

    `source` is where the request came from: written into the topmost Via as `received` and `rport` (RFC 3581).
    `tag` is added to a To that has none.
    """
    echoed: list[Header] = []
    is_topmost = True
    for name, value in request.headers:
        known = canonical(name)
        if known not in _ECHOED:
            continue
        if known == "via" and is_topmost:
            is_topmost = False
            value = with_source(value, source) if source is not None else value
        elif known == "to" and _lacks_tag(value):
            value = f"{value};tag={tag}"
        echoed.append((name, value))
    content: tuple[Header, ...] = (("Content-Type", content_type),) if body else ()
    text = reason or REASONS.get(status, "Unknown")
    return Response((*echoed, *headers, ("Server", PRODUCT), *content), status=status, reason=text, body=body)


def _lacks_tag(to: str) -> bool:
    try:
        return parse_address(to).tag is None
    except ValueError:
        return False


def with_source(via: str, source: Endpoint) -> str:
    """RFC 3581 section 4: `rport` gets the port when it was asked for, `received` the address. Ours replace theirs."""
    first, comma, others = via.partition(",")
    try:
        asked = parse_via(first).parameters
    except ValueError:
        return via
    ours = ("rport", "received")
    kept = [
        part
        for part in first.split(";")
        if part.strip() and part.partition("=")[0].strip().lower() not in ours
    ]
    if "rport" in asked:
        kept.append(f"rport={source.port}")
    kept.append(f"received={source.address}")
    return ";".join(kept) + comma + others
