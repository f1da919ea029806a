"""Where a host says that it can be reached: one Contact an access network, each with its own time (RFC 3261 10.3).

The proof of a request does not cover its headers, so nothing is ever sent there on their word: they are told and shown.
"""

from __future__ import annotations

from upmt_nf.signaling.sip.contacts import MAX_CONTACTS, NamedContact
from upmt_nf.signaling.sip.message import Header


class Contacts:
    """Those of one association, the latest news at the end."""

    __slots__ = ("_bound",)

    def __init__(self) -> None:
        self._bound: dict[str, tuple[float, str]] = {}
        """URI -> when it is forgotten (seconds), and how it was written."""

    def update(self, named: tuple[NamedContact, ...], expires: int, now: float) -> None:
        """A REGISTER named these; none lives longer than the association, `expires` seconds from `now`."""
        for uri, own, text in named:
            self._bound.pop(uri, None)
            lifetime = expires if own is None else min(own, expires)
            if lifetime > 0:
                self._bound[uri] = now + lifetime, text
        self._forget(now)
        while len(self._bound) > MAX_CONTACTS:
            del self._bound[min(self._bound, key=lambda uri: self._bound[uri])]

    def clear(self) -> None:
        """The host has restarted: it names those that it has now."""
        self._bound.clear()

    def ends(self) -> tuple[tuple[str, float], ...]:
        """URI and end (seconds) of each, some of them perhaps past."""
        return tuple((uri, end) for uri, (end, _) in self._bound.items())

    def left(self, now: float) -> list[tuple[str, int]]:
        """URI and remaining seconds of each."""
        self._forget(now)
        return [(uri, max(1, round(end - now))) for uri, (end, _) in self._bound.items()]

    def headers(self, now: float) -> tuple[Header, ...]:
        """As the answer to a REGISTER tells them (RFC 3261 section 10.3 step 8)."""
        self._forget(now)
        return tuple(
            ("Contact", f"{text};expires={max(1, round(end - now))}") for end, text in self._bound.values()
        )

    def _forget(self, now: float) -> None:
        for uri in [uri for uri, (end, _) in self._bound.items() if end <= now]:
            del self._bound[uri]
