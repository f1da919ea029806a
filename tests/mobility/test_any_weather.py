"""Any sequence of mishaps: when the weather is good again, both ends send every flow by the same tunnel."""

from random import Random

import pytest
from mobility_terminal import NET0, NET1, VOICE, VOICE_ID
from mobility_world import World, associated, misbehave

from upmt_nf.mobility.host_events import ApplicationAssigned, FlowsAdopted, PathFailed
from upmt_nf.model.identity import DEFAULT_APPLICATION

MISHAPS = 25


def mishap(world: World, chance: Random) -> None:
    host = world.host
    link = host.links[chance.choice(list(host.links))]
    flows = list(host.paft.flows.values())
    application = chance.choice([DEFAULT_APPLICATION, VOICE])
    match chance.randrange(14):
        case 0:
            link.is_black_hole = not link.is_black_hole
        case 1 | 2:
            if link.is_up:
                host.vanish(link.name)
            else:
                host.appear(link.name)
        case 3:
            link.rebind()
        case 4:
            link.dead_ports.add(link.port)
        case 5:
            misbehave(
                world,
                loss=chance.choice([0.0, 0.1, 0.4]),
                duplication=chance.choice([0.0, 0.3]),
                jitter=chance.choice([0.0, 0.3, 2.0]),
            )
        case 6 | 7:
            host.hand_over(application, link.name)
        case 8 if flows:
            host.hand_over(chance.choice(flows).flow, link.name)
        case 9 if flows:
            flow = chance.choice(flows).flow
            host.paft.insert(flow.packed(), host.machine.applications[application].id, world.now)
            host.take(FlowsAdopted(application, (flow,)))
        case 10 if flows:
            host.paft.forget(chance.choice(flows).key)
        case 11:
            host.take(ApplicationAssigned(application, (link.name, "any")))
        case 12 if chance.random() < 0.3:
            world.start_anchor()
        case 13:
            host.take(PathFailed(link.name, "network is unreachable"))
        case _ if host.virtual_address is not None:
            host.open_flow(application)


@pytest.mark.parametrize("seed", range(60))
def test_both_ends_agree_after_any_sequence_of_mishaps(seed: int) -> None:
    world = associated(World(seed, networks=3, keepalive_interval=2.0, return_after=10.0, lifetime=120))
    host, chance = world.host, Random(seed)
    host.define(VOICE, VOICE_ID, NET1, "any")
    for _ in range(5):
        host.open_flow()
        host.open_flow(VOICE)
    for _ in range(MISHAPS):
        mishap(world, chance)
        world.run(chance.choice([0.0, 0.02, 0.05, 0.3, 2.0, 15.0]))
    misbehave(world)
    for link in host.links.values():
        link.is_black_hole = False
        link.dead_ports.clear()
        if not link.is_up:
            host.appear(link.name)
    world.run(20)
    world.settle()
    world.run(30)
    for flow in world.unheard_flows():
        host.send(flow)
    world.run(1)
    world.assert_agreement()
    answered = [finished.token for finished in host.finished if finished.token is not None]
    assert len(answered) == len(set(answered))
    assert host.network_of() is not None
    receipt = host.receipt(host.hand_over(DEFAULT_APPLICATION, NET0))
    assert receipt.target == NET0
    world.assert_agreement()
