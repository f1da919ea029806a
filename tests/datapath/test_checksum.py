"""The fast sum against the loop of RFC 1071."""

from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.datapath.checksum import checksum, ones_sum, transport_checksum


def rfc_1071(data: bytes) -> int:
    """The C code of RFC 1071 section 4.1, word by word."""
    total = 0
    for place in range(0, len(data) - 1, 2):
        total += data[place] << 8 | data[place + 1]
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.one_of(st.binary(max_size=200), st.binary(min_size=505, max_size=1600)))
def test_the_fast_sum_is_that_of_the_rfc(data: bytes) -> None:
    assert ones_sum(data) == rfc_1071(data)


def test_the_two_zeros_of_ones_complement_are_told_apart() -> None:
    for size in (2, 20, 512, 1400):
        assert ones_sum(bytes(size)) == 0
        assert ones_sum(b"\xff" * size) == 0xFFFF
        assert checksum(b"\xff" * size) == 0


def test_the_example_of_the_rfc_comes_out() -> None:
    assert ones_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


@given(st.binary(min_size=8, max_size=1500), st.sampled_from((4, 16)), st.integers(0, 255))
def test_a_segment_with_its_checksum_in_place_sums_to_zero(data: bytes, size: int, protocol: int) -> None:
    source, destination = bytes(range(1, size + 1)), bytes(range(101, size + 101))
    cleared = data[:6] + b"\0\0" + data[8:]
    filled = (
        data[:6] + transport_checksum(source, destination, protocol, cleared).to_bytes(2, "big") + data[8:]
    )
    assert transport_checksum(source, destination, protocol, filled) == 0
