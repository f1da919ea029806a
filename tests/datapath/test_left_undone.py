"""What the kernel plane leaves to network cards, and no card on the way did, the agent at the other end does."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from large_packets import large, tcp

from upmt_nf.datapath.bursts import finished_by_us, let_in
from upmt_nf.datapath.offload import Offload, pseudo_sum
from upmt_nf.datapath.packet import build_udp
from upmt_nf.datapath.segmentation import segment
from upmt_nf.datapath.verdict import Inbound

ENDS = ip_address("1.2.3.4"), ip_address("86.0.0.1")
MTU = 1440


def unfinished(packet: bytes, field: int) -> bytes:
    """As a local socket hands it to a card: in the checksum's place stands the pseudo header's sum."""
    at = 20 + field
    length = (len(packet) - 20).to_bytes(4, "big")
    total = sum(int.from_bytes(packet[i : i + 2], "big") for i in range(12, 20, 2))
    total += int.from_bytes(length[2:], "big") + packet[9]
    return packet[:at] + (total % 0xFFFF or 0xFFFF).to_bytes(2, "big") + packet[at + 2 :]


@given(st.binary(min_size=1, max_size=1300))
def test_a_packet_with_half_a_sum_goes_on_with_a_whole_one(data: bytes) -> None:
    for right, field in ((tcp(data, ends=ENDS), 16), (build_udp(ENDS[0], 4000, ENDS[1], 53, data), 6)):
        assert let_in(unfinished(right, field), MTU) == Inbound(deliver=right)


@given(st.binary(min_size=1, max_size=1300), st.integers(1, 255))
def test_a_damaged_packet_stays_as_it_is(data: bytes, damage: int) -> None:
    right = tcp(data, ends=ENDS)
    damaged = right[:-1] + bytes((right[-1] ^ damage,))
    for packet in (right, damaged, right[:6] + b"\x20\x00" + right[8:]):
        assert let_in(packet, MTU) == Inbound(deliver=packet)


@pytest.mark.parametrize("size", [1401, 20_000, 65_000])
def test_one_that_stands_for_many_is_segmented_as_the_tunnel_takes_it(size: int) -> None:
    whole, offload = large(bytes(range(250)) * (size // 250 + 1), MTU - 40)
    assert pseudo_sum(whole, len(whole) - 20) == int.from_bytes(whole[36:38], "big")
    verdict = let_in(whole, MTU)
    assert verdict == Inbound(deliver=whole, offload=Offload(20, 16, MTU - 40))
    assert verdict.offload is not None
    assert segment(whole, verdict.offload) == segment(whole, offload)
    assert finished_by_us(verdict).offload is None
