"""Tunnel packets taken apart; and the formats told apart by their first byte."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.datapath.formats import PLAIN, decode, is_plain
from upmt_nf.datapath.outer import packed_endpoint, parse_outer, unpacked_endpoint
from upmt_nf.datapath.packet import build_udp, ip_packet
from upmt_nf.model.flow import Endpoint, IPAddress

GATEWAY, ANCHOR = Endpoint(ip_address("160.80.100.1"), 1600), Endpoint(ip_address("45.0.0.1"), 1800)
GATEWAY_6, ANCHOR_6 = Endpoint(ip_address("2001:db8::1"), 1600), Endpoint(ip_address("2001:db8::45"), 1800)
FAMILIES = [(GATEWAY, ANCHOR), (GATEWAY_6, ANCHOR_6)]


def outer(source: Endpoint, destination: Endpoint, payload: bytes, tos: int = 0) -> bytes:
    return build_udp(source.address, source.port, destination.address, destination.port, payload, tos=tos)


@pytest.mark.parametrize(("source", "destination"), FAMILIES)
@given(
    payload=st.one_of(st.binary(max_size=64), st.binary(min_size=500, max_size=1500)), tos=st.integers(0, 255)
)
def test_a_tunnel_packet_is_taken_apart(
    source: Endpoint, destination: Endpoint, payload: bytes, tos: int
) -> None:
    parsed = parse_outer(outer(source, destination, payload, tos))
    assert parsed is not None
    assert unpacked_endpoint(parsed.remote) == source
    assert unpacked_endpoint(parsed.local) == destination
    assert (parsed.tos, parsed.payload) == (tos, payload)
    assert packed_endpoint(source) == parsed.remote


@pytest.mark.parametrize(("source", "destination"), FAMILIES)
def test_cut_long_and_damaged_packets_are_refused(source: Endpoint, destination: Endpoint) -> None:
    packet = outer(source, destination, bytes(range(100)))
    for cut in range(len(packet)):
        assert parse_outer(packet[:cut]) is None
    assert parse_outer(packet + b"\0") is None
    assert parse_outer(packet[:-3] + b"\xaa" + packet[-2:]) is None
    start = 20 if source.address.version == 4 else 40
    shorter = packet[: start + 4] + (50).to_bytes(2, "big") + packet[start + 6 :]
    assert parse_outer(shorter) is None


def test_a_zero_checksum_is_none_over_ipv4_and_wrong_over_ipv6() -> None:
    for (source, destination), start in zip(FAMILIES, (26, 46), strict=True):
        packet = outer(source, destination, b"abc")
        bare = packet[:start] + b"\0\0" + packet[start + 2 :]
        assert (parse_outer(bare) is not None) == (start == 26)


def test_ip_options_on_the_way_are_stepped_over() -> None:
    packet = outer(GATEWAY, ANCHOR, b"inner")
    longer = (
        b"\x46"
        + packet[1:2]
        + (len(packet) + 4).to_bytes(2, "big")
        + packet[4:20]
        + b"\1\1\1\0"
        + packet[20:]
    )
    assert parse_outer(longer) == parse_outer(packet)
    assert parse_outer(longer[:-1]) is None


def test_other_protocols_and_outer_fragments_are_refused() -> None:
    segment = outer(GATEWAY, ANCHOR, b"inner")[20:]
    assert parse_outer(ip_packet(GATEWAY.address, ANCHOR.address, 6, segment)) is None
    packet = outer(GATEWAY, ANCHOR, b"inner")
    assert parse_outer(packet[:6] + b"\x20\0" + packet[8:]) is None


@given(st.binary(max_size=80))
def test_no_bytes_make_the_reader_raise(data: bytes) -> None:
    for start in (b"", b"\x45", b"\x4f", b"\x60\0\0\x08\0\x08\x11"):
        parse_outer(start + data)
        decode(None, start + data)


def test_plain_is_told_by_the_ip_version_and_adds_28_or_48_bytes() -> None:
    assert (PLAIN.overhead(4), PLAIN.overhead(6)) == (28, 48)
    assert [byte for byte in range(256) if is_plain(bytes((byte,)))] == [
        *range(0x40, 0x50),
        *range(0x60, 0x70),
    ]


@pytest.mark.parametrize("destination", [ip_address("86.0.0.1"), ip_address("2001:db8::86")])
def test_plain_takes_exactly_one_whole_packet(destination: IPAddress) -> None:
    source = ip_address("1.2.3.4") if destination.version == 4 else ip_address("2001:db8::4")
    packet = build_udp(source, 1, destination, 2, b"voice")
    assert decode(None, packet) == packet
    for wrong in (packet[:-1], packet + b"\0", packet + packet, b"", b"\x01" + packet):
        assert decode(None, wrong) is None
    if destination.version == 4:
        assert decode(None, packet[:8] + b"\x01" + packet[9:]) is None
