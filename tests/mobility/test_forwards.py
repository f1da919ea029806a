"""What is open to the world: forwards wait for their host, follow it, and stand beside each other or are refused."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from upmt_nf.config.forwards import MAX_OPENINGS, AnchorSite, forward_of
from upmt_nf.config.values import AddressPool
from upmt_nf.mobility.forwards import Forwards, OpeningState
from upmt_nf.model.errors import UpmtError, UsageError
from upmt_nf.model.flow import TCP, UDP, IPAddress
from upmt_nf.model.forward import Forward, HostRef, Opening, PortSpan, StaticNat
from upmt_nf.model.identity import TerminalId

ANNA, BERT = TerminalId("anna@fleet.example"), TerminalId("bert@fleet.example")
FIRST, SECOND = ip_address("10.99.0.1"), ip_address("10.99.0.2")
OWN, OTHER = ip_address("45.0.0.1"), ip_address("45.0.0.2")
SITE = AnchorSite(OWN, ((1800, "its tunnels"),), AddressPool(FIRST, ip_address("10.99.0.9")))


def forward(port: int, host: HostRef = ANNA, last: int = 0, protocol: int = TCP) -> Forward:
    return forward_of(protocol, OWN, PortSpan(port, last or port), host, PortSpan(22, 22))


def test_a_forward_waits_opens_follows_and_closes() -> None:
    table = Forwards(SITE, ())
    assert table.add(forward(8022))
    assert table.openings() == ()
    assert table.views()[0].state is OpeningState.WAITING
    assert table.grant(ANNA, FIRST)
    assert table.openings() == (Opening(forward(8022), FIRST),)
    assert table.grant(ANNA, SECOND)
    assert table.openings() == (Opening(forward(8022), SECOND),)
    assert table.end(ANNA)
    assert table.openings() == ()
    assert not table.end(ANNA)


def test_hosts_without_forwards_change_nothing() -> None:
    table = Forwards(SITE, ())
    table.add(forward(8022))
    assert not table.grant(BERT, SECOND)
    assert not table.end(BERT)


def test_a_forward_to_an_address_is_for_whoever_holds_it() -> None:
    table = Forwards(SITE, ())
    table.add(forward(8022, FIRST))
    assert table.grant(ANNA, FIRST)
    assert table.end(ANNA)
    assert table.grant(BERT, FIRST)
    assert table.openings() == (Opening(forward(8022, FIRST), FIRST),)


def test_adding_twice_is_adding_once_and_a_port_has_one_host() -> None:
    table = Forwards(SITE, ())
    assert table.add(forward(8022))
    assert not table.add(forward(8022))
    with pytest.raises(UpmtError, match=r"tcp 45\.0\.0\.1:8022 leads to anna@fleet\.example 22 already"):
        table.add(forward(8000, BERT, last=8100))
    assert table.add(forward(8022, BERT, protocol=UDP))
    with pytest.raises(UpmtError, match="udp 1800 is the anchor's own: its tunnels"):
        table.add(forward(1800, protocol=UDP))
    assert len(table.views()) == 2


def test_only_a_whole_forward_of_a_command_is_removed() -> None:
    table = Forwards(SITE, [forward(80)])
    table.add(forward(8000, last=8010))
    assert table.find(TCP, OWN, PortSpan(9000, 9000)) is None
    with pytest.raises(UsageError, match=r"tcp 45\.0\.0\.1:8003 is a part of tcp 45\.0\.0\.1:8000-8010"):
        table.find(TCP, OWN, PortSpan(8003, 8003))
    with pytest.raises(UpmtError, match="by the configuration"):
        table.find(TCP, OWN, PortSpan(80, 80))
    found = table.find(TCP, OWN, PortSpan(8000, 8010))
    assert found == forward(8000, last=8010)
    table.remove(found)
    assert table.find(TCP, OWN, PortSpan(8000, 8010)) is None


def test_what_a_changed_configuration_contradicts_is_kept_but_leads_nowhere() -> None:
    table = Forwards(SITE, [forward(8022, BERT)])
    complaints = table.restore([forward(8022), forward(8023)])
    assert complaints == [f"{forward(8022)}: tcp 45.0.0.1:8022 leads to bert@fleet.example 22 already"]
    table.grant(ANNA, FIRST)
    assert table.openings() == (Opening(forward(8023), FIRST),)
    assert [view.state for view in table.views()] == [
        OpeningState.WAITING,
        OpeningState.REFUSED,
        OpeningState.OPEN,
    ]


def test_a_host_has_one_external_address_however_it_is_called() -> None:
    one, other = StaticNat(OTHER, ANNA), StaticNat(ip_address("45.0.0.3"), FIRST)
    table = Forwards(SITE, [one, other])
    table.grant(ANNA, FIRST)
    assert table.openings() == (Opening(one, FIRST),)
    assert table.views()[1].reason == "10.99.0.1 has 45.0.0.2 already"


def test_a_forward_wins_over_the_static_nat_of_its_address() -> None:
    static = StaticNat(OTHER, ANNA)
    table = Forwards(SITE, [static])
    port = forward_of(TCP, OTHER, PortSpan(80, 80), BERT, None)
    table.add(port)
    table.grant(ANNA, FIRST)
    table.grant(BERT, SECOND)
    assert table.openings() == (Opening(port, SECOND), Opening(static, FIRST))


def test_the_table_is_bounded() -> None:
    table = Forwards(SITE, ())
    for port in range(1, MAX_OPENINGS + 1):
        table.add(forward(port))
    with pytest.raises(UpmtError, match="there are 256 forwards and static NATs already"):
        table.add(forward(40000))


HOSTS = st.sampled_from([ANNA, BERT])
ADDRESSES = st.sampled_from([FIRST, SECOND])
PORTS = st.integers(10, 14)


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes in whatever order: open is what is wanted and whose host holds a lease, each port once."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Forwards(SITE, [forward(10, BERT)])
        self.wanted = {forward(10, BERT)}
        self.held: dict[TerminalId, IPAddress] = {}

    @rule(port=PORTS, count=st.integers(0, 2), host=HOSTS | ADDRESSES)
    def add(self, port: int, count: int, host: HostRef) -> None:
        new = forward(port, host, last=port + count)
        try:
            if self.table.add(new):
                assert not any(new.overlaps(other) for other in self.wanted)
                self.wanted.add(new)
            else:
                assert new in self.wanted
        except UpmtError:
            assert any(new.overlaps(other) for other in self.wanted)

    @rule(port=PORTS, count=st.integers(0, 2))
    def remove(self, port: int, count: int) -> None:
        ports = PortSpan(port, port + count)
        try:
            found = self.table.find(TCP, OWN, ports)
        except UpmtError:
            assert any(other.ports.overlaps(ports) for other in self.wanted)
            return
        if found is None:
            assert not any(other.ports.overlaps(ports) for other in self.wanted)
        else:
            self.table.remove(found)
            self.wanted.remove(found)

    @rule(identity=HOSTS, address=ADDRESSES)
    def lease(self, identity: TerminalId, address: IPAddress) -> None:
        if address in self.held.values():
            return
        before = self.table.openings()
        has_changed = self.table.grant(identity, address)
        self.held[identity] = address
        assert has_changed or self.table.openings() == before

    @rule(identity=HOSTS)
    def leave(self, identity: TerminalId) -> None:
        before = self.table.openings()
        has_changed = self.table.end(identity)
        self.held.pop(identity, None)
        assert has_changed or self.table.openings() == before

    @invariant()
    def open_is_what_is_wanted_and_there(self) -> None:
        expected = set()
        for wanted in self.wanted:
            if isinstance(wanted.host, str):
                address = self.held.get(wanted.host)
            else:
                address = wanted.host if wanted.host in self.held.values() else None
            if address is not None:
                expected.add(Opening(wanted, address))
        assert set(self.table.openings()) == expected


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
