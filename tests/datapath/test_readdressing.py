"""One address in the place of another: sums stay right, errors are followed into what they quote, damage stays."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.datapath.checksum import checksum, transport_checksum
from upmt_nf.datapath.offload import Offload, finished, pseudo_sum
from upmt_nf.datapath.packet import (
    build_udp,
    destination_of,
    flow_of,
    ip_packet,
    is_whole,
    parse_udp,
    reverse,
    source_of,
)
from upmt_nf.datapath.readdressing import readdressed, readdressed_key
from upmt_nf.model.flow import ICMP, ICMPV6, TCP, Endpoint, IPAddress

HOST, LEASED, CORRESPONDENT = ip_address("1.2.3.4"), ip_address("1.2.4.9"), ip_address("86.0.0.1")
HOST_6, LEASED_6, PEER_6 = map(ip_address, ("2001:db8::4", "2001:db8:1::77", "2001:db8:ffff::1"))
FAMILIES = pytest.mark.parametrize(
    ("own", "leased", "peer"), [(HOST, LEASED, CORRESPONDENT), (HOST_6, LEASED_6, PEER_6)]
)

addresses = st.one_of(
    st.tuples(*[st.builds(IPv4Address, st.integers(0, 2**32 - 1))] * 3),
    st.tuples(*[st.builds(IPv6Address, st.integers(0, 2**128 - 1))] * 3),
)


def tcp(source: IPAddress, destination: IPAddress, data: bytes = b"hello") -> bytes:
    segment = bytes.fromhex("1f401f900000000100000002501000ff00000000") + data
    sum_ = transport_checksum(source.packed, destination.packed, TCP, segment)
    return ip_packet(source, destination, TCP, segment[:16] + sum_.to_bytes(2, "big") + segment[18:])


def unreachable(source: IPAddress, destination: IPAddress, quoted: bytes) -> bytes:
    """What a router says of a packet that it got from `destination`."""
    if source.version == 4:
        said = b"\3\4\0\0\0\0\5\0" + quoted
        return ip_packet(source, destination, ICMP, said[:2] + checksum(said).to_bytes(2, "big") + said[4:])
    said = b"\2\0\0\0\0\0\5\0" + quoted
    sum_ = transport_checksum(source.packed, destination.packed, ICMPV6, said)
    return ip_packet(source, destination, ICMPV6, said[:2] + sum_.to_bytes(2, "big") + said[4:])


def has_right_sums(packet: bytes) -> bool:
    """Of a TCP packet or an ICMP error."""
    start = 20 if packet[0] >> 4 == 4 else 40
    protocol = packet[9] if start == 20 else packet[6]
    if protocol == ICMP:
        return is_whole(packet) and checksum(packet[start:]) == 0
    return is_whole(packet) and not transport_checksum(
        source_of(packet), destination_of(packet), protocol, packet[start:]
    )


@given(addresses, st.binary(max_size=60))
def test_a_udp_packet_is_as_if_the_other_address_had_sent_it(
    three: tuple[IPAddress, IPAddress, IPAddress], payload: bytes
) -> None:
    own, leased, peer = three
    packet = build_udp(own, 2000, peer, 3000, payload)
    made = readdressed(packet, own.packed, leased.packed)
    if own != peer:
        assert parse_udp(made) == (Endpoint(leased, 2000), Endpoint(peer, 3000), payload)
        assert made == build_udp(leased, 2000, peer, 3000, payload)
    answer = build_udp(peer, 3000, leased, 2000, payload)
    if leased != peer:
        back = readdressed(answer, leased.packed, own.packed)
        assert parse_udp(back) == (Endpoint(peer, 3000), Endpoint(own, 2000), payload)


@FAMILIES
def test_a_tcp_packet_keeps_right_sums_there_and_back(
    own: IPAddress, leased: IPAddress, peer: IPAddress
) -> None:
    packet = tcp(own, peer)
    made = readdressed(packet, own.packed, leased.packed)
    assert has_right_sums(made)
    assert made == tcp(leased, peer)
    assert readdressed(made, leased.packed, own.packed) == packet


@FAMILIES
def test_an_unfinished_sum_comes_out_right_when_it_is_finished(
    own: IPAddress, leased: IPAddress, peer: IPAddress
) -> None:
    whole = tcp(own, peer)
    start = 20 if own.version == 4 else 40
    pseudo = pseudo_sum(whole, len(whole) - start)
    unfinished = whole[: start + 16] + pseudo.to_bytes(2, "big") + whole[start + 18 :]
    made = readdressed(unfinished, own.packed, leased.packed, is_unfinished=True)
    assert has_right_sums(finished(made, Offload(start, 16)))


@FAMILIES
def test_an_error_comes_back_with_the_packet_that_it_quotes(
    own: IPAddress, leased: IPAddress, peer: IPAddress
) -> None:
    error = unreachable(peer, leased, tcp(leased, peer))
    back = readdressed(error, leased.packed, own.packed)
    assert back == unreachable(peer, own, tcp(own, peer))
    key = flow_of(back)
    assert key is not None
    assert key == reverse(flow_of(tcp(own, peer)) or b"")


def test_an_error_that_quotes_no_more_than_eight_octets_of_it_comes_back_whole() -> None:
    quoted = build_udp(LEASED, 2000, CORRESPONDENT, 3000, b"voice")[:28]
    back = readdressed(unreachable(CORRESPONDENT, LEASED, quoted), LEASED.packed, HOST.packed)
    assert has_right_sums(back)
    assert back.endswith(build_udp(HOST, 2000, CORRESPONDENT, 3000, b"voice")[:28])


def test_a_later_fragment_has_no_sum_but_that_of_its_header() -> None:
    first = build_udp(HOST, 2000, CORRESPONDENT, 3000, b"voice")
    head = bytearray(first)
    head[6:8], head[10:12] = b"\0\5", b"\0\0"
    head[10:12] = checksum(bytes(head[:20])).to_bytes(2, "big")
    made = readdressed(bytes(head), HOST.packed, LEASED.packed)
    assert is_whole(made)
    assert made[20:] == first[20:]


def test_a_udp_packet_without_a_sum_gets_none() -> None:
    packet = build_udp(HOST, 2000, CORRESPONDENT, 3000, b"voice")
    packet = packet[:26] + b"\0\0" + packet[28:]
    assert readdressed(packet, HOST.packed, LEASED.packed)[26:28] == b"\0\0"


def test_a_damaged_packet_stays_damaged() -> None:
    packet = tcp(HOST, CORRESPONDENT)
    made = readdressed(packet[:-1] + b"!", HOST.packed, LEASED.packed)
    assert is_whole(made)
    assert not has_right_sums(made)


def test_a_packet_of_others_stays_as_it_is() -> None:
    packet = tcp(CORRESPONDENT, LEASED)
    assert readdressed(packet, HOST.packed, LEASED_6.packed) == packet
    assert readdressed(packet, HOST.packed, LEASED.packed) == packet


@given(st.binary(max_size=120))
def test_whatever_comes_nothing_is_raised_and_the_length_stays(packet: bytes) -> None:
    for old, new in ((HOST.packed, LEASED.packed), (HOST_6.packed, LEASED_6.packed), (bytes(4), HOST.packed)):
        assert len(readdressed(packet, old, new)) == len(packet)


@FAMILIES
def test_a_key_gets_another_source(own: IPAddress, leased: IPAddress, peer: IPAddress) -> None:
    before, after = flow_of(tcp(own, peer)), flow_of(tcp(leased, peer))
    assert before is not None
    assert readdressed_key(before, leased.packed) == after
