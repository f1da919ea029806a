"""Handovers that cross each other, administrators and losses: the anchor is told where every flow is at last."""

import pytest
from mobility_terminal import NET0, NET1, NET2, VOICE, VOICE_ID
from mobility_world import World, associated, misbehave

from upmt_nf.mobility.host_events import FlowsAdopted, PathFailed
from upmt_nf.model.flow import FlowKey
from upmt_nf.model.identity import DEFAULT_APPLICATION, NetworkName

DOWN, UP = False, True


def with_flows(count: int = 10, seed: int = 0, *, is_guarded: bool = False) -> tuple[World, list[FlowKey]]:
    """Three networks; the anchor knows the flows. `is_guarded`: requests are proven, and challenged on new paths."""
    world = associated(World(seed, networks=3, is_guarded=is_guarded))
    flows = [world.host.open_flow() for _ in range(count)]
    world.run(1)
    world.assert_agreement()
    return world, flows


def lose(world: World, name: NetworkName, *, is_up: bool) -> None:
    """From now on one direction of a network loses all SIP (probes pass: the network lives)."""
    world.host.links[name].drops = lambda packet: packet.is_up is is_up and b"SIP/2.0" in packet.payload


def mend(world: World) -> None:
    """Good weather until nothing moves."""
    for link in world.host.links.values():
        link.drops = lambda packet: False
    misbehave(world)
    world.run(20)
    world.settle()
    world.assert_agreement()


def test_a_flow_is_held_where_it_is_while_its_application_is_leaving() -> None:
    world, (flow, *others) = with_flows()
    lose(world, NET1, is_up=DOWN)
    world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.run(0.5)
    token = world.host.hand_over(flow, NET0)
    mend(world)
    assert world.host.receipt(token).target == NET0
    assert world.host.flow_network(flow) == NET0
    assert {world.host.flow_network(other) for other in others} == {NET1}


def test_a_failed_move_of_a_flow_that_had_a_network_of_its_own_is_taken_back() -> None:
    world, (flow, *_) = with_flows()
    world.host.receipt(world.host.hand_over(flow, NET1))
    lose(world, NET2, is_up=DOWN)
    token = world.host.hand_over(flow, NET2)
    world.until(lambda: world.host.outcome(token) is not None, 10)
    answer = world.host.outcome(token)
    assert answer is not None
    assert answer.receipt is None
    mend(world)
    assert world.host.flow_network(flow) == NET1


@pytest.mark.parametrize("back", [NET0, NET1])
def test_a_flow_that_is_called_back_half_way_is_called_back_at_the_anchor_too(back: NetworkName) -> None:
    world, (flow, *_) = with_flows()
    if back == NET1:
        world.host.receipt(world.host.hand_over(flow, NET1))
    lose(world, NET2, is_up=DOWN)
    world.host.hand_over(flow, NET2)
    world.run(0.5)
    token = world.host.hand_over(flow, back)
    assert world.host.receipt(token).target == back
    mend(world)
    assert world.host.flow_network(flow) == back


def test_asking_again_for_the_network_where_an_application_has_fled_to_does_not_silence_the_signalling() -> (
    None
):
    world, flows = with_flows()
    lose(world, NET1, is_up=UP)
    world.host.vanish(NET0)
    world.run(0.05)
    assert world.host.flow_network(flows[0]) == NET1
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    mend(world)


def test_asking_for_the_network_where_an_application_stayed_does_not_stop_the_taking_back() -> None:
    world, _ = with_flows()
    lose(world, NET1, is_up=DOWN)
    token = world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.until(lambda: world.host.outcome(token) is not None, 10)
    lose(world, NET0, is_up=UP)
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET0))
    mend(world)


def test_flows_that_wait_for_their_turn_are_told_when_the_next_handover_fails() -> None:
    world, flows = with_flows(600)
    world.host.links[NET1].delay = 0.5
    world.run(20)
    world.host.vanish(NET0)
    world.run(0.1)
    assert world.host.network_of() == NET1
    lose(world, NET2, is_up=UP)
    token = world.host.hand_over(DEFAULT_APPLICATION, NET2)
    world.until(lambda: world.host.outcome(token) is not None, 15)
    answer = world.host.outcome(token)
    assert answer is not None
    assert answer.failure == "the anchor did not answer"
    world.run(20)
    world.assert_agreement()
    assert {world.host.flow_network(flow) for flow in flows} == {NET1}


@pytest.mark.parametrize("is_up", [UP, DOWN])
def test_a_flow_that_changes_its_application_during_a_handover_obeys_the_new_one(is_up: bool) -> None:
    world, (flow, *_) = with_flows()
    world.host.define(VOICE, VOICE_ID, NET2)
    world.settle()
    lose(world, NET1, is_up=is_up)
    token = world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.run(0.5)
    world.host.paft.insert(flow.packed(), VOICE_ID, world.now)
    world.host.take(FlowsAdopted(VOICE, (flow,)))
    world.until(lambda: world.host.outcome(token) is not None, 10)
    mend(world)
    assert world.host.flow_network(flow) == NET2


def test_a_flow_that_changes_its_application_is_not_claimed_by_later_rounds_of_the_old_one() -> None:
    world, (flow, *_) = with_flows()
    world.host.define(VOICE, VOICE_ID, NET2)
    world.settle()
    lose(world, NET1, is_up=UP)
    world.host.vanish(NET0)
    world.run(1)
    world.host.paft.insert(flow.packed(), VOICE_ID, world.now)
    world.host.take(FlowsAdopted(VOICE, (flow,)))
    world.run(8)
    assert world.host.machine.applications[DEFAULT_APPLICATION].is_moving, "the first round is over"
    mend(world)
    assert world.host.flow_network(flow) == NET2


def test_an_anchor_that_does_not_hear_of_flows_that_fled_is_told_again() -> None:
    world, flows = with_flows()
    lose(world, NET1, is_up=UP)
    world.host.vanish(NET0)
    world.run(15)
    assert world.host.machine.applications[DEFAULT_APPLICATION].is_moving
    mend(world)
    assert {world.host.flow_network(flow) for flow in flows} == {NET1}
    receipt = world.host.finished[-1].receipt
    assert receipt is not None
    assert receipt.flows == len(flows)


def test_a_flow_whose_own_network_dies_during_its_applications_handover_goes_along() -> None:
    world, (flow, *_) = with_flows()
    world.host.links[NET1].delay = 0.3
    world.run(10)
    # Half of the requests must still be open when the flow comes back, so there are many flows.
    for _ in range(2400):
        world.host.open_flow()
    world.run(1)
    world.host.vanish(NET0)
    world.run(0.7)
    assert world.host.machine.applications[DEFAULT_APPLICATION].is_moving
    world.host.receipt(world.host.hand_over(flow, NET2))
    assert world.host.machine.applications[DEFAULT_APPLICATION].is_moving
    world.host.vanish(NET2)
    mend(world)
    assert world.host.flow_network(flow) == NET1


@pytest.mark.parametrize("is_guarded", [False, True])
def test_a_setup_request_that_claims_flows_and_comes_late_does_not_take_them(is_guarded: bool) -> None:
    """Also not when it is challenged, and so goes again under a number above the handover's."""
    world, flows = with_flows(is_guarded=is_guarded)
    world.host.vanish(NET1)
    world.host.vanish(NET2)
    world.run(1)
    world.host.take(PathFailed(NET0, "network is unreachable"))
    # net0 is being set up again and takes the flows along; now net1 appears and claims them as well, but slowly.
    world.host.links[NET1].delay = 1.0
    world.host.appear(NET1)
    claims = [packet for packet in world.packets if b"TunnelSetupRequest" in packet.payload]
    assert {packet.link.name for packet in claims if b'"pairs"' in packet.payload} == {NET0, NET1}
    world.until(lambda: world.host.network_of() == NET0, 1)
    if is_guarded:
        world.anchor._guard = world.guard()  # Which knows no nonce that was given before.
    world.run(5)
    late = [
        packet for packet in world.packets if packet.link.name == NET1 and packet.sent_at > claims[-1].sent_at
    ]
    assert any(b" 401 " in packet.payload for packet in late) is is_guarded
    assert {world.host.flow_network(flow) for flow in flows} == {NET0}
    world.assert_agreement()


def test_the_first_packet_of_a_flow_that_comes_after_a_handover_does_not_pull_the_flow_back() -> None:
    world, _ = with_flows()
    world.host.links[NET0].delay = 0.5
    flow = world.host.open_flow()
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    world.run(2)
    assert world.host.flow_network(flow) == NET1
    world.assert_agreement()
