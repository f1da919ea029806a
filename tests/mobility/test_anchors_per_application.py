"""Several associations in use at a time: an application goes by the anchor that it names, and by no other."""

from ipaddress import ip_address

import pytest
from mobility_associations import SECOND, THIRD, SeveralWorld
from mobility_terminal import ANCHOR, NET0, NET1, VOICE, VOICE_ID
from mobility_world import misbehave

from upmt_nf.mobility.events import StopAsked
from upmt_nf.mobility.host_events import ApplicationAssigned, ApplicationLocked
from upmt_nf.model.identity import DEFAULT_APPLICATION, ApplicationId, ApplicationName

SEEDS = range(8)
KEEPALIVE = 1.0
BULK, BULK_ID = ApplicationName("bulk"), ApplicationId(3)


def world_of(anchors: int = 2, seed: int = 0, **more: object) -> SeveralWorld:
    return SeveralWorld(seed, anchors=anchors, keepalive_interval=KEEPALIVE, **more)


def both(anchors: int = 2, seed: int = 0, **more: object) -> SeveralWorld:
    """The voice application goes by the second anchor, everything else by the first; all tunnels are up."""
    world = world_of(anchors, seed, **more)
    world.host.name(VOICE, VOICE_ID, SECOND)
    world.host.appear(NET0, NET1)
    world.until(lambda: is_settled(world), 60)
    world.run(3)
    return world


def is_settled(world: SeveralWorld) -> bool:
    machine = world.host.machine
    return world.host.is_settled() and all(
        each.machine.association.state == "associated"
        and all(status.state == "up" for status in each.machine.networks.values())
        for each in machine.further.values()
    )


def states(world: SeveralWorld) -> list[str]:
    return [each.state for each in world.host.machine.association.anchors]


# --- both at a time ---


@pytest.mark.parametrize("is_guarded", [False, True])
def test_each_application_goes_by_its_own_anchor_and_by_no_other(is_guarded: bool) -> None:
    world = both(is_guarded=is_guarded)
    voice, rest = world.host.open_flow(VOICE), world.host.open_flow()
    world.run(1)
    assert [world.sees(number, voice) for number in (0, 1)] == [False, True]
    assert [world.sees(number, rest) for number in (0, 1)] == [True, False]
    association = world.host.machine.association
    assert association.anchor == ANCHOR
    assert [each.state for each in association.anchors] == ["associated", "associated"]
    assert [each.applications for each in association.anchors] == [(), (VOICE,)]
    assert [each.virtual_address for each in association.anchors] == [
        ip_address("10.99.0.1"),
        ip_address("10.100.0.1"),
    ]
    assert world.host.virtual_address == ip_address("10.99.0.1")
    assert world.host.configured == [(ANCHOR, ip_address("10.99.0.1"))]


def test_an_anchor_that_no_application_names_hears_nothing_of_a_second_one() -> None:
    world = world_of(2)
    world.host.name(VOICE, VOICE_ID, None)
    world.host.appear(NET0, NET1)
    world.run(30)
    assert world.holders() == [ANCHOR]
    assert world.host.branches == {}


def test_an_application_that_names_the_anchor_in_use_shares_its_association() -> None:
    world = world_of(2)
    world.host.name(VOICE, VOICE_ID, ANCHOR)
    world.host.appear(NET0, NET1)
    world.settle()
    flow = world.host.open_flow(VOICE)
    world.run(1)
    assert world.sees(0, flow)
    assert world.host.branches == {}
    assert world.host.machine.applications[VOICE].anchor == ANCHOR


# --- handovers ---


def test_a_handover_moves_the_application_between_the_tunnels_of_its_own_anchor() -> None:
    world = both()
    voice, rest = world.host.open_flow(VOICE), world.host.open_flow()
    world.run(1)
    receipt = world.host.receipt(world.host.hand_over(VOICE, NET1))
    assert (receipt.source, receipt.target, receipt.flows) == (NET0, NET1, 1)
    world.run(2)
    assert world.network_at(1, voice) == NET1
    assert world.network_at(0, rest) == NET0
    assert world.host.machine.applications[VOICE].network == NET1
    assert world.host.machine.applications[DEFAULT_APPLICATION].network == NET0


def test_a_handover_of_a_single_flow_names_it_as_applications_see_it() -> None:
    world = both()
    first, second = world.host.open_flow(VOICE), world.host.open_flow(VOICE)
    world.run(1)
    receipt = world.host.receipt(world.host.hand_over(first, NET1))
    assert receipt.flow == first
    assert [world.network_at(1, flow) for flow in (first, second)] == [NET1, NET0]


def test_handovers_of_both_are_counted_under_numbers_of_their_own() -> None:
    world = both()
    world.host.open_flow(VOICE), world.host.open_flow()
    world.run(1)
    tokens = [world.host.hand_over(name, NET1) for name in (VOICE, DEFAULT_APPLICATION)]
    world.run(5)
    numbers = [finished.number for finished in world.host.finished if finished.token in tokens]
    assert None not in numbers
    assert len(set(numbers)) == 2
    assert sorted(counted.number for counted in world.host.counted) == sorted(
        number for number in numbers if number is not None
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_handovers_come_through_on_networks_that_misbehave(seed: int) -> None:
    world = both(seed=seed)
    misbehave(world, loss=0.15, duplication=0.1, jitter=0.05)
    flows = {name: world.host.open_flow(name) for name in (VOICE, DEFAULT_APPLICATION)}
    for name, target in ((VOICE, NET1), (DEFAULT_APPLICATION, NET1), (VOICE, NET0)):
        world.host.send(flows[name])
        world.host.hand_over(name, target)
        world.run(4)
    misbehave(world)
    world.run(30)
    for flow in flows.values():
        world.host.send(flow)
    world.run(20)
    applications = world.host.machine.applications
    for number, name in ((1, VOICE), (0, DEFAULT_APPLICATION)):
        assert applications[name].network is not None
        assert world.network_at(number, flows[name]) == applications[name].network
        assert not world.sees(1 - number, flows[name])


def test_a_lost_network_is_left_by_both() -> None:
    world = both()
    flows = [world.host.open_flow(VOICE), world.host.open_flow()]
    world.run(1)
    world.host.vanish(NET0)
    world.run(3)
    assert [world.network_at(number, flow) for number, flow in zip((1, 0), flows, strict=True)] == [
        NET1,
        NET1,
    ]


def test_a_lock_holds_in_its_own_association() -> None:
    world = both()
    world.host.take(ApplicationLocked(VOICE, NET1))
    world.run(2)
    applications = world.host.machine.applications
    assert (applications[VOICE].locked, applications[VOICE].network) == (NET1, NET1)
    assert applications[DEFAULT_APPLICATION].locked is None


# --- an anchor dies ---


def test_a_killed_anchor_takes_nobody_but_its_own_application_with_it() -> None:
    world = both()
    rest = world.host.open_flow()
    world.run(1)
    world.sites[1].has_stopped = True
    world.run(60)
    applications = world.host.machine.applications
    assert applications[VOICE].network is None
    assert applications[DEFAULT_APPLICATION].network == NET0
    assert world.network_at(0, rest) == NET0
    assert world.host.configured == [(ANCHOR, ip_address("10.99.0.1"))]
    flow = world.host.open_flow(VOICE)
    world.run(5)
    assert not any(
        packet.payload == world.host.leased_flow(flow).packed() or packet.payload == flow.packed()
        for packet in world.packets
        if packet.kind == "data"
    ), "it is held: by no other anchor"
    world.sites[1].restart()
    world.until(lambda: world.host.machine.applications[VOICE].network is not None, 120)
    world.host.send(flow)
    world.run(1)
    assert world.sees(1, flow)


def test_when_the_usual_anchor_dies_the_named_one_is_not_taken_for_the_rest() -> None:
    world = both()
    voice = world.host.open_flow(VOICE)
    world.run(1)
    world.sites[0].has_stopped = True
    world.run(60)
    applications = world.host.machine.applications
    assert applications[DEFAULT_APPLICATION].network is None
    assert applications[VOICE].network == NET0
    assert world.network_at(1, voice) == NET0
    assert len(world.sites[1].machine.associations) == 1
    assert world.host.virtual_address == ip_address("10.99.0.1"), "applications keep what they see"


def test_the_rest_goes_to_an_anchor_that_nobody_names() -> None:
    world = both(3)
    world.sites[0].has_stopped = True
    world.until(lambda: world.host.machine.association.anchor == THIRD, 30)
    world.run(20)
    assert states(world)[1:] == ["associated", "associated"]
    assert world.host.machine.applications[VOICE].network is not None
    assert world.sites[1].ended == []


def test_who_names_the_usual_anchor_stays_with_it_when_the_rest_has_left() -> None:
    """The anchor in use dies, the rest takes the second; when the first is back, who names it has it again."""
    world = world_of(2)
    world.host.name(VOICE, VOICE_ID, ANCHOR)
    world.host.appear(NET0, NET1)
    world.settle()
    world.sites[0].has_stopped = True
    world.until(lambda: world.host.machine.association.anchor == SECOND, 30)
    world.run(10)
    applications = world.host.machine.applications
    assert applications[VOICE].network is None
    assert applications[DEFAULT_APPLICATION].network is not None
    world.sites[0].restart()
    world.until(lambda: world.host.machine.applications[VOICE].network is not None, 120)
    world.run(100)
    assert states(world) == ["associated", "associated"], (
        "the goodbye of before has not ended the new association"
    )
    flow = world.host.open_flow(VOICE)
    world.run(1)
    assert [world.sees(number, flow) for number in (0, 1)] == [True, False]


# --- changes while it runs ---


def test_an_application_may_name_an_anchor_later_and_no_more() -> None:
    world = world_of(2)
    world.host.name(VOICE, VOICE_ID, None)
    world.host.name(BULK, BULK_ID, None)
    world.host.appear(NET0, NET1)
    world.settle()
    world.host.name(VOICE, VOICE_ID, SECOND)
    world.until(lambda: is_settled(world), 30)
    flow = world.host.open_flow(VOICE)
    world.run(1)
    assert [world.sees(number, flow) for number in (0, 1)] == [False, True]
    world.host.name(VOICE, VOICE_ID, None)
    world.until(lambda: world.host.branches == {}, 10)
    assert world.holders() == [ANCHOR], "the second has its lease back"
    again = world.host.open_flow(VOICE)
    world.run(1)
    assert [world.sees(number, again) for number in (0, 1)] == [True, False]
    assert world.host.machine.applications[VOICE].anchor is None


def test_another_policy_counts_in_its_own_association() -> None:
    world = both()
    world.host.take(ApplicationAssigned(VOICE, (NET1,)))
    world.run(40)
    applications = world.host.machine.applications
    assert applications[VOICE].network == NET1
    assert applications[VOICE].anchor == SECOND
    assert applications[DEFAULT_APPLICATION].network == NET0


def test_a_change_of_mind_while_the_goodbye_is_said_ends_with_an_association() -> None:
    world = both()
    world.host.name(VOICE, VOICE_ID, None)
    world.host.name(VOICE, VOICE_ID, SECOND)
    world.until(lambda: world.holders() == [ANCHOR, SECOND] and is_settled(world), 30)
    world.run(10)
    assert world.host.machine.applications[VOICE].network is not None


@pytest.mark.parametrize("seed", SEEDS)
def test_any_order_of_names_ends_where_the_last_one_says(seed: int) -> None:
    world = world_of(3, seed)
    world.host.name(VOICE, VOICE_ID, None)
    world.host.name(BULK, BULK_ID, THIRD)
    world.host.appear(NET0, NET1)
    for _ in range(12):
        name, id = world.random.choice([(VOICE, VOICE_ID), (BULK, BULK_ID)])
        world.host.name(name, id, world.random.choice([None, ANCHOR, SECOND, THIRD]))
        world.run(world.random.uniform(0.0, 3.0))
    world.host.name(VOICE, VOICE_ID, SECOND)
    world.host.name(BULK, BULK_ID, None)
    world.until(lambda: is_settled(world) and len(world.host.branches) == 1, 120)
    world.run(20)
    applications = world.host.machine.applications
    assert None not in [each.network for each in applications.values()]
    assert sorted(world.holders()) == sorted({world.host.machine.association.anchor, SECOND})


# --- the end ---


def test_a_host_that_stops_gives_both_leases_back() -> None:
    world = both()
    world.host.take(StopAsked())
    world.until(lambda: world.host.has_stopped, 5)
    world.run(1)
    assert world.holders() == []
    assert world.host.branches == {}


def test_a_host_that_stops_while_an_anchor_is_dead_does_not_wait_long() -> None:
    world = both()
    world.sites[1].has_stopped = True
    world.host.take(StopAsked())
    assert world.until(lambda: world.host.has_stopped, 5) <= 2.5
    assert world.host.machine.applications[VOICE].network is None


def test_a_host_that_crashed_gets_both_addresses_again() -> None:
    world = both()
    before = [each.virtual_address for each in world.host.machine.association.anchors]
    world.host.restart()
    world.host.name(VOICE, VOICE_ID, SECOND)
    world.until(lambda: is_settled(world) and len(world.host.branches) == 1, 60)
    assert [each.virtual_address for each in world.host.machine.association.anchors] == before
