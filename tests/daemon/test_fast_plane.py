"""The mirror: whatever happens to PAFT, the maps say the same; what the kernel counts comes back."""

from ipaddress import ip_address

import pytest
from mirrored_paft import OWNER, World
from pretend_kernel import PretendLoop

from upmt_nf.daemon.backlog import Backlog
from upmt_nf.daemon.fast_plane import ADOPTING
from upmt_nf.datapath.fast_layout import (
    COUNTS,
    NUMBER,
    TUNNEL,
    ApplicationRow,
    FlowRow,
    NamedRow,
    flow_key,
)
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.packet import ip_packet
from upmt_nf.datapath.paft import Paft
from upmt_nf.datapath.protected import Cookie, Sealed
from upmt_nf.model.flow import UDP, Endpoint, FlowKey
from upmt_nf.model.identity import ApplicationId, TunnelId


def test_a_move_is_watched_in_the_kernel_and_looked_at_when_somebody_asks() -> None:
    world = World()
    old, new = world.add_tunnel(1), world.add_tunnel(2)
    world.paft.steer(ApplicationId(1), TunnelId(1))
    entry = world.add_flow(1)
    world.slept = 10.0
    old.heard = 50.0
    world.kernel_counts(entry, gap=9, late=9, first_arrival=9, last_elsewhere=9)
    world.fast.watch([entry], new, old, 60.0)
    watched = world.row(entry)
    assert (watched.watched, watched.last_arrival) == (2, 40 * 10**9)
    assert (watched.gap, watched.late, watched.first_arrival, watched.last_elsewhere) == (0, 0, 0, 0)
    world.paft.pin(entry.key, TunnelId(2))
    assert world.row(entry).watched == 2
    world.kernel_counts(entry, packets_out=7, packets_in=5, gap=250_000_000, late=2, first_arrival=51 * 10**9)
    assert (entry.packets_out, entry.packets_in) == (0, 0)
    assert world.fast.look_at(entry) == (2, 0.25, 61.0, None)
    assert (entry.packets_out, entry.packets_in) == (7, 5)
    world.fast.watch([entry], None, None, 70.0)
    assert world.row(entry).watched == 0
    assert world.fast.look_at(entry) == (2, 0.25, 61.0, None)
    assert (entry.packets_out, entry.packets_in) == (7, 5)


def test_flows_that_the_kernel_does_not_forward_are_not_its_to_tell_of() -> None:
    world = World()
    tunnel = world.add_tunnel(1)
    entry = world.add_flow(1)
    assert world.fast.look_at(entry) is None  # by no tunnel
    world.paft.steer(ApplicationId(1), TunnelId(1))
    assert world.fast.look_at(entry) == (0, 0.0, None, None)
    tunnel.format = Sealed(bytes(32), bytes(32))
    world.fast.refresh([tunnel])
    assert world.fast.look_at(entry) is None
    world.maps["flows"].delete(flow_key(entry.key) or b"")
    assert world.fast.look_at(entry) is None
    world.fast.watch([entry], tunnel, None, 1.0)
    assert not world.maps["flows"].rows


@pytest.mark.parametrize("flows", [1, 10_000])
def test_moving_an_application_is_one_write(flows: int) -> None:
    world = World()
    world.add_tunnel(1), world.add_tunnel(2)
    world.paft.steer(ApplicationId(7), TunnelId(1))
    for port in range(flows):
        world.add_flow(port, 7)
    before = world.writes()
    world.paft.steer(ApplicationId(7), TunnelId(2))
    after = world.writes()
    assert {name: after[name] - before[name] for name in after} == {
        **dict.fromkeys(after, 0),
        "applications": 1,
    }
    assert world.way(7) == 2


def test_what_the_kernel_counted_comes_back_once() -> None:
    world = World()
    tunnel, entry = world.add_tunnel(1), world.add_flow(1)
    world.kernel_counts(entry, packets_out=3, bytes_out=300, packets_in=2, bytes_in=20, last_seen=int(9e9))
    world.maps["tunnel_counts"].rows[NUMBER.pack(1)] = COUNTS.pack(1, 2, 3, 4, int(8e9)) + COUNTS.pack(
        1, 1, 1, 1, 0
    )
    for _ in range(3):
        world.fast.count_flows()
        world.fast.count_tunnels([tunnel])
    assert (entry.packets_out, entry.bytes_out, entry.packets_in, entry.bytes_in) == (3, 300, 2, 20)
    assert entry.last_seen == 9.0
    assert (tunnel.packets_out, tunnel.bytes_out, tunnel.packets_in, tunnel.bytes_in) == (2, 3, 4, 5)
    assert tunnel.heard == 8.0


def test_packets_of_the_kernel_use_up_a_tunnels_secret() -> None:
    world = World()
    tunnel = world.add_tunnel(1)
    tunnel.format = Cookie(b"A" * 8, b"B" * 8)
    world.maps["tunnel_counts"].rows[NUMBER.pack(1)] = COUNTS.pack(7, 700, 0, 0, 0) + COUNTS.pack(
        2, 0, 0, 0, 0
    )
    for _ in range(2):
        world.fast.count_tunnels([tunnel])
    assert tunnel.format.used == 9


def test_a_change_of_a_flow_keeps_what_was_counted_meanwhile() -> None:
    world = World()
    world.add_tunnel(1)
    entry = world.add_flow(1)
    world.kernel_counts(entry, packets_out=3, bytes_out=300)
    world.paft.pin(entry.key, TunnelId(1))
    assert world.row(entry)[:2] == (1, 1)
    assert world.row(entry).packets_out == 3
    world.fast.count_flows()
    assert entry.packets_out == 3


def test_what_the_kernel_learnt_is_taken_over() -> None:
    world = World()
    one, two = world.add_tunnel(1), world.add_tunnel(2)
    entry = world.paft.learn(world.add_flow(1).key, one, 0.0)
    world.kernel_counts(entry, tunnel=2, packets_out=1)
    world.loop.tick()
    world.loop.tick()
    assert (entry.pinned, entry.previous) == (two, one)


def test_a_flow_that_is_in_use_in_the_kernel_alone_does_not_age() -> None:
    world = World()
    entry = world.add_flow(1, now=0.0)
    world.kernel_counts(entry, packets_out=1, last_seen=int(1000e9))
    for _ in range(2):
        world.loop.tick()
    world.paft.age(1001.0)
    assert entry.key in world.paft.flows
    world.paft.age(2000.0)
    assert not world.maps["flows"].rows


def test_the_kernels_clock_does_not_count_the_time_that_the_machine_slept() -> None:
    world = World()
    one, two = world.add_tunnel(1), world.add_tunnel(2)
    entry = world.paft.learn(world.add_flow(1).key, one, 3700.0)
    world.slept = 3600.0
    world.paft.move(entry.key, two, 3700.0)
    assert world.row(entry).left_until == int(103e9)
    world.kernel_counts(entry, packets_out=1, last_seen=int(101e9))
    world.maps["tunnel_counts"].rows[NUMBER.pack(2)] = COUNTS.pack(0, 0, 1, 1, int(101e9)) + COUNTS.pack(
        0, 0, 0, 0, 0
    )
    world.fast.count_flows()
    world.fast.count_tunnels([two])
    assert (entry.last_seen, two.heard) == (3701.0, 3701.0)


def test_a_flow_that_goes_by_two_tunnels_is_the_agents_and_what_the_kernel_counted_of_it_stays() -> None:
    world = World()
    one, other, entry = world.add_tunnel(1), world.add_tunnel(2), world.add_flow(1, 0)
    world.paft.learn(entry.key, one, 0.0)
    world.kernel_counts(entry, packets_out=3, bytes_out=300, last_seen=int(1e9))
    world.paft.learn_copy(entry.key, one, 1.0)
    world.paft.learn_copy(entry.key, other, 1.0)
    assert world.maps["flows"].rows == {}
    assert (entry.packets_out, entry.bytes_out) == (3, 300)
    entry.packets_out += 5
    world.paft.learn(entry.key, other, 2.0)
    assert world.row(entry).tunnel == 2
    world.kernel_counts(entry, packets_out=4, bytes_out=400)
    world.fast.count_flows()
    assert (entry.packets_out, entry.bytes_out) == (9, 400)


@pytest.mark.parametrize("grace", [0.0, 5.0])
def test_a_redundant_application_is_the_agents_at_once_and_after_an_adoption_still(grace: float) -> None:
    world = World(grace=grace)
    world.add_tunnel(1), world.add_tunnel(2)
    world.paft.steer(ApplicationId(7), TunnelId(1))
    world.paft.double(ApplicationId(7), TunnelId(2))
    assert world.way(7) == 0
    world.paft.steer(ApplicationId(7), TunnelId(2))
    assert world.way(7) == 0
    world.start_again()
    world.add_tunnel(1), world.add_tunnel(2)
    world.paft.steer(ApplicationId(7), TunnelId(1))
    world.paft.double(ApplicationId(7), TunnelId(2))
    assert world.way(7) == 0
    world.pass_time(ADOPTING + 1)
    assert world.way(7) == 0
    world.paft.double(ApplicationId(7), None, is_numbered=False)
    assert world.way(7) == 1


def test_late_packets_on_tunnels_that_were_left_are_told_of() -> None:
    world = World()
    one, two = world.add_tunnel(1), world.add_tunnel(2)
    entry = world.paft.learn(world.add_flow(1).key, one, 10.0)
    world.paft.move(entry.key, two, 11.0)
    row = world.row(entry)
    assert (row.tunnel, row.left, row.left_too, row.left_until) == (2, 1, 0, int(14e9))


def named(world: World, flows: int, now: float = 10.0) -> list[FlowEntry]:
    """Flows of an application that a host has named at the anchor, on tunnel 1 of two."""
    one = world.add_tunnel(1)
    world.add_tunnel(2)
    entries = [world.paft.learn(world.add_flow(port, 0).key, one, now) for port in range(flows)]
    world.paft.move_application(ApplicationId(5), one, now)
    for entry in entries:
        world.paft.name(entry.key, ApplicationId(5), now)
    return entries


@pytest.mark.parametrize("flows", [1, 10_000])
def test_moving_a_named_application_at_the_anchor_is_one_write(flows: int) -> None:
    world = World()
    entries = named(world, flows)
    before = world.writes()
    world.paft.move_application(ApplicationId(5), world.paft.tunnels[TunnelId(2)], 11.0)
    after = world.writes()
    assert {name for name in after if after[name] != before[name]} == {"applications"}
    assert after["applications"] == before["applications"] + 1
    assert ApplicationRow.unpacked(world.maps["applications"].rows[NUMBER.pack(5)]) == ApplicationRow(
        1, 0, int(14e9), 2, 1
    )
    assert {world.fast._resolved(world.row(entry)) for entry in entries} == {2}


def test_what_the_kernel_learnt_apart_from_an_application_is_taken_over_until_the_next_move() -> None:
    world = World()
    entry, other = named(world, 2)
    two = world.paft.tunnels[TunnelId(2)]
    world.kernel_counts(entry, tunnel=2, course=0, packets_out=1)
    world.fast.count_flows()
    assert world.paft.tunnel_of(entry) is two
    assert world.paft.tunnel_of(other) is world.paft.tunnels[TunnelId(1)]
    world.paft.move_application(ApplicationId(5), two, 11.0)
    world.paft.move_application(ApplicationId(5), world.paft.tunnels[TunnelId(1)], 20.0)
    assert {world.paft.tunnel_of(each) for each in (entry, other)} == {world.paft.tunnels[TunnelId(1)]}
    assert world.fast._resolved(world.row(entry)) == 1


def test_named_flows_of_an_earlier_anchor_go_on_one_by_one() -> None:
    world = World(grace=5.0)
    entries = named(world, 3)
    world.paft.move_application(ApplicationId(5), world.paft.tunnels[TunnelId(2)], 11.0)
    world.paft, world.loop = Paft(), PretendLoop()
    world.begin(took_over=True, permits=lambda _: True, adopted_as=lambda _: ApplicationId(0))
    assert {(row.application, row.tunnel) for row in map(world.row, entries)} == {(0, 2)}


def test_named_flows_go_on_for_a_while_when_their_host_starts_anew() -> None:
    world = World(grace=5.0)
    entries = named(world, 3)
    for entry in entries:
        entry.is_permitted = True
    world.paft.remove_tunnel(TunnelId(1))
    for entry in entries:
        world.paft.assign(entry, ApplicationId(0))
    assert {(row.application, row.tunnel) for row in map(world.row, entries)} == {(0, 1)}


def test_renewed_secrets_and_sizes_are_told_of() -> None:
    world = World()
    tunnel = world.add_tunnel(1)
    before = world.maps["tunnels"].rows[NUMBER.pack(1)]
    world.fast.refresh([tunnel])
    assert world.maps["tunnels"].writes == 1
    tunnel.format = Cookie(b"A" * 8, b"B" * 8, waits=True)
    world.fast.refresh([tunnel])
    tunnel.format.renew(b"C" * 8, b"D" * 8, 1)
    world.fast.refresh([tunnel])
    rows = TUNNEL.unpack(world.maps["tunnels"].rows[NUMBER.pack(1)])
    assert (rows[12], rows[14], rows[-2]) == (1, 2, b"A" * 8)
    # The agent hears the new secret; nobody says so to the mirror.
    packet = ip_packet(OWNER, ip_address("198.51.100.1"), UDP, bytes(8))
    assert tunnel.format.decode(tunnel, Cookie(b"D" * 8, b"C" * 8).encode(tunnel, packet)) == packet
    world.loop.tick()
    rows = TUNNEL.unpack(world.maps["tunnels"].rows[NUMBER.pack(1)])
    assert (rows[12], rows[14], rows[-2]) == (0, 2, b"C" * 8)
    assert before != world.maps["tunnels"].rows[NUMBER.pack(1)]
    # The old secret ends without a word, too.
    tunnel.format.retire(0.0)
    tunnel.format.retire(100.0)
    world.loop.tick()
    assert TUNNEL.unpack(world.maps["tunnels"].rows[NUMBER.pack(1)])[14] == 1


def test_a_full_table_and_a_refused_write_are_counted_and_break_nothing() -> None:
    world = World(flows=1)
    world.add_flow(1), world.add_flow(2)
    assert world.fast.as_counters() == {"fast_table_full": 1}
    world.maps["flows"].fails = True
    world.add_flow(3)
    assert world.fast.as_counters()["fast_write_failures"] == 1


def test_slots_of_counters_are_given_back_and_shared_when_there_are_none() -> None:
    world = World()
    for id in range(1, 20):
        world.add_tunnel(id)
        if id > 9:
            world.paft.remove_tunnel(TunnelId(id))
    slots = [TUNNEL.unpack(row)[9] for row in world.maps["tunnels"].rows.values()]
    assert sorted(slots) == [0, 0, 1, 2, 3, 4, 5, 6, 7]


def test_a_host_that_starts_anew_keeps_its_flows_in_the_kernel() -> None:
    world = World(grace=3.0)
    entry = world.paft.learn(world.add_flow(1, 0).key, world.add_tunnel(1), 100.0)
    lost = world.add_flow(2, 0)
    # As the anchor does when a host has lost its state.
    world.paft.remove_tunnel(TunnelId(1))
    world.paft.forget(entry.key)
    world.paft.forget(lost.key)
    assert world.row(entry).tunnel == 1
    assert world.maps["tunnels"].rows
    new = world.add_tunnel(2)
    world.kernel_counts(entry, tunnel=2, packets_out=9)
    world.pass_time(1.0)
    assert world.paft.flows[entry.key].pinned is new
    world.pass_time(5.0)
    assert set(world.maps["flows"].rows) == {flow_key(entry.key)}
    assert set(world.maps["tunnels"].rows) == {NUMBER.pack(2)}


@pytest.mark.parametrize("times_told", [1, 2])
@pytest.mark.parametrize("is_dead", [True, False])
def test_an_application_without_a_network_goes_on_by_a_dead_tunnel_only(
    is_dead: bool, times_told: int
) -> None:
    world = World(grace=3.0)
    world.add_tunnel(1)
    world.paft.steer(ApplicationId(1), TunnelId(1))
    for _ in range(times_told):
        world.paft.steer(ApplicationId(1), None)
    world.fast.settle([] if is_dead else [1])
    assert world.way(1) == (1 if is_dead else 0)
    world.pass_time(4.0)
    assert world.way(1) == 0


def test_the_kernel_knows_only_flows_that_the_anchor_has_judged() -> None:
    world = World()
    world.fast = world.begin(took_over=False, permits=lambda _: True)
    entry = world.paft.move(world.add_flow(1, 0).key, world.add_tunnel(1), 0.0)
    assert not world.maps["flows"].rows
    entry.is_permitted = True
    world.paft.changed(entry)
    # Only when the agent has handed its first packets on, which later ones must not overtake.
    assert not world.maps["flows"].rows
    world.loop.turn()
    assert world.row(entry).tunnel == 1
    gone = world.paft.move(world.add_flow(2, 0).key, world.paft.tunnels[TunnelId(1)], 0.0)
    gone.is_permitted = True
    world.paft.changed(gone)
    world.paft.forget(gone.key)
    world.loop.turn()
    assert set(world.maps["flows"].rows) == {flow_key(entry.key)}


def test_flows_that_are_not_permitted_any_more_are_not_adopted() -> None:
    world = World()
    one, two = world.add_flow(1), world.add_flow(2)
    world.paft, world.loop = Paft(), PretendLoop()
    world.fast = world.begin(took_over=True, permits=lambda key: key == two.key)
    assert set(world.maps["flows"].rows) == {flow_key(two.key)}
    assert set(world.paft.flows) == {two.key}
    assert one.key not in world.paft.flows


def test_an_address_that_is_given_back_has_no_grace() -> None:
    world = World(grace=3.0)
    entry = world.paft.learn(world.add_flow(1).key, world.add_tunnel(1), 100.0)
    world.paft.remove_tunnel(TunnelId(1))
    world.paft.forget(entry.key)
    world.fast.forget_owner(OWNER)
    assert not world.maps["flows"].rows
    assert not world.maps["tunnels"].rows
    assert not world.maps["ends"].rows


def test_the_next_daemon_goes_on_with_what_the_maps_hold() -> None:
    world = World(grace=3.0)
    world.add_tunnel(1)
    world.paft.steer(ApplicationId(1), TunnelId(1))
    entry = world.add_flow(1, now=100.0)
    world.kernel_counts(entry, packets_out=7, last_seen=int(100e9))
    world.start_again()
    adopted = world.paft.flows[entry.key]
    assert (adopted.application_id, adopted.packets_out) == (1, 7)
    world.paft.steer(ApplicationId(1), None)
    assert world.way(1) == 1
    world.add_tunnel(2)
    world.paft.steer(ApplicationId(1), TunnelId(2))
    assert world.way(1) == 2
    world.pass_time(20.0)
    assert set(world.maps["tunnels"].rows) == {NUMBER.pack(2)}
    world.fast.count_flows()
    assert adopted.packets_out == 7


def test_applications_whose_numbers_change_places_keep_their_ways_and_flows() -> None:
    world = World(grace=3.0)
    for id in (1, 2):
        world.add_tunnel(id)
        world.paft.steer(ApplicationId(5 + id), TunnelId(id))
        world.add_flow(id, 5 + id, 100.0)
        world.fast.name(5 + id, NamedRow(f"call {id}"))
    world.fast.name(9, NamedRow("nobody knows it any more"))
    world.paft, world.loop = Paft(), PretendLoop()
    world.fast = world.begin(took_over=True, adopted_as=lambda number: ApplicationId(13 - number))
    assert {entry.application_id for entry in world.paft.flows.values()} == {6, 7}
    assert (world.way(7), world.way(6)) == (1, 2)
    for id in (1, 2):
        world.fast.name(8 - id, NamedRow(f"call {id}"))
    world.pass_time(20.0)
    named = {key: NamedRow.unpacked(row) for key, row in world.maps["names"].rows.items()}
    assert named == {NUMBER.pack(7): NamedRow("call 1"), NUMBER.pack(6): NamedRow("call 2")}


def test_flows_that_the_kernel_let_in_keep_their_sockets_and_cost_no_more_however_many_they_are() -> None:
    world, count = World(), 2000
    flows = world.maps["flows"]
    flows.max_entries = count
    world.add_tunnel(1)
    keys = [
        FlowKey(UDP, OWNER, port, ip_address("198.51.100.1"), 53).packed() for port in range(1, count + 1)
    ]
    theirs = FlowRow(1, socket=77, packets_out=5, bytes_out=500).packed()
    for key in keys:
        flows.rows[flow_key(key) or b""] = theirs
    flows.tries = 0
    # One half PAFT has heard of, the other came to the agent in the same moment.
    for key in keys[::2]:
        entry = world.paft.take_from_mirror(key, ApplicationId(1), 0.0)
        entry.socket = 77
        world.paft.changed(entry)
    for key in keys[1::2]:
        world.paft.insert(key, ApplicationId(1), 0.0).socket = 77
    world.loop.turn()
    assert {FlowRow.unpacked(row).socket for row in flows.rows.values()} == {77}
    assert {FlowRow.unpacked(row).packets_out for row in flows.rows.values()} == {5}
    assert flows.tries <= 5 * count
    world.pass_time(1.0)
    assert {entry.packets_out for entry in world.paft.flows.values()} == {5}


def test_many_flows_that_begin_at_once_are_all_in_the_kernel_and_the_rest_is_counted() -> None:
    world, room = World(), 64
    world.maps["flows"].max_entries = room
    for port in range(1, 71):
        world.paft.insert(
            FlowKey(UDP, OWNER, port, ip_address("198.51.100.1"), 53).packed(), ApplicationId(1), 0.0
        )
    world.loop.turn()
    assert len(world.maps["flows"].rows) == room
    assert world.fast.counters.as_dict() == {"fast_table_full": 70 - room}


def test_what_does_not_come_back_ends() -> None:
    world = World(grace=3.0)
    world.add_tunnel(1)
    world.paft.steer(ApplicationId(1), TunnelId(1))
    world.start_again()
    world.paft.steer(ApplicationId(1), None)
    world.pass_time(20.0)
    world.loop.tick()  # some thousand at a time
    assert world.way(1) == 0
    assert not world.maps["tunnels"].rows
    assert not world.maps["ends"].rows


def test_an_anchors_hosts_have_time_to_come_back_one_after_the_other_but_not_for_ever() -> None:
    world = World()
    for id in (1, 2):
        world.add_tunnel(id)
    world.paft, world.loop = Paft(), PretendLoop()
    world.fast = world.begin(took_over=True, permits=lambda key: True)
    for id in range(3, 33):
        world.pass_time(10.0)
        assert (NUMBER.pack(2) in world.maps["tunnels"].rows) == (id < 32)
        world.add_tunnel(id)
    world.start_again()
    world.add_tunnel(33)
    world.pass_time(10.0)
    world.add_tunnel(34)
    world.pass_time(10.0)
    assert set(world.maps["tunnels"].rows) == {NUMBER.pack(33), NUMBER.pack(34)}


def test_an_application_of_an_anchor_that_is_stopped_while_hosts_come_back_stands_still() -> None:
    world = World(grace=3.0)
    world.add_tunnel(1)
    world.paft, world.loop = Paft(), PretendLoop()
    world.fast = world.begin(took_over=True, permits=lambda key: True)
    for id in (2, 3):
        world.pass_time(10.0)
        world.add_tunnel(id)
    world.paft.steer(ApplicationId(1), TunnelId(3))
    assert world.way(1) == 3
    world.paft.steer(ApplicationId(1), None)
    world.pass_time(4.0)
    assert world.way(1) == 0
    assert NUMBER.pack(1) in world.maps["tunnels"].rows


def test_an_end_that_two_tunnels_had_goes_back_to_the_one_that_stays() -> None:
    world, shared = World(), Endpoint(ip_address("203.0.113.2"), 1)
    for id in (1, 2):
        world.add_tunnel(id)
        world.paft.move_endpoint(world.paft.tunnels[TunnelId(id)], shared)
    assert list(world.maps["ends"].rows.values()) == [NUMBER.pack(2)]
    world.paft.remove_tunnel(TunnelId(2))
    world.pass_time(60.0)
    assert list(world.maps["ends"].rows.values()) == [NUMBER.pack(1)]


def test_a_flow_is_not_the_kernels_before_the_agent_has_handed_on_what_it_had_of_it() -> None:
    """Packets that wait in a socket would be overtaken by those that the kernel forwards."""
    world, backlog = World(), Backlog()
    world.fast.write_behind(backlog)
    flow = FlowKey(UDP, OWNER, 1, ip_address("198.51.100.1"), 53).packed()
    backlog.note(3, is_drained=False)
    world.paft.insert(flow, ApplicationId(1), 0.0)
    for _ in range(5):
        world.loop.turn()
        assert not world.maps["flows"].rows
    backlog.note(4, is_drained=True)
    assert not world.maps["flows"].rows, "another source has packets still"
    backlog.note(3, is_drained=True)
    assert set(world.maps["flows"].rows) == {flow_key(flow)}
    # An agent that is never done keeps nobody waiting for long.
    backlog.note(3, is_drained=False)
    other = FlowKey(UDP, OWNER, 2, ip_address("198.51.100.1"), 53).packed()
    world.paft.insert(other, ApplicationId(1), 0.0)
    world.loop.now += 0.2
    world.loop.turn()
    assert flow_key(other) in world.maps["flows"].rows
    backlog.forget(3)
    assert not backlog.is_there
