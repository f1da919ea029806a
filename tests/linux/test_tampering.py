"""Signs that somebody changed rules or routes: those about ours are noticed, others are not looked at."""

from __future__ import annotations

import select

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_namespace import Namespace

from upmt_nf.linux.tampering import RoutingMonitor, concerns_us, shape_of_tables


@given(st.binary(max_size=200))
def test_no_message_is_too_strange(messages: bytes) -> None:
    assert concerns_us(messages) in (True, False)


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("command", "is_sign"),
    [
        ("ip route add 203.0.113.0/24 dev lo", False),
        ("ip route add 203.0.113.0/24 dev lo proto 117", True),
        ("ip -6 route add unreachable 2001:db8:f::/48 proto 117", True),
        ("ip rule add pref 4700 lookup 7000", True),
        ("ip -6 rule add pref 4700 lookup 7000", True),
    ],
)
def test_what_concerns_us_is_a_sign(namespace: Namespace, command: str, is_sign: bool) -> None:
    namespace.run("ip link set lo up")
    monitor = RoutingMonitor()
    try:
        namespace.run(command)
        assert select.select([monitor], [], [], 5)[0]
        assert monitor.drain() == is_sign
        assert not monitor.drain()
    finally:
        monitor.close()


@pytest.mark.kernel
def test_the_shape_of_the_tables_changes_with_their_rules_and_loads_none(namespace: Namespace) -> None:
    assert shape_of_tables(4) == ()
    namespace.iptables("-t mangle -A OUTPUT -j ACCEPT")
    before = shape_of_tables(4)
    assert [table for _, table, _ in before] == ["mangle"]
    assert shape_of_tables(4) == before
    namespace.iptables("-t mangle -A OUTPUT -j ACCEPT")
    assert shape_of_tables(4) != before
    assert shape_of_tables(6) == ()
