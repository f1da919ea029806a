"""The header fields that the protocol itself reads: Via, CSeq, addresses. Linear in time on any input."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

_TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+\Z")
_VIA = re.compile(r"SIP[ \t]*/[ \t]*2\.0[ \t]*/[ \t]*([A-Za-z0-9\-.!%*_+`'~]+)[ \t]+", re.IGNORECASE)
_HOST = re.compile(r"(?:[A-Za-z0-9_.\-]+|\[[0-9A-Fa-f:.]+\])\Z")
_CSEQ = re.compile(r"([0-9]{1,40})[ \t]+([A-Za-z0-9\-.!%*_+`'~]+)\Z")
_ESCAPED = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9\-_.!~*'()&=+$,;?/]\Z")
_BRANCH_COOKIE = "z9hG4bK"
_REMEMBERED = 64
"""Values whose reading is remembered: parser, transactions, registrar and answer each ask about the same ones."""


@lru_cache(512)
def is_token(text: str) -> bool:
    """RFC 3261 section 25.1."""
    return _TOKEN.match(text) is not None


def split_outside_quotes(text: str, separator: str) -> list[str]:
    """Split at `separator`, but neither inside quoted strings nor inside angle brackets."""
    if separator not in text:
        return [text]
    if '"' not in text and "<" not in text:
        return text.split(separator)
    parts: list[str] = []
    start = 0
    quoted = bracketed = escaped = False
    for place, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            if character == "\\":
                escaped = True
            elif character == '"':
                quoted = False
        elif character == '"':
            quoted = True
        elif character == "<":
            bracketed = True
        elif character == ">":
            bracketed = False
        elif character == separator and not bracketed:
            parts.append(text[start:place])
            start = place + 1
    parts.append(text[start:])
    return parts


def parameters(parts: list[str]) -> dict[str, str | None]:
    """`;name=value` pieces as a mapping with lower-case names; empty pieces (a last `;`) are passed over."""
    found: dict[str, str | None] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if name := name.strip().lower():
            found[name] = value.strip() if equals else None
    return found


@dataclass(frozen=True, slots=True)
class Via:
    """The topmost Via: who sent this and how to match the answer."""

    transport: str
    host: str
    port: int | None
    parameters: Mapping[str, str | None] = field(hash=False)

    @property
    def branch(self) -> str | None:
        """The branch, when it is one of RFC 3261 and so unique."""
        branch = self.parameters.get("branch")
        return branch if branch and branch.startswith(_BRANCH_COOKIE) and len(branch) > 7 else None

    @property
    def sent_by(self) -> str:
        """Host and port as the sender wrote them."""
        return f"{self.host.lower()}:{self.port or 5060}"


@lru_cache(_REMEMBERED)
def parse_via(value: str) -> Via:
    """The first of a Via header's values. Raises ValueError."""
    values = split_outside_quotes(value, ",")
    if not all(value.strip() for value in values):
        raise ValueError("Via has an empty value")
    first = values[0].strip()
    matched = _VIA.match(first)
    if matched is None:
        raise ValueError("Via is not SIP/2.0/TRANSPORT HOST")
    sent_by, *rest = split_outside_quotes(first[matched.end() :], ";")
    sent_by = sent_by.strip()
    if sent_by.startswith("["):
        host, bracket, port = sent_by.partition("]")
        host, port = host + bracket, port.strip().removeprefix(":")
    else:
        host, _, port = sent_by.partition(":")
    # One semicolon at the end is how the paper prints it; more are wrong (RFC 4475 section 3.1.2.1).
    if not all(part.strip() for part in rest[:-1]):
        raise ValueError("Via has an empty parameter")
    host, port = host.strip(), port.strip()
    if not _HOST.match(host):
        raise ValueError("Via names no host")
    if port and (not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535):
        raise ValueError("Via has a wrong port")
    return Via(matched[1].upper(), host, int(port) if port else None, parameters(rest))


@lru_cache(_REMEMBERED)
def parse_cseq(value: str) -> tuple[int, str]:
    """Number and method of a CSeq header (RFC 3261 section 8.1.1.5). Raises ValueError."""
    matched = _CSEQ.match(value)
    if matched is None:
        raise ValueError("CSeq is not NUMBER METHOD")
    number = int(matched[1])
    if number >= 2**32:
        raise ValueError("CSeq is 2**32 or more")
    return number, matched[2]


@dataclass(frozen=True, slots=True)
class Address:
    """A From, To or Contact: the URI and the header's parameters."""

    uri: str
    parameters: Mapping[str, str | None] = field(hash=False)

    @property
    def tag(self) -> str | None:
        """The tag parameter."""
        return self.parameters.get("tag")

    @property
    def record(self) -> str:
        """The address-of-record without scheme and parameters, unescaped (RFC 3261 section 10.3): `mh@upmt`."""
        user, at, host = self.uri.partition("@") if "@" in self.uri else ("", "", self.uri)
        # Before the @, semicolons and question marks are the user's own (RFC 3261 section 25.1).
        text = user + at + host.partition(";")[0].partition("?")[0]
        scheme, colon, rest = text.partition(":")
        return _ESCAPED.sub(_unescaped, rest if colon and scheme.lower() in ("sip", "sips") else text)


@lru_cache(_REMEMBERED)
def parse_address(value: str) -> Address:
    """One name-addr or addr-spec (RFC 3261 section 20.10). Raises ValueError.

    A URI without a scheme is accepted, as the paper's figure 9 prints `To: <Terminal_ID>`.
    """
    if "<" in value:
        quoted_end = _end_of_quoted(value) if '"' in value else 0
        start = value.find("<", quoted_end)
        end = value.find(">", start)
        if start < 0 or end < 0:
            raise ValueError("an address has no closing '>'")
        uri, rest = value[start + 1 : end].strip(), value[end + 1 :]
        if rest.strip() and not rest.lstrip().startswith(";"):
            raise ValueError("an address goes on behind its '>'")
        if value[:start].strip() and quoted_end == 0 and not _is_display_name(value[:start].strip()):
            raise ValueError("a display name that is no token must be quoted")
        parts = split_outside_quotes(rest, ";")
    else:
        uri, *parts = split_outside_quotes(value, ";")
        uri = uri.strip()
    if uri.split() != [uri]:
        raise ValueError("an address has no proper URI")
    return Address(uri, parameters(parts))


def _unescaped(escaped: re.Match[str]) -> str:
    """The character, when it needs no escape; what does stays, so that two names never become one."""
    character = chr(int(escaped[1], 16))
    return character if _UNRESERVED.match(character) else escaped[0]


def _is_display_name(text: str) -> bool:
    return all(is_token(word) or not word.isascii() for word in text.split())


def _end_of_quoted(value: str) -> int:
    """The place behind a leading quoted string; 0 when there is none. Raises ValueError when it does not end."""
    stripped = value.lstrip()
    if not stripped.startswith('"'):
        return 0
    place = len(value) - len(stripped) + 1
    while place < len(value):
        if value[place] == "\\":
            place += 2
            continue
        if value[place] == '"':
            return place + 1
        place += 1
    raise ValueError("a quoted string does not end")
