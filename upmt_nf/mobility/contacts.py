"""Where a host says that it can be reached: one Contact an access network, each with its own time (RFC 3261 10.3).

The proof of a request does not cover its headers, so nothing is ever sent there on their word: they are told and shown.
"""

from __future__ import annotations

from typing import NamedTuple

from upmt_nf.signaling.sip.fields import parse_address, split_outside_quotes
from upmt_nf.signaling.sip.message import Header, Request

MAX_CONTACTS = 16
"""Of one association; the one that ends first makes room."""
MAX_LENGTH = 256
_LONGEST = 2**31


class NamedContact(NamedTuple):
    """A Contact of a REGISTER; `expires` in seconds when it says so itself, 0: not there any more."""

    uri: str
    expires: int | None


def read_contacts(request: Request) -> tuple[NamedContact, ...]:
    """All Contacts of a REGISTER but `*`, which is about all of them. Raises ValueError."""
    found: list[NamedContact] = []
    for value in request.all("contact"):
        for text in split_outside_quotes(value, ","):
            if text.strip() == "*":
                continue
            address = parse_address(text.strip())
            if len(address.uri) > MAX_LENGTH:
                raise ValueError("a Contact is too long")
            found.append(NamedContact(address.uri, _seconds(address.parameters.get("expires"))))
    if len(found) > MAX_CONTACTS:
        raise ValueError(f"more than {MAX_CONTACTS} Contacts")
    return tuple(found)


def _seconds(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError("a Contact's expires is not a number")
    return min(int(text[:11]), _LONGEST)


class Contacts:
    """Those of one association, the latest news at the end."""

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}
        """URI -> when it is forgotten (seconds)."""

    def update(self, named: tuple[NamedContact, ...], expires: int, now: float) -> None:
        """A REGISTER named these; none lives longer than the association, `expires` seconds from `now`."""
        for uri, own in named:
            self._ends.pop(uri, None)
            lifetime = expires if own is None else min(own, expires)
            if lifetime > 0:
                self._ends[uri] = now + lifetime
        self._forget(now)
        while len(self._ends) > MAX_CONTACTS:
            del self._ends[min(self._ends, key=lambda uri: self._ends[uri])]

    def clear(self) -> None:
        """The host has restarted: it names those that it has now."""
        self._ends.clear()

    def ends(self) -> tuple[tuple[str, float], ...]:
        """URI and end (seconds) of each, some of them perhaps past."""
        return tuple(self._ends.items())

    def left(self, now: float) -> list[tuple[str, int]]:
        """URI and remaining seconds of each."""
        self._forget(now)
        return [(uri, max(1, round(end - now))) for uri, end in self._ends.items()]

    def headers(self, now: float) -> tuple[Header, ...]:
        """As the answer to a REGISTER tells them."""
        return tuple(("Contact", f"<{uri}>;expires={seconds}") for uri, seconds in self.left(now))

    def _forget(self, now: float) -> None:
        for uri in [uri for uri, end in self._ends.items() if end <= now]:
            del self._ends[uri]
