"""Flows that correspondents begin: the anchor always knows where the host's default application is."""

import pytest
from mobility_terminal import CORRESPONDENT, NET0, NET1
from mobility_world import World, associated, misbehave, settle, with_flows

from upmt_nf.mobility.host_events import FlowsAdopted
from upmt_nf.model.flow import UDP, FlowKey, newcomers_of, stands_for_newcomers
from upmt_nf.model.identity import DEFAULT_APPLICATION, DEFAULT_APPLICATION_ID, NetworkName


def newcomers_go_by(world: World) -> NetworkName | None:
    assert world.host.virtual_address is not None
    tunnel = world.anchor_paft.newcomers.get(world.host.virtual_address.packed)
    return tunnel.network if tunnel is not None else None


def test_they_go_where_the_default_application_is_without_any_flow() -> None:
    world = associated(World())
    assert newcomers_go_by(world) == NET0
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    assert newcomers_go_by(world) == NET1
    world.assert_agreement()


def test_they_follow_out_of_a_lost_network_and_back() -> None:
    world = associated(World())
    world.host.vanish(NET0)
    world.until(lambda: newcomers_go_by(world) == NET1, 5.0)
    world.host.appear(NET0)
    world.until(lambda: newcomers_go_by(world) == NET0, 120.0)


def test_a_receipt_does_not_count_them() -> None:
    world = World()
    flows = with_flows(world, 3)
    assert world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1)).flows == len(flows)


def test_another_application_does_not_take_them_along() -> None:
    world = associated(World())
    flow = world.host.open_flow()
    world.run(1)
    world.host.receipt(world.host.hand_over(flow, NET1))
    assert newcomers_go_by(world) == NET0


def test_an_anchor_that_lost_everything_is_told_again() -> None:
    world = associated(World(lifetime=20, anchor={"minimum_lifetime": 5}))
    world.start_anchor()
    assert newcomers_go_by(world) is None
    world.until(lambda: newcomers_go_by(world) == NET0, 120.0)


@pytest.mark.parametrize("seed", range(10))
def test_both_ends_agree_after_bad_weather(seed: int) -> None:
    world = associated(World(seed))
    misbehave(world, loss=0.3, duplication=0.2, jitter=0.1)
    for target in (NET1, NET0, NET1):
        world.host.hand_over(DEFAULT_APPLICATION, target)
        world.run(0.3)
    settle(world)


def test_a_flow_without_answers_is_put_where_its_application_is() -> None:
    world = associated(World())
    assert world.host.virtual_address is not None
    flow = FlowKey(UDP, world.host.virtual_address, 514, CORRESPONDENT, 4000)
    world.host.paft.insert(flow.packed(), DEFAULT_APPLICATION_ID, world.now)
    world.host.take(FlowsAdopted(DEFAULT_APPLICATION, (flow,)))
    world.run(1)
    assert world.anchor_paft.flows[flow.packed()].pinned is world.anchor_paft.newcomers[flow.source.packed]


def test_their_key_is_that_of_no_packet() -> None:
    for address in ("10.99.0.1", "2001:db8::1"):
        flow = FlowKey.parse(
            f"udp:{address}:1>{address}:2" if ":" not in address else f"udp:[{address}]:1>[{address}]:2"
        )
        assert stands_for_newcomers(newcomers_of(flow.source).packed())
        assert not stands_for_newcomers(flow.packed())
        real = FlowKey(0, flow.source, 0, flow.destination, 0)
        assert not stands_for_newcomers(real.packed())
