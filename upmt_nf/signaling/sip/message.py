"""SIP requests and responses as values. Header lines stay as they came, so that they can be echoed untouched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

Header = tuple[str, str]
"""Name as written and value without surrounding space."""

_COMPACT = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
}
_KNOWN: dict[str, str] = {}


def canonical(name: str) -> str:
    """The lower-case long form of a header name (RFC 3261 section 7.3.3)."""
    found = _KNOWN.get(name)
    if found is None:
        lower = name.lower()
        found = _COMPACT.get(lower, lower)
        # Cached, but not without bound: strangers choose the names.
        if len(_KNOWN) < 512:
            _KNOWN[name] = found
    return found


@dataclass(frozen=True, slots=True)
class Message:
    """What requests and responses share."""

    headers: tuple[Header, ...]
    body: bytes = field(default=b"", kw_only=True)
    _first: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The first value of each header, filled when the first is asked for: a dozen questions follow."""

    def header(self, name: str) -> str | None:
        """The first value of a header, or None. `name` is the lower-case long form."""
        return (self._first or self._indexed()).get(name)

    def all(self, name: str) -> Iterator[str]:
        """Every value of a header, in order."""
        first = self._indexed().get(name)
        if first is None:
            return iter(())
        if not self.has_twins():
            return iter((first,))
        return (value for written, value in self.headers if canonical(written) == name)

    def has_twins(self) -> bool:
        """Whether a header is there more than once."""
        return len(self._indexed()) < len(self.headers)

    def _indexed(self) -> dict[str, str]:
        first = self._first
        if not first:
            for written, value in self.headers:
                first.setdefault(_KNOWN.get(written) or canonical(written), value)
        return first


@dataclass(frozen=True, slots=True)
class Request(Message):
    """A SIP request."""

    method: str = field(kw_only=True)
    uri: str = field(kw_only=True)

    def __bytes__(self) -> bytes:
        return _serialized(f"{self.method} {self.uri} SIP/2.0", self)


@dataclass(frozen=True, slots=True)
class Response(Message):
    """A SIP response."""

    status: int = field(kw_only=True)
    reason: str = field(kw_only=True)

    def __bytes__(self) -> bytes:
        return _serialized(f"SIP/2.0 {self.status} {self.reason}", self)


def _serialized(first_line: str, message: Message) -> bytes:
    lines = [first_line]
    lines += [f"{name}: {value}" for name, value in message.headers if canonical(name) != "content-length"]
    lines.append(f"Content-Length: {len(message.body)}\r\n\r\n")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + message.body
