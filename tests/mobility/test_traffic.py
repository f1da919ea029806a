"""Bytes and throughput of a network, from counters that are kept anyway."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.datapath.paft import Tunnel
from upmt_nf.mobility.traffic import MEMORY, Carried, OwnTraffic, Throughput, TrafficMeter
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import NetworkName, TunnelId

WIFI = NetworkName("wifi")


def tunnel(id: int) -> Tunnel:
    return Tunnel(
        TunnelId(id), ip_address("10.99.0.1"), Endpoint(ip_address("203.0.113.10"), 1800), 1400, WIFI
    )


def test_bytes_on_the_wire_are_inner_bytes_and_the_headers_around_them() -> None:
    meter, path = TrafficMeter(WIFI, OwnTraffic(4), 0.0), tunnel(1)
    meter.look((path,), 1.0)
    path.packets_out, path.bytes_out, path.packets_in, path.bytes_in = 10, 1000, 20, 4000
    assert meter.look((path,), 2.0) == Carried(1000 + 10 * 28, 4000 + 20 * 28)
    assert meter.look((path,), 3.0) == Carried(0, 0)


def test_probes_and_keepalives_are_paid_for_as_well() -> None:
    own = OwnTraffic(4)
    meter = TrafficMeter(WIFI, own, 0.0)
    own.sent(WIFI, 72)
    own.received(WIFI, 40)
    own.sent(NetworkName("lte"), 1000)
    assert meter.look((), 1.0) == Carried(100, 68)


def test_headers_over_ipv6_are_longer_from_the_tunnel_on_that_has_them() -> None:
    own = OwnTraffic(4)
    meter, over4, over6 = TrafficMeter(WIFI, own, 0.0), tunnel(1), tunnel(2)
    meter.look((over4,), 1.0)
    over4.packets_out, over4.bytes_out = 10, 1000
    own.goes_over(WIFI, 6)
    own.sent(WIFI, 100)
    over6.packets_out, over6.bytes_out = 10, 1000
    assert meter.look((over6,), 2.0) == Carried(1280 + 1480 + 148, 0)


def test_nothing_is_lost_or_counted_twice_when_a_tunnel_takes_anothers_place() -> None:
    meter, first, second = TrafficMeter(WIFI, OwnTraffic(4), 0.0), tunnel(1), tunnel(2)
    meter.look((first,), 1.0)
    first.packets_out, first.bytes_out = 1, 100
    second.packets_out, second.bytes_out = 2, 50
    assert meter.look((second,), 2.0) == Carried(128 + 50 + 56, 0)
    assert meter.look((), 3.0) == Carried(0, 0)
    assert meter.total == Carried(128 + 106, 0)


def test_throughput_in_use_follows_within_seconds_and_what_is_offered_is_remembered() -> None:
    rate, now = Throughput(), 0.0
    assert (rate.used, rate.offered) == (None, None)
    for _ in range(20):
        now += 1
        rate.take(125_000, 1.0, now)
    assert rate.used is not None
    assert 0.99e6 < rate.used <= 1e6
    for _ in range(60):
        now += 1
        rate.take(0, 1.0, now)
    assert rate.used == 0.0
    assert rate.offered is not None
    assert rate.offered > 0.99e6, "it was seen to carry so much a minute ago"
    while now < 20 + 2 * MEMORY:
        now += 10
        rate.take(0, 10.0, now)
    assert rate.offered is None, "too long ago to count"


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(0.01, 10)), max_size=50))
def test_no_throughput_is_more_than_the_most_that_passed(looks: list[tuple[int, float]]) -> None:
    rate, now, most = Throughput(), 0.0, 0.0
    for count, seconds in looks:
        now += seconds
        most = max(most, 8 * count / seconds)
        rate.take(count, seconds, now)
        assert rate.used is not None
        assert 0 <= rate.used <= most * 1.0001
        assert (rate.offered or 0.0) <= most * 1.0001
