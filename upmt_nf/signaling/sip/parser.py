"""Bytes -> a SIP message: strict, one split, no expression that is more than linear (RFC 3261 sections 7 and 25).

Only what the protocol needs is checked here; header values stay text.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TypeVar

from upmt_nf.model.errors import PeerError
from upmt_nf.signaling.sip.fields import is_token, parse_address, parse_cseq, parse_via
from upmt_nf.signaling.sip.message import Header, Message, Request, Response, canonical

MAX_DATAGRAM = 8192
"""Bytes; larger datagrams are refused unread."""
_MAX_HEADERS = 128
_ONCE = ("from", "to", "call-id", "cseq", "max-forwards", "content-length", "content-type")
_NEEDED = ("via", "from", "to", "call-id", "cseq")
KEEPALIVES = frozenset((b"", b"\r\n", b"\r\n\r\n", b"\0", b"\0\0\0\0"))
"""Datagrams that only hold a NAT binding open (RFC 5626 section 3.5.1, and zeros as many devices send)."""
_Kind = TypeVar("_Kind", Request, Response)


class SipParseError(PeerError):
    """`status` is what a request should be answered with; `partial` is what could be read of it, for that answer."""

    def __init__(self, status: int, reason: str, partial: Request | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.partial = partial


def parse(data: bytes) -> Request | Response:
    """Read one datagram. Raises SipParseError."""
    if len(data) > MAX_DATAGRAM:
        raise SipParseError(513, f"the message is larger than {MAX_DATAGRAM} bytes")
    head, found, body = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
    if not found:
        raise SipParseError(400, "the header does not end")
    first, _, rest = head.decode("utf-8", "surrogateescape").partition("\r\n")
    lines = rest.split("\r\n") if rest else []
    if "\r\n " in rest or "\r\n\t" in rest or rest[:1] in (" ", "\t"):
        lines = _unfolded(lines)
    if first.startswith("SIP/"):
        return _response(first, lines, body)
    return _request(first, lines, body)


def _request(first: str, lines: list[str], body: bytes) -> Request:
    parts = first.split(" ")
    if len(parts) != 3 or not all(parts):
        raise _refused(400, "the request line is not METHOD URI VERSION", parts[0] or "UNKNOWN", lines)
    method, uri, version = parts
    if not is_token(method):
        raise SipParseError(400, "the method is not a token", None)
    if version.upper() != "SIP/2.0":
        raise _refused(505, f"version {version[:20]!r} is not SIP/2.0", method, lines)
    if uri[0] == "<" or '"' in uri or "\t" in uri:
        raise _refused(400, "the request URI is not a URI", method, lines)
    if ":" not in uri:
        raise _refused(400, "the request URI has no scheme", method, lines)
    if uri[:3].lower() == "sip" and "?" in uri.rpartition("@")[2]:
        # RFC 3261 section 19.1.1 and RFC 4475 section 3.1.2.11.
        raise _refused(400, "the request URI has headers", method, lines)
    try:
        request = Request(_read_headers(lines), method=method, uri=uri, body=body)
        _check(request, method)
        return _cut(request)
    except ValueError as reason:
        raise _refused(400, str(reason), method, lines) from reason


def _response(first: str, lines: list[str], body: bytes) -> Response:
    version, _, rest = first.partition(" ")
    code, _, reason = rest.partition(" ")
    if version.upper() != "SIP/2.0" or len(code) != 3 or not code.isascii() or not code.isdigit():
        raise SipParseError(400, "the status line is not SIP/2.0 CODE REASON")
    if not 100 <= int(code) <= 699:
        raise SipParseError(400, f"there is no status {code}")
    try:
        response = Response(_read_headers(lines), status=int(code), reason=reason, body=body)
        _check(response, None)
        return _cut(response)
    except ValueError as wrong:
        raise SipParseError(400, str(wrong)) from wrong


def _unfolded(lines: list[str]) -> list[str]:
    """Header lines with those that begin with a space joined to the one before (RFC 3261 section 7.3.1)."""
    joined: list[str] = []
    parts: list[str] = []
    for line in lines:
        if line[:1] in (" ", "\t") and parts:
            parts.append(line.strip(" \t"))
            continue
        if parts:
            joined.append(" ".join(part for part in parts if part))
        parts = [line.rstrip(" \t")]
    joined.append(" ".join(part for part in parts if part))
    return joined


def _read_headers(lines: list[str], *, strict: bool = True) -> tuple[Header, ...]:
    """Raises ValueError. Not strict: wrong lines are passed over, to answer what can be answered."""
    headers: list[Header] = []
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t")
        if not colon or not is_token(name):
            if strict:
                raise ValueError(f"{line[:40]!r} is not a header")
            continue
        headers.append((name, value.strip(" \t")))
        if len(headers) > _MAX_HEADERS:
            if strict:
                raise ValueError(f"there are more than {_MAX_HEADERS} headers")
            break
    return tuple(headers)


def _check(message: Message, method: str | None) -> None:
    """What RFC 3261 section 8.1.1 asks of every message. Raises ValueError."""
    if message.has_twins():
        names = Counter(canonical(written) for written, _ in message.headers)
        for name in _ONCE:
            if names[name] > 1:
                raise ValueError(f"{name} is there twice")
    for name in _NEEDED:
        if message.header(name) is None:
            raise ValueError(f"{name} is missing")
    parse_via(message.header("via") or "")
    parse_address(message.header("from") or "")
    parse_address(message.header("to") or "")
    if not message.header("call-id"):
        raise ValueError("call-id is empty")
    _, cseq_method = parse_cseq(message.header("cseq") or "")
    if method is not None and cseq_method != method:
        raise ValueError("the method of CSeq is not that of the request")
    forwards = message.header("max-forwards")
    if forwards is not None and not (forwards.isascii() and forwards.isdigit() and int(forwards[:9]) <= 255):
        raise ValueError("max-forwards is not a number up to 255")


def _cut(message: _Kind) -> _Kind:
    """RFC 3261 section 18.3: over UDP what follows the stated length is no part of the message. Raises ValueError."""
    stated, size = message.header("content-length"), len(message.body)
    if stated is None:
        return message
    if not (stated.isascii() and stated.isdigit()) or len(stated) > 9:
        raise ValueError("content-length is not a number")
    if int(stated) > size:
        raise ValueError(f"content-length is {int(stated)}, but {size} bytes came")
    return message if int(stated) == size else replace(message, body=message.body[: int(stated)])


def _refused(status: int, reason: str, method: str, lines: list[str]) -> SipParseError:
    return SipParseError(status, reason, _partial(method, _read_headers(lines, strict=False)))


def _partial(method: str, headers: tuple[Header, ...]) -> Request | None:
    """Enough to answer with: a Via, so that the asker recognises it; the answer echoes what else there is."""
    if Message(headers).header("via") is None:
        return None
    return Request(headers, method=method, uri="sip:unknown")
