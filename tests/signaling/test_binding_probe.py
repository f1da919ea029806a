"""Binding probes: the octets of docs/protocol.md, believed only with the association's key."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.datapath.formats import is_binding_probe
from upmt_nf.model.errors import PeerError
from upmt_nf.signaling.binding_probe import (
    PROBE_SIZE,
    BindingProbe,
    ProbeKind,
    is_proven,
    parse_probe,
    probe_key,
)

KEY = probe_key(b"secret")
ADDRESSES = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.integers(2**64, 2**128 - 1).map(IPv6Address),
)
PROBES = st.builds(
    BindingProbe, st.sampled_from(ProbeKind), st.integers(0, 2**32 - 1), ADDRESSES, st.integers(0, 65535)
)


def test_the_octets_are_those_of_the_drawing() -> None:
    data = BindingProbe(ProbeKind.POKE, 0x01020304, ip_address("1.2.3.4"), 0xABCD).sealed(KEY)
    assert data[:24].hex() == "3003abcd01020304" + "00000000000000000000ffff01020304"
    assert len(data) == PROBE_SIZE == 40


@given(PROBES)
def test_a_probe_is_read_as_it_was_written_and_known_by_its_first_bits(probe: BindingProbe) -> None:
    data = probe.sealed(KEY)
    assert parse_probe(data) == probe
    assert is_proven(data, KEY)
    assert is_binding_probe(data)
    assert not is_proven(data, probe_key(b"another"))


@given(PROBES, st.integers(0, 8 * PROBE_SIZE - 1))
def test_no_bit_can_be_flipped(probe: BindingProbe, place: int) -> None:
    data = bytearray(probe.sealed(KEY))
    data[place // 8] ^= 1 << place % 8
    assert not is_proven(bytes(data), KEY)


@given(st.binary(max_size=80))
def test_garbage_is_refused_and_never_believed(data: bytes) -> None:
    for each in (data, b"\x30\x01" + data, (b"\x30\x09" + data).ljust(PROBE_SIZE, b"\0")[:PROBE_SIZE]):
        is_binding_probe(each or b"\0")
        try:
            parse_probe(each)
        except PeerError:
            continue
        assert not is_proven(each, KEY)


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(PeerError, match="kind 9"):
        parse_probe(b"\x30\x09" + bytes(38))
    with pytest.raises(PeerError, match="no binding probe"):
        parse_probe(b"")
