"""What measuring costs who pays by the byte: an hour of pretend time, all packets counted."""

from __future__ import annotations

from dataclasses import replace

from mobility_world import World, associated

from upmt_nf.mobility.host_events import ApplicationDefined
from upmt_nf.model.identity import ApplicationId, ApplicationName, NetworkName
from upmt_nf.policy.network import NetworkFacts
from upmt_nf.policy.profiles import PROFILES

HOUR = 3600.0
NETWORKS = tuple(NetworkName(f"net{number}") for number in range(4))
FACTS = tuple(NetworkFacts(name, cost=4.0, is_metered=True, throughput=20e6) for name in NETWORKS)


def test_an_idle_metered_network_costs_less_than_fifty_kilobytes_an_hour_whatever_policies_there_are() -> (
    None
):
    world = World(networks=4, facts=FACTS)
    names = sorted(PROFILES.keys() - {"backup"})  # which would have no network here
    for number in range(20):
        policy = replace(PROFILES[names[number % len(names)]], networks=NETWORKS)
        world.host.take(
            ApplicationDefined(ApplicationName(f"app{number}"), ApplicationId(number + 2), policy)
        )
    associated(world)
    world.run(300)
    for _ in range(2):
        world.packets.clear()
        world.probe_bytes = 0
        world.run(HOUR)
        # Trials of how long NATs remember, in the first hours, are of all networks together.
        trials = world.probe_bytes / len(NETWORKS)
        for name, link in world.host.links.items():
            sizes = [packet.size for packet in world.packets if packet.link is link]
            assert sum(sizes) + trials < 50_000, (name, sum(sizes), trials)


def test_finding_out_what_networks_let_through_stays_within_the_same_bound_in_the_first_hour() -> None:
    world = World(networks=4, facts=FACTS, search_path_mtu=True, further_tunnel_ports=(443, 53, 4500))
    associated(world)
    world.run(HOUR)
    for name, link in world.host.links.items():
        sizes = [packet.size for packet in world.packets if packet.link is link]
        assert sum(sizes) + world.probe_bytes / len(NETWORKS) < 50_000, (name, sum(sizes), world.probe_bytes)
        assert world.host.machine.networks[name].path_mtu is not None
        assert world.host.machine.networks[name].test is not None
