"""Flows: the object, its bytes and its text are three forms of one thing."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.model.errors import UsageError
from upmt_nf.model.flow import FlowKey

ports = st.integers(0, 65535)
flows = st.one_of(
    *(
        st.builds(
            FlowKey, st.integers(1, 255), st.builds(kind, numbers), ports, st.builds(kind, numbers), ports
        )
        for kind, numbers in (
            (IPv4Address, st.integers(0, 2**32 - 1)),
            (IPv6Address, st.integers(0, 2**128 - 1)),
        )
    )
)


@given(flows)
def test_a_flow_survives_its_bytes_and_its_text(flow: FlowKey) -> None:
    assert FlowKey.unpacked(flow.packed()) == flow
    assert FlowKey.parse(str(flow)) == flow
    assert flow.reversed().reversed() == flow


def test_the_bytes_are_those_of_the_header_in_its_order() -> None:
    flow = FlowKey(17, ip_address("1.2.3.4"), 2000, ip_address("86.0.0.1"), 3000)
    assert flow.packed() == bytes((17, 1, 2, 3, 4, 86, 0, 0, 1, 0x07, 0xD0, 0x0B, 0xB8))


@given(st.text(max_size=80))
def test_any_other_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(text))):
        FlowKey.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "udp",
        "udp:1.2.3.4:1>[::1]:2",
        "udp:1.2.3.4:70000>1.2.3.4:1",
        "999:1.2.3.4:1>1.2.3.4:1",
        "udp:1.2.3:1>1.2.3.4:1",
    ],
)
def test_wrong_flows_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        FlowKey.parse(text)
