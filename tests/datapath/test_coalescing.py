"""Packets put together: only what taking apart gives back byte for byte, and never a damaged one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from large_packets import large, tcp

from upmt_nf.datapath.checksum import checksum
from upmt_nf.datapath.coalescing import merge, runs
from upmt_nf.datapath.packet import with_tos
from upmt_nf.datapath.segmentation import segment

ACK, PSH = 0x10, 0x08


def expanded(data: bytes, size: int) -> list[bytes]:
    """The packets again, each run through the large packet that stands for it."""
    found: list[bytes] = []
    for run in runs(data, size):
        if run.packets == 1:
            found.append(run.first)
            continue
        whole, offload = merge(run, run.first)
        packets, each = segment(whole, offload)
        found += [packets[at : at + each] for at in range(0, len(packets), each)]
    return found


@given(
    payload=st.binary(min_size=2, max_size=6000),
    each=st.integers(50, 1500).map(lambda number: number * 2),
    version=st.sampled_from((4, 6)),
    push=st.booleans(),
    options=st.sampled_from((b"", bytes(12))),
)
def test_a_run_goes_through_the_large_packet_unchanged(
    payload: bytes, each: int, version: int, push: bool, options: bytes
) -> None:
    whole, offload = large(payload, each, version, flags=ACK | (PSH if push else 0), options=options)
    data, size = segment(whole, offload)
    count = -(-len(data) // size)
    assert [run.packets for run in runs(data, size)] == [count]
    if count > 1:
        merged, again = merge(next(runs(data, size)), data[:size])
        assert (merged, again) == (whole, offload)


def stream(count: int = 6, each: int = 100, version: int = 4) -> list[bytes]:
    noise = random.Random(5)
    return [
        numbered(tcp(noise.randbytes(each), version, sequence=1000 + place * each, flags=ACK), place)
        for place in range(count)
    ]


def numbered(packet: bytes, identification: int, *, flags: int = 0x40) -> bytes:
    """With an IPv4 identification, as the kernel gives it to the packets of one large packet."""
    if packet[0] >> 4 == 6:
        return packet
    head = packet[:4] + identification.to_bytes(2, "big") + bytes((flags, 0)) + packet[8:10] + b"\0\0"
    return head[:10] + checksum(head + packet[12:20]).to_bytes(2, "big") + packet[12:]


def counts(packets: list[bytes]) -> list[int]:
    return [run.packets for run in runs(b"".join(packets), len(packets[0]))]


@pytest.mark.parametrize("version", [4, 6])
def test_a_flipped_bit_anywhere_keeps_its_packet_alone(version: int) -> None:
    packets = stream(version=version)
    for at in range(len(packets[0])):
        damaged = bytearray(packets[2])
        damaged[at] ^= 0x20
        changed = [*packets[:2], bytes(damaged), *packets[3:]]
        found = list(runs(b"".join(changed), len(packets[0])))
        place = 0
        for run in found:
            assert not (place < 2 < place + run.packets), f"byte {at} was merged with its predecessors"
            assert not (place == 2 and run.packets > 1), f"byte {at} was merged with its successors"
            place += run.packets
        assert expanded(b"".join(changed), len(packets[0])) == changed


def test_what_differs_beside_the_running_fields_begins_a_new_run() -> None:
    packets = stream()
    other = {
        "flow": tcp(packets[2][40:], sequence=1200, ports=(40001, 443)),
        "window": tcp(packets[2][40:], sequence=1200, window=501),
        "sequence": tcp(packets[2][40:], sequence=1201),
        "flags": tcp(packets[2][40:], sequence=1200, flags=ACK | 0x01),
        "urgent": tcp(packets[2][40:], sequence=1200, flags=ACK | 0x20),
        "dscp": with_tos(packets[2], 0x20),
    }
    for what, packet in other.items():
        changed = [*packets[:2], packet, *packets[3:]]
        assert counts(changed)[0] == 2, what
        assert expanded(b"".join(changed), len(packet)) == changed, what


def test_a_push_ends_a_run_and_is_kept() -> None:
    packets = stream()
    packets[2] = numbered(tcp(packets[2][40:], sequence=1200, flags=ACK | PSH), 2)
    assert counts(packets) == [3, 3]
    assert expanded(b"".join(packets), len(packets[0])) == packets


def test_the_last_packet_may_be_shorter_and_belongs_to_the_run() -> None:
    packets = [*stream(), numbered(tcp(b"the end", sequence=1600, flags=ACK | PSH), 6)]
    assert counts(packets) == [7]
    assert expanded(b"".join(packets), len(packets[0])) == packets


def test_a_shorter_last_packet_that_does_not_continue_stays_alone() -> None:
    for last in (tcp(b"the end", sequence=1601), tcp(b"the end", sequence=1600)[:-1] + b"!"):
        packets = [*stream(), last]
        assert counts(packets) == [6, 1]
        assert expanded(b"".join(packets), len(packets[0])) == packets


def test_a_packet_never_grows_beyond_what_its_length_field_can_say() -> None:
    packets = stream(count=70, each=1000)
    assert counts(packets) == [65, 5]
    assert expanded(b"".join(packets), len(packets[0])) == packets


def test_identifications_that_mean_something_must_ascend() -> None:
    ascending = [numbered(packet, 7 + place, flags=0) for place, packet in enumerate(stream())]
    assert counts(ascending) == [6]
    assert expanded(b"".join(ascending), len(ascending[0])) == ascending
    constant = [numbered(packet, 7, flags=0) for packet in stream()]
    assert counts(constant) == [1] * 6


def test_identifications_that_mean_nothing_may_be_anything() -> None:
    assert counts([numbered(packet, 7) for packet in stream()]) == [6]


def test_fragments_and_other_protocols_stay_as_they_are() -> None:
    packets = stream()
    fragment = packets[0][:6] + b"\x20\0" + packets[0][8:]
    udp = packets[0][:9] + b"\x11" + packets[0][10:]
    for packet in (fragment, udp):
        assert counts([packet] * 3) == [1, 1, 1]
        assert expanded(packet * 3, len(packet)) == [packet] * 3


@given(data=st.binary(max_size=400), size=st.integers(1, 200))
def test_any_bytes_come_out_as_they_came_in(data: bytes, size: int) -> None:
    assert b"".join(expanded(data, size)) == data


@given(seed=st.integers(0, 2**32), version=st.sampled_from((4, 6)))
def test_a_mixture_comes_out_as_it_came_in(seed: int, version: int) -> None:
    noise = random.Random(seed)
    packets = stream(10, 100, version)
    for _ in range(noise.randrange(4)):
        place = noise.randrange(10)
        at = noise.randrange(len(packets[place]))
        packets[place] = packets[place][:at] + noise.randbytes(1) + packets[place][at + 1 :]
    if noise.random() < 0.3:
        noise.shuffle(packets)
    assert expanded(b"".join(packets), len(packets[0])) == packets
