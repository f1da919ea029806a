"""The table of RFC 6040 section 4.2, figure 4, whole."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.datapath.ecn import decapsulated, outer_tos
from upmt_nf.datapath.packet import build_udp, is_whole, tos_of

NOT_ECT, ECT_1, ECT_0, CE = 0, 1, 2, 3
DROP = None
PAIRS = (("1.2.3.4", "86.0.0.1"), ("2001:db8::4", "2001:db8:ffff::1"))

# Rows: what came inside. Columns: what came outside: Not-ECT, ECT(0), ECT(1), CE.
FIGURE_4 = {
    NOT_ECT: (NOT_ECT, NOT_ECT, NOT_ECT, DROP),
    ECT_0: (ECT_0, ECT_0, ECT_1, CE),
    ECT_1: (ECT_1, ECT_1, ECT_1, CE),
    CE: (CE, CE, CE, CE),
}
CASES = [
    (inner, outer, row[column])
    for inner, row in FIGURE_4.items()
    for column, outer in enumerate((NOT_ECT, ECT_0, ECT_1, CE))
]


@pytest.mark.parametrize(("source", "destination"), PAIRS)
@pytest.mark.parametrize(("inner", "outer", "expected"), CASES)
def test_decapsulation_follows_figure_4(
    inner: int, outer: int, expected: int | None, source: str, destination: str
) -> None:
    dscp_inside, dscp_outside = 0xB8, 0x28
    packet = build_udp(ip_address(source), 1, ip_address(destination), 2, b"x", tos=dscp_inside | inner)
    result = decapsulated(packet, dscp_outside | outer)
    if expected is None:
        assert result is None
    else:
        assert result is not None
        assert is_whole(result)
        assert tos_of(result) == dscp_inside | expected
        assert result[-9:] == packet[-9:]


@given(st.integers(0, 255))
def test_encapsulation_copies_the_byte(tos: int) -> None:
    assert outer_tos(tos) == tos
