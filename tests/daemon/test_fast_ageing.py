"""Flows that the kernel forwards: they age by protocol as the agent's do, and bounds hold in its maps, too."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mirrored_paft import OWNER, World

from upmt_nf.daemon.flow_sweep import ROUND
from upmt_nf.datapath.fast_layout import flow_bytes, flow_key
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import Paft
from upmt_nf.model.flow import FlowKey
from upmt_nf.model.identity import ApplicationId

LIMITS = [(6, 7440), (17, 180), (1, 30), (47, 600)]


def begin(world: World, port: int, protocol: int = 17) -> FlowEntry:
    flow = FlowKey(protocol, OWNER, port, ip_address("198.51.100.1"), 53)
    entry = world.paft.insert(flow.packed(), ApplicationId(1), world.loop.now)
    world.loop.turn()
    return entry


def hear(world: World, entry: FlowEntry) -> None:
    """A packet that the kernel forwards."""
    row = world.row(entry)
    world.kernel_counts(entry, packets_out=row.packets_out + 1, last_seen=int(world.loop.now * 1e9))


def bounded(most: int, grace: float = 0.0) -> World:
    world = World(flows=most, grace=grace)
    world.paft = Paft(max_flows=most)
    world.fast.close()
    world.fast = world.begin(took_over=False)
    return world


@pytest.mark.parametrize(("protocol", "limit"), LIMITS)
def test_what_only_the_kernel_hears_ages_by_protocol_from_its_last_packet_there(
    protocol: int, limit: int
) -> None:
    world = World()
    entry = begin(world, 1, protocol)
    world.pass_time(limit - 1)
    hear(world, entry)
    world.pass_time(1.0)
    for silent, is_there in ((1.0, True), (limit - 2.5, True), (1.0, False)):
        world.pass_time(silent)
        world.paft.age(world.loop.now)
        assert (entry.key in world.paft.flows) is is_there
        assert (flow_key(entry.key) in world.maps["flows"].rows) is is_there
    assert world.paft.counters["aged"] == 1


@pytest.mark.parametrize(("protocol", "limit"), LIMITS)
def test_a_busy_flow_does_not_age_before_a_round_has_told_of_its_packets(protocol: int, limit: int) -> None:
    """A round over very many flows takes longer than some of them may be silent."""
    world = World()
    entry = begin(world, 1, protocol)
    world.loop.now += limit
    hear(world, entry)
    world.loop.now += 1.0
    world.paft.age(world.loop.now)
    assert (entry.key in world.paft.flows, entry.packets_out) == (True, 1)
    world.loop.now += limit
    world.paft.age(world.loop.now)
    assert (world.paft.flows, world.maps["flows"].rows) == ({}, {})


def test_a_full_table_makes_room_in_the_kernel_too_and_counts_it() -> None:
    world = bounded(8)
    entries = []
    for port in range(1, 21):
        world.loop.now += 1.0
        entries.append(begin(world, port))
    assert len(world.maps["flows"].rows) == len(world.paft.flows) == 8
    assert {flow_bytes(key) for key in world.maps["flows"].rows} == set(world.paft.flows)
    assert world.paft.counters["evicted"] == 12
    assert world.fast.as_counters() == {}


@pytest.mark.parametrize("grace", [0.0, 5.0])
def test_a_flow_that_is_busy_in_the_kernel_alone_is_not_what_makes_room(grace: float) -> None:
    world = bounded(64, grace)
    busy = [begin(world, port) for port in range(1, 5)]
    for port in range(100, 1100):
        world.loop.now += 0.01
        # Heard after the last round that could have told of it.
        for entry in busy:
            hear(world, entry)
        begin(world, port)
    assert all(entry.key in world.paft.flows for entry in busy)
    assert world.paft.counters["evicted"] == 4 + 1000 - 64


@given(
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from((0.0, ROUND, 40.0)), st.booleans()), max_size=60)
)
def test_neither_table_passes_its_bound_and_both_have_the_same_flows(
    course: list[tuple[int, float, bool]],
) -> None:
    world = bounded(6)
    for port, seconds, ages in course:
        begin(world, port, LIMITS[port % 4][0])
        world.pass_time(seconds)
        if ages:
            world.paft.age(world.loop.now)
        assert len(world.paft.flows) <= 6
        assert {flow_bytes(key) for key in world.maps["flows"].rows} == set(world.paft.flows)
