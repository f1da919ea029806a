"""Answers to those who proved nothing: never larger than what they sent, as its source may be forged.

A challenge to a REGISTER of the usual size fits; a request that is smaller than its least answer gets none.
"""

from __future__ import annotations

import re
from dataclasses import replace

from upmt_nf.signaling.sip.message import Response, canonical

_DISPENSABLE = frozenset(("server", "retry-after", "content-length", "content-type"))
_STAMP = re.compile(r";(?:received=[^;,]*|(rport)=\d+)")
_SHORT = {"via": "v", "from": "f", "to": "t", "call-id": "i"}


def unamplified(response: Response, size: int) -> bytes | None:
    """An answer of at most `size` bytes: as it is, else without what it can do without; None: there is none."""
    data = bytes(response)
    if len(data) > size:
        data = _least(response)
    if len(data) > size:
        # RFC 3261 section 8.2.1 wants Allow in a 405; a stranger that says so little can do without.
        response = _without(response, "allow")
        data = _least(response)
    if len(data) > size:
        response = _unstamped(response)
        data = _least(response)
    if len(data) > size:
        # Offers follow each other from the strongest on (RFC 8760 section 2.4): who knows that one needs no other.
        first = response.header("www-authenticate")
        response = _without(response, "www-authenticate", but=first)
        data = _least(response)
    if len(data) > size:
        # The last resort, as some clients insist on the blanks.
        data = _least(response, blank="")
    return data if len(data) <= size else None


def _without(response: Response, gone: str, but: str | None = None) -> Response:
    kept = [(name, value) for name, value in response.headers if canonical(name) != gone or value == but]
    return replace(response, headers=tuple(kept))


def _unstamped(response: Response) -> Response:
    """Without what we wrote into the topmost Via: where the request came from, which is where the answer goes."""
    headers = list(response.headers)
    for place, (name, value) in enumerate(headers):
        if canonical(name) == "via":
            headers[place] = name, _STAMP.sub(lambda found: ";rport" if found[1] else "", value)
            break
    return replace(response, headers=tuple(headers))


def _least(response: Response, blank: str = " ") -> bytes:
    """Compact names, no reason, no body, perhaps no blanks; over UDP no length (RFC 3261 sections 7.2, 7.3, 18.3)."""
    lines = [f"SIP/2.0 {response.status} "]
    for name, value in response.headers:
        known = canonical(name)
        if known not in _DISPENSABLE:
            lines.append(f"{_SHORT.get(known, name)}:{blank}{value}")
    return "\r\n".join((*lines, "\r\n")).encode("utf-8", "surrogateescape")
