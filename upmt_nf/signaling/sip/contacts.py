"""The Contact header of REGISTER (RFC 3261 sections 10.2 and 10.3): how long, and what the answer says."""

from __future__ import annotations

from upmt_nf.signaling.sip.fields import parse_address, split_outside_quotes
from upmt_nf.signaling.sip.message import Header, Request


def lifetime_asked(request: Request) -> str | None:
    """Seconds as written: those of the longest-lived Contact, else of Expires; None when nothing is said.

    Raises ValueError, also for a `*` that is not alone or does not remove (RFC 3261 section 10.3 step 6).
    """
    stated = request.header("expires")
    stated = None if stated is None else stated.strip()
    contacts = _contacts(request)
    if "*" in contacts:
        if len(contacts) > 1 or stated is None or stated.strip("0"):
            raise ValueError("Contact '*' stands alone and with Expires: 0")
        return stated
    longest = [_own_lifetime(contact) or stated for contact in contacts]
    given = [text for text in longest if text is not None]
    return max(given, key=_number, default=stated) if len(given) == len(longest) else stated


def contacts_answered(request: Request, expires: int) -> tuple[Header, ...]:
    """The Contacts that are bound now, each with its time (RFC 3261 section 10.3 step 8)."""
    return tuple(
        ("Contact", f"{_without_lifetime(contact)};expires={expires}")
        for contact in _contacts(request)
        if contact != "*" and (_own_lifetime(contact) or "1").strip("0")
    )


def _contacts(request: Request) -> list[str]:
    return [
        contact.strip() for value in request.all("contact") for contact in split_outside_quotes(value, ",")
    ]


def _own_lifetime(contact: str) -> str | None:
    address = parse_address(contact)
    # Without brackets nobody can tell the URI's headers from the field's own end (RFC 3261 section 20.10).
    if "<" not in contact and "?" in address.uri:
        raise ValueError("a Contact with a question mark needs brackets")
    return address.parameters.get("expires")


def _without_lifetime(contact: str) -> str:
    parts = split_outside_quotes(contact, ";")
    return ";".join(part for part in parts if part.partition("=")[0].strip().lower() != "expires")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 2**32
