"""The Contact header of REGISTER (RFC 3261 sections 10.2 and 10.3): where, and for how long."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from upmt_nf.signaling.sip.fields import parse_address, split_outside_quotes
from upmt_nf.signaling.sip.message import Request

MAX_CONTACTS = 16
"""In one REGISTER, and of one association."""
MAX_LENGTH = 256
_LONGEST = 2**31


class NamedContact(NamedTuple):
    """A Contact of a REGISTER; `expires` in seconds when it says so itself, 0: not there any more.

    `text` is all of it but its lifetime.
    """

    uri: str
    expires: int | None
    text: str


def read_contacts(request: Request) -> tuple[NamedContact, ...]:
    """All Contacts of a REGISTER but `*`, which is about all of them. Raises ValueError."""
    found = []
    for contact in _contacts(request):
        if contact == "*":
            continue
        text = _without_lifetime(contact)
        if len(text) > MAX_LENGTH:
            raise ValueError("a Contact is too long")
        found.append(NamedContact(parse_address(contact).uri, _seconds(_own_lifetime(contact)), text))
    if len(found) > MAX_CONTACTS:
        raise ValueError(f"more than {MAX_CONTACTS} Contacts")
    return tuple(found)


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


def _seconds(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError("a Contact's expires is not a number")
    return min(int(text[:11]), _LONGEST)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 2**32


def contacts_digest(request: Request) -> str:
    """Of where a REGISTER says that its sender is: both ends compare it, as some gateways write other things there."""
    contacts = [value.strip() for value in request.all("contact")]
    return sha256("\n".join(contacts).encode(errors="surrogateescape")).hexdigest()[:16]
