"""Handovers: both ends agree when the dust has settled, whatever was lost, and no flow is without a path meanwhile."""

import pytest
from mobility_terminal import CORRESPONDENT, NET0, NET1, NET2, VOICE, VOICE_ID, Packet
from mobility_world import World, flows_in, misbehave, network_at_anchor, networks_of, settle, with_flows

from upmt_nf.mobility.host_commands import Mode
from upmt_nf.mobility.host_events import ApplicationAssigned, FlowsAdopted, HandoverAsked
from upmt_nf.model.flow import TCP, FlowKey
from upmt_nf.model.identity import DEFAULT_APPLICATION, ApplicationName, NetworkName

SEEDS = range(25)


def requests(world: World, kind: str = "HandoverRequest") -> list[Packet]:
    """Requests of one kind that were sent, retransmissions included."""
    return [packet for packet in world.packets if packet.is_up and f'"{kind}"'.encode() in packet.payload]


# --- planned ---


def test_a_planned_handover_is_make_before_break_and_takes_one_round_trip() -> None:
    world = World()
    flows = with_flows(world)
    steps = []
    world.watchers.append(
        lambda: steps.append((networks_of(world.host, flows), {network_at_anchor(world, f) for f in flows}))
    )
    receipt = world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    assert (receipt.mode, receipt.source, receipt.target) == (Mode.MAKE_BEFORE_BREAK, NET0, NET1)
    assert receipt.flows == len(flows)
    assert receipt.signalling_ms == pytest.approx(40.0)
    # First here and there the old one, then the anchor's answers by the new one, then ours.
    assert [step for step, before in zip(steps, [None, *steps], strict=False) if step != before] == [
        ({NET0}, {NET0}),
        ({NET0}, {NET1}),
        ({NET1}, {NET1}),
    ][1 if steps[0] != ({NET0}, {NET0}) else 0 :]
    world.assert_agreement()


@pytest.mark.parametrize("delays", [(0.02, 0.02), (0.25, 0.01), (0.01, 0.25)])
def test_no_packet_of_a_stream_is_lost_or_doubled_in_a_planned_handover(delays: tuple[float, float]) -> None:
    world = World()
    (flow,) = with_flows(world, 1)
    for link, delay in zip(world.host.links.values(), delays, strict=True):
        link.delay = delay
    sent = 0

    def voice() -> None:
        nonlocal sent
        if sent < 500:
            sent += 1
            world.host.send(flow)
            world.send_down(flow)
            world.after(0.02, voice)

    voice()
    before = world.anchor_paft.tunnels
    world.run(2)
    receipt = world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    world.run(12)
    assert receipt.mode is Mode.MAKE_BEFORE_BREAK
    assert len(world.host.arrived) == sent == 500
    assert world.anchor_paft.tunnels == before
    assert {packet.link.name for packet in world.packets if packet.kind == "data"} == {NET0, NET1}
    world.assert_agreement()


@pytest.mark.parametrize("seed", SEEDS)
def test_both_ends_agree_whatever_is_lost_doubled_or_overtaken(seed: int) -> None:
    world = World(seed)
    flows = with_flows(world, 40)
    misbehave(world, loss=0.3, duplication=0.3, jitter=0.5)

    def here_and_there_differ_only_while_asking() -> None:
        for flow in flows:
            if world.host.flow_network(flow) == NET1 and world.host.network_state(NET0) == "up":
                assert network_at_anchor(world, flow) == NET1, "we left before the anchor had moved"

    world.watchers.append(here_and_there_differ_only_while_asking)
    token = world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.until(lambda: world.host.outcome(token) is not None, 60)
    world.watchers.clear()
    settle(world)
    answer = world.host.outcome(token)
    assert answer is not None
    if answer.receipt is not None and not any("dead" in text for _, text in world.host.said):
        assert networks_of(world.host, flows) == {NET1}


def test_flows_that_begin_during_a_handover_follow() -> None:
    world = World()
    flows = with_flows(world)
    world.host.links[NET1].delay = 0.5
    token = world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.run(0.9)
    assert world.host.outcome(token) is None
    flows.append(world.host.open_flow())
    assert world.host.receipt(token).flows == len(flows)
    assert networks_of(world.host, flows) == {NET1}
    world.assert_agreement()


def test_two_thousand_flows_move_in_one_handover_in_several_messages() -> None:
    world = World()
    flows = with_flows(world, 2000)
    world.packets.clear()
    receipt = world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    assert receipt.flows == 2000
    assert receipt.mode is Mode.MAKE_BEFORE_BREAK
    assert networks_of(world.host, flows) == {NET1}
    world.assert_agreement()
    sent = requests(world)
    assert 20 < len(sent) < 60
    named = [flow for packet in sent for flow in flows_in(packet)]
    assert all(named.count(flow) == 1 for flow in flows[:50])


def test_ten_thousand_flows_move_before_the_anchor_has_heard_enough_of_one_host() -> None:
    """With proofs and all limits; it took 7 s and nearly failed while a host had a burst of 500 datagrams."""
    world = World(is_guarded=True)
    with_flows(world, 10_000)
    receipt = world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    assert receipt.flows == 10_000
    assert "host_over_limit" not in world.anchor.counters
    world.assert_agreement()


@pytest.mark.parametrize("seed", range(3))
def test_many_flows_move_on_bad_networks_too(seed: int) -> None:
    world = World(seed)
    with_flows(world, 500)
    misbehave(world, loss=0.1, duplication=0.1, jitter=0.1)
    token = world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.until(lambda: world.host.outcome(token) is not None, 60)
    settle(world)


def test_moving_to_where_it_is_asks_nobody() -> None:
    world = World()
    with_flows(world)
    world.packets.clear()
    token = world.host.hand_over(DEFAULT_APPLICATION, NET0)
    answer = world.host.outcome(token)
    assert answer is not None
    assert answer.receipt is not None
    assert answer.receipt.cause == "already there"
    assert world.packets == []


# --- one flow, one application ---


def test_a_single_flow_moves_alone_and_stays_when_its_application_moves() -> None:
    world = World(networks=3)
    one, *others = with_flows(world)
    receipt = world.host.receipt(world.host.hand_over(one, NET2))
    assert (receipt.flow, receipt.flows, receipt.mode) == (one, 1, Mode.MAKE_BEFORE_BREAK)
    assert world.host.flow_network(one) == NET2
    assert networks_of(world.host, others) == {NET0}
    world.assert_agreement()
    assert world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1)).flows == len(others)
    assert world.host.flow_network(one) == NET2
    assert networks_of(world.host, others) == {NET1}
    world.assert_agreement()
    world.host.vanish(NET2)
    world.settle()
    assert world.host.flow_network(one) == NET1, "it is with its application again"
    world.assert_agreement()


def test_applications_move_apart() -> None:
    world = World()
    flows = with_flows(world)
    world.host.define(VOICE, VOICE_ID, NET1, "any")
    world.host.take(ApplicationAssigned(VOICE, (NET1,)))
    voice = [world.host.open_flow(VOICE) for _ in range(3)]
    world.run(1)
    assert (networks_of(world.host, flows), networks_of(world.host, voice)) == ({NET0}, {NET1})
    world.host.take(ApplicationAssigned(VOICE, (NET0,)))
    world.settle()
    assert networks_of(world.host, voice) == {NET0}
    assert networks_of(world.host, flows) == {NET0}
    world.assert_agreement()


def test_adopted_flows_are_made_known_to_the_anchor() -> None:
    world = World()
    flow, other = with_flows(world, 2)
    world.host.define(VOICE, VOICE_ID, NET1)
    world.settle()
    world.host.paft.insert(flow.packed(), VOICE_ID, world.now)
    world.run(10)
    assert network_at_anchor(world, flow) == NET0, "without the event nobody tells the anchor"
    world.host.take(FlowsAdopted(VOICE, (flow,)))
    world.settle()
    assert network_at_anchor(world, flow) == world.host.flow_network(flow) == NET1
    assert network_at_anchor(world, other) == NET0
    world.assert_agreement()
    assert [finished for finished in world.host.finished if finished.failure] == []


def test_adopted_flows_that_are_pinned_stay_where_they_are() -> None:
    world = World(networks=3)
    (flow,) = with_flows(world, 1)
    world.host.define(VOICE, VOICE_ID, NET1)
    world.host.receipt(world.host.hand_over(flow, NET2))
    world.host.paft.insert(flow.packed(), VOICE_ID, world.now)
    world.host.take(FlowsAdopted(VOICE, (flow,)))
    world.settle()
    assert network_at_anchor(world, flow) == world.host.flow_network(flow) == NET2


# --- refused, failed, superseded ---


def test_a_handover_to_a_network_that_is_down_fails_at_once_and_says_why() -> None:
    world = World()
    flows = with_flows(world)
    world.host.vanish(NET1)
    answer = world.host.outcome(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    assert answer is not None
    assert answer.failure == "network net1 is down: the cable was pulled"
    assert not answer.is_usage_error
    assert networks_of(world.host, flows) == {NET0}


@pytest.mark.parametrize("phase", [0.0, 1.3, 2.6, 3.9])
def test_a_handover_to_a_network_that_is_dead_unnoticed_fails_and_nothing_has_moved(phase: float) -> None:
    world = World()
    flows = with_flows(world)
    world.run(phase)
    world.host.links[NET1].is_black_hole = True
    token = world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.until(lambda: world.host.outcome(token) is not None, 15)
    answer = world.host.outcome(token)
    assert answer is not None
    assert answer.receipt is None
    assert "did not answer" in (answer.failure or "") or "net1 became dead" in (answer.failure or "")
    assert networks_of(world.host, flows) == {NET0}
    world.run(30)
    assert networks_of(world.host, flows) == {NET0}
    world.assert_agreement()


def test_a_handover_whose_answers_are_lost_is_taken_back_at_the_anchor() -> None:
    world = World()
    flows = with_flows(world)
    world.host.links[NET1].drops = lambda packet: not packet.is_up
    token = world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.run(1)
    assert {network_at_anchor(world, flow) for flow in flows} == {NET1}
    world.until(lambda: world.host.outcome(token) is not None, 15)
    world.run(1)
    assert {network_at_anchor(world, flow) for flow in flows} == {NET0}
    world.assert_agreement()
    assert [finished.token for finished in world.host.finished if finished.failure] == [token]


@pytest.mark.parametrize("gap", [0.0, 0.01, 0.03, 0.05, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_a_newer_handover_takes_the_place_of_an_older_one(gap: float, seed: int) -> None:
    world = World(seed, networks=3)
    flows = with_flows(world)
    misbehave(world, jitter=0.3 if seed else 0.0, loss=0.1 if seed > 3 else 0.0)
    first = world.host.hand_over(DEFAULT_APPLICATION, NET1)
    world.run(gap)
    second = world.host.hand_over(DEFAULT_APPLICATION, NET2)
    world.run(gap)
    single = world.host.hand_over(flows[0], NET1)
    world.run(gap)
    last = world.host.hand_over(DEFAULT_APPLICATION, NET0)
    world.run(15)
    settle(world)
    answers = [world.host.outcome(token) for token in (first, second, single, last)]
    assert all(answers)
    if gap == 0.0:
        assert answers[0] is not None
        assert answers[0].failure == "a newer handover took its place"
    assert networks_of(world.host, flows[1:]) == {NET0}


def test_what_does_not_exist_is_the_askers_error() -> None:
    world = World()
    (flow,) = with_flows(world, 1)
    unknown = FlowKey(TCP, flow.source, 1, CORRESPONDENT, 1)
    for what, target in (
        (DEFAULT_APPLICATION, NetworkName("wimax")),
        (ApplicationName("nonsense"), NET1),
        (unknown, NET1),
    ):
        world.host.take(HandoverAsked(77, what, target))
        answer = world.host.finished.pop()
        assert answer.token == 77
        assert answer.is_usage_error
        assert str(target if target not in (NET0, NET1) else what) in (answer.failure or "")
    assert world.host.flow_network(flow) == NET0
