"""The head of an HTTP answer (RFC 9112), as far as it tells a captive portal from the server that was asked.

Whoever answers is a stranger: nothing is believed, followed or kept but a status and where it wants to send us, in
printable characters and cut short.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from upmt_nf.model.errors import PeerError

LONGEST_HEAD = 4096
"""Bytes that are looked at."""
_LONGEST_LOCATION = 200
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?")
_LOCATION = re.compile(rb"location[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """`location`: where a redirect leads, as text that is safe to show."""

    status: int
    location: str | None = None


def parse_answer(data: bytes) -> HttpAnswer:
    """Read the first bytes of an answer; what is missing behind the status line is no fault. Raises PeerError."""
    lines = data[:LONGEST_HEAD].split(b"\n")
    found = _STATUS.fullmatch(lines[0])
    if found is None:
        raise PeerError("what came is no answer of HTTP/1")
    location = None
    for line in lines[1:]:
        if not line.strip():
            break
        if (named := _LOCATION.match(line)) is not None:
            location = _shown(named[1])
    return HttpAnswer(int(found[1]), location)


def _shown(raw: bytes) -> str | None:
    text = "".join(chr(byte) for byte in raw.strip() if 0x20 < byte < 0x7F)
    return text[:_LONGEST_LOCATION] or None
