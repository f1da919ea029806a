"""Large packets taken apart: every byte of payload once, every checksum right, every header as the kernel makes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from large_packets import is_right, large, start_of, tcp

from upmt_nf.datapath.offload import Offload, finished
from upmt_nf.datapath.packet import build_udp, is_whole, parse_udp
from upmt_nf.datapath.segmentation import segment
from upmt_nf.model.flow import UDP, Endpoint

ACK, PSH, FIN, CWR = 0x10, 0x08, 0x01, 0x80


def apart(packets: bytes, size: int) -> list[bytes]:
    return [packets[at : at + size] for at in range(0, len(packets), size)]


def number(packet: bytes, offset: int, width: int) -> int:
    return int.from_bytes(packet[offset : offset + width], "big")


@given(
    payload=st.binary(min_size=1, max_size=5000),
    each=st.integers(1, 1500),
    version=st.sampled_from((4, 6)),
    sequence=st.integers(0, 2**32 - 1),
    flags=st.sampled_from((ACK, ACK | PSH, ACK | FIN, ACK | PSH | FIN, ACK | CWR, ACK | CWR | PSH)),
    options=st.sampled_from((b"", bytes(range(12)))),
)
def test_the_packets_are_what_the_large_one_stood_for(
    payload: bytes, each: int, version: int, sequence: int, flags: int, options: bytes
) -> None:
    # One byte a packet would be slow and say nothing more.
    each = max(each, len(payload) // 60 + 1)
    whole, offload = large(payload, each, version, sequence=sequence, flags=flags, options=options)
    start, head = start_of(whole), start_of(whole) + 20 + len(options)
    packets = apart(*segment(whole, offload))
    assert b"".join(packet[head:] for packet in packets) == payload
    assert all(len(packet) == head + each for packet in packets[:-1])
    for place, packet in enumerate(packets):
        assert is_whole(packet)
        assert is_right(packet)
        assert number(packet, start + 4, 4) == (sequence + place * each) % 2**32
        expected = flags
        if place:
            expected &= ~CWR
        if place < len(packets) - 1:
            expected &= ~(PSH | FIN)
        assert packet[start + 13] == expected
        assert packet[start + 20 : head] == options
        if version == 4:
            assert number(packet, 4, 2) == (number(whole, 4, 2) + place) % 2**16


def test_ipv4_identifications_and_sequence_numbers_wrap_around() -> None:
    whole, offload = large(bytes(3000), 1000, sequence=2**32 - 1500)
    whole = whole[:4] + b"\xff\xff" + whole[6:]
    packets = apart(*segment(whole, offload))
    assert [number(packet, 4, 2) for packet in packets] == [0xFFFF, 0, 1]
    assert [number(packet, 24, 4) for packet in packets] == [2**32 - 1500, 2**32 - 500, 500]
    assert all(is_whole(packet) and is_right(packet) for packet in packets)


@pytest.mark.parametrize(
    ("packet", "offload"),
    [
        (tcp(b"x" * 100)[:30], Offload(20, 16, 10)),
        (tcp(b""), Offload(20, 16, 10)),
        (tcp(b"x" * 100), Offload(20, 6, 10)),
        (tcp(b"x" * 100)[:32] + b"\x20" + tcp(b"x" * 100)[33:], Offload(20, 16, 10)),
    ],
    ids=["cut", "without payload", "not TCP", "a header of eight bytes"],
)
def test_what_cannot_be_taken_apart_is_refused(packet: bytes, offload: Offload) -> None:
    with pytest.raises(ValueError, match="no TCP"):
        segment(packet, offload)


@pytest.mark.parametrize("version", [4, 6])
def test_half_a_checksum_is_finished(version: int) -> None:
    right = tcp(b"some payload", version)
    half_done, offload = large(b"some payload", 0, version)
    assert half_done != right
    assert finished(half_done, offload) == right


def test_a_udp_checksum_of_zero_is_written_as_all_ones() -> None:
    from ipaddress import ip_address

    source, destination = ip_address("1.2.3.4"), ip_address("86.0.0.1")
    for value in range(0x10000):
        packet = build_udp(source, 4000, destination, 53, value.to_bytes(2, "big"))
        if packet[26:28] == b"\xff\xff":
            break
    datagram = packet[20:26]
    pseudo = (
        sum(int.from_bytes((source.packed + destination.packed)[at : at + 2], "big") for at in range(0, 8, 2))
        + UDP
        + number(datagram, 4, 2)
    )
    while pseudo > 0xFFFF:
        pseudo = (pseudo & 0xFFFF) + (pseudo >> 16)
    half_done = packet[:26] + pseudo.to_bytes(2, "big") + packet[28:]
    done = finished(half_done, Offload(20, 6))
    assert done == packet
    found = parse_udp(done)
    assert found is not None
    assert found.destination == Endpoint(destination, 53)


def test_a_field_outside_of_the_packet_is_left_alone() -> None:
    packet = tcp(b"abc")
    assert finished(packet, Offload(20, 600)) == packet
