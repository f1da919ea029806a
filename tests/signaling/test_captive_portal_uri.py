"""What DHCP clients keep of option 114 is read as they write it; what is no URI gets a reason, never a traceback."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.model.errors import PeerError
from upmt_nf.signaling.captive_portal_uri import (
    UNRESTRICTED,
    checked_uri,
    in_dhclient_leases,
    in_networkd_link,
)

URI = "https://portal.hotel.example/api?zone=7"
LINK = f"""# This is private data. Do not parse.
ADMIN_STATE=configured
NETWORK_FILE=/etc/systemd/network/wlan0.network
DNS=10.0.0.1
CAPTIVE_PORTAL={URI}
DOMAINS=
"""
LEASES = """lease {
  interface "wlan0";
  fixed-address 10.0.0.7;
  option default-url "https://yesterday.example/";
  renew 4 2026/11/26 10:00:00;
}
lease {
  interface "eth0";
  fixed-address 192.168.1.7;
}
lease {
  interface "wlan0";
  fixed-address 10.0.0.7;
  option subnet-mask 255.255.255.0;
  %s
  option domain-name "a } b";
  renew 5 2026/11/27 10:00:00;
}
"""


def test_networkd_says_it_on_a_line_of_the_link() -> None:
    assert in_networkd_link(LINK) == URI
    assert in_networkd_link("CAPTIVE_PORTAL=\n") is None
    assert in_networkd_link("DOMAINS=CAPTIVE_PORTAL=x\n") is None
    assert in_networkd_link("") is None


@pytest.mark.parametrize(
    "option",
    [
        f'option default-url "{URI}";',
        f'option unknown-114 "{URI}";',
        f"option unknown-114 {':'.join(f'{ord(each):x}' for each in URI)};",
        'option captive-portal "https://portal.hotel.example/\\141pi?zone=7";',
    ],
)
def test_dhclient_says_it_in_the_last_lease_of_the_interface(option: str) -> None:
    assert in_dhclient_leases(LEASES % option, "wlan0") == URI
    assert in_dhclient_leases(LEASES % option, "eth0") is None
    assert in_dhclient_leases(LEASES % option, "usb0") is None


def test_a_lease_that_says_nothing_any_more_is_not_read_as_the_one_before() -> None:
    assert in_dhclient_leases(LEASES % "", "wlan0") is None
    assert (
        in_dhclient_leases(LEASES % 'option v4-captive-portal "https://code160.example/";', "wlan0") is None
    )


def test_a_network_may_say_that_it_has_none() -> None:
    assert checked_uri(UNRESTRICTED) == UNRESTRICTED


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "DHCP option 114 is no https:// URI: ''"),
        ("portal.example", "DHCP option 114 is no https:// URI: 'portal.example'"),
        ("javascript:alert(1)", "is no https:// URI"),
        ("https://a b", "is no https:// URI"),
        ("https://x\x1b[31m\n", r"is no https:// URI: 'https://x\?\[31m\?'"),
        ("https://" + "x" * 300, "has more than 255 octets"),
    ],
)
def test_what_is_no_uri_is_named(text: str, complaint: str) -> None:
    with pytest.raises(PeerError, match=complaint):
        checked_uri(text)


def said_of(read: Callable[[str], str | None], text: str) -> str | None:
    """What is shown of it: the URI, or why there is none."""
    try:
        return read(text)
    except PeerError as reason:
        return str(reason)


def in_wlan0(text: str) -> str | None:
    return in_dhclient_leases(text, "wlan0")


@given(st.text(max_size=400))
def test_any_text_is_a_uri_or_a_reason_that_can_be_shown(text: str) -> None:
    for read in (checked_uri, in_networkd_link, in_wlan0):
        assert (said_of(read, text) or "").isprintable()


@given(st.text(st.sampled_from('optin defaul-r"\\{};:0a9\n'), max_size=200))
def test_any_lease_is_read_or_refused(said: str) -> None:
    for text in (LEASES % said, f"lease {{\n option unknown-114 {said}\n}}", f"CAPTIVE_PORTAL={said}"):
        for read in (in_networkd_link, in_wlan0):
            assert (said_of(read, text) or "").isprintable()
