"""Errors as a router sends them, and the packets about which it sends none."""

from ipaddress import ip_address

import pytest

from upmt_nf.datapath.checksum import checksum, transport_checksum
from upmt_nf.datapath.icmp import (
    ADMINISTRATIVELY_PROHIBITED,
    NETWORK_UNREACHABLE,
    TIME_EXCEEDED,
    ErrorBudget,
    packet_too_big,
    refusal,
)
from upmt_nf.datapath.packet import build_udp, flow_of, ip_packet, is_whole, reverse

HOST, CORRESPONDENT, ROUTER = ip_address("1.2.3.4"), ip_address("86.0.0.1"), ip_address("45.0.0.1")
HOST_6, CORRESPONDENT_6, ROUTER_6 = (ip_address(f"2001:db8::{n}") for n in (4, 86, 45))
PACKET = build_udp(HOST, 2000, CORRESPONDENT, 3000, bytes(1400))
PACKET_6 = build_udp(HOST_6, 2000, CORRESPONDENT_6, 3000, bytes(1400))


def test_too_big_says_the_mtu_and_quotes_the_packet() -> None:
    error = packet_too_big(PACKET, 1472, ROUTER)
    assert error is not None
    assert is_whole(error)
    assert len(error) == 576
    assert error[12:20] == ROUTER.packed + HOST.packed
    assert error[20:22] == b"\x03\x04"
    assert int.from_bytes(error[26:28], "big") == 1472
    assert error[28:] == PACKET[:548]
    assert checksum(error[20:]) == 0


def test_too_big_over_ipv6_never_asks_for_less_than_1280() -> None:
    error = packet_too_big(PACKET_6, 1100, ROUTER_6)
    assert error is not None
    assert is_whole(error)
    assert len(error) == 1280
    assert error[40:42] == b"\x02\0"
    assert int.from_bytes(error[44:48], "big") == 1280
    assert error[48:] == PACKET_6[:1232]
    assert transport_checksum(error[8:24], error[24:40], 58, error[40:]) == 0


def test_the_other_errors_have_their_types_and_codes() -> None:
    for error, start, expected in (
        (refusal(PACKET, NETWORK_UNREACHABLE, ROUTER), 20, b"\x03\0"),
        (refusal(PACKET, ADMINISTRATIVELY_PROHIBITED, ROUTER), 20, b"\x03\x0d"),
        (refusal(PACKET, TIME_EXCEEDED, ROUTER), 20, b"\x0b\0"),
        (refusal(PACKET_6, NETWORK_UNREACHABLE, ROUTER_6), 40, b"\x01\0"),
        (refusal(PACKET_6, ADMINISTRATIVELY_PROHIBITED, ROUTER_6), 40, b"\x01\x01"),
        (refusal(PACKET_6, TIME_EXCEEDED, ROUTER_6), 40, b"\x03\0"),
    ):
        assert error is not None
        assert error[start : start + 2] == expected


def test_an_error_is_found_by_the_flow_of_its_packet() -> None:
    error = packet_too_big(PACKET, 1400, ROUTER)
    assert error is not None
    key, flow = flow_of(error), flow_of(PACKET)
    assert key is not None
    assert reverse(key) == flow


def later_fragment() -> bytes:
    return PACKET[:6] + b"\0\x10" + PACKET[8:]


@pytest.mark.parametrize(
    "original",
    [
        ip_packet(HOST, CORRESPONDENT, 1, b"\x03\x04" + bytes(40)),
        ip_packet(HOST, CORRESPONDENT, 1, b"\x0b\0" + bytes(40)),
        ip_packet(HOST, CORRESPONDENT, 1, b""),
        later_fragment(),
        build_udp(HOST, 1, ip_address("224.0.0.251"), 2, b""),
        build_udp(HOST, 1, ip_address("255.255.255.255"), 2, b""),
        build_udp(ip_address("0.0.0.0"), 1, CORRESPONDENT, 2, b""),
        build_udp(ip_address("224.0.0.1"), 1, CORRESPONDENT, 2, b""),
        ip_packet(HOST_6, CORRESPONDENT_6, 58, b"\x01\0" + bytes(40)),
        ip_packet(HOST_6, CORRESPONDENT_6, 58, b"\x89\0" + bytes(40)),
        build_udp(HOST_6, 1, ip_address("ff02::1"), 2, b""),
        build_udp(ip_address("::"), 1, CORRESPONDENT_6, 2, b""),
    ],
)
def test_no_error_where_the_rfcs_forbid_one(original: bytes) -> None:
    source = ROUTER if original[0] >> 4 == 4 else ROUTER_6
    assert packet_too_big(original, 1280, source) is None
    assert refusal(original, NETWORK_UNREACHABLE, source) is None
    assert refusal(original, TIME_EXCEEDED, source) is None


def test_pings_get_errors() -> None:
    assert refusal(ip_packet(HOST, CORRESPONDENT, 1, b"\x08\0" + bytes(40)), NETWORK_UNREACHABLE, ROUTER)
    ping_6 = ip_packet(HOST_6, CORRESPONDENT_6, 58, b"\x80\0" + bytes(40))
    assert refusal(ping_6, NETWORK_UNREACHABLE, ROUTER_6)


def test_a_router_of_the_other_family_says_nothing() -> None:
    assert packet_too_big(PACKET, 1400, ROUTER_6) is None


def test_the_budget_allows_a_burst_and_then_a_rate() -> None:
    budget = ErrorBudget(per_second=10)
    assert sum(budget.allows(b"host", 5.0) for _ in range(100)) == 10
    assert sum(budget.allows(b"host", 5.5) for _ in range(100)) == 5
    assert sum(budget.allows(b"host", 500.0) for _ in range(100)) == 10


def test_one_destination_does_not_spend_the_budget_of_another() -> None:
    budget = ErrorBudget(per_second=10)
    assert sum(budget.allows(b"hostile", 5.0) for _ in range(10_000)) == 10
    assert sum(budget.allows(b"other", 5.0) for _ in range(100)) == 10
    assert sum(budget.allows(bytes((number,)), 5.0) for number in range(200)) == 80
