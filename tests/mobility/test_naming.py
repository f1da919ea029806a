"""Flows that the anchor knows by their application: a move costs the same with any number, and both ends agree."""

import json
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from mobility_terminal import NET0, NET1, VOICE, VOICE_ID, Packet
from mobility_world import World, associated, flows_in, misbehave, settle

from upmt_nf.datapath.membership import Told
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.host_events import FlowsAdopted
from upmt_nf.mobility.naming import LIVED
from upmt_nf.model.flow import FlowKey, named_flows_of
from upmt_nf.model.identity import (
    DEFAULT_APPLICATION,
    DEFAULT_APPLICATION_ID,
    ApplicationId,
    ApplicationName,
    TunnelId,
)
from upmt_nf.signaling.messages import TunnelSetupResponse

Flows = list[FlowKey]


def talk(world: World, flows: Flows) -> None:
    for flow in flows:
        world.host.send(flow)


def open_flows(world: World, count: int, application: ApplicationName = DEFAULT_APPLICATION) -> Flows:
    """Flows that live for a while."""
    flows = [world.host.open_flow(application) for _ in range(count)]
    world.run(LIVED + 0.1)
    talk(world, flows)
    return flows


def told(world: World, flows: Flows) -> set[Told]:
    return {world.host.paft.flows[flow.packed()].told for flow in flows}


def named(count: int, seed: int = 0, **options: Any) -> tuple[World, Flows]:
    """A host with two networks whose flows the anchor knows by their application."""
    world = associated(World(seed, **options))
    flows = open_flows(world, count)
    world.until(lambda: told(world, flows) == {Told.YES}, 60)
    world.assert_agreement()
    return world, flows


def sent_requests(packets: list[Packet]) -> list[Packet]:
    """The handover requests among them, resent ones included."""
    return [
        packet
        for packet in packets
        if packet.kind == "signal" and packet.is_up and b'"HandoverRequest"' in packet.payload
    ]


def requests(packets: list[Packet]) -> list[dict[str, Any]]:
    """What they say."""
    return [json.loads(packet.payload.partition(b"\r\n\r\n")[2]) for packet in sent_requests(packets)]


def moved(world: World, name: ApplicationName, target: Any) -> tuple[int, int, int]:
    """Move an application: requests, bytes of signalling upwards, flows on the receipt."""
    before = len(world.packets)
    receipt = world.host.receipt(world.host.hand_over(name, target))
    sent = [packet for packet in world.packets[before:] if packet.kind == "signal" and packet.port == 5060]
    return len(requests(sent)), sum(packet.size for packet in sent if packet.is_up), receipt.flows


@pytest.mark.parametrize("is_guarded", [False, True])
def test_a_move_takes_as_many_messages_with_a_thousand_flows_as_with_one(is_guarded: bool) -> None:
    costs = {}
    for count in (1, 1000):
        world, flows = named(count, is_guarded=is_guarded)
        costs[count] = moved(world, DEFAULT_APPLICATION, NET1)
        world.run(1)
        world.assert_agreement()
        assert {world.host.flow_network(flow) for flow in flows} == {NET1}
    assert (costs[1][0], costs[1000][0]) == (1, 1)
    assert (costs[1][2], costs[1000][2]) == (1, 1000)
    # Beside the application, a thousand flows have some whose counts are compared.
    assert costs[1000][1] < costs[1][1] + 700


def packed_while_moving(world: World, monkeypatch: pytest.MonkeyPatch) -> int:
    seen, real = [], FlowKey.packed

    def packed(flow: FlowKey) -> bytes:
        seen.append(flow)
        return real(flow)

    monkeypatch.setattr(FlowKey, "packed", packed)
    moved(world, DEFAULT_APPLICATION, NET1)
    monkeypatch.undo()
    return len(seen)


def test_the_work_of_a_move_does_not_grow_with_the_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    """At either end: the flows that are looked at."""
    looked_at = {}
    for count in (50, 2000):
        world, _ = named(count)
        looked_at[count] = packed_while_moving(world, monkeypatch)
    assert looked_at[2000] == looked_at[50]


def test_a_lost_network_is_left_before_the_flows_that_the_anchor_must_be_told_of_are_gathered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many: packets go on by the next network at once, and the first requests do not wait for the last."""
    world = associated(World(0))
    flows = [world.host.open_flow() for _ in range(2000)]
    source = world.host.network_of()
    gathered, real = [], FlowKey.unpacked
    when_steered: list[int] = []

    def unpacked(key: bytes) -> FlowKey:
        gathered.append(key)
        return real(key)

    def steer(id: ApplicationId, tunnel: TunnelId | None) -> None:
        if tunnel is not None:
            when_steered.append(len(gathered))
        Paft.steer(world.host.paft, id, tunnel)

    monkeypatch.setattr(FlowKey, "unpacked", unpacked)
    monkeypatch.setattr(world.host.paft, "steer", steer)
    assert source is not None
    world.host.vanish(source)
    assert world.host.network_of() not in (source, None)
    assert when_steered[0] < 20
    assert len(gathered) >= 2000
    world.settle()
    world.assert_agreement()
    assert {world.host.flow_network(flow) for flow in flows} == {world.host.network_of()}


def test_flows_that_have_just_begun_are_named_one_by_one_beside_their_application() -> None:
    world, _ = named(100)
    young = [world.host.open_flow() for _ in range(5)]
    world.run(0.1)
    before = len(world.packets)
    assert moved(world, DEFAULT_APPLICATION, NET1)[2] == 105
    (asked,) = sent_requests(world.packets[before:])
    assert set(young) < set(flows_in(asked))
    world.run(1)
    world.assert_agreement()


def test_a_host_tells_an_anchor_that_does_not_understand_of_every_flow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def older(*values: Any, **names: Any) -> TunnelSetupResponse:
        return replace(TunnelSetupResponse(*values, **names), knows_applications=False, reads_packed=False)

    monkeypatch.setattr("upmt_nf.mobility.anchor.TunnelSetupResponse", older)
    world = associated(World())
    flows = open_flows(world, 100)
    world.run(10)
    assert told(world, flows) == {Told.NO}
    assert moved(world, DEFAULT_APPLICATION, NET1)[0] > 4
    world.run(1)
    world.assert_agreement()
    assert not any("application" in request for request in requests(world.packets))


def test_an_anchor_obeys_a_host_that_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upmt_nf.mobility.naming.Naming.look", lambda *_: None)
    world = associated(World())
    open_flows(world, 100)
    world.run(10)
    assert moved(world, DEFAULT_APPLICATION, NET1)[0] > 1
    world.run(1)
    world.assert_agreement()
    assert world.anchor_paft.headings == {}


def test_only_the_application_that_moves_is_moved() -> None:
    world, _ = named(20)
    world.host.define(VOICE, VOICE_ID, NET0)
    voices = open_flows(world, 20, VOICE)
    world.until(lambda: told(world, voices) == {Told.YES}, 30)
    moved(world, VOICE, NET1)
    world.run(1)
    world.assert_agreement()
    assert world.host.network_of() == NET0
    assert world.host.network_of(VOICE) == NET1


@pytest.mark.parametrize("says_so", [True, False])
def test_a_named_flow_that_changes_its_application_does_not_follow_the_old_one(says_so: bool) -> None:
    world, (flow, *others) = named(20)
    world.host.define(VOICE, VOICE_ID, NET0)
    world.run(1)
    world.host.paft.assign(world.host.paft.flows[flow.packed()], VOICE_ID)
    if says_so:
        world.host.take(FlowsAdopted(VOICE, (flow,)))
    moved(world, DEFAULT_APPLICATION, NET1)
    world.run(1)
    world.assert_agreement()
    assert world.host.flow_network(flow) == NET0
    assert {world.host.flow_network(other) for other in others} == {NET1}


def test_a_port_that_another_application_has_now_does_not_follow_the_old_one() -> None:
    world, (flow, *_) = named(20)
    world.host.define(VOICE, VOICE_ID, NET0)
    world.run(1)
    world.host.paft.forget(flow.packed())
    world.host.paft.insert(flow.packed(), VOICE_ID, world.now)
    world.host.send(flow)
    moved(world, DEFAULT_APPLICATION, NET1)
    world.run(1)
    world.assert_agreement()
    assert world.host.flow_network(flow) == NET0


def test_a_named_flow_can_be_moved_by_itself_and_stays_there() -> None:
    world, (flow, *others) = named(20)
    world.host.receipt(world.host.hand_over(flow, NET1))
    world.assert_agreement()
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET0))
    world.run(1)
    world.assert_agreement()
    assert world.host.flow_network(flow) == NET1
    assert {world.host.flow_network(other) for other in others} == {NET0}


def test_a_flow_that_is_pinned_where_it_is_is_told_of() -> None:
    world, (flow, *_) = named(20)
    world.host.receipt(world.host.hand_over(flow, NET0))
    world.host.receipt(world.host.hand_over(DEFAULT_APPLICATION, NET1))
    world.run(1)
    world.assert_agreement()
    assert world.host.flow_network(flow) == NET0


def test_flows_that_the_anchor_has_forgotten_are_named_one_by_one_again() -> None:
    world, flows = named(60)
    for flow in flows[:30]:
        world.anchor_paft.forget(flow.packed())
    moved(world, DEFAULT_APPLICATION, NET1)
    world.run(1)
    world.assert_agreement()
    assert {world.host.flow_network(flow) for flow in flows} == {NET1}


def test_an_anchor_that_starts_again_is_told_all_of_it_again() -> None:
    world, flows = named(60)
    world.start_anchor({granted.identity: granted.address for granted in world.granted})
    world.run(60)
    talk(world, flows)
    settle(world)
    moved(world, DEFAULT_APPLICATION, NET1)
    world.run(1)
    world.assert_agreement()


def test_a_host_that_starts_again_counts_its_applications_anew() -> None:
    world, flows = named(60)
    world.host.restart()
    world.settle()
    assert world.anchor_paft.headings == {}
    world.host.define(VOICE, ApplicationId(1 + DEFAULT_APPLICATION_ID), NET0)
    for flow in flows:
        world.host.paft.insert(flow.packed(), VOICE_ID, world.now)
    talk(world, flows)
    world.run(LIVED + 1)
    talk(world, flows)
    world.until(lambda: told(world, flows) == {Told.YES}, 60)
    moved(world, VOICE, NET1)
    world.run(1)
    world.assert_agreement()


def test_an_application_without_flows_leaves_nothing_at_the_anchor() -> None:
    world, flows = named(60)
    assert len(world.anchor_paft.headings) == 1
    for flow in flows:
        world.anchor_paft.forget(flow.packed())
        world.host.paft.forget(flow.packed())
    moved(world, DEFAULT_APPLICATION, NET1)
    world.anchor._moves._named.retire()
    assert (world.anchor_paft.headings, world.anchor_paft.applications) == ({}, {})


def test_an_anchor_without_room_for_another_application_is_told_of_every_flow() -> None:
    world = associated(World())
    world.anchor._moves._named._most = 0
    flows = open_flows(world, 60)
    world.run(10)
    assert told(world, flows) == {Told.MAYBE, Told.NO}
    moved(world, DEFAULT_APPLICATION, NET1)
    world.run(1)
    world.assert_agreement()


def test_a_lost_network_takes_its_flows_along_in_the_setup_of_the_next() -> None:
    world, flows = named(500)
    world.host.vanish(NET1)
    world.run(1)
    world.host.vanish(NET0)
    world.run(1)
    before = len(world.packets)
    world.host.appear(NET1)
    world.until(world.host.is_settled, 30)
    assert {world.host.flow_network(flow) for flow in flows} == {NET1}
    assert len(requests(world.packets[before:])) <= 1
    world.run(1)
    world.assert_agreement()


def test_an_order_that_is_late_does_not_undo_a_newer_one() -> None:
    """The same flows, named late by a request that was held back."""
    world, flows = named(5)
    held: list[Packet] = []

    def hold(packet: Packet) -> bool:
        is_name = packet.is_up and b'"application":1' in packet.payload
        if is_name:
            held.append(packet)
        return is_name

    fresh = open_flows(world, 5)
    for link in world.host.links.values():
        link.drops = hold
    world.until(lambda: bool(held), 10)
    moved(world, DEFAULT_APPLICATION, NET1)
    world.run(1)
    world.sites[0].hear(held[0])
    world.assert_agreement()
    assert {world.host.flow_network(flow) for flow in [*flows, *fresh]} == {NET1}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_both_ends_agree_in_the_end_and_as_flow_lists_would_have_it(seed: int) -> None:
    """Two applications, two networks, bad weather, flows that come, change hands and end."""
    chance = Random(seed)
    world, flows = named(30, seed, is_guarded=bool(seed % 2))
    world.host.define(VOICE, VOICE_ID, NET0)
    pinned: dict[FlowKey, Any] = {}
    for _ in range(25):
        misbehave(
            world, loss=chance.choice((0, 0.1, 0.3)), duplication=0.2, jitter=chance.choice((0, 0.1, 1))
        )
        match chance.randrange(8):
            case 0 | 1 | 2:
                world.host.hand_over(chance.choice((DEFAULT_APPLICATION, VOICE)), chance.choice((NET0, NET1)))
            case 3:
                flow = chance.choice(flows)
                pinned[flow] = chance.choice((NET0, NET1))
                world.host.hand_over(flow, pinned[flow])
            case 4:
                flow = chance.choice(flows)
                id = chance.choice((VOICE_ID, DEFAULT_APPLICATION_ID))
                world.host.paft.assign(world.host.paft.flows[flow.packed()], id)
            case 5:
                flow = flows.pop(chance.randrange(len(flows)))
                world.host.paft.forget(flow.packed())
                flows.append(world.host.open_flow(chance.choice((DEFAULT_APPLICATION, VOICE))))
            case 6:
                link = chance.choice(list(world.host.links.values()))
                world.host.vanish(link.name) if link.is_up else world.host.appear(link.name)
            case 7:
                talk(world, flows)
        world.run(chance.choice((0.01, 0.1, 1.0, 4.0)))
    for link in world.host.links.values():
        if not link.is_up:
            world.host.appear(link.name)
    misbehave(world)
    world.run(5)
    talk(world, flows)
    settle(world)
    for target in (NET1, NET0):
        moved(world, DEFAULT_APPLICATION, target)
        world.run(1)
        world.assert_agreement()


def test_the_stand_in_of_an_application_is_no_flow() -> None:
    world, _ = named(3)
    address = world.host.virtual_address
    assert address is not None
    moved(world, DEFAULT_APPLICATION, NET1)
    assert named_flows_of(address, DEFAULT_APPLICATION_ID).packed() not in world.anchor_paft.flows
