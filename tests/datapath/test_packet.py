"""Headers read and written: flow keys, UDP packets, and whatever else may come by."""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.datapath import packet as packets
from upmt_nf.datapath.packet import (
    build_udp,
    flow_of,
    ip_packet,
    is_fragment,
    is_icmp_error,
    is_to_one_host,
    is_whole,
    may_fragment,
    parse_udp,
    reverse,
    tos_of,
    with_tos,
)
from upmt_nf.model.flow import Endpoint, FlowKey, IPAddress

HOST, CORRESPONDENT, ROUTER = ip_address("1.2.3.4"), ip_address("86.0.0.1"), ip_address("9.9.9.9")
HOST_6, CORRESPONDENT_6 = ip_address("2001:db8::4"), ip_address("2001:db8:ffff::1")

ports = st.integers(0, 65535)
pairs = st.one_of(
    st.tuples(
        st.builds(IPv4Address, st.integers(0, 2**32 - 1)), st.builds(IPv4Address, st.integers(0, 2**32 - 1))
    ),
    st.tuples(
        st.builds(IPv6Address, st.integers(0, 2**128 - 1)), st.builds(IPv6Address, st.integers(0, 2**128 - 1))
    ),
)


@given(pairs, ports, ports, st.binary(max_size=100), st.integers(0, 255))
def test_a_udp_packet_survives_its_bytes(
    pair: tuple[IPAddress, IPAddress], source_port: int, destination_port: int, payload: bytes, tos: int
) -> None:
    packet = build_udp(pair[0], source_port, pair[1], destination_port, payload, tos=tos)
    assert is_whole(packet)
    assert tos_of(packet) == tos
    assert parse_udp(packet) == (Endpoint(pair[0], source_port), Endpoint(pair[1], destination_port), payload)
    key = FlowKey(17, pair[0], source_port, pair[1], destination_port)
    assert flow_of(packet) == key.packed()
    assert reverse(key.packed()) == key.reversed().packed()


def test_a_udp_packet_is_what_the_rfcs_say_byte_for_byte() -> None:
    packet = build_udp(HOST, 2000, CORRESPONDENT, 3000, b"voice")
    assert packet.hex() == (
        "45000021000040004011"
        + "e0c5"
        + "01020304"
        + "56000001"
        + "07d0"
        + "0bb8"
        + "000d"
        + "4d72"
        + b"voice".hex()
    )


@given(st.binary(max_size=120))
def test_no_bytes_make_any_reader_raise(data: bytes) -> None:
    for start in (
        b"",
        b"\x45",
        b"\x46",
        b"\x40",
        b"\x60\0\0\0\0\0\x2c",
        b"\x60\0\0\0\0\0\0",
        b"\x45" + bytes(8) + b"\x01",
    ):
        packet = start + data
        key = flow_of(packet)
        assert key is None or len(key) in (13, 37)
        for reader in (is_whole, is_fragment, is_icmp_error, parse_udp):
            reader(packet)


@given(st.integers(0, 64), st.binary(min_size=1, max_size=8))
def test_a_damaged_udp_packet_is_refused(place: int, noise: bytes) -> None:
    packet = build_udp(HOST, 2000, CORRESPONDENT, 3000, bytes(range(60)))
    damaged = packet[:place] + noise + packet[place + len(noise) :]
    datagram = parse_udp(damaged)
    # The one's complement sum does not see 0x0000 in the place of 0xffff; a cleared checksum field is allowed.
    assert damaged == packet or datagram is None or damaged[26:28] == b"\0\0"
    for cut in (packet[:-1], packet + b"\0", packet[:19], b""):
        assert parse_udp(cut) is None
        assert not is_whole(cut)


def test_udp_without_a_checksum_is_read_over_ipv4_only() -> None:
    for source, destination, start in ((HOST, CORRESPONDENT, 20), (HOST_6, CORRESPONDENT_6, 40)):
        packet = build_udp(source, 1, destination, 2, b"x")
        bare = packet[: start + 6] + b"\0\0" + packet[start + 8 :]
        assert (parse_udp(bare) is not None) == (start == 20)


def test_a_payload_beyond_a_datagram_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        build_udp(HOST, 1, CORRESPONDENT, 2, bytes(65536))


@pytest.mark.parametrize("protocol", [6, 17, 33, 132, 136])
def test_protocols_with_ports_have_them_in_the_key(protocol: int) -> None:
    segment = struct.pack("!HH", 2000, 3000) + bytes(16)
    key = flow_of(ip_packet(HOST, CORRESPONDENT, protocol, segment))
    assert key == FlowKey(protocol, HOST, 2000, CORRESPONDENT, 3000).packed()
    assert flow_of(ip_packet(HOST, CORRESPONDENT, protocol, segment[:3])) is None


@pytest.mark.parametrize("protocol", [1, 2, 47, 50, 89])
def test_protocols_without_ports_have_zeros(protocol: int) -> None:
    key = flow_of(ip_packet(HOST, CORRESPONDENT, protocol, b"\x08\0" + bytes(20)))
    assert key == FlowKey(protocol, HOST, 0, CORRESPONDENT, 0).packed()


def test_options_and_extension_headers_are_stepped_over() -> None:
    segment = struct.pack("!HH", 2000, 3000) + bytes(4)
    plain = ip_packet(HOST, CORRESPONDENT, 17, segment)
    assert flow_of(b"\x47" + plain[1:20] + bytes(8) + plain[20:]) == flow_of(plain)
    extended = ip_packet(HOST_6, CORRESPONDENT_6, 0, b"\x3c\0" + bytes(6) + b"\x11\x01" + bytes(14) + segment)
    assert flow_of(extended) == FlowKey(17, HOST_6, 2000, CORRESPONDENT_6, 3000).packed()


def test_endless_extension_headers_end() -> None:
    packet = ip_packet(HOST_6, CORRESPONDENT_6, 0, b"\0\0" + bytes(6) + b"\0\0\0\0\0\0\0\0" * 1000)
    key = flow_of(packet)
    assert key is not None
    assert key[0] == 0


def test_a_later_fragment_has_no_ports() -> None:
    packet = ip_packet(HOST, CORRESPONDENT, 17, struct.pack("!HH", 2000, 3000) + bytes(20))
    later = packet[:6] + b"\x20\x10" + packet[8:]
    assert is_fragment(later)
    assert flow_of(later) == FlowKey(17, HOST, 0, CORRESPONDENT, 0).packed()
    assert not is_fragment(packet)


def icmp_error_about(original: bytes, sender: IPAddress, receiver: IPAddress) -> bytes:
    if sender.version == 6:
        return ip_packet(sender, receiver, 58, b"\x01\x04" + bytes(6) + original[:100])
    return ip_packet(sender, receiver, 1, b"\x03\x03" + bytes(6) + original[:28])


@pytest.mark.parametrize(
    ("host", "correspondent", "router"),
    [(HOST, CORRESPONDENT, ROUTER), (HOST_6, CORRESPONDENT_6, ip_address("2001:db8:9::9"))],
)
def test_an_icmp_error_belongs_to_the_flow_that_it_speaks_of(
    host: IPAddress, correspondent: IPAddress, router: IPAddress
) -> None:
    flow = FlowKey(17, host, 2000, correspondent, 3000).packed()
    from_host = build_udp(host, 2000, correspondent, 3000, b"x" * 50)
    to_host = build_udp(correspondent, 3000, host, 2000, b"x" * 50)
    assert flow_of(icmp_error_about(to_host, host, correspondent)) == flow
    for sender in (correspondent, router):
        error = icmp_error_about(from_host, sender, host)
        assert is_icmp_error(error)
        key = flow_of(error)
        assert key is not None
        assert reverse(key) == flow


def test_errors_inside_errors_are_not_followed() -> None:
    nested = build_udp(HOST, 1, CORRESPONDENT, 2, b"")
    for _ in range(2000):
        nested = ip_packet(HOST, CORRESPONDENT, 1, b"\x03\x03" + bytes(6) + nested)[:65535]
    assert flow_of(nested) == FlowKey(1, CORRESPONDENT, 0, HOST, 0).packed()


def test_an_error_that_quotes_too_little_or_another_family_has_no_flow() -> None:
    assert flow_of(ip_packet(HOST, CORRESPONDENT, 1, b"\x03\x03" + bytes(6))) is None
    assert flow_of(ip_packet(HOST, CORRESPONDENT, 1, b"\x03\x03" + bytes(6) + b"\x45" + bytes(12))) is None
    other_family = build_udp(HOST_6, 1, CORRESPONDENT_6, 2, b"")
    assert flow_of(ip_packet(HOST, CORRESPONDENT, 1, b"\x03\x03" + bytes(6) + other_family)) is None


def test_df_and_the_family_decide_whether_a_router_may_split() -> None:
    packet = build_udp(HOST, 1, CORRESPONDENT, 2, b"")
    assert not may_fragment(packet)
    assert may_fragment(packet[:6] + b"\0\0" + packet[8:])
    assert not may_fragment(build_udp(HOST_6, 1, CORRESPONDENT_6, 2, b""))


@given(st.integers(0, 255), st.integers(0, 255), st.booleans())
def test_the_tos_byte_changes_alone_and_the_header_stays_right(old: int, new: int, six: bool) -> None:
    pair = (HOST_6, CORRESPONDENT_6) if six else (HOST, CORRESPONDENT)
    packet = build_udp(*(pair[0], 2000, pair[1], 3000, b"abc"), tos=old)
    assert with_tos(packet, new) == build_udp(*(pair[0], 2000, pair[1], 3000, b"abc"), tos=new)


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("86.0.0.1", True),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("0.0.0.0", False),
        ("2001:db8::1", True),
        ("ff02::1", False),
        ("::", False),
    ],
)
def test_unicast_is_told_from_the_rest(destination: str, expected: bool) -> None:
    address = ip_address(destination)
    source = HOST if address.version == 4 else HOST_6
    assert is_to_one_host(build_udp(source, 1, address, 2, b"")) is expected
    assert packets.destination_of(build_udp(source, 1, address, 2, b"")) == address.packed
    assert packets.source_of(build_udp(source, 1, address, 2, b"")) == source.packed
