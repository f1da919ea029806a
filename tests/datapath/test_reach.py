"""Whom the hosts of an anchor may talk with."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from upmt_nf.datapath.reach import PeerRule, Reach
from upmt_nf.model.flow import ICMP, TCP, UDP

POOL = (ip_network("10.99.0.0/24"), ip_network("2001:db8:99::/64"))
OWN = (ip_address("45.0.0.1"), ip_address("45.0.0.2"), ip_address("10.0.0.1"))


def rule(network: str, port: int | None = None, protocol: int | None = None) -> PeerRule:
    return PeerRule(ip_network(network), port, protocol)


def verdict(address: str, protocol: int = TCP, port: int = 80, **options: Any) -> str | None:
    return Reach(POOL, own=OWN, **options).refusal(ip_address(address).packed, protocol, port)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("86.0.0.1", None),
        ("2001:db8::1", None),
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("172.32.0.1", None),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "private"),
        ("fd00::1", "private"),
        ("127.0.0.1", "special"),
        ("169.254.169.254", "special"),
        ("224.0.0.1", "special"),
        ("255.255.255.255", "special"),
        ("0.0.0.0", "special"),
        ("::", "special"),
        ("::1", "special"),
        ("::ffff:10.0.0.1", "special"),
        ("fe80::1", "special"),
        ("10.99.0.7", "host"),
        ("2001:db8:99::7", "host"),
        ("45.0.0.2", "anchor"),
        ("10.0.0.1", "anchor"),
    ],
)
def test_without_rules_the_internet_is_open_and_everything_near_is_not(
    address: str, reason: str | None
) -> None:
    assert verdict(address) == reason


def test_deny_wins_over_allow_in_either_order() -> None:
    wide, narrow = rule("198.51.100.0/24"), rule("198.51.100.7/32", 25, TCP)
    for allow, deny in ((wide, narrow), (narrow, wide)):
        assert verdict("198.51.100.7", TCP, 25, allow=[allow], deny=[deny]) == "denied"
    assert verdict("198.51.100.7", TCP, 80, allow=[narrow], deny=[wide]) == "denied"
    assert verdict("198.51.100.7", TCP, 80, allow=[wide], deny=[narrow]) is None


def test_allow_opens_what_the_defaults_refuse_and_nothing_else() -> None:
    allow = [rule("10.20.0.0/16", 443, TCP)]
    assert verdict("10.20.1.1", TCP, 443, allow=allow) is None
    assert verdict("10.20.1.1", UDP, 443, allow=allow) == "private"
    assert verdict("10.20.1.1", TCP, 80, allow=allow) == "private"
    assert verdict("10.21.1.1", TCP, 443, allow=allow) == "private"
    assert verdict("10.0.0.1", UDP, 53, allow=[rule("10.0.0.1/32", 53)]) is None, (
        "a service of the anchor itself"
    )


@pytest.mark.parametrize("address", ["10.99.0.7", "127.0.0.1", "224.0.0.1"])
def test_allow_opens_neither_other_hosts_nor_what_is_special(address: str) -> None:
    assert verdict(address, allow=[rule("0.0.0.0/0")]) in ("host", "special")


def test_a_port_of_no_protocol_is_that_of_all_that_have_ports() -> None:
    deny = [rule("86.0.0.0/8", 53)]
    assert verdict("86.0.0.1", UDP, 53, deny=deny) == verdict("86.0.0.1", TCP, 53, deny=deny) == "denied"
    assert verdict("86.0.0.1", ICMP, 53, deny=deny) is None


def test_hosts_reach_each_other_when_that_is_wanted_unless_denied() -> None:
    assert verdict("10.99.0.7", between_hosts=True) is None
    assert verdict("10.99.0.7", between_hosts=True, deny=[rule("10.99.0.0/24", 22)], port=22) == "denied"


def test_the_internet_can_be_closed_but_for_what_is_allowed() -> None:
    allow = [rule("86.0.0.0/8")]
    assert verdict("87.0.0.1", refuse_public=True, allow=allow) == "public"
    assert verdict("86.0.0.1", refuse_public=True, allow=allow) is None
    assert verdict("192.168.1.1", refuse_private=False, refuse_public=True) is None


def test_a_rule_of_one_family_says_nothing_of_the_other() -> None:
    assert verdict("2001:db8::1", deny=[rule("0.0.0.0/0")]) is None
    assert verdict("86.0.0.1", deny=[rule("::/0")]) is None


def test_verdicts_are_remembered_within_bounds() -> None:
    reach = Reach(POOL)
    for number in range(200_000):
        reach.refusal(number.to_bytes(4, "big"), UDP, number & 0xFFFF)
    assert len(reach._judged) <= 65536
