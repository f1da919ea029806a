"""What a network says of its captive portal by DHCP (option 114, RFC 8910), in the words of the clients that keep it.

Whoever answers DHCP is a stranger: nothing is looked up or followed, and what is shown is printable and short.
"""

from __future__ import annotations

import re

from upmt_nf.model.errors import PeerError

UNRESTRICTED = "urn:ietf:params:capport:unrestricted"
"""There is no portal, says the network (RFC 8910 section 2)."""
LONGEST = 255
"""Octets of a DHCP option."""
_URI = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_LEASE = re.compile(r"lease\s*\{(.*?)\n\s*\}", re.DOTALL)
_INTERFACE = re.compile(r'^\s*interface\s+"([^"\n]*)"\s*;', re.MULTILINE)
_OPTION = re.compile(
    r"^\s*option\s+(?:dhcp\.)?(?:default-url|captive-portal|unknown-114)\s+(?:\"((?:[^\"\\\n]|\\.)*)\"|([0-9a-fA-F:]+))\s*;",
    re.MULTILINE,
)
"""ISC calls option 114 `default-url`; its `v4-captive-portal` is 160, which RFC 8910 gave up."""
_ESCAPE = re.compile(r"\\([0-7]{3}|.)")
_HEX = re.compile(r"[0-9a-fA-F]{1,2}(?::[0-9a-fA-F]{1,2})*")


def checked_uri(text: str) -> str:
    """The URI of a portal's API, or UNRESTRICTED. Raises PeerError, which says what is wrong with it."""
    if len(text) > LONGEST:
        raise PeerError(f"DHCP option 114 has more than {LONGEST} octets")
    if text == UNRESTRICTED or _URI.fullmatch(text):
        return text
    shown = "".join(
        character if character.isascii() and character.isprintable() else "?" for character in text
    )
    raise PeerError(f"DHCP option 114 is no https:// URI: {shown[:60]!r}")


def in_networkd_link(text: str) -> str | None:
    """Of a file `/run/systemd/netif/links/INDEX` (systemd 254 and later); None: it says nothing. Raises PeerError."""
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if separator and key == "CAPTIVE_PORTAL" and value:
            return checked_uri(value)
    return None


def in_dhclient_leases(text: str, interface: str) -> str | None:
    """Of an interface's last lease in a file of ISC's dhclient; None: it says nothing. Raises PeerError."""
    last: str | None = None
    for lease in _LEASE.findall(text):
        named = _INTERFACE.search(lease)
        if named is None or named[1] == interface:
            last = lease
    if last is None or (option := _OPTION.search(last)) is None:
        return None
    quoted, octets = option.groups()
    if quoted is not None:
        return checked_uri(_ESCAPE.sub(_unescaped, quoted))
    if not _HEX.fullmatch(octets):
        raise PeerError("DHCP option 114 is neither text nor octets in the lease")
    return checked_uri("".join(chr(int(octet, 16)) for octet in octets.split(":")))


def _unescaped(found: re.Match[str]) -> str:
    said = found[1]
    return chr(int(said, 8) & 0xFF) if len(said) == 3 else said
