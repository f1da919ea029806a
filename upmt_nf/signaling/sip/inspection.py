"""What a server checks of a request before it does what is asked (RFC 3261 section 8.2), in the order given there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from upmt_nf.signaling.sip.message import Header, Request

BODIES = ("application/json", "application/text")
"""The second is what figure 9 of the paper, and the authors' later implementation, say of their JSON."""


class Rejected(NamedTuple):
    """Answer with this, and do nothing."""

    status: int
    headers: tuple[Header, ...] = ()


def inspect(request: Request, methods: Collection[str], bodies: Sequence[str] = BODIES) -> Rejected | None:
    """Why a request cannot be served by one who knows these methods, these bodies and no extension; or None."""
    if request.method not in methods:
        return Rejected(405, (("Allow", ", ".join(methods)),))
    if request.uri.partition(":")[0].lower() != "sip":
        return Rejected(416)
    required = [word.strip() for value in request.all("require") for word in value.split(",")]
    if any(required):
        return Rejected(420, (("Unsupported", ", ".join(word for word in required if word)),))
    return _inspect_body(request, bodies) if request.body else None


def _inspect_body(request: Request, bodies: Sequence[str]) -> Rejected | None:
    # One that is left out says what every body here is.
    kind = (request.header("content-type") or bodies[0]).partition(";")[0].strip().lower()
    if kind not in bodies:
        return Rejected(415, (("Accept", ", ".join(bodies)),))
    encoding = (request.header("content-encoding") or "identity").strip().lower()
    if encoding != "identity":
        return Rejected(415, (("Accept-Encoding", "identity"),))
    return None
