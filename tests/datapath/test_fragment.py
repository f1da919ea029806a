"""Splitting and putting together are inverses, in any order; what is odd is refused and bounded."""

import random
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.datapath.checksum import checksum
from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.fragment import Reassembler, split
from upmt_nf.datapath.packet import build_udp, ip_packet, is_fragment, is_whole, with_tos

PAIRS = {
    4: (ip_address("1.2.3.4"), ip_address("86.0.0.1")),
    6: (ip_address("2001:db8::4"), ip_address("2001:db8::86")),
}


def splittable(version: int, size: int, *, options: bytes = b"", identification: int = 7) -> bytes:
    """A UDP packet without DF, with IPv4 options or IPv6 destination options if wanted."""
    source, destination = PAIRS[version]
    packet = build_udp(source, 2000, destination, 3000, random.Random(size).randbytes(size))
    if version == 6:
        return packet
    head = bytearray(packet[:20] + options)
    head[0] = 0x40 | len(head) // 4
    head[2:4] = (len(packet) + len(options)).to_bytes(2, "big")
    head[4:8] = identification.to_bytes(2, "big") + b"\0\0"
    head[10:12] = b"\0\0"
    head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
    return bytes(head) + packet[20:]


COPIED, NOT_COPIED = b"\x94\x04\0\0", b"\x07\x07\x04\0\0\0\0"


@given(
    st.sampled_from((4, 6)),
    st.integers(0, 9000),
    st.integers(128, 2000),
    st.sampled_from((b"", NOT_COPIED + COPIED + b"\0")),
    st.randoms(use_true_random=False),
)
def test_fragments_in_any_order_and_twice_make_the_packet_again(
    version: int, size: int, mtu: int, options: bytes, shuffler: random.Random
) -> None:
    packet = splittable(version, size, options=options)
    fragments = split(packet, mtu, identification=99)
    assert all(len(fragment) <= mtu and is_whole(fragment) for fragment in fragments)
    if len(packet) <= mtu:
        assert fragments == [packet]
        return
    assert all(is_fragment(fragment) for fragment in fragments)
    arriving = [*fragments, *shuffler.sample(fragments, len(fragments) // 2)]
    shuffler.shuffle(arriving)
    reassembler = Reassembler(Counters())
    wholes = [whole for fragment in arriving if (whole := reassembler.add(fragment, 1.0)) is not None]
    assert wholes[0] == packet


@given(st.integers(600, 3000), st.integers(300, 500), st.integers(128, 250))
def test_fragments_of_fragments_make_the_packet_again(size: int, mtu: int, smaller: int) -> None:
    packet = splittable(4, size)
    pieces = [piece for fragment in split(packet, mtu) for piece in split(fragment, smaller)]
    reassembler = Reassembler(Counters())
    wholes = [whole for piece in reversed(pieces) if (whole := reassembler.add(piece, 1.0)) is not None]
    assert wholes == [packet]


def test_offsets_flags_and_options_are_those_of_rfc_791() -> None:
    packet = splittable(4, 1000, options=NOT_COPIED + COPIED + b"\0")
    first, second, third = split(packet, 400)
    # 12 bytes of options in the first fragment, the copied four in the others.
    assert (first[0], second[0], third[0]) == (0x48, 0x46, 0x46)
    assert second[20:24] == third[20:24] == COPIED
    assert [fragment[6:8].hex() for fragment in (first, second, third)] == ["2000", "202e", "005d"]
    assert first[4:6] == second[4:6] == third[4:6] == packet[4:6]
    assert (len(first), len(second)) == (400, 400)


def test_what_must_not_be_split_is_not() -> None:
    source, destination = PAIRS[4]
    with pytest.raises(ValueError, match="may not be fragmented"):
        split(build_udp(source, 1, destination, 2, bytes(500)), 400)
    with pytest.raises(ValueError, match="no link"):
        split(splittable(4, 500), 67)
    fragment = split(splittable(6, 2000), 1280)[0]
    with pytest.raises(ValueError, match="already"):
        split(fragment, 600)
    long_headers = ip_packet(*PAIRS[6], 60, b"\x11\x1f" + bytes(254) + bytes(400))
    with pytest.raises(ValueError, match="headers alone"):
        split(long_headers, 200)


def test_extension_headers_stay_in_front_of_the_fragment_header() -> None:
    packet = ip_packet(*PAIRS[6], 60, b"\x11\0" + bytes(6) + bytes(range(200)))
    fragments = split(packet, 160, identification=5)
    assert all(fragment[6] == 60 and fragment[40] == 44 for fragment in fragments)
    reassembler = Reassembler(Counters())
    assert [reassembler.add(fragment, 0.0) for fragment in fragments][-1] == packet


def test_an_atomic_ipv6_fragment_is_a_packet_by_itself() -> None:
    packet = splittable(6, 20)
    atomic = (
        packet[:4] + (36).to_bytes(2, "big") + b"\x2c" + packet[7:40] + b"\x11\0\0\0\0\0\0\x09" + packet[40:]
    )
    assert Reassembler(Counters()).add(atomic, 0.0) == packet


def test_congestion_of_one_fragment_is_congestion_of_the_packet() -> None:
    for version in (4, 6):
        first, second = split(with_tos(splittable(version, 1000), 0xBA), 700)
        whole = Reassembler(Counters())
        whole.add(first, 0.0)
        assert whole.add(with_tos(second, 0xBB), 0.0) == with_tos(splittable(version, 1000), 0xBB)
        mixed, counters = split(with_tos(splittable(version, 1000), 0xB8), 700), Counters()
        whole = Reassembler(counters)
        whole.add(mixed[0], 0.0)
        assert whole.add(with_tos(mixed[1], 0xBB), 0.0) is None
        assert counters["bad_fragment"] == 1


def placed(offset: int, size: int, *, more: bool) -> bytes:
    """An IPv4 fragment of `size` bytes at `offset`."""
    packet = ip_packet(*PAIRS[4], 17, bytes([offset % 251]) * size)
    return packet[:4] + b"\0\x07" + (offset // 8 | (0x2000 if more else 0)).to_bytes(2, "big") + packet[8:]


@pytest.mark.parametrize(
    "arriving",
    [
        [(0, 16, True), (8, 16, True)],
        [(8, 16, True), (0, 16, True)],
        [(0, 32, True), (8, 8, True)],
        [(8, 8, True), (0, 32, True)],
        [(0, 16, True), (0, 8, True)],
        [(16, 8, False), (24, 8, True)],
        [(16, 8, False), (16, 16, False)],
        [(24, 8, True), (16, 8, False)],
        [(24, 8, True), (8, 8, False)],
    ],
)
def test_an_overlap_voids_the_packet_and_what_still_comes_of_it(
    arriving: list[tuple[int, int, bool]],
) -> None:
    counters = Counters()
    reassembler = Reassembler(counters)
    for offset, size, more in arriving:
        assert reassembler.add(placed(offset, size, more=more), 0.0) is None
    assert counters["overlapping_fragment"] == 1
    for offset in range(0, 64, 8):
        assert reassembler.add(placed(offset, 8, more=offset < 56), 1.0) is None
    assert counters["surplus_fragment"] == 8
    # After its time the same identification is a new packet.
    results = [reassembler.add(placed(offset, 8, more=offset < 8), 31.0) for offset in (0, 8)]
    assert results[0] is None
    assert results[1] is not None


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5), st.booleans()), max_size=12))
def test_whatever_fragments_come_a_finished_packet_has_no_holes(
    arriving: list[tuple[int, int, bool]],
) -> None:
    reassembler = Reassembler(Counters())
    seen: set[int] = set()
    for block, blocks, more in arriving:
        whole = reassembler.add(placed(block * 8, blocks * 8, more=more), 0.0)
        seen |= set(range(block, block + blocks))
        if whole is not None:
            assert is_whole(whole)
            assert (len(whole) - 20) % 8 == 0
            assert set(range((len(whole) - 20) // 8)) <= seen
            return


@pytest.mark.parametrize(
    "fragment",
    [
        placed(0, 0, more=True),
        placed(0, 12, more=True),
        placed(65528, 80, more=False),
        b"\x42" + bytes(30),
        b"",
    ],
)
def test_impossible_fragments_are_counted(fragment: bytes) -> None:
    counters = Counters()
    assert Reassembler(counters).add(fragment, 0.0) is None
    assert counters["bad_fragment"] == 1


def test_time_packets_and_memory_are_bounded() -> None:
    counters = Counters()
    reassembler = Reassembler(counters, max_packets=3, max_bytes=6000)
    for identification in range(5):
        first = split(splittable(4, 1000, identification=identification), 700)[0]
        reassembler.add(first, float(identification))
    assert len(reassembler) == 3
    assert counters["reassembly_full"] == 2
    for identification in range(10, 13):
        first = split(splittable(4, 4000, identification=identification), 2900)[0]
        reassembler.add(first, 6.0)
    assert len(reassembler) == 1
    reassembler.add(split(splittable(4, 1000, identification=50), 700)[0], 36.0)
    assert len(reassembler) == 1
    assert counters["reassembly_timeout"] == 1


def test_tiny_fragments_do_not_slip_under_the_memory_bound() -> None:
    counters = Counters()
    reassembler = Reassembler(counters, max_bytes=100_000)
    for place in range(5000):
        reassembler.add(placed(place * 8, 8, more=True), 0.0)
    assert counters["reassembly_full"] > 0


@given(st.binary(max_size=80))
def test_no_bytes_make_the_reassembler_raise(data: bytes) -> None:
    for start in (b"", b"\x45\0\0\x40\0\x07\x20\0\x40\x11", b"\x60\0\0\0\0\0\x2c" + bytes(33)):
        Reassembler(Counters()).add(start + data, 0.0)
