"""Answers to those who proved nothing: never larger than what they sent, as its source may be forged (RFC 4732, 3.1)."""

from __future__ import annotations

from dataclasses import replace

from upmt_nf.signaling.sip.message import Response, canonical

_DISPENSABLE = frozenset(("server", "allow", "retry-after"))


def unamplified(response: Response, size: int) -> bytes | None:
    """An answer of at most `size` bytes: as it is, else without what it can do without; None: there is none."""
    data = bytes(response)
    if len(data) <= size:
        return data
    headers = tuple(header for header in response.headers if canonical(header[0]) not in _DISPENSABLE)
    data = bytes(replace(response, headers=headers, reason="", body=b""))
    return data if len(data) <= size else None
