"""The configured virtual address: once for each anchor, and flows of another one go."""

from ipaddress import ip_address

from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.commands import Announce, Level
from upmt_nf.mobility.host_commands import ConfigureVirtualAddress, ReleaseVirtualAddress
from upmt_nf.mobility.virtual_address import VirtualAddress
from upmt_nf.model.flow import UDP, FlowBytes, FlowKey, IPAddress
from upmt_nf.model.identity import ApplicationId

FIRST, SECOND = ip_address("10.9.0.1"), ip_address("10.9.0.2")


def flow(owner: IPAddress) -> FlowBytes:
    return FlowKey(UDP, owner, 4000, ip_address("86.0.0.1"), 53).packed()


def paft_with_a_flow() -> Paft:
    paft = Paft()
    paft.insert(flow(FIRST), ApplicationId(1), 0.0)
    return paft


def test_a_renewed_lease_configures_nothing_anew() -> None:
    address = VirtualAddress(Paft())
    assert address.take(FIRST) == [ConfigureVirtualAddress(FIRST)]
    assert address.take(FIRST) == []


def test_the_same_address_is_configured_towards_each_anchor_and_its_flows_stay() -> None:
    paft = paft_with_a_flow()
    address = VirtualAddress(paft)
    address.take(FIRST)
    address.change_anchor()
    assert address.take(FIRST) == [ConfigureVirtualAddress(FIRST)]
    assert address.take(FIRST) == []
    assert set(paft.flows) == {flow(FIRST)}


def test_another_address_is_announced_before_it_is_configured_and_flows_of_the_old_one_go() -> None:
    paft = paft_with_a_flow()
    paft.insert(flow(SECOND), ApplicationId(1), 0.0)
    address = VirtualAddress(paft)
    address.take(FIRST)
    text = "10.9.0.2 takes the place of 10.9.0.1: its flows break"
    assert address.take(SECOND) == [Announce(Level.WARNING, text), ConfigureVirtualAddress(SECOND)]
    assert set(paft.flows) == {flow(SECOND)}


def test_only_what_is_configured_is_released_and_once() -> None:
    address = VirtualAddress(Paft())
    assert address.release() == []
    address.take(FIRST)
    assert address.release() == [ReleaseVirtualAddress(FIRST)]
    assert address.release() == []
    assert address.take(SECOND) == [ConfigureVirtualAddress(SECOND)]
