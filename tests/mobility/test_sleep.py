"""A machine that is suspended: nothing runs, the clock goes on, and the association may have ended meanwhile."""

from ipaddress import ip_address

import pytest
from mobility_world import World, associated

from upmt_nf.model.identity import DEFAULT_APPLICATION_ID


def sleep(world: World, seconds: float) -> None:
    world.host.sleep()
    world.run(seconds)
    world.host.wake()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("anchors", [1, 2])
def test_a_host_that_slept_past_its_lease_gets_the_same_address_back(seed: int, anchors: int) -> None:
    world = associated(World(seed, lifetime=120, anchors=anchors))
    address = world.host.virtual_address
    flow = world.host.open_flow()
    world.run(1)
    sleep(world, 600 + seed)
    assert [ended.reason for ended in world.ended] == ["it was not refreshed"]
    world.until(lambda: world.host.network_of() is not None and world.host.state == "associated", 2.0)
    world.settle()
    assert world.host.virtual_address == address
    assert world.host.releases == 0
    assert world.host.anchor == world.sites[0].address
    assert any("it expired" in text for _, text in world.host.said)
    world.host.paft.insert(flow.packed(), DEFAULT_APPLICATION_ID, world.now)
    world.host.send(flow)
    world.run(1)
    world.assert_agreement()


def test_a_lease_that_expired_is_not_used_for_a_moment_longer() -> None:
    world = associated(World(lifetime=120))
    world.host.sleep()
    world.run(600)
    before = len(world.packets)
    world.host.wake()
    world.step(world.now)
    assert world.host.state in ("lost", "registering")
    assert not [packet for packet in world.packets[before:] if packet.is_up and packet.kind == "data"]


@pytest.mark.parametrize("seconds", [1, 10, 60, 300])
def test_a_nap_within_the_lease_changes_nothing(seconds: float) -> None:
    world = associated(World(lifetime=3600))
    flow = world.host.open_flow()
    world.run(1)
    sleep(world, seconds)
    world.run(20)
    world.settle()
    assert world.ended == []
    assert len(world.granted) == 1
    if flow.packed() in world.host.paft.flows:
        world.host.send(flow)
    world.run(1)
    world.assert_agreement()


def test_an_address_that_somebody_else_got_meanwhile_is_not_given_twice() -> None:
    world = associated(World(lifetime=60, pool="10.99.0.1-10.99.0.1"))
    world.host.sleep()
    world.run(120)
    other = world.add_host("other@upmt")
    other.appear(*other.links)
    world.until(other.is_settled, 2)
    assert other.virtual_address == ip_address("10.99.0.1")
    world.host.wake()
    world.run(5)
    assert world.host.state == "lost"
    assert "503 no virtual address is free" in (world.host.machine.association.failure or "")
    assert [each.identity for each in world.anchor.associations] == ["other@upmt"]
    other.stop()
    world.until(world.host.is_settled, 60)
    assert world.host.virtual_address == ip_address("10.99.0.1")


def test_both_ends_slept() -> None:
    world = associated(World(lifetime=60))
    address = world.host.virtual_address
    world.host.sleep()
    world.anchor_has_stopped = True
    world.run(600)
    world.sites[0].restart()
    world.host.wake()
    world.settle()
    assert world.host.virtual_address == address
    assert world.host.releases == 0
