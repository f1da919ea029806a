"""The anchor's proof for what it says unasked: Digest (RFC 7616) proves requests of hosts and the answers to them only.

A MAC by the association's key over what identifies the request and over its body. A host takes each proof once.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from dataclasses import replace

from upmt_nf.signaling.sip.message import Request

HEADER = "UPMT-Proof"
_REMEMBERED = 256


def proven(request: Request, association_key: bytes) -> Request:
    """The request with its proof."""
    return replace(request, headers=(*request.headers, (HEADER, _proof(request, association_key))))


class NoticeProofs:
    """The host's side. A proof that was used is refused; of 256 notices in one association the oldest are forgotten."""

    def __init__(self) -> None:
        self._used: OrderedDict[str, None] = OrderedDict()

    def accepts(self, request: Request, association_key: bytes | None) -> bool:
        """Whether the anchor of this association sent the request, and this is the first time that it comes."""
        given = (request.header(HEADER.lower()) or "").strip()
        if association_key is None or given in self._used:
            return False
        if not hmac.compare_digest(given.encode(), _proof(request, association_key).encode()):
            return False
        self._used[given] = None
        while len(self._used) > _REMEMBERED:
            self._used.popitem(last=False)
        return True


def _proof(request: Request, key: bytes) -> str:
    named = f"upmt notice v1\n{request.header('call-id')}\n{request.header('cseq')}\n"
    return hmac.digest(key, named.encode("utf-8", "surrogateescape") + request.body, "sha256").hex()
