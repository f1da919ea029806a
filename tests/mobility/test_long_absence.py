"""Ten minutes and more without an anchor, leases that expired meanwhile, clocks that jump: flows go on afterwards."""

from collections.abc import Mapping
from ipaddress import ip_address

import pytest
from mobility_terminal import NET0, NET1
from mobility_world import World, network_at_anchor

from upmt_nf.mobility.anchor_commands import LeaseGranted
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.identity import TerminalId


def remembered(granted: list[LeaseGranted]) -> Mapping[TerminalId, IPAddress]:
    """What the anchor's file of leases says."""
    return {lease.identity: lease.address for lease in granted}


def working(seed: int = 0, lifetime: int = 3600) -> World:
    world = World(seed, is_guarded=True, lifetime=lifetime, keepalive_interval=2.0)
    world.host.appear(NET0, NET1)
    world.settle()
    for _ in range(10):
        world.host.open_flow()
    world.run(1)
    world.assert_agreement()
    return world


def assert_flows_go_on(world: World) -> None:
    host = world.host
    world.settle(within=120)
    for entry in list(host.paft.flows.values()):
        host.send(entry.flow)
    world.run(1)
    world.assert_agreement()
    assert len(host.paft.flows) == 10
    assert host.releases == 0, "the address stayed on the host"
    before = len(host.arrived)
    for entry in host.paft.flows.values():
        world.send_down(entry.flow)
        assert network_at_anchor(world, entry.flow) == host.flow_network(entry.flow)
    world.run(1)
    assert len(host.arrived) == before + 10


@pytest.mark.parametrize("lifetime", [20, 120, 3600])
@pytest.mark.parametrize("absent", [600.0, 86_400.0])
def test_the_anchor_is_gone_for_a_long_time(absent: float, lifetime: int) -> None:
    world = working(lifetime=lifetime)
    address = world.host.virtual_address
    world.anchor_has_stopped = True
    sent = len(world.packets)
    began = world.now
    while world.now < began + absent:
        world.run(100)
        # TCP repeats itself and waits; what it sends meets no network, and breaks nothing.
        for entry in world.host.paft.flows.values():
            world.host.send(entry.flow)
    assert world.host.virtual_address == address
    assert (len(world.packets) - sent) / absent < 2.0, "a host without an anchor is quiet"
    world.start_anchor(remembered(world.granted))
    assert_flows_go_on(world)
    assert world.host.virtual_address == address


@pytest.mark.parametrize("absent", [600.0, 4000.0])
def test_the_networks_are_gone_for_a_long_time(absent: float) -> None:
    world = working()
    for link in world.host.links.values():
        link.is_black_hole = True
    world.run(absent)
    for link in world.host.links.values():
        link.is_black_hole = False
    assert_flows_go_on(world)


@pytest.mark.parametrize("jump", [70.0, 600.0, 7200.0])
def test_the_clock_jumps_over_the_expiry(jump: float) -> None:
    """A host that was suspended together with its clock's idea of now: everything is due at once."""
    world = working(lifetime=60)
    world.now += jump
    assert_flows_go_on(world)


@pytest.mark.parametrize("seed", range(20))
def test_both_ends_start_again_together(seed: int) -> None:
    world = working(seed)
    flows = [entry.flow for entry in world.host.paft.flows.values()]
    address = world.host.virtual_address
    world.start_anchor(remembered(world.granted))
    world.host.restart()
    world.settle()
    assert world.host.virtual_address == address
    application = world.host.machine.applications[next(iter(world.host.machine.applications))]
    for flow in flows:
        world.host.paft.insert(flow.packed(), application.id, world.now)
        world.host.send(flow)
    world.run(1)
    assert_flows_go_on(world)


def test_an_exhausted_pool_gives_again_what_expired() -> None:
    world = World(pool="10.99.0.1-10.99.0.1", is_guarded=True, lifetime=60)
    world.host.appear(NET0)
    world.settle()
    second = world.add_host("second@upmt", lifetime=60)
    second.appear(NET0)
    world.until(lambda: second.state == "lost", 2)
    for link in world.host.links.values():
        link.is_black_hole = True
    world.until(lambda: second.state == "associated", 120)
    assert second.virtual_address == ip_address("10.99.0.1")
    assert [ended.reason for ended in world.ended] == ["it was not refreshed"]
    # The first one comes back: its address is another's now, and no address has two owners.
    for link in world.host.links.values():
        link.is_black_hole = False
    world.run(120)
    assert world.host.state == "lost"
    assert len(world.anchor.associations) == 1
    assert isinstance(world.sites[0].settings, AnchorSettings)
