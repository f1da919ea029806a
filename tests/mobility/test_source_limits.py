"""Who is heard: known hosts first, strangers within limits, nobody at another's cost."""

from __future__ import annotations

import sys
from ipaddress import ip_address

from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.mobility.source_limits import SourceLimits, SourceRates
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import TerminalId

BOAT, CAR = TerminalId("boat@upmt"), TerminalId("car@upmt")
NONCES = {b"boat's": BOAT, b"car's": CAR}
RATES = SourceRates(strangers=100, source=10, host=20, flows=1000)


def at(address: str, port: int = 5060) -> bytes:
    return packed_endpoint(Endpoint(ip_address(address), port))


def limits(rates: SourceRates = RATES) -> tuple[SourceLimits, Counters]:
    counters = Counters()
    return SourceLimits(rates, counters, b"salt", NONCES.get), counters


def heard(one: SourceLimits, remote: bytes, tries: int = 1000, now: float = 0.0, data: bytes = b"") -> int:
    return sum(one.admits(remote, data, now) for _ in range(tries))


def test_one_address_is_heard_within_its_rate_from_any_port() -> None:
    one, counters = limits()
    assert sum(one.admits(at("192.0.2.1", port), b"", 0.0) for port in range(1, 1001)) == 30
    assert counters["source_over_limit"] == 970
    assert heard(one, at("192.0.2.1"), now=1.0) == 10


def test_a_network_of_either_family_has_a_rate_of_its_own() -> None:
    one, _ = limits(SourceRates(strangers=10_000, source=2))
    assert sum(heard(one, at(f"192.0.2.{host}")) for host in range(1, 255)) == 30
    assert sum(heard(one, at(f"2001:db8:7:{net:x}::1")) for net in range(254)) == 30
    assert sum(heard(one, at(f"2001:db8:8:1::{host:x}")) for host in range(1, 255)) == 6


def test_all_strangers_together_are_heard_within_one_rate() -> None:
    one, counters = limits()
    flood = sum(one.admits(at(f"198.{n >> 8}.{n & 255}.1"), b"", 0.0) for n in range(10_000))
    assert flood == 100
    assert counters["strangers_over_limit"] == 9900


def test_a_refused_datagram_spends_nothing_of_the_wider_budgets() -> None:
    one, _ = limits()
    heard(one, at("192.0.2.1"), tries=100_000)
    assert heard(one, at("198.51.100.1")) == 30
    assert one.is_hopeless(at("192.0.2.1"), b"", 0.0)
    for _ in range(1000):
        assert not one.is_hopeless(at("203.0.113.1"), b"", 0.0)
    assert heard(one, at("203.0.113.1")) == 30


def test_a_known_host_is_heard_whatever_strangers_do() -> None:
    one, _ = limits()
    one.know(BOAT, at("192.0.2.9", 33000))
    for number in range(10_000):
        one.admits(at(f"198.{number >> 8}.{number & 255}.1"), b"", 0.0)
    heard(one, at("192.0.2.9"))
    assert heard(one, at("192.0.2.9", 33000)) == 100
    assert heard(one, at("203.0.113.77"), data=b"boat's") == 100, "its proof counts where it is not known yet"


def test_who_forges_a_hosts_address_does_not_spend_what_its_proofs_give_it() -> None:
    one, _ = limits()
    one.know(BOAT, at("192.0.2.9"))
    assert heard(one, at("192.0.2.9")) == 130, "as that host, then as a stranger"
    assert heard(one, at("192.0.2.9"), data=b"boat's") == 100


def test_a_hostile_host_spends_its_own_budget_only() -> None:
    one, counters = limits()
    one.know(BOAT, at("192.0.2.9"))
    one.know(CAR, at("192.0.2.10"))
    assert heard(one, at("192.0.2.9"), data=b"boat's") == 100
    assert counters["host_over_limit"] == 900
    assert heard(one, at("192.0.2.10"), data=b"car's") == 100
    assert sum(one.may_look_at(BOAT, 5000, 0.0) for _ in range(10)) == 2
    assert counters["too_many_flows_at_once"] == 8
    assert one.may_look_at(CAR, 5000, 0.0)
    assert not one.may_look_at(TerminalId("nobody"), 1, 0.0)


def test_a_host_whose_association_is_over_is_a_stranger() -> None:
    one, _ = limits()
    one.know(BOAT, at("192.0.2.9"))
    one.forget(BOAT)
    assert heard(one, at("192.0.2.9"), data=b"boat's") == 30


def test_a_host_is_remembered_at_a_few_endpoints_only_and_gives_way_to_who_has_them_now() -> None:
    one, _ = limits()
    for port in range(1, 1000):
        one.know(BOAT, at("192.0.2.9", port))
    assert heard(one, at("192.0.2.9", 999), tries=1) == 1
    assert len(one._by_endpoint) == 8
    one.know(CAR, at("192.0.2.9", 999))
    one.forget(BOAT)
    assert list(one._by_endpoint) == [at("192.0.2.9", 999)]


def test_strangers_leave_nothing_behind() -> None:
    one, _ = limits(SourceRates(strangers=1e9, source=1e9))
    one.admits(at("192.0.2.1"), b"", 0.0)

    def size() -> int:
        return sum(sys.getsizeof(value) for value in (one._hosts, one._by_endpoint, one._sources._paid_at))

    before = size()
    for number in range(20_000):
        assert one.admits(at(f"198.{number >> 8}.{number & 255}.1"), b"nonce", 0.0)
    assert size() == before
