"""Bytes -> a SIP message: strict, one split, no expression that is more than linear (RFC 3261 sections 7 and 25).

Only what the protocol needs is checked here; header values stay text.
"""

from __future__ import annotations

from upmt_nf.model.errors import PeerError
from upmt_nf.signaling.sip.fields import is_token, parse_address, parse_cseq, parse_via
from upmt_nf.signaling.sip.message import Header, Message, Request, Response, canonical

MAX_DATAGRAM = 8192
"""Bytes; larger datagrams are refused unread."""
_MAX_HEADERS = 128
_ONCE = frozenset(("from", "to", "call-id", "cseq", "max-forwards", "content-length", "content-type"))
_NEEDED = ("via", "from", "to", "call-id", "cseq")
KEEPALIVES = frozenset((b"", b"\r\n", b"\r\n\r\n", b"\0", b"\0\0\0\0"))
"""Datagrams that only hold a NAT binding open (RFC 5626 section 3.5.1, and zeros as many devices send)."""


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
    text = head.decode("utf-8", "surrogateescape")
    first, *lines = text.split("\r\n")
    if first.startswith("SIP/"):
        return _response(first, lines, body)
    return _request(first, lines, body)


def _request(first: str, lines: list[str], body: bytes) -> Request:
    parts = first.split(" ")
    if len(parts) != 3 or not all(parts):
        wrong = _read_headers(lines, strict=False)
        raise SipParseError(
            400, "the request line is not METHOD URI VERSION", _partial(parts[0] or "UNKNOWN", wrong)
        )
    method, uri, version = parts
    headers = _read_headers(lines, strict=False)
    partial = _partial(method, headers)
    if not is_token(method):
        raise SipParseError(400, "the method is not a token", None)
    if version.upper() != "SIP/2.0":
        raise SipParseError(505, f"version {version[:20]!r} is not SIP/2.0", partial)
    if uri[0] == "<" or '"' in uri or "\t" in uri:
        raise SipParseError(400, "the request URI is not a URI", partial)
    if ":" not in uri:
        raise SipParseError(400, "the request URI has no scheme", partial)
    if uri[:3].lower() == "sip" and "?" in uri.rpartition("@")[2]:
        # RFC 3261 section 19.1.1 and RFC 4475 section 3.1.2.11.
        raise SipParseError(400, "the request URI has headers", partial)
    try:
        headers = _read_headers(lines, strict=True)
        _check(Message(headers), method)
        body = _body(headers, body)
    except ValueError as reason:
        raise SipParseError(400, str(reason), partial) from reason
    return Request(headers, method=method, uri=uri, body=body)


def _response(first: str, lines: list[str], body: bytes) -> Response:
    version, _, rest = first.partition(" ")
    code, _, reason = rest.partition(" ")
    if version.upper() != "SIP/2.0" or len(code) != 3 or not code.isascii() or not code.isdigit():
        raise SipParseError(400, "the status line is not SIP/2.0 CODE REASON")
    if not 100 <= int(code) <= 699:
        raise SipParseError(400, f"there is no status {code}")
    try:
        headers = _read_headers(lines, strict=True)
        _check(Message(headers), None)
        body = _body(headers, body)
    except ValueError as wrong:
        raise SipParseError(400, str(wrong)) from wrong
    return Response(headers, status=int(code), reason=reason, body=body)


def _read_headers(lines: list[str], *, strict: bool) -> tuple[Header, ...]:
    """Header lines, folded ones joined. Not strict: wrong lines are passed over, to answer what can be answered."""
    headers: list[Header] = []
    folded: list[str] = []

    def finish() -> None:
        if folded and headers:
            headers[-1] = (headers[-1][0], " ".join(part for part in (headers[-1][1], *folded) if part))
        folded.clear()

    for line in lines:
        if line[:1] in (" ", "\t"):
            if not headers and strict:
                raise ValueError("the header begins with a folded line")
            folded.append(line.strip(" \t"))
            continue
        finish()
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
    finish()
    return tuple(headers)


def _check(message: Message, method: str | None) -> None:
    """What RFC 3261 section 8.1.1 asks of every message. Raises ValueError."""
    seen: set[str] = set()
    for written, _ in message.headers:
        name = canonical(written)
        if name in seen and name in _ONCE:
            raise ValueError(f"{name} is there twice")
        seen.add(name)
    for name in _NEEDED:
        if name not in seen:
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


def _body(headers: tuple[Header, ...], body: bytes) -> bytes:
    """RFC 3261 section 18.3: over UDP what follows the stated length is no part of the message."""
    stated = Message(headers).header("content-length")
    if stated is None:
        return body
    if not (stated.isascii() and stated.isdigit()) or len(stated) > 9:
        raise ValueError("content-length is not a number")
    if int(stated) > len(body):
        raise ValueError(f"content-length is {int(stated)}, but {len(body)} bytes came")
    return body[: int(stated)]


def _partial(method: str, headers: tuple[Header, ...]) -> Request | None:
    """Enough to answer with: a Via, so that the asker recognises it; the answer echoes what else there is."""
    if Message(headers).header("via") is None:
        return None
    return Request(headers, method=method, uri="sip:unknown")
