"""Contact in REGISTER: how long a host asks for, and what it is told (RFC 3261 sections 10.2 and 10.3)."""

import pytest

from upmt_nf.mobility.contacts import Contacts
from upmt_nf.signaling.sip.contacts import lifetime_asked, read_contacts
from upmt_nf.signaling.sip.message import Request


def registration(*headers: tuple[str, str]) -> Request:
    return Request(headers, method="REGISTER", uri="sip:45.0.0.1")


@pytest.mark.parametrize(
    ("headers", "lifetime"),
    [
        ((), None),
        ((("Expires", " 60 "),), "60"),
        ((("Contact", "<sip:a@b>"),), None),
        ((("Contact", "<sip:a@b>"), ("Expires", "60")), "60"),
        # 10.2.1.1: what a Contact says itself comes first.
        ((("Contact", "<sip:a@b>;expires=30"), ("Expires", "60")), "30"),
        ((("Contact", "<sip:a@b>;expires=0"),), "0"),
        ((("m", '"a, b" <sip:a@b;expires=9>;Expires=30, <sip:a@c>;expires=40'),), "40"),
        ((("Contact", "<sip:a@b>;expires=0, <sip:a@c>;expires=5"),), "5"),
        ((("Contact", "<sip:a@b>;expires=0"), ("Contact", "sip:a@c"), ("Expires", "60")), "60"),
        ((("Contact", "<sip:a@b>;expires=0"), ("Contact", "sip:a@c")), None),
        ((("Contact", "*"), ("Expires", "0")), "0"),
    ],
)
def test_a_lifetime_is_that_of_the_longest_lived_contact(
    headers: tuple[tuple[str, str], ...], lifetime: str | None
) -> None:
    assert lifetime_asked(registration(*headers)) == lifetime


@pytest.mark.parametrize(
    "headers",
    [
        (("Contact", "*"),),
        (("Contact", "*"), ("Expires", "60")),
        (("Contact", "*, <sip:a@b>"), ("Expires", "0")),
        (("Contact", "sip:a@b?Route=%3Csip:c%3E"),),
        (("Contact", "<sip:a@b>,"),),
        (("Contact", "<sip:a@b"),),
    ],
)
def test_contacts_that_mean_nothing_are_refused(headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(ValueError):
        lifetime_asked(registration(*headers))


def test_what_is_bound_is_listed_once_each_as_it_was_written() -> None:
    asked = registration(
        ("Contact", '"a;expires=1" <sip:a@b;ob>;expires=7200;+sip.instance="<urn:x>", sip:a@c'),
        ("m", "<sip:gone@b>;expires=0"),
    )
    contacts = Contacts()
    contacts.update(read_contacts(asked), 60, 0.0)
    assert contacts.headers(0.0) == (
        ("Contact", '"a;expires=1" <sip:a@b;ob>;+sip.instance="<urn:x>";expires=60'),
        ("Contact", "sip:a@c;expires=60"),
    )
    assert read_contacts(registration(("Contact", "*"))) == ()
