"""An anchor is known by one address, and reached by the one that fits the access network."""

from ipaddress import ip_address

import pytest

from upmt_nf.config.mobile_host import AnchorAddress
from upmt_nf.daemon.anchor_addresses import AnchorAddresses
from upmt_nf.model.errors import KernelError
from upmt_nf.model.flow import Endpoint

FIRST, SECOND = ip_address("45.0.0.1"), ip_address("46.0.0.1")
FIRST_IPV6 = ip_address("2001:db8:45::1")
BOTH = AnchorAddress.model_validate({"address": "45.0.0.1", "ipv6_address": "2001:db8:45::1"})
ONE = AnchorAddress.model_validate({"address": "46.0.0.1"})


def test_the_end_that_fits_has_the_same_port() -> None:
    addresses = AnchorAddresses([BOTH])
    assert addresses.versions == [4, 6]
    assert addresses.at(Endpoint(FIRST, 443), 6) == Endpoint(FIRST_IPV6, 443)
    assert addresses.at(Endpoint(FIRST, 443), 4) == Endpoint(FIRST, 443)
    assert addresses.on_the_wire(FIRST) == [FIRST, FIRST_IPV6]


def test_what_comes_from_either_address_is_of_the_same_anchor() -> None:
    addresses = AnchorAddresses([BOTH, ONE])
    assert [addresses.known_as(each) for each in (FIRST, FIRST_IPV6, SECOND)] == [FIRST, FIRST, SECOND]
    assert addresses.known_as(ip_address("2001:db8:66::6")) is None


def test_an_anchor_without_ipv6_is_not_reached_by_it() -> None:
    addresses = AnchorAddresses([ONE])
    assert addresses.versions == [4]
    with pytest.raises(KernelError, match=r"anchor 46\.0\.0\.1 has no IPv6 address"):
        addresses.at(Endpoint(SECOND, 1800), 6)
